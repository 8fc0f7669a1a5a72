"""Stage 1: offline SML. Supervised fine-tuning (SFT) on the student turns of successful dialogues (Eq. 1).

    python sft.py --model google/gemma-3-12b-it --data runs/dialogues --out runs/mt-sft  # offline SML
    python sft.py --model google/gemma-3-12b-it --data runs/single --out runs/st-sft     # of --turns 1
    python sft.py --model google/gemma-3-12b-it --data omni-math/train --out runs/st-sft # its solutions

Trains on exactly the tokens that were sampled, end-of-turn tokens included. The teacher's tokens are only
context. Unsolved dialogues are left out. The paper's single-turn SFT trains on pairs of problem and solution;
it does not say whose solutions. They can be the model's own right turns, or those of a problem file or data
set. --predict-teacher adds each dialogue a second time, as a teacher without private knowledge would see it,
and trains on its hints (self-improvement in the sister paper, arXiv 2602.16066). With `evaluate.py play
--teacher critic` the trained model then is its own teacher. Chosen where the paper is silent: all weights are
trained (--lora RANK: an adapter); AdamW without weight decay; a constant learning rate after a warm-up over a
twentieth of the steps; one epoch; all student tokens of a step weigh the same.
"""

import math
import random
import time
from pathlib import Path

from common import Dialogue, Verdict, as_tensors, load_problems, masked_logprobs, sft_loss
from generate import first_view, load_prompts
from parts import runs, sharded
from parts.answers import boxed
from parts.chat import load_chat, visible
from parts.engines import Turn, context_of
from parts.measures import causes, same_path, summary, trend
from parts.sources import SOURCES


