"""Stage 2: Q-priming. SFT on successful dialogues into which questions were injected; RL follows.

    python qprime.py --model google/gemma-3-12b-it --problems omni-math/train --out runs/primed
    python qprime.py --no-questions --model google/gemma-3-12b-it --problems … --out runs/unprimed
    python grpo.py --model runs/primed/model --teacher-model google/gemma-3-12b-it --problems … --out runs/rl

While a dialogue is played, a wrong student turn t is replaced by a question with probability P_Q(t) = 0.75^t
(Eq. 4, first turn t = 1); the dialogue goes on from there. The asker, the frozen initial student, writes the
question when shown the wrong attempt and the teacher's private knowledge: in math the answer, and the
solution if the problem has one; in code the test report. Training sees only the public dialogue.
--no-questions is the control arm: dialogues and SFT without injection, for the same RL.
"""

import random

from common import leaks, load_problems
from generate import ASKERS, TEACHERS, dialogue_of, load_cast, play_into
from parts import runs
from parts.chat import load_chat, visible
from parts.driver import Grade
from parts.measures import line, summary
from sft import successful, train


def question_instead(cast, dialogue, problem, text, latest, ask, seed):
    """The (turn, text, verdict) of a question that replaces a wrong turn, or None (Eq. 4); a coroutine.

    text: that of the wrong turn. latest: the Verdict on the latest attempt. ask: a function of ASKERS. The
    question is public and trained on. So the asker writes another one if it gives the answer away, answers
    instead of asking, shows its reasoning, or is empty. After three of these the wrong turn stays.
    """
    t = dialogue.turns + 1
    if not drawn(seed, dialogue.id, t):
        return None
    for _ in range(3):
        turn = yield from ask(cast, dialogue, problem, text, latest)
        question = cast.asker.chat.text(turn.ids)
        verdict = yield Grade(problem, question)
        shows_reasoning = visible(question) != question.strip()
        useless = verdict.attempted or shows_reasoning or not question.strip()
        if not useless and not leaks(problem, question, verdict):
            dialogue.injected.append(t)
            return turn, question, verdict
    return None


def drawn(seed, name, t):
    """Whether a wrong turn t becomes a question: with probability P_Q(t) = 0.75^t, from seed and name."""
    return random.Random(f"{seed}/{name}/{t}/question").random() < 0.75**t


def main():
    parser = runs.Parser(__doc__)
    runs.add_dialogue_arguments(
        parser, TEACHERS, turns=4, max_tokens=1024, temperature=1.0, teacher_temperature=1.0, seed=0
    )
    parser.add_argument("--samples", type=runs.COUNT, default=2, help="dialogues of each problem")
    runs.add_role_argument(parser, "--asker", ASKERS, default="asker", help="who writes the questions")
    parser.add_argument("--no-questions", action="store_true", help="control arm: inject nothing")
    runs.add_training_arguments(parser, batch=32, unit="dialogues", lr=1e-5, lora_lr=1e-4, save_every=50)
    parser.add_argument("--epochs", type=runs.COUNT, default=1, help="passes over the data")
    args = parser.parse_args()
    runs.set_up(args)
    if not args.no_questions and load_chat(args.model).opened_reasoning:
        reason = "its template opens each turn with reasoning, and questions must have none"
        raise runs.BadInput(f"--model {args.model}: {reason}; use another model")
    problems, run = load_problems(args.problems, args.answers), runs.Run(args)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")

    def inject(cast, dialogue, problem, text, latest):
        return question_instead(cast, dialogue, problem, text, latest, ASKERS[args.asker], args.seed)

    def coroutine_of(cast, problem, name, args):
        return dialogue_of(cast, problem, name, args, None if args.no_questions else inject)

    dialogues = play_into(run, args, problems, lambda: load_cast(args, training="later"), coroutine_of)
    injected = sum(len(d.injected) for d in dialogues)
    run.say(f"{injected} questions injected, {line(summary(dialogues, args.turns))}")
    train(args, run, successful(dialogues, run, args.leaks))


if __name__ == "__main__":
    runs.run_script(main)
