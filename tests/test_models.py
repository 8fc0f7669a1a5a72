"""Classes of models that differ from Llama's: tiny random models of the real classes, with their features switched on."""

from types import SimpleNamespace

import pytest
import torch
from commands import fork_ranks, rows, run
from conftest import CLASSES, ROOT
from peft import PeftModel
from safetensors.torch import load_file
from test_lora import shake
from transformers import AutoConfig, AutoModelForCausalLM

from common import masked_logprobs
from parts import sharded
from parts.chat import load_chat
from parts.engines import (
    EngineError,
    HFEngine,
    PlainEngine,
    as_in_checkpoint,
    load_model,
    transformers_engine,
)


def random_ids(rows=3, length=40):
    return torch.randint(5, 80, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["Granite", "MiniCPM3", "Cohere2", "FalconH1", "Gemma2", "Gemma4Text", "Qwen3_5"]
)
def test_logprobs_are_those_of_the_models_own_logits(name, tiny):
    model, ids = load_model(tiny(name), "cpu"), random_ids()
    with torch.no_grad():
        ours = masked_logprobs(model, ids, torch.ones_like(ids))
        logits = model(input_ids=ids).logits[:, :-1]
    own = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).flatten()
    assert logits.std() > 0.1 and (ours - own).abs().max() <= 2e-5


@pytest.mark.parametrize("name", ["HyperCLOVAX", "Llama4Text"])
def test_a_class_with_logits_of_its_own_kind_is_one_line(name, tiny):
    with pytest.raises(EngineError, match=f"log-probs of its class, {name.removesuffix('Text')}ForCausalLM"):
        load_model(tiny(name), "cpu")


def saved_again(folder, tmp_path, model=None):
    """The folder of a model that was loaded for training and saved."""
    model = model or sharded.load_trained(folder)
    policy = sharded.prepare(model, masked_logprobs, "cpu", "float32")
    sharded.save_model(
        SimpleNamespace(path=tmp_path, writes=True, say=print), policy, load_chat(folder).tokenizer
    )
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["Qwen3_5", "Apertus", "Mixtral", "Qwen3VL", "Gemma4"])
def test_a_saved_model_has_the_class_and_all_tensors_of_the_one_that_was_loaded(name, tiny, tmp_path):
    before, after = (
        load_file(f"{f}/model.safetensors") for f in (tiny(name), saved_again(tiny(name), tmp_path))
    )
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    classes = [AutoConfig.from_pretrained(f).architectures for f in (tiny(name), tmp_path / "model")]
    assert classes[0] == classes[1]


@pytest.mark.parametrize("name", ["Mixtral", "DeepseekV3", "GraniteMoeHybrid", "Qwen3_5", "Ernie4_5_Moe"])
def test_vllm_gets_weights_by_the_names_of_the_checkpoint(name, tiny):
    policy = sharded.prepare(sharded.load_trained(tiny(name)), masked_logprobs, "cpu", "float32")
    sent = dict(as_in_checkpoint(load_model(tiny(name), "meta"), sharded.weights(policy)))
    saved = {n: t for n, t in load_file(f"{tiny(name)}/model.safetensors").items() if "visual" not in n}
    assert sent.keys() == saved.keys() and all(sent[name].equal(saved[name]) for name in saved)


@pytest.mark.parametrize("name", ["GPT2", "Ernie4_5_Moe"])
def test_two_processes_train_and_save_what_one_does(name, tiny, problems, tmp_path):
    prompts = ROOT / "toy" / "prompts.json"
    command = dict(
        model=tiny(name), data=problems, prompts=prompts, lr="1e-3", batch=4, threads=1, device="cpu"
    )
    run("sft", **command, out=tmp_path / "1")
    fork_ranks(2, "sft", **command, out=tmp_path / "2", folder=tmp_path)
    one, two = ([row["loss"] for row in rows(tmp_path / out, "metrics.jsonl")] for out in "12")
    assert one == pytest.approx(two, rel=1e-3) and len(one) == 3
    one, two = (load_file(tmp_path / out / "model" / "model.safetensors") for out in "12")
    assert one.keys() == two.keys() == load_file(f"{tiny(name)}/model.safetensors").keys()
    assert all((one[name] - two[name]).abs().max() <= 0.01 for name in one)  # Adam: 1e-3 a step, each way


@pytest.mark.parametrize("name", ["FalconH1", "NemotronH", "GraniteMoeHybrid"])
def test_a_mamba_layer_has_an_adapter_on_in_proj_alone(name, tiny):
    layers = [m for m in load_model(tiny(name), "cpu", lora=4).modules() if hasattr(m, "A_log")]
    adapted = [{n.split(".")[0] for n, _ in layer.named_parameters() if "lora" in n} for layer in layers]
    assert adapted and all(names == {"in_proj"} for names in adapted)


@pytest.mark.parametrize("name", ["Qwen3Moe", "DeepseekV3", "GraniteMoeHybrid", "FalconH1", "Phimoe"])
def test_an_adapter_of_part_of_the_layers_is_merged_and_loaded_again(name, tiny, tmp_path):
    model, ids = sharded.load_trained(tiny(name), lora=4), random_ids()
    shake(model)
    saved_again(tiny(name), tmp_path, model)
    adapted = PeftModel.from_pretrained(load_model(tiny(name), "cpu"), tmp_path / "adapter")
    with torch.no_grad():
        ours, merged, peft, base = (
            m.eval()(input_ids=ids).logits
            for m in (model, load_model(tmp_path / "model", "cpu"), adapted, load_model(tiny(name), "cpu"))
        )
    assert (ours - merged).abs().max() <= 1e-3 and (ours - peft).abs().max() <= 1e-4
    assert (ours - base).abs().max() > 0.1


