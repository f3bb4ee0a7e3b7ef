"""Each cleaner of prose on a few invented words: what it drops, what it keeps."""

from __future__ import annotations

from nanogpt.text.clean_prose import clean_documentation, clean_play, clean_wikitext, clean_wikitext_tokens, tidy


def test_tidy_is_idempotent() -> None:
    text = tidy("\n\ncafe\u0301 \r\n\r\n\r\n\u00a0x\u200by\t\r")
    assert text == "caf\u00e9\n\n xy\n" == tidy(text)
    assert tidy(" \n ") == ""


def test_play() -> None:
    markdown = "# Play\n\n**ANN**  \nGood _day_.  \nWell\\--no.\n\n_\\[Enter BOB, and\ntwo more\\]_\n\n__BOB__ says\n"
    plain = clean_play(markdown)
    assert plain == "Play\n\nANN:\nGood day.\nWell--no.\n\n[Enter BOB, and two more]\n\nBOB says\n"


def test_wikitext_keeps_prose_only() -> None:
    prose = "A '''kettle''' holds {{convert|2|L}} of [[water|hot water]] ({{IPAc-en|k}}), it is said.<ref>B. 1</ref> "
    source = "{{Infobox|a={{b}}}}\n[[File:k.jpg|thumb|A [[kettle]].]]\n" + prose * 9 + "\n{| class=x\n| cell\n|}\n"
    source += "== Empty ==\n== Use ==\n" + "Tea is made with it, as everybody surely knows.\n* a list item\n"
    source += "The law is <math>a^2</math>, and so this paragraph is left out.\n== See also ==\n=== More ===\n" + prose
    text = clean_wikitext("Kettle", source)
    assert text.startswith("Kettle\n\nA kettle holds 2 L of hot water, it is said. A kettle")
    assert text.endswith("\n\nUse\n\nTea is made with it, as everybody surely knows.\n")
    assert clean_wikitext("Pot", "#REDIRECT [[Kettle]]") == ""


def test_wikitext_tokens() -> None:
    tokens = ' = Title = \n He said , " a 2 @.@ 5 @-@ inch ( 1 @,@ 000 ) gun " ; it \'s Tom \'s . \n'
    assert clean_wikitext_tokens(tokens) == "Title\n\nHe said, \"a 2.5-inch (1,000) gun\"; it's Tom's.\n"


def test_documentation_keeps_lists_and_examples() -> None:
    source = ("Boil water.\n\n%(parameters)s\nParameters\n----------\nheat : float\n\tHow much.\n\n+---+---+\n"
              "| a | b |\n+===+===+\n\nCopyright 1999 by\nNobody.\n\n>>> boil(1)  # doctest: +SKIP\n<BLANKLINE>\nhot\n")
    assert clean_documentation(source) == (
        "Boil water.\n\nParameters\n----------\nheat : float\n    How much.\n\n>>> boil(1)\n\nhot\n")
