r"""Not part of the method: decides whether two mathematical answers are the same.

`equal_answers("\\frac12", "0.5")` is True. It runs in this process and never evaluates text as code.
`normalize` removes typesetting, `read` finds the structure, `Expression` computes values, a `Judge` compares.
Its work is limited in steps, not in seconds, so verdicts do not depend on the machine. The rules:
- Rational values are compared exactly, irrational ones up to rounding, with 1,200 and 1,300 digits. `log` is
  ln or log10. An undefined value (1/0, ∞-∞, a sum that swallows a term) equals nothing, ∞ only itself.
- A decimal fraction equals an exact answer of that value; with six significant digits or more also one, no
  integer, that it rounds or cuts off at its last place. Two decimals must be equal.
- Letters are case-sensitive and compared at random points of both signs, near and far; if these decide
  nothing, and under floors, at integers. Undecided: a value on one side only, f(2), A^{-1}B, a × b, 5 m, +C.
- Lists and sets match in any order, tuples in order, x=1, y=2 by name, ± as two values, real sets by content.
- `name =` may be missing: a letter, f(x), |z|, AB, words for a quantity, sin A, E[X], lim …, a sum or product
  of letters without x, y, z. Equations are equal up to a factor. An equation never equals its solution.
- Known units may be missing beside a number without letters; other words, and two units, are undecided.
  Degrees may be missing beside a number without π. 50% is 0.5, or 50 (from 1 to 100). 2:6 is 1/3.
- A remark is dropped if it is a reason without numbers. Prose, number words, sums of many terms, sets with
  conditions, shifted families (kπ) and most congruences stay undecided.
"""

import functools
import math
import random
import re
import threading
import unicodedata
from fractions import Fraction
from typing import NamedTuple

import mpmath

PRECISE, QUICK = (1200, 1300), (100, 120)  # digits, two runs each: at the first point, at the others
MAX_DIGITS, MAX_BITS = 1200, 60_000  # of a number in the text, and of an exact value
MAX_LENGTH, MAX_STEPS = 2000, 30_000  # characters of an answer, steps of calculation for a pair (a second)


class Undecided(Exception):
    """The parser does not understand an answer, or its value is too large to compute."""


class Undefined(Exception):
    """An expression has no value at this point, or needs more digits to be known."""


def refuse(condition=True, reason=Undecided):  # `raise` in one line, also for use within an expression
    if condition:
        raise reason


def boxed(text: str) -> str | None:
    r"""The content of a turn's last box (\boxed{…}, \boxed7, \fbox{…}); None if missing or unclosed."""
    pattern = r"(?P<box>\\(?:boxed|fbox)(?![a-zA-Z])\s*)(?:(?P<open>\{)|(?P<bare>[^\s${}]*))|\\.|[{}]"
    opened, last, inside = [], -1, ""
    for match in re.finditer(pattern, text, flags=re.S):
        if match["bare"] is not None:
            last, inside = match.start(), match["bare"].rstrip(".,;:)*")
        elif match[0] != "}":
            opened += [match] if match[0][-1] == "{" and match[0] != r"\{" else []
        elif opened and (start := opened.pop())["open"]:  # inner boxes are part of this one
            last, inside = start.start(), text[start.end() : match.start()]
    return None if any(m["open"] and m.start() > last for m in opened) else inside.strip() or None


def equal_answers(answer: str, gold: str) -> bool | None:
    """Whether two answers are the same by the rules above, or None if undecided. Never raises."""
    try:
        if answer.strip() == gold.strip() or max(len(answer), len(gold)) > MAX_LENGTH:
            return True if answer.strip() and answer.strip() == gold.strip() else None
        a, b = normalize(answer), normalize(gold)
        a, b = strip_label(a, b), strip_label(b, a)
        return True if a and strip_blanks(a) == strip_blanks(b) else Judge().same(read(a), read(b))
    except Exception:  # no error in here may end a run
        return None


def judgeable(gold: str) -> bool:
    """Whether the rules can judge a gold answer: it has values, and at most two words of prose."""
    try:
        node = read(strip_label(normalize(gold), "")) if len(gold) <= MAX_LENGTH else refuse()
        words = " ".join(n.text for n in (node, *node.items) if isinstance(n, Node) and n.kind == "words")
        return len(words.split()) <= 2 and (node.kind == "words" or Judge().same(node, node) is True)
    except Exception:  # as above
        return False


# ---- The text layer: removes typesetting -------------------------------------------------------------------

# fmt: off
SYMBOLS = r"""× \times · * ⋅ * ∙ * − - – - — - ÷ / ⟨ ( ⟩ ) ′ ' ’ ' ⁄ / ∕ / ∠ \angle π \pi √ \sqrt ≤ <= ≥ >=
    ⩽ <= ⩾ >= ≠ \ne ≈ \approx ∞ \infty ∪ \cup ∩ \cap ± \pm ∓ \mp ° \degree ∈ \in ∅ \emptyset ∖ \setminus
    ℝ \reals … ... θ \theta α \alpha β \beta γ \gamma λ \lambda μ \mu φ \phi ω \omega""".split()
RENAMED = r"""dfrac \frac tfrac \frac cfrac \frac dbinom \binom tbinom \binom cdot * ast * bullet *
    div / le <= leq <= leqslant <= ge >= geq >= geqslant >= lt < gt > ne \ne neq \ne simeq \approx vee \lor
    wedge \land langle ( rangle ) lbrace \{ rbrace \} R \reals Z \integers
    varnothing \emptyset backslash \setminus smallsetminus \setminus varepsilon \epsilon varphi \phi
    vartheta \theta varrho \rho ell l dot \overline equiv \equiv dots ... ldots ... cdots ...""".split()
SYMBOLS = {ord(old): f"{new} " for old, new in zip(SYMBOLS[::2], SYMBOLS[1::2], strict=True)}
SYMBOLS |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # of full width
SYMBOLS |= dict.fromkeys(map(ord, '\0"`✓✔■□'), " ") | dict.fromkeys([*range(0x200B, 0x200E), 0xFEFF], "")
RENAMED = {old: f"{new} " for old, new in zip(RENAMED[::2], RENAMED[1::2], strict=True)}
RENAMED |= dict.fromkeys("""left right middle displaystyle textstyle limits nolimits mathstrut quad qquad
    boldsymbol bm pmb mathbf mathit mathsf mathcal bf it rm underline vec hat pounds mathdollar ensuremath
    checkmark blacksquare square""".split(), " ")
LETTERS = set("""alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega""".split())
FUNCTIONS = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "log": "ln", "lg": "log10", "cis": "expj"}
FUNCTIONS |= {name: name for name in "sin cos tan cot sec csc sinh cosh tanh asin acos atan ln exp".split()}
FUNCTION = re.compile("|".join(sorted([*FUNCTIONS, *"sqrt pi gcd lcm max min".split()], key=len)[::-1]))
# Units and counted things, which may be missing; those of one group mean the same. Other words are undecided.
UNITS = """m meter metre, cm centimeter, mm millimeter, km kilometer, in inch inches, ft foot feet, yd yard,
    mi mile, h hr hour, min minute, s sec second, day, week, month, year, g gram, kg kilogram, lb pound £,
    ounce, ton, l liter, ml milliliter, dollar usd, cent, euro €, yen ¥, rad radian, unit, mph, mb, person
    people, way, such, the, minimum, maximum, number, child children, man men, woman women, student, friend,
    boy, girl, dog, cat, point, solution, page, watt, apple, orange, egg, cookie, book, marble, ball, coin"""
UNITS = {w + s: group.split()[0] for group in UNITS.split(",") for w in group.split() for s in ("", "s")}


def commands(names):  # a pattern: a backslash, one of the names (a|b|c), and no letter after it
    return rf"\\(?:{names})(?![a-zA-Z])"


