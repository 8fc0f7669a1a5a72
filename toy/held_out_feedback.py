"""evaluate.py with one more teacher, `ranges`, whose feedback on attempts no training has shown.

    python toy/held_out_feedback.py play --teacher ranges --model toy/base --prompts toy/prompts.json …

In training, a range (`2nd 3 or 4.`) answers questions only. Here it answers attempts, too. This file is also
an example of how to add a teacher without changing the kit.
"""

import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import evaluate
from generate import role
from parts import runs
from toy.world import QUESTION, RANGE, TRY


@role()
def ranges(cast, dialogue, problem, latest):
    """Answers with a range: for the slot of a question, or for the first wrong slot of an attempt."""
    turn = dialogue.said[-1]
    said, right = ([int(n[0]) for n in re.findall(r"\d+", text)] for text in (turn, problem.solution))
    wrong = [slot for slot in range(3) if said[slot : slot + 1] != right[slot : slot + 1]]
    slots = [QUESTION.index(turn)] if turn in QUESTION else wrong
    if not slots:  # a turn that is broken behind three right digits
        return TRY
    low = right[slots[0]] - random.Random(f"{dialogue.id}/{dialogue.turns}").randrange(2)
    return RANGE[slots[0]][min(8, max(0, low))]


if __name__ == "__main__":
    runs.run_script(evaluate.main)
