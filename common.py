"""The shared core: problems, prompts, verdicts, chat template, dialogue record, log-probs, the GRPO loss.

Plain tensors and dataclasses in and out, so that each function can be copied into another project. Notation
as in the paper (arXiv 2602.16488). Shapes: G groups of g dialogues, B rows of T tokens, M student tokens.
"""

import json
import re
import sys
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from parts import sandbox, sources
from parts.answers import boxed, equal_answers
from parts.engines import Turn, next_token_logits
from parts.programs import check, find_program
from parts.runs import BadInput, read_templates

# --------------------------------------------------------------------------------------------------- problems


@dataclass
class Problem:
    """One problem line. Tests are {"input", "output", "testtype": "stdin" | "functional"} dicts of texts."""

    id: str
    domain: str  # "math" | "code"
    prompt: str
    answer: str | None = None  # math: the right answer
    tests: list = field(default_factory=list)  # code: what decides
    asserts: list = field(default_factory=list)  # code: assert statements that decide too
    func_name: str | None = None
    public_tests: list = field(default_factory=list)  # code: for the teacher; if none, the first of `tests`
    solution: str | None = None
    shards: list = field(default_factory=list)  # the problem in pieces, for the sharded protocol

    def __post_init__(self):
        """Raises ValueError with the reason if the line does not describe a problem that can be graded."""

        def need(holds, told):
            if not holds:
                raise ValueError(told)

        def is_text(value):
            return isinstance(value, str) and bool(value.strip())

        need(self.domain in ("math", "code"), f"domain is {self.domain!r}; use 'math' or 'code'")
        for name in ("id", "prompt"):
            need(is_text(getattr(self, name)), f"{name!r} must be a text that is not empty")
        for name in ("answer", "func_name", "solution"):
            need(isinstance(getattr(self, name), str | None), f"{name!r} must be a text, or left out")
        for name in ("tests", "asserts", "public_tests", "shards"):
            need(isinstance(getattr(self, name), list), f"{name!r} must be a list")
        need(all(map(is_text, self.asserts + self.shards)), "each of 'asserts' and 'shards' must be a text")
        tests = self.tests + self.public_tests
        for test in tests:
            fields = isinstance(test, dict) and {"input", "output", "testtype"} <= test.keys()
            need(fields, "each test needs 'input', 'output' and 'testtype'")
            need(all(isinstance(test[k], str) for k in ("input", "output")), "a test's fields must be texts")
            kind = test["testtype"]
            need(kind in ("stdin", "functional"), f"testtype is {kind!r}; use 'stdin' or 'functional'")
        if self.domain == "math":
            need(is_text(self.answer), "a math problem needs 'answer', a text that is not empty")
        else:
            calls = self.asserts or any(test["testtype"] == "functional" for test in tests)
            need(self.tests or self.asserts, "a code problem needs 'tests' or 'asserts'")
            need(not calls or is_text(self.func_name), "functional tests and asserts need 'func_name'")
        json.dumps(asdict(self), ensure_ascii=False).encode()  # a lone surrogate is a ValueError too


def load_problems(source: str, answers: str = "rule") -> list[Problem]:
    """Problems of a file of problem lines, or of a data set, NAME or NAME:PATH: see parts/sources.py.

    Where there are problems of code, the sandbox must work (SandboxError); prints its note.
    """
    problems = sources.load(str(source), answers, Problem)
    if any(p.domain == "code" for p in problems) and (note := sandbox.check()):
        print(note, file=sys.stderr)
    return problems


# ---------------------------------------------------------------------------------------------------- prompts

