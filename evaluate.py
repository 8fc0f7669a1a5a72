"""Every table and figure: plays test dialogues with a model, then compares any number of such runs.

    play="python evaluate.py play --problems test.jsonl --teacher-model BASE"
    $play --model BASE --out runs/test/base; $play --model runs/rl/model --out runs/test/rl
    python evaluate.py judge runs/test/*/* --judge http://HOST/v1#MODEL
    python evaluate.py compare runs/test/*/* runs/rl --out runs/report
    python evaluate.py check mine.jsonl

`play` writes a run folder OUT/NAME for each problem file NAME.jsonl. With --dispute, the teacher disputes the
first right answer. With --turns 1 nobody answers the student: the paper's Table 1 calls this full, as against
--sharded. `judge` lets a model label every student turn (the seven types of Lost in Conversation)
and decide for every hint whether it gives the answer away. `compare` takes such folders and those of training
runs. A model's label is the name of the run that trained it; runs of one label are its seeds. A model that
met a test with two prompts files has two labels, such as base and base (careful). `compare` writes the
paper's figures and tables by their numbers (fig1.png …, report.md, results.json) and report.html, a page to
read the dialogues of two models side by side, and those of training with their advantages. parts/measures.py
defines what is measured, and how. `check` lists all faults of problem files: lines that are no problem,
inputs that are no literals, answers that no rule can judge, solutions that are not graded correct.
"""

import argparse
import re
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

from common import Dialogue, Problem, as_tensors, grade, load_problems, masked_logprobs
from generate import TEACHERS, USERS, converse, dialogue_of, load_cast, load_speaker, model_speaks, play_into
from parts import measures, report, runs, sandbox, sources
from parts.answers import boxed, judgeable
from parts.chat import load_chat, visible
from parts.driver import Sample, drive
from parts.engines import load_model
from sft import solution_turn

# ---------------------------------------------------------------------------------------------------- playing


def play(args):
    """Plays test dialogues on all problem files; measures the log-loss in the first --losses of each."""
    if len({measures.short_name(source) for source in args.problems}) < len(args.problems):
        raise runs.BadInput("two problem files have the same name; their results would share a folder")
    if args.sharded and args.dispute:
        raise runs.BadInput("--dispute is for full problems; leave out --sharded")
    if args.sharded and args.teacher != "informed":
        raise runs.BadInput(f"--sharded: its user answers the student; leave out --teacher {args.teacher}")
    if args.turns > 1 and not model_speaks(args) and args.model != "me":  # a person needs its chat template
        args.teacher_model = None  # so the report names none
    tests = [(source, load_problems(source, args.answers)) for source in args.problems]
    for source, problems in tests:
        unsharded = next((p.id for p in problems if args.sharded and len(p.shards) < 2), None)
        if unsharded:
            raise runs.BadInput(f"{source}: problem {unsharded!r} has no shards; leave out --sharded")

    # All files share one model, which is loaded only if something is left to play or to measure.
    model = cache(lambda: load_model(args.model, args.device, args.dtype) if args.losses else None)
    user = USERS.get(args.sharded)
    cast = cache(lambda: load_cast(args, model(), user=user))

    def in_shards(cast, problem, name, args):
        # A user who chooses may tell no shard, but not without end.
        turns = len(problem.shards) * (2 if args.sharded == "chosen" else 1)
        return converse(cast, problem, name, turns, user, opening=problem.shards[0])

    for source, problems in tests:
        out = Path(args.out) / measures.short_name(source)
        run = runs.Run(with_arguments(args, problems=source, out=out, **measures.recipe(args.model)))
        if (run.path / "metrics.jsonl").exists():
            run.say(f"{run.path} is finished")
            continue
        dialogues = play_into(run, args, problems, cast, in_shards if user else dialogue_of)
        if args.losses:
            measure_losses(args, run, dialogues, {p.id: p for p in problems}, model())
        turns = max(d.limit for d in dialogues)  # a sharded problem has as many turns as shards
        result = {"dialogues": len(dialogues), **measures.summary(dialogues, turns)}
        run.append("metrics.jsonl", [result])
        run.say(f"{run.path}: {measures.line(result)}")


