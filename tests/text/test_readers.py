"""Readers on files made up: what of them becomes text."""

from __future__ import annotations

import bz2

from nanogpt.text.readers import RawFile, read_docstrings, read_plain_text, read_plays, read_wikipedia_dump

SENTENCE = "This sentence is long enough to be kept as prose by every one of the cleaners."


def test_a_dump_gives_its_articles_and_no_other_pages() -> None:
    page = "<page><title>{}</title><ns>{}</ns><revision><text>{}</text></revision></page>"
    pages = [page.format("Kettle", 0, f"{SENTENCE} " * 6), page.format("Talk:Kettle", 1, f"Not this. {SENTENCE} " * 6),
             page.format("Pot", 0, "#REDIRECT [[Kettle]]"), page.format("Cup", 0, f"A cup. {SENTENCE} " * 6)]
    packed = bz2.compress(f'<mediawiki xmlns="http://x">{"".join(pages)}</mediawiki>'.encode())
    text = read_wikipedia_dump([RawFile("dump.bz2", packed)])
    assert text.startswith(f"Kettle\n\n{SENTENCE}") and "\n\nCup\n\nA cup." in text
    assert "Not this" not in text and "REDIRECT" not in text and "Pot" not in text


def test_docstrings_of_modules_classes_and_functions_each_once() -> None:
    first, second, third = (f"Law {number} of the made-up theory. {SENTENCE}" for number in (1, 2, 3))
    module = (f'"""{first}"""\nlonely = """{third}"""\nclass A:\n    """{second}"""\n'
              f'    def f(self):\n        """{first}"""\n')
    text = read_docstrings([RawFile("theory.py", module.encode())])
    assert text == f"{first}\n\n{second}\n"
    assert third in read_docstrings([RawFile("function_docs.py", module.encode())])


def test_a_module_that_is_mostly_code_is_left_out() -> None:
    module = f'"""{SENTENCE}"""\n'
    assert SENTENCE in read_docstrings([RawFile("theory.py", module.encode())])
    assert read_docstrings([RawFile("code.py", (module + "x = 1\n" * 1000).encode())]) == ""


def test_files_follow_each_other_in_the_order_given() -> None:
    files = [RawFile("b.md", b"# Second\n"), RawFile("a.md", b"# First\n")]
    assert read_plays(files) == "Second\n\nFirst\n"
    assert read_plain_text(files) == "# Second\n# First\n"
