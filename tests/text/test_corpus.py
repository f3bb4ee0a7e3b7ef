"""Splits, windows and batches: what is read, how often, and in which order."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import ROOT, domain_text

from nanogpt.config import JOINT, SPLIT_WAYS, DataConfig
from nanogpt.errors import UserError
from nanogpt.text.corpus import (
    EXCERPT_CHARACTERS,
    EXCERPT_LINES,
    SPLITS,
    Corpus,
    Split,
    joined,
    joint_corpus,
    make_corpora,
    make_split,
    split_of,
)
from nanogpt.text.sources import DomainText
from nanogpt.text.splits import Stretch
from nanogpt.text.vocabulary import Vocabulary

MIXED = "naïve ∑∂x 𝔸lef\u0301\n漢字 e"


def test_the_vocabulary_holds_the_frequent_characters_of_the_training_splits_sorted(
        texts: list[DomainText]) -> None:
    corpora = make_corpora(texts, DataConfig(min_count=30, equal_bytes=False), 32)
    counts = sum((Counter(corpus.train.text) for corpus in corpora.values()), Counter[str]())
    vocabulary = next(iter(corpora.values())).vocabulary
    assert list(vocabulary.characters) == sorted(c for c, count in counts.items() if count >= 30)
    assert all(corpus.vocabulary == vocabulary for corpus in corpora.values())
    assert vocabulary.sha256 == hashlib.sha256(vocabulary.characters.encode()).hexdigest()
    assert len(vocabulary) == len(vocabulary.characters) + 1
    assert vocabulary.encode(vocabulary.characters).tolist() == list(range(1, len(vocabulary)))


def test_a_character_of_validation_or_test_alone_does_not_enter_the_vocabulary() -> None:
    text = "ab" * 450 + "v" * 50 + "t" * 50
    corpus = make_corpora([domain_text("x", text)], DataConfig(min_count=1, split="contiguous"), 8)["x"]
    assert corpus.vocabulary.characters == "ab"
    assert not corpus.test.ids_N.any() and corpus.row()["unknown_share"] == pytest.approx(0.1)


def in_documents(texts: list[DomainText]) -> list[DomainText]:
    return [replace(text, document_starts=tuple(range(0, text.n_characters, text.n_characters // 40)))
            for text in texts]


def test_few_documents_are_not_kept_apart(texts: list[DomainText]) -> None:
    few = [replace(text, document_starts=(0, 1000)) for text in texts]
    with pytest.raises(UserError, match=r"documents of domain 'shakespeare' must be at least 8 for .* got 2"):
        make_corpora(few[:1], DataConfig(split="documents"), 32)


@pytest.mark.parametrize("way", SPLIT_WAYS)
def test_splits_are_stretches_of_the_text_and_no_character_is_in_two(texts: list[DomainText], way: str) -> None:
    sizes = []
    for corpus in make_corpora(in_documents(texts), DataConfig(split=way), 32).values():
        text, used, free = corpus.source.text, 0, list(corpus.source.text)
        for name in SPLITS:
            split, begin = getattr(corpus, name), 0
            for piece in split.pieces:
                part = split.text[piece.begin:piece.end]
                context = split.vocabulary.decode(piece.context_C.tolist(), "?")
                known = "".join(c if c in split.vocabulary.index else "?" for c in context + part)
                marked = "".join(c if c in split.vocabulary.index else "?" for c in text)
                begin = marked.index(known, 0) + len(context)
                while free[begin:begin + len(part)] != list(part):      # an equal passage, taken before
                    begin = marked.index(known, begin - len(context) + 1) + len(context)
                free[begin:begin + len(part)] = [""] * len(part)
            used += len(split)
            assert torch.equal(split.ids_N.long(), corpus.vocabulary.encode(split.text))
            assert split.n_bytes == len(split.text.encode()) and len(split.units_N) == len(split)
        assert free.count("") == used
        sizes.append(corpus.row()["used_bytes"])
    assert max(sizes) / min(sizes) < 1.02


def test_a_vocabulary_reads_the_training_stretches_alone(texts: list[DomainText]) -> None:
    """And whole texts are used where they need not be equal."""
    shorter = [texts[0], replace(texts[1], text=texts[1].text[:20_000])]
    whole = make_corpora(shorter, DataConfig(equal_bytes=False, split="contiguous"), 32)
    assert [sum(len(getattr(c, name)) for name in SPLITS) for c in whole.values()] == [len(texts[0].text), 20_000]
    equal = make_corpora([texts[0], domain_text("short", texts[1].text[:20_000])], DataConfig(split="contiguous"), 32)
    first, second = (int(str(corpus.row()["used_bytes"])) for corpus in equal.values())
    assert first == pytest.approx(second, rel=0.01)


def test_the_row_of_the_corpora_table_describes_what_is_used(corpora: dict[str, Corpus]) -> None:
    for name, corpus in corpora.items():
        row, used = corpus.row(), "".join(getattr(corpus, split).text for split in SPLITS)
        assert row["domain"] == name and row["used_bytes"] == len(used.encode())
        assert row["used_sha256"] == hashlib.sha256(used.encode()).hexdigest()
        assert sum(int(str(row[f"{split}_characters"])) for split in SPLITS) == len(used)
        unknown = sum(c not in corpus.vocabulary.index for c in used) / len(used)
        assert row["unknown_share"] == pytest.approx(unknown)
        counts = Counter(corpus.train.text)
        expected = [sum(n for c, n in counts.items() if c not in corpus.vocabulary.index)]
        expected += [counts[c] for c in corpus.vocabulary.characters]
        assert corpus.character_counts_V.tolist() == expected


def test_a_given_vocabulary_is_kept(texts: list[DomainText]) -> None:
    vocabulary = Vocabulary(" aeht")
    for corpus in make_corpora(texts, DataConfig(), 32, vocabulary).values():
        assert corpus.vocabulary is vocabulary


@pytest.mark.parametrize("length", [0, 1, 100, 640])
def test_a_text_too_short_for_the_context_is_refused_in_one_line(length: int) -> None:
    with pytest.raises(ValueError, match=r"each split of domain 'own' must .* block_size = 32 .*, got \d+$"):
        make_corpora([domain_text("own", ("ab" * 400)[:length])], DataConfig(min_count=1), 32)


def test_equal_bytes_blames_the_text_that_is_short() -> None:
    """Not the one before it, which is cut to the short one's bytes and so is as short."""
    texts = [domain_text("long", "ab" * 5000), domain_text("short", "ab" * 50), domain_text("other", "ab" * 5000)]
    for ordered in (texts, texts[::-1]):
        with pytest.raises(UserError, match="each split of domain 'short' must have more than block_size = 32 "):
            make_corpora(ordered, DataConfig(min_count=1), 32)
    wide = domain_text("wide", "漢字" * 10_000)     # three bytes each: a third of the characters of as many bytes
    enough = domain_text("enough", "ab" * 400)
    with pytest.raises(UserError, match="domain 'wide', cut to the 800 bytes of domain 'enough' by equal_bytes, must"):
        make_corpora([wide, enough], DataConfig(min_count=1), 32)
    assert make_corpora([wide, enough], DataConfig(min_count=1, equal_bytes=False), 32).keys() == {"wide", "enough"}


