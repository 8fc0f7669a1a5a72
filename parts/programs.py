"""Not part of the method: finds the program in a student's turn, runs its tests and compares the outputs.

Expected values are never sent to the sandbox. Outputs are compared here, with the rules of `same_number`. A
bool is not an integer and a set is not a dict, but a tuple equals a list, as in JSON. LiveCodeBench's checker
(lcb_runner/evaluation/testing_util.py) demands equal Decimals: it accepts 10 for 00010, but no rounding.
"""

import ast
import builtins
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from parts import sandbox
from parts.sandbox import literal, parse

# ------------------------------------------------------------------------------------------------- finding

# Tags such as python, Python 3.11, py3, pypy3, language-python, {.python}, solution.py; not python-traceback
PYTHON = r"(?:[{.\[<]*(?:lang(?:uage)?[-_:= ])?(?:[ic]?python|pypy|py)(?:[ _-]?[23][\d.]*)?(?:[ _-]code)?"
PYTHON += r"|[\w./-]+\.py|tool_code)(?![\w+#-])"
NO_LANGUAGE = re.compile(r"(?:plain[ _-]?)?text|txt|plain|code|none|", re.I)
OPENING = re.compile(
    rf"(?P<indent>[ \t>]*(?:(?:[-*+]|\d+[.)]) [ \t]*)?)(?P<fence>`{{3,}}+|~{{3,}}+)[ \t]*(?P<tag>[^`]*)$"
    rf"|.*?(?<!`)(?P<late>`{{3,}}+)[ \t]*{PYTHON}[ \t]*$",  # behind text: without a tag it is an end
    re.I,
)
LOOKAHEAD = 6  # fences tried as a block's end: the program's own strings and comments may contain fences
MAX_FENCES = 600  # only the last fences of a turn are read
PREDEFINED = frozenset({*dir(builtins), *sandbox.header(), "__file__"})  # names that need no definition
# How an interactive session or an error message begins
NO_PROGRAM = re.compile(r"\s*(?:>>>|[$%] |In \[|Traceback )")


class Block(NamedTuple):
    """A closed block of a turn. tree: None if the source does not parse. tagged: as Python."""

    source: str
    tree: ast.Module | None
    tagged: bool


def find_program(text: str, func_name: str | None = None) -> str | None:
    """The program in a turn: the last of the closed Python blocks with the best `fitness`, or None.

    The best block defines func_name, or a class Solution with that method. The next best reads input, prints
    and needs no other block. Examples of use, asserts and expected outputs come last. A block that does not
    parse is taken if no other fits as well; `check` reports the error.
    """
    best, program = (1, False), None
    for block in code_blocks(text):
        rank = fitness(block, func_name), block.tree is not None
        if rank >= best:
            best, program = rank, block.source
    return program


