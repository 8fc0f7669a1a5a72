r"""Not part of the method: decides whether a hint gives the answer of a problem away.

    from parts.leaks import states
    states("You should get 0.5.", "\\frac12", "What is 1 - 1/2?")    # True
    states("Look again at step 2.", "2", "What is 1 + 1?")           # False

The rule for mathematics, with the comparison of answers.py. A hint states the answer if
- it is the answer, or has it in a box; or
- it offers an equal value ("you should get X", "X is correct", "5 * 44 = X"), and the clause ends there; or
- it holds an equal value, and the answer has more than four letters and digits, so that this is no accident.
What the problem itself says does not count. Paraphrases ("one more than 11") are left to the judge.

Measured on snippets made from Omni-MATH, MATH-500 and GSM8K, with the fourth of four sets of wordings.
"Text" is the search for the answer as a text.

    share of the snippets that are flagged, %                 rule   text    snippets
    sentences of another problem's solution                    0.4    4.9       2,366
        where the answer is an integer up to 20                1.1   16.5         570
    "Raise both sides to the power X.", 26 such wordings       0.0    100       2,343
    "Solving it yields X.", 25 such wordings, other forms     92.7   90.6       2,400
    the last sentence of the problem's own solution, no box   76.3    100         350

The table is the best of four tries, and optimistic: the same hand wrote rule and wordings. Each set was new
when it was tried, and the rule was extended after each of the first three. When first seen, counters were
flagged in 4.8, 0, 19 and 0 % and stated answers found in 82, 83, 79 and 93 %. The third figures are of a
variant that was dropped; this rule has 7 and 84 % there. On wordings that somebody else wrote it finds 812 of
1,200 stated answers (68 %) and flags none of 1,200 counters: it misses about three in ten. Of 4,500 made
hints of the toy world, none of which was meant to leak, it flags 20. Half of the hints take less than 0.1 ms,
one in a hundred 10 to 22 ms.
"""

import itertools
import re

from parts.answers import boxed, equal_answers

MAX_HINT, MAX_COMPARED = 20_000, 12  # characters read of a hint; values compared at some cost

# Words after which a value is offered as an answer; or a calculation and "=".
OFFER = re.compile(
    r"""\b(?:is|are|be|was|been|equals?|gets?|got|gives?|giving|gave|yields?|yielding|obtain(?:s|ed|ing)?|finds?
    |found|makes?|leaves|leaving|becomes?|reach(?:es)?|arrives?\ at|expect(?:ed|s)?|want|need|namely|so|thus
    |hence|therefore|it's|that's|conclude|says?|shows?|lists?|writes?|claims?|(?:answer|result|solution|total|value)s?
    |(?:looking|asked)\ for|(?:end|ends|ended|go|us)\ (?:up\ )?with|(?:should|will|would|must|'ll)\ have
    |(?:\w*n't|not)\b[^.,;]{,40}\bbut|(?:nothing|none)\ but|change\ it\ to
    |(?:[a-z]{3,}s|lead|come|came|work|simplify|add|sum)(?:\ up|\ out|\ down)?\ (?:to|as))\b
    (?:\s*\b(?:just|actually|simply|exactly|only|indeed|therefore|thus|then|that|equal\ to|equals|given\ by
    |the|a|of|approximately|about|be|is)\b|\s*(?:[:=≈,–—]|-\s))*
    |(?:[-+*/^÷×·}]|\\cdot|\\times)\s*[\w.{}()\\]{,12}\s*[=≈]""",
    re.I | re.X,
)
# A value, and words that say that it is right; LEAD: what may stand before the value.
RIGHT = re.compile(
    r"""([^\n]{1,60}?)\s(?:is|was|as|would\ be)\s(?:indeed\s)?(?:what\s(?:you|we|I)
    |(?:the\s|your\s)?(?:final\s|correct\s|right\s)?(?:correct|right|answer|result|solution|value))\b""",
    re.I | re.X,
)
LEAD = re.compile(
    r"[.;:!?]\s|,\s(?=[a-z])|\b(?:that|so|hence|thus|and|why|see|know|but|believe|think)\s", re.I
)
# Where the offered value ends.
END = re.compile(r"[.!?;:,]*\s*\n|[.!?;:]+(?=\s|$)")
PAUSE = re.compile(
    r""",\s(?=[a-z]{2})|\s[–—(]|\s(?:because|since|when|if|and|but|not|instead|rather|which|so|as|here|after
    |at\ the\ end|all\ along|in\ (?:the\ end|total|all))\b""",
    re.I | re.X,
)
WORD = re.compile(
    r"(?<![\\a-z])(?!sqrt|sin|cos|tan|log)(?:[a-z]{3,}|(?:by|in|on|of|to|at|or|as|it|we)\b)", re.I
)


