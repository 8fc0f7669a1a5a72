"""Stage 1: offline SML. Supervised fine-tuning on the student's turns of successful dialogues (Eq. 1).

    python sft.py --model google/gemma-3-12b-it --data runs/dialogues --out runs/mt-sft  # offline SML
    python sft.py --model google/gemma-3-12b-it --data runs/single --out runs/st-sft     # of --turns 1

Trains on the very tokens that were sampled (end-of-turn tokens included); the teacher's tokens are context
only. Dialogues that were not solved are left out. --predict-teacher also trains on the hints, each dialogue a
second time as a teacher without private knowledge would see it (self-improvement in the sister paper, arXiv
2602.16066); `evaluate.py play --teacher self` then lets the model be its own teacher. Chosen where the paper
is silent: all weights (--lora RANK: an adapter), AdamW without weight decay, constant learning rate after a
short warm-up, one epoch, equal weight of all student tokens of a step.
"""

import math
import random
import time
from pathlib import Path

from common import Dialogue, as_tensors, load_chat, load_prompts, masked_logprobs, sft_loss, visible
from parts import runs, sharded
from parts.engines import context_of
from parts.measures import trend


def train(args, run, dialogues):
    """Trains args.model on the dialogues; resumes from the run folder's last state; saves the model there."""
    chat = load_chat(args.model)
    model = sharded.load_trained(args.model, args.lora, args.dtype, args.seed)
    check_lengths(dialogues, model, args.model)
    policy = sharded.prepare(model, masked_logprobs, args.device, args.dtype)
    optimizer = sharded.adamw(policy, args.lr)
    batches = []
    for epoch in range(args.epochs):
        batches += epoch_batches(len(dialogues), args.batch, f"{args.seed}/{epoch}")
    done, last = sharded.load_state(run, policy, optimizer), len(batches)
    run.keep("metrics.jsonl", lambda row: row["step"] <= done)
    rank, processes = runs.rank_and_size()

    for step in run.steps(done, last, "sft"):
        clock = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / max(1, last // 20))

        # Of several processes each trains on a share. The gradient is summed over micro-batches.
        batch = [dialogues[i] for i in batches[step - 1][rank::processes]]
        tokens = sum(runs.gathered(sum(sum(d.mask) for d in batch)))  # the student's, of all processes
        loss = 0.0
        for rows in sharded.micro_batches([len(d.ids) for d in batch], args.micro_tokens):
            ids, mask = as_tensors([batch[i] for i in rows], args.device)  # [B, T]
            part = sft_loss(policy(ids, mask), tokens)
            (part * processes).backward()  # FSDP averages over processes; `tokens` has seen to that already
            loss += part.item()
        loss, norm = sum(runs.gathered(loss)), sharded.clip_gradient(policy, 1.0)
        if not math.isfinite(loss + norm):
            raise runs.BadInput(f"step {step}: the loss is {loss}, the gradient's norm {norm}; lower --lr")
        optimizer.step()
        optimizer.zero_grad()

        row = {
            "step": step,
            "loss": loss,
            "grad_norm": norm,
            "tokens": tokens,
            "dialogues": len(batches[step - 1]),
        }
        run.append("metrics.jsonl", [{**row, "seconds": time.perf_counter() - clock}])
        if step % args.save_every == 0 or step == last:
            sharded.save_state(run, policy, optimizer, step)
    sharded.save_model(run, policy, chat.tokenizer)
    run.say(f"{run.path}: loss {trend(runs.read_jsonl(run.path / 'metrics.jsonl'), 'loss')}")


def load_dialogues(path):
    """Dialogues of a folder that generate.py wrote. Raises BadInput."""
    log = Path(path) / "dialogues.jsonl"
    if (Path(path) / "config.json").exists() and not (Path(path) / "metrics.jsonl").exists():
        raise runs.BadInput(f"{path}: is not finished; run the command that plays it again")
    try:
        dialogues = [Dialogue.from_row(row) for row in runs.read_jsonl(log)]
    except (KeyError, TypeError) as e:
        raise runs.BadInput(f"{log}: a line has no {e}; it was not written by generate.py") from None
    if not dialogues:
        raise runs.BadInput(f"{path}: holds no dialogues; give a folder that generate.py wrote")
    return dialogues


def check_lengths(dialogues, model, name):
    """Raises BadInput if a dialogue does not fit into the model's context."""
    longest = max(len(d.ids) for d in dialogues)
    context = context_of(model.config.get_text_config())
    if longest > context:
        told = f"a dialogue has {longest} tokens, the context of {name} is {context}"
        raise runs.BadInput(f"{told}; generate with fewer turns or tokens")


def epoch_batches(n, size, seed):
    """Index lists of one pass over n dialogues in random order."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return [order[i : i + size] for i in range(0, n, size)]


def successful(dialogues, run):
    """Eq. 1: the dialogues with R = 1. Prints how many stay; raises BadInput if none does."""
    kept = [d for d in dialogues if d.solved is not None]
    tokens = sum(sum(d.mask) for d in kept)
    run.say(
        f"{len(kept)} of {len(dialogues)} dialogues were solved; training on these: {tokens} student tokens"
    )
    if not kept:
        raise runs.BadInput(
            "no dialogue was solved, so there is nothing to train on; generate more, or use easier problems"
        )
    return sorted(kept, key=lambda d: d.id)  # the log is in the order of completion


def as_teacher(d, chat, prompts):
    """A dialogue as a teacher without private knowledge sees it; hints are trained, the rest is context."""
    seen = Dialogue(f"{d.id}/teacher", d.problem, d.domain, d.limit)
    task = prompts["critic"].format()
    seen.hear(chat.view([{"role": "user", "content": task}]), task)
    for i, m in enumerate(d.messages[:-1]):  # the last one is a student turn, which nobody answers
        said = visible(m["content"])
        if m["role"] == "student":
            seen.hear(chat.between(said), said)
        else:
            seen.add("teacher", said, chat.turn(said), mask=int(i > 0))
    return seen


def main():
    parser = runs.Parser(__doc__)
    parser.add_argument(
        "--model", required=True, help="model to train: the student that spoke in the dialogues"
    )
    parser.add_argument("--data", required=True, nargs="+", help="folders that generate.py wrote")
    parser.add_argument("--out", required=True, help="run folder; an unfinished one is resumed")
    parser.add_argument("--seed", type=runs.NATURAL, default=0, help="seed of the order of the dialogues")
    parser.add_argument(
        "--predict-teacher", action="store_true", help="train on the hints too, without what the teacher knew"
    )
    parser.add_argument(
        "--prompts", help="JSON file that replaces prompts of common.py, for --predict-teacher"
    )
    runs.add_training_arguments(parser, batch=32, unit="dialogues", lr=(1e-5, 1e-4), save_every=50)
    parser.add_argument("--epochs", type=runs.COUNT, default=1, help="passes over the data")
    runs.add_device_arguments(parser)
    args = parser.parse_args()
    runs.settle(args)
    run = runs.Run(args)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    dialogues = successful([d for path in args.data for d in load_dialogues(path)], run)
    if args.predict_teacher:
        chat, prompts = load_chat(args.model), load_prompts(args.prompts)
        if chat.opening:
            told = "its template opens a turn with reasoning, which hints do not have"
            raise runs.BadInput(f"--predict-teacher, {args.model}: {told}; use another model")
        for name in ("critic_math", "critic_code"):
            if prompts[name] != "{turn}":  # what stands beside the latest turn alone is in no earlier one
                raise runs.BadInput(
                    f"--predict-teacher: prompt {name} is {prompts[name]!r}; it must be '{{turn}}'"
                )
        dialogues += [as_teacher(d, chat, prompts) for d in dialogues if d.turns > 1]
    train(args, run, dialogues)


if __name__ == "__main__":
    runs.run_script(main)