def code_blocks(text: str) -> Iterator[Block]:
    """Yields each closed block whose tag is Python or names no language.

    A Markdown parser is not enough: markdown-it-py misses 16 of the 52 blocks in tests/test_programs.py.
    Models write text behind the closing fence or before the opening one, forget a fence, or put one into a
    string. A block that is not closed is no attempt, as in LiveCodeBench (extract_code): usually the token
    limit has cut it off, even if its beginning parses.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line or "~~~" in line][-MAX_FENCES:]
    first = 0
    while first < len(fences):
        block, fences_read = read_block(lines, fences[first : first + 1 + LOOKAHEAD])
        first += fences_read
        if block:
            yield block


def read_block(lines: list[str], fences: list[int]) -> tuple[Block | None, int]:
    """(block, number of fences read) for the block that the first fence opens.

    The block is None if it is not closed, or if its tag names another language.
    """
    start, *later = fences
    opening = OPENING.match(lines[start])
    ends = possible_ends(lines, later, opening["fence"] or opening["late"]) if opening else []
    tagged = is_python(lines[start])
    ours = tagged or opening and NO_LANGUAGE.fullmatch(opening["tag"].strip())
    if ours:
        for end, last_line in ends:
            source, tree = parse_block([*lines[start + 1 : end], *last_line], opening["indent"] or "")
            if tree:
                # If the end is also the opening of the next block, it is not counted as read.
                return Block(source, tree, tagged), later.index(end) + 2 - is_python(lines[end])
    # No program was found. If the block has no end, or another block opens before it (this one's end was
    # forgotten), only the first fence is skipped, because a program may follow. Otherwise the whole block is.
    if not ends or any(map(is_python, lines[start + 1 : ends[0][0] + 1])):
        return None, 1
    end, last_line = ends[0]
    source, _ = parse_block([*lines[start + 1 : end], *last_line], opening["indent"] or "")
    return Block(source, None, tagged) if ours else None, later.index(end) + 2


def is_python(line: str) -> bool:
    """Whether a line opens a block tagged python."""
    opening = OPENING.match(line)
    return bool(opening and (opening["late"] or re.match(PYTHON, opening["tag"], re.I)))


def possible_ends(lines: list[str], fences: list[int], fence: str) -> list[tuple[int, list[str]]]:
    """Where a block may end, likeliest first: [(line number, code before the fence in that line)].

    First fences at the start of a line, then fences behind code, then fences that open the next block.
    """
    mark = f"(?<!{fence[0]}){fence[0]}{{{len(fence)},}}+"
    at_start, behind_code, next_opening = [], [], []
    for i in fences:
        if re.match(rf"[ \t>]*{mark}", lines[i]):
            (next_opening if is_python(lines[i]) else at_start).append((i, []))
        elif match := re.search(rf"{mark}(?:[ \t]*|<.*)$", lines[i]):  # <.*: a model's end token
            behind_code.append((i, [lines[i][: match.start()]]))
    return at_start + behind_code + next_opening


def parse_block(body: list[str], indent: str) -> tuple[str, ast.Module | None]:
    """(source, tree) of a block's lines; the tree is None if they are not Python.

    Quotation marks (>) are removed if the opening fence's indent has one. Then the lines are tried as they
    are, without the fence's indent, without the indent that all lines share, and also with blanks in place of
    no-break spaces, with which some models indent.
    """
    if ">" in indent:
        body = [re.sub(r"^[ \t]*(>[ \t]?)+", "", line) for line in body]
    source = "".join(line + "\n" for line in body)
    unindented = "".join(re.sub(rf"^[ \t]{{0,{len(indent)}}}", "", line) + "\n" for line in body)
    plain = textwrap.dedent(source.replace("\xa0", " "))
    for text in dict.fromkeys([source, unindented, textwrap.dedent(source), plain]):
        try:
            return text, parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return text, None


def fitness(block: Block, func_name: str | None) -> int:
    """How much a block looks like the wanted program, 0 … 6.

    6: defines func_name. 5: defines it as a stub or as another name for something. 4: reads and prints.
    3: prints. 2: has several statements. 1: has one, or uses a name that it does not define. 0: is empty, or
    is not tagged as Python and neither prints nor defines anything.
    """
    if not block.tree:
        return fitness_by_words(block, func_name)
    body = block.tree.body
    if func_name and (score := definition(body, func_name)):
        return 4 + score
    defined, used, attributes = set(PREDEFINED), set(), set()
    for node in ast.walk(block.tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.alias):  # of an import
            defined.add((node.asname or node.name).split(".")[0])
        else:  # a function, a class, a parameter, an exception's name; other nodes add None
            defined.add(getattr(node, "name", None) or getattr(node, "arg", None))
    reads = used & {"input", "open", "stdin"} or attributes & {"stdin", "__stdin__", "read", "input"}
    writes = used & {"print", "open", "stdout"} or attributes & {"stdout", "__stdout__", "write"}
    if not (block.tagged or writes or any(isinstance(x, (ast.FunctionDef, ast.ClassDef)) for x in body)):
        return 0
    if used - defined and "*" not in defined:  # a name from another block; * may define any
        return 1
    return 4 if reads and writes else 3 if writes else min(2, len(body))


def fitness_by_words(block: Block, func_name: str | None) -> int:
    """As `fitness`, of a block that does not parse: 6, 4, 3 or 0."""
    if NO_PROGRAM.match(block.source):
        return 0
    if func_name:
        pattern = rf"^[ \t+-]*(?:async +)?def +{re.escape(func_name)}\b"
        return 6 if re.search(pattern, block.source, re.M) else 0
    reads = re.search(r"input\(|stdin|open\(", block.source)
    writes = re.search(r"print\b|stdout", block.source)
    if reads and writes:
        return 4
    return 3 if writes and block.tagged else 0


def definition(body: list[ast.stmt], name: str) -> int:
    """2 if the statements define this function, class or Solution method; 1 for a stub or an alias; else 0.

    An alias is an assignment of anything but a lambda. A stub has only placeholders for code to come.
    """
    scores, body = [0], [*body]
    for node in body:  # grows; a call for each elif could nest too deeply
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            scores.append(1 if all(is_placeholder(x, node.lineno) for x in node.body) else 2)
        elif isinstance(node, ast.ClassDef):
            scores += [2 * (node.name == name), (node.name == "Solution") * definition(node.body, name)]
        elif isinstance(node, ast.Assign) and name in [getattr(x, "id", None) for x in node.targets]:
            scores.append(2 if isinstance(node.value, ast.Lambda) else 1)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            body += [*node.body, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
    return max(scores)


def is_placeholder(node: ast.stmt, def_line: int) -> bool:
    """Whether a statement is pass, raise …, a constant, or returns None, 0, -1, "" or [].

    def_line: number of the function's first line. A value returned on that very line, as in
    `def f(): return 0`, is no placeholder.
    """
    if isinstance(node, ast.Return):
        try:
            value = ast.literal_eval(node.value) if node.value else None
        except (ValueError, TypeError, RecursionError, MemoryError):  # no constant
            return False
        return value in (None, 0, -1, "", [], (), {}) and node.lineno > def_line
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, (ast.Pass, ast.Raise))


# ----------------------------------------------------------------------------------------------- comparing

TOLERANCE = Decimal("1e-6")
MOST_DECIMALS = 30  # contests do not ask for more
CONSTANTS = "3.14159265358979323846264338327950288", "2.71828182845904523536028747135266249"  # pi, e
# Without traps no operation raises; a number that is too large becomes NaN.
CONTEXT = Context(prec=100, Emax=10**17, Emin=-(10**17), traps=[])
NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eE][+-]?\d++)?", re.A)
INTEGER = re.compile(r"[+-]?\d++", re.A)
NUMBERS = re.compile(r"[-+\d.e\s,:(){}\[\]…]*")
WORD = re.compile(r"[^\s,:;=%$(){}\[\]]+")


def same_number(got: str, want: str) -> bool:
    """Whether two texts are equal, or numbers that a contest judge takes for the same.

    - Two integers must be equal texts. If only one number is an integer, they may differ by less than 1e-6.
    - Two fractions may differ by less than 1e-6, absolute or relative to the expected one.
    - An expected number with three to five decimals counts as rounded: the difference must be less than half
      a unit in its last place. With one or two decimals it may be money or exact: the difference must be less
      than half a cent and within the 1e-6 above.
    - If an expected number lies between 1e-9 and 1e-6, the difference must be less than half of it, so that 0
      is wrong.
    - If more than 30 decimals are expected, or more digits of pi or e than a float has, all must be equal.

    The caller must have activated CONTEXT.
    """
    if got == want:
        return True
    integers = [bool(INTEGER.fullmatch(text)) for text in (got, want)]
    if all(integers) or not (NUMBER.fullmatch(got) and NUMBER.fullmatch(want)):
        return False
    a, b = Decimal(got), Decimal(want)
    if not (a.is_finite() and b.is_finite()):
        return False
    if any(integers) and max(abs(a), abs(b)) >= 2**53:
        # Floats skip integers at this size. If an integer is expected, a float may be a wrong one, rounded.
        return integers[0] and abs(a - b) <= Decimal("1e-15") * abs(b)
    decimals = -b.as_tuple().exponent
    digits = len(want) > 18 and any(constant.startswith(want[:-1]) for constant in CONSTANTS)
    if digits or decimals > MOST_DECIMALS:
        return a == b
    tolerance = TOLERANCE if any(integers) else TOLERANCE * max(1, abs(b))
    if 3 <= decimals <= 5:
        tolerance = Decimal((0, (5,), -decimals - 1))
    elif 1 <= decimals <= 2:
        tolerance = min(tolerance, Decimal("0.005"))
    if Decimal("1e-9") < abs(b) < TOLERANCE:
        tolerance = abs(b) / 2
    return abs(a - b) < tolerance


def same_output(got: str, want: str) -> bool:
    """Whether two printed outputs agree line by line. Blanks and empty lines at both ends are ignored."""
    return different_line(got, want) is None


def different_line(got: str, want: str) -> int | None:
    """Index of the first line in which two outputs differ, not counting empty lines at the start; or None."""
    want_lines = want.strip().split("\n")
    got_lines = got.strip().split("\n", len(want_lines))  # not more: a program may print millions of lines
    with localcontext(CONTEXT):
        for i, (got_line, want_line) in enumerate(zip(got_lines, want_lines)):
            if not same_line(got_line, want_line):
                return i
    return None if len(got_lines) == len(want_lines) else min(len(got_lines), len(want_lines))


def same_line(got: str, want: str) -> bool:
    """Whether two lines agree word by word and, unless they hold only numbers, in the text between the words.

    Blanks at the end never count; blanks at the start count only if the expected line has some.
    """
    if got == want:
        return True
    if len(got.strip()) > 100 * (len(want) + 1):  # 50 decimals and blanks between words stay below that
        return False
    a, b = WORD.findall(got), WORD.findall(want)
    if len(a) != len(b) or not all(map(same_number, a, b)):
        return False
    if all(map(NUMBER.fullmatch, got.split() + want.split())):
        return True
    got = got if want[:1].isspace() else got.lstrip()
    return WORD.split(got.rstrip()) == WORD.split(want.rstrip())


def same_value(got: Any, want: Any) -> bool:
    """Whether two values of Python literals agree. The caller must have activated CONTEXT."""
    if isinstance(got, (list, tuple)) and isinstance(want, (list, tuple)):
        return len(got) == len(want) and all(map(same_value, got, want))
    if isinstance(got, dict) and isinstance(want, dict):
        values = {(type(key), key): value for key, value in got.items()}
        pairs = [((type(key), key), value) for key, value in want.items()]
        right = all(key in values and same_value(values[key], value) for key, value in pairs)
        return right and len(got) == len(want)
    if isinstance(got, set) and isinstance(want, set):
        typed_got, typed_want = ({(type(x), x) for x in values} for values in (got, want))
        extra, missing = ([x for _, x in typed] for typed in (typed_got - typed_want, typed_want - typed_got))
        # Unequal fractions may still agree. Each is compared with each, which limits how many there may be.
        return len(extra) == len(missing) < 99 and all(
            [any(same_value(x, y) for y in missing) for x in extra]
            + [any(same_value(x, y) for x in extra) for y in missing]
        )
    kinds = {type(got), type(want)}
    if kinds in ({float}, {int, float}):
        return same_number(repr(got), repr(want))
    return len(kinds) == 1 and got == want


def tokens(text: str) -> int:
    """Number of words and symbols in a text: at least the number of objects that the text describes."""
    return len(re.sub(r"\w+", "1", text).replace(" ", ""))


def brackets(text: str) -> int:
    """Number of opening brackets in a text. Nested ones cost the parser the most."""
    return sum(map(text.count, "[({"))


def same_returned(got: str, expected: str) -> bool:
    """Whether a returned value, given by its repr, agrees with the expected one.

    An expected value that is neither JSON nor a Python literal is a text.
    """
    if got == expected.strip():  # the usual case, and quicker than parsing
        return True
    # Parsing what a hostile program returns may cost no more than the expected value could need. Equal values
    # may take more characters (1.0000000000000002 for 1) and more tokens (1.5e-17 for 0), but not this many.
    if len(got) > 12 * len(expected) + 100:
        return False
    if any(count(got) > 3 * count(expected) + 100 for count in (tokens, brackets)):
        return False
    try:
        want = literal(expected)
    except ValueError:
        want = expected.strip()
    try:
        with localcontext(CONTEXT):
            return same_value(literal(got), want)
    except ValueError:  # the repr of an object, or nested too deeply
        return False


# ------------------------------------------------------------------------------------------------- judging


class Result(NamedTuple):
    """Result of one test. status: correct | wrong | error | timeout | undecided. line: for the report."""

    status: str
    line: str


class NotCached(Exception):
    """Carries an outcome past the cache: the machine may be at fault, or it is too long to keep."""


@lru_cache(maxsize=50_000)
def outcome(source: str, func_name: str | None, testtype: str, test_input: str) -> sandbox.Outcome:
    """Outcome of a program on one input. Raises NotCached with the outcome if it must not be kept.

    Cached, because small models write the same program again and again.
    """
    if testtype == "stdin":
        result = sandbox.run_program(source, test_input)
    else:
        result = sandbox.call_function(source, func_name, test_input)
    if result.again or len(test_input) + len(result.output) > 10_000:
        raise NotCached(result)
    return result


def short(text: str, at: int | None = None, limit: int = 300) -> str:
    """The text; of a text longer than `limit` the characters around index `at`, or both ends without one."""
    if len(text) <= limit:
        return text
    if at is None:
        return f"{text[: limit // 2]} … {text[-limit // 2 :]}"
    start = max(0, min(at - limit // 2, len(text) - limit))
    return "… " * (start > 0) + text[start : start + limit] + " …" * (start + limit < len(text))


def guarded(text: str) -> str:
    """A text that a student has influenced, as the teacher may see it: it cannot end the line or the bracket.

    Prompts show the report in square brackets, so a bracket that the text does not open must not close them.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    depths = accumulate((c == "[") - (c == "]") for c in text)
    return text.replace("]", r"\x5d") if min(depths, default=0) < 0 else text


