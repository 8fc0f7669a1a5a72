"""The sandbox: programs run as they would alone; hostile ones forge nothing, reach nothing, leave nothing."""

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from common import load_problems
from parts import programs, sandbox

LIMITS = {"SECONDS": 1, "WALL": 4, "MEMORY": 2**29}


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    for name, value in LIMITS.items():
        monkeypatch.setattr(sandbox, name, value)


def sections(text):
    """{name: program} of a text in which each begins with a line `#: name`."""
    return dict(part.split("\n", 1) for part in text.split("#: ")[1:])


# each prints the sum of two numbers
PROGRAMS = sections("""
#: input
print(int(input()) + int(input()))
#: readline
import sys
r = sys.stdin.readline
print(int(r()) + int(r()))
#: buffer
import sys
print(sum(map(int, sys.stdin.buffer.read().split())))
#: buffer readline
import sys
r = sys.stdin.buffer.readline
print(int(r()) + int(r()))
#: lines
import sys
print(sum(int(line) for line in sys.stdin))
#: open 0
print(sum(map(int, open(0).read().split())))
#: main guard
def main():
    print(int(input()) + int(input()))
if __name__ == '__main__':
    main()
#: exit
print(int(input()) + int(input()))
exit()
#: sys.exit
import sys
print(int(input()) + int(input()))
sys.exit(0)
#: global
total = 0
def add(n):
    global total
    total += n
add(int(input())); add(int(input()))
print(total)
#: recursion
import sys
sys.setrecursionlimit(10**6)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
f(10**5)
print(int(input()) + int(input()))
#: thread
import threading
def main(): print(int(input()) + int(input()))
t = threading.Thread(target=main); t.start()
#: imports
import heapq, bisect, math, collections, itertools, decimal, dataclasses
print(int(input()) + int(input()))
#: dataclass
from dataclasses import dataclass
@dataclass
class P:
    x: int
print(P(int(input())).x + int(input()))
#: two writes
import os
os.write(1, b'4')
os.write(1, b'2')
#: names of the header
n, m = map(int, stdin.read().split())
assert gcd(n, m) == 2 and Counter('aa')['a'] == 2 and inf > 0
assert heapq and bisect_left([1, 2], 2) == 1
stdout.write(f'{n + m}\\n')
#: deep recursion
def f(n): return 0 if n == 0 else 1 + f(n - 1)
print(f(49950) and int(input()) + int(input()))
#: cached recursion
from functools import cache
@cache
def f(n): return 0 if n == 0 else 1 + f(n - 1)
print(f(49950) and 42)
#: recursion through C
import sys
sys.setrecursionlimit(10**6)
def f(n): return n and 1 + max(map(f, [n - 1]))
print(f(40000) and 42)
#: large stack of a thread
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(2**27)
def main():
    def f(n): return 0 if n == 0 else 1 + f(n - 1)
    print(f(10**5) and int(input()) + int(input()))
thread = threading.Thread(target=main)
thread.start()
thread.join()
#: original stream
import sys
sys.__stdout__.write('42')
#: held back
import io, sys
held = io.StringIO()
sys.stdout, old = held, sys.stdout
print(42)
old.write(held.getvalue())
#: wrapped
import io, sys
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')
print(42)
#: wrapped input
import io, sys
sys.stdin = io.TextIOWrapper(sys.stdin.buffer)
sys.stdin = io.StringIO(sys.stdin.read())
print(sum(map(int, sys.stdin)))
#: open 1
out = open(1, 'w')
out.write('42\\n')
#: open 1 in a function
def main():
    out = open(1, 'w', closefd=False)
    out.write('42')
    raise SystemExit
main()
#: fdopen
import os
out = os.fdopen(1, 'w')
print(42, file=out)
#: dev stdout
with open('/dev/stdout', 'w') as out:
    print(42, file=out)
#: dev fd
open('/dev/fd/1', 'w').write(str(sum(map(int, open('/dev/fd/0')))))
#: print replaced
import sys
print = lambda *a: sys.stdout.write(' '.join(map(str, a)) + '\\n')
print(42)
#: input replaced
import builtins, sys
builtins.input = sys.stdin.readline
print(int(input()) + int(input()))
#: closed
import sys
print(42)
sys.stdout.close()
#: at exit
import atexit
atexit.register(print, 42)
#: late thread
import threading, time
threading.Thread(target=lambda: (time.sleep(0.1), print(42))).start()
#: redirected
import contextlib, io, os
with contextlib.redirect_stdout(open(os.devnull, 'w')):
    print('noise')
print(42)
#: bytes
import sys
sys.stdout.buffer.write(b'42')
#: long number
print(len(str(10**5000)) - 4959)
#: asyncio
import asyncio
async def main():
    await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    print(await loop.run_in_executor(None, lambda: 42))
asyncio.run(main())
#: threads
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    print(sum(pool.map(int, ['40', '2'])))
#: held in a cycle
class Out:
    def __init__(self): self.me, self.file = self, open(1, 'w')
out = Out()
out.file.write('42')
#: destructor
import sys
class Last:
    def __init__(self): self.me = self
    def __del__(self): sys.__stdout__.write('42')
last = Last()
#: all at once
import os, io
input = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline
print(int(input()) + int(input()))
#: fast io
import os, sys
from io import BytesIO, IOBase
class FastIO(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd, self.buffer = file.fileno(), BytesIO()
        self.writable = 'x' in file.mode or 'r' not in file.mode
        self.write = self.buffer.write if self.writable else None
    def readline(self):
        while self.newlines == 0:
            block = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))
            self.newlines = block.count(b'\\n') + (not block)
            at = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(block), self.buffer.seek(at)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
class Wrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush, self.writable = self.buffer.flush, self.buffer.writable
        self.write = lambda text: self.buffer.write(text.encode('ascii'))
        self.readline = lambda: self.buffer.readline().decode('ascii')
sys.stdin, sys.stdout = Wrapper(sys.stdin), Wrapper(sys.stdout)
input = lambda: sys.stdin.readline().rstrip()
print(int(input()) + int(input()))
#: signal handler
import signal
signal.signal(signal.SIGALRM, print)
print(42)
#: stderr
import sys
sys.stderr.write('x' * 10**6)
print(42)
#: main module
import sys
assert sys.modules['__main__'].__name__ == '__main__'
def answer(): return 42
print(sys.modules['__main__'].answer())
""")


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_reads_and_prints_as_it_would_alone(source):
    result = sandbox.run_program(source, "40\n2\n")
    assert (result.status, result.output.strip(), result.error) == ("ok", "42", "")


