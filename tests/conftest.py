"""Small models for the tests: the toy base, and random ones of the shapes and with templates of the form of Gemma 3 and Qwen 3.

The process that hands the tests out to others reads this file too, and needs no model. So libraries that
take seconds to import are imported where they are used.
"""

import os
import string
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # no test may need the network

import pytest

SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=4096,
)

TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
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
    "Apertus": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "SmolLM3": {},
    "Olmo3": {"sliding_window": 8, "layer_types": LAYERS},
    "Phi3": {},
    "Glm4": {},
    "Glm4Moe": {**EXPERTS},
    "Exaone4": {"sliding_window": 8, "layer_types": LAYERS},
    "GptOss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": LAYERS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "NemotronH": {
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "KimiLinear": {
        "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "linear_head_dim": 16,
        "linear_num_heads": 2,
    },
    "Qwen3Next": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "MiniMax": {
        "num_local_experts": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "block_size": 8,
    },
    "Mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.1},
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_only_layers": [0],
    },
    "DeepseekV3": {
        "topk_method": "noaux_tc",  # vLLM looks for it
        **EXPERTS,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "head_dim": 16,
        "v_head_dim": 32,
    },
    "GraniteMoeHybrid": {
        "logits_scaling": 4.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
    "Qwen3_5": {  # linear attention, and a vision tower in every checkpoint
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "vision_config": VISION,
    },
    "Mamba": {"state_size": 8},
    "SeedOss": {"attention_dropout": 0.1, "residual_dropout": 0.1},
    "Phimoe": {"num_local_experts": 4, "router_jitter_noise": 0.1, "input_jitter_noise": 0.1},
    "Gemma3nText": {
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 1,
        "laurel_rank": 8,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": [0.0, 0.0, 0.0],
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "Gemma4Text": {  # as the 26B: global layers have other keys than local ones, and experts
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "global_head_dim": 64,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "final_logit_softcapping": 20.0,
        "sliding_window": 8,
        "layer_types": LAYERS,
    },
    "Ministral3": {  # scales queries by their positions
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 16.0,
            "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "Qwen3VL": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "vision_config": {**VISION, "deepstack_visual_indexes": [0]},
    },
    "Gemma4": {  # as the E2B: embeddings in each layer, and layers that share keys
        "num_hidden_layers": 4,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "global_head_dim": 64,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "position_embedding_size": 64,
        },
    },
    "Olmo2": {},
    "Lfm2Moe": {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "Ernie4_5_Moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    "Phi": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "head_dim": 8},
    "StableLm": {"use_parallel_residual": True, "qk_layernorm": True, "hidden_dropout": 0.1, "head_dim": 8},
    "GPT2": {},
    "Qwen2_5_VL": {
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "vision_config": {**VISION, "fullatt_block_indexes": [0]},
    },
    "Glm4v": {
        "num_attention_heads": 2,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 2],
        },
        "vision_config": VISION,
    },
    "InternVL": {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
        }
    },
    "HunYuanDenseV1": {},
    "GPTNeoX": {"head_dim": 8, "num_key_value_heads": 4, "hidden_dropout": 0.1},
    "Afmoe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mup_enabled": True,
        "route_scale": 2.0,
        "sliding_window": 8,
        "layer_types": LAYERS,
    },
    "Bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 8,
    },
    "HyperCLOVAX": {"logits_scaling": 0.5},
    "Llama4Text": {"interleave_moe_layer_step": 2, "num_local_experts": 2, "intermediate_size_mlp": 48},
}

# Alternating roles are insisted on, a system message is put into the first user turn, the assistant is called model.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Reasoning is taken out of earlier assistant turns; without thinking, the new turn starts behind an empty block of it.
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
OPENED = QWEN.replace("<think>\n\n</think>\n\n", "<think>\n")  # a turn begins in the midst of reasoning


