"""A long text is kept in a file and read in parts: it is the text that reading it at once gives, in bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gzip
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch

from nanogpt.config import DataConfig, make_config
from nanogpt.errors import UserError
from nanogpt.evaluation.baselines import leakage_rows
from nanogpt.evaluation.generations import labelled_passages
from nanogpt.text import corpus as corpus_module
from nanogpt.text import long_files, sources, stored_text, windows
from nanogpt.text.corpus import SPLITS, Corpus, Split, joint_corpus, make_corpora
from nanogpt.text.long_files import cleaned_parts, last_cut
from nanogpt.text.sources import DomainText, load_domain
from nanogpt.text.stored_text import StoredText
from nanogpt.text.user_files import clean
from nanogpt.text.windows import batch_offsets
from nanogpt.training.loop import Pretraining, train, train_together

BLOCK_SIZE = 32
OTHERS = ("\ufeffäöü \u0041\u030a\u0301 e\u0301\r\n한국어 \u1112\u1161\u11ab 漢字。\r\n 🙂🙃 "
          + "".join(map(chr, range(0x400, 0x560))))
"""A byte-order mark, CRLF, marks that compose, Korean by parts, and more than 256 characters."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_limits(patch: pytest.MonkeyPatch, block_bytes: int = 999, characters: int = 1000) -> None:
    for module in (long_files, sources):
        patch.setattr(module, "LONG_BYTES", 100)
    patch.setattr(long_files, "BLOCK_BYTES", block_bytes)
    patch.setattr(long_files, "ROWS_AT_ONCE", 3)
    patch.setattr(corpus_module, "MOST_IN_MEMORY", 10_000)
    patch.setattr(corpus_module, "LONGEST_PIECE", 20_000)
    patch.setattr(stored_text, "CHARACTERS_AT_ONCE", characters)


def both(spec: str) -> tuple[DomainText, DomainText]:
    """Read a text at once, and in parts."""
    at_once = load_domain(spec)
    with pytest.MonkeyPatch.context() as patch:
        small_limits(patch)
        in_parts = load_domain(spec)
    assert isinstance(at_once.text, str) and isinstance(in_parts.text, StoredText)
    return at_once, in_parts


def assert_same(at_once: DomainText, in_parts: DomainText) -> None:
    assert in_parts.text[:] == at_once.text
    for name in ("document_starts", "raw_sha256", "raw_bytes", "sha256", "n_bytes", "n_characters", "origin"):
        assert getattr(in_parts, name) == getattr(at_once, name), name


@pytest.fixture(scope="module")
def shakespeare() -> str:
    return load_domain("shakespeare").text[:300_000]


@pytest.fixture(scope="module")
def wikipedia() -> DomainText:
    text = load_domain("wikipedia")
    return dataclasses.replace(text, text=text.text[:50_000], document_starts=tuple(range(0, 50_000, 1000)))


@pytest.fixture(scope="module")
def documents(shakespeare: str) -> list[str]:
    """Documents of real text, one of them with what takes care to clean."""
    parts = shakespeare[:60_000].split("\n\n")
    texts = ["\n\n".join(parts[k:k + 4]) for k in range(0, len(parts), 4)]
    return [*texts[:5], " \n ", OTHERS * 3 + "\n", *texts[5:]]


def packed(content: bytes, ending: str) -> bytes:
    if ending == ".zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return gzip.compress(content) if ending else content


