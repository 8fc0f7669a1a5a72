"""Stage 3: online SML. GRPO over groups of whole dialogues with a frozen teacher.

    python grpo.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/mt-rl              # multi-turn, online SML
    python grpo.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/st-rl --turns 1    # single-turn RL
    python grpo.py --model runs/q-primed/model --teacher google/gemma-3-12b-it --problems train.jsonl --out runs/q-primed-rl

A step plays g dialogues of each of --batch problems, rewards a dialogue solved at turn n with γ^(n−1), normalises within the
group (Eq. 3) and makes one on-policy update on the student's tokens (Eq. 2; β = 0). Groups in which all rewards are equal teach
nothing and are not trained on. The teacher is a frozen copy of the initial student unless --teacher names another model.

Chosen where the paper is silent: one advantage for all student tokens of a dialogue (--per-turn-return: γ^(n−t)·R for turn t);
AdamW with a constant learning rate; a mean over all student tokens of the step; gradient norm clipped at 1; all weights trained.
"""

import json
import random
import time
from collections import Counter
from dataclasses import asdict

import torch
from tqdm import tqdm

from common import (Run, Trainer, advantages, arguments, discounted_reward, fail, gathered, grpo_loss, load_model, load_problems,
                    masked_logprobs, padded, run_script, world)  # fmt: skip
from generate import NEUTRAL, Setting, add_arguments, check_arguments, summary


def epoch_order(problems, step, batch, seed):
    """The problems of a step (1, 2, …): passes over all problems, each in a random order of its own."""
    picked = []
    for i in range((step - 1) * batch, step * batch):
        epoch, place = divmod(i, len(problems))
        picked.append(random.Random(f"{seed}/{epoch}").sample(range(len(problems)), len(problems))[place])
    return [problems[i] for i in picked]


def token_advantages(group, args):
    """Advantages of the student tokens of one group's dialogues: a list of float tensors [tokens of the dialogue].

    Default: one reward a dialogue, r = γ^(n−1)·R, normalised over the group (Eq. 3). --per-turn-return: turn t of n gets
    γ^(n−t)·R, normalised over all turns of the group.
    """
    if not args.per_turn_return:
        reward = torch.tensor([[discounted_reward(d.solved, args.gamma) for d in group]])
        return [a.expand(sum(d.mask)) for d, a in zip(group, advantages(reward, not args.no_std)[0])]
    returns = [[args.gamma ** (d.turns - t) * (d.solved is not None) for t in range(1, d.turns + 1)] for d in group]
    flat = iter(advantages(torch.tensor([sum(returns, [])]), not args.no_std)[0])
    return [torch.stack([next(flat) for _ in r]).repeat_interleave(torch.tensor(turn_lengths(d))) for r, d in zip(returns, group)]


def turn_lengths(d):
    """Numbers of student tokens of each turn of a dialogue."""
    starts = [i for i, m in enumerate(d.mask) if m and not d.mask[i - 1]]
    return [d.mask.index(0, i) - i if 0 in d.mask[i:] else len(d.mask) - i for i in starts]


def update(trainer, dialogues, advantage, args, reference=None):
    """One optimiser step on dialogues and the advantages of their student tokens. Returns loss, gradient norm, log-prob gap."""
    gaps = []

    def loss_of(rows, logprobs, denominator):
        sampled = torch.tensor([p for i in rows for p, m in zip(dialogues[i].logprobs, dialogues[i].mask) if m], device=logprobs.device)
        gaps.append((logprobs.detach() - sampled).abs())
        kl = None
        if args.beta:
            ids, mask = (padded([getattr(dialogues[i], name) for i in rows], logprobs.device) for name in ("ids", "mask"))
            with torch.no_grad():
                kl = masked_logprobs(reference, ids, mask, args.temperature)
        weights = torch.cat([advantage[i] for i in rows]).to(logprobs.device)
        return grpo_loss(logprobs, sampled, weights, denominator, args.clip, kl, args.beta)

    trained = trainer.step(dialogues, loss_of, args.micro_tokens, args.temperature)
    gap = torch.cat(gaps) if gaps else torch.zeros(1)
    sums, highest = zip(*gathered((gap.sum().item(), gap.max().item())))
    return {"loss": trained["loss"], "grad_norm": trained["grad_norm"], "gap_mean": sum(sums) / trained["tokens"], "gap_max": max(highest)}


