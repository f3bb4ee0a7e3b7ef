"""The folder of downloads and of cleaned texts: what was cleaned once is read back while its origin and our code stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CODE = Path(__file__).parent
"""The folder whose code makes a cleaned text: readers, cleaners, and the table that says which of them reads what."""


class CleanedText(NamedTuple):
    """A cleaned text, where its documents begin, and the SHA-256 and the size in bytes of what it was made from."""

    text: str
    document_starts: tuple[int, ...]
    raw_sha256: str
    raw_bytes: int


def cache_folder(cache: Path | None) -> Path | None:
    """Return `cache`, else the environment's NANOGPT_CACHE, else the user's cache folder; None without pooch."""
    if cache is not None or os.environ.get("NANOGPT_CACHE"):
        return Path(cache or os.environ["NANOGPT_CACHE"]).expanduser()
    try:
        import pooch
    except ImportError:
        return None
    return Path(pooch.os_cache("nanogpt"))


def cached_text(folder: Path | None, label: str, origin: str, clean: Callable[[], CleanedText]) -> CleanedText:
    """Return what `clean` returns, kept in `folder` for as long as `origin` and the code of this wing stay the same.

    A file that is damaged or of another format is made again. Nothing is kept without a folder, or in one that cannot
    be written.
    """
    path = None if folder is None else folder / f"cleaned-{label}-{cache_key(origin)}.txt"
    if path is not None and path.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError):
            return unpacked(path.read_bytes())
    cleaned = clean()
    if path is not None:
        write_whole(path, packed(cleaned))
    return cleaned


def packed(cleaned: CleanedText) -> bytes:
    """Return a file's content: a line with the SHA-256 of what follows, a line of facts as JSON, the text."""
    facts = {"document_starts": cleaned.document_starts, "raw_sha256": cleaned.raw_sha256,
             "raw_bytes": cleaned.raw_bytes}
    content = json.dumps(facts).encode() + b"\n" + cleaned.text.encode()
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def unpacked(file: bytes) -> CleanedText:
    """Return what `packed` was given. ValueError or KeyError for a damaged file, or one of another format."""
    digest, _, content = file.partition(b"\n")
    if digest.decode() != hashlib.sha256(content).hexdigest():
        raise ValueError("the file of a cleaned text is damaged")
    head, _, body = content.partition(b"\n")
    facts = json.loads(head)
    return CleanedText(body.decode(), tuple(facts["document_starts"]), facts["raw_sha256"], facts["raw_bytes"])


def cache_key(origin: str) -> str:
    """Return 16 hexadecimal digits that change with `origin` and with any module of this wing.

    All modules count, so that a new cleaner is never forgotten: cleaning again takes seconds, a stale text misleads.
    """
    code = b"".join(file.read_bytes() for file in sorted(CODE.glob("*.py")))
    return hashlib.sha256(origin.encode() + code).hexdigest()[:16]


def write_whole(path: Path, content: bytes) -> None:
    """Write the file whole or not at all.

    Nothing happens where it cannot be written, or where the folder's mode says read-only (also to root).
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".nanogpt-", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
