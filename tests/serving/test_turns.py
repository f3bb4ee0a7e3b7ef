"""Requests in turn: short ones are not held up by long ones, and none goes on for ever."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from nanogpt.serving import turns
from nanogpt.serving.turns import Interrupted, Turns


def steps(count: int, seconds: float = 0.001) -> Iterator[int]:
    for step in range(count):
        time.sleep(seconds)
        yield step


def test_what_is_computed_in_turns_is_what_would_be_alone() -> None:
    shared, answers = Turns(), dict[int, list[int]]()

    def answer(count: int) -> None:
        answers[count] = list(shared.in_turns(steps(count)))

    threads = [threading.Thread(target=answer, args=[count]) for count in (0, 1, 60, 61)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {count: list(range(count)) for count in (0, 1, 60, 61)}


def test_a_short_answer_overtakes_long_ones() -> None:
    shared, goes_on = Turns(), True

    def endless() -> None:
        with pytest.raises(Interrupted, match="nobody waits"):
            for _ in shared.in_turns(steps(10**6), lambda: goes_on):
                pass

    threads = [threading.Thread(target=endless) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert len(list(shared.in_turns(steps(50)))) == 50
    took, goes_on = time.monotonic() - began, False
    for thread in threads:
        thread.join()
    assert took < 1      # in turn with six of its kind 50 steps of a millisecond would take seven times as long


def test_an_answer_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SECONDS", 0.1)
    began = time.monotonic()
    with pytest.raises(Interrupted, match=r"within 0\.1 seconds"):
        list(Turns().in_turns(itertools.count()))
    assert time.monotonic() - began < 1


def test_a_failing_answer_gives_its_turn_back() -> None:
    shared = Turns()
    with pytest.raises(ZeroDivisionError):
        list(shared.in_turns(1 // n for n in (1, 0)))
    with pytest.raises(KeyError), shared.long_answer():
        raise KeyError
    assert list(shared.in_turns([1, 2])) == [1, 2] and shared.long_answers == 0


def test_long_answers_are_counted() -> None:
    shared = Turns()
    with (shared.long_answer(), shared.long_answer(), pytest.raises(Interrupted, match="2 long answers"),
          shared.long_answer()):
        pass
    with shared.long_answer():
        pass
