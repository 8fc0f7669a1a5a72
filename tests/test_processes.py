"""Several processes (torchrun, FSDP2, here on a CPU with gloo) do what one does."""

import itertools
import json
import socket
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, fork, fork_ranks, kill_when, rows, run, words
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForCausalLM

from common import Dialogue, Problem, Verdict
from generate import load_cast
from parts.chat import load_chat
from parts.engines import Turn

TALK = dict(prompts=ROOT / "toy" / "prompts.json", max_tokens=8)
HERE = dict(threads=1, device="cpu")


def talkative(model, folder):
    """Writes problems, prompts, and dialogues that answer the problems with 0 or 1; arguments to play with a model that was trained on them."""
    chat, problems = (
        load_chat(model),
        [Problem(f"p{i}", "math", f"{i}?", answer=str(i % 2)) for i in range(8)],
    )
    prompts = {
        "math": "{problem}",
        "informed": "T",
        "informed_math": "{turn} {knowledge}",
        "asker_math": "{turn}",
    }
    dialogues = []
    for problem, answer in itertools.product(problems, "01"):
        d, text = Dialogue(f"{problem.id}/{answer}", problem.id, limit=2), f"\\boxed{{{answer}}}"
        d.add_teacher_turn(chat.view([{"role": "user", "content": problem.prompt}]), problem.prompt)
        ids = [*chat.tokenizer.encode(text, add_special_tokens=False), chat.end]
        d.add_student_turn(Turn(ids, [0.0] * len(ids), "stop"), text, Verdict("correct"), chat.end)
        dialogues.append(d)
    for name, written in (("problems", problems), ("dialogues", dialogues)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in written))
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return dict(problems=folder / "problems.jsonl", prompts=folder / "prompts.json", turns=2, max_tokens=12)


def metrics(folder):
    return rows(folder, "metrics.jsonl")


def trained(folder):
    """(weights, state of AdamW) of a run, each {name: float32}; names of weights as those of the state."""
    (saved,) = (folder / "resume").iterdir()
    dcp_to_torch_save(saved, folder / "resume.pt")
    states = torch.load(folder / "resume.pt", weights_only=False)["optimizer"]["state"]
    weights = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32").state_dict()
    names = {name: name.replace("model.", "decoder.").replace("lm_head", "head") for name in weights}
    return {names[name]: w for name, w in weights.items()}, states


def alike(one, two, keys, lr):
    """Metrics agree; so do the moments of all gradients; and each tensor's weights to a hundredth of a step (root mean
    square), where a gradient is well above its rounding, which Adam blows up: more than half of them are. Single
    weights are not bounded: where a gradient was nearly zero in an early step, rounding decided that step."""
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert {k: a[k] for k in keys} == pytest.approx({k: b[k] for k in keys}, rel=1e-4, abs=1e-5)
    (a, states_a), (b, states_b) = trained(one), trained(two)
    assert a.keys() == b.keys() == states_a.keys() == states_b.keys()
    for moment in ("exp_avg", "exp_avg_sq"):
        m, n = (torch.cat([s[k][moment].flatten() for k in a]) for s in (states_a, states_b))
        assert (m - n).norm() <= 1e-4 * m.norm()
    far = {k: states_a[k]["exp_avg_sq"].sqrt() > 1e-5 for k in a}
    assert sum(f.sum() for f in far.values()) > 0.5 * sum(f.numel() for f in far.values())
    for name, where in far.items():
        assert ((a[name] - b[name]) * where).norm() <= 0.01 * lr * where.sum().sqrt(), name


def test_sft_in_two_processes_equals_one(problems, base, tmp_path):
    run("generate", model=base, problems=problems, samples=2, out=tmp_path / "d", **HERE, **TALK)
    command = dict(model=base, data=tmp_path / "d", lr="1e-4", batch=5, save_every=1, epochs=2)
    run("sft", **command, **HERE, out=tmp_path / "1")
    fork_ranks(2, "sft", **command, out=tmp_path / "2", folder=tmp_path)
    alike(tmp_path / "1", tmp_path / "2", ("loss", "grad_norm", "tokens"), lr=1e-4)


def test_grpo_killed_in_one_process_and_resumed_in_two_equals_grpo_in_one(problems, base, tmp_path):
    command = dict(model=base, problems=problems, steps=3, batch=4, group=4, lr="1e-5", save_every=1, **TALK)
    run("grpo", **command, **HERE, out=tmp_path / "1")
    process = fork("grpo", **command, **HERE, out=tmp_path / "mixed")
    kill_when(process, (tmp_path / "mixed" / "resume" / "1").exists)
    (tmp_path / "mixed" / "resume" / "9.part").mkdir()  # as if the kill had come while a state was written
    fork_ranks(2, "grpo", **command, out=tmp_path / "mixed", folder=tmp_path)
    logged = "loss", "grad_norm", "reward", "tokens", "equal_groups"
    alike(tmp_path / "1", tmp_path / "mixed", logged, lr=1e-5)


