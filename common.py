"""The shared core: advantages, the GRPO loss, token log-probs; the dialogue record; problems and verdicts.

Plain tensors and dataclasses in and out, so that each function can be copied into another project. Notation
as in the paper (arXiv 2602.16488). Shapes: G groups of g dialogues, B rows of T tokens, M student tokens.
"""

import sys
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from parts import sandbox, sources
from parts.answers import boxed, equal_answers
from parts.chat import visible
from parts.engines import Turn, next_token_logits
from parts.leaks import holds, states
from parts.programs import check, find_program

# ---------------------------------------------------------------------------------------------- the objective


def advantages(rewards, normalize=True, values=None):
    """A_k = (r_k − mean) / std over the g dialogues of a problem (Eq. 3); 0 in a group of equal rewards.

    rewards: float [G, g]. std: of the population. normalize=False: no division by std (Dr. GRPO, arXiv
    2503.20783). values: float [G, n], centered and scaled instead of the rewards, by the rewards' mean and
    std.
    """
    values = rewards if values is None else values
    centered = values - rewards.mean(dim=1, keepdim=True)
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


def masked_logprobs(model, ids, mask, temperature=1.0, chunk_bytes=2**28, **packing):
    """log π_θ of the masked tokens, float32 [M], row by row. ids, mask: int64 [B, T], padded on the right.

    Only masked positions reach the LM head. They do so in chunks, whose logits fit in `chunk_bytes` and are
    computed again in the backward pass: with a vocabulary of 262k, the logits of all positions would need
    more memory than the weights. packing: if parts/packed.py has made one row of all, where each starts.
    """
    # No attention mask: attention is causal, so no token sees the padding on its right.
    states = model.get_decoder()(input_ids=ids, use_cache=False, **packing)
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

    problem: the problem's id. ids, mask, logprobs: of equal length. mask: 1 on the tokens of student turns
    (end-of-turn token included). logprobs: the sampler's on those tokens, else 0.0. messages: [{"role":
    "teacher" | "student", "content"}]; the first is the problem. statuses, finishes, knowledge: one entry per
    student turn: the verdict, how sampling ended (Turn.finish of engines.py), and the private knowledge that
    the teacher saw next, or None. The log has it for inspection; the student never sees it. solved: the turn
    (1…N) of the first correct answer, or None. limit: N, the most student turns; for a sharded problem, the
    turn after the last shard. injected: numbers (from 1) of the turns that the asker wrote (Q-priming).
    leaks: numbers of the turns whose reply, a hint, gave the answer away. revealed: for each reply of a user
    who chooses, the index of the shard that it told, or 0 for none. outgrown: the dialogue ended because the
    next turn did not fit into the context. refused: it ended because the teacher's server or chat template
    did not take the conversation.
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
    revealed: list = field(default_factory=list)
    solved: int | None = None
    outgrown: bool = False
    refused: bool = False

    @classmethod
    def from_row(cls, row: dict) -> "Dialogue":
        """The dialogue in a row of dialogues.jsonl, which may have more keys; KeyError: one is missing."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

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
    def hints(self) -> list[str]:
        """Texts of the teacher's turns, without the problem and a dispute, which follows the right answer."""
        messages = self.messages[1 : 2 * self.solved if self.solved else None]
        return [m["content"] for m in messages if m["role"] == "teacher"]

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
        """1 on hints: the tokens between two student turns, up to the one that solved it (what follows is a
        dispute). They include those that the template puts around a hint.
        """
        mask = [0] * len(self.mask)
        for (_, start), (end, _) in pairwise(self.spans[: self.solved]):
            mask[start:end] = [1] * (end - start)
        return mask

    @property
    def sampled_logprobs(self) -> list[float]:
        """The sampler's log-probs of the student tokens."""
        return [p for p, m in zip(self.logprobs, self.mask) if m]


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
    tests: list | str = field(default_factory=list)  # code: the tests that decide, or the file of them
    asserts: list = field(default_factory=list)  # code: assert statements, which decide too
    func_name: str | None = None
    public_tests: list = field(default_factory=list)  # code: shown to the teacher; see programs.check
    public_asserts: list = field(default_factory=list)  # code: those of `asserts` that are shown to it, too
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


REPORTED = 8  # public tests whose results the teacher of code sees, at most


def grade_code(problem, text):
    source = find_program(text, problem.func_name)
    if source is None:
        return Verdict("no attempt")
    tests, public = sources.unpack(problem.tests), (problem.public_tests, problem.public_asserts)
    return Verdict(*check(source, problem.func_name, tests, problem.asserts, *public, REPORTED))


def leaks(problem: Problem, hint: str, verdict: Verdict | None = None) -> int:
    """1 if a hint states the right answer (math), or holds a right program or the solution (code), else 0.

    verdict: that of grade(problem, hint), if it is known; else programs run here.
    """
    if problem.domain == "math":
        return int(states(hint, problem.answer, problem.prompt))
    return int((verdict or grade(problem, hint)).correct or holds(hint, problem.solution))
