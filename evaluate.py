"""Every table and figure: plays test dialogues with a model, then compares any number of such runs.

    python evaluate.py play --model runs/mt-rl/model --teacher google/gemma-3-12b-it --problems test.jsonl --out runs/eval/mt-rl
    python evaluate.py judge runs/eval/* --judge http://HOST/v1#MODEL
    python evaluate.py compare runs/eval/* runs/mt-rl --out runs/figures

`play` writes a run folder OUT/NAME for each problem file NAME.jsonl. With --dispute the first right answer is disputed by the
teacher, and the share of right answers that survive is reported. `judge` lets a model label every student turn (the seven types of
Lost in Conversation) and say of every hint whether it gives the answer away. `compare` takes such folders, and those of training
runs for the sizes of their data and the curves over RL; the label of a model is the name of the run that trained it, the seeds of a
label are averaged problem by problem. It writes table.md, pictures, and page.html, which shows both and lets you read the
dialogues, two models side by side.

Accuracy within n turns: the share of problems solved at turn n or before. Intervals: 95 %. "±" is a bootstrap over problems, for
the mean of the seeds at hand; a difference of two labels is taken problem by problem before (paired), as both were tested on the
same ones. "seeds ±" is Student's t over the means of the seeds, for the same problems. Tokens: all that stand in the dialogue after
the problem, the teacher's and the template's included. pass@k: of k first turns at least one is right (unbiased, Chen et al., 2021).
Log-loss of the right answer: mean negative log-likelihood of a token of the answer turn, right after a teacher turn. At later turns
only unsolved dialogues are left, so it is averaged twice: a solved dialogue keeps its last value, or drops out (then the rest is
ever harder problems).
"""

import argparse
import base64
import json
import math
import re
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm

from common import (SOURCES, Dialogue, Grader, Run, arguments, fail, gathered, load_problems, masked_logprobs, padded, read_jsonl, run_script,
                    visible, world, write_atomically)  # fmt: skip
from generate import NEUTRAL, Setting, Speak, add_arguments, add_sampling_arguments, check_arguments, generate, speaker, summary
from generate import play as drive

# -------------------------------------------------------------------------------------------------------------------- playing


def answer_turn(problem):
    """The student turn that states the right answer: boxed in math, the solution's program in code; None if there is none."""
    if problem.domain == "math":
        return f"\\boxed{{{problem.answer}}}"
    if not problem.solution:
        return None
    return problem.solution if "```" in problem.solution else f"```python\n{problem.solution.strip()}\n```"


def answer_losses(setting, dialogue, problem):
    """Nats a token of the answer turn, its end token included, after each teacher turn of a dialogue (the first is the problem)."""
    chat, answer = setting.chat, answer_turn(problem)
    said = chat.tokenizer.encode(answer, add_special_tokens=False) + [chat.end]
    starts = [i for i, m in enumerate(dialogue.mask) if m and not dialogue.mask[i - 1]]
    rows = [dialogue.ids[:n] + said for n in starts]
    with torch.no_grad():
        ids = padded(rows, setting.model.device)
        mask = padded([[0] * n + [1] * len(said) for n in starts], setting.model.device)
        return (-masked_logprobs(setting.model, ids, mask).view(len(rows), len(said)).mean(1)).tolist()


def short_name(source):
    """A short name of a problem file or data set, fit for a folder."""
    name = source.partition(":")[0]
    return name.replace("/", "-") if name in SOURCES else Path(source).stem


def play(args):
    """Plays the test dialogues of all problem files, and measures the log-loss of the answer in the first of them."""
    if len({short_name(source) for source in args.problems}) < len(args.problems):
        fail("two problem files have the same name; their results would share a folder")
    rank, processes = world()
    tests, setting = [(source, load_problems(source, args.answers)) for source in args.problems], None
    if args.sharded and args.dispute:
        fail("--dispute is for full problems; leave out --sharded")
    for source, problems in tests:
        without = next((p.id for p in problems if args.sharded and len(p.shards) < 2), None)
        if without:
            fail(f"{source}: problem {without!r} has no shards, so it cannot be played with --sharded")
    for source, problems in tests:
        own = argparse.Namespace(**vars(args))
        own.problems, own.out = source, str(Path(args.out) / short_name(source))
        run = Run(own, NEUTRAL)
        if (run.path / "metrics.jsonl").exists():
            run.say(f"{run.path} is finished")
            continue
        setting = setting or Setting(args)
        rows = generate(args, run, problems, setting, sharded=args.sharded, dispute=args.dispute)
        by_id, measured = {p.id: p for p in problems}, gathered({r["id"] for r in read_jsonl(run.path / "losses.jsonl")})[0]
        chosen = sorted((r for r in rows if answer_turn(by_id[r["problem"]])), key=lambda r: r["id"])[: args.losses]
        mine = [r for r in chosen if r["id"] not in measured][rank::processes]
        for row in tqdm(mine, desc="log-loss", mininterval=1, disable=rank > 0):
            dialogue = Dialogue(**{k: row[k] for k in Dialogue.__dataclass_fields__})
            losses = answer_losses(setting, dialogue, by_id[row["problem"]])
            run.append("losses.jsonl", [{"id": row["id"], "solved": row["solved"], "losses": losses}], own=True)
        gathered(None)  # until all have written
        result = summary(rows, args.turns)
        run.append("metrics.jsonl", [{"dialogues": len(rows), **result}])
        run.say(f"{run.path}: " + ", ".join(f"{k} {v:.3f}" for k, v in result.items()))


