"""Each cleaner of mathematics on a few invented words: what it drops, what it keeps."""

from __future__ import annotations

import pytest

from nanogpt.text.clean_math import clean_docstring, clean_hardy


def test_docstring_keeps_prose_and_formulas() -> None:
    docstring = (
        "Computes the :math:`n`-th number of a very well known and pleasant sequence.\n\nIt obeys the law\n\n"
        ".. math ::\n\n    a^2 = b\n\nwhere `\\alpha` is always greater than zero, as :func:`~m.sin` shows here.\n\n"
        ">>> f(1)\n1\n\nParameters\n==========\n\nn : int\n    The number of the term, which must not be negative.\n"
    )
    text = clean_docstring(docstring)
    first = "Computes the $n$-th number of a very well known and pleasant sequence."
    assert text.startswith(f"{first}\n\n\\[\na^2 = b\n\\]\n")
    assert text.endswith("\n\nwhere $\\alpha$ is always greater than zero, as sin shows here.\n")
    assert ">>>" not in text and "negative" not in text and ".. math" not in text and "~" not in text


def test_hardy() -> None:
    source = (
        "licence\n\\MainMatter\n\\PageSep{1}\n\\Chapter{I}{NUMBERS}\n\\Paragraph{1. One.} "
        "See~\\SecNo[§]{2}, \\emph{or}% no\n"
        "\\Ref{Ch.}{II}; {\\Loosen $a\\DPtypo{.}{,} \\sqrtp{b}$}\n\\begin{Theorem}[1.]\nIf.\n\\end{Theorem}\n"
        "\\PageSep{2}\n\\clearpage\nPRINTED\n\\PGLicense\nthe end\n"
    )
    assert clean_hardy(source) == (
        "CHAPTER I\n\nNUMBERS\n\n1. One. See § 2, \\emph{or}Ch. II; $a, \\sqrt{b}$\nTheorem 1.\nIf.\n"
    )
    with pytest.raises(ValueError, match="must hold"):
        clean_hardy("no marks")
