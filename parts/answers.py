"""Are two mathematical answers the same? An own parser: in this process, deterministic, never evaluating text, bounded in size.

from answers import boxed, equal_answers
equal_answers("\\frac12", "0.5")        # True
boxed("so \\boxed{7}")                  # "7"
"""

import math
import random
import re
import threading
from fractions import Fraction

import mpmath


class Undecided(Exception):
    """An answer that the parser does not understand, or that is too large to compute."""


SYMBOLS = {"π": "\\pi ", "√": "\\sqrt ", "×": "*", "·": "*", "⋅": "*", "−": "-", "–": "-", "÷": "/", "≤": "<=", "≥": ">=", "≠": "\\ne ",
           "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "°": "", "\u00a0": " ", "²": "^2", "³": "^3", "½": "\\frac12 ",
           "∈": "\\in ", "∅": "\\emptyset ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta "}  # fmt: skip
REWRITES = [  # in this order
    (
        r"\\(left|right|bigg?|Bigg?|displaystyle|textstyle|limits|mathstrut|,|;|:|!|quad|qquad|thinspace)(?![a-zA-Z])",
        " ",
    ),
    (r"(?<!\\)\\ ", " "),
    (r"(?<!\\)~|\$|\\\(|\\\)|\\\[|\\\]", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\dbinom|\\tbinom", r"\\binom"),
    (r"\\(cdot|times|ast)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\(leq?|leqslant)(?![a-zA-Z])", "<="),
    (r"\\(geq?|geqslant)(?![a-zA-Z])", ">="),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\(lbrace|\{)", r"\\{"),
    (r"\\(rbrace|\})", r"\\}"),
    (r"\^\s*(\{\s*\\(circ|degree)\s*\}|\\(circ|degree))|\\degree", ""),
    (r"\\?%", ""),
    (r"\{,\}", ","),
    (
        r"\\(text|mathrm|textbf|textit|mbox|mathbf|operatorname|textrm|mathit|mathbb|rm)\s*\{([^{}]*)\}",
        r" \2 ",
    ),
    (r"\\(dots|ldots|cdots)", " ... "),
]
UNIT = (
    "units?|cm|mm|km|m|kg|g|s|ft|feet|foot|in|inch(?:es)?|yards?|miles?|meters?|metres?|cents?|dollars?|degrees?|hours?|minutes?|seconds?|days?|"
    "years?|sq(?:uare)?|cubic|per|mph|ways?|points?|pairs?|solutions?|people|students?|cubes?|integers?|numbers?|triples?"
)
FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "log",
    "ln",
    "exp",
    "lg",
    "gcd",
    "max",
    "min",
}
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
DIGITS = 1200  # bounds what is computed: digits of precision, and of any number that may arise


def boxed(text):
    """Content of the last \\boxed{…} of a turn, braces matched; None if there is none, or if it is unfinished or empty."""
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start + 6, len(text) if start >= 0 else 0):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + 7 : i].strip() or None
    return None


def equal_answers(given, gold):
    """Whether two answers mean the same: True, False, or None if that cannot be decided.

    Equal texts; else, after removing what typesetting adds: sets and lists unordered, tuples and intervals ordered, relations in
    either direction, matrices by entries; expressions exactly where they are rational, else to high precision, with letters at
    random places. If one side is a decimal fraction, to a relative 1e-6. Text is parsed, never evaluated; size is bounded.
    """
    if given.strip() == gold.strip():
        return True
    if max(len(given), len(gold)) > 2000:
        return None
    a, b = tidy(given), tidy(gold)
    if squeeze(a) == squeeze(b):
        return True
    try:
        return same_answer(a, b, 0)
    except (
        Undecided,
        RecursionError,
        ArithmeticError,
        ValueError,
        TypeError,
        MemoryError,
        mpmath.libmp.libhyper.NoConvergence,
    ):
        return None


def judgeable(gold):
    """Whether equal_answers can tell other answers from this one: at most two words, and its value can be computed."""
    return len(WORD.findall(tidy(gold))) <= 2 and equal_answers(gold, "0") is not None


def squeeze(text):
    return "".join(text.split()).casefold().rstrip(".")


