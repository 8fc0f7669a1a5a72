"""What finished runs showed: tables, pictures and a page, in the order of the paper's figures.

`write` fills a folder: fig1.png … where there is data for them, report.md (all tables), results.json (every
number, interval and count), report.html (all of it, and a reader of the dialogues). parts/measures.py has the
numbers, and says what they mean.
"""

import base64
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from parts import measures
from parts.measures import KINDS, TYPES, TestRun, TrainingRun, percent
from parts.runs import write_atomically

# The paper's arms in its order; those that pictures show; those that pictures of many lines show.
ARMS = "base st-sft st-rl mt-sft mt-rl primed primed-rl unprimed unprimed-rl mt-rl-weak".split()
MAIN = ("base", "st-sft", "st-rl", "mt-sft", "mt-rl", "primed-rl")
FEW = ("base", "st-rl", "mt-sft", "mt-rl")


def ordered(labels: Iterable[str], against: str) -> list[str]:
    """Each label once: the paper's arms first (`against` as the base if it is none), others as they come."""
    rank = {against: 0} | {arm: i for i, arm in enumerate(ARMS, 1)}
    return sorted(dict.fromkeys(labels), key=lambda label: rank.get(label, len(rank) + 1))


def drawn(labels: Iterable[str], arms: tuple = MAIN) -> list[str]:
    """The labels that a picture shows: all if they are few, else only `arms` of the known ones."""
    labels = list(labels)
    chosen = [label for label in labels if label in arms or label not in ARMS]
    return labels if len(labels) <= len(arms) or not chosen else chosen


def grouped(runs: list[TestRun], against: str) -> dict[str, dict[str, list[TestRun]]]:
    """{test: {label: its seeds}}: tests of full problems first, then sharded, then disputed ones; the teacher
    whom most models met before others."""
    labels, tests = ordered((run.label for run in runs), against), defaultdict(lambda: defaultdict(list))
    full = {(run.label, run.teacher) for run in runs if not (run.sharded or run.disputed)}
    met = Counter(teacher for _, teacher in full)

    def place(run):
        shown = run.disputed, bool(run.sharded), -met[run.teacher], labels.index(run.label)
        return *shown, run.settings["seed"]  # so that differences are of the same seeds

    for run in sorted(runs, key=place):
        tests[run.test][run.label].append(run)
    return tests


def main_tests(tests: dict) -> dict:
    """Tests of full problems with the teacher whom most models met; without any, all but disputed ones."""
    tests = {name: test for name, test in tests.items() if not test["disputed"]}
    full = {name: test for name, test in tests.items() if not test["sharded"]}
    first = next(iter(full.values()), {})  # grouped() puts that teacher first
    return {name: test for name, test in full.items() if test["teacher"] == first["teacher"]} or tests


def by_teacher(tests: dict) -> dict[str, dict[str, dict]]:
    """{problems: {label: {teacher at inference: what is solved}}}, of labels that met several teachers."""
    sets = defaultdict(lambda: defaultdict(dict))
    for test in tests.values():
        for label, arm in test["arms"].items():
            if not (test["sharded"] or test["disputed"]):
                sets[test["problems"]][label][test["teacher"]] = arm[f"within {test['turns']}"]
    for problems, labels in sets.items():
        sets[problems] = {label: found for label, found in labels.items() if len(found) > 1}
    return {problems: labels for problems, labels in sets.items() if labels}


def taught_by(label: str, training: dict) -> str:
    """The teacher of a label's RL."""
    return training[label]["teacher"] if training.get(label, {}).get("script") == "grpo.py" else "–"


# ----------------------------------------------------------------------------------------------------- tables

PAPER = {  # Table 1, Gemma-3-12B trained on Omni-MATH, % solved: (problems, sharded?) → the first five ARMS
    ("lost-in-conversation-math", False): ("92.0", "92.5 ± 2", "94.4 ± 1", "93.2 ± 2", "94.1 ± 2"),
    ("lost-in-conversation-math", True): ("62.7", "63.3 ± 1", "63.7 ± 2", "67.1 ± 2", "69.9 ± 1"),
    ("lost-in-conversation-code", False): ("76.3", "76.7 ± 3", "77.1 ± 2", "75.8 ± 1", "76.2 ± 2"),
    ("lost-in-conversation-code", True): ("51.5", "48.9 ± 3", "51.6 ± 2", "53.0 ± 3", "54.8 ± 2"),
}
SISTER = {
    "within 1": "33",
    "within 4": "45",
    "within 10": "53",
}  # Omni-MATH, baseline of arXiv 2602.16066; Fig. 1 prints no numbers


