"""The user's own text: each format is learnt from and scored, all are the same text, others are refused in one line."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path

import pandas
import pyarrow
import pytest

from nanogpt.config import Config, make_config
from nanogpt.errors import UserError
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.text.corpus import make_corpora
from nanogpt.text.sources import DomainText, load_domain
from nanogpt.training.loop import train

FORMATS = ("txt", "md", "jsonl", "csv", "parquet")
PACKED = ("", ".gz", ".zst")


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Real documents: what a play's text holds between empty lines, in parts of 4."""
    parts = load_domain("shakespeare").text[:30_000].strip("\n").split("\n\n")
    return ["\n\n".join(parts[k:k + 4]) + "\n" for k in range(0, len(parts), 4)]


@pytest.fixture(scope="module")
def small() -> Config:
    return make_config("smoke", max_steps=4, n_layer=1, n_head=1, n_embd=16, block_size=32, device="cpu")


def packed(content: bytes, ending: str) -> bytes:
    if ending == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return gzip.compress(content) if ending else content


def table(kind: str, documents: list[str], column: str = "text") -> bytes:
    frame, content = pandas.DataFrame({"id": range(len(documents)), column: documents}), None
    if kind == "jsonl":
        content = frame.to_json(orient="records", lines=True)
    elif kind == "csv":
        content = frame.to_csv(index=False)
    return content.encode() if content else frame.to_parquet()


def documents_of(text: DomainText) -> list[str]:
    ends = [*(start - 1 for start in text.document_starts[1:]), text.n_characters]
    return [text.text[start:end] for start, end in zip(text.document_starts, ends, strict=True)]


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_learnt_from_and_scored(kind: str, ending: str, documents: list[str], small: Config,
                                               tmp_path: Path) -> None:
    is_text = kind in ("txt", "md")
    content = packed("\n".join(documents).encode() if is_text else table(kind, documents), ending)
    path = tmp_path / f"own.{kind}{ending}"
    path.write_bytes(content)
    text = load_domain(f"own={path}")
    assert text.text == "\n".join(documents)
    assert documents_of(text) == (["\n".join(documents)] if is_text else documents)
    assert (text.raw_bytes, text.raw_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    corpus = make_corpora([text], small.data, 32)["own"]
    *_, last = train(corpus, small)
    assert last.checkpoint
    assert 0 < evaluate(last.checkpoint.build(), last.checkpoint, corpus.test).bits_per_byte < 8


@pytest.mark.parametrize("pattern", ["", "/*.txt", "/**/*.txt"])
def test_files_of_a_folder_and_of_a_glob_are_documents_in_sorted_order(pattern: str, documents: list[str],
                                                                       tmp_path: Path) -> None:
    for number in reversed(range(10)):
        (tmp_path / f"{number}.txt").write_text(documents[number])
    (tmp_path / ".hidden.html").write_text("<html>")
    assert documents_of(load_domain(f"own={tmp_path}{pattern}")) == documents[:10]


def test_whole_documents_are_kept_apart(documents: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(table("jsonl", documents))
    config = make_config(split="documents", block_size=32)
    corpus = make_corpora([load_domain(f"own={path}")], config.data, 32)["own"]
    units = [set(split.units_N.tolist()) for split in (corpus.train, corpus.validation, corpus.test)]
    assert all(units) and not (units[0] & units[1] or units[0] & units[2] or units[1] & units[2])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_is_named_after_the_path(kind: str, documents: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"own.{kind}"
    path.write_bytes(table(kind, documents, "body"))
    assert documents_of(load_domain(f"own={path}#body")) == documents
    with pytest.raises(UserError, match=r"column of domain 'own' must be one of id, body \(.*\), got 'text'"):
        load_domain(f"own={path}")
    if kind != "csv":       # whose cells are all texts
        with pytest.raises(UserError, match=r"column 'id' of domain 'own' must hold texts, got .*0"):
            load_domain(f"own={path}#id")


def test_words_of_tables_that_look_like_something_else_stay_words(tmp_path: Path) -> None:
    words = ["NA", "2020-01-01", "007", "true"]
    for kind in ("jsonl", "csv", "parquet"):
        path = tmp_path / f"own.{kind}"
        path.write_bytes(table(kind, [*words, ""]))
        assert documents_of(load_domain(f"own={path}")) == [word + "\n" for word in words]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("own.pdf", b"%PDF-1.7", "must be a text or a table, got .*own.pdf"),
    ("own.html.gz", b"", "must be a text or a table, got .*own.html.gz"),
    ("own.docx", b"PK", "must be a text or a table"), ("own.json", b"{}", "must be a text or a table"),
    ("own.txt", b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "must be a text, got .*own.txt', which is HTML"),
    ("own.txt.gz", b"plain words", "must be packed as its name says, got"),
    ("own.txt.zst", b"plain words", "must be packed as its name says, got"),
    ("own.txt.gz", gzip.compress(b"words" * 999, mtime=0)[:-20], "must be packed as its name says, got"),
    ("own.jsonl", b"{not json", "must be a .jsonl table, got"), ("own.csv", b"", "must be a .csv table, got"),
    ("own.jsonl", b'"a word"\n', "of domain 'own' must be"), ("own.parquet", b"PAR1", "must be a .parquet table, got"),
    ("own.csv", b"text\n \n", "must hold text, got"), ("own.csv", b"text\n\xff\n", "must be a .csv table, got")])
def test_what_is_no_text_is_refused_in_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=message) as refused:
            load_domain(f"own={place}")
        assert "\n" not in str(refused.value) and "own" in str(refused.value)


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_what_has_no_end_is_refused(place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="file of domain 'own' must be a regular file, got "):
        load_domain(f"own={tmp_path / place}")


def test_a_text_has_no_column(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("words")
    with pytest.raises(UserError, match="must be a table to have the column 'text', got"):
        load_domain(f"own={tmp_path / 'own.txt'}#text")
    (tmp_path / "own#text").write_text("words")
    assert load_domain(f"own={tmp_path / 'own#text'}").text == "words"


def test_a_set_of_the_hub_is_read(documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes a folder of that name for the set: it is built and cached here, without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "plays").mkdir(parents=True)
    (tmp_path / "owner" / "plays" / "train.parquet").write_bytes(table("parquet", documents, "body"))
    text = load_domain("own=hf://owner/plays#body")
    assert documents_of(text) == documents and text.origin == "hf://owner/plays#body"
    with pytest.raises(UserError, match="column of domain 'own' must be one of id, body"):
        load_domain("own=hf://owner/plays")
    (tmp_path / "owner" / "empty").mkdir()
    with pytest.raises(UserError, match="must name a set with a split called train, got 'hf://owner/empty'"):
        load_domain("own=hf://owner/empty")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets, got none installed: pip install 'nanogpt"):
        load_domain("own=hf://owner/plays")
