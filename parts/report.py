"""Not part of the method: turns finished runs into tables, pictures and a page, numbered as in the paper.

`write` fills a folder: fig1.png … (those that have data), report.md (all tables), results.json (every number,
interval and count) and report.html (tables, pictures, and a reader of the dialogues). parts/measures.py
computes the numbers and says how each is defined.
"""

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from textwrap import shorten
from typing import NamedTuple

from parts import measures
from parts.measures import KINDS, TYPES, TestRun, TrainingRun, percent
from parts.runs import write_atomically

# The paper's arms in its order. A picture with more arms than it can hold shows six of them, or only four.
# st-rl-32: with g = 32. mt-sft-10: on dialogues of ten turns.
ARMS = "base st-sft st-rl mt-sft mt-rl st-rl-32 mt-sft-10".split()
ARMS += "primed primed-rl unprimed unprimed-rl mt-rl-weak".split()
MAIN = ("base", "st-sft", "st-rl", "mt-sft", "mt-rl", "primed-rl")
FEW = ("base", "st-rl", "mt-sft", "mt-rl")


# ------------------------------------------------------------------------------ the order of tests and labels


def in_paper_order(labels: Iterable[str], against: str) -> list[str]:
    """Each label once: the paper's arms in its order, then the others as they come.

    If `against` is no arm of the paper, it is the base model under its own name, and comes first.
    """
    labels, order = list(dict.fromkeys(labels)), ARMS if against in ARMS else [against, *ARMS]
    return [arm for arm in order if arm in labels] + [label for label in labels if label not in order]


def labels_to_draw(labels: Iterable[str], arms: tuple = MAIN) -> list[str]:
    """All labels if there are no more than `arms`; else those in `arms`, and those unknown to the paper."""
    labels = list(labels)
    if len(labels) <= len(arms):
        return labels
    return [label for label in labels if label in arms or label not in ARMS] or labels


def group_runs(runs: list[TestRun], against: str) -> dict[str, dict[str, list[TestRun]]]:
    """{test: {label: its runs, one a seed}}, in the order of the report.

    Tests of full problems come first, then those of a single turn and sharded ones, then disputed ones; in
    each of these, the teacher that most models met comes first. Seeds are sorted, because differences are
    taken between equal seeds.
    """
    labels = in_paper_order((run.label for run in runs), against)
    full = {(r.teacher, r.label) for r in runs if not (r.sharded or r.disputed or r.single_turn)}
    models_met = Counter(teacher for teacher, _ in full)

    def sort_key(run):
        label = labels.index(run.label)
        later = run.disputed, bool(run.sharded or run.single_turn)
        return *later, -models_met[run.teacher], label, run.settings["seed"]

    tests = {}
    for run in sorted(runs, key=sort_key):
        tests.setdefault(run.test, {}).setdefault(run.label, []).append(run)
    return tests


# From here on, `tests` is {test: its numbers from measures.measure}, in the order of group_runs.


def undisputed(tests: dict) -> dict:
    return {name: test for name, test in tests.items() if not test["disputed"]}


def main_tests(tests: dict) -> dict:
    """The tests of full problems with the teacher that most models met; without any, all others."""
    shown = undisputed(tests)
    full = {name: test for name, test in shown.items() if not (test["sharded"] or test["single_turn"])}
    if not full:
        return shown
    teacher = next(iter(full.values()))["teacher"]  # group_runs puts it first
    return {name: test for name, test in full.items() if test["teacher"] == teacher}


def by_teacher(tests: dict) -> dict[str, dict[str, dict]]:
    """{problems: {label: {teacher at inference: share solved in all turns}}} of labels with several."""
    solved = defaultdict(lambda: defaultdict(dict))
    for test in tests.values():
        if not (test["sharded"] or test["disputed"] or test["single_turn"]):
            for label, arm in test["arms"].items():
                solved[test["problems"]][label][test["teacher"]] = arm[f"within {test['turns']}"]
    several = defaultdict(dict)
    for problems, labels in solved.items():
        for label, teachers in labels.items():
            if len(teachers) > 1:
                several[problems][label] = teachers
    return several


def rl_teacher(label: str, training: dict) -> str:
    """The teacher in a label's RL; a dash if it had none."""
    return training[label]["teacher"] if training.get(label, {}).get("script") == "grpo.py" else "–"


def share_by_kind(arm: dict) -> dict[str, float]:
    """{kind of student turn, by rule: its share of the turns}."""
    turns = arm["turns"]["mean"] or 1  # no turn at all if the problem fills the context
    return {f"{kind}s": arm[kind]["mean"] / turns for kind in KINDS}


# ----------------------------------------------------------------------------------------------------- tables

