"""Sampling turns: with plain transformers, with vLLM, or from an OpenAI-compatible endpoint.

    engine = HFEngine(model, stops=[tokenizer.eos_token_id], max_tokens=64)
    engine.submit("a key", "a conversation", ids)
    done = engine.poll()      # [(key, Turn)] of what has ended; repeat while engine.pending

All three have this interface: submit() takes a request for the next turn of a conversation, poll() returns
finished ones, forget() drops what is kept of a conversation. A turn that the context has no room for comes
back empty, with finish "context". Those of a model here also have at_temperature(), an engine with the same
weights (of a model with a LoRA adapter also without it), and sleep() and sync(), to stand around an update.
"""

import copy
import http.client
import importlib.util
import json
import math
import os
import random
import re
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence


class EngineError(Exception):
    """A model or an endpoint cannot be used. The message is one sentence for the user."""

    exit_code = 2


@dataclass
class Turn:
    """What an engine sampled: token ids, unless a limit cut it off with the end token, and log-probs."""

    ids: list
    logprobs: list
    finish: str  # "stop" | "length": the token limit | "context": nothing was sampled, there was no room


def load_model(path: str, device: str, dtype: str = "float32", lora: int | None = None):
    """The `transformers` model of a local folder or hub name; on the device "meta" without its weights.

    lora: rank of an adapter to add. Raises EngineError if there is no model, or if it does not fit.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        text = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING  # some come with eyes alone
        kind = transformers.AutoModelForCausalLM if text else transformers.AutoModelForImageTextToText
        if device == "meta":
            with torch.device("meta"):
                model = kind.from_config(config, dtype=getattr(torch, dtype))
        else:
            model = kind.from_pretrained(path, dtype=dtype)
        if lora:
            add_adapter(model, lora)
        return model.to(device)
    except torch.OutOfMemoryError:
        told = f"model {path}: does not fit on {device} in {dtype}"
        raise EngineError(f"{told}; use a smaller model or a larger GPU") from None
    except (OSError, ValueError, KeyError) as e:
        told = f"model {path}: cannot be loaded ({str(e).splitlines()[0]})"
        raise EngineError(f"{told}; give a transformers folder or a hub name") from None


def share_keys(model) -> None:
    """Lets groups of query heads share keys and values where attention has a mask, in the dtype of the keys.

    For a CPU. `transformers` gives each query head a copy of its own there, which takes more time than all
    else in a decoding step; on a GPU that avoids a slow kernel.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **others):
        if attention_mask is None:
            others |= {"dropout": dropout, "scaling": scaling}
            return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
        how = {"dropout_p": dropout, "scale": scaling, "enable_gqa": True}
        said = F.scaled_dot_product_attention(query.to(key.dtype), key, value, attention_mask, **how)
        return said.transpose(1, 2).to(query.dtype).contiguous(), None

    AttentionInterface.register("shared_keys", attend)
    AttentionMaskInterface.register("shared_keys", sdpa_mask)
    model.set_attn_implementation("shared_keys")


# LoRA: W + B·A·ALPHA/rank takes the place of a frozen W. That this value fits every rank, and that all linear
# layers should have an adapter: Schulman et al., "LoRA Without Regret", Thinking Machines Lab, 2025.
ALPHA = 32


def add_adapter(model, rank: int) -> None:
    """Adds a LoRA adapter to all linear layers of the decoder and freezes the rest; eyes and head have none.

    B is 0 at first, so that the model is still the same.
    """
    from peft import LoraConfig

    inside = set(model.get_decoder().modules())
    linear = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m in inside}
    model.add_adapter(LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=linear))