def tidy(text):
    """A text without what typesetting adds to it: spacing, styles, units, thousands separators."""
    for old, new in SYMBOLS.items():
        text = text.replace(old, new)
    for pattern, new in REWRITES:
        text = re.sub(pattern, new, text)
    for _ in range(2):
        text = boxed(text) or text
    if not re.search(r"[()\[\]]|\\\{", text):
        text = re.sub(
            r"(?<![\d.,])\d{1,3}(?:,\s?\d{3})+(?![\d,])", lambda m: re.sub(r"[,\s]", "", m[0]), text
        )
        text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ])", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(rf"(?<=[\d}})])\s*(?:(?:{UNIT})(?:\s*\^\s*\{{?[23]\}}?)?[\s./]*)+$", "", text.strip())
    return re.sub(r"\\\$|^\s*[£€]|(?<=\d)\.$", "", text.strip()).strip().rstrip(".").strip()


def every(results):
    """True if all are, False if any is, else None."""
    results = list(results)
    return False if False in results else None if None in results else True


def matched(left, right, depth):
    """Whether two collections hold the same answers in some order."""
    if len(left) != len(right):
        return False
    if len(left) > 40:
        raise Undecided
    right, unsure = list(right), False
    for a in left:
        results = [same_answer(a, b, depth) for b in right]
        if True not in results:
            return None if None in results or unsure else False
        unsure |= None in results
        del right[results.index(True)]
    return True


def split(text, separators):
    """(parts, separators between them) of a text at the separators (a regular expression) that stand outside brackets."""
    parts, found, depth, last = [], [], 0, 0
    for m in re.finditer(rf"\\[{{}}]|[()\[\]{{}}]|{separators}|\\[a-zA-Z]+", text):
        if m[0] in ("(", "[", "{", "\\{", ")", "]", "}", "\\}"):
            depth += 1 if m[0] in ("(", "[", "{", "\\{") else -1
        elif depth == 0 and re.fullmatch(separators, m[0]):
            parts.append(text[last : m.start()].strip())
            found.append(m[0].strip())
            last = m.end()
    return [*parts, text[last:].strip()], found


def enclosed(text):
    """(opening bracket, inside, closing bracket) if one pair of brackets encloses the whole text, else None."""
    m = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text.strip(), flags=re.S)
    if not m:
        return None
    depth = 0
    for part in re.finditer(r"\\[{}]|[()\[\]]", m[2]):
        depth += 1 if part[0] in ("(", "[", "\\{") else -1
        if depth < 0:
            return None
    return m[1], m[2], m[3]


def same_answer(a, b, depth):
    """equal_answers for tidied texts: takes structures apart, then compares expressions."""
    if depth > 6:
        raise Undecided
    a, b, depth = a.strip(), b.strip(), depth + 1
    if squeeze(a) == squeeze(b):
        return True
    if not a or not b:
        return False
    x, y = matrix(a), matrix(b)
    if x or y:
        if not (x and y) or [len(r) for r in x] != [len(r) for r in y]:
            return False
        return every(same_answer(p, q, depth) for r, s in zip(x, y) for p, q in zip(r, s))
    x, y = split(a, r"\\cup(?![a-zA-Z])")[0], split(b, r"\\cup(?![a-zA-Z])")[0]
    if len(x) > 1 or len(y) > 1:
        return matched(x, y, depth)
    comma = r",|;|\band\b|\bor\b"
    x, y = ([p for p in split(t, comma)[0] if p] for t in (a, b))
    if (
        {len(x) > 1, len(y) > 1} == {True, False}
        and (tuple_ := enclosed((y if len(x) > 1 else x)[0]))
        and tuple_[0] == "("
    ):
        return every(
            same_answer(p, q, depth)
            for p, q in zip(x if len(x) > 1 else y, split(tuple_[1], ",")[0], strict=True)
        )
    if len(x) > 1 or len(y) > 1:
        return matched([p for t in x for p in signs(t)], [p for t in y for p in signs(t)], depth)
    (a,), (b,) = x or [a], y or [b]
    if len(signs(a)) > 1 or len(signs(b)) > 1:
        return matched(signs(a), signs(b), depth)
    relation = r"<=|>=|\\ne(?![a-zA-Z])|\\in(?![a-zA-Z])|[<>=]"
    (p, r), (q, s) = split(a, relation), split(b, relation)
    if r or s:
        return same_relation(p, r, q, s, depth)
    x, y = enclosed(a), enclosed(b)
    if x and y:
        p, q = split(x[1], ",|;")[0], split(y[1], ",|;")[0]
        if x[0] == y[0] == "\\{":
            return matched(p, q, depth)
        if len(p) > 1 or len(q) > 1:
            return (x[0], x[2], len(p)) == (y[0], y[2], len(q)) and every(
                same_answer(s, t, depth) for s, t in zip(p, q)
            )
    elif x or y:
        inside = (x or y)[1]
        if len(split(inside, ",|;")[0]) > 1:
            return matched(split(inside, ",")[0], [b if x else a], depth) if (x or y)[0] == "\\{" else False
        if (x or y)[0] == "\\{":
            return same_answer(inside, b if x else a, depth)
    return same_expression(a, b)


