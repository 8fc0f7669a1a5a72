"""The shared core: advantages, the GRPO loss, token log-probs; the dialogue record; problems and verdicts.

Plain tensors and dataclasses in and out, so that each function can be copied into another project. Notation
as in the paper (arXiv 2602.16488). Shapes: G groups of g dialogues, B rows of T tokens, M student tokens.
"""

import math
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from os.path import commonprefix

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from parts import sandbox, sources
from parts.answers import boxed, equal_answers
from parts.engines import Turn, load_tokenizer, next_token_logits
from parts.leaks import holds, states
from parts.programs import check, find_program
from parts.reasoning import STARTS, STOPS, visible
from parts.runs import BadInput

# ---------------------------------------------------------------------------------------------- the objective


def advantages(rewards, normalize=True):
    """A_k = (r_k − mean) / std over the g dialogues of a problem (Eq. 3); 0 in a group of equal rewards.

    rewards: float [G, g]. std: of the population. normalize=False: no division by std (Dr. GRPO, arXiv
    2503.20783).
    """
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True, correction=0)
    # Equal rewards may differ by rounding; dividing that by a tiny std would turn noise into a signal.
    flat = std <= 1e-6 * rewards.abs().amax(dim=1, keepdim=True)
    # The inner `where` divides a flat group by 1, as 0 / 0 is NaN. The outer one sets its advantages to 0.
    scaled = centered / torch.where(flat, 1.0, std) if normalize else centered
    return torch.where(flat, 0.0, scaled)


