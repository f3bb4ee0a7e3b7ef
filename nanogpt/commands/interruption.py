"""What SIGINT and SIGTERM do: the first one ends the program in order, and within seconds; the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from nanogpt.tracking import request_limits

SECONDS_IN_ORDER, SECONDS_TO_CLOSE = 2.5, 2.0
"""After the first signal the process ends whatever it does: first the program may, then its runs are closed for it."""


class Interrupted(SystemExit):
    """The process was told to end; its exit code is the shell's for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_in_order(last_words: str) -> Iterator[None]:
    """Answer signals so in the block, and say the `last_words`; in the main thread alone, elsewhere there are none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        """Leave as by an exception, so that open runs are closed; the next signal, or the time, ends the process."""
        for other in SIGNALS:
            signal.signal(other, end_now)
        sys.unraisablehook = pass_over_interrupted
        request_limits.shorten()
        threading.Thread(target=end_in_time, args=(number, last_words), daemon=True).start()
        raise Interrupted(number)

    before = [signal.signal(number, interrupt) for number in SIGNALS]
    try:
        yield
    except Interrupted as end:
        close_open_runs()
        say(end.signal, last_words)
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:      # none came
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)


@contextlib.contextmanager
def heard(act: Callable[[int], None]) -> Iterator[None]:
    """Have a thread act on the first of SIGNALS, also where the main thread waits in C, so that no handler runs."""
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def listen() -> None:
        while number := ear.recv(1):        # nothing comes once the other end is closed
            if number[0] in SIGNALS:
                act(number[0])

    threading.Thread(target=listen, daemon=True).start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()


def pass_over_interrupted(unraisable: sys.UnraisableHookArgs) -> None:
    """Say nothing where the exception came up in a place that Python lets nothing out of, as a callback of an import.

    The time ends the process then.
    """
    if unraisable.exc_type is not Interrupted:
        sys.__unraisablehook__(unraisable)


def end_now(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def say(number: int, last_words: str) -> None:
    print(f"stopped by signal {number}; {last_words}", file=sys.stderr, flush=True)


def end_in_time(number: int, last_words: str) -> None:
    """Close what is still open once most of the time is over, for a program that cannot, and end it.

    A library may have caught the exception in its imports and gone on.
    """
    time.sleep(SECONDS_IN_ORDER)
    closing = threading.Thread(target=close_open_runs, daemon=True)
    closing.start()
    closing.join(SECONDS_TO_CLOSE)
    say(number, last_words)
    os._exit(128 + number)


def close_open_runs() -> None:
    """Mark the runs that this process has open KILLED, where it has come so far as to open any."""
    if module := sys.modules.get("nanogpt.tracking.run"):
        module.close_open_runs("KILLED")
