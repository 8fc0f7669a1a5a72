"""Finds the program in a student's turn, runs its tests, compares what comes out.

No expected value enters the sandbox. Texts are compared as texts, integers exactly; a bool is no integer, a
set is no dict, but a tuple is a list, as in JSON. Two numbers of which one is a decimal fraction are
compared as Decimals: within TOLERANCE, but never further apart than half a unit in the last place of the
one with fewer, or than ROUNDING. LiveCodeBench's checker (lcb_runner/evaluation/testing_util.py) wants equal
Decimals, which lets 10 pass for 00010; judges of contests allow about 1e-6.
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
    rf"|.*?(?<!`)(?P<late>`{{3,}}+)[ \t]*{PYTHON}[ \t]*$",  # behind text: only a tag tells it from an end
    re.I,
)
REACH = 6  # fences behind an opening one that are tried as its end: a program's own texts may hold some
# names that a program need not define
GIVEN = frozenset({*dir(builtins), *sandbox.header(), "__file__", None})


def find_program(text: str, func_name: str | None = None) -> str | None:
    """The program in a turn: of its closed blocks that parse as Python the last that fits best, or None.

    Best fits what defines func_name, or a class Solution that has it; then what reads, prints and needs no
    other block. Examples of use, asserts and expected outputs fit worse.
    """
    best, found = 1, None
    for source, tree in code_blocks(text):
        fit = fitness(tree, func_name)
        if tree.body and fit >= best:
            best, found = fit, source
    return found


def code_blocks(text: str) -> Iterator[tuple[str, ast.Module]]:
    """Source and tree of the closed blocks, tagged python or untagged, that parse as Python."""
    lines = text.replace("\r\n", "\n").split("\n")
    fences = [i for i, line in enumerate(lines) if "```" in line or "~~~" in line]
    at = 0
    while at < len(fences):
        block, passed = read_block(lines, fences[at : at + 1 + REACH])
        at += passed
        if block:
            yield block


def read_block(lines: list[str], fences: list[int]) -> tuple[tuple[str, ast.Module] | None, int]:
    """The block that opens at the first fence, if it is Python, and by how many fences to go on."""
    start, *nearby = fences
    opening = OPENING.match(lines[start])
    ends = closings(lines, nearby, opening["fence"] or opening["late"]) if opening else []
    if opening and (is_python(lines[start]) or not opening["tag"]):
        for end, rest in ends:
            if block := parsed([*lines[start + 1 : end], *rest], opening["indent"] or ""):
                return block, nearby.index(end) + 2 - is_python(lines[end])
    if not ends or any(map(is_python, lines[start + 1 : ends[0][0] + 1])):  # no end, or one was forgotten
        return None, 1
    return None, nearby.index(ends[0][0]) + 2


def is_python(line: str) -> bool:
    """Whether a line opens a block that is tagged python."""
    opening = OPENING.match(line)
    return bool(opening and (opening["late"] or re.match(PYTHON, opening["tag"], re.I)))


def closings(lines: list[str], nearby: list[int], fence: str) -> list[tuple[int, list[str]]]:
    """Where a block may end, likeliest first: (line, what of that line belongs to the block)."""
    mark = f"(?<!{fence[0]}){fence[0]}{{{len(fence)},}}+"
    alone, behind, next_opening = [], [], []
    for i in nearby:
        if re.match(rf"[ \t>]*{mark}", lines[i]):
            (next_opening if is_python(lines[i]) else alone).append((i, []))
        elif found := re.search(rf"{mark}(?:[ \t]*|<.*)$", lines[i]):
            behind.append((i, [lines[i][: found.start()]]))
    return alone + behind + next_opening


def parsed(body: list[str], indent: str) -> tuple[str, ast.Module] | None:
    """(source, tree) of a block's lines, without a quotation's and a list's indent; None if no Python."""
    if ">" in indent:
        body = [re.sub(r"^[ \t]*(>[ \t]?)+", "", line) for line in body]
    source = "".join(line + "\n" for line in body)
    less = "".join(re.sub(rf"^[ \t]{{0,{len(indent)}}}", "", line) + "\n" for line in body)
    for text in dict.fromkeys([source, less, textwrap.dedent(source)]):
        try:
            return text, parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def fitness(tree: ast.Module, func_name: str | None) -> int:
    """How much a block looks like the program that was asked for: 1 … 6."""
    if func_name and (made := definition(tree.body, func_name)):
        return 4 + made
    known, used, attributes = set(GIVEN), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.alias):  # of an import
            known.add((node.asname or node.name).split(".")[0])
        else:
            known.add(getattr(node, "name", None) or getattr(node, "arg", None))
    if used - known and "*" not in known:  # of another block
        return 1
    reads = used & {"input", "open", "stdin"} or attributes & {"stdin", "__stdin__", "read", "input"}
    writes = used & {"print", "open", "stdout"} or attributes & {"stdout", "__stdout__", "write"}
    return 4 if reads and writes else 3 if writes else min(2, len(tree.body))


