r"""Not part of the method: decides whether a hint gives the answer of a problem away.

    from parts.leaks import states
    states("You should get 0.5.", "\\frac12", "What is 1 - 1/2?")    # True
    states("Look again at step 2.", "2", "What is 1 + 1?")           # False

The rule for mathematics: words, relation signs, dashes, … cut the hint into values, and answers.py compares
them. A hint states the answer if
- it is the answer, or has it in one of its last five boxes; or
- an equal value stands in it, and the problem does not have the same words. If the answer is a number of at
  most three digits, or a few letters, the value must also be no label ("step 2", "modulo 7", "let x = 2"),
  and the next noun, if any, must occur in the problem ("2 mistakes" does not answer "How many apples …?").
Paraphrases ("one more than 11") are left to the judge.

Measured on sentences that others wrote. "Stated" is the last sentence of a problem's solution, if it holds
the answer as a text. "Earlier" is another sentence of the same solution; some of these do state the answer.
"Others" is one sentence, or three, of another problem's solution. "Counters" have a number after "step",
"power of", "divisible by", … or before "cases", "ways to", …, which is made the answer of another problem.

    flagged, %              stated       earlier   others, one   three      counters
                            (old rule)             (snippets)               (snippets)
    MATH-500                96.0 (70.5)    9.2     0.4 (500)     2.4        0.7 (144)
    Omni-MATH               91.4 (73.8)    6.6     0.3 (696)     1.7        1.1 (700)
    OlympiadBench           93.0           5.1     0.2 (500)     1.0        0.4 (278)
    GSM8K, test             98.3           3.1     0.3 (900)     0.8        too few

The rule was made on GSM8K's training part and MATH-500; its first try on the other three sets gave the same
figures to about a point. Later changes came from MATH-500 and, for other forms, from Omni-MATH. Worst are
integers up to 20: in Omni-MATH 83 % of the stated ones are found, and of three sentences of another problem
4.8 % are flagged. Three sentences miss the aim of 1 % in two sets, counters just miss it in Omni-MATH.
Rewritten answers (1/2, 0.5, 3,690, sqrt(2)): 190 of 196 found in Omni-MATH, 70 of 71 in OlympiadBench. Of
4,644 hints of the toy world 0 are flagged. A sentence takes 0.7 to 1.6 ms on average on a busy machine, three
sentences up to 5 ms.

Sixty hints of SmolLM2-135M-Instruct on easy sums, read one by one: ten give the answer away, and the rule
found nine of these. It flags one more, which repeats the problem's sum. (The tenth, "The final answer is 54
based on logic", is found since.)
"""

import itertools
import re

from parts.answers import boxed, equal_answers

MAX_HINT, MAX_COMPARED = 20_000, 12  # characters read of a hint; values compared at some cost
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # １ is 1

# Dashes, arrows, curly quotation marks, emojis: all characters beyond ASCII that are no part of a value.
SIGN = "[^\\x00-\\x7fΑ-Ωα-ω¼-¾⅐-⅞²³¹⁰-₉√∛×·⋅∙÷−–⁄∕∞°±∓∪∩∖∅∠⟨⟩′ℝ∈⌊⌋⌈⌉€£¥]"
# Values stand between these: words, relation signs, ends of sentences and lines.
SEPARATOR = re.compile(
    r"""(?<![\\a-zA-Z])(?!(?:sqrt|sin|cos|tan|log|ln|pi)(?![a-zA-Z]))(?:[a-zA-Z]{2,}(?:['’-][a-z]+)*|a\b|I\b)
    |[=≈≡:?!;\n<>→]|\\(?:approx|equiv|[Rr]ightarrow|implies|Longrightarrow|to|[lg]eq?|p?mod)\b|->|[.,](?=\s|$)"""
    + f"|{SIGN}",
    re.X,
)
# Before a number that only counts or labels: "step 2", "modulo 7", "at least 3", "let x = 5".
LABEL = re.compile(
    r"""\b(?:steps?|parts?|equations?|eq|cases?|lines?|rows?|columns?|terms?|figure|problem|question|item|point
    |lemma|theorem|example|p?mod|modulo|exponent|base|degree|order|by|than|times|not|n't|least|most|over|plus
    |minus|add(?:ing)?|subtract(?:ing)?|first|last|next|into|at|in|every|each|digits?|the
    |(?:power|multiple|factor|divisor|out|degree|root|side|digit|exponent|each|one|some)s?\ of
    |(?:power|go|back|add)\ to)\s*[({“‘]*$
    |(?:[<>≤≥≠]|\\[lg]eq?)\s*$
    |\b(?:let|if|when|where|for|set|suppose|try|at)\ \\?\w{1,6}\s*=\s*$""",
    re.I | re.X,
)
# Before a value that is a result, even if the problem has the same number.
CLAIM = re.compile(
    r"\S*\s*(?:[=≈≡:]|\\approx|\\equiv|\b(?:is|are|be|equals?|gets?|gives?|of|so|thus|hence|therefore)\b)\s*$",
    re.I,
)
LETTER = re.compile(r"(?<![\\a-zA-Z])(?!sqrt|sin|cos|tan|log|ln|pi)[a-zA-Z]")
CLAUSE_END = re.compile(
    rf"""[.!?](?=\s|$)|[,;:\n)('"]|\s[-–]\s(?=[a-z])|{SIGN}
    |\b(?:because|since|so|which|when|if|and|but|not|instead|as|after|is|are|here|based)\b""",
    re.I | re.X,
)
MARKS = re.compile(
    r"(?:\$|\\[()\[\],;!$ ]|\*\*|`|\\q?quad\b|[ \t&]|\\displaystyle\b|\\\\|</?[a-z]+/?>|^(?:#+|[-*]) )+", re.M
)
NO_NOUNS = set(
    """with from left more that than into over total each them they this these those such altogether
    together only""".split()
)


