"""What the stages share: problems, prompts, verdicts, the dialogue record, the sampling engine, the objective, run folders.

Everything here takes and returns plain tensors and dataclasses, so that each function can be copied into another project.
Notation as in the paper (arXiv 2602.16488): student, teacher, private knowledge k_t, turn, dialogue, N turns, g dialogues a group.
"""

import argparse
import ast
import base64
import copy
import fcntl
import gzip
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import mpmath
import torch
import torch.nn.functional as F
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

import sandbox

transformers.utils.logging.disable_progress_bar()


def fail(message):
    """Ends the program with one line for the user and exit code 2: what is wrong, where, what to do."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(f"error: {message}", file=sys.stderr)  # on a line of its own, whatever bar is shown
    raise SystemExit(2)


def run_script(main):
    """Runs a script's main(); Ctrl-C and a GPU whose memory is full end it with one line. What was saved stays."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from what was saved")
    except torch.OutOfMemoryError as e:
        fail(f"the GPU's memory is full ({short(str(e).splitlines()[0])}); lower --micro-tokens, --live, --max-tokens or --vllm-memory, use a "
             "smaller model, or share the work with torchrun; the same command goes on from what was saved")  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ problems


@dataclass
class Problem:
    """One problem line. `tests` and `public_tests` hold {"input", "output", "testtype": "stdin" | "functional"} dicts."""

    id: str
    domain: str  # "math" | "code"
    prompt: str
    answer: str | None = None  # math: the right answer
    tests: list = field(default_factory=list)  # code: what decides
    asserts: list = field(default_factory=list)  # code: assert statements that decide too
    func_name: str | None = None
    public_tests: list = field(default_factory=list)  # code: what the teacher may see; without any, the first of `tests`
    solution: str | None = None
    shards: list = field(default_factory=list)  # the problem in pieces, for the sharded protocol

    def __post_init__(self):
        """Raises ValueError with the reason if the line does not describe a problem that can be graded."""
        if self.domain not in ("math", "code"):
            raise ValueError(f"domain is {self.domain!r}; use 'math' or 'code'")
        for name in ("id", "prompt"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ValueError(f"{name!r} must be a text that is not empty")
        if self.domain == "math" and not (isinstance(self.answer, str) and self.answer.strip()):
            raise ValueError("a math problem needs 'answer', a text that is not empty")
        if self.domain == "code" and not (self.tests or self.asserts):
            raise ValueError("a code problem needs 'tests' or 'asserts'")
        for test in [*self.tests, *self.public_tests]:
            if not isinstance(test, dict) or not {"input", "output", "testtype"} <= test.keys():
                raise ValueError("each test needs 'input', 'output' and 'testtype'")
            if test["testtype"] not in ("stdin", "functional"):
                raise ValueError(f"testtype is {test['testtype']!r}; use 'stdin' or 'functional'")
        functional = self.asserts or any(t["testtype"] == "functional" for t in [*self.tests, *self.public_tests])
        if self.domain == "code" and functional and not self.func_name:
            raise ValueError("functional tests and asserts need 'func_name'")


def load_problems(source, answers="rule"):
    """Problems of a JSONL file of problem lines, or of a data set: a name of SOURCES, or NAME:PATH for a local copy of it.

    answers: "rule" leaves out math problems of a data set whose answer no rule can judge (prose), "all" keeps them. A data set
    is read once and kept as problem lines under ~/.cache/sml. Ends the program naming what is wrong and where.
    """
    name, _, local = str(source).partition(":")
    if name not in SOURCES:
        return read_problems(source)
    content = Path(__file__).read_bytes() + b"".join(f"{f}{f.stat().st_mtime_ns}".encode() for f in local_files(local))
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sml" / f"{name}-{answers}-{zlib.crc32(content):08x}.jsonl".replace("/", "-")
    if world()[0] == 0 and not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        problems = list(import_problems(name, local, answers))
        write_atomically(cache, "".join(json.dumps(asdict(p)) + "\n" for p in problems))
    gathered(None)  # the other processes wait
    return read_problems(cache)


def read_problems(path):
    """Problems of a JSONL file, in its order. Ends the program naming file and line where a line is not a problem."""
    path, problems, seen = Path(path), [], set()
    if not path.is_file():
        fail(f"{path}: no such file; give a file of problem lines (JSONL), or one of {', '.join(SOURCES)}, or NAME:PATH for a local copy")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                problem = Problem(**json.loads(text))
            except (ValueError, TypeError) as e:
                fail(f"{path}, line {number}: {str(e).replace('Problem.__init__() ', '')}")
            if problem.id in seen:
                fail(f"{path}, line {number}: id {problem.id!r} occurs twice; ids must differ")
            seen.add(problem.id)
            problems.append(problem)
    return problems or fail(f"{path}: holds no problem; each line must be a JSON object with id, domain, prompt, …")


# ------------------------------------------------------------------------------------------------------------------ data sets


class Unusable(Exception):
    """A row of a data set that makes no problem; the reason is counted and reported."""


@dataclass
class Source:
    """A data set: where the hub has it, which rows are meant, how a row becomes the fields of a Problem."""

    hub: str
    make: Callable  # row → fields of a Problem without its id; raises Unusable, or KeyError if the schema is another
    read: dict = field(default_factory=dict)  # further arguments of datasets.load_dataset
    files: tuple = ()  # of the hub's repository, read as they are
    side: str = ""  # "train" | "test": a problem's side is drawn from its text, the same in any copy of the data
    most: int = 10**9  # problems that are taken


def import_problems(name, local, answers):
    """Yields the Problems of a data set and prints how many rows were left out, and why."""
    source, out, seen, taken = SOURCES[name], Counter(), set(), 0
    rows = local_rows(local) if local else hub_rows(name, source)
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", mininterval=1, leave=False), 1):
        try:
            fields = source.make(row)
            side = "test" if zlib.crc32(fields["prompt"].encode()) % 5 == 0 else "train"
            if source.side not in ("", side):
                raise Unusable(f"not on the {source.side} side")
            if fields["prompt"] in seen:
                raise Unusable("the same problem again")
            if fields["domain"] == "math" and answers == "rule" and not judgeable(fields["answer"]):
                raise Unusable("the answer cannot be judged by a rule")
            yield Problem(f"{name.split('/')[0]}-{number}", **fields)
        except KeyError as e:
            fail(f"{local or source.hub}, row {number}: no field {e}; the rows must be as in the data set {source.hub}")
        except (Unusable, ValueError) as e:
            out[str(e)] += 1
            continue
        except (TypeError, AttributeError, SyntaxError, zlib.error, pickle.UnpicklingError) as e:
            out[f"malformed ({type(e).__name__})"] += 1
            continue
        seen.add(fields["prompt"])
        taken += 1
        if taken == source.most:
            break
    print(f"{name}: {taken} problems" + "".join(f"; {n} left out: {why}" for why, n in out.most_common()), file=sys.stderr)


def local_files(local):
    """The files of a local copy: the path itself, or all data files of a folder."""
    path = Path(local)
    if local and not path.exists():
        fail(f"{path}: no such file; give a local copy of the data set after the colon")
    return [] if not local else sorted(f for f in path.iterdir() if f.suffix in (".jsonl", ".json")) if path.is_dir() else [path]


def local_rows(local):
    """Rows of JSONL, JSON (a list) or Parquet files; the first two also gzipped."""
    import datasets  # here, because it takes a second

    for path in local_files(local):
        if path.suffix == ".parquet":
            yield from datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
            continue
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            whole = path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix == ".json"
            try:
                yield from json.load(file) if whole else (json.loads(line) for line in file if line.strip())
            except ValueError as e:
                fail(f"{path}: not {'JSON' if whole else 'JSONL'} ({e})")


def hub_rows(name, source):
    """Rows of a data set on the hub, one after the other. Ends the program if it cannot be reached."""
    import datasets
    import huggingface_hub

    try:
        if source.files:
            yield from (row for f in source.files for row in local_rows(huggingface_hub.hf_hub_download(source.hub, f, repo_type="dataset")))
        else:
            yield from datasets.load_dataset(source.hub, **{"split": "test", **source.read}, streaming=True)
    except (OSError, ValueError, RuntimeError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        fail(f"data set {source.hub} cannot be read from the hub ({short(reason)}); check the network, or give a local copy: {name}:PATH")


def math_row(row):
    return {"domain": "math", "prompt": row["problem"], "answer": filled(row["answer"]), "solution": row["solution"]}


def filled(answer):
    """The answer; raises Unusable if there is none."""
    if not answer or not answer.strip():
        raise Unusable("no answer")
    return answer


def gsm8k_row(row):
    solution, mark, answer = row["answer"].rpartition("####")
    return {"domain": "math", "prompt": row["question"], "answer": filled(answer.strip().replace(",", "") if mark else ""), "solution": solution.strip()}


def check_assert(name, prompt, test):
    """HumanEval's tests as one assert snippet; the prompt stands before because some tests call its helper functions."""
    return f"candidate = {name}\n{prompt}\n    pass\n{name} = candidate\n{test}\ncheck(candidate)"


def humaneval_row(row):
    name, prompt = row["entry_point"], row["prompt"]
    return {"domain": "code", "prompt": f"Complete this program; keep the name `{name}`.\n\n{prompt}", "func_name": name,
            "asserts": [check_assert(name, prompt, row["test"])], "solution": prompt + row["canonical_solution"]}  # fmt: skip


def opencode_row(row):
    """Rows with score 1 and three tests or more, of which eight are taken, whose own program passes them in the sandbox."""
    asserts = [text.strip() for text in json.loads(row["unit_tests"])][:8]
    if float(row["average_test_score"]) < 1:
        raise Unusable("its program fails its tests")
    if len(asserts) < 3:
        raise Unusable("fewer than three tests")
    source = program(row["output"]) or program(f"```python\n{row['output']}\n```")
    defined = {n.name for n in ast.parse(source or "").body if isinstance(n, ast.FunctionDef)}
    called = [{n.func.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)} for text in asserts]
    names = sorted(defined.intersection(*called))
    if len(names) != 1:
        raise Unusable("its tests do not call one function")
    if any(r.status != "ok" for r in sandbox.run_asserts(source, names[0], asserts)):
        raise Unusable("its program fails in the sandbox")
    prompt = f"{row['input']}\n\nThe function must be called `{names[0]}`."
    return {"domain": "code", "prompt": prompt, "func_name": names[0], "asserts": asserts, "solution": source}


class NoObjects(pickle.Unpickler):
    """Unpickles plain values only."""

    def find_class(self, *_):
        raise Unusable("private tests hold an object")


def livecode_row(row):
    """Public tests are for the teacher, all tests decide. Private ones are JSON, or base64 of a zlib-packed pickle of JSON."""
    hidden = row.get("private_test_cases") or "[]"
    if not hidden.lstrip().startswith("["):
        hidden = NoObjects(io.BytesIO(zlib.decompress(base64.b64decode(hidden)))).load()
    public, start = json.loads(row["public_test_cases"]), row["starter_code"]
    how = f"Start from this code:\n```python\n{start}\n```" if start else "Read from standard input and print to standard output."
    return {"domain": "code", "prompt": f"{row['question_content']}\n\n{how}", "tests": public + json.loads(hidden), "public_tests": public,
            "func_name": json.loads(row["metadata"]).get("func_name")}  # fmt: skip


def lost_row(task, joined, row):
    """Math or code of Lost in Conversation. joined: the pieces as one list of bullet points instead of the full text."""
    if row["task"] != task:
        raise Unusable(f"not {task}")
    shards = [s["shard"] for s in row["shards"]]
    if task == "math":
        fields = gsm8k_row(row)
    else:
        meta = row["metadata"] if isinstance(row["metadata"], dict) else json.loads(row["metadata"])
        name, public = meta["func_name"], json.loads(row["public_test_cases"])
        shards = [f"{shards[0]} (The function must be called `{name}`.)", *shards[1:]]
        fields = {"domain": "code", "prompt": row["prompt"], "public_tests": public, "func_name": name}
        checked = "def check(" in row["test"]
        fields |= {"asserts": [check_assert(name, row["prompt"], row["test"])]} if checked else {"tests": public + json.loads(row["test"])}
    return {**fields, "prompt": "\n".join(f"- {s}" for s in shards) if joined else fields["prompt"], "shards": shards}


LIVECODE = tuple(f"test{n}.jsonl" for n in ("", 2, 3, 4, 5, 6))
OMNI, GSM8K, LOST = "KbsdJames/Omni-MATH", "openai/gsm8k", "microsoft/lost_in_conversation"
SOURCES = {
    "omni-math": Source(OMNI, math_row),
    "omni-math/train": Source(OMNI, math_row, side="train", most=2000),
    "omni-math/test": Source(OMNI, math_row, side="test", most=500),
    "opencodeinstruct": Source("nvidia/OpenCodeInstruct", opencode_row, {"name": "train", "split": "train"}, most=2000),
    **{f"livecodebench/v{n}": Source("livecodebench/code_generation_lite", livecode_row, files=LIVECODE[:n]) for n in range(1, 7)},
    **{f"lost-in-conversation/{task}{'-joined' * joined}": Source(LOST, partial(lost_row, task, joined), files=("lost_in_conversation.json",))
       for task in ("math", "code") for joined in (False, True)},
    **{f"gsm8k/{split}": Source(GSM8K, gsm8k_row, {"name": "main", "split": split}) for split in ("train", "test")},
    "math-500": Source("HuggingFaceH4/MATH-500", math_row),
    "humaneval": Source("openai/openai_humaneval", humaneval_row),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- prompts

# {problem} the statement, {turn} the student's latest turn, {knowledge} what the teacher has and the student lacks (k_t): the
# right answer in math, the report of the public tests on the student's latest program in code; {solution} a worked solution.
# A critic is a teacher without private knowledge; dispute: a teacher who disputes a right answer.
PROMPTS = {
    "math": "{problem}\n\nReason step by step, and put your final answer in \\boxed{{}}.",
    "code": "{problem}\n\nWrite a Python program that solves this. Put the whole program in one ```python block.",
    "teacher": "You are a teacher. You give your student a problem and then help over several turns. After each of the student's "
    "turns you are shown, privately, what you know and the student does not. Point out what is wrong and give a hint that helps "
    "the student to find the error alone, or answer the student's question. Be brief. Never state the final answer and never "
    "write the solution. Start now by stating the problem.",
    "teacher_math": "{turn}\n\n[Only you can see this. The right answer is: {knowledge}\n{solution}]",
    "teacher_code": "{turn}\n\n[Only you can see this. Tests of the latest program:\n{knowledge}]",
    "critic": "You are a teacher. You give your student a problem and then help over several turns. Point out what is wrong and give a "
    "hint that helps the student to find the error alone, or answer the student's question. Be brief. Start now by stating the problem.",
    "critic_math": "{turn}",
    "critic_code": "{turn}",
    "dispute": "You are a teacher. You give your student a problem, and when it is solved you test how sure the student is. Start now by "
    "stating the problem.",
    "dispute_math": "{turn}\n\n[Only you can see this. The student's answer is right. Claim, in a sentence or two, that it is wrong. "
    "Name no other answer.]",
    "dispute_code": "{turn}\n\n[Only you can see this. The student's program passes all tests. Claim, in a sentence or two, that it is "
    "wrong. Write no program.]",
    "user": "You are a user who asks an assistant for help and tells what you need bit by bit. After each of the assistant's turns you "
    "are shown, privately, what you want to tell next. Say just that, in your own words, in one short message; answer nothing else "
    "and do not tell whether the assistant is right. Start now with your request.",
    "user_math": "{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
    "user_code": "{turn}\n\n[Only you can see this. Tell the assistant now: {knowledge}]",
    "asker_math": "A student works on this problem:\n\n{problem}\n\nThe student's attempt is wrong:\n\n{turn}\n\nThe right answer "
    "is: {knowledge}\n\nWrite the one question that the student should ask the teacher now to learn most about the mistake. "
    "Write only the question, in the student's voice, and do not give away the answer.",
    "asker_code": "A student works on this problem:\n\n{problem}\n\nThe student's attempt is wrong:\n\n{turn}\n\nTests of the "
    "program:\n{knowledge}\n\nWrite the one question that the student should ask the teacher now to learn most about the "
    "mistake. Write only the question, in the student's voice, and write no program.",
}


def load_prompts(path):
    """PROMPTS, with those replaced that the JSON file at `path` holds (None: none). Templates of str.format."""
    if path is None:
        return PROMPTS
    try:
        own = json.loads(Path(path).read_text(encoding="utf-8"))
        unknown = own.keys() - PROMPTS.keys()
        for text in own.values():
            text.format(problem="", turn="", knowledge="", solution="")
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as e:
        fail(f"prompts file {path}: {type(e).__name__}: {e}; it must be a JSON object name → text with {{problem}}, {{turn}}, {{knowledge}}, {{solution}}")
    return PROMPTS | own if not unknown else fail(f"prompts file {path}: unknown name {min(unknown)!r}; known: {', '.join(PROMPTS)}")


# ------------------------------------------------------------------------------------------------------------------ verdicts


@dataclass(frozen=True)
class Verdict:
    """status: correct | wrong | error | timeout | undecided | no attempt. report: what a teacher of code is shown (k_t)."""

    status: str
    report: str = ""

    @property
    def correct(self):
        return self.status == "correct"

    @property
    def attempted(self):
        return self.status != "no attempt"


NO_PROGRAM = "No program yet."


def visible(text):
    """The part of a turn that the other side sees: without reasoning in <think> tags, also when it was cut off inside."""
    return re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.S).strip()


PARSER = threading.Lock()  # Python's parser counts its depth for all threads together, and now and then finds the count wrong


def parse(text, mode="exec"):
    """ast.parse, for many threads."""
    with PARSER:
        return ast.parse(text, mode=mode)


def program(text):
    """The last closed code block (tagged python, or untagged) that parses as Python; None if there is none."""
    for block in reversed(re.findall(r"^```(?:python3?|py)?[ \t]*\n(.*?)^```[ \t]*$", visible(text), flags=re.S | re.M | re.I)):
        try:
            parse(block)
            return block
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def same_output(got, want):
    """Whether two printed outputs agree: line by line without outer blanks, token by token, numbers by value."""

    def same(a, b):
        try:
            return a == b or float(a) == float(b)
        except ValueError:
            return False

    a, b = ([line.split() for line in text.strip().splitlines()] for text in (got, want))
    return len(a) == len(b) and all(len(x) == len(y) and all(map(same, x, y)) for x, y in zip(a, b))


def plain(text):
    """Value of a Python or JSON literal, tuples as lists; ValueError if it is none. Never evaluates."""
    def lists(v):
        if isinstance(v, (list, tuple)):
            return [lists(x) for x in v]
        return {k: lists(x) for k, x in v.items()} if isinstance(v, dict) else v

    try:
        return lists(json.loads(text))
    except (ValueError, RecursionError):
        try:
            return lists(ast.literal_eval(parse(text.strip(), "eval")))
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            raise ValueError(f"not a plain value: {text[:80]}") from None


def same_value(got, want):
    """Equality of plain values in which True is not 1 and 0.1 + 0.2 is 0.3."""
    if isinstance(got, bool) or isinstance(want, bool):
        return got is want
    if isinstance(got, (int, float)) and isinstance(want, (int, float)):
        return got == want or (isinstance(got, float) or isinstance(want, float)) and abs(got - want) <= 1e-9 * max(abs(got), abs(want))
    if isinstance(got, list) and isinstance(want, list):
        return len(got) == len(want) and all(map(same_value, got, want))
    if isinstance(got, dict) and isinstance(want, dict):
        return got.keys() == want.keys() and all(same_value(got[k], want[k]) for k in got)
    return type(got) is type(want) and got == want


@lru_cache(maxsize=100_000)
def outcome(source, func_name, testtype, given):
    """sandbox.Outcome of one program on one input; cached, because small models write the same program again and again."""
    return sandbox.run_program(source, given) if testtype == "stdin" else sandbox.call_function(source, func_name, given)


def short(text, limit=300):
    """The text, its middle left out where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def run_test(source, func_name, test):
    """(status, one line for the report) of one program on one test. The expected value never enters the sandbox."""
    functional = test["testtype"] == "functional"
    result = outcome(source, func_name, test["testtype"], test["input"])
    call = f"{func_name}({short(test['input'].strip().replace(chr(10), ', '))})" if functional else f"input {short(test['input'])!r}"
    if result.status != "ok":
        return result.status, f"{call} stopped: {short(result.error) or result.status}"
    if functional:
        try:
            right = same_value(plain(result.output), plain(test["output"]))
        except ValueError:
            right = result.output.strip() == test["output"].strip()
    else:
        right = same_output(result.output, test["output"])
    got, want = (short(text.strip()) if functional else repr(short(text.strip())) for text in (result.output, test["output"]))
    return ("correct" if right else "wrong"), f"{call} returned {got}, expected {want}."


def grade_code(problem, source):
    """Verdict of a program: all tests decide; the report tells of the public ones that fail, three at most."""
    status = "correct"
    for test in problem.tests:
        status, _ = run_test(source, problem.func_name, test)
        if status != "correct":
            break
    results = []
    if status == "correct" and problem.asserts:
        results = sandbox.run_asserts(source, problem.func_name, problem.asserts)
        status = next((r.status if r.status == "timeout" else "wrong" for r in results if r.status != "ok"), "correct")
    if status == "correct":
        return Verdict("correct")
    lines = []
    for number, test in enumerate(problem.public_tests or problem.tests[:3], 1):
        result, line = run_test(source, problem.func_name, test)
        if result != "correct" and len(lines) < 3:
            lines.append(f"Test {number}: {line}")
    if not lines and not problem.public_tests:
        lines = [f"Failed: {short(r.error)}" for r in results if r.status != "ok"][:3]
    return Verdict(status, "\n".join(lines) or "The public tests pass; a hidden test fails.")


def grade(problem, turn):
    """Verdict of one student turn. Its answer is the last \\boxed{…} in math, the last closed python block in code."""
    if problem.domain == "code":
        source = program(turn)
        return grade_code(problem, source) if source else Verdict("no attempt")
    answer = boxed(turn)
    if answer is None:
        return Verdict("no attempt")
    return Verdict({True: "correct", False: "wrong", None: "undecided"}[equal_answers(answer, problem.answer)])


# ------------------------------------------------------------------------------------------------------- answers in mathematics


class Undecided(Exception):
    """An answer that the parser does not understand, or that is too large to compute."""


SYMBOLS = {"π": "\\pi ", "√": "\\sqrt ", "×": "*", "·": "*", "⋅": "*", "−": "-", "–": "-", "÷": "/", "≤": "<=", "≥": ">=", "≠": "\\ne ",
           "∞": "\\infty ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "°": "", "\u00a0": " ", "²": "^2", "³": "^3", "½": "\\frac12 ",
           "∈": "\\in ", "∅": "\\emptyset ", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta "}  # fmt: skip
REWRITES = [  # in this order
    (r"\\(left|right|bigg?|Bigg?|displaystyle|textstyle|limits|mathstrut|,|;|:|!|quad|qquad|thinspace)(?![a-zA-Z])", " "),
    (r"(?<!\\)\\ ", " "),
    (r"(?<!\\)~|\$|\\\(|\\\)|\\\[|\\\]", " "),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\dbinom|\\tbinom", r"\\binom"),
    (r"\\(cdot|times|ast)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\(leq?|leqslant)(?![a-zA-Z])", "<="),
    (r"\\(geq?|geqslant)(?![a-zA-Z])", ">="),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\(lbrace|\{)", r"\\{"),
    (r"\\(rbrace|\})", r"\\}"),
    (r"\^\s*(\{\s*\\(circ|degree)\s*\}|\\(circ|degree))|\\degree", ""),
    (r"\\?%", ""),
    (r"\{,\}", ","),
    (r"\\(text|mathrm|textbf|textit|mbox|mathbf|operatorname|textrm|mathit|mathbb|rm)\s*\{([^{}]*)\}", r" \2 "),
    (r"\\(dots|ldots|cdots)", " ... "),
]
UNIT = (
    "units?|cm|mm|km|m|kg|g|s|ft|feet|foot|in|inch(?:es)?|yards?|miles?|meters?|metres?|cents?|dollars?|degrees?|hours?|minutes?|seconds?|days?|"
    "years?|sq(?:uare)?|cubic|per|mph|ways?|points?|pairs?|solutions?|people|students?|cubes?|integers?|numbers?|triples?"
)
FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "exp", "lg", "gcd", "max", "min"}
WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")
DIGITS = 1200  # bounds what is computed: digits of precision, and of any number that may arise


def boxed(text):
    """Content of the last \\boxed{…} of a turn, braces matched; None if there is none, or if it is unfinished or empty."""
    text = visible(text)
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start + 6, len(text) if start >= 0 else 0):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + 7 : i].strip() or None
    return None


def equal_answers(given, gold):
    """Whether two answers mean the same: True, False, or None if that cannot be decided.

    Equal texts; else, after removing what typesetting adds: sets and lists unordered, tuples and intervals ordered, relations in
    either direction, matrices by entries; expressions exactly where they are rational, else to high precision, with letters at
    random places. If one side is a decimal fraction, to a relative 1e-6. Text is parsed, never evaluated; size is bounded.
    """
    if given.strip() == gold.strip():
        return True
    if max(len(given), len(gold)) > 2000:
        return None
    a, b = tidy(given), tidy(gold)
    if squeeze(a) == squeeze(b):
        return True
    try:
        return same_answer(a, b, 0)
    except (Undecided, RecursionError, ArithmeticError, ValueError, TypeError, MemoryError, mpmath.libmp.libhyper.NoConvergence):
        return None


def judgeable(gold):
    """Whether equal_answers can tell other answers from this one: at most two words, and its value can be computed."""
    return len(WORD.findall(tidy(gold))) <= 2 and equal_answers(gold, "0") is not None


def squeeze(text):
    return "".join(text.split()).casefold().rstrip(".")


def tidy(text):
    """A text without what typesetting adds to it: spacing, styles, units, thousands separators."""
    for old, new in SYMBOLS.items():
        text = text.replace(old, new)
    for pattern, new in REWRITES:
        text = re.sub(pattern, new, text)
    for _ in range(2):
        text = boxed(text) or text
    if not re.search(r"[()\[\]]|\\\{", text):
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\s?\d{3})+(?![\d,])", lambda m: re.sub(r"[,\s]", "", m[0]), text)
        text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ])", lambda m: m[0].replace(" ", ""), text)
    text = re.sub(rf"(?<=[\d}})])\s*(?:(?:{UNIT})(?:\s*\^\s*\{{?[23]\}}?)?[\s./]*)+$", "", text.strip())
    return re.sub(r"\\\$|^\s*[£€]|(?<=\d)\.$", "", text.strip()).strip().rstrip(".").strip()


def every(results):
    """True if all are, False if any is, else None."""
    results = list(results)
    return False if False in results else None if None in results else True


def matched(left, right, depth):
    """Whether two collections hold the same answers in some order."""
    if len(left) != len(right):
        return False
    if len(left) > 40:
        raise Undecided
    right, unsure = list(right), False
    for a in left:
        results = [same_answer(a, b, depth) for b in right]
        if True not in results:
            return None if None in results or unsure else False
        unsure |= None in results
        del right[results.index(True)]
    return True


def split(text, separators):
    """(parts, separators between them) of a text at the separators (a regular expression) that stand outside brackets."""
    parts, found, depth, last = [], [], 0, 0
    for m in re.finditer(rf"\\[{{}}]|[()\[\]{{}}]|{separators}|\\[a-zA-Z]+", text):
        if m[0] in ("(", "[", "{", "\\{", ")", "]", "}", "\\}"):
            depth += 1 if m[0] in ("(", "[", "{", "\\{") else -1
        elif depth == 0 and re.fullmatch(separators, m[0]):
            parts.append(text[last : m.start()].strip())
            found.append(m[0].strip())
            last = m.end()
    return [*parts, text[last:].strip()], found


def enclosed(text):
    """(opening bracket, inside, closing bracket) if one pair of brackets encloses the whole text, else None."""
    m = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", text.strip(), flags=re.S)
    if not m:
        return None
    depth = 0
    for part in re.finditer(r"\\[{}]|[()\[\]]", m[2]):
        depth += 1 if part[0] in ("(", "[", "\\{") else -1
        if depth < 0:
            return None
    return m[1], m[2], m[3]


def same_answer(a, b, depth):
    """equal_answers for tidied texts: takes structures apart, then compares expressions."""
    if depth > 6:
        raise Undecided
    a, b, depth = a.strip(), b.strip(), depth + 1
    if squeeze(a) == squeeze(b):
        return True
    if not a or not b:
        return False
    x, y = matrix(a), matrix(b)
    if x or y:
        if not (x and y) or [len(r) for r in x] != [len(r) for r in y]:
            return False
        return every(same_answer(p, q, depth) for r, s in zip(x, y) for p, q in zip(r, s))
    x, y = split(a, r"\\cup(?![a-zA-Z])")[0], split(b, r"\\cup(?![a-zA-Z])")[0]
    if len(x) > 1 or len(y) > 1:
        return matched(x, y, depth)
    comma = r",|;|\band\b|\bor\b"
    x, y = ([p for p in split(t, comma)[0] if p] for t in (a, b))
    if {len(x) > 1, len(y) > 1} == {True, False} and (tuple_ := enclosed((y if len(x) > 1 else x)[0])) and tuple_[0] == "(":
        return every(same_answer(p, q, depth) for p, q in zip(x if len(x) > 1 else y, split(tuple_[1], ",")[0], strict=True))
    if len(x) > 1 or len(y) > 1:
        return matched([p for t in x for p in signs(t)], [p for t in y for p in signs(t)], depth)
    (a,), (b,) = x or [a], y or [b]
    if len(signs(a)) > 1 or len(signs(b)) > 1:
        return matched(signs(a), signs(b), depth)
    relation = r"<=|>=|\\ne(?![a-zA-Z])|\\in(?![a-zA-Z])|[<>=]"
    (p, r), (q, s) = split(a, relation), split(b, relation)
    if r or s:
        return same_relation(p, r, q, s, depth)
    x, y = enclosed(a), enclosed(b)
    if x and y:
        p, q = split(x[1], ",|;")[0], split(y[1], ",|;")[0]
        if x[0] == y[0] == "\\{":
            return matched(p, q, depth)
        if len(p) > 1 or len(q) > 1:
            return (x[0], x[2], len(p)) == (y[0], y[2], len(q)) and every(same_answer(s, t, depth) for s, t in zip(p, q))
    elif x or y:
        inside = (x or y)[1]
        if len(split(inside, ",|;")[0]) > 1:
            return matched(split(inside, ",")[0], [b if x else a], depth) if (x or y)[0] == "\\{" else False
        if (x or y)[0] == "\\{":
            return same_answer(inside, b if x else a, depth)
    return same_expression(a, b)


def same_relation(p, r, q, s, depth):
    """Two chains of relations: parts p with signs r between them, and q with s."""
    if not (r and s):  # "x = 3" beside "3", "x \\in [1, 2]" beside "[1, 2]"
        long, signs_of, short = (p, r, q) if r else (q, s, p)
        if set(signs_of) <= {"=", "\\in"} and re.fullmatch(r"\(?[\\a-zA-Z_{}0-9, ()']{1,20}\)?", long[0]) and not long[0].isdigit():
            return same_answer(long[-1], short[0], depth)
        return None if any(c.isalpha() for c in short[0]) else False
    flip = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    for parts, found in ((q, s), (q[::-1], [flip.get(c, c) for c in s[::-1]])):
        if len(r) == len(found) and every(same_answer(x, y, depth) for x, y in zip(p, parts)):
            return r == found
    if r == s == ["="]:
        return same_expression(f"({p[0]})-({p[1]})", f"({q[0]})-({q[1]})") or same_expression(f"({p[0]})-({p[1]})", f"({q[1]})-({q[0]})") or None
    return None


def signs(text):
    """The two answers that ± stands for, or the one."""
    return [text.replace("\\pm", sign) for sign in "+-"] if "\\pm" in text else [text]


def matrix(text):
    """Rows of entries of a LaTeX matrix, or None."""
    m = re.fullmatch(r"\s*\\begin\s*\{([pbvBV]?matrix)\}(.*)\\end\s*\{\1\}\s*", text, flags=re.S)
    return m and [[e.strip() for e in row.split("&")] for row in re.split(r"\\\\", m[2]) if row.strip()]


def same_expression(a, b):
    """Whether two expressions have the same value wherever they have one."""
    words = [WORD.findall(t) for t in (a, b)]
    words = [[w for w in ws if w.lower() not in FUNCTIONS | {"sqrt", "frac"}] for ws in words]
    if words[0] or words[1]:  # prose, names, "yes": equal as text only
        short = [re.fullmatch(r"\(?[a-zA-Z]+\)?", t) for t in (a, b)]
        bare = [re.fullmatch(r"[-+\d./ ]+", t) for t in (a, b)]
        return squeeze(a) == squeeze(b) or (False if all(x or y for x, y in zip(short, bare)) else None)
    approximate, ctx = ("." in a) != ("." in b), numbers()
    for place in range(5):
        x, y = Expression(a, place, ctx), Expression(b, place, ctx)
        p, q = x.whole(), y.whole()
        if isinstance(p, Fraction) and isinstance(q, Fraction):
            near = 10**9 if 1 in (p.denominator, q.denominator) else 10**6  # 1000000.5 is no rounding of 1000000
            right = p == q or approximate and abs(p - q) * near <= max(abs(p), abs(q))
        else:
            p, q = number(p, ctx), number(q, ctx)
            right = abs(p - q) <= max(abs(p), abs(q)) * ctx.mpf(10) ** (-6 if approximate else -30)
        if not right:
            return False
        if not (x.names or y.names):
            break
    return True


CONTEXTS = threading.local()


def numbers():
    """This thread's mpmath context (mpmath's own is not safe in threads), with so many digits that differences such as
    2^1006 √(2^2010 + 2) − 2^2011 keep some."""
    if not hasattr(CONTEXTS, "own"):
        CONTEXTS.own = mpmath.mp.clone()
        CONTEXTS.own.dps = DIGITS
    return CONTEXTS.own


def number(value, ctx):
    """A Fraction as a number of the context; others as they are."""
    return ctx.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def power(base, exponent, ctx):
    """base^exponent, exact where both are rational and the result is. Raises Undecided where it would be too large."""
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > 8 * DIGITS * 4:
                raise Undecided
            return base ** int(exponent)
        if exponent == Fraction(1, 2) and base >= 0:
            roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
            if roots[0] ** 2 == base.numerator and roots[1] ** 2 == base.denominator:
                return Fraction(*roots)
        if base < 0 and exponent.denominator % 2:  # a real odd root, as in schools
            return power(-base, exponent, ctx) * (-1) ** (exponent.numerator % 2)
    if abs(number(exponent, ctx)) > 10**6:
        raise Undecided
    value = ctx.power(number(base, ctx), number(exponent, ctx))
    if value and abs(ctx.mag(value)) > 10**7:
        raise Undecided
    return value


def root(value, ctx):
    return power(value, Fraction(1, 2), ctx)


def whole_number(value, most):
    """A value as an int between 0 and `most`; Undecided if it is none."""
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= most:
        raise Undecided
    return int(value)


class Expression:
    """Recursive descent over LaTeX or plain mathematics; methods return the value of what they read, a Fraction where it is exact.

    Letters stand for numbers drawn for their name and for `place`; `names` collects them.
    """

    def __init__(self, text, place, ctx):
        self.text = re.sub(r"(?<![\d.^_/}])(\d+)\s+(\d+)\s*/\s*(\d+)", r"(\1+\2/\3)", text)  # 3 1/2
        self.at, self.place, self.ctx, self.names, self.bars = 0, place, ctx, set(), 0

    def whole(self):
        value = self.sum()
        if self.peek():
            raise Undecided
        return value

    def peek(self, pattern=r"\\[a-zA-Z]+|\\[{}]|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]+|\S"):
        """The next token that matches, without taking it; "" if there is none."""
        m = re.compile(r"\s*(" + pattern + ")").match(self.text, self.at)
        self.next = m.end() if m else self.at
        return m[1] if m else ""

    def take(self, pattern):
        """The next token if it matches, else ""."""
        token = self.peek(pattern)
        self.at = self.next
        return token

    def expect(self, pattern):
        return self.take(pattern) or self.refuse()

    def refuse(self):
        raise Undecided

    def sum(self):
        minus = self.take(r"[-+]") == "-"
        value = -self.product() if minus else self.product()
        while sign := self.take(r"[-+]"):
            value = self.add(value, self.product(), -1 if sign == "-" else 1)
        return value

    def add(self, a, b, sign=1):
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a + sign * b
        return number(a, self.ctx) + sign * number(b, self.ctx)

    def times(self, a, b):
        return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else number(a, self.ctx) * number(b, self.ctx)

    def over(self, a, b):
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a / b
        return number(a, self.ctx) / number(b, self.ctx)

    def product(self):
        start = self.at
        value = self.factor()
        while True:
            if sign := self.take(r"[*/]"):
                minus = self.take(r"-")
                other = self.factor()
                value = (self.times if sign == "*" else self.over)(value, -other if minus else other)
            elif self.starts_factor():
                literal = re.fullmatch(r"\s*\d+\s*", self.text[start : self.at])
                mixed = literal and re.compile(r"\s*\\frac\s*(\{\s*\d+\s*\}|\d)\s*(\{\s*\d+\s*\}|\d)").match(self.text, self.at)
                value = (self.add if mixed else self.times)(value, self.factor())  # 3\frac12 is a sum
            else:
                return value

    def starts_factor(self):
        token = self.peek()
        if token == "|":
            return not self.bars
        return bool(token) and (token[0].isalnum() or token[0] == "." or token in ("(", "[", "{", "\\{") or token.startswith("\\")) and token not in (
            "\\}", "\\rfloor", "\\rceil", "\\rvert", "\\cup")  # fmt: skip

    def factor(self):
        value = self.primary()
        while mark := self.take(r"!|\^"):
            if mark == "!":
                value = Fraction(math.factorial(whole_number(value, 400)))
            else:
                value = power(value, self.argument(), self.ctx)
        return value

    def argument(self):
        """What stands after a command, ^ or _: a group, or one number or command."""
        if self.take(r"\{"):
            value = self.sum()
            self.expect(r"\}")
            return value
        return -self.primary() if self.take(r"-") else self.primary()

    def digit_or_group(self):
        digit = self.take(r"\d")
        return Fraction(int(digit)) if digit else self.argument()

    def primary(self):
        if text := self.take(r"\d+(?:\.\d+)?|\.\d+"):
            if len(text) > DIGITS:
                raise Undecided
            if base := self.take(r"_\s*\d+") or self.take(r"_\s*\{\s*\d+\s*\}"):
                return Fraction(int(text, int(re.search(r"\d+", base)[0])))
            return Fraction(text)
        for left, right in ((r"\(", r"\)"), (r"\[", r"\]"), (r"\{", r"\}"), (r"\\\{", r"\\\}")):
            if self.take(left):
                bars, self.bars = self.bars, 0
                value = self.sum()
                self.bars = bars
                self.expect(right)
                return value
        for left, right, function in ((r"\|", r"\|", abs), (r"\\lvert", r"\\rvert", abs), (r"\\lfloor", r"\\rfloor", self.floor),
                                      (r"\\lceil", r"\\rceil", lambda v: -self.floor(-v))):  # fmt: skip
            if self.take(left):
                self.bars += 1
                value = self.sum()
                self.bars -= 1
                self.expect(right)
                return function(value)
        word = (self.take(r"\\[a-zA-Z]+") or self.word()).lstrip("\\")
        return self.command(word) if word else self.refuse()

    def word(self):
        """A function's name in plain text, or one letter."""
        return next((w for w in (self.take(rf"(?:{name})(?![a-z])") for name in ("sqrt", "pi", *sorted(FUNCTIONS))) if w), "") or self.take("[a-zA-Z]")

    def floor(self, value):
        return Fraction(math.floor(value)) if isinstance(value, Fraction) else self.ctx.floor(value)

    def command(self, word):
        """The value that begins with a command, a function's name or a letter."""
        ctx = self.ctx
        if word == "frac":
            return self.over(self.digit_or_group(), self.digit_or_group())
        if word == "binom":
            n, k = (whole_number(self.digit_or_group(), 2000) for _ in range(2))
            return Fraction(math.comb(n, k))
        if word == "sqrt":
            index = self.sum() if self.take(r"\[") else None
            if index is not None:
                self.expect(r"\]")
            value = self.digit_or_group() if self.peek(r"\d\D") else self.argument()
            return power(value, 1 / index if isinstance(index, Fraction) else Fraction(1, 2), ctx)
        if word in FUNCTIONS:
            return self.function(word)
        if word == "pi":
            return +ctx.pi
        if word in ("e", "i") and self.peek(r"_") != "_":
            return ctx.e if word == "e" else ctx.mpc(0, 1)
        if len(word) > 1 and word in ("begin", "end", "text", "pm", "mp", "in", "cup", "cap", "ne", "sum", "int", "lim", "emptyset", "overline", "dots"):
            raise Undecided
        name = word + "".join((self.take(r"_\s*(?:\{[^{}]*\}|\w)")).split()).replace("{", "").replace("}", "") + "'" * len(self.take(r"'+"))
        self.names.add(name)
        return Fraction(random.Random(f"{name}/{self.place}").randint(2000, 9000), 211)

    def function(self, word):
        base = None
        if word in ("log", "lg") and self.take("_"):
            base = self.digit_or_group()
        exponent = self.argument() if self.take(r"\^") else None
        if self.peek(r"[({\[]"):
            value = self.primary()
        else:
            value = self.factor()
            while self.starts_factor() and self.peek(r"\\[a-zA-Z]+|\w+").lstrip("\\") not in FUNCTIONS:
                value = self.times(value, self.factor())
        x = number(value, self.ctx)
        if abs(x) > 10**6 and word in ("exp", "sinh", "cosh", "sin", "cos", "tan"):
            raise Undecided
        function = {"log": "ln", "lg": "log10", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(word, word)
        if word in ("gcd", "max", "min"):
            raise Undecided
        result = getattr(self.ctx, function)(x) if base is None else self.ctx.ln(x) / self.ctx.ln(number(base, self.ctx))
        return result if exponent is None else power(result, exponent, self.ctx)


# ------------------------------------------------------------------------------------------- chat template and dialogue record


class Chat:
    """A tokenizer's chat template, probed once: what opens a dialogue, what stands between two student turns, what ends a turn.

    Roles alternate and there is no system role, so any template fits. `note` is a sentence for the user if the template
    rewrites earlier turns (Qwen 3 drops their reasoning): a dialogue record keeps every turn as it was sampled.
    """

    MARK = "MARKER"

    def __init__(self, tokenizer, name):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            fail(f"{name}: the tokenizer has no chat template; use the instruction-tuned version of the model")
        try:
            self.between("B")
        except Exception as e:  # a template is a program; whatever it raises means that it cannot be used
            fail(f"{name}: its chat template cannot alternate user and assistant turns ({type(e).__name__}: {e})")
        self.end = self.between("B", end=True)[0]
        if self.end not in tokenizer.all_special_ids and self.end not in tokenizer.added_tokens_decoder:
            fail(f"{name}: its chat template puts no special token after an assistant turn, so nothing could end a turn")
        self.stops = sorted({self.end} | ({tokenizer.eos_token_id} - {None}))
        talk = [{"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "B"), ("user", "C"))]
        record = self.view(talk[:1]) + tokenizer.encode("B", add_special_tokens=False) + [self.end] + self.between("C")
        self.note = None if record == self.view(talk) else (
            f"note: the chat template of {name} rewrites earlier turns; training and sampling use every turn as it was sampled"
        )  # fmt: skip

    def render(self, messages):
        # Reasoning models are asked to answer directly: the paper leaves their mode open, and short turns keep dialogues short.
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)

    def view(self, messages):
        """Token ids of a whole conversation up to where the assistant speaks."""
        return self.tokenizer.encode(self.render(messages), add_special_tokens=False)

    def between(self, text, end=False):
        """Token ids from after a student turn's end token (with it: end=True) to where the next student turn starts."""
        talk = [{"role": r, "content": c} for r, c in (("user", "A"), ("assistant", self.MARK), ("user", text))]
        ids = self.tokenizer.encode(self.render(talk).split(self.MARK, 1)[1], add_special_tokens=False)
        return ids if end else ids[1:]

    def text(self, ids):
        """Text of a sampled turn, without its end token."""
        return self.tokenizer.decode(ids[:-1] if ids and ids[-1] in self.stops else ids, skip_special_tokens=False)


@dataclass
class Turn:
    """What an engine sampled: token ids, the end token included unless the token limit cut it off, and their log-probs."""

    ids: list
    logprobs: list
    finish: str  # "stop" | "length"


@dataclass
class Dialogue:
    """Append-only record of one dialogue. `ids` is exactly what the student was fed and what it sampled.

    ids, mask, logprobs: equally long; mask is 1 on tokens of student turns (end tokens included), logprobs the sampler's there,
    0.0 elsewhere. messages: [{"role": "teacher" | "student", "content"}], starting with the problem. statuses, finishes: one per
    student turn. solved: the turn (1…N) of the right answer, or None. limit: N, for a sharded problem the number of its shards.
    injected: student turns that the asker wrote (Q-priming). knowledge: the teacher's private k_t after each student turn, for
    the reader of a log; it is in no view of the student's.
    """

    id: str
    problem: str
    domain: str
    limit: int
    messages: list = field(default_factory=list)
    ids: list = field(default_factory=list)
    mask: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    finishes: list = field(default_factory=list)
    injected: list = field(default_factory=list)
    knowledge: list = field(default_factory=list)
    leaks: int = 0
    solved: int | None = None

    def hear(self, ids, text):
        """Appends what the teacher said: the ids that the chat template puts there."""
        self.messages.append({"role": "teacher", "content": text})
        self.ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def say(self, turn, text, end):
        """Appends a sampled student turn; one that the token limit cut off is closed with an end token that is not trained."""
        self.messages.append({"role": "student", "content": text})
        cut = [end] if turn.finish == "length" else []
        self.ids += turn.ids + cut
        self.mask += [1] * len(turn.ids) + [0] * len(cut)
        self.logprobs += turn.logprobs + [0.0] * len(cut)
        self.finishes.append(turn.finish)

    @property
    def turns(self):
        """Number of student turns."""
        return len(self.statuses)

    @property
    def questions(self):
        """Number of student turns that attempt nothing and ask something."""
        spoken = [m["content"] for m in self.messages if m["role"] == "student"]
        return sum(s == "no attempt" and "?" in visible(t) for s, t in zip(self.statuses, spoken))


def load_dialogues(path):
    """Dialogues of a run folder's dialogues.jsonl."""
    path = Path(path) / "dialogues.jsonl" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        fail(f"{path}: no such file; give a folder that generate.py wrote")
    dialogues = []
    for number, line in enumerate(read_jsonl(path), 1):
        try:
            dialogues.append(Dialogue(**{k: line[k] for k in Dialogue.__dataclass_fields__}))
        except KeyError as e:
            fail(f"{path}, line {number}: has no {e}; it was not written by generate.py")
    return dialogues or fail(f"{path}: holds no dialogue")


# ------------------------------------------------------------------------------------------------------------- the objective


def decoder_and_head(model):
    """The text decoder and the LM head of any `transformers` causal model, multimodal wrappers included."""
    return model.get_decoder(), model.get_output_embeddings()


def masked_logprobs(model, ids, mask, temperature=1.0, chunk_bytes=2**28):
    """log π_θ of the masked tokens, float32 [M], in row-major order. ids, mask: int64 [B, T], padded on the right.

    Only masked positions reach the LM head, in chunks whose logits fit in `chunk_bytes` and are recomputed in the backward pass:
    with a vocabulary of 262k, logits of all positions would need more memory than the model.
    """
    decoder, head = decoder_and_head(model)
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]  # causal: right padding is never attended to
    keep = mask[:, 1:].bool()
    hidden, target = hidden[keep], ids[:, 1:][keep]  # [M, H], [M]: the state before a token predicts it
    size = max(1, chunk_bytes // (4 * head.weight.shape[0]))
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def logprobs(h, t):
        logits = soften(head(h).float(), cap) / temperature
        return -F.cross_entropy(logits, t, reduction="none")

    def chunk(h, t):
        return torch.utils.checkpoint.checkpoint(logprobs, h, t, use_reentrant=False) if torch.is_grad_enabled() else logprobs(h, t)

    parts = [chunk(h, t) for h, t in zip(hidden.split(size), target.split(size))]
    return torch.cat(parts) if parts else hidden.sum() * torch.zeros(0, device=hidden.device)


def soften(logits, cap):
    """Final logit soft-capping of the models that have it."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def discounted_reward(solved, gamma):
    """r = γ^(n−1)·R: R is 1 for a dialogue solved at turn n, 0 for one that is not solved (None)."""
    return 0.0 if solved is None else gamma ** (solved - 1)


def advantages(rewards, normalise=True):
    """A_k = (r_k − mean) / std over the g dialogues of a problem (Eq. 3). rewards: float [G, g]; population std; 0 if all equal.

    normalise=False leaves the division out (Dr. GRPO, arXiv 2503.20783).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True, correction=0)
    flat = std < 1e-6  # equal rewards may differ by rounding; dividing by that would make noise a signal
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, std) if normalise else centred)