def with_arguments(args, **changes):
    """A copy of the arguments with some of them changed: those of one run folder of several."""
    return argparse.Namespace(**{**vars(args), **changes})


def measure_losses(args, run, dialogues, problems, model):
    """Writes losses.jsonl: the log-loss of the right answer in the first --losses dialogues.

    Only dialogues on problems with an answer or a solution count. The first dialogue of every problem comes
    before all second ones.
    """
    rank, processes = runs.rank_and_size()
    measured = runs.all_gather({row["id"] for row in runs.read_jsonl(run.path / "losses.jsonl")})[0]
    answered = [d for d in dialogues if d.turns and answer_turn(problems[d.problem])]
    answered.sort(key=lambda d: (int(d.id.rpartition("/")[2]), d.id))  # an id is PROBLEM/SAMPLE
    share = [d for d in answered[: args.losses] if d.id not in measured][rank::processes]
    if not answered:
        run.say("--losses measures nothing here: no problem has an answer or a solution")
    chat = load_chat(args.model)
    for d in tqdm(share, desc="log-loss", mininterval=1, disable=rank > 0):
        losses = answer_losses(model, chat, d, answer_turn(problems[d.problem]))
        run.append("losses.jsonl", [{"id": d.id, "solved": d.solved, "losses": losses}], all_processes=True)
    runs.barrier()  # until all have written


def answer_turn(problem):
    """Text of a student turn with the right answer: boxed, or the solution's program; empty without one."""
    if problem.domain == "math":
        return f"\\boxed{{{problem.answer}}}"
    return solution_turn(problem) if (problem.solution or "").strip() else ""