# -------------------------------------------------------------------------------------------------------------------- judging

TYPES = ("answer attempt", "clarification", "interrogation", "discussion", "hedge", "refusal", "missing")  # Laban et al., 2025
RULE = {"answer attempt": "attempt", "clarification": "question", "interrogation": "question"}  # the others: "other"
JUDGE_TURN = """You label one turn of an assistant in a conversation with a user.

The conversation before the turn:
{before}

The turn:
{turn}

Labels:
answer attempt: it commits itself to one complete answer or program
clarification: it asks one thing that it needs to know
interrogation: it asks several things at once
discussion: it reasons or explains, and neither asks nor answers
hedge: it gives several possible answers, or one under stated assumptions
refusal: it declines to answer
missing: it is empty or cannot be understood

Reply with the label alone."""
JUDGE_LEAK = """A teacher who knows the answer to a problem may give hints, but must not give the answer away.

The problem:
{problem}

The answer:
{answer}

The hint:
{hint}

Does the hint state the answer, or so much that only copying is left to do? Reply with yes or no alone."""


def assess(row, problem, chat):
    """The judging of one dialogue, as a coroutine: yields Speak, receives Turn, returns {"id", "types", "leaks"}.

    types: one of TYPES for each student turn, leaks: True or False for each hint; None where the judge said nothing of the kind.
    """
    types, leaks, said = [], [], [visible(m["content"]) for m in row["messages"]]
    for i, m in enumerate(row["messages"]):
        if m["role"] == "student":
            before = "\n\n".join(f"[{n['role']}] {text}" for n, text in zip(row["messages"][:i], said))
            prompt, found = JUDGE_TURN.format(before=before, turn=said[i]), types
        elif i:
            prompt, found = JUDGE_LEAK.format(problem=problem.prompt, answer=problem.answer or problem.solution, hint=said[i]), leaks
        else:
            continue
        reply = yield Speak("judge", chat.view([{"role": "user", "content": prompt}]), row["id"], i)
        words = re.findall("|".join(TYPES) if found is types else r"\b(?:yes|no)\b", visible(chat.text(reply.ids)).lower())
        found.append(None if not words else words[-1] if found is types else words[-1] == "yes")
    return {"id": row["id"], "types": types, "leaks": leaks}


def judge(args):
    """Labels the turns and hints of test runs: writes RUN/judged, a run folder of its own. Prints the agreement with the rules."""
    for folder in args.runs:
        if load_run(folder)[0] == "training":
            fail(f"{folder}: is a training run; give folders written by `evaluate.py play`")
    engine, chat, (rank, processes) = None, None, world()
    for folder in map(Path, args.runs):
        own = argparse.Namespace(**vars(args))
        own.runs, own.out = str(folder), str(folder / "judged")
        run, (_, arguments, (dialogues, *_)) = Run(own, NEUTRAL), load_run(folder)
        problems = {p.id: p for p in load_problems(arguments["problems"], arguments["answers"])}
        known = gathered({row["id"] for row in read_jsonl(run.path / "judged.jsonl")})[0]
        if left := [row for row in dialogues if row["id"] not in known][rank::processes]:
            engine, chat = (engine, chat) if engine else speaker(args, args.judge, 0.0)
            talks = ((row["id"], assess(row, problems[row["problem"]], chat)) for row in left)
            for row in tqdm(drive(talks, {"judge": engine}, Grader(), args.live), total=len(left), desc="judging", mininterval=1, disable=rank > 0):
                run.append("judged.jsonl", [row], own=True)
        gathered(None)  # until all have written
        shares = judged_shares(paired(dialogues, read_jsonl(run.path / "judged.jsonl")))
        run.say(f"{folder}: " + ", ".join(f"{name} {share}" for name, share in shares.items()))


def paired(dialogues, judged):
    """[(dialogue row, judged row)] of one run."""
    known = {row["id"]: row for row in judged}
    return [(row, known[row["id"]]) for row in dialogues if row["id"] in known]


def judged_shares(judged):
    """{what: "n %"}: the judge's labels of the student turns, their agreement with the rules, and hints that give the answer away.

    judged: [(dialogue row, judged row)].
    """
    pairs = [(kind, label) for row, given in judged for kind, label in zip(kinds(row), given["types"])]
    labels, hints = [label for _, label in pairs], [x for _, given in judged for x in given["leaks"]]
    agreed = [kind == RULE.get(label, "other") for kind, label in pairs if label]

    def share(values):
        return f"{100 * sum(values) / len(values):.1f} %" if values else "–"

    return {**{name: share([label == name for label in labels]) for name in TYPES}, "no label": share([label is None for label in labels]),
            "agreement with the rules": share(agreed), "hints that give the answer away": share([x is True for x in hints])}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ comparing


