"""Not part of the method: finds the program in a student's turn, runs its tests and compares the outputs.

Expected values are never sent to the sandbox; outputs are compared here, by these rules:
- Texts and integers must be equal. A bool is not an integer and a set is not a dict, but a tuple equals a
  list, as in JSON.
- Two decimal fractions may differ by TOLERANCE, but not by more than half a unit in the last place of the
  one with fewer places, or ROUNDING if that is more. A decimal fraction may differ from an integer by 1e-9.
- LiveCodeBench's checker (lcb_runner/evaluation/testing_util.py) wants equal Decimals: it accepts 10 for
  00010, and no rounding. Judges of contests allow an error of about 1e-6.
"""

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Any, NamedTuple

from parts import sandbox
from parts.sandbox import literal, parse

# ------------------------------------------------------------------------------------------------- finding

PYTHON = r"[{.]*(?:i?python|py)(?:[ _-]?[23][\d.]*)?(?![\w+#-])"
OPENING = re.compile(
    rf"(?P<indent>[ \t>]*(?:(?:[-*+]|\d+[.)]) [ \t]*)?)(?P<fence>`{{3,}}+|~{{3,}}+)[ \t]*(?P<tag>[^`]*)$"
    rf"|.*?(?<!`)(?P<late>`{{3,}}+)[ \t]*{PYTHON}[ \t]*$",  # behind text only with a tag: else it is an end
    re.I,
)
LOOKAHEAD = 6  # fences tried as a block's end: the program's own strings and comments may contain fences
PREDEFINED = frozenset({*dir(builtins), *sandbox.header(), "__file__"})  # names that need no definition


def find_program(text: str, func_name: str | None = None) -> str | None:
    """The program in a turn: the last of the closed Python blocks with the best `fitness`, or None.

    The best block defines func_name, or a class Solution with that method. The next best reads input, prints
    and needs no other block. Examples of use, asserts and expected outputs come last.
    """
    best_fit, program = 1, None
    for source, tree in code_blocks(text):
        fit = fitness(tree, func_name)
        if tree.body and fit >= best_fit:
            best_fit, program = fit, source
    return program


