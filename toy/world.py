"""The toy world: its problems, its tokens, and the documents that the toy base model is trained on.

Not part of the method. A tiny model solves some of these problems at once and can solve all in a dialogue.

    math   x + y mod 1000. Up to two digits are unreadable (`?`), so the problem alone leaves up to 100
           possible answers.
    code   Which three items does f pick from a list of ten? The problem shows one example. A picked letter
           that occurs once in the list is certain. One letter occurs six times; up to two picks are this
           letter, and so ambiguous. The solution is a Python function, which is executed.

An answer has three slots of ten values. Each value of each slot is a single token (438 is `400+30+8`), so the
model must learn to use a hint, but not to spell. The rest of the kit knows nothing of this world: it reads
ordinary problem lines, an ordinary prompts file, and an ordinary `transformers` folder.

The teacher has three kinds of reply:

    to an attempt                  a hint     `1st is 4, 2nd not 3, 3rd is 8.`
    to a question, `Which 2nd?`    a range    `2nd 3 or 4.`, one of which is right
    if it cannot answer                       `Please try.`

A hint says little about a wrong slot and a range says much, so a question can be worth its turn. We chose
this on purpose: otherwise questions could not pay. Both domains have the same hints and ranges, so that using
them is one skill.
"""

import itertools
import json
import random
import zlib
from dataclasses import dataclass, field, replace

SLOT_NAMES = ("1st", "2nd", "3rd")
LETTERS = "abcde"
AMBIGUOUS = (0.25, 0.50, 0.25)  # shares of problems with 0, 1, 2 unreadable digits or ambiguous picks
HINTS = ("values", "slots", "words")  # forms of hints, see World.hints
HABITS = {"attentive": 0.25, "repeats": 0.50, "afresh": 0.25}  # of default students, see conversation()


@dataclass(frozen=True)
class World:
    """What the documents depend on. The default is the shipped world; worlds.py draws others."""

    number: int = 0  # 0: the shipped world, the only one with careful students; -1: SKILLS
    habits: dict = field(default_factory=HABITS.copy)  # shares of default students
    sharded_habits: dict = field(default_factory=HABITS.copy)  # the same in sharded documents
    habit_lasts: str = "document"  # or `problem`: another in the second problem of a pair; or `turn`
    moves_to: str = "next"  # an attentive student's revision: the next possible answer, or `any` of them
    first_slip: float = 0.3  # probability of a random value in a default student's first attempt
    slip: float = 0.05  # the same in revisions, of attentive and careful students; if sharded, of all
    asks: tuple = (0.01, 0.003)  # probability that a turn is a question: first attentive students, others
    sharded_asks: tuple = (0.2, 0.0)  # the same in sharded documents, while the answer is open
    hints: str = "values"  # or `slots`: `1st ok, 2nd wrong, 3rd ok.`; or `words`: `ok wrong ok.`
    shares: dict = field(default_factory=dict)  # of documents in the last lesson, by kind; empty: LESSONS

    def hint(self, attempt, right):
        """Tokens of the hint on an attempt. right: for each slot, whether its value is right."""
        if self.hints == "values":
            return [HINT[s][right[s]][attempt[s]] for s in range(3)]
        table = OK if self.hints == "slots" else OK_WORD
        return [table[s][right[s]] for s in range(3)]

    def habit(self, rng, habits=None):
        """The habit of a random student. habits: its shares, by default those of full problems."""
        habits = habits or self.habits
        return rng.choices(list(habits), list(habits.values()))[0]


SHIPPED = World()
SKILLS = World(number=-1)  # teaches the skills with which the bases of all drawn worlds start

