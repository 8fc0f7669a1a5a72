"""Not part of the method: turns finished runs into tables, pictures and a page, numbered as in the paper.

`write` fills a folder: fig1.png … (those that have data), report.md (all tables), results.json (every number,
interval and count) and report.html (tables, pictures, and the dialogues to read). parts/measures.py computes
the numbers and says how each is defined.
"""

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from textwrap import shorten

from parts import measures
from parts.measures import KINDS, TYPES, TestRun, TrainingRun, percent
from parts.pictures import Line, Panel, draw, looks, new_figure, save_figure
from parts.runs import write_atomically

# {label: the paper's name for this arm}, in the paper's order. A picture that cannot hold all arms shows MAIN
# or only FEW of them.
ARMS = {"base": "base", "st-sft": "ST-SFT", "st-rl": "ST-RL", "mt-sft": "MT-SFT", "mt-rl": "MT-RL"}
ARMS |= {"st-rl-32": "ST-RL, g = 32", "mt-sft-10": "MT-SFT, 10 turns", "primed": "Q-primed"}
ARMS |= {"primed-rl": "Q-primed RL", "unprimed": "unprimed", "unprimed-rl": "unprimed RL"}
ARMS |= {"mt-rl-weak": "MT-RL, weak teacher"}
MAIN = ("base", "st-sft", "st-rl", "mt-sft", "mt-rl", "primed-rl")
FEW = ("base", "st-rl", "mt-sft", "mt-rl")


# ------------------------------------------------------------------------------ the order of tests and labels


def in_paper_order(labels: Iterable[str], against: str) -> list[str]:
    """Each label once: the paper's arms in its order, then the others as they come.

    If `against` is no arm of the paper, it is the base model under its own name, and comes first.
    """
    labels, order = list(dict.fromkeys(labels)), [*ARMS] if against in ARMS else [against, *ARMS]
    return [arm for arm in order if arm in labels] + [label for label in labels if label not in order]


def arm_name(label: str) -> str:
    """A label as the paper writes it: mt-rl → MT-RL, mt-rl-mine → MT-RL-mine. Unknown labels as they are."""
    known = [arm for arm in ARMS if re.match(rf"{arm}\b", label)]
    arm = max(known, key=len, default="")
    return ARMS.get(arm, "") + label.removeprefix(arm)


def labels_to_draw(labels: Iterable[str], arms: tuple = MAIN) -> list[str]:
    """Those in `arms` or unknown to the paper; all, if these are none or there are at most len(arms)."""
    labels = list(labels)
    if len(labels) <= len(arms):
        return labels
    return [label for label in labels if label in arms or label not in ARMS] or labels


def group_runs(runs: list[TestRun], against: str) -> dict[str, dict[str, list[TestRun]]]:
    """{test: {label: its runs, one per seed}}, in the order of the report.

    Tests of full problems come first, then single-turn and sharded ones, then disputed ones. In each group,
    tests with the teacher that most models met come first, and among these the domain of training. Runs are
    sorted by seed, because differences are taken between equal seeds.
    """
    labels = in_paper_order((run.label for run in runs), against)
    full = {(r.teacher, r.label) for r in runs if not (r.sharded or r.disputed or r.single_turn)}
    models_met = Counter(teacher for teacher, _ in full)
    tests = {}
    for run in sorted(runs, key=lambda run: (labels.index(run.label), run.settings["seed"])):
        tests.setdefault(run.test, {}).setdefault(run.label, []).append(run)

    def sort_key(name):
        played = [run for runs in tests[name].values() for run in runs]
        run, elsewhere = played[0], not measures.trained_here(played)
        return run.disputed, bool(run.sharded or run.single_turn), -models_met[run.teacher], elsewhere

    return {name: tests[name] for name in sorted(tests, key=sort_key)}


# From here on, `tests` is {test: its numbers from measures.measure}, in the order of group_runs.


def undisputed(tests: dict) -> dict:
    return {name: test for name, test in tests.items() if not test["disputed"]}