def test_a_large_input_and_a_large_output_do_not_block():
    text = "x" * 8_000_000
    assert sandbox.run_program("print(input())", text).output == text + "\n"
    assert sandbox.run_program("print(1)", text).output == "1\n"  # never read


@pytest.mark.parametrize(
    "source, arguments, value",
    [
        ("def f(a, b): return a + b", "40\n2", "42"),
        ("class Solution:\n    def f(self, a: List[int]) -> int: return sum(a)", "[40, 2]", "42"),
        ("def f(s): return s", '"é\\n"', "'é\\n'"),
        ("def f(s): return s", '"a\u2028b\x0c"'.replace("\x0c", "\\f"), "'a\\u2028b\\x0c'"),
        ("def f(s): return {s: (True, None, 1.5)}", "'a'", "{'a': (True, None, 1.5,)}"),
        ("def f(s): return Counter(s)", "'aa'", "{'a': 2}"),
        ("def f(x): print('noise' * 10**6); return x", "[[1], []]", "[[1], []]"),
        ("def f(): return [float('inf'), -inf, float('nan')]", "", "[1e999, -1e999, nan]"),
        ("def f(): return [set(), frozenset({1}), {}, ()]", "", "[set(), {1}, {}, ()]"),
        ("def f(x): return x + 1 == 10**5000", "9" * 5000, "True"),
        ("class S(str): pass\ndef f(): return S('a')", "", "<S>"),
        ("def f(): return [object()]", "", "<list>"),
        ("@cache\ndef f(n): return n and 1 + f(n - 1)", "40000", "40000"),
        ("class Solution:\n    def f(self, n): return n and 1 + self.f(n - 1)", "49950", "49950"),
    ],
)
def test_a_function_returns_its_value(source, arguments, value):
    assert sandbox.call_function(source, "f", arguments) == sandbox.Outcome("ok", value)


def test_a_program_sees_nothing_of_the_callers_environment():
    names = sandbox.call_function("import os\ndef f(): return [*os.environ]", "f", "").output
    own = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LC_CTYPE"}
    assert set(programs.literal(names)) <= own


def test_numbers_of_numpy_are_numbers():
    pytest.importorskip("numpy")
    source = (
        "import numpy as np\ndef f(): return [np.int64(1), np.float32(0.5), np.bool_(True), np.float64(inf)]"
    )
    assert sandbox.call_function(source, "f", "").output == "[1, 0.5, True, 1e999]"


def test_an_exception_is_told_in_one_line_with_its_place():
    error = sandbox.call_function("def f(x):\n    return 1 / x", "f", "0").error
    assert error == "line 2: ZeroDivisionError: division by zero"
    assert sandbox.run_program("def f(:", "").error.startswith("SyntaxError")
    assert sandbox.call_function("x = 1", "f", "0").error == "NameError: the program defines no function 'f'"
    assert "RecursionError" in sandbox.run_program("def f(): f()\nf()", "").error


def test_a_name_that_is_imported_before_the_program_is_not_its_function():
    assert "defines no function" in sandbox.call_function("x = 1", "gcd", "4\n6").error


def test_asserts_are_decided_one_by_one():
    asserts = [
        "assert f(1) == 2",
        "assert f(1) == 3",
        "def check(g):\n    assert g(2) == 3\ncheck(f)",
        "try:\n    f('a')\nexcept TypeError:\n    pass",
        "assert all(map(lambda x: f(x) == 0, [1, 2]))",
    ]
    results = sandbox.run_asserts("def f(x): return x + 1", "f", asserts)
    assert [r.status for r in results] == ["ok", "error", "ok", "ok", "error"]


