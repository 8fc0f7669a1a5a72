"""Runs Python programs written by a model, which are hostile until proven otherwise.

    from parts import sandbox
    sandbox.run_program("print(int(input()) + 1)", "41\\n")  # Outcome(status='ok', output='42\\n', …)
    sandbox.call_function("def f(x): return x + 1", "f", "41")  # Outcome(status='ok', output='42', …)
    sandbox.run_asserts("def f(x): return x + 1", "f", ["assert f(41) == 42"])  # [Outcome(status='ok', …)]

A verdict cannot be forged because what is expected never enters the process that runs the program, nor any
that it descends from:

    caller ── server           started clean; reads one byte a job, never a task, so it stays clean
                └─ supervisor  one a job; reads the task, but only after it has forked
                     ├─ program  gets the source and one input; what it returns is compared by the caller
                     └─ asserts  gets the asserts; the function is a proxy that asks the program

The two at the bottom give up capabilities, limit their own processor time, memory and files, and then, on
Linux, all but reading Python's own folders (Landlock) and a harmless set of system calls (seccomp: no
processes, signals, connections, changes of files or of other processes). Where the kernel lacks one of
these they run without it; protections() tells. When the caller goes, its pipe closes, and everything below
it ends.
"""

import ast
import atexit
import builtins
import cmath
import collections
import ctypes
import fcntl
import gc
import importlib
import io
import itertools
import json
import math
import os
import queue
import re
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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINUX = sys.platform == "linux"
SECONDS = 6  # processor time of a job
WALL = 12  # seconds on the clock
MEMORY = 2**30  # bytes of address space
OUTPUT = 2**24  # bytes of standard output that are read; a program that prints more has failed
VALUE = 2**21  # bytes of the text of a returned value, which takes the caller a second a megabyte to parse
STACK = 2**29  # bytes; recursion through C code, such as functools.cache's, takes half a kilobyte a level
RECURSION = 120_000  # LiveCodeBench allows 50,000 calls; with functools.cache one counts twice


class SandboxError(Exception):
    """Programs cannot be run on this machine. The message is one sentence for the user."""

    exit_code = 2


@dataclass(frozen=True)
class Outcome:
    """status: ok | error | timeout | unanswered. output: what was printed, or repr of what was returned.

    error: one line. again: the machine may be at fault (no time, a broken sandbox); do not keep the outcome.
    """

    status: str
    output: str = ""
    error: str = ""
    again: bool = False


# -------------------------------------------------------------------------------------------- for the caller


def run_program(source: str, stdin: str) -> Outcome:
    """Outcome of a whole program: what it printed, if it ended by itself with exit status 0."""
    return outcome(job("program", [{"source": source}], stdin), "out")


def call_function(source: str, name: str, arguments: str) -> Outcome:
    """Outcome of one call: repr of what function (or method of class Solution) `name` returned.

    arguments: one JSON value or Python literal a line. A result that is not plain comes back as <its type>.
    """
    return outcome(job("function", [{"source": source, "name": name, "arguments": arguments}]), "reply")


def run_asserts(source: str, name: str, asserts: list[str]) -> list[Outcome]:
    """One Outcome for each assert snippet, run where `name` is a proxy that asks the program's process.

    Arguments and results must be plain values; what the function does to its arguments does not come back.
    """
    reply = job("asserts", [{"source": source, "name": name}, {"asserts": asserts, "name": name}])
    results = [Outcome(*json.loads(line)) for line in reply["reply"].split("\n")[:-1]]
    rest = outcome(reply, "reply")
    if rest.status in ("ok", "error"):
        rest = Outcome("error", "", "the program broke off")
    return results + [rest] * (len(asserts) - len(results))


def check() -> str | None:
    """A note for the user if protections are missing here. Raises SandboxError if programs cannot be run.

    Where a harmless one fails all would, and verdicts would speak of the machine.
    """
    tried = run_program("import unicodedata\nprint(int(input()) + 1)", "41")  # with a library from the disk
    if (tried.status, tried.output) != ("ok", "42\n"):
        told = f"programs cannot be run here, a harmless one failed ({tried.error or tried.status})"
        raise SandboxError(f"{told}; use another Python or machine, or problems of math alone")
    missing = protections().partition("; ")[2]
    return f"note: programs run in a sandbox with {missing} on this machine" if missing else None