def grpo_loss(logprobs, old_logprobs, advantage, denominator, clip=0.2, reference=None, beta=0, truncate=2):
    """The GRPO objective (Eq. 2) as a loss: a scalar, the sum over the given tokens divided by `denominator`.

    logprobs, old_logprobs, reference: float [M], log-probs of the student tokens under the trained policy,
    the sampler and the initial model. advantage: float [M], that of the token's dialogue. denominator: the
    number of tokens in the whole optimizer step, so that micro-batches do not change the gradient.

    With one update a batch the ratio is 1 up to the rounding between sampler and trainer, and this is the
    paper's formula. If another engine samples, the ratio corrects the difference, with one exception:
    clipping drops a token whose ratio is above 1 + clip where its advantage is positive, or below 1 − clip
    where it is negative. Clipping does not bound a large ratio where the advantage is negative. So no ratio
    counts for more than `truncate`.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    gain = gain * (truncate / ratio.detach()).clamp(max=1)
    if beta:
        log_ratio = reference - logprobs
        # An unbiased estimate of KL(π_θ ‖ π_ref) that is never negative. With the factor `ratio` its gradient
        # is an estimate of that KL's gradient, too. Without it, it would be that of KL(π_ref ‖ π_θ).
        gain = gain - beta * ratio * (torch.exp(log_ratio) - log_ratio - 1)
    return -gain.sum() / denominator


def sft_loss(logprobs, denominator):
    """Negative log-likelihood of the student tokens: the gradient of grpo_loss at advantage 1, ratio 1."""
    return -logprobs.sum() / denominator


def masked_logprobs(model, ids, mask, temperature=1.0, chunk_bytes=2**28):
    """log π_θ of the masked tokens, float32 [M], row by row. ids, mask: int64 [B, T], padded on the right.

    Only masked positions reach the LM head. They do so in chunks, whose logits fit in `chunk_bytes` and are
    computed again in the backward pass: with a vocabulary of 262k, the logits of all positions would need
    more memory than the weights.
    """
    # No attention mask: attention is causal, so no token sees the padding on its right.
    states = model.get_decoder()(input_ids=ids, use_cache=False)
    keep = mask[:, 1:].bool()  # [B, T − 1]: the hidden state at position t predicts token t + 1
    hidden, target = states.last_hidden_state[:, :-1][keep], ids[:, 1:][keep]  # [M, hidden], [M]
    size = max(1, chunk_bytes // (4 * model.get_output_embeddings().weight.shape[0]))

    def logprobs(hidden, target):
        logits = next_token_logits(model, hidden).float() / temperature
        return -F.cross_entropy(logits, target, reduction="none")

    # A process without any target still computes one empty chunk. That gives every weight, the head's too, a
    # gradient of 0. Otherwise FSDP would wait for it forever.
    chunks = zip(hidden.split(size), target.split(size))
    return torch.cat([checkpoint(logprobs, h, t, use_reentrant=False) for h, t in chunks])


def as_tensors(dialogues, device="cpu"):
    """(ids, mask) of Dialogues, int64 [B, T], zeros on the right. An empty list gives one untrained token."""
    dialogues = dialogues or [Dialogue("", ids=[0], mask=[0])]
    ids = pad_sequence([torch.tensor(d.ids) for d in dialogues], batch_first=True)
    mask = pad_sequence([torch.tensor(d.mask) for d in dialogues], batch_first=True)
    return ids.to(device), mask.to(device)


# ---------------------------------------------------------------------------------------- the dialogue record


@dataclass
class Dialogue:
    """Append-only record of one dialogue. `ids` holds exactly the tokens that the student read and sampled.

    ids, mask, logprobs: of equal length. mask: 1 on the tokens of student turns (end-of-turn token included).
    logprobs: the sampler's on those tokens, else 0.0. messages: [{"role": "teacher" | "student", "content"}];
    the first is the problem. statuses, finishes, knowledge: one entry per student turn: the verdict, how
    sampling ended (Turn.finish of engines.py), and the private knowledge that the teacher saw next, or None.
    The log has it for inspection; the student never sees it. solved: the turn (1…N) of the first correct
    answer, or None. limit: N, the most student turns; for a sharded problem, the number of its shards.
    injected: numbers (from 1) of the turns that the asker wrote (Q-priming). leaks: numbers of the turns
    whose reply, a hint, gave the answer away. outgrown: the dialogue ended because the next turn did not fit
    into the context.
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
    leaks: list = field(default_factory=list)
    solved: int | None = None
    outgrown: bool = False

    @classmethod
    def from_row(cls, row: dict) -> "Dialogue":
        """The dialogue in a row of dialogues.jsonl, which may have more keys; KeyError: one is missing."""
        row = {name: row[name] for name in cls.__dataclass_fields__}
        if isinstance(row["leaks"], int):  # older logs have the number of leaks, but not after which turns
            row["leaks"] = [0] * row["leaks"]
        return cls(**row)

    def add(self, role: str, text: str, ids: list[int], mask: int, logprobs: list[float] | None = None):
        """Appends a message and its tokens, all with the same mask."""
        self.messages.append({"role": role, "content": text})
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)

    def add_teacher_turn(self, ids: list[int], text: str) -> None:
        """Appends a teacher turn. ids: with the tokens that the chat template puts around it."""
        self.add("teacher", text, ids, 0)

    def add_student_turn(self, turn: Turn, text: str, verdict: "Verdict", end: int) -> None:
        """Appends a sampled turn. If it does not end with the end token `end`, that follows, with mask 0.

        So it is if the token limit cut the turn off, or if another stop token ended it.
        """
        self.add("student", text, turn.ids, 1, turn.logprobs)
        if turn.ids[-1:] != [end]:
            self.ids, self.mask, self.logprobs = self.ids + [end], self.mask + [0], self.logprobs + [0.0]
        self.finishes.append(turn.finish)
        self.statuses.append(verdict.status)
        self.knowledge.append(None)
        if verdict.correct and self.solved is None:
            self.solved = self.turns

    @property
    def succeeded(self) -> bool:
        """R = 1: it was solved, and the student kept the right answer if the teacher disputed it."""
        return self.solved is not None and self.statuses[-1] == "correct"

    @property
    def turns(self) -> int:
        """Number of student turns."""
        return len(self.statuses)

    @property
    def said(self) -> list[str]:
        """Texts of the student turns."""
        return [m["content"] for m in self.messages if m["role"] == "student"]

    @property
    def kinds(self) -> list[str]:
        """Each student turn's kind by rule: attempt, question (no attempt, but a question mark), other."""
        asks = ["question" if "?" in visible(text) else "other" for text in self.said]
        return ["attempt" if s != "no attempt" else kind for s, kind in zip(self.statuses, asks)]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, end) of each student turn in `ids`."""
        edges = [i for i, (a, b) in enumerate(zip([0, *self.mask], [*self.mask, 0])) if a != b]
        return list(zip(edges[::2], edges[1::2]))

    @property
    def hint_mask(self) -> list[int]:
        """1 on the tokens between two student turns: hints, with the tokens that the template puts around."""
        mask = [0] * len(self.mask)
        for (_, start), (end, _) in pairwise(self.spans):
            mask[start:end] = [1] * (end - start)
        return mask

    @property
    def sampled_logprobs(self) -> list[float]:
        """The sampler's log-probs of the student tokens."""
        return [p for p, m in zip(self.logprobs, self.mask) if m]


