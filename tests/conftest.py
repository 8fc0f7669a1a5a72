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