def train(args, run, dialogues):
    """Trains args.model on Dialogues, from the run folder's last saved state on; saves the model there."""
    chat = load_chat(args.model)
    model = sharded.load_trained(args.model, args.lora, args.dtype, args.seed)
    check_lengths(dialogues, model, args.model)
    policy = sharded.prepare(model, masked_logprobs, args.device, args.dtype)
    optimizer = sharded.adamw(policy, args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    batches = []  # indices of dialogues
    for epoch in range(args.epochs):
        batches += epoch_batches(len(dialogues), args.batch, f"{args.seed}/{epoch}")
    done, last = sharded.load_state(run, policy, optimizer), len(batches)
    run.keep("metrics.jsonl", lambda row: row["step"] <= done)  # a killed run may have logged unsaved steps
    rank, processes = runs.rank_and_size()

    for step in run.steps(done, last, "sft"):
        clock = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / max(1, last // 20))  # warm-up

        # With several processes, each trains on a share of the batch.
        batch = [dialogues[i] for i in batches[step - 1][rank::processes]]
        # The loss is a mean over the student tokens of the whole step. Their number, over all processes, must
        # be known before the first micro-batch.
        tokens = sum(runs.all_gather(sum(sum(d.mask) for d in batch)))
        loss = 0.0
        micro_batches = sharded.micro_batches([len(d.ids) for d in batch], args.micro_tokens)
        for indices in run.micro_batches(micro_batches):
            ids, mask = as_tensors([batch[i] for i in indices], args.device)  # [B, T]
            part = sft_loss(policy(ids, mask), tokens)
            # FSDP averages gradients over processes; `tokens` counts all of them, so their sum is wanted.
            (part * processes).backward()
            loss += part.item()
        loss, norm = sum(runs.all_gather(loss)), sharded.clip_gradient(policy, max_norm=1.0)
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
    config = Path(path) / "config.json"
    if config.exists() and not (Path(path) / "metrics.jsonl").exists():
        raise runs.BadInput(f"{path}: is not finished; run the command that wrote it again")
    if config.exists() and {"command", "gamma"} & runs.read_config(config).keys():  # of their arguments
        reason = "holds the dialogues of evaluate.py, which are a test, or of grpo.py, whose student changed"
        raise runs.BadInput(f"{path}: {reason}; give a folder that generate.py wrote")
    try:
        dialogues = [Dialogue.from_row(row) for row in runs.read_jsonl(log)]
    except (KeyError, TypeError) as e:
        raise runs.BadInput(f"{log}: a line lacks {e}; give a folder that generate.py wrote") from None
    if not dialogues:
        raise runs.BadInput(
            f"{path}: holds no dialogues; give a folder that generate.py wrote, or a problem file"
        )
    return dialogues


def solutions(source, chat, prompts):
    """Dialogues of one turn: the student's turn is the solution of a problem. Raises BadInput without any.

    source: a problem file or data set. Its solutions count as right; `evaluate.py check` lists wrong ones.
    """
    if chat.opened_reasoning:
        reason = "its template opens each turn with reasoning, which solutions do not have"
        raise runs.BadInput(f"--data {source}, {chat.name}: {reason}; use another model")
    dialogues = []
    for problem in load_problems(source):
        if problem.solution:
            dialogue = Dialogue(f"{problem.id}/0", problem.id, problem.domain)
            prompt = prompts[problem.domain].format(problem=problem.prompt)
            dialogue.add_teacher_turn(first_view(chat, prompts, prompt), prompt)
            text = solution_turn(problem)
            ids = chat.turn(text)
            turn = Turn(ids, [0.0] * len(ids), "stop")
            dialogue.add_student_turn(turn, text, Verdict("correct"), chat.end)
            dialogues.append(dialogue)
    if not dialogues:
        raise runs.BadInput(f"{source}: no problem has a solution; give dialogues of `generate.py --turns 1`")
    return dialogues


def solution_turn(problem):
    """The text of a solution, as a turn that can be graded: with the answer in a box, or a fenced program."""
    text = problem.solution.strip()
    if problem.domain == "math":
        return text if boxed(text) else f"{text}\n\n\\boxed{{{problem.answer}}}"
    return text if "```" in text else f"```python\n{text}\n```"


def check_speaker(path, dialogues, chat, args):
    """Raises BadInput if another model spoke in a folder's dialogues, as its tokens or its config tell."""
    for d in dialogues[:20]:
        if [chat.text(d.ids[start:end]) for start, end in d.spans] != d.said:
            reason = f"dialogue {d.id} has tokens that the tokenizer of {args.model} reads as another text"
            raise runs.BadInput(f"{path}: {reason}; give the --model that spoke in it")
    config = Path(path) / "config.json"
    spoke = runs.read_config(config).get("model", args.model) if config.exists() else args.model
    if same_path(spoke) != same_path(args.model) and not args.other_model:
        reason = f"its student was {spoke}, not --model {args.model}"
        raise runs.BadInput(f"{path}: {reason}; if that is meant, add --other-model")


def check_lengths(dialogues, model, name):
    """Raises BadInput if a dialogue does not fit into the model's context."""
    longest = max(len(d.ids) for d in dialogues)
    context = context_of(model.config.get_text_config())
    if longest > context:
        sizes = f"a dialogue has {longest} tokens, the context of {name} is {context}"
        raise runs.BadInput(f"{sizes}; generate with fewer turns or tokens")


def epoch_batches(n, size, seed):
    """Index lists of one pass over n dialogues in random order."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return [order[i : i + size] for i in range(0, n, size)]


def successful(dialogues, run, leaks):
    """The dialogues with R = 1 (Eq. 1), sorted by id; prints their number. Raises BadInput without any.

    leaks: "drop" leaves out those in which a hint gave the answer away.
    """
    solved = [d for d in dialogues if d.solved is not None]
    kept = [d for d in solved if d.succeeded]
    chosen = [d for d in kept if leaks == "keep" or not d.leaks]
    text = f"{len(solved)} of {len(dialogues)} dialogues were solved"
    if len(kept) < len(solved):
        text += f"; in {len(solved) - len(kept)} the student did not repeat its answer when that was disputed"
    if len(chosen) < len(kept):
        text += f"; in {len(kept) - len(chosen)} a hint gave the answer away"
    run.say(f"{text}; training on {len(chosen)}: {sum(sum(d.mask) for d in chosen)} student tokens")
    if not chosen:
        counts = summary(dialogues, max(d.limit for d in dialogues))
        raise runs.BadInput(f"no dialogue was solved, so there is nothing to train on: {causes(counts)}")
    return sorted(chosen, key=lambda d: d.id)  # the log has them in the order in which they ended


def as_teacher(d, chat, prompts):
    """A dialogue as a teacher without private knowledge sees it: hints have mask 1, the rest is context."""
    view = Dialogue(f"{d.id}/teacher", d.problem, d.domain, d.limit)
    prompt = prompts["critic"].format()
    view.add("student", prompt, chat.view([{"role": "user", "content": prompt}]), mask=0)
    for i, m in enumerate(d.messages[: 1 + 2 * len(d.hints)]):  # up to the last hint, without a dispute
        text = visible(m["content"])
        if m["role"] == "student":
            view.add("student", text, chat.between(text), mask=0)
        else:
            view.add("teacher", text, chat.turn(text), mask=int(i > 0))  # the first one is the problem
    return view


def main():
    parser = runs.Parser(__doc__)
    parser.add_argument(
        "--model", required=True, help="model to train: the student that spoke in the dialogues"
    )
    data = "folders that generate.py wrote; or problem files or data sets, to train on their solutions"
    parser.add_argument("--data", required=True, nargs="+", help=data)
    parser.add_argument(
        "--other-model", action="store_true", help="the dialogues may be those of another model"
    )
    parser.add_argument("--out", required=True, help="run folder; an unfinished one is resumed")
    parser.add_argument("--seed", type=runs.NATURAL, default=0, help="seed of the order of dialogues")
    parser.add_argument(
        "--predict-teacher", action="store_true", help="train on the hints too, without the private knowledge"
    )
    parser.add_argument(
        "--prompts", help="JSON file of prompts of generate.py, for --predict-teacher and for solutions"
    )
    runs.add_training_arguments(parser, batch=32, unit="dialogues", lr=1e-5, lora_lr=1e-4, save_every=50)
    parser.add_argument("--epochs", type=runs.COUNT, default=1, help="passes over the data")
    runs.add_device_arguments(parser)
    args = parser.parse_args()
    runs.set_up(args)
    run = runs.Run(args)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    chat, dialogues = load_chat(args.model), []
    prompts = load_prompts(args.prompts)
    for path in args.data:
        if Path(path).is_file() or path.partition(":")[0] in SOURCES:
            dialogues += solutions(path, chat, prompts)
        else:
            of_folder = load_dialogues(path)
            check_speaker(path, of_folder, chat, args)
            dialogues += of_folder
    dialogues = successful(dialogues, run, args.leaks)
    if args.predict_teacher:
        if chat.opened_reasoning:
            reason = "its template opens each turn with reasoning, which hints do not have"
            raise runs.BadInput(f"--predict-teacher, {args.model}: {reason}; use another model")
        for name in ("critic_math", "critic_code"):
            if prompts[name] != "{turn}":  # as_teacher() shows each turn as the latest one would be shown
                raise runs.BadInput(
                    f"--predict-teacher: prompt {name} is {prompts[name]!r}; it must be '{{turn}}'"
                )
        dialogues += [as_teacher(d, chat, prompts) for d in dialogues if d.turns > 1]
    train(args, run, dialogues)


if __name__ == "__main__":
    runs.run_script(main)
