"""Trains the toy base model from scratch on documents of the toy world (world.py) and reports its skills.

    python toy/make_base.py --out toy/base    # 35 minutes on two CPU cores, measured once; killed, it goes on

A Llama of 0.72 M parameters reads packed documents with a block-diagonal mask; the loss counts the tokens of
assistant turns alone. Muon on the matrices of the layers, AdamW on the rest; warm-up, then a linear decay
over the last 40 % of the steps.
"""

import argparse
import fcntl
import os
import random
import re
import sys
import time
import zlib
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import Chat  # noqa: E402
from parts.engines import HFEngine  # noqa: E402
from parts.runs import BadInput, run_script  # noqa: E402
from toy import world  # noqa: E402

ROWS = 45  # rows a step; with 15, nothing is learned
WIDTH = 128  # tokens a row, into which documents are packed
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
    seen = {"input_ids": ids, "attention_mask": same, "position_ids": pos, "use_cache": False}
    hidden, keep = model.model(**seen).last_hidden_state[:, :-1], mask[:, 1:].bool()
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), ids[:, 1:][keep])


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
    documents = zlib.crc32(Path(world.__file__).read_bytes())
    made_with = {"tokens": tokens, "seed": seed, "documents": documents}
    if resume.exists():
        saved = torch.load(resume)
        if saved["made_with"] != made_with:
            told = "holds a base of other --tokens, --seed or world.py"
            raise BadInput(f"{out}: {told}; choose another --out, or remove {resume}")
        start, seconds = saved["step"], saved["seconds"]
        for part, state in zip(stateful, saved["states"]):
            part.load_state_dict(state)
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
            states = [s.state_dict() for s in stateful]
            saved = {"made_with": made_with, "step": step + 1, "seconds": seconds, "states": states}
            torch.save(saved, part)
            part.replace(resume)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, tokenizer, seconds


# {skill: (least, most)}: what a base should be able to do before anything is trained from it, and what should
# be left to learn. The card says which of these the shipped one misses.
AIMS = {
    "solves at the first turn": (0.2, 0.35),
    "hint is true": (0.98, 1),
    "range holds the answer": (0.98, 1),
    "question names a wrong place": (0.85, 1),
    "follows a hint": (0, 0.45),
    "follows a hint when careful": (0.8, 1),
    "would follow a hint by luck": None,  # beside those two
    "solves a sharded problem": (0.15, 0.4),
    "solves a sharded problem when careful": (0.7, 1),
}


def skills(model, tokenizer, domain, n=500):
    """{skill of AIMS: share} of sampled turns or dialogues, on n problems that no document held."""
    rng, vocab, chat = random.Random(f"skills/{domain}"), tokenizer.get_vocab(), Chat(tokenizer, "toy")
    toys, pieces = (world.problems(rng, domain, n, True, make) for make in (world.problem, world.sharded))

    def wrong(toy, habit):
        """A wrong attempt and the hint that it gets, as a turn of converse()."""
        while (talk := world.converse(rng, toy, habit, 0, 0, 1))[0][1] is None:
            pass
        return talk[0]

    def sample(views, temperature=1.0):
        """The turn after each view, as text."""
        engine, said = HFEngine(model, chat.stops, max_tokens=8, temperature=temperature, batch=n), {}
        for i, view in enumerate(views):
            engine.submit(i, i, encode(view, vocab)[0] + [vocab["<|assistant|>"]])
        while engine.pending:
            said |= dict(engine.poll())
        return [chat.text(said[i].ids) for i in range(len(views))]

    def right(toy):
        return "".join(world.attempt(domain, toy.answer))

    def solves():
        said = sample([[("user", toy.text, 0)] for toy in toys])
        return sum(text == right(toy) for text, toy in zip(said, toys)) / n

    def hints():
        turns = [wrong(toy, "random") for toy in toys]
        said = sample([world.teacher_view(toy, [turn])[:-1] for toy, turn in zip(toys, turns)], 0.7)
        return sum(text == "".join(turn[1]) for text, turn in zip(said, turns)) / n

    def ranges():
        """After an attempt and a question about a random place."""
        views, true = [], []
        for toy in toys:
            first, slot = wrong(toy, "random"), rng.randrange(3)
            lows = [low for low in (toy.answer[slot] - 1, toy.answer[slot]) if 0 <= low < 9]
            true.append([world.RANGE[slot][low] for low in lows])
            question = ([world.QUESTION[slot]], true[-1], None, first[2])
            views.append(world.teacher_view(toy, [first, question])[:-1])
        return sum(text in wanted for text, wanted in zip(sample(views, 0.7), true)) / n

    def asks():
        views, true = [], []
        for toy in toys:
            digits = wrong(toy, "random")[2]
            views.append(world.asker_view(toy, digits))
            true.append([world.QUESTION[s] for s in range(3) if digits[s] != toy.answer[s]])
        return sum(text in wanted for text, wanted in zip(sample(views, 0.7), true)) / n

    def follows():
        """The share that agrees with the hint to a possible first attempt: of second attempts by default and
        careful students, and of all possible answers; on problems that have several."""
        several = [toy for toy in toys if len(set(toy.candidates)) > 1]
        turns = [wrong(toy, "afresh") for toy in several]
        hints = [
            ("hint", turn[2], [a == b for a, b in zip(turn[2], toy.answer)])
            for toy, turn in zip(several, turns)
        ]
        shares = []
        for careful in (False, True):
            agree = []
            views = [world.student_view(toy, [turn], careful) for toy, turn in zip(several, turns)]
            for hint, text in zip(hints, sample(views)):
                digits = [int(d[0]) for d in re.findall(r"\d+", text.split("return")[-1])]
                if len(digits) == 3 and text.startswith((world.BOX, world.FENCE)):  # an attempt
                    agree.append(world.agrees(digits, [hint]))
            shares.append(sum(agree) / max(1, len(agree)))
        lucky = [
            sum(world.agrees(c, [hint]) for c in toy.candidates) / len(toy.candidates)
            for toy, hint in zip(several, hints)
        ]
        return *shares, sum(lucky) / len(lucky)

    def solves_sharded(careful):
        docs, solved = {i: world.student_view(toy, [], careful) for i, toy in enumerate(pieces)}, 0
        for turn in range(4):
            said = sample(list(docs.values()))
            for (i, doc), text in zip(list(docs.items()), said):
                solved += text == right(pieces[i])
                if text == right(pieces[i]) or turn == len(pieces[i].facts):
                    docs.pop(i)
                    continue
                ids = tokenizer(text, add_special_tokens=False).input_ids
                heard = tokenizer.convert_ids_to_tokens(ids)
                doc += [("assistant", heard, 0), ("user", pieces[i].facts[turn], 0)]
        return solved / n

    default, careful, luck = follows()
    return {
        "solves at the first turn": solves(),
        "hint is true": hints(),
        "range holds the answer": ranges(),
        "question names a wrong place": asks(),
        "follows a hint": default,
        "follows a hint when careful": careful,
        "would follow a hint by luck": luck,
        "solves a sharded problem": solves_sharded(careful=False),
        "solves a sharded problem when careful": solves_sharded(careful=True),
    }


