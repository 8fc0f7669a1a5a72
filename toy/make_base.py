"""Trains the toy base model from scratch on documents of the toy world (world.py) and measures its skills.

    python toy/make_base.py --out toy/base    # 35 minutes on two CPU cores, measured once
    python toy/make_base.py --skills --out toy/skills    # the base that all drawn worlds start from
    python toy/make_base.py --world 3 --pretrained toy/skills --out runs/world3    # see worlds.py

Not part of the method. If the command is killed, the same command resumes. The model is a Llama of 0.72
million parameters (with --hidden 256: 2.71). Documents are packed into rows with a block-diagonal attention
mask; the loss counts assistant turns only. Muon trains the matrices of the layers, AdamW all other weights.
The learning rate warms up, stays constant, and decays linearly over the last 40 % of the steps.
"""

import argparse
import fcntl
import json
import os
import random
import re
import sys
import time
import zlib
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from parts.chat import Chat  # noqa: E402
from parts.engines import HFEngine, load_model  # noqa: E402
from parts.runs import NATURAL, BadInput, run_script, write_atomically  # noqa: E402
from toy import world, worlds  # noqa: E402

ROWS = 45  # of a batch; with 15 the model learns nothing
WIDTH = 128  # tokens of a row
HIDDEN = 128  # dimension of the model's hidden states
WARMUP, DECAY = 40, 0.4  # steps; share of all steps
SAVE_EVERY = 100  # steps


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024) in float32. PyTorch's own uses bfloat16, which is slow on most CPUs."""

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
                for _ in range(5):  # Newton-Schulz iterations towards the nearest orthogonal matrix
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.mT if shape[0] > shape[1] else x
                for p, update in zip(params, x):
                    p.add_(update, alpha=-group["lr"] * max(1, shape[0] / shape[1]) ** 0.5)


def new_model(vocab, hidden, drawn):
    """A new model. Tokens with common features (world.features) start with similar embeddings.

    hidden: dimension of its hidden states, a multiple of 32. drawn: the world.
    """
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=hidden,
        num_hidden_layers=3,
        num_attention_heads=hidden // 32,
        intermediate_size=3 * hidden,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=5,
        tie_word_embeddings=False,
    )
    model, vectors = LlamaForCausalLM(config), defaultdict(lambda: torch.randn(hidden))
    features = world.features(drawn)
    for word, i in sorted(vocab.items(), key=lambda item: item[1]):  # a fixed order: the vectors are random
        if word not in features:
            continue
        vector = sum(vectors[feature] for feature in features[word])
        model.model.embed_tokens.weight.data[i] = 0.1 * vector
        model.lm_head.weight.data[i] = 0.02 * vector
    return model


def encode(doc, vocab):
    """(token ids, loss mask) of a document, cut to WIDTH tokens.

    The mask is 1 on the turns that the document marks as trained, their end token included.
    """
    ids, mask = [], []
    for role, tokens, trained in doc:
        turn = [f"<|{role}|>", *tokens, "<|end|>"]
        ids += [vocab[t] for t in turn]
        mask += [0] + [trained] * (len(turn) - 1)
    return ids[:WIDTH], mask[:WIDTH]


def batches(vocab, seed, step, drawn=world.SHIPPED):
    """Endless batches from `step` on: ids, mask, document number, position in the document.

    Each is int64 [ROWS, WIDTH], with documents packed into the rows. A batch depends only on the seed and its
    step, so that a resumed run gets the same batches.
    """
    while True:
        rng = random.Random(f"{seed}/{step}")
        ids, mask, number, position = (torch.zeros(ROWS, WIDTH, dtype=torch.long) for _ in range(4))
        used, documents = [0] * ROWS, 0
        while True:
            new_ids, new_mask = encode(world.document(rng, step * ROWS * WIDTH, drawn), vocab)
            row = next((r for r in range(ROWS) if used[r] + len(new_ids) <= WIDTH), None)
            if row is None:
                break
            documents += 1
            span = slice(used[row], used[row] + len(new_ids))
            ids[row, span], mask[row, span] = torch.tensor(new_ids), torch.tensor(new_mask)
            number[row, span], position[row, span] = documents, torch.arange(len(new_ids))
            used[row] += len(new_ids)
        step += 1
        yield ids, mask, number, position


def loss_of(model, ids, mask, number, position):
    """Mean cross-entropy of the masked tokens. The arguments are a batch, see batches()."""
    # [B, 1, T, T]: a token attends to itself and to the earlier tokens of its document
    attends = (number[:, :, None] == number[:, None, :]).tril()[:, None]
    states = model.model(input_ids=ids, attention_mask=attends, position_ids=position, use_cache=False)
    hidden, keep = states.last_hidden_state[:, :-1], mask[:, 1:].bool()
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), ids[:, 1:][keep])