def protections() -> str:
    """One line: which protections this machine offers, and which it lacks."""
    active = json.loads(job("limits", [{}])["reply"] or "{}")
    names = {wanted: ", ".join(k for k, v in active.items() if v == wanted) for wanted in (True, False)}
    missing = f"; {names[False]} missing" if names[False] else ""
    return f"sandbox: {names[True] or 'nothing'} active{missing}"


def outcome(reply: dict, channel: str) -> Outcome:
    """The Outcome that a supervisor's reply stands for; `channel` holds the output."""
    lines = [line for line in reply["err"].splitlines() if line.strip()]
    said, code = (lines[-1][:500] if lines else ""), reply["exit"]
    if code is None:
        return Outcome("unanswered", "", "the sandbox did not answer", True)
    if reply["timeout"]:
        return Outcome("timeout", "", f"took more than {reply['timeout']}", reply["starved"])
    if reply["overflow"]:
        return Outcome("error", "", f"gave out more than {reply['overflow']} bytes")
    if code != 0:
        how = f"exit status {code}" if code > 0 else f"killed by signal {-code}"
        return Outcome("error", "", said or how)
    if channel == "reply" and not reply["reply"]:
        return Outcome("error", "", said or "ended without returning")
    return Outcome("ok", reply[channel])


class Server:
    """The process that forks the jobs: a program of its own, which inherits no memory of the caller."""

    def __init__(self):
        command = [sys.executable, "-I", "-B", os.path.abspath(__file__)]
        environment = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}  # for numpy
        if "LD_LIBRARY_PATH" in os.environ:  # some Pythons of clusters do not start without
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            command, env=environment, cwd="/", start_new_session=True, bufsize=0, **pipes
        )

    def run(self, kind: str, task: dict) -> dict:
        """The reply to a job; OSError if the server is gone or does not answer."""
        write(self.process.stdin.fileno(), kind[:1].encode())
        send(self.process.stdin.fileno(), task)
        reply = receive(self.process.stdout.fileno(), time.monotonic() + WALL + 20)
        os.read(self.process.stdout.fileno(), 1)  # which comes when nothing of the job is left
        return reply

    def stop(self):
        """Ends the server and all below it: they end when their pipe is closed, in whatever they are at."""
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
    """How many cores this process may use: under a scheduler or in a container not all that there are."""
    n = len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = map(int, file.read().split())
        return max(1, min(n, quota // period))
    except (OSError, ValueError):  # without a limit its first word is max
        return n


def fresh_servers():
    """Forgets all servers: none is there yet, or they belong to the process that was forked."""
    global servers, idle
    servers, idle = threading.BoundedSemaphore(cores()), queue.LifoQueue()


fresh_servers()
os.register_at_fork(after_in_child=fresh_servers)


def job(kind: str, tasks: list[dict], stdin: str = "") -> dict:
    """Runs a job on an idle server; starts one where none is. Safe from any number of threads.

    tasks: what the program's process gets, and what the asserts' process gets.
    """
    limits = {"seconds": SECONDS, "wall": WALL, "memory": MEMORY, "out": OUTPUT, "reply": VALUE}
    task = {"limits": limits, "stdin": stdin, "tasks": [{**task, "limits": limits} for task in tasks]}
    with servers:
        for _ in range(2):  # a server may have been killed while it was idle
            server = None
            try:
                try:
                    server = idle.get_nowait()
                except queue.Empty:
                    server = Server()
                reply = server.run(kind, task)
                idle.put(server)
                return reply
            except BaseException as e:
                if server:
                    server.stop()
                if not isinstance(e, (OSError, ValueError)):  # Ctrl-C
                    raise
    return {"exit": None, "out": "", "err": "", "reply": ""}


def write(fd: int, data: bytes):
    """Writes all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def send(fd: int, value: Any):
    """Writes a value, as JSON behind its length."""
    data = json.dumps(value).encode()
    write(fd, struct.pack("<Q", len(data)) + data)


def receive(fd: int, deadline: float | None = None) -> Any:
    """The next value from a pipe; OSError at its end, or at the deadline."""

    def read(n):
        data = bytearray()
        while len(data) < n:
            if deadline and not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise OSError("no answer")
            part = os.read(fd, min(n - len(data), 2**20))
            if not part:
                raise OSError("closed")
            data += part
        return data

    return json.loads(read(struct.unpack("<Q", read(8))[0]))


# ---------------------------------------------------------------------------------------------- plain values

# Python's parser counts its depth for all threads together, and now and then finds the count wrong
PARSER = threading.Lock()
NAMES = dict(nan=math.nan, NaN=math.nan, inf=math.inf, Infinity=math.inf, true=True, false=False, null=None)
# A text, closed or not (else each quotation mark of a hostile one would be tried), or a long number
LONG = re.compile(
    r"""("(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z))|(?<![\w.])\d{4000,}(?![\w.])""", re.S
)


def parse(text: str, mode: str = "exec") -> ast.AST:
    """ast.parse, for many threads."""
    with PARSER:
        return ast.parse(text, mode=mode)


class Constants(ast.NodeTransformer):
    """Puts values in the place of the names in NAMES."""

    def visit_Name(self, node):  # noqa: D102, N802
        return ast.Constant(NAMES[node.id]) if node.id in NAMES else node


def literal(text: str) -> Any:
    """Value of a JSON value or Python literal; ValueError if it is none or takes long. Never evaluates."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    # Python refuses to convert more than 4,300 decimal digits, which takes long; hexadecimal ones do not
    if sum(len(match[0]) ** 2 for match in LONG.finditer(text) if not match[1]) > 10**10:
        raise ValueError("too many digits")
    text = LONG.sub(lambda match: match[1] or hexadecimal(match[0]), text.strip())
    try:
        tree = parse(text, "eval")
        if any(name in text for name in NAMES):
            tree = Constants().visit(tree)
        if sum(len(keys) ** 2 for keys in map(colliding, ast.walk(tree))) > 10**7:
            raise ValueError("too many keys")
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise ValueError(f"not a plain value: {text[:80]}") from None


def hexadecimal(digits: str) -> str:
    """A decimal number of any length as a hexadecimal one."""
    number = 0
    for i in range(0, len(digits), 4000):
        part = digits[i : i + 4000]
        number = number * 10 ** len(part) + int(part)
    return hex(number)


def colliding(node: ast.AST) -> list[ast.AST]:
    """Keys of a set or dict whose hashes somebody may have chosen to be the same."""
    keys = node.elts if isinstance(node, ast.Set) else node.keys if isinstance(node, ast.Dict) else []
    texts = (str, bytes)
    return [
        k
        for k in keys
        if not (isinstance(v := getattr(k, "value", k), texts) or type(v) is int and v < 2**60)
    ]


# type; what stands before and behind its values; what stands for none
FORMS = [(list, "[", "]", "[]"), (tuple, "(", ",)", "()"), (set, "{", "}", "set()")]
FORMS += [(frozenset, "{", "}", "set()"), (collections.deque, "[", "]", "[]")]


def finite(value: Any) -> bool:
    """Whether there is no infinity and no NaN in a plain value."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set)):
        return all(map(finite, value))
    return not isinstance(value, (float, complex)) or cmath.isfinite(value)


def plain(value: Any) -> str:
    """repr of a plain value, infinity as 1e999, numpy's scalars as Python's; TypeError for anything else."""
    kind = type(value)
    if kind is float and value in (math.inf, -math.inf):
        return "1e999" if value > 0 else "-1e999"
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(k)}: {plain(v)}" for k, v in dict.items(value)) + "}"
    for form, left, right, empty in FORMS:
        if isinstance(value, form):
            items = ", ".join(map(plain, form.__iter__(value)))
            return left + items + right if items else empty
    if "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].generic):
        item = kind.item(value)
        return plain(item if type(item) is not kind else float(item))  # a long double is its own item
    raise TypeError(f"a value of type {kind.__name__!r} is not a plain value")


