"""Packed attention, which training on a GPU uses: log-probs and gradients are those of padded rows."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_lora import shake
from torch.nn.attention import varlen
from transformers import AutoConfig

from common import Dialogue, as_tensors, masked_logprobs
from parts import packed, sharded
from parts.engines import load_model


def plain_varlen_attn(query, key, value, ends, _, longest, __, scale=None, window_size=None, enable_gqa=None):
    """What torch's varlen_attn returns for causal attention: row by row, on any device, in any dtype."""
    rows = []
    for start, end in pairwise(ends.tolist()):
        assert end - start <= longest
        each = [t[None, start:end].transpose(1, 2) for t in (query, key, value)]  # [1, heads, n, head size]
        seen = torch.ones(end - start, end - start, dtype=torch.bool, device=query.device).tril()
        seen = seen if window_size[0] < 0 else seen.triu(-window_size[0])
        row = F.scaled_dot_product_attention(*each, seen, scale=scale, enable_gqa=enable_gqa)
        rows.append(row.transpose(1, 2)[0])
    return torch.cat(rows)


@pytest.fixture
def plain(monkeypatch):
    """Puts plain_varlen_attn in the place of torch's, which needs a GPU."""
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen_attn)


def unequal_rows():
    """(ids, mask) of rows of 9 to 40 tokens; the masks end before the rows do, and one begins with them."""
    source, rows = torch.Generator().manual_seed(0), []
    for first, length in ((5, 40), (5, 23), (0, 31), (5, 9)):
        ids = torch.randint(5, 80, (length,), generator=source).tolist()
        mask = [int(i >= first and i % 16 < 8) for i in range(length)]
        rows.append(Dialogue("", ids=ids, mask=mask))
    return as_tensors(rows)


def logprobs_and_gradients(folder, packs, lora=None):
    model = sharded.load_trained(folder, lora)
    shake(model)
    policy = sharded.Policy(model, masked_logprobs, packs).train()
    logprobs = policy(*unequal_rows(), 0.7)
    (logprobs * torch.arange(1, len(logprobs) + 1)).mean().backward()
    return logprobs.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


def assert_packing_changes_nothing(folder, lora=None):
    """Log-probs and gradients of packed rows are those of padded ones."""
    (ours, gradients), (padded, others) = (logprobs_and_gradients(folder, p, lora) for p in (True, False))
    assert (ours - padded).abs().max() <= 1e-4 and padded.std() > 0.1
    assert gradients.keys() == others.keys() and any(g.abs().max() > 1e-3 for g in gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - others[name]).abs().max() <= 1e-3 * max(1e-2, others[name].abs().max()), name


@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize("name", ["llama", "gemma", "eyes", "mistral", "qwen"])
def test_packed_rows_have_the_logprobs_and_gradients_of_padded_ones(name, lora, shapes, plain):
    assert_packing_changes_nothing(shapes[name], lora)


# More classes of random models that may be packed
ALSO = "Apertus Cohere2 Exaone4 Glm4 Glm4Moe Granite Mixtral Olmo3 Phi3 Qwen3Moe SeedOss SmolLM3".split()


@pytest.mark.parametrize("name", ALSO)
def test_packed_rows_of_other_classes_have_them_too(name, tiny, plain):
    assert_packing_changes_nothing(tiny(name))


def test_the_classes_that_are_packed_are_those_tested_here(shapes, tiny):
    folders = [*shapes.values(), *map(tiny, ALSO)]
    types = {AutoConfig.from_pretrained(folder).get_text_config().model_type for folder in folders}
    assert types == set(packed.TYPES)
    assert f"Mistral3, {', '.join(ALSO)}." in (ROOT / "parts" / "README.md").read_text()


@pytest.fixture
def gpu(monkeypatch):
    """What packed.fits asks for of a GPU."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.mark.parametrize("name", ["llama", "gemma", "eyes", "mistral", "qwen"])
def test_training_on_a_gpu_packs_with_all_processes_alike(name, shapes, gpu):
    loaded = [load_model(shapes[name], device) for device in ("cpu", "meta")]  # of rank 0, of the others
    assert all(packed.fits(m.config.get_text_config(), "cuda", "bfloat16") for m in loaded)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu"},
        {"dtype": "float32"},
        {"head_dim": 512},
        {"model_type": "gemma2"},
        {"use_bidirectional_attention": True},
        {"_attn_implementation": "eager"},
    ],
)
def test_other_attention_devices_and_dtypes_are_not_packed(change, shapes, gpu):
    config = AutoConfig.from_pretrained(shapes["gemma"], attn_implementation="sdpa")
    where = {name: change.pop(name, value) for name, value in (("device", "cuda"), ("dtype", "bfloat16"))}
    for name, value in change.items():
        setattr(config, name, value)
    assert not packed.fits(config, **where)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's varlen_attn needs a GPU")
@pytest.mark.parametrize("window", [(-1, 0), (7, 0), (300, 0)])
@pytest.mark.parametrize("head", [64, 128, 256])
def test_torchs_attention_is_the_plain_one(window, head):
    torch.manual_seed(0)
    ends = torch.tensor([0, 1, 130, 700, 717], dtype=torch.int32, device="cuda")
    query, key, value = (torch.randn(717, n, head, device="cuda").bfloat16() for n in (8, 2, 2))
    towards = torch.randn_like(query)

    def outputs(attention, dtype):
        each = [t.to(dtype).requires_grad_() for t in (query, key, value)]
        arguments = {"scale": 0.1, "window_size": window, "enable_gqa": True}
        output = attention(*each, ends, ends, 570, 570, **arguments)
        return [output, *torch.autograd.grad(output, each, towards.to(dtype))]

    exact = outputs(plain_varlen_attn, torch.float32)
    for ours, wanted in zip(outputs(varlen.varlen_attn, torch.bfloat16), exact):
        assert (ours - wanted).norm() <= 0.02 * wanted.norm()
