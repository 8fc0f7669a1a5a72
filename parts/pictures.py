"""Not part of the method: draws curves, or rows of points, with their intervals. parts/report.py says which.

A picture has panels side by side, and one legend. `draw` also returns the picture's numbers as its alt text.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A curve; or a row of points: then each x is the point's entry in the legend ("" for none)."""

    label: str  # decides how it looks
    name: str  # shown in the legend, or beside the row
    x: Sequence
    y: Sequence
    band: tuple  # (lower y, upper y)
    crosses: bool = False  # dotted, with crosses, to differ from another line of this label


class Panel(NamedTuple):
    """Curves; or rows of points, if y_label is empty. Panels with the same y_label share their y axis."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    mark: int | None = None  # x of a vertical line
    mark_name: str = ""


def alt_text(panels: list[Panel]) -> str:
    """The numbers of a picture in words: both ends of each curve, or all points of each row."""
    texts = []
    for panel in panels:
        lines = []
        for line in panel.lines:
            points = [(x, f"{y:.3g}".replace("-", "−")) for x, y in zip(line.x, line.y) if y == y]  # no NaN
            if panel.y_label:
                points = [(f"at {x:.3g}", y) for x, y in points[:: max(1, len(points) - 1)]]
            lines.append(f"{line.name} {', '.join(f'{y} {x}'.strip() for x, y in points)}")
        heads = filter(None, (*panel.title.split("\n"), panel.y_label, panel.x_label))
        texts.append(f"{', '.join(heads)}: {'; '.join(lines)}.")
    return " ".join(" ".join(texts).split())


def new_figure(panels: int, width: float, height: float) -> tuple:
    """(figure, axes of each panel), in two columns. width, height: of a panel, in inches.

    The figure is made without pyplot, so that no window opens and no global state changes.
    """
    from matplotlib.figure import Figure

    rows, columns = -(-panels // 2), min(2, panels)
    dpi = 150 if panels <= 4 else 100  # keeps files small
    figure = Figure(figsize=(width * columns, height * rows), dpi=dpi, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def save_figure(figure, file: Path) -> None:
    """Writes the picture, with one legend for all panels. 64 colors make the file four times smaller."""
    from PIL import Image  # a dependency of matplotlib

    handles = {}
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(name, handle)
    # The legend stands above the figure, and bbox_inches="tight" makes room for it. Inside the figure, a long
    # legend would leave the panels no height or width.
    if handles:
        columns = max(1, int(figure.get_figwidth() / (0.6 + 0.08 * max(map(len, handles)))))
        figure.legend(
            handles.values(),
            handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=columns,
            frameon=False,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    # FASTOCTREE, because the default method drops rare colors: markers in the legend would change color.
    picture = Image.open(buffer).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)
    picture.save(file, optimize=True)


# First the colors of Okabe and Ito, which the color-blind can tell apart. Markers and line styles tell lines
# apart when printed in gray.
COLORS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#8c510a")
COLORS += ("#b2df8a", "#882255", "#44aa99", "#808000", "#777777", "#332288", "#ddcc77", "#aa4499")
STYLES = ("o-", "v--", "s-.", "D:", "^-", "P--", "<-.", "d:", "*:", "h--", ">:", "X-.")
POINTS = "oDs^vPX*h<>pd8H1"  # markers of rows


def looks(labels: Sequence[str], known: Sequence[str]) -> dict[str, dict]:
    """{label: its color, marker and line style}, for `draw`.

    A known label looks the same in every report. A label that ends with ")" is a variant of another: its line
    is dotted and its markers are hollow. No two labels share a color as long as there are enough COLORS.
    """
    places, found = {label: i for i, label in enumerate(known)}, {}
    taken = [places[label] for label in labels if label in places]
    free = [i for i in (*range(len(known), len(COLORS)), *range(len(known))) if i not in taken]
    others = sorted((x for x in labels if x not in places), key=lambda x: not x.endswith(")"))
    places |= {label: free[i % len(free)] for i, label in enumerate(others)}
    for label in labels:
        marker, *line = STYLES[places[label] % len(STYLES)]
        found[label] = {"color": COLORS[places[label]], "marker": marker, "linestyle": "".join(line)}
        if label.endswith(")"):
            found[label] |= {"linestyle": ":", "markerfacecolor": "white"}
    return found


def draw(file: Path, panels: list[Panel], looks: dict[str, dict], pale: Sequence[str] = ()) -> str:
    """Writes one picture of curves or of rows; returns its alt text. pale: entries of rows to draw paler."""
    if panels[0].y_label:
        figure = draw_curves(panels, looks)
    else:
        figure = draw_rows(panels, looks, pale)
    for axis, panel in zip(figure.axes, panels):
        axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axis.set_title(panel.title, fontsize=10)
    save_figure(figure, file)
    return alt_text(panels)


def draw_curves(panels: list[Panel], looks: dict[str, dict]):
    """A figure of curves, with their intervals as bands."""
    figure, axes = new_figure(len(panels), 3.6, 2.8)
    for axis, panel in zip(axes, panels):
        if axis is not axes[0] and panel.y_label == panels[0].y_label:
            axis.sharey(axes[0])
        for line in panel.lines:
            look = looks[line.label] | ({"marker": "x", "linestyle": ":"} if line.crosses else {})
            look |= {"markersize": 4, "markevery": max(1, len(line.x) // 10)}
            axis.plot(line.x, line.y, label=line.name, **look)
            axis.fill_between(line.x, *line.band, color=look["color"], alpha=0.15, linewidth=0)
            if isinstance(line.x, range):
                axis.locator_params("x", integer=True, nbins=10)
        if panel.y_label.startswith("points"):  # differences
            axis.axhline(0, color="black", linewidth=1)
        if panel.mark:
            axis.axvline(panel.mark, color="gray", linestyle="--", linewidth=1, label=panel.mark_name)
    return figure


def draw_rows(panels: list[Panel], looks: dict[str, dict], pale: Sequence[str]):
    """A figure of rows of points, with their intervals. A thin line joins a row's points, not pale ones."""
    entries = dict.fromkeys(entry for panel in panels for line in panel.lines for entry in line.x)
    entries = sorted(entries, key=lambda entry: entry in pale)
    longest = max(len(text) for panel in panels for line in panel.lines for text in line.name.split("\n"))
    most = max(len(panel.lines) for panel in panels)
    figure, axes = new_figure(len(panels), 2.6 + 0.07 * longest, 1 + most * (0.2 + 0.09 * len(entries)))
    for axis, panel in zip(axes, panels):
        if axis is not axes[0]:
            axis.sharex(axes[0])
        if panel.x_label.startswith("points"):  # differences
            axis.axvline(0, color="gray", linewidth=1)
        for i, line in enumerate(panel.lines):  # each entry at its own height within the row
            color, joined = looks[line.label]["color"], []
            for entry, mean, low, high in zip(line.x, line.y, *line.band):
                j, look = entries.index(entry), {"color": color, "alpha": 0.4 if entry in pale else 1}
                y = i + 0.16 * (j - (len(entries) - 1) / 2)
                axis.plot([low, high], [y, y], **look)
                axis.plot(mean, y, POINTS[j], label=entry, **look)
                joined += [] if entry in pale else [(mean, y)]
            axis.plot(*zip(*joined), color=color, linewidth=0.8)
        axis.set_yticks(range(len(panel.lines)), [line.name for line in panel.lines])
        axis.set_ylim(most - 0.5, -0.5)
    return figure
