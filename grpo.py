"""Stage 3: online SML. GRPO over groups of whole dialogues with a frozen teacher.

    python grpo.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/mt-rl    # online SML
    python grpo.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/st-rl --turns 1
    python grpo.py --model runs/primed/model --teacher google/gemma-3-12b-it --problems … --out runs/primed-rl

A step plays g dialogues of each of --batch problems, rewards a dialogue solved at turn n with γ^(n−1),
normalises within the group (Eq. 3) and makes one on-policy update on the student's tokens (Eq. 2). What is
left out of GRPO: several updates a batch and, unless --beta asks for it, the KL term (β = 0 in all
runs of the paper). Groups in which all rewards are equal teach nothing and are not trained on. The teacher is
a frozen copy of the initial student unless --teacher names another model.

Chosen where the paper is silent: one advantage for all student tokens of a dialogue (--per-turn-return:
γ^(n−t)·R for turn t); AdamW with a constant learning rate; a mean over the student tokens that are trained
on; gradient norm clipped at 1; all weights trained. --lora RANK trains an adapter instead: the teacher, and
the reference of --beta, are the same model with the adapter switched off.
"""

import math
import random
import time
from collections import Counter
from dataclasses import asdict
from functools import partial

import torch

from common import advantages, as_tensors, grade, grpo_loss, load_problems, masked_logprobs
from generate import start, teacher_of
from parts import runs, sharded
from parts.driver import drive
from parts.engines import load_model, without_adapter
from parts.measures import summary, trend


def settings():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(parser)
    add = parser.add_argument_group("GRPO").add_argument
    add("--group", type=runs.number(int, least=2, most=10**4), default=8, help="g, dialogues of a problem")
    add("--gamma", type=runs.number(float, least=0, most=1), default=0.7, help="discount over turns")
    add(
        "--beta", type=runs.NOT_NEGATIVE, default=0.0, help="weight of KL(π_θ ‖ π_ref) to the initial student"
    )
    add("--clip", type=runs.POSITIVE, default=0.2, help="clip range of the importance ratio")
    add("--no-std", action="store_true", help="do not divide by the group's standard deviation (Dr. GRPO)")
    add("--per-turn-return", action="store_true", help="turn t earns γ^(n−t) instead of γ^(n−1)")
    runs.add_training_arguments(parser, batch=16, unit="problems", lr=(1e-6, 1e-5), save_every=10)
    add("--steps", type=runs.COUNT, help="optimiser steps; default: one pass over the problems")
    return parser.parse_args()


def reward(dialogue, gamma, t=1):
    """r = γ^(n−t)·R: R = 1 for a dialogue solved at turn n, else 0. The dialogue's own is that at t = 1."""
    return 0.0 if dialogue.solved is None else gamma ** (dialogue.solved - t)


def turn_advantages(group, args):
    """Advantages of the student turns of one group's g dialogues: for each dialogue a list of floats [turns].

    Default: one reward a dialogue, normalised over the group (Eq. 3), for all its turns. --per-turn-return:
    turn t earns the reward as seen from it, normalised over all turns of the group.
    """
    if args.per_turn_return and any(d.turns for d in group):
        returns = torch.tensor([[reward(d, args.gamma, t) for d in group for t in range(1, d.turns + 1)]])
        each = iter(advantages(returns, not args.no_std)[0].tolist())
        return [[next(each) for _ in range(d.turns)] for d in group]
    rewards = torch.tensor([[reward(d, args.gamma) for d in group]])
    each = advantages(rewards, not args.no_std)[0].tolist()
    return [[a] * d.turns for d, a in zip(group, each)]


