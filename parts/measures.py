"""Not part of the method: the counts that every stage logs, and the numbers that the report shows.

- Accuracy within n turns: the share of problems that are solved at turn n or before.
- "±": half the 95 % interval of the mean, with seeds and problems both taken as random (`interval`). With one
  seed, only problems vary, so "±" says nothing about how much seeds of training differ. In brackets: half the
  interval over problems alone, for the seeds at hand. Near 0 and 100 %, the interval is written as a range.
- Difference of two labels: taken problem by problem and seed by seed (paired), as both met the same problems.
- Tokens: all tokens of the dialogue after the problem, including those of the teacher and the template.
- pass@k: the chance that at least one of k first turns is right (unbiased estimate, Chen et al., 2021).
- Log-loss of the right answer: mean negative log-likelihood per token of a turn that states the answer, from
  behind its opening (\\boxed{ or ```python), measured after each teacher turn. Later turns exist only for
  unsolved dialogues, so there are two averages: solved dialogues keep their last value, or are dropped (then
  only the hard problems remain).
- Premature: the share of attempts among the turns of a dialogue before the last shard.
"""

import functools
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch
from torch import Tensor

from parts.runs import BadInput, read_config, read_jsonl, read_whole_config
from parts.sources import SOURCES

KINDS = ("attempt", "question", "other")  # of student turns, by rule (Dialogue.kinds)
# The judge's types of student turns (Laban et al., 2025), and the kind that each has by rule (else "other")
TYPES = ("answer attempt", "clarification", "interrogation", "discussion", "hedge", "refusal", "missing")
KIND_OF_TYPE = {"answer attempt": "attempt", "clarification": "question", "interrogation": "question"}


@dataclass
class TestRun:
    """A finished folder of `evaluate.py play`. Several runs with the same label and test are its seeds."""

    folder: str
    label: str  # of the model: the name of the run that trained it
    test: str  # its name in the report
    problems: str  # short name of the problem file, the same for all teachers
    teacher: str  # its name in the report
    informed: bool  # whether the teacher has private knowledge, as in the papers
    sharded: str | None
    disputed: bool
    single_turn: bool  # whether the student sees the whole problem and nobody answers it
    turns: int
    settings: dict  # {argument: value}; but for model and seed, equal in all runs that are compared
    dialogues: list  # of Dialogue
    losses: list  # {"id", "solved", "losses": nats a token after each teacher turn}
    judged: list  # {"id", "types", "leaks"}
    config: dict = field(default_factory=dict)  # config.json
    prompts_name: str = ""  # name of its prompts file, if `name_prompts` has added it to the label
    trained_on: dict | None = None  # see `trained_on`


@dataclass
class TrainingRun:
    """A folder of sft.py, qprime.py or grpo.py."""

    label: str
    script: str
    teacher: str
    played: int  # dialogues
    metrics: list  # rows of metrics.jsonl
    logged: list = field(default_factory=list)  # of grpo.py's first, middle, last step: (row, its Dialogue)
    folder: str = ""
    config: dict = field(default_factory=dict)  # config.json
    trained_on: dict | None = None  # see `trained_on`


