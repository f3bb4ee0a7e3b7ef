"""What a command says while it works: plain lines in a log; on a terminal a bar below them."""

from __future__ import annotations

import logging
import time
from typing import TextIO

import click

from nanogpt.study.estimate import time_left

CLEARED_LINE = "\r\x1b[K"


class ProgressHandler(logging.StreamHandler[TextIO]):
    """Writes what the package logs, and on a terminal how much is done below it, until all is.

    A record may have `share_done`, how much was done when a phase began, and `phase_share`, how much the phase is; or
    `share_of_phase`, how much of it is done by now. Without phases the command is one.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.phase_began_at, self.phase_share, self.done = 0.0, 1.0, 0.0
        self.began = time.monotonic()
        self.is_drawn = False

    def emit(self, record: logging.LogRecord) -> None:
        self.clear()
        super().emit(record)
        if hasattr(record, "share_done"):
            self.phase_began_at, self.phase_share = record.share_done, getattr(record, "phase_share", 0.0)
            self.done = self.phase_began_at
        elif hasattr(record, "share_of_phase"):
            self.done = self.phase_began_at + self.phase_share * record.share_of_phase
        if self.stream.isatty() and 0 < self.done < 1:
            self.draw()

    def draw(self) -> None:
        """Write the bar and leave the cursor at its beginning, for whoever writes next."""
        bar = click.progressbar(length=1000, file=self.stream, width=30, show_eta=False, fill_char="█", empty_char="░",
                                bar_template="%(bar)s  %(info)s")
        bar.pos = round(1000 * self.done)
        left = time_left(self.done, time.monotonic() - self.began)
        self.stream.write(f"{bar.format_progress_line()}{f' · {left}' if left else ''}\r")
        self.flush()
        self.is_drawn = True

    def clear(self) -> None:
        """Take the bar away."""
        if self.is_drawn:
            self.stream.write(CLEARED_LINE)
            self.flush()
            self.is_drawn = False
