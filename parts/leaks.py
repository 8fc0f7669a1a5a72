r"""Not part of the method: decides whether a hint states the answer of a problem.

from parts.leaks import states
states("You should get 0.5.", "\\frac12", "What is 1 - 1/2?")    # True
states("Look again at step 2.", "2", "What is 1 + 1?")           # False
"""

import itertools
import re

from parts.answers import boxed, equal_answers

MAX_HINT, MAX_COMPARED = 20_000, 12  # characters read of a hint; values compared at some cost

# Words after which a value is offered as an answer; or the end of a calculation.
OFFER = re.compile(
    r"""\b(?:is|are|be|was|equals?|gets?|got|gives?|giving|gave|yields?|yielding|obtain(?:s|ed|ing)?|finds?|makes?
    |leaves|leaving|becomes?|reach(?:es)?|arrives?\ at|ends?\ up\ (?:at|with)|expect(?:ed|s)?|want|need|namely
    |(?:answer|result|solution|total|value)s?|so|thus|hence|therefore|it's|that's|conclude
    |(?:should|will|would|must|'ll)\ have|(?:\w*n't|not)\b[^.,;]{,40}\bbut
    |(?:[a-z]{3,}s|come|came|work|simplify|add|sum)(?:\ up|\ out|\ down)?\ (?:to|as))\b
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
    |at\ the\ end|in\ (?:the\ end|total|all))\b""",
    re.I | re.X,
)
WORD = re.compile(r"(?<![\\a-z])(?!sqrt|sin|cos|tan|log)[a-z]{3,}", re.I)


def states(hint: str, answer: str, prompt: str) -> bool:
    """Whether a hint states the right answer to a problem of mathematics, by equal_answers."""
    text, asked = plain(hint[:MAX_HINT]), squeeze(plain(prompt))
    boxes = [boxed(piece) or "" for piece in re.split(r"(?=\\f?boxed)", hint[:MAX_HINT])[1:21]]
    found = itertools.chain([text, *boxes], offered(text, asked, len(answer) + 60))
    if sum(c.isalnum() for c in re.sub(r"\\[a-zA-Z]+", "", answer)) > 4:
        if squeeze(plain(answer)) in squeeze(text) and squeeze(plain(answer)) not in asked:
            return True
        found = itertools.chain(found, held(text, asked))
    costly, seen, wordy = 0, set(), WORD.search(answer)
    for value in found:
        value = value.strip(" .,;:")
        if value in seen or not 0 < len(value) <= len(answer) + 60:
            continue
        seen.add(value)
        if squeeze(value) == squeeze(answer):
            return True
        if re.fullmatch(r"-?[\d,]+", value) and re.fullmatch(r"-?\d+", answer):
            if value.replace(",", "") == answer:
                return True
        elif costly < MAX_COMPARED and (wordy or not WORD.search(re.sub(r"(?<=[\d}]) ?[a-z]+$", "", value))):
            costly += 1
            if equal_answers(value, answer):
                return True
    return False


def holds(hint: str, solution: str | None) -> bool:
    """Whether a hint holds a program word for word, ignoring blanks; False if there is none."""
    return bool(squeeze(solution or "")) and squeeze(solution) in squeeze(hint)


def offered(text, asked, limit):
    """Yields the values that a text offers as an answer, unless the problem has the same words."""
    for match in OFFER.finditer(text):
        rest = END.split(text[match.end() : match.end() + limit].strip(), maxsplit=1)[0]
        for value in {rest: 0, PAUSE.split(rest, maxsplit=1)[0]: 0}:
            if squeeze(match[0] + value) not in asked:
                yield from {value: 0, re.split("[=≈]", value)[-1]: 0}
    for match in RIGHT.finditer(text):
        if squeeze(match[0]) not in asked:
            yield LEAD.split(match[1])[-1]


def held(text, asked):
    """Yields the values that a text holds and the problem does not."""
    for value in re.split(r"[\s=;:]+", text):
        if re.search(r"\d", value) and value not in asked:
            yield value


def plain(text):
    """A text without the marks of formulas and of bold type."""
    return re.sub(r"(?:\$|\\[()\[\],;!$ ]|\*\*|`| )+", " ", text).strip()


def squeeze(text):
    """A text without blanks."""
    return "".join(text.split())
