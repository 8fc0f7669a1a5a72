"""Stage 2: Q-priming. Dialogues into which questions were injected, then SFT on the successful ones, before
RL.

    python qprime.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/primed
    python qprime.py --no-questions --model google/gemma-3-12b-it --problems … --out runs/unprimed
    python grpo.py --model runs/primed/model --teacher google/gemma-3-12b-it --problems … --out runs/primed-rl

While a dialogue is played, a wrong student turn t is replaced with probability P_Q(t) = 0.75^t (Eq. 4, first
turn t = 1) by a question that the student model itself writes when shown its attempt and the teacher's
private knowledge; the dialogue goes on from there. What is trained on holds the public dialogue only. The
question is written by the frozen initial student. --no-questions is the control arm: the same two stages
without injection.
"""

import random
from functools import partial

from common import filled, leaks, load_chat, load_problems, visible
from generate import knowledge_of, play_into, start
from parts import runs
from parts.driver import Grade, Sample
from parts.measures import line, summary
from sft import successful, train


def question_instead(dialogue, problem, text, latest, *, seed, chat, prompts):
    """Eq. 4 for a wrong turn: the (turn, text, verdict) of a question in its place, or None; a coroutine, see
    generate.converse.

    An asker that answers instead of asking, gives the answer away or thinks aloud is not used: what is said
    is public, and trained on.
    """
    t = dialogue.turns + 1
    if not injects(seed, dialogue.id, t):
        return None
    turn = yield Sample(
        "asker", chat.view(asker_view(problem, text, knowledge_of(problem, latest), prompts)), t
    )
    question = chat.text(turn.ids)
    verdict = yield Grade(problem, question)
    secret = leaks(problem, question) or visible(question) != question.strip()
    if verdict.attempted or secret or not question.strip():
        return None
    dialogue.injected.append(t)
    return turn, question, verdict


def injects(seed, name, t):
    """Whether a wrong turn t becomes a question: with probability 0.75^t, each time the same for a turn."""
    return random.Random(f"{seed}/{name}/{t}/question").random() < 0.75**t


def asker_view(problem, turn, knowledge, prompts):
    """What the student is shown to ask an informative question: its attempt and the private knowledge."""
    return [{"role": "user", "content": filled(prompts, "asker", problem, visible(turn), knowledge)}]


def main():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(parser)
    parser.add_argument("--samples", type=runs.COUNT, default=2, help="dialogues of each problem")
    parser.add_argument("--no-questions", action="store_true", help="control arm: inject nothing")
    runs.add_training_arguments(parser, batch=32, unit="dialogues", lr=(1e-5, 1e-4), save_every=50)
    parser.add_argument("--epochs", type=runs.COUNT, default=1, help="passes over the data")
    args = parser.parse_args()
    runs.settle(args)
    if not args.no_questions and load_chat(args.model).opening:
        told = "its template opens a turn with reasoning, which questions must not have"
        raise runs.BadInput(f"--model {args.model}: {told}; use another model")
    problems, run = load_problems(args.problems, args.answers), runs.Run(args)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    inject = None if args.no_questions else partial(question_instead, seed=args.seed)
    speakers = partial(start, args, inject, trains="later")
    dialogues = play_into(run, args, problems, speakers, then_sleep=True)
    injected = sum(len(d.injected) for d in dialogues)
    run.say(f"{line(summary(dialogues, args.turns))}, {injected} questions injected")
    train(args, run, successful(dialogues, run))


if __name__ == "__main__":
    runs.run_script(main)
