"""Classes of models that differ from Llama's: tiny random models of the real classes, with their features switched on."""

import pytest
import torch
import transformers
from conftest import SIZES

from common import masked_logprobs
from parts.engines import EngineError, load_model

VOCABULARY = 96
# Class → its config's settings, beside SIZES
CLASSES = {
    "Granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.3},
    "MiniCPM3": {
        "dim_model_base": 8,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
    },
    "Cohere2": {"logit_scale": 0.25, "sliding_window": 8},
    "FalconH1": {
        "lm_head_multiplier": 0.1,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
    "Gemma2": {"final_logit_softcapping": 20.0, "attn_logit_softcapping": 5.0, "sliding_window": 8},
    "HyperCLOVAX": {"logits_scaling": 0.5},
    "Llama4Text": {"interleave_moe_layer_step": 2, "num_local_experts": 2, "intermediate_size_mlp": 48},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function class name → folder of its tiny model. Its weights are sharpened, so that a wrong mask or factor shows."""
    folders = {}

    def make(name):
        if name not in folders:
            config = getattr(transformers, f"{name}Config")(
                vocab_size=VOCABULARY,
                **{**SIZES, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **CLASSES[name]},
            )
            torch.manual_seed(0)
            model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
            for p in model.parameters():
                p.data.mul_(10 if p.ndim > 1 else 1)
            folders[name] = str(tmp_path_factory.mktemp(name))
            model.save_pretrained(folders[name])
        return folders[name]

    return make


def random_ids(rows=3, length=40):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["Granite", "MiniCPM3", "Cohere2", "FalconH1", "Gemma2"])
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
