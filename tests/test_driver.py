"""The driver of many coroutines, with engines and a grader of a few lines."""

import os
import time
from types import SimpleNamespace

import pytest

from parts.driver import Grade, Sample, Speaker, drive
from parts.engines import Turn
from parts.runs import BadInput


class Fake:
    """An engine that answers a request in the poll after so many others."""

    def __init__(self, polls, batching=False, remote=False):
        self.polls, self.batching, self.remote, self.pending, self.sizes = polls, batching, remote, {}, []

    def submit(self, key, conversation, ids):
        self.pending[key] = self.polls

    def poll(self, patience=None):
        self.sizes.append(len(self.pending))
        done = [key for key, left in self.pending.items() if left == 0]
        self.pending = {key: left - 1 for key, left in self.pending.items() if left}
        return [(key, Turn([1], [0.0], "stop")) for key in done]

    def forget(self, conversation):
        pass


def talk(turns):
    for role in turns:
        yield Sample(role, [1], 1)
    return turns


def test_what_ends_at_once_is_yielded_too():
    engine = Fake(0)
    talks = [("a", talk([])), ("b", talk(["x"])), ("c", talk([]))]
    assert sorted(drive(talks, {"x": Speaker(None, engine)})) == [[], [], ["x"]]
    assert list(drive([("a", talk([]))], {"x": Speaker(None, engine)})) == [[]]


def test_a_turn_that_is_sampled_again_has_a_key_and_so_random_numbers_of_its_own():
    engine, keys = Fake(0), []
    engine.submit = lambda key, *_: (keys.append(key), Fake.submit(engine, key, *_))
    list(drive([("a", talk("xx")), ("b", talk("x"))], {"x": Speaker(None, engine)}))
    assert len(set(keys)) == 3 and {("a", "x", 1), ("b", "x", 1)} < set(keys)


def test_what_has_ended_is_not_lost_when_an_engine_fails():
    class Broken(Fake):
        def poll(self, patience=None):
            raise ValueError

    seen = []
    with pytest.raises(ValueError):
        talks = [("a", talk([])), ("b", talk(["x"]))]
        for value in drive(talks, {"x": Speaker(None, Broken(0))}):
            seen.append(value)
    assert seen == [[]]


def test_an_engine_here_goes_on_while_most_dialogues_wait_for_an_endpoint():
    here, away = Fake(5), Fake(50, remote=True)
    talks = [(i, talk(["far"])) for i in range(10)] + [("a", talk(["near"] * 5))]
    speakers = {"near": Speaker(None, here), "far": Speaker(None, away)}
    assert next(drive(talks, speakers)) == ["near"] * 5 and len(away.pending) == 10


def test_a_batch_waits_for_an_endpoint_that_more_dialogues_wait_for():
    here, away = Fake(0, batching=True), Fake(3, remote=True)
    talks = [(i, talk(["far", "near"])) for i in range(10)] + [("a", talk(["near"]))]
    speakers = {"near": Speaker(None, here), "far": Speaker(None, away)}
    assert len(list(drive(talks, speakers))) == 11 and here.sizes == [11]


def test_an_error_waits_for_no_queued_program():
    class Broken(Fake):
        def poll(self, patience=None):
            raise ValueError

    graded, problem = [], SimpleNamespace(domain="code")

    def program():
        yield Grade(problem, "")

    def grade(*_):
        time.sleep(0.1)
        graded.append(1)

    talks = [(i, program()) for i in range(20 * os.cpu_count())] + [("a", talk(["x"]))]
    with pytest.raises(ValueError):
        list(drive(talks, {"x": Speaker(None, Broken(0))}, grade, concurrent=10_000))
    time.sleep(0.3)
    assert len(graded) <= os.cpu_count()


def test_a_coroutine_that_yields_a_text_is_named_in_one_line():
    with pytest.raises(BadInput, match="dialogue a: its coroutine yielded 'x'"):
        list(drive([("a", iter_of("x"))], {"student": Speaker(None, Fake(0))}))


def iter_of(text):
    yield text
