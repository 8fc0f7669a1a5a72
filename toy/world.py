"""The toy world: two families of problems that a tiny model can solve in part at once and in full by talking.

    math   x + y mod 1000. Up to two digits are unreadable (`?`), so the problem alone leaves up to 100
           possible answers.
    code   which three items does f pick from a list of ten? One example is given; a picked letter that
           occurs once is certain, the common letter occurs six times, so up to two picks are ambiguous. The
           solution is a Python function that is really run.

Both answers have three slots of ten values, and all values are single tokens of their slot (438 is
`400+30+8`): the model has to learn how to use a hint, not how to spell. Nothing else is shared with the rest
of the kit: problems leave here as ordinary problem lines, prompts as an ordinary prompts file, the tokenizer
and the model as an ordinary `transformers` folder.

The teacher's language: to an attempt, `1st is 4, 2nd not 3, 3rd is 8.`; to a question `Which 2nd?`, two
neighbouring values of which one is right, `2nd 3 or 4.`; to anything it cannot answer, `Please try.`. An
attempt therefore teaches little about a wrong slot, and a question much: asking is sometimes worth its turn.
That is a property of this world, chosen so that questions can pay at all. Hints and ranges have the same
tokens in both domains, so that using them is one skill.
"""

import itertools
import json
import random
import zlib
from dataclasses import dataclass

NAMES = ("1st", "2nd", "3rd")
LETTERS = "abcde"
AMBIGUOUS = (0.25, 0.50, 0.25)  # share of problems with 0, 1, 2 ambiguous places
HABITS = {"attentive": 0.25, "repeats": 0.50, "afresh": 0.25}  # of students in conversations, by default
SLIP = 0.05  # probability that one value of a careful attempt, or of an attentive revision, is a random one

OPERAND = [
    {v: f"{v}{unit}" for v in (*range(10), "?")} for unit in ("h ", "t ", "u")
]  # hundreds, tens, units
DIGIT = [[f"{v}00+" for v in range(10)], [f"{v}0+" for v in range(10)], [f"{v}" for v in range(10)]]
ITEM = [{c: f"x[{i}]={c}, " for c in LETTERS} for i in range(10)]
PICKED = [{c: f"f(x)[{s}]={c}" + (", ", ", ", ".")[s] for c in LETTERS + "?"} for s in range(3)]
INDEX = [[f"[x[{v}], " for v in range(10)], [f"x[{v}], " for v in range(10)], [f"x[{v}]]" for v in range(10)]]
VALUE = [[f"[{v}, " for v in range(10)], [f"{v}, " for v in range(10)], [f"{v}]" for v in range(10)]]
HINT = [
    [[f"{n} {w} {v}{end}" for v in range(10)] for w in ("not", "is")]
    for n, end in zip(NAMES, (", ", ", ", "."))
]
RANGE = [[f"{n} {v} or {v + 1}." for v in range(9)] for n in NAMES]
QUESTION = [f"Which {n}?" for n in NAMES]
PROBE = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
BOX, UNBOX, FENCE, UNFENCE = "\\boxed{", "}", "```python\ndef f(x): return ", "\n```"
COMPUTE, PLUS, MOD, WRITE, THEN = "Compute ", " plus ", " mod 1000.", "Write f. If ", "then "
FACT = ["first number: ", "second number: "]
TRY, TEACH, ASK, ANSWER, CAREFUL = "Please try.", "Teach.", "Ask.", " Answer: ", "careful"
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
    # A teacher who is shown something false disputes what is right: in math most of its values; in code it
    # speaks of values that the student never gave, which cannot be helped with a fixed report.
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


def words():
    """All tokens except the special ones."""
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
    return [w for table in tables for w in table] + singles


