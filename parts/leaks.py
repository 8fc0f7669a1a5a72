r"""Not part of the method: decides whether a hint gives the answer of a problem away.

    from parts.leaks import states
    states("You should get 0.5.", "\\frac12", "What is 1 - 1/2?")    # True
    states("Look again at step 2.", "2", "What is 1 + 1?")           # False

The rule for mathematics: words, relation signs, dashes, … cut the hint into values, and answers.py compares
each with the answer. A hint states the answer if
- the whole hint, or one of its last five boxes, is the answer; or
- a value in it equals the answer, and the problem does not have the same words. For a short answer (up to
  three digits or letters), two more conditions hold: the value is not a label ("step 2", "modulo 7", "let x =
  2"), and the next noun, if any, occurs in the problem ("2 mistakes" does not answer "How many apples …?").
Paraphrases ("one more than 11") are left to the judge.

Measured on sentences from the solutions of public data sets. "Stated" is the last sentence of a problem's
solution, if it holds the answer as a text. "Earlier" is another sentence of the same solution; some of these
do state the answer. "Others" is one sentence, or three, of another problem's solution. "Counters" are
sentences with a number after "step", "power of", "divisible by", … or before "cases", "ways to", …; this
number is taken for the answer of another problem. In brackets: the number of snippets; of "stated", what an
older rule found, a list of wordings that offer an answer.

    flagged, %              stated       earlier   others, one   three      counters
    MATH-500                96.0 (70.5)    9.2     0.4 (500)     2.4        0.7 (144)
    Omni-MATH               91.4 (73.8)    6.6     0.3 (696)     1.7        1.1 (700)
    OlympiadBench           93.0           5.1     0.2 (500)     1.0        0.4 (278)
    GSM8K, test             98.3           3.1     0.3 (900)     0.8        too few

The rule was made on GSM8K's training part and MATH-500; its first try on the other three sets gave the same
figures to about a point. Later changes came from MATH-500 and, for other forms of an answer, from Omni-MATH.
The rule is worst for integers up to 20: in Omni-MATH it finds 83 % of the stated ones and flags 4.8 % of the
snippets of three sentences of another problem. The aim was to flag at most 1 % of "others" and "counters":
three sentences miss it in two sets, counters just miss it in Omni-MATH. Of answers rewritten in another form
(1/2, 0.5, 3,690, sqrt(2)), it finds 190 of 196 in Omni-MATH and 70 of 71 in OlympiadBench. It flags none of
4,644 hints of the toy world. A sentence takes 0.7 to 1.6 ms on average on a busy machine, three sentences up
to 5 ms.

Of sixty hints of SmolLM2-135M-Instruct on easy sums, read one by one, ten give the answer away. The rule
found nine of these and, after a change, also the tenth, "The final answer is 54 based on logic". It flags one
more hint, which only repeats the problem's sum.
"""

import itertools
import re

from parts.answers import boxed, equal_answers

MAX_HINT, MAX_COMPARED = 20_000, 12  # characters of a hint that are read; values given to equal_answers
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # １ is 1

# Dashes, arrows, curly quotation marks, emojis: all non-ASCII characters that cannot be part of a value.
SIGN = "[^\\x00-\\x7fΑ-Ωα-ω¼-¾⅐-⅞²³¹⁰-₉√∛×·⋅∙÷−–⁄∕∞°±∓∪∩∖∅∠⟨⟩′ℝ∈⌊⌋⌈⌉€£¥]"
# Values stand between these: words, relation signs, ends of sentences and lines.
SEPARATOR = re.compile(
    r"""(?<![\\a-zA-Z])(?!(?:sqrt|sin|cos|tan|log|ln|pi)(?![a-zA-Z]))(?:[a-zA-Z]{2,}(?:['’-][a-z]+)*|a\b|I\b)
    |[=≈≡:?!;\n<>→]|\\(?:approx|equiv|[Rr]ightarrow|implies|Longrightarrow|to|[lg]eq?|p?mod)\b|->|[.,](?=\s|$)"""
    + f"|{SIGN}",
    re.X,
)
# What stands before a number that only counts or labels: "step 2", "modulo 7", "at least 3", "let x = 5".
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
# What stands before a value that is a result, even if the problem has the same number.
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
NOT_NOUNS = set(
    """with from left more that than into over total each them they this these those such altogether
    together only""".split()
)