# Tables of tokens, by slot (ITEM: by position in the list) and by value or letter.
# OPERAND `6h ` (hundreds, tens, units); DIGIT `400+`; ITEM `x[0]=c, `; PICKED `f(x)[0]=e, `; INDEX `[x[6], `;
# VALUE `[6, ` (in test reports); HINT by slot, then wrong or right, then value: `1st not 9, `.
OPERAND = [{v: f"{v}{unit}" for v in (*range(10), "?")} for unit in ("h ", "t ", "u")]
DIGIT = [[f"{v}00+" for v in range(10)], [f"{v}0+" for v in range(10)], [f"{v}" for v in range(10)]]
ITEM = [{c: f"x[{i}]={c}, " for c in LETTERS} for i in range(10)]
PICKED = [{c: f"f(x)[{s}]={c}" + (", ", ", ", ".")[s] for c in LETTERS + "?"} for s in range(3)]
INDEX = [[f"[x[{v}], " for v in range(10)], [f"x[{v}], " for v in range(10)], [f"x[{v}]]" for v in range(10)]]
VALUE = [[f"[{v}, " for v in range(10)], [f"{v}, " for v in range(10)], [f"{v}]" for v in range(10)]]
HINT = [
    [[f"{name} {verb} {v}{end}" for v in range(10)] for verb in ("not", "is")]
    for name, end in zip(SLOT_NAMES, (", ", ", ", "."))
]
# Hints of drawn worlds, by slot, then wrong or right.
OK = [[f"{name} {word}{end}" for word in ("wrong", "ok")] for name, end in zip(SLOT_NAMES, (", ", ", ", "."))]
OK_WORD = [[f"{word}{end}" for word in ("wrong", "ok")] for end in (" ", " ", ".")]
RANGE = [[f"{name} {v} or {v + 1}." for v in range(9)] for name in SLOT_NAMES]
QUESTION = [f"Which {name}?" for name in SLOT_NAMES]
PROBE = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
BOX, UNBOX, FENCE, UNFENCE = "\\boxed{", "}", "```python\ndef f(x): return ", "\n```"
COMPUTE, PLUS, MOD, WRITE, THEN = "Compute ", " plus ", " mod 1000.", "Write f. If ", "then "
FACT = ["first number: ", "second number: "]
TRY, TEACH, ASK, ANSWER, CAREFUL = "Please try.", "Teach.", "Ask.", " Answer: ", "careful"
# A test report as parts/programs.py writes it, in pieces that are tokens.
RETURNED, EXPECTED, TESTED, UNTESTED = (
    f" Test 1: f({PROBE}) returned ",
    ", expected ",
    ".",
    " No program yet.",
)
PROMPTS = {
    "math": "{problem}",
    "code": "{problem}",
    "informed": TEACH,
    "informed_math": "{turn}" + ANSWER + "{knowledge}",
    "informed_code": "{turn} {knowledge}",
    "critic": TEACH,
    "critic_math": "{turn}",
    "critic_code": "{turn}",
    "mute": TRY,
    # A teacher that is shown a false answer disputes a right one. The false answer is fixed: in math most of
    # its values differ from the student's; in code the teacher disputes values that the student never gave.
    "disputing": TEACH,
    "disputing_math": "{turn}" + ANSWER + "".join(DIGIT[s][v] for s, v in enumerate((0, 9, 0))),
    "disputing_code": "{turn}"
    + RETURNED
    + "".join(VALUE[s][0] for s in range(3))
    + EXPECTED
    + "".join(VALUE[s][9] for s in range(3))
    + TESTED,
    "asker_math": ASK + "{problem}{turn}" + ANSWER + "{knowledge}",
    "asker_code": ASK + "{problem}{turn} {knowledge}",
}
SPECIAL = ["<pad>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def words(world=SHIPPED):
    """All tokens except the special ones. Drawn worlds, and SKILLS, also have tokens for other hints."""
    tables = (
        [t.values() for t in OPERAND + ITEM + PICKED]
        + DIGIT
        + INDEX
        + VALUE
        + [hints for slot in HINT for hints in slot]
        + RANGE
        + [QUESTION, FACT]
    )
    singles = [BOX, UNBOX, FENCE, UNFENCE, COMPUTE, PLUS, MOD, WRITE, THEN]
    singles += [TRY, TEACH, ASK, ANSWER, CAREFUL, RETURNED, EXPECTED, TESTED, UNTESTED]
    others = list(dict.fromkeys(word for slot in OK + OK_WORD for word in slot)) if world.number else []
    return [word for table in tables for word in table] + singles + others


def features(world=SHIPPED):
    """{token: its features}, such as a kind, a slot, a value or a letter. Other tokens have none.

    Tokens with a common feature get similar embeddings at the start (make_base.new_model).
    """
    shared = {}
    for s in range(3):
        for kind, table in (("digit", DIGIT), ("index", INDEX), ("value", VALUE)):
            shared |= {word: (kind, f"slot {s}", f"value {v}") for v, word in enumerate(table[s])}
        shared |= {
            word: ("range", f"slot {s}", f"value {v}", f"value {v + 1}") for v, word in enumerate(RANGE[s])
        }
        shared |= {word: ("picked", f"slot {s}", f"letter {c}") for c, word in PICKED[s].items()}
        for right, hints in enumerate(HINT[s]):
            shared |= {word: (f"right {right}", f"slot {s}", f"value {v}") for v, word in enumerate(hints)}
        shared |= {QUESTION[s]: ("question", f"slot {s}")}
        shared |= {word: (f"right {right}", f"slot {s}") for right, word in enumerate(OK[s])}
        shared |= {word: (f"right {right}",) for right, word in enumerate(OK_WORD[s])}
        if world.number:  # without it some bases did not learn to add all three digits
            shared |= {OPERAND[s][v]: ("operand", f"slot {s}", f"value {v}") for v in range(10)}
    for i, table in enumerate(ITEM):
        shared |= {word: ("item", f"value {i}", f"letter {c}") for c, word in table.items()}
    return shared


def tokenizer(world=SHIPPED):
    """A `transformers` tokenizer of whole words; a character outside the vocabulary becomes `<unk>`."""
    import re

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(SPECIAL + words(world))}
    assert len(vocab) == len(SPECIAL) + len(words(world)), "two tokens with the same text"
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    longest_first = sorted(words(world), key=len, reverse=True)
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join(map(re.escape, longest_first)) + r"|[\s\S]"), "isolated"
    )
    core.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:5],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


