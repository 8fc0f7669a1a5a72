"""Attention for training on a GPU: packs rows into one without padding; sliding windows need no mask.

    if packed.fits(config, device, dtype): packed.switch_on(model)
    ids, mask, packing = packed.pack(ids, mask)
    states = model.get_decoder()(input_ids=ids, use_cache=False, **packing)

`transformers` gives layers with a sliding window a mask over all pairs of tokens. With a mask, torch cannot
use flash attention. torch's varlen_attn is flash attention that knows windows and where each row starts: it
computes no pair outside a window, and nothing for padding.
"""

import torch
import torch.nn.functional as F

# The types of text models for which tests/test_packed.py finds the log-probs and gradients of padded rows.
# Left out are models with capped attention scores (Gemma 2) or sinks (gpt-oss), with keys and values of
# different sizes (DeepSeek V3), and with linear attention, whose state would leak from one row into the next.
TYPES = ("apertus", "cohere2", "exaone4", "gemma3_text", "glm4", "glm4_moe", "granite", "llama", "mistral")
TYPES += ("mixtral", "olmo3", "phi3", "qwen3", "qwen3_moe", "seed_oss", "smollm3")


def fits(config, device: str, dtype: str) -> bool:
    """Whether a model with this text config can use packed attention on this device, in this dtype."""
    if not device.startswith("cuda") or not torch.version.cuda or dtype != "bfloat16":
        return False
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kernel = torch.cuda.get_device_capability(device)[0] >= 8 and head_size <= 256 and head_size % 8 == 0
    causal = not getattr(config, "use_bidirectional_attention", False)
    return kernel and causal and config.model_type in TYPES and config._attn_implementation == "sdpa"


def attend(module, query, key, value, attention_mask, scaling, cu_seq_lens_q, max_length_q, **kwargs):
    """One layer's attention. query, key, value: [1, heads, L, head size]; output: [1, L, heads, head size].

    kwargs["sliding_window"], if the layer has one, is how many tokens a token sees, itself included.
    varlen_attn counts only the tokens before it, hence the - 1.
    """
    from torch.nn.attention.varlen import varlen_attn

    window = (kwargs.get("sliding_window") or 0) - 1  # -1: no limit
    query, key, value = (t[0].transpose(0, 1) for t in (query, key, value))  # [L, heads, head size]
    rows = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)  # for queries and keys alike
    output = varlen_attn(query, key, value, *rows, scale=scaling, window_size=(window, 0), enable_gqa=True)
    return output[None], None  # None: no attention weights


def switch_on(model) -> None:
    """Switches a model's decoder to packed attention. From then on it accepts only packed rows."""
    from transformers import AttentionInterface

    AttentionInterface.register("packed", attend)  # without a mask function, so `transformers` makes no mask
    model.get_decoder().set_attn_implementation("packed")


def pack(ids, mask):
    """Packs rows into one. Returns (ids [1, L], mask [1, L], keyword arguments for the decoder).

    ids, mask: int64 [B, T], padded on the right. Each row is cut after its last masked token, because later
    tokens change no log-prob that is asked for. The mask of each row's first token becomes 0, because the
    token before it is now that of another row.
    """
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    lengths = ((positions + 1) * (mask > 0)).amax(1).clamp(min=1)  # [B]
    kept = positions < lengths[:, None]
    packing = {
        "position_ids": positions[kept][None],
        "cu_seq_lens_q": F.pad(lengths.cumsum(0), (1, 0)).int(),  # [B + 1]: starts of the rows, and the end
        "max_length_q": int(lengths.max()),
    }
    return ids[kept][None], (mask * (positions > 0))[kept][None], packing