# A table is a list of rows, a row is {column: text}.
# Table 1, Gemma-3-12B trained on Omni-MATH, % solved: (problems, sharded?) → the first five ARMS. If
# not sharded, in a single turn.
PAPER = {
    ("lost-in-conversation-math", False): ("92.0", "92.5 ± 2", "94.4 ± 1", "93.2 ± 2", "94.1 ± 2"),
    ("lost-in-conversation-math", True): ("62.7", "63.3 ± 1", "63.7 ± 2", "67.1 ± 2", "69.9 ± 1"),
    ("lost-in-conversation-code", False): ("76.3", "76.7 ± 3", "77.1 ± 2", "75.8 ± 1", "76.2 ± 2"),
    ("lost-in-conversation-code", True): ("51.5", "48.9 ± 3", "51.6 ± 2", "53.0 ± 3", "54.8 ± 2"),
}
# Omni-MATH, % solved by the baseline of arXiv 2602.16066, the sister paper. (Fig. 1 prints no numbers.)
SISTER = {"within 1": "33", "within 4": "45", "within 10": "53"}
SISTER_ROW = "sister paper's baseline (of all problems; here by default those whose answer a rule can judge)"


def cell(estimate: dict, scale: int = 100, digits: int = 1, alone: bool = False) -> str:
    """Mean ± half the 95 % interval; the interval as a range where "±" would leave 0–1.

    scale: 100 for percent, or 1. alone: with several seeds, half the interval over problems alone follows.
    """
    mean, low, high = (scale * estimate[key] for key in ("mean", "low", "high"))
    half, text = round((high - low) / 2, digits), f"{mean:z.{digits}f}"  # z: no "-0.0"
    if mean - half < 0 <= low or high <= scale < mean + half:
        return f"{text} ({low:.{digits}f}–{high:.{digits}f})"
    if half:  # else "± 0.0"
        text += f" ± {half:.{digits}f}"
    if alone and "alone" in estimate:
        text += f" [{scale * estimate['alone']:.{digits}f}]"
    return text


def table_1(tests: dict, against: str) -> dict[str, list[dict]]:
    """{title: rows}: % solved in all turns, a row a test, a column an arm, five arms a table.

    Tests of the same problems are neighbors: those told in full and sharded. The paper's numbers are a row of
    their own below a test of the same protocol.
    """
    tests, tables = undisputed(tests), {}
    problems = [test["problems"] for test in tests.values()]
    tests = dict(sorted(tests.items(), key=lambda item: problems.index(item[1]["problems"])))
    labels = in_paper_order((label for test in tests.values() for label in test["arms"]), against)
    paper_labels = [against if against not in ARMS else "base", *ARMS[1:5]]
    for start in range(0, len(labels), 5):
        columns, rows = labels[start : start + 5], []
        for name, test in tests.items():
            arms, within = test["arms"], f"within {test['turns']}"
            ours = {label: cell(arms[label][within]) for label in columns if label in arms}
            alike = test["sharded"] or test["single_turn"]
            numbers = PAPER.get((test["problems"], bool(test["sharded"])), ()) if alike else ()
            paper = {label: number for label, number in zip(paper_labels, numbers) if label in ours}
            if ours:  # with empty cells for other arms, because grid() takes the columns' order from the rows
                rows.append({"test": name, **dict.fromkeys(columns, ""), **ours})
            if paper:
                rows.append({"test": "in the paper", **paper})
        part = f", part {start // 5 + 1}" if start else ""
        tables[f"Table 1{part}: solved in all turns, %"] = rows
    return tables


def accuracy_rows(test: dict) -> list[dict]:
    """One test, a row a model: % solved within 1, 4 and all turns, paired differences, questions, tokens."""
    columns = [f"within {n}" for n in sorted({1, min(4, test["turns"]), test["turns"]})]
    against, rows = test["against"], []
    for label, arm in test["arms"].items():
        row = {"model": label} | {within: cell(arm[within], alone=True) for within in columns}
        questions = cell(arm["question"], scale=1, digits=2)
        if "gain" in arm:
            row |= {f"− {against}, {within}": cell(arm["gain"][within], alone=True) for within in columns}
            if base := test["arms"][against]["question"]["mean"]:
                questions += f" ({arm['question']['mean'] / base:.1f} ×)"
        row["questions a dialogue"] = questions
        row["tokens a solved problem"] = f"{arm['tokens a solved']:.0f}" if arm["solved"] else "–"
        rows.append(row)
    if test["problems"] == "omni-math-test" and test["informed"] and not test["disputed"]:
        rows.append({"model": SISTER_ROW} | {within: SISTER.get(within, "") for within in columns})
    return rows


