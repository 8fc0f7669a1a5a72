"""The numbers of finished runs: accuracy within n turns, intervals, pass@k, log-loss, questions, tokens.

Accuracy within n turns: the share of problems solved at turn n or before. Intervals: 95 %. "±" is a
bootstrap over problems, for the mean of the seeds at hand; a difference of two labels is taken problem by
problem before (paired), as both were tested on the same ones. "seeds ±" is Student's t over the means of
the seeds, or their differences, for the same problems. Tokens: all that stand in the dialogue after the
problem, the teacher's and the template's included. pass@k: of k first turns at least one is right
(unbiased, Chen et al., 2021). Log-loss of the right answer: mean negative log-likelihood of a token of
the answer turn, right after a teacher turn. At later turns only unsolved dialogues are left, so it is
averaged twice: a solved dialogue keeps its last value, or drops out (then the rest is ever harder
problems). Premature: an attempt before all pieces of a sharded problem are out, as a share of those turns.
"""

import functools
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parts.runs import BadInput, read_config, read_jsonl
from parts.sources import SOURCES

KINDS = ("attempt", "question", "other")  # of turns, by rule
# What the judge may say of a turn (Laban et al., 2025), and the kind of turn that this should be by rule.
TYPES = ("answer attempt", "clarification", "interrogation", "discussion", "hedge", "refusal", "missing")
RULE = {"answer attempt": "attempt", "clarification": "question", "interrogation": "question"}  # else "other"


@dataclass
class TestRun:
    """A finished folder of `evaluate.py play`. Runs of one label on one test are its seeds."""

    folder: str
    label: str  # of the model: the name of the run that trained it
    test: str  # its name as shown
    problems: str  # short name of the problem file, the same for all teachers
    teacher: str  # "self": the student itself, without knowledge
    sharded: str | None
    disputed: bool
    turns: int
    settings: dict  # {argument: value} of what changes the result
    dialogues: list  # of Dialogue
    losses: list  # {"id", "solved", "losses": nats a token after each teacher turn}
    judged: list  # {"id", "types", "leaks"}


@dataclass
class TrainingRun:
    """A folder of sft.py, qprime.py or grpo.py."""

    label: str
    script: str
    teacher: str
    played: int  # dialogues
    metrics: list  # rows of metrics.jsonl


def load_training(folder: str) -> TrainingRun:
    """The run of a folder of sft.py, qprime.py or grpo.py. Raises BadInput."""
    args, folder = read_config(Path(folder) / "config.json"), Path(folder)
    logs = [Path(data) / "dialogues.jsonl" for data in args.get("data", [folder])]
    played = sum(log.read_bytes().count(b"\n") for log in logs if log.exists())
    rows = read_jsonl(folder / "metrics.jsonl")
    return TrainingRun(folder.name, args["script"], teacher_name(args), played, rows)


def load_test(folder: str, make: Callable) -> TestRun:
    """The run of a folder of `evaluate.py play`; make(row): its dialogue. Raises BadInput if it is none."""
    args, folder = read_config(Path(folder) / "config.json"), Path(folder)
    if args["script"] != "evaluate.py" or not (folder / "metrics.jsonl").exists():
        told = f"{folder}: is no finished test run"
        raise BadInput(f"{told}; give folders of `evaluate.py play`, or run it again to finish it")
    problems, teacher = short_name(args["problems"]), teacher_name(args)
    how = {"scripted": " (sharded)", "rephrased": f" (sharded, teacher {teacher})"}
    test = problems + how.get(args["sharded"], f", teacher {teacher}") + " (disputed)" * args["dispute"]
    played = {"sharded": args["sharded"], "disputed": args["dispute"], "turns": args["turns"]}
    names = ("model", "seed", "max_tokens", "temperature", "teacher_temperature", "answers")
    contents = {name: args.get(f"content of {args[name]}") for name in ("problems", "prompts")}
    turns = {} if args["sharded"] else {"turns": args["turns"]}  # there the problems have their own
    played["settings"] = {name: args[name] for name in names} | contents | turns
    played["dialogues"] = [make(row) for row in read_jsonl(folder / "dialogues.jsonl")]
    played["losses"] = read_jsonl(folder / "losses.jsonl")
    played["judged"] = read_jsonl(folder / "judged" / "judged.jsonl")
    return TestRun(str(folder), last_part(args["model"]), test, problems, teacher, **played)