def main_tests(tests: dict) -> dict:
    """The tests of full problems with the teacher that most models met; if there are none, all undisputed."""
    shown = undisputed(tests)
    full = {name: test for name, test in shown.items() if not (test["sharded"] or test["single_turn"])}
    if not full:
        return shown
    teacher = next(iter(full.values()))["teacher"]  # group_runs puts it first
    return {name: test for name, test in full.items() if test["teacher"] == teacher}


def by_teacher(tests: dict) -> dict[str, dict[str, dict]]:
    """{problems: {label: {teacher at inference: share solved in all turns}}}, for labels with several."""
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
    """The teacher in a label's RL; a dash if it had none, as in single turns."""
    run = training.get(label, {})
    single_turn = (run.get("trained on") or {}).get("turns") == 1
    return run["teacher"] if run.get("script") == "grpo.py" and not single_turn else "–"


def share_by_kind(arm: dict) -> dict[str, float]:
    """{kind of student turn, by rule: its share of the turns}."""
    turns = arm["turns"]["mean"] or 1  # no turn at all if the problem fills the context
    return {f"{kind}s": arm[kind]["mean"] / turns for kind in KINDS}


# ----------------------------------------------------------------------------------------------------- tables

# A table is a list of rows, a row is {column: text}.
# The paper's Table 1, Gemma-3-12B trained on Omni-MATH, % solved: (problems, sharded?) → the first five ARMS.
# Problems that are not sharded were told in full, in a single turn.
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
    """Mean ± half the 95 % interval, with a true minus sign. A share near 0 or 1 has its interval as a range.

    scale: 100 for percent, or 1. alone: with several seeds, half the interval over problems alone follows.
    """
    mean, low, high = (scale * estimate[key] for key in ("mean", "low", "high"))
    half, text = round((high - low) / 2, digits), f"{mean:z.{digits}f}".replace("-", "−")  # z: no "-0.0"
    if mean - half < 0 <= low or high <= scale < mean + half:  # "±" would reach below 0 or above 100 %
        return f"{text} ({low:.{digits}f}–{high:.{digits}f})"
    if half:  # no "± 0.0"
        text += f" ± {half:.{digits}f}"
    if alone and "alone" in estimate:
        text += f" [{scale * estimate['alone']:.{digits}f}]"
    return text


def turns_text(n: int) -> str:
    return "1 turn" if n == 1 else f"{n} turns"


def table_1(tests: dict, against: str) -> dict[str, list[dict]]:
    """{title: rows}: % solved in all turns, one row per test, one column per arm, five arms per table.

    Tests of the same problems, told in full and sharded, stand together. Below a test with a protocol of the
    paper stands a row with the paper's numbers.
    """
    tests, tables = undisputed(tests), {}
    problems = [test["problems"] for test in tests.values()]
    tests = dict(sorted(tests.items(), key=lambda item: problems.index(item[1]["problems"])))
    labels = in_paper_order((label for test in tests.values() for label in test["arms"]), against)
    paper_labels = [against if against not in ARMS else "base", *list(ARMS)[1:5]]
    for start in range(0, len(labels), 5):
        columns, rows = labels[start : start + 5], []
        for name, test in tests.items():
            arms, within = test["arms"], f"within {test['turns']}"
            ours = {label: cell(arms[label][within]) for label in columns if label in arms}
            in_paper = test["sharded"] or test["single_turn"]
            numbers = PAPER.get((test["problems"], bool(test["sharded"])), ()) if in_paper else ()
            paper = {label: number for label, number in zip(paper_labels, numbers) if label in ours}
            if ours:  # other arms get empty cells, because grid() takes the order of columns from the rows
                rows.append({"test": name, **dict.fromkeys(columns, ""), **ours})
            if paper:
                rows.append({"test": "in the paper", **paper})
        part = f", part {start // 5 + 1}" if start else ""
        tables[f"Table 1{part}: solved in all turns, %"] = rows
    return tables


