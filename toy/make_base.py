"""Trains the toy base model from scratch on documents of the toy world (world.py) and reports its skills.

    python toy/make_base.py --out toy/base    # half an hour on one CPU core; killed, the same command goes on

A Llama of 0.67 M parameters reads packed documents with a block-diagonal mask; the loss counts the tokens of
assistant turns alone. Muon on the matrices of the layers, AdamW on the rest; warm-up, then a linear decay
over the last 40 % of the steps.
"""

import argparse
import random
import re
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import Chat  # noqa: E402
from parts.engines import HFEngine  # noqa: E402
from toy import world  # noqa: E402

ROWS, WIDTH = (
    45,
    128,
)  # documents are packed into rows of this many tokens; so many rows a step (with 15, nothing is learned)
WARMUP, DECAY = 40, 0.4
SAVE_EVERY = 100


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024), in float32: torch's own works in bfloat16, slow on most CPUs."""

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
    """A fresh model, in which the embeddings of tokens that say something alike are somewhat alike."""
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=5,
        tie_word_embeddings=False,
    )
    model, vectors = LlamaForCausalLM(config), defaultdict(lambda: torch.randn(config.hidden_size))
    features = world.features()
    for word, i in sorted(vocab.items(), key=lambda item: item[1]):  # drawn in a fixed order
        if word not in features:
            continue
        vector = sum(vectors[f] for f in features[word])
        model.model.embed_tokens.weight.data[i] = 0.1 * vector
        model.lm_head.weight.data[i] = 0.02 * vector
    return model


def encode(doc, vocab):
    """Token ids of a document and a mask of what is learned: assistant turns marked so, with their end."""
    ids, mask = [], []
    for role, tokens, trained in doc:
        turn = [f"<|{role}|>", *tokens, "<|end|>"]
        ids += [vocab[t] for t in turn]
        mask += [0] + [trained] * (len(turn) - 1)
    return ids[:WIDTH], mask[:WIDTH]


def batches(vocab, seed, step):
    """Endless packed batches from a step on: ids, mask, document, position; int64 [ROWS, WIDTH] each."""
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
    same = (doc[:, :, None] == doc[:, None, :]).tril()[
        :, None
    ]  # [B, 1, T, T]: a token sees the earlier ones of its document
    logits = model(input_ids=ids, attention_mask=same, position_ids=pos, use_cache=False).logits[:, :-1]
    keep = mask[:, 1:].bool()
    return torch.nn.functional.cross_entropy(logits[keep], ids[:, 1:][keep])


def train(out, tokens, seed):
    """Trains on so many tokens, padding included; writes the model to `out`, the state to `out`/resume.pt."""
    torch.manual_seed(seed)
    tokenizer = world.tokenizer()
    vocab = tokenizer.get_vocab()
    model = new_model(vocab)
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
            torch.save(
                {"step": step + 1, "seconds": seconds, "states": [s.state_dict() for s in stateful]}, part
            )
            part.replace(resume)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, tokenizer, seconds