def cell(estimate: dict, scale: int = 100, digits: int = 1, seeds: bool = False) -> str:
    """Mean ± half width over problems, in percent; with `seeds` also that over several seeds."""
    half = scale / 2 * (estimate["high"] - estimate["low"])
    apart = f" (seeds ± {scale * estimate['seeds']:.{digits}f})" if seeds and "seeds" in estimate else ""
    return f"{scale * estimate['mean']:z.{digits}f} ± {half:.{digits}f}{apart}"


def table_1(tests: dict, against: str) -> dict[str, list[dict]]:
    """% solved in all turns: full and sharded tests × arms, the paper's numbers below; five arms a table."""
    tests, tables = {name: test for name, test in tests.items() if not test["disputed"]}, {}
    labels = ordered((label for test in tests.values() for label in test["arms"]), against)
    paper_arms = [against if against not in ARMS else "base", *ARMS[1:5]]
    for start in range(0, len(labels), 5):
        rows = tables.setdefault(f"Table 1{', further models' if start else ''}: solved in all turns, %", [])
        for name, test in tests.items():
            shown, arms, within = labels[start : start + 5], test["arms"], f"within {test['turns']}"
            # Empty cells, too, so that all columns are in the order of the labels.
            ours = {label: cell(arms[label][within], seeds=True) if label in arms else "" for label in shown}
            known = dict(zip(paper_arms, PAPER.get((test["problems"], bool(test["sharded"])), ())))
            compared = known.keys() & arms if test["teacher"] != "self" else ()
            paper = {label: known[label] for label in shown if label in compared}
            named = (name, ours), ("in the paper", paper)
            rows += [{"test": first, **row} for first, row in named if any(row.values())]
    return tables


def accuracy_rows(test: dict) -> list[dict]:
    """One test: % solved within 1, 4 and all turns, the paired differences, what that took."""
    shown = [f"within {t}" for t in sorted({1, min(4, test["turns"]), test["turns"]})]
    rows = []
    for label, arm in test["arms"].items():
        row = {"model": label} | {within: cell(arm[within], seeds=True) for within in shown}
        if "gain" in arm:
            row |= {
                f"− {test['against']}, {within}": cell(arm["gain"][within], seeds=True) for within in shown
            }
        asked, base = arm["question"], test["arms"].get(test["against"], arm)["question"]["mean"]
        times = f" ({asked['mean'] / base:.1f} ×)" if "gain" in arm and base else ""
        row |= {"questions a dialogue": cell(asked, 1, 2) + times}
        row |= {"tokens a solved problem": f"{arm['tokens a solved']:.0f}" if arm["solved"] else "–"}
        rows.append(row)
    if test["problems"] == "omni-math-test" and not test["disputed"] and test["teacher"] != "self":
        rows.append({"model": "sister paper's baseline"} | {w: SISTER.get(w, "") for w in shown})
    return rows


