"""Not part of the method: runs Python programs that a model wrote. It treats every program as hostile.

    from parts import sandbox
    sandbox.run_program("print(int(input()) + 1)", "41\\n")  # Outcome(status='ok', output='42\\n', …)
    sandbox.call_function("def f(x): return x + 1", "f", "41")  # Outcome(status='ok', output='42', …)
    sandbox.run_asserts("def f(x): return x + 1", "f", ["assert f(41) == 42"])  # [Outcome(status='ok', …)]

A program cannot forge a verdict, because no expected output ever enters its process. It is sent none. It
also inherits none, because the process that forks it never reads a task.

    caller ── server       starts clean; forks processes and hands the caller their pipes, so it stays clean
                ├─ program  gets the source and one input; the caller compares its result
                ├─ asserts  gets the asserts; their calls of the function go to the program's process (Mirror)
                └─ more     forked and confined ahead of the next jobs, which hides most of a job's cost

The program and asserts processes drop their capabilities and limit their CPU time, memory, threads and files.
On Linux they are locked in, too. Landlock lets them read Python's own folders and nothing else; of other
files a program can see the size and the times (stat) if it knows the path. Seccomp leaves them only the
system calls that Python is known to need: they cannot start processes, send signals, open connections, or
change files or other processes, and calls that a later kernel adds are denied, too. Where the kernel lacks
one of these protections, they run without it; protections() says which are active. When the caller ends, its
socket closes, and then every process below it ends.
"""

import ast
import atexit
import builtins
import collections
import ctypes
import datetime
import decimal
import fcntl
import fractions
import functools
import gc
import importlib
import io
import itertools
import json
import math
import operator
import os
import queue
import re
import resource
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINUX = sys.platform == "linux"
# Limits of a job
SECONDS = 6  # CPU time
WALL = 12  # seconds of wall-clock time
MEMORY = 2**30  # bytes of address space
THREADS = 100
OUTPUT = 2**24  # bytes of standard output, and of standard error; a program that prints more has failed
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
    return outcome(run_job([{"work": "program", "source": source}], stdin), "out")


def call_function(source: str, name: str, arguments: str) -> Outcome:
    """Calls function `name`, or that method of class Solution; returns the repr of the result.

    arguments: one JSON value or Python literal per line. A result that is no plain value is given as <type>.
    """
    task = {"work": "function", "source": source, "name": name, "arguments": arguments}
    return outcome(run_job([task]), "reply")


def run_asserts(source: str, name: str, asserts: list[str]) -> list[Outcome]:
    """Runs assert snippets, where `name` is a proxy for the program's function; returns one Outcome each.

    output: of a failed assert, the repr of the value that the function returned last. error: the line that
    failed and, if the exception is no AssertionError, the exception in brackets and quotation marks.
    status "unanswered": the assert may mean something else here than in one process, so nobody knows whether
    the program is right. There are four cases:
    - An argument or a result cannot be carried to the other process (see Mirror).
    - The snippet needs a name or a library that it does not have here.
    - It fails, and it replaces something (such as stdin) of which the program's process has its own.
    - It passes with an inequality or a negation after the function returned an infinity or NaN, which make
      such an assert pass too easily.
    """
    tasks = [
        {"work": "answers", "source": source, "name": name},
        {"work": "asserts", "asserts": asserts, "name": name},
    ]
    result = run_job(tasks, replies=len(asserts))
    # If the program ended during an assert, this one has no outcome: the reply ends with its line, if known.
    *lines, line = result["reply"].split("\n")
    results = [Outcome(*json.loads(each)) for each in lines]
    if len(results) == len(asserts):
        return results
    rest = outcome(result, "reply")
    if rest.status in ("ok", "error"):
        rest = Outcome("error", "", "the program broke off")
    line = line or asserts[len(results)].strip().split("\n")[0]
    first = Outcome(rest.status, "", f"{line} ({rest.error})", rest.again)
    return results + [first] + [rest] * (len(asserts) - len(results) - 1)


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
    report = json.loads(run_job([{"work": "limits"}])["reply"] or "{}")
    active = ", ".join(name for name in report if report[name])
    missing = ", ".join(name for name in report if not report[name])
    return f"sandbox: {active or 'nothing'} active" + (f"; {missing} missing" if missing else "")


def outcome(result: dict, channel: str) -> Outcome:
    """Returns the Outcome that a result of run_job describes. result[channel] holds the output."""
    lines = [line for line in result["err"][-5000:].splitlines() if line.strip()]
    last_line, exit_code = (lines[-1][:500] if lines else ""), result["exit"]
    if exit_code is None:
        return Outcome("unanswered", "", "the sandbox did not answer", True)
    if result["timeout"]:
        return Outcome("timeout", "", f"took more than {result['timeout']}", result["starved"])
    if result["overflow"]:
        return Outcome("error", "", f"wrote more than {result['overflow']} bytes")
    if exit_code != 0:
        reason = f"exit status {exit_code}" if exit_code > 0 else f"killed by signal {-exit_code}"
        return Outcome("error", "", last_line or reason)
    if channel == "reply" and not result["reply"].endswith("\n"):
        return Outcome("error", "", last_line or "ended without returning")
    return Outcome("ok", result["reply"].removesuffix("\n") if channel == "reply" else result[channel])