def rows_of_arm(test: dict, arm: dict) -> dict[str, dict[str, str]]:
    """{title of a table: an arm's row in it}, of the tables that have a row for each arm of each test."""
    counts, rows = arm["counts"], {}
    rows["Turns by rule"] = {f"{kind}, % of turns": percent(x) for kind, x in share_by_kind(arm).items()}
    if "premature" in arm:
        rows["Turns by rule"] |= {
            "attempts, % of the turns before the last shard": cell(arm["premature"]),
            "dialogues with such an attempt, %": cell(arm["answered early"]),
        }
    rows["Solved at equal tokens"] = {
        "tokens": str(test["budget"]),
        "solved with them, %": cell(arm["in budget"]),
        **{f"pass@{k} of first turns": cell(arm["pass"][k]) for k in (4, 10) if k in arm["pass"]},
    }
    rows["What went wrong, %"] = {
        "no attempt": percent(counts["no_attempt"]),
        "undecided": percent(counts["undecided"]),
        "cut off": percent(counts["cut"]),
        # In a dispute, repeating the right answer is right. The shards of a problem are no hints.
        "repeated turns": "–" if test["disputed"] else percent(counts["repeats"]),
        "empty hints": "–" if test["sharded"] else percent(counts["empty_hints"]),
        "dialogues refused": percent(counts["refused"]),
    }
    if not (test["sharded"] or test["single_turn"]):
        solved = counts[f"solved_{test['turns']}"]
        rows["Hints that give the answer away, %"] = {
            "of the hints": percent(counts["leaks"]),
            "dialogues solved after one": percent(counts["after_leak"]),
            "all others solved": percent(solved - counts["after_leak"]),
        }
    if "log-loss" in arm:
        keep, unsolved = arm["log-loss"]["solved keep"], arm["log-loss"]["unsolved only"][-1]
        rows["Log-loss of the right answer, nats a token"] = {
            "first turn": f"{keep[0]:.2f}",
            "last turn, solved dialogues keep theirs": f"{keep[-1]:.2f}",
            "change": cell(arm["log-loss"]["change"], scale=1, digits=2),
            "last turn, unsolved dialogues only": "–" if unsolved is None else f"{unsolved:.2f}",
            "dialogues": str(arm["log-loss"]["dialogues"]),
        }
    if "dispute" in arm:
        replies = {f"{reply}, %": cell(share) for reply, share in arm["dispute"].items()}
        rows["Right answers that the teacher disputed"] = {"right answers": str(arm["replies"]), **replies}
    if "judge" in arm:
        shares = {name: percent(share) for name, share in arm["judge"].items()}
        rows["Turns by the judge, %"] = {name: shares.pop(name) for name in (*TYPES, "no label")}
        rows["Turns and hints by the judge, %"] = shares
    return rows


def all_tables(tests: dict, training: dict, against: str) -> dict[str, list[dict]]:
    """{title: rows} of all tables."""
    tables = defaultdict(list, table_1(tests, against))
    for name, test in tests.items():
        title = f"Within n turns on {name}: {test['size']} problems, up to {test['turns']} turns"
        tables[title] = accuracy_rows(test)
        for label, arm in test["arms"].items():
            for title, row in rows_of_arm(test, arm).items():
                tables[title].append({"test": name, "model": label, **row})
    for problems, labels in by_teacher(tests).items():
        for label, teachers in labels.items():
            row = {"test": problems, "model": label, "teacher in training": rl_teacher(label, training)}
            row |= {f"teacher {teacher} at inference": cell(solved) for teacher, solved in teachers.items()}
            tables["Teacher at inference × teacher in training, % solved"].append(row)
    for label, run in training.items():
        row = {"model": label, "stage": run["script"], "dialogues played": f"{run['played']:,.0f}"}
        row |= {"student tokens": f"{run['tokens']:,.0f}", "optimizer steps": str(run["steps"])}
        tables["Sizes of training (SFT: tokens of successful dialogues)"].append(row)
    return tables