def grpo_loss(logprobs, old_logprobs, advantage, denominator, clip=0.2, reference=None, beta=0.0, truncate=2.0):
    """The GRPO objective (Eq. 2) as a loss: a scalar, the sum over the given tokens divided by `denominator`.

    logprobs, old_logprobs, advantage, reference: float [M], one entry per student token: current, sampling-time and reference
    log-probs and the advantage of the token's dialogue. The denominator is counted once per optimiser step (all student tokens of
    the step), so that the gradient does not depend on how the step is cut into micro-batches. With one
    update a batch the ratio is 1 up to the rounding between sampler and trainer, and this is the paper's formula; where another
    engine samples, the ratio corrects what remains, and no token weighs more than `truncate` (the clip alone does not bound the
    ratio where the advantage is negative). SFT is the case advantage = 1, old_logprobs = logprobs.detach().
    """
    ratio = torch.exp(logprobs - old_logprobs)
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    gain = gain * (truncate / ratio.detach()).clamp(max=1)
    if beta:
        log_ratio = reference - logprobs
        gain = gain - beta * (torch.exp(log_ratio) - log_ratio - 1)  # unbiased, never negative estimate of KL(π_θ ‖ π_ref)
    return -gain.sum() / denominator


def sft_loss(logprobs, denominator):
    """Negative log-likelihood of the student's tokens over a step's number of them: grpo_loss with advantage 1 on-policy."""
    return -logprobs.sum() / denominator


