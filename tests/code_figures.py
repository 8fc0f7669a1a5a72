"""Prints how often the verdicts on programs are right on real problems. Asserts nothing.

    python tests/code_figures.py --humaneval HumanEval.jsonl.gz --livecodebench public_tests.jsonl

HumanEval: the reference solutions should be correct, empty functions wrong. LiveCodeBench: rows of the data
set, of which the problem statements are not needed. Their solutions were written for this file; they read
their input in many different ways. All should be correct.
"""

import argparse
import gzip
import json
import sys
import textwrap
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parts.programs import check, find_program  # noqa: E402
from parts.sandbox import protections  # noqa: E402

# Each entry: "#: question_id parameters", then the function's body; without parameters a whole program.
SOLUTIONS = """
#: 2727 d
return sum(int(x[11:13]) > 60 for x in d)
#: 2728 m
return sum(map(max, zip(*map(sorted, m))))
#: 2756 p, m
a, b = sorted(p)[:2]
return m - a - b if a + b <= m else m
#: 2777 a
return [len(set(a[:i + 1])) - len(set(a[i + 1:])) for i in range(len(a))]
#: 2786 s
n = len(s)
ok = lambda t: sum(x == y for x, y in zip(t, t[1:])) <= 1
return max(j - i for i in range(n) for j in range(i + 1, n + 1) if ok(s[i:j]))
#: 2791 n, k
seen, at, step = set(), 0, k
while at not in seen:
    seen.add(at)
    at = (at + step) % n
    step += k
return [i + 1 for i in range(n) if i not in seen]
#: 2800 s
import re
while re.search('AB|CD', s): s = re.sub('AB|CD', '', s)
return len(s)
#: 2812 n, t
return n + 2 * t
#: 2816 s
return ''.join(map(min, zip(s, reversed(s))))
#: 2819 s
return s.rstrip('0')
#: 2824 n
return ''.join(sorted(f'{n}{2 * n}{3 * n}')) == '123456789'
#: 2825 s
return len(set(s))
#: 2844 a
return sum(x * x for i, x in enumerate(a, 1) if len(a) % i == 0)
#: 2845 a
a.sort()
return min(y - x for x, y in zip(a, a[1:]))
#: 2847 w
return sum(w[i] == w[j][::-1] for i in range(len(w)) for j in range(i))
#: 2857 m, a
r = 0
while m >= 5 and a:
    m -= 4; a -= 1; r += 50
return r + m * 10
#: 2876 h, t
return sum(x >= t for x in h)
#: 2881 w, s
return [p for x in w for p in x.split(s) if p]
#: 2886 s
r = ''
for c in s: r = r[::-1] if c == 'i' else r + c
return r
#: 2887 s
v = iter(sorted(c for c in s if c in 'aeiouAEIOU'))
return ''.join(next(v) if c in 'aeiouAEIOU' else c for c in s)
#: 2892 a
return sorted(a) == [*range(1, len(a)), len(a) - 1]
#: 2955 p
return 100 - (p + 5) // 10 * 10
#: 2977 w, s
return ''.join(x[0] for x in w) == s
#: 3019 m
return abs(m.count('L') - m.count('R')) + m.count('_')
#: 3055 s
k = s.count('1')
return '1' * (k - 1) + '0' * (len(s) - k) + '1'
#: 3172 n, m
return sum(x if x % m else -x for x in range(1, n + 1))
#: 3194 w, x
return [i for i, s in enumerate(w) if x in s]
#: 3227 g
from collections import Counter
c = Counter(sum(g, []))
n = len(g) ** 2
return [next(k for k in c if c[k] == 2), next(k for k in range(1, n + 1) if k not in c)]
#: 3242 a
from collections import Counter
c = Counter(a).values()
return sum(x for x in c if x == max(c))
#: 3312 s
return sum(a.lower() != b.lower() for a, b in zip(s, s[1:]))
#: 1873_A
import sys
for line in sys.stdin:
    s = line.strip()
    if s.isalpha(): print('YES' if sum(a != b for a, b in zip(s, 'abc')) < 3 else 'NO')
#: 1873_B
import math
for _ in range(int(input())):
    input()
    a = sorted(map(int, input().split()))
    print(math.prod([a[0] + 1] + a[1:]))
#: 1873_D
import sys
read = sys.stdin.readline
for _ in range(int(read())):
    n, k = map(int, read().split())
    s = read().strip()
    i = r = 0
    while i < n:
        if s[i] == 'B':
            r += 1
            i += k
        else:
            i += 1
    print(r)
#: 1899_A
t, *a = open(0).read().split()
print(*('Second' if int(x) % 3 == 0 else 'First' for x in a), sep='\\n')
#: abc301_a
n, s = int(input()), input()
t, a = s.count('T'), s.count('A')
print('T' if t > a or t == a and s[-1] == 'A' else 'A')
#: abc302_a
import sys
a, b = map(int, sys.stdin.buffer.readline().split())
sys.stdout.buffer.write(b'%d\\n' % -(-a // b))
#: abc303_a
n = int(input())
f = lambda s: s.replace('1', 'l').replace('0', 'o')
print('Yes' if f(input()) == f(input()) else 'No')
#: abc304_a
import sys
sys.setrecursionlimit(10 ** 6)
n = int(input())
p = [input().split() for _ in range(n)]
k = min(range(n), key=lambda i: int(p[i][1]))
def deep(i):
    return i if i == 0 else 1 + deep(i - 1)
assert deep(20000) == 20000
for i in range(n): print(p[(k + i) % n][0])
#: abc305_a
total = 0
def main():
    global total
    total = (int(input()) + 2) // 5 * 5
main()
print(total)
exit()
#: abc306_a
import sys
input = sys.stdin.readline
n, s = input(), input().strip()
print(''.join(c * 2 for c in s))
sys.exit(0)
#: abc307_a
n = int(input())
a = list(map(int, input().split()))
print(*(sum(a[i:i + 7]) for i in range(0, len(a), 7)))
#: abc308_a
a = [*map(int, open('/dev/stdin').read().split())]
print('Yes' if a == sorted(a) and all(100 <= x <= 675 and x % 25 == 0 for x in a) else 'No')
#: abc309_a
def main():
    a, b = map(int, input().split())
    print('Yes' if b == a + 1 and a % 3 else 'No')
if __name__ == '__main__':
    main()
#: abc311_a
import sys
n, s = sys.stdin.read().split()
print(max(s.index(c) for c in 'ABC') + 1)
quit()
#: abc312_a
print('Yes' if input() in 'ACE BDF CEG DFA EGB FAC GBD'.split() else 'No')
#: abc314_a
n = int(input())
def arctan_of_inverse(x, one):
    total = term = one // x
    for k in range(3, 3 * n + 60, 2):
        term //= -x * x
        total += term // k
    return total
one = 10 ** (n + 20)
pi = 4 * (4 * arctan_of_inverse(5, one) - arctan_of_inverse(239, one)) // 10 ** 20
print(f'{str(pi)[0]}.{str(pi)[1:]}')
#: abc314_e
n, m = map(int, input().split())
wheels = [list(map(int, input().split())) for _ in range(n)]
costs = [0.0] * (m + 1)  # with so many points
for have in range(m - 1, -1, -1):
    costs[have] = min(
        (c * p + sum(costs[min(m, have + x)] for x in s if x)) / (p - s.count(0)) for c, p, *s in wheels
    )
print(costs[0])
#: abc315_f
import math
n = int(input())
at = [tuple(map(int, input().split())) for _ in range(n)]
best = [{0: 0.0}] + [{} for _ in range(n - 1)]  # {points left out: shortest way}
for j in range(1, n):
    for i in range(max(0, j - 25), j):
        for out, way in best[i].items():
            out += j - i - 1
            best[j][out] = min(best[j].get(out, math.inf), way + math.dist(at[i], at[j]))
print(min(way + (2 ** (out - 1) if out else 0) for out, way in best[-1].items()))
#: abc319_c
from itertools import permutations
c = [x for _ in range(3) for x in input().split()]
lines = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
pairs = [(i, j, k) for line in lines for i, j, k in permutations(line) if i < j and c[i] == c[j] != c[k]]
good = sum(all(p[k] < max(p[i], p[j]) for i, j, k in pairs) for p in permutations(range(9)))
print(good / 362880)
#: abc318_a
n, m, p = map(int, input().split())
print(len(range(m, n + 1, p)))
#: abc322_a
import threading
def main():
    input()
    i = input().find('ABC')
    print(i + 1 if i >= 0 else -1)
t = threading.Thread(target=main)
t.start()
t.join()
#: abc328_a
n, x, *s = map(int, (tok for line in __import__('sys').stdin for tok in line.split()))
print(sum(v for v in s if v <= x))
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--humaneval")
    parser.add_argument("--livecodebench")
    args = parser.parse_args()
    print(protections())
    if args.humaneval:
        right, stubs = Counter(), Counter()
        for row in map(json.loads, gzip.open(args.humaneval, "rt")):
            name, prompt = row["entry_point"], row["prompt"]  # some tests need its helper functions
            snippet = (
                f"candidate = {name}\n{prompt}\n    pass\n{name} = candidate\n{row['test']}\ncheck(candidate)"
            )
            right[verdict(prompt + row["canonical_solution"], name, [], [snippet])[0]] += 1
            stubs[verdict(f"def {name}(*args):\n    pass", name, [], [snippet])[0]] += 1
        print(f"HumanEval: reference solutions {dict(right)}, stubs {dict(stubs)}")
    if args.livecodebench:
        verdicts, written = {}, {}
        for part in SOLUTIONS.split("#: ")[1:]:
            head, source = part.split("\n", 1)
            question, _, parameters = head.partition(" ")
            written[question] = parameters, source
        for row in map(json.loads, open(args.livecodebench)):
            name = json.loads(row["metadata"]).get("func_name")
            if row["question_id"] in written:
                parameters, source = written[row["question_id"]]
                if name:
                    body = textwrap.indent(source, " " * 8)
                    source = f"class Solution:\n    def {name}(self, {parameters}):\n{body}"
                tests = json.loads(row["public_test_cases"])
                verdicts[row["question_id"]] = verdict(source, name, tests, []), tests
        statuses = Counter(status for (status, _), _ in verdicts.values())
        print(f"LiveCodeBench: {len(verdicts)} solutions, {dict(statuses)}")
        for name, ((status, report), tests) in verdicts.items():
            if status != "correct":
                print(f"  {name}: {status}: {report}")
                print(f"    {tests[0]['input'][:200]!r} -> {tests[0]['output'][:80]!r}")


def verdict(source, name, tests, asserts):
    """(status, report) of a turn with this program."""
    return check(find_program(f"```python\n{source}\n```", name), name, tests, asserts, [])


if __name__ == "__main__":
    main()
