"""Stage 3: online SML. GRPO over groups of whole dialogues with a frozen teacher.

    python grpo.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/mt-rl    # online SML
    python grpo.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/st-rl --turns 1
    python grpo.py --model runs/primed/model --teacher-model google/gemma-3-12b-it --problems … --out runs/rl

A step plays g dialogues of each of --batch problems. A dialogue solved at turn n earns γ^(n−1), an unsolved
one 0. Rewards are normalized within the group (Eq. 3), and one on-policy update is made on the student's
tokens (Eq. 2). Removed from GRPO: several updates per batch and, unless --beta asks for it, the KL term (β =
0 in all runs of the paper). A group of equal rewards is left out. The teacher is a frozen copy of the initial
student, unless --teacher-model names another model. What it sees and says is in generate.py.

Chosen where the paper is silent: every student turn counts in n, a question as much as an answer; one
advantage for all student tokens of a dialogue (with --per-turn-return, turn t earns γ^(n−t)·R); AdamW with a
constant learning rate; the loss is a mean over the trained tokens; the gradient's norm is clipped at 1; all
weights are trained. --lora RANK trains an adapter instead; the same model with the adapter switched off is
then the default teacher, and the reference model of --beta.

Not in the paper, and off by default: --dispute P, which lets the teacher dispute some right answers (the
reply earns the dialogue's reward if it keeps the answer, else 0); --predict-teacher λ, which adds the
log-likelihood of the hints in the groups that are trained on (the sister paper, arXiv 2602.16066, has such a
term); --leaks drop; and --test, a test curve.
"""

import math
import random
import time
from collections import Counter
from dataclasses import asdict
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from common import advantages, as_tensors, grade, grpo_loss, load_problems, masked_logprobs, sft_loss
from generate import TEACHERS, cast_line, converse, dialogue_of, load_cast
from parts import runs, sharded
from parts.driver import drive
from parts.engines import load_model, without_adapter
from parts.measures import empty_hints_note, equal_rewards_note, mean_counts, summary, trend, why_stalled


def settings():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(
        parser, TEACHERS, turns=4, max_tokens=1024, temperature=1.0, teacher_temperature=1.0, seed=0
    )
    add = parser.add_argument_group("GRPO").add_argument
    add("--group", type=runs.number(int, least=2, most=10**4), default=8, help="g, dialogues of each problem")
    add("--gamma", type=runs.number(float, least=0, most=1), default=0.7, help="γ, discount over turns")
    add(
        "--beta",
        type=runs.NOT_NEGATIVE,
        default=0.0,
        help="β, weight of KL(π_θ ‖ π_ref) to the initial student",
    )
    add("--clip", type=runs.POSITIVE, default=0.2, help="ε, clip range of the importance ratio")
    add("--no-std", action="store_true", help="do not divide by the group's standard deviation (Dr. GRPO)")
    add("--per-turn-return", action="store_true", help="turn t earns γ^(n−t) instead of γ^(n−1)")
    weight = "λ, weight of the log-likelihood of the hints, a mean over those trained on"
    add("--predict-teacher", type=runs.NOT_NEGATIVE, default=0.0, metavar="λ", help=weight)
    runs.add_training_arguments(parser, batch=16, unit="problems", lr=1e-6, lora_lr=1e-5, save_every=10)
    add(
        "--steps",
        type=runs.COUNT,
        help="optimizer steps; may be raised later; default: one pass over the problems",
    )
    test = "problem file or data set, played before the updates of steps 1, 1 + K, 1 + 2K, … and the last, "
    add("--test", help=test + "one dialogue a problem; see metrics.jsonl and Fig. 5")
    add("--test-every", type=runs.COUNT, default=10, metavar="K", help="steps from one --test to the next")
    return parser.parse_args()


def reward(dialogue, gamma, t=1):
    """r = γ^(n−t)·R: R = 1 for a dialogue solved at turn n, else 0. t = 1: the reward of the dialogue.

    The log computes it again, so it must return the same number each time.
    """
    return 0.0 if dialogue.solved is None else gamma ** (dialogue.solved - t)