def quoted(text: str) -> str:
    """A text that the student's program wrote, in quotation marks: else it could pass for the report's."""
    return guarded(repr(text))


def in_python(text: str) -> str:
    """A value, given by its repr or as JSON, in Python's notation. A long one stays as it is."""
    if len(text) > 10_000:
        return text
    try:
        value = literal(text)
        if isinstance(value, set) and value:  # sorted, because the order of a set differs from run to run
            return "{" + ", ".join(sorted(map(repr, value), key=lambda item: (len(item), item))) + "}"
        return repr(value)
    except ValueError:  # no plain value, or an integer of more than 4,300 digits
        return text if NUMBERS.fullmatch(text) else repr(text)


def first_difference(got: str, want: str) -> tuple[int, int]:
    """(index in got, index in want) where the first unequal words begin to differ; both ends if none do."""
    words = (WORD.finditer(text) for text in (got, want))
    with localcontext(CONTEXT):
        for a, b in zip(*words):
            if not same_number(a[0], b[0]):
                alike = len(os.path.commonprefix([a[0], b[0]]))
                return a.start() + alike, b.start() + alike
    return len(got), len(want)


def shown(value: str, at: int | None = None) -> str:
    """A value of the student's program in Python's notation (see `in_python`), shortened around an index.

    A piece of a long value may hold half a quotation. So it is put in quotation marks, unless it holds only
    numbers.
    """
    piece = short(value, at)
    return guarded(piece) if piece == value or NUMBERS.fullmatch(piece) else quoted(piece)