def main():
    args = settings()
    runs.settle(args)
    rank, processes = runs.rank_and_size()
    if not args.temperature:
        raise runs.BadInput("--temperature is 0: a group's dialogues would be one and the same; give it more")
    if args.batch % processes:
        raise runs.BadInput(f"--batch is {args.batch}; choose a multiple of the {processes} processes")
    problems, run = load_problems(args.problems, args.answers), runs.Run(args)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")

    # What is trained is float32. The sampler shares the weights, or has a copy if they are moved or sharded.
    model = sharded.load_trained(args.model, args.lora, args.dtype, args.seed)
    moves = sharded.uses_fsdp(args.dtype) or args.device != "cpu"
    speakers, dialogue_of = start(args, model=None if moves else model, trains="now")
    student = speakers["student"].engine
    student.sleep()
    policy = sharded.prepare(model, masked_logprobs, args.device, args.dtype)
    optimizer = sharded.adamw(policy, args.lr)
    reference = policy  # with LoRA π_ref is the policy without its adapter, else a second model
    if args.beta and not args.lora:
        reference = partial(masked_logprobs, load_model(args.model, args.device, args.dtype))
    done = sharded.load_state(run, policy, optimizer)
    last = args.steps or max(1, len(problems) // args.batch)
    student.sync(sharded.weights(policy))
    for name in ("metrics.jsonl", "dialogues.jsonl"):
        run.keep(name, lambda row: row["step"] <= done)
    run.say(f"teacher: {teacher_of(args)[0]}, frozen" + f"; resumed after step {done}" * bool(done))

    for step in run.steps(done, last, "grpo"):
        clock, seconds = time.perf_counter(), Counter()

        # Play g dialogues of each problem of the step. Of several processes each plays a share of the groups.
        chosen = list(enumerate(problems_of_step(problems, step, args)))[rank::processes]
        names = [[(p, f"{step}/{j}-{p.id}/{k}") for k in range(args.group)] for j, p in chosen]
        coroutines = ((name, dialogue_of(p, name)) for group in names for p, name in group)
        played = {d.id: d for d in drive(coroutines, speakers, grade, args.live, seconds)}
        groups = [[played[name] for _, name in group] for group in names]  # [G, g]
        if not math.isfinite(sum(sum(d.logprobs) for d in played.values())):
            raise runs.BadInput(f"step {step}: the student's log-probs are not finite; lower --lr")

        # Advantages of turns, then of tokens. Groups in which all are zero are left out.
        of_turns = [turn_advantages(group, args) for group in groups]
        batch, of_tokens = [], []
        for group, per_turn in zip(groups, of_turns):
            if any(map(any, per_turn)):
                batch += group
                of_tokens += [per_token(a, d) for a, d in zip(per_turn, group)]
        trained_tokens = sum(runs.gathered(sum(map(len, of_tokens))))  # of all processes

        # One update. The sampler gives its memory to the trainer; the gradient is summed over micro-batches.
        seconds["training"] = -time.perf_counter()
        student.sleep()
        policy.train()
        loss, norm, gaps = 0.0, 0.0, []
        for picked in sharded.micro_batches([len(d.ids) for d in batch], args.micro_tokens):
            rows = [(batch[i], of_tokens[i]) for i in picked]
            ids, mask = as_tensors([d for d, _ in rows], args.device)  # [B, T]
            sampled = flat([d.sampled_logprobs for d, _ in rows], args.device)  # [M]
            advantage = flat([a for _, a in rows], args.device)  # [M]
            logprobs = policy(ids, mask, args.temperature)  # [M]
            initial = None
            if args.beta:  # after the policy's own pass: there FSDP notes what needs a gradient
                with torch.no_grad(), without_adapter(model):
                    initial = reference(ids, mask, args.temperature)  # [M]
            part = grpo_loss(logprobs, sampled, advantage, trained_tokens, args.clip, initial, args.beta)
            (part * processes).backward()  # FSDP averages over processes; `trained_tokens` has seen to that
            loss += part.item()
            gaps.append((logprobs.detach() - sampled).abs())
        update = {"loss": sum(runs.gathered(loss)), **gap_of(gaps, trained_tokens)}
        if trained_tokens:
            norm = sharded.clip_gradient(policy, 1.0)
            check_sane(step, update, norm)
            optimizer.step()
            optimizer.zero_grad()
        seconds["training"] += time.perf_counter()

        # The sampler takes over the new weights.
        seconds["sync"] = -time.perf_counter()
        student.sync(sharded.weights(policy))
        seconds["sync"] += time.perf_counter()
        seconds["all"] = time.perf_counter() - clock

        update |= {"grad_norm": norm, "trained_tokens": trained_tokens}
        log(run, args, step, last, groups, of_turns, update, seconds)
        if step % args.save_every == 0 or step == last:
            sharded.save_state(run, policy, optimizer, step)
    sharded.save_model(run, policy, speakers["student"].chat.tokenizer)
    rows = runs.read_jsonl(run.path / "metrics.jsonl")
    run.say(f"{run.path}: solved_{args.turns} {trend(rows, f'solved_{args.turns}')}")


def problems_of_step(problems, step, args):
    """The problems of a step (1, 2, …): passes over all problems, each in a random order of its own."""
    picked = []
    for i in range((step - 1) * args.batch, step * args.batch):
        epoch, place = divmod(i, len(problems))
        order = random.Random(f"{args.seed}/{epoch}").sample(range(len(problems)), len(problems))
        picked.append(problems[order[place]])
    return picked


def flat(rows, device):
    """Numbers of several dialogues one after the other, float32 [M]."""
    return torch.tensor(sum(rows, []), device=device)


def per_token(of_turns, dialogue):
    """Values of a dialogue's student turns as values of its student tokens."""
    return [value for value, (start, end) in zip(of_turns, dialogue.spans) for _ in range(end - start)]


def gap_of(gaps, tokens):
    """How far log-probs of trainer and sampler are apart, nats a token: mean and maximum of all processes."""
    sums = runs.gathered(sum(g.sum().item() for g in gaps))
    most = runs.gathered(max((g.max().item() for g in gaps if len(g)), default=0.0))
    return {"gap_mean": sum(sums) / max(1, tokens), "gap_max": max(most)}


def check_sane(step, update, norm):
    """Raises BadInput before an update that would spoil the weights; the last saved state stays."""
    loss, gap = update["loss"], update["gap_mean"]
    if not gap <= 0.1:  # nor if it is not a number
        told = f"step {step}: log-probs of sampler and trainer differ by {gap:.2f} nats a token"
        raise runs.BadInput(f"{told}, so it does not sample from the trained weights; try --engine hf")
    if not math.isfinite(loss + norm):
        raise runs.BadInput(f"step {step}: the loss is {loss}, the gradient's norm {norm}; lower --lr")


def log(run, args, step, last, groups, of_turns, update, seconds):
    """Writes a step's dialogues and metrics, of all processes, and prints one line."""
    dialogues = [d for own in runs.gathered(groups) for group in own for d in group]
    of_turns = [turns for own in runs.gathered(of_turns) for turns in own]
    rewards, tokens = [reward(d, args.gamma) for d in dialogues], sum(sum(d.mask) for d in dialogues)
    row = {"step": step, "reward": sum(rewards) / len(rewards), **summary(dialogues, args.turns)}
    row |= {"equal_groups": sum(not any(map(any, turns)) for turns in of_turns) / len(of_turns), **update}
    row |= {"tokens": tokens, "tokens_per_second": tokens / seconds["all"]}
    row["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
    rows = [{"step": step, **asdict(d), "reward": r} for d, r in zip(dialogues, rewards)]
    rows = [{**row, "advantages": turns} for row, turns in zip(rows, sum(of_turns, []))]
    run.append("dialogues.jsonl", rows)
    run.append("metrics.jsonl", [row])
    solved = f"solved {row['solved_1']:.2f} → {row[f'solved_{args.turns}']:.2f}"
    gap = f"gap {row['gap_max']:.0e}" if row["trained_tokens"] else "nothing learned: rewards are equal"
    told = f"{solved}  questions {row['questions']:.2f}  {gap}  {seconds['all']:.1f} s"
    run.say(f"step {step:4}/{last}  reward {row['reward']:.3f}  {told}")


if __name__ == "__main__":
    runs.run_script(main)
