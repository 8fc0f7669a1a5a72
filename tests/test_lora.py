"""LoRA: the student is the frozen model with an adapter, the teacher the same model without it."""

import importlib

import pytest
import torch
from commands import fork, fork_ranks, kill_when, rows, run
from peft import PeftModel
from safetensors.torch import load_file
from test_dialogues import MATH, talk
from test_scripts import TALK
from transformers import AutoModelForCausalLM

from common import as_tensors, grade, masked_logprobs
from parts import sharded
from parts.chat import load_chat
from parts.driver import Speaker, drive
from parts.engines import HFEngine, load_model

PROMPTS = {"math": "{problem}", "informed": "T", "informed_math": "{turn} {knowledge}"}
OPTIONS = {"max_tokens": 10, "seed": 0, "batch": 16}
FEW = dict(**TALK, lora=8, steps=3, batch=4, group=4, lr="1e-3", save_every=1, device="cpu")


def shake(model, seed=0):
    """Gives an adapter an effect, as training does: B of that seed."""
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.2)


def dialogues(chat, student, teacher, n=4):
    talks = [(f"d{i}", talk(MATH, chat, PROMPTS, 4, name=f"d{i}")) for i in range(n)]
    speakers = {"student": Speaker(chat, student), "teacher": Speaker(chat, teacher)}
    return sorted(drive(talks, speakers, grade), key=lambda d: d.id)


@pytest.fixture(scope="module", params=["llama", "gemma", "eyes", "mistral", "qwen"])
def adapted(request, shapes):
    """(folder, model with an adapter that has an effect, chat) of a shape."""
    folder = shapes[request.param]
    model = sharded.load_trained(folder, 8)
    shake(model)
    return folder, model, load_chat(folder)


def test_the_teacher_speaks_as_the_model_without_an_adapter_to_the_bit(adapted):
    folder, model, chat = adapted
    student = HFEngine(model, chat.stops, **OPTIONS)
    alone = HFEngine(load_model(folder, "cpu"), chat.stops, **OPTIONS)
    said = []
    for engine in (student.at_temperature(1.0, frozen=True), alone, student):
        for i in range(4):
            engine.submit(i, str(i), chat.view([{"role": "user", "content": f"{i}?"}]))
        said.append([])
        while engine.pending:
            said[-1] += engine.poll()
    assert said[0] == said[1] != said[2]


def test_logprobs_of_a_student_with_an_adapter_are_those_of_the_trainer(adapted):
    _, model, chat = adapted
    student = HFEngine(model, chat.stops, **OPTIONS)
    played = dialogues(chat, student, student.at_temperature(1.0, frozen=True))
    with torch.no_grad():
        again = masked_logprobs(model, *as_tensors(played))
    assert (again - torch.tensor([p for d in played for p in d.sampled_logprobs])).abs().max() <= 1e-4


def test_all_linear_layers_of_the_decoder_and_nothing_else_are_trained(adapted):
    _, model, _ = adapted
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    layers = model.config.get_text_config().num_hidden_layers
    assert len(trained) == 2 * 7 * layers and all("lora" in name for name in trained)
    assert not any("vision" in name or "lm_head" in name for name in trained)


def test_an_adapter_is_begun_by_the_seed_and_leaves_the_model_as_it_was(base):
    one, same, other = (dict(sharded.load_trained(base, 8, seed=s).named_parameters()) for s in (0, 0, 1))
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    assert one[name].equal(same[name]) and not one[name].equal(other[name])
    assert not any(p.any() for n, p in one.items() if "lora_B" in n)


def test_only_the_adapter_is_held_in_float32(base):
    model = sharded.load_trained(base, 8, "bfloat16")
    kinds = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_the_merged_model_is_an_ordinary_folder_with_the_logits_of_the_adapter(adapted, tmp_path):
    folder, model, chat = adapted
    policy = sharded.prepare(model, masked_logprobs, "cpu", "float32")

    class Run:
        path, writes, say = tmp_path, True, print

    sharded.save_model(Run, policy, chat.tokenizer)
    merged, before = (load_file(f"{f}/model.safetensors") for f in (tmp_path / "model", folder))
    assert merged.keys() == before.keys() and not (tmp_path / "model" / "adapter_config.json").exists()
    ids = torch.tensor([chat.view([{"role": "user", "content": "1 + 1?"}])])
    peft = PeftModel.from_pretrained(load_model(folder, "cpu"), tmp_path / "adapter")
    with torch.no_grad():
        ours, theirs, alone, base = (
            m.eval()(input_ids=ids).logits
            for m in (model, peft, load_model(tmp_path / "model", "cpu"), load_model(folder, "cpu"))
        )
    assert (ours - theirs).abs().max() <= 1e-4 and (ours - alone).abs().max() <= 1e-3
    assert (ours - base).abs().max() > 1e-1