# Each is a program and, after a line of dashes, a snippet. Python runs both in one process.
PAIRS = sections("""
#: argument sorted
def f(xs): xs.sort(); return xs[0]
---
xs = [2, 1]
assert f(xs) == 1
assert xs == [2, 1]
#: argument filled
def f(d, k): d[k] = d.get(k, 0) + 1
---
d = {}
f(d, 'a'), f(d, 'a')
assert d == {'a': 2}
#: argument changed before an exception
def f(xs): xs.append(4); raise ValueError
---
xs = []
try: f(xs)
except ValueError: pass
assert xs == [4]
#: argument returned
def f(x): return x
---
xs = [1]
assert f(xs) is not xs
#: two arguments are one
def f(a, b): a.append(1); return b
---
x = []
assert f(x, x) == [1]
#: rows shared
def f(n): return [[0] * n] * n
---
m = f(2)
m[0][0] = 1
assert m == [[1, 0], [0, 0]]
#: default argument kept
def f(x, seen=[]): seen.append(x); return seen
---
a, b = f(1), f(2)
assert a == [1] and b == [2]
#: result kept and changed
KEPT = {}
def f(x): return KEPT.setdefault(x, [])
---
f(1).append(5)
assert f(1) == [5]
#: cycle
def f(): xs = []; xs.append(xs); return xs
---
xs = f()
assert xs[0] is xs
#: deep
def f(n):
    xs = []
    for _ in range(n): xs = [xs]
    return xs
---
xs, n = f(50_000), 0
while xs: xs, n = xs[0], n + 1
assert n == 50_000
#: endless generator
def f():
    n = 0
    while True: n += (yield n) or 1
---
g = f()
assert [next(g), next(g), g.send(10), next(g)] == [0, 1, 11, 12]
#: views
def f(d): return d.keys(), d.items()
---
keys, items = f({'a': 1})
assert keys == {'a'} and list(items) == [('a', 1)]
#: iterators
from itertools import permutations
def f(xs): return map(str, xs), zip(xs, xs), permutations(xs)
---
a, b, c = map(list, f((1, 2)))
assert (a, b, c) == (['1', '2'], [(1, 1), (2, 2)], [(1, 2), (2, 1)])
#: iterator as argument
def f(it): return next(it)
---
it = iter([1, 2, 3])
f(it)
assert next(it) == 2
#: functions as arguments
def f(g, xs): return [g(x) for x in xs]
---
calls = []
assert f(lambda x: calls.append(x) or x + 1, [1]) == [2] and calls == [1] and f(str, (1,)) == ['1']
#: decorator
import functools
def f(g):
    @functools.wraps(g)
    def counted(*args, **kwargs): counted.calls += 1; return g(*args, **kwargs)
    counted.calls = 0
    return counted
---
@f
def g(x, y=1): return x + y
assert g(1) + g(1, y=2) == 5 and g.calls == 2 and g.__name__ == 'g'
#: functions that call each other
def f(h, n): return h(n) if n else 1
---
g = lambda n: n * f(g, n - 1)
assert g(5) == 120
#: collections
from collections import *
P = namedtuple('P', 'x y')
def f(): return OrderedDict(a=1), deque([1, 2], maxlen=2), Counter('aa'), defaultdict(list), P(1, 2)
---
import collections as c
a, b, d, e, p = f()
e['x'].append(p.y)
assert a == c.OrderedDict(a=1) and b.maxlen == 2 and d.most_common() == [('a', 2)] and e == {'x': [2]}
#: numbers and dates
from datetime import *
from decimal import *
from fractions import *
def f(): return Decimal('1.10'), Fraction(1, 2), date(2020, 1, 2), timedelta(1), 10**30, 1j, -0.0, range(3)
---
assert str(f()) == "(Decimal('1.10'), Fraction(1, 2), datetime.date(2020, 1, 2), datetime.timedelta(days=1), " \\
    "1000000000000000000000000000000, 1j, -0.0, range(0, 3))"
#: kinds of text and set
def f(): return b'\\xff', bytearray(b'a'), frozenset([1]), True, ..., None
---
assert str(f()) == "(b'\\\\xff', bytearray(b'a'), frozenset({1}), True, Ellipsis, None)"
#: types of arguments
def f(*xs): return [type(x).__name__ for x in xs]
---
assert f((1,), {1}, frozenset(), 1.0, object(), int) == ['tuple', 'set', 'frozenset', 'float', 'object', 'type']
#: own exception
class Odd(ValueError):
    def __init__(self, code): self.code = code; super().__init__(f'code {code}')
def f(x): raise Odd(x)
---
try: f(5)
except ValueError as e: caught = type(e).__name__, e.code, str(e), e.args
assert caught == ('Odd', 5, 'code 5', ('code 5',))
#: own text of an exception
class Odd(Exception):
    def __str__(self): return 'own'
def f(): raise Odd(1)
---
try: f()
except Exception as e: caught = str(e), e.args
assert caught == ('own', (1,))
#: cause of an exception
def f(x):
    try: return {}[x]
    except KeyError as e: raise ValueError from e
---
try: f(5); caught = None
except ValueError as e: caught = e.__cause__.args
assert caught == (5,)
#: function of a library as a result
import math
def f(x): return [len, max, math.sqrt][x]
---
assert f(0)('ab') == 2 and f(1)([1, 3], key=lambda x: -x) == 1 and f(2)(4) == 2
#: classes as results
def f(x): return type(x)
---
assert [f(x) for x in (1, 'a', None, {}, KeyError())] == [int, str, type(None), dict, KeyError]
#: exception of a library
import json
def f(x): return json.loads(x)
---
import json
try: f('{'); caught = None
except json.JSONDecodeError as e: caught = e.pos
assert caught == 1
#: other exceptions
def f(x): return {'d': lambda: {}['k'], 'u': lambda: b'\\xff'.decode(), 'x': exit}[x]()
---
caught = []
for x in 'dux':
    try: f(x)
    except (KeyError, UnicodeDecodeError, SystemExit) as e: caught.append(e.args)
assert caught[0] == ('k',) and caught[1][1:4] == (b'\\xff', 0, 1) and caught[2] == ()
#: exception of the snippet's function
def f(g): return g()
---
e = KeyError('own')
def g(): raise e
try: f(g); caught = None
except KeyError as caught_here: caught = caught_here
assert caught is e
#: pytest.raises
def f(): raise ValueError('bad value')
---
import pytest
with pytest.raises(ValueError, match='^bad'): f()
#: pytest.raises for nothing
def f(): return 1
---
import pytest
with pytest.raises(ValueError): f()
#: printed
def f(): print('hi')
---
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as out: f()
assert out.getvalue() == 'hi\\n'
#: threads
from concurrent.futures import ThreadPoolExecutor
def f(g):
    with ThreadPoolExecutor(4) as pool: return list(pool.map(g, range(9)))
---
assert f(lambda x: x * x) == [x * x for x in range(9)]
""")


@pytest.mark.parametrize("name", PAIRS)
def test_an_assert_means_what_it_means_in_python(name):
    source, snippet = PAIRS[name].split("---\n")
    try:
        exec(compile(f"{source}\n{snippet}", "both", "exec"), {"__name__": "both"})
        expected = "ok"
    except BaseException:  # pytest's own is no Exception
        expected = "error"
    (result,) = sandbox.run_asserts(source, "f", [snippet])
    assert result.status == expected, result.error


def test_arrays_of_numpy_are_carried_and_changed_in_place():
    pytest.importorskip("numpy")
    source = "import numpy as np\ndef f(a): a[0] = 9; return a * 2, np.float64(0.5), np.array([1, None])[:k]"
    snippet = "import numpy as np\na = np.zeros(2)\nb, c = f(a)[:2]\n"
    snippet += "assert a.tolist() == [9, 0] and b.dtype == a.dtype and b[0] == 18 and type(c) is np.float64"
    (result,) = sandbox.run_asserts(source.replace(", np.array([1, None])[:k]", ""), "f", [snippet])
    assert result.status == "ok", result.error
    (result,) = sandbox.run_asserts(source.replace(":k", ":1"), "f", [snippet])  # an array of objects
    assert result.status == "unanswered"


@pytest.mark.parametrize(
    "source, snippet",
    [
        ("def f(x): return 1", "class A: pass\ntry: f(A())\nexcept TypeError: pass"),
        ("class A:\n  def __eq__(self, other): return True\ndef f(): return A()", "assert f() == 5"),
        ("class A(int):\n  def __eq__(self, other): return True\ndef f(): return A(3)", "assert f() == 5"),
        (
            "class A: pass\ndef f(g):\n  try: return g(A())\n  except Exception: return 1",
            "assert f(lambda x: 1)",
        ),
        ("class E(Exception): pass\ndef f(): raise E(E)", "try: f()\nexcept Exception: pass"),
        ("def f(): return [map][0]", "assert list(f()(str, [1])) == ['1']"),
        ("def f(): return 'x' * 2**24", "assert f()"),
        ("def f(): return 1", "assert f() == g()"),
        ("def f(): return 1", "import no_such_library\nassert f() == 1"),
        ("def f(): return input()", "import builtins\nbuiltins.input = lambda: 5\nassert f() == 5"),
        ("from functools import *\n@lru_cache\ndef f(): return 1", "f()\nassert f.cache_info().misses == 1"),
    ],
)
def test_an_assert_that_cannot_mean_what_it_means_in_python_is_unanswered(source, snippet):
    snippets = ["assert True", snippet, "assert True"]
    assert [r.status for r in sandbox.run_asserts(source, "f", snippets)] == ["ok", "unanswered", "ok"]