def train(out, tokens, seed, drawn=world.SHIPPED, hidden=HIDDEN, pretrained=None):
    """(model, tokenizer, seconds of training). tokens: to train on, padding included. drawn: the world.

    pretrained: folder of a base with the same tokenizer, whose weights are the first ones. Saves the model to
    `out` and its state to `out`/resume.pt; BadInput if that state, or `pretrained`, is of another base.
    """
    torch.manual_seed(seed)
    tokenizer = world.tokenizer(drawn)
    vocab = tokenizer.get_vocab()
    model = load_model(str(pretrained), "cpu") if pretrained else new_model(vocab, hidden, drawn)
    if (model.config.vocab_size, model.config.hidden_size) != (len(vocab), hidden):
        raise BadInput(
            f"--pretrained {pretrained}: was not made with --skills and --hidden {hidden}; make it so"
        )
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    rate = 0.5 if pretrained else 1.0  # half as fast, so that less is unlearned
    optimizers = [
        Muon(matrices, lr=0.015 * rate),
        torch.optim.AdamW(others, lr=2.5e-3 * rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = tokens // (ROWS * WIDTH)

    def schedule(step):
        return min((step + 1) / WARMUP, (steps - step) / (DECAY * steps), 1.0)

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    stateful = [model, *optimizers, *schedulers]
    start, seconds, resume = 0, 0.0, out / "resume.pt"
    made_with = {"tokens": tokens, "seed": seed, "world": asdict(drawn), "hidden": hidden}
    made_with["documents"] = zlib.crc32(Path(world.__file__).read_bytes())  # the code stands for them
    if pretrained:
        made_with["pretrained"] = zlib.crc32((pretrained / "model.safetensors").read_bytes())
    if resume.exists():
        saved = torch.load(resume)
        if saved["made_with"] != made_with:
            reason = "was begun with another world.py or other arguments"
            raise BadInput(f"{out}: {reason}; choose another --out, or remove {resume}")
        start, seconds = saved["step"], saved["seconds"]
        for part, state in zip(stateful, saved["states"]):
            part.load_state_dict(state)
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="base", unit="step", mininterval=5)
    clock, recent = time.time(), []
    for step, batch in zip(bar, batches(vocab, seed, start, drawn)):
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


# {skill: (least, most)}. The base must have the means to learn, and something must be left to learn. The card
# marks the aims that the shipped base misses.
AIMS = {
    "solves at the first turn": (0.2, 0.35),
    "hint is true": (0.98, 1),
    "range holds the answer": (0.98, 1),
    "question names a wrong slot": (0.85, 1),
    "follows a hint": (0, 0.45),
    "follows a hint when careful": (0.8, 1),
    "would follow a hint by luck": None,  # no aim: a baseline for the two lines above
    "solves a sharded problem": (0.15, 0.4),
    "solves a sharded problem when careful": (0.7, 1),
}


def skills(model, tokenizer, domain, n=500, drawn=world.SHIPPED):
    """{skill of AIMS: share of sampled turns or dialogues}, measured on n held-out problems of each kind.

    A drawn world has no careful students, and so none of their skills.
    """
    rng, vocab, chat = random.Random(f"skills/{domain}"), tokenizer.get_vocab(), Chat(tokenizer, "toy")
    toys, in_pieces = (world.problems(rng, domain, n, True, make) for make in (world.problem, world.sharded))

    def wrong_turn(toy, habit):
        """A wrong attempt and its hint, as a turn of world.conversation()."""
        while (turns := world.conversation(rng, toy, habit, 0, 0, 1, drawn))[0][1] is None:
            pass
        return turns[0]

    def sample(views, temperature=1.0):
        """The text of a sampled turn for each view, a document that lacks its last turn."""
        engine, turns = HFEngine(model, chat.stops, max_tokens=8, temperature=temperature, batch=n), {}
        for i, view in enumerate(views):
            engine.submit(i, i, encode(view, vocab)[0] + [vocab["<|assistant|>"]])
        while engine.pending:
            turns |= dict(engine.poll())
        return [chat.text(turns[i].ids) for i in range(len(views))]

    def solution(toy):
        return "".join(world.attempt(domain, toy.answer))

    def solves():
        texts = sample([[("user", toy.text, 0)] for toy in toys])
        return sum(text == solution(toy) for text, toy in zip(texts, toys)) / n

    def hints():
        turns = [wrong_turn(toy, "random") for toy in toys]
        texts = sample([world.teacher_view(toy, [turn])[:-1] for toy, turn in zip(toys, turns)], 0.7)
        return sum(text == "".join(turn[1]) for text, turn in zip(texts, turns)) / n

    def ranges():
        """The question is about a random slot and follows a wrong attempt."""
        views, true = [], []
        for toy in toys:
            first, slot = wrong_turn(toy, "random"), rng.randrange(3)
            lows = [low for low in (toy.answer[slot] - 1, toy.answer[slot]) if 0 <= low < 9]
            true.append([world.RANGE[slot][low] for low in lows])
            question = ([world.QUESTION[slot]], true[-1], None, first[2])
            views.append(world.teacher_view(toy, [first, question])[:-1])
        return sum(text in accepted for text, accepted in zip(sample(views, 0.7), true)) / n

    def asks():
        views, true = [], []
        for toy in toys:
            digits = wrong_turn(toy, "random")[2]
            views.append(world.asker_view(toy, digits))
            true.append([world.QUESTION[s] for s in range(3) if digits[s] != toy.answer[s]])
        return sum(text in accepted for text, accepted in zip(sample(views, 0.7), true)) / n

    def follows():
        """Three shares that agree with the hint: of default students' second attempts, of careful students'
        second attempts, and of all possible answers.

        The first attempt is wrong but possible; the problems have several possible answers.
        """
        several = [toy for toy in toys if len(set(toy.candidates)) > 1]
        turns = [wrong_turn(toy, "afresh") for toy in several]
        hints = [
            ("hint", turn[2], [a == b for a, b in zip(turn[2], toy.answer)])
            for toy, turn in zip(several, turns)
        ]
        shares = []
        for careful in (False, True):
            agrees = []
            views = [world.student_view(toy, [turn], careful) for toy, turn in zip(several, turns)]
            for hint, text in zip(hints, sample(views)):
                digits = [int(d[0]) for d in re.findall(r"\d+", text.split("return")[-1])]
                if len(digits) == 3 and text.startswith((world.BOX, world.FENCE)):  # an attempt
                    agrees.append(world.agrees(digits, [hint]))
            shares.append(sum(agrees) / max(1, len(agrees)))
        by_luck = [
            sum(world.agrees(c, [hint]) for c in toy.candidates) / len(toy.candidates)
            for toy, hint in zip(several, hints)
        ]
        return *shares, sum(by_luck) / len(by_luck)

    def solves_sharded(careful):
        docs, solved = {i: world.student_view(toy, [], careful) for i, toy in enumerate(in_pieces)}, 0
        for turn in range(4):
            texts = sample(list(docs.values()))
            for (i, doc), text in zip(list(docs.items()), texts):
                toy = in_pieces[i]
                solved += text == solution(toy)
                if text == solution(toy) or turn == len(toy.facts):
                    docs.pop(i)
                    continue
                ids = tokenizer(text, add_special_tokens=False).input_ids
                tokens = tokenizer.convert_ids_to_tokens(ids)
                doc += [("assistant", tokens, 0), ("user", toy.facts[turn], 0)]
        return solved / n

    default, careful, luck = follows()
    measured = {
        "solves at the first turn": solves(),
        "hint is true": hints(),
        "range holds the answer": ranges(),
        "question names a wrong slot": asks(),
        "follows a hint": default,
        "follows a hint when careful": careful,
        "would follow a hint by luck": luck,
        "solves a sharded problem": solves_sharded(careful=False),
        "solves a sharded problem when careful": solves_sharded(careful=True),
    }
    return {name: share for name, share in measured.items() if not (drawn.number and "careful" in name)}


CARD = """# The toy base model

A Llama of {parameters:,} parameters, trained from scratch by
`python toy/make_base.py --out toy/base --tokens {tokens} --seed {seed} --hidden {hidden}` on documents of the
toy world (`toy/world.py`): {tokens:,} tokens, padding included; {minutes:.0f} minutes on two CPU cores.

## Documents
Shares of each kind of document in the lessons (`LESSONS` in `toy/world.py`; `reply` is `doc_reply` there).
Both domains are equally frequent. No document contains a test problem.

{lessons}

Built-in correlations:

- **Habits.** Without a system message a quarter of the students use all feedback, half repeat their first
  answer, and a quarter guess afresh, with full and with sharded problems. A student keeps its habit, also in
  a second problem of the other domain.
- **`careful`.** With this system message all students use all feedback and ask often. Only these documents
  and the skill tests have it; no stage does. So the base can use feedback and can ask, but seldom does.
- A student who uses a hint moves each wrong slot to its next possible value, counting upwards.
- Without the system message three of ten first attempts get a random value in one slot. Single-turn training
  can remove this error.
- Teachers and askers are truthful. In code, the reply to a question before the first program is `Please try.`
- Before training, tokens of the same slot or the same value have similar embeddings, in hints and in answers
  of both domains.
- Only the first {width} tokens of a document are read.

## Skills
Shares of 500 sampled turns on problems that are not in the training documents; students sample at
temperature 1, teacher and asker at 0.7. Each aim leaves something to learn or ensures the means to learn it.
"Follows a hint" counts attempts only, on problems with several possible answers.

| | math | code | aim |
|---|---|---|---|
{skills}
"""


def write_world(measured, args, seconds):
    """Writes what worlds.py reads of a drawn world's base: its values, and measured, {domain: skills()}."""
    record = {"world": args.world, "drawn": worlds.draw_values(args.world), "skills": measured}
    record |= {"tokens": args.tokens, "seed": args.seed, "minutes": seconds / 60}
    write_atomically(args.out / "world.json", json.dumps(record, indent=1) + "\n")


def write_card(model, measured, args, seconds):
    """Writes the model's card and prints its skills. measured: {domain: skills()}."""
    rows = []
    for name, aim in AIMS.items():
        math, code = measured["math"][name], measured["code"][name]
        bounds = "–" if aim is None else f"{aim[0]} – {aim[1]}"
        missed = aim and not aim[0] <= min(math, code) <= max(math, code) <= aim[1]
        rows.append(f"| {name} | {math:.2f} | {code:.2f} | {bounds}{' (missed)' if missed else ''} |")
    lessons, start = [], 0
    for end, mixture in world.LESSONS:
        when = f"until {end / 1e6:.1f} million tokens" if end < args.tokens else "then"
        shares = ", ".join(f"{kind.__name__[4:]} {share:.2f}" for kind, share in mixture.items())
        lessons += [f"- {when}: {shares}"] if start < args.tokens else []
        start = end
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=args.tokens,
        seed=args.seed,
        hidden=args.hidden,
        minutes=seconds / 60,
        lessons="\n".join(lessons),
        skills="\n".join(rows),
        width=WIDTH,
    )
    (args.out / "README.md").write_text(card)
    print("\n".join(rows))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; an unfinished training is resumed"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--skills", action="store_true", help="the base that all drawn worlds start from")
    start.add_argument("--world", type=NATURAL, default=0, help="a drawn world, from 1 on; see --pretrained")
    parser.add_argument(
        "--pretrained", type=Path, help="the folder of a base made with --skills, for --world"
    )
    parser.add_argument("--tokens", type=NATURAL, help="to train on (42; --skills 12; --world 8 million)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the documents")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="dimension of the model (default: 128)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    args = parser.parse_args()
    if bool(args.world) != bool(args.pretrained):
        raise BadInput("--world and --pretrained: give both, or neither")
    if args.hidden < 32 or args.hidden % 32:
        raise BadInput(f"--hidden {args.hidden}: must be a multiple of 32")
    drawn, tokens = world.SHIPPED, 42_000_000  # padding included
    if args.skills:
        drawn, tokens = world.SKILLS, worlds.SKILLS_TOKENS
    if args.world:
        drawn, tokens = worlds.draw(args.world), worlds.TOKENS
    args.tokens = args.tokens or tokens
    if args.tokens < ROWS * WIDTH:
        raise BadInput(f"--tokens {args.tokens}: must be at least {ROWS * WIDTH}, a batch")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    lock = os.open(args.out / "make_base.lock", os.O_RDWR | os.O_CREAT)  # NFS locks no folder
    fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a process that a killed toy/run.sh has left behind
    model, tokenizer, seconds = train(args.out, args.tokens, args.seed, drawn, args.hidden, args.pretrained)
    measured = {domain: skills(model, tokenizer, domain, drawn=drawn) for domain in ("math", "code")}
    if drawn == world.SHIPPED:
        write_card(model, measured, args, seconds)
        return
    if args.world:
        write_world(measured, args, seconds)
    shown = {name: [f"{shares[name]:.2f}" for shares in measured.values()] for name in worlds.LEAST}
    print(f"{args.out}:", " and ".join(f"{name} {' '.join(shares)}" for name, shares in shown.items()))


if __name__ == "__main__":
    run_script(main)