@contextmanager
def without_adapter(model):
    """While it lasts, the model computes with its frozen weights alone."""
    if not hasattr(model, "peft_config"):
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def save_adapter(folder, weights, rank: int, path: str) -> None:
    """Writes an adapter's (name in the model, tensor) pairs as peft does, whose folders vLLM reads too.

    path: of the model it belongs to.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    weights = {name.replace(".default", ""): t.cpu().contiguous() for name, t in weights}
    targets = sorted({name.rsplit(".lora_", 1)[0] for name in weights})
    config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=targets, base_model_name_or_path=path)
    config.save_pretrained(folder)
    save_file({f"base_model.model.{n}": t for n, t in weights.items()}, f"{folder}/adapter_model.safetensors")


def next_token_logits(model, hidden):
    """Logits [..., V] of the next token from hidden states [..., H], soft-capped where the model does so."""
    logits, cap = (
        model.get_output_embeddings()(hidden),
        getattr(model.config.get_text_config(), "final_logit_softcapping", None),
    )
    return logits if cap is None else cap * torch.tanh(logits / cap)


def check_context(max_tokens, context):
    """Raises EngineError if no turn of max_tokens can ever fit."""
    if max_tokens >= context:
        told = f"--max-tokens is {max_tokens}, which leaves no room in the model's context of {context}"
        raise EngineError(f"{told}; lower it")


INSTEAD = "the transformers engine cannot sample from it; use --engine vllm or a served endpoint"
UNLIKE = f"the model's layers are not alike; {INSTEAD}"


def layers_of(config):
    """Of a text config: (set of the kinds of its layers, shape of the keys and values of no conversations).

    Raises EngineError for attention that HFEngine has no masks for, and for layers that are not alike.
    """
    if config._attn_implementation not in ("sdpa", "shared_keys", "eager"):
        told = f"the model has {config._attn_implementation}"
        raise EngineError(f"{told}; load it with attn_implementation='sdpa'")
    if getattr(config, "alibi", False) or context_of(config) == math.inf:
        raise EngineError(f"the model's attention adds a bias for distance (ALiBi); {INSTEAD}")
    kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or [kind])
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise EngineError(f"the model has layers of {', '.join(sorted(others))}; {INSTEAD}")
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    try:
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    except RuntimeError:  # that is how transformers tells that it differs from layer to layer
        raise EngineError(UNLIKE) from None
    return kinds, (config.num_hidden_layers, 2, 0, heads, 0, size)


def context_of(config) -> float:
    """How many tokens a model of this text config reads; one without positions (ALiBi) any number.

    With "longrope" (Phi 3.5, Phi 4 mini) no more than before its extension: beyond that, one long row changes
    the angles of all rows of a batch, and of what was read before.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    extended = rope.get("rope_type") == "longrope"
    longest = getattr(config, "max_position_embeddings", math.inf)
    return rope["original_max_position_embeddings"] if extended else longest


# ----------------------------------------------------------------------------------------------- transformers


@dataclass
class Pending:
    """A turn that is being sampled."""

    key: tuple
    conversation: str
    ids: list  # of the conversation, the sampled tokens among them
    start: int  # where the turn begins
    random: random.Random
    fed: int = 0  # of how many tokens the engine has keys and values
    logprobs: list = field(default_factory=list)


WORTH_SHARING = 8  # tokens; the copy of fewer costs as much as to compute them


def alike(known: list[int], ids: list[int]) -> int:
    """How many of a turn's tokens, except for the last one, are known."""
    return min(len(os.path.commonprefix([known, ids])), len(ids) - 1)


def unread(turn: Pending) -> int:
    """How many of a turn's tokens the engine has no keys and values of."""
    return len(turn.ids) - turn.fed


class RaggedCache:
    """Keys and values of conversations of different lengths, in one tensor [layers, 2, B, heads, T, head
    size].

    Implements what `transformers` layers ask of a cache: update(). New tokens are written at their own
    positions [B, S], so rows need not be aligned; what lies behind a row's end is masked, and overwritten
    later. Layers see what lies before `end`.
    """

    def __init__(self, kv, positions, end):
        self.kv, self.positions, self.end = kv, positions, end
        self.rows = torch.arange(kv.shape[2], device=kv.device)[:, None]

    def update(self, keys, values, layer, *_, **__):
        for i, new in enumerate((keys, values)):  # new: [B, heads, S, head size]
            if new.shape[1::2] != self.kv.shape[3::2]:
                raise EngineError(UNLIKE)
            self.kv[layer, i][self.rows, :, self.positions] = new.transpose(1, 2).to(self.kv.dtype)
        return self.kv[layer, 0, :, :, : self.end], self.kv[layer, 1, :, :, : self.end]

    def get_seq_length(self, *_):
        return 0