def code_blocks(text: str) -> Iterator[tuple[str, ast.Module]]:
    """Yields (source, tree) of each closed block that is tagged python or untagged and parses as Python.

    A Markdown parser is not enough: markdown-it-py misses 16 of the 52 blocks in tests/test_programs.py.
    Models write text behind the closing fence or before the opening one, forget a fence, or put one into a
    string.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line or "~~~" in line]
    at = 0
    while at < len(fences):
        block, fences_read = read_block(lines, fences[at : at + 1 + LOOKAHEAD])
        at += fences_read
        if block:
            yield block


def read_block(lines: list[str], fences: list[int]) -> tuple[tuple[str, ast.Module] | None, int]:
    """(block or None, number of fences read) for the block that the first fence opens. None: not Python."""
    start, *later = fences
    opening = OPENING.match(lines[start])
    ends = possible_ends(lines, later, opening["fence"] or opening["late"]) if opening else []
    if opening and (is_python(lines[start]) or not opening["tag"]):
        for end, last_line in ends:
            if block := parse_block([*lines[start + 1 : end], *last_line], opening["indent"] or ""):
                # An end that opens the next block is not counted as read.
                return block, later.index(end) + 2 - is_python(lines[end])
    # Without an end, or with an opening before it (the end was forgotten), only this fence is skipped:
    # a program may follow. Otherwise the whole block is.
    if not ends or any(map(is_python, lines[start + 1 : ends[0][0] + 1])):
        return None, 1
    return None, later.index(ends[0][0]) + 2


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


def parse_block(body: list[str], indent: str) -> tuple[str, ast.Module] | None:
    """(source, tree) of a block's lines, or None if they are not Python.

    Quotation marks (>) are removed if the opening fence's indent has one. The rest is tried as it is, without
    that indent, and without the indent that all lines share.
    """
    if ">" in indent:
        body = [re.sub(r"^[ \t]*(>[ \t]?)+", "", line) for line in body]
    source = "".join(line + "\n" for line in body)
    unindented = "".join(re.sub(rf"^[ \t]{{0,{len(indent)}}}", "", line) + "\n" for line in body)
    for text in dict.fromkeys([source, unindented, textwrap.dedent(source)]):
        try:
            return text, parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def fitness(tree: ast.Module, func_name: str | None) -> int:
    """How much a block looks like the wanted program, 0 … 6.

    6: defines func_name. 5: defines it as a stub or as another name for something. 4: reads and prints.
    3: prints. 2: has several statements. 1: has one, or uses a name that it does not define. 0: is empty.
    """
    if func_name and (score := definition(tree.body, func_name)):
        return 4 + score
    defined, used, attributes = set(PREDEFINED), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.alias):  # of an import
            defined.add((node.asname or node.name).split(".")[0])
        else:  # a function, a class, a parameter, an exception's name; other nodes add None
            defined.add(getattr(node, "name", None) or getattr(node, "arg", None))
    if used - defined and "*" not in defined:  # a name from another block; * may define any
        return 1
    reads = used & {"input", "open", "stdin"} or attributes & {"stdin", "__stdin__", "read", "input"}
    writes = used & {"print", "open", "stdout"} or attributes & {"stdout", "__stdout__", "write"}
    return 4 if reads and writes else 3 if writes else min(2, len(tree.body))


def definition(body: list[ast.stmt], name: str) -> int:
    """2 if the statements define this function, class or Solution method; 1 for a stub or an alias; else 0.

    An alias is an assignment of anything but a lambda. A stub has only `pass`, `...` or a docstring.
    """
    scores = [0]
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            kinds = {type(x.value if isinstance(x, ast.Expr) else x) for x in node.body}
            scores.append(1 if kinds <= {ast.Pass, ast.Constant} else 2)
        elif isinstance(node, ast.ClassDef):
            scores += [2 * (node.name == name), (node.name == "Solution") * definition(node.body, name)]
        elif isinstance(node, ast.Assign) and name in [getattr(x, "id", None) for x in node.targets]:
            scores.append(2 if isinstance(node.value, ast.Lambda) else 1)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            scores += [definition(getattr(node, part, []), name) for part in ("body", "orelse", "finalbody")]
    return max(scores)


# ----------------------------------------------------------------------------------------------- comparing

TOLERANCE = Decimal("1e-6")  # relative above 1, absolute below
ROUNDING = Decimal("4e-16")  # the error of two operations on floats; relative above 1, too
# Without traps no operation raises; a number that is too large becomes NaN.
CONTEXT = Context(prec=100, Emax=10**17, Emin=-(10**17), traps=[])
NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eE][+-]?\d++)?", re.A)
INTEGER = re.compile(r"[+-]?\d++", re.A)


def same_number(got: str, want: str) -> bool:
    """Whether two texts are equal, or are close numbers and at least one is a decimal fraction.

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
    if any(integers):  # 5.0 for 5. From 2**53 on floats skip integers: a wrong result, rounded, would pass.
        return abs(a - b) <= Decimal("1e-9") and abs(a) < 2**53
    if len(b.normalize().as_tuple().digits) > 17 and Decimal(float(b)).quantize(b) != b:
        return a == b  # b has more digits than a float, and is no float's exact value: all its digits count
    half = Decimal((0, (5,), max(a.as_tuple().exponent, b.as_tuple().exponent) - 1))
    scale = max(1, abs(b))
    return abs(a - b) <= min(TOLERANCE * scale, max(half, ROUNDING * scale))


def same_output(got: str, want: str) -> bool:
    """Whether two printed outputs agree line by line. Blanks and empty lines at both ends are ignored."""
    got_lines, want_lines = (text.strip().split("\n") for text in (got, want))
    with localcontext(CONTEXT):
        return len(got_lines) == len(want_lines) and all(map(same_line, got_lines, want_lines))