# ------------------------------------------------------------------------------------------ the chat template


class Chat:
    """A tokenizer's chat template: the tokens that open a dialogue, stand between student turns, end a turn.

    Roles alternate and there is no system role, so that any template fits. If a message contains a control
    token such as `<end_of_turn>`, it is encoded as ordinary text, so that nobody can fake a turn.
    note: a line for the user if the template rewrites earlier turns (Qwen 3 drops their reasoning; a record
    keeps turns as sampled) or contains today's date; else None.
    opened_reasoning: "<think>" if the prompt opens the reasoning of each turn, else "".
    """

    MARK, THOUGHT = "MARKER", "REASON"  # texts of the probes

    def __init__(self, tokenizer, name: str):
        """name: the model's, for messages. Raises BadInput if the template cannot be used."""
        self.tokenizer, self.name = tokenizer, name
        self.unknown, self.shown = {}, math.inf  # unknown words of the probes below are not shown
        # The probes below hide no control token: this pattern never matches.
        self.token_of, self.control = {}, re.compile("(?!)")
        if not tokenizer.chat_template:
            raise BadInput(f"{name}: has no chat template; use the instruction-tuned version of the model")
        probe = self.probe()
        _, header, rest = probe.split(self.MARK)
        self.gap = rest[: -len(rest.lstrip())]
        self.end, added = self.between("B", end=True)[0], tokenizer.added_tokens_decoder
        if self.end not in tokenizer.all_special_ids and self.end not in added:
            raise BadInput(f"{name}: its chat template ends an assistant turn with no special token")
        if self.splits_turns():
            reason = "its template gives reasoning a turn of its own, as gpt-oss does"
            raise BadInput(f"{name}: {reason}; use a model whose turn is one message")
        self.stops = sorted({self.end} | ({tokenizer.eos_token_id} - {None}))
        notes = []
        if any(self.rewrites(text) for text in ("B", "<think>\nB\n</think>\n\nB")):
            notes.append("rewrites earlier turns; here they stay as they were sampled")
        days = [self.render(messages("A"), strftime_now=lambda form, day=day: day) for day in "12"]
        if days[0] != days[1]:
            notes.append(
                "puts today's date into the prompt; resumed on another day, a run goes on with the new date"
            )
        self.note = f"note: the template of {name} {', and '.join(notes)}" if notes else None
        self.learn_reasoning(header)
        probe = self.encode(probe)
        control = sorted({t.content for i, t in added.items() if t.special or i in probe}, key=len)[::-1]
        # Each control token has a private-use character that stands for it while a message is rendered.
        self.token_of = {chr(0xF0000 + i): token for i, token in enumerate(control)}
        self.character_of = {token: character for character, token in self.token_of.items()}
        self.control = re.compile("|".join(map(re.escape, control)))
        self.unknown, self.shown = {}, 0  # words that the tokenizer does not know, and how many were shown

    def probe(self) -> str:
        """A short conversation as text. Finds out whether a message is a text or, as for SmolVLM, a list."""
        reasons = []
        for self.in_parts in (False, True):
            try:
                shown = self.render(messages(self.MARK, self.MARK, "C"))
                if shown.count(self.MARK) == 2 and f"'{self.MARK}'" not in shown:  # no list, printed as such
                    return shown
                reasons.append("it does not show each message once")
            except Exception as e:  # a template is a program and may raise anything
                reasons.append(f"{type(e).__name__}: {e}")
        raise BadInput(f"{self.name}: its template cannot alternate user and assistant ({reasons[0]})")

    def learn_reasoning(self, header: str) -> None:
        """Learns from the template what ends reasoning, and whether the prompt opens it.

        header: what the template puts before an earlier assistant turn.
        """
        # If the template drops what stands before a text in an earlier turn, that text ends reasoning.
        quoted = re.findall(r"(?<=['\"])[^'\"\\\n]{4,40}(?=['\"])", str(self.tokenizer.chat_template))
        dropped = [text for text in set(quoted) if self.drops(text)]
        self.thought_ends = [text for text in dropped if not re.search(STOPS, text)]
        # If the prompt has more before a turn than an earlier turn has, that opens reasoning.
        prompt = self.render(messages(self.MARK)).split(self.MARK)[1]
        extra, last = prompt[len(commonprefix([header, prompt])) :], re.split(STOPS, prompt)[-1]
        opens = re.search(STARTS, last) or dropped and extra.strip() and last.endswith(extra)
        self.opened_reasoning = "<think>" if opens else ""

    def rewrites(self, text: str) -> bool:
        """Whether the template shows an earlier turn differently from how it was sampled."""
        rest = self.render(messages("A", self.MARK, "C")).split(self.MARK, 1)[1]
        return self.render(messages("A")) + text + rest != self.render(messages("A", text, "C"))

    def splits_turns(self) -> bool:
        """Whether the end-of-turn token stands between the reasoning and the answer of one turn."""
        fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), self.THOUGHT)
        turn = {"role": "assistant", "content": self.MARK, **fields}
        shown = self.attempt([*messages("A"), turn], add_generation_prompt=False)
        _, _, answer = shown.rpartition(self.MARK)[0].partition(self.THOUGHT)
        return self.tokenizer.decode([self.end]) in answer

    def drops(self, text: str) -> bool:
        """Whether the template takes out of an earlier turn what stands before this text."""
        shown = self.attempt(messages("A", f"{self.THOUGHT}{text}{self.MARK}", "C"))
        return self.MARK in shown and self.THOUGHT not in shown

    def attempt(self, messages: list[dict], **kwargs) -> str:
        """As render(), but empty if the template refuses the messages."""
        try:
            return self.render(messages, **kwargs)
        except Exception:  # a template is a program and may raise anything
            return ""

    def hide(self, text: str) -> str:
        """The text with each control token replaced by its private-use character."""
        return self.control.sub(lambda match: self.character_of[match[0]], text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A hidden control token is encoded in two pieces, as ordinary text."""
        ids = []
        for part in re.split("([\U000f0000-\U000fffff])", text):
            token = self.token_of.get(part)
            for piece in (token[0], token[1:]) if token else (part,):
                ids += self.tokenizer.encode(piece, add_special_tokens=False)
        if self.tokenizer.unk_token_id in ids and self.tokenizer.is_fast:
            self.note_unknown(text)
        return ids

    def note_unknown(self, text: str) -> None:
        """Prints the words that the tokenizer does not know: the first, then whenever they have doubled."""
        unk, pieces = self.tokenizer.unk_token_id, []
        text = re.sub("[\U000f0000-\U000fffff]", " ", text)  # hidden control tokens
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"]):
            pieces.append(text[start:end] if token == unk else " ")
        self.unknown |= dict.fromkeys("".join(pieces).split())
        if len(self.unknown) >= max(1, 2 * self.shown):
            new, self.shown = list(self.unknown)[self.shown :], len(self.unknown)
            listed = " ".join(new[:30]) + " …" * (len(new) > 30)
            fact = f"unknown to the tokenizer of {self.name}, which writes {self.tokenizer.unk_token} instead"
            advice = "use other words in problems and prompts, or another model"
            tqdm.write(f"note: {fact}: {listed}; {advice}", file=sys.stderr)

    def render(self, messages: list[dict], **kwargs) -> str:
        """The conversation as text up to where the assistant speaks; hides control tokens in messages."""
        messages = [{**m, "content": self.hide(m["content"])} for m in messages]
        if self.in_parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        # Reasoning modes are switched off: the paper does not name one, and short turns fit the protocol.
        kwargs = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False} | kwargs
        return self.tokenizer.apply_chat_template(messages, **kwargs)

    def view(self, messages: list[dict]) -> list[int]:
        """Token ids of a whole conversation, up to where the assistant speaks."""
        return self.encode(self.render(messages))

    def between(self, text: str, end: bool = False) -> list[int]:
        """The template's tokens between two student turns, with the teacher's `text` among them.

        end: whether to begin with the end-of-turn token of the first.
        """
        rest = self.render(messages("A", self.MARK, text)).split(self.MARK, 1)[1]
        ids = self.encode(rest.removeprefix(self.gap))
        return ids if end else ids[1:]

    def turn(self, text: str) -> list[int]:
        """Token ids of an assistant turn with this text, end-of-turn token included."""
        return self.encode(self.hide(text) + self.gap) + [self.end]

    def text(self, ids: list[int]) -> str:
        """Text of a sampled turn without its end token, behind the <think> that the prompt may open."""
        ids = ids[:-1] if ids and ids[-1] in self.stops else ids
        text = self.opened_reasoning + self.tokenizer.decode(ids, skip_special_tokens=False)
        for end in self.thought_ends:
            text = text.replace(end, "</think>")
        return text

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each token. If a character has several, the last has it; the others are empty."""
        texts = []
        for i in range(len(ids)):
            # Some tokenizers drop a leading space, so each token is decoded behind those before it.
            before, now = (self.tokenizer.decode(ids[max(0, i - 8) : end]).rstrip("�") for end in (i, i + 1))
            texts.append(now[len(before) :])
        return texts


def messages(*texts: str) -> list[dict]:
    """Texts as messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@cache
def load_chat(path: str) -> Chat:
    """The Chat of a local folder or hub name; prints its note once. Raises EngineError or BadInput."""
    chat = Chat(load_tokenizer(path), path)
    if chat.note:
        print(chat.note, file=sys.stderr)
    return chat


# --------------------------------------------------------------------------------------------------- problems


@dataclass
class Problem:
    """One line of a problem file; parts/sources.py checks it.

    A test has the texts "input", "output" and "testtype": "stdin" (a whole program) or "functional" (a call
    of func_name, one argument a line).
    """

    id: str
    domain: str  # "math" | "code"
    prompt: str
    answer: str | None = None  # math: the right answer
    tests: list = field(default_factory=list)  # code: the tests that decide
    asserts: list = field(default_factory=list)  # code: assert statements, which decide too
    func_name: str | None = None
    public_tests: list = field(default_factory=list)  # code: for the teacher's report; else three `tests`
    solution: str | None = None
    shards: list = field(default_factory=list)  # the problem in pieces, for the sharded protocol


def load_problems(source: str, answers: str = "rule") -> list[Problem]:
    """Problems of a problem file, or of a data set NAME or NAME:PATH (parts/sources.py).

    Problems of code need a working sandbox (else SandboxError); a note tells which protections it lacks.
    """
    problems = sources.load(str(source), answers, Problem)
    if any(p.domain == "code" for p in problems) and (note := sandbox.check()):
        print(note, file=sys.stderr)
    return problems


# --------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """status: correct | wrong | error | timeout | undecided | no attempt. report: for the teacher of code."""

    status: str
    report: str = ""

    @property
    def correct(self):
        return self.status == "correct"

    @property
    def attempted(self):
        return self.status != "no attempt"


def grade(problem: Problem, turn: str) -> Verdict:
    """Verdict on a student turn: math by its last \\boxed{…}, code by the fenced block that fits best."""
    try:
        return (grade_math if problem.domain == "math" else grade_code)(problem, visible(turn))
    except Exception as e:  # a failure of the grader is no wrong answer, and must not end a run
        return Verdict("undecided", f"The answer could not be judged ({type(e).__name__}).")


def grade_math(problem, text):
    answer = boxed(text)
    if not answer:
        return Verdict("no attempt")
    equal = equal_answers(answer, problem.answer)
    return Verdict("undecided" if equal is None else "correct" if equal else "wrong")


def grade_code(problem, text):
    source = find_program(text, problem.func_name)
    if source is None:
        return Verdict("no attempt")
    return Verdict(*check(source, problem.func_name, problem.tests, problem.asserts, problem.public_tests))


def leaks(problem: Problem, hint: str, verdict: Verdict | None = None) -> int:
    """1 if a hint states the right answer (math), or holds a right program or the solution (code), else 0.

    verdict: that of grade(problem, hint), if it is known; else programs run here.
    """
    if problem.domain == "math":
        return int(states(hint, problem.answer, problem.prompt))
    return int((verdict or grade(problem, hint)).correct or holds(hint, problem.solution))