def padded(rows, device):
    """int64 [B, T] tensor of rows of different lengths, zeros on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def micro_batches(dialogues, tokens):
    """Index lists that share out the dialogues, longest together, so that rows × longest stays within `tokens`."""
    order = sorted(range(len(dialogues)), key=lambda i: -len(dialogues[i].ids))
    batches = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * len(dialogues[batches[-1][0]].ids) <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


# ------------------------------------------------------------------------------------------------------------------- training


def start_processes(device):
    """Joins the processes that torchrun has started, if there are several; each takes a GPU of its own."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) if several else torch.device(device).index or 0)
    if several:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def world():
    """(rank of this process, number of processes)."""
    started = torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if started else (0, 1)


def gathered(value):
    """The value of each process, as a list."""
    values = [None] * world()[1]
    if len(values) == 1:
        return [value]
    torch.distributed.all_gather_object(values, value)
    return values


class Policy(torch.nn.Module):
    """A model whose forward() is masked_logprobs, so that what shards it sees decoder and head as one module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask, temperature):
        return masked_logprobs(self.model, ids, mask, temperature)


class Trainer:
    """A model and its AdamW, without weight decay; sharded by FSDP2 where torchrun has started several processes.

    Weights, gradients and optimiser state are float32, 16 bytes a parameter: in bfloat16 most updates would be rounded away. Forward
    and backward pass compute in `dtype`. A step comes out the same however its dialogues are spread over processes and micro-batches.
    """

    def __init__(self, model, lr, device="cpu", dtype="float32"):
        """model: float32, still on the CPU, so that of several processes none needs room for all of it on its GPU."""
        self.model, self.policy, (self.rank, self.world), self.sharded = model, Policy(model), world(), shards(dtype)
        if device.startswith("cuda"):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.sharded:
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
            mesh = torch.distributed.init_device_mesh(torch.device(device).type, (self.world,))
            mixed = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)}
            for layer in model.get_decoder().layers:
                fully_shard(layer, **mixed)
            fully_shard(self.policy, reshard_after_forward=False, **mixed)
        else:
            model.to(device)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, dialogues, loss_of, micro_tokens, temperature=1.0):
        """One optimiser step on the dialogues of this process and of the others.

        loss_of(rows, logprobs, denominator): loss of the dialogues with the given indices; logprobs: float32, their student tokens'
        one after the other; denominator: the number of all student tokens of the step.
        """
        self.policy.train()
        denominator = sum(gathered(sum(sum(d.mask[1:]) for d in dialogues)))
        batches, total = micro_batches(dialogues, micro_tokens), 0.0
        most = max(gathered(len(batches)))
        for rows in batches + [[]] * (most - len(batches)):  # every process must take part in every forward and backward pass
            ids, mask = (padded([getattr(dialogues[i], name) for i in rows] or [[0, bool(name == "mask")]], self.model.device) for name in ("ids", "mask"))
            logprobs = self.policy(ids, mask.long(), temperature)
            loss = loss_of(rows, logprobs, denominator) if rows else 0 * logprobs.sum()
            (loss * self.world).backward()  # FSDP takes the mean over processes; the denominator has seen to that already
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": sum(gathered(total)), "grad_norm": whole(norm).item(), "tokens": denominator}

    def weights(self):
        """(name, whole tensor) of each parameter; all processes must go through it together."""
        return ((name, whole(p.detach())) for name, p in self.model.named_parameters())

    def state(self):
        """What load() takes: weights and optimiser state, whole, on the CPU; empty on all processes but the first."""
        return get_state_dict(self.policy, self.optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def load(self, state):
        """Goes on from a state() that the first process has (the others: None), also one of another number of processes."""
        model, optimizer = state or ({}, {})
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=self.world > 1)
        set_model_state_dict(self.policy, model, options=options)
        set_optimizer_state_dict(self.policy, self.optimizer, optimizer, options=options)


def shards(dtype):
    """Whether FSDP2 holds the trained weights: of several processes, or because it computes in another dtype than it updates in."""
    return world()[1] > 1 or dtype != "float32"


def whole(tensor):
    """A tensor that may be sharded, put together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