# ------------------------------------------------------------------------------------------------ the server

HEADER = "typing string re datetime collections heapq bisect copy math random statistics itertools functools"


def serve():
    """Answers jobs from standard input, one after the other, until it is closed. Reads no task itself."""
    libc = ctypes.CDLL(None, use_errno=True)
    if ARCH:  # PR_SET_DUMPABLE: no process of this user may read the memory of this one and its children
        libc.prctl(4, 0, 0, 0, 0)
    limit("STACK", (STACK, STACK))
    world = libc, landlock_rules(libc), header()
    gc.collect()
    gc.freeze()  # a program that collects its garbage does not go through all this
    while kind := os.read(0, 1):
        pid = os.fork()
        if not pid:
            try:
                parent_death(libc)
                supervise(kind, world)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1]:
            return  # the caller, who waits for an answer, sees the pipe closed
        os.write(1, b".")


def header() -> dict[str, Any]:
    """{name: value} of what LiveCodeBench imports before a program, other than what Python has built in."""
    names: dict[str, Any] = {}
    modules = [*HEADER.split(), "operator", "io", "sys", "json"]
    for module in modules:
        exec(f"from {module} import *", names)
    names.update((module, importlib.import_module(module)) for module in modules)
    return {k: v for k, v in names.items() if k not in vars(builtins) and k != "__builtins__"}