def definition(body: list[ast.stmt], name: str) -> int:
    """2 if statements define a function, or a class Solution that has it; 1 if that is but a stub; else 0."""
    made = [0]
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            kinds = {type(x.value if isinstance(x, ast.Expr) else x) for x in node.body}
            made.append(1 if kinds <= {ast.Pass, ast.Constant} else 2)
        elif isinstance(node, ast.ClassDef):
            made += [2 * (node.name == name), (node.name == "Solution") * definition(node.body, name)]
        elif isinstance(node, ast.Assign) and name in [getattr(x, "id", None) for x in node.targets]:
            made.append(2 if isinstance(node.value, ast.Lambda) else 1)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            made += [definition(getattr(node, part, []), name) for part in ("body", "orelse", "finalbody")]
    return max(made)


# ----------------------------------------------------------------------------------------------- comparing

TOLERANCE = Decimal("1e-6")  # relative above 1, absolute below
ROUNDING = Decimal("4e-16")  # of two operations on floats
# nothing raises; what is too large becomes NaN
CONTEXT = Context(prec=100, Emax=10**17, Emin=-(10**17), traps=[])
NUMBER = re.compile(r"[+-]?(\d++(\.\d*+)?|\.\d++)([eE][+-]?\d++)?", re.A)
INTEGER = re.compile(r"[+-]?\d++", re.A)


def same_number(got: str, want: str) -> bool:
    """Whether two texts are the same, or close numbers of which one is a decimal fraction. Within CONTEXT."""
    if got == want:
        return True
    integers = [bool(INTEGER.fullmatch(text)) for text in (got, want)]
    if all(integers) or not (NUMBER.fullmatch(got) and NUMBER.fullmatch(want)):
        return False
    a, b = Decimal(got), Decimal(want)
    if not (a.is_finite() and b.is_finite()):
        return False
    if any(integers):  # 5.0 for 5; but not where floats have gaps, so that nobody knows what was computed
        return abs(a - b) <= Decimal("1e-9") and abs(a) < 2**53
    if len(b.normalize().as_tuple().digits) > 17 and Decimal(float(b)).quantize(b) != b:
        return a == b  # more digits than a float has, and not those that some languages print of one
    half = Decimal((0, (5,), max(a.as_tuple().exponent, b.as_tuple().exponent) - 1))
    scale = max(1, abs(b))
    return abs(a - b) <= min(TOLERANCE * scale, max(half, ROUNDING * scale))


def same_output(got: str, want: str) -> bool:
    """Whether two printed outputs agree line by line, without blanks and lines at both ends."""
    gots, wants = (text.strip().split("\n") for text in (got, want))
    with localcontext(CONTEXT):
        return len(gots) == len(wants) and all(map(same_line, gots, wants))