def grid(rows: list[dict]) -> list[list[str]]:
    """A table as lists of texts, the column heads first. A first cell that repeats the one above is empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines, above = [columns], None
    for row in rows:
        first, *others = [row.get(column, "") for column in columns]
        lines.append(["" if first == above else first, *others])
        above = first
    return lines


def markdown(title: str, rows: list[dict]) -> str:
    """A table in Markdown, with a title."""
    heads, *lines = [[text.replace("|", "\\|") for text in line] for line in grid(rows)]
    lines = [heads, ["---"] * len(heads), *lines]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


# --------------------------------------------------------------------------------------------------- pictures

# A picture has panels side by side; a panel is (title, x label, y label, lines).


class Line(NamedTuple):
    """A curve of a panel. Its legend entry is label + note; the label decides how it looks."""

    label: str
    x: Sequence
    y: Sequence
    band: tuple | None = None  # (lower y, upper y)
    note: str = ""


PASS = ", pass@k"


def percent_line(label: str, x: Sequence, estimates: list[dict], note: str = "") -> Line:
    """A line of estimates in percent, with their intervals as its band."""
    low, mean, high = ([100 * estimate[key] for estimate in estimates] for key in ("low", "mean", "high"))
    return Line(label, x, mean, (low, high), note)


def accuracy_panels(tests: dict) -> Iterator[tuple]:
    """Fig. 1: accuracy within n turns."""
    for name, test in main_tests(tests).items():
        turns, lines = range(1, test["turns"] + 1), []
        for label in labels_to_draw(test["arms"]):
            lines.append(percent_line(label, turns, [test["arms"][label][f"within {n}"] for n in turns]))
        yield name, "turns n", "solved within n turns, %", lines


def gain_panels(tests: dict) -> Iterator[tuple]:
    """Fig. 4: points gained over the base within n turns, also on other domains."""
    for name, test in main_tests(tests).items():
        turns, lines = range(1, test["turns"] + 1), []
        for label in labels_to_draw(test["arms"], FEW):
            if gain := test["arms"][label].get("gain"):
                lines.append(percent_line(label, turns, [gain[f"within {n}"] for n in turns]))
        if lines:
            base = Line(test["against"], turns, [0.0] * len(turns))
            yield name, "turns n", "percentage points gained", [base, *lines]


def teacher_panels(tests: dict, training: dict, against: str) -> Iterator[tuple]:
    """Fig. 2: teachers at inference. Left, as in the paper, the untuned student; right, trained students."""
    for name, labels in by_teacher(tests).items():
        untuned, trained = [], []
        for label in labels_to_draw(labels, (*FEW, "mt-rl-weak")):
            teacher = rl_teacher(label, training)
            note = "" if teacher == "–" else f", taught by {teacher}"
            line = percent_line(label, list(labels[label]), list(labels[label].values()), note)
            (untuned if label == against else trained).append(line)
        for title, lines in ((f"{name}, untuned student", untuned), (f"{name}, trained students", trained)):
            yield title, "teacher at inference", "solved in all turns, %", lines


def loss_panels(tests: dict) -> Iterator[tuple]:
    """Fig. 3: log-loss of the right answer after each teacher turn, both averages."""
    titles = {"solved keep": "solved dialogues keep their value", "unsolved only": "only unsolved dialogues"}
    for name, test in tests.items():
        curves = {label: arm["log-loss"] for label, arm in test["arms"].items() if "log-loss" in arm}
        turns, labels = range(1, test["turns"] + 1), labels_to_draw(curves, (*FEW, "mt-sft-10"))
        for average, title in titles.items():
            lines = [Line(label, turns, curves[label][average]) for label in labels]
            yield f"{name}\n{title}", "teacher turns", "log-loss, nats a token", lines


def training_panels(training: dict) -> Iterator[tuple]:
    """Fig. 5: questions and reward over the steps of RL, means of the last ten steps."""
    rl = {label: run for label, run in training.items() if run.get("reward")}
    for key, y_label in (("questions", "questions a dialogue"), ("reward", "reward (discounted)")):
        lines = []
        for label in labels_to_draw(rl, ("mt-rl", "primed-rl", "unprimed-rl")):
            steps = range(1, rl[label]["steps"] + 1)
            last_ten = [rl[label][key][max(0, step - 10) : step] for step in steps]
            lines.append(Line(label, steps, [sum(values) / len(values) for values in last_ten]))
        yield "", "GRPO steps", y_label, lines
    lines = []
    for label in labels_to_draw(rl, ("mt-rl", "primed-rl", "unprimed-rl")):
        if test := rl[label].get("test"):
            *_, most = (name for name in test if name.startswith("test_solved_"))
            lines.append(Line(label, test["step"], [100 * share for share in test[most]]))
    yield "", "GRPO steps", "test problems solved, %", lines


def budget_panels(tests: dict) -> Iterator[tuple]:
    """Solved at equal tokens: by dialogues, and by k first turns alone if problems have several samples."""
    for name, test in tests.items():
        turns, lines = range(1, test["turns"] + 1), []
        for label in labels_to_draw(test["arms"], FEW):
            arm = test["arms"][label]
            tokens = [arm[f"tokens {n}"]["mean"] for n in turns]
            lines.append(Line(label, tokens, [100 * arm[f"within {n}"]["mean"] for n in turns]))
            samples = [k for k in turns if k in arm["pass"]]
            if len(samples) > 1:  # k samples cost k first turns
                solved = [100 * arm["pass"][k]["mean"] for k in samples]
                lines.append(Line(label, [k * tokens[0] for k in samples], solved, note=PASS))
        if any(line.note == PASS for line in lines):
            yield name, "tokens, mean over problems", "solved, %", lines


def new_figure(panels: int, width: float, height: float) -> tuple:
    """(figure, axes of each panel), in two columns. width, height: of a panel, in inches.

    The figure is made without pyplot, so that no window opens and no global state changes.
    """
    from matplotlib.figure import Figure

    rows, columns = -(-panels // 2), min(2, panels)
    dpi = 120 if panels <= 4 else 80  # keeps files small
    figure = Figure(figsize=(width * columns, height * rows), dpi=dpi, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes


def save_figure(figure, file: Path) -> None:
    """Writes the picture, with one legend for all panels; in 64 colors, which makes a quarter of the size."""
    from PIL import Image  # a dependency of matplotlib

    handles = {}
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(name, handle)
    # The legend stands right of the figure, and "tight" enlarges the picture by it. Inside the figure, a long
    # legend would leave the panels no height or width.
    figure.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")
    # FASTOCTREE: the default method drops rare colors, so that markers in the legend change theirs.
    picture = Image.open(buffer).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)
    picture.save(file, optimize=True)


# A label's color, marker and line style (for print in gray). First the colors of Okabe and Ito for the
# color-blind; with the others, no two arms of the paper have the same, nor has a further label or two.
COLORS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999")
COLORS += ("#882255", "#808000", "#332288", "#ddcc77", "#8c510a", "#b2df8a")
STYLES = ("o-", "v--", "s-.", "D:", "^-", "P--", "X-.", "*:", "<-")


def draw_lines(file: Path, panels: list[tuple], labels: list[str]) -> list[str]:
    """One picture of lines, with the intervals of the first label and of mt-rl as bands.

    labels: of the whole report, so that a label looks the same in all its pictures. Returns those with bands.
    """
    figure, axes = new_figure(len(panels), 4.6, 3.2)
    banded = {}
    for axis, (title, x_label, y_label, lines) in zip(axes, panels):
        for line in lines:
            i, name, markers = labels.index(line.label), line.label + line.note, max(1, len(line.x) // 10)
            color, style = COLORS[i % len(COLORS)], "x:" if line.note == PASS else STYLES[i % len(STYLES)]
            axis.plot(line.x, line.y, style, color=color, label=name, markersize=5, markevery=markers)
            if line.band and line.label in (labels[0], "mt-rl"):
                axis.fill_between(line.x, *line.band, color=color, alpha=0.12, linewidth=0)
                banded[line.label] = True
            if isinstance(line.x, range):
                axis.locator_params("x", integer=True, nbins=10)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_title(title, fontsize=10)
    save_figure(figure, file)
    return list(banded)


def draw_turn_types(file: Path, tests: dict) -> None:
    """Fig. 6: a bar a label, its turns by type: the judge's types if all runs have them, else by rule."""
    from matplotlib import color_sequences

    shown = {name: labels_to_draw(test["arms"]) for name, test in tests.items()}
    judged = all("judge" in test["arms"][label] for name, test in tests.items() for label in shown[name])
    most_bars = max(map(len, shown.values()))
    longest = max(len(label) for labels in shown.values() for label in labels)
    kinds = TYPES if judged else [f"{kind}s" for kind in KINDS]
    figure, axes = new_figure(len(shown), 4 + 0.08 * longest, 0.9 + 0.3 * most_bars)
    for axis, (name, labels) in zip(axes, shown.items()):
        arms, left = [tests[name]["arms"][label] for label in labels], [0.0] * len(labels)
        shares = [arm["judge"] if judged else share_by_kind(arm) for arm in arms]
        for kind, color in zip(kinds, color_sequences["Set3"]):
            widths = [100 * (share[kind] or 0.0) for share in shares]
            bars = axis.barh(labels, widths, left=left, label=kind, color=color, edgecolor="black", lw=0.5)
            axis.bar_label(bars, fmt=lambda width: f"{width:.0f}" if width > 8 else "", label_type="center")
            left = [start + width for start, width in zip(left, widths)]
        for label, arm in zip(labels, arms):
            if "premature" in arm:
                axis.text(102, label, f"{100 * arm['premature']['mean']:.0f} % early", va="center")
        axis.set(xlabel=f"% of turns, by {'the judge' if judged else 'rule'}", xlim=(0, 100))
        axis.set_title(name, fontsize=10)
        axis.invert_yaxis()
    save_figure(figure, file)