def load_training(folder: str, make_dialogue: Callable) -> TrainingRun:
    """The run in a folder of sft.py, qprime.py or grpo.py. make_dialogue: a row of its log → Dialogue.

    Raises BadInput.
    """
    path = Path(folder)
    config = read_whole_config(path / "config.json")
    args = config["arguments"]
    logs = [Path(data) / "dialogues.jsonl" for data in args.get("data", [path])]
    played = sum(log.read_bytes().count(b"\n") for log in logs if log.exists())
    metrics, logged, log = read_jsonl(path / "metrics.jsonl"), [], path / "dialogues.jsonl"
    if args["script"] == "grpo.py" and metrics and log.exists():
        steps = {metrics[i]["step"] for i in (0, len(metrics) // 2, -1)}
        starts = tuple(f'{{"step": {step}, ' for step in steps)  # the log may be too large to parse all of it
        with log.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.startswith(starts)]
        logged = [(row, make_dialogue(row)) for row in rows]
    learned = trained_on(str(path / "model"))
    return TrainingRun(
        path.name, args["script"], teacher_name(args), played, metrics, logged, str(path), config, learned
    )


def load_test(folder: str, make_dialogue: Callable) -> TestRun:
    """The run in a folder of `evaluate.py play`. make_dialogue: a row of its log → Dialogue.

    Raises BadInput if the folder holds another kind of run, or an unfinished one.
    """
    path = Path(folder)
    config = read_whole_config(path / "config.json")
    args = config["arguments"]
    if args.get("command") != "play" or not (path / "metrics.jsonl").exists():
        raise BadInput(
            f"{path} is not a finished test run; "
            "give folders of `evaluate.py play`, or repeat that command to finish it"
        )
    problems, teacher = short_name(args["problems"]), teacher_name(args)
    variants = {
        "scripted": " (sharded)",
        "rephrased": f" (sharded, teacher {teacher})",
        "chosen": f" (sharded, shards chosen by {teacher})",
    }
    single_turn = args["turns"] == 1 and not (args["sharded"] or args["dispute"])
    variant = " (single turn)" if single_turn else variants.get(args["sharded"], f", teacher {teacher}")
    names = ("model", "seed", "max_tokens", "temperature", "teacher_temperature", "answers", "dispute")
    settings = {name: args[name] for name in names}
    settings |= {name: args.get(f"content of {args[name]}") for name in ("problems", "prompts")}
    if not args["sharded"]:  # a sharded problem has as many turns as shards
        settings["turns"] = args["turns"]
    return TestRun(
        folder=str(path),
        label=last_part(args["model"]),
        test=problems + variant + " (disputed)" * bool(args["dispute"]),
        problems=problems,
        teacher=teacher,
        informed=args["teacher"] == "informed",
        sharded=args["sharded"],
        disputed=bool(args["dispute"]),
        single_turn=single_turn,
        turns=args["turns"],
        settings=settings,
        dialogues=[make_dialogue(row) for row in read_jsonl(path / "dialogues.jsonl")],
        losses=read_jsonl(path / "losses.jsonl"),
        judged=read_jsonl(path / "judged" / "judged.jsonl"),
        config=config,
        trained_on=trained_on(args["model"]) or (UNKNOWN if "model's script" in args else None),
    )


UNKNOWN = {"domains": [], "turns": 0}


@functools.cache
def trained_on(model: str) -> dict | None:
    """{"domains", "turns": N} of all dialogues that a model was trained on; UNKNOWN if a log is missing.

    Reads the logs of the model's run, or of its --data, and those of the run that trained its initial model.
    None if no run of the kit trained the model.
    """
    if not recipe(model):
        return None
    run = Path(model).parent
    args = read_config(run / "config.json")
    before = trained_on(args["model"])
    logs = [Path(folder) / "dialogues.jsonl" for folder in args.get("data", [run])]
    if before == UNKNOWN or not all(log.is_file() for log in logs):
        return UNKNOWN
    found = set()
    for log in logs:  # matches only keys of a row: inside a message, quotes are escaped
        found |= set(re.findall(rb'"domain": "(\w+)", "limit": (\d+)', log.read_bytes()))
    domains = {domain.decode() for domain, _ in found} | set(before["domains"] if before else ())
    turns = [int(limit) for _, limit in found] + [before["turns"] if before else 0]
    return {"domains": sorted(domains), "turns": max(turns)}


def domain_of(runs: list[TestRun]) -> str:
    """The domain of a test's problems; "" if they have several."""
    domains = {d.domain for run in runs for d in run.dialogues}
    return domains.pop() if len(domains) == 1 else ""


def trained_here(runs: list[TestRun]) -> bool | None:
    """Whether a test's models were trained on its domain; None if unknown, or if their domains differ."""
    trained = {tuple(run.trained_on["domains"]) for run in runs if run.trained_on}
    if len(trained) != 1 or () in trained or not domain_of(runs):
        return None
    return domain_of(runs) in trained.pop()


def recipe(model: str) -> dict:
    """What a model was trained with: the arguments of its run, by name; {} if no run of the kit trained it.

    Without the seed, and with models and data named without their folders, so that all seeds have one recipe.
    """
    file = Path(model).parent / "config.json"
    if Path(model).name != "model" or not file.is_file():
        return {}
    args = read_config(file)
    args = {n: v for n, v in args.items() if n not in ("seed", "out") and "dialogues.jsonl" not in n}
    for name in ("model", "teacher_model", "data"):
        value = args.get(name)
        args[name] = [*map(last_part, value)] if isinstance(value, list) else value and last_part(value)
    return {f"model's {name}": value for name, value in args.items()}


def check_labels(tests: list[TestRun], training: list[TrainingRun]) -> None:
    """Raises BadInput if runs with the same label are not seeds of one model, but models of the same name."""
    first = {}
    for run in [*training, *tests]:
        args = run.config["arguments"]
        if isinstance(run, TestRun):
            known = {name: value for name, value in args.items() if name.startswith("model's ")}
            known = known or {"model": same_path(args["model"])}
        else:
            known = recipe(f"{run.folder}/model")
        other, expected = first.setdefault(run.label, (run.folder, known))
        for name in sorted(known.keys() | expected.keys()):
            if known.get(name) != expected.get(name):
                values = f"{name} {expected.get(name)!r} and {known.get(name)!r}"
                raise BadInput(
                    f"{other} and {run.folder} have the label {run.label}, but are not seeds of one model: "
                    f"{values}; compare them in two reports, or train one in a folder of another name"
                )


def same_path(model: str) -> str:
    """A model's path in one spelling; a hub name or address as it is."""
    return str(Path(model).resolve()) if Path(model).exists() else model.rstrip("/")


def name_prompts(tests: list[TestRun]) -> None:
    """Adds the name of a run's prompts file to its label, if most runs had other prompts.

    It does so only if the same model took the same test with the usual prompts, too. Then the run is a
    control, such as a base model that is told how to behave, and gets a row of its own. Any other mixture of
    prompts is left for `check_comparable` to refuse.
    """
    (usual, _), *_ = Counter(run.settings.get("prompts") for run in tests).most_common() or [(None, 0)]
    plain = {(run.test, run.label) for run in tests if run.settings.get("prompts") == usual}
    for run in tests:
        if run.settings.get("prompts") != usual and (run.test, run.label) in plain:
            file = run.config["arguments"]["prompts"]
            run.prompts_name = Path(file).stem if file else "default prompts"
            run.label += f" ({run.prompts_name})"


def teachers_differ(run: TestRun, other: TestRun) -> bool:
    """Whether two runs of a test had teachers of different models; not if each model taught itself."""
    if run.sharded == "scripted" or run.single_turn:
        return False
    pairs = []  # (student's path, teacher's path)
    for args in (run.config.get("arguments", {}), other.config.get("arguments", {})):
        model = args.get("model", "")
        pairs.append((same_path(model), same_path(args.get("teacher_model") or model)))
    return pairs[0][1] != pairs[1][1] and any(student != teacher for student, teacher in pairs)


def check_comparable(tests: list[TestRun], against: str) -> None:
    """Raises BadInput if two runs of a test differ in a setting or in their problems, if two are the same
    seed of the same model, or if no run has the label `against`."""
    folders = {}
    for run in tests:
        key = run.test, run.prompts_name, run.settings["model"], run.settings["seed"]
        if key in folders:
            raise BadInput(f"{folders[key]} and {run.folder}: same model, test and seed; give one of them")
        folders[key] = run.folder
        first = next(other for other in tests if other.test == run.test)
        if {d.problem for d in run.dialogues} != {d.problem for d in first.dialogues}:
            raise BadInput(f"{run.folder} and {first.folder} were played on different problems")
        if teachers_differ(run, first):
            reason = f"were taught by different models of the name {run.teacher}"
            raise BadInput(
                f"{run.folder} and {first.folder} {reason}; play both with the same --teacher-model"
            )
        same_prompts = next(
            other for other in tests if (other.test, other.prompts_name) == (run.test, run.prompts_name)
        )
        for name in run.settings.keys() - {"model", "seed"}:
            other = same_prompts if name == "prompts" else first
            value, expected = run.settings[name], other.settings[name]
            if value != expected:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(
                    f"{run.folder} has {option} {value}, {other.folder} {expected}; "
                    f"play both with the same {option}"
                )
    labels = dict.fromkeys(run.label for run in tests)
    if against not in (*labels, "base"):
        raise BadInput(f"--against {against}: no test run has this label; there are {', '.join(labels)}")


def short_name(source: str) -> str:
    """A short name of a problem file or data set that can name a folder."""
    name = source.partition(":")[0]
    return name.replace("/", "-") if name in SOURCES else Path(source).stem


def last_part(name: str) -> str:
    """Short name of a model: the folder of its run, its name on the hub, or an endpoint's MODEL after "#"."""
    return re.split("[/#]", name.rstrip("/").removesuffix("/model"))[-1]


def teacher_name(args: dict) -> str:
    """The teacher's name in the report: MODEL for the informed teacher, else NAME or "NAME by MODEL"."""
    name, model = args.get("teacher", "informed"), args.get("teacher_model")  # sft.py has no teacher
    if name == "informed":
        return last_part(model or args["model"])
    return f"{name} by {last_part(model)}" if model else name


def summary(dialogues: list, turns: int) -> dict[str, float]:
    """Counts over dialogues that every stage logs.

    Shares of the dialogues: solved_n (by turn n), outgrown (the next turn did not fit into the context),
    refused (by the teacher's server or template), after_leak (solved after a hint that held the answer),
    not_kept (the student did not repeat a right answer that was disputed). Numbers per dialogue: turns,
    questions. Shares of the hints: leaks (those that hold the answer), empty_hints. repeats: of the turns
    after the first, the share that equal the turn before. All others are shares of the student turns.
    """
    n, student_turns = len(dialogues), sum(d.turns for d in dialogues)
    per_turn = max(1, student_turns)
    hints = [hint for d in dialogues for hint in d.hints]
    status = Counter(s for d in dialogues for s in d.statuses)
    repeats = [a == b for d in dialogues for a, b in itertools.pairwise(d.said)]
    solved = [d.solved for d in dialogues if d.solved is not None]
    return {
        **{f"solved_{t}": sum(turn <= t for turn in solved) / n for t in range(1, turns + 1)},
        "turns": student_turns / n,
        "questions": sum(d.kinds.count("question") for d in dialogues) / n,
        "cut": sum(d.finishes.count("length") for d in dialogues) / per_turn,
        "no_attempt": status["no attempt"] / per_turn,
        "undecided": status["undecided"] / per_turn,
        "failures": (status["error"] + status["timeout"]) / per_turn,
        "outgrown": sum(d.outgrown for d in dialogues) / n,
        "refused": sum(d.refused for d in dialogues) / n,
        "leaks": sum(len(d.leaks) for d in dialogues) / max(1, len(hints)),
        "after_leak": sum(bool(d.leaks and d.solved) for d in dialogues) / n,
        "not_kept": sum(bool(d.solved and not d.succeeded) for d in dialogues) / n,
        "empty_hints": sum(not hint.strip() for hint in hints) / max(1, len(hints)),
        "repeats": sum(repeats) / max(1, len(repeats)),
    }


def line(counts: dict[str, float]) -> str:
    """The counts of `summary` as a line for the terminal, with the causes if nothing was solved.

    Another line follows if almost all hints were empty.
    """
    solved = [value for name, value in counts.items() if name.startswith("solved_")]
    others = [
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.3f}"
        for name, value in counts.items()
        if not name.startswith("solved_")
    ]
    start = f"solved {solved[0]:.2f} within 1 turn"
    if len(solved) > 1:
        start = f"solved {solved[0]:.2f} → {solved[-1]:.2f} within 1 → {len(solved)} turns"
    text = ", ".join([start, *others])
    text = text if solved[-1] else f"{text}. Nothing was solved: {causes(counts)}"
    return text + empty_hints_note(counts)


