"""Drives many coroutines at once: each yields requests for turns and verdicts, and is sent what it waits for.

The only place that knows of batches. A coroutine reads as if it were alone; an engine (engines.py) never
hears of dialogues.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from parts.sandbox import cores


@dataclass
class Sample:
    """A request for a turn; an engines.Turn is sent back. role: who speaks. ids: of its whole view."""

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
    """Who says turns: a chat template and an engine."""

    chat: Any
    engine: Any


class Grader:
    """Grades turns while others are sampled: math at once, programs in threads."""

    def __init__(self, grade):
        # Under torchrun the processes of a machine share its cores: no more programs run than there are.
        workers = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        self.grade, self.pool = grade, ThreadPoolExecutor(max_workers=workers)
        self.done, self.running = [], {}

    def submit(self, name, request):
        if request.problem.domain == "math":
            self.done.append((name, self.grade(request.problem, request.text)))
        else:
            self.running[self.pool.submit(self.grade, request.problem, request.text)] = name

    def poll(self, block):
        """[(name, verdict)] of what is graded; with `block`, of everything submitted."""
        if block:
            wait(self.running)
        finished = [f for f in self.running if f.done()]
        done, self.done = self.done, []
        return done + [(self.running.pop(f), f.result()) for f in finished]


def drive(
    coroutines, speakers: dict[str, Speaker], grade=None, live: int = 256, seconds: Counter | None = None
):
    """Runs (name, coroutine) pairs, at most `live` at once; yields what each returns, as it ends.

    speakers: by role. grade(problem, text): the verdict on a turn. seconds: to which the time in each role,
    and in waiting for verdicts on programs, is added; math is graded within the student's.
    """
    waiting, running, ended, grader = iter(coroutines), {}, [], Grader(grade)
    seconds = Counter() if seconds is None else seconds
    engines = list({id(s.engine): (role, s.engine) for role, s in reversed(speakers.items())}.values())
    local = [pair for pair in engines if not pair[1].remote]
    remote = [pair for pair in engines if pair[1].remote]

    def advance(name, value):
        try:
            request = running[name].send(value)
        except StopIteration as end:
            del running[name]
            for role, speaker in speakers.items():
                speaker.engine.forget(f"{name}/{role}")
            ended.append(end.value)
            return
        if isinstance(request, Grade):
            grader.submit(name, request)
        else:
            key = (name, request.role, request.turn)
            speakers[request.role].engine.submit(key, f"{name}/{request.role}", request.ids)

    def listen(role, engine, *patience):
        clock = time.perf_counter()
        for (name, _, _), turn in engine.poll(*patience):
            advance(name, turn)
        seconds[role] += time.perf_counter() - clock

    try:
        while True:
            while len(running) < live and (new := next(waiting, None)) is not None:
                name, running[new[0]] = new
                advance(name, None)
            yield from ended  # before what may fail
            ended.clear()
            if not running:
                return
            away = sum(len(engine.pending) for _, engine in remote)
            here = []
            for role, engine in local:
                # What batches is busy until turns have ended: meanwhile few should come back from elsewhere.
                enough = max(1, away) if engine.batching else 1
                here += [(role, engine)] if len(engine.pending) >= enough else []
            if here:
                listen(*max(here, key=lambda pair: len(pair[1].pending)))  # the fullest batch first
            for role, engine in remote:
                listen(role, engine, 0 if here else 0.05)
            clock = time.perf_counter()
            for name, verdict in grader.poll(block=all(e.batching or not e.pending for _, e in engines)):
                advance(name, verdict)
            seconds["grading"] += time.perf_counter() - clock
    finally:
        grader.pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for no queued program