def draw_all(out: Path, tests: dict, training: dict, against: str) -> dict[str, list[str]]:
    """Draws the pictures that have data and removes those of an earlier report.

    Returns {name: labels whose intervals it shows as bands}.
    """
    several_sets = len({test["problems"] for test in main_tests(tests).values()}) > 1
    pictures = {
        "fig1.png": accuracy_panels(tests),
        "fig2.png": teacher_panels(tests, training, against),
        "fig3.png": loss_panels(main_tests(tests)),
        "fig4.png": gain_panels(tests) if several_sets else (),
        "fig5.png": training_panels(training),
        "budget.png": budget_panels(undisputed(tests)),
    }
    tested = [label for test in tests.values() for label in test["arms"]]
    labels = in_paper_order([*training, *tested], against)
    for name in (*pictures, "fig6.png"):
        (out / name).unlink(missing_ok=True)
    drawn = {}
    for name, panels in pictures.items():
        if panels := [panel for panel in panels if panel[-1]]:  # those that have lines
            drawn[name] = draw_lines(out / name, panels, labels)
    if shown := undisputed(tests):
        sharded = {name: test for name, test in shown.items() if test["sharded"]}
        draw_turn_types(out / "fig6.png", sharded or shown)
        drawn["fig6.png"] = []
    return drawn