class Server:
    """The process that forks others for jobs: a program of its own, which inherits no memory of the caller.

    A socket connects them. Through it the server offers processes, by sending their descriptors, and is told
    when a job is over. This class is the caller's side, serve() the server's.
    """

    def __init__(self):
        # -P, -s: import nothing from the current folder or the user's. Not -I, which ignores PYTHONHASHSEED.
        command = [sys.executable, "-P", "-s", "-B", os.path.abspath(__file__)]
        environment = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}  # for numpy
        environment["PYTHONHASHSEED"] = "0"  # else list(set(texts)) would change from server to server
        if "LD_LIBRARY_PATH" in os.environ:  # on some clusters Python does not start without it
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        self.socket, other_end = socket.socketpair()
        with other_end:
            self.process = subprocess.Popen(
                command,
                stdin=other_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,
            )

    def take(self) -> list[int]:
        """Returns the caller's ends of the descriptors 0 … 4 of the next process that the server forked."""
        wait_for(self.socket)
        data, fds, _, _ = socket.recv_fds(self.socket, 1, 5, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not data:
            raise OSError("closed")
        return fds

    def run(self, tasks: list[dict], stdin: str, replies: int, limits: dict) -> dict:
        """Runs a job and returns its result. Raises OSError if the server is gone or does not answer."""
        processes: list[list[int]] = []
        try:
            for _ in tasks:
                processes.append(self.take())
            fill(processes[0][0], stdin.encode(errors="replace"))
            send_tasks([fds[3] for fds in processes], [{**task, "limits": limits} for task in tasks])
            outputs = {"out": processes[0][1], "err": processes[0][2], "reply": processes[-1][4]}
            result = read_outputs(outputs, replies, limits)
        finally:
            for fd in itertools.chain(*processes):
                os.close(fd)
        stuck = result["timeout"] or result["overflow"]
        command = FORGET if result["exit"] == 0 else KILL if stuck else AWAIT
        self.socket.sendall(command + bytes([len(tasks)]))
        if command == FORGET:
            return result
        ended = [receive(wait_for(self.process.stdout)) for _ in tasks]
        exit_codes, cpu_seconds = zip(*ended, strict=True)
        result["exit"] = exit_codes[0]
        # A program may ignore SIGXCPU; then the kernel kills it a second later.
        if -signal.SIGXCPU in exit_codes or max(cpu_seconds) >= limits["seconds"]:
            result["timeout"] = f"{limits['seconds']} s of processor time"
        elif result["timeout"]:  # a program that did not sleep was short of CPU time
            result["starved"] = sum(cpu_seconds) > 0.1 * limits["wall"]
        return result

    def stop(self):
        """Ends the server and all processes below it: when their socket is closed, they end, even if busy."""
        self.socket.close()
        self.process.stdout.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.process.kill()
            self.process.wait()


def read_outputs(fds: dict[str, int], replies: int, limits: dict) -> dict:
    """Reads outputs until the last reply, until all are closed, one is too long, or the time is up.

    Returns the texts of out, err and reply, and why it stopped: "exit" is 0 after the last reply, else None;
    "timeout" and "overflow" are true if a limit was hit. replies: the number of lines that the process writes
    to `reply` if all goes well.
    """
    deadline = time.monotonic() + limits["wall"]
    data, waiting = {name: bytearray() for name in fds}, {fd: name for name, fd in fds.items()}
    exit_code, timeout, overflow, answered, reads = None, "", 0, 0, 0
    with selectors.DefaultSelector() as selector:
        for fd in waiting:
            selector.register(fd, selectors.EVENT_READ)
            os.set_blocking(fd, False)
        while waiting and not overflow:
            seconds_left = deadline - time.monotonic()
            # After the last reply, only what is already in the pipes is read.
            events = selector.select(0 if exit_code == 0 else max(0, seconds_left))
            if not events or seconds_left < 0:
                timeout = "" if exit_code == 0 else f"{limits['wall']} s on the clock"
                break
            for key, _ in events:
                name, chunk = waiting[key.fd], os.read(key.fd, 2**16)
                data[name] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    del waiting[key.fd]
                if len(data[name]) > limits[name]:
                    overflow = limits[name]
                if name == "reply":
                    answered += chunk.count(b"\n")
                    exit_code = 0 if answered >= replies else None
                reads += 1
                if reads > 100 and len(chunk) < 2**15:
                    time.sleep(0.002)  # meanwhile the pipe fills: else each byte may cost a read
    texts = {name: value.decode(errors="replace") for name, value in data.items()}
    exit_code = None if overflow else exit_code
    return {**texts, "exit": exit_code, "timeout": timeout, "overflow": overflow, "starved": False}


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
if __name__ != "__main__":  # a server's children have none
    os.register_at_fork(after_in_child=fresh_servers)


def run_job(tasks: list[dict], stdin: str = "", replies: int = 1) -> dict:
    """Runs a job on an idle server, or on a new one; returns its result. Any thread may call it.

    tasks: one for the program's process, then one for the asserts' process if there is one. replies: how
    many lines the last of them replies. If no server answers, the result's "exit" is None.
    """
    limits = dict(seconds=SECONDS, wall=WALL, memory=MEMORY, out=OUTPUT, err=OUTPUT, reply=VALUE)
    with job_slots:
        for _ in range(2):  # a second try, because a server may have been killed while it was idle
            server = None
            try:
                try:
                    server = idle_servers.get_nowait()
                except queue.Empty:
                    server = Server()
                result = server.run(tasks, stdin, replies, limits)
                idle_servers.put(server)
                return result
            except BaseException as e:
                if server:
                    server.stop()
                if not isinstance(e, (OSError, ValueError)):  # Ctrl-C
                    raise
    return {"exit": None, "out": "", "err": "", "reply": ""}


def wait_for(file: Any) -> int:
    """Waits until the server has sent something; returns the descriptor. Raises OSError if it hangs."""
    if not select.select([file], [], [], 30)[0]:
        raise OSError("no answer")
    return file.fileno()


def write_all(fd: int, data: bytes):
    """Writes all the data; os.write alone may write only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_all(fd: int, size: int) -> bytearray:
    """Reads so many bytes. Raises OSError if the other end is closed before."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, min(size - len(data), 2**20))
        if not chunk:
            raise OSError("closed")
        data += chunk
    return data


def send(fd: int, value: Any):
    """Writes a value to a pipe: its length, then the value as JSON."""
    data = json.dumps(value).encode()
    write_all(fd, struct.pack("<Q", len(data)) + data)


def receive(fd: int) -> Any:
    """Reads the next value that `send` wrote to a pipe. Raises OSError at its end."""
    return json.loads(read_all(fd, *struct.unpack("<Q", read_all(fd, 8))))


def send_tasks(fds: list[int], tasks: list[dict]):
    """Sends each process its task; connects two processes by a pipe in each direction."""
    pipes: list[tuple] = [(), ()]
    if len(tasks) == 2:
        (calls, calls_end), (results, results_end) = os.pipe(), os.pipe()
        pipes = [(calls, results_end), (results, calls_end)]
    try:
        for fd, task, ends in zip(fds, tasks, pipes, strict=False):
            data = json.dumps(task).encode()
            with socket.socket(fileno=os.dup(fd)) as connection:
                socket.send_fds(connection, [struct.pack("<Q", len(data))], ends)
            write_all(fd, data)
    finally:
        for fd in itertools.chain(*pipes):
            os.close(fd)


def receive_task(fd: int) -> tuple[dict, list[int]]:
    """Receives a task and the pipes from and to the other process, if there is one; closes the socket."""
    with socket.socket(fileno=fd) as connection:
        size, fds, _, _ = socket.recv_fds(connection, 8, 2)
        return json.loads(read_all(fd, *struct.unpack("<Q", size))), fds


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
    values = [(key, getattr(key, "value", key)) for key in keys]
    return [
        key
        for key, value in values
        if not isinstance(value, (str, bytes)) and not (type(value) is int and value < 2**60)
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


# ------------------------------------------------------------------------------------------ shared objects


def as_items(value):
    """(state, items) that describe an object which has items and no other state."""
    return None, list(value)


def as_mapping(value):
    """(state, items) of a mapping: the items are all keys, then all values."""
    return None, [*value, *value.values()]


def as_arguments(value):
    """(state, items) of an object that its class makes from arguments: the items are these."""
    return None, list(value.__reduce__()[1])


def as_view(value):
    """(state, items) of a view of a dict: the only item is the dict."""
    return None, gc.get_referents(value)[:1]


# Objects that cannot change. {type: (function from an object to its state, as JSON, and its items; function
# from state and items to an object)}
FIXED: dict[type, tuple[Callable, Callable]] = {
    tuple: (as_items, lambda _, items: tuple(items)),
    frozenset: (as_items, lambda _, items: frozenset(items)),
    bytes: (lambda value: (value.decode("latin-1"), []), lambda state, _: state.encode("latin-1")),
    # a large integer: hexadecimal digits take no time to convert
    int: (lambda value: (hex(value), []), lambda state, _: int(state, 16)),
    complex: (lambda value: (None, [value.real, value.imag]), lambda _, items: complex(*items)),
    object: (lambda _: (None, []), lambda *_: object()),
    type(...): (lambda _: (None, []), lambda *_: ...),
    type(NotImplemented): (lambda _: (None, []), lambda *_: NotImplemented),
}
for kind in range, slice, decimal.Decimal, fractions.Fraction:
    FIXED[kind] = as_arguments, lambda _, items, kind=kind: kind(*items)
for kind in datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone:
    FIXED[kind] = as_arguments, lambda _, items, kind=kind: kind(*items)
for view in dict.keys, dict.values, dict.items:  # made of their dict
    FIXED[type(view({}))] = as_view, lambda _, items, view=view: view(items[0])
# Objects that can change. {type: (function from an object to its state and items; function from a state to an
# empty object, which `change` fills)}
CHANGING: dict[type, tuple[Callable, Callable]] = {
    list: (as_items, lambda _: []),
    set: (as_items, lambda _: set()),
    dict: (as_mapping, lambda _: {}),
    collections.OrderedDict: (as_mapping, lambda _: collections.OrderedDict()),
    collections.Counter: (as_mapping, lambda _: collections.Counter()),
    collections.defaultdict: (
        lambda value: (None, [*value, *value.values(), value.default_factory]),
        lambda _: collections.defaultdict(),
    ),
    collections.deque: (
        lambda value: (value.maxlen, list(value)),
        lambda state: collections.deque((), state),
    ),
    bytearray: (lambda value: (value.decode("latin-1"), []), lambda _: bytearray()),
}
NAMED = {kind.__name__: kind for kind in [*FIXED, *CHANGING]}
# The only classes that a message of the program may name. In the asserts' process, calling one of them with
# anything that a message can bring makes data and runs no other code. Other classes and functions never move.
CLASSES = NAMED | {kind.__name__: kind for kind in (bool, float, str, type(None))}
CLASSES |= {
    name: e for name, e in vars(builtins).items() if isinstance(e, type) and issubclass(e, BaseException)
}
# The only attributes that a library's exception class may define if its exceptions are to be carried. They
# are made by the built-in base class and get a fixed text, so code in these attributes runs only if an assert
# copies an exception.
HARMLESS = set("__module__ __doc__ __weakref__ __annotations__ __init__ __reduce__ __str__ __repr__".split())
HARMLESS |= {"__firstlineno__", "__static_attributes__"}  # of Python 3.13
# Types of functions; for one of these the other side gets a Python function that asks for each call.
FUNCTIONS = [type(f) for f in (as_items, len, str.upper, int.__add__, (1).__add__, dict.fromkeys)]
FUNCTIONS += [types.MethodType, functools.partial, type(functools.cache(len))]
FUNCTIONS += [operator.itemgetter, operator.attrgetter, operator.methodcaller]


class NotCarried(Exception):
    """Raised where an object cannot be carried to the other process."""


class Mirror:
    """Keeps equal the objects that two processes share, and lets each process call the other's functions.

    Each shared object has the same number in both processes. A message describes the objects that are new to
    the other side and those that have changed; the other side changes its own in place. So aliases, cycles,
    arguments that the function changes, and a result that is an argument behave as they do in one process.
    Functions and iterators stay where they are: the other side gets a function or a generator that asks for
    each call or item. Exceptions keep their arguments, and their class or the nearest one that the other side
    knows.

    It carries plain values, the types and classes above, named tuples, and numpy arrays. Other objects, such
    as those of the program's own classes, raise NotCarried; `not_carried` then says why, on both sides, even
    if somebody catches the exception. A program may write any message to the asserts' process. So a message
    can only bring data there, and can name no class but CLASSES and no function of that process.

    incoming, outgoing: descriptors of pipes. lost: called when the other side is gone; must not return.
    is_caller: whether this is the side of the asserts.
    """

    def __init__(self, incoming: int, outgoing: int, lost: Callable, is_caller: bool):
        self.incoming, self.outgoing, self.lost = incoming, outgoing, lost
        self.is_caller = is_caller
        self.objects: dict[int, Any] = {}  # by number
        self.numbers: dict[int, int] = {}  # by id(); `objects` keeps each object alive, so no id is reused
        self.known: dict[int, tuple] = {}  # number → (state, items) of a changing object, as last described
        self.own: dict[int, Any] = {}  # number → function or iterator that the other side may ask for
        self.classes: dict[tuple, type] = {}  # (name, fields) → class of named tuples
        self.count = 0
        self.not_carried = ""
        self.differs = False  # whether the two sides differ, as a changed object could not be carried
        self.lock = threading.RLock()
        self.printed = io.StringIO()  # what the program has printed since its last message
        self.iterators: set[str] = set()  # types of the iterators that were received; here all are generators
        self.not_finite = False  # whether an infinity or NaN was received
        self.may_stop = True  # whether a received StopIteration is raised as it is, not as a RuntimeError
        self.raised: tuple = (None, "")  # the last exception that was received, and its text by `describe`

    # ------------------------------------------------------------------------------------- the conversation

    def ask(self, number: int, *args, **kwargs) -> Any:
        """Calls function `number` of the other side, and answers its calls meanwhile."""
        with self.lock:
            self.send("call", [number, list(kwargs)], *args, *kwargs.values())
            while True:
                kind, note, values = self.receive()
                if kind == "call":
                    self.answer(note, values)
                elif kind == "return":
                    return values[0]
                elif kind == "raise":
                    e = values[0]
                    if isinstance(e, StopIteration) and not self.may_stop:
                        e = RuntimeError(f"StopIteration: {e}")
                    self.raised = e, str(note)
                    raise e
                else:
                    self.differs |= bool(note)
                    raise NotCarried(self.not_carried)

    def answer(self, note: list, values: list):
        """Calls one of this side's functions, or resumes an iterator, and sends the result or exception."""
        number, names = note
        function, positional = self.own[number], len(values) - len(names)
        try:
            try:
                args, kwargs = values[:positional], dict(zip(names, values[positional:], strict=True))
                result = function(*args, **kwargs)
            except BaseException as e:
                self.send("raise", describe(e), e)
            else:
                self.send("return", None, result)
        except NotCarried:
            self.send("not carried", any(map(self.has_changed, self.known)))

    def send(self, kind: str, note: Any, *values):
        """Sends a message: its kind, a note of plain JSON, and values with all that they are made of."""
        try:
            data = self.pack(kind, note, values)
        except NotCarried as e:
            self.not_carried = str(e)
            raise
        if not self.is_caller:
            self.not_carried = ""  # the message tells the other side
        try:
            write_all(self.outgoing, struct.pack("<Q", len(data)) + data)
        except OSError:
            self.lost()

    def receive(self) -> tuple[str, Any, list]:
        """Receives (kind, note, values)."""
        try:
            kind, note, references, nodes, forgotten, not_carried, printed = receive(self.incoming)
            self.not_carried = str(not_carried) or self.not_carried
            if printed:
                sys.stdout.write(printed)
            return kind, note, self.unpack(references, nodes, forgotten)
        except OSError:
            self.lost()
        except Exception as e:  # perhaps the program has written to the pipe itself
            self.differs = True
            self.not_carried = str(e) if isinstance(e, NotCarried) else f"an odd message ({type(e).__name__})"
            raise NotCarried(self.not_carried) from None

    # ------------------------------------------------------------------------------------------- sending

    def pack(self, kind: str, note: Any, values: tuple) -> bytes:
        """Returns a message. Raises NotCarried, with nothing changed here, if a value cannot be carried."""
        first, nodes, known = self.count, [], {}
        # The caller lets both sides forget an object to which only its table refers (2 with the reference of
        # getrefcount itself). If the other side still has it and sends it again, it gets a new number.
        forgotten = [
            number
            for number in (self.objects if self.is_caller else ())
            if number not in self.own and sys.getrefcount(self.objects[number]) <= 2
        ]
        waiting = [n for n in self.known if kind != "not carried" and self.has_changed(n)]
        try:
            references = [self.reference(value, waiting) for value in values]
            for number in waiting:  # grows, as items of these objects may be new, too
                name, state, items = self.described(self.objects[number])
                if name == "ndarray" or NAMED.get(name) in CHANGING:
                    known[number] = state, items
                nodes.append([number, name, state, [self.reference(item, waiting) for item in items]])
            printed = self.printed.getvalue()[: 2**20]
            not_carried = "" if self.is_caller else self.not_carried
            message = kind, note, references, nodes, forgotten, not_carried, printed
            data = json.dumps(message).encode()
            if len(data) > OUTPUT:
                raise NotCarried(f"a value takes more than {OUTPUT} bytes")
        except Exception as e:  # an odd object, or no memory is left
            for number in range(first, self.count):
                self.forget(number)
            self.count = first
            if isinstance(e, NotCarried):
                raise
            raise NotCarried(f"a value cannot be packed ({type(e).__name__})") from None
        self.known |= known
        self.printed.seek(0)
        self.printed.truncate()
        for number in forgotten:
            self.forget(number)
        return data

    def reference(self, value: Any, waiting: list[int]) -> Any:
        """Returns a value itself if it is JSON, else [its number]; adds a new number to `waiting`."""
        kind = type(value)
        if value is None or kind in (bool, str, float) or (kind is int and -(2**63) < value < 2**63):
            return value
        if id(value) not in self.numbers:
            waiting.append(self.count)
            self.share(self.count, value)
        return [self.numbers[id(value)]]

    def share(self, number: int, value: Any):
        """Gives an object its number."""
        self.objects[number], self.numbers[id(value)] = value, number
        self.count = max(self.count, number + 1)

    def forget(self, number: int):
        """Removes an object and its number."""
        value = self.objects.pop(number, None)
        self.numbers.pop(id(value), None)
        self.known.pop(number, None)
        self.own.pop(number, None)

    def has_changed(self, number: int) -> bool:
        """Whether an object is not as the other side knows it. Its items must be the very same objects."""
        state, items = self.known[number]
        _, new_state, new_items = self.described(self.objects[number])
        same = state == new_state and len(items) == len(new_items)
        return not (same and all(map(operator.is_, items, new_items)))

    def described(self, value: Any) -> tuple[str, Any, list]:
        """Returns (name of the kind, its state as JSON, the objects that it is made of)."""
        kind = type(value)
        name = kind.__name__
        if kind in FIXED or kind in CHANGING:
            state, items = (FIXED.get(kind) or CHANGING[kind])[0](value)
            return name, state, items
        if kind in (type, types.BuiltinFunctionType) and named(value.__name__, self.is_caller) is value:
            return "named", value.__name__, []
        if issubclass(kind, BaseException):
            ancestors = [[each.__module__, each.__qualname__] for each in kind.__mro__[:-1]]
            attributes, arguments = vars(value) or None, built_in_base(kind).__reduce__(value)[1]
            return "exception", [ancestors, str(value)], [attributes, value.__cause__, *arguments]
        if kind.__bases__ == (tuple,) and is_named_tuple(kind):
            self.classes.setdefault((name, kind._fields), kind)
            return "named tuple", [name, kind._fields], list(value)
        if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
            self.own[self.numbers[id(value)]] = functools.partial(resume, value)
            return "iterator", name, []
        if kind in FUNCTIONS:
            self.own[self.numbers[id(value)]] = value
            names = getattr(value, "__name__", name), getattr(value, "__doc__", None)
            return "function", names, [getattr(value, "__dict__", None) or None]
        if (numpy := sys.modules.get("numpy")) and issubclass(kind, numpy.generic) and is_plain(value):
            return "number", [value.dtype.str, (), value.tobytes().decode("latin-1")], []
        if numpy and kind is numpy.ndarray and is_plain(value):
            arrays = [each for each in self.objects.values() if type(each) is kind and each is not value]
            if any(numpy.may_share_memory(value, each) for each in arrays):
                raise NotCarried("two arrays share their memory")
            return "ndarray", [value.dtype.str, value.shape, value.tobytes().decode("latin-1")], []
        raise NotCarried(f"a value of type {name!r} cannot be carried to another process")

    # ----------------------------------------------------------------------------------------- receiving

    def unpack(self, references: list, nodes: list, forgotten: list) -> list:
        """Returns the values of a message; changes the objects that it describes anew."""
        described = {number: (name, state, items) for number, name, state, items in nodes}
        unmade = dict(described)
        # First make the objects that can change, still empty: others may refer to them, and they to
        # themselves.
        for number, (name, state, _) in described.items():
            if number not in self.objects and name == "ndarray":
                self.share(number, array_of(*state))
            elif number not in self.objects and NAMED.get(name) in CHANGING:
                self.share(number, CHANGING[NAMED[name]][1](state))

        def value_of(reference):
            if not isinstance(reference, list):
                self.not_finite |= isinstance(reference, float) and not math.isfinite(reference)
                return reference
            (number,) = reference
            if number not in self.objects:
                name, state, items = unmade.pop(number)  # gone if an object that does not change holds itself
                self.share(number, self.made(number, name, state, [value_of(item) for item in items]))
            return self.objects[number]

        for number, (name, state, items) in described.items():
            value, items = value_of([number]), [value_of(item) for item in items]
            if name in ("ndarray", "number") and value.dtype.kind in "fc":
                self.not_finite |= bool((value - value != 0).any())
            self.not_finite |= name == "Decimal" and not value.is_finite()
            if name == "ndarray" or NAMED.get(name) in CHANGING:
                change(value, state, items)
                self.known[number] = self.described(value)[1:]
        values = [value_of(reference) for reference in references]
        for number in forgotten:
            self.forget(number)
        return values

    def made(self, number: int, name: str, state: Any, items: list) -> Any:
        """Returns an object that does not change, from its description."""
        if NAMED.get(name) in FIXED:
            return FIXED[NAMED[name]][1](state, items)
        if name == "named" and (value := named(state, not self.is_caller)):
            return value
        if name == "exception":
            return exception_of(*state, *items)
        if name == "named tuple":
            key = state[0], tuple(state[1])
            if key not in self.classes:
                self.classes[key] = collections.namedtuple(*key)
            return self.classes[key]._make(items)
        if name == "iterator":
            self.iterators.add(str(state))
            return self.iterator(number)
        if name == "function":
            return self.function(number, *state, *items)
        if name == "number":
            return array_of(*state)[()]
        raise NotCarried("an unknown kind of object")

    def function(self, number: int, name: str, doc: str | None = None, attributes: dict | None = None):
        """Returns a function that calls the other side's function of this number."""

        def function(*args, **kwargs):
            return self.ask(number, *args, **kwargs)

        function.__name__ = function.__qualname__ = name
        function.__doc__ = doc
        function.__dict__ = {} if attributes is None else attributes
        return function

    def iterator(self, number: int):
        """Yields the items of the other side's iterator or generator of this number."""
        sent = None
        while True:
            self.may_stop, may_stop = True, self.may_stop
            try:
                item = self.ask(number, sent)
            except StopIteration as e:
                return e.value
            finally:
                self.may_stop = may_stop
            sent = yield item


def resume(iterator, sent: Any) -> Any:
    """The next item of an iterator, or what a generator yields when it is sent a value."""
    return next(iterator) if sent is None else iterator.send(sent)


def is_named_tuple(kind: type) -> bool:
    """Whether a class is a named tuple and has no methods of its own."""
    fields = getattr(kind, "_fields", None)
    if not isinstance(fields, tuple):
        return False
    plain = {*vars(collections.namedtuple("plain", fields)), "__annotations__", "__orig_bases__"}
    return set(vars(kind)) <= plain


def is_plain(array: Any) -> bool:
    """Whether a numpy array or scalar holds numbers, times or texts and is not too long."""
    return array.dtype.kind in "biufcSUmM" and array.nbytes < OUTPUT


def named(name: str, by_caller: bool) -> Any:
    """Returns the class that a message names, or None. One from the asserts may also name any built-in."""
    return CLASSES.get(name) or (vars(builtins).get(name) if by_caller else None)


def built_in_base(kind: type) -> type:
    """Returns the nearest built-in class of an exception's class."""
    return next(each for each in kind.__mro__ if CLASSES.get(each.__name__) is each)


def array_of(dtype: str, shape: list[int], data: str) -> Any:
    """Returns a numpy array of a type, a shape and bytes, which are given as a text."""
    if not re.fullmatch(r"[<>|]([biufcSU]\d+|[mM]8(\[\w+\])?)", dtype):
        raise NotCarried("an odd array")
    import numpy

    return numpy.frombuffer(data.encode("latin-1"), dtype).reshape(shape).copy()


def change(value: Any, state: Any, items: list):
    """Gives a changing object, in place, another state and other items."""
    if isinstance(value, list):
        value[:] = items
    elif isinstance(value, bytearray):
        value[:] = state.encode("latin-1")
    elif isinstance(value, (set, collections.deque)):
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(items)
    elif isinstance(value, dict):
        if isinstance(value, collections.defaultdict):
            value.default_factory = items.pop()
        value.clear()
        for i in range(len(items) // 2):
            value[items[i]] = items[len(items) // 2 + i]
    else:
        value[...] = array_of(*state)


def exception_of(
    ancestors: list, text: str, attributes: dict | None, cause: Any, *arguments
) -> BaseException:
    """Returns an exception of the first of these classes that this process knows.

    Its class has the name of the first one, and its text is `text`. Raises NotCarried if the class that this
    process knows has code that might run.
    """
    kind, ((module, name), *_) = BaseException, ancestors
    for known_module, known_name in ancestors:
        known = vars(sys.modules[known_module]).get(known_name) if known_module in sys.modules else None
        if isinstance(known, type) and issubclass(known, BaseException):
            kind = known
            break
    for each in kind.__mro__[:-1]:
        harmless = type(each) is type and set(vars(each)) <= HARMLESS
        if CLASSES.get(each.__name__) is not each and not harmless:
            raise NotCarried(f"an exception of type {kind.__name__!r} cannot be carried to another process")
    base = built_in_base(kind)
    if [kind.__module__, kind.__qualname__] != [module, name]:
        kind = type(name.rpartition(".")[2], (kind,), {"__module__": module})

    def make(kind):
        # Not by the class's own methods: they may want other arguments, or act on attributes of the message.
        e = base.__new__(kind, *arguments)
        base.__init__(e, *arguments)
        e.__cause__ = cause
        if attributes is not None:
            e.__dict__ = attributes
        return e

    if kind.__str__ is base.__str__ and kind.__repr__ is base.__repr__:
        e = make(kind)
        if str(e) == text:
            return e
    fixed = {"__str__": lambda _: text, "__repr__": lambda _: f"{base.__name__}({text!r})"}
    return make(type(kind.__name__, (kind,), fixed))


# ------------------------------------------------------------------------------------------------ the server

HEADER = "typing string re datetime collections heapq bisect copy math random statistics itertools functools"
AHEAD = 4  # processes that are forked ahead
# The caller's commands. Each is followed by the number of processes that the job had.
FORGET = b"f"  # kill them
KILL, AWAIT = b"k", b"w"  # kill them and tell how they ended; AWAIT first gives them a second to exit


def serve():
    """Forks processes for jobs until the caller closes the socket, standard input. Never reads a task."""
    del os.environ["PYTHONHASHSEED"]  # it has been read
    libc = ctypes.CDLL(None, use_errno=True)
    if ARCH:
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no process of this user may read its memory
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    set_limit("STACK", STACK)
    landlock = use_landlock(libc)
    protections = {"rlimits": False, "thread limit": False, "Landlock": landlock > 0, "seccomp": False}
    filter_code = seccomp_filter(landlock >= 3)  # from version 3 on, Landlock guards against truncation, too
    prepared = libc, protections, filter_code, header()
    gc.collect()
    gc.freeze()  # when a program collects garbage, it skips the objects that exist by now
    caller = socket.socket(fileno=0)
    pids = [start(caller, prepared) for _ in range(AHEAD)]
    while command := caller.recv(2):
        for _ in range(command[1]):
            ended = end(pids.pop(0), command[:1] == AWAIT)
            if command[:1] != FORGET:
                send(1, ended)
        while len(pids) < AHEAD:
            pids.append(start(caller, prepared))
    for pid in pids:
        end(pid, False)


def start(caller: socket.socket, prepared: tuple) -> int:
    """Forks a process for a job, offers it to the caller and returns its pid.

    Its descriptors: 0, 1, 2; 3 brings the task; 4 takes the reply. prepared: as in run_task.
    """
    stdin, (task_end, task) = unnamed_file(), socket.socketpair()
    (out_end, out), (err_end, err), (reply_end, reply) = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            run_task([stdin, out, err, task.fileno(), reply], prepared)
        finally:
            os._exit(1)
    socket.send_fds(caller, [b"+"], [stdin, out_end, err_end, task_end.fileno(), reply_end])
    for fd in (stdin, out, out_end, err, err_end, reply, reply_end, task.detach(), task_end.detach()):
        os.close(fd)
    return pid


def header() -> dict[str, Any]:
    """Returns {name: value} of the names that LiveCodeBench imports before a program; no built-in names."""
    names: dict[str, Any] = {}
    modules = [*HEADER.split(), "operator", "io", "sys", "json"]
    for module in modules:
        exec(f"from {module} import *", names)
    names.update((module, importlib.import_module(module)) for module in modules)
    built_in = {*vars(builtins), "__builtins__"}
    return {name: value for name, value in names.items() if name not in built_in}


def unnamed_file() -> int:
    """Returns the descriptor of a new, empty file that is in no folder."""
    if LINUX:
        return os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def fill(fd: int, data: bytes):
    """Writes an unnamed file. Readers start at its beginning; on Linux nobody can change it afterwards."""
    position = 0
    while position < len(data):
        position += os.pwrite(fd, data[position : position + 2**20], position)
    if LINUX:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)  # no writing, growing, shrinking or changing of the seals


def end(pid: int, patient: bool) -> tuple[int, float]:
    """Ends a child, which has a second to exit if `patient`; returns its exit code and CPU seconds."""

    def kill(*_):
        # The group: with the processes that it has started, if nothing forbade that
        for send_signal in (os.killpg, os.kill):
            try:
                send_signal(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    if patient:
        signal.signal(signal.SIGALRM, kill)
        signal.setitimer(signal.ITIMER_REAL, 1)
    else:
        kill()
    _, status, usage = os.wait4(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    kill()
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


# ---------------------------------------------------------------------------------------------- in the child


def run_task(fds: list[int], prepared: tuple):
    """Confines this process, waits for a task and does the work that it names; never returns.

    fds: become the descriptors 0, 1, …. prepared: libc, {protection: whether it is active}, the filter of
    system calls, the names of header().
    """
    libc, protections, filter_code, names = prepared
    if ARCH:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: the kernel kills it with its parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.setsid()
    # By way of 100, 101, …, because a copy straight to 0, 1, … could replace a descriptor still to be copied
    for i, fd in enumerate(fds):
        os.dup2(fd, 100 + i)
    for i in range(len(fds)):
        os.dup2(100 + i, i)
    os.closerange(len(fds), 4096)
    confine(libc, protections, filter_code)
    open_streams(names)
    task, pipes = receive_task(3)
    seconds, memory = task["limits"]["seconds"], task["limits"]["memory"]
    protections["rlimits"] &= set_limit("CPU", seconds, seconds + 1) & set_limit("AS", memory, memory)
    exit_code = 0
    try:
        WORK[task["work"]]({**task, "protections": protections}, pipes)
    except SystemExit as e:
        exit_code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if isinstance(e.code, str):
            write_error(e.code)
    except BaseException as e:
        exit_code = 1
        write_error(describe(e))
    if task["work"] == "program":
        finish()
        if exit_code == 0:
            write_all(4, b"\n")
    os._exit(exit_code & 255)


def open_streams(names: dict[str, Any]):
    """Gives this process the streams, the names and the settings that a program expects."""
    for i, name in enumerate(("stdin", "stdout", "stderr")):
        names[name] = open(i, "rww"[i], encoding="utf-8", errors="replace")
        setattr(sys, name, names[name])
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    vars(builtins).update(names)
    sys.argv = ["program"]
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)


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
    # Calls destructors, which may print
    vars(sys.modules["__main__"]).clear()
    gc.collect()
    flush()


def write_error(text: str):
    """Writes a line to standard error, on a line of its own."""
    os.write(2, ("\n" + text + "\n").encode(errors="replace"))


def describe(e: BaseException) -> str:
    """Returns an exception as one line, with the line number of the program where it was raised."""
    frames = traceback.walk_tb(e.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "program"]
    text = traceback.format_exception_only(e)[-1].removeprefix("solution.").strip().replace("\n", " ")[:400]
    return f"line {lines[-1]}: {text}" if lines else text


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


def use_null(*fds: int):
    """Connects descriptors to nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
    os.close(null)


def child_program(task: dict, _: list[int]):
    """Runs a whole program."""
    run_source(task["source"], "__main__")


def child_function(task: dict, _: list[int]):
    """Calls a function; replies with the repr of the result."""
    use_null(0, 1)
    called = load_function(task)
    result = called(*[literal(line) for line in task["arguments"].split("\n") if line.strip()])
    try:
        text = plain_repr(result)
    except TypeError:
        text = f"<{type(result).__name__}>"
    write_all(4, text.encode(errors="replace") + b"\n")


def child_limits(task: dict, _: list[int]):
    """Replies with {protection: whether it is active}."""
    write_all(4, json.dumps(task["protections"]).encode() + b"\n")


def child_answers(task: dict, pipes: list[int]):
    """Answers the calls from the asserts' process."""
    use_null(0, 1, 2, 4)
    mirror = Mirror(*pipes, lambda: os._exit(0), is_caller=False)
    sys.stdout = mirror.printed
    try:
        called = load_function(task)
    except BaseException as e:
        mirror.send("raise", describe(e))
        return
    mirror.share(0, called)
    mirror.own[0] = called
    mirror.send("return", None)
    while True:
        _, note, values = mirror.receive()
        mirror.answer(note, values)


def short_repr(value: Any) -> str:
    """Returns the repr of a value, cut off, or nothing if that takes long or says nothing."""
    sys.set_int_max_str_digits(4300)
    try:
        text = repr(value)[:1000]
        return "" if text.startswith("<") else text
    except Exception:  # too many digits, or nested too deeply
        return ""
    finally:
        sys.set_int_max_str_digits(0)


# Signs that a snippet, before it calls the function, replaces something (stdin, a seed, …) of which the
# program's process keeps its own
REPLACES = re.compile(
    r"mock\b|patch\(|setattr\(|\bstdin\b|builtins|\.seed\(|setstate\(|environ\b|chdir\(|\binspect\b"
)
# With an infinity or NaN, a snippet with an order or a negation may pass whatever value is right, because
# |inf - x| <= tolerance * inf is true, and |nan - x| > tolerance is false. A snippet with == alone is safe:
# these numbers equal no finite one.
ORDERS = re.compile(r"[<>!]|not|less|greater|false|operator|\b(max|min)\b", re.I)
NAMES_INFINITY = re.compile(r"\b(inf|infinity|nan|is(inf|nan|finite))\b", re.I)


def child_asserts(task: dict, pipes: list[int]):
    """Runs the assert snippets, whose function asks the program's process; replies one outcome a line."""
    number, returned, nothing = 0, None, object()

    def reply(status, output="", error=""):
        write_all(4, (json.dumps([status, output, error]) + "\n").encode())

    def failing_line(frames):
        lines = [line for frame, line in frames if frame.f_code.co_filename == f"test {number}"]
        return task["asserts"][number].split("\n")[lines[-1] - 1].strip()[:300] if lines else ""

    def quoted(text):
        """A text in which words of the program may stand, in quotation marks."""
        return repr(str(text)[:200])

    def lost():
        write_all(4, failing_line(reversed([*traceback.walk_stack(None)])).encode(errors="replace"))
        os._exit(0)

    use_null(0, 1, 2)
    mirror = Mirror(*pipes, lost, is_caller=True)
    kind, error, _ = mirror.receive()
    if kind != "return":  # the program could not be loaded
        for _ in task["asserts"]:
            reply("error", "", quoted(error))
        return
    ask = mirror.function(0, task["name"])

    @functools.wraps(ask)
    def called(*args, **kwargs):
        nonlocal returned
        returned = nothing
        returned = ask(*args, **kwargs)
        return returned

    del called.__wrapped__
    mirror.share(0, called)
    names = {task["name"]: called, "math": math}
    for number, snippet in enumerate(task["asserts"]):
        mirror.not_carried = mirror.not_carried if mirror.differs else ""
        mirror.not_finite, returned = False, nothing
        mirror.iterators.clear()
        # A StopIteration would end the loop in all(map(…)) before anything is compared.
        mirror.may_stop = "StopIteration" in snippet
        status = error = ""
        try:
            exec(compile(snippet, f"test {number}", "exec"), names)
            status = "ok"
            if mirror.not_finite and ORDERS.search(snippet) and not NAMES_INFINITY.search(snippet):
                status, error = "unanswered", "the function returned an infinity or NaN"
        except BaseException as e:
            came, error = e is mirror.raised[0], failing_line(traceback.walk_tb(e.__traceback__))
            if came or not isinstance(e, AssertionError):
                error += f" ({quoted(mirror.raised[1] if came else describe(e))})"
            # An error that this process may have caused: it lacks a name or library, or its function or
            # exception lacks an attribute that the program's own has.
            owner = getattr(e, "obj", None)
            lacks = isinstance(e, (NameError, ImportError)) or isinstance(
                owner, (types.FunctionType, BaseException)
            )
            replaces = REPLACES.search(snippet) or f"{task['name']}.__" in snippet
            status = "unanswered" if replaces or (lacks and not came) else "error"
        if mirror.iterators - {"generator"} and re.search(r"isinstance|type\(|isgenerator", snippet):
            status, error = "unanswered", "the type of an iterator is not carried to another process"
        if mirror.not_carried:
            status, error = "unanswered", quoted(mirror.not_carried)
        output = "" if status == "ok" or returned is nothing else short_repr(returned)
        reply(status, output, error)


WORK = {
    "program": child_program,
    "function": child_function,
    "answers": child_answers,
    "asserts": child_asserts,
    "limits": child_limits,
}

# ----------------------------------------------------------------------------------------------- confinement

# (architecture number of seccomp, column of the tables below), or None
ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}.get(os.uname().machine if LINUX else "")
# System calls that Python needs: (number on x86_64, number on aarch64), -1 where there is none. All others
# are denied, also those of later kernels. timer_create is denied because no limit bounds what it creates.
# fmt: off
ALLOWED = {
    "reading, writing and waiting": [(0, 63), (1, 64), (19, 65), (20, 66), (17, 67), (18, 68), (295, 69),
        (296, 70), (8, 62), (3, 57), (436, 436), (32, 23), (33, -1), (292, 24), (22, -1), (293, 59), (7, -1),
        (271, 73), (23, -1), (270, 72), (213, -1), (291, 20), (233, 21), (232, -1), (281, 22), (441, 441),
        (290, 19)],
    "looking at files": [(4, -1), (5, 80), (6, -1), (262, 79), (332, 291), (21, -1), (269, 48), (439, 439),
        (89, -1), (267, 78), (217, 61), (79, 17), (80, 49), (81, 50), (95, 166)],
    "memory": [(9, 222), (11, 215), (10, 226), (25, 216), (28, 233), (12, 214), (27, 232), (324, 283)],
    "threads": [(202, 98), (273, 99), (274, 100), (218, 96), (334, 293), (186, 178), (24, 124), (204, 123),
        (143, 121), (145, 120), (146, 125), (147, 126), (309, 168), (60, 93), (231, 94)],
    "time": [(228, 113), (229, 114), (230, 115), (35, 101), (96, 169), (201, -1), (100, 153), (37, -1),
        (38, 103), (36, 102), (34, -1)],
    "its own signals": [(13, 134), (14, 135), (15, 139), (127, 136), (128, 137), (130, 133), (131, 132),
        (219, 128)],
    "facts about itself": [(39, 172), (110, 173), (102, 174), (107, 175), (104, 176), (108, 177), (118, 148),
        (120, 150), (115, 158), (111, -1), (121, 155), (124, 156), (63, 160), (99, 179), (98, 165), (97, 163),
        (160, 164), (318, 278), (61, 260), (247, 95)],
    "connected sockets": [(44, 206), (45, 207), (47, 212), (48, 210), (51, 204), (52, 205), (55, 209)],
}
# fmt: on
# The same for calls that are allowed in part, or used here. LANDLOCK: create_ruleset, add_rule, restrict_self
CLONE, PRLIMIT, FCNTL, OPEN, OPENAT = (56, 220), (302, 261), (72, 25), (2, -1), (257, 56)
SOCKETPAIR, IOCTL, PRCTL, CAPSET, LANDLOCK = (53, 199), (16, 29), (157, 167), (126, 91), (444, 445, 446)
# Arguments that are allowed for these calls. FCNTLS: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL,
# F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_GET_SEALS, but no locks, leases or signals
FCNTLS = [0, 1, 2, 3, 4, 1030, 1032, 1034]
IOCTLS = [0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]  # TCGETS, …, FIONBIO, …: no attributes
PRCTLS = [15, 16, 0x53564D41]  # names of threads and of memory; not PR_SET_PDEATHSIG
DEVICES = "/dev/null", "/dev/urandom"


def confine(libc: ctypes.CDLL, active: dict[str, bool], filter_code: bytes):
    """Takes from this process all rights that a program does not need; notes in `active` what has worked."""
    active["rlimits"] = set_limit("FSIZE", 0, 0) & set_limit("NOFILE", 64, 64) & set_limit("CORE", 0, 0)
    if ARCH:
        # The kernel limits the number of threads per user, but not for root. So this process gets a user of
        # its own. If it runs as root, that is a new real user id; the effective one, which decides about
        # files, stays. Otherwise it is a user namespace.
        try:
            os.setresuid(2**30 + os.getpid(), -1, -1)
            own_user = True
        except OSError:
            own_user = libc.unshare(0x10000000) == 0  # CLONE_NEWUSER
        active["thread limit"] = own_user and set_limit("NPROC", THREADS, THREADS)
        header, no_capabilities = struct.pack("<Ii", 0x20080522, 0), bytes(24)  # version 3, this process
        libc.syscall(CAPSET[ARCH[1]], header, no_capabilities)  # even root has none from here on
        buffer = ctypes.create_string_buffer(filter_code)
        instructions = struct.pack("HL", len(filter_code) // 8, ctypes.addressof(buffer))
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        active["seccomp"] = libc.prctl(22, 2, ctypes.create_string_buffer(instructions), 0, 0) == 0
    if not active["seccomp"]:
        set_limit("NPROC", 0, 0)


def set_limit(name: str, soft: int, hard: int | None = None) -> bool:
    """Sets a resource limit of this process, at most as high as the hard limit that it already has.

    hard: None leaves the hard limit as it is. Returns whether a limit of that name could be set.
    """
    try:
        kind = getattr(resource, f"RLIMIT_{name}")
        limit = resource.getrlimit(kind)[1]
        values = [limit if value is None else value for value in (soft, hard)]
        if limit != resource.RLIM_INFINITY:
            values = [min(value, limit) for value in values]
        resource.setrlimit(kind, values)
        return True
    except (ValueError, OSError, AttributeError):  # macOS has no limit of the address space
        return False


def use_landlock(libc: ctypes.CDLL) -> int:
    """Lets this process and its children read the files that Python needs, and use no others.

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
    done = libc.syscall(LANDLOCK[2], rules, 0) == 0
    os.close(rules)
    return version if done else 0


def seccomp_filter(files_guarded: bool) -> bytes:
    """Returns a BPF program that denies the system calls that are not allowed above.

    files_guarded: Landlock already refuses to open files for writing; without it the filter refuses that.
    """
    arch, column = ARCH
    # An instruction is (operation, instructions to skip if it holds, instructions to skip if not, number).
    # `has` tests whether any bit of the number is set.
    load, equal, at_least, has, mask = 0x20, 0x15, 0x35, 0x45, 0x54
    # allow; refuse with EPERM; fail with ENOSYS, as if the kernel did not know the call
    allow, refuse, unknown = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x00050026)
    first, second, third = ((load, 0, 0, 16 + 8 * i) for i in range(3))  # load an argument's lower half
    # First refuse another architecture, which has other numbers of calls. Then load the call's number.
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), refuse, (load, 0, 0, 0)]

    def when(numbers, *instructions):
        """Adds instructions for one system call; all other calls skip them."""
        if numbers[column] >= 0:
            code.extend([(equal, 0, len(instructions), numbers[column]), *instructions])

    def one_of(values):
        """Returns instructions that allow a loaded argument if it is one of the values."""
        tests = [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
        return [*tests, refuse, allow]

    for numbers in itertools.chain(*ALLOWED.values()):
        when(numbers, allow)
    when(CLONE, first, (has, 1, 0, 0x10000), refuse, allow)  # threads only
    when(PRLIMIT, first, *one_of([0]))  # its own limits only
    when(PRCTL, first, *one_of(PRCTLS))
    when(FCNTL, second, *one_of(FCNTLS))
    when(IOCTL, second, *one_of(IOCTLS))
    # asyncio needs a pair of connected sockets: only SOCK_STREAM, as other types can be connected anew
    when(SOCKETPAIR, second, (mask, 0, 0, 15), *one_of([1]))
    # without Landlock no O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
    forbidden = 0 if files_guarded else 0o1103
    when(OPEN, second, (has, 0, 1, forbidden), refuse, allow)
    when(OPENAT, third, (has, 0, 1, forbidden), refuse, allow)
    # The C library tries new calls first (clone3, openat2), and falls back on old ones at ENOSYS. From
    # 424 on, the numbers are the same on all architectures, and the calls are from Linux 5.1 or later.
    code += [(at_least, 0, 1, 424), unknown, refuse]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


if __name__ == "__main__":
    serve()
