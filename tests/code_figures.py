"""How well code verdicts do on real problems. Prints figures, asserts nothing.

    python tests/code_figures.py --humaneval HumanEval.jsonl.gz --livecodebench public_tests.jsonl

HumanEval: reference solutions, and stubs. LiveCodeBench (rows of the data set; the statement may be missing): solutions written for
this file, in the many ways in which programs read their input.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sandbox import protections  # noqa: E402

from common import Problem, grade, load_problems  # noqa: E402

FUNCTIONS = {  # question → parameters and body
    "2727": ("d", "return sum(int(x[11:13]) > 60 for x in d)"),
    "2728": ("m", "return sum(map(max, zip(*map(sorted, m))))"),
    "2756": ("p, m", "a, b = sorted(p)[:2]\n        return m - a - b if a + b <= m else m"),
    "2777": ("a", "return [len(set(a[:i + 1])) - len(set(a[i + 1:])) for i in range(len(a))]"),
    "2786": ("s", "n = len(s)\n        ok = lambda t: sum(x == y for x, y in zip(t, t[1:])) <= 1\n"
                  "        return max(j - i for i in range(n) for j in range(i + 1, n + 1) if ok(s[i:j]))"),
    "2791": ("n, k", "seen, at, step = set(), 0, k\n        while at not in seen:\n            seen.add(at)\n            at = (at + step) % n\n"
                     "            step += k\n        return [i + 1 for i in range(n) if i not in seen]"),
    "2800": ("s", "import re\n        while re.search('AB|CD', s): s = re.sub('AB|CD', '', s)\n        return len(s)"),
    "2812": ("n, t", "return n + 2 * t"),
    "2816": ("s", "return ''.join(map(min, zip(s, reversed(s))))"),
    "2819": ("s", "return s.rstrip('0')"),
    "2824": ("n", "return ''.join(sorted(f'{n}{2 * n}{3 * n}')) == '123456789'"),
    "2825": ("s", "return len(set(s))"),
    "2844": ("a", "return sum(x * x for i, x in enumerate(a, 1) if len(a) % i == 0)"),
    "2845": ("a", "a.sort()\n        return min(y - x for x, y in zip(a, a[1:]))"),
    "2847": ("w", "return sum(w[i] == w[j][::-1] for i in range(len(w)) for j in range(i))"),
    "2857": ("m, a", "r = 0\n        while m >= 5 and a:\n            m -= 4; a -= 1; r += 50\n        return r + m * 10"),
    "2876": ("h, t", "return sum(x >= t for x in h)"),
    "2881": ("w, s", "return [p for x in w for p in x.split(s) if p]"),
    "2886": ("s", "r = ''\n        for c in s: r = r[::-1] if c == 'i' else r + c\n        return r"),
    "2887": ("s", "v = iter(sorted(c for c in s if c in 'aeiouAEIOU'))\n        return ''.join(next(v) if c in 'aeiouAEIOU' else c for c in s)"),
    "2892": ("a", "return sorted(a) == [*range(1, len(a)), len(a) - 1]"),
    "2955": ("p", "return 100 - (p + 5) // 10 * 10"),
    "2977": ("w, s", "return ''.join(x[0] for x in w) == s"),
    "3019": ("m", "return abs(m.count('L') - m.count('R')) + m.count('_')"),
    "3055": ("s", "k = s.count('1')\n        return '1' * (k - 1) + '0' * (len(s) - k) + '1'"),
    "3172": ("n, m", "return sum(x if x % m else -x for x in range(1, n + 1))"),
    "3194": ("w, x", "return [i for i, s in enumerate(w) if x in s]"),
    "3227": ("g", "from collections import Counter\n        c = Counter(sum(g, []))\n        n = len(g) ** 2\n"
                  "        return [next(k for k in c if c[k] == 2), next(k for k in range(1, n + 1) if k not in c)]"),
    "3242": ("a", "from collections import Counter\n        c = Counter(a).values()\n        return sum(x for x in c if x == max(c))"),
    "3312": ("s", "return sum(a.lower() != b.lower() for a, b in zip(s, s[1:]))"),
}  # fmt: skip
PROGRAMS = {
    "1873_A": "import sys\nfor line in sys.stdin:\n    s = line.strip()\n    if s.isalpha(): print('YES' if sum(a != b for a, b in zip(s, 'abc')) < 3 else 'NO')",
    "1873_B": "import math\nfor _ in range(int(input())):\n    input()\n    a = sorted(map(int, input().split()))\n    print(math.prod([a[0] + 1] + a[1:]))",
    "1873_D": "import sys\nread = sys.stdin.readline\nfor _ in range(int(read())):\n    n, k = map(int, read().split())\n    s = read().strip()\n    i = r = 0\n"
              "    while i < n:\n        if s[i] == 'B':\n            r += 1\n            i += k\n        else:\n            i += 1\n    print(r)",
    "1899_A": "t, *a = open(0).read().split()\nprint(*('Second' if int(x) % 3 == 0 else 'First' for x in a), sep='\\n')",
    "abc301_a": "n, s = int(input()), input()\nt, a = s.count('T'), s.count('A')\nprint('T' if t > a or t == a and s[-1] == 'A' else 'A')",
    "abc302_a": "import sys\na, b = map(int, sys.stdin.buffer.readline().split())\nsys.stdout.buffer.write(b'%d\\n' % -(-a // b))",
    "abc303_a": "n = int(input())\nf = lambda s: s.replace('1', 'l').replace('0', 'o')\nprint('Yes' if f(input()) == f(input()) else 'No')",
    "abc304_a": "import sys\nsys.setrecursionlimit(10 ** 6)\nn = int(input())\np = [input().split() for _ in range(n)]\nk = min(range(n), key=lambda i: int(p[i][1]))\n"
                "def deep(i):\n    return i if i == 0 else 1 + deep(i - 1)\nassert deep(20000) == 20000\nfor i in range(n): print(p[(k + i) % n][0])",
    "abc305_a": "total = 0\ndef main():\n    global total\n    total = (int(input()) + 2) // 5 * 5\nmain()\nprint(total)\nexit()",
    "abc306_a": "import sys\ninput = sys.stdin.readline\nn, s = input(), input().strip()\nprint(''.join(c * 2 for c in s))\nsys.exit(0)",
    "abc307_a": "n = int(input())\na = list(map(int, input().split()))\nprint(*(sum(a[i:i + 7]) for i in range(0, len(a), 7)))",
    "abc308_a": "a = [*map(int, open('/dev/stdin').read().split())]\nprint('Yes' if a == sorted(a) and all(100 <= x <= 675 and x % 25 == 0 for x in a) else 'No')",
    "abc309_a": "def main():\n    a, b = map(int, input().split())\n    print('Yes' if b == a + 1 and a % 3 else 'No')\nif __name__ == '__main__':\n    main()",
    "abc311_a": "import sys\nn, s = sys.stdin.read().split()\nprint(max(s.index(c) for c in 'ABC') + 1)\nquit()",
    "abc312_a": "print('Yes' if input() in 'ACE BDF CEG DFA EGB FAC GBD'.split() else 'No')",
    "abc318_a": "n, m, p = map(int, input().split())\nprint(len(range(m, n + 1, p)))",
    "abc322_a": "import threading\ndef main():\n    input()\n    i = input().find('ABC')\n    print(i + 1 if i >= 0 else -1)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "abc328_a": "n, x, *s = map(int, (tok for line in __import__('sys').stdin for tok in line.split()))\nprint(sum(v for v in s if v <= x))",
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--humaneval")
    parser.add_argument("--livecodebench")
    args = parser.parse_args()
    print(protections())
    if args.humaneval:
        problems = load_problems(f"humaneval:{args.humaneval}")
        right = Counter(grade(p, f"```python\n{p.solution}\n```").status for p in problems)
        stubs = Counter(
            grade(p, f"```python\ndef {p.func_name}(*args):\n    pass\n```").status for p in problems
        )
        print(f"HumanEval: reference solutions {dict(right)}, stubs {dict(stubs)}")
    if args.livecodebench:
        verdicts = {}
        for row in map(json.loads, open(args.livecodebench)):
            name = json.loads(row["metadata"]).get("func_name")
            parameters, body = FUNCTIONS.get(row["question_id"], ("", ""))
            source = (
                f"class Solution:\n    def {name}(self, {parameters}):\n        {body}"
                if body
                else PROGRAMS.get(row["question_id"])
            )
            if source:
                tests = json.loads(row["public_test_cases"])
                problem = Problem(row["question_id"], "code", "x", tests=tests, func_name=name)
                verdicts[problem.id] = grade(problem, f"```python\n{source}\n```"), tests
        print(
            f"LiveCodeBench: {len(verdicts)} solutions, {dict(Counter(v.status for v, _ in verdicts.values()))}"
        )
        for name, (v, tests) in verdicts.items():
            if not v.correct:
                print(
                    f"  {name}: {v.status}: {v.report}\n    {tests[0]['input'][:200]!r} -> {tests[0]['output'][:80]!r}"
                )


if __name__ == "__main__":
    main()