def test_two_agents_of_torchrun_as_on_two_nodes_train_as_one_process(problems, base, tmp_path):
    command = dict(model=base, problems=problems, steps=2, batch=4, group=4, lr="1e-3", lora=8, **TALK)
    with socket.create_server(("localhost", 0)) as free:
        where = f"localhost:{free.getsockname()[1]}"
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={where}"]
    file, *rest = words("grpo", **command, **HERE, out=tmp_path / "2")
    agent = [sys.executable, "-m", "torch.distributed.run", *nodes, "--rdzv-id=1", ROOT / file, *rest]
    agents = [subprocess.Popen(agent, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(timeout=240) for one in agents] == [0, 0]
    run("grpo", **command, **HERE, out=tmp_path / "1")
    for a, b in zip(metrics(tmp_path / "1"), metrics(tmp_path / "2"), strict=True):
        assert [a[k] for k in ("loss", "grad_norm")] == pytest.approx([b["loss"], b["grad_norm"]], rel=1e-3)


def test_what_processes_cannot_share_is_one_line(problems, base, tmp_path):
    command = dict(model=base, problems=problems, batch=3, out=tmp_path / "a")
    written = fork_ranks(2, "grpo", **command, folder=tmp_path, rc=2)
    assert "error (process 0): --batch is 3" in written or "error (process 1): --batch is 3" in written


def test_the_vision_tower_is_saved_unchanged(shapes, tmp_path):
    play = talkative(shapes["eyes"], tmp_path)
    command = dict(model=shapes["eyes"], data=tmp_path, lr="1e-3", batch=8)
    run("sft", **command, **HERE, out=tmp_path / "1")
    fork_ranks(2, "sft", **command, out=tmp_path / "2", folder=tmp_path)
    before, *after = (
        load_file(f"{f}/model.safetensors")
        for f in (shapes["eyes"], tmp_path / "1/model", tmp_path / "2/model")
    )
    for saved in after:
        assert before.keys() == saved.keys()
        assert {name.split(".")[0] for name in before if not before[name].equal(saved[name])} == {
            "language_model"
        }
    assert max((a - b).abs().max() for a, b in zip(after[0].values(), after[1].values())) <= 1e-4
    run("evaluate", "play", model=tmp_path / "2/model", **play, losses=2, out=tmp_path / "test", **HERE)
    assert len(rows(tmp_path / "test" / "problems")) == 8


def in_two(folder, body):
    """What two processes that run this body of a main(), each in a folder of its own, write to stderr; they fail."""
    lines = [
        "import os, sys, types",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from parts import runs",
        "def main():",
    ]
    lines += [
        "    runs.start_processes('cpu')",
        "    rank = runs.rank_and_size()[0]",
        f"    os.chdir({str(folder)!r} + f'/{{rank}}')",
    ]
    (folder / "script.py").write_text("\n".join([*lines, f"    {body}", "runs.run_script(main)"]))
    for rank in "01":
        (folder / rank).mkdir()
    return fork_ranks(2, folder / "script", folder=folder, rc=2)


def test_the_failure_of_any_process_is_told(tmp_path):
    assert "error (process 1): no good" in in_two(tmp_path, "if rank: raise runs.BadInput('no good')")


def test_processes_that_do_not_share_the_run_folder_are_told(tmp_path):
    body = "runs.NFS_SECONDS = 1; runs.Run(types.SimpleNamespace(out='run'))"
    assert "do not see the same folder" in in_two(tmp_path, body)


# Runs the script in its arguments; the process of rank 1 is slow to write what it has played.
LATE = """
import os, runpy, sys, time
from parts.runs import Run

def late(self, *args, append=Run.append, **kwargs):
    time.sleep(0.1)
    append(self, *args, **kwargs)

if os.environ["RANK"] == "1":
    Run.append = late
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_processes_play_the_dialogues_that_one_plays_each_once_and_wait_for_the_slower(
    problems, base, tmp_path
):
    (tmp_path / "late.py").write_text(LATE)
    play = dict(model=base, problems=problems, samples=2, **TALK)
    qprime, evaluate = (["qprime"], {"lr": "1e-4"}), (["evaluate", "play"], {"losses": 5})
    for script, options in (qprime, evaluate):  # qprime.py plays as generate.py does
        run(*script, **play, **options, **HERE, out=tmp_path / f"{script[0]}1")
        late = [tmp_path / "late", ROOT / f"{script[0]}.py", *script[1:]]
        fork_ranks(2, *late, **play, **options, out=tmp_path / f"{script[0]}2", folder=tmp_path)
    for one, two in (("qprime1", "qprime2"), ("evaluate1/code", "evaluate2/code")):
        a, b = (sorted(rows(tmp_path / name), key=lambda row: row["id"]) for name in (one, two))
        assert len(a) == 24 and [(d["id"], d["ids"]) for d in a] == [(d["id"], d["ids"]) for d in b]
        (of_one,), (of_two,) = metrics(tmp_path / one), metrics(tmp_path / two)
        counts = of_one.keys() - {"seconds", "tokens_per_second"}
        assert {k: of_one[k] for k in counts} == pytest.approx({k: of_two[k] for k in counts}, rel=1e-4)
    assert len(rows(tmp_path / "evaluate2" / "code", "losses.jsonl")) == 5


def test_training_in_bfloat16_keeps_updates_that_bfloat16_would_round_away(problems, base, tmp_path):
    run("generate", model=base, problems=problems, samples=2, out=tmp_path / "d", **HERE, **TALK)
    for dtype in ("float32", "bfloat16"):
        command = dict(model=base, data=tmp_path / "d", lr="1e-6", out=tmp_path / dtype, dtype=dtype)
        fork_ranks(1, "sft", **command, folder=tmp_path)
    (full,), (half,) = metrics(tmp_path / "float32"), metrics(tmp_path / "bfloat16")
    assert (
        half["loss"] != full["loss"]
        and half["loss"] == pytest.approx(full["loss"], rel=0.02)
        and half["tokens"] == full["tokens"]
    )
    a, b = (
        AutoModelForCausalLM.from_pretrained(f, dtype="float32").state_dict()
        for f in (base, tmp_path / "bfloat16" / "model")
    )
    moved = torch.cat(
        [((a[k] - b[k]).abs() - 1e-6).abs().flatten() < 3e-7 for k in a if "layers" in k and a[k].ndim > 1]
    )
    assert moved.float().mean() > 0.9


def test_grpo_in_bfloat16_samples_with_a_copy_that_follows_the_trained_weights(problems, base, tmp_path):
    command = dict(model=base, problems=problems, steps=3, batch=4, group=4, lr="1e-3", dtype="bfloat16")
    fork_ranks(1, "grpo", **command, out=tmp_path / "rl", folder=tmp_path, **TALK)
    assert all(
        0 < m["gap_mean"] < 0.005 for m in metrics(tmp_path / "rl")
    )  # rounding alone: without sync the second step has 0.03


@pytest.mark.parametrize(
    ("teacher", "trains", "losses", "given", "lora", "shares", "turns"),
    [
        (None, None, False, None, None, [0.85], 4),
        ("other", None, False, None, None, [0.425, 0.425], 4),
        ("http://host/v1#name", None, False, None, None, [0.85], 4),
        (None, None, True, None, None, [0.4], 4),
        (None, "later", False, None, None, [0.4], 4),
        (None, "now", False, None, None, [0.2, 0.2], 4),
        ("http://host/v1#name", "now", False, None, None, [0.4], 4),
        (None, "now", False, 0.3, None, [0.3, 0.3], 4),
        (None, "later", False, None, 8, [0.4], 4),
        (None, "now", False, None, 8, [0.4], 4),
        ("other", "now", False, None, 8, [0.2, 0.2], 4),
        (None, "now", False, None, None, [0.4], 1),  # nobody answers, so no teacher is loaded
        ("other", None, False, None, None, [0.85], 1),
    ],
)
def test_engines_share_the_card_with_what_else_is_on_it(
    teacher, trains, losses, given, lora, shares, turns, base, monkeypatch
):
    made, chat = [], load_chat(base)

    class Engine:
        def __init__(self, path, stops, memory, sleeps, **_):
            made.append((memory, sleeps))

        def check_class(self):
            pass

        def at_temperature(self, temperature, frozen):
            return self

    monkeypatch.setattr("generate.VLLMEngine", Engine)
    monkeypatch.setattr("generate.uses_vllm", lambda *_: True)
    monkeypatch.setattr("generate.load_chat", lambda path: chat)
    args = {
        "model": base,
        "teacher": "informed",
        "teacher_model": teacher,
        "prompts": None,
        "vllm_memory": given,
        "lora": lora,
        "temperature": 1.0,
        "teacher_temperature": 1.0,
        "max_tokens": 8,
        "concurrent": 1,
    }
    args |= {
        "seed": 0,
        "turns": turns,
        "dispute": 0.0,
        "engine": "vllm",
        "device": "cuda",
        "dtype": "bfloat16",
    }
    load_cast(SimpleNamespace(**args), model=losses or None, training=trains)
    assert [memory for memory, _ in made] == pytest.approx(shares)
    sleeps = trains == "later" or trains == "now" and not lora  # an engine with an adapter stays awake
    assert [sleeping for _, sleeping in made] == [sleeps, False][
        : len(shares)
    ]  # vLLM lets one engine of a process sleep