def same_line(got: str, want: str) -> bool:
    """Whether two lines agree word by word, and in their blanks unless only numbers are expected.

    Blanks at the end never count; blanks at the start count only if the expected line has some.
    """
    if got == want:
        return True
    a, b = got.split(), want.split()
    if len(a) != len(b) or not all(map(same_number, a, b)):
        return False
    if all(map(NUMBER.fullmatch, b)):
        return True
    got = got if want[:1].isspace() else got.lstrip()
    return re.split(r"\S+", got.rstrip()) == re.split(r"\S+", want.rstrip())


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
        exact = {(type(x), x) for x in got}
        inexact = [x for x in want if (type(x), x) not in exact]  # fractions: they may still agree
        # Each is compared with the whole set, so a large number of them would take too long.
        close = len(inexact) < 99 and all(any(same_value(x, y) for x in got) for y in inexact)
        return close and len(got) == len(want)
    kinds = {type(got), type(want)}
    if kinds == {int, float} and max(abs(got), abs(want)) >= 2**53:  # as in same_number
        return False
    if kinds in ({float}, {int, float}):
        return same_number(repr(got), repr(want))
    return len(kinds) == 1 and got == want


def same_returned(got: str, expected: str) -> bool:
    """Whether a returned value, given by its repr, agrees with the expected one.

    An expected value that is neither JSON nor a Python literal is a text.
    """
    if got == expected.strip():  # the usual case, and quicker than parsing
        return True
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
    """Carries an outcome past the cache: the machine may be at fault, or the output is too long to keep."""


@lru_cache(maxsize=50_000)
def outcome(source: str, func_name: str | None, testtype: str, test_input: str) -> sandbox.Outcome:
    """Outcome of a program on one input. Raises NotCached with the outcome if it must not be kept.

    Cached, because small models write the same program again and again.
    """
    if testtype == "stdin":
        result = sandbox.run_program(source, test_input)
    else:
        result = sandbox.call_function(source, func_name, test_input)
    if result.again or len(result.output) > 10_000:
        raise NotCached(result)
    return result


def short(text: str, limit: int = 300) -> str:
    """The text; if it is longer than `limit` characters, without its middle."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


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
        return Result(status, f"{call} stopped: {short(result.error) or status}")
    try:
        right = (same_returned if functional else same_output)(result.output, expected)
    except Exception as e:  # an odd output must not end the run
        return Result("undecided", f"{call} could not be judged: {type(e).__name__}")
    got, want = (short(text.strip()) for text in (result.output, expected))
    if not functional:
        got, want = repr(got), repr(want)
    return Result("correct" if right else "wrong", f"{call} returned {got}, expected {want}.")


def check(
    source: str, func_name: str | None, tests: list, asserts: list, public_tests: list
) -> tuple[str, str]:
    """(status, report) of a program. All tests and asserts decide; the report shows up to three failed tests.

    status: as in Result. The report shows public tests only, unless there are none. Without public tests it
    may show any of the first three tests and of the failed asserts. Nothing runs after the first time-out,
    and no test runs twice.
    """
    results, failed, status = [], [], "correct"
    for test in tests:
        results.append((test, run_test(source, func_name, test)))
        if results[-1][1].status != "correct":
            status = results[-1][1].status
            if status != "undecided":  # after an undecided test the next may still fail
                break
    if status == "correct" and asserts:
        outcomes = sandbox.run_asserts(source, func_name, asserts)
        failed = [result for result in outcomes if result.status != "ok"]
        kinds = {result.status for result in failed}
        ranks = {"error": "wrong", "timeout": "timeout", "unanswered": "undecided"}
        status = next((name for kind, name in ranks.items() if kind in kinds), "correct")
    if status == "correct":
        return "correct", ""
    lines = []
    for number, test in enumerate(public_tests or tests[:3], 1):
        result = next((result for other, result in results if other == test), None)
        if result is None and status != "timeout":
            result = run_test(source, func_name, test)
        if result and result.status != "correct" and len(lines) < 3:
            lines.append(f"Test {number}: {result.line}")
            if result.status == "timeout":
                break
    if not lines and not public_tests:
        lines = [f"Failed: {short(result.error)}" for result in failed[:3]]
    hidden = "The public tests pass; a hidden test fails."
    if status == "timeout":  # so perhaps some public tests did not run
        hidden = "A hidden test takes too long."
    return status, "\n".join(lines) or hidden