def characters(special, template, bos, eos):
    """A tokenizer of single characters with the given special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate([*special, "<unk>", *string.printable])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def cast_of(chat, prompts):
    """A Cast of one chat template, without engines: what the coroutine of a dialogue needs."""
    from generate import Cast
    from parts.driver import Speaker

    speaker = Speaker(chat, None)
    return Cast(speaker, speaker, speaker, prompts)


@pytest.fixture(scope="session")
def base():
    """Folder of the toy base model."""
    return str(ROOT / "toy" / "base")


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    """File of 12 problems that leave one answer."""
    path = tmp_path_factory.mktemp("problems") / "code.jsonl"
    certain = [line for line in open(ROOT / "toy" / "code_train.jsonl") if "?" not in line]
    path.write_text("".join(certain[:12]))
    return path


@pytest.fixture(scope="session")
def shapes(base, tmp_path_factory):
    """{name: model folder}: the toy base (Llama), random models of the shapes of Gemma 3 (local and global attention, soft-capping), alone
    and with eyes, as it comes from 4B upwards, of Mistral 3 (local attention alone), which transformers has with eyes alone, and of Qwen 3."""
    import torch
    from transformers import (
        Gemma3Config,
        Gemma3ForCausalLM,
        Gemma3ForConditionalGeneration,
        Gemma3TextConfig,
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    folders = {"llama": base}
    gemma = characters(
        ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], GEMMA, "<bos>", "<eos>"
    )
    qwen = characters(
        ["<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"], QWEN, None, "<|im_end|>"
    )
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    text = Gemma3TextConfig(
        vocab_size=len(gemma),
        sliding_window=16,
        layer_types=layers,
        query_pre_attn_scalar=32,
        final_logit_softcapping=20.0,
        bos_token_id=1,
        eos_token_id=[2, 4],
        pad_token_id=0,
        **SIZES,
    )
    eyes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    uncapped = {
        **text.to_dict(),
        "final_logit_softcapping": None,
    }  # as the real ones; transformers' class with eyes does not cap at all
    both = {
        "text_config": uncapped,
        "vision_config": eyes,
        "mm_tokens_per_image": 4,
        "image_token_index": len(gemma) - 1,
    }
    mistral = MistralConfig(
        vocab_size=len(gemma), sliding_window=16, bos_token_id=1, eos_token_id=[2, 4], pad_token_id=0, **SIZES
    ).to_dict()
    made = {
        "gemma": (Gemma3ForCausalLM(text), gemma),
        "eyes": (Gemma3ForConditionalGeneration(Gemma3Config(**both, tie_word_embeddings=True)), gemma),
        "mistral": (
            Mistral3ForConditionalGeneration(
                Mistral3Config(
                    text_config=mistral,
                    vision_config={**eyes, "model_type": "pixtral", "head_dim": 16},
                    image_token_index=len(gemma) - 1,
                )
            ),
            gemma,
        ),
        "qwen": (
            Qwen3ForCausalLM(
                Qwen3Config(vocab_size=len(qwen), bos_token_id=None, eos_token_id=2, pad_token_id=0, **SIZES)
            ),
            qwen,
        ),
    }
    for name, (model, tokenizer) in made.items():
        folder = tmp_path_factory.mktemp(name)
        for p in model.parameters():  # sharper than fresh weights, so that a wrong mask or position shows
            p.data.mul_(3 if p.ndim > 1 else 1)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function class name → folder of its tiny random model, sharp enough that a wrong mask or factor shows."""
    import torch
    import transformers

    special = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer, folders = characters(special, GEMMA, "<bos>", "<eos>"), {}

    def make(name):
        if name not in folders:
            auto = transformers.AutoModelForCausalLM
            text = {"vocab_size": len(tokenizer), **SIZES, **TOKENS, **CLASSES[name]}
            if vision := text.pop("vision_config", None):
                auto = transformers.AutoModelForImageTextToText
                text = {"text_config": text, "vision_config": vision}
            config = getattr(transformers, f"{name}Config")(**text)
            torch.manual_seed(0)
            model = auto.from_config(config)
            sharp = (
                5 if name in ("KimiLinear", "NemotronH") else 10
            )  # at 10 their recurrence inflates rounding
            for p in model.parameters():
                p.data.mul_(sharp if p.ndim > 1 else 1)
            for name_of, tensor in model.state_dict().items():
                if name_of.endswith(("correction_bias", "expert_bias", "router.gate.weight")):
                    tensor.normal_()  # of a router; they start at 0
            folders[name] = str(tmp_path_factory.mktemp(name))
            model.save_pretrained(folders[name])
            tokenizer.save_pretrained(folders[name])
        return folders[name]

    return make


@pytest.fixture(scope="session", params=["llama", "gemma", "eyes", "mistral", "qwen"])
def shape(request, shapes):
    """(name, model, chat) of each shape."""
    from parts.chat import load_chat
    from parts.engines import load_model

    return request.param, load_model(shapes[request.param], "cpu"), load_chat(shapes[request.param])


@pytest.fixture(scope="session")
def toy(base):
    """(model, chat, prompts, {domain: problems}) of the toy world."""
    from common import load_problems
    from generate import load_prompts
    from parts.chat import load_chat
    from parts.engines import load_model

    return (
        load_model(base, "cpu"),
        load_chat(base),
        load_prompts(ROOT / "toy" / "prompts.json"),
        {d: load_problems(ROOT / "toy" / f"{d}_test.jsonl") for d in ("math", "code")},
    )


@pytest.fixture
def speakers():
    """A function (model, chat, options…) → speakers of all three roles."""
    from parts.driver import Speaker
    from parts.engines import HFEngine

    def make(model, chat, **options):
        options = {"max_tokens": 8, "temperature": 1.0, **options}
        teacher = Speaker(chat, HFEngine(model, chat.stops, **options))
        return {
            "student": Speaker(chat, HFEngine(model, chat.stops, **options)),
            "teacher": teacher,
            "asker": teacher,
        }

    return make