def empty_hints_note(counts: dict[str, float]) -> str:
    """A further line for the terminal if almost all hints were empty; else an empty text."""
    if counts["empty_hints"] < 0.8:
        return ""
    why = "a reasoning model says nothing if the token limit ends its reasoning"
    return f"\nnote: {counts['empty_hints']:.0%} of the hints were empty ({why}); {FOR_EMPTY_HINTS}"


FOR_EMPTY_HINTS = "raise --max-tokens, switch the teacher's reasoning off, or change --teacher-model"
# What may keep a model from solving anything: a count of `summary`, what it is a share of, what to change.
CAUSES = (
    ("cut", "of the turns were cut off by the token limit", "raise --max-tokens"),
    ("no_attempt", "of the turns held no answer to grade", "let the prompts ask for its form, see --prompts"),
    ("undecided", "of the turns had an answer that could not be judged", "check the answers of --problems"),
    ("failures", "of the turns held a program that crashed or ran too long", "read some in dialogues.jsonl"),
    ("outgrown", "of the dialogues outgrew the context", "lower --turns or --max-tokens"),
    ("refused", "of the dialogues were refused by the teacher's server or template", "read the notes above"),
    ("empty_hints", "of the hints were empty", FOR_EMPTY_HINTS),
)


def causes(counts: dict[str, float]) -> str:
    """Why so little was solved, from the counts of `summary`, and what to change: one line."""
    solved = [value for name, value in counts.items() if name.startswith("solved_")]
    if solved[0] > 0.5:
        return f"{solved[0]:.0%} of the dialogues were solved at the first turn (use harder problems)"
    lines = [
        f"{counts[name]:.0%} {what} ({advice})" for name, what, advice in CAUSES if counts.get(name, 0) > 0.2
    ]
    advice = "(use easier problems, or a larger model)"
    return "; ".join(lines) or f"only {solved[-1]:.0%} of the dialogues were solved {advice}"