def test_the_size_that_the_message_asks_for_is_enough() -> None:
    for block_size in (1, 7, 32, 128):
        text = ("ab" * 4000)[:20 * block_size + 40]
        (corpus,) = make_corpora([domain_text("own", text)], DataConfig(min_count=1), block_size).values()
        assert min(len(getattr(corpus, name)) for name in SPLITS) > block_size


def test_domains_of_one_name_and_an_empty_vocabulary_are_refused(texts: list[DomainText]) -> None:
    with pytest.raises(ValueError, match="domains must differ in name, got"):
        make_corpora([texts[0], texts[0]], DataConfig(), 32)
    with pytest.raises(ValueError, match="min_count must be reached by a character of the training texts, got 999999"):
        make_corpora(texts, DataConfig(min_count=999_999), 32)


@pytest.mark.parametrize("way", SPLIT_WAYS)
def test_the_joint_corpus_has_an_equal_share_of_each_ones_own_splits(texts: list[DomainText], way: str) -> None:
    corpora = make_corpora(in_documents(texts), DataConfig(split=way), 32)
    joint = joint_corpus(corpora)
    assert joint.name == JOINT and joint.vocabulary == corpora["math"].vocabulary
    for name in SPLITS:
        split, parts = getattr(joint, name), [getattr(corpus, name) for corpus in corpora.values()]
        passages = [split.text[piece.begin:piece.end] for piece in split.pieces]
        lengths = [sum(len(passage) for passage in passages if passage in part.text) for part in parts]
        assert sum(lengths) == pytest.approx(len(split), rel=0.02) == pytest.approx(len(parts[0]), rel=0.5)
        units = [len({piece.unit for piece in part.pieces}) for part in (split, *parts)]
        assert way == "documents" or units[0] == pytest.approx(sum(units[1:]) / 3, abs=2)


