"""Finds the program in a student's turn, runs it on tests, compares what comes out. Expected values never enter the sandbox."""

import ast
import json
import re
import threading
from functools import lru_cache

from parts import sandbox


PARSER = (
    threading.Lock()
)  # Python's parser counts its depth for all threads together, and now and then finds the count wrong


def parse(text, mode="exec"):
    """ast.parse, for many threads."""
    with PARSER:
        return ast.parse(text, mode=mode)


def find_program(text):
    """The last closed code block (tagged python, or untagged) that parses as Python; None if there is none."""
    for block in reversed(
        re.findall(r"^```(?:python3?|py)?[ \t]*\n(.*?)^```[ \t]*$", text, flags=re.S | re.M | re.I)
    ):
        try:
            parse(block)
            return block
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def same_output(got, want):
    """Whether two printed outputs agree: line by line without outer blanks, token by token, numbers by value."""

    def same(a, b):
        try:
            return a == b or float(a) == float(b)
        except ValueError:
            return False

    a, b = ([line.split() for line in text.strip().splitlines()] for text in (got, want))
    return len(a) == len(b) and all(len(x) == len(y) and all(map(same, x, y)) for x, y in zip(a, b))


def plain(text):
    """Value of a Python or JSON literal, tuples as lists; ValueError if it is none. Never evaluates."""

    def lists(v):
        if isinstance(v, (list, tuple)):
            return [lists(x) for x in v]
        return {k: lists(x) for k, x in v.items()} if isinstance(v, dict) else v

    try:
        return lists(json.loads(text))
    except (ValueError, RecursionError):
        try:
            return lists(ast.literal_eval(parse(text.strip(), "eval")))
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            raise ValueError(f"not a plain value: {text[:80]}") from None


def same_value(got, want):
    """Equality of plain values in which True is not 1 and 0.1 + 0.2 is 0.3."""
    if isinstance(got, bool) or isinstance(want, bool):
        return got is want
    if isinstance(got, (int, float)) and isinstance(want, (int, float)):
        return (
            got == want
            or (isinstance(got, float) or isinstance(want, float))
            and abs(got - want) <= 1e-9 * max(abs(got), abs(want))
        )
    if isinstance(got, list) and isinstance(want, list):
        return len(got) == len(want) and all(map(same_value, got, want))
    if isinstance(got, dict) and isinstance(want, dict):
        return got.keys() == want.keys() and all(same_value(got[k], want[k]) for k in got)
    return type(got) is type(want) and got == want


@lru_cache(maxsize=100_000)
def outcome(source, func_name, testtype, given):
    """sandbox.Outcome of one program on one input; cached, because small models write the same program again and again."""
    return (
        sandbox.run_program(source, given)
        if testtype == "stdin"
        else sandbox.call_function(source, func_name, given)
    )


def short(text, limit=300):
    """The text, its middle left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def run_test(source, func_name, test):
    """(status, one line for the report) of one program on one test. The expected value never enters the sandbox."""
    functional = test["testtype"] == "functional"
    result = outcome(source, func_name, test["testtype"], test["input"])
    call = (
        f"{func_name}({short(test['input'].strip().replace(chr(10), ', '))})"
        if functional
        else f"input {short(test['input'])!r}"
    )
    if result.status != "ok":
        return result.status, f"{call} stopped: {short(result.error) or result.status}"
    if functional:
        try:
            right = same_value(plain(result.output), plain(test["output"]))
        except ValueError:
            right = result.output.strip() == test["output"].strip()
    else:
        right = same_output(result.output, test["output"])
    got, want = (
        short(text.strip()) if functional else repr(short(text.strip()))
        for text in (result.output, test["output"])
    )
    return ("correct" if right else "wrong"), f"{call} returned {got}, expected {want}."


def check(source, func_name, tests, asserts, public_tests):
    """(status, report) of a program: all tests and asserts decide; the report tells of the public ones that fail, three at most."""
    status = "correct"
    for test in tests:
        status, _ = run_test(source, func_name, test)
        if status != "correct":
            break
    results = []
    if status == "correct" and asserts:
        results = sandbox.run_asserts(source, func_name, asserts)
        status = next(
            (r.status if r.status == "timeout" else "wrong" for r in results if r.status != "ok"), "correct"
        )
    if status == "correct":
        return "correct", ""
    lines = []
    for number, test in enumerate(public_tests or tests[:3], 1):
        result, line = run_test(source, func_name, test)
        if result != "correct" and len(lines) < 3:
            lines.append(f"Test {number}: {line}")
    if not lines and not public_tests:
        lines = [f"Failed: {short(r.error)}" for r in results if r.status != "ok"][:3]
    return status, "\n".join(lines) or "The public tests pass; a hidden test fails."
