"""The arrows between the files: stage → common → parts, never up; and parts that can be taken away on their own."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

STAGES = {"generate", "sft", "qprime", "grpo", "evaluate"}
PARTS = sorted(f.stem for f in (ROOT / "parts").glob("*.py"))


def imported(file):
    """The kit's own modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = STAGES | {"common"} | {f"parts.{part}" for part in PARTS}
    return names & own


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_neither_common_nor_a_stage(part):
    assert not imported(ROOT / "parts" / f"{part}.py") & (STAGES | {"common"})


def test_common_imports_no_stage():
    assert not imported(ROOT / "common.py") & STAGES


def test_three_parts_work_alone_each_in_a_folder_without_the_others(tmp_path):
    lines = ["import sys"]
    for part in ("answers", "sandbox", "engines"):
        (tmp_path / part).mkdir()
        shutil.copy(ROOT / "parts" / f"{part}.py", tmp_path / part)
        lines += [f"sys.path[0] = {str(tmp_path / part)!r}", f"import {part}"]
    lines += ["print(answers.equal_answers('1/2', '0.5'))"]
    lines += ["print(sandbox.run_program('print(input())', 'alone').output)"]
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["True", "alone"], "")


def test_importing_a_script_loads_no_large_library_before_it_is_used():
    large = {"transformers", "vllm", "datasets", "matplotlib", "torch.distributed.fsdp"}
    code = f"import sys, common, {', '.join(sorted(STAGES))}; print({large} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("readme", ["README.md", "toy/README.md", "toy/worlds/README.md", "parts/README.md"])
def test_the_pictures_and_files_that_a_readme_names_exist(readme):
    text, folder = (ROOT / readme).read_text(), (ROOT / readme).parent
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links and all((folder / link).exists() for link in links), links


def test_the_flags_that_the_readmes_name_are_those_of_the_scripts():
    shown = "".join(
        (ROOT / file).read_text()
        for file in ["parts/runs.py", "tests/bench.py", *map("{}.py".format, STAGES)]
    )
    text = "".join((ROOT / readme).read_text() for readme in ("README.md", "parts/README.md"))
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    others = {"--index-url"}  # of pip
    others |= {"--help", "--nodes", "--ntasks-per-node", "--gpus-per-node"}  # of every script, of Slurm
    others |= {"--exclusive", "--mem", "--cpus-per-task", "--kill-on-bad-exit"}
    others |= {
        "--nnodes",
        "--nproc-per-node",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--rdzv-id",
    }  # of torchrun
    assert len(flags) > 20 and not [flag for flag in flags - others if f'"{flag}"' not in shown]