def supervise(kind: bytes, world: tuple):
    """Runs one job in a child, or in two that talk to each other, and sends the caller what came out.

    The children are forked before the task is read; then each is sent its own part of it.
    """
    pipes = {name: os.pipe() for name in "task out err reply asserts calls results".split()}
    pipes["stdin"] = (unnamed_file(),) * 2  # no pipe: programs ask for its size
    open_fds = {fd for ends in pipes.values() for fd in ends}
    null, children = os.open(os.devnull, os.O_RDWR), []
    for work, places in PLANS[kind]:
        fds = [null if place == "-" else pipes[place[1:]][place[0] == ">"] for place in places.split()]
        children.append(fork(work, fds, world))
    patience, codes, seconds = 0, [], 0.0
    try:
        ours = {name: pipes[name][0] for name in ("out", "err", "reply")}
        tasks = [pipes["task"][1], pipes["asserts"][1]]
        given = pipes["stdin"][0]
        for fd in open_fds - {*ours.values(), *tasks, given} | {null}:
            os.close(fd)
        task = receive(0)
        fill(given, task["stdin"].encode(errors="replace"))
        for fd, part in zip(tasks, task["tasks"], strict=False):
            send(fd, part)
        for fd in tasks:
            os.close(fd)
        result = gather(ours, task["limits"])
        patience = 0 if result["timeout"] or result["overflow"] else 1
    finally:
        for pid in children:
            code, used = end(pid, patience)
            codes, seconds = [*codes, code], seconds + used
    if -signal.SIGXCPU in codes:
        result["timeout"] = f"{task['limits']['seconds']} s of processor time"
    elif result["timeout"]:
        result["starved"] = seconds > 0.1 * task["limits"]["wall"]  # it wanted to run, and was not let
    send(1, {**result, "exit": codes[0]})


def unnamed_file() -> int:
    """Descriptor of an empty file that no folder holds."""
    if LINUX:
        return os.memfd_create("stdin", os.MFD_ALLOW_SEALING)
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def fill(fd: int, data: bytes):
    """Writes an unnamed file and closes it; it is read from its start, and on Linux nobody can change it."""
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at : at + 2**20], at)
    if LINUX:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)  # against writing, growing, shrinking, other seals
    os.close(fd)