REWRITES = [(re.compile(pattern, re.S), new) for pattern, new in [  # in this order, blanks squeezed between
    (r"^(\*\*?|__)(.*)\1$", r"\2"), (r"\\*%", ' "%" '), (r"\\operatorname ?\*? ?\{([a-zA-Z ]+)\}", r"\\\1 "),
    (r"[⁰¹²³⁴-⁹]+|[₀-₉]+", lambda m: "^_"[m[0] > "⁹"] + "{" + unicodedata.normalize("NFKC", m[0]) + "}"),
    (r"[¼-¾⅐-⅞]", lambda m: r"\frac{" + unicodedata.normalize("NFKC", m[0]).replace("⁄", "}{") + "}"),
    (r"\\\\(?=(?:left|right|d?frac|sqrt|pi|text|infty|cdot|times|leq?|geq?|cup|in)\b)", r"\\"),
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\[hv]space\*?\s*\{[^{}]*\}", " "),  # colors and spaces
    (commands("text[a-z]*|[mh]box|mathrm") + r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}", lambda m: text_command(m)),
    (r'\(? ?"?\\?[pb]?mod ?"? ?(\d+|\{ ?\d+ ?\}) ?\)?', lambda m: f'"mod" {m[1].strip("{ }")}'),
    (r",(?: |\\[,;: ])*\\! ?(?=\d{3}(?!\d))|\\!|(?<=\d)(?:\\[,;:]|')(?=\d{3}(?!\d))", ""),
    (r"(?<![\d.,}])(\d{1,3})((?:\{,\}\d{3})+)(?!\d)", lambda m: m[1] + m[2].replace("{,}", "")),
    (r"(?<=\d) ?\{,\} ?(?=\d)", "."),  # a decimal comma; the lines above: separators of thousands
    (r"\\left ?(?:\||\\vert)", r"\\lvert "), (r"\\right ?(?:\||\\vert)", r"\\rvert "),
    (r"\\pounds ?", "£"), (r"(\\\$|[£€¥]|USD|^\$(?=[^$]*$)) ?(\d+(?:[.,]\d+)*)(?! ?[\w\\({^+*-])",
     lambda m: f'{m[2]} "{m[1] if m[1] in "£€¥" else "usd"}"'), (r"(?<=\d) ?([£€¥])", r' "\1"'),
    (r"\\(?:left|right) ?\.|(?<!\\)\\[,;:> ]|\\?\$|\\[()]|(?<!\\)\\[\[\]]|\\$", " "),
    (r"\\mathb[bf] ?\{? ?([RZ]) ?\}?", r"\\\1 "), (r"\*\*", "^"), (r"\\not ?=|!=", r"\\ne "),
    (r"\^ ?(?:\{ ?\\(?:circ|degree) ?\}|\\(?:circ|degree)|\{?o\}?)(?![a-zA-Z])", r"\\degree "),
    (r"\\(?:begin|end) ?\{(?:aligned|align\*?|gathered|split)\}", " "), (r"\\\{ ?\\\}", r"\\emptyset "),
    (r"\\([a-zA-Z]+)", lambda m: RENAMED.get(m[1], m[0])), (r"\{([a-zA-Z])\}(?= ?[_=])", r"\1"),
    (r'(?<=\d) ?"?degrees?(?![a-z])"?', r"\\degree "), (r"\.\.\. ?$", r"\\ldots"),  # undecided
    (r"\\l(or|and)(?![a-z])(?=.*[<>=])", r' "\1" '), (r"(?<=\d) ?[xX] ?(?=10 ?\^)", "*"),
    (r"(?<![a-zA-Z]{2})(?<=[a-zA-Z}]) ?\\times(?= ?\{? ?[a-zA-Z])", r"\\cross "), (r"\\times(?![a-z])", "*"),
    (r'(:\d\d) ?"?(?i:([ap])\.? ?m)\.?"?$', r'\1 "\2m"'), (r"~(?![a-z])|(?<=[^\s(])~", " "),
    (r"\\cup(?![a-zA-Z])(?=[^()]*[<>])", ' "or" '), (r'(?<![\\a-zA-Z"])(and|or)(?![a-zA-Z"])', r' "\1" '),
    (r'"(?i:infinity|infinitely many)"|(?<![a-zA-Z\\"])infinity(?![a-zA-Z])', r"\\infty "),
    (r'^(?i:"?(?:the )?(?:final )?answer(?: is)? ?[:=]?"? ?[:=]?(?=.*\w))', ""),
    (r'^(?i:"?(?:approximately|about|exactly|so|thus|hence|therefore),?"? |\\approx )', ""),
    (r'^"?((?:[A-Z][a-z]|the )[a-zA-Z ]+?)(?: (?:is|are|equals)|:)"? ?(?=[\d\\(-])', r'"\1"='),
    (r'(?:(?<=[\d)\]}])|(?<=[^a-zA-Z\\][a-zA-Z])|(?<=^[a-zA-Z])),? ?"?\(? ?"?(?:(?:since|because) [a-zA-Z]'
     r"""[a-zA-Z ,']*|(?:as|by|using) (?:symmetry|induction|required|desired|shown))"?\)?"? ?\)?$""", ""),
    (r'(?<=[\d)\]}]),? ?"?\(? ?"?(the m[ai][xn]imum)"?\)?"?$', r' "\1"'), (r"^minus (?=\d)", "-"),
    (r'^(?i:"?(?:none|(?:the )?empty set|no (?:real )?solutions?)[ ."]*|set\(\)|\[ ?\])$', r"\\emptyset"),
    (r'^"?(?:(?i:option|choice) )?\(?([A-J])[).:]*"?[. ]*$', r"\1"), (r"\\[bB]igg?[lrm]?(?![a-zA-Z])", " "),
    (r'^"?\(?(?:a|i|1)\)"? ?(.+?)[,;]? ?"?\(?(?:b|ii|2)\)"? ?(.+)$', r"(\1,\2)"),  # answers to (a) and (b)
    (r'^(.+?)[,;]? ?\(?(?:"(?:where|for(?: a\w+)?)" ?)?([a-z]) ?(?:\\in ?\\integers|"is an integer") ?\)?$',
     lambda m: re.sub(rf"(?<![\\a-zA-Z]){m[2]}(?![a-zA-Z])", "k_{0}", m[1])),  # one name for any integer
]]
# fmt: on


def strip_blanks(text):  # without blanks, except those that separate letters or digits
    blanks = r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])|(?<=\d) (?=[a-zA-Z])"
    return re.sub(blanks, "", " ".join(text.replace('"', " ").split()))


def text_command(match):  # the replacement of \text{…}: words in double quotes, or unchanged mathematics
    inside = match[1].strip()
    return f" {inside} " if re.search(r'[\d\\$=<>{}^_"]|^[eid]?$|^\([a-z]\)$', inside) else f' "{inside}" '


def normalize(text):
    """An answer without its typesetting. Words that were typeset as text are put in double quotes."""
    text = "\n".join(filter(None, (" ".join(t.split()) for t in text.translate(SYMBOLS).split("\n"))))
    for _ in range(2):  # a box alone, or behind "… is"
        inside = boxed(text)
        before, _, after = text.partition(r"\boxed")
        alone = re.fullmatch(r"(?:[a-zA-Z ,$\\()]+ (?:is|are|=|:))?(?:\\left|[\s$*\\(\[])*", before)
        if inside and alone and not re.search(r"\w", after.replace(inside, "")):
            text = inside
    if not re.search(r"if|text|matrix|array" if r"\begin" in text else r"\\begin", text):
        text = re.sub(r"\\(?:begin|end)\s*\{[a-z*]*\}|&", " ", text)
        lines = [line for line in re.split(r"\n|(?<!\\)\\\\(?![a-zA-Z\[(]{2}|\[)", text) if line.strip(" $")]
        if all(re.search("[=<>]", line) for line in lines) or re.search(r"\d\s*\n\s*\d", text):
            text = ";".join(lines)
    for pattern, new in REWRITES:
        text = pattern.sub(new, " ".join(text.split()))
    return text.rstrip(" .,;").lstrip(" ,;")  # .5 is not 5