def features():
    """{token: what it says}: a kind, a slot, a value; other tokens have nothing in common.

    Tokens that share some of it are alike in the model at the start (make_base.new_model).
    """
    said = {}
    for s in range(3):
        for kind, table in (("digit", DIGIT), ("index", INDEX), ("value", VALUE)):
            said |= {word: (kind, f"slot {s}", f"value {v}") for v, word in enumerate(table[s])}
        said |= {
            word: ("range", f"slot {s}", f"value {v}", f"value {v + 1}") for v, word in enumerate(RANGE[s])
        }
        said |= {word: ("picked", f"slot {s}", f"letter {c}") for c, word in PICKED[s].items()}
        for right, hints in enumerate(HINT[s]):
            said |= {word: (f"right {right}", f"slot {s}", f"value {v}") for v, word in enumerate(hints)}
        said |= {QUESTION[s]: ("question", f"slot {s}")}
    for i, table in enumerate(ITEM):
        said |= {word: ("item", f"value {i}", f"letter {c}") for c, word in table.items()}
    return said


def tokenizer():
    """A `transformers` tokenizer of whole words; a character outside the vocabulary becomes `<unk>`."""
    import re

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(SPECIAL + words())}
    assert len(vocab) == len(SPECIAL) + len(words()), "two tokens with the same text"
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    longest_first = sorted(words(), key=len, reverse=True)
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
    """One problem. `answer` and each of `candidates`, all that the text allows, are three digits."""

    domain: str
    text: list  # tokens of the problem statement; what is not known is `?`
    answer: tuple
    candidates: list
    facts: list  # sharded problems: token lists, revealed one a turn, after which one candidate is left
    after: list  # candidates left after each fact
    whole: list  # tokens of the statement with all facts in it

    def held_out(self):
        """True for the tenth of all problems that the base model never sees."""
        return zlib.crc32("".join(self.text).encode()) % 10 == 0


def last_digits(total):
    """The last three digits."""
    return total // 100 % 10, total // 10 % 10, total % 10


def math_problem(rng, hidden):
    """x + y mod 1000 with the given number of unreadable digits; as facts, the digits in random order."""
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
    after = [possible(places[k + 1 :]) for k in range(hidden)]
    told = [OPERAND[i % 3][d] for i, d in enumerate(digits)]
    whole = [COMPUTE, *told[:3], PLUS, *told[3:], MOD]
    return Toy("math", text, possible([])[0], possible(places), facts, after, whole)


def code_problem(rng, ambiguous, hidden=0):
    """Ten items, one letter six times; `ambiguous` picks are of that letter, `hidden` ones are unknown."""
    letters = rng.sample(LETTERS, 5)
    items = letters[:4] + letters[4:] * 6
    rng.shuffle(items)
    where = {c: [i for i, other in enumerate(items) if other == c] for c in letters}
    vague = rng.sample(range(3), ambiguous)
    picks = [letters[4] if s in vague else rng.choice(letters[:4]) for s in range(3)]
    answer = tuple(rng.choice(where[c]) for c in picks)
    secret = rng.sample(range(3), hidden)

    def possible(unknown):
        return list(
            itertools.product(*(range(10) if s in unknown else where[c] for s, c in enumerate(picks)))
        )

    shown = [PICKED[s]["?" if s in secret else c] for s, c in enumerate(picks)]
    given = [WRITE, *(ITEM[i][c] for i, c in enumerate(items)), THEN]
    facts = [[PICKED[s][picks[s]]] for s in secret]
    after = [possible(secret[k + 1 :]) for k in range(hidden)]
    whole = given + [PICKED[s][c] for s, c in enumerate(picks)]
    return Toy("code", given + shown, answer, possible(secret), facts, after, whole)


def problem(rng, domain):
    """A full problem: everything that will ever be said about it is in its text."""
    n = rng.choices((0, 1, 2), AMBIGUOUS)[0]
    toy = math_problem(rng, n) if domain == "math" else code_problem(rng, n)
    toy.facts, toy.after, toy.whole = [], [], toy.text
    return toy


