"""Programs in turns: which block is taken, which outputs and values agree, what is reported."""

import ast
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from parts import programs, sandbox
from parts.programs import check, find_program, same_output, same_returned

F = "def f(n):\n    return n + 1\n"
MAIN = "n = int(input())\nprint(n + 1)\n"


def block(source, tag="python", fence="```"):
    return f"{fence}{tag}\n{source}{fence}\n"


# --------------------------------------------------------------------------------------------------- finding

FENCES = {
    "python": block(F),
    "no tag": block(F, ""),
    "capital": block(F, "Python"),
    "py": block(F, "py"),
    "py3": block(F, "py3"),
    "python3": block(F, "python3"),
    "python 3": block(F, "python 3"),
    "python3.11": block(F, "python3.11"),
    "ipython": block(F, "ipython3"),
    "blank before the tag": block(F, " python"),
    "blank behind the tag": block(F, "python  "),
    "attributes": block(F, 'python title="a.py" linenums="1"'),
    "braces": block(F, "{.python .numberLines}"),
    "braces behind": block(F, "python{1,3}"),
    "file name": block(F, "python:main.py"),
    "tildes": block(F, fence="~~~"),
    "four backticks": block(F, fence="````"),
    "four around three": block('"""\n```\nf(1)\n```\n"""\n' + F, fence="````"),
    "CRLF": block(F).replace("\n", "\r\n"),
    "end token": block(F).rstrip() + "<|im_end|>\n",
    "end token after a blank": block(F).rstrip() + " </s>",
    "text behind": block(F).rstrip() + " This adds one.\n",
    "text behind without a blank": block(F).rstrip() + "This adds one.\n",
    "text behind that begins like a tag": block(F).rstrip() + " Python adds one.\n",
    "never closed, then once more": "```python\n" + F + "```python\n" + F + "```",
    "closed by the next opening": "```python\n" + F + "```python\nprint(f(1)\n",
    "full stop behind": block(F).rstrip() + ".",
    "more backticks at the end": block(F).rstrip() + "``\n",
    "no newline before the end": block(F.rstrip()),
    "no newline, end token": block(F.rstrip()).rstrip() + "<|endoftext|>",
    "text before": "Here it is: " + block(F),
    "text before without a blank": "Here it is:" + block(F),
    "in a list": "1. So:\n\n   " + block(F).replace("\n", "\n   ") + "\n2. Done.",
    "in a list by a tab": "- So:\n\t" + block(F).replace("\n", "\n\t"),
    "on the list's mark": "- " + block(F).replace("\n", "\n  "),
    "on a number": "10. " + block(F).replace("\n", "\n    "),
    "only the code indented": "```python\n    def f(n):\n        return n + 1\n```",
    "only the fences indented": "  ```python\n" + F + "  ```\n",
    "quoted": "> " + block(F).rstrip().replace("\n", "\n> "),
    "a fence in a docstring": block(
        'def f(n):\n    """\n    ```\n    f(1)\n    ```\n    """\n    return n + 1\n'
    ),
    "a tagged fence in a docstring": block(
        'def f(n):\n    """\n```python\nf(1)\n```\n"""\n    return n + 1\n'
    ),
    "a fence in a comment": block("# like ```\n" + F),
    "a fence in a string": block("x = '```'\n" + F),
    "a block before is not closed": "```python\nx = = 1\n\n" + block(F),
    "another language is not closed": "```bash\npip install x\n\n" + block(F),
    "a lone fence before": "```\n\nText.\n\n" + block(F),
    "after other languages": block("int f(int n);\n", "cpp") + block("$ ls\n", "bash") + block(F),
    "method": block("class Solution:\n    def f(self, n):\n        return n + 1\n"),
    "in an if": block("if True:\n    def f(n):\n        return n + 1\n"),
    "lambda": block("f = lambda n: n + 1\n"),
    "decorated": block("@cache\ndef f(n):\n    return n + 1\n"),
    "blank lines": "\n\n" + block("\n\n" + F + "\n\n"),
}
BEHIND = {  # blocks after the program that must not be taken for it
    "call": block("print(f(1))\n"),
    "call and comment": block("# prints 2\nprint(f(1))  # 2\n"),
    "result of a call": block("result = f(1)\nprint(result)\n"),
    "asserts": block("assert f(1) == 2\nassert f(2) == 3\n"),
    "tests": block("def test_f():\n    assert f(1) == 2\n\ntest_f()\n"),
    "unittest": block("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        f(1)\n"),
    "expected output": "Output:\n" + block("2\n", ""),
    "expected list": block("[1, 2]\n", ""),
    "expected word": block("YES\n", ""),
    "input and output": block("1\n2\n3\n", "") + block("4\n", "text"),
    "shell line": block("pip\n", ""),
    "shell": block("$ python main.py\n", "") + block("python main.py < input.txt\n", "bash"),
    "dialogue": block(">>> f(1)\n2\n"),
    "traceback": block("Traceback (most recent call last):\nKeyError\n", ""),
    "empty": block(""),
    "blank": block("\n   \n"),
    "comment": block("# same as above\n"),
    "skeleton": block("def f(n):\n    ...\n"),
    "skeleton with a text": block('def f(n):\n    """Adds one."""\n    pass\n'),
    "not closed": "```python\ndef f(n):\n    return n +",
    "json": block('{"n": 1}\n', "json"),
    "formula": block("n + 1\n", ""),
    "other function": block("def g(n):\n    return n\n"),
    "method bound": block("f = Solution().f\nprint(f(1))\n"),
    "import": block("from solution import f\nprint(f(1))\n"),
}