def load_run(folder):
    """("test" | "training", arguments, rows of the run) of a finished run folder; ends the program for anything else."""
    folder = Path(folder)
    try:
        arguments = json.loads((folder / "config.json").read_text())["arguments"]
    except (OSError, ValueError, KeyError):
        fail(f"{folder}: holds no run; give folders written by `evaluate.py play`, or training runs")
    if arguments["script"] in ("grpo.py", "sft.py", "qprime.py"):
        played = map(Path, arguments.get("data", [folder]))
        seen = sum((d / "dialogues.jsonl").read_bytes().count(b"\n") for d in played if (d / "dialogues.jsonl").exists())
        return "training", {**arguments, "label": folder.name, "seen": seen}, read_jsonl(folder / "metrics.jsonl")
    if arguments["script"] != "evaluate.py" or not (folder / "metrics.jsonl").exists():
        fail(f"{folder}: is not a finished test run; give folders written by `evaluate.py play`, or run it again to finish it")
    label = last_part(arguments["model"])
    name, teacher = short_name(arguments["problems"]), last_part(arguments["teacher"] or "frozen self")
    test = name + {"scripted": " (sharded)", "rephrased": f" (sharded, teacher {teacher})"}.get(arguments["sharded"], f", teacher {teacher}")
    known = {"out": str(folder), "label": label, "test": test + " (disputed)" * arguments["dispute"], "name": name, "tutor": teacher}
    judged = read_jsonl(folder / "judged" / "judged.jsonl")
    return "test", {**arguments, **known}, (read_jsonl(folder / "dialogues.jsonl"), read_jsonl(folder / "losses.jsonl"), judged)


def last_part(name):
    """Short name of a model: of its run's folder, of the hub, or behind an endpoint's #."""
    return re.split("[/#]", name.removesuffix("/model"))[-1]


def collect(folders):
    """(tests, training): {test: {label: [(arguments, dialogues, losses, judged)]}} and {label: [(arguments, metrics rows)]}, an entry a seed."""
    tests, training = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for folder in folders:
        kind, arguments, rows = load_run(folder)
        if kind == "training":
            training[arguments["label"]].append((arguments, rows))
            continue
        first = next(iter(tests[arguments["test"]].values()), [(arguments, *rows)])[0]
        if {r["problem"] for r in rows[0]} != {r["problem"] for r in first[1]}:
            fail(f"{folder} and {first[0]['out']} were played on different problems, so they cannot be compared")
        if arguments["turns"] != first[0]["turns"]:
            fail(f"{folder} has {arguments['turns']} turns, {first[0]['out']} {first[0]['turns']}; play both with the same --turns")
        tests[arguments["test"]][arguments["label"]].append((arguments, *rows))
    return tests, training


def by_problem(runs, value):
    """float64 [problems, …]: value(dialogue row), averaged over the seeds and samples of each problem, in the order of the ids."""
    values = defaultdict(list)
    for _, dialogues, *_ in runs:
        for row in dialogues:
            values[row["problem"]].append(value(row))
    return torch.stack([torch.tensor(values[k], dtype=torch.float64).mean(0) for k in sorted(values)])


def within(turns):
    """Value of a dialogue row for by_problem: whether it was solved within 1, 2, … turns."""
    return lambda row: [float(row["solved"] is not None and row["solved"] <= n) for n in range(1, turns + 1)]


def interval(x, resamples=2000):
    """(mean, low, high) over the first dimension: percentile bootstrap over problems, 95 %. x: float64 [problems, …]."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(x), (resamples, len(x)), generator=generator)
    weights = torch.zeros(resamples, len(x), dtype=x.dtype).scatter_add_(1, picks, torch.ones_like(picks, dtype=x.dtype)) / len(x)
    means = weights @ x.reshape(len(x), -1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=x.dtype), dim=0)
    return x.mean(0), low.reshape(x.shape[1:]), high.reshape(x.shape[1:])


def pass_at(k, n, right):
    """Unbiased estimate of the chance that one of k samples is right, of n samples of which `right` are (Chen et al., 2021)."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def kinds(row):
    """The type of each student turn by rule: attempt, question (no attempt, and a question mark) or other."""
    said = [m["content"] for m in row["messages"] if m["role"] == "student"]
    return ["attempt" if s != "no attempt" else "question" if "?" in visible(t) else "other" for s, t in zip(row["statuses"], said)]


def turn_types(row):
    """[attempts, questions, other turns] of a dialogue."""
    return [float(kinds(row).count(kind)) for kind in ("attempt", "question", "other")]


def spent(row):
    """Tokens of a dialogue through each student turn, from the first one on: what both sides said, and the template around it."""
    mask = row["mask"]
    ends = [i + 1 for i, m in enumerate(mask) if m and (i + 1 == len(mask) or not mask[i + 1])]
    return [end - mask.index(1) for end in ends]


def within_tokens(budget):
    """Value of a dialogue row for by_problem: whether it was solved with so many tokens or fewer."""
    return lambda row: float(row["solved"] is not None and spent(row)[row["solved"] - 1] <= budget)