def parent_death(libc: ctypes.CDLL):
    """Has the kernel kill this process when its parent ends."""
    if ARCH:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def fork(work: Callable, fds: list[int], world: tuple) -> int:
    """Pid of a confined child, with `fds` as descriptors 0, 1 …; it reads its task from 3 and does `work`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        libc, rules, names = world
        parent_death(libc)
        os.setsid()
        for i, fd in enumerate(fds):
            os.dup2(fd, 100 + i)
        for i in range(len(fds)):
            os.dup2(100 + i, i)
        os.closerange(len(fds), RULES)
        os.closerange(RULES + 1, 4096)
        task = receive(3)
        os.close(3)
        protections = confine(task["limits"], libc, rules)
        if rules:
            os.close(RULES)
        open_streams(names)
        code = 0
        try:
            work(task, protections)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
            if isinstance(e.code, str):
                complain(e.code)
        except BaseException as e:
            code = 1
            complain(complaint(e))
        if work is child_program:
            finish()
        os._exit(code & 255)
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
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)


def finish():
    """What Python does at its end: waits for threads, calls exit handlers, writes what files hold back."""

    def flush():
        files = [file for file in gc.get_objects() if type(file) in (io.TextIOWrapper, io.BufferedWriter)]
        for stream in (sys.stdout, sys.stderr, *files):
            try:
                stream.flush()
            except Exception:  # closed, or the program's own
                pass

    threading._shutdown()
    atexit._run_exitfuncs()
    flush()
    vars(sys.modules["__main__"]).clear()
    gc.collect()
    flush()


def complain(text: str):
    """Writes a line to standard error, behind what the program may have left there."""
    os.write(2, ("\n" + text + "\n").encode(errors="replace"))


def complaint(e: BaseException) -> str:
    """An exception as one line, with the line of the program where it arose."""
    frames = traceback.walk_tb(e.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "program"]
    text = traceback.format_exception_only(e)[-1].strip().replace("\n", " ")[:400]
    return f"line {lines[-1]}: {text}" if lines else text


def end(pid: int, patience: float) -> tuple[int, float]:
    """Exit status and processor time of a child that closed its pipes; killed after `patience` seconds."""
    until, done = time.monotonic() + patience, 0
    while not done and time.monotonic() < until:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            time.sleep(0.0005)
    for kill in (os.killpg, os.kill)[: 1 + (not done)]:
        try:
            kill(pid, signal.SIGKILL)  # also what it may have started, where the kernel could not forbid that
        except (ProcessLookupError, PermissionError):
            pass
    if not done:
        _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def gather(fds: dict[str, int], limits: dict) -> dict:
    """Reads the outputs until all are closed, one is too long or the time is up.

    Raises OSError when the caller goes away. Of standard error only the end is kept.
    """
    deadline = time.monotonic() + limits["wall"]
    data = {name: bytearray() for name in fds}
    timeout, overflow, sel = "", 0, selectors.DefaultSelector()
    for name, fd in fds.items():
        sel.register(fd, selectors.EVENT_READ, name)
    sel.register(0, selectors.EVENT_READ, "caller")
    waiting = set(fds)
    while waiting and not overflow:
        left = deadline - time.monotonic()
        if left <= 0:
            timeout = f"{limits['wall']} s on the clock"
            break
        for key, _ in sel.select(left):
            name, part = key.data, b""
            if name == "caller":
                raise OSError("the caller is gone")
            try:
                part = os.read(key.fd, 2**16)
            except OSError:
                pass
            if not part:
                sel.unregister(key.fd)
                os.close(key.fd)
                waiting.discard(name)
            elif name == "err":
                data["err"] = (data["err"] + part)[-(2**14) :]
            else:
                data[name] += part
                overflow = limits[name] if len(data[name]) > limits[name] else overflow
    texts = {name: value.decode(errors="replace") for name, value in data.items()}
    return {**texts, "timeout": timeout, "overflow": overflow, "starved": False}


# ---------------------------------------------------------------------------------------------- in the child


def run_source(source: str, name: str) -> types.ModuleType:
    """The module `name`, made by running the source."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "program", "exec"), module.__dict__)
    return module


def function(task: dict) -> Callable:
    """The function, or method of class Solution, that the task names. Raises NameError if there is none."""
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
    """Calls a function and replies with what it returned."""
    target = function(task)
    result = target(*[literal(line) for line in task["arguments"].split("\n") if line.strip()])
    try:
        text = plain(result)
    except TypeError:
        text = f"<{type(result).__name__}>"
    write(4, text.encode(errors="replace"))


def child_limits(_: dict, protections: dict):
    """Replies with the protections that are active."""
    write(4, json.dumps(protections).encode())


def answer_calls(task: dict, _: dict):
    """Answers calls from the asserts' process: arguments come in on 4, results go out on 5."""
    try:
        target, broken = function(task), None
    except BaseException as e:
        broken = ["error", type(e).__name__, complaint(e)]
    while True:
        call = receive(4)
        try:
            args, kwargs = literal(call)
            reply = broken or ["ok", plain(target(*args, **kwargs)), ""]
        except Exception as e:
            reply = ["error", type(e).__name__, complaint(e)]
        send(5, reply)