# ------------------------------------------------------------------------------------------------------------ sampling engine


@dataclass
class Speech:
    """A turn that is being sampled."""

    key: tuple
    name: str
    ids: list  # of the conversation, the sampled tokens among them
    start: int  # where the turn begins
    random: random.Random
    fed: int = 0  # of how many tokens the engine has keys and values
    logprobs: list = field(default_factory=list)


class RaggedCache:
    """Keys and values of dialogues of different lengths, in one tensor [layers, 2, B, heads, T, head size].

    Implements what `transformers` layers ask of a cache: update(). New tokens are written at their own positions [B, S], so rows
    need not be aligned; what lies behind a row's end is masked, and overwritten later. Layers see what lies before `end`.
    """

    def __init__(self, kv, positions, end):
        self.kv, self.rows, self.positions, self.end = kv, torch.arange(kv.shape[2], device=kv.device)[:, None], positions, end

    def update(self, keys, values, layer, *_, **__):
        for i, new in enumerate((keys, values)):  # new: [B, heads, S, head size]
            self.kv[layer, i][self.rows, :, self.positions] = new.transpose(1, 2).to(self.kv.dtype)
        return self.kv[layer, 0, :, :, : self.end], self.kv[layer, 1, :, :, : self.end]

    def get_seq_length(self, *_):
        return 0