def same_line(got: str, want: str) -> bool:
    """Whether two lines agree. Blanks around words count, but not before them if none is expected there."""
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
    """Whether two plain values agree."""
    if isinstance(got, (list, tuple)) and isinstance(want, (list, tuple)):
        return len(got) == len(want) and all(map(same_value, got, want))
    if isinstance(got, dict) and isinstance(want, dict):
        values = {(type(key), key): value for key, value in got.items()}
        pairs = [((type(key), key), value) for key, value in want.items()]
        right = all(key in values and same_value(values[key], value) for key, value in pairs)
        return right and len(got) == len(want)
    if isinstance(got, set) and isinstance(want, set):
        exact = {(type(x), x) for x in got}
        rest = [x for x in want if (type(x), x) not in exact]  # fractions, if anything
        found = len(rest) < 99 and all(any(same_value(x, y) for x in got) for y in rest)
        return found and len(got) == len(want)
    kinds = {type(got), type(want)}
    if kinds == {int, float} and max(abs(got), abs(want)) >= 2**53:
        return False
    if kinds in ({float}, {int, float}):
        return same_number(repr(got), repr(want))
    return len(kinds) == 1 and got == want


def same_returned(got: str, expected: str) -> bool:
    """Whether the text of a returned value agrees with an expected one, a text if it is no literal."""
    if got == expected.strip():  # as most are; quicker than parsing
        return True
    try:
        want = literal(expected)
    except ValueError:
        want = expected.strip()
    try:
        with localcontext(CONTEXT):
            return same_value(literal(got), want)
    except ValueError:  # no plain value, or one nested too deeply
        return False


# ------------------------------------------------------------------------------------------------- judging


class Result(NamedTuple):
    """Of one test: "correct" | "wrong" | "error" | "timeout" | "undecided", and a line for the report."""

    status: str
    line: str


class Unsettled(Exception):
    """Carries an outcome that must not be cached: the machine may be at fault, or it is too long to keep."""


@lru_cache(maxsize=50_000)
def outcome(source: str, func_name: str | None, testtype: str, given: str) -> sandbox.Outcome:
    """Outcome of a program on one input; cached, as small models write the same program again and again."""
    if testtype == "stdin":
        result = sandbox.run_program(source, given)
    else:
        result = sandbox.call_function(source, func_name, given)
    if result.again or len(result.output) > 10_000:
        raise Unsettled(result)
    return result


def short(text: str, limit: int = 300) -> str:
    """The text, its middle left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def run_test(source: str, func_name: str | None, test: dict) -> Result:
    """A program on one test. The expected value never enters the sandbox."""
    functional, given, expected = test["testtype"] == "functional", test["input"], test["output"]
    try:
        result = outcome(source, func_name, test["testtype"], given)
    except Unsettled as e:
        result = e.args[0]
    shown = short(given.strip().replace("\n", ", "))
    call = f"{func_name}({shown})" if functional else f"input {short(given)!r}"
    if result.status != "ok":
        status = "undecided" if result.status == "unanswered" else result.status
        return Result(status, f"{call} stopped: {short(result.error) or status}")
    try:
        right = (same_returned if functional else same_output)(result.output, expected)
    except Exception as e:  # an answer, however odd, ends no run
        return Result("undecided", f"{call} could not be judged: {type(e).__name__}")
    got, want = (short(text.strip()) for text in (result.output, expected))
    if not functional:
        got, want = repr(got), repr(want)
    return Result("correct" if right else "wrong", f"{call} returned {got}, expected {want}.")


def check(
    source: str, func_name: str | None, tests: list, asserts: list, public_tests: list
) -> tuple[str, str]:
    """(status, report) of a program. All tests and asserts decide; the report shows up to three public tests.

    Nothing is run after the first time-out, and no test twice.
    """
    results, failed, status = [], [], "correct"
    for test in tests:
        results.append((test, run_test(source, func_name, test)))
        if results[-1][1].status != "correct":
            status = results[-1][1].status
            if status != "undecided":  # another test may still decide
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
        result = next((result for known, result in results if known == test), None)
        if result is None and status != "timeout":
            result = run_test(source, func_name, test)
        if result and result.status != "correct" and len(lines) < 3:
            lines.append(f"Test {number}: {result.line}")
            if result.status == "timeout":
                break
    if not lines and not public_tests:
        lines = [f"Failed: {short(result.error)}" for result in failed[:3]]
    hidden = "The public tests pass; a hidden test fails."
    if status == "timeout":  # perhaps not all of the public ones were run
        hidden = "A hidden test takes too long."
    return status, "\n".join(lines) or hidden