def content_of(kind: str, documents: list[str]) -> bytes:
    frame = pandas.DataFrame({"id": range(len(documents)), "text": documents})
    if kind == "jsonl":
        return frame.to_json(orient="records", lines=True).encode()
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    return frame.to_parquet() if kind == "parquet" else "\n".join(documents).encode()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_it_is_the_text_that_reading_at_once_gives(kind: str, ending: str, documents: list[str],
                                                   tmp_path: Path) -> None:
    path = tmp_path / f"own.{kind}{ending}"
    path.write_bytes(packed(content_of(kind, documents), ending))
    assert_same(*both(f"own={path}"))
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_set_of_the_hub(documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "sets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "plays").mkdir(parents=True)
    (tmp_path / "owner" / "plays" / "train.parquet").write_bytes(content_of("parquet", documents))
    assert_same(*both("own=hf://owner/plays#text"))


def test_a_folder_of_files(documents: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number:03}.txt").write_bytes(document.encode())
    (folder / "table.jsonl.gz").write_bytes(packed(content_of("jsonl", documents[:9]), ".gz"))
    at_once, in_parts = both(f"own={folder}")
    assert len(at_once.document_starts) == len(documents) + 9 - 2
    assert_same(at_once, in_parts)


@pytest.mark.parametrize("block_bytes", [201, 202, 203, 4096])
@pytest.mark.parametrize("characters", [7, 300])
def test_characters_may_lie_in_two_blocks(block_bytes: int, characters: int, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes((OTHERS * 5).encode())
    at_once = load_domain(f"own={path}")
    with pytest.MonkeyPatch.context() as patch:
        small_limits(patch, block_bytes, characters)
        assert_same(at_once, load_domain(f"own={path}"))


def test_a_cut_lies_where_nothing_composes() -> None:
    """Over all characters that may follow a cut, after one of each kind that composes with something."""
    before = "Aaeoé\u1112\u1161\uac00\u0915\u09c7\u3046<=\u0301\u0b47\U000110a5\U00011131\U000114b9\U00011935か가"
    for point in range(0x110000):
        character = chr(point)
        if unicodedata.category(character) in ("Cn", "Co", "Cs") or last_cut("x" + character) == 0:
            continue
        for first in before:
            whole = unicodedata.normalize("NFC", first + character)
            assert whole == unicodedata.normalize("NFC", first) + unicodedata.normalize("NFC", character), whole


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_parts_are_cleaned_as_the_whole(size: int) -> None:
    text = "\ufeff\ufeff" + OTHERS + "\r\r\n\n" + "\u0301" * 60 + "e\u0323\u0301" + OTHERS
    assert "".join(cleaned_parts(text[k:k + size] for k in range(0, len(text), size))) == clean(text)


def same_split(first: Split, second: Split) -> bool:
    places = torch.arange(len(first))
    return (len(first) == len(second) and torch.equal(first.ids_at(places), second.ids_at(places))
            and first.n_bytes == second.n_bytes and torch.equal(first.counts_V, second.counts_V)
            and first.characters(100, 9000) == second.characters(100, 9000)
            and "".join(first.stretches()) == "".join(second.stretches()))


@pytest.fixture
def in_two_ways(tmp_path: Path, documents: list[str], wikipedia: DomainText, monkeypatch: pytest.MonkeyPatch,
                ) -> Callable[[DataConfig], list[dict[str, Corpus]]]:
    """Make the corpora of a table and of another text, with the table read at once and in parts; they stay small."""
    path = tmp_path / "own.jsonl"
    path.write_bytes(content_of("jsonl", documents))
    pair = both(f"own={path}")
    small_limits(monkeypatch)
    return lambda config: [make_corpora([text, wikipedia], config, BLOCK_SIZE) for text in pair]


@pytest.mark.parametrize("equal_bytes", [True, False])
@pytest.mark.parametrize("split", ["spread", "contiguous", "documents"])
def test_vocabulary_ids_and_splits_are_the_same(split: str, equal_bytes: bool, in_two_ways: Any) -> None:
    config = DataConfig(split=split, equal_bytes=equal_bytes, min_count=2)
    for first, second in zip(*map(lambda corpora: corpora.values(), in_two_ways(config)), strict=True):
        assert first.vocabulary == second.vocabulary
        assert second.excerpt() in second.source.text[:] and (split == "contiguous" or
                                                              first.excerpt() == second.excerpt())
        for name in SPLITS:
            assert same_split(getattr(first, name), getattr(second, name)), name
        for name in SPLITS[1:]:
            one, other = getattr(first, name), getattr(second, name)
            assert torch.equal(one.units_N, other.units_N) and torch.equal(one.previous_N, other.previous_N)
        rows = [corpus.row() for corpus in (first, second)]
        assert {k: v for k, v in rows[0].items() if k != "used_sha256"} == {
            k: v for k, v in rows[1].items() if k != "used_sha256"}
    assert second.name == "wikipedia"


def test_training_has_the_same_bits(in_two_ways: Any) -> None:
    config = make_config("smoke", max_steps=6, n_layer=1, n_head=1, n_embd=16, block_size=BLOCK_SIZE, device="cpu")
    at_once, in_parts = in_two_ways(config.data)
    assert in_parts["own"].train.is_mapped and not at_once["own"].train.is_mapped
    weights = []
    for corpora in (at_once, in_parts):
        *_, last = train(corpora["own"], config)
        assert last.checkpoint
        weights.append(last.checkpoint.sha256)
    assert weights[0] == weights[1]


def test_a_stored_and_another_text_train_together(in_two_ways: Any) -> None:
    config = make_config("smoke", max_steps=4, n_layer=1, n_head=1, n_embd=16, block_size=BLOCK_SIZE, device="cpu")
    digests = []
    for corpora in in_two_ways(config.data):
        *_, last = train_together([Pretraining(corpora[name], config) for name in ("own", "wikipedia", "own")])
        digests.append([record.checkpoint.sha256 for record in last if record.checkpoint])
    assert digests[0] == digests[1] and len(digests[0]) == 3


def test_another_process_is_handed_the_place_of_the_file(in_two_ways: Any) -> None:
    stored = in_two_ways(DataConfig(min_count=2))[1]["own"]
    assert len(pickle.dumps(stored.source.text)) < len(stored.source.text) / 2
    assert same_split(pickle.loads(pickle.dumps(stored)).train, stored.train)
    gone = pickle.dumps(stored.source.text)
    Path(stored.source.text.numbers_N.filename).unlink()
    with pytest.raises(UserError, match="all processes share"):
        pickle.loads(gone)


def test_what_reads_the_training_text_reads_it_in_parts(in_two_ways: Any) -> None:
    at_once, in_parts = in_two_ways(DataConfig(min_count=2))
    assert list(leakage_rows(at_once)) == list(leakage_rows(in_parts))
    passages = [labelled_passages({name: corpus.train for name, corpus in corpora.items()}, 40, 50)
                for corpora in (at_once, in_parts)]
    assert passages[0] == passages[1]
    for name in ("text", "ids_N"):
        with pytest.raises(MemoryError, match="read in parts, not whole"):
            getattr(in_parts["own"].train, name)
    joint = [joint_corpus(corpora) for corpora in (at_once, in_parts)]
    for name in SPLITS:
        assert same_split(*(getattr(corpus, name) for corpus in joint))
    assert joint[0].row()["bytes"] == joint[1].row()["bytes"]


def test_it_is_read_once_for_all_vocabularies(documents: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch,
                                              tmp_path: Path) -> None:
    path, moved = tmp_path / "own.txt", tmp_path / "moved.txt"
    path.write_text("\n".join(documents))
    small_limits(monkeypatch)
    first = load_domain(f"own={path}")
    monkeypatch.setattr(long_files, "write_text", lambda *_: pytest.fail("it was read again"))
    path.rename(moved)
    again = load_domain(f"other={moved}")
    assert again.sha256 == first.sha256 and again.text[:] == first.text[:]
    small, large = (make_corpora([again], DataConfig(min_count=n), BLOCK_SIZE)["other"] for n in (1, 100))
    assert len(small.vocabulary) > len(large.vocabulary)


@pytest.mark.parametrize("damage", ["facts", "numbers", "neither"])
def test_a_damaged_file_is_made_again(damage: str, documents: list[str], cache: Path, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(documents))
    small_limits(monkeypatch)
    text = load_domain(f"own={path}").text[:]
    (numbers,), (facts,) = cache.glob("*.numbers"), cache.glob("stored-*.json")
    if damage == "facts":
        facts.write_bytes(facts.read_bytes()[:-5])
    elif damage == "numbers":
        numbers.write_bytes(numbers.read_bytes()[:-1])
    else:
        facts.unlink()
    assert load_domain(f"own={path}").text[:] == text


def test_files_of_older_code_and_of_killed_passes_go(documents: list[str], cache: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(documents))
    small_limits(monkeypatch)
    load_domain(f"own={path}")
    old = set(cache.glob("stored-*"))
    (cache / ".stored-killed.part").write_bytes(b"left")
    monkeypatch.setattr(stored_text, "cache_key", lambda origin: "othercode")
    with stored_text.part_file(cache) as written:
        load_domain(f"own={path}")
        assert set(cache.glob(".stored-*.part")) == {Path(written.name)}, "what another process writes stays"
    assert len(old) == 2 and not old & set(cache.glob("stored-*")) and len(set(cache.glob("stored-*"))) == 2


BAD = {
    "byte": (lambda content: content[:5000] + b"\xff" + content[5000:], "own.txt", "with byte 0xff at byte 5000"),
    "cut": (lambda content: content + "é".encode()[:1], "own.txt", "with byte 0xc3 at byte"),
    "nul": (lambda content: content[:5000] + b"\0" + content[5000:], "own.txt", "with a NUL byte at byte 5000"),
    "blank": (lambda content: b" \n" * 9000, "own.txt", "must hold text, got"),
    "markup": (lambda content: b"<!DOCTYPE html>" + content, "own.txt", "must be a text, got .*which is HTML"),
    "packed": (lambda content: packed(content, ".zst")[:900], "own.txt.zst", "must be packed as its name says"),
    "other": (lambda content: content, "own.pdf", "must be a text or a table"),
    "table": (lambda content: content, "own.jsonl", "must be a .jsonl table"),
    "parquet": (lambda content: content, "own.parquet", "must be a .parquet table"),
    "column": (lambda content: b'{"body": "x"}\n' * 500, "own.jsonl", "column of domain 'own' must be one of body"),
    "csv column": (lambda content: b"body\n" + b"x\n" * 500, "own.csv", "column of domain 'own' must be one of body"),
    "value": (lambda content: b'{"text": "x"}\n{"text": 5}\n' * 500, "own.jsonl", "must hold texts, got"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, shakespeare: str, cache: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    change, name, message = BAD[case]
    path = tmp_path / name
    path.write_bytes(change(shakespeare[:20_000].encode("ascii", "replace")))
    with pytest.raises(UserError, match=message) as at_once:
        load_domain(f"own={path}")
    small_limits(monkeypatch)
    with pytest.raises(UserError, match=message) as in_parts:
        load_domain(f"own={path}")
    assert "\n" not in str(in_parts.value)
    if case not in ("packed", "table", "parquet", "value"):     # these say what their library says
        assert str(in_parts.value) == str(at_once.value)
    assert not list(cache.glob("stored-*")) and not list(cache.glob(".stored-*"))


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_a_file_that_changes_meanwhile_is_refused(kind: str, documents: list[str], cache: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"own.{kind}"
    path.write_bytes(content_of(kind, documents))
    small_limits(monkeypatch)

    def change_then_write(*arguments: Any) -> dict[str, Any]:
        times = path.stat()
        path.write_bytes(content_of(kind, [text.replace("a", "b") for text in documents]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return write_text(*arguments)

    write_text = long_files.write_text
    monkeypatch.setattr(long_files, "write_text", change_then_write)
    with pytest.raises(UserError, match="texts of domain 'own' must not change while they are read"):
        load_domain(f"own={path}")
    assert not list(cache.glob("stored-*")) and not list(cache.glob(".stored-*"))


LIMITED = """
import resource, sys
from nanogpt.commands.app import main
from nanogpt.text import long_files
long_files.LONG_BYTES = 100
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ["nanogpt", "train", "--domain", "own=" + sys.argv[1], "--preset", "smoke"]
main()
"""


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """A limit on the size of files stands for a full disk: the write itself fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ["txt", "parquet.zst"])
def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing(ending: str, documents: list[str], cache: Path,
                                                                  tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"own.{ending}"
    kind, _, packing = ending.partition(".")
    path.write_bytes(packed(content_of(kind, documents * 3), packing and f".{packing}"))
    small_limits(monkeypatch)
    with limited_files(20_000), pytest.raises(UserError, match="cache must be a folder with room for the text of domain"
                                              " 'own', got .*: " + os.strerror(errno.EFBIG)):
        load_domain(f"own={path}")
    assert not list(cache.glob("stored-*")) and not list(cache.glob(".stored-*"))


@pytest.mark.slow
def test_a_command_ends_with_exit_code_2_where_the_disk_takes_no_more(shakespeare: str, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text(shakespeare)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cache must be a folder with room for the text of domain 'own', got" in done.stderr.splitlines()[-1]


def test_more_documents_than_are_kept_apart_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content_of("jsonl", [f"row {k}" for k in range(95)]))
    at_once, _ = both(f"own={path}")
    monkeypatch.setattr(stored_text, "MOST_DOCUMENTS", 10)
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "second"))
    small_limits(monkeypatch)
    in_parts = load_domain(f"own={path}")
    assert in_parts.text[:] == at_once.text and in_parts.document_starts == at_once.document_starts[::10]


def test_places_beyond_31_bits(shakespeare: str, tmp_path: Path) -> None:
    """A file of 5 000 000 000 numbers, nearly all of them a hole, in which real text stands behind 2**32."""
    text, length, at = shakespeare[:20_000], 5_000_000_000, 2**32 + 12_345
    alphabet = "".join(sorted(set(text)))
    numbers = tmp_path / "numbers"
    with numbers.open("wb") as file:
        file.truncate(length)
        file.seek(at)
        file.write(bytes(alphabet.index(character) + 1 for character in text))
    stored = StoredText(np.memmap(numbers, np.uint8, "r"), alphabet, np.zeros(len(alphabet) + 1, np.int64), length,
                        "0" * 64, (0,), "0" * 64, length)
    vocabulary = corpus_module.Vocabulary(alphabet)
    split = corpus_module.split_of(stored, [corpus_module.Stretch(100, length, 0)], vocabulary, BLOCK_SIZE)
    assert len(split) == length - 100 and split.is_mapped
    assert torch.equal(split.ids_at(torch.arange(at - 100, at - 100 + len(text))), vocabulary.encode(text))
    assert split.characters(at - 100, at - 100 + len(text)) == text
    for block_size, steps in ((128, 1000), (2**20, 1000)):
        offsets = batch_offsets(len(split), block_size, 4, steps, seed=1)
        assert offsets.shape == (steps, 4) and int(offsets.max()) > 2**32 and int(offsets.min()) >= 0
        assert int(offsets.max()) < len(split) - block_size and len(offsets.unique()) == 4 * steps


def test_few_of_very_many_windows_are_different_and_the_first_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST_SHUFFLED", 50)
    some = {count: windows.shuffled(100, count, torch.Generator().manual_seed(1)) for count in (1, 7, 49, 50)}
    for count, chosen in some.items():
        assert len(chosen.unique()) == len(chosen) == count and torch.equal(chosen, some[50][:count])
    assert len(windows.shuffled(100, 1000, torch.Generator().manual_seed(1)).unique()) == 100
    many = windows.shuffled(10**12, 20_000, torch.Generator().manual_seed(1)).double() / 10**12
    assert abs(float(many.mean()) - 0.5) < 0.01 and 0 <= float(many.min()) < 0.001 and 0.999 < float(many.max()) < 1


KILLED = """
import sys, time
from nanogpt.text import long_files
from nanogpt.text.sources import load_domain
long_files.LONG_BYTES = 100
kept = long_files.TextWriter.flush
def slow(self):
    kept(self)
    print("written", flush=True)
    time.sleep(60)
long_files.TextWriter.flush = slow
load_domain("own=" + sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_pass_that_is_stopped_leaves_nothing_that_is_believed(end: signal.Signals, shakespeare: str, cache: Path,
                                                                tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.txt"
    text = shakespeare * 10
    path.write_text(text)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert process.stdout and process.stdout.readline() == "written\n"
    assert len(list(cache.glob(".stored-*"))) == 1
    process.send_signal(end)
    process.wait()
    assert not list(cache.glob("stored-*")) and len(list(cache.glob(".stored-*"))) == (end == signal.SIGKILL)
    monkeypatch.setattr(long_files, "LONG_BYTES", 100)
    assert load_domain(f"own={path}").text[:] == clean(text)
    assert len(list(cache.iterdir())) == 2 + len(list(cache.glob("cleaned-*"))) and not list(cache.glob(".stored-*"))
    assert json.loads(next(cache.glob("stored-*.json")).read_text())["characters"] == len(clean(text))
