"""Plays many dialogues at once. Not needed to read the method.

A dialogue is a coroutine that yields requests, as if it were alone. `drive` hands requests for turns to
engines (engines.py) and requests for verdicts to a grader, and sends the results back. Engines know nothing
of dialogues.
"""

import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from parts.runs import BadInput
from parts.sandbox import cores


@dataclass
class Sample:
    """A request for a turn of a role; an engines.Turn is sent back.

    ids: all that the role sees, as token ids, or as messages if its engine is an Endpoint. turn: its number,
    which seeds it.
    """

    role: str
    ids: list
    turn: int


@dataclass
class Grade:
    """A request for the verdict on a student turn; what grade(problem, text) returns is sent back."""

    problem: Any
    text: str


@dataclass
class Speaker:
    """A chat template and an engine, which together speak for a role."""

    chat: Any
    engine: Any


class Grader:
    """Grades turns while others are sampled: math at once, programs in threads."""

    def __init__(self, grade):
        # Under torchrun the processes of a machine share its cores. Each starts only its part of the threads,
        # so that no more programs run than there are cores.
        workers = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self.grade, self.pool = grade, ThreadPoolExecutor(max_workers=workers)
        self.done, self.running = [], {}

    def submit(self, name, request):
        if request.problem.domain == "math":
            self.done.append((name, self.grade(request.problem, request.text)))
        else:
            self.running[self.pool.submit(self.grade, request.problem, request.text)] = name

    def poll(self, block):
        """[(name, verdict)] of finished requests; with `block`, waits for all of them."""
        if block:
            wait(self.running)
        finished = [f for f in self.running if f.done()]
        done, self.done = self.done, []
        return done + [(self.running.pop(f), f.result()) for f in finished]


def drive(coroutines, speakers, grade=None, concurrent=256, seconds: Counter | None = None):
    """Runs (name, coroutine) pairs, at most `concurrent` at once; yields what each returns, when it ends.

    speakers: {role: Speaker}. grade(problem, text): the verdict on a turn. seconds: a Counter; drive() adds
    the time spent sampling for each role, and as "grading" the time spent waiting for verdicts on programs.
    Math is graded at once, within the student's time.
    """
    waiting, running, results, grader = iter(coroutines), {}, [], Grader(grade)
    keys = defaultdict(set)  # dialogue → keys of the turns that it has requested
    seconds = Counter() if seconds is None else seconds
    # Several roles may share an engine; its time counts for the first of them.
    engines = list({id(s.engine): (role, s.engine) for role, s in reversed(speakers.items())}.values())
    local = [(role, engine) for role, engine in engines if not engine.remote]
    remote = [(role, engine) for role, engine in engines if engine.remote]

    def advance(name, value):
        """Sends a coroutine the value that it waits for, and hands its next request on."""
        try:
            request = running[name].send(value)
        except StopIteration as end:
            del running[name]
            keys.pop(name, None)
            for role, speaker in speakers.items():
                speaker.engine.forget(f"{name}/{role}")
            results.append(end.value)
            return
        if isinstance(request, Grade):
            grader.submit(name, request)
        elif not isinstance(request, Sample):
            reason = f"dialogue {name}: its coroutine yielded {request!r}"
            raise BadInput(f"{reason}; it may yield Sample or Grade, and return a text")
        else:
            key = (name, request.role, request.turn)
            if key in keys[name]:  # the turn is sampled again, with other random numbers
                key = (*key, len(keys[name]))
            keys[name].add(key)
            speakers[request.role].engine.submit(key, f"{name}/{request.role}", request.ids)

    def poll(role, engine, **kwargs):
        """Advances the dialogues whose turns an engine has finished."""
        clock = time.perf_counter()
        for (name, *_), turn in engine.poll(**kwargs):
            advance(name, turn)
        seconds[role] += time.perf_counter() - clock

    def busiest_local():
        """(role, engine) of the local engine with the most requests; None if none should run now.

        A batching engine blocks until turns finish. So it does not start while more requests are due from
        remote endpoints than wait for it: their replies will make its batch larger.
        """
        backlog = sum(len(engine.pending) for _, engine in remote)
        ready = []
        for role, engine in local:
            if len(engine.pending) >= (max(1, backlog) if engine.batching else 1):
                ready.append((role, engine))
        return max(ready, key=lambda pair: len(pair[1].pending), default=None)

    try:
        while True:
            # 1. Start dialogues, as long as there are fewer than `concurrent`.
            while len(running) < concurrent and (new := next(waiting, None)) is not None:
                name, coroutine = new
                running[name] = coroutine
                advance(name, None)  # to its first request
            # 2. Yield the results so far, before anything that may fail.
            yield from results
            results.clear()
            if not running:
                return
            # 3. Sample. A remote endpoint is waited for only if no local engine has work.
            busiest = busiest_local()
            if busiest:
                poll(*busiest)
            for role, engine in remote:
                poll(role, engine, patience=0 if busiest else 0.05)
            # 4. Grade. Wait for all verdicts, unless an engine that does not batch has turns to sample. Which
            # turns share a batch, and so how sums are rounded, must not depend on how long a program took.
            clock = time.perf_counter()
            for name, verdict in grader.poll(block=all(e.batching or not e.pending for _, e in engines)):
                advance(name, verdict)
            seconds["grading"] += time.perf_counter() - clock
    finally:
        grader.pool.shutdown(wait=False, cancel_futures=True)  # an error or Ctrl-C cancels queued programs
