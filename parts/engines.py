"""Not part of the method: samples turns with transformers, with vLLM, or from an OpenAI-compatible endpoint.

    engine = HFEngine(model, stops=[tokenizer.eos_token_id], max_tokens=64)
    engine.submit("a key", "a conversation", ids)
    done = engine.poll()      # [(key, Turn)] of the turns that have ended; repeat while engine.pending

All three engines have this interface. submit() requests the next turn of a conversation, poll() returns
finished turns, forget() drops the cached keys and values of a conversation. A turn that does not fit into the
context comes back empty, with finish "context". An engine whose model is on this machine has three more
methods. at_temperature() returns an engine with the same weights, with or without their LoRA adapter. sleep()
is called before an update of the weights, sync() after it.

Words: a conversation is one side of one dialogue, as its model sees it. A key names one turn, and no two
turns have the same. `batching` and `remote` tell driver.py when to call poll().
"""

import copy
import importlib.util
import itertools
import json
import math
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm


class EngineError(Exception):
    """A model or an endpoint cannot be used. The message is one sentence for the user."""

    exit_code = 2


@dataclass
class Turn:
    """A sampled turn."""

    ids: list  # token ids, with the end token unless the token limit cut it off; from an Endpoint a text
    logprobs: list  # of each sampled token; 0.0 at temperature 0; empty from an Endpoint
    finish: str  # "stop" | "length": cut off by max_tokens | "context": nothing sampled, it did not fit
    # | "refused": nothing sampled, because an endpoint refuses this request, though it answers others


def load_model(path: str, device: str, dtype: str = "float32", lora: int | None = None):
    """Loads the `transformers` model of a local folder or hub name.

    On the device "meta" it has no weights. lora: rank of a LoRA adapter to add. Raises EngineError if there
    is no such model, if the hub's connection breaks, or if the model does not fit.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        # If the checkpoint's class has a vision tower, the tower is kept, though nothing here uses it. Then a
        # saved model has the same class, and the names that vLLM knows.
        multimodal = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
        text_only = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if multimodal and (not text_only or multimodal.__name__ in (config.architectures or [])):
            auto = transformers.AutoModelForImageTextToText
        else:
            auto = transformers.AutoModelForCausalLM
        make_exact(config)
        if device == "meta":
            with torch.device("meta"):
                model = auto.from_config(config, dtype=getattr(torch, dtype))
        else:
            model = auto.from_pretrained(path, config=config, dtype=dtype)
        if lora:
            add_adapter(model, lora)
        model.to(device)
    except torch.OutOfMemoryError:
        problem = f"model {path}: does not fit on {device} in {dtype}"
        raise EngineError(f"{problem}; use a smaller model or a larger GPU") from None
    except EngineError:
        raise
    except Exception as e:  # a broken connection to the hub raises classes of several libraries
        raise EngineError(why_not_loaded(path, e)) from None
    if device != "meta":
        check_logits(model, path)
    return model


def load_tokenizer(path: str):
    """Loads the tokenizer of a local folder or hub name, with the chat template of its processor if need be.

    Raises EngineError if there is none, or if it is of a newer library.
    """
    import transformers

    # A missing file, or no hub, is no error here.
    missing = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        if not tokenizer.chat_template:
            file = transformers.utils.cached_file(path, "chat_template.json", **missing)
            if file:  # Gemma 3, Qwen 2.5 VL and others once had it there
                with open(file, encoding="utf-8") as f:
                    tokenizer.chat_template = json.load(f)["chat_template"]
        return tokenizer
    except Exception as e:  # of many classes; `tokenizers` raises Exception itself
        raise EngineError(why_not_loaded(path, e)) from None


def make_exact(config) -> None:
    """Changes a config so that a trainer computes what samplers do: no dropout; capped attention scores."""
    for part in (config, config.get_text_config()):
        for name, value in list(vars(part).items()):
            if isinstance(value, float) and "drop" in name:
                setattr(part, name, 0.0)
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        config._attn_implementation = "eager"  # torch's own would leave out the cap (Gemma 2)


def why_not_loaded(path: str, error: Exception) -> str:
    """Why a model, or its tokenizer, could not be loaded: a line for the user."""
    if os.path.isdir(f"{path}/model"):
        return f"model {path}: is a run folder; give its model, {path.rstrip('/')}/model"
    if os.path.exists(f"{path}/config.json.lock"):
        return f"model {path}: is the folder of a run that has saved no model; finish its training first"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    problem = f"cannot be loaded ({reason})"
    if not os.path.exists(path):
        hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path)
        problem = f"is no folder here, and {problem} from the hub" if hub else "no such folder"
    advice = "give a transformers folder or a hub name"
    if type(error) is Exception:  # so `tokenizers` reports a file that it does not understand
        advice = "if its tokenizer.json is whole, update transformers and tokenizers"
    return f"model {path}: {problem}; {advice}"


def share_keys(model) -> None:
    """Switches the model to an attention in which groups of query heads share keys and values without copies.

    It computes in the dtype of the keys, and is meant for a CPU. Where attention has a mask, `transformers`
    copies keys and values for each query head. On a CPU these copies take more time than the rest of a
    decoding step. (On a GPU they avoid a slow kernel.)
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        if attention_mask is None:
            kwargs |= {"dropout": dropout, "scaling": scaling}
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        output = F.scaled_dot_product_attention(
            query.to(key.dtype), key, value, attention_mask, dropout, scale=scaling, enable_gqa=True
        )
        return output.transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register("shared_keys", attend)
    AttentionMaskInterface.register("shared_keys", sdpa_mask)
    model.set_attn_implementation("shared_keys")


# LoRA: a frozen W is replaced by W + B·A·ALPHA/rank. One ALPHA fits every rank, and all linear layers should
# have an adapter: Schulman et al., "LoRA Without Regret", Thinking Machines Lab, 2025.
ALPHA = 32
# The experts of a mixture are one tensor in memory, and peft takes any layer of these names for an expert.
# The layer itself would get no adapter, and the experts would get one that cannot be merged. A router returns
# several tensors (Phimoe), to which peft cannot add.
EXPERT_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "router")