def cells(test: dict, arm: dict) -> dict[str, dict[str, str]]:
    """{table: {column: text}}: the row of an arm in the tables that hold all tests."""
    wrong = arm["counts"]
    turns = arm["turns"]["mean"] or 1
    kinds = {f"{kind}s, % of turns": percent(arm[kind]["mean"] / turns) for kind in KINDS}
    early = {}
    if "premature" in arm:
        early = {"attempts, % of the turns before the last piece": cell(arm["premature"])}
        early |= {"dialogues with such a turn, %": cell(arm["answered early"])}
    passed = {f"pass@{k} of first turns": cell(arm["pass"][k]) for k in (4, 10) if k in arm["pass"]}
    found = {
        "Turns by rule": {**kinds, **early},
        "Solved at equal tokens": {
            "tokens": str(test["budget"]),
            "solved with them, %": cell(arm["in budget"]),
            **passed,
        },
        "What went wrong, % of turns and hints": {
            "no attempt": percent(wrong["no_attempt"]),
            "undecided": percent(wrong["undecided"]),
            "cut off": percent(wrong["cut"]),
            # to repeat a right answer that is disputed is not wrong, and pieces of a problem are no hints
            "repeated turns": "–" if test["disputed"] else percent(wrong["repeats"]),
            "hints with the answer": "–" if test["sharded"] else percent(wrong["leaks"]),
        },
    }
    if "log-loss" in arm:
        kept, left = arm["log-loss"]["solved keep"], arm["log-loss"]["unsolved only"][-1]
        found["Log-loss of the right answer, nats a token"] = {
            "turn 1": f"{kept[0]:.2f}",
            "last turn, solved keep theirs": f"{kept[-1]:.2f}",
            "change": cell(arm["log-loss"]["change"], 1, 2),
            "last turn, unsolved only": "–" if left is None else f"{left:.2f}",
            "dialogues": str(arm["log-loss"]["dialogues"]),
        }
    if "dispute" in arm:
        shares = {f"{what}, %": cell(share) for what, share in arm["dispute"].items()}
        found["Right answers that the teacher disputed"] = {"right answers": str(arm["replies"]), **shares}
    if "judge" in arm:
        told = {name: percent(share) for name, share in arm["judge"].items()}
        found["Turns by the judge, %"] = {name: told.pop(name) for name in (*TYPES, "no label")}
        found["Turns and hints by the judge, %"] = told
    return found


def tabulate(tests: dict, training: dict, against: str) -> dict[str, list[dict]]:
    """All tables: {title: rows}, a row as {column: text}."""
    tables = defaultdict(list, table_1(tests, against))
    for name, test in tests.items():
        size = f"{test['size']} problems, up to {test['turns']} turns"
        tables[f"Within n turns on {name}: {size}"] = accuracy_rows(test)
        for label, arm in test["arms"].items():
            for title, row in cells(test, arm).items():
                tables[title].append({"test": name, "model": label, **row})
    for problems, labels in by_teacher(tests).items():
        for label, found in labels.items():
            row = {"test": problems, "model": label, "teacher in training": taught_by(label, training)}
            row |= {f"teacher {teacher} at inference": cell(solved) for teacher, solved in found.items()}
            tables["Teacher at inference × teacher in training, % solved"].append(row)
    for label, found in training.items():
        row = {"model": label, "stage": found["script"], "dialogues played": f"{found['played']:,.0f}"}
        row |= {"student tokens": f"{found['tokens']:,.0f}", "optimiser steps": str(found["steps"])}
        tables["Sizes of training (SFT: tokens of successful dialogues)"].append(row)
    return tables


def grid(rows: list[dict]) -> list[list[str]]:
    """A table as a head and rows of cells; a first cell that repeats the one above is left empty."""
    columns, above = list(dict.fromkeys(key for row in rows for key in row)), None
    lines = [columns]
    for row in rows:
        first, *others = (row.get(column, "") for column in columns)
        lines.append(["" if first == above else first, *others])
        above = first
    return lines


def markdown(title: str, rows: list[dict]) -> str:
    """A table in Markdown, with a title."""
    head, *lines = [[text.replace("|", "\\|") for text in line] for line in grid(rows)]
    texts = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
    return "\n".join([f"### {title}\n", *texts])


# --------------------------------------------------------------------------------------------------- pictures

# A panel is (title, x label, y label, lines), a line (label, note, x, y); y holds numbers or estimates.
# A label has its own colour (Okabe and Ito's), line style and marker: for print and for the colour-blind.
COLORS = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#d55e00", "#0072b2", "#cc79a7")
MARKERS, STYLES = ("o", "v", "s", "D", "^", "P", "X", "*", "<"), ("-", "--", "-.", ":")
SHADES = ("#0072b2", "#e69f00", "#f0e442", "#dddddd", "#cc79a7", "#999999", "#ffffff")
HOW = {"solved keep": "solved dialogues keep their last value", "unsolved only": "unsolved dialogues only"}
PASS = ", pass@k"