def accuracy_rows(test: dict) -> list[dict]:
    """One row per model of a test: % solved within 1, 4 and all turns, paired gains, questions, tokens."""
    columns = [f"within {n}" for n in sorted({1, min(4, test["turns"]), test["turns"]})]
    against, rows = test["against"], []
    for label, arm in test["arms"].items():
        row = {"model": label} | {within: cell(arm[within], alone=True) for within in columns}
        questions = cell(arm["question"], scale=1, digits=2)
        if "gain" in arm:
            minus = f"− {arm_name(against)}, "
            row |= {minus + within: cell(arm["gain"][within], alone=True) for within in columns}
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
            "attempts before the last shard, mean % of a dialogue's turns": cell(arm["premature"]),
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
            "first turn": f"{keep[0]['mean']:.2f}",
            "last turn, solved dialogues keep theirs": f"{keep[-1]['mean']:.2f}",
            "change": cell(arm["log-loss"]["change"], scale=1, digits=2),
            "last turn, unsolved dialogues only": f"{unsolved['mean']:.2f}" if unsolved else "–",
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
        title = f"Within n turns on {name}: {test['size']} problems, up to {turns_text(test['turns'])}"
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
    """A table as lists of texts, the column heads first. Labels are replaced by the names of their arms.

    A cell of the first column is left empty if it repeats the one above.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines, above = [[arm_name(column) for column in columns]], None
    for row in rows:
        row = row | {"model": arm_name(row.get("model", ""))}
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

PASS = ", pass@k"
MAX_CURVES = 8  # more in a panel cannot be told apart


def line_of(label: str, x: Iterable, estimates: Iterable, scale: int = 100, note: str = "") -> Line:
    """A line of estimates, by default in percent, with their intervals; a gap where an estimate is None.

    note: follows the arm's name.
    """
    values = [[scale * e[key] if e else float("nan") for key in ("low", "mean", "high")] for e in estimates]
    low, mean, high = zip(*values)
    return Line(label, arm_name(label) + note, x, mean, (low, high), crosses=note == PASS)


def panel_titles(tests: dict) -> dict[str, str]:
    """{test: title of its panel}: its domain and, if known, whether the models were trained on that domain.

    If another test has the same domain, the title has the name of the problems instead; if that is not unique
    either, the test's full name.
    """
    words = {n: (test["domain"], re.sub("[-_]", " ", test["problems"]), n) for n, test in tests.items()}
    titles, role = {}, {True: ": trained", False: ": never trained", None: ""}
    for name, choice in words.items():
        others = [text for other in words if other != name for text in words[other]]
        unique = next((w for w in choice if w and w not in others), name)
        titles[name] = unique + role[tests[name]["trained"]]
    return titles


def end_of_training(test: dict, labels: Iterable[str]) -> tuple:
    """(N, its name in the legend) of these models' multi-turn training; () if unknown, or if they differ."""
    turns = {trained["turns"] for label in labels if (trained := test["arms"][label]["trained on"])} - {1}
    n = turns.pop() if len(turns) == 1 else 0
    return (n, f"training: N = {n}") if 0 < n < test["turns"] else ()


def accuracy_panels(tests: dict, arms: tuple = MAIN, gain: bool = False) -> Iterator[Panel]:
    """Fig. 1: accuracy within n turns. With more than MAX_CURVES arms, gains over `against` as points.

    gain: draws the gains in any case (Fig. 4).
    """
    tests = main_tests(tests)
    shown = {name: labels_to_draw(test["arms"], arms) for name, test in tests.items()}
    crowded = any(
        len(shown[name]) > MAX_CURVES and test["against"] in shown[name] for name, test in tests.items()
    )
    for name, title in panel_titles(tests).items():
        test, turns = tests[name], range(1, tests[name]["turns"] + 1)
        above, drawn = f"points above {arm_name(test['against'])}", {x: test["arms"][x] for x in shown[name]}
        if gain or crowded:
            drawn = {label: arm["gain"] for label, arm in drawn.items() if "gain" in arm}
        if crowded:
            for n in sorted({min(4, len(turns)), len(turns)}):
                lines = [line_of(label, [""], [arm[f"within {n}"]]) for label, arm in drawn.items()]
                yield Panel(f"{title}\nwithin {turns_text(n)}", above, "", lines)
        else:
            lines = [line_of(x, turns, [arm[f"within {n}"] for n in turns]) for x, arm in drawn.items()]
            y_label, end = above if gain else "solved within n turns, %", end_of_training(test, drawn)
            yield Panel(title, "turns n", y_label, lines, *end)