def states(hint: str, answer: str, prompt: str) -> bool:
    """Whether a hint states the right answer to a problem of mathematics, by equal_answers."""
    text, answer, asked = plain(hint[:MAX_HINT]), plain(answer), squeeze(plain(prompt))
    boxes = [boxed(piece) or "" for piece in re.split(r"(?=\\f?boxed)", hint[:MAX_HINT])[1:21]]
    values = itertools.chain([text, *boxes], offered(text, asked, len(answer) + 60))
    if sum(c.isalnum() for c in re.sub(r"\\[a-zA-Z]+", "", answer)) > 4:
        pattern = r"\s*".join(map(re.escape, squeeze(answer)))
        if squeeze(answer) not in asked and re.search(rf"(?<!\w){pattern}(?!\w)", text):
            return True
        values = itertools.chain(values, held(text, asked))
    costly, seen, words = 0, set(), {word.lower() for word in WORD.findall(answer)}
    for value in values:
        value = value.strip(" .,;:")
        value = value[:-1] if value.count(")") > value.count("(") else value
        if value in seen or not 0 < len(value) <= len(answer) + 60:
            continue
        seen.add(value)
        if squeeze(value) == squeeze(answer):
            return True
        if re.fullmatch(r"-?[\d,]+", value) and re.fullmatch(r"-?\d+", answer):
            if value.replace(",", "") == answer:
                return True
        elif costly < MAX_COMPARED and could_equal(value, answer, words):
            costly += 1
            if equal_answers(value, answer):
                return True
    return False


def could_equal(value, answer, words):
    """Whether it pays to compare: no digit is missing, and there is no word but a unit and the answer's."""
    without_unit = re.sub(r"(?<=[\d}]) ?[a-z]+$", "", value)
    digits = re.search(r"\d", value) or not re.search(r"\d", answer)
    return bool(digits) and {word.lower() for word in WORD.findall(without_unit)} <= words


def holds(hint: str, solution: str | None) -> bool:
    """Whether a hint holds a program word for word, ignoring blanks; False if there is none."""
    return bool(squeeze(solution or "")) and squeeze(solution) in squeeze(hint)


def offered(text, asked, limit):
    """Yields the values that a text offers as an answer, unless the problem has the same words."""
    for match in OFFER.finditer(text):
        rest = END.split(text[match.end() : match.end() + limit].strip(), maxsplit=1)[0]
        for value in dict.fromkeys([rest, PAUSE.split(rest, maxsplit=1)[0]]):
            if squeeze(match[0] + value) not in asked:
                yield value
                if not WORD.search(value):
                    yield re.split("[=≈]", value)[-1]
    for match in RIGHT.finditer(text):
        if squeeze(match[0]) not in asked:
            yield LEAD.split(match[1])[-1]


def held(text, asked):
    """Yields the values that a text holds and the problem does not."""
    for value in re.split(r"[\s=;:]+", text):
        if re.search(r"\d", value) and value not in asked:
            yield value


def plain(text):
    """A text without the marks of formulas, of text in them, and of bold type."""
    text = re.sub(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?:\$|\\[()\[\],;!$ ]|\*\*|`| )+", " ", text).strip()


def squeeze(text):
    """A text without blanks."""
    return "".join(text.split())
