"""Stage 2: Q-priming. Dialogues into which questions were injected, then SFT on the successful ones, before RL.

    python qprime.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/q-primed
    python qprime.py --model google/gemma-3-12b-it --problems train.jsonl --out runs/control --no-questions
    python grpo.py --model runs/q-primed/model --teacher google/gemma-3-12b-it --problems train.jsonl --out runs/q-primed-rl

While a dialogue is played, a wrong student turn t is replaced with probability P_Q(t) = 0.75^t (Eq. 4, first turn t = 1) by a
question that the student model itself writes when shown its attempt and the teacher's private knowledge; the dialogue goes on
from there. What is trained on holds the public dialogue only. The question is written by the frozen initial student.
--no-questions is the control arm: the same two stages without injection.
"""

import random
from functools import partial

from common import Dialogue, Run, arguments, load_model, load_problems, run_script
from generate import NEUTRAL, add_arguments, check_arguments, generate, summary
from sft import add_arguments as add_training_arguments
from sft import successful, train


def injected(seed, name, t):
    """Eq. 4 for a turn that is wrong: true with probability 0.75^t, the same for the same dialogue and turn."""
    return random.Random(f"{seed}/{name}/{t}/question").random() < 0.75**t


def main():
    parser = arguments(__doc__)
    add_arguments(parser)
    parser.add_argument("--samples", type=int, default=2, help="dialogues of each problem")
    parser.add_argument("--no-questions", action="store_true", help="control arm: inject nothing")
    add_training_arguments(parser)
    args = parser.parse_args()
    check_arguments(args)
    problems = load_problems(args.problems, args.answers)
    run = Run(args, NEUTRAL)
    if (run.path / "model").exists():
        return run.say(f"{run.path} is finished")
    rows = generate(args, run, problems, inject=None if args.no_questions else partial(injected, args.seed))
    run.say(", ".join(f"{k} {v:.3f}" for k, v in summary(rows, args.turns).items()))
    dialogues = successful([Dialogue(**{k: r[k] for k in Dialogue.__dataclass_fields__}) for r in rows])
    model, chat = load_model(args.model, "cpu")
    train(args, run, model, chat.tokenizer, dialogues)


if __name__ == "__main__":
    run_script(main)
