"""Runs the scripts: in this process, in a new process, or in forks of one that has imported the libraries."""

import importlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Importing the libraries takes 4 seconds of processor time. One process imports them; the others are its forks.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "torch.distributed.fsdp",
        "torch.distributed.checkpoint.state_dict",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
        "peft",
    ]
)


def words(script, *args, **options):
    """A command line: grpo, model="m", no_std=True → grpo.py --model m --no-std."""
    line = [f"{script}.py", *args]
    for name, value in options.items():
        line += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    return list(map(str, line))


def run(script, *args, **options):
    """Runs a script in this process, as its command line would."""
    from parts.runs import run_script

    old, sys.argv = sys.argv, words(script, *args, **options)
    try:
        run_script(importlib.import_module(script).main)
    finally:
        sys.argv = old


def start(script, *args, **options):
    """Starts a script as a new process."""
    file, *rest = words(script, *args, **options)
    return subprocess.Popen(
        [sys.executable, ROOT / file, *rest], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def fork(script, *args, environment=None, log=os.devnull, **options):
    """Starts a script as a fork, which writes stdout and stderr to the file `log`."""
    line = words(script, *args, **options)
    process = FORKS.Process(
        target=in_fork, args=([str(ROOT / line[0]), *line[1:]], environment or {}, str(log))
    )
    process.start()
    return process


def in_fork(line, environment, log):
    """The work of a fork: sends its output to the file `log` and runs the script of a command line."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    sys.argv = line
    runpy.run_path(line[0], run_name="__main__")


def fork_ranks(processes, script, *args, folder, rc=0, **options):
    """Returns the output of a script that runs in that many forks, in the environment that torchrun would give them.

    folder: for their logs. rc: the exit code of all ranks, or if it is not 0, of at least one.
    """
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    logs = [folder / f"rank{rank}.log" for rank in range(processes)]
    ranks = [
        fork(
            script,
            *args,
            **{"threads": 1, "device": "cpu", **options},
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            log=log,
        )
        for rank, log in enumerate(logs)
    ]
    until = time.monotonic() + 240
    while (
        time.monotonic() < until and any(p.is_alive() for p in ranks) and not any(p.exitcode for p in ranks)
    ):
        time.sleep(0.01)
    for process in ranks:  # if one has failed, the others would wait for it forever
        process.kill()
        process.join()
    written = "".join(log.read_text() for log in logs if log.exists())
    codes = [process.exitcode for process in ranks]
    assert rc in codes if rc else not any(codes), written
    return written


def kill_when(process, condition):
    """Kills a fork by signal 9 as soon as a condition holds; the fork must not have ended by itself."""
    wait_for(process, condition)
    process.kill()
    process.join()
    assert process.exitcode == -9


def wait_for(process, condition):
    """Waits until a condition holds; the process must not end before."""
    until = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < until, "it ended before, or does nothing"
        time.sleep(0.01)


def torchrun(processes, script, *args, **options):
    """Runs a script by torchrun in that many new processes."""
    file, *rest = words(script, *args, **{"threads": 1, "device": "cpu", **options})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*launch, ROOT / file, *rest], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def rows(folder, name="dialogues.jsonl"):
    """The objects in a log of a run folder."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