def compared_values(got: str, want: str) -> str:
    """Says "returned …, expected …" of two values. Long ones are shortened around the first difference."""
    got, want = in_python(got), in_python(want)
    at, at_want = first_difference(got, want)
    return f"returned {shown(got, at)}, expected {short(want, at_want)}"


def compared_outputs(got: str, want: str) -> str:
    """Says "returned …, expected …" of two printed outputs; of long ones only the first lines that differ."""
    # Without empty lines at the start and blanks at the end, which do not count. Blanks at the start stay.
    got, want = (re.sub(r"\A\s*\n", "", text).rstrip() for text in (got, want))
    line = different_line(got, want)
    if max(len(got), len(want)) <= 300 or line is None:
        return f"returned {quoted(short(got))}, expected {short(want)!r}"
    lines = [text.split("\n", line + 1) for text in (got, want)]
    got, want = (text[line] if line < len(text) else None for text in lines)
    if want is None:
        return f"returned {quoted(short(got))} in line {line + 1}, expected only {line} lines"
    if got is None:
        return f"returned only {line} lines, expected {short(want)!r} in line {line + 1}"
    got, want = map(short, (got, want), first_difference(got, want))
    return f"returned {quoted(got)} in line {line + 1}, expected {want!r}"


def run_test(source: str, func_name: str | None, test: dict) -> Result:
    """Runs a program on one test. The expected value is not sent to the sandbox."""
    functional, test_input, expected = test["testtype"] == "functional", test["input"], test["output"]
    try:
        result = outcome(source, func_name, test["testtype"], test_input)
    except NotCached as e:
        result = e.args[0]
    arguments = short(test_input.strip().replace("\n", ", "))
    call = f"{func_name}({arguments})" if functional else f"input {short(test_input)!r}"
    if result.status != "ok":
        status = "undecided" if result.status == "unanswered" else result.status
        # The text of an error may be the program's own. With another status it is the sandbox's.
        error = quoted(short(result.error)) if status == "error" else result.error or status
        return Result(status, f"{call} stopped: {error}")
    try:
        if (same_returned if functional else same_output)(result.output, expected):
            value = short(expected.strip())
            return Result("correct", f"{call} returned {value if functional else repr(value)}, as expected.")
        compared = (compared_values if functional else compared_outputs)(result.output, expected)
    except Exception as e:  # an odd output must not end the run
        return Result("undecided", f"{call} could not be judged: {type(e).__name__}")
    return Result("wrong", f"{call} {compared}.")


