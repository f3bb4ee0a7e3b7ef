"""What SIGINT and SIGTERM do: the first one ends the program in order, and within seconds; the second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SECONDS = 4.0
"""After the first signal, until the process ends whatever it does: a store that does not answer holds nobody up."""
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
"""What MLflow reads anew for each request: from the first signal on it does not try again."""


class Interrupted(SystemExit):
    """The process was told to end; its exit code is the shell's for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """Answer signals so in the block; in the main thread alone, elsewhere they are not to be had."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, interrupt) for number in SIGNALS]
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:      # none came
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)


def interrupt(number: int, _: FrameType | None) -> None:
    """Leave as by an exception, so that open runs are closed; the next signal, or the time, ends the process."""
    for other in SIGNALS:
        signal.signal(other, end_now)
    os.environ.update(SHORT_WAITS)
    threading.Thread(target=end_in_time, args=(number,), daemon=True).start()
    raise Interrupted(number)


def end_now(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def end_in_time(number: int) -> None:
    """Close what is still open once most of the time is over, for a program that cannot, and end it."""
    time.sleep(SECONDS - 1)
    closing = threading.Thread(target=close_open_runs, daemon=True)
    closing.start()
    closing.join(1)
    os._exit(128 + number)


def close_open_runs() -> None:
    """Mark the runs that this process has open KILLED, where it has come so far as to open any."""
    if module := sys.modules.get("nanogpt.tracking.run"):
        module.close_open_runs("KILLED")
