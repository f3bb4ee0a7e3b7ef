"""A cleaned text is kept for as long as its origin and the code that cleans stay the same."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from nanogpt.text import cache
from nanogpt.text.cache import CleanedText, cache_folder, cached_text
from nanogpt.text.sources import BUILT_IN


class Cleaner:
    """Counts how often it cleans."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> CleanedText:
        self.calls += 1
        return CleanedText("a clean text, é\n\nand more\n", (0, 17), "0" * 64, 7)


def test_a_text_is_cleaned_once_for_each_origin(tmp_path: Path) -> None:
    clean = Cleaner()
    texts = [cached_text(tmp_path, "x", origin, clean) for origin in ("v1", "v1", "v2", "v1")]
    assert texts == [clean()] * 4 and clean.calls == 2 + 1


@pytest.mark.parametrize("changed", ["clean_prose.py", "readers.py", "sources.py", "clean_recipes.py"])
def test_another_cleaning_code_cleans_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """A new cleaner's file counts as much as one that is there already."""
    code = tmp_path / "code"
    shutil.copytree(cache.CODE, code)
    monkeypatch.setattr(cache, "CODE", code)
    clean = Cleaner()
    cached_text(tmp_path / "kept", "x", "v1", clean)
    with (code / changed).open("a") as file:
        file.write("# changed\n")
    for _ in range(2):
        cached_text(tmp_path / "kept", "x", "v1", clean)
    assert clean.calls == 2


def test_the_code_of_every_reader_and_of_the_cleaners_that_it_calls_is_in_the_key() -> None:
    readers = [source.read for domain in BUILT_IN.values() for source in (domain.embedded, domain.full)
               if source]
    for reader in readers:
        assert Path(sys.modules[reader.__module__].__file__ or "").parent == cache.CODE
    cleaners = [module for name, module in sys.modules.items() if name.startswith("nanogpt.text.clean_")]
    assert len(cleaners) >= 3 and all(Path(module.__file__ or "").parent == cache.CODE for module in cleaners)


def test_a_damaged_text_is_cleaned_again(tmp_path: Path) -> None:
    clean = Cleaner()
    cached_text(tmp_path, "x", "v1", clean)
    (kept,) = tmp_path.iterdir()
    for damaged in (kept.read_bytes()[:-3], b"", b"{}\n", b"not json\n"):
        kept.write_bytes(damaged)
        before = clean.calls
        assert cached_text(tmp_path, "x", "v1", clean) == Cleaner()()
        assert clean.calls == before + 1


def test_a_text_kept_without_its_documents_is_cleaned_again(tmp_path: Path) -> None:
    """As it was kept before documents were: one line of facts, then the text."""
    clean = Cleaner()
    cached_text(tmp_path, "x", "v1", clean)
    (kept,) = tmp_path.iterdir()
    body = clean().text.encode()
    facts = {"sha256": hashlib.sha256(body).hexdigest(), "raw_sha256": "0" * 64, "raw_bytes": 7}
    kept.write_bytes(json.dumps(facts).encode() + b"\n" + body)
    before = clean.calls
    assert cached_text(tmp_path, "x", "v1", clean) == Cleaner()() and clean.calls == before + 1
    assert cached_text(tmp_path, "x", "v1", clean) == Cleaner()() and clean.calls == before + 1


def test_without_a_folder_nothing_is_kept() -> None:
    clean = Cleaner()
    assert cached_text(None, "x", "v1", clean) == cached_text(None, "x", "v1", clean) and clean.calls == 2


def test_the_folder_is_the_one_given_or_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "environment"))
    assert cache_folder(None) == tmp_path / "environment"
    assert cache_folder(tmp_path) == tmp_path