def test_escape_bytes_are_the_bytes_of_the_unknown_characters() -> None:
    split = make_split(MIXED, Vocabulary("\n aevx"))
    expected = [0 if c in "\n aevx" else len(c.encode()) for c in MIXED]
    assert split.escape_bytes_N.tolist() == expected and set(expected) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("characters", [0, 1, 64, 1000, 2048, 10**9])
def test_a_spread_part_of_a_split_comes_from_everywhere_and_is_its_own_part(corpora: dict[str, Corpus],
                                                                            characters: int) -> None:
    for split in (corpora["math"].test, make_split(corpora["math"].test.text, corpora["math"].vocabulary)):
        part = split.spread(characters)
        if not 0 < characters < len(split):
            assert part is split
            continue
        assert torch.equal(part.ids_N.long(), split.vocabulary.encode(part.text))
        assert len(part) == pytest.approx(max(64, characters), rel=0.35) or len(split.pieces) == 1
        again = part if characters == 1 else split.spread(len(part))
        assert again.text == part.text and len(again.pieces) == len(part.pieces)
        units = sorted(set(part.units_N.tolist()))
        if len(units) > 4:
            assert max(b - a for a, b in itertools.pairwise(units)) <= 2 + 2 * len(split.pieces) / len(units)


PLACES = "".join(chr(0x4E00 + i) for i in range(300))
"""A text without a character twice: each one says where it stood."""
STRETCHES = [Stretch(0, 9, 3), Stretch(20, 21, 3), Stretch(21, 60, 4), Stretch(66, 180, 7, context=63),
             Stretch(190, 220, 8, context=190)]
ALPHABET = Vocabulary("\n" + PLACES)


def check_pieces(split: Split, stretches: list[Stretch], least_context: int) -> None:
    """Each piece, and what is read before it, stood so in the text; so did the id before each character."""
    assert split.text == "".join(split.text[piece.begin:piece.end] for piece in split.pieces)
    assert torch.equal(split.ids_N.long(), ALPHABET.encode(split.text)) and len(split.units_N) == len(split)
    before = []
    for piece in split.pieces:
        context, part = ALPHABET.decode(piece.context_C.tolist()), split.text[piece.begin:piece.end]
        at = PLACES.index(part)
        own = next(stretch for stretch in stretches if stretch.begin <= at < stretch.end)
        assert PLACES[:at].endswith(context) and at + len(part) <= own.end
        assert min(least_context, at - own.context) <= len(context) <= at - own.context
        assert set(split.units_N[piece.begin:piece.end].tolist()) == {piece.unit}
        before += [(context or "\n")[-1], *part[:-1]]
    assert split.previous_N.tolist() == ALPHABET.encode("".join(before)).tolist()