def pass_curve(runs, k):
    """float64 [problems]: pass@k of the first turns, mean over the runs; None if a problem was not sampled k times."""
    curves = []
    for _, dialogues, *_ in runs:
        first = defaultdict(list)
        for row in dialogues:
            first[row["problem"]].append(row["solved"] == 1)
        if min(map(len, first.values())) < k:
            return None
        curves.append([pass_at(k, len(first[p]), sum(first[p])) for p in sorted(first)])
    return torch.tensor(curves, dtype=torch.float64).mean(0)


def premature(row):
    """Whether a dialogue about a sharded problem has an attempt before the last turn, the only one when all shards are out."""
    return [float(any(s != "no attempt" for s in row["statuses"][: row["limit"] - 1]))]


def loss_curves(runs, turns):
    """Mean log-loss of the answer after teacher turns 1…N, two ways: solved dialogues keep their last value; drop out."""
    rows = [r["losses"] for _, _, losses, _ in runs for r in losses]
    kept = [sum(r[min(t, len(r) - 1)] for r in rows) / len(rows) for t in range(turns)]
    left = [[r[t] for r in rows if t < len(r)] for t in range(turns)]
    return kept, [sum(r) / len(r) if r else float("nan") for r in left]


STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # 97.5 % quantiles


def seed_interval(means):
    """Half width of the 95 % interval of the mean over seeds: Student's t, for 2 to 10 seeds. means: float64 [seeds, …]."""
    n = len(means)
    return STUDENT_T[n - 1] * means.std(0, correction=1) / n**0.5


def cell(x, seeds=()):
    """`mean ± half width` of the interval over problems in percent; where there are several seeds also the interval over them."""
    mean, low, high = (float(v) for v in interval(x))
    apart = f" (seeds ± {100 * float(seed_interval(torch.stack(list(seeds)))):.1f})" if 1 < len(seeds) <= 10 else ""
    return f"{100 * mean:.1f} ± {50 * (high - low):.1f}{apart}"


PAPER = {  # Table 1, Gemma-3-12B trained on Omni-MATH: % solved
    "omni-math-test": "Fig. 1 prints no numbers; the sister paper's baseline within 1, 4, 10 turns (model not named): 33, 45, 53",
    "lost-in-conversation-math": "baseline 92.0, ST-SFT 92.5 ± 2, ST-RL 94.4 ± 1, MT-SFT 93.2 ± 2, MT-RL 94.1 ± 2",
    "lost-in-conversation-math (sharded)": "baseline 62.7, ST-SFT 63.3 ± 1, ST-RL 63.7 ± 2, MT-SFT 67.1 ± 2, MT-RL 69.9 ± 1",
    "lost-in-conversation-code": "baseline 76.3, ST-SFT 76.7 ± 3, ST-RL 77.1 ± 2, MT-SFT 75.8 ± 1, MT-RL 76.2 ± 2",
    "lost-in-conversation-code (sharded)": "baseline 51.5, ST-SFT 48.9 ± 3, ST-RL 51.6 ± 2, MT-SFT 53.0 ± 3, MT-RL 54.8 ± 2",
}


def last_turn(runs):
    """Number of turns that a test allows."""
    return max(r["limit"] for r in runs[0][1])


def accuracy_table(test, labels, against):
    """Markdown table of one test: accuracy within 1, 4 and all turns, differences to a label, questions, and what went wrong."""
    first = next(iter(labels.values()))
    settings, turns, n = first[0][0], last_turn(first), len({r["problem"] for r in first[0][1]})
    accuracy = {label: by_problem(runs, within(turns)) for label, runs in labels.items()}
    questions = {label: interval(by_problem(runs, turn_types)[:, 1]) for label, runs in labels.items()}
    measured = all(losses for runs in labels.values() for _, _, losses, _ in runs)
    of_four = [spent(r)[min(4, len(r["statuses"])) - 1] for _, rows, *_ in labels.get(against, first) for r in rows]
    budget = round(sum(of_four) / len(of_four))  # what four turns cost the label that the others are compared with
    table = []
    for label, runs in labels.items():
        rows, row, different = [r for run in runs for r in run[1]], {"model": label}, against in labels and label != against
        for t in sorted({1, min(4, turns), turns}):
            row[f"solved within {t}"] = cell(accuracy[label][:, t - 1], [by_problem([r], within(turns))[:, t - 1].mean() for r in runs])
            row[f"− {against}, within {t}"] = cell(accuracy[label][:, t - 1] - accuracy[against][:, t - 1]) if different else ""
        row[f"solved within {budget} tokens"] = cell(by_problem(runs, within_tokens(budget)))
        for k in (4, 10):
            curves = {name: pass_curve(some, k) for name, some in labels.items()}
            if any(curve is not None for curve in curves.values()):
                row[f"pass@{k}, first turns"] = "" if curves[label] is None else cell(curves[label])
        mean, low, high = map(float, questions[label])
        times = f" ({mean / float(questions[against][0]):.1f} ×)" if different and questions[against][0] else ""
        row["questions a dialogue"] = f"{mean:.2f} ± {(high - low) / 2:.2f}{times}"
        if settings["sharded"]:
            row["premature answers"] = cell(by_problem(runs, premature)[:, 0])
        if settings["dispute"]:
            replies = [r["statuses"][-1] for r in rows if r["solved"]]
            for name, mine in (("kept", [s == "correct" for s in replies]), ("no attempt", [s == "no attempt" for s in replies])):
                row[f"right answers, disputed: {name}"] = f"{cell(torch.tensor(mine, dtype=torch.float64))} of {len(mine)}" if mine else "–"
        counts, solved = summary(rows, turns), sum(r["solved"] is not None for r in rows)
        for key, name in (("no_attempt", "turns without attempt"), ("undecided", "undecided"), ("repeats", "repeated turns"), ("leaks", "hints with the answer")):
            row[name] = f"{100 * counts[key]:.1f}"
        if measured:
            kept, left = loss_curves(runs, turns)
            row["log-loss of the answer, turn 1"], row[f"turn {turns}, solved keep theirs"] = f"{kept[0]:.2f}", f"{kept[-1]:.2f}"
            row[f"turn {turns}, unsolved only"] = f"{left[-1]:.2f}"
        row["tokens a solved problem"] = f"{sum(spent(r)[-1] for r in rows) / solved:.0f}" if solved else "–"
        table.append(row)
    paper = next((numbers for name, numbers in PAPER.items() if test.split(",")[0] == name), None)
    return markdown(f"{test}: {n} problems, up to {turns} turns", table) + (f"\n\nIn the paper: {paper}" if paper else "")


