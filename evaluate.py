"""Every table and figure: plays test dialogues with a model, then compares any number of such runs.

    python evaluate.py play --model runs/mt-rl/model --teacher BASE --problems test.jsonl --out runs/eval/rl
    python evaluate.py judge runs/eval/*/* --judge http://HOST/v1#MODEL
    python evaluate.py compare runs/eval/*/* runs/mt-rl --out runs/report

`play` writes a run folder OUT/NAME for each problem file NAME.jsonl; with --dispute the first right answer
is disputed. `judge` lets a model label every student turn (the seven types of Lost in Conversation) and say
of every hint whether it gives the answer away. `compare` takes such folders and those of training runs; the
label of a model is the name of the run that trained it, runs of one label are its seeds. It writes the
paper's figures and tables by their numbers (fig1.png …, report.md, results.json) and report.html, which lets
you read the dialogues of two models side by side. parts/measures.py says what is measured, and how.
"""

import argparse
import re
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

import generate
from common import Dialogue, as_tensors, load_chat, load_problems, load_prompts, masked_logprobs, visible
from parts import measures, report, runs
from parts.driver import Grade, Sample, drive
from parts.engines import load_model

# ---------------------------------------------------------------------------------------------------- playing


def play(args):
    """Plays test dialogues of all problem files; measures the log-loss of the answer in the first of them."""
    if len({measures.short_name(source) for source in args.problems}) < len(args.problems):
        raise runs.BadInput("two problem files have the same name; their results would share a folder")
    if args.sharded and args.dispute:
        raise runs.BadInput("--dispute is for full problems; leave out --sharded")
    tests = [(source, load_problems(source, args.answers)) for source in args.problems]
    for source, problems in tests:
        whole = next((p.id for p in problems if args.sharded and len(p.shards) < 2), None)
        if whole:
            raise runs.BadInput(f"{source}: problem {whole!r} has no shards, as --sharded needs them")

    # Of all files together one model, and that only if there is something left to play or to measure.
    model = cache(lambda: load_model(args.model, args.device, args.dtype) if args.losses else None)
    start = cache(lambda: start_test(args, generate.load_speakers(args, model())))
    for source, problems in tests:
        own = argparse.Namespace(**vars(args))
        own.problems, own.out = source, str(Path(args.out) / measures.short_name(source))
        run = runs.Run(own)
        if (run.path / "metrics.jsonl").exists():
            run.say(f"{run.path} is finished")
            continue
        dialogues = generate.play_into(run, args, problems, start)
        if args.losses:
            measure_losses(args, run, dialogues, {p.id: p for p in problems}, model())
        turns = max(d.limit for d in dialogues)  # of a sharded problem as many as it has shards
        result = {"dialogues": len(dialogues), **measures.summary(dialogues, turns)}
        run.append("metrics.jsonl", [result])
        run.say(f"{run.path}: {measures.line(result)}")


def start_test(args, speakers):
    """(speakers, function (problem, name) → coroutine of a dialogue), as --sharded and --dispute want it."""
    prompts, chat = load_prompts(args.prompts), speakers["student"].chat
    users = {"scripted": generate.scripted, "rephrased": generate.rephrased}
    teacher = generate.bind(users.get(args.sharded) or generate.teacher_of(args)[1], speakers, prompts)
    opponent = generate.bind(generate.disputing, speakers, prompts)

    def dialogue_of(problem, name):
        if args.sharded:
            first, *rest = problem.shards
            return generate.converse(problem, name, chat, teacher, prompts, 1 + len(rest), opening=first)
        dialogue = generate.converse(problem, name, chat, teacher, prompts, args.turns)
        return dispute(dialogue, problem, chat, opponent) if args.dispute else dialogue

    return speakers, dialogue_of