def add_adapter(model, rank: int) -> None:
    """Adds a LoRA adapter to all linear layers of the decoder, and freezes all other weights.

    The vision tower and the LM head get no adapter, nor do the experts of a mixture and its other layers with
    EXPERT_NAMES. In a Mamba layer only in_proj gets one. B starts at 0, so the model still computes the same.
    Raises EngineError if the model cannot have an adapter.
    """
    from peft import LoraConfig

    decoder = set(model.get_decoder().modules())
    linear = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m in decoder}
    if any(".experts." in name for name, _ in model.named_parameters()):
        linear = {name for name in linear if name.rsplit(".", 1)[-1] not in EXPERT_NAMES}
    for name, module in model.named_modules():
        # Mamba's kernels read the weights of its other linear layers directly, without an adapter.
        if hasattr(module, "A_log") and hasattr(module, "D"):
            linear -= {f"{name}.{child}" for child, _ in module.named_children() if child != "in_proj"}
    try:
        if not linear:  # GPT-2 has layers of another class, Conv1D
            raise ValueError("its decoder has no torch.nn.Linear")
        model.add_adapter(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=linear))
    except ValueError as e:
        problem = f"model {model.name_or_path}: cannot have a LoRA adapter ({' '.join(str(e).split())})"
        raise EngineError(f"{problem}; leave out --lora") from None


@contextmanager
def without_adapter(model):
    """Inside this context the model computes with its frozen weights alone."""
    if not hasattr(model, "peft_config"):
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def save_adapter(folder, weights, rank: int, path: str) -> None:
    """Writes an adapter's (name in the model, tensor) pairs in the format of peft, which vLLM reads too.

    path: the model that the adapter belongs to.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    weights = {name.replace(".default", ""): t.cpu().contiguous() for name, t in weights}
    targets = sorted({name.rsplit(".lora_", 1)[0] for name in weights})
    config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=targets, base_model_name_or_path=path)
    config.save_pretrained(folder)
    save_file({f"base_model.model.{n}": t for n, t in weights.items()}, f"{folder}/adapter_model.safetensors")


def next_token_logits(model, hidden):
    """Returns the logits [..., V] of the next token for hidden states [..., H], as the model's forward().

    Granite and MiniCPM divide the logits, Cohere and Falcon-H1 multiply them, Gemma 2 and 4 cap them.
    """
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", 1.0)
    scale = scale / getattr(config, "logits_scaling", 1.0)
    logits = model.get_output_embeddings()(hidden)
    logits = logits if scale == 1 else logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def check_logits(model, path: str) -> None:
    """Raises EngineError if decoder and next_token_logits() do not give the model's own logits.

    Sampler and trainer would then use the same wrong distribution, so the log-prob gap would not show it.
    """
    ids = torch.arange(8, device=model.device)[None] + model.config.get_text_config().vocab_size // 2
    try:
        own, states = model(input_ids=ids), model.get_decoder()(input_ids=ids)
    except Exception:
        if model.device.type == "cpu" and torch.cuda.is_available():
            return  # kernels for a GPU (flash-linear-attention, Mamba's) refuse tensors on the CPU
        raise
    try:
        logits = next_token_logits(model, states.last_hidden_state)
        # bfloat16 rounds by up to 0.008
        right = (logits - own.logits).abs().max() <= 0.02 * own.logits.abs().max()
        reason = "it changes the logits of its LM head"
    except (AttributeError, TypeError) as e:  # another kind of decoder or head
        right, reason = False, e
    if not right:
        problem = f"the kit cannot compute the log-probs of its class, {type(model).__name__} ({reason})"
        raise EngineError(f"model {path}: {problem}; use another model")


def check_context(max_tokens, context):
    """Raises EngineError if a turn of max_tokens can never fit into the context."""
    if max_tokens >= context:
        problem = f"--max-tokens is {max_tokens}, which leaves no room in the model's context of {context}"
        raise EngineError(f"{problem}; lower it")


UNEQUAL_LAYERS = "the model's layers have keys and values of different shapes; use PlainEngine"


def layers_of(config):
    """Returns, for a text config, (set of its layer types, shape of a cache for 0 conversations of 0 tokens).

    Raises EngineError if HFEngine has no masks for the attention, or if the layers have different shapes.
    """
    if config._attn_implementation not in ("sdpa", "shared_keys", "eager"):
        problem = f"the model's attention is {config._attn_implementation}"
        raise EngineError(f"{problem}; load it with attn_implementation='sdpa'")
    if getattr(config, "alibi", False) or context_of(config) == math.inf:
        raise EngineError("the model's attention adds a bias for distance (ALiBi); use PlainEngine")
    default = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    types = set(
        getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or [default]
    )
    if unknown := types - {"full_attention", "sliding_attention"}:
        raise EngineError(f"the model has layers of {', '.join(sorted(unknown))}; use PlainEngine")
    try:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    except RuntimeError:  # transformers raises it if the number differs from layer to layer
        raise EngineError(UNEQUAL_LAYERS) from None
    return types, (config.num_hidden_layers, 2, 0, heads, 0, head_size)


def context_of(config) -> float:
    """Returns the context length of a model with this text config; infinity without positions (ALiBi).

    With "longrope" (Phi 3.5, Phi 4 mini) it is the length before the extension. Beyond it, one long row would
    change the angles of all rows of a batch, and of the tokens that are already cached.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    extended = rope.get("rope_type") == "longrope"
    longest = getattr(config, "max_position_embeddings", math.inf)
    return rope["original_max_position_embeddings"] if extended else longest


# ----------------------------------------------------------------------------------------------- transformers


