"""Errors that a user can cause, told apart from faults of the program."""

from __future__ import annotations

LONGEST_SHOWN = 300
"""Characters of a received value that an error shows."""


class UserError(ValueError):
    """What a user can cause and mend: a value, a file, a name. The command line shows its message as one line.

    Any other exception is a fault of the program and keeps its traceback.
    """


def require(rule: bool, text: str, received: object) -> None:
    """Raise a one-line `UserError` where `rule` is broken: name and rule in `text`, then the received value."""
    if not rule:
        raise UserError(f"{text}, got {one_line(repr(received))}")


def one_line(text: str) -> str:
    """Return a text as one line that is not endless."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]}…"
