"""The judge: what it is shown, what is made of its replies."""

from common import Dialogue, Problem
from evaluate import assess

PROBLEM = Problem("p", "math", "the whole problem", answer="42")


class Texts:
    """A chat whose views and turns are texts."""

    view, text = staticmethod(lambda messages: messages), staticmethod(lambda said: said)


def judged(dialogue, replies):
    """What assess() returns if the judge says these replies."""
    return judging(dialogue, replies)[0]


def judging(dialogue, replies):
    """(what assess() returns, the texts that the judge was shown)."""
    judge, replies, reply, shown = assess(dialogue, PROBLEM, Texts), iter(replies), None, []
    while True:
        try:
            shown.append(judge.send(reply).ids[0]["content"])
        except StopIteration as end:
            return end.value, shown
        reply = type("Said", (), {"ids": next(replies)})


def test_the_judge_labels_turns_and_hints_and_may_fail_to():
    texts = ("teacher", "problem"), ("student", "?"), ("teacher", "hint"), ("student", "x")
    dialogue = Dialogue("p/0", messages=[{"role": role, "content": text} for role, text in texts])
    given = judged(dialogue, ["Label: Clarification.", "No.", "I cannot tell"])
    assert given == {"id": "p/0", "types": ["clarification", None], "leaks": [False]}


def test_the_judge_of_a_turn_sees_the_whole_problem_and_this_turn_alone():
    texts = (
        ("teacher", "first shard"),
        ("student", "early turn"),
        ("teacher", "hint"),
        ("student", "late turn"),
    )
    dialogue = Dialogue("p/0", messages=[{"role": role, "content": text} for role, text in texts])
    _, shown = judging(dialogue, ["clarification", "no", "answer attempt"])
    assert all("the whole problem" in text for text in shown)
    assert "late turn" in shown[2] and not any(
        text in shown[2] for text in ("first shard", "early turn", "hint\n")
    )