def check_comparable(tests: list[TestRun], against: str) -> None:
    """Raises BadInput if runs of a test differ in what they were played on or how, if one is there twice with
    the same seed, or if nothing has the label of `against`."""
    seeds = {}
    for test in tests:
        seed = test.test, *(test.settings[name] for name in ("model", "seed"))
        if seed in seeds:
            raise BadInput(f"{seeds[seed]} and {test.folder}: same model, test and seed; give one of them")
        seeds[seed] = test.folder
        first = next(other for other in tests if other.test == test.test)
        if {d.problem for d in test.dialogues} != {d.problem for d in first.dialogues}:
            raise BadInput(f"{test.folder} and {first.folder} were played on different problems")
        for name in test.settings.keys() - {"model", "seed"}:
            if test.settings[name] != first.settings[name]:
                option = f"--{name.replace('_', '-')}"
                told = (
                    f"{test.folder} has {option} {test.settings[name]}, {first.folder} {first.settings[name]}"
                )
                raise BadInput(f"{told}; play both with the same {option}")
    labels = dict.fromkeys(test.label for test in tests)
    if against not in (*labels, "base"):
        raise BadInput(f"--against {against}: no test run has this label; there are {', '.join(labels)}")


def short_name(source: str) -> str:
    """A short name of a problem file or data set, fit for a folder."""
    name = source.partition(":")[0]
    return name.replace("/", "-") if name in SOURCES else Path(source).stem


def last_part(name: str) -> str:
    """Short name of a model: of its run's folder, of the hub, or behind an endpoint's #."""
    return re.split("[/#]", name.rstrip("/").removesuffix("/model"))[-1]


def teacher_name(args: dict) -> str:
    """Short name of the model that taught with private knowledge, or "critic" or "self"."""
    own = args.get("teacher") in (None, "informed")
    return last_part(args["model"] if own else args["teacher"])


def summary(dialogues: list, turns: int) -> dict[str, float]:
    """Counts over dialogues that every stage reports."""
    n, turns_said = len(dialogues), sum(d.turns for d in dialogues)
    spoken = max(1, turns_said)
    # the teacher's first message is the problem
    hints = sum(len(d.messages) - d.turns - 1 for d in dialogues)
    status = Counter(s for d in dialogues for s in d.statuses)
    again = [a == b for d in dialogues for a, b in itertools.pairwise(d.said)]
    solved = [d.solved for d in dialogues if d.solved is not None]
    return {
        **{f"solved_{t}": sum(turn <= t for turn in solved) / n for t in range(1, turns + 1)},
        "turns": turns_said / n,
        "questions": sum(d.kinds.count("question") for d in dialogues) / n,
        "cut": sum(d.finishes.count("length") for d in dialogues) / spoken,
        "no_attempt": status["no attempt"] / spoken,
        "undecided": status["undecided"] / spoken,
        "failures": (status["error"] + status["timeout"]) / spoken,
        "outgrown": sum(d.outgrown for d in dialogues) / n,
        "leaks": sum(d.leaks for d in dialogues) / max(1, hints),
        "repeats": sum(again) / max(1, len(again)),
    }


def line(counts: dict[str, float]) -> str:
    """Counts for the terminal."""
    solved = [value for name, value in counts.items() if name.startswith("solved_")]
    others = [f"{name} {value:.3f}" for name, value in counts.items() if not name.startswith("solved_")]
    told = f"solved {solved[0]:.2f} within 1 turn"
    if len(solved) > 1:
        told = f"solved {solved[0]:.2f} → {solved[-1]:.2f} within 1 → {len(solved)} turns"
    return ", ".join([told, *others])