def dispute(dialogue, problem, chat, opponent):
    """A dialogue (its coroutine) whose right answer is then disputed; it ends with the reply to that."""
    d = yield from dialogue
    said = (yield from opponent(d, problem, None)) if d.solved else None
    if said is not None:
        d.hear(chat.between(said), said)
        turn = yield Sample("student", d.ids, d.turns + 1)
        text = chat.text(turn.ids)
        if turn.finish != "context":
            d.say(turn, text, (yield Grade(problem, text)), chat.end)
    return d


def measure_losses(args, run, dialogues, problems, model):
    """Writes losses.jsonl: the log-loss of the right answer in --losses dialogues, the first of each problem
    before the second ones, of problems that have an answer."""
    rank, processes = runs.rank_and_size()
    measured = runs.gathered({row["id"] for row in runs.read_jsonl(run.path / "losses.jsonl")})[0]
    answered = [d for d in dialogues if d.turns and answer_turn(problems[d.problem])]
    written = sorted(answered, key=lambda d: (int(d.id.rpartition("/")[2]), d.id))
    mine = [d for d in written[: args.losses] if d.id not in measured][rank::processes]
    if not written:
        run.say("--losses measures nothing here: no problem has an answer or a solution")
    chat = load_chat(args.model)
    for d in tqdm(mine, desc="log-loss", mininterval=1, disable=rank > 0):
        losses = answer_losses(model, chat, d, answer_turn(problems[d.problem]))
        run.append("losses.jsonl", [{"id": d.id, "solved": d.solved, "losses": losses}], own=True)
    runs.barrier()  # until all have written


def answer_turn(problem):
    """The student turn that states the right answer: boxed, or the solution's program; None without one."""
    if problem.domain == "math":
        return f"\\boxed{{{problem.answer}}}"
    program = (problem.solution or "").strip()
    return program if "```" in program or not program else f"```python\n{program}\n```"


