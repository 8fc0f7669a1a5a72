"""The judge: what it is shown, what is made of its replies."""

from common import Dialogue, Problem
from evaluate import assess


class Texts:
    """A chat whose views and turns are texts."""

    view, text = staticmethod(lambda messages: messages), staticmethod(lambda said: said)


def judged(dialogue, replies):
    """What assess() returns if the judge says these replies."""
    judging, replies, reply = (
        assess(dialogue, Problem("p", "math", "x", answer="42"), Texts),
        iter(replies),
        None,
    )
    while True:
        try:
            judging.send(reply)
        except StopIteration as end:
            return end.value
        reply = type("Said", (), {"ids": next(replies)})


def test_the_judge_labels_turns_and_hints_and_may_fail_to():
    texts = ("teacher", "problem"), ("student", "?"), ("teacher", "hint"), ("student", "x")
    dialogue = Dialogue("p/0", messages=[{"role": role, "content": text} for role, text in texts])
    given = judged(dialogue, ["Label: Clarification.", "No.", "I cannot tell"])
    assert given == {"id": "p/0", "types": ["clarification", None], "leaks": [False]}