@dataclass
class Toy:
    """One problem. Texts and facts are lists of tokens; an answer or candidate is a tuple of three digits."""

    domain: str
    text: list  # the problem statement; unknown parts are `?`
    answer: tuple
    candidates: list  # all answers that the text allows; an answer may occur several times
    facts: list  # of a sharded problem: one is revealed a turn; all together leave one answer
    candidates_after: list  # for each fact: the candidates that remain after it
    full_text: list  # the problem statement with all facts filled in

    def held_out(self):
        """Whether the problem is a test problem: one in ten is, and the base model is never trained on it."""
        return zlib.crc32("".join(self.text).encode()) % 10 == 0


def last_digits(total):
    """The last three digits of a number, as an answer."""
    return total // 100 % 10, total // 10 % 10, total % 10


def math_problem(rng, hidden):
    """x + y mod 1000 with `hidden` unreadable digits. The facts are these digits, in random order."""
    digits = [rng.randrange(10) for _ in range(6)]
    places = rng.sample(range(6), hidden)
    units = [10 ** (2 - i % 3) for i in range(6)]

    def possible(unknown):
        known = sum(d * units[i] for i, d in enumerate(digits) if i not in unknown)
        fills = itertools.product(*(range(0, 10 * units[i], units[i]) for i in unknown))
        return [last_digits(known + sum(fill)) for fill in fills]

    shown = [OPERAND[i % 3]["?" if i in places else d] for i, d in enumerate(digits)]
    text = [COMPUTE, *shown[:3], PLUS, *shown[3:], MOD]
    facts = [[FACT[p // 3], OPERAND[p % 3][digits[p]]] for p in places]
    candidates_after = [possible(places[k + 1 :]) for k in range(hidden)]
    operands = [OPERAND[i % 3][d] for i, d in enumerate(digits)]
    full_text = [COMPUTE, *operands[:3], PLUS, *operands[3:], MOD]
    return Toy("math", text, possible([])[0], possible(places), facts, candidates_after, full_text)


def code_problem(rng, ambiguous, hidden=0):
    """Three picks from ten items, in which one letter occurs six times.

    ambiguous: how many picks are this letter. hidden: how many picks are `?` in the text; they are the facts.
    """
    letters = rng.sample(LETTERS, 5)
    items = letters[:4] + letters[4:] * 6
    rng.shuffle(items)
    where = {c: [i for i, other in enumerate(items) if other == c] for c in letters}
    ambiguous_slots = rng.sample(range(3), ambiguous)
    picks = [letters[4] if s in ambiguous_slots else rng.choice(letters[:4]) for s in range(3)]
    answer = tuple(rng.choice(where[c]) for c in picks)
    hidden_slots = rng.sample(range(3), hidden)

    def possible(unknown):
        choices = [range(10) if s in unknown else where[c] for s, c in enumerate(picks)]
        return list(itertools.product(*choices))

    shown = [PICKED[s]["?" if s in hidden_slots else c] for s, c in enumerate(picks)]
    example = [WRITE, *(ITEM[i][c] for i, c in enumerate(items)), THEN]
    facts = [[PICKED[s][picks[s]]] for s in hidden_slots]
    candidates_after = [possible(hidden_slots[k + 1 :]) for k in range(hidden)]
    full_text = example + [PICKED[s][c] for s, c in enumerate(picks)]
    return Toy("code", example + shown, answer, possible(hidden_slots), facts, candidates_after, full_text)


def problem(rng, domain):
    """A full problem. Its text, perhaps ambiguous, is all that the student gets; no facts follow."""
    n = rng.choices((0, 1, 2), AMBIGUOUS)[0]
    toy = math_problem(rng, n) if domain == "math" else code_problem(rng, n)
    toy.facts, toy.candidates_after, toy.full_text = [], [], toy.text
    return toy


def certain(rng, domain):
    """A problem whose text leaves one answer."""
    return math_problem(rng, 0) if domain == "math" else code_problem(rng, 0)


def sharded(rng, domain):
    """A problem with two or three facts that come later. With all facts, one answer is left."""
    n = rng.choice((2, 3))
    return math_problem(rng, n) if domain == "math" else code_problem(rng, 0, n)


def attempt(domain, answer):
    """Tokens of the student turn that gives an answer."""
    table, opening, closing = (DIGIT, BOX, UNBOX) if domain == "math" else (INDEX, FENCE, UNFENCE)
    return [opening, *(table[s][v] for s, v in enumerate(answer)), closing]


def line(toy, name):
    """The problem as a problem line (see common.load_problems), with `name` as its id."""
    row = {"id": name, "domain": toy.domain, "prompt": "".join(toy.full_text)}
    if toy.domain == "math":
        row["answer"] = "".join(DIGIT[s][v] for s, v in enumerate(toy.answer))
    else:
        probe = {"input": PROBE, "output": json.dumps(toy.answer), "testtype": "functional"}
        row |= {"tests": [probe], "public_tests": [probe], "func_name": "f"}
    row["solution"] = "".join(attempt(toy.domain, toy.answer))
    if toy.facts:
        row["shards"] = ["".join(toy.text)] + ["".join(fact) for fact in toy.facts]
    return row


def problems(rng, domain, n, held_out, make=problem):
    """n different problems, all held out or none."""
    by_text = {}
    while len(by_text) < n:
        toy = make(rng, domain)
        if toy.held_out() == held_out:
            by_text.setdefault("".join(toy.text), toy)
    return list(by_text.values())


# ---------------------------------------------------------------- documents that the base model is trained on
# A document is a list of (role, tokens, trained): a conversation as one participant sees it. trained is 1 if
# the base model learns the tokens of this turn, else 0.


def agrees(candidate, feedback):
    """Whether a candidate agrees with all feedback: items ("hint", attempt, right) or ("range", slot, low).

    right: for each slot, whether the attempt's value is right. low: the smaller of the range's two values.
    """
    for kind, a, b in feedback:
        if kind == "range" and not b <= candidate[a] <= b + 1:
            return False
        if kind == "hint" and any((candidate[s] == a[s]) != b[s] for s in range(3)):
            return False
    return True


def slip(rng, answer, p):
    """The answer, in which one slot gets a random value with probability p."""
    if rng.random() >= p:
        return answer
    s = rng.randrange(3)
    return tuple(rng.randrange(10) if i == s else v for i, v in enumerate(answer))


def conversation(rng, toy, habit, ask, first_slip, turns, world=SHIPPED):
    """The turns of a conversation with a truthful teacher.

    Each is a tuple (student tokens, teacher tokens, attempt, latest attempt). The attempt is None if the turn
    is a question; the teacher tokens are None after a right answer, which ends the conversation.
    habit: `attentive` goes on to the nearest answer that agrees with all feedback (in some worlds to any),
    `repeats` gives its first attempt again, `afresh` ignores feedback on attempts, `random` has each
    slot right or random (for doc_teacher alone). In some worlds a habit lasts one turn.
    ask: probability of a question instead of an attempt while several answers are possible; before the first
    attempt it is 0.3 times that. first_slip: probability of a slip in the first attempt, for `afresh` in all.
    """
    feedback, out, latest = [], [], None
    for _ in range(turns):
        if world.habit_lasts == "turn" and habit != "random":
            habit = world.habit(rng)
        possible = [c for c in toy.candidates if agrees(c, feedback)]
        open_slots = [s for s in range(3) if len({c[s] for c in possible}) > 1]
        if rng.random() < ask * (0.3 if latest is None else 1) and (open_slots or habit == "random"):
            slot = rng.choice(open_slots if open_slots and habit != "random" else range(3))
            if latest is None and toy.domain == "code":  # no program has run, so the teacher knows nothing
                reply = [TRY]
            else:
                low = min(8, max(0, toy.answer[slot] - rng.randrange(2)))
                reply = [RANGE[slot][low]]
                feedback.append(("range", slot, low))
            out.append(([QUESTION[slot]], reply, None, latest))
            continue
        if habit == "random":
            latest = tuple(v if rng.random() < 0.5 else rng.randrange(10) for v in toy.answer)
        elif latest is None:
            latest = slip(rng, rng.choice(possible), first_slip)
        elif habit == "attentive":
            revision = next_candidate(possible, latest) if world.moves_to == "next" else rng.choice(possible)
            latest = slip(rng, revision, world.slip)
        elif habit == "afresh":
            latest = slip(rng, rng.choice(toy.candidates), first_slip)
        right = [a == b for a, b in zip(latest, toy.answer)]
        if all(right):
            out.append((attempt(toy.domain, latest), None, latest, latest))
            break
        feedback.append(("hint", latest, right))
        out.append((attempt(toy.domain, latest), world.hint(latest, right), latest, latest))
    return out


def next_candidate(candidates, latest):
    """The candidate nearest after the latest attempt, if each slot counts upwards and 0 follows 9."""
    return min(candidates, key=lambda c: sum((c[s] - latest[s]) % 10 for s in range(3)))


def length(rng):
    """A random number of turns: mostly two to five, in one conversation of six up to ten."""
    return rng.randint(6, 10) if rng.random() < 1 / 6 else rng.randint(2, 5)


def knowledge(toy, latest):
    """The private knowledge, as tokens: in math the answer, in code the test report on the latest attempt."""
    if toy.domain == "math":
        return [ANSWER, *(DIGIT[s][v] for s, v in enumerate(toy.answer))]
    if latest is None:
        return [UNTESTED]
    returned, expected = ([VALUE[s][v] for s, v in enumerate(a)] for a in (latest, toy.answer))
    return [RETURNED, *returned, EXPECTED, *expected, TESTED]


def training_problem(rng, domain, make=problem):
    """A problem that is not held out."""
    while (toy := make(rng, domain)).held_out():
        pass
    return toy


def doc_certain(rng, domain, world=SHIPPED):
    """A problem that leaves one answer, and this answer."""
    toy = training_problem(rng, domain, certain)
    return [("user", toy.text, 0), ("assistant", attempt(domain, toy.answer), 1)]


def doc_single(rng, domain, world=SHIPPED):
    """A problem and one attempt: a possible answer, with a slip in three of ten documents (first_slip)."""
    toy = training_problem(rng, domain)
    answer = slip(rng, rng.choice(toy.candidates), world.first_slip)
    return [("user", toy.text, 0), ("assistant", attempt(domain, answer), 1)]


def habit_of(rng, world, careful=False):
    """(habit, ask, first_slip) of a random student, see conversation()."""
    if careful:
        return "attentive", 0.4, world.slip
    habit = world.habit(rng)
    return habit, world.asks[habit != "attentive"], world.first_slip


def doc_dialogue(rng, domain, world=SHIPPED, careful=False):
    """A student in a dialogue. A default student has one of the world's habits.

    A careful one, marked by the system message `careful`, is attentive and often asks.
    """
    toy = training_problem(rng, domain)
    habit = habit_of(rng, world, careful)
    return student_view(toy, conversation(rng, toy, *habit, length(rng), world), careful)[:-1]


def doc_pair(rng, domain, world=SHIPPED):
    """A student in two problems in a row, with one habit in both unless habit_lasts says otherwise.

    Four of five pairs are of different domains.
    """
    other = domain if rng.random() < 0.2 else {"math": "code", "code": "math"}[domain]
    habit, doc = habit_of(rng, world), []
    for toy in (training_problem(rng, domain), training_problem(rng, other)):
        if doc and world.habit_lasts == "problem":
            habit = habit_of(rng, world)
        doc += student_view(toy, conversation(rng, toy, *habit, rng.randint(2, 4), world), False)[:-1]
    return doc


def student_view(toy, turns, careful):
    """A conversation as the student sees it, up to the teacher's last turn. turns: see conversation()."""
    doc = [("system", [CAREFUL], 0)] * careful + [("user", toy.text, 0)]
    for student, teacher, _, _ in turns:
        doc += [("assistant", student, 1), ("user", teacher or [], 0)]
    return doc


def doc_careful(rng, domain, world=SHIPPED):
    """A careful student in a dialogue."""
    return doc_dialogue(rng, domain, world, careful=True)


def doc_teacher(rng, domain, world=SHIPPED, turns=None, ask=0.25):
    """A teacher's last reply in a conversation of `turns` turns, by default of a random length.

    SKILLS has all forms of hints, one a conversation.
    """
    if world == SKILLS:
        world = replace(world, number=1, hints=rng.choice(HINTS))
    toy = training_problem(rng, domain)
    habit = rng.choices(("attentive", "repeats", "afresh", "random"), (0.2, 0.15, 0.15, 0.5))[0]
    talk = conversation(rng, toy, habit, ask, 0.3, turns or length(rng), world)
    replied = [turn for turn in talk if turn[1]]
    if not replied:  # the first attempt was right
        return doc_teacher(rng, domain, world, turns, ask)
    if rng.random() < 0.03:  # random words, mostly neither an attempt nor a question
        noise = rng.choices(attempt(domain, toy.answer) + QUESTION, k=rng.randint(0, 4))
        replied[-1] = (noise, [TRY], *replied[-1][2:])
    return teacher_view(toy, replied)


def teacher_view(toy, turns):
    """A conversation as the teacher sees it, with its last reply. turns: see conversation().

    As in generate.py, roles are swapped and the private knowledge follows the student's last turn.
    """
    doc = [("user", [TEACH], 0), ("assistant", toy.text, 0)]
    for student, teacher, _, _ in turns[:-1]:
        doc += [("user", student, 0), ("assistant", teacher, 0)]
    student, teacher, _, latest = turns[-1]
    return doc + [("user", student + knowledge(toy, latest), 0), ("assistant", teacher, 1)]


def doc_reply(rng, domain, world=SHIPPED):
    """A teacher's reply to the first or second student turn."""
    return doc_teacher(rng, domain, world, turns=rng.randint(1, 2), ask=0.5)


def doc_asker(rng, domain, world=SHIPPED):
    """The asker of Q-priming, who sees a wrong attempt and asks about a slot that is wrong."""
    toy = training_problem(rng, domain)
    wrong = slip(rng, rng.choice(toy.candidates), 0.4)
    if wrong == toy.answer:
        return doc_asker(rng, domain, world)
    slot = rng.choice([s for s in range(3) if wrong[s] != toy.answer[s]])
    return [*asker_view(toy, wrong), ("assistant", [QUESTION[slot]], 1)]


def asker_view(toy, wrong):
    """The problem, a wrong attempt and the private knowledge, as the asker sees them."""
    return [("user", [ASK, *toy.text, *attempt(toy.domain, wrong), *knowledge(toy, wrong)], 0)]


def doc_sharded(rng, domain, world=SHIPPED, careful=False):
    """A student who gets one missing fact after each turn.

    An attentive student uses all facts so far. While the answer is open it often asks if it is careful, else
    seldom. The others mostly answer at once, and then repeat this answer or guess afresh from the first text
    alone.
    """
    toy = training_problem(rng, domain, sharded)
    habit = "attentive" if careful else world.habit(rng, world.sharded_habits)
    first_slip = world.slip if careful else world.first_slip
    doc = [("system", [CAREFUL], 0)] * careful + [("user", toy.text, 0)]
    latest = None
    for possible, fact in zip([toy.candidates, *toy.candidates_after], [*toy.facts, None]):
        if world.habit_lasts == "turn":
            habit = world.habit(rng, world.sharded_habits)
        open_slots = [s for s in range(3) if len({c[s] for c in possible}) > 1]
        ask = 0.85 if careful else world.sharded_asks[habit != "attentive"]
        if open_slots and rng.random() < ask:
            doc.append(("assistant", [QUESTION[rng.choice(open_slots)]], 1))
        else:
            answers = possible if habit == "attentive" else toy.candidates
            if habit != "repeats" or latest is None:
                latest = slip(rng, rng.choice(answers), first_slip if latest is None else world.slip)
            doc.append(("assistant", attempt(domain, latest), 1))
            if latest == toy.answer:
                return doc
        if fact:
            doc.append(("user", fact, 0))
    return doc


def doc_sharded_careful(rng, domain, world=SHIPPED):
    """A careful student who gets one missing fact after each turn."""
    return doc_sharded(rng, domain, world, careful=True)


# (tokens at which the lesson ends, {kind of document: its share}). The first lessons teach a skill each, the
# last one the habits.
LESSONS = [
    (2_500_000, {doc_reply: 1.0}),
    (8_000_000, {doc_certain: 0.8, doc_reply: 0.2}),
    (
        1e99,
        {
            doc_certain: 0.04,
            doc_single: 0.04,
            doc_dialogue: 0.12,
            doc_careful: 0.28,
            doc_reply: 0.04,
            doc_teacher: 0.08,
            doc_asker: 0.08,
            doc_sharded: 0.10,
            doc_sharded_careful: 0.11,
            doc_pair: 0.11,
        },
    ),
]


def lessons(world=SHIPPED):
    """LESSONS of the shipped base. SKILLS has all but the last, a drawn world the last, with own shares."""
    if world == SKILLS:
        return [LESSONS[0], (1e99, LESSONS[1][1])]
    if world.number:
        return [(1e99, {kind: world.shares.get(kind.__name__[4:], 0) for kind in LESSONS[-1][1]})]
    return LESSONS


def document(rng, tokens=1e9, world=SHIPPED):
    """A random document of the lesson at `tokens` tokens of training; domains are equally likely."""
    mixture = next(mixture for end, mixture in lessons(world) if tokens <= end)
    return rng.choices(list(mixture), list(mixture.values()))[0](rng, rng.choice(("math", "code")), world)


def write_data(folder, train=2000, test=500, seed=0):
    """Writes the training, test and sharded problems of both domains and two prompts files into a folder."""
    for domain in ("math", "code"):
        rng = random.Random(f"{seed}/{domain}")
        for name, n, held_out, make in (
            ("train", train, False, problem),
            ("test", test, True, problem),
            ("shards", test, True, sharded),
        ):
            lines = [
                line(toy, f"{domain}-{name}-{i}")
                for i, toy in enumerate(problems(rng, domain, n, held_out, make))
            ]
            (folder / f"{domain}_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for name, prompts in (("prompts", PROMPTS), ("careful", {"student": CAREFUL} | PROMPTS)):
        (folder / f"{name}.json").write_text(json.dumps(prompts, indent=1) + "\n")


if __name__ == "__main__":
    for seed in range(12):
        print(
            "---",
            *(f"{role:>9}: {''.join(tokens)}" for role, tokens, _ in document(random.Random(seed))),
            sep="\n",
        )