def strip_label(text, other):
    """A choice such as (C) 42 or D: 42: its letter if the other answer has a letter, else its content."""
    label = r'(?:"\(?([A-J])[).:]+"|\(?([A-J])[.)](?= ))(?! ?(?:[-+*/^!]|"?(?:not|or|if|is|when)\b))'
    label = re.compile(label + " ?(?=.)", re.S)
    if (match := label.match(text)) and not split(text, SEPARATORS)[1]:
        by_letter = label.match(other) or re.fullmatch("[A-J]", other)
        return match[1] or match[2] if by_letter else text[match.end() :]
    return text


# ---- The structure layer: texts to nodes -------------------------------------------------------------------

LETTER = r"(?:[a-zA-Z]|" + commands("|".join(sorted(LETTERS))) + ")"
SYMBOL = LETTER + r"(?:\s*_\s*(?:\{[^{}]*\}|\w|\\[a-z]+))?'*"
NOT = r"(?!.*(?i:\bno[tn]?\b|wrong|never|incorrect|oppos|recip|negat|half|twice|doubl|than|\bat |but\b"
NOT += r"|minus\b|exce|exclu|without|less|(?:great|larg|small)er|more|under|above|below|fail|bound"
NOT += r"|remov|inval|false|(?:square|cube)(?:d| of| root)|extran|thousand|million|of\W*$))(?:"
NOUN = r"(?=[^=]*\b(?i:number|count|total|sum|product|difference|remainder|value|answer|result|solution|root"
NOUN += r"|area|m[ai][xn]|volume|perimeter|length|width|height|radius|diam|dist|angle|degree|prob|expect|mean"
NOUN += r"|average|ratio|time|age|speed|rate|cost|price|profit|amount|there|(?:small|larg|great)est|divisor))"
NAME = NOT + "|".join([  # f^{-1}(x), |z|, \angle ABC, AB, "the area" A, area, (x, y)
    rf"{SYMBOL}(?:\s*\^\s*\{{\s*-1\s*\}})?(?:\s*\([^()]*\))?", rf"(?:\||\\lvert)\s*{SYMBOL}\s*(?:\||\\rvert)",
    r"(?:m?\s*\\(?:angle|triangle|overline))?\s*\{?\s*[A-Z]{1,4}\s*\}?", rf"\\angle\s*{LETTER}",
    rf'{NOUN}(?:"[^"]*"\s*)+(?:{SYMBOL})?', NOUN + "[a-zA-Z]{3,}(?: [a-zA-Z]{2,})*",
    r"\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])+\s*\)",
]) + ")"  # fmt: skip
POWER = SYMBOL + r"(?:\([^()]*\))?(?:\s?\^\s?\d)?(?:\\frac|[-+*/:{}. ])*"
ASKED = NOT + "|".join([  # left of a number also: a + b, ab, f(1) - f(2), \sin A, \max f, E[X], [ABC], Var(X)
    rf"(?!.*[xyz])(?=.*?(?P<one>{LETTER}).*?(?!(?P=one)){LETTER}|.*[(_] ?\d)(?:\\frac\s?\{{)?(?:{POWER})+",
    commands("max|min|lim|int|gcd") + ".*", r"\\(?:sin|cos|tan|det)\s*\(?\s*[A-Z\\][^=xyz]*",
    r'(?:[A-Z]|"[a-zA-Z]+")\s*(?:\[[^\[\]]*\]|\([^()]*\))', r"\[\s*[A-Z]{2,}\s*\]",
]) + ")"  # fmt: skip
SEPARATORS = ',|;|"(?:and|or)"'
RELATION = commands("ne|in|approx") + "|<=|>=|[<>=]"
OPERATIONS = [(commands("cup"), "set", "union"), (commands("cap"), "set", "cap"), (":", "tuple", ":"),
              (commands("setminus") + r"|-(?=\s*\\\{)", "set", "minus")]  # fmt: skip
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
INFINITE = re.compile(r"[-+]?\s*\\infty")
MATRIX = r"\\begin\s*\{([pbB]?(?:small)?matrix|array)\}((?:(?!\\begin).)*?)\\end\s*\{\1\}"
MATRIX = re.compile(rf"[\[(]?\s*{MATRIX}\s*[\])]?", re.S)
UNIT = r'(?:"[^"]*"|(?<![a-zA-Z\\])(?:[a-zA-Z]{4,}|cm|mm|km|kg|sq|ft|mi|yd|lb|oz|ml|mph|hr|rad|USD)'
UNIT += r"(?![a-zA-Z])|(?<=/)[a-z](?![a-zA-Z]))(?:\s*\^\s*\{?\s*[23]\s*\}?)?"
QUANTITY = re.compile(rf"(.*?[\d}})\]!]|.*?\\(?:pi|degree))\s*({UNIT}(?:[\s/*.]*{UNIT})*)", re.S)


class Node(NamedTuple):
    """A structure: an answer or a part of one. name: the text before its `=`, if it is a name.

    kind: value (text: expression), words, list (in any order; text: "mixed" if `or` or units matter), tuple
    (text: brackets; signs if its names are in order), chain (equal items), relation (items: texts, signs:
    between), interval (text: brackets, items: texts), set (of reals; text: operation), matrix (items: rows).
    """

    kind: str
    text: str = ""
    items: tuple = ()
    name: str = ""
    signs: tuple = ()

    def ends(self):  # of all intervals in a set
        return [t for n in self.items for t in n.ends()] if self.kind == "set" else list(self.items)


def split(text, pattern):
    """(parts, separators): splits a text where the pattern matches outside brackets."""
    parts, separators, depth, last = [], [], 0, 0
    for match in re.finditer(rf'(?P<separator>{pattern})|"[^"]*"|\\[{{}}]|[()\[\]{{}}]|\\[a-zA-Z]+', text):
        token = match[0]
        depth += (token in ("(", "[", "{", r"\{", r"\begin")) - (token in (")", "]", "}", r"\}", r"\end"))
        refuse(depth > 40)
        if depth == 0 and match["separator"]:
            parts.append(text[last : match.start()].strip())
            separators.append(token)
            last = match.end()
    return [*parts, text[last:].strip()], separators


def letters_of(text):  # the letters in an expression, without functions, other commands, e and i
    text = re.sub(r"\\(?!(?:" + "|".join(LETTERS) + r")(?![a-zA-Z]))[a-zA-Z]+", " ", text)
    return {strip_blanks(match) for match in re.findall(SYMBOL, FUNCTION.sub(" ", text))} - {"e", "i"}


def read(text):
    """The structure of a normalized answer: one item, a list, or conditions joined by `and` or `or`."""
    if re.match(r'[-+]?\d{1,3}(?:[, ]\d{3})+(?![\d,]|\s*[,;\d]|.*"(?:and|or)")', text):
        text = re.sub(r"(?<=\d)[, ](?=\d{3}(?!\d))", "", text)
    parts, separators = split(text, SEPARATORS)
    nodes = [read_one(one) for part in parts if part for one in expand_signs(part)]
    if len(nodes) < 2:
        return nodes[0] if nodes else refuse()
    if nodes[0].text == "minus" and nodes[0].name and all(n.kind == "value" for n in nodes[1:]):
        return nodes[0]._replace(items=(*nodes[0].items, *nodes[1:]))  # x ≠ 1, 2
    joined, names = set(separators) - {",", ";"}, {n.name for n in nodes}
    kinds, excluded = {n.kind for n in nodes}, any(n.text == "minus" for n in nodes)
    if (joined or excluded) and kinds & {"interval", "set"} and len(names - {""}) < 2:
        if kinds <= {"interval", "set"} or joined == {'"or"'}:
            return Node("set", "union" if '"or"' in joined else "cap", tuple(map(as_region, nodes)))
    if len(names) == len(nodes) and "" not in names:  # x=1, y=2 is the point (1,2)
        refuse('"or"' in joined and len({n.split("_")[0] for n in names}) > 1)
        return Node("tuple", "()", tuple(nodes))
    name = nodes[0].name if names <= {nodes[0].name, ""} else ""
    units = {split_unit(n.text)[1] for n in nodes} - {""}
    letters = {x for n in nodes for x in letters_of(n.text) if not name or x.isupper()}
    mixed = len(units) > 1 or '"or"' in joined and (letters or "relation" in kinds)  # 5 boys, 6 girls; a or b
    return Node("list", "mixed" * bool(mixed), tuple(n._replace(name="") if name else n for n in nodes), name)


