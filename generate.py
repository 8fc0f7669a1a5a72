"""Stage 0: a student and a teacher talk about problems; the dialogues are written to OUT/dialogues.jsonl.

    python generate.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/dialogues

The protocol (paper, section on the process being modelled) is the function `converse`. The teacher is a frozen copy of the
student unless --teacher names another model. `--turns 1` gives single-turn samples. The same command goes on where it was
killed; each dialogue depends only on the seed and its own name, so that the result is the same.

Chosen where the paper is silent: temperature 1 and full distributions for the student; the private knowledge stands with the
student's latest turn; a teacher of code sees the report of the public tests on the latest program; reasoning modes are off.
"""

import importlib.util
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial

import torch
from tqdm import tqdm
from transformers import AutoConfig

from common import (NO_PROGRAM, Dialogue, Endpoint, Grader, HFEngine, Problem, Run, VLLMEngine, arguments, default_device, fail, gathered, load_chat,
                    load_model, load_problems, load_prompts, read_jsonl, run_script, shards, start_processes, visible, world)  # fmt: skip


@dataclass
class Speak:
    """A coroutine's request for a turn: who speaks (student | teacher | asker), on which token ids, in which conversation."""

    role: str
    ids: list
    name: str
    turn: int


@dataclass
class Check:
    """A coroutine's request for a verdict on a student turn."""

    problem: Problem
    text: str
    name: str


# --------------------------------------------------------------------------------------------------------------- the protocol


def converse(problem, name, student, teacher, prompts, turns, inject=None, sharded=None, role="teacher", dispute=False):
    """One dialogue, as a coroutine: yields Speak and Check, receives Turn and Verdict, returns the Dialogue.

    student, teacher: the Chat of either side. turns: N. inject(t): whether a wrong student turn t is to be replaced by a
    question that the asker writes (Q-priming, Eq. 4). sharded: the problem comes in pieces from a lazy user who reveals the next
    one after each turn, whatever the student says; the dialogue is over when all are out and the student has failed. The user is
    a script ("scripted"), or the teacher model, which is told the next piece and says it in its own words ("rephrased").
    role: whose prompts the teacher has: "teacher", or "critic", who has no private knowledge. dispute: the first right answer is
    disputed, and the dialogue ends with the student's reply to that, the only turn after the one in `solved`.
    """
    turns = len(problem.shards) if sharded else turns
    d = Dialogue(name, problem.id, problem.domain, turns)
    opening = prompts[problem.domain].format(problem=problem.shards[0] if sharded else problem.prompt)
    d.hear(student.view([{"role": "user", "content": opening}]), opening)  # u_1^T is the problem
    report = NO_PROGRAM
    for t in range(1, turns + 1 + dispute):
        turn = yield Speak("student", d.ids, name, t)
        text = student.text(turn.ids)
        verdict = yield Check(problem, text, name)
        report = verdict.report if problem.domain == "code" and verdict.attempted else report
        knowledge = problem.answer if problem.domain == "math" else report  # k_t
        d.knowledge.append(knowledge)
        if inject and not verdict.correct and inject(t):
            question = yield Speak("asker", student.view(asker_view(problem, text, knowledge, prompts)), name, t)
            asked = student.text(question.ids)
            check = yield Check(problem, asked, name)
            if not check.attempted:  # an asker that answers instead of asking is not used
                turn, text, verdict = question, asked, check
                d.injected.append(t)
        d.say(turn, text, student.end)
        d.statuses.append(verdict.status)
        disputed = d.solved is not None
        if verdict.correct and not disputed:
            d.solved = t
        if disputed or (not dispute if d.solved else t == turns):
            return d
        if sharded == "scripted":
            said = problem.shards[t]
        else:
            known, who = (problem.shards[t], "user") if sharded else (knowledge, "dispute" if d.solved else role)
            hint = yield Speak("teacher", teacher.view(teacher_view(d, known, problem, prompts, who)), name, t)
            said = visible(teacher.text(hint.ids))
            d.leaks += 0 if d.solved else leaks(problem, said)
        d.hear(student.between(said), said)