# ------------------------------------------------------------------------------------------------------- page

RUNS = "Runs"
SECTIONS = (  # heading, picture, how the titles of its tables begin, caption
    ("Solved within n turns", "fig1.png", "Table 1", "Problems solved within n turns (the paper's Fig. 1, 4, "
     "7, 8) and in all turns (its Table 1, of models trained on math). Single turn: the whole problem is "
     "told, and nobody answers (the paper: full)."),
    ("Test by test", None, "Within n turns", "Columns with − are differences, taken problem by problem."),
    ("Teachers", "fig2.png", "Teacher at", "Each line is a model that was tested with several teachers. The "
     "untuned student is the left of the paper's Fig. 2. The legend names the teacher in its RL."),
    ("Log-loss", "fig3.png", "Log-loss", "Log-loss of the right answer's own tokens after each teacher turn "
     "(the paper's Fig. 3, of 10-turn SFT); ± over problems. Solved dialogues keep their last value, or are "
     "dropped (then only hard problems remain)."),
    ("Gain and transfer", "fig4.png", "–", "Points gained over the base, problem by problem (the paper's "
     "Fig. 4). On a domain that was not trained on, this is transfer."),
    ("Training", "fig5.png", "Sizes", "Questions and reward during RL (the paper's Fig. 5), means of the "
     "last ten steps; with --test, also the test problems solved within N turns before a step."),
    ("Types of turns", "fig6.png", "Turns", "Student turns by type (the paper's Fig. 6). Early: the share of "
     "attempts among the turns before the last shard is revealed."),
    ("Equal tokens", "budget.png", "Solved at", "Problems solved with equal numbers of tokens. pass@k: at "
     "least one of k first turns is right, without any hint."),
    ("Disputed answers", None, "Right answers", "The student's replies after the teacher disputed its right "
     "answer; ± over problems."),
    ("Leaks", None, "Hints that give", "Hints that give the answer away, by the rule of parts/leaks.py, and "
     "the dialogues that were solved after one. The last column counts those as unsolved."),
    ("What went wrong", None, "What went", "Repeated turns: a share of the turns that follow another. Empty: "
     "a share of the hints. Refused, by the teacher's server or template: a share of the dialogues. Others: "
     "of all student turns."),
    (RUNS, None, RUNS, "Who took part in each run, and the command. The command's defaults are those of the "
     "kit's revision; config.json in the folder has all settings."),
)  # fmt: skip


def runs_table(runs: list[TestRun | TrainingRun]) -> list[dict]:
    """A row a run: who took part, the versions, the command."""
    rows = []
    for run in runs:
        args, versions = run.config["arguments"], run.config.get("versions", {})
        user, teacher = args.get("sharded"), args.get("teacher")
        model = "–" if user == "scripted" or not teacher else args.get("teacher_model") or args["model"]
        rows.append(
            {
                "label": run.label,
                "folder": run.folder,
                "student": args["model"],
                "answered by": user or teacher or "–",
                "teacher's model": model,
                "seed": str(args["seed"]),
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
                "revision": (run.config.get("revision") or "–")[:10],
                "command": run.config.get("command", "–"),
            }
        )
    return rows


def apart(tests: list[TestRun], against: str) -> list[str]:
    """A note for each test that some models met with another teacher, so that no table compares them."""
    met = defaultdict(lambda: defaultdict(list))  # {test without its teacher: {teacher: labels}}
    for run in tests:
        if not (run.sharded == "scripted" or run.single_turn):
            met[run.problems, run.sharded, run.disputed][run.teacher].append(run.label)
    notes = []
    for (problems, *_), teachers in met.items():
        most = max(teachers, key=lambda t: (len(set(teachers[t])), against in teachers[t]))
        for teacher, labels in teachers.items():
            if others := sorted(set(labels) - set(teachers[most])):
                who = f"{', '.join(others)} met teacher {teacher} and not {most}"
                rest = ", ".join(sorted(set(teachers[most])))
                notes.append(
                    f"Note: on {problems}, {who}, so no table compares them with {rest}. "
                    "Play them with the same --teacher-model."
                )
    return notes