def certain(rng, domain):
    """A problem that leaves one answer."""
    return math_problem(rng, 0) if domain == "math" else code_problem(rng, 0)


def sharded(rng, domain):
    """A problem of which two or three facts come later; with all facts the answer is certain."""
    n = rng.choice((2, 3))
    return math_problem(rng, n) if domain == "math" else code_problem(rng, 0, n)


def attempt(domain, answer):
    """Tokens of the turn that gives this answer (three digits)."""
    table, left, right = (DIGIT, BOX, UNBOX) if domain == "math" else (INDEX, FENCE, UNFENCE)
    return [left, *(table[s][v] for s, v in enumerate(answer)), right]


def line(toy, name):
    """The problem as a problem line (see common.load_problems)."""
    out = {"id": name, "domain": toy.domain, "prompt": "".join(toy.whole)}
    if toy.domain == "math":
        out["answer"] = "".join(DIGIT[s][v] for s, v in enumerate(toy.answer))
    else:
        probe = {"input": PROBE, "output": json.dumps(toy.answer), "testtype": "functional"}
        out |= {"tests": [probe], "public_tests": [probe], "func_name": "f"}
    out["solution"] = "".join(attempt(toy.domain, toy.answer))
    if toy.facts:
        out["shards"] = ["".join(toy.text)] + ["".join(f) for f in toy.facts]
    return out


def problems(rng, domain, n, held_out, make=problem):
    """n different problems on one side of the split."""
    found = {}
    while len(found) < n:
        toy = make(rng, domain)
        if toy.held_out() == held_out:
            found.setdefault("".join(toy.text), toy)
    return list(found.values())


# ---------------------------------------------------------------- documents that the base model is trained on


def agrees(candidate, feedback):
    """Whether an answer is possible after ("hint", attempt, flags) and ("range", slot, low) items."""
    for kind, a, b in feedback:
        if kind == "range" and not b <= candidate[a] <= b + 1:
            return False
        if kind == "hint" and any((candidate[s] == a[s]) != b[s] for s in range(3)):
            return False
    return True


def slip(rng, answer, p):
    """With probability p, one slot becomes a random value."""
    if rng.random() >= p:
        return answer
    s = rng.randrange(3)
    return tuple(rng.randrange(10) if i == s else v for i, v in enumerate(answer))


def converse(rng, toy, habit, ask, first_slip, turns):
    """A conversation with a truthful teacher.

    Returns [(student tokens, teacher tokens or None, attempt or None, latest attempt)], a tuple a turn.
    habit: `attentive` (on to the nearest answer that agrees with all feedback), `repeats` (its first attempt
    again), `afresh` (ignores feedback on attempts), `random` (any digits; only teachers see such students).
    ask: probability of a question instead of an attempt, where an answer is open; before the first attempt
    less. first_slip: that of a slip in the first attempt, of `afresh` in all.
    """
    feedback, out, latest = [], [], None
    for _ in range(turns):
        left = [c for c in toy.candidates if agrees(c, feedback)]
        open_slots = [s for s in range(3) if len({c[s] for c in left}) > 1]
        if rng.random() < ask * (0.3 if latest is None else 1) and (open_slots or habit == "random"):
            slot = rng.choice(open_slots if open_slots and habit != "random" else range(3))
            if latest is None and toy.domain == "code":  # its teacher knows nothing before a program has run
                said = [TRY]
            else:
                low = min(8, max(0, toy.answer[slot] - rng.randrange(2)))
                said = [RANGE[slot][low]]
                feedback.append(("range", slot, low))
            out.append(([QUESTION[slot]], said, None, latest))
            continue
        if habit == "random":
            now = tuple(v if rng.random() < 0.5 else rng.randrange(10) for v in toy.answer)
        elif latest is None:
            now = slip(rng, rng.choice(left), first_slip)
        elif habit == "attentive":
            now = slip(rng, following(left, latest), SLIP)
        else:
            now = latest if habit == "repeats" else slip(rng, rng.choice(toy.candidates), first_slip)
        latest = now
        flags = [a == b for a, b in zip(now, toy.answer)]
        if all(flags):
            out.append((attempt(toy.domain, now), None, now, now))
            break
        feedback.append(("hint", now, flags))
        out.append((attempt(toy.domain, now), [HINT[s][flags[s]][now[s]] for s in range(3)], now, now))
    return out