def checked_reward(dialogue, gamma, t=1):
    """The reward as a float. Raises BadInput if reward() returns no finite number."""
    value = reward(dialogue, gamma, t)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise runs.BadInput(f"dialogue {dialogue.id}: reward() is {value!r}; it must be a finite number")
    return number


def is_dropped(dialogue, args):
    """Whether a dialogue is no part of its group: a hint gave the answer away (--leaks drop)."""
    return args.leaks == "drop" and bool(dialogue.leaks)


def turn_advantages(group, args):
    """Advantages of the student turns of one group: for each of its g Dialogues a list of floats [turns].

    By default a dialogue has one reward, normalized over the group (Eq. 3), and all its turns share it. With
    --per-turn-return each turn has its own, normalized over all turns of the group. Turns of all numbers
    share one mean, so late turns of solved dialogues gain most. A group whose dialogues have equal rewards
    gets 0. A dropped dialogue gets 0, too.

    The reply to a dispute earns what its dialogue did if it keeps the right answer, else 0. The turns before
    it keep their reward: solving was right, whatever came of it.
    """
    if any(is_dropped(d, args) for d in group):
        rest = [d for d in group if not is_dropped(d, args)]
        of_rest = iter(turn_advantages(rest, args) if rest else [])
        return [[0.0] * d.turns if is_dropped(d, args) else next(of_rest) for d in group]
    turns = [d.solved or d.turns for d in group]  # without a reply to a dispute
    rewards = torch.tensor([[checked_reward(d, args.gamma) for d in group]])  # [1, g]
    each = advantages(rewards, not args.no_std)[0].tolist()
    of_turns = [[a] * n for a, n in zip(each, turns)]
    if args.per_turn_return and any(each):
        returns = [[checked_reward(d, args.gamma, t) for t in range(1, n + 1)] for d, n in zip(group, turns)]
        values = iter(advantages(torch.tensor([sum(returns, [])]), not args.no_std)[0].tolist())
        of_turns = [[next(values) for _ in of_dialogue] for of_dialogue in returns]
    kept = torch.tensor([[d.succeeded for d in group]])  # [1, g]
    of_replies = advantages(rewards, not args.no_std, values=rewards * kept)[0].tolist()
    return [a + [b] * (d.turns - len(a)) for d, a, b in zip(group, of_turns, of_replies)]


