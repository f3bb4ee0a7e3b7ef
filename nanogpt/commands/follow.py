"""What a process does that torchrun has launched beside the first one: it trains along, without a word, without MLflow.

The first one tells what went wrong. When that one has ended, whatever the reason, this one ends too.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from nanogpt.commands import interruption
from nanogpt.errors import UserError
from nanogpt.model.allocator import keep_freed_memory
from nanogpt.model.launch import Launch

GRACE_SECONDS = 1.0
"""After a signal this process trains on for so long: the first one has it too, and leaves between two steps."""


def follow(launched: Launch) -> None:
    """Train along until the first process says that all is done."""
    for number in interruption.SIGNALS:
        signal.signal(number, lambda *_: None)      # the thread below ends the process
    with interruption.heard(end_soon):
        keep_freed_memory()
        from nanogpt.training.loop import train_along
        from nanogpt.training.processes import joined

        try:
            with joined(launched):
                train_along()
        except UserError:
            sys.exit(2)


def end_soon(number: int) -> None:
    time.sleep(GRACE_SECONDS)
    os._exit(128 + number)