def answer_losses(model, chat, dialogue, answer):
    """Log-loss of the answer turn after each teacher turn, the problem being the first: nats a token.

    The tokens of the turn's opening, \\boxed{ or ```python, are left out of the mean: their loss says
    whether the student answers or asks, not what it knows. The end-of-turn token counts; turns after the
    right answer, as in a dispute, do not.
    """
    ids = chat.turn(answer)
    opening = re.match(r"\\boxed\{|```\w*\n|", answer).end()  # characters
    pieces = chat.pieces(ids)
    skipped = sum(len("".join(pieces[:i])) < opening for i in range(len(ids)))  # tokens that begin in it
    mask = [0] * skipped + [1] * (len(ids) - skipped)
    contexts = [dialogue.ids[:start] for start, _ in dialogue.spans[: dialogue.solved]]
    rows = [Dialogue("", ids=context + ids, mask=[0] * len(context) + mask) for context in contexts]
    size = max(1, 16384 // len(rows[-1].ids))  # rows of a batch, which bounds the memory
    with torch.no_grad():
        batches = [as_tensors(rows[i : i + size], model.device) for i in range(0, len(rows), size)]
        logprobs = torch.cat([masked_logprobs(model, *batch) for batch in batches])
    return (-logprobs.view(len(rows), sum(mask)).mean(1)).tolist()


# ---------------------------------------------------------------------------------------------------- judging

# As in Lost in Conversation, the judge of a turn sees the full problem and this turn alone.
JUDGE_TURN = """You label one turn of an assistant, to whom a user describes a problem bit by bit.

The whole problem, of which the assistant may have seen a part only:
{problem}

The turn:
{turn}

Labels:
answer attempt: it gives one complete final answer ({answer}), which the user could take as it stands; not
a template, a hypothesis, or a hint at what an answer may look like
clarification: it is short, below 100 words, and asks one specific question about the user's request
interrogation: it asks the user several questions
discussion: it goes into the problem without a final answer, a specific question or a refusal; it may end with
a vague question such as whether there is more to do
hedge: it gives several possible answers, each under its own assumption
refusal: it declines to answer, openly or not, and neither asks nor requests anything
missing: it is empty

Reply with the label alone."""
FINAL = {"math": "a single number or expression", "code": "a whole function or program"}
JUDGE_LEAK = """A teacher who knows the answer to a problem may give hints, but must not give the answer away.

The problem:
{problem}

The answer:
{answer}

The hint:
{hint}

Does the hint state the answer, or so much that only copying is left to do? Reply with yes or no alone."""


def assess(dialogue, problem, chat):
    """Judges one dialogue, as a coroutine: yields Sample, is sent a Turn, returns a row of judged.jsonl.

    types: one of measures.TYPES for each student turn; leaks: True or False for each of `Dialogue.hints`.
    None where the judge's reply has no such word, or the problem has no answer to leak.
    """
    types, leaks, texts = [], [], [visible(m["content"]) for m in dialogue.messages]
    last_hint = 2 * len(dialogue.hints)  # the number of its message: 0 is the problem, a dispute comes later
    for i, m in enumerate(dialogue.messages):
        if m["role"] == "student":
            final = FINAL[problem.domain]
            prompt = JUDGE_TURN.format(problem=problem.prompt, turn=texts[i], answer=final)
            types.append((yield from ask(chat, i, prompt, measures.TYPES)))
        elif 0 < i <= last_hint:
            answer, word = problem.answer or problem.solution, None
            if answer:
                prompt = JUDGE_LEAK.format(problem=problem.prompt, answer=answer, hint=texts[i])
                word = yield from ask(chat, i, prompt, (r"\byes\b", r"\bno\b"))
            leaks.append(None if word is None else word == "yes")
    return {"id": dialogue.id, "types": types, "leaks": leaks}


def ask(chat, number, prompt, words):
    """The last of some words (patterns) in the judge's reply, or None; a coroutine. number: the message's."""
    reply = yield Sample("judge", chat.view([{"role": "user", "content": prompt}]), number)
    matches = re.findall("|".join(words), visible(chat.text(reply.ids)).lower())
    return matches[-1] if matches else None


def judge(args):
    """Labels turns and hints of test runs: writes the run folders RUN/judged, prints shares of labels."""
    tests = [measures.load_test(folder, Dialogue.from_row) for folder in args.runs]
    longest = 2 * max(len(d.ids) for test in tests for d in test.dialogues)  # with the judge's tokenizer
    speaker = cache(lambda: load_speaker(args, args.judge, 0.0, "--judge", longest=longest))
    rank, processes = runs.rank_and_size()
    for test in tests:
        run = runs.Run(with_arguments(args, runs=test.folder, out=Path(test.folder) / "judged"))
        played = runs.read_config(Path(test.folder) / "config.json")
        problems = {p.id: p for p in load_problems(played["problems"], played["answers"])}
        content = test.settings["problems"]  # None: a data set, no file
        if content and content != runs.checksum(played["problems"]):
            reason = f"is not the problem file that {test.folder} played"
            raise runs.BadInput(f"{played['problems']}: {reason}; restore it, or play it again")
        judged = runs.all_gather({row["id"] for row in runs.read_jsonl(run.path / "judged.jsonl")})[0]
        if remaining := [d for d in test.dialogues if d.id not in judged]:
            judge, share = speaker(), remaining[rank::processes]  # all load it, even for an empty share
            coroutines = ((d.id, assess(d, problems[d.problem], judge.chat)) for d in share)
            rows = drive(coroutines, {"judge": judge}, concurrent=args.concurrent)
            for row in tqdm(rows, total=len(share), desc="judging", mininterval=1, disable=rank > 0):
                run.append("judged.jsonl", [row], all_processes=True)
        runs.barrier()  # until all have written
        test.judged = runs.read_jsonl(run.path / "judged.jsonl")
        shares = measures.judged_shares(test)
        run.say(f"{test.folder}: " + ", ".join(f"{name} {share}" for name, share in shares.items()))


def check(args):
    """Prints all faults of problem files, and a table of them by kind. Raises BadInput if there are any."""
    kinds, bad, total = Counter(), 0, 0
    for source in args.problems:
        path = sources.problem_file(source, "all", Problem)
        problems, faults = sources.read_lines(path, Problem)
        faults_by_line = {number: [("line is no problem", reason)] for number, reason in faults}
        if any(p.domain == "code" for p in problems.values()):
            sandbox.check()
        for number, problem in tqdm(problems.items(), desc=path.name, mininterval=1, leave=False):
            faults_by_line[number] = faults_of(problem)
        for number in sorted(faults_by_line):
            for kind, detail in faults_by_line[number]:
                kinds[kind] += 1
                print(f"{path}, line {number}: {kind}: {detail}")
        bad += sum(map(bool, faults_by_line.values()))
        total += len(faults_by_line)
    for kind, count in kinds.most_common():
        print(f"{count:6}  {kind}")
    if bad:
        raise runs.BadInput(f"{bad} of {total} problems have faults; each is listed above")
    print(f"{total} problems, no fault found")


def faults_of(problem):
    """[(kind, detail)] of a problem that can be read, but not graded as its author meant."""
    if problem.domain == "math":
        if not judgeable(problem.answer):
            return [("no rule can judge the answer", problem.answer[:80])]
        turns = [answer_turn(problem)] + [problem.solution] * (boxed(problem.solution or "") is not None)
    else:
        tests = sources.unpack(problem.tests) + problem.public_tests
        tests = [t for t in tests if t["testtype"] == "functional"]
        lines = dict.fromkeys(line for test in tests for line in test["input"].split("\n") if line.strip())
        if wrong := [line for line in lines if not is_literal(line)]:
            return [("an input is neither JSON nor a Python literal", line[:80]) for line in wrong]
        turns = [answer_turn(problem)] * (problem.solution is not None)
    verdicts = [grade(problem, turn) for turn in turns]
    texts = [f"{verdict.status}. {verdict.report}" for verdict in verdicts if not verdict.correct]
    return [("its own solution is not graded as correct", " ".join(text.split())[:300]) for text in texts]


def is_literal(text):
    """Whether a line of a functional input can be read as an argument."""
    try:
        sandbox.literal(text)
        return True
    except ValueError:
        return False


def compare(args):
    """Writes the report on all given runs into the folder args.out, and prints its tables."""
    tests, training = [], []
    for folder in {Path(folder).resolve(): folder for folder in args.runs}.values():  # each once
        if runs.read_config(Path(folder) / "config.json")["script"] in ("grpo.py", "sft.py", "qprime.py"):
            training.append(measures.load_training(folder, Dialogue.from_row))
        else:
            tests.append(measures.load_test(folder, Dialogue.from_row))
    measures.check_labels(tests, training)
    measures.name_prompts(tests)
    measures.check_comparable(tests, args.against)
    print(report.write(Path(args.out), tests, training, args.against, args.dialogues))


def main():
    parser = runs.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    player = commands.add_parser("play", help="play test dialogues with one model")
    runs.add_dialogue_arguments(
        player,
        TEACHERS,
        files="+",
        turns=10,
        max_tokens=1024,
        temperature=1.0,
        teacher_temperature=1.0,
        seed=0,
    )
    group = player.add_argument_group("test")
    add = group.add_argument
    add("--samples", type=runs.COUNT, default=1, help="dialogues of each problem")
    users = "the student gets one shard of the problem a turn, from a user (default: scripted)"
    runs.add_role_argument(group, "--sharded", USERS, help=users, nargs="?", const="scripted")
    add("--losses", type=runs.NATURAL, default=0, help="dialogues a file in which the log-loss is measured")
    judger = commands.add_parser("judge", help="let a model label the turns and hints of test runs")
    judger.add_argument("runs", nargs="+", help="run folders of `evaluate.py play`")
    judger.add_argument("--judge", required=True, help="the judge: a model folder, hub name or endpoint")
    runs.add_sampling_arguments(judger, max_tokens=1024, seed=0)
    checker = commands.add_parser("check", help="list all faults of problem files")
    checker.add_argument("problems", nargs="+", help="problem files")
    add = commands.add_parser("compare", help="tables and pictures of several runs").add_argument
    add("runs", nargs="+", help="run folders of `evaluate.py play`, and of sft.py, qprime.py, grpo.py")
    add("--out", required=True, help="folder for the report")
    add("--against", default="base", help="label of the model that the others are compared with")
    add("--dialogues", type=runs.NATURAL, default=50, help="problems a test whose dialogues the page shows")
    args = parser.parse_args()
    if args.command in ("check", "compare"):
        return {"check": check, "compare": compare}[args.command](args)
    runs.set_up(args)
    {"play": play, "judge": judge}[args.command](args)


if __name__ == "__main__":
    runs.run_script(main)
