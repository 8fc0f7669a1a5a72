"""Not part of the method: turns data sets of the Hugging Face hub into problem lines and checks such lines.

A problem line is a dict with fields of `Problem` in common.py: id, domain, prompt, and an answer or tests.
A data set is read once. Its problem lines are then cached in a file under ~/.cache/sml. Rows that cannot
become a problem are left out and counted by reason. Long tests are packed into files of their own beside it,
one per problem, and are unpacked when a program is judged. All releases of a data set share these files.
"""

import ast
import base64
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from parts import answers, programs, sandbox
from parts.runs import BadInput, barrier, first_line, rank_and_size, write_atomically


class Unusable(Exception):
    """Raised for a row of a data set that cannot become a problem. The message is the reason."""


@dataclass
class Source:
    """A data set: its name on the hub, the rows to take, and the function that makes problem lines."""

    hub: str
    to_line: Callable  # row → problem line without id; raises Unusable, or KeyError if the row lacks a field
    load_kwargs: dict = field(default_factory=dict)  # more arguments of datasets.load_dataset
    files: tuple = ()  # files of the hub's repository, read directly instead of by load_dataset
    other: tuple = ()  # names of the other configurations: their files in a local copy are not read
    side: str = ""  # take only "train" or only "test" problems; a hash of the problem's text decides its side
    max_problems: int = 10**9


def load(source: str, judgeable: str, problem_class: type) -> list:
    """Returns problem_class(**line) for each problem line of a file or of a data set.

    source: a file, the NAME of a data set, or NAME:PATH for a local copy of that data set.
    judgeable: "rule" leaves out math problems of a data set whose answer no rule can judge, "all" keeps them.
    Raises BadInput, which names file and line, if a line is not a problem.
    """
    path = problem_file(source, judgeable, problem_class)
    problems, faults = read_lines(path, problem_class)
    if faults:
        (number, reason), more = faults[0], len(faults) - 1
        others = f"; {more} more lines have faults, `evaluate.py check` shows all" if more else ""
        raise BadInput(f"{path}, line {number}: {reason}{others}")
    if not problems:
        raise BadInput(f"{path}: holds no problem; each line is a JSON object with id, domain, prompt, …")
    return list(problems.values())


NOT_LINES = {b"[": "a JSON array", b"\x1f\x8b": "compressed with gzip", b"PAR1": "a Parquet file"}


def read_lines(path: Path, problem_class: type) -> tuple[dict, list]:
    """Returns {line number: problem} of a file, and [(line number, reason)] of lines that are no problems.

    Raises BadInput if the file does not consist of lines.
    """
    problems, faults, ids = {}, [], set()
    with path.open("rb") as file:
        beginning = file.read(100).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        for start, kind in NOT_LINES.items():
            if beginning.startswith(start):
                raise BadInput(f"{path}: is {kind}; give a text file with one JSON object a line (JSONL)")
        for number, text in enumerate(file, 1):
            try:
                text = text.decode("utf-8-sig")
                if not text.strip():
                    continue
                problem = problem_class(**json.loads(text))
                if isinstance(problem.tests, str):
                    problem.tests = str(path.parent / problem.tests)
                check_problem(problem)
                if problem.id in ids:
                    raise ValueError(f"id {problem.id!r} occurs twice; ids must differ")
            except json.JSONDecodeError as e:
                faults.append((number, f"is not JSON ({e.msg})"))
            except (ValueError, TypeError, RecursionError) as e:
                reason = re.sub(r".*got an unexpected keyword argument", "unknown field", str(e))
                reason = "is not a JSON object" if "must be a mapping" in reason else reason
                faults.append((number, reason))
            else:
                ids.add(problem.id)
                problems[number] = problem
    return problems, faults


