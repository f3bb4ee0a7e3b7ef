"""Texts for the store that a person may change there: written anew for as long as nobody has."""

from __future__ import annotations

import hashlib
import re

MARK = re.compile(r"\n\n\[//\]: # \(nanogpt ([0-9a-f]{12})\)$")
"""A reference that Markdown does not show, with the digest of what stands before it."""


def marked(markdown: str) -> str:
    """Mark a text as one of ours."""
    return f"{markdown}\n\n[//]: # (nanogpt {digest_of(markdown)})"


def is_ours(stored: str | None) -> bool:
    """Tell whether a text is empty, or one of ours that nobody has changed."""
    found = MARK.search(stored or "")
    return not stored or bool(found and found[1] == digest_of(stored[:found.start()]))


def digest_of(markdown: str) -> str:
    return hashlib.sha256(markdown.encode()).hexdigest()[:12]