def check_length(name, ids, max_tokens, context):
    """Ends the program if a turn of max_tokens does not fit behind `ids`."""
    if len(ids) + max_tokens > context:
        fail(f"dialogue {name}: {len(ids)} tokens and a turn of {max_tokens} exceed the model's context of {context}; "
             "lower --max-tokens or --turns, or use a model with a longer context")  # fmt: skip


class HFEngine:
    """Samples turns with plain `transformers` (written for 5.x): batches what is pending, feeds only what a dialogue has new.

    submit() takes a request, poll() returns finished ones. Requests join the turns that are being sampled, and a turn leaves as
    soon as it has ended. Keys and values of a conversation are kept under its name until forget(). Sampling is by inverse CDF with
    uniforms seeded by the request's key: a dialogue does not depend on the others in its batch, and one played again after a kill
    comes out the same.
    """

    batching = True  # callers wait for all verdicts before poll(), so that batches, and with them rounding, do not depend on timing

    def __init__(self, model, chat, max_tokens=512, temperature=1.0, seed=0, batch=256):
        self.model, self.chat, self.stops = model, chat, set(chat.stops)
        self.max_tokens, self.temperature, self.seed, self.batch = max_tokens, temperature, seed, batch
        self.decoder, self.head = decoder_and_head(model)
        self.config = model.config.get_text_config()
        self.context = self.config.max_position_embeddings
        size = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        self.kv = torch.zeros(self.config.num_hidden_layers, 2, 0, self.config.num_key_value_heads, 0, size, device=model.device, dtype=model.dtype)
        self.waiting, self.running, self.kept = [], [], {}  # running turns are the first rows of kv

    @property
    def pending(self):
        return self.waiting + self.running

    def submit(self, key, name, ids):
        """key: what poll() gives back, and the seed. name: of the conversation that `ids` continues."""
        check_length(name, ids, self.max_tokens, self.context)
        self.waiting.append(Speech(key, name, ids[:], len(ids), random.Random(f"{self.seed}/{key}")))

    @torch.no_grad()
    def poll(self):
        """[(key, Turn)]: takes in what waits and samples until an eighth of the turns have ended, so that what follows joins together."""
        self.model.eval()
        self.admit()
        enough, done = len(self.running) / 8, self.ended()
        while len(done) < enough:
            self.sample(0, len(self.running))
            done += self.ended()
        return done

    def forget(self, name):
        """Drops the keys and values of a conversation that is over; with the last one, the room for them."""
        self.kept.pop(name, None)
        if not self.kept and not self.pending:
            self.kv = self.kv[:, :, :0, :, :0].clone()

    def twin(self, temperature):
        """An engine with the same weights: this one, so that all speak in one batch, or one of its own for another temperature."""
        if temperature == self.temperature:
            return self
        return HFEngine(self.model, self.chat, self.max_tokens, temperature, self.seed, self.batch)

    def sleep(self):
        """Nothing to give back: keys and values are kept only while dialogues are played."""

    def sync(self, weights):
        """Takes over the (name, tensor) pairs that are not the engine's own."""
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].data.copy_(tensor)

    def admit(self):
        """Lets waiting turns run, as many as the batch holds: finds what is known of their conversations, samples their first tokens."""
        first, free = len(self.running), self.batch - len(self.running)
        new, self.waiting = self.waiting[:free], self.waiting[free:]
        for turn in new:
            known = self.kept[turn.name][0] if turn.name in self.kept else []
            turn.fed = min(len(os.path.commonprefix([known, turn.ids])), len(turn.ids) - 1)
        self.running += sorted(new, key=lambda turn: turn.fed - len(turn.ids))  # alike lengths together, so that little is padded
        self.make_room(first)
        for r, turn in enumerate(self.running[first:], first):
            _, kv = self.kept.pop(turn.name, (None, None))
            if turn.fed:
                self.kv[:, :, r, :, : turn.fed] = kv[:, :, :, : turn.fed]
        while first < len(self.running):
            longest = len(self.running[first].ids) - self.running[first].fed
            last = first + max(1, 1024 // longest)  # more tokens at once would need memory and save no time
            self.sample(first, last)
            first = last

    def make_room(self, used):
        """Makes kv large enough for the running turns, of which `used` have something in it."""
        old, rows = self.kv, len(self.running)
        room = max((turn.start for turn in self.running), default=0) + self.max_tokens
        if rows > old.shape[2] or room > old.shape[4]:
            room = max(room, old.shape[4] * 3 // 2 if room > old.shape[4] else old.shape[4])  # dialogues grow; rarely copy
            self.kv = old.new_zeros(*old.shape[:2], max(rows, old.shape[2]), old.shape[3], room, old.shape[5])
            self.kv[:, :, :used, :, : old.shape[4]] = old[:, :, :used]

    def sample(self, first, last):
        """Feeds rows first to last what they have new, and samples a token of each."""
        turns, device = self.running[first:last], self.model.device
        logits = self.forward(turns, self.kv[:, :, first : first + len(turns)])
        u = torch.tensor([turn.random.random() for turn in turns], device=device, dtype=torch.float64)
        logp = F.log_softmax(logits.float() / self.temperature, dim=-1) if self.temperature else logits.float()
        token = self.pick(logp, u)
        chance = logp.gather(1, token[:, None])[:, 0] if self.temperature else torch.zeros(len(turns))
        for turn, t, p in zip(turns, token.tolist(), chance.tolist()):
            turn.fed = len(turn.ids)
            turn.ids.append(t)
            turn.logprobs.append(p)

    def pick(self, logp, u):
        """Tokens at uniforms u of the cumulative distribution; the likeliest ones at temperature 0."""
        if not self.temperature:
            return logp.argmax(-1)
        cdf = logp.double().exp().cumsum(-1)
        return torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0].clamp(max=logp.shape[1] - 1)

    def forward(self, turns, kv):
        """Logits [B, V] after the last token of each turn. kv: [layers, 2, B, heads, T, head size], their rows."""
        new = padded([turn.ids[turn.fed :] for turn in turns], kv.device)  # [B, S]
        start, length = torch.tensor([(turn.fed, len(turn.ids) - turn.fed) for turn in turns], device=kv.device).T
        step = torch.arange(new.shape[1], device=kv.device)
        positions = start[:, None] + torch.minimum(step, length[:, None])  # [B, S]; padding goes behind the end, where nobody looks
        cache = RaggedCache(kv, positions, max(len(turn.ids) for turn in turns))
        column = torch.arange(cache.end, device=kv.device)
        causal = (column <= positions[:, :, None])[:, None]  # [B, 1, S, T]
        mask, kinds = causal, set(getattr(self.config, "layer_types", None) or ())
        if len(kinds) > 1 or "sliding_attention" in kinds:
            near = column > positions[:, :, None] - self.config.sliding_window
            mask = {"full_attention": causal, "sliding_attention": causal & near[:, None]}
        elif kinds:
            mask = {"full_attention": causal} if self.config.model_type.startswith(("qwen", "gemma")) else causal
        hidden = self.decoder(input_ids=new, attention_mask=mask, position_ids=positions, past_key_values=cache).last_hidden_state
        last = hidden[torch.arange(len(new), device=kv.device), length - 1]
        return soften(self.head(last), getattr(self.config, "final_logit_softcapping", None))

    def ended(self):
        """[(key, Turn)] of the turns that have ended; the last rows move into their places, so that nothing is computed for them."""
        done, rest = [], []
        for r, turn in enumerate(self.running):
            stopped = turn.ids[-1] in self.stops
            if stopped or len(turn.ids) - turn.start == self.max_tokens:
                self.kept[turn.name] = turn.ids[: turn.fed], self.kv[:, :, r, :, : turn.fed].clone()  # the last token was never fed
                done.append((turn.key, Turn(turn.ids[turn.start :], turn.logprobs, "stop" if stopped else "length")))
            else:
                rest.append(r)
        moves = [(r, hole) for r, hole in zip(reversed(rest), sorted(set(range(len(rest))) - set(rest)))]
        for r, hole in moves:
            turn = self.running[hole] = self.running[r]
            self.kv[:, :, hole, :, : turn.fed] = self.kv[:, :, r, :, : turn.fed]
        del self.running[len(rest) :]
        return done


class VLLMEngine:
    """Samples turns with vLLM (written for 0.32), in this process: requests join when a dialogue moves on, poll() is one engine step.

    Earlier turns of a conversation are found again in vLLM's prefix cache. Log-probs are those of the distribution that was
    sampled from. The interface is HFEngine's.
    """

    batching = False  # a turn comes back as soon as it is finished; nobody has to wait for others

    def __init__(self, path, chat, max_tokens=512, temperature=1.0, seed=0, batch=256, device="cuda", dtype="float32", context=4096, memory=0.4,
                 sleeps=False):  # fmt: skip
        """context: tokens that a dialogue may have. memory: share of the GPU's memory for weights, keys and values. sleeps: whether
        sleep() gives that memory back; on a GPU alone, and vLLM lets one engine of a process do so."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, so that weights can be handed over
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import vllm

        self.dtype, self.sleeps = getattr(torch, dtype), sleeps and device.startswith("cuda")
        cpu = {} if device.startswith("cuda") else {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}
        try:
            self.llm = vllm.LLM(model=path, dtype=dtype, enable_sleep_mode=self.sleeps, seed=seed, max_num_seqs=batch, max_model_len=context,
                                gpu_memory_utilization=memory, logprobs_mode="processed_logprobs", enable_prefix_caching=True, **cpu)  # fmt: skip
        except (OSError, ValueError, RuntimeError) as e:
            fail(f"vLLM cannot run {path} ({short(str(e).splitlines()[0])}); lower --max-tokens or --live, raise --vllm-memory, or use --engine hf")
        self.chat, self.max_tokens, self.temperature, self.seed, self.context = chat, max_tokens, temperature, seed, context
        self.pending, self.all_pending = {}, {}

    def twin(self, temperature):
        """An engine with the same weights, in the same vLLM."""
        other = copy.copy(self)
        other.temperature, other.pending = temperature, {}
        return other

    def submit(self, key, name, ids):
        import vllm

        check_length(name, ids, self.max_tokens, self.context)
        draw = zlib.crc32(f"{self.seed}/{key}".encode())
        options = vllm.SamplingParams(temperature=self.temperature, max_tokens=self.max_tokens, stop_token_ids=self.chat.stops, seed=draw,
                                      logprobs=0, detokenize=False)  # fmt: skip
        request = f"{id(self)}/{key}"
        self.llm.llm_engine.add_request(request, {"prompt_token_ids": ids}, options)
        self.pending[request] = None
        self.all_pending[request] = self, key

    def poll(self):
        """[(key, Turn)] of what one step of vLLM finished; a twin's turns wait for its own poll()."""
        if not all(self.pending.values()):
            for result in self.llm.llm_engine.step():
                if result.finished:
                    engine, key = self.all_pending.pop(result.request_id)
                    said = result.outputs[0]
                    chances = [at[token].logprob for at, token in zip(said.logprobs, said.token_ids)]
                    engine.pending[result.request_id] = key, Turn(list(said.token_ids), chances, said.finish_reason)
        done = [value for value in self.pending.values() if value]
        self.pending = {request: value for request, value in self.pending.items() if not value}
        return done

    def forget(self, name):
        """The prefix cache drops what is not used."""

    def sleep(self):
        """Gives the memory of weights, keys and values to the trainer until the next sync()."""
        if self.sleeps:
            self.llm.llm_engine.sleep(level=2)

    def sync(self, weights):
        """Takes over (name, tensor) pairs, and forgets keys and values of the old ones. Follows a sleep()."""
        if self.sleeps:
            torch.cuda.empty_cache()
            self.llm.llm_engine.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": ((name, tensor.to(self.dtype)) for name, tensor in weights)})
        self.llm.apply_model(repack_head)
        self.llm.reset_prefix_cache()
        if self.sleeps:
            self.llm.llm_engine.wake_up(tags=["kv_cache"])


def repack_head(model):
    """On CPUs vLLM keeps a packed copy of the head, which reloading leaves stale where the head is tied to the embeddings."""
    head = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


class Endpoint:
    """A teacher behind an OpenAI-compatible endpoint, http://HOST:PORT/v1#MODEL; the key, if any, is in OPENAI_API_KEY.

    Chat and engine in one: its views are the messages themselves, what it samples is text. A request that fails is made again, up
    to five times; then the program ends.
    """

    batching = False

    def __init__(self, address, max_tokens=512, temperature=1.0, live=64):
        self.url, _, self.name = address.partition("#")
        self.max_tokens, self.temperature, self.pending, self.pool = max_tokens, temperature, {}, ThreadPoolExecutor(live)
        if not self.name:
            fail(f"--teacher {address}: names no model; write it behind the address, as in {self.url}#MODEL")

    def view(self, messages):
        return messages

    def text(self, said):
        return said

    def submit(self, key, _, messages):
        self.pending[key] = self.pool.submit(self.ask, messages)

    def poll(self):
        """[(key, Turn)] of what has arrived; waits a moment if nothing has."""
        wait(self.pending.values(), timeout=0.05, return_when=FIRST_COMPLETED)
        arrived = [key for key, answer in self.pending.items() if answer.done()]
        try:
            return [(key, self.pending.pop(key).result()) for key in arrived]
        except ConnectionError as e:
            self.pool.shutdown(wait=False, cancel_futures=True)
            fail(f"--teacher {self.url}: does not answer ({e}); check the address, the model's name and OPENAI_API_KEY")

    def forget(self, name):
        """Nothing is kept."""

    def ask(self, messages):
        body = {"model": self.name, "messages": messages, "max_tokens": self.max_tokens, "temperature": self.temperature}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        for attempt in range(6):
            try:
                with urllib.request.urlopen(request, timeout=600) as reply:
                    choice = json.load(reply)["choices"][0]
                return Turn(choice["message"]["content"] or "", [], choice["finish_reason"])
            except (OSError, ValueError, LookupError, TypeError) as e:
                reason = e
                if attempt < 5:
                    time.sleep(0.5 * 2**attempt)
        raise ConnectionError(f"{type(reason).__name__}: {reason}")


class Grader:
    """Grades turns as an engine samples them: math at once, programs in threads while the sampling goes on."""

    def __init__(self):
        self.pool, self.done, self.running = ThreadPoolExecutor(max_workers=os.cpu_count()), [], {}

    def submit(self, key, problem, text):
        if problem.domain == "math":
            self.done.append((key, grade(problem, text)))
        else:
            self.running[self.pool.submit(grade, problem, text)] = key

    def poll(self, block):
        """[(key, Verdict)] of what is graded; with `block`, of everything submitted."""
        if block:
            wait(self.running)
        finished = [f for f in self.running if f.done()]
        done, self.done = self.done, []
        return done + [(self.running.pop(f), f.result()) for f in finished]


# ---------------------------------------------------------------------------------------------------- models and run folders


def load_chat(path):
    """The Chat of a local folder or hub name; what its template changes is said once. Ends the program if there is none."""
    try:
        chat = Chat(AutoTokenizer.from_pretrained(path), path)
    except (OSError, ValueError, KeyError) as e:
        fail(f"model {path}: cannot be loaded ({str(e).splitlines()[0]}); give a transformers folder or a hub name")
    if chat.note:
        print(chat.note, file=sys.stderr)
    return chat


def load_model(path, device, dtype="float32"):
    """(model, Chat) of a local folder or hub name. Ends the program if there is none, or if the GPU has no room for it."""
    chat = load_chat(path)
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device), chat
    except torch.OutOfMemoryError:
        fail(f"model {path}: does not fit on {device} in {dtype}; use a smaller model or a larger GPU")
    except (OSError, ValueError, KeyError) as e:
        fail(f"model {path}: cannot be loaded ({str(e).splitlines()[0]}); give a transformers folder or a hub name")


