"""The vLLM engine against the transformers engine, on a CPU: `bash tests/vllm.sh` makes the environment that it needs."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from commands import rows, run, start, torchrun
from test_dialogues import MATH, talk
from test_lora import shake
from test_processes import talkative

from common import as_tensors, grade, masked_logprobs
from parts import sharded
from parts.chat import load_chat
from parts.driver import Speaker, drive
from parts.engines import EngineError, HFEngine, VLLMEngine, load_model

pytest.importorskip(
    "vllm",
    reason="vLLM is not installed here; bash tests/vllm.sh installs its CPU build and runs these tests",
)
PROMPTS = {"math": "{problem}", "informed": "T", "informed_math": "{turn} {knowledge}"}
OPTIONS = {"max_tokens": 10, "seed": 0, "batch": 16}


def gap(engine, model, n=8):
    """How far the sampler's log-probs of random dialogues are from the trainer's: the maximum, in nats."""
    ids = torch.randint(5, 80, (n, 30), generator=torch.Generator().manual_seed(0)).tolist()
    for i in range(n):
        engine.submit(f"{i}", f"{i}", ids[i])
    turns = []
    while engine.pending:
        turns += engine.poll()
    rows = [(torch.tensor(ids[int(key)] + turn.ids), len(turn.ids)) for key, turn in turns]
    mask = [(torch.arange(len(row)) >= len(row) - length).long() for row, length in rows]
    padded, mask = (
        torch.nn.utils.rnn.pad_sequence(x, batch_first=True) for x in ([r for r, _ in rows], mask)
    )
    with torch.no_grad():
        again = masked_logprobs(model, padded, mask)
    return (again - torch.tensor([p for _, turn in turns for p in turn.logprobs])).abs().max().item()


# The mixture first: vLLM takes experts only if the first model of the process has some.
@pytest.mark.parametrize("name", ["Qwen3Moe", "Apertus", "Granite", "FalconH1"])
def test_a_sync_brings_all_that_a_class_computes_with(name, tiny):
    model = load_model(tiny(name), "cpu")
    policy = sharded.prepare(model, masked_logprobs, "cpu", "float32")
    engine = VLLMEngine(tiny(name), [2], device="cpu", context=512, **OPTIONS)
    rounding = 5e-3 if name == "Apertus" else 1e-4  # vLLM holds constants of its activation in bfloat16
    assert gap(engine, model) <= rounding
    for _ in range(2):
        engine.sync(sharded.weights(policy))
        assert gap(engine, model) <= rounding
        with torch.no_grad():
            for p in model.parameters():
                p += 0.3 * p.std() * torch.randn_like(p) if p.ndim > 1 else 0
        assert gap(engine, model) > 10 * rounding


@pytest.fixture(scope="module", params=["llama", "gemma", "eyes", "qwen"])
def both(request, shapes, tmp_path_factory):
    """(name, model, chat, vLLM engine at temperature 0) of a shape, whose generation_config.json ends turns at any token: nobody may heed it."""
    folder = str(tmp_path_factory.mktemp("model") / request.param)
    shutil.copytree(shapes[request.param], folder)
    chat = load_chat(folder)
    ends = {"eos_token_id": list(range(len(chat.tokenizer)))}
    Path(folder, "generation_config.json").write_text(json.dumps(ends))
    engine = VLLMEngine(folder, chat.stops, temperature=0.0, device="cpu", context=1024, **OPTIONS)
    return request.param, load_model(folder, "cpu"), chat, engine


def dialogues(name, chat, student, teacher, n=4):
    prompts = {**PROMPTS, "math": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000."} if name == "llama" else PROMPTS
    talks = [(f"d{i}", talk(MATH, chat, prompts, 4, name=f"d{i}")) for i in range(n)]
    speakers = {"student": Speaker(chat, student), "teacher": Speaker(chat, teacher)}
    return sorted(drive(talks, speakers, grade), key=lambda d: d.id)


def test_greedy_dialogues_equal_those_of_the_other_engine_before_and_after_a_step(both):
    name, model, chat, engine = both
    plain = HFEngine(model, chat.stops, temperature=0.0, **OPTIONS)
    before = [d.ids for d in dialogues(name, chat, plain, plain.at_temperature(0.0))]
    assert [d.ids for d in dialogues(name, chat, engine, engine.at_temperature(0.0))] == before
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * p.std() * torch.randn_like(p) if p.ndim > 1 else 0
    engine.sync((name, p.detach()) for name, p in model.named_parameters())
    after = [d.ids for d in dialogues(name, chat, plain, plain.at_temperature(0.0))]
    assert [
        d.ids for d in dialogues(name, chat, engine, engine.at_temperature(0.0))
    ] == after and after != before


def test_logprobs_of_sampled_tokens_are_those_of_the_trainer(both):
    name, model, chat, engine = both
    student = engine.at_temperature(0.7)
    engine.sync((name, p.detach()) for name, p in model.named_parameters())
    played = dialogues(name, chat, student, engine.at_temperature(1.0))
    with torch.no_grad():
        again = masked_logprobs(model, *as_tensors(played), 0.7)
    sampled = torch.tensor([p for d in played for p in d.sampled_logprobs])
    assert (again - sampled).abs().max() <= 1e-4


def test_a_class_that_vllm_changes_is_refused_before_training(tiny):
    engine = VLLMEngine(tiny("SmolLM3"), [2], device="cpu", context=512, **OPTIONS)
    with pytest.raises(EngineError, match="so that it cannot be trained; use --engine hf"):
        engine.check_class()


def test_a_model_that_vllm_cannot_run_is_one_line(tiny):
    with pytest.raises(EngineError, match="vLLM cannot run .*'conv_dim'.*use --engine hf"):
        VLLMEngine(tiny("Lfm2"), [2], device="cpu", context=512, **OPTIONS)


def test_weights_that_vllm_refuses_are_one_line(both, monkeypatch):
    def refuse(*_, **__):  # not vLLM itself, whose engines share modules that it would leave without values
        raise KeyError("model.layers.0.nowhere.weight")

    monkeypatch.setattr(both[3].llm, "collective_rpc", refuse)
    with pytest.raises(EngineError, match="vLLM cannot load the weights of .*nowhere.*; use --engine hf"):
        both[3].sync([])


def test_second_turns_hit_the_prefix_cache(both):
    name, model, chat, engine = both
    hits, step = [], engine.llm.llm_engine.step

    def watched():
        results = step()
        hits.extend(r.num_cached_tokens for r in results if r.finished)
        return results

    ids = chat.view([{"role": "user", "content": "Compute 1h 2t 3u plus 3h 1t 1u mod 1000." * 20}])
    engine.llm.llm_engine.step = watched
    try:
        for turn in range(2):
            engine.submit((name, turn), name, ids)
            while engine.pending:
                engine.poll()
    finally:
        del engine.llm.llm_engine.step
    assert hits[0] == 0 and hits[1] >= len(ids) - 40


def test_grpo_runs_on_it_with_a_vanishing_gap(base, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text("".join(open(f"{base}/../code_train.jsonl").readlines()[:16]))
    run(
        "grpo",
        model=base,
        problems=problems,
        out=tmp_path / "rl",
        steps=3,
        batch=8,
        group=4,
        lr="1e-3",
        engine="vllm",
        prompts=f"{base}/../prompts.json",
        max_tokens=8,
        threads=1,
    )
    metrics = rows(tmp_path / "rl", "metrics.jsonl")
    assert len(metrics) == 3 and all(m["gap_max"] <= 1e-3 for m in metrics) and json.dumps(metrics)


@pytest.fixture(scope="module")
def stages(shapes, tmp_path_factory):
    """(folder, command of grpo.py): a model with eyes that has gone through sft, generate, qprime, grpo (killed and resumed) and evaluate."""
    out = tmp_path_factory.mktemp("stages")
    told = talkative(shapes["eyes"], out)
    run("sft", model=shapes["eyes"], data=out, out=out / "sft", lr="1e-2", epochs=60, batch=16, threads=1)
    play = dict(**told, engine="vllm")
    student = dict(model=out / "sft" / "model")
    run("generate", **student, out=out / "generated", **play, threads=1)
    run("qprime", **student, out=out / "primed", samples=4, lr="1e-4", **play, threads=1)
    grpo = dict(
        model=out / "primed" / "model",
        teacher_model=out / "sft" / "model",
        steps=3,
        batch=4,
        group=4,
        lr="1e-4",
        save_every=1,
        **play,
    )
    process = start("grpo", **grpo, out=out / "rl", threads=1)
    while process.poll() is None and not list(out.glob("rl/resume/1")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    run("grpo", **grpo, out=out / "rl", threads=1)
    trained = dict(model=out / "rl" / "model", teacher_model=out / "sft" / "model")
    for engine in ("vllm", "hf"):
        run("evaluate", "play", **trained, out=out / engine, losses=2, **told, engine=engine, threads=1)
    return out, grpo, play


def test_a_model_with_eyes_goes_through_all_stages(stages):
    out, _, _ = stages
    assert len(rows(out / "generated")) == 8 and len(rows(out / "primed")) == 32
    metrics = rows(out / "rl", "metrics.jsonl")
    assert (
        [m["step"] for m in metrics] == [1, 2, 3]
        and all(m["gap_max"] <= 1e-4 for m in metrics)
        and any(m["grad_norm"] for m in metrics)
    )
    for engine in ("vllm", "hf"):
        assert len(rows(out / engine / "problems", "losses.jsonl")) == 2
        assert rows(out / engine / "problems", "metrics.jsonl")[0]["solved_2"] > 0.3


def test_two_processes_with_an_engine_each_do_what_one_does(stages):
    out, grpo, play = stages
    torchrun(2, "grpo", **grpo, out=out / "rl2")
    student = dict(model=out / "sft" / "model")
    torchrun(2, "qprime", **student, out=out / "primed2", samples=4, lr="1e-4", **play)
    for name in ("rl", "primed"):
        one, two = ({d["id"]: d["ids"] for d in rows(folder)} for folder in (out / name, out / f"{name}2"))
        assert one == two
        losses = [
            [m["loss"] for m in rows(folder, "metrics.jsonl")] for folder in (out / name, out / f"{name}2")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_processes_that_have_nothing_to_play_help_to_make_the_engine(stages):
    out, _, play = stages
    (out / "few.jsonl").write_text((out / "problems.jsonl").read_text().splitlines(True)[0])
    few = {**play, "model": out / "sft" / "model", "problems": out / "few.jsonl"}
    torchrun(2, "evaluate", "play", **few, losses=1, out=out / "few")
    assert len(rows(out / "few" / "few")) == len(rows(out / "few" / "few", "losses.jsonl")) == 1


@pytest.fixture(scope="module", params=["llama", "eyes"])
def adapted(request, shapes):
    """(name, model with an adapter, chat, vLLM engine at temperature 0 that takes its adapters over) of a shape."""
    folder = shapes[request.param]
    chat = load_chat(folder)
    engine = VLLMEngine(folder, chat.stops, temperature=0.0, device="cpu", context=1024, lora=8, **OPTIONS)
    model = load_model(folder, "cpu", lora=8)
    engine.sync(adapter(model))
    return request.param, model, chat, engine


def adapter(model):
    return [(name, p.data) for name, p in model.named_parameters() if p.requires_grad]


def test_with_an_adapter_greedy_dialogues_equal_those_of_the_other_engine_before_and_after_hand_overs(
    adapted,
):
    name, model, chat, engine = adapted
    plain = HFEngine(model, chat.stops, temperature=0.0, **OPTIONS)
    teachers = [e.at_temperature(0.0, frozen=True) for e in (plain, engine)]
    said = []
    for seed in range(3):
        pair = [dialogues(name, chat, *who) for who in zip((plain, engine), teachers)]
        said.append([d.ids for d in pair[0]])
        assert [d.ids for d in pair[1]] == said[-1]
        shake(model, seed)
        engine.sync(adapter(model))
    assert said[0] != said[1] != said[2]


def test_logprobs_of_an_adapters_tokens_are_those_of_the_trainer(adapted):
    name, model, chat, engine = adapted
    shake(model)
    engine.sync(adapter(model))
    played = dialogues(name, chat, engine.at_temperature(0.7), engine.at_temperature(1.0, frozen=True))
    with torch.no_grad():
        again = masked_logprobs(model, *as_tensors(played), 0.7)
    assert (again - torch.tensor([p for d in played for p in d.sampled_logprobs])).abs().max() <= 1e-4


def test_a_hand_over_leaves_the_teacher_unchanged_to_the_bit_also_on_what_the_student_has_seen(adapted):
    name, model, chat, engine = adapted
    ids = chat.view([{"role": "user", "content": "Compute 1h 2t 3u. " * 20}])  # blocks of the prefix cache
    student, teacher, said = engine.at_temperature(1.0), engine.at_temperature(1.0, frozen=True), []
    for seed in (1, 2):
        for speaker in (student, teacher):
            speaker.submit("same", name, ids)
            said.append([])
            while speaker.pending:
                said[-1] += speaker.poll()
        shake(model, seed)
        engine.sync(adapter(model))
    assert said[1] == said[3] and said[0] != said[1] and said[0] != said[2]


def test_grpo_with_an_adapter_does_the_same_in_two_processes_and_after_a_kill(stages):
    out, _, play = stages
    command = dict(
        model=out / "sft" / "model", steps=3, batch=4, group=4, lr="1e-3", save_every=1, lora=8, **play
    )
    run("grpo", **command, out=out / "lora", threads=1)
    process = start("grpo", **command, out=out / "lora2", threads=1)
    while process.poll() is None and not list(out.glob("lora2/resume/1")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    torchrun(2, "grpo", **command, out=out / "lora2")
    one, two = (rows(out / name, "metrics.jsonl") for name in ("lora", "lora2"))
    assert all(m["gap_max"] <= 1e-4 for m in one + two) and any(m["grad_norm"] for m in one)
    assert [m["loss"] for m in one] == pytest.approx([m["loss"] for m in two], rel=1e-3)
    one, two = ({d["id"]: d["ids"] for d in rows(out / name)} for name in ("lora", "lora2"))
    assert one == two
    run("evaluate", "play", model=out / "lora" / "model", out=out / "merged", losses=2, **play, threads=1)
    assert len(rows(out / "merged" / "problems", "losses.jsonl")) == 2