def read_one(text):
    parts, signs = split(text, RELATION)
    if signs:
        return read_relation(parts, signs)
    for pattern, kind, mark in OPERATIONS:
        parts = split(text, pattern)[0]
        if len(parts) > 1 and all(parts) and (kind == "set" or '"' not in text):
            if mark == ":" and len(parts) == 2 and not letters_of(text) and not re.match(r"\d\d", parts[1]):
                return Node("value", f"({parts[0]})/({parts[1]})")  # a ratio, but no time such as 1:30
            return Node(kind, mark, tuple(map(read_one, parts)))
    match = re.fullmatch(r"(\\\{|[(\[{])(.*?)(\\\}|[)\]}])", text, flags=re.S)
    enclosed = match and len(split(text, r"\\?.")[1]) == 1  # one pair of brackets encloses the whole text
    return enclosed and read_brackets(*match.groups()) or read_plain(text)


def expand_signs(text):
    """All texts that a text with ± stands for: every combination, but only two if it also has ∓."""
    signs = re.findall(commands("pm|mp"), text)
    if not signs or r"\{" in text:
        return [text]
    count = 0 if r"\mp" in signs else 1 if len(signs) < 4 else refuse()
    texts = [re.sub(commands("mp"), m, re.sub(commands("pm"), p, text, count=count)) for p, m in ("+-", "-+")]
    return [one for two in texts for one in expand_signs(two)]


def read_brackets(left, inside, right):
    """A set, a tuple or an interval; None if the brackets only group."""
    parts = split(inside, ",|;")[0]
    if left == r"\{" or left == "{" and len(parts) > 1:
        builder = rf"\s*{LETTER}(?:\s*\\in\s*\\reals)?\s*(?:\||:|{commands('mid')})(.*)"
        builder = re.fullmatch(builder, inside, flags=re.S)
        refuse(re.search(r"\\emptyset|\\\{[^,]*\\\}|^\s*\\\{[^{}]*\}\s*$", inside))  # {∅}, {1, {2}}
        inner = read(builder[1] if builder else inside)
        return inner._replace(text="set", name="") if inner.kind == "list" and not builder else inner
    if len(parts) > 1:
        node = Node("tuple", left + right, tuple(map(read_one, parts)))
        infinite = any(INFINITE.fullmatch(n.text) for n in node.items)
        return as_region(node) if left + right in ("(]", "[)") or infinite and len(parts) == 2 else node
    grouping = r"(?!.*\\(?:over|choose)\b)" if left == "{" else r'\s*(?:"|\\begin|\()'
    return read_one(inside.strip()) if left in "({" and re.match(grouping, inside) else None


def read_plain(text):
    """A matrix, the real numbers, words, or the text of an expression."""
    if r"\begin" in text:
        return read_matrix(text)
    words = " ".join(re.findall("[a-zA-Z]+", text)).lower()
    prose = is_prose(text) or re.search(r'"|\b[A-Z]{2}|[a-z]{2}\s+[a-z]{2}', text)
    if words and prose and re.fullmatch(r"(?!-)[a-zA-Z\s\",.'?-]+", text):
        return Node("words", words) if len(words) > 1 else Node("value", text.strip(' ".'))
    refuse(is_prose(split_unit(text)[0]))
    return REALS if text == r"\reals" else Node("value", text)


def is_prose(text):  # whether letters form words, not a product such as abc or a function such as ln x
    words = re.findall("[a-zA-Z]+", re.sub(r"\\[a-zA-Z]+", " ", text))
    runs = [FUNCTION.sub("", word.lower()) for word in words]
    short = {*runs} & set("yes no true none zero one two four five six nine ten to of only".split())
    capital = any(re.match("[A-Z][a-z]{2}", word) for word in words)
    return bool(short) or capital or any(len(r) > 4 or len(set(r)) < len(r) > 2 for r in runs)


def read_matrix(text):
    """A matrix, or a sum of them with factors of up to 40 characters: each entry's text is a sum, too."""
    pieces = MATRIX.split(text)
    factors, tables = [refuse(len(factor) > 40) or factor.strip() for factor in pieces[:-1:3]], []
    for body in pieces[2::3]:
        lines = re.split(r"\\\\", re.sub(r"^\s*\{[lcr|\s]*\}", "", body))
        tables.append([line.split("&") for line in lines if line.strip()])
    widths = [[len(row) for row in table] for table in tables]
    refuse(not tables or any(w != widths[0] or len(set(w)) != 1 or sum(w) > 100 for w in widths))
    factor = r"[-+]?(?:|(?:[^-+/^_&]|\([^()]*\)|\{[^{}]*\})*(?:[\d})*]|\\pi|(?<![a-zA-Z\\])[a-z]))"
    signed = all(re.fullmatch(factor, f) for f in factors) and all(f[:1] in "+-" and f for f in factors[1:])
    refuse(not signed or pieces[-1].strip())  # a product of matrices, a power, a function
    rows = []
    for lines in zip(*tables):
        entries = ("".join(f"{f}({e})" for f, e in zip(factors, column)) for column in zip(*lines))
        rows.append(Node("tuple", "row", tuple(map(read_one, entries))))
    return Node("matrix", "", tuple(rows))


def read_relation(parts, signs):
    """A value with its name, a chain of equal values, an interval, or a relation."""
    if r"\approx" in signs:  # the right side rounds the left one: ignored, unless the left one is a name
        at = signs.index(r"\approx")
        name_only = at == 0 and re.fullmatch(NAME, parts[0])
        parts, signs = (parts[:2], ["="]) if name_only else (parts[: at + 1], signs[:at])
    if not signs or parts[0] == "" and signs == ["="]:
        return read_one(parts[-1])
    refuse(not all(parts))
    if set(signs) <= {"=", r"\in"}:
        if signs == ["="] and re.fullmatch(NAME, parts[1]) and not re.search("[a-zA-Z]", parts[0]):  # 3 = x
            parts = parts[::-1]
        named = re.fullmatch(NAME, parts[0])
        named = named or not letters_of("|".join(parts[1:])) and re.fullmatch(ASKED, parts[0])
        if named or not letters_of("|".join(parts)):
            values = tuple(map(read_one, parts[1:] if named else parts))
            node = values[0] if len(values) == 1 else Node("chain", "", values)
            node = as_region(node) if signs == [r"\in"] and node.kind == "tuple" else node
            names = parts[0].strip("() ").split(",")
            if named and node.kind == "tuple" and 1 < len(names) == len(node.items):  # (x, y) = (1, 2)
                items = (n._replace(name=name.strip()) for n, name in zip(node.items, names))
                return node._replace(items=tuple(items), signs=("=",))
            return node._replace(name=strip_blanks(parts[0]) if named else "")
    if signs == [r"\ne"] and re.fullmatch(SYMBOL, parts[0]):
        return Node("set", "minus", (REALS, read_one(parts[1])), strip_blanks(parts[0]))
    return as_interval(parts, signs) or Node("relation", "", tuple(parts), "", tuple(signs))


def as_interval(parts, signs):
    """The interval of a relation such as 0 < x <= 3; None if it is no such relation."""
    if not set(signs) <= FLIPPED.keys() or len(parts) > 3:
        return None
    if signs[0][0] == ">":
        parts, signs = parts[::-1], [FLIPPED[sign] for sign in signs[::-1]]
    at = 1 if len(parts) == 3 or not re.fullmatch(SYMBOL, parts[0]) else 0
    name, others = strip_blanks(parts[at]), parts[:at] + parts[at + 1 :]
    if not re.fullmatch(SYMBOL, parts[at]) or {">", ">="} & {*signs} or name in letters_of("|".join(others)):
        return None
    low, left = (parts[0], "[" if signs[0] == "<=" else "(") if at else (r"-\infty", "(")
    high, right = (parts[-1], "]" if signs[-1] == "<=" else ")") if others[at:] else (r"\infty", ")")
    return Node("interval", left + right, (low, high), name)


