"""Prints how often the math verdicts are right on real data. Asserts nothing.

    python tests/grade_figures.py --gold FILE.jsonl … --graded FILE.jsonl

--gold: rows with `answer` or `final_answer`, a text or a list. Harmless rewrites of an answer should be judged
equal; near misses and the answers of other rows should not.
--graded: rows with `answer`, `student_final_answer` and `gpt4o_verdict`, the verdict of a language model.
"""

import argparse
import json
import random
import re
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parts.answers import equal_answers  # noqa: E402


def gold(path):
    for line in open(path, encoding="utf-8"):
        answer = json.loads(line).get("answer") or json.loads(line).get("final_answer")
        yield from answer if isinstance(answer, list) else [answer]


def rewrites(a):
    """Harmless rewrites of an answer."""
    yield f"${a}$"
    yield f"\\( {a} \\)"
    yield f"\\boxed{{{a}}}"
    yield f" {a}."
    yield a.replace("\\frac", "\\dfrac")
    yield (
        a.replace("(", "\\left(").replace(")", "\\right)")
        if "\\left" not in a
        else a.replace("\\left", "").replace("\\right", "")
    )
    yield a.replace(",", ", \\,").replace("+", " + ").replace("=", " = ")
    if re.fullmatch(r"-?\d+", a):
        yield from (
            f"{int(a):,}",
            f"{a}.0",
            f"\\text{{{a}}}",
            f"{a} \\text{{ cm}}",
            f"{int(a) * 3}/3",
            f"x = {a}",
            f"{int(a):,}".replace(",", "{,}"),
        )
    if m := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", a):
        yield from (
            f"{m[1]}{m[2]}/{m[3]}",
            f"{m[1]}{int(m[2]) * 2}/{int(m[3]) * 2}",
            f"{m[1]}{int(m[2]) / int(m[3]):.12f}",
        )
    if re.fullmatch(r"\d+(, ?\d+)+", a):
        yield ", ".join(reversed(re.split(", ?", a)))


def near_misses(a, rng):
    """Answers that look alike, but differ in value."""
    if numbers := list(re.finditer(r"\d+", a)):
        number = rng.choice(numbers)
        yield a[: number.start()] + str(int(number[0][-15:]) + rng.choice((1, 2, 10))) + a[number.end() :]
    if re.fullmatch(r"-?\d+", a) and a != "0":
        yield from (
            a[1:] if a[0] == "-" else "-" + a,
            a + "1",
            f"{a}.5",
            f"1/{a}" if a not in ("1", "-1") else "7",
        )
    if a[:1] + a[-1:] == "()" and "," in a:
        yield "[" + a[1:-1] + "]"


# fmt: off
HOSTILE = [
    "9^9^9^9", "9^{9^{9^9}}", "10^{10^{10}}!", "((2^{1000})!)!", "99999999!", "\\binom{99999999}{4444444}",
    "{" * 5000, "(" * 5000 + "1" + ")" * 5000, "9" * 100_000,
    "1/" * 900 + "1", "-" * 1900 + "1", "\\sqrt" * 300 + "2", "\\frac1" * 300, "|" * 1999, "e^" * 600 + "1",
    "sin" * 600 + "1", "x!" * 500, "2^{-" * 300, "\\pm" * 500, "1,2;" * 400,
    "__import__('os').system('touch /tmp/hostile')", "open('/etc/passwd').read()", "exec('1')",
    "\\tan(10^{300})", "0^{-1}", "\\log 0", "\\frac10", "1e999999999", "\\left(" * 300, "_" * 2000,
]
# fmt: on


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gold", nargs="+", required=True)
    parser.add_argument("--graded")
    args = parser.parse_args()
    rng, answers = random.Random(0), [a.strip() for path in args.gold for a in gold(path) if a and a.strip()]
    times, counts, bad = [], {}, {}

    def judge(kind, a, b, want):
        clock = time.perf_counter()
        verdict = equal_answers(a, b)
        times.append(time.perf_counter() - clock)
        right = verdict is True if want else verdict is not True
        counts.setdefault(kind, [0, 0])[right] += 1
        if not right:
            bad.setdefault(kind, []).append((a, b, verdict))

    for a in answers:
        judge("gold = gold", a, a, True)
        for b in rewrites(a):
            judge("harmless rewrites", b, a, True)
        for b in near_misses(a, rng):
            judge("near misses", b, a, False)
        b = rng.choice(answers)
        if b != a:
            judge("answers of other problems", b, a, False)
    for kind, (wrong, right) in counts.items():
        print(f"{kind}: {100 * right / (wrong + right):.2f} % of {wrong + right}")
        for a, b, verdict in rng.sample(bad.get(kind, []), min(12, wrong)):
            print(f"    {verdict}: {a[:90]!r} | {b[:90]!r}")
    print(f"{1000 * median(times):.3f} ms a pair at the median, {1000 * max(times):.0f} at most")
    slowest = max(
        (time_of(equal_answers, h, b), h[:30])
        for h in HOSTILE
        for b in ("1", "x+1", "\\frac{\\pi}{2}", h + "+1", "1.5")
    )
    print(f"{len(HOSTILE) * 5} hostile pairs: {slowest[0]:.2f} s at most ({slowest[1]!r})")
    if args.graded:
        rows = [json.loads(line) for line in open(args.graded, encoding="utf-8")]
        verdicts = [
            (
                equal_answers(r["student_final_answer"] or "", r["answer"]),
                str(r["gpt4o_verdict"]).upper() == "TRUE",
                r,
            )
            for r in rows
        ]
        decided = [(v, j, r) for v, j, r in verdicts if v is not None]
        agree, undecided = sum(v == j for v, j, _ in decided), len(rows) - len(decided)
        print(f"judge: {agree} of {len(decided)} decided agree, {undecided} undecided")
        for v, j, r in decided:
            if v != j:
                print(f"    {v}, judge {j}: {r['student_final_answer'][:80]!r} | {r['answer'][:80]!r}")


def time_of(function, *args):
    clock = time.perf_counter()
    function(*args)
    return time.perf_counter() - clock


if __name__ == "__main__":
    main()