def same_relation(p, r, q, s, depth):
    """Two chains of relations: parts p with signs r between them, and q with s."""
    if not (r and s):  # "x = 3" beside "3", "x \\in [1, 2]" beside "[1, 2]"
        long, signs_of, short = (p, r, q) if r else (q, s, p)
        if (
            set(signs_of) <= {"=", "\\in"}
            and re.fullmatch(r"\(?[\\a-zA-Z_{}0-9, ()']{1,20}\)?", long[0])
            and not long[0].isdigit()
        ):
            return same_answer(long[-1], short[0], depth)
        return None if any(c.isalpha() for c in short[0]) else False
    flip = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    for parts, found in ((q, s), (q[::-1], [flip.get(c, c) for c in s[::-1]])):
        if len(r) == len(found) and every(same_answer(x, y, depth) for x, y in zip(p, parts)):
            return r == found
    if r == s == ["="]:
        return (
            same_expression(f"({p[0]})-({p[1]})", f"({q[0]})-({q[1]})")
            or same_expression(f"({p[0]})-({p[1]})", f"({q[1]})-({q[0]})")
            or None
        )
    return None


def signs(text):
    """The two answers that ± stands for, or the one."""
    return [text.replace("\\pm", sign) for sign in "+-"] if "\\pm" in text else [text]


def matrix(text):
    """Rows of entries of a LaTeX matrix, or None."""
    m = re.fullmatch(r"\s*\\begin\s*\{([pbvBV]?matrix)\}(.*)\\end\s*\{\1\}\s*", text, flags=re.S)
    return m and [[e.strip() for e in row.split("&")] for row in re.split(r"\\\\", m[2]) if row.strip()]


def same_expression(a, b):
    """Whether two expressions have the same value wherever they have one."""
    words = [WORD.findall(t) for t in (a, b)]
    words = [[w for w in ws if w.lower() not in FUNCTIONS | {"sqrt", "frac"}] for ws in words]
    if words[0] or words[1]:  # prose, names, "yes": equal as text only
        short = [re.fullmatch(r"\(?[a-zA-Z]+\)?", t) for t in (a, b)]
        bare = [re.fullmatch(r"[-+\d./ ]+", t) for t in (a, b)]
        return squeeze(a) == squeeze(b) or (False if all(x or y for x, y in zip(short, bare)) else None)
    approximate, ctx = ("." in a) != ("." in b), numbers()
    for place in range(5):
        x, y = Expression(a, place, ctx), Expression(b, place, ctx)
        p, q = x.whole(), y.whole()
        if isinstance(p, Fraction) and isinstance(q, Fraction):
            near = (
                10**9 if 1 in (p.denominator, q.denominator) else 10**6
            )  # 1000000.5 is no rounding of 1000000
            right = p == q or approximate and abs(p - q) * near <= max(abs(p), abs(q))
        else:
            p, q = number(p, ctx), number(q, ctx)
            right = abs(p - q) <= max(abs(p), abs(q)) * ctx.mpf(10) ** (-6 if approximate else -30)
        if not right:
            return False
        if not (x.names or y.names):
            break
    return True


CONTEXTS = threading.local()


def numbers():
    """This thread's mpmath context (mpmath's own is not safe in threads), with so many digits that differences such as
    2^1006 √(2^2010 + 2) − 2^2011 keep some."""
    if not hasattr(CONTEXTS, "own"):
        CONTEXTS.own = mpmath.mp.clone()
        CONTEXTS.own.dps = DIGITS
    return CONTEXTS.own


