"""Trains the toy base model from scratch on documents of the toy world (world.py) and reports its skills.

    python toy/make_base.py --out toy/base           # about an hour on one CPU core; killed, the same command goes on
    python toy/make_base.py --out toy/base --report  # only measures the skills again and rewrites the card

A Llama of 0.67 M parameters reads packed documents with a block-diagonal mask; the loss counts the tokens of assistant turns alone.
Muon on the matrices of the layers, AdamW on the rest; warm-up, then a linear decay over the last 40 % of the steps.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from toy import world

ROWS, WIDTH = 45, 128  # documents are packed into rows of this many tokens; so many rows a step (with 15, nothing is learned)
WARMUP, DECAY = 40, 0.4
SAVE_EVERY = 100


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024) in float32, matrices of one shape at a time: torch's own works in bfloat16, slow on most CPUs."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for shape in sorted({p.shape for p in group["params"]}):
                params = [p for p in group["params"] if p.shape == shape]
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                x = torch.stack([p.grad.lerp(self.state[p]["momentum"], group["momentum"]) for p in params])
                x = x.mT if shape[0] > shape[1] else x
                x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
                for _ in range(5):  # Newton-Schulz towards the nearest orthogonal matrix
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.mT if shape[0] > shape[1] else x
                for p, update in zip(params, x):
                    p.add_(update, alpha=-group["lr"] * max(1, shape[0] / shape[1]) ** 0.5)


def new_model(vocab):
    config = LlamaConfig(vocab_size=vocab, hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=384,
                         max_position_embeddings=512, pad_token_id=0, bos_token_id=None, eos_token_id=5, tie_word_embeddings=False)  # fmt: skip
    return LlamaForCausalLM(config)


def encode(doc, vocab):
    """Token ids of a document and a mask of the tokens to learn: assistant turns marked as trained, with their end token."""
    ids, mask = [], []
    for role, tokens, trained in doc:
        turn = [f"<|{role}|>", *tokens, "<|end|>"]
        ids += [vocab[t] for t in turn]
        mask += [0] + [trained] * (len(turn) - 1)
    return ids[:WIDTH], mask[:WIDTH]


def batches(vocab, seed, step):
    """Endless packed batches from the given step on: ids, mask, document number, position; all int64 [ROWS, WIDTH]."""
    while True:
        rng = random.Random(f"{seed}/{step}")
        ids, mask, doc, pos = (torch.zeros(ROWS, WIDTH, dtype=torch.long) for _ in range(4))
        used, number = [0] * ROWS, 0
        while True:
            new, learn = encode(world.document(rng, step * ROWS * WIDTH), vocab)
            row = next((r for r in range(ROWS) if used[r] + len(new) <= WIDTH), None)
            if row is None:
                break
            number += 1
            span = slice(used[row], used[row] + len(new))
            ids[row, span], mask[row, span] = torch.tensor(new), torch.tensor(learn)
            doc[row, span], pos[row, span] = number, torch.arange(len(new))
            used[row] += len(new)
        step += 1
        yield ids, mask, doc, pos


def loss_of(model, ids, mask, doc, pos):
    """Mean cross-entropy of the masked tokens."""
    same = (doc[:, :, None] == doc[:, None, :]).tril()[:, None]  # [B, 1, T, T]: a token sees the earlier ones of its document
    logits = model(input_ids=ids, attention_mask=same, position_ids=pos, use_cache=False).logits[:, :-1]
    keep = mask[:, 1:].bool()
    return torch.nn.functional.cross_entropy(logits[keep], ids[:, 1:][keep])


def train(out, tokens, seed):
    """Trains to the given number of tokens (padding included); writes the model to `out`, the state to `out`/resume.pt."""
    torch.manual_seed(seed)
    tokenizer = world.tokenizer()
    vocab = tokenizer.get_vocab()
    model = new_model(len(vocab))
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    outer = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    optimizers = [
        Muon(inner, lr=0.015),
        torch.optim.AdamW(outer, lr=2.5e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = tokens // (ROWS * WIDTH)

    def schedule(step):
        return min((step + 1) / WARMUP, (steps - step) / (DECAY * steps), 1.0)

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    stateful = [model, *optimizers, *schedulers]
    start, seconds, resume = 0, 0.0, out / "resume.pt"
    if resume.exists():
        saved = torch.load(resume)
        start, seconds = saved["step"], saved["seconds"]
        for part, state in zip(stateful, saved["states"]):
            part.load_state_dict(state)
    out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="base", unit="step", mininterval=5)
    clock, recent = time.time(), []
    for step, batch in zip(bar, batches(vocab, seed, start)):
        loss = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in optimizers + schedulers:
            part.step()
        model.zero_grad()
        recent = [*recent[-99:], loss.item()]
        bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            seconds, clock = seconds + time.time() - clock, time.time()
            part = out / "resume.part"
            torch.save({"step": step + 1, "seconds": seconds, "states": [s.state_dict() for s in stateful]}, part)
            part.replace(resume)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=22_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.out, args.tokens, args.seed)