def parse_error(source: str) -> str | None:
    """A report that a program does not parse, with the line and Python's words; None if it does."""
    try:
        parse(source)
        return None
    except SyntaxError as e:
        number = e.lineno or 1  # None for a zero byte
        line = source.split("\n")[number - 1].strip()
        return f"The program does not parse: line {number}, {quoted(short(line, limit=100))}: {quoted(e.msg)}"
    except ValueError as e:  # a zero byte
        return f"The program does not parse: {e}"
    except (RecursionError, MemoryError):  # nested too deeply for this process, not for the sandbox's
        return None


def check(
    source: str,
    func_name: str | None,
    tests: list,
    asserts: list,
    public_tests: list,
    public_asserts: Sequence = (),
    most: int = 8,
) -> tuple[str, str]:
    """(status, report) of a program. All tests and asserts decide; the report is about the public ones.

    status: as in Result; a program that does not parse is an error. report: the results of the public tests
    and asserts, passed or not, at most `most` lines; it tells nothing of hidden ones. If none are public, the
    first three tests and all asserts count as public. Asserts run only if all tests are passed. After the
    first test that fails, only public tests run, up to the first time-out among them. No test runs twice.
    """
    results, outcomes, status = [], [], "correct"
    for test in tests:
        results.append((test, run_test(source, func_name, test)))
        if results[-1][1].status != "correct":
            status = results[-1][1].status
            if status != "undecided":  # after an undecided test a later one may still fail
                break
    if status == "correct" and asserts:
        outcomes = sandbox.run_asserts(source, func_name, asserts)
        kinds = {result.status for result in outcomes} - {"ok"}
        ranks = {"error": "wrong", "timeout": "timeout"}  # any other kind could not be judged
        otherwise = "undecided" if kinds else "correct"
        status = next((name for kind, name in ranks.items() if kind in kinds), otherwise)
    if status == "correct":
        return "correct", ""
    if report := parse_error(source):
        return "error", report
    if not (public_tests or public_asserts):
        public_tests, public_asserts = tests[:3], asserts
    lines = []
    for number, test in enumerate(public_tests[:most], 1):
        result = next((result for other, result in results if other == test), None)
        result = result or run_test(source, func_name, test)
        lines.append(f"Test {number}: {result.line}")
        if result.status == "timeout":
            break
    for snippet, result in zip(asserts, outcomes):
        if snippet in public_asserts:
            lines.append(report_on_assert(snippet, result))
    return status, "\n".join(lines[:most]) or "No public test has run."


def report_on_assert(snippet: str, result: sandbox.Outcome) -> str:
    """A line of the report, on one assert snippet."""
    if result.status == "ok":
        return f"Passed: {short(' '.join(snippet.split()))}"
    returned = f" (returned {shown(in_python(result.output))})" if result.output else ""
    return f"Failed: {guarded(result.error)}{returned}"  # the program's words are quoted in it