def states(hint: str, answer: str, prompt: str) -> bool:
    """Whether a hint states the right answer to a problem of mathematics, by equal_answers."""
    text, answer, asked = plain(hint[:MAX_HINT]), plain(answer), plain(prompt).lower()
    boxes = [boxed(box) or "" for box in re.split(r"(?=\\(?:boxed|fbox)(?![a-zA-Z]))", hint[:MAX_HINT])[-5:]]
    if any(equal_answers(box, answer) for box in boxes if len(box) <= len(answer) + 60):
        return True
    return any(is_stated(text, *place, answer, asked) for place in places(text, answer))


def is_stated(text, start, end, answer, asked):
    """Whether the value text[start:end], which equals the answer, is stated there and not just mentioned."""
    if not text[:start].strip() and not text[end:].strip(" ."):
        return True
    before, after = text[max(0, start - 60) : start], CLAUSE_END.split(text[end : end + 60], maxsplit=1)[0]
    claim, next_word = CLAIM.search(before), re.search(r"^\s*\w+", after)
    quote = (claim[0] if claim else "") + text[start:end] + (next_word[0] if next_word else "")
    if re.search(rf"(?<![\w.])\s*{spaced(quote.lower())}(?!\w|\.\d)", asked):
        return False
    if not re.fullmatch(r"-?\w{1,3}", answer):
        return True
    nouns = [word.lower() for word in re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{4,}", after)]
    nouns = [noun[:5] for noun in nouns if noun not in NO_NOUNS][:2]
    return not LABEL.search(before) and (not nouns or any(noun in asked for noun in nouns))


def places(text, answer):
    """Yields (start, end) of the places of a text that hold the answer or a value equal to it."""
    if len(answer) > 2 and not re.fullmatch(r"-?[\d.,]+", answer):
        yield from (m.span() for m in re.finditer(rf"(?<![\w.]){spaced(answer)}(?!\w|[.,]\d)", text, re.I))
    same, digits, letters = {squeeze(answer): True}, sum(map(str.isnumeric, answer)), LETTER.search(answer)
    ends = [0, *itertools.chain(*(m.span() for m in SEPARATOR.finditer(text))), len(text)]
    for start, end in zip(ends[::2], ends[1::2]):
        end = start + len(text[start:end].rstrip(" -–'\""))
        value = squeeze(text[start:end]).strip(".,;:*/_'\"")
        value = value.strip("()") if value.count("(") != value.count(")") else value
        if value not in same:
            # Not worth comparing: empty, too long, too few digits, or letters that the answer lacks.
            could = 0 < len(value) <= len(answer) + 60 and 4 * sum(map(str.isnumeric, value)) >= digits
            could = could and (letters or not LETTER.search(re.sub(r"(?<=\d)[a-z]+$", "", value)))
            could = could and len(same) <= MAX_COMPARED and not (value.isdigit() and answer.isdigit())
            if could:
                same[value] = equal_answers(value, answer) is True
        if same.get(value):
            yield start, end


def holds(hint: str, solution: str | None) -> bool:
    """Whether a hint holds a program word for word, ignoring blanks; False if there is none."""
    return bool(squeeze(solution or "")) and squeeze(solution) in squeeze(hint)


def plain(text):
    """A text without the marks of formulas, of text in them, of bold type, headings, lists and HTML."""
    text = text.translate(FULL_WIDTH)
    text = re.sub(r"\\(?:text|textbf|mathbf|mathrm|mbox|emph)\s*\{([^{}]*)\}", r"\1", text)
    text = MARKS.sub(" ", text).strip()
    return re.sub(r"^ ?\d\d?[.)] ", "", text, flags=re.M) if re.search(r"^ ?1[.)] ", text, re.M) else text


def spaced(text):
    """A pattern for a text with any blanks in it."""
    return r"\s*".join(map(re.escape, squeeze(text)))


def squeeze(text):
    """A text without blanks."""
    return "".join(text.split())
