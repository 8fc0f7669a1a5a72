"""Not part of the method: runs Python programs that a model wrote. It treats every program as hostile.

    from parts import sandbox
    sandbox.run_program("print(int(input()) + 1)", "41\\n")  # Outcome(status='ok', output='42\\n', …)
    sandbox.call_function("def f(x): return x + 1", "f", "41")  # Outcome(status='ok', output='42', …)
    sandbox.run_asserts("def f(x): return x + 1", "f", ["assert f(41) == 42"])  # [Outcome(status='ok', …)]

A program cannot forge a verdict, because no expected output ever enters its process. It is sent none. It
also inherits none, because the processes that fork it have read none by then.

    caller ── server           starts clean; reads one byte per job, never a task, so it stays clean
                └─ supervisor  one per job; reads the task, but only after it has forked the processes below
                     ├─ program  gets the source and one input; the caller compares its result
                     └─ asserts  gets the asserts; there the function is a proxy that asks the program

The program and asserts processes drop their capabilities and limit their CPU time, memory and files. On Linux
they then lock themselves in. Landlock lets them read Python's own folders and nothing else. Seccomp leaves
them only harmless system calls: they cannot start processes, send signals, open connections, or change files
or other processes. Where the kernel lacks one of these protections, they run without it; protections() says
which are active. When the caller ends, its pipe closes, and then every process below it ends.
"""

import ast
import atexit
import builtins
import cmath
import collections
import ctypes
import datetime
import fcntl
import gc
import importlib
import io
import itertools
import json
import math
import os
import queue
import random
import re
import reprlib
import resource
import select
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

LINUX = sys.platform == "linux"
# Limits of a job
SECONDS = 6  # CPU time
WALL = 12  # seconds of wall-clock time
MEMORY = 2**30  # bytes of address space
OUTPUT = 2**24  # bytes of standard output; a program that prints more has failed
VALUE = 2**21  # bytes of a returned value's text; the caller needs a second per megabyte to parse it
# Limits of recursion
STACK = 2**29  # bytes; a recursion through C code, such as functools.cache's, takes half a kilobyte per level
RECURSION = 120_000  # LiveCodeBench allows 50,000 calls; a call through functools.cache counts twice


class SandboxError(Exception):
    """Programs cannot be run on this machine. The message is one sentence for the user."""

    exit_code = 2


@dataclass(frozen=True)
class Outcome:
    """The result of running a program.

    status: ok | error | timeout | unanswered. output: the printed text, or the repr of the returned value.
    error: one line. again: the machine may be at fault (no CPU time, a broken sandbox), so do not cache this.
    """

    status: str
    output: str = ""
    error: str = ""
    again: bool = False


# -------------------------------------------------------------------------------------------- for the caller


def run_program(source: str, stdin: str) -> Outcome:
    """Runs a whole program; returns its printed text if it ended by itself with exit status 0."""
    return outcome(run_job("program", [{"source": source}], stdin), "out")


def call_function(source: str, name: str, arguments: str) -> Outcome:
    """Calls function `name`, or that method of class Solution; returns the repr of the result.

    arguments: one JSON value or Python literal per line. A result that is no plain value is given as <type>.
    """
    task = {"source": source, "name": name, "arguments": arguments}
    return outcome(run_job("function", [task]), "reply")


def run_asserts(source: str, name: str, asserts: list[str]) -> list[Outcome]:
    """Runs assert snippets, where `name` is a proxy that asks the program's process; one Outcome each.

    An assert is unanswered if it needs a value that cannot be passed between the processes: see Link.
    """
    reply = run_job("asserts", [{"source": source, "name": name}, {"asserts": asserts, "name": name}])
    results, line = [], ""
    for kind, *rest in map(json.loads, reply["reply"].split("\n")[:-1]):
        if kind == "line":
            line = rest[0]
        else:
            results.append(Outcome(kind, "", *rest))
            line = ""
    rest = outcome(reply, "reply")
    if rest.status in ("ok", "error"):
        rest = Outcome("error", "", "the program broke off")
    if rest.status == "timeout" and line:
        rest = replace(rest, error=f"{line} ({rest.error})")
    # the error tells of the first that is missing; those behind it did not run
    missing = [rest, *[replace(rest, error="")] * len(asserts)]
    return results + missing[: len(asserts) - len(results)]


def check() -> str | None:
    """Returns a note for the user if protections are missing. Raises SandboxError if programs cannot be run.

    It runs a harmless program. If that one fails, every program would fail here, and a verdict would say
    something about the machine instead of the program.
    """
    result = run_program("import unicodedata\nprint(int(input()) + 1)", "41")  # with a library from the disk
    if (result.status, result.output) != ("ok", "42\n"):
        reason = result.error or result.status
        raise SandboxError(
            f"programs cannot be run here, a harmless one failed ({reason}); "
            "use another Python or machine, or math problems only"
        )
    missing = protections().partition("; ")[2]
    return f"note: programs run in a sandbox with {missing} on this machine" if missing else None


def protections() -> str:
    """Returns one line that names the protections that are active on this machine, and those missing."""
    report = json.loads(run_job("limits", [{}])["reply"] or "{}")
    active = ", ".join(name for name in report if report[name])
    missing = ", ".join(name for name in report if not report[name])
    return f"sandbox: {active or 'nothing'} active" + (f"; {missing} missing" if missing else "")


def outcome(reply: dict, channel: str) -> Outcome:
    """Returns the Outcome that a supervisor's reply describes. reply[channel] holds the output."""
    lines = [line for line in reply["err"].splitlines() if line.strip()]
    last_line, exit_code = (lines[-1][:500] if lines else ""), reply["exit"]
    if exit_code is None:
        return Outcome("unanswered", "", "the sandbox did not answer", True)
    if reply["timeout"]:
        return Outcome("timeout", "", f"took more than {reply['timeout']}", reply["starved"])
    if reply["overflow"]:
        return Outcome("error", "", f"gave out more than {reply['overflow']} bytes")
    if exit_code != 0:
        reason = f"exit status {exit_code}" if exit_code > 0 else f"killed by signal {-exit_code}"
        return Outcome("error", "", last_line or reason)
    if channel == "reply" and not reply["reply"]:
        return Outcome("error", "", last_line or "ended without returning")
    return Outcome("ok", reply[channel])


