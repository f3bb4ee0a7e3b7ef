"""From program files to code as one reads it: without licences, generated guards and, in Python, documentation."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator

LEGAL = re.compile(r"copyright|licen[cs]ed?\b|all rights reserved|permission is hereby|warranty", re.IGNORECASE)
SCRIPT_HEAD = re.compile(r"\A#!.*\n|^#.*coding[:=].*\n|^# *(?:vi|vim|Local variables|End):.*\n", re.MULTILINE)
PYTHON_COMMENT = re.compile(r"^(?:[ \t]*#.*\n)+", re.MULTILINE)
LEGAL_STRING = re.compile(r'^__copyright__ *= *(?:"""(?s:.*?)""")?.*\n', re.MULTILINE)
CPP_COMMENT = re.compile(r"^[ \t]*/\*(?s:.*?)\*/[ \t]*\n|^(?:[ \t]*//.*\n)+", re.MULTILINE)
STABLE_GUARD = re.compile(
    r'\A#if !defined\(TORCH_STABLE_ONLY\).*\n((?s:.*))^#else\n#error "This file should not be.*\n#endif.*\n\Z',
    re.MULTILINE)  # fmt: skip


def tidy_code(source: str) -> str:
    """Return `source` in NFC with `\\n` line ends and one at its end; blank code becomes `""`.

    Tabs become spaces; control characters, spaces at line ends, blank lines at either end and more than two in a row
    go.
    """
    text = unicodedata.normalize("NFC", source).replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f\ufeff]", "", text)
    text = re.sub(r"\n{4,}", "\n\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE)).strip("\n")
    return text + "\n" if text.strip() else ""


def clean_python(source: str) -> str:
    """Return a Python module without docstrings, notes of copyright, and the lines that speak to editors and shells."""
    text = without_docstrings(source.replace("\r\n", "\n").replace("\f", ""))
    return tidy_code(without_legal_notes(LEGAL_STRING.sub("", SCRIPT_HEAD.sub("", text)), PYTHON_COMMENT))


def clean_cpp(source: str) -> str:
    """Return a C++ header without notes of copyright and without the guard that torch's build puts around each."""
    text = STABLE_GUARD.sub(r"\1", source.replace("\r\n", "\n"))
    return tidy_code(without_legal_notes(text, CPP_COMMENT))


def without_legal_notes(text: str, comment: re.Pattern[str]) -> str:
    """Return `text` without the comments that speak of copyright or a licence."""
    return comment.sub(lambda match: "" if LEGAL.search(match.group()) else match.group(), text)


def without_docstrings(source: str) -> str:
    """Return a Python module without its docstrings and the blank lines after them.

    Where nothing else is in a body, `pass` takes the docstring's place.
    """
    lines: list[str | None] = [*source.split("\n")]
    for body in documented_bodies(ast.parse(source)):
        docstring = body[0]
        begin, end = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
        before = (lines[begin] or "").encode()[:docstring.col_offset].decode()
        after = (lines[end - 1] or "").encode()[docstring.end_col_offset:].decode()
        if before.strip() or after.strip():
            continue        # it shares a line with code
        if len(body) == 1 and before:
            lines[begin] = f"{before}pass"
            begin += 1
        else:
            while end < len(lines) and not (lines[end] or "").strip():
                end += 1
        lines[begin:end] = [None] * (end - begin)
    return "\n".join(line for line in lines if line is not None)


def documented_bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """List the bodies, of a module and of its classes and functions, that begin with a docstring."""
    for node in (tree, *statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *_]:
                    yield node.body


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """List the statements inside a statement, at any depth; no expressions, which would take most of the time."""
    for name in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, name, ()):
            yield child
            yield from statements(child)