def markdown(title, rows):
    """Markdown table with a title; rows: dicts with the same keys."""
    lines = [f"### {title}\n", "| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])


def overview_table(tests):
    """Markdown table of % solved in all turns, models as columns (Table 1); full and sharded problems alike."""
    names = list(dict.fromkeys(label for labels in tests.values() for label in labels))
    rows = []
    for test, labels in tests.items():
        solved = {label: by_problem(runs, within(last_turn(runs)))[:, -1] for label, runs in labels.items()}
        rows.append({"test": test, **{name: cell(solved[name]) if name in solved else "" for name in names}})
    return markdown("Solved in all turns", rows)


def teachers_table(tests, training):
    """Markdown table of % solved in all turns, teacher at inference × teacher in training (Fig. 2); None without two teachers."""
    sets = defaultdict(lambda: defaultdict(dict))
    for labels in tests.values():
        for label, runs in labels.items():
            settings = runs[0][0]
            if not (settings["sharded"] or settings["dispute"]):
                sets[settings["name"]][label][settings["tutor"]] = runs
    rows = []
    for name, labels in sets.items():
        tutors = sorted({tutor for by_tutor in labels.values() for tutor in by_tutor})
        for label, by_tutor in labels.items() if len(tutors) > 1 else ():
            if len(by_tutor) > 1:
                taught = next((last_part(a["teacher"] or a["model"]) for a, _ in training.get(label, ()) if a["script"] == "grpo.py"), "–")
                cells = {tutor: cell(by_problem(runs, within(last_turn(runs)))[:, -1]) for tutor, runs in by_tutor.items()}
                rows.append({"test": name, "model": label, "teacher in training": taught} | {f"teacher {t} at inference": cells.get(t, "") for t in tutors})
    columns = dict.fromkeys(key for row in rows for key in row)
    return markdown("Teacher at inference × teacher in training", [{key: row.get(key, "") for key in columns} for row in rows]) if rows else None


def judged_table(tests):
    """Markdown table of what a judge said of the turns (Fig. 6) and hints of the tests that were judged; None if none was."""
    rows = []
    for test, labels in tests.items():
        for label, runs in labels.items():
            if all(said for *_, said in runs):
                judged = [pair for _, dialogues, _, said in runs for pair in paired(dialogues, said)]
                rows.append({"test": test, "model": label, **judged_shares(judged)})
    return markdown("Turns and hints by the judge", rows) if rows else None


def sizes_table(training):
    """Markdown table of what each training run played and learned from, mean of its seeds."""
    rows = []
    for label, runs in training.items():
        played, tokens = (sum(values) / len(runs) for values in ([a["seen"] for a, _ in runs], [sum(r["tokens"] for r in rows) for _, rows in runs]))
        rows.append({"model": label, "stage": runs[0][0]["script"], "dialogues played": f"{played:,.0f}",
                     "student tokens (SFT: of successful dialogues)": f"{tokens:,.0f}", "optimiser steps": str(len(runs[0][1]))})  # fmt: skip
    return markdown("Training", rows)


# ------------------------------------------------------------------------------------------------------------------- pictures

STYLES = [("#000000", "-", "o"), ("#d55e00", "--", "s"), ("#0072b2", "-", "^"), ("#009e73", "-.", "D"), ("#cc79a7", "-", "v"),
          ("#56b4e9", "--", "P"), ("#e69f00", ":", "X"), ("#7f7f7f", "-", "*"), ("#8c564b", "-.", "h"), ("#7b3294", "--", "<"),
          ("#a6761d", "-", ">"), ("#1b9e77", ":", "p")]  # fmt: skip
PASS = ", pass@k"  # marks a line as that of a label's first turns alone


def sheet(panels, width, height):
    """(figure, one pair of axes a panel) of two columns; no window is ever opened."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns, rows = min(2, panels), -(-panels // 2)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, axes.flat


def draw(file, panels, labels):
    """One picture. panels: [(title, x label, y label, {label: (x, y, low, high)})]; low and high may be None. Lines are labelled
    at their right ends; each of `labels` has a line style and a marker of its own, so that the picture can be read in grey."""
    styles = dict(zip(labels, STYLES * 9))
    styles |= {label + PASS: (color, (0, (1, 2)), "x") for label, (color, _, _) in styles.items()}
    figure, axes = sheet(len(panels), 6.2, 3.9)
    for axis, (title, x_label, y_label, lines) in zip(axes, panels):
        for label, (x, y, low, high) in lines.items():
            color, line, marker = styles[label]
            axis.plot(x, y, linestyle=line, color=color, marker=marker, markersize=4, markevery=max(1, len(x) // 10), linewidth=1.4)
            if low is not None:
                axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        bottom, top = axis.get_ylim()
        ends = sorted((y[-1], label) for label, (_, y, _, _) in lines.items() if y[-1] == y[-1])
        places, gap = [y for y, _ in ends], (top - bottom) / 18
        for i in range(1, len(places)):  # labels at least a line apart: up from the lowest …
            places[i] = max(places[i], places[i - 1] + gap)
        for i in reversed(range(len(places))):  # … and down again from the top of the picture
            places[i] = min(places[i], top - gap * (len(places) - 1 - i))
        for (y, label), place in zip(ends, places):
            x, offset = lines[label][0][-1], (place - y) / (top - bottom) * 210
            axis.annotate(label, (x, y), xytext=(8, offset), textcoords="offset points", color=styles[label][0], va="center", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def draw_turn_types(file, tests):
    """Fig. 6: for each test a bar a label, its turns by type in shares of all; beside it the share of premature answers if sharded."""
    figure, axes = sheet(len(tests), 6.2, 0.9 + 0.3 * max(map(len, tests.values())))
    for axis, (test, labels) in zip(axes, tests.items()):
        for place, (label, runs) in enumerate(labels.items()):
            shares, left = by_problem(runs, turn_types).sum(0), 0.0
            for share, color in zip((100 * shares / shares.sum()).tolist(), ("#0072b2", "#e69f00", "#dddddd")):
                axis.barh(place, share, left=left, color=color, edgecolor="white")
                if share > 8:
                    axis.text(left + share / 2, place, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if left == 0 else "black")
                left += share
            if runs[0][0]["sharded"]:
                early = 100 * by_problem(runs, premature).mean().item()
                axis.text(102, place, f"{early:.0f} % answer early", va="center", fontsize=7)
        axis.set(title=test, xlabel="% of turns: attempts (blue), questions (orange), others (grey)", yticks=range(len(labels)), yticklabels=list(labels), xlim=(0, 100))
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def smooth(values, window):
    """Mean over the last `window` values at each place."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def accuracy_panels(tests):
    """Accuracy within n turns (Fig. 1, 4), a panel for each test."""
    panels = []
    for test, labels in tests.items():
        turns, lines = last_turn(next(iter(labels.values()))), {}
        for label, runs in labels.items():
            lines[label] = (list(range(1, turns + 1)), *(v.tolist() for v in interval(100 * by_problem(runs, within(turns)))))
        panels.append((test, "turns n", "solved within n turns, %", lines))
    return panels


def budget_panels(tests):
    """Solved at equal numbers of student turns and of tokens, teacher's included, and pass@k of first turns alone, for the tests
    of which a label was played several times."""
    panels = []
    for test, labels in tests.items():
        turns = last_turn(next(iter(labels.values())))
        sampled = {label: [c for k in range(1, turns + 1) if (c := pass_curve(runs, k)) is not None] for label, runs in labels.items()}
        if all(len(curves) == 1 for curves in sampled.values()):
            continue
        by_turns, by_tokens = {}, {}
        for label, runs in labels.items():
            rows = [r for _, dialogues, *_ in runs for r in dialogues]
            cost = [sum(spent(r)[min(n, len(r["statuses"])) - 1] for r in rows) / len(rows) for n in range(1, turns + 1)]
            solved = (100 * by_problem(runs, within(turns)).mean(0)).tolist()
            by_turns[label], by_tokens[label] = (list(range(1, turns + 1)), solved, None, None), (cost, solved, None, None)
            if len(sampled[label]) > 1:
                ks, passed = range(1, len(sampled[label]) + 1), [100 * c.mean().item() for c in sampled[label]]
                by_turns[label + PASS] = list(ks), passed, None, None
                by_tokens[label + PASS] = [k * cost[0] for k in ks], passed, None, None
        panels += [(test, "student turns, of one dialogue or of k first turns", "solved, %", by_turns), (test, "tokens, mean a problem", "solved, %", by_tokens)]
    return panels


def loss_panels(tests):
    """Log-loss of the right answer after each teacher turn (Fig. 3), both averages, for the tests where it was measured."""
    panels = []
    for test, labels in tests.items():
        turns = last_turn(next(iter(labels.values())))
        curves = {label: loss_curves(runs, turns) for label, runs in labels.items() if any(losses for _, _, losses, _ in runs)}
        for i, how in enumerate(("solved dialogues keep their last value", "unsolved dialogues only")):
            lines = {label: (list(range(1, turns + 1)), curve[i], None, None) for label, curve in curves.items()}
            if lines:
                panels.append((f"{test}: {how}", "teacher turns heard", "log-loss of the answer, nats a token", lines))
    return panels


def training_panels(training):
    """Questions a dialogue and reward over the steps of RL (Fig. 5), mean of the seeds, over the last ten steps."""
    panels = []
    online = {label: [rows for _, rows in runs] for label, runs in training.items() if runs[0][0]["script"] == "grpo.py"}
    for key, name in (("questions", "questions a dialogue"), ("reward", "reward (discounted)")):
        lines = {}
        for label, seeds in online.items():
            steps = min(len(rows) for rows in seeds)
            values = smooth([sum(rows[i][key] for rows in seeds) / len(seeds) for i in range(steps)], 10)
            lines[label] = (list(range(1, steps + 1)), values, None, None)
        panels.append(("", "GRPO steps", name, lines))
    return panels if online else []


# --------------------------------------------------------------------------------------------------------------------- page

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Dialogues</title><style>
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1250px;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0 1.5rem}#tables{overflow-x:auto}td{white-space:nowrap}td,th{border-bottom:1px solid #ccc;padding:.2rem .6rem;text-align:left}
img{max-width:100%}.controls{display:flex;flex-wrap:wrap;gap:1rem;margin:.8rem 0}.sides{display:grid;grid-template-columns:1fr 1fr;gap:1.2rem}
.turn{display:grid;grid-template-columns:3fr 2fr;gap:.6rem;margin:.35rem 0}.said{padding:.35rem .6rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere}
.teacher{background:#eee}.student{background:#cfe3f7}.private{color:#666;font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere}
#list{height:11rem;width:100%}.correct{color:#064;font-weight:600}</style>
<h1>Dialogues</h1><div id="figures"></div><div id="tables"></div><h2>Read the dialogues</h2>
<p>Blue: the student's turns, the tokens that training uses. Grey: the teacher's. Small print: verdict, and what only the teacher sees.</p>
<div class="controls"><label>test <select id="test"></select></label><label>left <select id="left"></select></label>
<label>right <select id="right"></select></label><label>outcome on the left <select id="outcome"></select></label>
<label>text <input id="text" placeholder="in either dialogue"></label><span id="count"></span></div>
<select id="list" size="8"></select><div class="sides"><div id="l"></div><div id="r"></div></div>
<script type="application/json" id="data">DATA</script><script>
"use strict";const D=JSON.parse(document.getElementById("data").textContent),$=id=>document.getElementById(id);
const put=(at,tag,text,kind)=>{const e=document.createElement(tag);e.textContent=text||"";if(kind)e.className=kind;at.append(e);return e};
const fill=(at,values)=>{at.replaceChildren();for(const v of values)put(at,"option",v).value=v};
for(const [name,picture] of D.figures){put($("figures"),"h2",name);put($("figures"),"img").src=picture}
for(const [name,rows] of D.tables){put($("tables"),"h3",name);const t=put($("tables"),"table");
 rows.forEach((row,i)=>{const tr=put(t,"tr");for(const c of row)put(tr,i?"td":"th",c)})}
const find=(model,id)=>(D.tests[$("test").value][model]||[]).find(d=>d.id===id);
const spoken=d=>d?d.messages.map(m=>m.content).join("\\n"):"";
function choose(){const models=Object.keys(D.tests[$("test").value]);fill($("left"),models);fill($("right"),models);
 $("right").value=models[models.length-1];filter()}
function filter(){const rows=D.tests[$("test").value][$("left").value],text=$("text").value,want=$("outcome").value;
 const kept=rows.filter(d=>(want==="all"||(want==="not solved"?d.solved===null:"solved at turn "+d.solved===want))
  &&(spoken(d)+spoken(find($("right").value,d.id))).includes(text));
 $("list").replaceChildren();for(const d of kept){const o=put($("list"),"option",d.id+"  "+(d.solved===null?"not solved":"solved at turn "+d.solved));o.value=d.id}
 $("count").textContent=kept.length+" of "+rows.length;$("list").selectedIndex=0;show()}
function show(){for(const [at,model] of [[$("l"),$("left").value],[$("r"),$("right").value]]){at.replaceChildren();const d=find(model,$("list").value);
 if(!d)continue;put(at,"h3",model);let n=0;for(const m of d.messages){const row=put(at,"div","","turn");put(row,"div",m.content,"said "+m.role);
  const note=put(row,"div","","private");if(m.role==="student"){put(note,"div",d.statuses[n],d.statuses[n]);put(note,"div","teacher sees: "+d.knowledge[n]);n++}}}}
fill($("test"),Object.keys(D.tests));fill($("outcome"),["all","not solved",...Array.from({length:D.turns},(_,i)=>"solved at turn "+(i+1))]);
$("test").onchange=choose;for(const id of ["left","right","outcome"])$(id).onchange=filter;$("text").oninput=filter;$("list").onchange=show;
if(Object.keys(D.tests).length)choose();
</script></html>"""


FIGURES = {"accuracy.png": "Solved within n turns (Fig. 1, 4, 5, 7, 8)", "budget.png": "At equal numbers of turns and of tokens",
           "losses.png": "Log-loss of the right answer after each teacher turn (Fig. 3)", "training.png": "Questions and reward over RL (Fig. 5)",
           "turns.png": "Types of turns (Fig. 6)"}  # fmt: skip


def page(out, tests, tables, pictures, most):
    """Writes out/page.html: pictures, tables, and the dialogues of `most` problems a test, of each label's first seed."""
    shown = {}
    for test, labels in tests.items():
        for label, runs in labels.items():
            rows = sorted(runs[0][1], key=lambda r: r["id"])[:most]
            shown.setdefault(test, {})[label] = [{k: r[k] for k in ("id", "solved", "messages", "statuses", "knowledge")} for r in rows]
    data = {
        "figures": [(FIGURES[name], "data:image/png;base64," + base64.b64encode((out / name).read_bytes()).decode()) for name in pictures],
        "tables": [(t.splitlines()[0].lstrip("# "), [r.strip("| ").split(" | ") for r in t.splitlines()[2:] if not r.startswith("|---")]) for t in tables],
        "tests": shown,
        "turns": max((d["solved"] or 0 for labels in shown.values() for rows in labels.values() for d in rows), default=0),
    }
    text = json.dumps(data).replace("<", "\\u003c")  # what a model wrote must not end the script element
    write_atomically(out / "page.html", PAGE.replace("DATA", text))


def compare(args):
    """Writes table.md, the pictures and the page of all given runs into the folder args.out, and prints the tables."""
    tests, training = collect(args.runs)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    shown = {test: labels for test, labels in tests.items() if not next(iter(labels.values()))[0][0]["dispute"]}  # until the dispute they are as without
    pictures = {"accuracy.png": accuracy_panels(shown), "budget.png": budget_panels(shown), "losses.png": loss_panels(shown),
                "training.png": training_panels(training)}  # fmt: skip
    pictures = {name: panels for name, panels in pictures.items() if panels}
    labels = sorted({label for test in tests.values() for label in test} | set(training))
    for name, panels in pictures.items():
        draw(out / name, panels, labels)
    if shown:
        draw_turn_types(out / "turns.png", shown)
        pictures["turns.png"] = None
    tables = [overview_table(shown) if shown else None, *(accuracy_table(test, labels, args.against) for test, labels in tests.items()), teachers_table(tests, training),
              judged_table(tests), sizes_table(training) if training else None]  # fmt: skip
    tables = [table for table in tables if table]
    note = "Mean ± half width of the 95 % interval over problems, in percent (that over seeds). Differences are paired problem by problem."
    text = "\n\n".join([*tables, note]) + "\n"
    (out / "table.md").write_text(text)
    page(out, tests, tables, list(pictures), args.dialogues)
    print(f"{text}\nwritten to {out}: table.md, page.html and the pictures {', '.join(pictures)}")


def main():
    parser = arguments(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("play", help="play test dialogues with one model", formatter_class=parser.formatter_class)
    add_arguments(one, turns=10, many=True)
    one.add_argument("--samples", type=int, default=1, help="dialogues of each problem")
    one.add_argument("--sharded", choices=("scripted", "rephrased"), nargs="?", const="scripted",
                     help="the problem comes in pieces, a new one each turn, as written or in the teacher model's words")  # fmt: skip
    one.add_argument("--dispute", action="store_true", help="the teacher disputes the first right answer; does the student keep it?")
    one.add_argument("--losses", type=int, default=0, help="dialogues of each file to measure the answer's log-loss in")
    many = commands.add_parser("compare", help="tables and pictures of several runs", formatter_class=parser.formatter_class)
    many.add_argument("runs", nargs="+", help="run folders of `evaluate.py play`, and of sft.py, qprime.py, grpo.py")
    many.add_argument("--out", required=True, help="folder for table.md and the pictures")
    many.add_argument("--against", default="base", help="label that the others are subtracted from")
    many.add_argument("--dialogues", type=int, default=50, help="problems of each test whose dialogues the page holds")
    third = commands.add_parser("judge", help="let a model label the turns and hints of test runs", formatter_class=parser.formatter_class)
    third.add_argument("runs", nargs="+", help="run folders of `evaluate.py play`")
    third.add_argument("--judge", required=True, help="a folder, a hub name, or an OpenAI-compatible endpoint http://HOST/v1#MODEL")
    third.set_defaults(turns=1)
    add_sampling_arguments(third)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args)
    check_arguments(args)
    {"play": play, "judge": judge}[args.command](args)


if __name__ == "__main__":
    run_script(main)