def states(hint: str, answer: str, prompt: str) -> bool:
    """Whether a hint states the right answer to a problem of mathematics, by the rule above."""
    text, answer, asked = plain(hint[:MAX_HINT]), plain(answer), plain(prompt).lower()
    boxes = [boxed(box) or "" for box in re.split(r"(?=\\(?:boxed|fbox)(?![a-zA-Z]))", hint[:MAX_HINT])[-5:]]
    if any(equal_answers(box, answer) for box in boxes if len(box) <= len(answer) + 60):
        return True
    return any(is_stated(text, *place, answer, asked) for place in places(text, answer))


def is_stated(text, start, end, answer, asked):
    """Whether the value text[start:end], which equals the answer, is stated there and not just mentioned."""
    if not text[:start].strip() and not text[end:].strip(" ."):  # nothing else in the hint
        return True
    before, after = text[max(0, start - 60) : start], CLAUSE_END.split(text[end : end + 60], maxsplit=1)[0]
    # The problem has the same words only if those around the value are the same, too: "is 5", "5 apples".
    claim, next_word = CLAIM.search(before), re.search(r"^\s*\w+", after)
    quote = (claim[0] if claim else "") + text[start:end] + (next_word[0] if next_word else "")
    if re.search(rf"(?<![\w.])\s*{spaced(quote.lower())}(?!\w|\.\d)", asked):
        return False
    if not re.fullmatch(r"-?\w{1,3}", answer):  # a long answer is hardly there by accident
        return True
    nouns = [word.lower() for word in re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{4,}", after)]
    nouns = [noun[:5] for noun in nouns if noun not in NOT_NOUNS][:2]  # :5, so that "apple" finds "apples"
    return not LABEL.search(before) and (not nouns or any(noun in asked for noun in nouns))


def places(text, answer):
    """Yields (start, end) of each place of a text that holds the answer or a value equal to it."""
    if len(answer) > 2 and not re.fullmatch(r"-?[\d.,]+", answer):
        yield from (m.span() for m in re.finditer(rf"(?<![\w.]){spaced(answer)}(?!\w|[.,]\d)", text, re.I))
    same, digits, letters = {squeeze(answer): True}, sum(map(str.isnumeric, answer)), LETTER.search(answer)
    ends = [0, *itertools.chain(*(m.span() for m in SEPARATOR.finditer(text))), len(text)]
    for start, end in zip(ends[::2], ends[1::2]):
        end = start + len(text[start:end].rstrip(" -–'\""))
        value = squeeze(text[start:end]).strip(".,;:*/_'\"")
        value = value.strip("()") if value.count("(") != value.count(")") else value
        if value not in same:
            # Not worth comparing: empty, too long, too few digits, or letters while the answer has none
            worth = 0 < len(value) <= len(answer) + 60 and 4 * sum(map(str.isnumeric, value)) >= digits
            worth = worth and (letters or not LETTER.search(re.sub(r"(?<=\d)[a-z]+$", "", value)))
            worth = worth and len(same) <= MAX_COMPARED and not (value.isdigit() and answer.isdigit())
            if worth:
                same[value] = equal_answers(value, answer) is True
        if same.get(value):
            yield start, end


def holds(hint: str, solution: str | None) -> bool:
    """Whether a hint holds the program `solution`, apart from blanks; False if there is no solution."""
    return bool(squeeze(solution or "")) and squeeze(solution) in squeeze(hint)


def plain(text):
    r"""A text without marks: of formulas ($, \text{…}), bold type, headings, lists and HTML."""
    text = text.translate(FULL_WIDTH)
    text = re.sub(r"\\(?:text|textbf|mathbf|mathrm|mbox|emph)\s*\{([^{}]*)\}", r"\1", text)
    text = MARKS.sub(" ", text).strip()
    return re.sub(r"^ ?\d\d?[.)] ", "", text, flags=re.M) if re.search(r"^ ?1[.)] ", text, re.M) else text


def spaced(text):
    """A pattern that finds a text with any blanks between its characters."""
    return r"\s*".join(map(re.escape, squeeze(text)))


def squeeze(text):
    """A text without blanks."""
    return "".join(text.split())