def skills(model, tokenizer, domain, n=500):
    """{skill: share of n sampled turns that are right}, on problems that no document of the training held."""
    rng, vocab, chat = random.Random(f"skills/{domain}"), tokenizer.get_vocab(), Chat(tokenizer, "toy")
    toys, first = world.problems(rng, domain, n, held_out=True), {}
    for toy in toys:  # wrong attempts with truthful answers, and questions
        while (talk := world.converse(rng, toy, "random", 0, 0, 1))[0][1] is None:
            pass
        first[id(toy)] = talk

    def asked(toy):
        slot, attempt = rng.randrange(3), first[id(toy)][0]
        return [
            attempt,
            ([world.QUESTION[slot]], [world.RANGE[slot][min(8, toy.answer[slot])]], None, attempt[2]),
        ]

    def share(view, right, temperature=1.0):
        """Of the turns sampled after view(toy), those for which right(toy, text)."""
        engine, said = HFEngine(model, chat.stops, max_tokens=8, temperature=temperature, batch=n), {}
        for i, toy in enumerate(toys):
            engine.submit(i, i, encode(view(toy), vocab)[0] + [vocab["<|assistant|>"]])
        while engine.pending:
            said |= dict(engine.poll())
        return sum(right(toy, chat.text(said[i].ids)) for i, toy in enumerate(toys)) / n

    def follows(toy, text):
        digits = [int(d[0]) for d in re.findall(r"\d+", text.split("return")[-1])]
        return len(digits) == 3 and world.agrees(
            digits,
            [("hint", first[id(toy)][0][2], [a == b for a, b in zip(first[id(toy)][0][2], toy.answer)])],
        )

    def asker_view(toy):
        wrong = first[id(toy)][0][2]
        return [
            ("user", [world.ASK, *toy.text, *world.attempt(domain, wrong), *world.knowledge(toy, wrong)], 0)
        ]

    def names_wrong(toy, text):
        return text in [world.QUESTION[s] for s in range(3) if first[id(toy)][0][2][s] != toy.answer[s]]

    def in_range(toy, text):
        return any(
            text == world.RANGE[s][low]
            for s in range(3)
            for low in (toy.answer[s] - 1, toy.answer[s])
            if 0 <= low < 9
        )

    return {
        "solves at the first turn": share(
            lambda toy: [("user", toy.text, 0)],
            lambda toy, text: text == "".join(world.attempt(domain, toy.answer)),
        ),
        "hint is true": share(
            lambda toy: world.teacher_view(toy, first[id(toy)])[:-1],
            lambda toy, text: text == "".join(first[id(toy)][0][1]),
            0.7,
        ),
        "range holds the answer": share(lambda toy: world.teacher_view(toy, asked(toy))[:-1], in_range, 0.7),
        "question names a wrong place": share(asker_view, names_wrong, 0.7),
        "follows a hint": share(lambda toy: world.student_view(toy, first[id(toy)], False), follows),
        "follows a hint when careful": share(
            lambda toy: world.student_view(toy, first[id(toy)], True), follows
        ),
    }


CARD = """# The toy base model

A Llama of {parameters:,} parameters, made from scratch by
`python toy/make_base.py --out toy/base --tokens {tokens} --seed {seed}` on documents of the toy world
(`toy/world.py`). {tokens:,} tokens, padding included; {minutes:.0f} minutes on one CPU core; seed {seed}.

## Documents
What it was shown, share of the documents until so many tokens had been seen; both domains equally often, no
test problem among them:

{lessons}

Correlations that are built in: in conversations without a system word a quarter of the students use the
hints, 45 % repeat themselves and 30 % guess afresh; with the word `careful`, which no script of the kit ever
says, all use the hints and ask often. So the base is able to use feedback and seldom does. Teachers and
askers tell the truth.

## Skills
Share of 500 sampled turns on problems that are not in the training documents (students at temperature 1,
teacher and asker at 0.7):

| | math | code |
|---|---|---|
{skills}
"""


def write_card(out, model, tokenizer, args, seconds):
    """Measures the skills, prints them, and writes them with the making of the model to out/README.md."""
    report = {domain: skills(model, tokenizer, domain) for domain in ("math", "code")}
    rows = "\n".join(
        f"| {name} | {report['math'][name]:.2f} | {report['code'][name]:.2f} |" for name in report["math"]
    )
    lessons = "\n".join(
        f"- {f'until {until / 1e6:.1f} million' if until < 1e9 else 'then'}: "
        + ", ".join(f"{d.__name__[4:]} {w:.2f}" for d, w in m.items())
        for until, m in world.LESSONS
    )
    count = sum(p.numel() for p in model.parameters())
    card = CARD.format(
        parameters=count,
        tokens=args.tokens,
        seed=args.seed,
        minutes=seconds / 60,
        lessons=lessons,
        skills=rows,
    )
    (out / "README.md").write_text(card)
    print(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished one is resumed"
    )
    parser.add_argument("--tokens", type=int, default=22_000_000, help="tokens to train on, padding included")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the documents")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer, seconds = train(args.out, args.tokens, args.seed)
    write_card(args.out, model, tokenizer, args, seconds)