@pytest.mark.parametrize("shares", [1, 2, 3, 5, 6, 11])
def test_shares_of_a_split_are_the_split_with_its_contexts_and_units(shares: int) -> None:
    split = split_of(PLACES, STRETCHES, ALPHABET, 7)
    check_pieces(split, STRETCHES, 7)
    units = dict(zip(split.text, split.units_N.tolist(), strict=True))
    assert [units[PLACES[stretch.begin]] for stretch in STRETCHES] == [stretch.unit for stretch in STRETCHES]
    parts = [split.share(number, shares) for number in range(shares)]
    assert sorted("".join(part.text for part in parts)) == list(split.text)
    assert shares <= 5 or max(len(part) for part in parts) - min(len(part) for part in parts) <= 1
    for part in parts:
        check_pieces(part, STRETCHES, 7)
        assert part.units_N.tolist() == [units[character] for character in part.text]
    whole = joined(parts)
    check_pieces(whole, STRETCHES, 7)
    found = dict(zip(whole.text, whole.units_N.tolist(), strict=True))
    for (a, first), (b, second) in itertools.pairwise(found.items()):
        same_part = any(a in part.text and b in part.text for part in parts)
        assert (first == second) == (same_part and units[a] == units[b])


@pytest.mark.parametrize("characters", [1, 64, 100, 192])
def test_a_spread_part_keeps_contexts_and_units(characters: int) -> None:
    split = split_of(PLACES, STRETCHES, ALPHABET, 7)
    part = split.spread(characters)
    check_pieces(part, STRETCHES, 7)
    units = dict(zip(split.text, split.units_N.tolist(), strict=True))
    assert part.units_N.tolist() == [units[character] for character in part.text]


def test_before_a_text_and_before_none_stands_the_start() -> None:
    for vocabulary, start in ((Vocabulary("\nab"), 1), (Vocabulary("ab"), 0)):
        a, b = vocabulary.encode("ab").tolist()
        texts = [make_split(text, vocabulary) for text in ("ab", "", "b", "")]
        assert joined(texts).previous_N.tolist() == [start, a, start]
        assert texts[0].previous_N.tolist() == [start, a] and texts[1].previous_N.tolist() == [] and b != a


def test_an_excerpt_is_a_few_whole_lines_of_the_training_text() -> None:
    lines = [f"line {k} of the text" for k in range(400)]
    corpus = make_corpora([domain_text("x", "\n".join(lines))], DataConfig(min_count=1), 8)["x"]
    shown = corpus.excerpt().split("\n")
    begin = lines.index(shown[0])
    assert shown == lines[begin:begin + EXCERPT_LINES] and corpus.excerpt() in corpus.train.text
    endless = make_corpora([domain_text("x", "ab " * 2000)], DataConfig(min_count=1), 8)["x"].excerpt()
    assert 0 < len(endless) <= EXCERPT_CHARACTERS and set(endless) == set("ab ")


MEASURED = """
import resource, sys
from nanogpt.config import DataConfig
from nanogpt.text.corpus import make_corpora
from nanogpt.text.sources import load_domain
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
corpus = make_corpora([load_domain("big=big.txt", "embedded")], DataConfig(), 64)["big"]
assert len(corpus.train.ids_N) > 1.7e7 and corpus.row()["used_bytes"]
print(peak() - before)
"""


def test_a_long_text_takes_a_few_bytes_for_each_character(tmp_path: Path, corpora: dict[str, Corpus]) -> None:
    """The text once with up to four bytes a character, its bytes while it is read, and two bytes for each id."""
    once = "".join(corpus.source.text for corpus in corpora.values())
    (tmp_path / "big.txt").write_text(once * (1 + 20_000_000 // len(once)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", MEASURED], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 9 * 21_000_000