def check_asserts(task: dict, _: dict):
    """Runs the snippets with a proxy: calls go out on 5, results come in on 6, verdicts go out on 4."""
    strange = []  # numbers returned that no comparison can be trusted with

    def proxy(*args, **kwargs):
        text = plain((args, kwargs))
        try:
            send(5, text)
            status, value, message = receive(6)
        except OSError:
            os._exit(0)  # the program is gone; this assert and the rest are not decided
        if status == "ok":
            result = literal(value)
            strange.extend([value] if not finite(result) else [])
            return result
        kind = getattr(builtins, value, RuntimeError)
        known = isinstance(kind, type) and issubclass(kind, Exception)
        # a StopIteration would end the loop in all(map(…)) before anything is compared
        raise (kind if known and not issubclass(kind, StopIteration) else RuntimeError)(message)

    names = {task["name"]: proxy, "math": math}
    for snippet in task["asserts"]:
        outcome = ["ok", "", ""]
        strange.clear()
        try:
            exec(compile(snippet, "test", "exec"), names)
            if strange and not re.search(r"\b(inf|infinity|nan|is(inf|nan|finite))\b", snippet, re.I):
                # |inf - x| <= tolerance * inf holds for every x
                outcome = ["error", "", f"the function returned {strange[0][:80]}"]
        except Exception as e:
            frames = traceback.walk_tb(e.__traceback__)
            at = [line for frame, line in frames if frame.f_code.co_filename == "test"]
            text = snippet.split("\n")[at[-1] - 1].strip() if at else ""
            outcome = ["error", "", text if isinstance(e, AssertionError) else f"{text} ({complaint(e)})"]
        write(4, (json.dumps(outcome) + "\n").encode())


PLANS = {  # by a kind's first letter: each child's work and descriptors; < to read, > to write, - neither
    b"p": [(child_program, "<stdin >out >err <task")],
    b"f": [(child_function, "- - >err <task >reply")],
    b"a": [
        (answer_calls, "- - - <task <calls >results"),
        (check_asserts, "- - - <asserts >reply >calls <results"),
    ],
    b"l": [(child_limits, "- - >err <task >reply")],
}

# ----------------------------------------------------------------------------------------------- confinement

ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}.get(os.uname().machine if LINUX else "")
# fmt: off
DENIED = {  # system call numbers on x86_64 and aarch64; -1 where there is none
    "processes": [(57, -1), (58, -1), (59, 221), (322, 281), (112, 157), (109, 154), (272, 97), (308, 268)],
    "signals": [(62, 129), (200, 130), (234, 131), (129, 138), (297, 240), (424, 424), (434, 434),
                (438, 438)],
    "other processes": [(101, 117), (310, 270), (311, 271), (312, 272), (440, 440), (279, 239), (256, 238),
                        (141, 140), (203, 122), (144, 119), (142, 118), (314, 274), (251, 30)],
    "connections": [(41, 198), (42, 203), (43, 202), (49, 200), (50, 201), (54, 208), (288, 242)],
    "shared memory and queues": [(29, 194), (64, 190), (68, 186), (240, 180)],
    "changes of files": [(85, -1), (437, 437), (83, -1), (258, 34), (82, -1), (264, 38), (316, 276), (87, -1),
                         (263, 35), (84, -1), (86, -1), (265, 37), (88, -1), (266, 36), (133, -1), (259, 33)],
    "file attributes": [(90, -1), (91, 52), (268, 53), (452, 452), (92, -1), (93, 55), (94, -1), (260, 54),
                        (132, -1), (235, -1), (261, -1), (280, 88), (76, 45), (188, 5), (189, 6), (190, 7),
                        (197, 14), (198, 15), (199, 16)],
    "the kernel": [(165, 40), (166, 39), (155, 41), (161, 51), (321, 280), (425, 425), (426, 426), (427, 427),
                   (250, 219), (248, 217), (249, 218), (298, 241), (323, 282)],
}
# fmt: on
CLONE, CLONE3, PRLIMIT, FCNTL, OPEN, OPENAT = (56, 220), (435, 435), (302, 261), (72, 25), (2, -1), (257, 56)
SOCKETPAIR, IOCTL, PRCTL, CAPSET, LANDLOCK = (53, 199), (16, 29), (157, 167), (126, 91), (444, 445, 446)
DEVICES = "/dev/null", "/dev/urandom"
RULES = 99  # descriptor of the Landlock rules, out of the way of those that fork() sets up