@dataclass
class Request:
    """A requested turn, which waits or is being sampled."""

    key: tuple  # (dialogue, role, number of the turn)
    conversation: str
    ids: list  # of the whole conversation, with the tokens sampled so far
    start: int  # index of the turn's first token in ids
    random: random.Random
    cached: int = 0  # the first `cached` ids have keys and values in the turn's row of the cache
    logprobs: list = field(default_factory=list)


PREFILL = 2**16  # tokens that PlainEngine reads in one pass, with padding
MIN_SHARED = 8  # tokens that a copy from another row must save: to compute so many costs as much as the copy


def common_prefix(cached_ids: list[int], ids: list[int]) -> int:
    """Returns how many of ids need not be computed: the common prefix with cached_ids.

    The last one is never counted, because it must be fed to get the next token's logits.
    """
    return min(len(os.path.commonprefix([cached_ids, ids])), len(ids) - 1)


def uncached(request: Request) -> int:
    """Returns how many of a turn's tokens must be computed."""
    return len(request.ids) - request.cached


class RaggedCache:
    """Keys and values of conversations of different lengths: one tensor [layers, 2, B, heads, T, head size].

    It has the two methods that `transformers` calls. New tokens are written at their own positions
    [B, S], so rows need not be aligned. The positions behind a row's last token are masked, and overwritten
    later. Layers see the positions before `end`.
    """

    def __init__(self, kv, positions, end):
        self.kv, self.positions, self.end = kv, positions, end
        self.rows = torch.arange(kv.shape[2], device=kv.device)[:, None]

    def update(self, keys, values, layer, *_, **__):
        for i, new in enumerate((keys, values)):  # new: [B, heads, S, head size]
            if (new.shape[1], new.shape[3]) != (self.kv.shape[3], self.kv.shape[5]):  # heads, head size
                raise EngineError(UNEQUAL_LAYERS)
            self.kv[layer, i][self.rows, :, self.positions] = new.transpose(1, 2).to(self.kv.dtype)
        return self.kv[layer, 0, :, :, : self.end], self.kv[layer, 1, :, :, : self.end]

    def get_seq_length(self, *_):
        return 0  # unused: `transformers` would derive positions and masks from it, but forward() passes both