def answer_losses(model, chat, dialogue, answer):
    """Nats a token of the answer turn, end token included, after each teacher turn (the problem is one)."""
    said = chat.turn(answer)
    starts = [start for start, _ in dialogue.spans[: dialogue.solved]]  # none behind a dispute
    rows = [Dialogue("", ids=dialogue.ids[:n] + said, mask=[0] * n + [1] * len(said)) for n in starts]
    some = max(1, 16384 // len(rows[-1].ids))  # at once, for the memory's sake
    with torch.no_grad():
        parts = [as_tensors(rows[i : i + some], model.device) for i in range(0, len(rows), some)]
        logprobs = torch.cat([masked_logprobs(model, *part) for part in parts])
    return (-logprobs.view(len(rows), len(said)).mean(1)).tolist()


# ---------------------------------------------------------------------------------------------------- judging

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


def assess(dialogue, problem, chat):
    """The judging of one dialogue, as a coroutine: yields Sample, is sent a Turn, returns a row.

    types: one of measures.TYPES for each student turn; leaks: True or False for each hint; None where the
    judge said nothing of the kind, or the problem has no answer to leak.
    """
    types, leaks, said = [], [], [visible(m["content"]) for m in dialogue.messages]
    for i, m in enumerate(dialogue.messages):
        if m["role"] == "student":
            before = "\n\n".join(f"[{n['role']}] {text}" for n, text in zip(dialogue.messages[:i], said))
            words = yield from ask(chat, i, JUDGE_TURN.format(before=before, turn=said[i]), measures.TYPES)
            types.append(words[-1] if words else None)
        elif i:  # the first is the problem
            answer = problem.answer or problem.solution
            if not answer:
                leaks.append(None)
                continue
            prompt = JUDGE_LEAK.format(problem=problem.prompt, answer=answer, hint=said[i])
            words = yield from ask(chat, i, prompt, (r"\byes\b", r"\bno\b"))
            leaks.append(words[-1] == "yes" if words else None)
    return {"id": dialogue.id, "types": types, "leaks": leaks}


def ask(chat, number, prompt, words):
    """Those of the words that the judge's reply holds, in its order; a coroutine."""
    reply = yield Sample("judge", chat.view([{"role": "user", "content": prompt}]), number)
    return re.findall("|".join(words), visible(chat.text(reply.ids)).lower())


def judge(args):
    """Labels turns and hints of test runs: writes RUN/judged, a run folder. Prints what the judge said."""
    tests = [measures.load_test(folder, Dialogue.from_row) for folder in args.runs]
    longest = max(len(d.ids) for test in tests for d in test.dialogues)
    how = {"option": "--judge", "talk": 2 * longest}  # in the judge's tokens
    speaker = cache(lambda: generate.load_speaker(args, args.judge, 0.0, **how))
    rank, processes = runs.rank_and_size()
    for test in tests:
        own = argparse.Namespace(**vars(args))
        own.runs, own.out = test.folder, str(Path(test.folder) / "judged")
        run, played = runs.Run(own), runs.read_config(Path(test.folder) / "config.json")
        problems = {p.id: p for p in load_problems(played["problems"], played["answers"])}
        known = runs.gathered({row["id"] for row in runs.read_jsonl(run.path / "judged.jsonl")})[0]
        if left := [d for d in test.dialogues if d.id not in known]:
            speaker()  # all processes together, those too for which nothing is left
            mine = left[rank::processes]
            coroutines = ((d.id, assess(d, problems[d.problem], speaker().chat)) for d in mine)
            judging = drive(coroutines, {"judge": speaker()}, live=args.live)
            for row in tqdm(judging, total=len(mine), desc="judging", mininterval=1, disable=rank > 0):
                run.append("judged.jsonl", [row], own=True)
        runs.barrier()  # until all have written
        test.judged = runs.read_jsonl(run.path / "judged.jsonl")
        shares = measures.judged_shares(test)
        run.say(f"{test.folder}: " + ", ".join(f"{name} {share}" for name, share in shares.items()))


def compare(args):
    """Writes the report of all given runs into the folder args.out, and prints its tables."""
    tests, training = [], []
    for folder in {Path(folder).resolve(): folder for folder in args.runs}.values():  # each once
        if runs.read_config(Path(folder) / "config.json")["script"] in ("grpo.py", "sft.py", "qprime.py"):
            training.append(measures.load_training(folder))
        else:
            tests.append(measures.load_test(folder, Dialogue.from_row))
    measures.check_comparable(tests, args.against)
    print(report.write(Path(args.out), tests, training, args.against, args.dialogues))


def main():
    parser = runs.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("play", help="play test dialogues with one model")
    runs.add_dialogue_arguments(one, turns=10, many=True)
    add = one.add_argument_group("test").add_argument
    add("--samples", type=runs.COUNT, default=1, help="dialogues of each problem")
    how = {"choices": ("scripted", "rephrased"), "nargs": "?", "const": "scripted"}
    add("--sharded", **how, help="a piece of the problem each turn, as written or in the teacher's words")
    add("--dispute", action="store_true", help="the teacher disputes the first right answer")
    add("--losses", type=runs.NATURAL, default=0, help="dialogues of a file to measure the log-loss in")
    two = commands.add_parser("judge", help="let a model label the turns and hints of test runs")
    two.add_argument("runs", nargs="+", help="run folders of `evaluate.py play`")
    two.add_argument("--judge", required=True, help="a folder, a hub name or an endpoint, as --teacher")
    two.set_defaults(turns=1)
    runs.add_sampling_arguments(two)
    add = commands.add_parser("compare", help="tables and pictures of several runs").add_argument
    add("runs", nargs="+", help="run folders of `evaluate.py play`, and of sft.py, qprime.py, grpo.py")
    add("--out", required=True, help="folder for the report")
    add("--against", default="base", help="label that the others are subtracted from")
    add("--dialogues", type=runs.NATURAL, default=50, help="problems of each test to read on the page")
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args)
    runs.settle(args)
    {"play": play, "judge": judge}[args.command](args)


if __name__ == "__main__":
    runs.run_script(main)