class Server:
    """The process that forks supervisors: a program of its own, which inherits no memory of the caller."""

    def __init__(self):
        # as isolated as -I: no user's packages, no folder of this file, no other environment
        command = [sys.executable, "-s", "-P", "-B", os.path.abspath(__file__)]
        environment = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}  # for numpy
        environment["PYTHONHASHSEED"] = "0"  # the order of a set of texts does not change from run to run
        if "LD_LIBRARY_PATH" in os.environ:  # on some clusters Python does not start without it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            command, env=environment, cwd="/", start_new_session=True, bufsize=0, **pipes
        )

    def run(self, kind: str, task: dict) -> dict:
        """Runs a job and returns the reply. Raises OSError if the server is gone or does not answer."""
        write_all(self.process.stdin.fileno(), kind[:1].encode())
        send(self.process.stdin.fileno(), task)
        # the supervisor ends the job after WALL seconds; 20 more mean that the supervisor itself hangs
        reply = receive(self.process.stdout.fileno(), time.monotonic() + WALL + 20)
        os.read(self.process.stdout.fileno(), 1)  # the server sends a byte when the supervisor has ended
        return reply

    def stop(self):
        """Ends the server and all processes below it: when their pipe is closed, they end, even if busy."""
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.process.kill()
            self.process.wait()


