"""Stage 0: a student and a teacher talk about problems; the dialogues are written to OUT/dialogues.jsonl.

    python generate.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/dialogues

The protocol (paper, section on the process being modelled) is the function `converse`; who answers the
student is a function beside it, spoken by a frozen copy of the student or by the model of --teacher. The same
command goes on where it was killed: each dialogue depends only on the seed and its own name.

Chosen where the paper is silent: temperature 1 and full distributions for the student; the private knowledge
stands with the student's latest turn; a teacher of code sees the report of the public tests on the latest
program; reasoning modes are off; a dialogue that the model's context has no room for ends there, unsolved.
"""

from dataclasses import asdict
from functools import partial

from tqdm import tqdm

from common import Dialogue, Verdict, filled, grade, leaks, load_chat, load_problems, load_prompts, visible
from parts import runs
from parts.driver import Grade, Sample, Speaker, drive
from parts.engines import Endpoint, HFEngine, VLLMEngine, is_address, load_model, uses_vllm
from parts.measures import line, summary

# ----------------------------------------------------------------------------------------------- the protocol


def converse(problem, name, chat, teacher, prompts, turns, opening=None, inject=None):
    """One dialogue, as a coroutine: yields Sample or Grade, is sent a Turn or a Verdict, returns a Dialogue.

    chat: the student's. teacher(dialogue, problem, latest): the coroutine that answers the student. turns: N.
    opening: what is told of the problem at first, if not all. inject(dialogue, problem, text, latest): the
    coroutine that may put a question in the place of a turn with R = 0 (qprime.py). `latest`: verdict on the
    latest attempt. If a question took its place, the teacher of code still sees that program's tests, as the
    question is about it, though the program itself is in nobody's view.
    """
    d = Dialogue(name, problem.id, problem.domain, turns)
    statement = prompts[problem.domain].format(problem=opening or problem.prompt)
    d.hear(chat.view([{"role": "user", "content": statement}]), statement)  # u_1^T is the problem
    latest = Verdict("no attempt", "No program yet.")
    for t in range(1, turns + 1):
        turn = yield Sample("student", d.ids, t)
        if turn.finish == "context":
            d.outgrown = True
            break
        text = chat.text(turn.ids)
        verdict = yield Grade(problem, text)
        latest = verdict if verdict.attempted else latest
        if inject and not verdict.correct:
            turn, text, verdict = (yield from inject(d, problem, text, latest)) or (turn, text, verdict)
        d.say(turn, text, verdict, chat.end)
        if d.solved or t == turns:
            break
        said = yield from teacher(d, problem, latest)
        if said is None:
            d.outgrown = True
            break
        d.hear(chat.between(said), said)
    return d


def knowledge_of(problem, latest):
    """k_t, the private knowledge: in math the right answer, in code the tests of the latest program."""
    return problem.answer if problem.domain == "math" else latest.report


def informed(dialogue, problem, latest, tell):
    """The paper's teacher, who has private knowledge."""
    return (yield from tell(dialogue, problem, "informed", knowledge_of(problem, latest)))


def critic(dialogue, problem, latest, tell):
    """A teacher who knows no more than the student."""
    return (yield from tell(dialogue, problem, "critic"))


TEACHERS = {None: informed, "informed": informed, "critic": critic, "self": critic}  # by --teacher


def disputing(dialogue, problem, latest, tell):
    """Claims that a right answer is wrong (evaluate.py --dispute)."""
    return (yield from tell(dialogue, problem, "disputing"))


def scripted(dialogue, problem, latest, tell):
    """The lazy user of a sharded problem, who reveals the next piece whatever the student says."""
    yield from ()  # a coroutine that samples nothing
    return problem.shards[dialogue.turns]


def rephrased(dialogue, problem, latest, tell):
    """The lazy user, who says the next piece in the teacher model's own words."""
    return (yield from tell(dialogue, problem, "rephrased", problem.shards[dialogue.turns]))


def tell(dialogue, problem, role, knowledge=None, *, chat, prompts):
    """A turn of the teacher's model in a role, as a coroutine; None if the context has no room for it."""
    dialogue.knowledge[-1] = filled(prompts, role, problem, "", knowledge).strip() or None
    view = teacher_view(dialogue, problem, role, knowledge, prompts)
    turn = yield Sample("teacher", chat.view(view), dialogue.turns)
    if turn.finish == "context":
        return None
    said = visible(chat.text(turn.ids))
    dialogue.leaks += leaks(problem, said) if role not in ("rephrased", "disputing") else 0  # of hints alone
    return said


def teacher_view(dialogue, problem, role, knowledge, prompts):
    """s_t = (c_t, k_t): the conversation with roles swapped, the private knowledge with the latest turn."""
    view = [{"role": "user", "content": prompts[role].format()}]
    for m in dialogue.messages:
        speaker = "assistant" if m["role"] == "teacher" else "user"
        view.append({"role": speaker, "content": visible(m["content"])})
    view[-1]["content"] = filled(prompts, role, problem, view[-1]["content"], knowledge)
    return view


# --------------------------------------------------------------------------------------------- who takes part


