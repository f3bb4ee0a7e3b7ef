"""Each cleaner on a few invented words: what it drops, what it keeps."""

from __future__ import annotations

import pytest

from nanogpt.text import clean_math as cleaning_math
from nanogpt.text import clean_prose as cleaning


def test_tidy_is_idempotent() -> None:
    text = cleaning.tidy("\n\ncafe\u0301 \r\n\r\n\r\n\u00a0x\u200by\t\r")
    assert text == "caf\u00e9\n\n xy\n" == cleaning.tidy(text)
    assert cleaning.tidy(" \n ") == ""


def test_play() -> None:
    markdown = "# Play\n\n**ANN**  \nGood _day_.  \nWell\\--no.\n\n_\\[Enter BOB, and\ntwo more\\]_\n\n__BOB__ says\n"
    plain = cleaning.clean_play(markdown)
    assert plain == "Play\n\nANN:\nGood day.\nWell--no.\n\n[Enter BOB, and two more]\n\nBOB says\n"


def test_wikitext_keeps_prose_only() -> None:
    prose = "A '''kettle''' holds {{convert|2|L}} of [[water|hot water]] ({{IPAc-en|k}}), it is said.<ref>B. 1</ref> "
    source = "{{Infobox|a={{b}}}}\n[[File:k.jpg|thumb|A [[kettle]].]]\n" + prose * 9 + "\n{| class=x\n| cell\n|}\n"
    source += "== Empty ==\n== Use ==\n" + "Tea is made with it, as everybody surely knows.\n* a list item\n"
    source += "The law is <math>a^2</math>, and so this paragraph is left out.\n== See also ==\n=== More ===\n" + prose
    text = cleaning.clean_wikitext("Kettle", source)
    assert text.startswith("Kettle\n\nA kettle holds 2 L of hot water, it is said. A kettle")
    assert text.endswith("\n\nUse\n\nTea is made with it, as everybody surely knows.\n")
    assert cleaning.clean_wikitext("Pot", "#REDIRECT [[Kettle]]") == ""


def test_wikitext_tokens() -> None:
    tokens = ' = Title = \n He said , " a 2 @.@ 5 @-@ inch ( 1 @,@ 000 ) gun " ; it \'s Tom \'s . \n'
    assert cleaning.clean_wikitext_tokens(tokens) == "Title\n\nHe said, \"a 2.5-inch (1,000) gun\"; it's Tom's.\n"


def test_docstring_keeps_prose_and_formulas() -> None:
    docstring = (
        "Computes the :math:`n`-th number of a very well known and pleasant sequence.\n\nIt obeys the law\n\n"
        ".. math ::\n\n    a^2 = b\n\nwhere `\\alpha` is always greater than zero, as :func:`~m.sin` shows here.\n\n"
        ">>> f(1)\n1\n\nParameters\n==========\n\nn : int\n    The number of the term, which must not be negative.\n"
    )
    text = cleaning_math.clean_docstring(docstring)
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
    assert cleaning_math.clean_hardy(source) == (
        "CHAPTER I\n\nNUMBERS\n\n1. One. See § 2, \\emph{or}Ch. II; $a, \\sqrt{b}$\nTheorem 1.\nIf.\n"
    )
    with pytest.raises(ValueError, match="must hold"):
        cleaning_math.clean_hardy("no marks")