def judge(turn, name=None):
    """Status of a turn that should add one to a number."""
    kind = ("functional", "1", "2") if name else ("stdin", "1\n", "2\n")
    test = dict(zip(("testtype", "input", "output"), kind, strict=True))
    source = find_program(turn, name)
    return check(source, name, [test], [], [])[0] if source is not None else "no attempt"


@pytest.mark.parametrize("turn", FENCES.values(), ids=FENCES)
def test_a_block_is_found_whatever_its_fences(turn):
    assert judge(turn, "f") == "correct"


@pytest.mark.parametrize("turn", FENCES.values(), ids=FENCES)
def test_a_block_is_found_without_a_name_to_look_for(turn):
    assert "n + 1" in find_program(turn)


@pytest.mark.parametrize("text", BEHIND.values(), ids=BEHIND)
def test_a_later_block_does_not_replace_a_function(text):
    assert judge(block(F) + "For example:\n\n" + text, "f") == "correct"
    assert (
        judge(
            block(f"class Solution:\n    {F.replace('(n', '(self, n').replace('    ', '        ')}") + text,
            "f",
        )
        == "correct"
    )


@pytest.mark.parametrize("text", [text for name, text in BEHIND.items() if name not in ("other function",)])
def test_a_later_block_does_not_replace_a_whole_program(text):
    assert judge(block(MAIN) + "For example:\n\n" + text) == "correct"


def test_the_last_program_counts():
    wrong = F.replace("+ 1", "+ 2")
    assert judge(block(wrong) + block(F), "f") == "correct" and judge(block(F) + block(wrong), "f") == "wrong"
    assert judge(block(MAIN) + block("print(int(input()) + 2)\n")) == "wrong"
    assert judge(block(F) + block("class Solution:\n    def f(self, n): return 0\n"), "f") == "wrong"


def test_a_program_may_call_its_own_main():
    main = "import sys\ndef main():\n    print(int(sys.stdin.readline()) + 1)\n\n"
    main += "if __name__ == '__main__':\n    main()\n"
    assert judge(block(main) + block("main()\n")) == "correct"


@pytest.mark.parametrize(
    "turn",
    [
        "",
        "```python",
        "text `x` text",
        block("x = = 1\n"),
        block(""),
        block("ls -l\n", "bash"),
        block(F)[:-4],
    ],
)
def test_no_closed_block_of_python_is_no_attempt(turn):
    assert find_program(turn, "f") is None


HOSTILE = [
    "```python\n" * 5000,
    "```\n" * 20_000,
    "~~~x" * 9999,
    "\ud800",
    "`" * 10**6,
    "```\n\x00\n```",
    "```python\n" + "(" * 10**6 + "\n```",
    "```python\n" + "-" * 10**5 + "1\n```",
    "```python\n" + "x = [\n" * 5000 + "```\n",
    ("> " * 99 + "```\n") * 999,
    ("x```python\n" + " " * 999) * 999,
    ("```python\nx" + "`" * 999 + "\n") * 999,
    ("```python\n" + "a" * 99_999 + "``` b\n") * 20,
    ("```python\n" + "``` <" * 9999 + "\n") * 20,
    "```python\n" + "``` " * 99_999 + "\n```",
    "- " * 99_999 + "```",
]


