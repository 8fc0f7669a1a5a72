"""Data sets of the hub → problem lines: dicts of id, domain, prompt, answer or tests (see the README).

A data set is read once and kept as a file of problem lines under ~/.cache/sml. Rows that make no problem are
counted by reason.
"""

import ast
import base64
import gzip
import io
import json
import os
import pickle
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from parts import answers, programs, sandbox
from parts.runs import BadInput, barrier, first_line, rank_and_size, write_atomically


class Unusable(Exception):
    """A row of a data set that makes no problem; the reason is counted and reported."""


@dataclass
class Source:
    """A data set: where the hub has it, which rows are meant, how a row becomes a problem line."""

    hub: str
    make: Callable  # row → a problem line without its id; raises Unusable, or KeyError for another schema
    read: dict = field(default_factory=dict)  # further arguments of datasets.load_dataset
    files: tuple = ()  # of the hub's repository, read as they are
    side: str = ""  # "train" | "test": drawn from a problem's text, so that it is the same in any copy
    most: int = 10**9  # problems that are taken


def load(source: str, judgeable: str, make: Callable) -> list:
    """make(**line) of each problem line of a file, or of a data set: NAME, or NAME:PATH for a local copy.

    judgeable: "rule" leaves out math problems of a data set whose answer no rule can judge, "all" keeps them.
    make: raises ValueError or TypeError if a line is no problem. Raises BadInput, naming file and line.
    """
    path, problems = problem_file(source, judgeable, make), {}
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                text = text.decode("utf-8-sig")
                problem = make(**json.loads(text)) if text.strip() else None
            except json.JSONDecodeError as e:
                raise BadInput(f"{path}, line {number}: is not JSON ({e.msg})") from None
            except (ValueError, TypeError, RecursionError) as e:
                reason = re.sub(r".*got an unexpected keyword argument", "unknown field", str(e))
                reason = "is not a JSON object" if "must be a mapping" in reason else reason
                raise BadInput(f"{path}, line {number}: {reason}") from None
            if problem and problem.id in problems:
                raise BadInput(f"{path}, line {number}: id {problem.id!r} occurs twice; ids must differ")
            if problem:
                problems[problem.id] = problem
    if not problems:
        raise BadInput(f"{path}: holds no problem; each line is a JSON object with id, domain, prompt, …")
    return list(problems.values())


def problem_file(source, judgeable, make):
    """The file of problem lines of a source: the file itself, or the one that is kept of a data set."""
    name, _, local = source.partition(":")
    if name not in SOURCES:
        if not Path(source).is_file():
            known = f"one of {', '.join(SOURCES)}, or NAME:PATH for a local copy"
            raise BadInput(f"{source}: no such file; give a file of problem lines (JSONL), or {known}")
        return Path(source)
    files = local_files(local, SOURCES[name]) if local else []
    made_by = [Path(module.__file__) for module in (sys.modules[__name__], answers, programs, sandbox)]
    content = b"".join(file.read_bytes() for file in made_by)
    content += b"".join(f"{f}{f.stat().st_mtime_ns}".encode() for f in files)
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sml"
    kept = folder / f"{name}-{judgeable}-{zlib.crc32(content):08x}.jsonl".replace("/", "-")
    if rank_and_size()[0] == 0 and not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = local_rows(files) if local else hub_rows(name, SOURCES[name])
        lines = import_lines(name, local or SOURCES[name].hub, rows, judgeable, make)
        write_atomically(kept, "".join(json.dumps(line) + "\n" for line in lines))
    barrier()  # the other processes wait
    if not kept.exists():
        told = "the first process has kept the data set there, and this one does not see it"
        raise BadInput(
            f"{folder}: {told}; on several machines set XDG_CACHE_HOME to a folder that they share"
        )
    return kept


def import_lines(name, place, rows, judgeable, make):
    """The problem lines that the rows of a data set make; prints how many make none, and why."""
    source, out, lines = SOURCES[name], Counter(), {}
    for number, row in enumerate(tqdm(rows, desc=name, unit="row", mininterval=1, leave=False), 1):
        try:
            line = {"id": f"{name.split('/')[0]}-{number}", **source.make(row)}
            side = "test" if zlib.crc32(line["prompt"].encode()) % 5 == 0 else "train"
            if source.side not in ("", side):
                raise Unusable(f"not on the {source.side} side")
            if line["prompt"] in lines:
                raise Unusable("the same problem again")
            if line["domain"] == "math" and judgeable == "rule" and not answers.judgeable(line["answer"]):
                raise Unusable("the answer cannot be judged by a rule")
            make(**line)
            lines[line["prompt"]] = line
        except KeyError as e:
            told = f"{place}, row {number}: no field {e}"
            raise BadInput(f"{told}; the rows must be as in the data set {source.hub}") from None
        except (Unusable, ValueError) as e:
            out[str(e)] += 1
        except (TypeError, AttributeError, SyntaxError, zlib.error, pickle.UnpicklingError) as e:
            out[f"malformed ({type(e).__name__})"] += 1
        if len(lines) == source.most:
            break
    told = "".join(f"; {n} left out: {why}" for why, n in out.most_common())
    if not lines:
        raise BadInput(f"{place}: makes no problem of {name}{told or '; there are no rows'}")
    print(f"{name}: {len(lines)} problems{told}", file=sys.stderr)
    return list(lines.values())