def test_many_calls_do_not_remember_all_objects():
    snippet = "for i in range(3000): assert f([i]) == [i, [i]]"
    (result,) = sandbox.run_asserts("def f(x): return [*x, x]", "f", [snippet])
    assert result.status == "ok", result.error  # else each call would look at the objects of all before


def test_a_failed_assert_tells_its_line_what_came_back_and_where_an_exception_arose():
    source = "def f(x):\n  if x > 2: raise KeyError(x)\n  return [x]"
    value, exception = sandbox.run_asserts(source, "f", ["r = f(1)\nassert r == 2", "assert f(3)"])
    assert (value.error, value.output) == ("assert r == 2", "[1]")
    assert (exception.error, exception.output) == ("assert f(3) ('line 2: KeyError: 3')", "")


def test_the_assert_that_ran_out_of_time_is_told():
    source = "def f(x):\n  while x: pass"
    ok, timeout, rest = sandbox.run_asserts(source, "f", ["f(0)", "f(0)\nassert f(1) == 2", "f(0)"])
    assert (ok.status, timeout.status, rest.status) == ("ok", "timeout", "timeout")
    assert timeout.error == "assert f(1) == 2 (took more than 1 s of processor time)"


def test_a_program_that_cannot_be_loaded_passes_no_assert():
    snippet = "try: f()\nexcept ValueError: pass"
    (result,) = sandbox.run_asserts("def f(): pass\nraise ValueError('no')", "f", [snippet])
    assert (result.status, result.error) == ("error", "'line 2: ValueError: no'")


@pytest.mark.parametrize("value", ["float('inf')", "float('-inf')", "float('nan')", "[1, inf]"])
def test_a_result_that_is_no_number_passes_only_asserts_that_speak_of_it(value):
    asserts = [
        "assert not f() == 5",
        "import math\nassert f() == [1, math.inf] or math.isnan(f()) or math.isinf(f())",
    ]
    results = sandbox.run_asserts(f"def f(): return {value}", "f", asserts)
    assert [r.status for r in results] == ["unanswered", "ok"]


def test_a_result_with_an_infinity_passes_asserts_of_equality_and_is_undecided_by_inequalities():
    asserts = ["assert f()['a'] == 0", "assert f()['b'] == 5", "assert f()['b'] > 5", "assert f()['a'] > 5"]
    results = sandbox.run_asserts("def f(): return {'a': 0, 'b': float('inf')}", "f", asserts)
    assert [r.status for r in results] == ["ok", "error", "unanswered", "error"]


def test_a_text_that_reads_like_a_number_is_a_text():
    (result,) = sandbox.run_asserts("def f(): return ['nan', '1e999']", "f", ["assert len(f()) == 2"])
    assert result.status == "ok"


def test_a_function_that_ends_loops_does_not_end_the_asserts_loop():
    asserts = ["assert all(map(lambda x: f(x) == x, [1, 2]))", "assert list(iter(lambda: f(1), 0)) == []"]
    results = sandbox.run_asserts("def f(x): raise StopIteration", "f", asserts)
    assert [r.status for r in results] == ["error", "error"]


def test_a_flood_of_single_bytes_costs_the_caller_few_reads(monkeypatch):
    reads, read = [], os.read
    monkeypatch.setattr(os, "read", lambda *args: reads.append(1) or read(*args))
    source = "import os\nfor _ in range(50_000): os.write(1, b'x') + os.write(2, b'x')"
    assert sandbox.run_program(source, "").output == "x" * 50_000
    assert len(reads) < 500


def test_a_program_that_writes_all_the_time_is_out_of_time(monkeypatch):
    out, other_end = os.pipe()
    os.write(other_end, b"x")
    monkeypatch.setattr(os, "read", lambda *_: b"x")  # there is always more to read
    result = sandbox.read_outputs({"out": out}, 1, {"wall": 0.1, "out": 500})
    assert result["timeout"] and not result["overflow"]
    os.close(out), os.close(other_end)


def test_endless_errors_end_a_program():
    result = sandbox.run_program("import os\nwhile True: os.write(2, bytes(2**16))", "")
    assert (result.status, result.error) == ("error", f"wrote more than {sandbox.OUTPUT} bytes")


def test_time_limits_of_the_processor_and_of_the_clock():
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sandbox.run_program, "import time\ntime.sleep(60)", "")
        busy = sandbox.run_program("while True: pass", "")
        (busy_in_assert,) = sandbox.run_asserts("def f(): \n  while True: pass", "f", ["assert f()"])
        idle = waiting.result()
    assert (busy.status, busy_in_assert.status, idle.status) == ("timeout", "timeout", "timeout")
    assert not busy.again and not idle.again  # the program's own doing


def test_a_program_that_ignores_the_time_limit_is_out_of_time():
    source = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert sandbox.run_program(source, "").status == "timeout"


def test_the_order_of_a_set_of_texts_is_the_same_on_each_server():
    orders = set()
    for _ in range(3):
        sandbox.fresh_servers()
        orders.add(sandbox.call_function("def f(): return [*{*'abcdefgh'}]", "f", "").output)
    assert len(orders) == 1


def test_a_program_may_end_itself_and_raise_the_limit_of_its_stack():
    source = "import os, resource\nresource.setrlimit(resource.RLIMIT_STACK, (-1, -1))\nos.write(1, b'42')\nos._exit(0)"
    assert sandbox.run_program(source, "") == sandbox.Outcome("ok", "42")


def test_threads_are_limited():
    source = """
import os, threading, time
threading.stack_size(2**15)
started = 0
try:
    while started < 1000:
        threading.Thread(target=time.sleep, args=(9,)).start()
        started += 1
finally:
    os.write(1, b'%d' % started)
    os._exit(0)
"""
    if "thread limit" not in sandbox.protections().partition(";")[0]:
        pytest.skip("this machine cannot limit them")
    assert 10 < int(sandbox.run_program(source, "").output) < sandbox.THREADS