@pytest.mark.parametrize("turn", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_turns_take_no_time(turn):
    start = time.process_time()
    find_program(turn, "f")
    assert time.process_time() - start < 5  # a bound, not a measurement: quadratic behavior takes minutes


# ------------------------------------------------------------------------------------------------- comparing

BIG = "265252859812191058636308480000000"  # 30!
# fmt: off
SAME_OUTPUT = [
    ("7", "7"), ("7\n\n", "7"), ("7 \n8", "7\n8\n"), ("1  2", "1 2"), ("1 2 ", "1 2"), (" 1 2", "1 2"),
    ("YES", "YES"), ("0.30000000000000004", "0.3"), ("5.0", "5"), ("5", "5.0"), ("5.", "5"), (".5", "0.5"),
    ("-0.0", "0.0"), ("1e-7", "0.0000001"), ("0.333333", "0.333333333333"),
    ("0.3333333333333333", "0.33333333333333331483"), ("1e3", "1000"), ("1E3", "1000.0"),
    ("2.9999999999999996", "3"), ("0.6666666666666667", "0.6666666666666666"), ("123456.789", "123456.78900000000"), ("a 0.5", "a 0.50"), ("inf", "inf"),
    ("nan", "nan"), ("  *\n ***", "  *\n ***"), ("*\n ***", "  *\n ***"),
    ("0\n1 2", "0\n  1 2"), (" YES", "YES"),
    ("9" * 5000, "9" * 5000), ("1e999999999", "1e999999999"), ("1.5\r\n2", "1.5\n2"),
    ("3.1415926535897932384626433832795028842", "3.1415926535897932384626433832795028842"), ("", ""),
]
OTHER_OUTPUT = [
    ("7", "8"), ("7", ""), ("", "7"), ("7\n8", "7 8"), ("7 8", "7"), ("7\n\n8", "7\n8"), ("yes", "YES"),
    ("ab", "a b"), ("a  b", "a b"), ("9007199254740992", "9007199254740993"), ("1" * 59 + "0", "1" * 60),
    (BIG[:-1] + "1", BIG), (f"{float(BIG)}", BIG), (f"{BIG}.0", BIG),
    ("9007199254740993.0", "9007199254740993"), ("10", "00010"), ("0\n10", "00000\n00010"), ("+5", "5"),
    ("007", "7"), ("1_000", "1000"), ("0x10", "16"), ("1234567890.5", "1234567890"), ("5.4", "5"),
    ("5.000001", "5"), ("1e16", "10000000000000000"),
    ("3.1415926535897932384626433832795028841", "3.1415926535897932384626433832795028842"),
    ("3.141592653589793", "3.1415926535897932384626433832795028842"), ("1234567.88", "1234567.89"), ("123456789012.34", "123456789012.35"),
    ("0.333334", "0.333333"), ("0.3", "0.333333"), ("123456.7", "123456.789"), ("0.0000002", "0.0000001"),
    ("inf", "5"), ("inf", "0.5"), ("nan", "0.5"), ("-inf", "inf"), ("1e400", "0.5"),
    ("1e999999999", "1e999999998"), ("9" * 5000, "9" * 4999 + "8"), ("1" + "0" * 400, "0.5"),
    ("1e99999999999999999999", "0.5"), ("0.5", "1e99999999999999999999"), ("infinity", "0.5"),
    ("1.5", "1,5"), ("1.2.3", "1.20.3"), ("*\n***", "  *\n ***"), ("* *", "*   *"), ("٣", "3"),
    ("1/2", "0.5"), ("3.0 a", "3 b"), ("True", "1"),
]
SAME_VALUE = [
    ("7", "7"), ("7.0", "7"), ("7", "7.0"), ("0.30000000000000004", "0.3"), ("(1, 2,)", "[1, 2]"),
    ("[(1,), ()]", "[[1], []]"), ("True", "true"), ("None", "null"), ("'a'", '"a"'), ("'a'", "a"),
    ("'two words'", "two words"), ("{'a': 1}", '{"a": 1}'),
    ("{'b': [0.1], 'a': 1}", '{"a": 1, "b": [0.1]}'), ("set()", "set()"), ("{1, 2}", "{2, 1}"),
    ("{0.1}", "{0.10000000000000001}"), ("{}", "{}"), ("1e999", "Infinity"), ("-1e999", "-Infinity"),
    ("nan", "NaN"), ("[nan, 1e999]", "[NaN, inf]"), ("[1e999]", "[Infinity]"),
    ("1" + "0" * 4999, "1" + "0" * 4999), ("[1" + "0" * 4999 + ", 'x']", '[1' + "0" * 4999 + ', "x"]'),
    ("{1: 'a'}", "{1: 'a'}"), ("{(1,): 2}", "{(1,): 2}"), ("1j", "1j"), ("'a\\u2028b'", '"a\u2028b"'),
    ("'\\ud800'", '"\\ud800"'), ("b'x'", "b'x'"), ("[]", "[]"), ("''", '""'), ("[True]", "[true]"),
]
OTHER_VALUE = [
    ("7", "8"), ("True", "1"), ("1", "true"), ("0", "false"), ("None", "0"), ("None", "false"),
    ("''", "null"), ("'1'", "1"), ("1", '"1"'), ("9007199254740992", "9007199254740993"),
    ("9007199254740992.0", "9007199254740993"), (f"{float(BIG)}", BIG), (BIG[:-1] + "1", BIG),
    ("1e999", "5"), ("[1e999, 1e999]", "[1, 2]"), ("{'a': 1e999}", '{"a": 1}'), ("1e999", "0.5"),
    ("nan", "5"), ("nan", "0.5"), ("1e999", "-Infinity"), ("1e999", "NaN"), ("5", "Infinity"),
    ("0.5", "NaN"), ("1e999", "1" + "0" * 400), ("1" + "0" * 400, "Infinity"), ("1" + "0" * 400, "0.5"),
    ("0.5", "1" + "0" * 400), ("1" + "0" * 4999, "1" + "0" * 4998 + "1"), ("5.4", "5"), ("[1]", "1"),
    ("set()", "{}"), ("{}", "set()"), ("[]", "set()"), ("{1}", "[1]"), ("{}", "[]"), ("{1: 2}", '{"1": 2}'),
    ("{True: 2}", "{1: 2}"), ("{1.0}", "{True}"), ("[1, 2]", "[2, 1]"), ("[1, 2]", "[1, 2, 3]"),
    ("'1111'", '"1110"'), ("'10'", '"00010"'), ("'1.0'", '"1"'), ("<S>", '"a"'), ("<S>", "1"), ("1j", "1"),
    ("b'a'", '"a"'), ("(" * 150 + ")" * 150, "1"), ("junk(", "1"), ("1 + 1", "2"), ("0.1", "0.2"),
]
# fmt: on


@pytest.mark.parametrize("got, want", SAME_OUTPUT, ids=range(len(SAME_OUTPUT)))
def test_printed_outputs_that_agree(got, want):
    assert same_output(got, want)


@pytest.mark.parametrize("got, want", OTHER_OUTPUT, ids=range(len(OTHER_OUTPUT)))
def test_printed_outputs_that_differ(got, want):
    assert not same_output(got, want)


@pytest.mark.parametrize(
    "unit",
    [
        "9",
        "9.",
        "9 ",
        ".",
        "e",
        "-",
        "(",
        "[",
        "{1:",
        "'",
        "\\\\",
        '\\"',
        "\\'",
        "\"'",
        "9" * 5000 + ",",
        "1+",
    ],
)
@pytest.mark.parametrize("compare", [same_output, same_returned])
def test_hostile_outputs_take_no_time(unit, compare):
    start = time.process_time()
    text = unit * (10**6 // len(unit))
    for hostile in (text + "x", '"' + text, "9." + text):
        assert not compare(hostile, "0.5")
    assert time.process_time() - start < 6  # a bound, not a measurement: quadratic behavior takes minutes


@pytest.mark.parametrize("compare", [same_output, same_returned])
def test_keys_with_equal_hashes_take_no_time(compare):
    start = time.process_time()
    keys = ", ".join(str((2**61 - 1) * i) for i in range(40_000))
    assert not compare("{" + keys + "}", "{1}")
    assert time.process_time() - start < 6


@pytest.mark.parametrize("got, want", SAME_VALUE, ids=range(len(SAME_VALUE)))
def test_returned_values_that_agree(got, want):
    assert same_returned(got, want)


@pytest.mark.parametrize("got, want", OTHER_VALUE, ids=range(len(OTHER_VALUE)))
def test_returned_values_that_differ(got, want):
    assert not same_returned(got, want)


# --------------------------------------------------------------------------------------------------- judging


def functional(test_input, output):
    return {"testtype": "functional", "input": test_input, "output": output}


def test_an_exception_of_the_comparison_is_undecided(monkeypatch):
    def broken(got, want):
        raise OverflowError

    monkeypatch.setattr(programs, "same_returned", broken)
    status, report = check(F, "f", [functional("41", "42")], [], [])
    assert status == "undecided" and "could not be judged" in report


def test_a_wrong_test_after_an_undecided_one_decides(monkeypatch):
    answers = iter([OverflowError, False])

    def odd(got, want):
        if answer := next(answers):
            raise answer
        return answer

    monkeypatch.setattr(programs, "same_returned", odd)
    assert check(F, "f", [functional("1", "0"), functional("2", "0")], [], [])[0] == "wrong"


@pytest.fixture
def fake_sandbox(monkeypatch):
    """Replaces the sandbox. A list of the inputs that were run, and a dict {input: outcome} to fill."""
    runs, outcomes = [], {}

    def call(source, name, test_input):
        runs.append(test_input)
        return outcomes.get(test_input, sandbox.Outcome("ok", test_input))

    monkeypatch.setattr(sandbox, "call_function", call)
    programs.outcome.cache_clear()
    yield runs, outcomes
    programs.outcome.cache_clear()


def test_nothing_is_run_after_the_first_time_out(fake_sandbox):
    runs, outcomes = fake_sandbox
    outcomes.update(
        {str(i): sandbox.Outcome("timeout", "", "took more than 6 s", True) for i in (2, 3, 4, 5)}
    )
    tests = [functional(str(i), str(i)) for i in range(6)]
    status, report = check("slow", "f", tests, [], tests[1:])
    assert status == "timeout" and runs == ["0", "1", "2"]
    assert report == "Test 2: f(2) stopped: took more than 6 s"
    assert check("slow", "f", tests[2:], [], tests[:1])[1] == "A hidden test takes too long."


def test_results_are_kept_unless_the_machine_may_be_at_fault(fake_sandbox):
    runs, outcomes = fake_sandbox
    outcomes["0"] = sandbox.Outcome("timeout", "", "took more than 6 s of processor time")
    outcomes["1"] = sandbox.Outcome("timeout", "", "took more than 12 s on the clock", True)
    outcomes["2"] = sandbox.Outcome("unanswered", "", "the sandbox did not answer", True)
    statuses = [check("x", "f", [functional(n, "9")], [], [])[0] for n in "01230123"]
    assert statuses == ["timeout", "timeout", "undecided", "wrong"] * 2
    assert runs == ["0", "1", "2", "3", "1", "2"]


def test_long_outputs_are_not_kept(fake_sandbox):
    runs, outcomes = fake_sandbox
    outcomes["0"] = sandbox.Outcome("ok", "x" * 10**6)
    for _ in range(2):
        check("x", "f", [functional("0", "9")], [], [])
    assert runs == ["0", "0"]


def test_the_report_shows_public_tests_only():
    tests = [functional("1", "2"), functional("3", "777")]
    assert check(F, "f", tests, [], tests[:1]) == ("wrong", "The public tests pass; a hidden test fails.")
    assert check(F, "f", tests, [], tests) == ("wrong", "Test 2: f(3) returned 4, expected 777.")
    assert check(F, "f", [], ["assert f(1) == 3"], []) == ("wrong", "Failed: assert f(1) == 3")
    assert check(F, "f", tests[:1], ["assert f(1) == 2"], []) == ("correct", "")


def test_three_lines_at_most_are_reported():
    tests = [functional(str(i), "0") for i in range(1, 6)]
    assert check(F, "f", tests, [], tests)[1].count("\n") == 2


@pytest.mark.parametrize(
    "value", ["float('inf')", "10**400", "float('nan')", "'1'", "True", "[5]", "print", "{}"]
)
def test_no_value_is_right_for_every_test(value):
    tests = [functional("1", want) for want in ("5", "0.5", '{"a": 1}', "[1, 2]", "set()", '"x"')]
    assert {check(f"def f(n): return {value}", "f", [test], [], [])[0] for test in tests} == {"wrong"}


@pytest.mark.parametrize("expected", ["", "null", "None", "false", "[]"])
def test_a_function_that_raises_is_never_right(expected):
    """Even if the expected value looks like the missing value of a failed call: nothing, an empty text."""
    source = "def f(n): raise ValueError('null')"
    assert check(source, "f", [functional("1", expected)], [], [])[0] == "error"


def test_threads_never_use_pythons_parser_at_the_same_time(monkeypatch):
    """The parser has one depth counter for all threads, and raises SystemError when two of them use it."""
    at_work, most, parse = [], [], ast.parse

    def watched(*args, **kwargs):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return parse(*args, **kwargs)

    monkeypatch.setattr("ast.parse", watched)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find_program, ["```python\nx = 1\n```"] * 8)) == ["x = 1\n"] * 8
        assert list(pool.map(programs.literal, ["(1, 2)"] * 8)) == [(1, 2)] * 8
    assert len(most) >= 16 and max(most) == 1