def trend(rows: list[dict], key: str) -> str:
    """What training changed: a metric's mean in the first ten steps and in the last ten, or in each half."""
    some = max(1, min(10, len(rows) // 2))
    first, last = (sum(row[key] for row in part) / some for part in (rows[:some], rows[-some:]))
    return f"{first:.2f} → {last:.2f} from the first to the last {some} of {len(rows)} steps"


def spent(dialogue) -> list[int]:
    """Tokens through each student turn, from the first one on: of both sides and of the template."""
    spans = dialogue.spans or [(0, 0)]  # a problem may fill the context
    return [end - spans[0][0] for _, end in spans]


def values(dialogue, turns: int, budget: int, sharded: bool = False) -> dict[str, float]:
    """What is averaged over the dialogues of a problem. budget: a number of tokens."""
    tokens, solved, kinds = spent(dialogue), dialogue.solved, dialogue.kinds
    found = {f"within {n}": float(solved is not None and solved <= n) for n in range(1, turns + 1)}
    found |= {"turns": float(len(kinds))} | {kind: float(kinds.count(kind)) for kind in KINDS}
    found |= {f"tokens {n}": float(tokens[min(n, len(tokens)) - 1]) for n in range(1, turns + 1)}
    found["in budget"] = float(solved is not None and tokens[solved - 1] <= budget)
    if sharded:  # all pieces are out at the last turn alone
        early = kinds[: dialogue.limit - 1]
        found["premature"] = early.count("attempt") / max(1, len(early))
        found["answered early"] = float("attempt" in early)
    return found


def means_of(pairs: Iterable) -> Tensor:
    """float64 [problems, n]: means of what each problem has, by problem id. pairs: (id, its n numbers)."""
    found = defaultdict(list)
    for problem, numbers in pairs:
        found[problem].append(numbers)
    return torch.stack([torch.tensor(found[key], dtype=torch.float64).mean(0) for key in sorted(found)])


def by_problem(runs: list[TestRun], value: Callable) -> Tensor:
    """float64 [problems, n]: the n numbers of value(dialogue), mean over seeds and samples, by problem id."""
    return means_of((d.problem, list(value(d).values())) for run in runs for d in run.dialogues)


def interval(x: Tensor, resamples: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, low, high), each [n]: percentile bootstrap over problems, 95 %. x: float64 [problems, n]."""
    picks = torch.randint(len(x), (resamples, len(x)), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(resamples, len(x), dtype=x.dtype)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=x.dtype))
    means = counts @ x / len(x)  # whole counts: sums of solved problems are exact, on any machine
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=x.dtype), dim=0)
    return x.mean(0), low, high


# 97.5 % quantiles for 1 … 9 degrees of freedom
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def seed_interval(means: Tensor) -> Tensor:
    """Half width of the mean's 95 % interval over 2 to 10 seeds (Student's t). means: float64 [seeds, n]."""
    n = len(means)
    return STUDENT_T[n - 2] * means.std(0, correction=1) / n**0.5


def estimates(names: Iterable, x: Tensor, seeds: list[Tensor] = ()) -> dict:
    """{name: {"mean", "low", "high"}} of the columns of x; with the means of 2 to 10 seeds also "seeds"."""
    found = dict(zip(("mean", "low", "high"), interval(x)))
    if 1 < len(seeds) <= 10:
        found["seeds"] = seed_interval(torch.stack(seeds))
    columns = zip(*(numbers.tolist() for numbers in found.values()))
    return {name: dict(zip(found, column)) for name, column in zip(names, columns)}


def pass_at(k: int, n: int, right: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, of n samples of which `right` are."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def pass_curves(runs: list[TestRun]) -> Tensor:
    """float64 [problems, k]: pass@1, 2, … of first turns, mean over runs, as far as all were sampled."""
    curves = []
    for run in runs:
        first = defaultdict(list)
        for dialogue in run.dialogues:
            first[dialogue.problem].append(dialogue.solved == 1)
        counts = [(len(first[problem]), sum(first[problem])) for problem in sorted(first)]
        curves.append([[pass_at(k, n, right) for k in range(1, min(counts)[0] + 1)] for n, right in counts])
    least = min(len(curve[0]) for curve in curves)
    return torch.stack([torch.tensor(curve, dtype=torch.float64)[:, :least] for curve in curves]).mean(0)


def loss_curves(runs: list[TestRun], turns: int) -> tuple[list, list]:
    """Mean log-loss of the answer after teacher turns 1…N: solved dialogues keep their last; drop out."""
    rows = [row["losses"] for run in runs for row in run.losses]
    kept = [sum(r[min(t, len(r) - 1)] for r in rows) / len(rows) for t in range(turns)]
    left = [[r[t] for r in rows if t < len(r)] for t in range(turns)]
    return kept, [sum(r) / len(r) if r else None for r in left]


def loss_change(runs: list[TestRun]) -> dict[str, float]:
    """{"mean", "low", "high"}: by how much the log-loss rises from the first to the last teacher turn."""
    problem_of = {d.id: d.problem for run in runs for d in run.dialogues}
    rows = [row for run in runs for row in run.losses]
    x = means_of((problem_of[row["id"]], [row["losses"][-1] - row["losses"][0]]) for row in rows)
    return estimates(["change"], x)["change"]


def judgement(runs: list[TestRun]) -> dict[str, float | None]:
    """Shares of the judge's labels, of those that agree with the rules, of hints that tell the answer."""
    pairs, hints = [], []
    for run in runs:
        judged = {row["id"]: row for row in run.judged}
        for dialogue in (d for d in run.dialogues if d.id in judged):
            pairs += zip(dialogue.kinds, judged[dialogue.id]["types"])
            hints += judged[dialogue.id]["leaks"]
    found = {name: [label == name for _, label in pairs] for name in TYPES}
    found["no label"] = [label is None for _, label in pairs]
    found["agreement with the rules"] = [kind == RULE.get(label, "other") for kind, label in pairs if label]
    found["hints that give the answer away"] = [hint for hint in hints if hint is not None]
    return {name: sum(told) / len(told) if told else None for name, told in found.items()}


def percent(share: float | None, unit: str = "") -> str:
    """A share in percent."""
    return "–" if share is None else f"{100 * share:.1f}{unit}"


def judged_shares(run: TestRun) -> dict[str, str]:
    """What the judge said of one run, for the terminal."""
    return {name: percent(share, " %") for name, share in judgement([run]).items()}


def measure(labels: dict[str, list[TestRun]], against: str) -> dict:
    """All numbers of one test: its settings, and under "arms" those of each label.

    labels: {label: its seeds}; against: the label that the others are compared with, if it is there.
    """
    first = next(iter(labels.values()))
    run, turns = first[0], max(d.limit for d in first[0].dialogues)  # of sharded problems that of the longest
    costs = [spent(d)[:4][-1] for other in labels.get(against, first) for d in other.dialogues]
    budget = round(sum(costs) / len(costs))  # tokens: what four turns cost the label compared with
    value = functools.partial(values, turns=turns, budget=budget, sharded=bool(run.sharded))
    names, means = list(value(run.dialogues[0])), {x: by_problem(runs, value) for x, runs in labels.items()}
    settings = {key: getattr(run, key) for key in ("problems", "teacher", "sharded", "disputed")}
    settings |= {"size": len(means[run.label]), "turns": turns, "budget": budget, "against": against}
    arms, seeds = {}, {x: [by_problem([run], value).mean(0) for run in runs] for x, runs in labels.items()}
    for label, runs in labels.items():
        arms[label] = estimates(names, means[label], seeds[label]) | measure_arm(runs, turns)
        if against in labels and label != against:
            own, other = seeds[label], seeds[against]
            other = (
                other * len(own) if len(other) == 1 else other
            )  # a base has one, models trained from it more
            apart = [a - b for a, b in zip(own, other)] if len(own) == len(other) else []
            arms[label]["gain"] = estimates(names, means[label] - means[against], apart)
    return settings | {"arms": arms}


def measure_arm(runs: list[TestRun], turns: int) -> dict:
    """The numbers of one label that are no mean over problems, or need more than the dialogues."""
    dialogues = [d for run in runs for d in run.dialogues]
    right, curves = [d for d in dialogues if d.solved], pass_curves(runs)
    found = {"runs": [run.folder for run in runs], "dialogues": len(dialogues), "solved": len(right)}
    found |= {"counts": summary(dialogues, turns), "pass": estimates(range(1, curves.shape[1] + 1), curves)}
    if right:
        found["tokens a solved"] = sum(spent(d)[-1] for d in dialogues) / len(right)
    replied = [d for d in right if d.turns > d.solved]  # to the dispute; others had no room for it
    if runs[0].disputed and replied:
        shown = "correct", "no attempt"
        x = means_of((d.problem, [float(d.statuses[-1] == status) for status in shown]) for d in replied)
        found |= {"dispute": estimates(("kept", "no attempt"), x), "replies": len(replied)}
    if losses := sum(len(run.losses) for run in runs):
        kept, left = loss_curves(runs, turns)
        found["log-loss"] = {"solved keep": kept, "unsolved only": left, "dialogues": losses}
        found["log-loss"]["change"] = loss_change(runs)
    if all(len(run.judged) == len(run.dialogues) for run in runs):
        found["judge"] = judgement(runs)
    return found


def training(seeds: list[TrainingRun]) -> dict:
    """What a label's training played and learned from, mean of its seeds; of RL its curves too."""
    first, rows, n = seeds[0], [run.metrics for run in seeds], len(seeds)
    found = {"script": first.script, "teacher": first.teacher, "seeds": n, "steps": min(map(len, rows))}
    found["played"] = sum(run.played for run in seeds) / n
    found["tokens"] = sum(row["tokens"] for run in seeds for row in run.metrics) / n
    for key in ("questions", "reward") if first.script == "grpo.py" else ():
        found[key] = [sum(row[key] for row in step) / n for step in zip(*rows)]
    return found
