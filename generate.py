"""Stage 0: a student and a teacher talk about problems; the dialogues are written to OUT/dialogues.jsonl.

    python generate.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/dialogues

The function `converse` is the protocol (paper, section on the process being modelled). The functions below it
answer the student: --teacher names one of them, --teacher-model says whose model speaks it, by default a
frozen copy of the student. Each dialogue depends only on the seed and its own name, so that a killed run,
started again, writes the same dialogues (but for rounding, as its batches differ).

Chosen where the paper is silent: temperature 1 and no top-p or top-k for the student; the private knowledge
is appended to the student's latest turn in what the teacher sees; a teacher of code sees the results of all
public tests on the latest program (at most REPORTED of common.py; if none is public, those of the first three
tests and all asserts), and nothing of hidden ones; reasoning modes are off; a dialogue ends unsolved when its
next turn does not fit into the context, or when the teacher's server or chat template refuses it (a content
filter).
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import isgeneratorfunction

from jinja2 import TemplateError
from tqdm import tqdm

from common import Dialogue, Verdict, grade, leaks, load_problems
from parts import runs
from parts.chat import load_chat, visible
from parts.driver import Grade, Sample, Speaker, drive
from parts.engines import (
    Endpoint,
    HFEngine,
    Turn,
    VLLMEngine,
    is_address,
    load_model,
    transformers_engine,
    uses_vllm,
)
from parts.measures import line, summary

# ----------------------------------------------------------------------------------------------- the protocol


@dataclass
class Cast:
    """Who takes part in a dialogue, each a chat template and an engine, and the prompts by name."""

    student: Speaker
    teacher: Speaker
    asker: Speaker  # writes questions in Q-priming: the frozen initial student
    prompts: dict[str, str]

    @property
    def speakers(self) -> dict[str, Speaker]:
        """{role: Speaker}, by the roles that Sample names."""
        return {"student": self.student, "teacher": self.teacher, "asker": self.asker}


def converse(cast, problem, name, max_turns, teacher, opening=None, inject=None):
    """One dialogue, as a coroutine: yields Sample or Grade, is sent a Turn or a Verdict, returns a Dialogue.

    name: the dialogue's id; its random numbers follow from the seed and this name. max_turns: N. teacher: the
    function that answers the student (below). opening: the first shard of a sharded problem, which the
    student is shown in place of the whole; the prompt that asks for an answer then comes with the last shard,
    because it would invite early answers. inject: a function of qprime.py that may replace a wrong turn by a
    question.
    """
    chat, dialogue = cast.student.chat, Dialogue(name, problem.id, problem.domain, max_turns)
    prompt = opening or cast.prompts[problem.domain].format(problem=problem.prompt)
    dialogue.add_teacher_turn(first_view(chat, cast.prompts, prompt), prompt)  # u_1^T: the problem
    # The verdict on the latest attempt, with the report for the teacher.
    latest = Verdict("no attempt", "No program yet.")
    for t in range(1, max_turns + 1):
        turn = yield Sample("student", dialogue.ids, t)
        if turn.finish == "context":
            dialogue.outgrown = True
            break
        text = chat.text(turn.ids)
        verdict = yield Grade(problem, text)
        latest = verdict if verdict.attempted else latest
        if inject and not verdict.correct:
            # A question may replace a wrong program, which then nobody sees. The teacher still gets its test
            # report in `latest`, because the question is about it.
            question = yield from inject(cast, dialogue, problem, text, latest)
            turn, text, verdict = question or (turn, text, verdict)
        dialogue.add_student_turn(turn, text, verdict, chat.end)
        if dialogue.solved or t == dialogue.limit:
            break
        hint = yield from text_of(teacher, cast, dialogue, problem, latest)
        if hint is None:
            dialogue.outgrown = not dialogue.refused
            break
        if opening and t == dialogue.limit - 1:
            hint = cast.prompts[problem.domain].format(problem=hint)
        dialogue.add_teacher_turn(chat.between(hint), hint)
    return dialogue


def dialogue_of(cast, problem, name, args, inject=None):
    """One dialogue with --teacher, --turns and --dispute, as a coroutine. inject: as for `converse`."""
    conversation = converse(cast, problem, name, args.turns, TEACHERS[args.teacher], inject=inject)
    return disputed(cast, problem, conversation, args.dispute, args.seed)


def disputed(cast, problem, conversation, probability, seed):
    """Plays a dialogue, given as its coroutine. If it is solved, the teacher may dispute the right answer.

    It does so with the given probability, drawn from the seed and the dialogue's name. The student replies
    once. `Dialogue.succeeded` tells whether it kept its answer.
    """
    dialogue, chat = (yield from conversation), cast.student.chat
    drawn = random.Random(f"{seed}/{dialogue.id}/dispute").random() < probability
    claim = (yield from disputing(cast, dialogue, problem, None)) if dialogue.solved and drawn else None
    if claim is not None:
        dialogue.add_teacher_turn(chat.between(claim), claim)
        turn = yield Sample("student", dialogue.ids, dialogue.turns + 1)
        text = chat.text(turn.ids)
        if turn.finish != "context":
            dialogue.add_student_turn(turn, text, (yield Grade(problem, text)), chat.end)
    return dialogue


# ------------------------------------------------------------------------------------ who answers the student

# Templates of str.format by name. "student" is the student's system message; it has none by default. "math"
# and "code" show it a problem. The prompts of teachers, users and askers stand beside their functions below;
# `role` adds them here.
PROMPTS = {
    "student": "",
    "math": "{problem}\n\nReason step by step, and put your final answer in \\boxed{{}}.",
    "code": "{problem}\n\nWrite a Python program that solves this. Put the whole program in one ```python "
    "block.",
}


def first_view(chat, prompts, prompt):
    """Token ids of the student's first view: its system message, if it has one, and the problem's prompt."""
    system = prompts.get("student", "").format()
    before = [{"role": "system", "content": system}] if system else []
    try:
        return chat.view([*before, {"role": "user", "content": prompt}])
    except TemplateError as e:
        reason = f"the student's chat template refuses the problem ({runs.first_line(e)})"
        advice = "; leave the prompt 'student' empty, and say it in 'math' and 'code'" if system else ""
        raise runs.BadInput(reason + advice) from None


def text_of(teacher, cast, dialogue, problem, latest):
    """The text that a teacher answers with, or None; a coroutine, whether the teacher is one or not."""
    answer = teacher(cast, dialogue, problem, latest)
    hint = (yield from answer) if isgeneratorfunction(teacher) else answer
    if not isinstance(hint, str | None):
        reason = f"teacher {teacher.__name__} returned {hint!r}"
        advice = "it must return a text, or None; a model speaks with `return (yield from speak(…))`"
        raise runs.BadInput(f"{reason}; {advice}")
    return hint


def load_prompts(path: str | None) -> dict[str, str]:
    """PROMPTS; those that the JSON file at `path` names are replaced (None: no file). Raises BadInput."""
    fields = dict.fromkeys(PROMPTS, ())  # the fields that each template may use
    for name in PROMPTS:
        if name.endswith(("_math", "_code")):
            fields[name] = ("problem", "turn", "knowledge", "solution")
    fields |= dict.fromkeys(("math", "code"), ("problem",))
    prompts = PROMPTS | runs.read_templates(path, fields)
    for name in ("math", "code"):
        if "{problem}" not in prompts[name]:
            raise runs.BadInput(
                f"prompts file {path}, {name}: has no {{problem}}, which the student must see"
            )
    return prompts


# A teacher is a function (cast, dialogue, problem, latest) that returns the text of its turn, or None if the
# context has no room for it or its server refuses it. If a model speaks for it, it is a coroutine: `yield
# from speak(…)`. `latest` is the Verdict on the student's latest attempt; `dialogue.turns` counts the student
# turns so far. To add a teacher, write one such function under @role(…): --teacher finds it by its name. A
# view is the conversation as one role sees it.
TEACHERS, USERS, ASKERS = {}, {}, {}  # {name: function}, the choices of --teacher, --sharded and --asker


def role(registry=TEACHERS, **prompts):
    """Decorator: adds a function to `registry`, and its prompts to PROMPTS, both under the function's name.

    prompts: `opening` is the first message of the role's view. `math` and `code` are the last one, with the
    fields {turn} (the student's latest), {knowledge} (k_t, private), {problem} and {solution}.
    """

    def register(function):
        name = function.__name__
        registry[name] = function
        for key, text in prompts.items():
            PROMPTS[name if key == "opening" else f"{name}_{key}"] = text
        return function

    return register


@role(
    opening="You are a teacher. You give your student a problem and then help over several turns. After each "
    "of the student's turns you are shown, privately, what you know and the student does not. Point out what "
    "is wrong and give a hint that helps the student to find the error alone, or answer the student's "
    "question. Be brief. Never state the final answer and never write the solution. Start now by stating the "
    "problem.",
    math="{turn}\n\n[Only you can see this. The right answer is: {knowledge}\n{solution}]",
    code="{turn}\n\n[Only you can see this. Tests of the latest program:\n{knowledge}]",
)
def informed(cast, dialogue, problem, latest):
    """The paper's teacher, who has private knowledge."""
    return (yield from speak(cast, dialogue, problem, "informed", knowledge_of(problem, latest)))


@role(
    opening="You are a teacher. You give your student a problem and then help over several turns. Point out "
    "what is wrong and give a hint that helps the student to find the error alone, or answer the student's "
    "question. Be brief. Start now by stating the problem.",
    math="{turn}",
    code="{turn}",
)
def critic(cast, dialogue, problem, latest):
    """A teacher who knows no more than the student."""
    return (yield from speak(cast, dialogue, problem, "critic"))


@role(opening="Please try again.")
def mute(cast, dialogue, problem, latest):
    """Says its prompt to every turn, and nothing else: shows what retrying alone gives. No model speaks."""
    return prompt_of(cast.prompts, "mute").format()


@role()
def me(cast, dialogue, problem, latest):
    """You, at the terminal, with private knowledge. Your hints are recorded like any others."""
    dialogue.knowledge[-1] = knowledge_of(problem, latest)
    shown = dialogue.messages[:1] * (dialogue.turns == 1) + dialogue.messages[-1:]
    lines = [f"{'student' if m['role'] == 'student' else 'problem'}: {m['content']}" for m in shown]
    hint = person_says("your hint", *lines, f"only you see: {dialogue.knowledge[-1]}")
    if leaks(problem, hint):
        dialogue.leaks.append(dialogue.turns)
    return hint


@role(
    {},  # no choice of --teacher: `disputed` calls it after a right answer
    opening="You are a teacher. You give your student a problem, and when it is solved you test how sure the "
    "student is. Start now by stating the problem.",
    math="{turn}\n\n[Only you can see this. The student's answer is right. Claim, in a sentence or two, that "
    "it is wrong. Name no other answer.]",
    code="{turn}\n\n[Only you can see this. The student's program passes all tests. Claim, in a sentence or "
    "two, that it is wrong. Write no program.]",
)
def disputing(cast, dialogue, problem, latest):
    """Claims that a right answer is wrong (--dispute)."""
    return (yield from speak(cast, dialogue, problem, "disputing"))


@role(USERS)
def scripted(cast, dialogue, problem, latest):
    """The lazy user of a sharded problem, who reveals the next shard whatever the student says."""
    return problem.shards[dialogue.turns]


@role(
    USERS,
    opening="You are a user who asks an assistant for help and tells what you need bit by bit. After each of "
    "the assistant's turns you are shown, privately, what you want to tell next. Say just that, in your own "
    "words, in one short message; answer nothing else and do not tell whether the assistant is right. Start "
    "now with your request.",
    math="{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
    code="{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
)
def rephrased(cast, dialogue, problem, latest):
    """The lazy user, who says the next shard in the teacher model's own words."""
    return (yield from speak(cast, dialogue, problem, "rephrased", problem.shards[dialogue.turns]))


CHOOSE = (
    "{turn}\n\n[Only you can see this. Facts not told yet:\n{knowledge}\nWrite the number of the fact that "
    "you tell, or 0 for none, then a colon, then what you say.]"
)


@role(
    USERS,
    opening="You are a user in a hurry, who asks an assistant for help and tells only what is needed. After "
    "each of the assistant's turns you are shown, privately, the facts that you have not told yet. If one of "
    "them answers the assistant's question, or helps it on best, tell this one fact, whole, in your own "
    "words. If the assistant asks for something that is none of your facts, say that you do not know, and "
    "tell none. Never tell two facts at once, ask nothing, be brief. Start now with your request.",
    math=CHOOSE,
    code=CHOOSE,
)
def chosen(cast, dialogue, problem, latest):
    """The user of Lost in Conversation, who says the shard that fits the student's turn best, or none.

    A reply without a number tells none. After the last shard the student has one more turn.
    """
    left = {i: shard for i, shard in enumerate(problem.shards) if i and i not in dialogue.revealed}
    facts = "\n".join(f"{i}: {shard}" for i, shard in left.items())
    reply = yield from speak(cast, dialogue, problem, "chosen", facts)
    number, text = re.fullmatch(r"(?:\W*(\d{1,3})\W*?:)?(.*)", reply or "", re.S).groups()
    dialogue.revealed.append(int(number or 0))
    if left.keys() <= set(dialogue.revealed):
        dialogue.limit = dialogue.turns + 1
    return reply and text.strip()


def knowledge_of(problem, latest):
    """k_t, the private knowledge: in math the right answer, in code the test report of the latest program."""
    return problem.answer if problem.domain == "math" else latest.report


def speak(cast, dialogue, problem, role_name, knowledge=None):
    """A turn of the teacher's model with the prompts of a role, as a coroutine; None if there is none."""
    chat = cast.teacher.chat
    # For the log: the prompt without the student's turn, that is, its private part.
    dialogue.knowledge[-1] = fill(cast.prompts, role_name, problem, "", knowledge).strip() or None
    view = teacher_view(cast, dialogue, problem, role_name, knowledge)
    try:
        prompt = chat.view(view)
    except TemplateError:  # Ministral 3's template refuses an empty hint
        dialogue.refused = True
        return None
    turn = yield Sample("teacher", prompt, dialogue.turns)
    dialogue.refused = turn.finish == "refused"
    if turn.finish in ("context", "refused"):
        return None
    text = visible(chat.text(turn.ids))
    if role_name in TEACHERS:  # users and disputes give no hints
        # A program in a hint runs as the student's do: in a thread, while others are sampled.
        verdict = (yield Grade(problem, text)) if problem.domain == "code" else None
        if leaks(problem, text, verdict):
            dialogue.leaks.append(dialogue.turns)
    return text


def teacher_view(cast, dialogue, problem, role_name, knowledge):
    """s_t = (c_t, k_t): the conversation with roles swapped, the private knowledge in the last message."""
    view = [{"role": "user", "content": prompt_of(cast.prompts, role_name).format()}]
    for m in dialogue.messages:
        speaker = "assistant" if m["role"] == "teacher" else "user"
        view.append({"role": speaker, "content": visible(m["content"])})
    view[-1]["content"] = fill(cast.prompts, role_name, problem, view[-1]["content"], knowledge)
    return view


def prompt_of(prompts, name):
    """The prompt of this name. Raises BadInput if no @role(…) gives it."""
    if name not in prompts:
        advice = "give it in the @role(…) of the function that speaks"
        raise runs.BadInput(f"there is no prompt {name!r}; {advice}")
    return prompts[name]


def fill(prompts, role_name, problem, turn_text, knowledge):
    """A role's prompt for the problem's domain, with its fields filled in."""
    prompt, solution = prompt_of(prompts, f"{role_name}_{problem.domain}"), problem.solution or ""
    return prompt.format(problem=problem.prompt, turn=turn_text, knowledge=knowledge, solution=solution)


@role(
    ASKERS,
    math="A student works on this problem:\n\n{problem}\n\nThe student's attempt is wrong:\n\n{turn}\n\nThe "
    "right answer is: {knowledge}\n{solution}\n\nWrite the one question that the student should ask the "
    "teacher now to learn most about the mistake. Write only the question, in the student's voice, and do "
    "not give away the answer.",
    code="A student works on this problem:\n\n{problem}\n\nThe student's attempt is wrong:\n\n{turn}"
    "\n\nTests of the program:\n{knowledge}\n\nWrite the one question that the student should ask the "
    "teacher now to learn most about the mistake. Write only the question, in the student's voice, and "
    "write no program.",
)
def asker(cast, dialogue, problem, text, latest):
    """Writes a question in the student's voice, shown the attempt and the private knowledge (Q-priming)."""
    prompt = fill(cast.prompts, "asker", problem, visible(text), knowledge_of(problem, latest))
    view = cast.asker.chat.view([{"role": "user", "content": prompt}])
    return (yield Sample("asker", view, dialogue.turns + 1))


def person_says(what, *shown):
    """Shows texts on the terminal and returns the lines that a person writes, up to an empty one."""
    print("", *shown, f"{what}, then an empty line:", sep="\n")
    try:
        return "\n".join(iter(input, ""))
    except EOFError:  # as Ctrl-C: what was played is saved
        raise KeyboardInterrupt from None


class Person:
    """You, as the student (--model me): an engine whose turns are written at the terminal; log-probs 0."""

    batching = remote = False

    def __init__(self, chat):
        self.chat, self.pending, self.read = chat, {}, Counter()  # read: tokens shown of each conversation

    def submit(self, key, conversation, ids):
        self.pending[key] = conversation, ids

    def poll(self):
        key, (conversation, ids) = self.pending.popitem()
        new, self.read[conversation] = ids[self.read[conversation] :], len(ids)
        text = person_says("your turn", self.chat.tokenizer.decode(new, skip_special_tokens=True))
        turn = [*self.chat.encode(text), self.chat.end]
        self.read[conversation] += len(turn)
        return [(key, Turn(turn, [0.0] * len(turn), "stop"))]

    def forget(self, conversation):
        self.read.pop(conversation, None)

    def at_temperature(self, temperature, frozen=False):
        return self

    def sleep(self):
        """Frees nothing."""


# ------------------------------------------------------------------------------------------- loading the cast


def load_cast(args, model=None, training=None, user=None):
    """The Cast that the arguments name.

    model: the student's, if it is loaded already; the transformers engine then samples from it. training:
    "now" (grpo.py) if the student's weights change between dialogues, "later" (qprime.py) if a training
    follows that needs the engines' memory, else None. user: the function that answers in place of --teacher.
    If no model speaks for those who answer the student, no teacher's model is loaded.
    """
    if args.model == "me" and not args.teacher_model:
        raise runs.BadInput("--model me: you are the student; name the teacher's model with --teacher-model")
    prompts, path = load_prompts(args.prompts), args.teacher_model or args.model
    lora = args.lora if training == "now" else None
    unused = not model_speaks(args, user)
    # Teacher and student share an engine if the student's weights stay as they are, or if only an adapter
    # changes: it is switched off (frozen) while the teacher speaks.
    shared = unused or path == args.model and (training != "now" or lora)
    engines = 1 if shared or is_address(path) else 2
    memory = (0.4 if training or model else 0.85) / engines
    sleeps = bool(training and not lora)
    student = load_speaker(args, args.model, args.temperature, "--model", model, memory, sleeps, lora)
    if (training or model) and isinstance(student.engine, VLLMEngine):
        student.engine.check_class()
    engine = student.engine.at_temperature(args.teacher_temperature, frozen=bool(lora))
    same_model = Speaker(student.chat, engine)  # as the student, but at the teacher's temperature
    teacher = same_model if shared else load_speaker(args, path, args.teacher_temperature, memory=memory)
    asker = teacher if path == args.model else same_model
    return Cast(student, teacher, asker, prompts)


def model_speaks(args, user=None):
    """Whether a model answers the student: for `user`, or else for --teacher or a dispute."""
    teachers = [TEACHERS[args.teacher]] * (args.turns > 1) + [disputing] * (args.dispute > 0)
    return any(map(isgeneratorfunction, [user] if user else teachers))


def load_speaker(
    args,
    path,
    temperature,
    option="--teacher-model",
    model=None,
    memory=0.85,
    sleeps=False,
    lora=None,
    longest=None,
):
    """The Speaker of a model folder, a hub name or an endpoint.

    option: the command-line option of the path, for messages. model: if it is loaded already, for the
    transformers engine. memory: vLLM's share of the GPU. sleeps: whether the engine gives its memory to a
    trainer at times. lora: rank of the adapter that sync() will bring. longest: tokens of the longest
    dialogue, if they are known.
    """
    if is_address(path):
        endpoint = Endpoint(path, option, args.max_tokens, temperature)
        return Speaker(endpoint, endpoint)  # its chat template is the server's
    if path == "me" and option == "--model":
        chat = load_chat(args.teacher_model)
        return Speaker(chat, Person(chat))
    chat = load_chat(path)
    sampling = {
        "max_tokens": args.max_tokens,
        "temperature": temperature,
        "seed": args.seed,
        "batch": args.concurrent,
    }
    if not uses_vllm(args.engine, args.device):
        model = model or load_model(path, args.device, args.dtype, lora)
        engine = transformers_engine(model, chat.stops, **sampling)
        if option == "--model" and not isinstance(engine, HFEngine):
            slower = "reads each turn's conversation anew, which takes longer than with other classes or vLLM"
            print(f"note: the transformers engine for {type(model).__name__} {slower}", file=sys.stderr)
        return Speaker(chat, engine)
    context = 8192 + (longest or 2 * args.turns * args.max_tokens)  # a problem, and turns of both sides
    engine = VLLMEngine(
        path,
        chat.stops,
        device=args.device,
        dtype=args.dtype,
        context=context,
        memory=args.vllm_memory or memory,
        sleeps=sleeps,
        lora=lora,
        **sampling,
    )
    return Speaker(chat, engine)


# ------------------------------------------------------------------------------------------------- the script


def cast_line(args) -> str:
    """A line for the terminal: the student's model, who answers it, and whose model speaks for that."""
    user = getattr(args, "sharded", None)  # of evaluate.py
    if args.turns == 1 and not (user or args.dispute):
        return f"student: {args.model}; nobody answers it"
    answers = f"user: {user}" if user else f"teacher: {args.teacher}"
    speaks = model_speaks(args, USERS.get(user))
    model = f"spoken by {args.teacher_model or args.model}" if speaks else "without a model"
    return f"student: {args.model}; {answers}, {model}"


def play_into(run, args, problems, load: Callable, coroutine_of: Callable):
    """Plays args.samples dialogues of each problem into the run folder; returns all that it holds.

    load(): loads the Cast, if something is left to play. All processes then call it, and each plays a share.
    coroutine_of(cast, problem, name, args): that of a dialogue.
    """
    rank, processes = runs.rank_and_size()
    done = {row["id"] for row in runs.read_jsonl(run.path / "dialogues.jsonl")}
    done = runs.all_gather(done)[0]  # as the first process saw it, before any writes
    names = [(p, f"{p.id}/{k}") for k in range(args.samples) for p in problems if f"{p.id}/{k}" not in done]
    if names:
        run.say(cast_line(args))
        cast, share = load(), names[rank::processes]
        coroutines = ((name, coroutine_of(cast, p, name, args)) for p, name in share)
        playing, solved = drive(coroutines, cast.speakers, grade, args.concurrent), 0
        bar = tqdm(playing, total=len(share), desc="dialogues", mininterval=1, disable=rank > 0)
        for played, dialogue in enumerate(bar, 1):
            run.append("dialogues.jsonl", [asdict(dialogue)], all_processes=True)
            solved += dialogue.solved is not None
            bar.set_postfix(solved=f"{solved / played:.2f}", refresh=False)
        cast.student.engine.sleep()  # if a trainer follows, it needs the memory
    runs.barrier()  # until all have written
    return [Dialogue.from_row(row) for row in runs.read_jsonl(run.path / "dialogues.jsonl")]


def main():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(
        parser, TEACHERS, turns=4, max_tokens=1024, temperature=1.0, teacher_temperature=1.0, seed=0
    )
    parser.add_argument("--samples", type=runs.COUNT, default=1, help="dialogues of each problem")
    args = parser.parse_args()
    runs.set_up(args)
    problems, run = load_problems(args.problems, args.answers), runs.Run(args)
    dialogues = play_into(run, args, problems, lambda: load_cast(args), dialogue_of)
    result = {"dialogues": len(dialogues), **summary(dialogues, args.turns)}
    run.keep("metrics.jsonl", lambda row: False)  # keeps no row: a resumed run measures all its dialogues
    run.append("metrics.jsonl", [result])
    run.say(f"{run.path}: {line(result)}")


if __name__ == "__main__":
    runs.run_script(main)