def teacher_panels(tests: dict, training: dict, against: str) -> Iterator[Panel]:
    """Fig. 2: teachers at inference. Left, as in the paper, the untuned student; right, trained students."""
    found = by_teacher(tests)
    # The first test of each problem set, which has the teacher that most models met
    first = {test["problems"]: test for test in reversed(tests.values())}
    titles = panel_titles({problems: first[problems] for problems in found})
    for name, labels in found.items():
        untuned, trained = [], []
        for label in labels_to_draw(labels, (*FEW, "mt-rl-weak")):
            teacher, points = rl_teacher(label, training), labels[label]
            note = "" if teacher == "–" else f"\ntaught by {teacher}"
            line = line_of(label, [f"with teacher {x}" for x in points], points.values(), note=note)
            (untuned if label == against else trained).append(line)
        title = titles[name].removesuffix(": trained")  # the students in the left panel were not
        yield Panel(f"{title}\nuntuned student", "solved in all turns, %", "", untuned)
        yield Panel(f"{title}\ntrained students", "solved in all turns, %", "", trained)


def loss_panels(tests: dict) -> Iterator[Panel]:
    """Fig. 3: log-loss of the right answer after each teacher turn, both averages."""
    names = {"solved keep": "solved dialogues keep their value", "unsolved only": "only unsolved dialogues"}
    for name, title in panel_titles(tests).items():
        turns, arms = range(1, tests[name]["turns"] + 1), tests[name]["arms"]
        curves = {label: arm["log-loss"] for label, arm in arms.items() if "log-loss" in arm}
        labels = labels_to_draw(curves, (*FEW, "mt-sft-10"))
        for average, words in names.items():
            lines = [line_of(label, turns, curves[label][average], scale=1) for label in labels]
            end = end_of_training(tests[name], labels)
            yield Panel(f"{title}\n{words}", "teacher turns", "log-loss, nats a token", lines, *end)


def training_panels(training: dict) -> Iterator[Panel]:
    """Fig. 5: questions and reward over the steps of RL, means of ten; with --test, test problems solved."""
    rl = {label: run for label, run in training.items() if run.get("reward")}
    labels = labels_to_draw(rl, ("mt-rl", "primed-rl", "unprimed-rl"))
    for key, y_label in (("questions", "questions a dialogue"), ("reward", "reward (discounted)")):
        lines = [line_of(x, range(1, rl[x]["steps"] + 1), rl[x][key], scale=1) for x in labels]
        yield Panel("", "GRPO steps", y_label, lines)
    tested = {label: rl[label]["test"] for label in labels if "test" in rl[label]}
    # [-2]: the key before "step", solved within N turns
    lines = [line_of(label, test["step"], test[list(test)[-2]]) for label, test in tested.items()]
    yield Panel("", "GRPO steps", "test problems solved, %", lines)


def budget_panels(tests: dict) -> Iterator[Panel]:
    """Solved at equal tokens: by dialogues and, if problems have several samples, by k first turns alone."""
    tests = {name: test for name, test in tests.items() if any(2 in x["pass"] for x in test["arms"].values())}
    for name, title in panel_titles(tests).items():
        turns, lines = range(1, tests[name]["turns"] + 1), []
        for label in labels_to_draw(tests[name]["arms"], FEW):
            arm = tests[name]["arms"][label]
            tokens = [arm[f"tokens {n}"]["mean"] for n in turns]
            lines.append(line_of(label, tokens, [arm[f"within {n}"] for n in turns]))
            if 2 in arm["pass"]:  # k samples cost k first turns
                samples = [k for k in turns if k in arm["pass"]]
                x = [k * tokens[0] for k in samples]
                lines.append(line_of(label, x, [arm["pass"][k] for k in samples], note=PASS))
        yield Panel(title, "tokens, mean over problems", "solved, %", lines)