def teacher_view(d, knowledge, problem, prompts, role="teacher"):
    """The conversation with the roles swapped, the private knowledge with the student's latest turn: s_t = (c_t, k_t).

    role: "teacher"; "critic", a teacher without private knowledge; "dispute", a teacher who is to dispute a right answer; or "user"
    for the lazy user of a sharded problem, whose knowledge is the piece that comes next.
    """
    view = [{"role": "user", "content": prompts[role]}]
    for m in d.messages:
        view.append({"role": "assistant" if m["role"] == "teacher" else "user", "content": visible(m["content"])})
    turn = view[-1]["content"]
    view[-1]["content"] = prompts[f"{role}_{d.domain}"].format(
        problem=problem.prompt, turn=turn, knowledge=knowledge, solution=problem.solution or ""
    )
    return view


def asker_view(problem, turn, knowledge, prompts):
    """What the student model is shown to write an informative question: its own attempt and the teacher's private knowledge."""
    text = prompts[f"asker_{problem.domain}"].format(
        problem=problem.prompt, turn=visible(turn), knowledge=knowledge, solution=problem.solution or ""
    )
    return [{"role": "user", "content": text}]


def leaks(problem, said):
    """1 if a hint holds the right answer of a math problem or the solution of a code problem, whatever the blanks."""
    secret = "".join(((problem.answer if problem.domain == "math" else problem.solution) or "").split())
    pattern = r"\s*".join(map(re.escape, secret))
    return int(bool(secret) and re.search(rf"(?<!\w){pattern}(?!\w)", said) is not None)


# ---------------------------------------------------------------------------------------------------------- driving dialogues


def play(talks, engines, grader, live=256, seconds=None):
    """Runs (name, coroutine) pairs, at most `live` at once; yields each Dialogue as it ends. engines: role → engine.

    seconds: a Counter to which the time in each role, and in grading, is added.
    """
    talks, running, ended = iter(talks), {}, []
    seconds = Counter() if seconds is None else seconds
    by_engine = list({id(e): (role, e) for role, e in reversed(engines.items())}.values())

    def advance(name, value):
        try:
            request = running[name].send(value)
        except StopIteration as end:
            del running[name]
            for role, engine in engines.items():
                engine.forget(f"{name}/{role}")
            ended.append(end.value)
            return
        if isinstance(request, Check):
            grader.submit(name, request.problem, request.text)
        else:
            view = f"{name}/{request.role}"
            engines[request.role].submit((name, request.role, request.turn), view, request.ids)

    while True:
        while len(running) < live and (new := next(talks, None)) is not None:
            name, talk = new
            running[name] = talk
            advance(name, None)
        if not running:
            return
        clock = time.perf_counter()
        for name, verdict in grader.poll(block=all(e.batching or not e.pending for _, e in by_engine)):
            advance(name, verdict)
        seconds["grading"] += time.perf_counter() - clock
        role, engine = max(by_engine, key=lambda pair: len(pair[1].pending))  # the fullest batch first
        clock = time.perf_counter()
        for (name, _, _), turn in engine.poll():
            advance(name, turn)
        seconds[role] += time.perf_counter() - clock
        yield from ended
        ended.clear()


# ------------------------------------------------------------------------------------------------------------------ the script


def add_arguments(parser, turns=4, many=False):
    """The arguments of every stage that plays dialogues. many: whether it takes several problem files."""
    group = parser.add_argument_group("dialogues")
    group.add_argument("--model", required=True, help="student: a transformers folder or hub name")
    group.add_argument("--teacher", help="teacher: a folder, a hub name, or an OpenAI-compatible endpoint http://HOST/v1#MODEL; `self`: the student, without private knowledge; default: a frozen copy of the initial student")
    group.add_argument("--problems", required=True, nargs="+" if many else None, help="file of problem lines, or a data set: NAME or NAME:PATH, see README" + "; one or several" * many)
    group.add_argument("--answers", choices=("rule", "all"), default="rule", help="of data sets, only math problems that a rule can grade, or all")
    group.add_argument("--prompts", help="JSON file that replaces prompts of common.py")
    group.add_argument("--turns", type=int, default=turns, help="N, student turns a dialogue has at most; 1 is single-turn")
    group.add_argument("--out", required=True, help="run folder; an unfinished one is resumed")
    group.add_argument("--temperature", type=float, default=1.0, help="of the student")
    group.add_argument("--teacher-temperature", type=float, default=1.0, help="of the teacher and the asker")
    add_sampling_arguments(parser)