def as_region(node):
    """A node as a set of real numbers: an interval, or a set made of intervals. Else raises Undecided."""
    if node.kind == "value":
        empty = node.text == r"\emptyset"
        return Node("set", "union") if empty else Node("interval", "[]", (node.text, node.text))
    if node.kind == "tuple" and [n.kind + n.name for n in node.items] == ["value"] * 2 and node.text != ":":
        return Node("interval", node.text, tuple(n.text for n in node.items), node.name)
    if node.kind == "set" or node.kind == "list" and all(n.kind == "value" for n in node.items):
        return Node("set", node.text if node.kind == "set" else "union", tuple(map(as_region, node.items)))
    return node if node.kind == "interval" else refuse()


def split_unit(text):
    """(value without its unit, unit); the unit is "" if there is none, and starts with ? if it is unknown."""
    match = QUANTITY.fullmatch(text)
    if not match:
        return text, ""
    unit = re.sub(r'[\s{}".*]+', " ", match[2].lower()).strip()
    unit = re.sub(r"\b(?:sq|square) (\w+)", r"\1 2", unit.replace(" per ", "/"))
    words = [UNITS.get(word, "?") for word in re.findall(r"[a-z]+|[^\s\d%/^]", unit)]
    return match[1], "?" + unit if "?" in words else " ".join(words + re.findall(r"[/%\d]", unit))


# ---- The expression layer: texts to values -----------------------------------------------------------------