def test_a_model_without_linear_layers_gets_no_adapter_but_one_line(tiny):
    reason = r"cannot have a LoRA adapter \(its decoder has no torch.nn.Linear\)"
    with pytest.raises(EngineError, match=f"GPT20: {reason}; leave out --lora"):
        load_model(tiny("GPT2"), "cpu", lora=4)


@pytest.mark.parametrize("name", ["SeedOss", "Phimoe", "Mixtral", "GPT2"])
def test_training_adds_no_dropout_or_jitter(name, tiny):
    policy = sharded.prepare(sharded.load_trained(tiny(name)), masked_logprobs, "cpu", "float32")
    ids = random_ids()
    with torch.no_grad():
        trained, sampled = (p(ids, torch.ones_like(ids)) for p in (policy.train(), policy.eval()))
    assert sampled.equal(trained)


# A cap on the scores of attention, and a router whose config calls a threshold jitter
@pytest.mark.parametrize("name, attention", [("Gemma2", "eager"), ("Phimoe", "sdpa")])
def test_a_loaded_model_computes_what_its_class_does(name, attention, tiny):
    wanted = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation=attention)
    ours, wanted = (m(input_ids=random_ids()).logits for m in (load_model(tiny(name), "cpu"), wanted))
    assert ours.equal(wanted)


def test_a_run_is_resumed_although_a_weight_has_never_had_a_gradient(tiny, tmp_path):
    def trainer():
        policy = sharded.prepare(
            sharded.load_trained(tiny("Gemma3nText"), 4), masked_logprobs, "cpu", "float32"
        )
        return policy, sharded.adamw(policy, 1e-2, (0.9, 0.95), 0.0)

    (policy, optimizer), (resumed, other), ids = trainer(), trainer(), random_ids()
    run = SimpleNamespace(path=tmp_path, writes=True)
    for step in (1, 2):
        (-policy(ids, torch.ones_like(ids)).mean()).backward()
        sharded.clip_gradient(policy, 1.0)
        optimizer.step()
        sharded.save_state(run, policy, optimizer, step)
    assert sharded.load_state(run, resumed, other) == 2
    assert all(p.equal(q) for p, q in zip(policy.parameters(), resumed.parameters()))


# The classes of random models, and the engine that samples from them
ENGINES = {
    HFEngine: "Afmoe Apertus Cohere2 Ernie4_5_Moe Exaone4 GPTNeoX Gemma2 Gemma3nText Glm4 Glm4Moe Glm4v GptOss Granite HunYuanDenseV1 InternVL Ministral3 Mixtral Olmo2 Olmo3 Phi Phi3 Phimoe Qwen2_5_VL Qwen3Moe Qwen3VL SeedOss SmolLM3 StableLm",
    PlainEngine: "Bamba DeepseekV3 FalconH1 GPT2 Gemma4 Gemma4Text GraniteMoeHybrid KimiLinear Lfm2 Lfm2Moe MiniCPM3 NemotronH Qwen3Next Qwen3_5",
    None: "HyperCLOVAX Llama4Text Mamba MiniMax",
}


def turns(engine, rows):
    """{number: Turn} that an engine samples for conversations of different lengths."""
    for i in rows:
        engine.submit(i, f"{i}", random_ids()[i, 7 * i :].tolist())
    done = {}
    while engine.pending:
        done |= dict(engine.poll())
    return done


@pytest.mark.parametrize("kind, name", [(k, n) for k in ENGINES if k for n in ENGINES[k].split()])
def test_logprobs_of_the_sampler_are_those_of_the_trainer(kind, name, tiny):
    model = load_model(tiny(name), "cpu")
    engine = transformers_engine(model, list(range(5, 20)), max_tokens=20, seed=1)
    assert type(engine) is kind
    together = turns(engine, range(3))
    for i, turn in together.items():
        ids = torch.tensor([random_ids()[i, 7 * i :].tolist() + turn.ids])
        mask = (torch.arange(ids.shape[1]) >= ids.shape[1] - len(turn.ids)).long()[None]
        with torch.no_grad():
            again = masked_logprobs(model, ids, mask)
        assert (again - torch.tensor(turn.logprobs)).abs().max() <= 1e-4
        assert turns(engine, [i])[i].ids == turn.ids
    assert len({len(turn.ids) for turn in together.values()}) > 1


def test_the_plain_engine_says_what_the_other_says(base):
    model = load_model(base, "cpu")
    engines = [kind(model, [2], max_tokens=10, temperature=0.7) for kind in (HFEngine, PlainEngine)]
    one, other = ({i: turn.ids for i, turn in turns(engine, range(3)).items()} for engine in engines)
    assert one == other


@pytest.mark.parametrize("name", ["Mamba", "MiniMax"])
def test_a_cache_of_its_own_kind_is_one_line(name, tiny):
    with pytest.raises(EngineError, match=f"no transformers engine fits {name}ForCausalLM"):
        transformers_engine(load_model(tiny(name), "cpu"), [2])


def test_the_readme_lists_the_classes_that_were_tried():
    assert set(" ".join(ENGINES.values()).split()) == set(CLASSES)
    readme = (ROOT / "parts" / "README.md").read_text()
    for kind, names in ENGINES.items():
        assert f"| {kind.__name__ if kind else 'refused'} | {', '.join(names.split())} |" in readme