def accuracy_panels(tests: dict, arms: tuple = MAIN, gain: bool = False) -> Iterator[tuple]:
    """Fig. 1: accuracy within n turns. Fig. 4 (gain): what is gained over the base, also on other domains."""
    for name, test in main_tests(tests).items():
        found = {label: arm.get("gain") if gain else arm for label, arm in test["arms"].items()}
        turns, y_label = range(1, test["turns"] + 1), "solved within n turns, %"
        shown = [label for label in drawn(test["arms"], arms) if found[label]]
        lines = [(label, "", turns, [found[label][f"within {n}"] for n in turns]) for label in shown]
        if gain and lines:
            lines.insert(0, (test["against"], "", turns, [0.0] * len(turns)))
        yield name, "turns n", f"points above {test['against']}" if gain else y_label, lines


def teacher_panels(tests: dict, training: dict) -> Iterator[tuple]:
    """Fig. 2: teacher at inference × teacher in training."""
    for name, labels in by_teacher(tests).items():
        lines = []
        for label in drawn(labels, (*FEW, "mt-rl-weak")):
            teacher = taught_by(label, training)
            note = f", taught by {teacher}" if teacher != "–" else ""
            lines.append((label, note, list(labels[label]), list(labels[label].values())))
        yield name, "teacher at inference", "solved in all turns, %", lines


def loss_panels(tests: dict) -> Iterator[tuple]:
    """Fig. 3: log-loss of the right answer after each teacher turn, both averages."""
    for name, test in tests.items():
        curves = {label: arm["log-loss"] for label, arm in test["arms"].items() if "log-loss" in arm}
        turns = range(1, test["turns"] + 1)
        for how, title in HOW.items():
            lines = [(label, "", turns, curves[label][how]) for label in drawn(curves, FEW)]
            yield f"{name}\n{title}", "teacher turns heard", "log-loss, nats a token", lines


def training_panels(training: dict) -> Iterator[tuple]:
    """Fig. 5: questions and reward over the steps of RL, means of the last ten steps."""
    online = {label: found for label, found in training.items() if found.get("reward")}
    for key, y_label in (("questions", "questions a dialogue"), ("reward", "reward (discounted)")):
        lines = []
        for label in drawn(online, ("mt-rl", "primed-rl", "unprimed-rl")):
            last = [online[label][key][max(0, i - 9) : i + 1] for i in range(online[label]["steps"])]
            lines.append((label, "", range(1, len(last) + 1), [sum(ten) / len(ten) for ten in last]))
        yield "", "GRPO steps", y_label, lines


def budget_panels(tests: dict) -> Iterator[tuple]:
    """Solved at equal numbers of tokens, in dialogues and by first turns alone, where a label has samples."""
    for name, test in tests.items():
        lines, turns = [], range(1, test["turns"] + 1)
        for label in drawn(test["arms"], FEW):
            arm = test["arms"][label]
            tokens = [arm[f"tokens {n}"]["mean"] for n in turns]
            lines.append((label, "", tokens, [100 * arm[f"within {n}"]["mean"] for n in turns]))
            if len(passed := [100 * arm["pass"][k]["mean"] for k in turns if k in arm["pass"]]) > 1:
                lines.append((label, PASS, [k * tokens[0] for k in turns[: len(passed)]], passed))
        if any(note == PASS for _, note, *_ in lines):
            yield name, "tokens, mean a problem", "solved, %", lines