# ----------------------------------------------------------------------------------------------- reading rows

FORMATS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")


def local_files(local, source):
    """The files of a local copy: the path itself; of a folder, as the hub clones it, those that are meant."""
    path = Path(local)
    if not path.exists():
        raise BadInput(f"{path}: no such file; give a local copy of the data set after the colon")
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.rglob("*") if f.name.endswith(FORMATS) and ".cache" not in f.parts)
    if not files:
        raise BadInput(f"{path}: holds no {', '.join(FORMATS)} file")
    named = [f for name in source.files for f in files if f.name.removesuffix(".gz") == name]
    if source.files and named:
        return named
    for word in (
        source.read.get("name"),
        source.read.get("split", "test"),
    ):  # as in main/test-00000-of-00001.parquet
        own = [f for f in files if word and word in re.split(r"[/._-]", str(f.relative_to(path)))]
        files = own or files
    return files


def local_rows(files):
    """Rows of JSON lines, of JSON (a list) or of Parquet files; the first two may be gzipped."""
    for path in files:
        try:
            if path.suffix == ".parquet":
                import pyarrow.parquet  # comes with datasets

                for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
                    yield from batch.to_pylist()
                continue
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
                if file.read(1) == "[":
                    file.seek(0)
                    yield from json.load(file)
                else:
                    file.seek(0)
                    yield from (json.loads(line.lstrip("\ufeff")) for line in file if line.strip())
        except (OSError, EOFError, ValueError, zlib.error) as e:
            raise BadInput(f"{path}: cannot be read ({first_line(e)})") from None


def hub_rows(name, source):
    """Rows of a data set on the hub, one after the other. Raises BadInput if it cannot be reached."""
    import datasets
    import huggingface_hub

    try:
        for file in source.files:
            yield from local_rows(
                [Path(huggingface_hub.hf_hub_download(source.hub, file, repo_type="dataset"))]
            )
        if not source.files:
            yield from datasets.load_dataset(source.hub, **{"split": "test", **source.read}, streaming=True)
    except (OSError, ValueError, RuntimeError) as e:
        advice = f"check the network, or give a local copy: {name}:PATH"
        raise BadInput(
            f"data set {source.hub} cannot be read from the hub ({first_line(e)}); {advice}"
        ) from None


def math_row(row):
    return {
        "domain": "math",
        "prompt": row["problem"],
        "answer": filled(row["answer"]),
        "solution": row["solution"],
    }


def filled(answer):
    """The answer as a text; raises Unusable if there is none."""
    answer = str(answer).strip() if isinstance(answer, str | int | float) else ""
    return answer or unusable("no answer")


def unusable(reason):
    raise Unusable(reason)


def loaded(value):
    """A field that is JSON text, or is already what that says."""
    return json.loads(value) if isinstance(value, str) else value


def gsm8k_row(row):
    solution, mark, answer = row["answer"].rpartition("####")
    answer = filled(answer.strip().replace(",", "") if mark else "")
    return {"domain": "math", "prompt": row["question"], "answer": answer, "solution": solution.strip()}


def check_assert(name, prompt, test):
    """HumanEval's tests as an assert snippet, behind the prompt, whose helper functions some of them call."""
    return f"candidate = {name}\n{prompt}\n    pass\n{name} = candidate\n{test}\ncheck(candidate)"


def humaneval_row(row):
    name, prompt = row["entry_point"], row["prompt"]
    return {
        "domain": "code",
        "prompt": f"Complete this program; keep the name `{name}`.\n\n{prompt}",
        "func_name": name,
        "asserts": [check_assert(name, prompt, row["test"])],
        "solution": prompt + row["canonical_solution"],
    }