def interval_note(tests: dict) -> str:
    """What "±" means in this report: over what the intervals are."""
    seeds = {label: len(arm["runs"]) for test in tests.values() for label, arm in test["arms"].items()}
    single = [label for label, n in seeds.items() if n == 1]
    if len(single) == len(seeds):
        over = "over problems (one seed: how much seeds of training differ is not in it)"
    else:
        over = "over seeds and problems; in brackets, for these seeds, over problems alone"
        over += f" (one seed, so only over problems: {', '.join(single)})" if single else ""
    return f"± is half the 95 % interval {over}. Near 0 and 100 %, the interval stands as a range."


def headline(tests: dict) -> str:
    """A sentence a test: how much mt-rl (or the last label) solves, and its lead over the base."""
    sentences = []
    for name, test in main_tests(tests).items():
        label = "mt-rl" if "mt-rl" in test["arms"] else list(test["arms"])[-1]
        arm, within = test["arms"][label], f"within {test['turns']}"
        sentence = f"{name}: {label} solves {cell(arm[within])} % {within} turns"
        if "gain" in arm:
            sentence += f", {cell(arm['gain'][within])} points above {test['against']}"
        sentences.append(f"{sentence}.")
    return " ".join([*sentences, interval_note(tests)] if tests else sentences)


FLAGGED = (
    "Hints that give the answer away, by the rule of parts/leaks.py or by the judge (evaluate.py judge), in "
    "the dialogues that this page holds."
)


def as_shown(dialogue, judged: Sequence = ()) -> dict:
    """What the page shows of a dialogue. judged: the judge's mark of each hint.

    flags: {number of a message: who says that this hint gives the answer away, "rule", "judge" or both}.
    """
    flags = defaultdict(list)
    for turn in dialogue.leaks:
        flags[2 * turn].append("rule")  # message 0 is the problem, and message 2 the hint after turn 1
    for turn, leaked in enumerate(judged, 1):
        if leaked:
            flags[2 * turn].append("judge")
    keys = ("problem", "solved", "messages", "statuses", "knowledge")
    shown = {key: getattr(dialogue, key) for key in keys}
    return shown | {"flags": {number: " and ".join(names) for number, names in flags.items()}}


def dialogues_to_read(tests: dict[str, dict[str, list[TestRun]]], problems: int) -> list[dict]:
    """For the page: the first dialogue of each of so many problems, from the first seed of each label."""
    texts = []
    for name, labels in tests.items():
        arms = []
        for label, runs in labels.items():
            backwards = sorted(runs[0].dialogues, key=lambda d: d.id, reverse=True)
            first = {d.problem: d for d in backwards}  # the last one written is that with the lowest id
            judged = {row["id"]: row["leaks"] for row in runs[0].judged}
            chosen = [first[problem] for problem in sorted(first)[:problems]]
            rows = [as_shown(dialogue, judged.get(dialogue.id, ())) for dialogue in chosen]
            arms.append({"label": label, "dialogues": rows})
        texts.append({"name": name, "arms": arms})
    return texts