class PlainEngine:
    """Samples turns with plain `transformers` (written for 5.x) from any model that takes its DynamicCache.

    It samples one batch of turns after another. Rows are padded on the left, and a turn leaves the batch as
    soon as it has ended. Each turn reads its whole conversation again, because the state of linear attention
    cannot be cut back to a prefix. Tokens are picked by inverse CDF, with uniform numbers that the request's
    key seeds. So, but for rounding, a dialogue does not depend on the others in its batch, and it comes out
    the same if it is played again after a kill. The model is left in eval().
    """

    # Which requests share a batch decides how sums are rounded. So a caller must hand in all that it can, and
    # wait for the verdicts on programs, before it calls poll(): else rounding would depend on timing.
    batching = True
    remote = False

    def __init__(
        self, model, stops: list[int], max_tokens=512, temperature=1.0, seed=0, batch=256, frozen=False
    ):
        """stops: ids that end a turn. temperature: 0 takes the likeliest tokens. batch: most turns at once.
        frozen: whether to switch the model's LoRA adapter off."""
        self.model, self.stops, self.frozen = model, set(stops), frozen
        self.max_tokens, self.temperature, self.seed, self.batch = max_tokens, temperature, seed, batch
        self.config = model.config.get_text_config()
        self.context = context_of(self.config)
        check_context(max_tokens, self.context)
        self.waiting, self.running, self.too_long = [], [], []

    @property
    def pending(self):
        return self.waiting + self.running + self.too_long

    def submit(self, key, conversation, ids):
        """key: comes back from poll(), and seeds the turn. conversation: one name for all its turns."""
        if len(ids) + self.max_tokens > self.context:
            self.too_long.append((key, Turn([], [], "context")))
        else:
            uniforms = random.Random(f"{self.seed}/{key}")
            self.waiting.append(Request(key, conversation, ids[:], len(ids), uniforms))

    @torch.no_grad()
    def poll(self):
        """Returns [(key, Turn)] of one batch of turns, the longest that wait."""
        self.model.eval()
        done, self.too_long = self.too_long, []
        self.waiting.sort(key=lambda request: -len(request.ids))
        longest = len(self.waiting[0].ids) if self.waiting else 1
        rows = max(1, min(self.batch, PREFILL // longest))
        active, self.waiting = self.waiting[:rows], self.waiting[rows:]
        with without_adapter(self.model) if self.frozen else nullcontext():
            return done + self.turns_of(active)

    def turns_of(self, active):
        """Samples the turns of these Requests to their ends; returns [(key, Turn)]."""
        from transformers import DynamicCache

        device, done, cache = self.model.device, [], DynamicCache(config=self.config)
        longest = max((len(request.ids) for request in active), default=0)
        new = torch.tensor([[0] * (longest - len(r.ids)) + r.ids for r in active], device=device)  # [B, T]
        padding = torch.tensor([longest - len(r.ids) for r in active], device=device)
        mask = (torch.arange(longest, device=device) >= padding[:, None]).long()
        while active:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
            output = self.model.get_decoder()(
                input_ids=new,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            tokens = self.draw(active, next_token_logits(self.model, output.last_hidden_state[:, -1]))
            done += [self.ended(request) for request in active if self.finish(request)]
            stay = [i for i, request in enumerate(active) if not self.finish(request)]
            if 0 < len(stay) < len(active):
                rows = torch.tensor(stay, device=device)
                tokens, mask = tokens[rows], mask[rows]
                cache.reorder_cache(rows)
            active = [active[i] for i in stay]
            new, mask = tokens[:, None], F.pad(mask, (0, 1), value=1)
        return done

    def draw(self, requests, logits):
        """Appends a token to each request, by its logits [B, V]; returns the tokens [B]."""
        u = [request.random.random() for request in requests]
        u = torch.tensor(u, device=logits.device, dtype=torch.float64)
        logp = (
            F.log_softmax(logits.float() / self.temperature, dim=-1) if self.temperature else logits.float()
        )
        tokens = self.pick(logp, u)
        logprobs = logp.gather(1, tokens[:, None])[:, 0] if self.temperature else torch.zeros(len(requests))
        for request, token, logprob in zip(requests, tokens.tolist(), logprobs.tolist()):
            request.ids.append(token)
            request.logprobs.append(logprob)
        return tokens

    def pick(self, logp, u):
        """Returns the tokens [B] where the cumulative distribution exceeds uniforms u [B] for the first time.

        logp: log-probs [B, V]. At temperature 0 they are logits, and the largest one is taken.
        """
        if not self.temperature:
            return logp.argmax(-1)
        cdf = logp.double().exp().cumsum(-1)
        tokens = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
        return tokens.clamp(max=logp.shape[1] - 1)

    def finish(self, request) -> str | None:
        """How a turn has ended: "stop" or "length"; None if it has not."""
        if request.ids[-1] in self.stops:
            return "stop"
        return "length" if len(request.ids) - request.start == self.max_tokens else None

    def ended(self, request):
        """(key, Turn) of a turn that has ended."""
        return request.key, Turn(request.ids[request.start :], request.logprobs, self.finish(request))

    def forget(self, conversation):
        """Does nothing: nothing of a conversation is kept."""

    def at_temperature(self, temperature, frozen=False):
        """Returns an engine with the same weights. It is this one if the settings are the same: then the
        requests of both roles share a batch."""
        if (temperature, frozen) == (self.temperature, self.frozen):
            return self
        return type(self)(self.model, self.stops, self.max_tokens, temperature, self.seed, self.batch, frozen)

    def sleep(self):
        """Does nothing: keys and values take memory only while dialogues are played."""

    def sync(self, weights):
        """Copies those (name, tensor) pairs whose tensors are not the model's own."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, tensor in weights:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].data.copy_(tensor)


class HFEngine(PlainEngine):
    """As PlainEngine, but feeds only uncached tokens; for models whose layers cache only keys and values.

    New turns join the batch while others are being sampled. Keys and values of a conversation are saved under
    its name until forget(). On a CPU the model is left with the attention of share_keys().
    """

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.layer_types, shape = layers_of(self.config)
        if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
            share_keys(model)
        # On a CPU attention over few tokens is four times slower in bfloat16.
        dtype = torch.float32 if self.config._attn_implementation == "shared_keys" else model.dtype
        self.kv = torch.zeros(shape, device=model.device, dtype=dtype)  # row i belongs to running[i]
        self.saved = {}  # conversation → (ids, their keys and values)

    @torch.no_grad()
    def poll(self):
        """Returns [(key, Turn)]: admits waiting requests, and samples until an eighth of the batch has ended.

        A larger share would keep rows empty for longer, a smaller one admit new turns in smaller batches.
        """
        self.model.eval()
        with without_adapter(self.model) if self.frozen else nullcontext():
            self.admit()
            enough, done = len(self.running) / 8, self.too_long + self.pop_ended()
            self.too_long = []
            while len(done) < enough:
                self.sample(0, len(self.running))
                done += self.pop_ended()
        return done

    def forget(self, conversation):
        """Drops the keys and values of a conversation that is over. After the last one it frees the cache."""
        self.saved.pop(conversation, None)
        if not self.saved and not self.pending:
            self.kv = self.kv[:, :, :0, :, :0].clone()

    def sync(self, weights):
        self.saved.clear()  # keys and values of the old weights
        super().sync(weights)

    def admit(self):
        """Moves waiting turns into the free rows of the batch, and samples the first token of each.

        Requests may begin with the same tokens, as those of GRPO's g dialogues of a problem do. One of them,
        the leader, computes the keys and values of this prefix. The others, its followers, copy its row.
        """
        used, free = len(self.running), self.batch - len(self.running)
        new, self.waiting = self.waiting[:free], self.waiting[free:]

        # 1. Find leaders and followers: when sorted, turns with a common prefix are neighbors.
        past, leader_of, leaders, followers = {}, {}, [], []
        for request in sorted(new, key=lambda request: request.ids):
            past_ids, past[request.key] = self.saved.pop(request.conversation, ([], None))
            request.cached = common_prefix(past_ids, request.ids)
            shared = common_prefix(leaders[-1].ids, request.ids) if leaders else 0
            if shared >= request.cached + MIN_SHARED:  # worth a copy
                request.cached, leader_of[request.key] = shared, leaders[-1].key
                followers.append(request)
            else:
                leaders.append(request)

        # 2. Give them rows, leaders first. Those with similar numbers of uncached tokens stand together, for
        # little padding.
        leaders.sort(key=uncached, reverse=True)
        followers.sort(key=uncached, reverse=True)
        self.running += leaders + followers
        self.grow(used)
        row = {request.key: r for r, request in enumerate(leaders + followers, used)}

        # 3. Leaders continue from the saved keys and values of their conversations.
        for request in leaders:
            if request.cached:
                self.kv[:, :, row[request.key], :, : request.cached] = past[request.key][
                    :, :, :, : request.cached
                ]
        self.prefill(used, used + len(leaders))

        # 4. Followers continue from their leaders' rows, which are complete only now.
        for request in followers:
            leader_row = self.kv[:, :, row[leader_of[request.key]]]
            self.kv[:, :, row[request.key], :, : request.cached] = leader_row[:, :, :, : request.cached]
        self.prefill(used + len(leaders), len(self.running))

    def prefill(self, first, last):
        """Feeds the uncached prompts of rows first to last - 1, and samples their first tokens."""
        while first < last:
            # 1024 tokens a pass: more would need memory and save no time.
            rows = max(1, 1024 // uncached(self.running[first]))
            self.sample(first, min(first + rows, last))
            first += rows

    def grow(self, used):
        """Makes kv large enough for the running turns, and keeps the first `used` rows."""
        old, needed = self.kv, max((request.start for request in self.running), default=0) + self.max_tokens
        rows, length = max(old.shape[2], len(self.running)), old.shape[4]
        if needed > length:
            length = max(needed, length * 3 // 2)  # half as much again, so that copies are rare
        if (rows, length) != (old.shape[2], old.shape[4]):
            self.kv = old.new_zeros(*old.shape[:2], rows, old.shape[3], length, old.shape[5])
            self.kv[:, :, :used, :, : old.shape[4]] = old[:, :, :used]

    def sample(self, first, last):
        """Feeds the uncached tokens of rows first to last - 1, and samples one token for each row."""
        requests = self.running[first:last]
        logits = self.forward(requests, self.kv[:, :, first : first + len(requests)])
        for request in requests:
            request.cached = len(request.ids)
        self.draw(requests, logits)

    def forward(self, requests, kv):
        """Returns the logits [B, V] after each turn's last token. kv: the turns' rows of the cache."""
        rows = [torch.tensor(request.ids[request.cached :]) for request in requests]
        new = pad_sequence(rows, batch_first=True).to(kv.device)  # [B, S]
        start = torch.tensor([request.cached for request in requests], device=kv.device)
        length = torch.tensor([len(row) for row in rows], device=kv.device)
        step = torch.arange(new.shape[1], device=kv.device)
        # [B, S]; all padding is written to the position behind the last token, where the mask hides it
        positions = start[:, None] + torch.minimum(step, length[:, None])
        cache = RaggedCache(kv, positions, max(len(request.ids) for request in requests))
        column = torch.arange(cache.end, device=kv.device)
        mask = (column <= positions[:, :, None])[:, None]  # [B, 1, S, T]
        masks = {"full_attention": mask}
        if "sliding_attention" in self.layer_types:
            near = column > positions[:, :, None] - self.config.sliding_window
            masks["sliding_attention"] = mask & near[:, None]
        if self.config._attn_implementation == "eager":  # it adds the mask to the scores
            lowest = torch.finfo(self.model.dtype).min
            masks = {name: torch.where(mask, 0.0, lowest).to(kv.dtype) for name, mask in masks.items()}
        output = self.model.get_decoder()(
            input_ids=new,
            attention_mask=masks if len(self.layer_types) > 1 else masks[min(self.layer_types)],
            position_ids=positions,
            past_key_values=cache,
        )
        last = output.last_hidden_state[torch.arange(len(new), device=kv.device), length - 1]
        return next_token_logits(self.model, last)

    def pop_ended(self):
        """Removes the turns that have ended from the batch, and returns them as [(key, Turn)]."""
        done, active = [], []
        for r, request in enumerate(self.running):
            if self.finish(request):
                kv = self.kv[:, :, r, :, : request.cached].clone()  # the last token was never fed
                self.saved[request.conversation] = request.ids[: request.cached], kv
                done.append(self.ended(request))
            else:
                active.append(r)
        # The active turns must take the first rows, so the last of them move into the gaps.
        gaps = sorted(set(range(len(active))) - set(active))
        for r, gap in zip(reversed(active), gaps):
            request = self.running[gap] = self.running[r]
            self.kv[:, :, gap, :, : request.cached] = self.kv[:, :, r, :, : request.cached]
        del self.running[len(active) :]
        return done


def transformers_engine(model, stops, **kwargs):
    """HFEngine if it can sample from the model, else PlainEngine. kwargs: of both. Raises EngineError."""
    for engine in (HFEngine, PlainEngine):
        try:
            if gap(engine(model, [], max_tokens=8)) < 0.1:  # as check_sane() of grpo.py
                return engine(model, stops, **kwargs)
            reason = "it samples from another distribution than the model's"
        except (EngineError, AttributeError, TypeError, ValueError) as e:  # a cache of another kind
            reason = e
    problem = f"no transformers engine fits {type(model).__name__} ({reason})"
    raise EngineError(f"{problem}; use --engine vllm or a served endpoint")


@torch.no_grad()
def gap(engine) -> float:
    """How far the log-probs of a sampled turn are from those of one pass over its tokens: a mean, in nats."""
    ids = [engine.config.vocab_size // 2 + i for i in range(8)]
    engine.submit("probe", "probe", ids)
    [(_, turn)] = engine.poll()
    whole = torch.tensor([ids + turn.ids], device=engine.model.device)
    hidden = engine.model.get_decoder()(input_ids=whole, use_cache=False).last_hidden_state
    logp = next_token_logits(engine.model, hidden[0, len(ids) - 1 : -1]).float().log_softmax(-1)
    again = logp.gather(1, whole[0, len(ids) :, None])[:, 0].cpu()
    return (again - torch.tensor(turn.logprobs)).abs().mean().item()


# ------------------------------------------------------------------------------------------------------- vLLM


def is_address(path: str) -> bool:
    """Whether a model is given as the URL of an endpoint."""
    return path.startswith(("http://", "https://"))


def uses_vllm(wanted: str, device: str) -> bool:
    """Whether vLLM is the engine: if wanted is "vllm", or "auto" on a GPU machine where it is installed.

    Raises EngineError if "vllm" is wanted but not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if wanted == "vllm" and not installed:
        advice = "run `pip install -r requirements.txt vllm==0.32.0` on a GPU machine, or use --engine hf"
        raise EngineError(f"--engine vllm: vLLM is not installed; {advice}")
    return wanted == "vllm" or wanted == "auto" and installed and device.startswith("cuda")


class VLLMEngine:
    """Samples turns with vLLM (written for 0.32), inside this process. One poll() is one engine step.

    A request joins as soon as its dialogue is ready. vLLM's prefix cache keeps the earlier turns of a
    conversation. Log-probs are those of the distribution that was sampled from, with its temperature. Under
    torchrun each process has its own engine, but all processes must create theirs together. An engine is
    never freed: its destructor would destroy torch's default process group, and each process would go on
    alone.
    """

    batching = False  # a turn comes back as soon as it is finished; nobody has to wait for others
    remote = False
    made = []  # every vllm.LLM of this process, so that none is freed

    def __init__(
        self,
        path,
        stops: list[int],
        max_tokens=512,
        temperature=1.0,
        seed=0,
        batch=256,
        device="cuda",
        dtype="float32",
        context=4096,
        memory=0.4,
        sleeps=False,
        lora=None,
    ):
        """context: most tokens of a dialogue, unless the model's own context is shorter. memory: share of the
        GPU's memory for weights, keys and values. sleeps: whether sleep() frees that memory; only on a GPU,
        and for one engine of a process. lora: rank of an adapter, which the first sync() loads."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, so that sync() can pass tensors
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import transformers
        import vllm
        from vllm.lora.request import LoRARequest

        gpu = device.startswith("cuda")
        self.dtype, self.sleeps = getattr(torch, dtype), sleeps and gpu
        longest = context_of(transformers.AutoConfig.from_pretrained(path).get_text_config())
        self.stops, self.max_tokens, self.temperature = list(stops), max_tokens, temperature
        self.seed, self.context = seed, min(context, longest)
        check_context(max_tokens, self.context)
        self.path, self.lora = path, lora
        # Requests refer to the adapter by the number 1. The path is never read: load_adapter() has loaded it.
        self.adapter = LoRARequest("student", 1, "loaded by sync") if lora else None
        llm_kwargs = {
            "model": path,
            "dtype": dtype,
            "seed": seed,
            "max_num_seqs": batch,
            "max_model_len": self.context,
            "gpu_memory_utilization": memory,
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "enable_sleep_mode": self.sleeps,
            # Load no vision tower, because its weights have other names in transformers, and no processor,
            # because checkpoints of training have none.
            "language_model_only": True,
        }
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the default would use GPU 0 in every process
            llm_kwargs["distributed_executor_backend"] = "external_launcher"
        if lora:
            llm_kwargs |= {"enable_lora": True, "max_lora_rank": lora}
        if not gpu:
            # The memory, in bytes, is taken at once, by each engine of a process.
            llm_kwargs |= {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": 2**29}
        try:
            self.llm = vllm.LLM(**llm_kwargs)
            self.made.append(self.llm)
        except Exception as e:  # a class of errors for each reason
            advice = "lower --max-tokens or --concurrent, raise --vllm-memory, or use --engine hf"
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise EngineError(f"vLLM cannot run {path} ({reason}); {advice}") from None
        # Request → (key, its Turn, or None while it is being sampled). Shared by all at_temperature() copies.
        self.pending = {}

    def at_temperature(self, temperature, frozen=False):
        """Returns an engine with the same weights, in the same vLLM. frozen: without the adapter."""
        other = copy.copy(self)
        other.temperature = temperature
        other.adapter = None if frozen else self.adapter
        return other

    def submit(self, key, conversation, ids):
        """key: comes back from poll(), and seeds the turn. conversation: unused, vLLM compares the ids."""
        import vllm
        from vllm.sampling_params import RequestOutputKind

        request = f"{id(self)}/{key}"
        if len(ids) + self.max_tokens > self.context:
            self.pending[request] = key, Turn([], [], "context")
            return
        sampling = vllm.SamplingParams(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            stop_token_ids=self.stops,
            ignore_eos=True,  # generation_config.json may name other end tokens than the chat template has
            seed=zlib.crc32(f"{self.seed}/{key}".encode()),
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprobs=0,  # of the sampled token alone
            detokenize=False,
        )
        prompt = {"prompt_token_ids": ids}
        self.llm.llm_engine.add_request(request, prompt, sampling, lora_request=self.adapter)
        self.pending[request] = key, None

    def poll(self):
        """Returns [(key, Turn)] of the turns that one step of vLLM finished, at all temperatures."""
        if any(turn is None for _, turn in self.pending.values()):
            for result in self.llm.llm_engine.step():
                if result.finished:
                    output = result.outputs[0]
                    ids = list(output.token_ids)
                    logprobs = [top[token].logprob for top, token in zip(output.logprobs, ids)]
                    key, _ = self.pending[result.request_id]
                    self.pending[result.request_id] = key, Turn(ids, logprobs, output.finish_reason)
        done = [request for request, (_, turn) in self.pending.items() if turn]
        return [self.pending.pop(request) for request in done]

    def forget(self, conversation):
        """Does nothing: vLLM's prefix cache drops its least recently used tokens by itself."""

    def sleep(self):
        """Frees the memory of weights, keys and values for the trainer, until the next sync()."""
        if self.sleeps:
            self.llm.llm_engine.sleep(level=2)

    def sync(self, weights):
        """Loads (name, tensor) pairs, and drops keys and values of the old weights. Call it after sleep()."""
        if self.sleeps:
            torch.cuda.empty_cache()
            self.llm.llm_engine.wake_up(tags=["weights"])
        # Vectors keep their dtype: vLLM casts them, and holds a router's biases in float32.
        weights = ((name, t.to(self.dtype) if t.ndim > 1 else t) for name, t in weights)
        try:
            if self.lora:
                self.load_adapter(weights)
            else:
                weights = as_in_checkpoint(self.skeleton, weights)
                self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
                self.llm.apply_model(repack)
        except (ValueError, KeyError) as e:
            reason = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            advice = "use --engine hf"
            raise EngineError(f"vLLM cannot load the weights of {self.path} ({reason}); {advice}") from None
        self.llm.reset_prefix_cache()
        if self.sleeps:
            self.llm.llm_engine.wake_up(tags=["kv_cache"])

    @cached_property
    def skeleton(self):
        """The model as `transformers` has it, without weights."""
        return load_model(self.path, "meta")

    def check_class(self):
        """Raises EngineError if vLLM has changed the model's class, so that no trainer can use it any more.

        It does so where it runs the code of `transformers` (SmolLM3, OLMo 3), because it compiles that.
        """
        if self.llm.llm_engine.model_config.using_transformers_backend():
            reason = "vLLM runs it by the code of transformers, which it changes"
            raise EngineError(f"model {self.path}: {reason}, so that it cannot be trained; use --engine hf")

    def load_adapter(self, weights):
        """Replaces adapter 1. vLLM reads it from files now, and keeps it in memory."""
        from vllm.lora.request import LoRARequest

        with tempfile.TemporaryDirectory() as folder:
            save_adapter(folder, weights, self.lora, self.path)
            self.llm.llm_engine.add_lora(LoRARequest("student", 1, folder, load_inplace=True))


def as_in_checkpoint(model, weights):
    """Converts (name, tensor) pairs from the form that `transformers` has in memory to that of a checkpoint.

    The forms differ for a mixture of experts, whose experts are one tensor in memory, and in some names.
    model: of the same class, on any device; its own tensors are not used.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for name, tensor in weights:
        yield from revert_weight_conversion(model, {name: tensor}).items()


def repack(model):
    """Packs the LM head and the experts of a mixture again.

    On a CPU vLLM computes with packed copies. A reload does not update that of a head that is tied, and
    leaves the experts unpacked.
    """
    for name, layer in model.named_modules():
        if name.split(".")[-1] == "lm_head" and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)
        if hasattr(layer, "w13_weight") and layer.w13_weight.device.type == "cpu":
            layer.quant_method.moe_kernel.fused_experts.process_weights_after_loading(layer)


# --------------------------------------------------------------------------------------------------- endpoint


# How servers refuse a request that does not fit; tests/test_servers.py lists the words of each.
TOO_LONG = re.compile(
    r"context(?! cancel| deadline)|too (long|large|many (input )?tokens)|reduce the length|max_new_tokens"
    r"|(max|model|prompt|input|sequence) ?length|tokens?\b.{,60}(exceed|limit|more than|greater than)"
    r"|(exceed|limit|maximum|(less|more) than).{,60} tokens|max_tokens must be at least 1|超长|过长",
    re.I,
)
OTHER_LIMIT = re.compile("rate.?limit|per (min|day|month)|quota|usage limit|billing|credit", re.I)
# How they ask for a pause: "try again in 1m2.5s", "retry after 26 seconds", "retryDelay": "34s".
PAUSE = re.compile(
    r"(?:again in|retry in|retry after|retryDelay)\W*((?:[\d.]+ ?(?:ms|[smh])[a-z]*\s*)+)", re.I
)
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
TIMEOUT, LONGEST = 600, 1800  # seconds that an endpoint may be silent, and that it may take to end a reply
# Sent after a failure: if the server answers this, the fault is the dialogue's. It has the roles of every
# request.
PROBE = [{"role": role, "content": "Hello!"} for role in ("user", "assistant", "user")]


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, http://HOST:PORT/v1#MODEL; its key is in OPENAI_API_KEY.

    It is a chat template and an engine in one. Its prompts are lists of messages and its turns are texts, so
    view() and text() return what they get. A request that fails is repeated, as retry_pause() says. If it
    alone fails, its turn has the finish "refused". If others fail too, poll() raises EngineError.
    """

    batching = False
    remote = True  # it samples while this process does other work

    def __init__(self, address: str, option="--teacher-model", max_tokens=512, temperature=1.0):
        """option: the command-line option with this address, for messages."""
        self.url, _, self.name = address.partition("#")
        self.option, self.pending = option, {}
        self.sampling = {"max_tokens": max_tokens, "temperature": temperature}
        self.answered, self.misfits = False, 0  # misfits: requests refused as too long since the last answer
        self.noted = Counter()
        # `openai` wants a key, and a server without one ignores it.
        self.key = os.environ.get("OPENAI_API_KEY", "").strip() or "EMPTY"
        if not re.fullmatch("[!-~]*", self.key):  # else an error about the header would show the key
            raise EngineError("OPENAI_API_KEY: holds a character that no key has; set it anew")
        if not self.name:
            example = f"write it behind the address, as in {self.url}#MODEL"
            raise EngineError(f"{option} {address}: names no model; {example}")
        try:
            import openai
        except ImportError:
            raise EngineError(f"{option} {address}: needs a package; run `pip install openai`") from None
        base, _, query = self.url.partition("?")
        # OPENAI_CUSTOM_HEADERS could hold another key. Firewalls block the User-Agent of `openai`.
        headers = {"Authorization": f"Bearer {self.key}", "User-Agent": "social-meta-learning"}
        if "api-version" in query:  # Azure
            headers["api-key"] = self.key
        # The key is for one host: a redirect is an error, and ALL_PROXY is ignored. HTTP_PROXY, HTTPS_PROXY
        # and NO_PROXY count, except for this machine.
        this_machine = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0", socket.gethostname())
        direct = {"all://": None} | {f"all://{host}": None for host in this_machine}
        try:
            self.client = openai.OpenAI(
                api_key=self.key,
                base_url=base,
                default_query=dict(parse_qsl(query)),
                timeout=TIMEOUT,
                max_retries=0,
                default_headers=headers,
                http_client=openai.DefaultHttpxClient(follow_redirects=False, mounts=direct),
            )
        except Exception as e:  # a malformed address or proxy; httpx has many classes of errors
            advice = "check the address and the proxy variables of the environment"
            raise EngineError(f"{option} {self.url}: no connection is possible ({e}); {advice}") from None
        self.client.organization = self.client.project = None  # not OPENAI_ORG_ID, OPENAI_PROJECT_ID

    def view(self, messages):
        return messages

    def text(self, sampled):
        return sampled

    def submit(self, key, conversation, messages):
        self.pending[key] = answer = Future()

        def work():
            try:
                answer.set_result(self.ask(messages, probe=True))
            except Exception as e:  # raised again by poll()
                answer.set_exception(e)

        threading.Thread(target=work, daemon=True).start()  # a daemon, so that Ctrl-C ends at once

    def poll(self, patience=0.05):
        """Returns [(key, Turn)] of the replies that have arrived; if none has, waits `patience` seconds."""
        wait(self.pending.values(), timeout=patience, return_when=FIRST_COMPLETED)
        arrived = [key for key, answer in self.pending.items() if answer.done()]
        return [(key, self.pending.pop(key).result()) for key in arrived]

    def forget(self, conversation):
        """Does nothing: an endpoint gets all messages of a conversation with each request."""

    def note(self, event, detail):
        """Prints an event the first time, and again whenever its count has doubled."""
        self.noted[event] += 1
        if (times := self.noted[event]) & (times - 1) == 0:
            text = f"{self.option} {self.url}: {event} ({times} so far): {detail[:300]}"
            tqdm.write(f"note: {text}", file=sys.stderr)

    def ask(self, messages, probe=False):
        """Returns the Turn that the endpoint replies with. Raises EngineError.

        probe: whether to try a harmless request after a failure. If that is answered, no error is raised, but
        the turn comes back empty, with finish "refused".
        """
        import openai

        sampling = self.sampling
        for tries in itertools.count(1):
            headers = {}
            try:
                turn = self.request(messages, sampling)
            except openai.APIStatusError as e:
                status, headers = e.status_code, e.response.headers
                reason = f"HTTP {status}: {e.response.text}"
            except openai.OpenAIError as e:  # its cause says more
                status, reason = 0, f"{type(e.__cause__ or e).__name__}: {e.__cause__ or e}"
            except Exception as e:  # a reply may be broken in any way
                status, reason = 200, f"broken reply, {type(e).__name__}: {e}"
            else:
                if sampling != self.sampling:
                    self.note("does not take all parameters", f"{sampling} instead of {self.sampling}")
                self.sampling, self.answered, self.misfits = sampling, True, 0
                if not turn.ids.strip():
                    limit = "the token limit cut it off, perhaps in its reasoning; raise --max-tokens"
                    detail = limit if turn.finish == "length" else "perhaps all of it was reasoning"
                    self.note("replies without text", detail)
                return turn
            reason = " ".join(reason.replace(self.key, "…").split())
            if too_long := refuses_length(status, reason):
                self.misfits += 1
                # Ten refusals without an answer between them: --max-tokens alone may exceed the context.
                if self.misfits < 10:
                    return Turn("", [], "context")
                break
            if other := other_sampling(sampling, reason):
                sampling = other
                continue
            pause = retry_pause(status, reason, headers, tries, self.answered)
            if pause is None:
                break
            self.note("is asked again", reason)
            time.sleep(pause)
        advice = "check the address, the model's name and OPENAI_API_KEY"
        error = EngineError(f"{self.option} {self.url}: does not answer ({reason[:300]}); {advice}")
        if not probe:
            raise error
        try:
            self.ask(PROBE)
        except EngineError:
            raise error from None
        if too_long:
            return Turn("", [], "context")
        self.note("refuses single requests, whose dialogues end", reason)
        return Turn("", [], "refused")

    def request(self, messages, sampling):
        """Returns the Turn of one request. Raises an error of `openai`, or any if the reply is broken."""
        create = self.client.chat.completions.with_streaming_response.create
        with create(model=self.name, messages=messages, **sampling) as response:
            body, start = b"", time.monotonic()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() - start > LONGEST:
                    raise TimeoutError("it does not end")
        return turn_of(body)


def refuses_length(status, reason):
    """Whether a server refuses a request because of its length. status: 200 if an error came in a reply."""
    if status == 429:  # the request alone exceeds a limit on tokens a minute
        return "request too large" in reason.lower()
    may_be = (status in (200, 400, 422) or status >= 500) and not OTHER_LIMIT.search(reason)
    return status == 413 or may_be and TOO_LONG.search(reason[:1000]) is not None


def other_sampling(sampling, reason):
    """The sampling parameters to try next, if a server refuses one of `sampling`; else None.

    OpenAI's newer models do so: max_tokens has another name there, and the temperature is fixed. reason: the
    server's error message.
    """
    if "max_tokens" in sampling and "max_completion_tokens" in reason:
        refused, instead = "max_tokens", {"max_completion_tokens": sampling["max_tokens"]}
    elif "temperature" in sampling and "temperature" in reason:
        refused, instead = "temperature", {}
    else:
        return None
    return {name: value for name, value in sampling.items() if name != refused} | instead


def retry_pause(status, reason, headers, tries, answered):
    """Seconds to wait before a request is made again, or None if it is no use to try again.

    A request is made 6 times, or 40 times if the server is busy. status: 0 without a reply, 200 if the reply
    is broken. answered: whether the server has answered before; then it may be restarting, and pauses are
    longer.
    """
    busy = status == 429 and "insufficient_quota" not in reason
    temporary = busy or status <= 200 or status >= 500 or status in (408, 409)
    if not temporary or tries == (40 if busy else 6):
        return None
    if asked := PAUSE.search(f"retry after {headers.get('retry-after')}s; {reason}"):
        seconds = sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"([\d.]+) ?(ms|[smh])", asked[1]))
        return min(120, seconds)
    base = 3 if answered and status != 200 else 2
    return min(60, base ** (tries - 1) / 2) * random.uniform(0.75, 1)


def turn_of(body: bytes):
    """Returns the Turn in a chat completion. Raises an error of any class if there is none."""
    try:
        reply = json.loads(body)
    except ValueError:
        raise ValueError(f"it is no JSON but {body[:200].decode(errors='replace')!r}") from None
    choices = reply.get("choices")
    error = reply.get("error") or (choices[0].get("error") if choices else "it holds no choices")
    finish = choices[0].get("finish_reason") if choices else None
    if error or str(finish).startswith("content_filter"):
        raise ValueError(error or finish)
    content = choices[0]["message"].get("content") or ""
    if isinstance(content, list):  # of parts; those of reasoning hold no "text"
        content = "".join(part.get("text") or "" for part in content)
    content.encode()  # raises an error for a lone surrogate, which could not be logged
    return Turn(content, [], "length" if finish == "length" else "stop")