def load_speaker(
    args, path, temperature, model=None, memory=0.85, sleeps=False, option="--teacher", lora=None, talk=None
):
    """The Speaker of a folder, a hub name or an endpoint.

    model: samples in the place of the folder's, where vLLM does not. memory: share of the GPU's for vLLM.
    sleeps: whether the engine gives it to the trainer at times. option: that named the path, for messages.
    lora: rank of the adapter that sync() will bring. talk: tokens of the longest dialogue, if it is known.
    """
    if is_address(path):
        away = Endpoint(path, option, args.max_tokens, temperature)
        return Speaker(away, away)
    chat = load_chat(path)
    how = {"max_tokens": args.max_tokens, "temperature": temperature, "seed": args.seed, "batch": args.live}
    if not uses_vllm(args.engine, args.device):
        model = model or load_model(path, args.device, args.dtype, lora)
        return Speaker(chat, HFEngine(model, chat.stops, **how))
    room = 8192 + (talk or 2 * args.turns * args.max_tokens)  # a problem, and turns of both sides
    where = {"device": args.device, "dtype": args.dtype, "memory": args.vllm_memory or memory}
    return Speaker(chat, VLLMEngine(path, chat.stops, context=room, sleeps=sleeps, lora=lora, **how, **where))


def teacher_of(args):
    """(model that teaches, its function) that --teacher asks for."""
    own = args.teacher in TEACHERS
    return (args.model, TEACHERS[args.teacher]) if own else (args.teacher, informed)


def load_speakers(args, model=None, trains=None):
    """{role: Speaker} of student (model: see load_speaker), teacher and asker.

    trains: "now" if the student's weights will change: then a frozen teacher needs weights of its own, or
    speaks without the adapter of LoRA. "later" if the speakers will have to make room for the trainer.
    """
    path, _ = teacher_of(args)
    lora = args.lora if trains == "now" else None
    alone = path == args.model and (trains != "now" or lora)
    engines = 1 if alone or is_address(path) else 2
    memory = (0.4 if trains or model else 0.85) / engines
    how = {"memory": memory, "sleeps": bool(trains and not lora), "option": "--model", "lora": lora}
    student = load_speaker(args, args.model, args.temperature, model, **how)
    base = student.engine.at_temperature(args.teacher_temperature, frozen=bool(lora))
    same = Speaker(student.chat, base)
    teacher = same if alone else load_speaker(args, path, args.teacher_temperature, memory=memory)
    return {"student": student, "teacher": teacher, "asker": teacher if path == args.model else same}


def bind(teacher, speakers, prompts):
    """A teacher's function that speaks through the teacher's model."""
    return partial(teacher, tell=partial(tell, chat=speakers["teacher"].chat, prompts=prompts))


def start(args, inject=None, **how):
    """(speakers, function (problem, name) → coroutine of the dialogue). inject: see converse, but unbound."""
    speakers, prompts = load_speakers(args, **how), load_prompts(args.prompts)
    chat, teacher = speakers["student"].chat, bind(teacher_of(args)[1], speakers, prompts)
    inject = inject and partial(inject, chat=chat, prompts=prompts)
    given = {"chat": chat, "teacher": teacher, "prompts": prompts, "turns": args.turns, "inject": inject}
    return speakers, partial(converse, **given)


# ------------------------------------------------------------------------------------------------- the script


def play_into(run, args, problems, start, then_sleep=False):
    """Plays args.samples dialogues of each problem into the run folder; returns all that it holds.

    start(): as above, called by all processes together if something is left to play; each plays a share.
    then_sleep: whether the student's engine gives its memory back afterwards.
    """
    rank, processes = runs.rank_and_size()
    done = {row["id"] for row in runs.read_jsonl(run.path / "dialogues.jsonl")}
    done = runs.gathered(done)[0]  # as the first process saw it, before anyone writes
    names = [(p, f"{p.id}/{k}") for k in range(args.samples) for p in problems if f"{p.id}/{k}" not in done]
    if names:
        (speakers, dialogue_of), mine = start(), names[rank::processes]
        playing = drive(((name, dialogue_of(p, name)) for p, name in mine), speakers, grade, args.live)
        bar, solved = tqdm(playing, total=len(mine), desc="dialogues", mininterval=1, disable=rank > 0), 0
        for tried, d in enumerate(bar, 1):
            run.append("dialogues.jsonl", [asdict(d)], own=True)
            solved += d.solved is not None
            bar.set_postfix(solved=f"{solved / tried:.2f}", refresh=False)
        if then_sleep:
            speakers["student"].engine.sleep()
    runs.barrier()  # until all have written
    return [Dialogue.from_row(row) for row in runs.read_jsonl(run.path / "dialogues.jsonl")]


def main():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(parser)
    parser.add_argument("--samples", type=runs.COUNT, default=1, help="dialogues of each problem")
    args = parser.parse_args()
    runs.settle(args)
    problems, run = load_problems(args.problems, args.answers), runs.Run(args)
    dialogues = play_into(run, args, problems, partial(start, args))
    result = {"dialogues": len(dialogues), **summary(dialogues, args.turns)}
    run.keep("metrics.jsonl", lambda row: False)
    run.append("metrics.jsonl", [result])
    run.say(f"{run.path}: {line(result)}")


if __name__ == "__main__":
    runs.run_script(main)