def add_sampling_arguments(parser):
    """The arguments of whatever samples from a model."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--seed", type=int, default=0, help="seed of everything random")
    group.add_argument("--max-tokens", type=int, default=1024, help="tokens a turn has at most")
    group.add_argument("--live", type=int, default=256, help="dialogues that are played at once")
    group.add_argument("--engine", choices=("auto", "hf", "vllm"), default="auto", help="what samples; auto: vLLM on a GPU that has it")
    group.add_argument("--vllm-memory", type=float, default=0.4, help="share of the GPU's memory for each vLLM")
    add_device_arguments(parser)


def add_device_arguments(parser):
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default=default_device(), help="torch device")
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"),
                       help="of sampling and of the passes of training, whose weights are float32; auto: bfloat16 on a GPU, else float32")  # fmt: skip
    group.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")


NEUTRAL = ("out", "live", "device", "threads", "vllm_memory")  # arguments that may change when a run is resumed


def check_arguments(args):
    """Ends the program if a number makes no sense; settles what is automatic; joins the processes of torchrun."""
    for name in ("turns", "max_tokens", "live", "samples", "batch", "epochs", "steps", "lr"):
        value = getattr(args, name, None)
        if value is not None and value <= 0:
            fail(f"--{name.replace('_', '-')} is {value}; it must be positive")
    if args.dtype == "auto":
        args.dtype = "bfloat16" if args.device.startswith("cuda") else "float32"
    torch.set_num_threads(args.threads)
    start_processes(args.device)


def uses_vllm(args):
    """Whether vLLM samples: --engine vllm, or auto on a GPU machine that has it. Ends the program if it was asked for and is missing."""
    installed = importlib.util.find_spec("vllm") is not None
    if args.engine == "vllm" and not installed:
        fail("--engine vllm: vLLM is not installed; `pip install -r requirements.txt vllm==0.32.0` on a GPU machine, or use --engine hf")
    return args.engine == "vllm" or args.engine == "auto" and installed and args.device.startswith("cuda")


def speaker(args, path, temperature, model=None, chat=None, sleeps=False):
    """(engine, Chat) of a folder, a hub name or an endpoint; with `model` and `chat`, those are used where vLLM does not sample.

    sleeps: whether the engine is to give its memory back while the trainer works.
    """
    if path.startswith(("http://", "https://")):
        away = Endpoint(path, args.max_tokens, temperature, args.live)
        return away, away
    if not uses_vllm(args):
        model, chat = (model, chat) if model else load_model(path, args.device, args.dtype)
        return HFEngine(model, chat, args.max_tokens, temperature, args.seed, args.live), chat
    chat = chat or load_chat(path)
    longest = AutoConfig.from_pretrained(path).get_text_config().max_position_embeddings
    context = min(longest, 8192 + 2 * args.turns * args.max_tokens)  # a problem, and turns of both sides
    return VLLMEngine(path, chat, args.max_tokens, temperature, args.seed, args.live, args.device, args.dtype, context, args.vllm_memory, sleeps), chat


class Setting:
    """Who talks, with which prompts, sampled by what: made of a script's arguments once, for any number of dialogues."""

    def __init__(self, args, trains=False):
        """trains: whether the student's weights will change, so that a teacher needs a copy of its own."""
        self.args, self.prompts, self.grader, self.model, chat = args, load_prompts(args.prompts), Grader(), None, None
        other = args.model if args.teacher in (None, "self") else args.teacher
        if trains or getattr(args, "losses", 0):
            self.model, chat = load_model(args.model, "cpu" if trains else args.device, "float32" if trains else args.dtype)
        own = trains and (shards(args.dtype) or args.device != "cpu")  # the trainer takes the model apart, or moves it
        student, self.chat = speaker(args, args.model, args.temperature, None if own else self.model, chat, sleeps=trains)
        if other == args.model and not trains:  # one set of weights speaks for all
            teacher, self.teacher_chat = student.twin(args.teacher_temperature), self.chat
        else:
            teacher, self.teacher_chat = speaker(args, other, args.teacher_temperature)
        self.engines = {"student": student, "teacher": teacher, "asker": teacher if other == args.model else student.twin(args.teacher_temperature)}

    def talk(self, named, inject=None, seconds=None, **protocol):
        """Plays a dialogue of each (problem, name) pair; yields each Dialogue as it ends.

        inject(name, t): whether a wrong turn t of that dialogue becomes a question. seconds: see play(). protocol: see converse().
        """
        protocol["role"] = "critic" if self.args.teacher == "self" else "teacher"

        def coroutine(problem, name):
            own = inject and partial(inject, name)
            return converse(problem, name, self.chat, self.teacher_chat, self.prompts, self.args.turns, own, **protocol)

        talks = ((name, coroutine(problem, name)) for problem, name in named)
        return play(talks, self.engines, self.grader, self.args.live, seconds)


