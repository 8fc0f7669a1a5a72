"""Stage 1: offline SML. Supervised fine-tuning on the student's turns of successful dialogues (Eq. 1).

    python sft.py --model google/gemma-3-12b-it --data runs/dialogues --out runs/mt-sft      # multi-turn, offline SML
    python sft.py --model google/gemma-3-12b-it --data runs/single --out runs/st-sft         # single-turn: generate.py --turns 1

Trains on the very tokens that were sampled (end-of-turn tokens included); the teacher's tokens are context only. Dialogues
that were not solved are left out. --predict-teacher also trains on the hints, each dialogue a second time as a teacher without
private knowledge would see it (self-improvement in the sister paper, arXiv 2602.16066); `evaluate.py play --teacher self` then lets
the model be its own teacher. Chosen where the paper is silent: all weights, AdamW without weight decay, constant learning
rate after a short warm-up, one epoch, equal weight of all student tokens of a step.
"""

import random
import time

from tqdm import tqdm

from common import Dialogue, Run, Trainer, Turn, arguments, fail, load_dialogues, load_model, load_prompts, run_script, sft_loss, visible, world
from generate import NEUTRAL, add_device_arguments, check_arguments


def add_arguments(parser, lr=1e-5):
    """The arguments of supervised training."""
    group = parser.add_argument_group("training")
    group.add_argument("--lr", type=float, default=lr, help="AdamW's learning rate")
    group.add_argument("--batch", type=int, default=32, help="dialogues an optimiser step")
    group.add_argument("--epochs", type=int, default=1, help="passes over the data")
    group.add_argument("--micro-tokens", type=int, default=16384, help="tokens of a micro-batch, padding included; limits memory")
    group.add_argument("--save-every", type=int, default=50, help="steps between saved states")


def train(args, run, model, tokenizer, dialogues):
    """Trains the model on the dialogues; resumes from the run folder's state; saves the checkpoint into the run folder."""
    trainer = Trainer(model, args.lr, args.device, args.dtype)
    steps = [step for epoch in range(args.epochs) for step in epoch_batches(len(dialogues), args.batch, f"{args.seed}/{epoch}")]
    start = run.load_state(trainer)
    run.keep("metrics.jsonl", lambda row: row["step"] <= start)
    for number in tqdm(range(start + 1, len(steps) + 1), initial=start, total=len(steps), desc="sft", mininterval=1, disable=not run.writes):
        for group in trainer.optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, number / max(1, len(steps) // 20))
        clock, mine = time.perf_counter(), steps[number - 1][trainer.rank :: trainer.world]
        row = trainer.step([dialogues[i] for i in mine], lambda _, logprobs, denominator: sft_loss(logprobs, denominator), args.micro_tokens)
        run.append("metrics.jsonl", [{"step": number, **row, "dialogues": len(steps[number - 1]), "seconds": time.perf_counter() - clock}])
        if number % args.save_every == 0 or number == len(steps):
            run.save_state(trainer, number)
    run.save_model(trainer, tokenizer)


def epoch_batches(n, size, seed):
    """Index lists of one pass over n dialogues in random order."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return [order[i : i + size] for i in range(0, n, size)]


def successful(dialogues):
    """Eq. 1: the dialogues with R = 1. Prints how many stay; ends the program if none does."""
    kept = sorted((d for d in dialogues if d.solved is not None), key=lambda d: d.id)  # files are in the order of completion
    if world()[0] == 0:
        print(f"{len(kept)} of {len(dialogues)} dialogues were solved; training on these, {sum(sum(d.mask) for d in kept)} student tokens")
    return kept or fail("no dialogue was solved, so there is nothing to train on; generate more, or use easier problems")


def as_teacher(d, chat, prompts):
    """A dialogue as a teacher without private knowledge sees it: hints are trained on; the problem and the student are context."""
    seen = Dialogue(f"{d.id}/teacher", d.problem, d.domain, d.limit)
    seen.hear(chat.view([{"role": "user", "content": prompts["critic"]}]), prompts["critic"])
    for i, m in enumerate(d.messages[:-1]):  # the last one is a student turn, which nobody answers
        said = visible(m["content"])
        ids = chat.tokenizer.encode(said, add_special_tokens=False) + [chat.end]
        if m["role"] == "student":
            seen.hear(chat.between(said), said)
        elif i:
            seen.say(Turn(ids, [0.0] * len(ids), "stop"), said, chat.end)
        else:
            seen.hear(ids, said)
    return seen


def main():
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True, help="model to train: the student that spoke in the dialogues")
    parser.add_argument("--data", required=True, nargs="+", help="folders that generate.py wrote")
    parser.add_argument("--out", required=True, help="run folder; an unfinished one is resumed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of the dialogues")
    parser.add_argument("--predict-teacher", action="store_true", help="train on the hints too, without what the teacher knew")
    parser.add_argument("--prompts", help="JSON file that replaces prompts of common.py, for --predict-teacher")
    add_arguments(parser)
    add_device_arguments(parser)
    args = parser.parse_args()
    check_arguments(args)
    dialogues = successful([d for path in args.data for d in load_dialogues(path)])
    run = Run(args, NEUTRAL)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    model, chat = load_model(args.model, "cpu")
    if args.predict_teacher:
        prompts = load_prompts(args.prompts)
        dialogues += [as_teacher(d, chat, prompts) for d in dialogues if d.turns > 1]
    too_long = max(len(d.ids) for d in dialogues)
    context = model.config.get_text_config().max_position_embeddings
    if too_long > context:
        fail(f"a dialogue has {too_long} tokens, the context of {args.model} is {context}; generate with fewer turns or tokens")
    train(args, run, model, chat.tokenizer, dialogues)


if __name__ == "__main__":
    run_script(main)