def train_step(number, problems, setting, trainer, reference):
    """Plays and trains one step, each process its share of the groups. Returns (metrics row, dialogue rows) of all of them."""
    args, seconds, clock = setting.args, Counter(), time.perf_counter()
    chosen = list(enumerate(epoch_order(problems, number, args.batch, args.seed)))[trainer.rank :: trainer.world]
    named = [(p, f"{number}/{j}-{p.id}/{k}") for j, p in chosen for k in range(args.group)]
    played = {d.id: d for d in setting.talk(named, seconds=seconds)}
    groups = [[played[f"{number}/{j}-{p.id}/{k}"] for k in range(args.group)] for j, p in chosen]
    weights = [token_advantages(group, args) for group in groups]
    live = [any(w.abs().max() > 0 for w in ws) for ws in weights]
    dialogues = [d for group, ok in zip(groups, live) if ok for d in group]
    start = time.perf_counter()
    setting.engines["student"].sleep()
    trained = {"loss": 0.0, "grad_norm": 0.0, "gap_mean": 0.0, "gap_max": 0.0}
    if any(gathered(bool(dialogues))):
        trained = update(trainer, dialogues, [w for ws, ok in zip(weights, live) if ok for w in ws], args, reference)
    seconds["training"] = time.perf_counter() - start
    setting.engines["student"].sync(trainer.weights())
    seconds["sync"] = time.perf_counter() - start - seconds["training"]
    own = [{"step": number, **asdict(d), "reward": discounted_reward(d.solved, args.gamma), "advantage": w[0].item()}
           for group, ws in zip(groups, weights) for d, w in zip(group, ws)]  # fmt: skip
    rows = sum(gathered(own), [])
    rewards, tokens = [r["reward"] for r in rows], sum(sum(r["mask"]) for r in rows)
    row = {"step": number, "reward": sum(rewards) / len(rewards), **summary(rows, args.turns), "equal_groups": 1 - sum(sum(gathered(live), [])) / args.batch,
           **trained, "tokens": tokens, "tokens_per_second": tokens / (time.perf_counter() - clock)}  # fmt: skip
    row["seconds"] = {k: round(v, 4) for k, v in (*seconds.items(), ("all", time.perf_counter() - clock))}
    return row, rows


def main():
    parser = arguments(__doc__)
    add_arguments(parser)
    group = parser.add_argument_group("GRPO")
    group.add_argument("--group", type=int, default=8, help="g, dialogues of a problem")
    group.add_argument("--gamma", type=float, default=0.7, help="discount over turns")
    group.add_argument("--beta", type=float, default=0.0, help="weight of KL(π_θ ‖ π_ref) to the initial student")
    group.add_argument("--clip", type=float, default=0.2, help="clip range of the importance ratio")
    group.add_argument("--no-std", action="store_true", help="do not divide by the group's standard deviation (Dr. GRPO)")
    group.add_argument("--per-turn-return", action="store_true", help="turn t earns γ^(n−t) instead of γ^(n−1)")
    group = parser.add_argument_group("training")
    group.add_argument("--batch", type=int, default=16, help="problems a step")
    group.add_argument("--steps", type=int, help="optimiser steps; default: one pass over the problems")
    group.add_argument("--lr", type=float, default=1e-6, help="AdamW's learning rate")
    group.add_argument("--micro-tokens", type=int, default=16384, help="tokens of a micro-batch, padding included; limits memory")
    group.add_argument("--save-every", type=int, default=10, help="steps between saved states")
    args = parser.parse_args()
    check_arguments(args)
    if args.group < 2:
        fail(f"--group is {args.group}: advantages compare the dialogues of a group, so it needs at least 2")
    if args.batch % world()[1]:
        fail(f"--batch is {args.batch}, which {world()[1]} processes cannot share equally; choose a multiple")
    problems = load_problems(args.problems, args.answers)
    run = Run(args, NEUTRAL)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    train(args, run, problems)


def train(args, run, problems):
    """The training loop: plays, trains, logs, saves; goes on from the run folder's last state."""
    setting = Setting(args, trains=True)
    setting.engines["student"].sleep()
    trainer = Trainer(setting.model, args.lr, args.device, args.dtype)
    run.say(f"the teacher is frozen: {args.teacher or args.model}")
    reference = load_model(args.model, args.device, args.dtype)[0] if args.beta else None
    steps, start = args.steps or max(1, len(problems) // args.batch), run.load_state(trainer)
    setting.engines["student"].sync(trainer.weights())
    for name in ("metrics.jsonl", "dialogues.jsonl"):
        run.keep(name, lambda row: row["step"] <= start)

    bar = tqdm(range(start + 1, steps + 1), initial=start, total=steps, desc="grpo", mininterval=1, disable=not run.writes)
    for number in bar:
        row, rows = train_step(number, problems, setting, trainer, reference)
        run.append("dialogues.jsonl", rows)
        run.append("metrics.jsonl", [row])
        bar.set_postfix(reward=f"{row['reward']:.3f}", questions=f"{row['questions']:.2f}", gap=f"{row['gap_max']:.1e}", refresh=False)
        if run.writes and number % max(1, steps // 10) == 0:
            tqdm.write(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}))
        if number % args.save_every == 0 or number == steps:
            run.save_state(trainer, number)
    run.save_model(trainer, setting.chat.tokenizer)


if __name__ == "__main__":
    run_script(main)