def called_function(source, asserts):
    """The one function that a program defines and all its assert snippets call. Raises Unusable."""
    defined = {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    for text in asserts:
        calls = [
            n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        defined &= {n.func.id for n in calls}
    if len(defined) != 1:
        raise Unusable("its tests do not call one function")
    return defined.pop()


def opencode_row(row):
    """Rows with score 1 and at least three tests (eight are taken) that their own program passes here."""
    asserts = [text.strip() for text in json.loads(row["unit_tests"])][:8]
    if float(row["average_test_score"]) < 1:
        raise Unusable("its program fails its tests")
    if len(asserts) < 3:
        raise Unusable("fewer than three tests")
    source = programs.find_program(row["output"]) or programs.find_program(f"```python\n{row['output']}\n```")
    name = called_function(source or "", asserts)
    if any(r.status != "ok" for r in sandbox.run_asserts(source, name, asserts)):
        raise Unusable("its program fails in the sandbox")
    prompt = f"{row['input']}\n\nThe function must be called `{name}`."
    return {"domain": "code", "prompt": prompt, "func_name": name, "asserts": asserts, "solution": source}


class NoObjects(pickle.Unpickler):
    """Unpickles plain values only."""

    def find_class(self, *_):
        raise Unusable("private tests hold an object")


def livecode_row(row):
    """Public tests are for the teacher, all tests decide. Private ones: JSON, or a packed pickle of JSON."""
    hidden = row.get("private_test_cases") or []
    if isinstance(hidden, str) and not hidden.lstrip().startswith("["):
        hidden = NoObjects(io.BytesIO(zlib.decompress(base64.b64decode(hidden)))).load()
    public, start = loaded(row["public_test_cases"]), row["starter_code"]
    how = "Read from standard input and print to standard output."
    how = f"Start from this code:\n```python\n{start}\n```" if start else how
    return {
        "domain": "code",
        "prompt": f"{row['question_content']}\n\n{how}",
        "tests": public + loaded(hidden),
        "public_tests": public,
        "func_name": loaded(row["metadata"]).get("func_name"),
    }


def lost_row(task, joined, row):
    """Math or code of Lost in Conversation, the code after HumanEval or LiveCodeBench.

    joined: the pieces as one list of bullet points instead of the full text.
    """
    if row["task"] != task:
        raise Unusable(f"not {task}")
    shards = [s["shard"] for s in sorted(loaded(row["shards"]), key=lambda s: s["shard_id"])]
    if task == "math":
        line = gsm8k_row(row)
    elif "question_content" in row:
        line = livecode_row(row)
    else:
        name, public = loaded(row["metadata"])["func_name"], loaded(row["public_test_cases"])
        line = {"domain": "code", "prompt": row["prompt"], "public_tests": public, "func_name": name}
        line["asserts"] = [check_assert(name, row["prompt"], row["test"])]
    if line.get("func_name"):
        shards[0] += f" (The function must be called `{line['func_name']}`.)"
    return {
        **line,
        "prompt": "\n".join(f"- {s}" for s in shards) if joined else line["prompt"],
        "shards": shards,
    }


def lost_source(task, joined):
    return Source(
        "microsoft/lost_in_conversation",
        partial(lost_row, task, joined),
        files=("lost_in_conversation.json",),
    )


OMNI, LIVECODE = "KbsdJames/Omni-MATH", "livecodebench/code_generation_lite"
LIVECODE_FILES = tuple(f"test{n}.jsonl" for n in ("", 2, 3, 4, 5, 6))
SOURCES = {
    "omni-math": Source(OMNI, math_row),
    "omni-math/train": Source(OMNI, math_row, side="train", most=2000),
    "omni-math/test": Source(OMNI, math_row, side="test", most=500),
    "opencodeinstruct": Source(
        "nvidia/OpenCodeInstruct", opencode_row, {"name": "train", "split": "train"}, most=2000
    ),
    **{f"livecodebench/v{n}": Source(LIVECODE, livecode_row, files=LIVECODE_FILES[:n]) for n in range(1, 7)},
    "lost-in-conversation/math": lost_source("math", joined=False),
    "lost-in-conversation/code": lost_source("code", joined=False),
    "lost-in-conversation/math-joined": lost_source("math", joined=True),
    "lost-in-conversation/code-joined": lost_source("code", joined=True),
    "gsm8k/train": Source("openai/gsm8k", gsm8k_row, {"name": "main", "split": "train"}),
    "gsm8k/test": Source("openai/gsm8k", gsm8k_row, {"name": "main", "split": "test"}),
    "math-500": Source("HuggingFaceH4/MATH-500", math_row),
    "humaneval": Source("openai/openai_humaneval", humaneval_row),
}