def sheet(panels: int, height: float) -> tuple:
    """(figure, axes of each panel) in two columns; without pyplot, so no window and no global state."""
    from matplotlib.figure import Figure

    rows, columns, dpi = -(-panels // 2), min(2, panels), 120 if panels <= 4 else 80  # small files
    figure = Figure(figsize=(4.6 * columns, height * rows + 0.4), dpi=dpi, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes


def save(figure, file: Path, names: dict) -> None:
    """Writes a picture with a legend, {name: what stands for it}; in 32 colours, a third of the size."""
    from PIL import Image  # matplotlib brings it

    columns, whole = max(1, int(11 * figure.get_figwidth() / (5 + max(map(len, names))))), io.BytesIO()
    figure.legend(names.values(), names.keys(), loc="outside upper center", ncols=columns, frameon=False)
    figure.savefig(whole)
    Image.open(whole).convert("RGB").quantize(32).save(file, optimize=True)


def draw(file: Path, panels: list[tuple], labels: list[str]) -> None:
    """One picture of lines; each of `labels` looks the same in all. Bands: the first and the main arm."""
    from matplotlib.ticker import MaxNLocator

    order, names, (figure, axes) = [*drawn(labels), *labels], {}, sheet(len(panels), 3.2)
    for axis, (title, x_label, y_label, lines) in zip(axes, panels):
        for label, note, x, y in lines:
            i = order.index(label)  # arms that are drawn come first, so that their colours differ
            style = {"color": COLORS[i % 7], "linestyle": STYLES[i % 4], "marker": MARKERS[i % 9]}
            style |= {"linestyle": (0, (1, 3)), "marker": "x"} if note == PASS else {}
            if isinstance(y[0], dict):
                low, y, high = ([100 * estimate[key] for estimate in y] for key in ("low", "mean", "high"))
                if label in (labels[0], "mt-rl"):
                    axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
            (names[label + note],) = axis.plot(x, y, markersize=5, markevery=max(1, len(x) // 10), **style)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_title(title, fontsize=10)
        if isinstance(x, range):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, file, names)


def draw_kinds(file: Path, tests: dict) -> None:
    """Fig. 6: a bar a label, its turns by type: the judge's if it labelled all, else by rule."""
    shown = {x: {label: test["arms"][label] for label in drawn(test["arms"])} for x, test in tests.items()}
    judged = all("judge" in arm for arms in shown.values() for arm in arms.values())
    names, (figure, axes) = {}, sheet(len(shown), 0.8 + 0.3 * max(map(len, shown.values())))
    for axis, (title, arms) in zip(axes, shown.items()):
        for label, arm in arms.items():
            turns = arm["turns"]["mean"] or 1
            by_rule, left = {f"{kind}s": arm[kind]["mean"] / turns for kind in KINDS}, 0.0
            shares = {kind: arm["judge"][kind] or 0.0 for kind in TYPES} if judged else by_rule
            for (kind, share), color in zip(shares.items(), SHADES):
                bar = axis.barh(label, 100 * share, left=left, color=color, edgecolor="black", linewidth=0.5)
                if share > 0.08:
                    dark = color == SHADES[0]
                    axis.bar_label(bar, fmt="%.0f", label_type="center", color="white" if dark else "black")
                names[kind], left = bar, left + 100 * share
            if "premature" in arm:
                axis.text(102, label, f"{100 * arm['premature']['mean']:.0f} % early", va="center")
        axis.set(xlabel=f"% of turns, by {'the judge' if judged else 'rule'}", xlim=(0, 100))
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
    save(figure, file, names)


def draw_all(out: Path, tests: dict, training: dict, against: str) -> list[str]:
    """Draws the pictures that there is data for, removes those of an earlier report; returns their names."""
    undisputed = {name: test for name, test in tests.items() if not test["disputed"]}
    several_sets = len({test["problems"] for test in main_tests(tests).values()}) > 1
    pictures = {
        "fig1.png": accuracy_panels(tests),
        "fig2.png": teacher_panels(tests, training),
        "fig3.png": loss_panels(main_tests(tests)),
        "fig4.png": accuracy_panels(tests, FEW, gain=True) if several_sets else (),
        "fig5.png": training_panels(training),
        "budget.png": budget_panels(undisputed),
    }
    labels = ordered([*training, *(label for test in tests.values() for label in test["arms"])], against)
    for name in (*pictures, "fig6.png"):
        (out / name).unlink(missing_ok=True)
    for name, panels in pictures.items():
        if panels := [panel for panel in panels if panel[-1]]:
            draw(out / name, panels, labels)
    if undisputed:
        sharded = {name: test for name, test in undisputed.items() if test["sharded"]}
        draw_kinds(out / "fig6.png", sharded or undisputed)
    return [name for name in (*pictures, "fig6.png") if (out / name).exists()]


# ------------------------------------------------------------------------------------------------------- page

SECTIONS = (  # heading, picture, caption, how the titles of its tables begin
    ("Solved within n turns", "fig1.png", "Fig. 1, 4, 7, 8 and Table 1. Bands: base and mt-rl.", "Table 1"),
    ("Test by test", None, "Differences are paired, problem by problem.", "Within n turns"),
    ("Teachers", "fig2.png", "Fig. 2: teacher at inference × teacher in training.", "Teacher at"),
    ("Log-loss", "fig3.png", "Fig. 3: of the right answer, after each teacher turn.", "Log-loss"),
    ("Gain and transfer", "fig4.png", "Fig. 4: fig1 less the base, problem by problem. Where the domain "
     "is not that of training, this is transfer.", "–"),
    ("Training", "fig5.png", "Fig. 5: questions and reward over RL, means of the last ten steps.", "Sizes"),
    ("Types of turns", "fig6.png", "Fig. 6. Early: attempts among the turns before the last piece.", "Turns"),
    ("Equal tokens", "budget.png", "Dialogues, and k first turns alone, at equal tokens.", "Solved at"),
    ("Disputed answers", None, "The teacher disputes the first right answer. What then?", "Right answers"),
    ("What went wrong", None, "Hints with the answer are found by string match.", "What went"),
)  # fmt: skip
NOTE = "Mean ± half width of the 95 % interval over problems, in percent; in brackets that over seeds."


def headline(tests: dict) -> str:
    """A sentence a test: what the main arm solves, and how much more than the arm it is compared with."""
    sentences = []
    for name, test in main_tests(tests).items():
        label = "mt-rl" if "mt-rl" in test["arms"] else list(test["arms"])[-1]
        arm, turn = test["arms"][label], f"within {test['turns']}"
        apart = cell(arm["gain"][turn], seeds=True) if "gain" in arm else ""
        more = f", {apart} points above {test['against']}" if apart else ""
        sentences.append(f"{name}: {label} solves {cell(arm[turn], seeds=True)} % {turn} turns{more}.")
    return " ".join([*sentences, NOTE])


def shown_dialogues(tests: dict[str, dict[str, list[TestRun]]], most: int) -> list[dict]:
    """For the page: of each label's first seed a dialogue of each of `most` problems a test."""
    shown, keys = [], ("problem", "solved", "messages", "statuses", "knowledge")
    for name, labels in tests.items():
        shown.append({"name": name, "arms": []})
        for label, runs in labels.items():
            first = {d.problem: d for d in sorted(runs[0].dialogues, key=lambda d: d.id, reverse=True)}
            rows = [{key: getattr(first[problem], key) for key in keys} for problem in sorted(first)[:most]]
            shown[-1]["arms"].append({"label": label, "dialogues": rows})
    return shown


def write(out: Path, tests: list[TestRun], training: list[TrainingRun], against: str, dialogues: int) -> str:
    """Fills the folder `out` with report.md, results.json, report.html and pictures. Returns report.md.

    against: the label that others are compared with; dialogues: problems of each test to read on the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    runs, trained, texts, sections = grouped(tests, against), {}, [], []
    for label in ordered((run.label for run in training), against):
        trained[label] = measures.training([run for run in training if run.label == label])
    measured = {name: measures.measure(labels, against) for name, labels in runs.items()}
    pictures, tables = draw_all(out, measured, trained, against), tabulate(measured, trained, against)
    for title, picture, caption, beginning in SECTIONS:
        mine = {name: rows for name, rows in tables.items() if rows and name.startswith(beginning)}
        if not (mine or picture in pictures):
            continue
        grids = [{"title": name, "rows": grid(rows)} for name, rows in mine.items()]
        sections.append({"title": title, "text": caption, "picture": None, "tables": grids})
        texts += [f"## {title}", caption]
        if picture in pictures:
            sections[-1]["picture"] = base64.b64encode((out / picture).read_bytes()).decode()
            texts.append(f"![{title}]({picture})")
        texts += [markdown(name, rows) for name, rows in mine.items()]
    report = "\n\n".join(["# Report", headline(measured), *texts])
    shown = {"headline": headline(measured), "sections": sections, "tests": shown_dialogues(runs, dialogues)}
    data = json.dumps(shown).replace("<", "\\u003c")  # what a model wrote must not end the script element
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8").replace("DATA", data)
    results = json.dumps({"tests": measured, "training": trained}, indent=1, allow_nan=False)
    for name, text in (("results.json", results), ("report.md", report + "\n"), ("report.html", page)):
        write_atomically(out / name, text)
    return f"{report}\n\nwritten to {out}: report.md, report.html, results.json, {', '.join(pictures)}"