def following(left, latest):
    """Of the answers that are left the nearest after the latest attempt, counting upwards, 0 after 9."""
    return min(left, key=lambda c: sum((c[s] - latest[s]) % 10 for s in range(3)))


def length(rng):
    """Turns of a conversation: mostly two to five, one in six up to ten."""
    return rng.randint(6, 10) if rng.random() < 1 / 6 else rng.randint(2, 5)


def knowledge(toy, latest):
    """Tokens that the teacher reads after a student turn: the answer, or the report on the last program."""
    if toy.domain == "math":
        return [ANSWER, *(DIGIT[s][v] for s, v in enumerate(toy.answer))]
    if latest is None:
        return [UNTESTED]
    got, want = ([VALUE[s][v] for s, v in enumerate(a)] for a in (latest, toy.answer))
    return [RETURNED, *got, EXPECTED, *want, TESTED]


def seen(rng, domain, make=problem):
    """A problem that is not held out."""
    while (toy := make(rng, domain)).held_out():
        pass
    return toy


def doc_certain(rng, domain):
    """A problem whose answer is certain, answered rightly: the first lesson."""
    toy = seen(rng, domain, certain)
    return [("user", toy.text, 0), ("assistant", attempt(domain, toy.answer), 1)]


def doc_single(rng, domain):
    """A problem and one attempt: a possible answer, with a slip in three of ten."""
    toy = seen(rng, domain)
    return [
        ("user", toy.text, 0),
        ("assistant", attempt(domain, slip(rng, rng.choice(toy.candidates), 0.3)), 1),
    ]


def habit_of(rng, careful=False):
    """(habit, probability of a question, of a slip in the first attempt) of a student in a conversation."""
    if careful:
        return "attentive", 0.4, SLIP
    habit = rng.choices(list(HABITS), list(HABITS.values()))[0]
    return habit, 0.01 if habit == "attentive" else 0.003, 0.3


def doc_dialogue(rng, domain, careful=False):
    """A student. Default ones have one of HABITS; careful ones (a system word) are attentive, and ask."""
    toy = seen(rng, domain)
    return student_view(toy, converse(rng, toy, *habit_of(rng, careful), length(rng)), careful)[:-1]


def doc_pair(rng, domain):
    """Two problems one after the other and a student with one habit; four of five times of two domains."""
    other = domain if rng.random() < 0.2 else {"math": "code", "code": "math"}[domain]
    habit, doc = habit_of(rng), []
    for toy in (seen(rng, domain), seen(rng, other)):
        doc += student_view(toy, converse(rng, toy, *habit, rng.randint(2, 4)), False)[:-1]
    return doc


def student_view(toy, talk, careful):
    """What the student sees and says up to the teacher's last turn."""
    doc = [("system", [CAREFUL], 0)] * careful + [("user", toy.text, 0)]
    for student, teacher, _, _ in talk:
        doc += [("assistant", student, 1), ("user", teacher or [], 0)]
    return doc


def doc_careful(rng, domain):
    """doc_dialogue of a careful student."""
    return doc_dialogue(rng, domain, careful=True)


def doc_teacher(rng, domain, turns=None, ask=0.25):
    """A teacher at a random moment of a conversation."""
    toy = seen(rng, domain)
    habit = rng.choices(("attentive", "repeats", "afresh", "random"), (0.2, 0.15, 0.15, 0.5))[0]
    talk = [t for t in converse(rng, toy, habit, ask, 0.3, turns or length(rng)) if t[1]]
    if not talk:
        return doc_teacher(rng, domain, turns, ask)
    if rng.random() < 0.03:  # random words, mostly neither an attempt nor a question
        talk[-1] = (
            rng.choices(attempt(domain, toy.answer) + QUESTION, k=rng.randint(0, 4)),
            [TRY],
            *talk[-1][2:],
        )
    return teacher_view(toy, talk)


