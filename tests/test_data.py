"""Data sets: rows in the hub's schemas become problems; what cannot be used is counted; what is wrong is named."""

import base64
import gzip
import json
import os
import pickle
import zlib

import pytest

from common import grade, load_problems
from parts.runs import BadInput
from parts.sources import SOURCES, NoObjects

SOLUTION = "def add(a, b):\n    return a + b\n"
OMNI = {
    "domain": ["Algebra"],
    "difficulty": 4.0,
    "problem": "What is 1 + 1?",
    "solution": "It is 2.",
    "answer": "2",
    "source": "x",
}
HUMANEVAL = {"task_id": "HumanEval/0", "prompt": 'def add(a: int, b: int) -> int:\n    """ Add.\n    """\n', "entry_point": "add",
             "canonical_solution": "    return a + b\n", "test": "def check(candidate):\n    assert candidate(1, 2) == add(2, 1) == 3\n"}  # fmt: skip
OPENCODE = {"id": "1", "input": "Add two numbers.", "output": f"```python\n{SOLUTION}```", "average_test_score": "1",
            "unit_tests": json.dumps(["\nassert add(1, 2) == 3\n", "\nassert add(0, 0) == 0\n", "\nassert add(-1, 1) == 0\n"])}  # fmt: skip
TEST = {"input": "1\n2", "output": "3", "testtype": "functional"}
HIDDEN = {"input": "5\n6", "output": "11", "testtype": "functional"}
LIVECODE = {"question_content": "Add two numbers.", "starter_code": "class Solution:\n    def add(self, a, b):\n        ", "metadata": '{"func_name": "add"}',
            "public_test_cases": json.dumps([TEST]), "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps([HIDDEN])))).decode()}  # fmt: skip
SHARDS = [{"shard_id": i, "shard": text} for i, text in enumerate(("add something", "two numbers"))]
LOST_LIVECODE = {
    **LIVECODE,
    "task": "code",
    "source": "lcb_easy",
    "metadata": {"func_name": "add"},
    "shards": SHARDS[::-1],
}
LOST = [
    {"task": "math", "question": "Forty and two?", "answer": "40 + 2 = 42\n#### 1,042", "shards": SHARDS},
    {
        "task": "code",
        "prompt": HUMANEVAL["prompt"],
        "test": HUMANEVAL["test"],
        "public_test_cases": json.dumps([TEST]),
        "metadata": {"func_name": "add"},
        "shards": SHARDS,
    },
    {"task": "summary", "shards": SHARDS},
]


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A function (name, rows) → NAME:PATH of a local copy with these rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(name, rows, file="rows.jsonl"):
        (tmp_path / file).write_text(
            "".join(json.dumps(r) + "\n" for r in rows) if file.endswith("l") else json.dumps(rows)
        )
        return f"{name}:{tmp_path / file}"

    return write


@pytest.mark.parametrize(
    "name, row",
    [
        ("humaneval", HUMANEVAL),
        ("opencodeinstruct", OPENCODE),
        ("livecodebench/v6", LIVECODE),
        ("lost-in-conversation/code", LOST[1]),
    ],
)
def test_a_right_program_is_correct_and_a_stub_is_not(local, name, row):
    (problem,) = load_problems(local(name, [row]))
    method = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert grade(problem, f"```python\n{method if 'live' in name else SOLUTION}```").correct
    assert grade(problem, f"```python\n{SOLUTION.replace('a + b', '3')}```").correct == (
        name in ("humaneval", "lost-in-conversation/code")
    )
    assert grade(problem, "```python\ndef add(a, b):\n    pass\n```").status == "wrong"
    assert "add" in problem.prompt


def test_hidden_tests_decide_and_the_teacher_sees_public_ones_only(local):
    (problem,) = load_problems(local("livecodebench/v1", [LIVECODE]))
    verdict = grade(problem, "```python\nclass Solution:\n    def add(self, a, b):\n        return 3\n```")
    report = "Test 1: add(1, 2) returned 3, as expected."
    assert (verdict.status, verdict.report) == ("wrong", report)


def test_the_teacher_sees_the_first_half_of_the_tests_of_opencodeinstruct(local):
    (problem,) = load_problems(local("opencodeinstruct", [OPENCODE]))
    shown, hidden = problem.asserts[:2], problem.asserts[2]
    verdict = grade(problem, "```python\ndef add(a, b):\n    return 3 * (a > 0) + (a < 0)\n```")
    assert verdict.status == "wrong" and verdict.report == "\n".join(f"Passed: {text}" for text in shown)
    assert problem.public_asserts == shown and hidden not in verdict.report


def test_pickles_of_objects_are_refused(local, capsys, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    row = {**LIVECODE, "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()}
    with pytest.raises(BadInput, match="private tests hold an object"):
        load_problems(local("livecodebench/v1", [row]))
    assert not (tmp_path / "marker").exists()
    assert NoObjects.find_class is not pickle.Unpickler.find_class


def test_the_side_of_a_problem_depends_on_its_text_alone(local):
    rows = [{**OMNI, "problem": f"What is 1 + {i}?", "answer": str(i + 1)} for i in range(300)]
    train, test = (
        {p.prompt for p in load_problems(local(f"omni-math/{side}", rows))} for side in ("train", "test")
    )
    again = {p.prompt for p in load_problems(local("omni-math/test", rows[::-1][:200]))}
    assert not train & test and len(train | test) == 300 and len(test) > 30 and again <= test


def test_rows_that_cannot_be_used_are_counted_by_reason(local, capsys):
    rows = [
        OMNI,
        OMNI,
        {**OMNI, "problem": "Which?", "answer": "All bounded and continuous functions"},
        {**OMNI, "problem": "Empty?", "answer": " "},
    ]
    source = local("omni-math", rows)
    assert [p.answer for p in load_problems(source)] == ["2"]
    told = capsys.readouterr().err
    assert (
        "1 problems; 1 left out: the same problem again; 1 left out: the answer cannot be judged by a rule; 1 left out: no answer"
        in told
    )
    assert len(load_problems(source, answers="all")) == 2


def test_programs_that_fail_their_own_tests_are_left_out(local):
    wrong = {**OPENCODE, "input": "Other", "output": SOLUTION.replace("+", "-")}
    broken = {
        **OPENCODE,
        "input": "Third",
        "unit_tests": json.dumps(["assert add(1,", "assert add(", "assert"]),
    }
    assert [p.solution for p in load_problems(local("opencodeinstruct", [wrong, broken, OPENCODE]))] == [
        SOLUTION
    ]


def test_lost_in_conversation_comes_full_joined_and_in_pieces(local):
    (full,) = load_problems(local("lost-in-conversation/math", LOST, "all.json"))
    (joined,) = load_problems(local("lost-in-conversation/math-joined", LOST, "all.json"))
    assert (full.prompt, full.answer, full.shards) == (
        "Forty and two?",
        "1042",
        ["add something", "two numbers"],
    )
    assert joined.prompt == "- add something\n- two numbers"


def test_a_data_set_is_read_once_and_again_when_its_file_changes(local, capsys):
    source = local("omni-math", [OMNI])
    load_problems(source)
    first = capsys.readouterr().err
    load_problems(source)
    assert "1 problems" in first and "problems" not in capsys.readouterr().err
    assert len(load_problems(local("omni-math", [OMNI, {**OMNI, "problem": "And 2 + 0?"}]))) == 2


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_rows_of_another_schema_are_named(local, name, capsys):
    with pytest.raises(BadInput) as e:
        load_problems(local(name, [{"text": "x"}]))
    assert "row 1" in str(e.value)


def test_a_hub_that_cannot_be_reached_is_one_line(local, capsys):
    with pytest.raises(BadInput) as e:  # tests run without network
        load_problems("humaneval")
    assert "\n" not in str(e.value) and "humaneval:PATH" in str(e.value)


def test_a_local_copy_that_is_missing_is_named(local, capsys):
    with pytest.raises(BadInput) as e:
        load_problems("humaneval:/nowhere/x.jsonl")
    assert "/nowhere/x.jsonl: no such file" in str(e.value)


def test_code_of_lost_in_conversation_may_come_from_livecodebench_and_its_pieces_in_any_order(local):
    (problem,) = load_problems(local("lost-in-conversation/code", [LOST_LIVECODE], "all.json"))
    assert grade(
        problem, "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```"
    ).correct
    assert problem.shards == ["add something", "two numbers (The function must be called `add`.)"]


def test_a_folder_is_read_as_the_hub_clones_it(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for config in ("main", "socratic"):
        for split in ("train", "test"):
            (tmp_path / "gsm8k" / config).mkdir(parents=True, exist_ok=True)
            rows = [{"question": f"{config} {split}?", "answer": "So it is\n#### 1,042"}]
            file = tmp_path / "gsm8k" / config / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    (problem,) = load_problems(f"gsm8k/test:{tmp_path / 'gsm8k'}")
    assert (problem.prompt, problem.answer) == ("main test?", "1042")


def test_a_release_of_livecodebench_reads_the_files_of_that_release_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("test", "test2", "test3"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps({**LIVECODE, "question_content": name}))
    assert [p.prompt.split("\n")[0] for p in load_problems(f"livecodebench/v2:{tmp_path}")] == [
        "test",
        "test2",
    ]


def test_json_lines_in_a_json_file_a_byte_order_mark_and_numbers_as_answers_are_read(local, tmp_path):
    source = local("omni-math", [OMNI], "rows.json")
    (tmp_path / "rows.json").write_text(
        "\ufeff"
        + json.dumps({**OMNI, "answer": 2})
        + "\n"
        + json.dumps({**OMNI, "problem": "?", "answer": 0.5})
    )
    assert [p.answer for p in load_problems(source)] == ["2", "0.5"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("x.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9]),
        ("x.parquet", b"PAR1"),
        ("x.json", b"[{"),
        ("x.jsonl", b"\xff"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(name, content, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as e:
        load_problems(f"omni-math:{tmp_path / name}")
    assert str(tmp_path / name) in str(e.value) and "\n" not in str(e.value)


def test_an_import_that_yields_nothing_names_the_reasons_and_is_not_kept(local, tmp_path):
    source = local("omni-math", [{**OMNI, "answer": " "}])
    with pytest.raises(BadInput) as e:
        load_problems(source)
    assert "1 left out: no answer" in str(e.value) and not list((tmp_path / "cache").rglob("*.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as e:
        load_problems(f"omni-math:{tmp_path / 'empty'}")
    assert "holds no" in str(e.value)


@pytest.mark.parametrize(
    "line, said",
    [
        ({"tests": [{"input": 1, "output": "x", "testtype": "stdin"}]}, "must be texts"),
        ({"asserts": ["x", 5]}, "must be a text"),
        ({"asserts": "assert f(1)"}, "must be a list"),
        ({"asserts": ["assert f()"], "public_asserts": ["assert g()"]}, "must be one of 'asserts'"),
        ({"tests": [TEST], "func_name": 5}, "'func_name' must be a text"),
        ({"asserts": ["assert f()"], "func_name": "f", "shards": [""]}, "must be a text"),
        ({"asserts": ["assert f()"], "func_name": "f", "prompt": "\ud800"}, "surrogates not allowed"),
    ],
)
def test_every_field_of_a_problem_line_is_checked(line, said, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", "domain": "code", "prompt": "x", **line}))
    with pytest.raises(BadInput, match="line 1") as e:
        load_problems(tmp_path / "p.jsonl")
    assert said in str(e.value)


@pytest.mark.parametrize(
    "snippet, said",
    [
        ("f(3)", "asserts nothing"),
        ("f(3) == 4", "asserts nothing"),
        ("x = f(3)\nprint(x == 4)", "asserts nothing"),
        ("assert f(3) ==", "is not Python"),
        ("assert f(3) == 4", None),
        ("def check(g):\n    assert g(3) == 4\ncheck(f)", None),
        ("check(f)", None),
        ("if f(3) != 4:\n    raise ValueError", None),
        ("import numpy as np\nnp.testing.assert_allclose(f(3), 4)", None),
        ("import pytest\nwith pytest.raises(ValueError):\n    f(3)", None),
        ("self.assertEqual(f(3), 4)", None),
    ],
)
def test_a_snippet_that_asserts_nothing_is_refused(snippet, said, tmp_path):
    line = {"id": "a", "domain": "code", "prompt": "x", "func_name": "f", "asserts": [snippet]}
    (tmp_path / "p.jsonl").write_text(json.dumps(line))
    if said is None:
        assert len(load_problems(tmp_path / "p.jsonl")) == 1
    else:
        with pytest.raises(BadInput, match=said):
            load_problems(tmp_path / "p.jsonl")


def test_a_problem_whose_own_solution_fails_is_left_out_when_it_is_imported(local, capsys):
    wrong = {
        **HUMANEVAL,
        "prompt": HUMANEVAL["prompt"].replace("Add", "Sum"),
        "canonical_solution": "    return a\n",
    }
    assert len(load_problems(local("humaneval", [HUMANEVAL, wrong]))) == 1
    assert "1 problems; 1 left out: its solution is judged wrong" in capsys.readouterr().err


def test_a_mathematical_solution_is_compared_by_its_box_if_it_has_one(local, capsys):
    solutions = {"Boxed right?": "So \\boxed{2}.", "Boxed wrong?": "So \\boxed{3}.", "Not boxed?": "So 3."}
    rows = [{**OMNI, "problem": problem, "solution": text} for problem, text in solutions.items()]
    assert [p.prompt for p in load_problems(local("omni-math", rows))] == ["Boxed right?", "Not boxed?"]
    assert "1 left out: its solution has another answer" in capsys.readouterr().err


def test_a_file_in_another_encoding_is_one_line(tmp_path):
    line = json.dumps({"id": "a", "domain": "math", "prompt": "h\u00e9", "answer": "2"}, ensure_ascii=False)
    (tmp_path / "p.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(BadInput, match="p.jsonl, line 1: 'utf-8' codec can't decode"):
        load_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize("command", ["frac12", "text{x}", "beta", "rho"])
def test_an_answer_whose_backslash_json_took_is_refused(command, tmp_path):
    file = tmp_path / "p.jsonl"
    line = '{"id": "a", "domain": "math", "prompt": "x", "answer": "BACKSLASH"}'
    file.write_text(line.replace("BACKSLASH", "\\\\" + command) + "\n")
    assert load_problems(file)[0].answer == "\\" + command
    file.write_text(line.replace("BACKSLASH", "\\" + command) + "\n")
    with pytest.raises(BadInput, match="double the backslashes"):
        load_problems(file)


def rows_of(name, text):
    """A row of the data set `name`, whose problem holds `text`."""
    if name.startswith("lost"):
        return {**LOST[0], "question": text}
    if name.startswith("gsm8k"):
        return {"question": text, "answer": "So it is\n#### 42"}
    return {**LIVECODE, "question_content": text} if name.startswith("live") else {**OMNI, "problem": text}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function (name, files) → NAME:PATH of a folder in which each file has one row with its path as text."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(name, *files, below="copy"):
        for file in files:
            path, row = tmp_path / below / file, rows_of(name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.endswith(".parquet"):
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
            else:
                path.write_text(json.dumps(row) + "\n")
        return f"{name}:{tmp_path / below}"

    return write


def texts(source):
    return [problem.prompt.split("\n")[0] for problem in load_problems(source)]


@pytest.mark.parametrize(
    "name, files, missing",
    [
        ("gsm8k/test", ["train.jsonl"], "needs the main test file"),
        ("gsm8k/train", ["test.jsonl"], "needs the main train file"),
        ("gsm8k/test", ["main/train-00000-of-00001.parquet"], "needs the main test file"),
        ("gsm8k/test", ["train.jsonl", "example_model_solutions.jsonl"], "needs the main test file"),
        ("gsm8k/test", ["socratic/test-00000-of-00001.parquet"], "needs the main test file"),
        ("math-500", ["train.jsonl"], "needs the test file"),
        ("math-500", ["test-00001-of-00003.parquet"], "needs test-00000-of-00003.parquet, test-00002-of-"),
        (
            "livecodebench/v6",
            ["test.jsonl"],
            "needs test2.jsonl, test3.jsonl, test4.jsonl, test5.jsonl, test6",
        ),
        ("livecodebench/v1", ["test6.jsonl"], "needs test.jsonl"),
        ("livecodebench/v1", ["release_v2/test-00000-of-00001.parquet"], "needs test.jsonl"),
        (
            "livecodebench/v6",
            ["v6/test-00000-of-00001.parquet"],
            "needs test.jsonl",
        ),  # the newest 175 problems
    ],
)
def test_a_folder_without_the_right_file_is_refused_and_the_file_named(folder, name, files, missing):
    with pytest.raises(BadInput) as e:
        load_problems(folder(name, *files))
    assert missing in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name, file",
    [
        ("gsm8k/test", "train.jsonl"),
        ("gsm8k/train", "test-00000-of-00001.parquet"),
        ("gsm8k/test", "train/rows.jsonl"),
        ("livecodebench/v6", "test.jsonl"),
        ("livecodebench/v1", "test6.jsonl"),
        ("livecodebench/v1", "release_v5/test-00000-of-00001.parquet"),
        ("math-500", "test-00000-of-00002.parquet"),
    ],
)
def test_a_single_file_whose_name_says_otherwise_is_refused(folder, name, file):
    with pytest.raises(BadInput, match="needs"):
        load_problems(f"{folder(name, file)}/{file}")


@pytest.mark.parametrize(
    "name, files, read",
    [
        ("gsm8k/test", ["train.jsonl", "test.jsonl", "test_socratic.jsonl"], ["test.jsonl"]),
        ("gsm8k/train", ["data/train.jsonl", "data/test.jsonl"], ["data/train.jsonl"]),
        ("gsm8k/test", ["rows.jsonl"], ["rows.jsonl"]),
        (
            "lost-in-conversation/math",
            ["data/sharded_instructions_600.json"],
            ["data/sharded_instructions_600.json"],
        ),
        (
            "lost-in-conversation/math",
            ["lost_in_conversation.json", "more.json"],
            ["lost_in_conversation.json"],
        ),
        (
            "math-500",
            ["test.jsonl", "._test.jsonl", ".ipynb_checkpoints/test-checkpoint.jsonl"],
            ["test.jsonl"],
        ),
        ("math-500", ["test.jsonl", "__MACOSX/._test.jsonl", "dataset_infos.json"], ["test.jsonl"]),
        (
            "livecodebench/v2",
            [f"release_v{n}/test-0000{i}-of-00002.parquet" for n in (1, 2) for i in (0, 1)],
            ["release_v2/test-00000-of-00002.parquet", "release_v2/test-00001-of-00002.parquet"],
        ),
    ],
)
def test_of_a_folder_only_the_right_files_are_read(folder, name, files, read):
    assert texts(folder(name, *files)) == read


def test_the_first_shards_are_enough_for_a_data_set_of_which_the_first_rows_are_taken(tmp_path, local):
    file = "train-00000-of-00050.jsonl"
    source = local("opencodeinstruct", [OPENCODE], file)
    with pytest.raises(BadInput, match="train-00001-of-00050"):
        load_problems(source)  # one row is fewer than are wanted
    assert SOURCES["opencodeinstruct"].max_problems == 2000
    local("opencodeinstruct", [{**OPENCODE, "input": f"Add {i}."} for i in range(3)], file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SOURCES["opencodeinstruct"], "max_problems", 3)
        assert len(load_problems(source)) == 3


def test_a_copy_in_the_cache_of_the_hub_is_read_in_the_revision_of_main(folder, tmp_path, monkeypatch):
    hub = ".cache/huggingface/hub/datasets--openai--gsm8k"
    folder("gsm8k/test", "snapshots/aaa/main/test-00000-of-00001.parquet", below=hub)
    folder("gsm8k/test", "snapshots/bbb/main/test-00000-of-00001.parquet", below=hub)
    (tmp_path / hub / "refs").mkdir()
    (tmp_path / hub / "refs" / "main").write_text("aaa")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts(f"gsm8k/test:~/{hub}") == ["snapshots/aaa/main/test-00000-of-00001.parquet"]


def test_what_save_to_disk_wrote_is_read_by_its_split(tmp_path, monkeypatch):
    from datasets import Dataset, DatasetDict

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sets = {
        s: Dataset.from_list([rows_of("gsm8k", f"{s} {i}?") for i in (0, 1)], split=s)
        for s in ("train", "test")
    }
    DatasetDict(sets).save_to_disk(tmp_path / "both")
    sets["test"].save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-1234.arrow").write_bytes(b"of a map")
    for path in ("both", "one", "both/test"):
        assert texts(f"gsm8k/test:{tmp_path / path}") == ["test 0?", "test 1?"]
    for path in ("one", "both/test"):
        with pytest.raises(BadInput, match="needs the main train file"):
            load_problems(f"gsm8k/train:{tmp_path / path}")


def test_a_source_with_nothing_behind_its_colon_does_not_read_the_hub():
    with pytest.raises(BadInput, match="no path after the colon"):
        load_problems("gsm8k/test:")


LONG = [{"input": f"{i}\n" * 3000, "output": str(i), "testtype": "stdin"} for i in range(3)]


def test_long_tests_lie_in_one_file_for_all_releases_and_are_unpacked_to_judge(local, tmp_path):
    row = {**LIVECODE, "starter_code": "", "public_test_cases": "[]", "private_test_cases": json.dumps(LONG)}
    for n in (1, 2):
        (problem,) = load_problems(local(f"livecodebench/v{n}", [row]))
        assert isinstance(problem.tests, str)
    assert len(list((tmp_path / "cache").rglob("*.json.gz"))) == 1
    assert grade(problem, "```python\nprint(input())\n```").correct
    assert grade(problem, "```python\nprint(0)\n```").status == "wrong"


def test_an_import_holds_one_row_at_a_time(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tests = [{"input": "5\n" * 100_000, "output": "5", "testtype": "stdin"}]
    row = {**LIVECODE, "starter_code": "", "private_test_cases": json.dumps(tests)}
    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({**row, "question_content": f"{i}?"}) + "\n" for i in range(40))
    peaks = []
    tracemalloc.start()
    for _ in ("import", "start"):
        tracemalloc.reset_peak()
        assert len(load_problems(f"livecodebench/v1:{tmp_path / 'rows.jsonl'}")) == 40
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[0] < 4e6 and peaks[1] < 0.4e6  # of 8 MB of tests


def test_a_long_input_is_not_kept_in_the_cache_of_outcomes():
    from parts import programs

    programs.outcome.cache_clear()
    for length in (10, 20_000):
        test = {"input": "x" * length, "output": "1", "testtype": "stdin"}
        assert programs.run_test("print(1)", None, test).status == "correct"
    assert programs.outcome.cache_info().currsize == 1


def test_an_import_that_fails_leaves_no_file_behind(local, tmp_path):
    source = local("omni-math", [OMNI, {**OMNI, "problem": "Two?"}])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(BadInput, match=r"rows.jsonl, line 3: cannot be read \(Expecting"):
        load_problems(source)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def packed(value):
    return base64.b64encode(zlib.compress(value)).decode()


@pytest.mark.parametrize(
    "name, good, change, reason",
    [
        ("livecodebench/v1", LIVECODE, {"private_test_cases": packed(b"")}, "malformed (EOFError)"),
        ("livecodebench/v1", LIVECODE, {"private_test_cases": "AAAA"}, "malformed (error)"),
        ("livecodebench/v1", LIVECODE, {"private_test_cases": "["}, "Expecting value"),
        ("livecodebench/v1", LIVECODE, {"private_test_cases": "[" * 99_999}, "malformed (RecursionError)"),
        ("livecodebench/v1", LIVECODE, {"question_content": None}, "'question_content' is no text"),
        ("livecodebench/v1", LIVECODE, {"metadata": None}, "malformed (AttributeError)"),
        ("livecodebench/v1", LIVECODE, {"metadata": ...}, "no field 'metadata'"),
        ("lost-in-conversation/code", LOST[1], {"shards": []}, "malformed (IndexError)"),
        ("lost-in-conversation/code", LOST[1], {"shards": [{"shard_id": 1}]}, "no field 'shard'"),
        ("lost-in-conversation/code", LOST[1], {"test": None}, "'test' is no text"),
        ("lost-in-conversation/code", LOST[1], {"metadata": {}}, "no field 'func_name'"),
        ("humaneval", HUMANEVAL, {"prompt": None}, "'prompt' is no text"),
        ("opencodeinstruct", OPENCODE, {"average_test_score": "nan"}, "its program fails its tests"),
        ("math-500", OMNI, {"problem": None}, "no prompt"),
    ],
)
def test_a_bad_row_is_left_out_with_its_reason_wherever_it_stands(local, name, good, change, reason, capsys):
    bad = {key: value for key, value in {**good, **change}.items() if value is not ...}
    if "problem" not in change and "question_content" not in change and "prompt" not in change:
        text = next(key for key in ("question_content", "input", "prompt") if key in bad)
        bad[text] = bad[text].replace("Add", "Sum")
    for rows in ([bad, good], [good, bad]):
        assert len(load_problems(local(name, rows))) == 1
        assert f"1 left out: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["NaN", "Infinity", "-Infinity", "true", "false", "null", '""', "[2]"])
def test_what_is_no_answer_is_left_out(answer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = json.dumps({**OMNI, "problem": "What?", "answer": "HERE"}).replace('"HERE"', answer)
    (tmp_path / "rows.jsonl").write_text(json.dumps(OMNI) + "\n" + row)
    assert [p.answer for p in load_problems(f"math-500:{tmp_path / 'rows.jsonl'}", "all")] == ["2"]
    assert "1 left out: no answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, broken", [("humaneval", "load_dataset"), ("livecodebench/v1", "hf_hub_download")]
)
def test_a_connection_that_breaks_is_one_line(local, name, broken, monkeypatch):
    import datasets
    import huggingface_hub
    from huggingface_hub.utils import httpx

    def fail(*_, **__):
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    local(name, [])  # for its cache folder
    monkeypatch.setattr(datasets if broken == "load_dataset" else huggingface_hub, broken, fail)
    with pytest.raises(BadInput) as e:
        load_problems(name)
    assert "peer closed connection" in str(e.value) and f"{name}:PATH" in str(e.value)


PROBLEM = {"id": "a", "domain": "math", "prompt": "x", "answer": "2"}


@pytest.mark.parametrize(
    "content, said",
    [
        (json.dumps([PROBLEM]).encode(), "is a JSON array"),
        (b"\xef\xbb\xbf\r\n[\r\n", "is a JSON array"),
        (gzip.compress(json.dumps(PROBLEM).encode(), mtime=0), "is compressed with gzip"),
        (b"PAR1\0", "is a Parquet file"),
    ],
)
def test_a_problem_file_in_another_format_is_refused_by_its_name(content, said, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(BadInput) as e:
        load_problems(tmp_path / "p.jsonl")
    assert f"p.jsonl: {said}; give a text file with one JSON object a line" in str(e.value)


def test_a_folder_and_a_pipe_are_not_called_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is no regular file")):
        with pytest.raises(BadInput, match=f"{path}: {said}"):
            load_problems(path)
    with pytest.raises(BadInput, match="pipe: is no regular file"):
        load_problems(f"humaneval:{tmp_path / 'pipe'}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("source", ["", "math-500:"])
def test_errors_name_the_line_as_an_editor_counts(source, bom, end, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = json.dumps(OMNI if source else PROBLEM)
    (tmp_path / "p.jsonl").write_bytes(f"{bom}{end}{row}{end}  {end}{end}{{broken{end}".encode())
    with pytest.raises(BadInput, match="p.jsonl, line 5: "):
        load_problems(f"{source}{tmp_path / 'p.jsonl'}")


def test_a_pointer_of_git_lfs_is_called_so(folder, tmp_path):
    source = folder("math-500", "test.jsonl")
    (tmp_path / "copy" / "test.jsonl").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(
        BadInput, match="test.jsonl: cannot be read .it is a Git LFS pointer; run git lfs pull"
    ):
        load_problems(source)


def test_a_gzipped_file_is_known_by_its_content(folder, tmp_path):
    source = folder("math-500", "test.jsonl")
    file = tmp_path / "copy" / "test.jsonl"
    file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    assert texts(source) == ["test.jsonl"]
    (tmp_path / "copy" / "test.jsonl.gz").write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    assert texts(source) == ["test.jsonl"]


def test_tests_that_were_removed_from_the_cache_are_named_at_the_start(local, tmp_path):
    row = {**LIVECODE, "starter_code": "", "private_test_cases": json.dumps(LONG)}
    source = local("livecodebench/v1", [row])
    load_problems(source)
    (file,) = (tmp_path / "cache").rglob("*.json.gz")
    file.unlink()
    with pytest.raises(BadInput, match=r"line 1: its tests are gone .*remove this file"):
        load_problems(source)