def number(value, ctx):
    """A Fraction as a number of the context; others as they are."""
    return ctx.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def power(base, exponent, ctx):
    """base^exponent, exact where both are rational and the result is. Raises Undecided where it would be too large."""
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > 8 * DIGITS * 4:
                raise Undecided
            return base ** int(exponent)
        if exponent == Fraction(1, 2) and base >= 0:
            roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
            if roots[0] ** 2 == base.numerator and roots[1] ** 2 == base.denominator:
                return Fraction(*roots)
        if base < 0 and exponent.denominator % 2:  # a real odd root, as in schools
            return power(-base, exponent, ctx) * (-1) ** (exponent.numerator % 2)
    if abs(number(exponent, ctx)) > 10**6:
        raise Undecided
    value = ctx.power(number(base, ctx), number(exponent, ctx))
    if value and abs(ctx.mag(value)) > 10**7:
        raise Undecided
    return value


def root(value, ctx):
    return power(value, Fraction(1, 2), ctx)


def whole_number(value, most):
    """A value as an int between 0 and `most`; Undecided if it is none."""
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= most:
        raise Undecided
    return int(value)


class Expression:
    """Recursive descent over LaTeX or plain mathematics; methods return the value of what they read, a Fraction where it is exact.

    Letters stand for numbers drawn for their name and for `place`; `names` collects them.
    """

    def __init__(self, text, place, ctx):
        self.text = re.sub(r"(?<![\d.^_/}])(\d+)\s+(\d+)\s*/\s*(\d+)", r"(\1+\2/\3)", text)  # 3 1/2
        self.at, self.place, self.ctx, self.names, self.bars = 0, place, ctx, set(), 0

    def whole(self):
        value = self.sum()
        if self.peek():
            raise Undecided
        return value

    def peek(self, pattern=r"\\[a-zA-Z]+|\\[{}]|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]+|\S"):
        """The next token that matches, without taking it; "" if there is none."""
        m = re.compile(r"\s*(" + pattern + ")").match(self.text, self.at)
        self.next = m.end() if m else self.at
        return m[1] if m else ""

    def take(self, pattern):
        """The next token if it matches, else ""."""
        token = self.peek(pattern)
        self.at = self.next
        return token

    def expect(self, pattern):
        return self.take(pattern) or self.refuse()

    def refuse(self):
        raise Undecided

    def sum(self):
        minus = self.take(r"[-+]") == "-"
        value = -self.product() if minus else self.product()
        while sign := self.take(r"[-+]"):
            value = self.add(value, self.product(), -1 if sign == "-" else 1)
        return value

    def add(self, a, b, sign=1):
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a + sign * b
        return number(a, self.ctx) + sign * number(b, self.ctx)

    def times(self, a, b):
        return (
            a * b
            if isinstance(a, Fraction) and isinstance(b, Fraction)
            else number(a, self.ctx) * number(b, self.ctx)
        )

    def over(self, a, b):
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a / b
        return number(a, self.ctx) / number(b, self.ctx)

    def product(self):
        start = self.at
        value = self.factor()
        while True:
            if sign := self.take(r"[*/]"):
                minus = self.take(r"-")
                other = self.factor()
                value = (self.times if sign == "*" else self.over)(value, -other if minus else other)
            elif self.starts_factor():
                literal = re.fullmatch(r"\s*\d+\s*", self.text[start : self.at])
                mixed = literal and re.compile(r"\s*\\frac\s*(\{\s*\d+\s*\}|\d)\s*(\{\s*\d+\s*\}|\d)").match(
                    self.text, self.at
                )
                value = (self.add if mixed else self.times)(value, self.factor())  # 3\frac12 is a sum
            else:
                return value

    def starts_factor(self):
        token = self.peek()
        if token == "|":
            return not self.bars
        return bool(token) and (token[0].isalnum() or token[0] == "." or token in ("(", "[", "{", "\\{") or token.startswith("\\")) and token not in (
            "\\}", "\\rfloor", "\\rceil", "\\rvert", "\\cup")  # fmt: skip

    def factor(self):
        value = self.primary()
        while mark := self.take(r"!|\^"):
            if mark == "!":
                value = Fraction(math.factorial(whole_number(value, 400)))
            else:
                value = power(value, self.argument(), self.ctx)
        return value

    def argument(self):
        """What stands after a command, ^ or _: a group, or one number or command."""
        if self.take(r"\{"):
            value = self.sum()
            self.expect(r"\}")
            return value
        return -self.primary() if self.take(r"-") else self.primary()

    def digit_or_group(self):
        digit = self.take(r"\d")
        return Fraction(int(digit)) if digit else self.argument()

    def primary(self):
        if text := self.take(r"\d+(?:\.\d+)?|\.\d+"):
            if len(text) > DIGITS:
                raise Undecided
            if base := self.take(r"_\s*\d+") or self.take(r"_\s*\{\s*\d+\s*\}"):
                return Fraction(int(text, int(re.search(r"\d+", base)[0])))
            return Fraction(text)
        for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), (r"\{", r"\}"), (r"\\\{", r"\\\}")):
            if self.take(left):
                bars, self.bars = self.bars, 0
                value = self.sum()
                self.bars = bars
                self.expect(right)
                return value
        for left, right, function in ((r"\|", r"\|", abs), (r"\\lvert", r"\\rvert", abs), (r"\\lfloor", r"\\rfloor", self.floor),
                                      (r"\\lceil", r"\\rceil", lambda v: -self.floor(-v))):  # fmt: skip
            if self.take(left):
                self.bars += 1
                value = self.sum()
                self.bars -= 1
                self.expect(right)
                return function(value)
        word = (self.take(r"\\[a-zA-Z]+") or self.word()).lstrip("\\")
        return self.command(word) if word else self.refuse()

    def word(self):
        """A function's name in plain text, or one letter."""
        return next(
            (
                w
                for w in (self.take(rf"(?:{name})(?![a-z])") for name in ("sqrt", "pi", *sorted(FUNCTIONS)))
                if w
            ),
            "",
        ) or self.take("[a-zA-Z]")

    def floor(self, value):
        return Fraction(math.floor(value)) if isinstance(value, Fraction) else self.ctx.floor(value)

    def command(self, word):
        """The value that begins with a command, a function's name or a letter."""
        ctx = self.ctx
        if word == "frac":
            return self.over(self.digit_or_group(), self.digit_or_group())
        if word == "binom":
            n, k = (whole_number(self.digit_or_group(), 2000) for _ in range(2))
            return Fraction(math.comb(n, k))
        if word == "sqrt":
            index = self.sum() if self.take(r"\[") else None
            if index is not None:
                self.expect(r"\]")
            value = self.digit_or_group() if self.peek(r"\d\D") else self.argument()
            return power(value, 1 / index if isinstance(index, Fraction) else Fraction(1, 2), ctx)
        if word in FUNCTIONS:
            return self.function(word)
        if word == "pi":
            return +ctx.pi
        if word in ("e", "i") and self.peek(r"_") != "_":
            return ctx.e if word == "e" else ctx.mpc(0, 1)
        if len(word) > 1 and word in (
            "begin",
            "end",
            "text",
            "pm",
            "mp",
            "in",
            "cup",
            "cap",
            "ne",
            "sum",
            "int",
            "lim",
            "emptyset",
            "overline",
            "dots",
        ):
            raise Undecided
        name = (
            word
            + "".join((self.take(r"_\s*(?:\{[^{}]*\}|\w)")).split()).replace("{", "").replace("}", "")
            + "'" * len(self.take(r"'+"))
        )
        self.names.add(name)
        return Fraction(random.Random(f"{name}/{self.place}").randint(2000, 9000), 211)

    def function(self, word):
        base = None
        if word in ("log", "lg") and self.take("_"):
            base = self.digit_or_group()
        exponent = self.argument() if self.take(r"\^") else None
        if self.peek(r"[({\[]"):
            value = self.primary()
        else:
            value = self.factor()
            while self.starts_factor() and self.peek(r"\\[a-zA-Z]+|\w+").lstrip("\\") not in FUNCTIONS:
                value = self.times(value, self.factor())
        x = number(value, self.ctx)
        if abs(x) > 10**6 and word in ("exp", "sinh", "cosh", "sin", "cos", "tan"):
            raise Undecided
        function = {"log": "ln", "lg": "log10", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(
            word, word
        )
        if word in ("gcd", "max", "min"):
            raise Undecided
        result = (
            getattr(self.ctx, function)(x)
            if base is None
            else self.ctx.ln(x) / self.ctx.ln(number(base, self.ctx))
        )
        return result if exponent is None else power(result, exponent, self.ctx)