def mean_counts(rows: list[dict]) -> dict[str, float]:
    """The means of the numbers that all rows of metrics.jsonl have."""
    names = [name for name, value in rows[0].items() if isinstance(value, int | float)]
    names = [name for name in names if all(name in row for row in rows)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def why_stalled(rows: list[dict]) -> str | None:
    """Why the last steps of GRPO taught little, as a line for the terminal. rows: of metrics.jsonl.

    A step teaches little if most of its groups have equal rewards. None if the last step is not such a step.
    So that the log stays short, also None at most other steps: the line comes after a first step that taught
    nothing, and after the 3rd, 6th, 12th, … step in a row that taught little.
    """
    streak = list(itertools.takewhile(lambda row: row["equal_groups"] > 0.5, reversed(rows)))
    n = len(streak)
    nothing_at_first = len(rows) == 1 and n and not rows[0]["trained_tokens"]
    if not nothing_at_first and n not in (3 * 2**k for k in range(20)):
        return None
    return f"step {rows[-1]['step']}, why little is learned: {equal_rewards_note(streak)}"


def equal_rewards_note(rows: list[dict]) -> str:
    """How many groups had equal rewards in these steps of GRPO; if most had, also why."""
    counts = mean_counts(rows)
    text = f"rewards were equal in {counts['equal_groups']:.0%} of the groups"
    return f"{text}, which teach nothing: {causes(counts)}" if counts["equal_groups"] > 0.5 else text


def trend(rows: list[dict], key: str) -> str:
    """How training changed a metric: its mean over the first and the last ten steps, or over each half."""
    n = max(1, min(10, len(rows) // 2))
    first, last = (sum(row[key] for row in part) / n for part in (rows[:n], rows[-n:]))
    return f"{first:.2f} → {last:.2f} from the first to the last {n} of {len(rows)} steps"


# --------------------------------------------------------------------------------------- statistics


def problem_means(pairs: Iterable) -> Tensor:
    """float64 [problems, n]: each problem's mean, sorted by id. pairs: (problem id, its n numbers)."""
    rows = defaultdict(list)
    for problem, numbers in pairs:
        rows[problem].append(numbers)
    return torch.stack([torch.tensor(rows[problem], dtype=torch.float64).mean(0) for problem in sorted(rows)])


def by_problem(runs: list[TestRun], numbers: Callable) -> Tensor:
    """float64 [problems, n]: each problem's mean of the n values of numbers(dialogue), a dict."""
    return problem_means((d.problem, list(numbers(d).values())) for run in runs for d in run.dialogues)


# 97.5 % quantiles of Student's t for 1 … 10 degrees of freedom, and of the normal distribution
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.96


def interval(x: Tensor, shares: Tensor | bool = False, paired: bool = False) -> tuple[Tensor, ...]:
    """(mean, low, high, alone), each [n]: means with 95 % intervals over seeds and problems.

    x: float64 [seeds, problems, n]. With one seed, only problems vary. alone: half the interval over problems
    alone, for these seeds. shares: [n], the columns that hold shares; they get Wilson's interval. paired: x
    holds differences of shares; their variance is taken as if one more problem differed (Agresti and Min,
    2005). Because of these two rules, an interval has a width even where all values are equal.

    The variances over seeds and over problems are added. Both contain the noise of single values, so that is
    subtracted once. The degrees of freedom are Satterthwaite's. In 2,000 simulations with 500 problems and
    three seeds, whose standard deviation was 4 points, this interval covered the true mean in 94 % of the
    cases, an interval over problems alone in 70 %, and a bootstrap over seeds and problems in 91 %. At a
    standard deviation of 10 points, they covered it in 95, 36 and 81 %. The bootstrap falls short because
    three seeds, resampled, vary too little.
    """
    seeds, problems, _ = x.shape
    mean, problem_means, seed_means = x.mean((0, 1)), x.mean(0), x.mean(1)
    over_problems = (problem_means.var(0, correction=int(problems > 1)) + paired / problems) / problems
    over_seeds = seed_means.var(0, correction=int(seeds > 1)) / seeds  # 0 with one seed
    residuals = (x - problem_means - seed_means[:, None] + mean).square().mean((0, 1))
    noise = residuals / max(1, (seeds - 1) * (problems - 1))
    variance = torch.maximum(over_problems + over_seeds - noise, torch.maximum(over_problems, over_seeds))
    inverse_freedom = sum(
        (part / variance).nan_to_num().square() / max(1, n - 1)
        for part, n in ((over_problems, problems), (over_seeds, seeds))
    )
    t = student_t(inverse_freedom)
    half = t * variance.sqrt()
    # How many independent draws would have this variance? If all values are equal: one draw per problem.
    draws = torch.where(variance > 1e-12, mean * (1 - mean) / variance, problems)
    low, high = (
        torch.where(torch.as_tensor(shares), *bounds)
        for bounds in zip(wilson(mean, draws, t), (mean - half, mean + half))
    )
    return mean, low, high, NORMAL * over_problems.sqrt()


def student_t(inverse_freedom: Tensor) -> Tensor:
    """97.5 % quantiles of Student's t for 1 / (degrees of freedom), which need not be whole numbers."""
    steps = [0, *(1 / n for n in range(len(STUDENT_T), 0, -1))]
    return torch.from_numpy(numpy.interp(inverse_freedom, steps, [NORMAL, *reversed(STUDENT_T)]))


def wilson(mean: Tensor, draws: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(low, high) of Wilson's interval of a share: it stays within 0–1, and is right near both."""
    center = (mean + t**2 / (2 * draws)) / (1 + t**2 / draws)
    half = t / (1 + t**2 / draws) * (mean * (1 - mean) / draws + t**2 / (4 * draws**2)).clamp(0).sqrt()
    return (center - half).clamp(min=0), (center + half).clamp(max=1)


def estimates(names: Iterable, x: Tensor, shares: Tensor | bool = True, paired: bool = False) -> dict:
    """{name of a column of x: {"mean", "low", "high"}}; with several seeds also "alone". See `interval`."""
    keys = ("mean", "low", "high", "alone")[: 3 + (len(x) > 1)]
    columns = dict(zip(keys, interval(x, shares, paired)))
    return {name: {key: column[i].item() for key, column in columns.items()} for i, name in enumerate(names)}


# ----------------------------------------------------------------------------------------------- one dialogue


def tokens_by_turn(dialogue) -> list[int]:
    """Tokens from the first student turn to the end of each, those of the teacher and template included."""
    spans = dialogue.spans or [(0, 0)]  # no turn at all if the problem fills the context
    return [end - spans[0][0] for _, end in spans]


def dialogue_numbers(dialogue, turns: int, budget: int, sharded: bool = False) -> dict[str, float]:
    """All numbers of a dialogue that are averaged over problems. budget: a number of tokens."""
    tokens, solved, kinds = tokens_by_turn(dialogue), dialogue.solved, dialogue.kinds
    numbers = {f"within {n}": float(solved is not None and solved <= n) for n in range(1, turns + 1)}
    numbers |= {"turns": float(len(kinds))} | {kind: float(kinds.count(kind)) for kind in KINDS}
    numbers |= {f"tokens {n}": float(tokens[min(n, len(tokens)) - 1]) for n in range(1, turns + 1)}
    numbers["in budget"] = float(solved is not None and tokens[solved - 1] <= budget)
    if sharded:  # only at the last turn are all shards revealed
        early = kinds[: dialogue.limit - 1]
        numbers["premature"] = early.count("attempt") / max(1, len(early))
        numbers["answered early"] = float("attempt" in early)
    return numbers


COUNTS = ("turns", "tokens", *KINDS)  # numbers whose names begin like this are not shares


# ------------------------------------------------------------------------------------------ runs of one label


def pass_at(k: int, n: int, right: int) -> float:
    """Unbiased pass@k, from n samples of which `right` are right."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def pass_curves(runs: list[TestRun]) -> Tensor:
    """float64 [runs, problems, k]: pass@1, 2, … of first turns; k up to the fewest samples of any problem."""
    curves = []
    for run in runs:
        firsts = defaultdict(list)
        for dialogue in run.dialogues:
            firsts[dialogue.problem].append(dialogue.solved == 1)
        counts = [(len(firsts[problem]), sum(firsts[problem])) for problem in sorted(firsts)]
        max_k = min(n for n, _ in counts)
        curves.append([[pass_at(k, n, right) for k in range(1, max_k + 1)] for n, right in counts])
    max_k = min(len(curve[0]) for curve in curves)
    return torch.stack([torch.tensor(curve, dtype=torch.float64)[:, :max_k] for curve in curves])


def losses_of(runs: list[TestRun]) -> list[tuple]:
    """(problem id, the answer's log-loss after each teacher turn) of each dialogue that has losses."""
    problem_of = {d.id: d.problem for run in runs for d in run.dialogues}
    return [(problem_of[row["id"]], row["losses"]) for run in runs for row in run.losses]


def loss_curves(runs: list[TestRun], turns: int) -> tuple[list, list]:
    """Both averages of the answer's log-loss after teacher turns 1…N: keeping and dropping solved dialogues.

    Each is a list of {"mean", "low", "high"}. Where every dialogue is dropped, the second has None.
    """
    rows = losses_of(runs)
    keep = problem_means((p, [losses[min(t, len(losses) - 1)] for t in range(turns)]) for p, losses in rows)
    unsolved = []
    for t in range(turns):
        values = [(problem, [losses[t]]) for problem, losses in rows if t < len(losses)]
        unsolved.append(estimates([t], problem_means(values)[None], shares=False)[t] if values else None)
    return list(estimates(range(turns), keep[None], shares=False).values()), unsolved


def loss_change(runs: list[TestRun]) -> dict[str, float]:
    """{"mean", "low", "high"}: the rise of the log-loss from a dialogue's first to its last teacher turn."""
    x = problem_means((problem, [losses[-1] - losses[0]]) for problem, losses in losses_of(runs))
    # All seeds together as one, since each may have measured other problems
    return estimates(["change"], x[None], shares=False)["change"]


def judge_numbers(runs: list[TestRun]) -> dict[str, float | None]:
    """{name: share}: each label of the judge, labels that agree with the rules, hints that leak the answer.

    A share is None where nothing was judged.
    """
    pairs, hints = [], []  # pairs: (kind by rule, the judge's type)
    for run in runs:
        judged = {row["id"]: row for row in run.judged}
        for dialogue in run.dialogues:
            if row := judged.get(dialogue.id):
                pairs += zip(dialogue.kinds, row["types"])
                hints += row["leaks"]
    marks = {name: [label == name for _, label in pairs] for name in TYPES}
    marks["no label"] = [label is None for _, label in pairs]
    marks["agreement with the rules"] = [
        kind == KIND_OF_TYPE.get(label, "other") for kind, label in pairs if label
    ]
    marks["hints that give the answer away"] = [hint for hint in hints if hint is not None]
    return {name: sum(values) / len(values) if values else None for name, values in marks.items()}


def percent(share: float | None, unit: str = "") -> str:
    """A share in percent, or a dash for None."""
    return "–" if share is None else f"{100 * share:.1f}{unit}"


def judged_shares(run: TestRun) -> dict[str, str]:
    """The judge's labels of one run, as texts for the terminal."""
    return {name: percent(share, " %") for name, share in judge_numbers([run]).items()}


def measure(labels: dict[str, list[TestRun]], against: str) -> dict:
    """All numbers of one test: its settings, and under "arms" the numbers of each label.

    labels: {label: its runs, one per seed}. against: the label to compare others with, if it is among them.
    """
    runs = next(iter(labels.values()))
    first = runs[0]
    turns = max(d.limit for runs in labels.values() for run in runs for d in run.dialogues)
    costs = [tokens_by_turn(d)[:4][-1] for run in labels.get(against, runs) for d in run.dialogues]
    budget = round(sum(costs) / len(costs))  # tokens that four turns cost `against`, or the first label
    numbers = functools.partial(dialogue_numbers, turns=turns, budget=budget, sharded=bool(first.sharded))
    names = list(numbers(first.dialogues[0]))
    shares = torch.tensor([not name.startswith(COUNTS) for name in names])
    x = {label: torch.stack([by_problem([r], numbers) for r in runs]) for label, runs in labels.items()}
    arms = {}
    for label, runs in labels.items():
        arms[label] = estimates(names, x[label], shares) | measure_arm(runs, turns)
        if against in labels and label != against:
            ours, theirs = x[label], x[against]  # [seeds, problems, n]
            n = min(len(ours), len(theirs))
            if n > 1:  # else one was played once, such as a base
                ours, theirs = ours[:n], theirs[:n]  # the other seeds have no counterparts
            arms[label]["gain"] = estimates(names, ours - theirs, shares=False, paired=True)
    settings = ("problems", "teacher", "informed", "sharded", "disputed", "single_turn")
    test = {name: getattr(first, name) for name in settings}
    test |= {"size": x[first.label].shape[1], "turns": turns, "budget": budget, "against": against}
    played = [run for runs in labels.values() for run in runs]
    test |= {"domain": domain_of(played), "trained": trained_here(played)}
    return test | {"arms": arms}


def measure_arm(runs: list[TestRun], turns: int) -> dict:
    """The numbers of one label beside the means of `dialogue_numbers`."""
    dialogues = [d for run in runs for d in run.dialogues]
    solved, curves = [d for d in dialogues if d.solved], pass_curves(runs)
    arm = {"runs": [run.folder for run in runs], "dialogues": len(dialogues), "solved": len(solved)}
    arm["trained on"] = runs[0].trained_on
    arm["counts"] = summary(dialogues, turns)
    arm["pass"] = estimates(range(1, curves.shape[-1] + 1), curves)
    if solved:
        arm["tokens a solved"] = sum(tokens_by_turn(d)[-1] for d in dialogues) / len(solved)
    replied = [d for d in solved if d.turns > d.solved]  # in others the context had no room for a dispute
    if runs[0].disputed and replied:
        statuses = "correct", "no attempt"
        x = problem_means((d.problem, [float(d.statuses[-1] == s) for s in statuses]) for d in replied)
        arm |= {"dispute": estimates(("kept", "no attempt"), x[None]), "replies": len(replied)}
    if losses := sum(len(run.losses) for run in runs):
        keep, unsolved = loss_curves(runs, turns)
        arm["log-loss"] = {"solved keep": keep, "unsolved only": unsolved, "dialogues": losses}
        arm["log-loss"]["change"] = loss_change(runs)
    if all(len(run.judged) == len(run.dialogues) for run in runs):
        arm["judge"] = judge_numbers(runs)
    return arm


def measure_training(runs: list[TrainingRun]) -> dict:
    """The size of a label's training, mean over its seeds; for RL also its curves, up to the shortest run.

    A curve is a list of {"mean", "low", "high"} over seeds, one per step. Questions and reward are means of
    the last ten steps.
    """
    first, metrics, n = runs[0], [run.metrics for run in runs], len(runs)
    numbers = {"script": first.script, "teacher": first.teacher, "seeds": n, "steps": min(map(len, metrics))}
    numbers |= {"trained on": first.trained_on, "played": sum(run.played for run in runs) / n}
    numbers["tokens"] = sum(row["tokens"] for rows in metrics for row in rows) / n
    steps = list(zip(*metrics))  # [steps][seeds]
    for key in ("questions", "reward") if first.script == "grpo.py" and steps else ():
        x = torch.tensor([[row[key] for row in step] for step in steps], dtype=torch.float64)
        numbers[key] = over_seeds([x[max(0, i - 9) : i + 1].mean(0) for i in range(len(x))])
    tested = [step for step in steps if all("test_solved_1" in row for row in step)]
    if tested:  # grpo.py --test
        names = [name for name in tested[0][0] if name.startswith("test_solved_")]
        numbers["test"] = {
            name: over_seeds([torch.tensor([row[name] for row in step]) for step in tested]) for name in names
        }
        numbers["test"]["step"] = [step[0]["step"] for step in tested]
    return numbers


def over_seeds(steps: list[Tensor]) -> list[dict]:
    """{"mean", "low", "high"} of each step. steps: for each step, the values of the seeds."""
    x = torch.stack(steps, -1).double()[:, None]  # [seeds, 1, steps]
    return list(estimates(range(len(steps)), x, shares=False).values())