def teacher_view(toy, talk):
    """Roles swapped, the private knowledge with the student's last turn; the teacher's answer ends it."""
    doc = [("user", [TEACH], 0), ("assistant", toy.text, 0)]
    for student, teacher, _, _ in talk[:-1]:
        doc += [("user", student, 0), ("assistant", teacher, 0)]
    student, teacher, _, latest = talk[-1]
    return doc + [("user", student + knowledge(toy, latest), 0), ("assistant", teacher, 1)]


def doc_reply(rng, domain):
    """A teacher after the first or second student turn."""
    return doc_teacher(rng, domain, turns=rng.randint(1, 2), ask=0.5)


def doc_asker(rng, domain):
    """The asker's view: problem, a wrong attempt, the private knowledge; a question about a wrong slot."""
    toy = seen(rng, domain)
    now = slip(rng, rng.choice(toy.candidates), 0.4)
    if now == toy.answer:
        return doc_asker(rng, domain)
    slot = rng.choice([s for s in range(3) if now[s] != toy.answer[s]])
    return [*asker_view(toy, now), ("assistant", [QUESTION[slot]], 1)]


def asker_view(toy, wrong):
    """What the asker sees of a wrong attempt."""
    return [("user", [ASK, *toy.text, *attempt(toy.domain, wrong), *knowledge(toy, wrong)], 0)]


def doc_sharded(rng, domain, careful=False):
    """A student who is told a missing fact a turn.

    Attentive and careful ones use all that they were told, and ask until they know all, careful ones mostly,
    others seldom; the rest answer at once, and then repeat that, or guess afresh from the first text alone.
    """
    toy = seen(rng, domain, sharded)
    habit, _, first_slip = habit_of(rng, careful)
    doc = [("system", [CAREFUL], 0)] * careful + [("user", toy.text, 0)]
    latest = None
    for left, fact in zip([toy.candidates, *toy.after], [*toy.facts, None]):
        open_slots = [s for s in range(3) if len({c[s] for c in left}) > 1]
        asks = (0.85 if careful else 0.2) if habit == "attentive" else 0
        if open_slots and rng.random() < asks:
            doc.append(("assistant", [QUESTION[rng.choice(open_slots)]], 1))
        else:
            possible = left if habit == "attentive" else toy.candidates
            if habit != "repeats" or latest is None:
                latest = slip(rng, rng.choice(possible), first_slip if latest is None else SLIP)
            doc.append(("assistant", attempt(domain, latest), 1))
            if latest == toy.answer:
                return doc
        if fact:
            doc.append(("user", fact, 0))
    return doc


def doc_sharded_careful(rng, domain):
    """doc_sharded of a careful student."""
    return doc_sharded(rng, domain, careful=True)


# (until so many tokens were seen, {document: its share}): one skill after the other, then all habits
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


def document(rng, tokens=1e9):
    """[(role, tokens, trained)] of a random document after so many tokens; domains are equally likely."""
    mixture = next(m for until, m in LESSONS if tokens <= until)
    return rng.choices(list(mixture), list(mixture.values()))[0](rng, rng.choice(("math", "code")))


def write_data(folder, train=2000, test=500, seed=0):
    """Writes training, test and sharded problems of both domains, and the prompts file, into a folder."""
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
    (folder / "prompts.json").write_text(json.dumps(PROMPTS, indent=1) + "\n")


if __name__ == "__main__":
    for seed in range(12):
        print(
            "---",
            *(f"{role:>9}: {''.join(tokens)}" for role, tokens, _ in document(random.Random(seed))),
            sep="\n",
        )