# Templates of str.format. math and code show the student its {problem}. NAME opens the view of the teacher
# NAME (generate.py); NAME_math and NAME_code are its latest turn, with {problem}, {turn} (the student's
# latest), {knowledge} (k_t) and {solution}. Asker: qprime.py.
PROMPTS = {
    "math": "{problem}\n\nReason step by step, and put your final answer in \\boxed{{}}.",
    "code": "{problem}\n\nWrite a Python program that solves this. Put the whole program in one ```python "
    "block.",
    "informed": "You are a teacher. You give your student a problem and then help over several turns. "
    "After each of the student's turns you are shown, privately, what you know and the student does not. "
    "Point out what is wrong and give a hint that helps the student to find the error alone, or answer "
    "the student's question. Be brief. Never state the final answer and never write the solution. Start "
    "now by stating the problem.",
    "informed_math": "{turn}\n\n[Only you can see this. The right answer is: {knowledge}\n{solution}]",
    "informed_code": "{turn}\n\n[Only you can see this. Tests of the latest program:\n{knowledge}]",
    "critic": "You are a teacher. You give your student a problem and then help over several turns. Point "
    "out what is wrong and give a hint that helps the student to find the error alone, or answer the "
    "student's question. Be brief. Start now by stating the problem.",
    "critic_math": "{turn}",
    "critic_code": "{turn}",
    "disputing": "You are a teacher. You give your student a problem, and when it is solved you test how "
    "sure the student is. Start now by stating the problem.",
    "disputing_math": "{turn}\n\n[Only you can see this. The student's answer is right. Claim, in a "
    "sentence or two, that it is wrong. Name no other answer.]",
    "disputing_code": "{turn}\n\n[Only you can see this. The student's program passes all tests. Claim, "
    "in a sentence or two, that it is wrong. Write no program.]",
    "rephrased": "You are a user who asks an assistant for help and tells what you need bit by bit. After "
    "each of the assistant's turns you are shown, privately, what you want to tell next. Say just that, "
    "in your own words, in one short message; answer nothing else and do not tell whether the assistant "
    "is right. Start now with your request.",
    "rephrased_math": "{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
    "rephrased_code": "{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
    "asker_math": "A student works on this problem:\n\n{problem}\n\nThe student's attempt is "
    "wrong:\n\n{turn}\n\nThe right answer is: {knowledge}\n\nWrite the one question that the student "
    "should ask the teacher now to learn most about the mistake. Write only the question, in the "
    "student's voice, and do not give away the answer.",
    "asker_code": "A student works on this problem:\n\n{problem}\n\nThe student's attempt is "
    "wrong:\n\n{turn}\n\nTests of the program:\n{knowledge}\n\nWrite the one question that the student "
    "should ask the teacher now to learn most about the mistake. Write only the question, in the "
    "student's voice, and write no program.",
}


def load_prompts(path: str | None) -> dict[str, str]:
    """PROMPTS, with those replaced that the JSON file at `path` holds (None: none). Raises BadInput."""
    latest = [name for name in PROMPTS if name.endswith(("_math", "_code"))]
    fields = dict.fromkeys(PROMPTS, ()) | dict.fromkeys(latest, ("problem", "turn", "knowledge", "solution"))
    prompts = PROMPTS | read_templates(path, fields | dict.fromkeys(("math", "code"), ("problem",)))
    for name in ("math", "code"):
        if "{problem}" not in prompts[name]:
            raise BadInput(f"prompts file {path}, {name}: has no {{problem}}, which the student must see")
    return prompts


def filled(prompts: dict[str, str], role: str, problem: Problem, turn: str, knowledge: str | None) -> str:
    """The prompt of a role for a problem, with all that it may name."""
    prompt, solution = prompts[f"{role}_{problem.domain}"], problem.solution or ""
    return prompt.format(problem=problem.prompt, turn=turn, knowledge=knowledge, solution=solution)


# --------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """status: correct | wrong | error | timeout | undecided | no attempt. report: on the public tests."""

    status: str
    report: str = ""

    @property
    def correct(self):
        return self.status == "correct"

    @property
    def attempted(self):
        return self.status != "no attempt"


# What opens and ends reasoning. Square brackets only as Mistral writes them: "[Thought]" may be a heading.
THOUGHT, THOUGHT_ENDS = (
    rf"(?:(?i:<{slash}(?:seed:)?(?:think|thinking|thought|reasoning)>)|\[{slash}THINK\])"
    for slash in ("", "/")
)


def visible(text: str) -> str:
    """What the other side sees of a turn: not its reasoning, in <think> tags or before a lone </think>."""
    hidden = rf"{THOUGHT}.*?({THOUGHT_ENDS}|$)"  # $: where it was cut off inside
    return re.split(THOUGHT_ENDS, re.sub(hidden, "", text, flags=re.S))[-1].strip()


def grade(problem: Problem, turn: str) -> Verdict:
    """Verdict of a student turn: on its last \\boxed{…} in math, in code on the block that fits best."""
    try:
        return (grade_math if problem.domain == "math" else grade_code)(problem, visible(turn))
    except Exception as e:  # a fault of the grader is no wrong answer, and ends no run
        return Verdict("undecided", f"The answer could not be judged ({type(e).__name__}).")