# Each prints "done" if it succeeds. 463, 466, 468, 469 and 600: newer system calls, the last one of no kernel yet
FORBIDDEN = sections("""
#: timers
timer, event = ctypes.c_void_p(), (ctypes.c_char * 64)()
if libc.timer_create(1, None, ctypes.byref(timer)) == 0: print('done')
#: new system calls
for number in (463, 466, 468, 469, 600):
    libc.syscall(number, -1, 0, 0, 0, 0, 0)
    if ctypes.get_errno() != errno.ENOSYS: print('done')
#: attributes
if libc.setxattr(json.__file__.encode(), b'user.x', b'1', 1, 0) == 0: print('done')
if libc.getxattr(json.__file__.encode(), b'user.x', None, 0) >= 0 or ctypes.get_errno() != errno.EPERM: print('done')
#: flags
fcntl.ioctl(fd, 0x80086601, bytes(8)); print('done')
#: locks
fcntl.flock(fd, fcntl.LOCK_SH); print('done')
#: record locks
fcntl.lockf(fd, fcntl.LOCK_SH); print('done')
#: leases
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK); print('done')
#: notices
fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_ACCESS); print('done')
#: large pipes
fcntl.fcntl(os.pipe()[0], 1031, 2**20); print('done')
#: another user
os.setresuid(0, 0, 0); print('done')
#: memory files
os.memfd_create('x'); print('done')
#: descriptors in a message
a, b = socket.socketpair()
socket.send_fds(a, [b'x'], [0]); print('done')
""")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_reaches_beyond_the_program_is_denied(name):
    if "seccomp" not in sandbox.protections().partition(";")[0]:
        pytest.skip("this machine has no filter of system calls")
    source = "import ctypes, errno, fcntl, json, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    source += f"fd = os.open(json.__file__, os.O_RDONLY)\n{FORBIDDEN[name]}"
    result = sandbox.run_program(source, "")
    assert "done" not in result.output and ("Operation not permitted" in result.error or not result.error)


def test_the_standard_library_can_be_imported():
    source = """
import importlib, sys
other = {'antigravity', 'this', 'idlelib', 'tkinter', 'turtle', 'turtledemo', 'lib2to3'}  # windows, jokes
for name in sys.stdlib_module_names - other:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:  # of another system
        pass
print('all')
"""
    assert sandbox.run_program(source, "").output == "all\n"


def test_many_threads_may_ask_at_once():
    with ThreadPoolExecutor(24) as pool:
        calls = pool.map(lambda i: sandbox.call_function("def f(x): return x", "f", str(i)).output, range(24))
        assert list(calls) == list(map(str, range(24)))