def default_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_jsonl(path):
    """Objects of a JSONL file. A last line that a kill left half-written is dropped; any other bad line ends the program."""
    if not Path(path).exists():
        return []
    lines, rows = Path(path).read_bytes().split(b"\n"), []
    for number, line in enumerate(lines, 1):
        try:
            if number < len(lines) and line.strip():  # what follows the last newline was never completed
                rows.append(json.loads(line))
        except ValueError:
            fail(f"{path}, line {number}: not JSON; the file was changed by something else, remove it or restore it")
    return rows


class Run:
    """A run folder: config.json, metrics.jsonl, dialogues.jsonl, and whatever the stage saves. The same command resumes it."""

    def __init__(self, args, ignore=("out",)):
        """Opens `args.out`; ends the program if it holds a run with other arguments, or something that is not a run."""
        self.path = Path(args.out)
        config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ignore}
        config["script"] = Path(sys.argv[0]).name
        file = self.path / "config.json"
        if file.exists():
            old = json.loads(file.read_text())["arguments"]
            changed = sorted(k for k in old.keys() | config.keys() if old.get(k) != config.get(k))
            if changed:
                k = changed[0]
                fail(f"{self.path} holds a run with another {k} ({old.get(k)!r}, now {config.get(k)!r}); choose another --out or remove it")
        elif self.path.exists() and any(self.path.iterdir()):
            fail(f"{self.path} is not empty and holds no run; choose another --out")
        self.writes = gathered(world()[0])[0] == world()[0]  # the first process does; all have checked the folder by now
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path, os.O_RDONLY)  # held as long as this object, or until the process ends, however it ends
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fail(f"{self.path}: another process is at work on this run; wait for it, or stop it")
        for log in self.path.glob("*.jsonl"):  # a kill may have left the last line half-written
            data = log.read_bytes()
            if not data.endswith(b"\n"):
                log.write_bytes(data[: data.rfind(b"\n") + 1])
        if not file.exists():
            versions = {"torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0]}
            write_atomically(file, json.dumps({"arguments": config, "versions": versions, "revision": revision()}, indent=1))

    def say(self, text):
        """Prints a line, once however many processes there are."""
        if self.writes:
            print(text)

    def append(self, name, rows, own=False):
        """Appends rows to a JSONL file of the folder; own: each process its own ones, else the first process for all."""
        if not (self.writes or own):
            return
        with (self.path / name).open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: lines of several processes must not mix
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def keep(self, name, wanted):
        """Rewrites a JSONL file to the rows for which wanted(row) holds: what was logged after the last saved state goes."""
        if self.writes:
            rows = [r for r in read_jsonl(self.path / name) if wanted(r)]
            write_atomically(self.path / name, "".join(json.dumps(r) + "\n" for r in rows))

    def save_model(self, trainer, tokenizer):
        """Writes the checkpoint folder `model`, of ordinary `transformers` form; it appears only when it is complete."""
        part, final = self.path / "model.part", self.path / "model"
        weights = {name: tensor.cpu() for name, tensor in trainer.weights() if self.writes}
        if not self.writes:
            return
        trainer.model.save_pretrained(part, state_dict=weights)
        tokenizer.save_pretrained(part)
        if final.exists():
            shutil.rmtree(final)
        part.replace(final)

    def save_state(self, trainer, step):
        """Writes resume.pt, whole or not at all."""
        state = trainer.state()
        if self.writes:
            torch.save({"step": step, "state": state}, self.path / "resume.part")
            (self.path / "resume.part").replace(self.path / "resume.pt")

    def load_state(self, trainer):
        """Sets the trainer to the last saved state and returns its step; 0 if there is none."""
        path = self.path / "resume.pt"
        saved = torch.load(path, map_location="cpu", weights_only=False) if self.writes and path.exists() else {"step": 0, "state": None}
        step = gathered(saved["step"])[0]
        if step:
            trainer.load(saved["state"])
        return step


def write_atomically(path, text):
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def revision():
    """The git revision of the kit, or None."""
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return run.stdout.strip() or None


def arguments(doc):
    """An argument parser that shows a script's docstring and the defaults."""

    class Form(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return argparse.ArgumentParser(description=doc, formatter_class=Form)