class HFEngine:
    """Samples turns with plain `transformers` (written for 5.x): batches what is pending, feeds only what a
    conversation has new.

    Requests join the turns that are being sampled, and a turn leaves as soon as it has ended. Keys and values
    of a conversation are kept under its name until forget(). Sampling is by inverse CDF with uniforms seeded
    by the request's key: a dialogue does not depend on the others in its batch, and one played again after a
    kill comes out the same. The model is left in eval(), on a CPU with the attention of share_keys().
    """

    batching = True  # callers wait for all verdicts before poll(): rounding must not depend on timing
    remote = False

    def __init__(
        self, model, stops: list[int], max_tokens=512, temperature=1.0, seed=0, batch=256, frozen=False
    ):
        """stops: ids that end a turn. temperature: 0 for the likeliest tokens. batch: turns at once. frozen:
        whether to leave out the model's LoRA adapter."""
        self.model, self.stops, self.frozen = model, set(stops), frozen
        self.max_tokens, self.temperature, self.seed, self.batch = max_tokens, temperature, seed, batch
        self.config = model.config.get_text_config()
        self.context = context_of(self.config)
        check_context(max_tokens, self.context)
        self.kinds, shape = layers_of(self.config)
        if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
            share_keys(model)
        # On a CPU attention over few tokens is four times slower in bfloat16.
        dtype = torch.float32 if self.config._attn_implementation == "shared_keys" else model.dtype
        self.kv = torch.zeros(shape, device=model.device, dtype=dtype)
        self.waiting, self.running, self.full = [], [], []  # running turns are the first rows of kv
        self.kept = {}  # conversation → (ids, their keys and values)

    @property
    def pending(self):
        return self.waiting + self.running + self.full

    def submit(self, key, conversation, ids):
        """key: what poll() gives back, and the seed. conversation: the name of what `ids` continues."""
        if len(ids) + self.max_tokens > self.context:
            self.full.append((key, Turn([], [], "context")))
        else:
            self.waiting.append(
                Pending(key, conversation, ids[:], len(ids), random.Random(f"{self.seed}/{key}"))
            )

    @torch.no_grad()
    def poll(self):
        """[(key, Turn)]: takes in what waits, and samples until an eighth of the turns have ended."""
        self.model.eval()
        with without_adapter(self.model) if self.frozen else nullcontext():
            self.admit()
            enough, done = len(self.running) / 8, self.full + self.ended()
            self.full = []
            while len(done) < enough:
                self.sample(0, len(self.running))
                done += self.ended()
        return done

    def forget(self, conversation):
        """Drops the keys and values of a conversation that is over; with the last one, the room for them."""
        self.kept.pop(conversation, None)
        if not self.kept and not self.pending:
            self.kv = self.kv[:, :, :0, :, :0].clone()

    def at_temperature(self, temperature, frozen=False):
        """An engine with the same weights: this one, so that all share a batch, or one of its own."""
        if (temperature, frozen) == (self.temperature, self.frozen):
            return self
        return HFEngine(self.model, self.stops, self.max_tokens, temperature, self.seed, self.batch, frozen)

    def sleep(self):
        """Nothing to give back: keys and values are kept only while dialogues are played."""

    def sync(self, weights):
        """Takes over the (name, tensor) pairs that are not the engine's own."""
        self.kept.clear()  # keys and values of the old weights
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].data.copy_(tensor)

    def admit(self):
        """Lets waiting turns run, as far as the batch holds, and samples their first tokens.

        What several begin with, as the dialogues of a group do, the first of them computes for all.
        """
        first, free = len(self.running), self.batch - len(self.running)
        new, self.waiting = self.waiting[:free], self.waiting[free:]
        kept, leaders, followers = {}, [], []
        for turn in sorted(new, key=lambda turn: turn.ids):  # alike ones side by side
            known, kept[turn.key] = self.kept.pop(turn.conversation, ([], None))
            turn.fed = alike(known, turn.ids)
            common = alike(leaders[-1].ids, turn.ids) if leaders else 0
            if common < turn.fed + WORTH_SHARING:
                leaders.append(turn)
            else:
                turn.fed = common
                followers.append((turn, leaders[-1]))
        leaders.sort(key=unread, reverse=True)  # alike lengths together: little is padded
        followers.sort(key=lambda pair: unread(pair[0]), reverse=True)
        self.running += leaders + [turn for turn, _ in followers]
        self.make_room(first)
        for r, turn in enumerate(leaders, first):
            if turn.fed:
                self.kv[:, :, r, :, : turn.fed] = kept[turn.key][:, :, :, : turn.fed]
        self.read(first, first + len(leaders))
        row = {leader.key: r for r, leader in enumerate(leaders, first)}
        for r, (turn, leader) in enumerate(followers, first + len(leaders)):
            self.kv[:, :, r, :, : turn.fed] = self.kv[:, :, row[leader.key], :, : turn.fed]
        self.read(first + len(leaders), len(self.running))

    def read(self, first, last):
        """Feeds the beginnings of rows first to last, and samples their first tokens."""
        while first < last:
            some = max(1, 1024 // unread(self.running[first]))  # more would need memory and save no time
            self.sample(first, min(first + some, last))
            first += some

    def make_room(self, used):
        """Makes kv large enough for the running turns, of which `used` have something in it."""
        old, rows = self.kv, len(self.running)
        room = max((turn.start for turn in self.running), default=0) + self.max_tokens
        if rows > old.shape[2] or room > old.shape[4]:
            longer = old.shape[4] * 3 // 2 if room > old.shape[4] else old.shape[4]  # copies must be rare
            room = max(room, longer)
            self.kv = old.new_zeros(*old.shape[:2], max(rows, old.shape[2]), old.shape[3], room, old.shape[5])
            self.kv[:, :, :used, :, : old.shape[4]] = old[:, :, :used]

    def sample(self, first, last):
        """Feeds rows first to last what they have new, and samples a token of each."""
        turns, device = self.running[first:last], self.model.device
        logits = self.forward(turns, self.kv[:, :, first : first + len(turns)])
        u = torch.tensor([turn.random.random() for turn in turns], device=device, dtype=torch.float64)
        logp = (
            F.log_softmax(logits.float() / self.temperature, dim=-1) if self.temperature else logits.float()
        )
        token = self.pick(logp, u)
        chance = logp.gather(1, token[:, None])[:, 0] if self.temperature else torch.zeros(len(turns))
        for turn, t, p in zip(turns, token.tolist(), chance.tolist()):
            turn.fed = len(turn.ids)
            turn.ids.append(t)
            turn.logprobs.append(p)

    def pick(self, logp, u):
        """Tokens at uniforms u of the cumulative distribution; the likeliest ones at temperature 0."""
        if not self.temperature:
            return logp.argmax(-1)
        cdf = logp.double().exp().cumsum(-1)
        token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True)[:, 0]
        return token.clamp(max=logp.shape[1] - 1)

    def forward(self, turns, kv):
        """Logits [B, V] after each turn's last token. kv: their rows [layers, 2, B, heads, T, head size]."""
        rows = [torch.tensor(turn.ids[turn.fed :]) for turn in turns]
        new = pad_sequence(rows, batch_first=True).to(kv.device)  # [B, S]
        start = torch.tensor([turn.fed for turn in turns], device=kv.device)
        length = torch.tensor([len(row) for row in rows], device=kv.device)
        step = torch.arange(new.shape[1], device=kv.device)
        # [B, S]; padding goes behind the end, where nobody looks
        positions = start[:, None] + torch.minimum(step, length[:, None])
        cache = RaggedCache(kv, positions, max(len(turn.ids) for turn in turns))
        column = torch.arange(cache.end, device=kv.device)
        mask = (column <= positions[:, :, None])[:, None]  # [B, 1, S, T]
        masks = {"full_attention": mask}
        if "sliding_attention" in self.kinds:
            near = column > positions[:, :, None] - self.config.sliding_window
            masks["sliding_attention"] = mask & near[:, None]
        if self.config._attn_implementation == "eager":  # which adds the mask
            low = torch.finfo(self.model.dtype).min
            masks = {kind: torch.where(mask, 0.0, low).to(kv.dtype) for kind, mask in masks.items()}
        mask = masks if len(self.kinds) > 1 else masks[min(self.kinds)]
        fed = {"input_ids": new, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        hidden = self.model.get_decoder()(**fed).last_hidden_state
        return next_token_logits(self.model, hidden[torch.arange(len(new), device=kv.device), length - 1])

    def ended(self):
        """[(key, Turn)] of the turns that have ended; the last rows move into their places."""
        done, rest = [], []
        for r, turn in enumerate(self.running):
            stopped = turn.ids[-1] in self.stops
            if stopped or len(turn.ids) - turn.start == self.max_tokens:
                kv = self.kv[:, :, r, :, : turn.fed].clone()  # the last token was never fed
                self.kept[turn.conversation] = turn.ids[: turn.fed], kv
                finish = "stop" if stopped else "length"
                done.append((turn.key, Turn(turn.ids[turn.start :], turn.logprobs, finish)))
            else:
                rest.append(r)
        for r, hole in zip(reversed(rest), sorted(set(range(len(rest))) - set(rest))):
            turn = self.running[hole] = self.running[r]
            self.kv[:, :, hole, :, : turn.fed] = self.kv[:, :, r, :, : turn.fed]
        del self.running[len(rest) :]
        return done


# ------------------------------------------------------------------------------------------------------- vLLM


def is_address(path: str) -> bool:
    """Whether it names an endpoint."""
    return path.startswith(("http://", "https://"))


def uses_vllm(wanted: str, device: str) -> bool:
    """Whether vLLM samples: "vllm", or "auto" on a GPU machine that has it.

    Raises EngineError if it was asked for and is missing.
    """
    installed = importlib.util.find_spec("vllm") is not None
    if wanted == "vllm" and not installed:
        how = "`pip install -r requirements.txt vllm==0.32.0` on a GPU machine, or use --engine hf"
        raise EngineError(f"--engine vllm: vLLM is not installed; {how}")
    return wanted == "vllm" or wanted == "auto" and installed and device.startswith("cuda")


class VLLMEngine:
    """Samples turns with vLLM (written for 0.32), in this process: requests join when a dialogue moves on,
    poll() is one engine step.

    Earlier turns of a conversation are found again in vLLM's prefix cache. Log-probs are those of the
    distribution that was sampled from. Under torchrun each process has an engine of its own, but they are
    made together: all processes must take part. Once made, vLLM stays until the process ends: freed, it would
    end torch's default process group, and each process would go on alone.
    """

    batching = False  # a turn comes back as soon as it is finished; nobody has to wait for others
    remote = False
    made = []

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
        """context: tokens that a dialogue may have at most, if the model's own is not less. memory: share of
        the GPU's memory for weights, keys and values. sleeps: whether sleep() gives that memory back; on a
        GPU alone, and vLLM lets one engine of a process do so. lora: rank of an adapter, which the first
        sync() brings."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process: weights can be handed over
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB
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
        # Names what sync() has loaded, by its number; there is no file to read again.
        self.adapter = LoRARequest("student", 1, "loaded by sync") if lora else None
        options = {
            "model": path,
            "dtype": dtype,
            "seed": seed,
            "max_num_seqs": batch,
            "max_model_len": self.context,
            "gpu_memory_utilization": memory,
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "enable_sleep_mode": self.sleeps,
            # Of a multimodal model: no eyes, whose names differ from those in transformers, and no processor,
            # which checkpoints of training lack.
            "language_model_only": True,
        }
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the default would use GPU 0 in every process
            options["distributed_executor_backend"] = "external_launcher"
        if lora:
            options |= {"enable_lora": True, "max_lora_rank": lora}
        cpu = {} if gpu else {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}
        try:
            self.llm = vllm.LLM(**options, **cpu)
            self.made.append(self.llm)
        except (OSError, ValueError, RuntimeError) as e:
            hint = "lower --max-tokens or --live, raise --vllm-memory, or use --engine hf"
            told = " ".join(str(e).split())[:300] or type(e).__name__
            raise EngineError(f"vLLM cannot run {path} ({told}); {hint}") from None
        self.pending = {}  # of all temperatures: request → (key, its Turn, or None while it is sampled)

    def at_temperature(self, temperature, frozen=False):
        """An engine with the same weights, in the same vLLM; frozen: without the adapter."""
        other = copy.copy(self)
        other.temperature = temperature
        other.adapter = None if frozen else self.adapter
        return other

    def submit(self, key, conversation, ids):
        """key: what poll() gives back, and the seed."""
        import vllm
        from vllm.sampling_params import RequestOutputKind

        request = f"{id(self)}/{key}"
        if len(ids) + self.max_tokens > self.context:
            self.pending[request] = key, Turn([], [], "context")
            return
        draw = zlib.crc32(f"{self.seed}/{key}".encode())
        options = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop_token_ids": self.stops,
            "ignore_eos": True,  # of generation_config.json; only those above end a turn in the template
            "seed": draw,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        how = vllm.SamplingParams(**options, logprobs=0, detokenize=False)
        given = {"prompt_token_ids": ids}
        self.llm.llm_engine.add_request(request, given, how, lora_request=self.adapter)
        self.pending[request] = key, None

    def poll(self):
        """[(key, Turn)] of what one step of vLLM finished, at whatever temperature."""
        if any(turn is None for _, turn in self.pending.values()):
            for result in self.llm.llm_engine.step():
                if result.finished:
                    said = result.outputs[0]
                    chances = [at[token].logprob for at, token in zip(said.logprobs, said.token_ids)]
                    turn = Turn(list(said.token_ids), chances, said.finish_reason)
                    self.pending[result.request_id] = self.pending[result.request_id][0], turn
        done = {request: value for request, value in self.pending.items() if value[1]}
        for request in done:
            del self.pending[request]
        return list(done.values())

    def forget(self, conversation):
        """The prefix cache drops what is not used."""

    def sleep(self):
        """Gives the memory of weights, keys and values to the trainer until the next sync()."""
        if self.sleeps:
            self.llm.llm_engine.sleep(level=2)

    def sync(self, weights):
        """Takes over (name, tensor) pairs, and forgets keys and values of the old ones. Follows a sleep()."""
        if self.sleeps:
            torch.cuda.empty_cache()
            self.llm.llm_engine.wake_up(tags=["weights"])
        cast = ((name, tensor.to(self.dtype)) for name, tensor in weights)
        if self.lora:
            self.load_adapter(cast)
        else:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": cast})
            self.llm.apply_model(repack_head)
        self.llm.reset_prefix_cache()
        if self.sleeps:
            self.llm.llm_engine.wake_up(tags=["kv_cache"])

    def load_adapter(self, weights):
        """Replaces the adapter that requests name; vLLM reads it from files, at once, and keeps it."""
        from vllm.lora.request import LoRARequest

        with tempfile.TemporaryDirectory() as folder:
            save_adapter(folder, weights, self.lora, self.path)
            self.llm.llm_engine.add_lora(LoRARequest("student", 1, folder, load_inplace=True))


def repack_head(model):
    """On CPUs vLLM keeps a packed copy of the head, which a reload leaves stale if the head is tied."""
    for name, head in model.named_modules():
        if name.split(".")[-1] == "lm_head" and hasattr(head, "cpu_linear"):
            head.quant_method.process_weights_after_loading(head)


# --------------------------------------------------------------------------------------------------- endpoint


# How servers refuse a dialogue that does not fit: OpenAI, vLLM, SGLang and llama.cpp speak of the context.
TOO_LONG = re.compile(r"context|too long|max length|max_new_tokens|less than \d+ tokens", re.I)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would take the key along to another host."""

    def redirect_request(self, *_):
        return None


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, http://HOST:PORT/v1#MODEL; its key is in OPENAI_API_KEY.

    Chat template and engine in one: its views are the messages themselves, what it samples is text. A request
    that fails, or whose reply is broken, is made again up to five times; then EngineError tells.
    """

    batching = False
    remote = True  # it works on its own

    def __init__(self, address: str, option="--teacher", max_tokens=512, temperature=1.0):
        """option: of the command line, for messages."""
        self.url, _, self.name = address.partition("#")
        self.option, self.max_tokens, self.temperature, self.pending = option, max_tokens, temperature, {}
        self.opener = urllib.request.build_opener(NoRedirect)
        self.answered, self.misfits = False, 0
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]*", self.key):  # http.client would show it
            raise EngineError("OPENAI_API_KEY: holds a character that no key has; set it anew")
        if not self.name:
            told = f"{option} {address}: names no model"
            raise EngineError(f"{told}; write it behind the address, as in {self.url}#MODEL")

    def view(self, messages):
        return messages

    def text(self, said):
        return said

    def submit(self, key, conversation, messages):
        self.pending[key] = answer = Future()

        def work():
            try:
                answer.set_result(self.ask(messages))
            except Exception as e:  # raised again by poll()
                answer.set_exception(e)

        threading.Thread(target=work, daemon=True).start()  # a daemon, so that Ctrl-C ends at once

    def poll(self, patience=0.05):
        """[(key, Turn)] of what has arrived; waits for so many seconds if nothing has."""
        wait(self.pending.values(), timeout=patience, return_when=FIRST_COMPLETED)
        arrived = [key for key, answer in self.pending.items() if answer.done()]
        return [(key, self.pending.pop(key).result()) for key in arrived]

    def forget(self, conversation):
        """Nothing is kept."""

    def ask(self, messages):
        """The Turn that the endpoint answers with. Raises EngineError."""
        body = {"model": self.name, "messages": messages, "max_tokens": self.max_tokens}
        body["temperature"] = self.temperature
        headers = {"Content-Type": "application/json"}
        headers["Authorization"] = f"Bearer {self.key}"
        where = f"{self.url.rstrip('/')}/chat/completions"
        for attempt in range(6):
            pause = 0.5 * 2**attempt
            try:
                request = urllib.request.Request(where, json.dumps(body).encode(), headers)
                with self.opener.open(request, timeout=600) as reply:
                    turn = turn_of(json.load(reply))
                self.answered = True
                return turn
            except urllib.error.HTTPError as e:
                told = body_of(e)
                reason = f"{e} {told}"
                if e.code in (400, 413, 422) and TOO_LONG.search(told):
                    self.misfits += 1
                    if self.answered or self.misfits < 10:  # else --max-tokens itself may not fit
                        return Turn("", [], "context")
                if e.code < 500 and e.code not in (408, 409, 425, 429):
                    break  # it will not answer otherwise next time
                wished = e.headers.get("Retry-After", "")
                pause = min(60, int(wished)) if wished.isdecimal() else pause
            except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as e:
                reason = e
            if attempt < 5:
                time.sleep(pause)
        advice = "check the address, the model's name and OPENAI_API_KEY"
        told = f"{type(reason).__name__}: {reason}".replace(self.key or "\0", "…").split("\n")[0][:300]
        raise EngineError(f"{self.option} {self.url}: does not answer ({told}); {advice}")


def body_of(error):
    """The beginning of what an endpoint says with an HTTPError, in one line."""
    try:
        return " ".join(error.read(1000).decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        return ""


def turn_of(reply):
    """The Turn in a chat completion. Raises ValueError, LookupError or TypeError if there is none."""
    choice = reply["choices"][0]
    content = choice["message"]["content"]
    if not isinstance(content, str | None):
        raise TypeError(f"the content is no text but {type(content).__name__}")
    (content or "").encode()  # raises ValueError for a lone surrogate, which could not be logged
    return Turn(content or "", [], "length" if choice.get("finish_reason") == "length" else "stop")