def cores() -> int:
    """Returns how many cores this process may use: a scheduler or a container may allow fewer than exist."""
    count = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = map(int, file.read().split())
        return max(1, min(count, quota // period))
    except (OSError, ValueError):  # no such file, or no quota: then the file's first word is "max"
        return count


def fresh_servers():
    """Starts without servers: there are none yet, or they belong to the process that forked this one."""
    global job_slots, idle_servers
    job_slots, idle_servers = threading.BoundedSemaphore(cores()), queue.LifoQueue()


fresh_servers()
os.register_at_fork(after_in_child=fresh_servers)


def run_job(kind: str, tasks: list[dict], stdin: str = "") -> dict:
    """Runs a job on an idle server, or on a new one; returns the supervisor's reply. Any thread may call it.

    kind: program | function | asserts | limits. tasks: one for the program's process, then one for the
    asserts' process if there is one. If no server answers, the reply's "exit" is None.
    """
    limits = {"seconds": SECONDS, "wall": WALL, "memory": MEMORY, "out": OUTPUT, "reply": VALUE}
    task = {"limits": limits, "stdin": stdin, "tasks": [{**task, "limits": limits} for task in tasks]}
    with job_slots:
        for _ in range(2):  # a second try, because a server may have been killed while it was idle
            server = None
            try:
                try:
                    server = idle_servers.get_nowait()
                except queue.Empty:
                    server = Server()
                reply = server.run(kind, task)
                idle_servers.put(server)
                return reply
            except BaseException as e:
                if server:
                    server.stop()
                if not isinstance(e, (OSError, ValueError)):  # Ctrl-C
                    raise
    return {"exit": None, "out": "", "err": "", "reply": ""}


def write_all(fd: int, data: bytes):
    """Writes all the data; os.write alone may write only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def send(fd: int, value: Any):
    """Writes a value to a pipe: its length, then the value as JSON."""
    data = json.dumps(value).encode()
    write_all(fd, struct.pack("<Q", len(data)) + data)


def receive(fd: int, deadline: float | None = None) -> Any:
    """Reads the next value that `send` wrote to a pipe. Raises OSError at its end or at the deadline."""

    def read(size):
        data = bytearray()
        while len(data) < size:
            if deadline and not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise OSError("no answer")
            chunk = os.read(fd, min(size - len(data), 2**20))
            if not chunk:
                raise OSError("closed")
            data += chunk
        return data

    return json.loads(read(struct.unpack("<Q", read(8))[0]))


# ---------------------------------------------------------------------------------------------- plain values

# Python's parser counts its depth for all threads together. Two threads at once sometimes break the count.
PARSER_LOCK = threading.Lock()
CONSTANTS = dict(
    nan=math.nan, NaN=math.nan, inf=math.inf, Infinity=math.inf, true=True, false=False, null=None
)
# A quoted text (group 1), or a number of 4,000 digits or more. A text that is never closed matches, too;
# else the search would start again at each quotation mark of a hostile text.
TEXT_OR_LONG_NUMBER = re.compile(
    r"""("(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z))|(?<![\w.])\d{4000,}(?![\w.])""", re.S
)


def parse(text: str, mode: str = "exec") -> ast.AST:
    """ast.parse, safe to call from several threads."""
    with PARSER_LOCK:
        return ast.parse(text, mode=mode)


class ReplaceConstants(ast.NodeTransformer):
    """Replaces each name in CONSTANTS by its value."""

    def visit_Name(self, node):  # noqa: D102, N802
        return ast.Constant(CONSTANTS[node.id]) if node.id in CONSTANTS else node


def literal(text: str) -> Any:
    """Returns the value of a text that is JSON or a Python literal. Raises ValueError for any other text.

    Raises ValueError, too, if converting the text would take long. Never evaluates code.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # Python refuses to convert more than 4,300 decimal digits, because that takes long. Hexadecimal digits do
    # not take long and have no such limit.
    numbers = (match for match in TEXT_OR_LONG_NUMBER.finditer(text) if not match[1])
    if sum(len(match[0]) ** 2 for match in numbers) > 10**10:
        raise ValueError("too many digits")
    text = TEXT_OR_LONG_NUMBER.sub(lambda match: match[1] or hexadecimal(match[0]), text.strip())
    try:
        tree = parse(text, "eval")
        if any(name in text for name in CONSTANTS):
            tree = ReplaceConstants().visit(tree)
        if sum(len(keys) ** 2 for keys in map(colliding_keys, ast.walk(tree))) > 10**7:
            raise ValueError("too many keys")
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise ValueError(f"not a plain value: {text[:80]}") from None


def hexadecimal(digits: str) -> str:
    """Returns a decimal number of any length in hexadecimal."""
    number = 0
    for i in range(0, len(digits), 4000):
        part = digits[i : i + 4000]
        number = number * 10 ** len(part) + int(part)
    return hex(number)


def colliding_keys(node: ast.AST) -> list[ast.AST]:
    """Returns the keys of a set or dict that may have been chosen to have equal hashes.

    No text is among them, because Python randomizes the hashes of texts, and no integer below 2**60, because
    it is its own hash.
    """
    keys = node.elts if isinstance(node, ast.Set) else node.keys if isinstance(node, ast.Dict) else []
    texts = (str, bytes)
    return [
        key
        for key in keys
        if not (
            isinstance(value := getattr(key, "value", key), texts) or type(value) is int and value < 2**60
        )
    ]


# (type, text before its items, text after them, text of an empty one)
CONTAINERS = [(list, "[", "]", "[]"), (tuple, "(", ",)", "()"), (set, "{", "}", "set()")]
CONTAINERS += [(frozenset, "{", "}", "set()"), (collections.deque, "[", "]", "[]")]


def plain_repr(value: Any) -> str:
    """Returns the repr of a plain value, for `literal` to read; raises TypeError for any other value.

    Infinity is written as 1e999, a numpy scalar as the Python number.
    """
    kind = type(value)
    if kind is float and value in (math.inf, -math.inf):
        return "1e999" if value > 0 else "-1e999"
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    # dict.items(value), not value.items(): a subclass may override its methods
    if isinstance(value, dict):
        pairs = (f"{plain_repr(key)}: {plain_repr(item)}" for key, item in dict.items(value))
        return "{" + ", ".join(pairs) + "}"
    for container, opening, closing, empty in CONTAINERS:
        if isinstance(value, container):
            items = ", ".join(map(plain_repr, container.__iter__(value)))
            return opening + items + closing if items else empty
    if "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].generic):
        item = kind.item(value)
        return plain_repr(item if type(item) is not kind else float(item))  # a long double is its own item
    raise TypeError(f"a value of type {kind.__name__!r} is not a plain value")


# ------------------------------------------------------------------------------------------------ the server

HEADER = "typing string re datetime collections heapq bisect copy math random statistics itertools functools"


def serve():
    """Answers jobs from standard input, one after the other, until it is closed. Never reads a task."""
    del os.environ["PYTHONHASHSEED"]  # programs need not see it
    libc = ctypes.CDLL(None, use_errno=True)
    if ARCH:  # PR_SET_DUMPABLE: no process of this user may read the memory of this one and its children
        libc.prctl(4, 0, 0, 0, 0)
    set_limit("STACK", (STACK, STACK))
    prepared = libc, landlock_rules(libc), header()
    gc.collect()
    gc.freeze()  # when a program collects garbage, it skips the objects that exist by now
    while kind := os.read(0, 1):
        pid = os.fork()
        if not pid:
            try:
                die_with_parent(libc)
                supervise(kind, prepared)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            return  # the caller is waiting for the reply and sees the pipe closed
        os.write(1, b".")


def header() -> dict[str, Any]:
    """Returns {name: value} of the names that LiveCodeBench imports before a program; no built-in names."""
    names: dict[str, Any] = {}
    modules = [*HEADER.split(), "operator", "io", "sys", "json"]
    for module in modules:
        exec(f"from {module} import *", names)
    names.update((module, importlib.import_module(module)) for module in modules)
    built_in = {*vars(builtins), "__builtins__"}
    return {name: value for name, value in names.items() if name not in built_in}


def supervise(kind: bytes, prepared: tuple):
    """Runs one job in one child, or in two that talk to each other; sends the caller the reply.

    The children are forked before the task is read, so they do not inherit it. Each is sent its own part.
    prepared: libc, the version of the Landlock rules, the names of header().
    """
    pipes = {name: os.pipe() for name in "task out err reply asserts calls results".split()}
    pipes["stdin"] = (unnamed_file(),) * 2  # a file and no pipe, because programs ask for its size
    open_fds = {fd for ends in pipes.values() for fd in ends}
    null, children = os.open(os.devnull, os.O_RDWR), []
    for work, channels in PLANS[kind]:
        fds = [null if name == "-" else pipes[name[1:]][name[0] == ">"] for name in channels.split()]
        children.append(fork(work, fds, prepared))
    patience, exit_codes, cpu_seconds = 0, [], []
    try:
        outputs = {name: pipes[name][0] for name in ("out", "err", "reply")}
        task_fds = [pipes["task"][1], pipes["asserts"][1]]
        stdin = pipes["stdin"][0]
        for fd in open_fds - {*outputs.values(), *task_fds, stdin} | {null}:
            os.close(fd)
        task = receive(0)
        fill(stdin, task["stdin"].encode(errors="replace"))
        for fd, part in zip(task_fds, task["tasks"], strict=False):
            send(fd, part)
        for fd in task_fds:
            os.close(fd)
        result = read_outputs(outputs, task["limits"])
        patience = 0 if result["timeout"] or result["overflow"] else 1
    finally:
        for pid in children:
            exit_code, used = end(pid, patience)
            exit_codes, cpu_seconds = [*exit_codes, exit_code], [*cpu_seconds, used]
    # a program that ignores SIGXCPU may go on until the hard limit
    if -signal.SIGXCPU in exit_codes or max(cpu_seconds) >= task["limits"]["seconds"]:
        result["timeout"] = f"{task['limits']['seconds']} s of processor time"
    elif result["timeout"]:
        result["starved"] = (
            sum(cpu_seconds) > 0.1 * task["limits"]["wall"]
        )  # it did not sleep: the CPU was busy
    send(1, {**result, "exit": exit_codes[0]})


def unnamed_file() -> int:
    """Returns the descriptor of a new, empty file that is in no folder."""
    if LINUX:
        return os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def fill(fd: int, data: bytes):
    """Writes an unnamed file and closes it. Readers start at its beginning; on Linux nobody can change it."""
    position = 0
    while position < len(data):
        position += os.pwrite(fd, data[position : position + 2**20], position)
    if LINUX:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)  # no writing, growing, shrinking or changing of the seals
    os.close(fd)


def die_with_parent(libc: ctypes.CDLL):
    """Has the kernel kill this process when its parent ends."""
    if ARCH:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def fork(work: Callable, fds: list[int], prepared: tuple) -> int:
    """Starts a confined child process that reads its task and calls work(task, protections); returns its pid.

    fds: become the child's descriptors 0, 1, …; it reads the task from 3. prepared: as in supervise.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        libc, rules_version, names = prepared
        die_with_parent(libc)
        os.setsid()
        # By way of 100, 101, …: a copy straight to 0, 1, … could replace a descriptor that is still needed
        for i, fd in enumerate(fds):
            os.dup2(fd, 100 + i)
        for i in range(len(fds)):
            os.dup2(100 + i, i)
        os.closerange(len(fds), RULES_FD)
        os.closerange(RULES_FD + 1, 4096)
        task = receive(3)
        os.close(3)
        protections = confine(task["limits"], libc, rules_version)
        if rules_version:
            os.close(RULES_FD)
        open_streams(names)
        exit_code = 0
        try:
            work(task, protections)
        except SystemExit as e:
            exit_code = e.code if isinstance(e.code, int) else int(e.code is not None)
            if isinstance(e.code, str):
                write_error(e.code)
        except BaseException as e:
            exit_code = 1
            write_error(describe(e))
        if work is child_program:
            finish()
        os._exit(exit_code & 255)
    finally:
        os._exit(1)


def open_streams(names: dict[str, Any]):
    """Gives this process the streams, the names and the settings that a program expects."""
    for i, name in enumerate(("stdin", "stdout", "stderr")):
        names[name] = open(i, "rww"[i], encoding="utf-8", errors="replace")
        setattr(sys, name, names[name])
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    vars(builtins).update(names)
    sys.argv = ["program"]
    random.seed(0)  # so that a run can be repeated
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)
    set_any_limit = resource.setrlimit

    def setrlimit(kind, limits):
        if kind != resource.RLIMIT_STACK:  # it is large; programs ask for more than they may have
            set_any_limit(kind, limits)

    resource.setrlimit = setrlimit


def finish():
    """Does what Python does when it exits: waits for threads, calls exit handlers, flushes files."""

    def flush():
        files = [file for file in gc.get_objects() if type(file) in (io.TextIOWrapper, io.BufferedWriter)]
        for stream in (sys.stdout, sys.stderr, *files):
            try:
                stream.flush()
            except Exception:  # closed, or the program's own kind of stream
                pass

    threading._shutdown()
    atexit._run_exitfuncs()
    flush()
    vars(sys.modules["__main__"]).clear()  # with the next line: calls destructors, which may print
    gc.collect()
    flush()


def write_error(text: str):
    """Writes a line to standard error, on a line of its own."""
    os.write(2, ("\n" + text + "\n").encode(errors="replace"))


def describe(e: BaseException) -> str:
    """Returns an exception as one line, with the line number of the program where it was raised."""
    frames = traceback.walk_tb(e.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "program"]
    if isinstance(e, SyntaxError) and e.filename == "program" and e.lineno:
        lines.append(e.lineno)
    text = traceback.format_exception_only(e)[-1].strip().replace("\n", " ")[:400]
    return f"line {lines[-1]}: {text}" if lines else text


def end(pid: int, patience: float) -> tuple[int, float]:
    """Waits `patience` seconds for a child to exit, then kills it; returns its exit code and CPU seconds."""
    deadline, done = time.monotonic() + patience, 0
    while not done and time.monotonic() < deadline:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            time.sleep(0.0005)
    for kill in (os.killpg, os.kill)[: 1 + (not done)]:  # a child that is done gets no kill, only its group
        try:
            kill(pid, signal.SIGKILL)  # the group: processes that it started, if nothing forbade that
        except (ProcessLookupError, PermissionError):
            pass
    if not done:
        _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def read_outputs(fds: dict[str, int], limits: dict) -> dict:
    """Reads the outputs until all are closed, one is too long, or the time is up; returns the reply's texts.

    fds: {name: descriptor}. Keeps only the end of standard error. Raises OSError if the caller is gone.
    """
    deadline = time.monotonic() + limits["wall"]
    data = {name: bytearray() for name in fds}
    timeout, overflow, selector = "", 0, selectors.DefaultSelector()
    for name, fd in fds.items():
        selector.register(fd, selectors.EVENT_READ, name)
    selector.register(0, selectors.EVENT_READ, "caller")  # readable only when the caller has closed its pipe
    waiting = set(fds)
    while waiting and not overflow:
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            timeout = f"{limits['wall']} s on the clock"
            break
        for key, _ in selector.select(seconds_left):
            name, chunk = key.data, b""
            if name == "caller":
                raise OSError("the caller is gone")
            try:
                chunk = os.read(key.fd, 2**16)
            except OSError:
                pass
            if not chunk:
                selector.unregister(key.fd)
                os.close(key.fd)
                waiting.discard(name)
            elif name == "err":
                data["err"] = (data["err"] + chunk)[-(2**14) :]
            else:
                data[name] += chunk
                overflow = limits[name] if len(data[name]) > limits[name] else overflow
    texts = {name: value.decode(errors="replace") for name, value in data.items()}
    return {**texts, "timeout": timeout, "overflow": overflow, "starved": False}


# ---------------------------------------------------------------------------------------------- in the child


def run_source(source: str, name: str) -> types.ModuleType:
    """Runs the source as a module called `name`, and returns the module."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "program", "exec"), module.__dict__)
    return module


def load_function(task: dict) -> Callable:
    """Runs the source and returns the function, or method of class Solution, that the task names.

    Raises NameError if there is none.
    """
    module, name = run_source(task["source"], "solution"), task["name"]
    if hasattr(module, "Solution") and hasattr(module.Solution, name):
        return getattr(module.Solution(), name)
    if not callable(getattr(module, name, None)):
        raise NameError(f"the program defines no function {name!r}")
    return getattr(module, name)


def child_program(task: dict, _: dict):
    """Runs a whole program."""
    run_source(task["source"], "__main__")


def child_function(task: dict, _: dict):
    """Calls a function; replies with the repr of the result."""
    function = load_function(task)
    result = function(*[literal(line) for line in task["arguments"].split("\n") if line.strip()])
    try:
        text = plain_repr(result)
    except TypeError:
        text = f"<{type(result).__name__}>"
    write_all(4, text.encode(errors="replace"))


def child_limits(_: dict, protections: dict):
    """Replies with {protection: whether it is active}."""
    write_all(4, json.dumps(protections).encode())


def answer_calls(task: dict, _: dict):
    """Answers function calls from the asserts' process, which come from 4; writes results to 5."""
    link = Link(4, 5, 1)
    try:
        link.own(load_function(task))
    except BaseException as e:
        return link.send("failed", [], describe(e))
    link.send("loaded")
    while True:
        link.serve(*link.receive())


def check_asserts(task: dict, _: dict):
    """Runs the assert snippets and writes their outcomes to 4, as lines of JSON.

    Before a call it writes the line of the snippet that makes the call, so that a time-out can name it. In
    the snippets the function is a RemoteFunction: it writes each call to 5 and reads the result from 6.
    """
    caller = Caller(6, 5, 4)
    if caller.load_error:  # without a function no assert can pass, not even one that expects an exception
        for _ in task["asserts"]:
            caller.report("error", repr(caller.load_error))
        return
    names = {task["name"]: caller.function, "math": math}
    for snippet in task["asserts"]:
        caller.begin(snippet)
        try:
            exec(compile(snippet, "test", "exec"), names)
            outcome = caller.passed()
        except BaseException as e:
            outcome = caller.failed(e)
        caller.report(*outcome)


# First letter of a job's kind → the children, each with its work and its descriptors 0, 1, … in this order:
# <name is the reading end of that pipe, >name the writing end, - is /dev/null.
PLANS = {
    b"p": [(child_program, "<stdin >out >err <task")],
    b"f": [(child_function, "- - >err <task >reply")],
    b"a": [
        (answer_calls, "- - - <task <calls >results"),
        (check_asserts, "- - - <asserts >reply >calls <results"),
    ],
    b"l": [(child_limits, "- - >err <task >reply")],
}

# -------------------------------------------------------------------------------- between program and asserts


class CannotCarry(BaseException):
    """Raised where a message would need a value that it cannot carry. The assert then stays undecided."""


# {type without identity: (its parts, how to build a value from them)}
ATOMS = {
    complex: (lambda x: (x.real, x.imag), complex),
    bytes: (lambda x: (x.hex(),), bytes.fromhex),
    range: (lambda x: (x.start, x.stop, x.step), range),
    Decimal: (lambda x: (str(x),), Decimal),
    Fraction: (lambda x: (x.numerator, x.denominator), Fraction),
    datetime.date: (lambda x: (x.year, x.month, x.day), datetime.date),
    datetime.datetime: (lambda x: (*x.timetuple()[:6], x.microsecond, x.tzinfo), datetime.datetime),
    datetime.timedelta: (lambda x: (x.days, x.seconds, x.microseconds), datetime.timedelta),
}
DICTS = dict, collections.Counter, collections.OrderedDict, collections.defaultdict
MUTABLE = list, set, collections.deque, bytearray, *DICTS
VIEWS = type({}.keys()), type({}.values()), type({}.items())
FUNCTIONS = types.FunctionType, types.MethodType, types.BuiltinFunctionType
OTHERS = *FUNCTIONS, types.GeneratorType, map, zip, filter, enumerate, reversed
CARRIED = {kind.__name__: kind for kind in (*ATOMS, *MUTABLE, tuple, frozenset, *VIEWS, *OTHERS)}
CHANGEABLE = {kind.__name__ for kind in MUTABLE} | {"ndarray"}


class Remote:
    """Stands for a function or an iterator of the other process, of type `kind` there.

    It can be called, or asked for its next item. Anything else that asks for an attribute is undecided.
    """

    def __init__(self, link: "Link", kind: type | None):
        self.link_and_kind = link, kind

    def __getattribute__(self, name):  # noqa: D105
        link, kind = object.__getattribute__(self, "link_and_kind")
        if name == "__class__" and kind:  # isinstance() asks for it
            return kind
        raise link.lose(f"attribute {name!r} of a function or iterator")

    def __repr__(self):  # noqa: D105
        link_of(self).lose("the repr of a function or iterator")
        return "<function>"


def link_of(remote: Remote) -> "Link":
    """Returns the link that a Remote came through."""
    return object.__getattribute__(remote, "link_and_kind")[0]


class RemoteFunction(Remote):  # noqa: D101
    def __call__(self, *args, **kwargs):  # noqa: D102
        return link_of(self).ask("call", self, [*args, *kwargs.values()], list(kwargs))


class RemoteIterator(Remote):  # noqa: D101
    def __iter__(self):  # noqa: D105
        return self

    def __next__(self):  # noqa: D105
        return link_of(self).ask("next", self)


class Link:
    """One end of the pipes between the program and the asserts. It carries calls, results and exceptions.

    Both ends number the objects that they exchange. So an argument that is returned is the same object, and
    [[0] * n] * n is n times the same list. A message has the new content of each numbered object that was
    changed; the other end changes its own object. Functions and iterators stay where they are: see Remote.

    Only objects of the exact types above can be carried, and names of builtins. An exception arrives as the
    nearest built-in class, with its own name, text, arguments and attributes. Identities of numbers and texts
    are lost, and type(x) of a function or iterator. No message makes the receiver run code of the sender.
    """

    def __init__(self, read_fd: int, write_fd: int, first_number: int):
        self.read_fd, self.write_fd = read_fd, write_fd
        self.first_number, self.new_numbers = first_number, itertools.count(first_number, 2)
        self.objects, self.numbers = {}, {}  # number → object, id of the object → number
        self.contents = {}  # number of a mutable object → its content as both ends know it
        self.owned = {}  # number → function or iterator of this process
        self.lost = ""  # what could not be carried
        self.lock = threading.RLock()  # the program may call a function of the asserts in a thread
        kinds = type, types.BuiltinFunctionType
        self.named = {name: value for name, value in vars(builtins).items() if isinstance(value, kinds)}
        self.names = {id(value): name for name, value in self.named.items()}

    def lose(self, what: str) -> CannotCarry:
        """Notes what could not be carried. Returns an exception, which the program's code may well catch."""
        self.lost = self.lost or what
        return CannotCarry(what)

    def register(self, number: int, value: Any):
        """Gives an object a number."""
        self.objects[number], self.numbers[id(value)] = value, number

    def forget(self, number: int):
        """Takes an object's number away."""
        self.numbers.pop(id(self.objects.pop(number, None)), None)
        self.contents.pop(number, None)

    def own(self, value: Any) -> int:
        """Returns the new number of a function or iterator that the other end may use."""
        number = next(self.new_numbers)
        self.register(number, value)
        self.owned[number] = value
        return number

    def send(self, verb: str, values: list = (), extra: Any = None, unused: list[int] = ()):
        """Sends a message with values. Raises CannotCarry if one, or a changed object, cannot be carried.

        unused: numbers to forget. The content of a tuple follows those of its items, so that the receiver can
        build it at once.
        """
        self.unsent, self.nodes, known = [], {}, len(self.objects)
        try:
            for number, content in self.contents.items():
                node = self.content(self.objects[number])
                if node != content:
                    self.nodes[number] = node
            references = [self.reference(value) for value in values]
            for number in self.unsent:  # grows meanwhile
                if number not in self.nodes:
                    self.nodes[number] = self.content(self.objects[number])
        except (CannotCarry, RecursionError) as e:
            for number in list(self.objects)[known:]:
                self.forget(number)
                self.owned.pop(number, None)
            raise e if isinstance(e, CannotCarry) else self.lose("a value nested too deeply") from None
        send(self.write_fd, [verb, references, extra, list(self.nodes.items()), list(unused)])
        self.contents |= {n: x for n, x in self.nodes.items() if x[0] in CHANGEABLE}

    def reference(self, value: Any) -> Any:
        """Returns a value as JSON: a simple one itself, another as [type, parts], an object as ["#", number].

        An object that is new gets a number.
        """
        kind = type(value)
        if value is None or kind in (bool, str, float) or kind is int and -(2**53) < value < 2**53:
            return value
        if kind is int:
            return ["int", hex(value)]
        if kind in ATOMS:
            return [kind.__name__, *map(self.reference, ATOMS[kind][0](value))]
        if id(value) in self.numbers:
            return ["#", self.numbers[id(value)]]
        if id(value) in self.names:
            return ["name", self.names[id(value)]]
        if kind.__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufcSU":
            if kind.__name__ != "ndarray":
                return ["numpy", value.dtype.str, [], value.tobytes().hex()]
            number = next(self.new_numbers)
            self.register(number, value)
            self.unsent.append(number)
            return ["#", number]
        is_iterator = kind.__module__ in ("builtins", "itertools") and isinstance(value, Iterator)
        if is_iterator or kind in FUNCTIONS:
            number = self.own(value)
            self.nodes[number] = ["iterator" if is_iterator else "function", kind.__name__]
        elif kind in MUTABLE:
            number = next(self.new_numbers)
            self.register(number, value)
            self.unsent.append(number)
        elif kind in (tuple, frozenset, *VIEWS):
            node = self.content(value)
            if id(value) not in self.numbers:  # a list in it may hold it
                self.register(next(self.new_numbers), value)
            number = self.numbers[id(value)]
            self.nodes[number] = node
        else:
            raise self.lose(f"a value of type {kind.__name__!r}")
        return ["#", number]

    def content(self, value: Any) -> list:
        """Returns the content of a list or the like: [type, maxlen or default_factory, its items …]."""
        kind, extra = type(value), None
        if kind is bytearray:
            return ["bytearray", None, value.hex()]
        if kind.__name__ == "ndarray":
            return ["ndarray", None, value.dtype.str, list(value.shape), value.tobytes().hex()]
        if kind in DICTS:
            extra = value.default_factory if kind is collections.defaultdict else None
            value = itertools.chain.from_iterable(value.items())
        elif kind is collections.deque:
            extra = value.maxlen
        elif kind in VIEWS:
            value = gc.get_referents(value)  # the dict
        return [kind.__name__, self.reference(extra), *map(self.reference, value)]

    def receive(self) -> tuple[str, list, Any]:
        """(verb, values, extra) of the next message. Raises an Exception if it is none that `send` sends."""
        verb, references, extra, nodes, unused = receive(self.read_fd)
        for number in unused:
            self.forget(number)
        for number, node in nodes:
            if number not in self.objects:
                self.prepare(number, node)
        for number, (kind, extra_reference, *items) in nodes:
            if kind == "ndarray":
                self.objects[number][...] = self.array(*items)
            elif kind not in ("function", "iterator"):
                self.fill(number, CARRIED[kind], self.value(extra_reference), [self.value(x) for x in items])
        for number, node in nodes:
            if node[0] in CHANGEABLE:  # a set may have another order here
                self.contents[number] = self.content(self.objects[number])
        values = [self.value(reference) for reference in references]
        if verb in ("call", "next"):
            number, names = extra
            extra = self.owned[number], names
        elif verb == "return":
            (_,) = values
        elif verb == "raise":
            values = [self.exception(values, **extra)]
        return verb, values, extra

    def prepare(self, number: int, node: list):
        """Makes a new object, empty if it is mutable. Tuples and the like follow, with their items."""
        if type(number) is not int or number % 2 == self.first_number % 2:
            raise ValueError("not a number of the other end")
        kind = CARRIED.get(node[1 if node[0] in ("function", "iterator") else 0])
        if node[0] == "function":
            self.register(number, RemoteFunction(self, kind))
        elif node[0] == "iterator":
            self.register(number, RemoteIterator(self, kind))
        elif node[0] == "ndarray":
            self.register(number, self.array(*node[2:]))
        elif kind is collections.deque:
            self.register(number, kind(maxlen=self.value(node[1])))
        elif kind in MUTABLE:
            self.register(number, kind())

    def fill(self, number: int, kind: type, extra: Any, items: list):
        """Makes a tuple or the like, or replaces the content of a mutable object."""
        if kind in VIEWS:
            views = zip(VIEWS, (dict.keys, dict.values, dict.items))
            self.register(number, dict(views)[kind](*items))
            return
        if kind not in MUTABLE:
            if number in self.objects:
                raise ValueError("it has this number already")
            self.register(number, {tuple: tuple, frozenset: frozenset}[kind](items))
            return
        value = self.objects[number]
        if type(value) is not kind:
            raise ValueError("of another type")
        if kind is bytearray:
            value[:] = bytes.fromhex(*items)
        elif kind is list:
            value[:] = items
        else:
            value.clear()
        if kind is set:
            value.update(items)
        elif kind is collections.deque:
            value.extend(items)
        elif kind in DICTS:
            for key, item in zip(items[::2], items[1::2], strict=True):
                value[key] = item
        if kind is collections.defaultdict:
            value.default_factory = extra

    def value(self, reference: Any) -> Any:
        """Returns the value that `reference` has described."""
        if type(reference) is not list:
            return reference
        kind, *parts = reference
        if kind == "#":
            return self.objects[parts[0]]
        if kind == "name":
            return self.named[parts[0]]
        if kind == "int":
            return int(parts[0], 16)
        if kind == "numpy":
            return self.array(*parts)[()]
        return ATOMS[CARRIED[kind]][1](*map(self.value, parts))

    def array(self, dtype: str, shape: list[int], data: str) -> Any:
        """Returns a numpy array of numbers or texts."""
        import numpy

        if numpy.dtype(dtype).kind not in "biufcSU":
            raise ValueError("no array of numbers or texts")
        return numpy.ndarray(shape, dtype, bytes.fromhex(data)).copy()

    def ask(self, verb: str, remote: Remote, values: list = (), names: list[str] = ()) -> Any:
        """Has the other end call a function, or take the next item; returns the result or raises what came.

        names: of the last values, which are keyword arguments. Until the answer comes, the other end may ask.
        """
        with self.lock:
            self.send(verb, values, [self.numbers[id(remote)], list(names)])
            while True:
                verb, values, extra = self.receive()
                if verb in ("call", "next"):
                    self.serve(verb, values, extra)
                elif verb == "return":
                    return values[0]
                elif verb == "end":
                    raise StopIteration
                elif verb == "raise":
                    raise values[0]
                else:
                    raise self.lose(extra)

    def serve(self, verb: str, values: list, extra: tuple[Any, list[str]]):
        """Answers what the other end has asked."""
        (target, names), answers = extra, []
        count = len(values) - len(names)
        try:
            if verb == "call":
                result = target(*values[:count], **dict(zip(names, values[count:])))
            else:
                result = next(target)
            answers = [("return", [result])]
        except CannotCarry:
            pass
        except BaseException as e:
            is_end = verb == "next" and isinstance(e, StopIteration)
            answers = [("end",)] if is_end else list(exception_messages(e))
        if self.lost:  # the program may have caught CannotCarry
            answers = []
        for answer in answers:
            try:
                self.lost = ""
                return self.send(*answer)
            except CannotCarry:
                pass
        reason, self.lost = self.lost, ""
        try:
            self.send("lost", [], reason)
        except CannotCarry:  # a changed argument: from now on the two processes differ
            send(self.write_fd, ["broken", [], reason, [], []])

    def exception(self, values: list, kind: str, name: str, text: str, line: str, attributes: list | None):
        """Returns the exception that exception_messages() describes."""
        base, namespace = self.named[kind], {"__str__": lambda _: text}
        if not issubclass(base, BaseException):
            raise ValueError("no exception")
        count = len(values) - len(attributes or ())
        args = values[:count] if attributes is not None else [text]
        if attributes is None:
            namespace["args"] = property(lambda _: self.raise_lost("arguments of an exception"))
        try:
            error = base(*args)
            if name or attributes is None or str(error) != text:
                if name:
                    namespace["__getattr__"] = lambda _, key: self.raise_lost(f"{key!r} of an exception")
                error = type(name or kind, (base,), namespace)(*args)
        except Exception:
            return self.lose(f"an exception of type {name or kind!r}")
        vars(error).update(zip(attributes or (), values[count:]))
        return error

    def raise_lost(self, what: str):
        """Raises CannotCarry; for lambdas."""
        raise self.lose(what)


def exception_messages(e: BaseException) -> Iterator[tuple]:
    """Yields two messages about an exception: with its arguments and attributes, and without them."""
    base = next(kind for kind in type(e).__mro__ if kind.__module__ == "builtins")
    extra = {"kind": base.__name__, "name": "" if base is type(e) else type(e).__name__}
    extra |= {"text": str(e), "line": describe(e)}
    yield "raise", [*e.args, *vars(e).values()], {**extra, "attributes": list(vars(e))}
    yield "raise", [], {**extra, "attributes": None}


class Caller(Link):
    """The asserts' end. It judges each snippet and knows the last call, for the report."""

    def __init__(self, read_fd: int, write_fd: int, report_fd: int):
        super().__init__(read_fd, write_fd, 0)
        self.report_fd, self.broken = report_fd, ""
        verb, _, self.load_error = self.receive()
        self.function = RemoteFunction(self, types.FunctionType)
        self.register(1, self.function)

    def begin(self, snippet: str):
        """Starts a snippet."""
        self.snippet, self.lost, self.not_finite, self.raised, self.line_sent = snippet, "", [], None, 0
        self.returned = 0, None  # line and result of the last call

    def text_of(self, line: int) -> str:
        """Returns a line of the snippet."""
        return self.snippet.split("\n")[line - 1].strip()[:200] if line else ""

    def ask(self, verb: str, remote: Remote, values: list = (), names: list[str] = ()) -> Any:  # noqa: D102
        frame = sys._getframe()
        while frame and frame.f_code.co_filename != "test":
            frame = frame.f_back
        line = frame.f_lineno if frame else 0
        if line != self.line_sent:
            self.report("line", self.text_of(line))
            self.line_sent = line
        try:
            result = super().ask(verb, remote, values, names)
        except StopIteration:
            # it would end the loop in all(map(…)) before anything is compared
            if verb == "call" and "StopIteration" not in self.snippet:
                raise RuntimeError("the function raised StopIteration") from None
            raise
        self.returned = line, result
        return result

    def report(self, kind: str, text: str):
        """Writes a line of JSON to the supervisor."""
        write_all(self.report_fd, (json.dumps([kind, text]) + "\n").encode())

    def send(self, verb: str, values: list = (), extra: Any = None, unused: list[int] = ()):  # noqa: D102
        numbers = [n for n in self.objects if n not in self.owned and n != 1]
        # held by nothing but self.objects and the argument of getrefcount
        unused = [n for n in numbers if sys.getrefcount(self.objects[n]) == 2]
        for number in unused:
            self.forget(number)
        try:
            super().send(verb, values, extra, unused)
        except OSError:
            os._exit(0)  # the program is gone, so this assert and all later ones have failed

    def receive(self) -> tuple[str, list, Any]:  # noqa: D102
        try:
            verb, values, extra = super().receive()
        except (Exception, CannotCarry):  # closed, or a forged message
            os._exit(0)
        if verb == "raise":
            self.raised = values[0], extra["line"]
        elif verb == "broken":
            self.broken = extra
        return verb, values, extra

    def value(self, reference: Any) -> Any:  # noqa: D102
        value = super().value(reference)
        kind = type(value)
        if (
            kind in (float, complex)
            and not cmath.isfinite(value)
            or kind is Decimal
            and not value.is_finite()
        ):
            self.not_finite.append(value)
        return value

    def array(self, *parts):  # noqa: D102
        array = super().array(*parts)
        if array.dtype.kind in "fc" and not sys.modules["numpy"].isfinite(array).all():
            self.not_finite.append(array)
        return array

    def passed(self) -> list[str]:
        """Returns [status, error] of a snippet that ended by itself."""
        if self.lost or self.broken:
            return ["unanswered", f"{self.lost or self.broken} cannot be passed between program and asserts"]
        if self.not_finite and not re.search(
            r"\b(inf|infinity|nan|is(inf|nan|finite))\b", self.snippet, re.I
        ):
            # |inf - x| <= tolerance * inf holds for every x
            return ["error", f"the function returned {self.not_finite[0]}"]
        return ["ok", ""]

    def failed(self, e: BaseException) -> list[str]:
        """Returns [status, error] of a snippet that ended with an exception."""
        if self.lost or self.broken:
            return self.passed()
        frames = traceback.walk_tb(e.__traceback__)
        line = next((n for frame, n in reversed([*frames]) if frame.f_code.co_filename == "test"), 0)
        if self.raised and e is self.raised[0]:
            return ["error", f"{self.text_of(line)} (raised {self.raised[1]!r})"]
        if isinstance(e, NameError):  # perhaps of a name that the program defines
            return ["unanswered", f"{self.text_of(line)} ({describe(e)})"]
        notes = [] if isinstance(e, AssertionError) else [describe(e)]
        if self.returned[0] == line:
            notes.append(f"returned {short_repr(self.returned[1])}")
        return ["error", self.text_of(line) + (f" ({'; '.join(notes)})" if notes else "")]


def short_repr(value: Any) -> str:
    """Returns the repr of a value; of a long one only its beginning and its end."""
    shortener = reprlib.Repr()
    shortener.maxlist = shortener.maxtuple = shortener.maxdict = shortener.maxset = shortener.maxdeque = 20
    shortener.maxstring = shortener.maxlong = shortener.maxother = 150
    return shortener.repr(value)


# ----------------------------------------------------------------------------------------------- confinement

# (architecture number of seccomp, column of the tables below), or None
ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}.get(os.uname().machine if LINUX else "")
# The system calls that a program may use: name, number on x86_64, number on aarch64; -1 where there is none.
ALLOWED = """
read 0 63, write 1 64, close 3 57, stat 4 -1, fstat 5 80, lstat 6 -1, newfstatat 262 79, statx 332 291,
lseek 8 62, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69, pwritev 296 70,
preadv2 327 286, pwritev2 328 287, access 21 -1, faccessat 269 48, faccessat2 439 439, readlink 89 -1,
readlinkat 267 78, getdents 78 -1, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50,
statfs 137 43, fstatfs 138 44, ftruncate 77 46, fadvise64 221 223, dup 32 23, dup2 33 -1, dup3 292 24,
close_range 436 436, pipe 22 -1, pipe2 293 59, umask 95 166,
poll 7 -1, ppoll 271 73, select 23 -1, pselect6 270 72, epoll_create 213 -1, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -1, epoll_pwait 281 22, eventfd 284 -1, eventfd2 290 19, pause 34 -1,
nanosleep 35 101, clock_nanosleep 230 115, wait4 61 260, waitid 247 95,
mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227, mincore 27 232,
madvise 28 233, membarrier 324 283,
futex 202 98, set_robust_list 273 99, get_robust_list 274 100, set_tid_address 218 96, rseq 334 293,
arch_prctl 158 -1, sched_yield 24 124,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, alarm 37 -1, getitimer 36 102,
setitimer 38 103, restart_syscall 219 128,
sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockopt 55 209, getsockname 51 204, getpeername 52 205,
getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -1, getpgid 121 155,
getsid 124 156, getpriority 140 141, getrusage 98 165, getrlimit 97 163, setrlimit 160 164,
sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, sched_rr_get_interval 148 127,
capget 125 90, getcpu 309 168, uname 63 160, sysinfo 99 179, times 100 153, time 201 -1,
gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, getrandom 318 278,
exit 60 93, exit_group 231 94
"""
# Calls that are allowed in part, or used here. LANDLOCK: create_ruleset, add_rule, restrict_self
CLONE, PRLIMIT, FCNTL, OPEN, OPENAT = (56, 220), (302, 261), (72, 25), (2, -1), (257, 56)
SOCKETPAIR, IOCTL, PRCTL, CAPSET, LANDLOCK = (53, 199), (16, 29), (157, 167), (126, 91), (444, 445, 446)
DEVICES = "/dev/null", "/dev/urandom"
RULES_FD = 99  # descriptor of the Landlock rules: above those that fork() keeps, below its copies at 100


