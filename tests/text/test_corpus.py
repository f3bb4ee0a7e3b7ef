"""Splits, windows and batches: what is read, how often, and in which order."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
import torch
from support import domain_text

from nanogpt.config import JOINT, DataConfig
from nanogpt.errors import UserError
from nanogpt.text.corpus import (
    SPLITS,
    Corpus,
    batch_offsets,
    clip_bytes,
    cut,
    exact_windows,
    joint_corpus,
    make_corpora,
    make_split,
    windows_at,
)
from nanogpt.text.sources import DomainText
from nanogpt.text.vocabulary import Vocabulary

MIXED = "naïve ∑∂x 𝔸lef\u0301\n漢字 e"


def test_the_vocabulary_holds_the_frequent_characters_of_the_training_splits_sorted(
        texts: list[DomainText]) -> None:
    corpora = make_corpora(texts, DataConfig(min_count=30, equal_bytes=False), 32)
    counts = sum((Counter(cut(text.text)[0]) for text in texts), Counter[str]())
    vocabulary = next(iter(corpora.values())).vocabulary
    assert list(vocabulary.characters) == sorted(c for c, count in counts.items() if count >= 30)
    assert all(corpus.vocabulary == vocabulary for corpus in corpora.values())
    assert vocabulary.sha256 == hashlib.sha256(vocabulary.characters.encode()).hexdigest()
    assert len(vocabulary) == len(vocabulary.characters) + 1
    assert vocabulary.encode(vocabulary.characters).tolist() == list(range(1, len(vocabulary)))


def test_a_character_of_validation_or_test_alone_does_not_enter_the_vocabulary() -> None:
    text = "ab" * 450 + "v" * 50 + "t" * 50
    corpus = make_corpora([domain_text("x", text)], DataConfig(min_count=1), 8)["x"]
    assert corpus.vocabulary.characters == "ab"
    assert not corpus.test.ids_N.any() and corpus.row()["unknown_share"] == pytest.approx(0.1)


def test_splits_are_contiguous_and_partition_the_text(corpora: dict[str, Corpus]) -> None:
    sizes = set()
    for corpus in corpora.values():
        used = "".join(getattr(corpus, name).text for name in SPLITS)
        assert corpus.source.text.startswith(used)
        assert abs(len(corpus.train) - 0.9 * len(used)) <= 1
        assert abs(len(corpus.validation) - 0.05 * len(used)) <= 1
        for split in (corpus.train, corpus.validation, corpus.test):
            assert torch.equal(split.ids_N, corpus.vocabulary.encode(split.text)) and len(split) == len(split.ids_N)
            assert split.n_bytes == len(split.text.encode())
        sizes.add(len(used.encode()))
    assert max(sizes) - min(sizes) < 4     # the last character of at most four bytes may not fit


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 1000])
def test_a_cut_partitions_a_text_of_any_length(length: int) -> None:
    text = "".join(chr(0x100 + i) for i in range(length))
    assert "".join(cut(text)) == text


def test_without_equal_bytes_every_text_is_whole(texts: list[DomainText]) -> None:
    shorter = [texts[0], replace(texts[1], text=texts[1].text[:20_000])]
    whole = make_corpora(shorter, DataConfig(equal_bytes=False), 32)
    assert [sum(len(getattr(c, name)) for name in SPLITS) for c in whole.values()] == [len(texts[0].text), 20_000]
    equal = make_corpora([texts[0], domain_text("short", texts[1].text[:20_000])], DataConfig(), 32)
    first, second = (corpus.row()["used_bytes"] for corpus in equal.values())
    assert isinstance(first, int) and isinstance(second, int) and second - 4 < first <= second


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


@pytest.mark.parametrize("limit", range(len(MIXED.encode()) + 3))
def test_clipping_never_splits_a_character_and_wastes_less_than_one(limit: int) -> None:
    clipped = clip_bytes(MIXED, limit)
    assert MIXED.startswith(clipped) and len(clipped.encode()) <= limit
    if clipped != MIXED:
        assert len((clipped + MIXED[len(clipped)]).encode()) > limit


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
    wide = domain_text("wide", "漢字" * 5000)       # three bytes each: a third of the characters of as many bytes
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


def test_the_joint_corpus_has_an_equal_share_of_each(corpora: dict[str, Corpus]) -> None:
    joint = joint_corpus(corpora)
    assert joint.name == JOINT and joint.vocabulary == corpora["math"].vocabulary
    for name in SPLITS:
        text, begin = getattr(joint, name).text, 0
        for corpus in corpora.values():
            whole = getattr(corpus, name).text
            part = whole[:len(whole) // 3]
            assert text[begin:begin + len(part)] == part
            begin += len(part)
        assert begin == len(text)


def test_escape_bytes_are_the_bytes_of_the_unknown_characters() -> None:
    split = make_split(MIXED, Vocabulary("\n aevx"))
    expected = [0 if c in "\n aevx" else len(c.encode()) for c in MIXED]
    assert split.escape_bytes_N.tolist() == expected and set(expected) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("characters", [0, 1, 17, 10**9])
def test_the_head_of_a_split_is_its_beginning(corpora: dict[str, Corpus], characters: int) -> None:
    split = corpora["math"].test
    head = split.head(characters)
    assert head.text == split.text[:characters or None]
    assert torch.equal(head.ids_N, split.vocabulary.encode(head.text))


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize("block_size", [1, 3, 4, 13, 14, 100])
def test_every_character_is_a_target_once_and_its_input_is_the_one_before(rows: int, block_size: int) -> None:
    vocabulary = Vocabulary("\nabcdefgh")
    for length in (0, 1, 2, 12, 13, 14):
        split = make_split("abcdefghabcXef"[:length], vocabulary)
        inputs, targets = [], []
        for inputs_BT, targets_BT in exact_windows(split, block_size, rows):
            assert inputs_BT.shape == targets_BT.shape and targets_BT.numel()
            assert targets_BT.size(0) <= rows and targets_BT.size(1) <= block_size
            inputs += inputs_BT.flatten().tolist()
            targets += targets_BT.flatten().tolist()
        assert targets == split.ids_N.tolist()
        assert inputs == [vocabulary.start_id, *targets][:length]


def test_offsets_are_in_bounds_and_an_epoch_does_not_repeat_for_any_small_text() -> None:
    for block_size in (1, 2, 3, 8):
        for n in range(block_size + 1, 4 * block_size + 3):
            for seed in range(3):
                offsets = batch_offsets(n, block_size, 3, 7, seed)
                assert offsets.shape == (7, 3) and offsets.dtype == torch.int64
                assert int(offsets.min()) >= 0 and int(offsets.max()) + block_size + 1 <= n


def test_an_epoch_covers_the_text_but_for_less_than_a_block_at_each_end() -> None:
    n, block_size = 103, 5
    for seed in range(20):
        offsets = batch_offsets(n, block_size, 1, 40, seed).flatten()
        phase = int(offsets[0]) % block_size
        per_epoch = len(range(phase, n - block_size, block_size))
        epoch = sorted(offsets[:per_epoch].tolist())
        assert epoch == list(range(phase, n - block_size, block_size))
        assert epoch[0] < block_size and n - (epoch[-1] + block_size + 1) < block_size


def test_over_many_epochs_every_phase_and_every_character_is_read() -> None:
    n, block_size = 40, 6
    offsets = batch_offsets(n, block_size, 6, 100, 0).flatten()
    assert set(offsets.tolist()) == set(range(n - block_size))
    first = [batch_offsets(n, block_size, 1, 1, seed).item() for seed in range(300)]
    assert set(first) == set(range(n - block_size))


def test_offsets_depend_on_the_seed_and_longer_trainings_begin_with_shorter_ones() -> None:
    long = batch_offsets(1000, 8, 4, 200, 3)
    for steps in (0, 1, 31, 199):
        assert torch.equal(batch_offsets(1000, 8, 4, steps, 3), long[:steps])
    assert not torch.equal(batch_offsets(1000, 8, 4, 200, 4), long)


def test_offsets_leave_the_global_random_stream_alone() -> None:
    before = torch.get_rng_state()
    batch_offsets(1000, 8, 4, 20, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_without_a_window_has_no_offsets() -> None:
    for n in (0, 1, 8):
        with pytest.raises(ValueError, match=f"text must have more than block_size = 8 characters, got {n}"):
            batch_offsets(n, 8, 4, 20, 3)


def test_windows_are_the_text_and_the_text_one_later() -> None:
    inputs_BT, targets_BT = windows_at(torch.arange(100, 150), torch.tensor([0, 45, 7]), 4)
    assert inputs_BT.tolist() == [[100, 101, 102, 103], [145, 146, 147, 148], [107, 108, 109, 110]]
    assert torch.equal(targets_BT, inputs_BT + 1)