# Each tries to pass `f(7) == SECRET` or to do harm; a caller sees at most a wrong value.
HOSTILE = sections("""
#: sys.exit
import sys
sys.exit(0)
#: os._exit
import os
os._exit(0)
#: exit in function
def f(x):
    raise SystemExit(0)
#: os._exit in function
import os
def f(x): os._exit(0)
#: equal to all
class E:
    def __eq__(self, o): return True
    def __hash__(self): return 0
def f(x): return E()
#: int subclass
class I(int):
    def __eq__(self, o): return True
def f(x): return I(3)
#: str subclass
class S(str):
    def __eq__(self, o): return True
    def __repr__(self): return 'SECRET'
def f(x): return S('a')
#: list subclass
class L(list):
    def __eq__(self, o): return True
def f(x): return L([1])
#: reduce
class R:
    def __reduce__(self): return (print, ('x',))
def f(x): return R()
#: frames
import sys
def f(x):
    fr = sys._getframe()
    while fr.f_back: fr = fr.f_back
    return sorted(map(str, fr.f_locals))
#: collector
import gc
def f(x): return [o for o in gc.get_objects() if isinstance(o, dict) and 'output' in o][:1] and 1
#: all descriptors
import os
def f(x):
    for i in range(200):
        try: os.write(i, b'["ok", "", ""]\\n')
        except OSError: pass
    os._exit(0)
#: close descriptors
import os
os.closerange(0, 300)
def f(x): return 1
#: repr
import builtins
builtins.repr = lambda o: 'SECRET'
def f(x): return 1
#: patched json
import json
json.dumps = lambda *a, **k: 'true'
json.loads = lambda *a: 1
def f(x): return 1
#: patched os
import os
os.write = lambda *a: 1
def f(x): return 1
#: trace
import sys
sys.settrace(lambda *a: None)
def f(x): return 1
#: atexit
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x): return 1
#: fork
import os
os.fork()
def f(x): return 1
#: fork bomb
import os
while True:
    os.fork()
#: daemon
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time; time.sleep(99)
    os._exit(0)
#: process
import subprocess
subprocess.run(['sleep', '99'])
#: shell
import os
os.system('touch /tmp/hostile')
def f(x): return 1
#: exec
import os
os.execv('/bin/sh', ['sh', '-c', 'exit 0'])
#: multiprocessing
import multiprocessing
multiprocessing.Process(target=print).start()
#: spawn
import os
os.posix_spawn('/bin/sh', ['sh'], {})
#: endless threads
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(99,)).start()
#: memory
x = bytearray(2**40)
#: memory in steps
x = []
while True: x.append(bytearray(2**20))
#: long number
def f(x): return 10**10**8
#: long list
def f(x): return [0] * 10**7
#: deep list
def f(x):
    r = []
    for _ in range(10**5): r = [r]
    return r
#: cycle
def f(x):
    r = []
    r.append(r)
    return r
#: recursion
def f(x): return f(x)
#: crash
import ctypes
ctypes.string_at(0)
#: endless output
while True: print('x' * 1000)
#: endless errors
import sys
while True: print('x' * 1000, file=sys.stderr)
#: disk
with open('big', 'wb') as f:
    while True: f.write(bytes(2**20))
#: many files
for i in range(10**5): open(str(i), 'w').close()
#: file outside
open('/tmp/hostile', 'w').write('x')
#: folder
import os
os.mkdir('/tmp/hostile')
#: link
import os
os.symlink('/etc', '/tmp/hostile')
#: delete
import os
os.remove(TARGET)
#: rename
import os
os.rename(TARGET, '/tmp/hostile')
#: chmod
import os
os.chmod(TARGET, 0)
#: truncate
import os
os.truncate(TARGET, 0)
#: touch
import os
os.utime(TARGET, (0, 0))
#: memory file
import os
fd = os.memfd_create('x')
while True: os.write(fd, bytes(2**20))
#: passwords
def f(x): return open('/etc/passwd').read()
#: own file
def f(x): return open(TARGET).read()
#: parent's environment
import os
def f(x): return open(f'/proc/{os.getppid()}/environ').read()
#: parent's memory
import os
def f(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read(1).decode()
#: processes
import os
def f(x): return os.listdir('/proc')
#: environment
import os
def f(x): return list(os.environ.values())
#: kill parent
import os
os.kill(os.getppid(), 9)
#: kill all
import os
os.kill(-1, 9)
#: kill group
import os
os.killpg(0, 9)
#: signal by fcntl
import fcntl, os, signal
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())
def f(x): return 'SECRET'
#: limits of the parent
import os, resource
resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))
def f(x): return 'SECRET'
#: own limits
import resource
resource.setrlimit(resource.RLIMIT_CPU, (99, 99))
#: ignore signals
import signal
for s in (1, 2, 15, 24): signal.signal(s, signal.SIG_IGN)
while True: pass
#: alarm
import signal
signal.alarm(1)
signal.pause()
#: sleep
import time
time.sleep(99)
#: wait for input
import sys, time
sys.stdin.read()
while True: time.sleep(1)
#: internet
import socket
socket.create_connection(('127.0.0.1', 80))
#: unix socket
import socket
socket.socket(socket.AF_UNIX)
#: trace parent
import ctypes, os
if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0:
    def f(x): return 'SECRET'
#: namespaces
import ctypes
if ctypes.CDLL(None).unshare(0x10000000) == 0:
    def f(x): return 'SECRET'
#: garbage collector
import gc
def f(x):
    kinds = (dict, list, tuple)
    texts = [o for o in gc.get_objects() if isinstance(o, kinds) and 'SECRET' in str(o)[:9999]]
    return 'SECRET' if len(texts) > 99 else 0
#: replayed asserts
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and 'asserts' in value:
                return value['asserts'][0].split("'")[1]
        frame = frame.f_back
#: stop iteration
def f(x): raise StopIteration
#: infinity
def f(x): return float('inf')
#: nan
def f(x): return float('nan')
#: other's descriptors
import os
def f(x):
    for pid in range(os.getppid() - 3, os.getpid() + 3):
        for fd in range(20):
            try:
                out = os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY)
                os.write(out, b'["ok", "", ""]\\n' if pid != os.getpid() else b'')
            except OSError: pass
#: replies ahead
import json, os, struct
def f(x):
    data = json.dumps(['return', None, [1], [], [], '', '']).encode()
    for _ in range(50): os.write(6, struct.pack('<Q', len(data)) + data)
    return 1
#: endless reply
import os, struct
def f(x):
    os.write(6, struct.pack('<Q', 2**60))
    while True: os.write(6, bytes(2**16))
#: odd replies
import json, os, struct
def f(x):
    exit = [1, 'exception', [[['builtins', 'GeneratorExit']], ''], [None, None]]
    cycle = [1, 'tuple', None, [[1]]]
    rest = [], '', ''
    for reply in (
        1, ['ok'], ['return', None, [], [], *rest], ['return', None, [[9]], [], *rest],
        ['raise', '', [[1]], [exit], *rest], ['raise', 1, [5], [], *rest], ['return', None, [[1]], [cycle], *rest],
        ['call', [0, []], [], [], *rest], ['call', [7, ['x']], [], [], *rest], ['call', 5, [], [], *rest],
        ['return', None, [[1]], [[1, 'function', ['f'], []]], *rest], [{}, {}, {}, {}, {}, {}, {}],
        ['return', None, [[0]], [], [0], '', ''], ['return', None, [[1]], [[1, 'named', '__import__', []]], *rest],
    ):
        data = json.dumps(reply).encode()
        os.write(6, struct.pack('<Q', len(data)) + data)
#: owner of a socket
import fcntl, os, socket, struct
a, b = socket.socketpair()
fcntl.ioctl(a, 0x8901, struct.pack('i', os.getppid()))
def f(x): return 'SECRET'
#: datagrams
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
def f(x): return 'SECRET'
#: connect anew
import socket
a, b = socket.socketpair()
b.close()
a.connect('\\0x')
#: outlive the parent
import ctypes
if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0:
    def f(x): return 'SECRET'
#: truncate by opening
import os
os.open(TARGET, os.O_RDONLY | os.O_TRUNC)
def f(x): return 1
#: libraries
import json
open(json.__file__, 'a').write('x')
#: device
def f(x): return open('/dev/shm/hostile', 'w').write('x')
#: own memory
def f(x): return open('/proc/self/mem', 'rb').read(1)
#: header's name
x = 1
#: never ends at its end
import atexit
@atexit.register
def forever():
    while True: pass
class A:
    def __del__(self):
        while True: pass
a = A()
def f(x): return 1
#: no exit
import os
os._exit = lambda code: None
def f(x): return 1
#: connections
import ctypes
libc = ctypes.CDLL(None)
if libc.socket(1, 2, 0) >= 0:
    def f(x): return 'SECRET'
#: signals
import os
os.kill(os.getpid(), 0)
def f(x): return 'SECRET'
#: shared memory
import ctypes
if ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0:
    def f(x): return 'SECRET'
#: memory of others
import ctypes, os
libc = ctypes.CDLL(None)
if libc.process_vm_readv(os.getpid(), None, 0, None, 0, 0) >= 0:
    def f(x): return 'SECRET'
#: another personality of the machine
import ctypes
if ctypes.CDLL(None).syscall(0x40000000 + 39) >= 0:
    def f(x): return 'SECRET'
#: rings
import ctypes
if ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(200)) >= 0:
    def f(x): return 'SECRET'
#: keys
import ctypes
if ctypes.CDLL(None).syscall(250, 0, -3, 0) >= 0:
    def f(x): return 'SECRET'
#: affinity
import os
os.sched_setaffinity(os.getppid(), {0})
def f(x): return 'SECRET'
#: more memory
import resource
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
def f(x): return 'SECRET'
#: set of equal hashes
def f(x): return {(2**61 - 1) * i for i in range(30_000)}
#: numbers of many digits
def f(x): return [10**100_000] * 15
#: raw infinity
import json, os, struct
def f(x):
    for number in (float('inf'), float('nan')) * 9:
        data = json.dumps(['return', None, [number], [], [], '', '']).encode()
        os.write(6, struct.pack('<Q', len(data)) + data)
    return 1
#: raw reply
import os
def f(x):
    os.write(4, b'{' + b', '.join(b'%d' % ((2**61 - 1) * i) for i in range(80_000)) + b'}\\n')
    os._exit(0)
""")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """{name in HOSTILE: (status, report, statuses of asserts, whether its target is untouched)}."""
    folder = tmp_path_factory.mktemp("targets")
    asserts = [
        "assert f(7) == 'SECRET'",
        "assert abs(f(8) - 5) <= 1e-6 * max(f(8), 5)",
        "assert all(map(f, [9]))",
    ]

    def judge(item):
        number, source = item
        target = folder / str(number)
        target.write_text("precious")
        before = (target.stat().st_mtime_ns, target.stat().st_mode)
        source = source.replace("TARGET", repr(str(target)))
        test = {"input": "7", "output": '"SECRET"', "testtype": "functional"}
        status, report = programs.check(source, "f", [test], [], [])
        statuses = [result.status for result in sandbox.run_asserts(source, "f", asserts)]
        untouched = target.read_text() == "precious" and before == (
            target.stat().st_mtime_ns,
            target.stat().st_mode,
        )
        return status, report, statuses, untouched

    # Some programs only wait for the end of WALL; others need SECONDS of a core within WALL.
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        for name, value in {**LIMITS, "job_slots": threading.Semaphore(4)}.items():
            patch.setattr(sandbox, name, value)
        patch.setenv("HOSTILE_SECRET", "precious")
        judged = dict(zip(HOSTILE, pool.map(judge, enumerate(HOSTILE.values())), strict=True))
    return judged


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_forges_nothing_and_touches_nothing(name, verdicts):
    status, report, statuses, untouched = verdicts[name]
    assert status in ("wrong", "error", "timeout") and untouched and "precious" not in report
    assert "ok" not in statuses[:2]
    assert "ok" not in statuses or "return" in HOSTILE[name]  # any true value passes the third


