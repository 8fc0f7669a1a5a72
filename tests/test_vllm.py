"""The vLLM engine against the transformers engine, on a CPU: `bash tests/vllm.sh` makes the environment that it needs."""

import json

import pytest
import torch
from test_dialogues import MATH, talk
from test_scripts import rows, run

from common import as_tensors, grade, load_chat, masked_logprobs
from parts.driver import Speaker, drive
from parts.engines import HFEngine, VLLMEngine, load_model

pytest.importorskip(
    "vllm",
    reason="vLLM is not installed here; bash tests/vllm.sh installs its CPU build and runs these tests",
)
PROMPTS = {"math": "{problem}", "informed": "T", "informed_math": "{turn} {knowledge}"}
OPTIONS = {"max_tokens": 10, "seed": 0, "batch": 16}


@pytest.fixture(scope="module", params=["llama", "gemma", "qwen"])
def both(request, shapes):
    """(name, model, chat, vLLM engine at temperature 0) of a shape."""
    folder = shapes[request.param]
    chat = load_chat(folder)
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
    run("grpo", "--model", base, "--problems", problems, "--out", tmp_path / "rl", "--steps", 3, "--batch", 8, "--group", 4, "--lr", "1e-3", "--engine", "vllm",
        "--prompts", f"{base}/../prompts.json", "--max-tokens", 8, "--threads", 1)  # fmt: skip
    metrics = rows(tmp_path / "rl", "metrics.jsonl")
    assert len(metrics) == 3 and all(m["gap_max"] <= 1e-3 for m in metrics) and json.dumps(metrics)