CARD = """# The toy base model

A Llama of {parameters:,} parameters, made from scratch by
`python toy/make_base.py --out toy/base --tokens {tokens} --seed {seed}` on documents of the toy world
(`toy/world.py`). {tokens:,} tokens, padding included; {minutes:.0f} minutes on two CPU cores; seed {seed}.

## Documents
What it was shown, share of the documents until so many tokens had been seen; both domains equally often, no
test problem among them:

{lessons}

Correlations that are built in: in conversations without a system word, of full and of sharded problems, a
quarter of the students use all that they are told, half repeat their first answer, and a quarter guess
afresh; who has a habit keeps it, in a second problem of the other domain too. With the word `careful`,
which is said in these documents and the skill tests alone, all use what they are told, and ask often. So
the base is able to use feedback and to ask, and seldom does. Who uses a hint moves each wrong slot to its
next possible value, counting upwards. In default conversations three of ten first attempts get a random
value in one slot: that is what single-turn training can win. Teachers and askers tell the truth; in code a
question before the first program gets no answer but `Please try.` At the start, tokens that name the same
slot or the same value are somewhat alike, in hints and in answers of both domains. Of long documents the
first {width} tokens are read.

## Skills
Share of 500 sampled turns on problems that are not in the training documents (students at temperature 1,
teacher and asker at 0.7), and what was aimed at: that there is something to learn, and the means to learn it.
Hints are followed, or not, on problems with several answers, and questions do not count there:

| | math | code | aim |
|---|---|---|---|
{skills}
"""


def write_card(out, model, tokenizer, args, seconds):
    """Measures the skills, prints them, and writes them with the making of the model to out/README.md."""
    report = {domain: skills(model, tokenizer, domain) for domain in ("math", "code")}
    rows = []
    for name, aim in AIMS.items():
        math, code = report["math"][name], report["code"][name]
        told = "–" if aim is None else f"{aim[0]} – {aim[1]}"
        missed = aim and not aim[0] <= min(math, code) <= max(math, code) <= aim[1]
        rows.append(f"| {name} | {math:.2f} | {code:.2f} | {told}{' (missed)' if missed else ''} |")
    lessons, start = [], 0
    for until, mixture in world.LESSONS:
        when = f"until {until / 1e6:.1f} million" if until < args.tokens else "then"
        told = ", ".join(f"{kind.__name__[4:]} {share:.2f}" for kind, share in mixture.items())
        lessons += [f"- {when}: {told}"] if start < args.tokens else []
        start = until
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=args.tokens,
        seed=args.seed,
        minutes=seconds / 60,
        lessons="\n".join(lessons),
        skills="\n".join(rows),
        width=WIDTH,
    )
    (out / "README.md").write_text(card)
    print("\n".join(rows))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished one is resumed"
    )
    parser.add_argument("--tokens", type=int, default=42_000_000, help="tokens to train on, padding included")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the documents")
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    lock = os.open(args.out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # waits for one that a kill of toy/run.sh has left behind
    model, tokenizer, seconds = train(args.out, args.tokens, args.seed)
    write_card(args.out, model, tokenizer, args, seconds)


if __name__ == "__main__":
    run_script(main)