BRACKETS = [(r"\{", r"\}"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\\\{", r"\\\}"), (r"\|", r"\|"),
            *((commands("l" + name), r"\\r" + name) for name in ("vert", "floor", "ceil"))]  # fmt: skip
CLOSING = (r"\}", r"\rfloor", r"\rceil", r"\rvert", r"\over", r"\choose", r"\degree", "_")
TOKEN = re.compile(r"\s*(\\[a-zA-Z]+|\\[{}]|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]|\S)")
MIXED = r"\d+\s*\\frac\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)|\d+\s+\d+\s*/\s*\d+(?![\d.])"
LITERAL = r"(?:\d+\.?\d*(?:E[-+]?|e|e[-+](?=\d\d))|\d*\.\d+e[-+]?)\d+(?![\d.])"  # 2e-1 may be 2e - 1
LITERAL += r"|\d+\.?\d*|\.\d+"
NO_PRODUCT = r"\\frac ?\{ ?d[^{}]*\} ?\{ ?d ?[a-z]|\bd ?[a-z] ?/ ?d ?[a-z]|\d ?[CPRr] ?\d"  # dy/dx, 5C2, 5R2
NO_PRODUCT += r"|\.\d+ ?\( ?\d+ ?\)|\\sqrt(?:\[\w+\])?\d[\d.]"  # 0.1(6), \sqrt23
FAR = range(100, 112)  # points at which letters are large: up to 2^512, of both signs
ORDERED = rf"(?<![a-zA-Z\\])[f-hA-Z][(\[][^()]*|[a-z]\([a-zA-Z]\)|\\(?:{'|'.join(LETTERS)})\([^()]*"  # h(x+y)
ORDERED += r"|(?:e\^|\\exp)(?=[{(]?[A-Z])|\([^()]*[A-Z][^()]*\)[\^(A-Z]"  # e^A, (A+B)^2, AB^{-1}: matrices
ORDERED += r"|(?:(?:(?<!frac)\{[A-Z]\}|[A-Z])(?:[_^](?:\w|\{[^{}]*\}))*[{(*]*){2,}"
LOOSE = r"(?<![a-zA-Z^]\d)(?<=\d)(?:[msghNLJWVC](?:/[smh])?(?:\^\{?[23]\}?)?|th|st|nd|rd|_\{?\d+\}?)$|^\(|\)$"
LOOSE += r"|(?<![\\a-zA-Z])[cCkK](?:_\{?\d\}?)?"  # a unit of one letter, 5th, a base, brackets, constants
FAMILY = re.compile(r"k_\{0\}|[kn] ?\\pi|\\pi ?[kn]|^\d+ ?k ?[-+] ?\d+$")  # may be shifted: k\pi, (k+1)\pi
PLAIN_LOG = re.compile(r"\\?(?<![a-zA-Z])log(?![a-zA-Z]|\s*_)")
REALS = Node("interval", "()", (r"-\infty", r"\infty"))
CONTEXTS = threading.local()


def context(digits):
    """This thread's mpmath context with so many digits. Threads must not share mpmath's global one."""
    contexts = CONTEXTS.__dict__
    if digits not in contexts:
        contexts[digits] = mpmath.mp.clone()
        contexts[digits].dps = digits
    return contexts[digits]


class Expression:
    """Evaluates LaTeX or plain mathematics by recursive descent. value: a Fraction if exact, else mpmath's.

    point: seeds the values of letters. in_bars: inside |…|, where a bar closes. cost: of an operation. long:
    a sum had too many digits. real: letters but no i, so roots and logarithms of negatives have no value.
    """

    def __init__(self, text, judge, point, digits):
        self.text, self.judge, self.point, self.ctx = text, judge, point, context(digits)
        self.position, self.depth, self.in_bars, self.cost, self.long = 0, 0, 0, 1 + digits // 50, False
        self.real = bool(letters_of(text)) and not re.search(r"(?<![a-zA-Z\\])i(?![a-zA-Z])", text)
        self.value = self.sum()
        refuse(self.peek() or re.search(NO_PRODUCT, text))
        refuse(self.long and not isinstance(self.value, Fraction), Undefined)

    def peek(self):
        return match[1] if (match := TOKEN.match(self.text, self.position)) else ""

    def take(self, pattern):
        """Consumes and returns the text if the pattern matches next, else returns ""."""
        match = re.compile(rf"\s*({pattern})").match(self.text, self.position)
        self.position = match.end() if match else self.position
        return match[1] if match else ""

    def sign(self):
        return (-1) ** self.take(r"[-+][-+\s]*").count("-")

    def sum(self):
        self.depth += 1
        refuse(self.depth > 40)
        value = self.sign() * self.product()
        while self.peek() in ("+", "-"):
            value = self.add(value, self.sign() * self.product())
        self.depth -= 1
        return value

    def product(self):
        start, value = self.position, self.factor()
        while True:
            if operator := self.take(r"[*/]"):
                sign, other = self.sign(), self.factor()
                value = sign * (self.checked(value * other) if operator == "*" else self.divide(value, other))
            elif self.starts_factor():
                beside = re.search(r"(?<!\^)[\d.]\s*$", self.text[start : self.position][-9:])
                refuse(self.peek()[0].isdigit() and (beside or self.take(MIXED)))  # numbers are no factors
                value = self.checked(value * self.factor())
            else:
                return value

    def starts_factor(self):
        token = self.peek()
        return not self.in_bars if token == "|" else token not in CLOSING and re.match(r"[\w.(\[{\\]", token)

    def factor(self):
        if mixed := re.findall(r"\d+", self.take(MIXED).replace("{", " ")):  # 3 1/2, 3\frac12
            above, below = mixed[1:] if len(mixed) > 2 else (mixed[1][0], mixed[1][1:] or 0)
            refuse(int(above) >= int(below))
            return Fraction(mixed[0]) + Fraction(int(above), int(below))
        value = self.primary()
        while mark := self.take(r"!(?!\s*!)|\\degree(?![a-zA-Z])|\^"):
            if mark == "!":
                value = Fraction(math.factorial(self.integer(value, 5000)))
            elif mark == "^":
                value = self.power(value, self.exponent())
            else:
                value = value * (self.ctx.pi / 180)
        return self.checked(value)

    def exponent(self):
        value = self.argument()
        return self.power(value, self.exponent()) if self.take(r"\^") else value

    def argument(self):
        return -self.argument() if self.take("-") else self.primary()

    def digit_or_group(self):
        return Fraction(int(digit)) if (digit := self.take(r"\d")) else self.argument()

    def primary(self):
        if re.match(r"[\d.]", self.peek()):
            return self.literal()
        for left, right in BRACKETS:
            if self.take(left):
                in_bars, self.in_bars = self.in_bars, left == r"\|"
                value = self.sum()
                if left == r"\{" and (word := self.take(commands("over|choose"))):
                    value = (self.divide if word == r"\over" else self.binomial)(value, self.sum())
                self.in_bars = in_bars
                return self.bracketed(value, right) if self.take(right) else refuse()
        self.depth += 1
        word = self.take(rf"\\[a-zA-Z]+|(?:{FUNCTION.pattern})(?![a-z])|[a-zA-Z]")
        value = self.command(word) if word and self.depth < 40 else refuse()
        self.depth -= 1
        return value

    def literal(self):
        text = self.take(LITERAL)
        refuse(not text or len(text) > MAX_DIGITS or len(re.split("[eE]", text + "e0")[1]) > 4)
        if "." in text and (repeat := self.take(r"\\overline\s*\{\d+\}|\(\s*\d+\s*\)")):  # 0.(6)
            digits, places = re.search(r"\d+", repeat)[0], len(text.split(".")[1])
            return Fraction(text) + Fraction(int(digits), int("9" * len(digits) + "0" * places))
        base = re.search(r"\d+|$", self.take(r"_\s*(?:\d+|\{\s*\d+\s*\})"))[0]
        return Fraction(text) if not base else Fraction(int(text, int(base))) if base[0] > "0" else refuse()

    def command(self, word):
        """The value of a command, of a function with its argument, or of a letter."""
        backslash, word = word.startswith("\\"), word.lstrip("\\")
        if word in ("frac", "binom") and backslash:
            a, b = self.digit_or_group(), self.digit_or_group()
            return self.divide(a, b) if word == "frac" else self.binomial(a, b)
        if word == "sqrt":
            index = self.primary() if self.peek() == "[" else Fraction(2)
            return self.power(self.argument(), self.divide(Fraction(1), index))
        if word in FUNCTIONS:
            return self.apply_function(word)
        if word in ("gcd", "lcm", "max", "min"):
            values = [self.sum()] if self.take(r"\(|\\\{") else refuse()
            while self.take(","):
                values.append(self.sum())
            values = values if self.take(r"\)|\\\}") else refuse()
            if word in ("max", "min"):
                return (max if word == "max" else min)(values, key=self.ctx.convert)
            return Fraction(getattr(math, word)(*(self.integer(v, 10**300) for v in values)))
        refuse(len(word) > 1 and word != "pi" and not (backslash and word in LETTERS))
        name = re.sub(r"[\s{}]", "", word + self.take(r"(?:_\s*(?:\{[^{}]*\}|\w|\\[a-zA-Z]+))?'*"))
        refuse(re.match(r"([fg]|.*')\(|[ACP]_\w+\^", name + self.peek()) or self.take(r"[(\[]\s*\d+\s*[)\]]"))
        constants = {"pi": self.ctx.pi, "e": self.ctx.e, "i": self.ctx.mpc(0, 1)}
        return +constants[name] if name in constants else self.letter(name)

    def function_argument(self):
        """The value of a function's argument, with or without brackets: ln(x), sin 2x."""
        if self.peek() in ("(", "[", "{", "|", r"\lvert"):
            return self.primary()
        value, stop = self.factor(), re.compile(rf"\s*(?:[(\[]|\\?(?:{FUNCTION.pattern}))")
        while self.starts_factor() and not stop.match(self.text, self.position):
            value = self.checked(value * self.factor())
        return value

    def apply_function(self, word):
        """The value of a function: also of an inverse (sin^{-1}), to a base (log_2) or a power (sin^2)."""
        base = self.digit_or_group() if word == "log" and self.take("_") else None
        name, exponent = FUNCTIONS[word], None
        if self.take(r"\^\s*(?:\{\s*-\s*1\s*\}|-1)"):
            name = "a" + name if name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh") else refuse()
        elif self.take(r"\^"):
            exponent = self.argument()
        value = self.function(name, argument := self.function_argument())
        if base is not None:
            value = self.divide(value, self.function("ln", base))
            if not isinstance(value, self.ctx.mpc) and self.power(base, nearest := round(value)) == argument:
                value = Fraction(nearest)
        return value if exponent is None else self.power(value, exponent)

    def letter(self, name):
        """The random value of a letter at this point: of both signs and several sizes, large at FAR ones."""
        rng = random.Random(f"{name}/{self.point}")
        if values := self.judge.integers:
            return Fraction(values[self.point] if name == self.judge.first else rng.choice(values))
        size = Fraction(rng.randrange(2001, 9001, 2), 2**13 if self.point % 2 else 2**8)  # never an odd root
        size = size if self.point % 8 < 6 else Fraction(rng.randint(2, 9))
        size *= 2 ** (8 * 8 ** (self.point % 3)) if self.point in FAR else 1
        return -size if self.point == 4 or self.point not in (0, 1, 6) and rng.random() < 0.5 else size

    def checked(self, value):
        """The value, if it is finite and not too large. Counts the work."""
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            self.judge.spend(1 + bits // 1000)
            return value if bits < MAX_BITS else refuse()
        self.judge.spend(self.cost * (1 + isinstance(value, self.ctx.mpc)))
        refuse(not self.ctx.isfinite(value) or value and abs(self.ctx.mag(value)) > 10**7, Undefined)
        return value.real if isinstance(value, self.ctx.mpc) and value.imag == 0 else value

    def add(self, a, b):
        """a + b. Raises Undefined if rounding swallows one of them, or if only rounding errors remain."""
        value = self.checked(a + b)
        if isinstance(value, Fraction):
            self.long |= value.numerator.bit_length() > 3 * PRECISE[0]
        elif a and b:
            x, y = (self.ctx.mag(self.ctx.convert(v)) for v in (a, b))
            refuse(abs(x - y) > self.ctx.prec - 30, Undefined)
            refuse(x > 1000 and x - self.ctx.mag(value) > self.ctx.prec - 60, Undefined)
        return value

    def divide(self, a, b):
        return self.checked(a * (1 / b)) if b != 0 else refuse(reason=Undefined)

    def power(self, base, exponent):
        exact = isinstance(exponent, Fraction)
        refuse(base == 0 and not (exact and exponent > 0), Undefined)
        whole = exact and exponent.denominator == 1
        if isinstance(base, Fraction) and whole:
            bits = base.numerator.bit_length() + base.denominator.bit_length() - 2
            if abs(exponent) * bits < MAX_BITS:
                return base ** int(exponent)
        x, degree = self.ctx.convert(base), exponent.denominator if exact else 0
        if isinstance(base, Fraction) and 1 < degree < 99 and base > 0:
            parts = (self.ctx.nint(self.ctx.root(part, degree)) for part in base.as_integer_ratio())
            root = Fraction(*map(int, parts))
            if root**degree == base:
                return self.power(root, exponent * degree)
        size = self.ctx.mag(self.ctx.convert(exponent)) if exponent else 0
        refuse(not -self.ctx.prec // 2 < size < 20, Undefined)  # x^0.00…01 would be rounded to 1
        if not isinstance(x, self.ctx.mpc) and x < 0 and not whole:
            if exact and exponent.denominator % 2:  # a real odd root, as in schools
                return self.power(-base, exponent) * (-1) ** (exponent.numerator % 2)
            refuse(self.real, Undefined)
        return self.checked(self.ctx.power(x, exponent))

    def integer(self, value, maximum):
        """The value as an int from 0 to maximum. Raises Undefined if it is none, Undecided if larger."""
        refuse(not isinstance(value, Fraction) or value.denominator != 1 or value < 0, Undefined)
        return int(value) if value <= maximum else refuse()

    def binomial(self, n, k):
        whole = isinstance(n, Fraction) and n.denominator == 1 and n >= 0
        k = self.integer(k, 5000 if whole else 1000)
        if whole:
            return Fraction(math.comb(int(n), k)) if k <= self.integer(n, 5000) else refuse(reason=Undefined)
        return functools.reduce(lambda v, i: self.checked(v * (n - i) / (i + 1)), range(k), Fraction(1))

    def bracketed(self, value, right):
        if right not in (r"\\rfloor", r"\\rceil"):
            return abs(value) if right in (r"\|", r"\\rvert") else value
        refuse(not isinstance(value, Fraction) and abs(value - self.ctx.nint(value)) < 1e-20, Undefined)
        return Fraction(int(math.floor(value) if right == r"\\rfloor" else math.ceil(value)))

    def function(self, name, value):
        x, logarithm, limit = self.ctx.convert(value), name in ("ln", "log10"), self.ctx.prec // 4
        refuse(x == 0 if logarithm else abs(x) > 10**6 and name not in ("atan", "acot", "asinh"), Undefined)
        if self.real and not isinstance(x, self.ctx.mpc):
            refuse(logarithm and x < 0 or name in ("asin", "acos") and abs(x) > 1, Undefined)
        if x and not logarithm:  # near 0 and far away, a function is rounded to its first term: sin x = x
            refuse(abs(self.ctx.mag(x)) > 2 * limit or name[-1] == "h" and abs(x) > limit, Undefined)
        return self.checked(getattr(self.ctx, name)(x))


# ---- Verdicts ----------------------------------------------------------------------------------------------


def every(results):  # True if all results are True, False if any is False, else None
    return False if False in (results := list(results)) else None if None in results else True


class Judge:  # compares two answers, within MAX_STEPS of work
    def __init__(self):
        self.budget, self.cache = MAX_STEPS, {}
        self.integers, self.first = (), ""  # values of letters as integers, and the letter that gets them all

    def spend(self, steps):
        self.budget -= steps
        refuse(self.budget < 0)

    def value(self, text, point, digits):
        key = text, point, digits, self.integers
        if key not in self.cache:
            try:
                self.cache[key] = Expression(text, self, point, digits).value
            except (Undefined, Undecided) as error:  # the value may be too large only as the letters are
                self.cache[key] = refuse(isinstance(error, Undecided) and point <= 15)
        return self.cache[key] if self.cache[key] is not None else refuse(reason=Undefined)

    def same(self, a, b):
        self.spend(5)
        if a.name and b.name and a.name != b.name and {a.name, b.name} != {"y", "f(x)"}:
            return False if all(re.fullmatch(LETTER, n.name) for n in (a, b)) else None
        for x, y in ((a, b), (b, a)):
            if x.kind == "chain":
                consistent = every(self.same(x.items[0], n) for n in x.items[1:])
                return self.same(x.items[0], y) if consistent else None
        if {a.kind, b.kind} & {"interval", "set"}:
            return self.same_regions(as_region(a), as_region(b))
        kind = "tuple" if a.kind == "matrix" else a.kind
        return getattr(self, "same_" + kind)(a, b) if a.kind == b.kind else self.different_kinds(a, b)

    def same_words(self, a, b):
        """Whether words are the same; a reason may stand behind yes and no, but no condition."""
        reason = r"(yes(?! it \w+ not)|no)(?: it (?:is|does)(?: not)?| (?:because|since) .*)"
        x, y = (re.sub(f"^{reason}$", r"\1", n.text) for n in (a, b))
        unlike = x[:3] != y[:3] and sorted(x) != sorted(y[:2]) and " " not in x + y  # not Mon, Monday; AC, CA
        unlike &= not re.search(r"undefined|\bdne|none|never|(true|false)(yes|no)|(yes|no)[tf]", x + y)
        return True if x == y else False if unlike else None

    def same_list(self, a, b):
        unmatched = list(b.items)
        if len(a.items) != len(unmatched):
            return None if any(n.name for n in [*a.items, *b.items]) else False
        refuse(a.text != b.text and "mixed" in (a.text, b.text))
        for x in a.items if len(unmatched) <= 40 else refuse():
            results = [self.same(x, y) for y in unmatched]
            if True not in results:
                return None if None in results else False
            del unmatched[results.index(True)]
        return True

    def same_tuple(self, a, b):
        """Compares in order, or by name; undecided if names alone may not tell the order, as in h=4, r=3."""
        if a.text != b.text or len(a.items) != len(b.items):
            return None if a.kind == "matrix" else False  # a row and a column
        x, y = ([n.name for n in node.items] for node in (a, b))
        if all(x) and all(y):
            b = b._replace(items=sorted(b.items, key=lambda n: x.index(n.name)))  # an unknown name: undecided
        verdict = every(map(self.same, a.items, b.items))
        if bool(all(x)) == bool(all(y)) or a.signs or b.signs:
            return None if a.text == ":" and not verdict else verdict  # 1:2 is 2:4
        names = [re.sub(r"\W", "", name) for name in (x if all(x) else y)]
        in_order = all(ord(second[-1]) - ord(first[-1]) == 1 for first, second in zip(names, names[1:]))
        if verdict:
            return True if in_order or names != sorted(names) else None
        return verdict if self.same_list(a, b) is False else None

    def different_kinds(self, a, b):
        """Compares different kinds: a matrix or a list with a tuple, an equation with a value."""
        a, b = (a, b) if a.kind in ("tuple", "relation") else (b, a)
        if a.kind == "tuple" and b.kind in ("list", "matrix") and b.text != "set":
            if a.text == "[]" and b.kind == "list":  # may be a list, or an interval
                return (len(a.items) > 2 or a.items[0].kind == "tuple") and self.same_list(a, b) or None
            names = {n.name.split("_")[0] for n in a.items} - {""}  # x_1=3, x_2=1 are the roots 1, 3
            if b.kind == "list" and (b.name or len(names) == 1):
                return self.same_list(a, b) if {b.name, *names} - {""} == names and len(names) == 1 else None
            if b.kind == "matrix":  # a vector, or rows
                is_vector = 1 in (len(b.items), len(b.items[0].items))
                b = b._replace(items=tuple(entry for row in b.items for entry in row.items))
                return self.same_tuple(a._replace(text=""), b) if is_vector else None
            return self.same_tuple(a, b._replace(kind="tuple", text="()")) if b.text != "mixed" else None
        value, other = (b, a) if b.kind == "value" else (a, b)
        if value.kind != "value":
            named = any(isinstance(n, Node) and n.name for n in a.items)
            return None if {a.kind, b.kind} & {"words", "relation"} or other.text == ":" or named else False
        if value.text == r"\emptyset" or INFINITE.fullmatch(value.text):
            return None if other.kind == "words" else False
        self.value(value.text, 0, QUICK[0])  # undecided if it is not understood
        if a.kind == "relation":
            letters = letters_of("|".join([*a.items, b.text]))
            if a.signs == ("=",) and b.name and len(letters | {b.name}) > 1:
                return self.same_relation(a, a._replace(items=(b.name, b.text)))
            self.value(a.items[0], 0, QUICK[0])
            return False if letters in [{"x"}, {"y"}, {"z"}] and not letters_of(b.text) | {*b.name} else None
        unclear = any(n.kind == "relation" or "%" in n.text or not self.same(n, n) for n in other.items)
        unclear |= bool(letters_of(value.text)) or value.text == ".".join(n.text for n in other.items)  # 3,14
        unclear |= all(len(n.text) == 3 for n in other.items) and len(value.text) == 3 * len(other.items)
        return None if other.kind == "words" or other.text == ":" or unclear else False

    def same_relation(self, a, b):
        """Compares relations side by side, in either direction, or up to a factor (> 0 for inequalities)."""
        turned = b._replace(items=b.items[::-1], signs=tuple(FLIPPED.get(s, s) for s in b.signs[::-1]))
        for n in (b, turned):
            if a.signs == n.signs and every(map(self.equal_expressions, a.items, n.items)):
                return True
        b = b if a.signs == b.signs else turned
        if len(a.items) != 2 or a.signs != b.signs or a.signs == (r"\in",):
            return None
        x, y, sign = a.items, b.items, a.signs[0]
        self.integers, ratio = (), f"(({x[0]})-({x[1]}))/(({y[0]})-({y[1]}))"
        first = self.value(ratio, 0, QUICK[0])
        if first == 0 or sign in FLIPPED and not first > 0:
            return None
        others = [self.equal_at((ratio, 0), (ratio, point), PRECISE) for point in range(1, 8)]
        return True if others.count(True) > 2 and False not in others else None

    def same_value(self, a, b):
        """Whether two values are the same; a unit or the degree sign may be missing on one side."""
        (y, y_unit), (x, x_unit) = sorted(map(split_unit, (a.text, b.text)), key=lambda pair: pair[1])
        if x_unit != y_unit:
            unlike = x_unit and y_unit or r"\degree" in x + y and "rad" not in x_unit + y_unit
            if unlike or "?" in x_unit + y_unit or letters_of(f"{x}|{y}"):
                return None
            if {"%", "cent"} & {x_unit, y_unit}:  # 50% is 0.5 if that is no integer, or 50 if 1 to 100
                value = self.value(x, 0, QUICK[0])
                share = value % 100 != 0 and self.equal_expressions(f"({x})/100", y)
                return share or 1 <= value <= 100 and self.equal_expressions(x, y) or None
        if (r"\degree" in x) != (r"\degree" in y) and "rad" not in x_unit + y_unit:
            if r"\pi" not in x + y and not FUNCTION.search(x + y):
                x, y = (t.replace(r"\degree", "") for t in (x, y))
        return self.equal_expressions(x, y)

    def equal_expressions(self, a, b):
        """Whether two expressions have the same value at every point where they have one."""
        a, b = a.strip(), b.strip()
        if INFINITE.fullmatch(a) or INFINITE.fullmatch(b) or r"\emptyset" in (a, b):
            return strip_blanks(a).lstrip("+") == strip_blanks(b).lstrip("+")
        if PLAIN_LOG.search(f"{a}|{b}"):  # to the base e or 10
            bases = ([PLAIN_LOG.sub(log, t) for t in (a, b)] for log in (r"\\ln ", r"\\lg "))
            return True if any(self.equal_expressions(*texts) for texts in bases) else None
        self.integers, letters, rounded = (), letters_of(f"{a}|{b}"), re.search("floor|ceil", a + b)
        verdict = real = self.equal_at_points(a, b, letters)
        if letters and (rounded or verdict is None):
            self.integers, self.first = integers_for(f"{a}|{b}", rounded), min(letters)
            verdict = self.equal_at_points(a, b, letters)
            if real is False and verdict and letters & set("xyzuvwr"):
                return None  # a real number, or an integer?
        x, y = map(strip_blanks, (a, b))
        if verdict:
            return True if re.findall(ORDERED, x) == re.findall(ORDERED, y) else None
        unclear = all(map(FAMILY.search, (a, b))) or letters in ({"I"}, {"j"})  # or i
        x, y = (re.sub(LOOSE, "", text) for text in (x, y))
        return None if unclear or x == y or x.lower() == y.lower() in set("abdefghij") else verdict

    def equal_at_points(self, a, b, letters):
        """Whether two expressions agree at all points. With letters, at least three must give values."""
        verdicts = []
        points = range(len(self.integers) or 8) if letters else [0]
        for point in [*points, *(FAR if letters and not self.integers else ())]:
            verdict = self.equal_at((a, point), (b, point), QUICK if point else PRECISE)
            if verdict is False:
                return not letters and self.is_rounding(a, b)
            verdicts += [verdict] if point not in FAR else []  # far away, only a difference counts
        return True if None not in verdicts and verdicts.count(True) >= (3 if letters else 1) else None

    def equal_at(self, a, b, digits):
        """Whether the values of two (expression, point) pairs differ by rounding only: at most by four times
        the change that more digits make. None if unknown; "nothing" if this point does not matter."""
        results, ctx = [], context(digits[1])
        for text, point in (a, b):
            try:
                results.append([self.value(text, point, d) for d in digits])
            except Undefined:
                results.append(None)
        if None in results:
            return "nothing" if results == [None, None] else None
        if all(isinstance(values[0], Fraction) for values in results):
            return results[0] == results[1]
        p, q = ([ctx.convert(v) for v in values] for values in results)
        if any(abs(x - y) > max(abs(y), 1) * ctx.mpf(10) ** (-ctx.dps // 4) for x, y in (p, q)):
            return None
        rough, fine = p[0] - q[0], p[1] - q[1]
        return bool(abs(fine) <= 4 * abs(rough - fine))

    def is_rounding(self, a, b):
        """Whether one of two constants is a decimal fraction and a rounding of the other, a non-integer."""
        other, text = sorted((a, b), key=lambda t: "." in t)
        match = re.fullmatch(r"\(?([-+]?0*(\d*)\.(\d+))\)?(?:\*10\^\{?(-?\d{1,3})\}?)?", strip_blanks(text))
        if not match or "." in other:
            return None if "." not in other and re.search(r"\.\d{5}", text) else False
        value, exact = Fraction(match[1]), self.value(other, 0, QUICK[1])
        length = len((match[2] + match[3]).lstrip("0"))
        if length < 6 or isinstance(exact, context(QUICK[1]).mpc) or getattr(exact, "denominator", 0) == 1:
            return False
        exact = exact * Fraction(10) ** -int(match[4] or 0)
        error = (-exact + value) * (1 if value > 0 else -1) * 10 ** len(match[3])  # in last places
        noise = length > 15 and abs(error) < 10 ** (length - 15)  # of a float
        return True if -1 < error and 2 * error <= 1 else None if noise else False

    def same_regions(self, a, b):
        if a.kind == b.kind == "interval":
            same = a.text == b.text and every(map(self.equal_expressions, a.items, b.items))
            return None if not same and {a.name, b.name} & set("ijklmn") else same  # n > 3 is n >= 4
        texts, equal = {*a.ends(), *b.ends(), *REALS.items}, True
        for point in range(6 if any(map(letters_of, texts)) else 1):
            ranks = self.ranks(texts, point)
            equal &= all(contains(a, ranks, p) == contains(b, ranks, p) for p in range(ranks[r"\infty"] + 1))
        return equal

    def ranks(self, texts, point):
        """{end of an interval: rank}. Ranks are even, in the order of values; odd ones stand for the gaps."""
        refuse(len(texts) > 40)
        self.integers, ctx = (), context(QUICK[1])
        numbers = {t: -ctx.inf if "-" in t else ctx.inf for t in texts if INFINITE.fullmatch(t)}
        numbers |= {t: ctx.convert(self.value(t, point, ctx.dps)) for t in texts - numbers.keys()}
        ranks, last = {}, None
        for text in sorted(numbers, key=numbers.get):
            same = last is not None and self.equal_expressions(last, text)
            ranks[text] = ranks.get(last, 0) + (0 if same or last is None else 2)
            last = text if same is not None else refuse()
        return ranks


def integers_for(text, rounded):
    """Integers as values of letters. Under floors only positive: also near the text's numbers and powers."""
    numbers = {2, *map(int, re.findall(r"\d{1,9}", text if rounded else ""))} - {0, 1}
    near = {n**power + step for n in numbers for power in (1, 2, 3, 5) for step in (-1, 0, 1)}
    large = (*range(1, 31), *sorted(n for n in near if 30 < n < 10**9), 10**15 + 3, 10**30 + 7)
    return large if rounded else 2 * (*range(1, 13), *range(-8, 0))


def contains(node, ranks, rank):  # whether a set contains the numbers of this rank (see `Judge.ranks`)
    if node.kind == "interval":
        low, high = (ranks[text] for text in node.items)
        above = rank > low or rank == low and node.text[0] == "["
        return above and (rank < high or rank == high and node.text[1] == "]")
    inside = [contains(n, ranks, rank) for n in node.items]
    if node.text == "minus":
        return inside[0] and not any(inside[1:])
    return all(inside) if node.text == "cap" else any(inside)
