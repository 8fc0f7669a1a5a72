"""Every command of toy/LESSONS.md runs, with one step and on a few problems."""

import glob
import os
import re
import runpy
import subprocess
import sys
from contextlib import nullcontext

import pytest
from commands import FORKS
from conftest import ROOT

# Functions of bash that write a command to the file `commands` in place of running it
RECORD = r"""
record() { printf '%s\0' "$@" $'\n' >>commands; }
python() { record python "$@"; }
grep() { record grep "$@"; }
set -eu
"""


def recorded(folder):
    """The commands `python …` and `grep …` of the code blocks, in order, as lists of words; writes their files."""
    lines = re.findall(r"^(?:    (.*))?$", (ROOT / "toy" / "LESSONS.md").read_text(), re.M)
    subprocess.run(["bash", "-c", "\n".join([RECORD, *lines])], cwd=folder, check=True)
    return [command.split("\0") for command in (folder / "commands").read_text().split("\0\n\0")[:-1]]


def replay(commands, folder):
    """The work of a fork: runs the commands in `folder`, RL with one step; their output goes to the file `output`."""
    import sft

    os.chdir(folder)
    file, successful = os.open("output", os.O_WRONLY | os.O_CREAT), sft.successful
    os.dup2(file, 1)
    os.dup2(file, 2)
    for program, *words in commands:
        print("$", program, *words, flush=True)
        sys.argv = ["1" if before == "--steps" else word for before, word in zip([program, *words], words)]
        sft.successful = successful  # a lesson replaces it
        if program == "grep":
            files = [name for word in words for name in glob.glob(word) or [word]]
            subprocess.run([program, *files], check=True)  # fails if nothing is found
        elif words[0] == "-c":
            exec(words[1], {})
        else:
            script = words[0] if os.path.exists(words[0]) else str(ROOT / words[0])
            with pytest.raises(SystemExit, match="2") if "drop" in words else nullcontext():
                runpy.run_path(script, run_name="__main__")


def test_every_command_of_the_lessons_runs(tmp_path):
    (tmp_path / "toy").mkdir()
    for file in (ROOT / "toy").iterdir():
        if file.suffix == ".jsonl":
            (tmp_path / "toy" / file.name).write_text("".join(file.read_text().splitlines(True)[:12]))
        else:
            (tmp_path / "toy" / file.name).symlink_to(file)
    commands = recorded(tmp_path)
    assert {words[1] for words in commands} >= {
        "grpo.py",
        "sft.py",
        "qprime.py",
        "generate.py",
        "evaluate.py",
    }
    process = FORKS.Process(target=replay, args=(commands, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "output").read_text()[-3000:]
