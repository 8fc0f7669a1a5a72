"""The sandbox: programs run as they would alone; hostile ones forge nothing, reach nothing, leave nothing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common import Problem, grade
from parts import sandbox


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    monkeypatch.setattr(sandbox, "WALL", 4)
    monkeypatch.setattr(sandbox, "MEMORY", 2**29)


PROGRAMS = {
    "input": "print(int(input()) + int(input()))",
    "readline": "import sys\nr = sys.stdin.readline\nprint(int(r()) + int(r()))",
    "buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "buffer readline": "import sys\nr = sys.stdin.buffer.readline\nprint(int(r()) + int(r()))",
    "lines": "import sys\nprint(sum(int(line) for line in sys.stdin))",
    "open 0": "print(sum(map(int, open(0).read().split())))",
    "main guard": "def main():\n    print(int(input()) + int(input()))\nif __name__ == '__main__':\n    main()",
    "exit": "print(int(input()) + int(input()))\nexit()",
    "sys.exit": "import sys\nprint(int(input()) + int(input()))\nsys.exit(0)",
    "global": "total = 0\ndef add(n):\n    global total\n    total += n\nadd(int(input())); add(int(input()))\nprint(total)",
    "recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nf(10**5)\nprint(int(input()) + int(input()))",
    "thread": "import threading\ndef main(): print(int(input()) + int(input()))\nt = threading.Thread(target=main); t.start()",
    "imports": "import heapq, bisect, math, collections, itertools, decimal, dataclasses\nprint(int(input()) + int(input()))",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(int(input())).x + int(input()))",
    "print twice": "import os\nos.write(1, b'4')\nos.write(1, b'2')\n",
}


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_reads_and_prints_as_it_would_alone(source):
    result = sandbox.run_program(source, "40\n2\n")
    assert (result.status, result.output.strip(), result.error) == ("ok", "42", "")


def test_a_large_input_and_a_large_output_do_not_block():
    text = "x" * 900_000
    assert sandbox.run_program("print(input())", text).output == text + "\n"
    assert sandbox.run_program("print(1)", text * 10).output == "1\n"  # never read


@pytest.mark.parametrize(
    "source, arguments, value",
    [
        ("def f(a, b): return a + b", "40\n2", "42"),
        ("class Solution:\n    def f(self, a: List[int]) -> int: return sum(a)", "[40, 2]", "42"),
        ("def f(s): return s", '"é\\n"', "'é\\n'"),
        ("def f(s): return {s: (True, None, 1.5)}", "'a'", "{'a': (True, None, 1.5,)}"),
        ("def f(s): return Counter(s)", "'aa'", "{'a': 2}"),
        ("def f(x): print('noise'); return x", "[[1], []]", "[[1], []]"),
        ("def f(): return float('inf')", "", "1e999"),
    ],
)
def test_a_function_returns_its_value(source, arguments, value):
    assert sandbox.call_function(source, "f", arguments) == sandbox.Outcome("ok", value)


def test_an_exception_is_told_in_one_line_with_its_place():
    assert (
        sandbox.call_function("def f(x):\n    return 1 / x", "f", "0").error
        == "line 2: ZeroDivisionError: division by zero"
    )
    assert sandbox.run_program("def f(:", "").error.startswith("SyntaxError")
    assert sandbox.call_function("x = 1", "f", "0").error == "NameError: the program defines no function 'f'"


def test_asserts_are_decided_one_by_one():
    asserts = [
        "assert f(1) == 2",
        "assert f(1) == 3",
        "def check(g):\n    assert g(2) == 3\ncheck(f)",
        "try:\n    f('a')\nexcept TypeError:\n    pass",
    ]
    assert [r.status for r in sandbox.run_asserts("def f(x): return x + 1", "f", asserts)] == [
        "ok",
        "error",
        "ok",
        "ok",
    ]


def test_time_limits_of_the_processor_and_of_the_clock():
    assert sandbox.run_program("while True: pass", "").status == "timeout"
    assert sandbox.run_program("import time\ntime.sleep(60)", "").status == "timeout"
    assert sandbox.run_asserts("def f(): \n  while True: pass", "f", ["assert f()"])[0].status == "timeout"


def test_many_threads_may_ask_at_once():
    results = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update(
                {i: sandbox.call_function("def f(x): return x", "f", str(i)).output}
            )
        )
        for i in range(24)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {i: str(i) for i in range(24)}


# Each program tries to pass `f(7) == SECRET` or to do harm; a caller sees at most a wrong value.
HOSTILE = {
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in function": "def f(x):\n    raise SystemExit(0)",
    "os._exit in function": "import os\ndef f(x): os._exit(0)",
    "equal to all": "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(x): return E()",
    "int subclass": "class I(int):\n    def __eq__(self, o): return True\ndef f(x): return I(3)",
    "str subclass": "class S(str):\n    def __eq__(self, o): return True\n    def __repr__(self): return 'SECRET'\ndef f(x): return S('a')",
    "list subclass": "class L(list):\n    def __eq__(self, o): return True\ndef f(x): return L([1])",
    "reduce": "class R:\n    def __reduce__(self): return (print, ('x',))\ndef f(x): return R()",
    "frames": "import sys\ndef f(x):\n    fr = sys._getframe()\n    while fr.f_back: fr = fr.f_back\n    return sorted(map(str, fr.f_locals))",
    "collector": "import gc\ndef f(x): return [o for o in gc.get_objects() if isinstance(o, dict) and 'output' in o][:1] and 1",
    "all descriptors": 'import os\ndef f(x):\n    for i in range(200):\n        try: os.write(i, b\'["ok", "", ""]\\n\')\n        except OSError: pass\n    os._exit(0)',
    "close descriptors": "import os\nos.closerange(0, 300)\ndef f(x): return 1",
    "repr": "import builtins\nbuiltins.repr = lambda o: 'SECRET'\ndef f(x): return 1",
    "patched json": "import json\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a: 1\ndef f(x): return 1",
    "patched os": "import os\nos.write = lambda *a: 1\ndef f(x): return 1",
    "trace": "import sys\nsys.settrace(lambda *a: None)\ndef f(x): return 1",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 1",
    "fork": "import os\nos.fork()\ndef f(x): return 1",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        import time; time.sleep(99)\n    os._exit(0)",
    "process": "import subprocess\nsubprocess.run(['sleep', '99'])",
    "shell": "import os\nos.system('touch /tmp/hostile')\ndef f(x): return 1",
    "exec": "import os\nos.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "multiprocessing": "import multiprocessing\nmultiprocessing.Process(target=print).start()",
    "spawn": "import os\nos.posix_spawn('/bin/sh', ['sh'], {})",
    "endless threads": "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,)).start()",
    "memory": "x = bytearray(2**40)",
    "memory in steps": "x = []\nwhile True: x.append(bytearray(2**20))",
    "long number": "def f(x): return 10**10**8",
    "long list": "def f(x): return [0] * 10**7",
    "deep list": "def f(x):\n    r = []\n    for _ in range(10**5): r = [r]\n    return r",
    "cycle": "def f(x):\n    r = []\n    r.append(r)\n    return r",
    "recursion": "def f(x): return f(x)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "endless output": "while True: print('x' * 1000)",
    "endless errors": "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
    "disk": "with open('big', 'wb') as f:\n    while True: f.write(bytes(2**20))",
    "many files": "for i in range(10**5): open(str(i), 'w').close()",
    "file outside": "open('/tmp/hostile', 'w').write('x')",
    "folder": "import os\nos.mkdir('/tmp/hostile')",
    "link": "import os\nos.symlink('/etc', '/tmp/hostile')",
    "delete": "import os\nos.remove(TARGET)",
    "rename": "import os\nos.rename(TARGET, '/tmp/hostile')",
    "chmod": "import os\nos.chmod(TARGET, 0)",
    "truncate": "import os\nos.truncate(TARGET, 0)",
    "touch": "import os\nos.utime(TARGET, (0, 0))",
    "memory file": "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, bytes(2**20))",
    "passwords": "def f(x): return open('/etc/passwd').read()",
    "own file": "def f(x): return open(TARGET).read()",
    "parent's environment": "import os\ndef f(x): return open(f'/proc/{os.getppid()}/environ').read()",
    "parent's memory": "import os\ndef f(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read(1).decode()",
    "processes": "import os\ndef f(x): return os.listdir('/proc')",
    "environment": "import os\ndef f(x): return dict(os.environ) or 1 / 0",
    "kill parent": "import os\nos.kill(os.getppid(), 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "kill group": "import os\nos.killpg(0, 9)",
    "signal by fcntl": "import fcntl, os, signal\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\ndef f(x): return 1",
    "limits of the parent": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "own limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "ignore signals": "import signal\nfor s in (1, 2, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "alarm": "import signal\nsignal.alarm(1)\nsignal.pause()",
    "sleep": "import time\ntime.sleep(99)",
    "wait for input": "import sys, time\nsys.stdin.read()\nwhile True: time.sleep(1)",
    "internet": "import socket\nsocket.create_connection(('127.0.0.1', 80))",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "trace parent": "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0:\n    def f(x): return 'traced'",
    "namespaces": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0:\n    def f(x): return 'unshared'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_forges_nothing_and_leaves_nothing(name, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    os.environ["HOSTILE_SECRET"] = "precious"
    before = (target.stat().st_mtime_ns, target.stat().st_mode)
    source = HOSTILE[name].replace("TARGET", repr(str(target)))
    problem = Problem(
        "p",
        "code",
        "x",
        func_name="f",
        tests=[{"input": "7", "output": '"SECRET"', "testtype": "functional"}],
    )
    assert grade(problem, f"```python\n{source}\n```").status in ("wrong", "error", "timeout")
    assert "precious" not in sandbox.call_function(source, "f", "7").output
    asserts = sandbox.run_asserts(source, "f", ["assert f(7) == 'SECRET'", "assert f(8) == 'SECRET'"])
    assert [r.status for r in asserts if r.status == "ok"] == []
    assert target.read_text() == "precious" and before == (target.stat().st_mtime_ns, target.stat().st_mode)
    assert not Path("/tmp/hostile").exists()
    assert sandbox.call_function("def f(x): return x", "f", "5").output == "5"
    assert children_left() == set()


def children_left():
    """Commands of processes below this one, other than the idle servers themselves."""
    table = [
        line.split(None, 2)
        for line in subprocess.run(
            ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True
        ).stdout.splitlines()[1:]
    ]
    servers = {pid for pid, ppid, _ in table if ppid == str(os.getpid())}
    return {args for pid, ppid, args in table if ppid in servers}


def test_protections_are_told_in_one_line():
    line = sandbox.protections()
    assert line.startswith("sandbox: ") and "\n" not in line
    if sys.platform == "linux":
        assert "rlimits" in line
