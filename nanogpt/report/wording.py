"""How characters, lists and what was attributed are written in figures, captions and sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from nanogpt.config import ATTRIBUTION_CATALOGUE
from nanogpt.report.tables import StudyTables

WHITESPACE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "↵"})


def visible(text: object) -> str:
    """Return `text` with its white space shown; a missing value is ''. (␣ and not ␠, which matplotlib's font lacks.)

    >>> visible("To be\\n")
    'To␣be⏎'
    """
    return text.translate(WHITESPACE) if isinstance(text, str) else ""


def listed(parts: Sequence[str]) -> str:
    """Return the parts as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def spaced(name: str) -> str:
    """Return a method's name for people: `grad_cam` is `grad cam`."""
    return name.replace("_", " ")


def wrapped(label: str) -> str:
    """Return the label of an axis in lines that are no longer than a panel."""
    return textwrap.fill(label, 40)


def attributed_value(tables: StudyTables) -> str:
    """Name the value of which each character has its share: `the target's logit`, or what the study was asked for."""
    value = str(tables.setting("attribute_of")).replace("log_probability", "log-probability")
    return f"the target's {value}" + (" less that of its strongest rival" if tables.setting("contrastive") else "")


def tested_value(tables: StudyTables) -> str:
    """Name the value that deletion tests watch: that of the attribution; for a loss its negative, which falls."""
    return attributed_value(tables).replace("target's loss", "target's log-probability")


def attributed_scores(tables: StudyTables) -> str:
    """Name the scores of the method that read every model and prompt, and say what they are where that is known."""
    method = tables.first_method
    explanation = next((known.explanation for known in ATTRIBUTION_CATALOGUE if known.name == method), "")
    return f"{spaced(method)} of {attributed_value(tables)}" + (f" ({explanation})" if explanation else "")