def draw_turn_types(file: Path, tests: dict) -> str:
    """Fig. 6: one bar per label with its types of turns: the judge's if all runs have them, else by rule.

    Returns its alt text.
    """
    from matplotlib import color_sequences

    shown = {name: labels_to_draw(test["arms"]) for name, test in tests.items()}
    judged = all("judge" in test["arms"][label] for name, test in tests.items() for label in shown[name])
    most_bars = max(map(len, shown.values()))
    longest = max(len(arm_name(label)) for labels in shown.values() for label in labels)
    kinds = TYPES if judged else [f"{kind}s" for kind in KINDS]
    problems = " on sharded problems" if all(test["sharded"] for test in tests.values()) else ""
    x_label, texts = f"% of turns{problems}, by {'the judge' if judged else 'rule'}", []
    figure, axes = new_figure(len(shown), 3.2 + 0.08 * longest, 0.9 + 0.28 * most_bars)
    for axis, (name, title) in zip(axes, panel_titles(tests).items()):
        arms, left = [tests[name]["arms"][label] for label in shown[name]], [0.0] * len(shown[name])
        shares = [arm["judge"] if judged else share_by_kind(arm) for arm in arms]
        names = [arm_name(label) for label in shown[name]]
        for kind, color in zip(kinds, color_sequences["Set3"]):
            widths = [100 * (share[kind] or 0.0) for share in shares]
            bars = axis.barh(names, widths, left=left, label=kind, color=color, edgecolor="black", lw=0.5)
            axis.bar_label(bars, fmt=lambda width: f"{width:.0f}" if width > 8 else "", label_type="center")
            left = [start + width for start, width in zip(left, widths)]
        for row, arm, share in zip(names, arms, shares):
            early = f"{cell(arm['premature'], digits=0)} % early" if "premature" in arm else ""
            axis.text(102, row, early, va="center", fontsize=9)
            values = [f"{kind} {percent(share[kind])}" for kind in kinds]
            texts.append(f"{title}: {row}: {', '.join(filter(None, [*values, early]))}.")
        axis.set(xlabel=x_label, xlim=(0, 100))
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
    save_figure(figure, file)
    return " ".join([f"In {x_label}.", *texts])


def draw_all(out: Path, tests: dict, training: dict, against: str) -> dict[str, str]:
    """Draws the pictures that have data and removes those of an earlier report. Returns {name: alt text}."""
    several_sets = len({test["problems"] for test in main_tests(tests).values()}) > 1
    pictures = {
        "fig1.png": accuracy_panels(tests),
        "fig2.png": teacher_panels(tests, training, against),
        "fig3.png": loss_panels(main_tests(tests)),
        "fig4.png": accuracy_panels(tests, FEW, gain=True) if several_sets else (),
        "fig5.png": training_panels(training),
        "budget.png": budget_panels(undisputed(tests)),
    }
    tested = [label for test in tests.values() for label in test["arms"]]
    labels = in_paper_order([*training, *tested], against)
    base = "base" if "base" in labels or against in ARMS else against
    known = list(dict.fromkeys((base, *MAIN[1:], *list(ARMS)[1:])))  # the main arms have the clearest colors
    look = looks(labels, known)
    controls = {f"with teacher {test['teacher']}" for test in tests.values() if not test["informed"]}
    for name in (*pictures, "fig6.png"):
        (out / name).unlink(missing_ok=True)
    drawn = {}
    for name, panels in pictures.items():
        if panels := [panel for panel in panels if panel.lines]:
            drawn[name] = draw(out / name, panels, look, controls)
    if shown := undisputed(tests):
        sharded = {name: test for name, test in shown.items() if test["sharded"]}
        drawn["fig6.png"] = draw_turn_types(out / "fig6.png", sharded or shown)
    return drawn


# ------------------------------------------------------------------------------------------------------- page

