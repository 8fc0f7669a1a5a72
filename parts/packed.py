"""Attention for training on a GPU: rows packed into one without padding, and windows without a mask.

    if packed.fits(config, device, dtype): packed.switch_on(model)
    ids, mask, packing = packed.pack(ids, mask)
    states = model.get_decoder()(input_ids=ids, use_cache=False, **packing)

`transformers` gives layers with a sliding window a mask over all pairs of tokens, and a mask excludes flash
attention. torch's varlen_attn is flash attention that knows windows and where each row starts: it computes no
pair outside a window, and nothing for padding.
"""

import torch
import torch.nn.functional as F

# The types of text models for which tests/test_packed.py finds the same log-probs and gradients. Not among
# them: scores with a cap (Gemma 2) or sinks (gpt-oss); keys and values of different sizes (DeepSeek V3); and
# linear attention, whose state would go on from one row to the next.
TYPES = ("apertus", "cohere2", "exaone4", "gemma3_text", "glm4", "glm4_moe", "granite", "llama", "mistral")
TYPES += ("mixtral", "olmo3", "phi3", "qwen3", "qwen3_moe", "seed_oss", "smollm3")


def fits(config, device: str, dtype: str) -> bool:
    """Whether packed attention can replace that of a model with this text config, on its device and dtype."""
    if not device.startswith("cuda") or not torch.version.cuda or dtype != "bfloat16":
        return False
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kernel = torch.cuda.get_device_capability(device)[0] >= 8 and head <= 256 and head % 8 == 0
    causal = not getattr(config, "use_bidirectional_attention", False)
    return kernel and causal and config.model_type in TYPES and config._attn_implementation == "sdpa"


def attend(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, max_length_q, **kwargs):
    """The attention of a layer; query, key, value: [1, heads, L, head size]; gives [1, L, heads, head size].

    kwargs has the layer's sliding_window, if it has one: the number of tokens that a token sees, itself
    included. varlen_attn counts those before it.
    """
    from torch.nn.attention.varlen import varlen_attn

    window = (kwargs.get("sliding_window") or 0) - 1  # -1: no limit
    each = [t[0].transpose(0, 1) for t in (query, key, value)]  # [L, heads, head size]
    ends = [cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q]
    return varlen_attn(*each, *ends, scale=scaling, window_size=(window, 0), enable_gqa=True)[None], None


def switch_on(model) -> None:
    """Lets a model's decoder compute with packed attention. From then on it takes packed rows alone."""
    from transformers import AttentionInterface

    AttentionInterface.register("packed", attend)  # without a mask function, so `transformers` makes no mask
    model.get_decoder().set_attn_implementation("packed")


def pack(ids, mask):
    """(ids [1, L], mask [1, L], kwargs of the decoder) of rows; ids, mask: int64 [B, T], padded on the right.

    A row is cut behind its last masked token, as nothing else there has an effect. No row's first token is
    masked then: it would be predicted from another row.
    """
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    lengths = ((positions + 1) * (mask > 0)).amax(1).clamp(min=1)  # [B]
    kept = positions < lengths[:, None]
    packing = {
        "position_ids": positions[kept][None],
        "cu_seq_lens_q": F.pad(lengths.cumsum(0), (1, 0)).int(),  # [B + 1]: where each row starts
        "max_length_q": int(lengths.max()),
    }
    return ids[kept][None], (mask * (positions > 0))[kept][None], packing