def generate(args, run, problems, setting=None, inject=None, **protocol):
    """Plays args.samples dialogues of each problem into the run folder; returns all rows of its dialogues.jsonl.

    Several processes of torchrun play a share each. setting: made of args if it is None and there is something to play.
    """
    rank, processes = world()
    done = gathered({row["id"] for row in read_jsonl(run.path / "dialogues.jsonl")})[0]  # the first one's view, before anyone writes
    names = [(p, f"{p.id}/{k}") for k in range(args.samples) for p in problems if f"{p.id}/{k}" not in done]
    if names:
        setting, mine = setting or Setting(args), names[rank::processes]
        bar = tqdm(setting.talk(mine, inject, **protocol), total=len(mine), desc="dialogues", mininterval=1, disable=rank > 0)
        solved = 0
        for tried, d in enumerate(bar, 1):
            run.append("dialogues.jsonl", [asdict(d)], own=True)
            solved += d.solved is not None
            bar.set_postfix(solved=f"{solved / tried:.2f}", refresh=False)
    gathered(None)  # until all have written
    return read_jsonl(run.path / "dialogues.jsonl")


def summary(rows, turns):
    """Counts over dialogue rows that every stage reports: a flat dict of floats."""
    dialogues = [Dialogue(**{k: r[k] for k in Dialogue.__dataclass_fields__}) for r in rows]
    n, spoken = len(dialogues), sum(d.turns for d in dialogues)
    status = Counter(s for d in dialogues for s in d.statuses)
    students = [[m["content"] for m in d.messages if m["role"] == "student"] for d in dialogues]
    later = sum(max(0, len(s) - 1) for s in students)
    return {
        **{f"solved_{t}": sum(d.solved is not None and d.solved <= t for d in dialogues) / n for t in range(1, turns + 1)},
        "turns": spoken / n,
        "questions": sum(d.questions for d in dialogues) / n,
        "cut": sum(f == "length" for d in dialogues for f in d.finishes) / spoken,
        "no_attempt": status["no attempt"] / spoken,
        "undecided": status["undecided"] / spoken,
        "failures": (status["error"] + status["timeout"]) / spoken,
        "leaks": sum(d.leaks for d in dialogues) / max(1, sum(d.turns - 1 for d in dialogues)),
        "repeats": sum(a == b for s in students for a, b in zip(s, s[1:])) / max(1, later),
    }


def main():
    parser = arguments(__doc__)
    add_arguments(parser)
    parser.add_argument("--samples", type=int, default=1, help="dialogues of each problem")
    args = parser.parse_args()
    check_arguments(args)
    problems = load_problems(args.problems, args.answers)
    run = Run(args, NEUTRAL)
    rows = generate(args, run, problems)
    result = summary(rows, args.turns)
    run.keep("metrics.jsonl", lambda row: False)
    run.append("metrics.jsonl", [{"dialogues": len(rows), **result}])
    run.say(f"{len(rows)} dialogues in {run.path}: " + ", ".join(f"{k} {v:.3f}" for k, v in result.items()))


if __name__ == "__main__":
    run_script(main)