RUNS = "Runs"
SECTIONS = (  # heading, picture, how the titles of its tables begin, caption
    ("Solved within n turns", "fig1.png", "Table 1", "Problems solved within n turns (the paper's Fig. 1, 4, "
     "7, 8) and in all turns (its Table 1, of models trained on math). Bands and bars are 95 % intervals. "
     "With more than eight models, the picture shows points above the base instead. Single turn: the whole "
     "problem is told, and nobody answers (the paper: full)."),
    ("Test by test", None, "Within n turns", "Columns with − are differences, taken problem by problem."),
    ("Teachers", "fig2.png", "Teacher at", "Models that were tested with several teachers. Left, as in the "
     "paper's Fig. 2, the untuned student. Pale: teachers other than the informed one."),
    ("Log-loss", "fig3.png", "Log-loss", "Log-loss of the right answer's own tokens after each teacher turn "
     "(the paper's Fig. 3, of 10-turn SFT); ± and bands over problems. Solved dialogues keep their last "
     "value, or are dropped (then only hard problems remain)."),
    ("Gain and transfer", "fig4.png", "–", "Points gained over the base, problem by problem (the paper's "
     "Fig. 4). On a domain that was not trained on, this is transfer."),
    ("Training", "fig5.png", "Sizes", "Questions and reward during RL (the paper's Fig. 5), means of the "
     "last ten steps; with --test, also the test problems solved within N turns before a step. Bands: over "
     "seeds, if there are several."),
    ("Types of turns", "fig6.png", "Turns", "Student turns by type (the paper's Fig. 6). Early: the share of "
     "attempts among the turns before the last shard is revealed."),
    ("Equal tokens", "budget.png", "Solved at", "Problems solved with equal numbers of tokens. pass@k: at "
     "least one of k first turns is right, without any hint."),
    ("Disputed answers", None, "Right answers", "The student's replies after the teacher disputed its right "
     "answer; ± over problems."),
    ("Leaks", None, "Hints that give", "Hints that give the answer away, by the rule of parts/leaks.py, and "
     "the dialogues that were solved after one. The last column counts those as unsolved."),
    ("What went wrong", None, "What went", "Repeated turns: a share of the turns after the first. Empty: a "
     "share of the hints. Refused (by the teacher's server or template): a share of the dialogues. All "
     "others: shares of the student turns."),
    (RUNS, None, RUNS, "Who took part in each run, and the command. The command's defaults are those of the "
     "kit's revision; config.json in the folder has all settings."),
)  # fmt: skip


