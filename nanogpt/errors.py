"""Errors that a user can cause, told apart from faults of the program."""

from __future__ import annotations


class UserError(ValueError):
    """What a user can cause and mend: a value, a file, a name. The command line shows its message as one line.

    Any other exception is a fault of the program and keeps its traceback.
    """


def require(rule: bool, text: str, received: object) -> None:
    """Raise a one-line `UserError` where `rule` is broken: name and rule in `text`, then the received value."""
    if not rule:
        raise UserError(f"{text}, got {received!r}")
