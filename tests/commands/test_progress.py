"""The bar on a terminal and the estimate of the rest, against studies whose course is known."""

from __future__ import annotations

import io
import logging
import re

import pytest

from nanogpt.commands.progress import CLEARED_LINE, ProgressHandler
from nanogpt.study.estimate import part, time_left


class Terminal(io.StringIO):
    """What a terminal is to a program; `shown` is what a person sees of it in the end."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """Each line as the last thing that was written over it."""
        return "\n".join(line.rstrip("\r").split(CLEARED_LINE)[-1].split("\r")[-1]
                         for line in self.getvalue().split("\n"))


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def logger_to(stream: io.StringIO) -> logging.Logger:
    logger = logging.Logger("progress")
    logger.addHandler(ProgressHandler(stream))
    return logger


def test_a_bar_stands_below_the_lines_and_goes_when_all_is_done(terminal: Terminal) -> None:
    log = logger_to(terminal)
    log.info("one", extra={"share_done": 0.0, "phase_share": 0.5})
    assert "%" not in terminal.shown
    log.info("two", extra=part(1, 2))
    assert terminal.shown.startswith("one\ntwo\n") and " 25%" in terminal.shown
    log.info("three", extra={"share_done": 0.5, "phase_share": 0.25})
    log.info("no record of progress")
    assert terminal.shown.splitlines()[:4] == ["one", "two", "three", "no record of progress"]
    assert " 50%" in terminal.shown and " 25%" not in terminal.shown
    log.info("four", extra={"share_done": 1.0})
    assert terminal.shown == "one\ntwo\nthree\nno record of progress\nfour\n"


def test_a_command_without_phases_is_one_and_a_log_has_lines_alone(terminal: Terminal) -> None:
    log_file = io.StringIO()
    for stream in (terminal, log_file):
        logger_to(stream).info("step", extra=part(30, 40))
    assert " 75%" in terminal.shown and log_file.getvalue() == "step\n"


@pytest.mark.parametrize(("done", "seconds", "said"), [
    (0.5, 60, "about 60 s left"), (0.25, 60, "about 3 min left"), (0.01, 60, ""), (0.0, 0, ""), (1.0, 60, "")])
def test_the_rest_takes_as_long_as_its_share_took(done: float, seconds: float, said: str) -> None:
    assert time_left(done, seconds) == said
    if said:
        number, unit = re.findall(r"(\d+) (s|min)", said)[0]
        assert float(number) * {"s": 1, "min": 60}[unit] == seconds * (1 - done) / done