def grade_math(problem, text):
    answer = boxed(text)
    right = equal_answers(answer, problem.answer) if answer else None
    return Verdict({True: "correct", False: "wrong"}.get(right, "undecided" if answer else "no attempt"))


def grade_code(problem, text):
    source = find_program(text, problem.func_name)
    if source is None:
        return Verdict("no attempt")
    tests = problem.tests, problem.asserts, problem.public_tests
    return Verdict(*check(source, problem.func_name, *tests))


def leaks(problem: Problem, said: str) -> int:
    """1 if a hint holds the right answer (math) or the solution (code), whatever the blanks, else 0."""
    secret = "".join(((problem.answer if problem.domain == "math" else problem.solution) or "").split())
    pattern = r"\s*".join(map(re.escape, secret))
    return int(bool(secret) and re.search(rf"(?<!\w){pattern}(?!\w)", said) is not None)


# -------------------------------------------------------------------------- chat template and dialogue record


class Chat:
    """A tokenizer's chat template: what opens a dialogue, stands between student turns, and ends a turn.

    Roles alternate and there is no system role, so any template fits. Text stays text: a control token that
    somebody writes in a message is encoded in two pieces, and forges no turn. `note` tells the user if the
    template rewrites earlier turns (Qwen 3 drops their reasoning; a record keeps turns as sampled) or dates.
    """

    MARK = "MARKER"

    def __init__(self, tokenizer, name: str):
        """name: of the model, for messages. Raises BadInput if the template cannot be used."""
        self.tokenizer, self.shown, self.control = tokenizer, {}, re.compile("(?!)")  # none, while probing
        if not tokenizer.chat_template:
            raise BadInput(f"{name}: has no chat template; use the instruction-tuned version of the model")
        if "<|channel|>" in str(tokenizer.chat_template):
            told = "speaks in channels, each a turn of its own, as gpt-oss does"
            raise BadInput(f"{name}: {told}; use a model whose turn is one message")
        try:
            probe = self.view(messages("A", "B", "C"))
        except Exception as e:  # a template is a program; whatever it raises means that it cannot be used
            reason = f"{type(e).__name__}: {e}"
            raise BadInput(f"{name}: its template cannot alternate user and assistant ({reason})") from None
        self.end, added = self.between("B", end=True)[0], tokenizer.added_tokens_decoder
        if self.end not in tokenizer.all_special_ids and self.end not in added:
            raise BadInput(f"{name}: its chat template ends an assistant turn with no special token")
        self.stops = sorted({self.end} | ({tokenizer.eos_token_id} - {None}))
        told = []
        if any(self.rewrites(said) for said in ("B", "<think>\nB\n</think>\n\nB")):
            told.append("rewrites earlier turns; here they stay as they were sampled")
        days = [self.render(messages("A"), strftime_now=lambda form, day=day: day) for day in "12"]
        if days[0] != days[1]:
            told.append("puts today's date into the prompt; on another day a run goes on with that one")
        self.note = f"note: the template of {name} {', and '.join(told)}" if told else None
        opened = self.render(messages("A")).rpartition("</think>")[2]
        self.opening = "<think>" if "<think>" in opened else ""  # of a reasoning block, in the prompt itself
        control = sorted({t.content for i, t in added.items() if t.special or i in probe}, key=len)[::-1]
        self.shown = {chr(0xF0000 + i): token for i, token in enumerate(control)}  # by its hidden character
        self.hidden = {token: character for character, token in self.shown.items()}
        self.control = re.compile("|".join(map(re.escape, control)))

    def rewrites(self, said: str) -> bool:
        """Whether the template shows an earlier turn in another way than the record does."""
        rest = self.render(messages("A", self.MARK, "C")).split(self.MARK, 1)[1]
        return self.render(messages("A")) + said + rest != self.render(messages("A", said, "C"))

    def hide(self, text: str) -> str:
        """A text with a private-use character in the place of each control token."""
        return self.control.sub(lambda match: self.hidden[match[0]], text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; of a hidden control token those of its first character and of the rest."""
        ids = []
        for part in re.split("([\U000f0000-\U000fffff])", text):
            token = self.shown.get(part)
            for piece in (token[0], token[1:]) if token else (part,):
                ids += self.tokenizer.encode(piece, add_special_tokens=False)
        return ids

    def render(self, messages: list[dict], **options) -> str:
        """The conversation as text up to where the assistant speaks, control tokens in messages hidden."""
        messages = [{**m, "content": self.hide(m["content"])} for m in messages]
        # Reasoning models are asked to answer directly: the paper leaves their mode open, short turns help.
        options |= {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return self.tokenizer.apply_chat_template(messages, **options)

    def view(self, messages: list[dict]) -> list[int]:
        """Token ids of a whole conversation up to where the assistant speaks."""
        return self.encode(self.render(messages))

    def between(self, text: str, end: bool = False) -> list[int]:
        """Token ids from after a student turn's end token (end: with it) to where the next turn starts."""
        ids = self.encode(self.render(messages("A", self.MARK, text)).split(self.MARK, 1)[1])
        return ids if end else ids[1:]

    def turn(self, text: str) -> list[int]:
        """Token ids of a turn that says `text`, its end token included."""
        return self.encode(self.hide(text)) + [self.end]

    def text(self, ids: list[int]) -> str:
        """Text of a sampled turn without its end token, with the opening of reasoning that its prompt had."""
        said = ids[:-1] if ids and ids[-1] in self.stops else ids
        return self.opening + self.tokenizer.decode(said, skip_special_tokens=False)


def messages(*texts: str) -> list[dict]:
    """Texts as messages of user and assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def load_chat(path: str) -> Chat:
    """The Chat of a local folder or hub name; prints its note. Raises BadInput if there is none."""
    from transformers import AutoTokenizer

    try:
        chat = Chat(AutoTokenizer.from_pretrained(path), path)
    except (OSError, ValueError, KeyError) as e:
        told = f"model {path}: cannot be loaded ({str(e).splitlines()[0]})"
        raise BadInput(f"{told}; give a transformers folder or a hub name") from None
    if chat.note:
        print(chat.note, file=sys.stderr)
    return chat


@dataclass
class Dialogue:
    """Append-only record of one dialogue. `ids` is exactly what the student was fed and what it sampled.

    ids, mask, logprobs: equally long; mask is 1 on tokens of student turns (end tokens included), logprobs
    the sampler's there, 0.0 elsewhere. messages: [{"role": "teacher" | "student", "content"}], starting with
    the problem. statuses, finishes, knowledge: one per student turn; knowledge is what the teacher was
    privately shown after it, None where nothing (it is for the reader of a log, in no view of the student's).
    solved: the turn (1…N) of the right answer, or None. limit: N, for a sharded problem the number of its
    shards. injected: student turns that the asker wrote (Q-priming). leaks: hints that hold the answer.
    outgrown: the dialogue ended because the model's context had no room for the next turn.
    """

    id: str
    problem: str = ""
    domain: str = "math"
    limit: int = 1
    messages: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    mask: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    finishes: list = field(default_factory=list)
    injected: list = field(default_factory=list)
    knowledge: list = field(default_factory=list)
    leaks: int = 0
    solved: int | None = None
    outgrown: bool = False

    @classmethod
    def from_row(cls, row: dict) -> "Dialogue":
        """The dialogue of a row of dialogues.jsonl, which may hold more. KeyError: a field is missing."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def add(self, role: str, text: str, ids: list[int], mask: int, logprobs: list[float] | None = None):
        """Appends a message and its tokens, all with the same mask."""
        self.messages.append({"role": role, "content": text})
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)

    def hear(self, ids: list[int], text: str) -> None:
        """Appends what the teacher said: the ids that the chat template puts there."""
        self.add("teacher", text, ids, 0)

    def say(self, turn: Turn, text: str, verdict: Verdict, end: int) -> None:
        """Appends a sampled turn; one that the token limit cut off gets an end token that is not trained."""
        self.add("student", text, turn.ids, 1, turn.logprobs)
        if turn.finish == "length":
            self.ids, self.mask, self.logprobs = self.ids + [end], self.mask + [0], self.logprobs + [0.0]
        self.finishes.append(turn.finish)
        self.statuses.append(verdict.status)
        self.knowledge.append(None)
        if verdict.correct and self.solved is None:
            self.solved = self.turns

    @property
    def turns(self) -> int:
        """Number of student turns."""
        return len(self.statuses)

    @property
    def said(self) -> list[str]:
        """What the student said, turn by turn."""
        return [m["content"] for m in self.messages if m["role"] == "student"]

    @property
    def kinds(self) -> list[str]:
        """The kind of each student turn by rule: attempt, question (no attempt, a question mark), other."""
        asks = ["question" if "?" in visible(text) else "other" for text in self.said]
        return ["attempt" if s != "no attempt" else kind for s, kind in zip(self.statuses, asks)]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where the student's turns stand in `ids`: (start, end) each, in the order of the turns."""
        edges = [i for i, (a, b) in enumerate(zip([0, *self.mask], [*self.mask, 0])) if a != b]
        return list(zip(edges[::2], edges[1::2]))

    @property
    def sampled_logprobs(self) -> list[float]:
        """The sampler's log-probs of the student tokens."""
        return [p for p, m in zip(self.logprobs, self.mask) if m]


# ---------------------------------------------------------------------------------------------- the objective


def masked_logprobs(model, ids, mask, temperature=1.0, chunk_bytes=2**28):
    """log π_θ of the masked tokens, float32 [M], row by row. ids, mask: int64 [B, T], padded on the right.

    Only masked positions reach the LM head, in chunks whose logits fit in `chunk_bytes` and are recomputed in
    the backward pass: with a vocabulary of 262k, logits of all positions would need more memory than weights.
    """
    states = model.get_decoder()(input_ids=ids, use_cache=False)  # causal: nobody attends to right padding
    keep = mask[:, 1:].bool()
    hidden, target = states.last_hidden_state[:, :-1][keep], ids[:, 1:][keep]  # [M, hidden], [M]
    size = max(1, chunk_bytes // (4 * model.get_output_embeddings().weight.shape[0]))

    def logprobs(hidden, target):
        logits = next_token_logits(model, hidden).float() / temperature
        return -F.cross_entropy(logits, target, reduction="none")

    # Without a target there is one empty chunk: a process that has nothing to train on has gradients of 0, of
    # the head too, and FSDP waits for those of all processes.
    chunks = zip(hidden.split(size), target.split(size))
    return torch.cat([checkpoint(logprobs, h, t, use_reentrant=False) for h, t in chunks])


def advantages(rewards, normalise=True):
    """A_k = (r_k − mean) / std over the g dialogues of a problem (Eq. 3); 0 if all are equal.

    rewards: float [G, g]. std: of the population. normalise=False: without it (Dr. GRPO, arXiv 2503.20783).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True, correction=0)
    # Equal rewards may differ by rounding; dividing by that would make noise a signal.
    flat = std <= 1e-6 * rewards.abs().amax(dim=1, keepdim=True)
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, std) if normalise else centred)


def grpo_loss(logprobs, old_logprobs, advantage, denominator, clip=0.2, reference=None, beta=0, truncate=2):
    """The GRPO objective (Eq. 2) as a loss: a scalar, the sum over the given tokens divided by `denominator`.

    logprobs, old_logprobs, advantage, reference: float [M], one entry per student token: current,
    sampling-time and reference log-probs and the advantage of the token's dialogue. The denominator is the
    number of tokens in the whole optimiser step, so that the gradient does not depend on its micro-batches.
    With one update a batch the ratio is 1 up to the rounding between sampler and trainer, and this is the
    paper's formula; where another engine samples, the ratio corrects what remains, and no token weighs more
    than `truncate` (the clip alone does not bound the ratio where the advantage is negative).
    """
    ratio = torch.exp(logprobs - old_logprobs)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    gain = gain * (truncate / ratio.detach()).clamp(max=1)
    if beta:
        log_ratio = reference - logprobs
        # an unbiased estimate of KL(π_θ ‖ π_ref) that is never negative
        gain = gain - beta * (torch.exp(log_ratio) - log_ratio - 1)
    return -gain.sum() / denominator


def sft_loss(logprobs, denominator):
    """Negative log-likelihood of the student's tokens: in gradient, grpo_loss at advantage 1, on-policy."""
    return -logprobs.sum() / denominator


def as_tensors(dialogues: list[Dialogue], device="cpu"):
    """(ids, mask) of dialogues, int64 [B, T], zeros on the right; of none: one token that is not trained."""
    dialogues = dialogues or [Dialogue("", ids=[0], mask=[0])]
    rows = [torch.tensor(d.ids) for d in dialogues], [torch.tensor(d.mask) for d in dialogues]
    return tuple(pad_sequence(own, batch_first=True).to(device) for own in rows)