def confine(limits: dict, libc: ctypes.CDLL, rules_version: int) -> dict[str, bool]:
    """Takes from this process what a program does not need. Returns {protection: whether it is active}."""
    seconds, memory = limits["seconds"], limits["memory"]
    active = {"rlimits": set_limit("CPU", (seconds, seconds + 1)) and set_limit("AS", (memory, memory))}
    active["rlimits"] &= (
        set_limit("FSIZE", (0, 0)) and set_limit("NOFILE", (64, 64)) and set_limit("CORE", (0, 0))
    )
    active |= {"Landlock": False, "seccomp": False}
    if ARCH:
        header, no_capabilities = struct.pack("<Ii", 0x20080522, 0), bytes(24)  # version 3, this process
        libc.syscall(CAPSET[ARCH[1]], header, no_capabilities)  # root without its capabilities
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        active["Landlock"] = rules_version > 0 and libc.syscall(LANDLOCK[2], RULES_FD, 0) == 0
        files_guarded = active["Landlock"] and rules_version >= 3  # from version 3 also against truncation
        code = seccomp_filter(files_guarded)
        buffer = ctypes.create_string_buffer(code)
        program = ctypes.create_string_buffer(struct.pack("HL", len(code) // 8, ctypes.addressof(buffer)))
        active["seccomp"] = libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if not active["seccomp"]:
        set_limit("NPROC", (0, 0))
    return active


def set_limit(name: str, values: tuple[int, int]) -> bool:
    """Sets a resource limit of this process, (soft, hard), at most as high as the hard limit it already has.

    Returns whether a limit of that name could be set.
    """
    try:
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        values = values if hard == resource.RLIM_INFINITY else tuple(min(value, hard) for value in values)
        resource.setrlimit(kind, values)
        return True
    except (ValueError, OSError, AttributeError):  # macOS has no limit of the address space
        return False


def landlock_rules(libc: ctypes.CDLL) -> int:
    """Makes Landlock rules that allow reading what Python needs and nothing else, at descriptor RULES_FD.

    Returns the version of Landlock, or 0 if this machine has none.
    """
    if not ARCH or (version := libc.syscall(LANDLOCK[0], None, 0, 1)) < 1:  # this asks for the version
        return 0
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    files = 2**bits - 1  # all rights on files that the kernel knows
    # from version 4 also TCP, from 6 also signals and sockets to processes outside
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(LANDLOCK[0], struct.pack("<QQQ", files, 3, 3)[:size], size, 0)
    # only lib and lib64 of a prefix: the prefix may be /usr, and the rest of that is not Python's
    prefixes = sys.prefix, sys.base_prefix
    libraries = {os.path.join(prefix, lib) for prefix in prefixes for lib in ("lib", "lib64")}
    paths = libraries | {"/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", *DEVICES}
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH)
        except OSError:
            continue
        # execute (shared libraries) and read files; list folders; write to /dev/null
        rights = 1 | 4 | (8 if os.path.isdir(path) else 0) | (2 if path == DEVICES[0] else 0)
        libc.syscall(LANDLOCK[1], rules, 1, struct.pack("<Qi", rights, fd), 0)
        os.close(fd)
    os.dup2(rules, RULES_FD)
    os.close(rules)
    return version


def seccomp_filter(files_guarded: bool) -> bytes:
    """Returns a BPF program that refuses every system call that is not known to be needed.

    A refused call fails with EPERM; one of the newer calls with ENOSYS, as on an old kernel, so that the C
    library uses older ones instead.
    files_guarded: Landlock already refuses to open files for writing; without it the filter refuses that.
    """
    arch, column = ARCH
    # An instruction is (operation, instructions to skip if it holds, instructions to skip if not, number).
    load, equal, at_least, has, mask = 0x20, 0x15, 0x35, 0x45, 0x54
    allow, refuse, unknown = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x00050026)
    newer = 424  # from here on both architectures have the same numbers
    first, second, third = ((load, 0, 0, 16 + 8 * i) for i in range(3))  # load an argument's lower half
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), refuse]  # another architecture has other numbers
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse]  # x32's numbers; now the call is loaded

    def when(numbers, *instructions):
        """Adds instructions for one system call; all other calls skip them."""
        code.extend([(equal, 0, len(instructions), numbers[column] & 0xFFFFFFFF), *instructions])

    def one_of(*values):
        """Instructions that allow the call if the argument that was loaded is one of the values."""
        return [step for value in values for step in ((equal, 0, 1, value), allow)] + [refuse]

    for call in ALLOWED.split(","):
        when([int(number) for number in call.split()[1:]], allow)
    when(CLONE, first, (has, 1, 0, 0x10000), refuse, allow)  # threads only
    when(PRLIMIT, first, (equal, 1, 0, 0), refuse, allow)  # its own limits only
    when(PRCTL, first, *one_of(15, 16, 0x53564D41))  # names of a thread and of memory
    if files_guarded:
        when(OPEN, allow)
        when(OPENAT, allow)
    else:  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
        when(OPEN, second, (has, 0, 1, 0o1103), refuse, allow)
        when(OPENAT, third, (has, 0, 1, 0o1103), refuse, allow)
    # asyncio needs a pair of connected sockets: only SOCK_STREAM, as other types can be connected anew
    when(SOCKETPAIR, second, (mask, 0, 0, 15), (equal, 1, 0, 1), refuse, allow)
    # copies and flags of descriptors, the size of a pipe, seals; not: locks, leases, signals to an owner
    when(FCNTL, second, *one_of(0, 1, 2, 3, 4, 1030, 1032, 1034))
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    when(IOCTL, second, *one_of(0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))
    code += [(at_least, 0, 1, newer), unknown, refuse]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


if __name__ == "__main__":
    serve()
