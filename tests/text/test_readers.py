"""Readers on files made up: what of them becomes text."""

from __future__ import annotations

import bz2

import pytest

from nanogpt.text.readers import (
    RawFile,
    joined,
    read_cpp_code,
    read_docstrings,
    read_documentation,
    read_hardy,
    read_plain_text,
    read_plays,
    read_python_code,
    read_wikipedia_dump,
    read_wikitext_tokens,
    thinned,
)

SENTENCE = "This sentence is long enough to be kept as prose by every one of the cleaners."


def test_a_dump_gives_its_articles_and_no_other_pages() -> None:
    page = "<page><title>{}</title><ns>{}</ns><revision><text>{}</text></revision></page>"
    pages = [page.format("Kettle", 0, f"{SENTENCE} " * 6), page.format("Talk:Kettle", 1, f"Not this. {SENTENCE} " * 6),
             page.format("Pot", 0, "#REDIRECT [[Kettle]]"), page.format("Cup", 0, f"A cup. {SENTENCE} " * 6)]
    packed = bz2.compress(f'<mediawiki xmlns="http://x">{"".join(pages)}</mediawiki>'.encode())
    kettle, cup = read_wikipedia_dump([RawFile("dump.bz2", packed)])
    assert kettle.startswith(f"Kettle\n\n{SENTENCE}") and cup.startswith("Cup\n\nA cup.")


def test_docstrings_of_modules_classes_and_functions_each_once() -> None:
    first, second, third = (f"Law {number} of the made-up theory. {SENTENCE}" for number in (1, 2, 3))
    module = (f'"""{first}"""\nlonely = """{third}"""\nclass A:\n    """{second}"""\n'
              f'    def f(self):\n        """{first}"""\n')
    assert read_docstrings([RawFile("theory.py", module.encode())] * 2) == [f"{first}\n\n{second}\n"]
    (text,) = read_docstrings([RawFile("function_docs.py", module.encode())])
    assert third in text


def test_a_module_that_is_mostly_code_is_left_out() -> None:
    module = f'"""{SENTENCE}"""\n'
    assert read_docstrings([RawFile("theory.py", module.encode())]) == [f"{SENTENCE}\n"]
    assert read_docstrings([RawFile("code.py", (module + "x = 1\n" * 1000).encode())]) == []


def test_documentation_is_that_of_modules_and_of_the_topics_of_python() -> None:
    topic = f"{SENTENCE} {SENTENCE} {SENTENCE}"
    topics = f"topics = {{'if': 'The if\\n\\n{topic}', 'again': '{topic}'}}"
    long = f"{SENTENCE} {SENTENCE} >>> f(1) {SENTENCE}"
    module = f'"""{long}"""\ndef f():\n    """{SENTENCE}"""\ndef g():\n    """{long}\n\n    {long[::-1]}"""\n'
    files = [RawFile("topics.py", topics.encode()), RawFile("theory.py", module.encode()), RawFile("x.py", b"x = 1\n")]
    assert read_documentation(files) == [f"The if\n\n{topic}\n", f"{long}\n\n{long[::-1]}\n"]


def test_code_of_hardly_any_lines_is_left_out() -> None:
    code = "".join(f"int x{number} = {number};\n" for number in range(30))
    assert read_cpp_code([RawFile("a.h", b"#pragma once\n"), RawFile("b.h", code.encode())]) == [code]
    assert read_python_code([RawFile("a.py", b"from b import *\n"), RawFile("b.py", code.replace("int ", "").encode())])


def test_files_follow_each_other_in_the_order_given() -> None:
    files = [RawFile("b.md", b"# Second\n"), RawFile("a.md", b"# First\n")]
    assert read_plays(files) == ["Second\n", "First\n"]
    assert read_plain_text(files) == ["# Second\n", "# First\n"]


def test_an_article_of_wikitext_begins_at_its_title() -> None:
    tokens = " = Kettle = \r\n Hot . \r\n = = Use = = \r\n Tea . \r\n = 1 litre = \r\n = 1933 Cup = \r\n Small . \r\n"
    articles = read_wikitext_tokens([RawFile("wiki.raw", tokens.encode())])
    assert articles == ["Kettle\n\nHot.\n\nUse\n\nTea.\n\n1 litre\n", "1933 Cup\n\nSmall.\n"]


def test_hardy_is_parted_at_chapters_and_appendices() -> None:
    source = ("licence\n\\MainMatter\n\\Chapter{I}{NUMBERS}\nSee CHAPTER II\n\nhere.\n\\Chapter{II}{LIMITS}\nMore.\n"
              "\\Appendix{I}{}{ROOTS}\nLast.\n\\PageSep{9}\nPRINTED\n\\PGLicense\n")
    assert read_hardy([RawFile("hardy.tex", source.encode())]) == [
        "CHAPTER I\n\nNUMBERS\n\nSee CHAPTER II\n\nhere.\n", "CHAPTER II\n\nLIMITS\n\nMore.\n",
        "APPENDIX I\n\nROOTS\n\nLast.\n"]


@pytest.mark.parametrize("documents", [[], ["a\n"], ["a\n", "b\n\nc\n", "é\n"]])
def test_joined_documents_are_found_again_at_their_starts(documents: list[str]) -> None:
    text, starts = joined(documents)
    assert text == "\n".join(documents) and starts[0] == 0 and list(starts) == sorted(set(starts))
    ends = [*(start - 1 for start in starts[1:]), len(text)]
    assert [text[start:end] for start, end in zip(starts, ends, strict=True) if text] == documents


@pytest.mark.parametrize("limit", [0, 1, 10, 55, 10**6])
def test_documents_are_left_out_whole_and_evenly(limit: int) -> None:
    documents = [f"{number:02}" * (1 + number % 3) for number in range(30)]
    kept, size = thinned(documents, limit), sum(map(len, documents))
    assert kept == [document for document in documents if document in kept] and thinned(documents, limit) == kept
    assert sum(map(len, kept)) <= limit and (kept == documents) == (limit >= size)
    first, second = (sum(len(d) for d in kept if d in half) for half in (documents[:15], documents[15:]))
    assert abs(first - second) <= 2 * 6
