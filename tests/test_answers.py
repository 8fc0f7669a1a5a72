"""Verdicts on maths answers. How well they do on real data: tests/grade_figures.py."""

import ast
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common import Problem, grade, visible
from parts.answers import boxed, equal_answers
from parts.programs import find_program as program
from parts.programs import plain

EQUAL = [
    (r"\frac12", "0.5"), ("1/2", r"\dfrac{1}{2}"), (r"3\frac12", "7/2"), (r"11\sqrt2", "11*sqrt(2)"), (r"2\pi", r"\pi\cdot 2"), ("x=3", "3"),
    (r"\{1,2\}", r"\{2,1\}"), ("(1,2)", "(1, 2)"), ("1,2", "2,1"), ("1 or 2", "1, 2"), (r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2"),
    ("x^2+2x+1", "(x+1)^2"), (r"\binom{5}{2}", "10"), ("5!", "120"), (r"\log_2 8", "3"), ("1,234,567", "1234567"), ("10^{-3}", "0.001"),
    (r"90^\circ", "90"), (r"50\%", "50"), ("x>3", "3<x"), (r"[0,1)\cup(2,3]", r"(2,3]\cup[0,1)"), (r"5\text{ cm}", "5"), (r"\text{yes}", "Yes"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 4/2 \\ 3 & 4 \end{pmatrix}"), (r"\sin^2 x+\cos^2 x", "1"), ("|x-1|", "|1-x|"),
    (r"2^{1006}\sqrt{2^{2010}+2}-2^{2011}", r"2^{1006}(\sqrt{2^{2010}+2}-2^{1005})"), (r"\frac{1}{2^{4016}}", "2/2^{4017}"), (r"e^{i\pi}", "-1"),
    (r"\sqrt[3]{8}", "2"), ("a_1+a_2", "a_2+a_1"), ("n(n+1)/2", r"\frac{n^2+n}{2}"), (r"\frac{\sqrt{3}}{3}", r"1/\sqrt3"), ("y=2x+1", "2x+1=y"),
    (r"x \in [1,2]", "[1,2]"), (r"\lfloor 3.5\rfloor", "3"), ("52_8", "42"), ("0.333333333", "1/3"), ("$7$.", "7"), ("3 1/2", "3.5"), ("π/2", r"\frac{\pi}{2}"),
]  # fmt: skip
DIFFERENT = [
    ("52_8", "52"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("1/2", "0.51"), (r"11\sqrt2", "11"), ("1,2", "1"), ("x+1", "x+2"), (r"\{1,2\}", r"\{1,3\}"),
    ("2^{4016}", "2^{4017}"), ("yes", "no"), ("A", "B"), ("3", "-3"), ("x>3", "x<3"), ("1/2^{4016}", "3/2^{4016}"), ("sin(x)", "cos(x)"), ("1000000.5", "1000000"),
    (r"2^{1006}\sqrt{2^{2010}+2}-2^{2011}", r"2^{1006}\sqrt{2^{2010}+3}-2^{2011}"), ("", "0"), (r"\frac{1}{3}", "0.33"),
]  # fmt: skip
HOSTILE = ["9^9^9^9", "9^{9^{9^9}}", "10^{10^{10}}!", "99999999!", r"\binom{99999999}{4444444}", "{" * 5000, "(" * 900 + "1" + ")" * 900, "9" * 100_000, "-" * 1900 + "1",
           "e^" * 600 + "1", "|" * 1999, "1," * 900, r"\pm" * 500, r"\tan(10^{300})", "0^{-1}", r"\frac10", "1/0"]  # fmt: skip


@pytest.mark.parametrize("a, b", EQUAL)
def test_answers_that_mean_the_same_are_equal_in_both_directions(a, b):
    assert equal_answers(a, b) is True and equal_answers(b, a) is True


@pytest.mark.parametrize("a, b", DIFFERENT)
def test_answers_that_differ_in_value_are_not_equal(a, b):
    assert equal_answers(a, b) is False and equal_answers(b, a) is False


@pytest.mark.parametrize(
    "a, b", [("all primes", "every prime number"), (r"\sum_{k=1}^n k", "n(n+1)/2"), ("f(x", "3")]
)
def test_what_cannot_be_parsed_is_undecided(a, b):
    assert equal_answers(a, b) is None
    assert grade(Problem("p", "math", "x", answer=b), rf"\boxed{{{a}}}").status in ("undecided", "no attempt")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_refused_and_do_not_hang(text):
    results = []
    thread = threading.Thread(
        target=lambda: results.extend([equal_answers(text, "1"), equal_answers("x+1", text)]), daemon=True
    )
    thread.start()
    thread.join(20)
    assert len(results) == 2 and True not in results


def test_nothing_in_an_answer_is_executed(tmp_path):
    marker = tmp_path / "marker"
    for text in (
        f"__import__('pathlib').Path('{marker}').touch()",
        f"open('{marker}','w')",
        f"exec(\"open('{marker}','w')\")",
    ):
        assert equal_answers(text, "1") is not True
    assert not Path(marker).exists()


@pytest.mark.parametrize(
    "text, inside",
    [
        (r"so \boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        ("the answer is 3", None),
        (r"<think>\boxed{1}</think> not sure", None),
        (r"<think>\boxed{1}", None),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{" + "{" * 100_000, None),
    ],
)
def test_the_answer_is_the_last_box_outside_private_reasoning(text, inside):
    assert boxed(visible(text)) == inside


def test_threads_never_use_pythons_parser_at_the_same_time(monkeypatch):
    """It counts its depth for all of them together, and raises SystemError when they meet."""
    at_work, most, parse = [], [], ast.parse

    def watched(*args, **options):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.pop()
        return parse(*args, **options)

    monkeypatch.setattr("parts.programs.ast.parse", watched)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(program, ["```python\nx = 1\n```"] * 8)) == ["x = 1\n"] * 8
        assert list(pool.map(plain, ["(1, 2)"] * 8)) == [[1, 2]] * 8
    assert len(most) >= 16 and max(most) == 1
