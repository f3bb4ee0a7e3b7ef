"""Many requests in one process: they compute in turn, end at a deadline, and at once when the server ends.

A server hands each request to a thread and never tells it that the client has gone. So a long answer must not keep
others waiting, and must end by itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

SECONDS = 30.0
"""The longest that an answer may take; MLflow's server itself gives up after 60."""
SLICE_SECONDS = 0.02
"""What a request computes in a turn."""
LONG_ANSWERS = 2
"""Long answers that are written at once: the server has at least five threads, and short ones need some."""


class Interrupted(Exception):
    """An answer ends before it is whole: too many are asked for, it takes too long, or the server ends."""


class Turns:
    """One request computes at a time: of those that wait, the one that has computed least."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: list[float] = []
        self.is_taken = False
        self.long_answers = 0
        self.has_ended = False

    @contextlib.contextmanager
    def turn(self, spent: float) -> Iterator[None]:
        """Wait for a turn as one that has computed for `spent` seconds, and hold it inside the block."""
        with self.changed:
            self.waiting.append(spent)
            self.changed.wait_for(lambda: not self.is_taken and spent <= min(self.waiting))
            self.waiting.remove(spent)
            self.is_taken = True
        try:
            yield
        finally:
            with self.changed:
                self.is_taken = False
                self.changed.notify_all()

    def in_turns(self, items: Iterable[Item], goes_on: Callable[[], bool] = lambda: True) -> Iterator[Item]:
        """Yield what `items` computes, in turn with other requests.

        Interrupted at the deadline, when the server ends, or when `goes_on` says no.
        """
        computing, spent, began = iter(items), 0.0, time.monotonic()
        ended = object()
        while True:
            done: list[Item | object] = []
            with self.turn(spent):
                turn_began = time.monotonic()
                while time.monotonic() - turn_began < SLICE_SECONDS and (not done or done[-1] is not ended):
                    done.append(next(computing, ended))
                spent += time.monotonic() - turn_began
            for item in done:
                if item is ended:
                    return
                yield item  # type: ignore[misc]
            if self.has_ended:
                raise Interrupted("the server ends")
            if time.monotonic() - began > SECONDS:
                raise Interrupted(f"an answer must be written within {SECONDS:g} seconds: ask for fewer characters")
            if not goes_on():
                raise Interrupted("nobody waits for the answer any more")

    @contextlib.contextmanager
    def long_answer(self) -> Iterator[None]:
        """Count a long answer inside the block. Interrupted where as many are written as may be."""
        with self.changed:
            if self.long_answers >= LONG_ANSWERS:
                raise Interrupted(f"{LONG_ANSWERS} long answers are being written, and no more at once: ask again "
                                  "later, or for fewer characters")
            self.long_answers += 1
        try:
            yield
        finally:
            with self.changed:
                self.long_answers -= 1


TURNS = Turns()
"""Those of this process, for all its models."""