def flagged_hints(texts: list[dict]) -> list[dict]:
    """A row for each flagged hint of the dialogues_to_read."""
    rows = []
    for test in texts:
        for arm in test["arms"]:
            for d in arm["dialogues"]:
                for number, names in sorted(d["flags"].items()):
                    row = {"test": test["name"], "model": arm["label"], "problem": d["problem"]}
                    row |= {"after turn": str(number // 2), "flagged by": names}
                    rows.append(row | {"hint": shorten(d["messages"][number]["content"], 120)})
    return rows


GROUPS = 4  # groups of a step on the page


def groups_to_read(training: list[TrainingRun]) -> list[dict]:
    """For the page: groups of the first, middle and last step of GRPO, from the first run of each label."""
    shown = {}
    for run in training:
        steps = defaultdict(lambda: defaultdict(list))  # {step: {id of a group: its (row, Dialogue)}}
        for row, dialogue in run.logged:
            steps[row["step"]][dialogue.id.rpartition("/")[0]].append((row, dialogue))
        groups = []
        for step in steps.values():  # those whose tokens are logged come first
            groups += sorted(step.values(), key=lambda rows: "pieces" not in rows[0][0])[:GROUPS]
        if groups:
            args = run.config["arguments"]
            shown.setdefault(run.label, [group_to_read(rows, args) for rows in groups])
    return [{"label": label, "groups": groups} for label, groups in shown.items()]


def group_to_read(rows: list[tuple], args: dict) -> dict:
    """A group of GRPO: its title, with the mean and std of its rewards, and its dialogues."""
    first = rows[0][0]
    rewards = [row["reward"] for row, d in rows if not (args.get("leaks") == "drop" and d.leaks)] or [0.0]
    title = f"step {first['step']}, {first['problem']}: rewards {' '.join(f'{r:.2g}' for r in rewards)}; "
    title += f"mean {fmean(rewards):.2f}, std {pstdev(rewards):.2f}"
    if args.get("per_turn_return"):
        title += " (each turn has an advantage of its own)"
    if leaks := sum(len(d.leaks) for _, d in rows):
        title += f"; hints that give the answer away: {leaks}"
    return {"title": title, "dialogues": [trained_dialogue(row, d) for row, d in rows]}


def trained_dialogue(row: dict, dialogue) -> dict:
    """A dialogue of GRPO: reward, advantages, and the color and tokens of each student turn."""
    advantages = [f"{a:+.2f}" for a in row["advantages"]]
    title = f"reward {row['reward']:.2g} → advantage {', '.join(dict.fromkeys(advantages)) or '–'}"
    details = zip(row.get("pieces", ()), dialogue.sampled_logprobs, row.get("trainer_logprobs", ()))
    turns = []
    for advantage, text, (start, end) in zip(row["advantages"], advantages, dialogue.spans):
        tokens = [(piece, f"{a:.6g}", f"{b:.6g}") for piece, a, b in islice(details, end - start)]
        turns.append({"advantage": text, "color": shade(advantage), "tokens": tokens})
    return as_shown(dialogue) | {"title": title, "turns": turns}


def shade(advantage: float) -> str:
    """The color of tokens: blue if they become more likely, orange if less, gray if neither."""
    if not advantage:
        return "rgba(0, 0, 0, 0.06)"
    hue = "0, 114, 178" if advantage > 0 else "213, 94, 0"
    return f"rgba({hue}, {min(0.6, 0.1 + abs(advantage) / 5):.2f})"


def write(out: Path, tests: list[TestRun], training: list[TrainingRun], against: str, dialogues: int) -> str:
    """Fills the folder `out` with report.md, results.json, report.html and pictures; returns report.md.

    against: the label that others are compared with. dialogues: problems of each test to read on the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs = group_runs(tests, against)
    measured = {name: measures.measure(labels, against) for name, labels in runs.items()}
    trained = {}
    for label in in_paper_order((run.label for run in training), against):
        trained[label] = measures.measure_training([run for run in training if run.label == label])
    pictures, tables = draw_all(out, measured, trained, against), all_tables(measured, trained, against)

    tables[RUNS] = runs_table([run for run in [*training, *tests] if run.config])
    intro = "\n\n".join([headline(measured), *apart(tests, against)])
    texts, sections = ["# Report", intro], []
    for heading, picture, beginning, caption in SECTIONS:
        chosen = {title: rows for title, rows in tables.items() if rows and title.startswith(beginning)}
        if not (chosen or picture in pictures):
            continue
        if banded := pictures.get(picture):
            caption += f" Bands: 95 % intervals of {' and '.join(banded)}."
        texts += [f"## {heading}", caption]
        image = None
        if picture in pictures:
            image = base64.b64encode((out / picture).read_bytes()).decode()
            texts.append(f"![{heading}]({picture})")
        texts += [markdown(title, rows) for title, rows in chosen.items()]
        grids = [{"title": title, "rows": grid(rows)} for title, rows in chosen.items()]
        sections.append({"title": heading, "text": caption, "picture": image, "tables": grids})
    report = "\n\n".join(texts)

    to_read = dialogues_to_read(runs, dialogues)
    if flagged := flagged_hints(to_read):
        sections.append({"title": "Flagged hints", "text": FLAGGED, "picture": None})
        sections[-1]["tables"] = [{"title": "", "rows": grid(flagged)}]
    page = {"headline": intro, "sections": sections, "tests": to_read, "training": groups_to_read(training)}
    data = json.dumps(page).replace("<", "\\u003c")  # else a model's "</script>" would end the script element
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8").replace("DATA", data)
    settings = {run.folder: run.config for run in [*training, *tests]}
    results = {"tests": measured, "training": trained, "runs": settings}
    results = json.dumps(results, indent=1, allow_nan=False)
    for name, text in (("results.json", results), ("report.md", report + "\n"), ("report.html", html)):
        write_atomically(out / name, text)
    shown = report.partition(f"\n\n## {RUNS}\n")[0]  # its rows are too long for a terminal
    return f"{shown}\n\nwritten to {out}: report.md, report.html, results.json, {', '.join(pictures)}"