def check_problem(problem: Any) -> None:
    """Raises ValueError with the reason if a problem cannot be graded.

    problem: an object with the fields of `Problem` in common.py.
    """
    if problem.domain not in ("math", "code"):
        raise ValueError(f"domain is {problem.domain!r}; use 'math' or 'code'")
    for name in ("id", "prompt"):
        if not is_text(getattr(problem, name)):
            raise ValueError(f"{name!r} must be a text that is not empty")
    for name in ("answer", "func_name", "solution"):
        if not isinstance(getattr(problem, name), str | None):
            raise ValueError(f"{name!r} must be a text, or left out")
    packed = isinstance(problem.tests, str) and problem.tests.endswith(PACKED)
    if packed and not Path(problem.tests).is_file():
        raise ValueError(f"its tests are gone ({problem.tests}); remove this file, so that it is made anew")
    for name in ("tests", "asserts", "public_tests", "public_asserts", "shards"):
        if not isinstance(getattr(problem, name), list) and not (packed and name == "tests"):
            raise ValueError(f"{name!r} must be a list")
    if not all(map(is_text, problem.asserts + problem.shards)):
        raise ValueError("each of 'asserts' and 'shards' must be a text")
    if any(snippet not in problem.asserts for snippet in problem.public_asserts):
        raise ValueError("each of 'public_asserts' must be one of 'asserts'")
    for snippet in problem.asserts:
        if not asserts_something(snippet):
            raise ValueError(f"an entry of 'asserts' asserts nothing: {snippet.strip()[:80]!r}")
    tests = problem.public_tests + ([] if packed else problem.tests)
    for test in tests:
        if not isinstance(test, dict) or not {"input", "output", "testtype"} <= test.keys():
            raise ValueError("each test needs 'input', 'output' and 'testtype'")
        if not isinstance(test["input"], str) or not isinstance(test["output"], str):
            raise ValueError("a test's fields must be texts")
        if test["testtype"] not in ("stdin", "functional"):
            raise ValueError(f"testtype is {test['testtype']!r}; use 'stdin' or 'functional'")
    if problem.domain == "math" and not is_text(problem.answer):
        raise ValueError("a math problem needs 'answer', a text that is not empty, in quotation marks")
    if problem.domain == "math" and (match := re.search(r"[\a\b\t\v\f\r]", problem.answer)):
        # JSON reads \frac as a form feed and "rac".
        raise ValueError(f"'answer' has the control character {match[0]!r}; double the backslashes in JSON")
    if problem.domain == "code" and not (problem.tests or problem.asserts):
        raise ValueError("a code problem needs 'tests' or 'asserts'")
    calls_function = problem.asserts or any(test["testtype"] == "functional" for test in tests)
    if problem.domain == "code" and calls_function and not is_text(problem.func_name):
        raise ValueError("functional tests and asserts need 'func_name'")
    # A text with a lone surrogate cannot be saved as UTF-8: this raises UnicodeEncodeError, a ValueError.
    json.dumps(vars(problem), ensure_ascii=False).encode()