def test_hostile_programs_leave_nothing_behind(verdicts):
    assert not Path("/tmp/hostile").exists() and not Path("/dev/shm/hostile").exists()
    assert wait_until(nothing_is_left)
    assert sandbox.call_function("def f(x): return x", "f", "5").output == "5"


def children(pid):
    """Commands of the processes that one has started, by process id."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()[1:]]
    return {child: args for child, parent, args in rows if parent == str(pid) and not args.startswith("ps ")}


def descendants(pid):
    """The same of all processes below one."""
    own = children(pid)
    return own | {k: v for child in own for k, v in descendants(child).items()}


def nothing_is_left():
    """Whether the only processes below the servers are those that were forked ahead, and have done nothing."""
    for server in children(os.getpid()):
        ahead = descendants(server)
        if len(ahead) != sandbox.AHEAD or any(seconds_of(pid) > 0.05 for pid in ahead):
            return False
    return True


def seconds_of(pid):
    """Processor time of a process."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_until(condition, seconds=10):
    """Waits for a condition, so many seconds at most; whether it came true."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def memory(pid):
    """What a process has in memory that it can write to; skips the test where that may not be read."""
    data = b""
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for ends, rights in (line.split()[:2] for line in maps):
                start, end = (int(x, 16) for x in ends.split("-"))
                if rights.startswith("rw"):
                    mem.seek(start)
                    data += mem.read(end - start)
    except OSError as e:
        pytest.skip(f"the memory of other processes cannot be read here: {e}")
    return data


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_is_expected_is_not_in_the_memory_of_the_program_nor_of_its_server():
    """Whatever a program does to read its memory or that of its ancestors, there is nothing to be found."""
    sandbox.fresh_servers()
    asserts = ["assert f(3) == 'of-the-' + 'asserts'"]
    for _ in range(3):  # a server that has served asserts before
        sandbox.run_asserts("def f(x): return x", "f", asserts)
    server = sandbox.idle_servers.queue[0].process.pid
    source = "import time\nmark = 'of-the-' + 'program'\ndef f(x): time.sleep(2)"
    thread = threading.Thread(target=sandbox.run_asserts, args=(source, "f", asserts))
    thread.start()
    time.sleep(1)
    own, *others = (memory(pid) for pid in [server, *descendants(server)])
    thread.join()
    assert len(others) == sandbox.AHEAD
    assert [b"assert f(3)" in data for data in others].count(True) == 1  # the asserts' process
    (program,) = [data for data in others if b"of-the-program" in data]
    for data in (own, program):
        assert b"assert f(3)" not in data and b"of-the-asserts" not in data


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from parts import sandbox
print("ready", flush=True)
sandbox.run_program("import time\\ntime.sleep(60)", "")
"""


def test_a_caller_that_is_interrupted_leaves_no_process():
    command = [sys.executable, "-c", CALLER, ROOT]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    callers = {n: subprocess.Popen(command, **pipes) for n in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)}
    below = {}
    for number, caller in callers.items():
        caller.stdout.readline()
        assert wait_until(lambda caller=caller: len(descendants(caller.pid)) == 1 + sandbox.AHEAD)
        below[number] = descendants(caller.pid)
        caller.send_signal(number)
    for number, caller in callers.items():
        caller.communicate()
        pids = below[number]
        assert wait_until(lambda pids=pids: not any(Path(f"/proc/{pid}").exists() for pid in pids)), number


def test_a_program_has_no_folder_that_could_be_left_behind():
    assert sandbox.run_program("import os\nprint(os.getcwd())", "").output == "/\n"


def test_a_server_that_dies_is_replaced():
    sandbox.run_program("print(1)", "")
    server = sandbox.idle_servers.queue[-1]
    server.process.kill()
    server.process.wait()
    assert sandbox.run_program("print(1)", "").output == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a program lives until its time is up")
def test_a_server_that_is_killed_takes_its_programs_along():
    sandbox.fresh_servers()
    sandbox.run_program("print(1)", "")
    server = sandbox.idle_servers.queue[0].process.pid
    with ThreadPoolExecutor() as pool:
        result = pool.submit(sandbox.run_program, "import time\ntime.sleep(1)\nprint('done')", "")
        time.sleep(0.2)
        programs = descendants(server)
        os.kill(server, signal.SIGKILL)
        assert len(programs) == sandbox.AHEAD
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in programs), 2)
        assert result.result().output == "done\n"  # on another server


