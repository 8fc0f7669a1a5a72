"""Several processes (torchrun, FSDP2, here on a CPU with gloo) do what one does."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import ROOT
from test_scripts import run, start

TALK = ["--prompts", ROOT / "toy" / "prompts.json", "--max-tokens", 8]


def torchrun(processes, script, *args, rc=0):
    """Runs a script in that many processes; returns what it wrote to stderr."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, ROOT / f"{script}.py", *args, "--threads", 1, "--device", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.returncode == 0) == (rc == 0), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """File of 12 problems that leave one answer."""
    path = tmp_path_factory.mktemp("problems") / "code.jsonl"
    path.write_text("".join([line for line in open(ROOT / "toy" / "code_train.jsonl") if "?" not in line][:12]))
    return path


def metrics(folder):
    return [json.loads(line) for line in open(folder / "metrics.jsonl")]


def alike(one, two, keys):
    """Metrics agree, and weights to 1e-5, wherever the gradient was more than the rounding that Adam blows up."""
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert {k: a[k] for k in keys} == pytest.approx({k: b[k] for k in keys}, rel=1e-4, abs=1e-5)
    a, b = (AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32").state_dict() for folder in (one, two))
    moments = torch.load(one / "resume.pt", weights_only=False)["state"][1]["state"]
    real = {name: moments[f"model.{name}"]["exp_avg_sq"].sqrt() > 1e-6 for name in a}
    assert a.keys() == b.keys() and sum(r.sum() for r in real.values()) > 0.5 * sum(r.numel() for r in real.values())
    assert max(((a[k] - b[k]) * real[k]).abs().max() for k in a) <= 1e-5


def test_sft_in_two_processes_equals_one(problems, base, tmp_path):
    run("generate", "--model", base, "--problems", problems, "--samples", 2, "--out", tmp_path / "d", "--threads", 1, *TALK)
    command = ["--model", base, "--data", tmp_path / "d", "--lr", "1e-4", "--batch", 5, "--save-every", 1, "--epochs", 2]
    for n in (1, 2):
        torchrun(n, "sft", *command, "--out", tmp_path / f"{n}")
    alike(tmp_path / "1", tmp_path / "2", ("loss", "grad_norm", "tokens"))


def test_grpo_in_two_processes_equals_one_also_when_resumed_by_another_number(problems, base, tmp_path):
    command = ["--model", base, "--problems", problems, "--steps", 3, "--batch", 4, "--group", 4, "--lr", "1e-4", "--save-every", 1, *TALK]
    for n in (1, 2):
        torchrun(n, "grpo", *command, "--out", tmp_path / f"{n}")
    alike(tmp_path / "1", tmp_path / "2", ("loss", "grad_norm", "reward", "tokens", "equal_groups"))
    process = start("grpo", *command, "--threads", 1, "--device", "cpu", "--out", tmp_path / "mixed")
    while process.poll() is None and not (tmp_path / "mixed" / "resume.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    torchrun(2, "grpo", *command, "--out", tmp_path / "mixed")
    alike(tmp_path / "1", tmp_path / "mixed", ("loss", "grad_norm", "reward", "tokens", "equal_groups"))


def test_what_processes_cannot_share_is_one_line(problems, base, tmp_path):
    grpo = torchrun(2, "grpo", "--model", base, "--problems", problems, "--batch", 3, "--out", tmp_path / "a", rc=2)
    assert grpo.count("error: --batch is 3, which 2 processes cannot share equally") == 1
    evaluate = torchrun(2, "generate", "--model", base, "--problems", problems, "--out", tmp_path / "b", rc=2)
    assert evaluate.count("error: generate.py runs in one process") == 1 and not (tmp_path / "b").exists()