def confine(limits: dict, libc: ctypes.CDLL, rules: int) -> dict[str, bool]:
    """Takes from this process what a program does not need. Returns {protection: whether it is active}."""
    seconds, memory = limits["seconds"], limits["memory"]
    report = {"rlimits": limit("CPU", (seconds, seconds + 1)) and limit("AS", (memory, memory))}
    report["rlimits"] &= limit("FSIZE", (0, 0)) and limit("NOFILE", (64, 64)) and limit("CORE", (0, 0))
    report |= {"Landlock": False, "seccomp": False}
    if ARCH:
        header, nothing = struct.pack("<Ii", 0x20080522, 0), bytes(24)
        libc.syscall(CAPSET[ARCH[1]], header, nothing)  # root without its capabilities
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        report["Landlock"] = rules > 0 and libc.syscall(LANDLOCK[2], RULES, 0) == 0
        writing = report["Landlock"] and rules >= 3  # which guards against truncation, too
        code = seccomp_filter(writing)
        buffer = ctypes.create_string_buffer(code)
        program = ctypes.create_string_buffer(struct.pack("HL", len(code) // 8, ctypes.addressof(buffer)))
        report["seccomp"] = libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if not report["seccomp"]:
        limit("NPROC", (0, 0))
    return report


def limit(name: str, values: tuple[int, int]) -> bool:
    """Sets a limit of this process, as far as the system lets it; whether that is as far as asked."""
    import resource

    try:
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        values = values if most == resource.RLIM_INFINITY else tuple(min(value, most) for value in values)
        resource.setrlimit(kind, values)
        return True
    except (ValueError, OSError, AttributeError):  # macOS has no limit of the address space
        return False


def landlock_rules(libc: ctypes.CDLL) -> int:
    """Puts Landlock rules that allow reading what Python needs, no more, at RULES; their version, or 0."""
    if not ARCH or (version := libc.syscall(LANDLOCK[0], None, 0, 1)) < 1:
        return 0
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    files = 2**bits - 1  # all rights on files that the kernel knows
    # from version 4 also TCP, from 6 also signals and sockets to processes outside
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(LANDLOCK[0], struct.pack("<QQQ", files, 3, 3)[:size], size, 0)
    # not all of a prefix, which may be /usr: whatever lies there is not Python's
    own = {os.path.join(prefix, lib) for prefix in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64")}
    places = own | {"/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", *DEVICES}
    for place in places:
        try:
            fd = os.open(place, os.O_PATH)
        except OSError:
            continue
        # execute (shared libraries), read files; list folders; write
        rights = 1 | 4 | (8 if os.path.isdir(place) else 0) | (2 if place == DEVICES[0] else 0)
        libc.syscall(LANDLOCK[1], rules, 1, struct.pack("<Qi", rights, fd), 0)
        os.close(fd)
    os.dup2(rules, RULES)
    os.close(rules)
    return version


def seccomp_filter(writing: bool) -> bytes:
    """A BPF program that answers denied system calls with EPERM; unless `writing`, also opening to write."""
    arch, column = ARCH
    load, equal, at_least, has, mask = 0x20, 0x15, 0x35, 0x45, 0x54
    allow, refuse, unknown = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x00050026)
    first, second, third = ((load, 0, 0, 16 + 8 * i) for i in range(3))  # an argument's lower half
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), refuse]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse]

    def when(numbers, *lines):
        code.extend([(equal, 0, len(lines), numbers[column] & 0xFFFFFFFF), *lines])

    for numbers in itertools.chain(*DENIED.values()):
        when(numbers, refuse)
    when(CLONE3, unknown)  # the C library then falls back to clone
    when(CLONE, first, (has, 1, 0, 0x10000), refuse, allow)  # threads only
    when(PRLIMIT, first, (equal, 1, 0, 0), refuse, allow)  # its own limits only
    when(PRCTL, first, (equal, 0, 1, 1), refuse, allow)  # it dies with its parent
    if not writing:  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
        when(OPEN, second, (has, 0, 1, 0o1103), refuse, allow)
        when(OPENAT, third, (has, 0, 1, 0o1103), refuse, allow)
    # asyncio wants a pair of connected sockets: SOCK_STREAM, as one of another type can be connected anew
    when(SOCKETPAIR, second, (mask, 0, 0, 15), (equal, 1, 0, 1), refuse, allow)
    # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP: the kernel would send signals to others
    when(FCNTL, second, (equal, 3, 0, 8), (equal, 2, 0, 10), (equal, 1, 0, 15), allow, refuse)
    when(IOCTL, second, (equal, 2, 0, 0x8901), (equal, 1, 0, 0x8902), allow, refuse)
    return b"".join(struct.pack("<HBBI", *line) for line in [*code, allow])


if __name__ == "__main__":
    serve()