def test_without_landlock_no_file_is_emptied_by_opening(tmp_path):
    code = """if True:
    import ctypes, os, struct, sys
    from parts.sandbox import seccomp_filter
    code, libc = seccomp_filter(False), ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HL", len(code) // 8, ctypes.addressof(buffer)))
    libc.prctl(38, 1, 0, 0, 0), libc.prctl(22, 2, program, 0, 0)
    for flags in (os.O_RDONLY | os.O_TRUNC, os.O_WRONLY, os.O_RDWR, os.O_CREAT):
        try:
            os.open(sys.argv[1], flags)
        except PermissionError:
            print("refused")
    print(open(sys.argv[1]).read())
    """
    (tmp_path / "file").write_text("whole")
    command = [sys.executable, "-c", code, tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["refused"] * 4 + ["whole"], done.stderr


def test_a_program_cannot_change_its_input_nor_store_anything_there():
    for change in ("os.pwrite(0, b'2', 0)", "os.ftruncate(0, 2**30)", "os.posix_fallocate(0, 0, 2**30)"):
        assert sandbox.run_program(f"import os\n{change}", "1").status == "error", change


def test_no_more_programs_run_at_once_than_a_scheduler_lets_this_process_have_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert sandbox.cores() == 1


def test_lone_surrogates_break_nothing():
    assert sandbox.run_program("print(len(input()))", "a\ud800").output == "2\n"
    assert sandbox.run_program("print('\ud800')", "").status == "error"
    assert sandbox.call_function("def f(x): return x", "f", '"\\ud800"').output == "'\\ud800'"
    assert wait_until(nothing_is_left)


def test_a_fork_of_the_caller_has_servers_of_its_own():
    sandbox.run_program("print(1)", "")
    used = sandbox.idle_servers.queue[-1]
    pid = os.fork()
    if not pid:
        os._exit(
            0
            if used not in sandbox.idle_servers.queue and sandbox.run_program("print(2)", "").output == "2\n"
            else 1
        )
    assert os.waitpid(pid, 0)[1] == 0
    assert sandbox.run_program("print(3)", "").output == "3\n"


def test_protections_are_told_in_one_line():
    line = sandbox.protections()
    assert line.startswith("sandbox: ") and "\n" not in line
    if sys.platform == "linux":
        assert "rlimits" in line


def test_where_no_program_can_be_run_problems_of_code_are_refused(monkeypatch, tmp_path):
    problem = {
        "id": "a",
        "domain": "code",
        "prompt": "Write f.",
        "func_name": "f",
        "asserts": ["assert f(0)"],
    }
    (tmp_path / "code.jsonl").write_text(json.dumps(problem))
    (tmp_path / "math.jsonl").write_text(
        json.dumps({"id": "a", "domain": "math", "prompt": "1 + 1?", "answer": "2"})
    )
    sandbox.fresh_servers()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(sandbox.SandboxError, match="the sandbox did not answer"):
        load_problems(tmp_path / "code.jsonl")
    assert len(load_problems(tmp_path / "math.jsonl")) == 1


def test_missing_protections_are_told_when_problems_of_code_are_loaded(monkeypatch, capsys):
    monkeypatch.setattr(sandbox, "protections", lambda: "sandbox: rlimits active; Landlock, seccomp missing")
    load_problems(ROOT / "toy" / "code_test.jsonl")
    assert "Landlock, seccomp missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, snippet",
    [
        ("class A: pass\ndef f(xs): xs.append(A())", "xs = []\nf(xs)\nassert len(xs) == 1"),
        (
            "class E(ValueError): code = 7\ndef f(): raise E",
            "try: f()\nexcept ValueError as e: assert e.code == 7",
        ),
        ("import functools\ndef f(g): return functools.partial(g, 2)", "assert f(pow).args == (2,)"),
        ("def f(x): return map(str, x)", "assert isinstance(f([1]), map)"),
        ("def f(x): return map(str, x)", "import types\nassert isinstance(f([1]), types.GeneratorType)"),
    ],
)
def test_an_assert_that_needs_what_only_the_programs_process_has_is_undecided(source, snippet):
    results = sandbox.run_asserts(source, "f", [snippet, "assert 1 == 1"])
    assert results[0].status == "unanswered"


def test_a_list_that_could_not_be_carried_is_not_judged_by_later_asserts_either():
    source = "class A: pass\ndef f(xs): xs.append(A())"
    results = sandbox.run_asserts(source, "f", ["xs = []\nf(xs)", "assert xs == []"])
    assert [result.status for result in results] == ["unanswered", "unanswered"]


def test_a_programs_words_are_quoted_when_a_value_cannot_be_carried():
    source = "def f(): return type('Teacher: well done', (), {})()"
    (result,) = sandbox.run_asserts(source, "f", ["assert f() == 1"])
    assert result.error[0] == result.error[-1] == '"' and "Teacher" in result.error


FORGED_EXCEPTION = r'''
import os, struct, json, time
CODE = """
import sys, os
f = sys._getframe()
while f and f.f_code.co_name != 'child_asserts': f = f.f_back
os.write(4, b'["ok", "", ""]\\n' * len(f.f_locals['task']['asserts']))
os._exit(0)
"""
def f(x):
    nodes = [[50,"ndarray",["<i8",[1],"\0" * 8],[]], [51,"named","exec",[]],
      [52,"dict",None,["itemsize",CODE]], [53,"function",["d",None],[[52]]], [54,"list",None,[]],
      [55,"dict",None,["_size_to_string","dtype","shape",[51],[53],[54]]],
      [56,"exception",[[["numpy._core._exceptions","_ArrayMemoryError"]],"z"],[[55],None]]]
    m = json.dumps(["return",None,[[56]],nodes,[],"",""]).encode()
    for fd in range(3,16):
        try: os.write(fd, struct.pack("<Q",len(m))+m)
        except OSError: pass
    time.sleep(1)
'''


def test_an_exception_whose_text_would_run_code_forges_no_verdict():
    pytest.importorskip("numpy", reason="the attack used numpy's memory error")
    outcomes = sandbox.run_asserts(FORGED_EXCEPTION, "f", ["assert f(1) == 2", "assert f(2) == 3"])
    assert [outcome.status for outcome in outcomes if outcome.status == "ok"] == []


def received(*nodes):
    """What the asserts' process makes of a message, whose first node is the value."""
    mirror = sandbox.Mirror(0, 1, None, is_caller=True)
    return mirror.unpack([[nodes[0][0]]], list(nodes), [])[0]


def test_a_message_names_only_classes_of_data_and_exceptions():
    brought = set()
    for name, value in vars(builtins).items():
        try:
            assert received([5, "named", name, []]) is value
            brought.add(name if isinstance(value, type) and not issubclass(value, BaseException) else "")
        except sandbox.NotCarried:
            pass
    data = "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
    assert brought == {"", *data.split()}


def test_an_exception_of_a_library_whose_class_has_code_makes_an_assert_unanswered():
    source = "import subprocess\ndef f(): raise subprocess.CalledProcessError(1, 'ls')"
    snippet = "import subprocess\ntry: f()\nexcept subprocess.CalledProcessError: pass"
    (result,) = sandbox.run_asserts(source, "f", [snippet])
    assert result.status == "unanswered"


@pytest.mark.parametrize("name", ["map", "type", "callable", "eval"])
def test_what_a_program_returns_is_not_called_in_the_asserts_process(name):
    source = f"def f(x): return {name}"
    (result,) = sandbox.run_asserts(source, "f", [f"import builtins\nassert f(1) is builtins.{name}"])
    assert result.status in ("unanswered", "error")


@pytest.mark.parametrize(
    "node",
    [
        [5, "exception", [[["urllib.error", "HTTPError"]], ""], [None, None]],  # has methods of its own
        [5, "ndarray", ["O", [1], "\0" * 8], []],
    ],
    ids=["exception", "array"],
)
def test_a_message_brings_no_object_that_would_run_its_own_code(node):
    import urllib.error  # noqa: F401

    with pytest.raises(sandbox.NotCarried):
        received(node)