def runs_table(runs: list[TestRun | TrainingRun]) -> list[dict]:
    """One row per run: who took part, the versions, the command."""
    rows = []
    for run in runs:
        args, versions = run.config["arguments"], run.config.get("versions", {})
        user, teacher = args.get("sharded"), args.get("teacher")
        model = "–" if user == "scripted" or not teacher else args.get("teacher_model") or args["model"]
        rows.append(
            {
                "model": run.label,
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


def notes_on_teachers(tests: list[TestRun], against: str) -> list[str]:
    """A note for each test in which some models met another teacher, so that no table compares them."""
    met = defaultdict(lambda: defaultdict(list))  # {test without its teacher: {teacher: labels}}
    for run in tests:
        if not (run.sharded == "scripted" or run.single_turn):
            met[run.problems, run.sharded, run.disputed][run.teacher].append(run.label)
    notes = []
    for (problems, *_), teachers in met.items():
        most = max(teachers, key=lambda t: (len(set(teachers[t])), against in teachers[t]))
        for teacher, labels in teachers.items():
            if others := sorted(set(labels) - set(teachers[most])):
                who = f"{', '.join(map(arm_name, others))} met teacher {teacher} and not {most}"
                rest = ", ".join(map(arm_name, sorted(set(teachers[most]))))
                notes.append(
                    f"Note: on {problems}, {who}, so no table compares them with {rest}. "
                    "Play them with the same --teacher-model."
                )
    return notes


def interval_note(tests: dict) -> str:
    """What "±" means in this report: an interval over problems, or over seeds and problems."""
    seeds = {label: len(arm["runs"]) for test in tests.values() for label, arm in test["arms"].items()}
    single = [label for label, n in seeds.items() if n == 1]
    if len(single) == len(seeds):
        over = "over problems (one seed, so it leaves out how much seeds of training differ)"
    else:
        over = "over seeds and problems; in brackets, for these seeds, over problems alone"
        over += f" (one seed, so only over problems: {', '.join(map(arm_name, single))})" if single else ""
    return f"± is half the 95 % interval {over}. Near 0 and 100 %, the interval is written as a range."


def headline(tests: dict) -> str:
    """One sentence per test: how much mt-rl (or the last label) solves, and its lead over the base."""
    sentences = []
    for name, test in main_tests(tests).items():
        label = "mt-rl" if "mt-rl" in test["arms"] else list(test["arms"])[-1]
        arm, within = test["arms"][label], f"within {test['turns']}"
        sentence = (
            f"{name}: {arm_name(label)} solves {cell(arm[within])} % within {turns_text(test['turns'])}"
        )
        if "gain" in arm:
            sentence += f", {cell(arm['gain'][within])} points above {arm_name(test['against'])}"
        sentences.append(f"{sentence}.")
    return " ".join([*sentences, interval_note(tests)] if tests else sentences)


FLAGGED = (
    "Hints that give the answer away, by the rule of parts/leaks.py or by the judge (evaluate.py judge), in "
    "the dialogues that this page holds."
)


def as_shown(dialogue, judged: Sequence = ()) -> dict:
    """The parts of a dialogue that the page shows. judged: for each hint, whether the judge calls it a leak.

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
    """For the page: the first dialogue of each of the first `problems`, from the first seed of each label."""
    texts = []
    for name, labels in tests.items():
        arms = []
        for label, runs in labels.items():
            backwards = sorted(runs[0].dialogues, key=lambda d: d.id, reverse=True)
            first = {d.problem: d for d in backwards}  # the lowest id of a problem comes last and stays
            judged = {row["id"]: row["leaks"] for row in runs[0].judged}
            chosen = [first[problem] for problem in sorted(first)[:problems]]
            rows = [as_shown(dialogue, judged.get(dialogue.id, ())) for dialogue in chosen]
            arms.append({"label": arm_name(label), "dialogues": rows})
        texts.append({"name": name, "arms": arms})
    return texts


def flagged_hints(texts: list[dict]) -> list[dict]:
    """One row for each flagged hint. texts: what dialogues_to_read returns."""
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
    return [{"label": arm_name(label), "groups": groups} for label, groups in shown.items()]


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
    advantages = [f"{a:+.2f}".replace("-", "−") for a in row["advantages"]]
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
    of_training = {run.label: run.trained_on for run in training}
    for run in tests:  # the model's folder may have moved, and be among those of `training`
        run.trained_on = of_training.get(run.label, run.trained_on)
    runs = group_runs(tests, against)
    measured = {name: measures.measure(labels, against) for name, labels in runs.items()}
    trained = {}
    for label in in_paper_order((run.label for run in training), against):
        trained[label] = measures.measure_training([run for run in training if run.label == label])
    pictures, tables = draw_all(out, measured, trained, against), all_tables(measured, trained, against)

    tables[RUNS] = runs_table([run for run in [*training, *tests] if run.config])
    intro = "\n\n".join([headline(measured), *notes_on_teachers(tests, against)])
    texts, sections = ["# Report", intro], []
    for heading, picture, beginning, caption in SECTIONS:
        chosen = {title: rows for title, rows in tables.items() if rows and title.startswith(beginning)}
        if not (chosen or picture in pictures):
            continue
        texts += [f"## {heading}", caption]
        image, alt = None, pictures.get(picture)
        if picture in pictures:
            image = base64.b64encode((out / picture).read_bytes()).decode()
            texts.append(f"![{alt}]({picture})")
        texts += [markdown(title, rows) for title, rows in chosen.items()]
        grids = [{"title": title, "rows": grid(rows)} for title, rows in chosen.items()]
        sections.append({"title": heading, "text": caption, "picture": image, "alt": alt, "tables": grids})
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