def main():
    args = settings()
    runs.set_up(args)
    rank, processes = runs.rank_and_size()
    if not args.temperature:
        raise runs.BadInput("--temperature is 0: all dialogues of a group would be the same; raise it")
    if args.batch % processes:
        raise runs.BadInput(f"--batch is {args.batch}; choose a multiple of the {processes} processes")
    problems = load_problems(args.problems, args.answers)
    tests = load_problems(args.test, args.answers) if args.test else []
    args.steps = args.steps or max(1, len(problems) // args.batch)
    run = runs.Run(args)
    if (run.path / "model").exists():
        gone = not (run.path / "resume").exists()  # removed by the user
        if gone and run.recorded["steps"] < args.steps:
            raise runs.BadInput(
                f"{run.path}: has no resume/ to go on from to more --steps; choose another --out"
            )
        if gone or sharded.saved_step(run) >= args.steps:
            return run.say(f"{run.path} is finished")

    # The trained weights are float32. On a CPU the sampler uses these very weights. On a GPU, or if they are
    # sharded, the sampler has a copy in its own dtype.
    model = sharded.load_trained(args.model, args.lora, args.dtype, args.seed)
    copied = sharded.uses_fsdp(args.dtype) or args.device != "cpu"
    cast = load_cast(args, model=None if copied else model, training="now")
    student = cast.student.engine
    student.sleep()  # vLLM claims its memory when it starts; the trainer's weights and optimizer need it now
    policy = sharded.prepare(model, masked_logprobs, args.device, args.dtype)
    optimizer = sharded.adamw(policy, args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    reference = policy  # with LoRA, π_ref is the policy with its adapter switched off
    if args.beta and not args.lora:
        reference = partial(masked_logprobs, load_model(args.model, args.device, args.dtype))
    done = sharded.load_state(run, policy, optimizer)
    student.sync(sharded.weights(policy))  # wakes the sampler, with the weights of the resumed step
    # A killed run may have logged steps after the last saved one.
    for name in ("metrics.jsonl", "dialogues.jsonl"):
        run.keep(name, lambda row: row["step"] <= done)
    logged = [row for row in runs.read_jsonl(run.path / "metrics.jsonl") if row["step"] <= done]
    resumed = f"; resumed after step {done}" if done else ""
    run.say(f"{cast_line(args)}{resumed}")

    for step in run.steps(done, args.steps, "grpo"):
        clock, seconds = time.perf_counter(), Counter()

        # The test curve is that of the model before the step's update, as are the rewards of the step.
        tested = {}
        if tests and ((step - 1) % args.test_every == 0 or step == args.steps):
            tested = test(cast, tests, args)
            seconds["test"] = time.perf_counter() - clock

        # Play g dialogues of each problem of the step. Each process plays a share of the groups.
        share = list(enumerate(problems_of_step(problems, step, args)))[rank::processes]
        named = [[(p, f"{step}/{j}-{p.id}/{k}") for k in range(args.group)] for j, p in share]
        coroutines = ((name, dialogue_of(cast, p, name, args)) for group in named for p, name in group)
        # On the progress bar, playing is the first half of a step and the update the second. In code, hints
        # are graded, too.
        verdicts = {"math": args.turns, "code": 2 * args.turns}  # of a dialogue, at most
        most = sum(verdicts[p.domain] + (args.dispute > 0) for group in named for p, _ in group)
        counted_grade = run.counted(grade, "verdict", total=most, end=0.5)
        played = {d.id: d for d in drive(coroutines, cast.speakers, counted_grade, args.concurrent, seconds)}
        groups = [[played[name] for _, name in group] for group in named]  # [G, g]; they ended in any order
        if not math.isfinite(sum(sum(d.logprobs) for d in played.values())):
            raise runs.BadInput(f"step {step}: the student's log-probs are not finite; lower --lr")

        # Advantages of turns, then of tokens. A group whose advantages are all 0 has no policy gradient,
        # and is left out, also by β and λ.
        advantages_of_turns = [turn_advantages(group, args) for group in groups]  # [G][g][turns]
        batch, advantages_of_tokens = [], []
        for group, of_turns in zip(groups, advantages_of_turns):
            if any(map(any, of_turns)):
                kept = [(d, a) for d, a in zip(group, of_turns) if not is_dropped(d, args)]
                batch += [d for d, _ in kept]
                advantages_of_tokens += [per_token(a, d) for d, a in kept]
        # The loss is a mean over the trained tokens of the whole step. Their number, over all processes, must
        # be known before the first micro-batch. A mean per micro-batch would weigh tokens differently.
        trained_tokens = sum(runs.all_gather(sum(map(len, advantages_of_tokens))))
        # With --predict-teacher, the tokens between student turns are trained on too: masks of the batch.
        hint_masks = [d.hint_mask if args.predict_teacher else [0] * len(d.ids) for d in batch]
        hint_tokens = max(1, sum(runs.all_gather(sum(map(sum, hint_masks)))))

        # One update. The gradient is summed over micro-batches, which bound the memory.
        seconds["training"] = -time.perf_counter()
        student.sleep()  # the sampler gives its memory to the trainer
        policy.train()
        loss, norm, gaps, details = 0.0, 0.0, [], {}
        micro_batches = sharded.micro_batches([len(d.ids) for d in batch], args.micro_tokens)
        for indices in run.micro_batches(micro_batches, start=0.5):
            rows = [batch[i] for i in indices]
            ids, mask = as_tensors(rows, args.device)  # [B, T]
            sampled = concatenated([d.sampled_logprobs for d in rows], args.device)  # [M]
            advantage = concatenated([advantages_of_tokens[i] for i in indices], args.device)  # [M]
            hint_mask = padded([hint_masks[i] for i in indices], args.device)  # [B, T]
            both = mask + hint_mask
            scored = policy(ids, both, args.temperature)  # [M + H], at the sampler's temperature
            is_hint = hint_mask[both > 0] > 0  # [M + H], in the same order
            logprobs, of_hints = scored[~is_hint], scored[is_hint]  # [M], [H]
            reference_logprobs = None
            if args.beta:
                # After the policy's own pass: FSDP decides in its first pass which weights need gradients,
                # and a pass without gradients would decide for none.
                with torch.no_grad(), without_adapter(model):
                    reference_logprobs = reference(ids, mask, args.temperature)  # [M]
            part = grpo_loss(
                logprobs, sampled, advantage, trained_tokens, args.clip, reference_logprobs, args.beta
            )
            if args.predict_teacher:
                part = part + args.predict_teacher * sft_loss(of_hints, hint_tokens)
            # FSDP averages gradients over processes. Their sum is wanted, as `trained_tokens` counts all of
            # them. So the loss is multiplied by the number of processes.
            (part * processes).backward()
            loss += part.item()
            gaps.append((logprobs.detach() - sampled).abs())  # trainer against sampler: rounding alone
            lengths = [len(advantages_of_tokens[i]) for i in indices]
            for i, row in zip(indices, logprobs.detach().split(lengths)):
                if i < args.group:  # of one group (or so), for report.html; those of all need too much space
                    details[batch[i].id] = token_details(batch[i], row.tolist(), cast.student.chat)
        update = {"loss": sum(runs.all_gather(loss)), **gap_of(gaps, trained_tokens)}
        if trained_tokens:
            norm = sharded.clip_gradient(policy, max_norm=1.0)
            check_sane(step, update, norm)
            optimizer.step()
            optimizer.zero_grad()
        seconds["training"] += time.perf_counter()

        # The sampler wakes up with the new weights.
        seconds["sync"] = -time.perf_counter()
        student.sync(sharded.weights(policy))
        seconds["sync"] += time.perf_counter()
        seconds["all"] = time.perf_counter() - clock

        update |= {"grad_norm": norm, "trained_tokens": trained_tokens, **tested}
        logged.append(log(run, args, step, groups, advantages_of_turns, details, update, seconds))
        if reason := why_stalled(logged):
            run.say(reason)
        if step % args.save_every == 0 and step < args.steps:
            sharded.save_state(run, policy, optimizer, step)
    if not any(row["trained_tokens"] for row in logged):
        sharded.save_state(run, policy, optimizer, args.steps)  # so that more --steps go on from here
        reason = (
            f"no step trained the model, so it is as it was and is not saved; {equal_rewards_note(logged)}"
        )
        raise runs.BadInput(f"{run.path}: {reason}")
    sharded.save_model(run, policy, cast.student.chat.tokenizer)
    sharded.save_state(run, policy, optimizer, args.steps)  # last, as it says that the run is finished
    result = f"solved_{args.turns} {trend(logged, f'solved_{args.turns}')}, {equal_rewards_note(logged)}"
    run.say(f"{run.path}: {result}{empty_hints_note(mean_counts(logged))}")


def test(cast, problems, args):
    """{"test_solved_n": share of the test problems solved within n turns}, from a dialogue of each."""
    rank, processes = runs.rank_and_size()
    names = {f"test/{p.id}": p for p in problems[rank::processes]}
    coroutines = (
        (name, converse(cast, p, name, args.turns, TEACHERS[args.teacher])) for name, p in names.items()
    )
    shares = runs.all_gather(list(drive(coroutines, cast.speakers, grade, args.concurrent)))
    counts = summary(sum(shares, []), args.turns)
    return {f"test_solved_{n}": counts[f"solved_{n}"] for n in range(1, args.turns + 1)}


def problems_of_step(problems, step, args):
    """The problems of a step (1, 2, …). Each pass over all problems has a random order of its own."""
    chosen = []
    for i in range((step - 1) * args.batch, step * args.batch):
        epoch, place = divmod(i, len(problems))
        order = random.Random(f"{args.seed}/{epoch}").sample(range(len(problems)), len(problems))
        chosen.append(problems[order[place]])
    return chosen


def concatenated(rows, device):
    """Lists of numbers as one tensor, float32 [M]."""
    return torch.tensor(sum(rows, []), device=device)


def padded(masks, device):
    """Masks as one tensor, int64 [B, T], with zeros on the right; an empty list gives one 0."""
    return pad_sequence([torch.tensor(m) for m in masks or [[0]]], batch_first=True).to(device)


def per_token(of_turns, dialogue):
    """The values of a dialogue's student turns, repeated for each of their tokens."""
    return [value for value, (start, end) in zip(of_turns, dialogue.spans) for _ in range(end - start)]


def token_details(dialogue, logprobs, chat):
    """For the log: the text of each student token, and its log-prob under the trained policy."""
    pieces = [chat.pieces(dialogue.ids[start:end]) for start, end in dialogue.spans]
    return {"pieces": sum(pieces, []), "trainer_logprobs": logprobs}


def gap_of(gaps, tokens):
    """Mean and maximum of |trainer's − sampler's log-prob| over the tokens of all processes, in nats."""
    sums = runs.all_gather(sum(g.sum().item() for g in gaps))
    maxima = runs.all_gather(max((g.max().item() for g in gaps if len(g)), default=0.0))
    return {"gap_mean": sum(sums) / max(1, tokens), "gap_max": max(maxima)}


def check_sane(step, update, norm):
    """Raises BadInput before an update that would spoil the weights. The last saved state stays."""
    loss, gap = update["loss"], update["gap_mean"]
    if not gap <= 0.1:  # also if it is NaN
        reason = f"log-probs of sampler and trainer differ by {gap:.2f} nats a token"
        raise runs.BadInput(
            f"step {step}: {reason}, so the sampler does not have the trained weights; try --engine hf"
        )
    if not math.isfinite(loss + norm):
        raise runs.BadInput(f"step {step}: the loss is {loss}, the gradient's norm {norm}; lower --lr")


def log(run, args, step, groups, advantages_of_turns, details, update, seconds):
    """Writes the dialogues and metrics of a step, those of all processes, and prints one line.

    details: {id: token_details} of the first g dialogues that each process trained on. Returns the row
    of metrics.jsonl.
    """
    dialogues = [d for share in runs.all_gather(groups) for group in share for d in group]
    of_groups = [group for share in runs.all_gather(advantages_of_turns) for group in share]
    rewards, tokens = [checked_reward(d, args.gamma) for d in dialogues], sum(sum(d.mask) for d in dialogues)
    row = {"step": step, "reward": sum(rewards) / len(rewards), **summary(dialogues, args.turns)}
    row |= {"equal_groups": sum(not any(map(any, group)) for group in of_groups) / len(of_groups), **update}
    row |= {"tokens": tokens, "tokens_per_second": tokens / (seconds["all"] - seconds["test"])}
    row["seconds"] = {name: round(value, 4) for name, value in seconds.items()}
    lines = [{"step": step, **asdict(d), "reward": r} for d, r in zip(dialogues, rewards)]
    lines = [
        {**line, "advantages": of_turns, **details.get(line["id"], {})}
        for line, of_turns in zip(lines, sum(of_groups, []))
    ]
    run.append("dialogues.jsonl", lines)
    run.append("metrics.jsonl", [row])
    solved = f"solved {row['solved_1']:.2f} → {row[f'solved_{args.turns}']:.2f}"
    gap = f"gap {row['gap_max']:.0e}" if row["trained_tokens"] else "nothing learned: rewards are equal"
    numbers = f"{solved}  questions {row['questions']:.2f}  {gap}  {seconds['all']:.1f} s"
    note = empty_hints_note(row) if step == 1 else ""
    run.say(f"step {step:4}/{args.steps}  reward {row['reward']:.3f}  {numbers}{note}")
    return row


if __name__ == "__main__":
    runs.run_script(main)