def asserts_something(snippet: str) -> bool:
    """Whether an assert snippet can fail by itself, not only because the function raises.

    It needs an `assert` or `raise`, or a call whose name has "assert", "check", "verify", "raises" or "fail"
    in it, such as `np.testing.assert_allclose`, `self.assertEqual`, `pytest.raises` or a `check` that another
    snippet defines. So `f(3)` and `f(3) == 4` assert nothing. Raises ValueError if it is not Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(snippet)))
    except (SyntaxError, RecursionError, MemoryError) as e:
        raise ValueError(f"an entry of 'asserts' is not Python ({first_line(e)})") from None
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    names = [getattr(function, "attr", getattr(function, "id", "")) for function in called]
    if any(re.search("assert|check|verify|raises|fail", name, re.I) for name in names):
        return True
    return any(isinstance(node, ast.Assert | ast.Raise) for node in nodes)


def check_solution(line: dict) -> None:
    """Raises Unusable if a problem line's own solution is wrong: then its answer or tests may be, too.

    A program is run on all tests. A mathematical solution is wrong only if its last box differs from the
    answer; without a box, or with one that cannot be compared, the problem stays.
    """
    solution = line.get("solution")
    if not solution:
        return
    if line["domain"] == "math":
        box = answers.boxed(solution)
        if box and answers.equal_answers(box, line["answer"]) is False:
            raise Unusable("its solution has another answer")
        return
    name, tests = line.get("func_name"), line.get("tests", [])
    status, _ = programs.check(program_of(solution, name), name, tests, line.get("asserts", []), [])
    if status != "correct":
        raise Unusable(f"its solution is judged {status}")


def program_of(solution: str, name: str | None = None) -> str:
    """The program in a solution, which has fences or is nothing but the program; "" if there is none."""
    fenced = f"```python\n{solution}\n```"
    return programs.find_program(solution, name) or programs.find_program(fenced, name) or ""


def is_text(value: Any) -> bool:
    """Whether a value is a string with more than white space in it."""
    return isinstance(value, str) and bool(value.strip())


def problem_file(source: str, judgeable: str, problem_class: type) -> Path:
    """Returns the file of problem lines: the source itself, or for a data set the cached file.

    Makes the cached file if it is missing.
    """
    name, colon, local = source.partition(":")
    if name not in SOURCES:
        path = Path(source).expanduser()
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "is no regular file, so it cannot be read twice"
            known = f"one of {', '.join(SOURCES)}, or NAME:PATH for a local copy"
            raise BadInput(
                f"{source}: {reason if path.exists() else 'no such file'}; "
                f"give a file of problem lines (JSONL), or {known}"
            )
        return path
    if colon and not local:
        raise BadInput(f"{source}: no path after the colon; give a local copy, or {name} to read the hub")
    files = local_files(name, local) if local else []
    # The file's name holds a checksum, so that a change of this code or of a local copy makes a new file.
    modules = sys.modules[__name__], answers, programs, sandbox
    content = b"".join(Path(module.__file__).read_bytes() for module in modules)
    content += b"".join(f"{f}{f.stat().st_mtime_ns}".encode() for f in files if f.exists())
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sml"
    cached = folder / f"{name}-{judgeable}-{zlib.crc32(content):08x}.jsonl".replace("/", "-")
    if rank_and_size()[0] == 0 and not cached.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = local_rows(files) if local else hub_rows(name, SOURCES[name])
        lines = import_lines(name, local or SOURCES[name].hub, rows, judgeable, problem_class)
        packed = ({**line, "tests": pack(line.get("tests", []), folder)} for line in lines)
        write_atomically(cached, (json.dumps(line) + "\n" for line in packed))
    barrier()  # the other processes wait for the file
    if not cached.exists():
        raise BadInput(
            f"{folder}: the first process has cached the data set there, but this process does not see it; "
            "on several machines set XDG_CACHE_HOME to a folder that they share"
        )
    return cached


def import_lines(
    name: str, origin: str, rows: Iterable[dict], judgeable: str, problem_class: type
) -> Iterator[dict]:
    """Yields the problem lines of a data set; then prints how many rows were left out, by reason.

    origin: the local path or hub name of the rows, for messages. Raises BadInput if there is no problem.
    """
    source, prompts, left_out, row_without_field = SOURCES[name], set(), Counter(), None
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", mininterval=1, leave=False), 1):
        try:
            line = {"id": f"{name.split('/')[0]}-{number}", **row_to_line(source, row)}
            side = "test" if zlib.crc32(line["prompt"].encode()) % 5 == 0 else "train"
            if source.side not in ("", side):
                raise Unusable(f"not on the {source.side} side")
            if line["prompt"] in prompts:
                raise Unusable("the same problem again")
            if line["domain"] == "math" and judgeable == "rule" and not answers.judgeable(line["answer"]):
                raise Unusable("the answer cannot be judged by a rule")
            check_problem(problem_class(**line))
            check_solution(line)
        except (Unusable, ValueError) as e:
            left_out[str(e)] += 1
            if row_without_field is None and str(e).startswith("no field"):
                row_without_field = number
            continue
        prompts.add(line["prompt"])
        yield line
        if len(prompts) == source.max_problems:
            break
    reasons = "".join(f"; {count} left out: {reason}" for reason, count in left_out.most_common())
    if not prompts and row_without_field:
        schema = f"the rows must be as in the data set {source.hub}"
        raise BadInput(f"{origin}, row {row_without_field}: makes no problem of {name}{reasons}; {schema}")
    if not prompts:
        raise BadInput(f"{origin}: makes no problem of {name}{reasons or '; there are no rows'}")
    print(f"{name}: {len(prompts)} problems{reasons}", file=sys.stderr)


def row_to_line(source: Source, row: Any) -> dict:
    """Returns the problem line of a row, without id. Raises Unusable, whatever is wrong with the row."""
    try:
        line = source.to_line(row)
    except KeyError as e:
        raise Unusable(f"no field {e}") from None
    except Exception as e:  # base64, zlib, pickle, ast and JSON raise many classes on a damaged row
        reason = str(e) if isinstance(e, Unusable | ValueError) else f"malformed ({type(e).__name__})"
        raise Unusable(reason) from None
    if not is_text(line["prompt"]):
        raise Unusable("no prompt")
    return line


PACKED = ".json.gz"  # the end of the name of a file of packed tests


def pack(tests: list, folder: Path) -> list | str:
    """Returns short tests as they are. Writes long ones to a file in `folder` and returns its relative path.

    The file's name is a hash of its content, so that the releases of a data set share it.
    """
    text = json.dumps(tests).encode()
    if len(text) < 10_000:
        return tests
    file = folder / "tests" / f"{hashlib.sha256(text).hexdigest()[:32]}{PACKED}"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_bytes(gzip.compress(text, compresslevel=1))
        part.replace(file)
    return str(file.relative_to(folder))


def unpack(tests: list | str) -> list:
    """Returns the tests of a problem. tests: the list itself, or the path of the file that `pack` wrote."""
    return json.loads(gzip.decompress(Path(tests).read_bytes())) if isinstance(tests, str) else tests


# ----------------------------------------------------------------------------------------------- reading rows

FORMATS = (".jsonl", ".json", ".parquet", ".arrow", ".jsonl.gz", ".json.gz")
# Files that `datasets` writes beside the rows.
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
SPLITS = ("train", "test", "validation", "valid", "val", "dev")


def local_files(name: str, local: str) -> list[Path]:
    """Returns the files to read of a local copy of the data set `name`.

    local: a file, or a folder: a clone from the hub, the hub's cache, or what `save_to_disk` wrote. From a
    folder only the files of the right configuration and split are read. Raises BadInput if a file is missing
    or only another split is there, because reading other problems would go unnoticed.
    """
    source, path = SOURCES[name], Path(local).expanduser().absolute()
    if not path.is_dir() and not path.is_file():
        reason = "is no regular file" if path.exists() else "no such file"
        raise BadInput(f"{path}: {reason}; give a local copy of the data set after the colon")
    config, split = source.load_kwargs.get("name", ""), source.load_kwargs.get("split", "test")
    found = files_below(path)
    named = {file.name.removesuffix(".gz"): file for file in found}
    if source.files and all(file in named for file in source.files):
        return [named[file] for file in source.files]
    # The words in a file's path tell its configuration and split. The folder's own name is one of them only
    # if it is the name of a split or a configuration.
    folder = path if path.is_dir() else path.parent
    root = folder.parent if folder.name in (*SPLITS, config, *source.other) else folder
    words = {file: path_words(file, root) for file in found}
    files = [f for f in found if config and f"_{config}_" in words[f]]
    siblings = {file for s in SOURCES.values() if s.hub == source.hub for file in s.files}
    if siblings and source.other and not files and (path.is_dir() or siblings & named.keys()):
        missing = ", ".join(file for file in source.files if file not in named)
        raise BadInput(f"{path}: {name} needs {missing} (or a folder {config} of Parquet files)")
    if not files:
        files = [f for f in found if not any(f"_{other}_" in words[f] for other in source.other)]
    splits = {f: next((word for word in words[f].split("_")[::-1] if word in SPLITS), "") for f in files}
    if any(splits.values()):
        files = [f for f in files if splits[f] == split]
    if not files:
        only = ", ".join(str(f.relative_to(folder)) for f in found[:3]) + ", …" * (len(found) > 3)
        wanted = f"{config} {split}" if source.other and config else split
        raise BadInput(f"{path}: {name} needs the {wanted} file, such as {split}.jsonl; found only {only}")
    files = all_shards(files)
    needed = files if source.max_problems == 10**9 else files[:1]  # with a limit the first may be enough
    if missing := [file.name for file in needed if not file.exists()]:
        raise BadInput(f"{path}: {name} needs {', '.join(missing[:5])}, which is not there")
    return files


def files_below(path: Path) -> list[Path]:
    """Returns the sorted files of rows in a folder, or the single file. Raises BadInput if there are none."""
    if not path.is_dir():
        return [path]
    if (path / "snapshots").is_dir():  # the hub's cache may hold several revisions
        main = path / "refs" / "main"
        snapshots = sorted((path / "snapshots").iterdir(), key=lambda folder: folder.stat().st_mtime)
        path = path / "snapshots" / main.read_text().strip() if main.exists() else snapshots[-1]
    files = []
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
        cache = file.name.startswith("cache-") and file.suffix == ".arrow"  # of Dataset.map and the like
        if file.name.endswith(FORMATS) and file.name not in NO_ROWS and not hidden and not cache:
            files.append(file)
    if not files:
        raise BadInput(f"{path}: holds no {', '.join(FORMATS)} file")
    return files


def path_words(file: Path, root: Path) -> str:
    """The words of a path, as "_word_word_" in lower case, and the split that save_to_disk noted there."""
    text, state = str(file.relative_to(root)), file.parent / "state.json"
    if file.suffix == ".arrow" and state.is_file():
        split = re.search(r'"_split": "(\w+)', state.read_text(errors="replace"))
        text += f"/{split[1]}" if split else ""
    return "_".join(["", *re.split(r"\W|_", text.lower()), ""])


def all_shards(files: list[Path]) -> list[Path]:
    """The files, plus the missing ones of each series such as test-00000-of-00003.parquet."""
    shards = {}
    for file in files:
        if match := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(\.[\w.]+)", file.name):
            names = [f"{match[1]}-{n:05}-of-{match[2]}{match[3]}" for n in range(int(match[2]))]
            shards |= dict.fromkeys(file.with_name(name) for name in names)
        else:
            shards[file] = None
    return list(shards)


def local_rows(files: list[Path]) -> Iterator[dict]:
    """Yields the rows of Parquet or Arrow files, of JSON lines or of JSON lists; the last two may be gzipped.

    Holds only a few rows at a time, because one of LiveCodeBench may take 100 MB. Raises BadInput.
    """
    for path in files:
        where = path
        try:
            with path.open("rb") as file:
                beginning = file.read(40)
            if beginning.startswith(b"version https://git-lfs"):
                raise ValueError("it is a Git LFS pointer; run git lfs pull in its folder")
            if path.suffix in (".parquet", ".arrow"):
                for batch in batches(path):
                    for i in range(len(batch)):
                        yield from batch.slice(i, 1).to_pylist()
                continue
            gzipped = beginning.startswith(b"\x1f\x8b")  # some files are, and are not called .gz
            with (gzip.open if gzipped else open)(path, "rt", encoding="utf-8-sig") as file:
                # The suffix .json does not tell a JSON list from JSON lines.
                first = next((line for line in file if line.strip()), "")
                file.seek(0)
                if first.lstrip().startswith("["):
                    yield from json.load(file)
                    continue
                for number, line in enumerate(file, 1):
                    where = f"{path}, line {number}"
                    if line.strip("\ufeff \t\r\n"):
                        # In joined files, a byte order mark may stand before any line.
                        yield json.loads(line.lstrip("\ufeff"))
        except Exception as e:  # of gzip, zlib, JSON and pyarrow
            reason = e.msg if isinstance(e, json.JSONDecodeError) and where != path else first_line(e)
            raise BadInput(f"{where}: cannot be read ({reason})") from None


def batches(path: Path) -> Iterator:
    """Yields the record batches of a Parquet file or of an Arrow file (of `save_to_disk`)."""
    import pyarrow.parquet  # comes with datasets

    if path.suffix == ".parquet":
        yield from pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1)
    else:
        with pyarrow.memory_map(str(path)) as file:
            yield from pyarrow.ipc.open_stream(file)


def hub_rows(name: str, source: Source) -> Iterator[dict]:
    """Yields the rows of a data set on the hub. Raises BadInput if it cannot be reached."""
    import datasets
    import huggingface_hub

    try:
        for file in source.files:
            path = huggingface_hub.hf_hub_download(source.hub, file, repo_type="dataset")
            yield from local_rows([Path(path)])
        if not source.files:
            kwargs = {"split": "test", **source.load_kwargs}
            yield from datasets.load_dataset(source.hub, **kwargs, streaming=True)
    except BadInput:
        raise
    except Exception as e:  # a lost connection raises classes of httpx, fsspec, aiohttp and others
        raise BadInput(
            f"data set {source.hub} cannot be read from the hub ({first_line(e)}); "
            f"check the network, or give a local copy: {name}:PATH"
        ) from None


# ------------------------------------------------------------------------------- from a row to a problem line


def math_row(row: dict) -> dict:
    """Problem line of a row of Omni-MATH or MATH-500."""
    return {
        "domain": "math",
        "prompt": row["problem"],
        "answer": answer_text(row["answer"]),
        "solution": row["solution"],
    }


def answer_text(answer: Any) -> str:
    """Returns an answer, a string or a finite number, as text; raises Unusable if there is none."""
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    if not is_number and not is_text(answer):
        raise Unusable("no answer")
    return str(answer).strip()


def text_of(row: dict, name: str) -> str:
    """Returns a field; raises Unusable if it is no text, because an f-string would turn None into "None"."""
    if not is_text(row[name]):
        raise Unusable(f"{name!r} is no text")
    return row[name]


def parsed(value: Any) -> Any:
    """Returns the value of a field that is JSON text in some copies of a data set, the value in others."""
    return json.loads(value) if isinstance(value, str) else value


def gsm8k_row(row: dict) -> dict:
    """Problem line of a row of GSM8K, where "####" separates solution and answer."""
    solution, mark, answer = row["answer"].rpartition("####")
    answer = answer_text(answer.strip().replace(",", "") if mark else "")
    return {"domain": "math", "prompt": row["question"], "answer": answer, "solution": solution.strip()}


def humaneval_assert(name: str, prompt: str, test: str) -> str:
    """Returns HumanEval's tests of function `name` as one assert snippet.

    The prompt is part of it, because some tests call helper functions that only the prompt defines. It also
    defines `name` as a stub, so the student's function is put back afterwards.
    """
    return f"candidate = {name}\n{prompt}\n    pass\n{name} = candidate\n{test}\ncheck(candidate)"


def humaneval_row(row: dict) -> dict:
    """Problem line of a row of HumanEval."""
    name, prompt = row["entry_point"], text_of(row, "prompt")
    return {
        "domain": "code",
        "prompt": f"Complete this program; keep the name `{name}`.\n\n{prompt}",
        "func_name": name,
        "asserts": [humaneval_assert(name, prompt, text_of(row, "test"))],
        "solution": prompt + row["canonical_solution"],
    }


def called_function(source: str, asserts: list[str]) -> str:
    """Returns the name of the one function that a program defines and every assert snippet calls.

    Raises Unusable if there is none or more than one.
    """
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    for snippet in asserts:
        calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
        names &= {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    if len(names) != 1:
        raise Unusable("its tests do not call one function")
    return names.pop()


def opencode_row(row: dict) -> dict:
    """Problem line of a row of OpenCodeInstruct.

    The row needs score 1 and at least three tests, of which the first eight are taken. The first half of
    these, rounded up, is public. The data set does not say which are; if all were, the teacher would see
    every test that decides.
    """
    asserts = [text.strip() for text in json.loads(row["unit_tests"])][:8]
    if not float(row["average_test_score"]) >= 1:  # it may be NaN
        raise Unusable("its program fails its tests")
    if len(asserts) < 3:
        raise Unusable("fewer than three tests")
    source = program_of(row["output"])
    name = called_function(source, asserts)
    prompt = f"{text_of(row, 'input')}\n\nThe function must be called `{name}`."
    line = {"domain": "code", "prompt": prompt, "func_name": name, "asserts": asserts, "solution": source}
    return {**line, "public_asserts": asserts[: (len(asserts) + 1) // 2]}


class NoObjects(pickle.Unpickler):
    """Unpickles plain values only, because unpickling an object can run any code."""

    def find_class(self, *_):
        raise Unusable("private tests hold an object")


def livecode_row(row: dict) -> dict:
    """Problem line of a row of LiveCodeBench. The teacher sees the public tests; all tests decide.

    Private tests are JSON text, or base64 of a compressed pickle of JSON text.
    """
    private = row.get("private_test_cases") or []
    if isinstance(private, str) and not private.lstrip().startswith("["):
        private = NoObjects(io.BytesIO(zlib.decompress(base64.b64decode(private)))).load()
    public, starter_code = parsed(row["public_test_cases"]), row["starter_code"]
    instruction = "Read from standard input and print to standard output."
    if starter_code:
        instruction = f"Start from this code:\n```python\n{starter_code}\n```"
    return {
        "domain": "code",
        "prompt": f"{text_of(row, 'question_content')}\n\n{instruction}",
        "tests": public + parsed(private),
        "public_tests": public,
        "func_name": parsed(row["metadata"]).get("func_name"),
    }


def lost_row(task: str, joined: bool, row: dict) -> dict:
    """Problem line of a row of Lost in Conversation; its code is from HumanEval or LiveCodeBench.

    task: "math" or "code"; rows of another task raise Unusable. joined: the prompt is the list of the shards,
    as bullet points, instead of the full text.
    """
    if row["task"] != task:
        raise Unusable(f"not {task}")
    shards = [s["shard"] for s in sorted(parsed(row["shards"]), key=lambda s: s["shard_id"])]
    if task == "math":
        line = gsm8k_row(row)
    elif "question_content" in row:  # from LiveCodeBench
        line = livecode_row(row)
    else:
        name, public = parsed(row["metadata"])["func_name"], parsed(row["public_test_cases"])
        line = {"domain": "code", "prompt": row["prompt"], "public_tests": public, "func_name": name}
        line["asserts"] = [humaneval_assert(name, row["prompt"], text_of(row, "test"))]
    if line.get("func_name"):  # only the full text has the function's name; the first shard must not tell it
        shards[-1] += f" (The function must be called `{line['func_name']}`.)"
    bullets = "\n".join(f"- {shard}" for shard in shards)
    return {**line, "prompt": bullets if joined else line["prompt"], "shards": shards}


def lost_source(task: str, joined: bool) -> Source:
    """The Source of Lost in Conversation for a task; see lost_row."""
    row_to_line, files = partial(lost_row, task, joined), ("lost_in_conversation.json",)
    return Source("microsoft/lost_in_conversation", row_to_line, files=files)


OMNI, LIVECODE = "KbsdJames/Omni-MATH", "livecodebench/code_generation_lite"
LIVECODE_FILES = tuple(f"test{n}.jsonl" for n in ("", 2, 3, 4, 5, 6))  # release n is the first n files
SOURCES = {
    "omni-math": Source(OMNI, math_row),
    "omni-math/train": Source(OMNI, math_row, side="train", max_problems=2000),
    "omni-math/test": Source(OMNI, math_row, side="test", max_problems=500),
    "opencodeinstruct": Source(
        "nvidia/OpenCodeInstruct", opencode_row, {"name": "train", "split": "train"}, max_problems=2000
    ),
    **{
        f"livecodebench/v{n}": Source(
            LIVECODE,
            livecode_row,
            {"name": f"release_v{n}"},
            files=LIVECODE_FILES[:n],
            other=tuple(f"release_v{other}" for other in range(1, 7) if other != n),
        )
        for n in range(1, 7)
    },
    "lost-in-conversation/math": lost_source("math", joined=False),
    "lost-in-conversation/code": lost_source("code", joined=False),
    "lost-in-conversation/math-joined": lost_source("math", joined=True),
    "lost-in-conversation/code-joined": lost_source("code", joined=True),
    "gsm8k/train": Source("openai/gsm8k", gsm8k_row, {"name": "main", "split": "train"}, other=("socratic",)),
    "gsm8k/test": Source("openai/gsm8k", gsm8k_row, {"name": "main", "split": "test"}, other=("socratic",)),
    "math-500": Source("HuggingFaceH4/MATH-500", math_row),
    "humaneval": Source("openai/openai_humaneval", humaneval_row),
}