def alike(one, two):
    for a, b in zip(rows(one, "metrics.jsonl"), rows(two, "metrics.jsonl"), strict=True):
        for key in ("loss", "grad_norm", "reward", "tokens"):
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), key
    a, b = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two))
    far = torch.cat([(a[name] - b[name]).abs().flatten() > 1e-4 for name in a])
    assert a.keys() == b.keys() and far.float().mean() < 0.01  # Adam blows up the rounding of a few


def test_grpo_killed_in_one_process_and_resumed_in_two_equals_grpo_in_one(problems, base, tmp_path):
    command = {**FEW, "model": base, "problems": problems, "beta": 0.1}
    run("grpo", **command, out=tmp_path / "1")
    kill_when(fork("grpo", **command, out=tmp_path / "2"), (tmp_path / "2" / "resume" / "1").exists)
    assert not (tmp_path / "2" / "model").exists()
    fork_ranks(2, "grpo", **command, out=tmp_path / "2", folder=tmp_path)
    alike(tmp_path / "1", tmp_path / "2")


def test_the_reference_of_the_kl_term_is_the_model_without_the_adapter(problems, base, tmp_path):
    for beta in (0, 1):
        options = {**FEW, "steps": 2, "lr": "1e-2", "beta": beta}
        run("grpo", **options, model=base, problems=problems, out=tmp_path / f"{beta}")
    plain, with_kl = ([m["loss"] for m in rows(tmp_path / b, "metrics.jsonl")] for b in "01")
    assert with_kl[0] == pytest.approx(plain[0], abs=1e-6)  # nothing is learned yet
    assert with_kl[1] > plain[1] + 1e-4


def test_a_run_in_bfloat16_samples_from_what_it_trains(problems, base, tmp_path):
    command = dict(FEW, lr="1e-2", model=base, problems=problems, dtype="bfloat16", out=tmp_path / "rl")
    fork_ranks(1, "grpo", **command, folder=tmp_path)  # FSDP starts a process group, which would stay here
    gaps = [m["gap_mean"] for m in rows(tmp_path / "rl", "metrics.jsonl")]
    assert len(gaps) == 3 and all(0 < gap < 0.005 for gap in gaps)  # without sync the second step has more


def test_the_saved_state_holds_the_adapter_alone(problems, base, tmp_path):
    for name, more in (("lora", {}), ("all", {"lora": None})):
        options = {key: value for key, value in {**FEW, **more, "steps": 1}.items() if value}
        run("grpo", **options, model=base, problems=problems, out=tmp_path / name)
    size = {n: sum(f.stat().st_size for f in tmp_path.glob(f"{n}/resume/*/*")) for n in ("lora", "all")}
    assert size["lora"] < size["all"] / 4


def test_a_resume_with_another_rank_is_one_line(problems, base, tmp_path, capsys):
    run("grpo", **{**FEW, "steps": 1}, model=base, problems=problems, out=tmp_path / "rl")
    with pytest.raises(SystemExit) as stop:
        run("grpo", **{**FEW, "steps": 1, "lora": 16}, model=base, problems=problems, out=tmp_path / "rl")
    assert stop.value.code == 2 and "whose lora is 8, but this command has 16" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "lr"), [("grpo", 1e-6), ("sft", 1e-5), ("qprime", 1e-5)])
def test_the_default_learning_rate_is_ten_times_that_without(script, lr, base, monkeypatch):
    class Settled(Exception):
        pass

    found = []

    def stop(args):
        found.append(args.lr)
        raise Settled

    monkeypatch.setattr("parts.runs.Run", stop)
    module = importlib.import_module(script)
    monkeypatch.setattr(module, "load_problems", lambda *_: [], raising=False)
    for lora in ({}, {"lora": 8}):
        given = {"data": "d"} if script == "sft" else {"problems": "p"}
        with pytest.raises(Settled):
            run(script, model=base, out="o", **given, **lora)
    assert found == pytest.approx([lr, 10 * lr])


def test_sft_with_an_adapter_learns_what_it_is_shown(problems, base, tmp_path):
    run("generate", model=base, problems=problems, out=tmp_path / "d", **TALK)
    run("sft", model=base, data=tmp_path / "d", lora=8, lr="1e-2", epochs=8, threads=1, out=tmp_path / "sft")
    losses = [m["loss"] for m in rows(tmp_path / "sft", "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]
    AutoModelForCausalLM.from_pretrained(tmp_path / "sft" / "model")
