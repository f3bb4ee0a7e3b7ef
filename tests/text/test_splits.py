"""Cuts: nothing is in two splits, margins keep them apart, pieces come from everywhere, documents stay whole."""

from __future__ import annotations

import itertools

import pytest

from nanogpt.text.splits import Cut, Stretch, contiguous_cut, document_cut, spread_cut


def check(cut: Cut, length: int, margin: int) -> None:
    """Stretches lie in the text, and those of different splits at least a margin apart."""
    every = sorted((stretch.begin, stretch.end, name) for name, part in zip(Cut._fields, cut, strict=True)
                   for stretch in part)
    assert all(0 <= begin < end <= length for begin, end, _ in every)
    for (_, end, first), (begin, _, second) in itertools.pairwise(every):
        assert begin >= end + (margin if first != second else 0)


def size(stretches: list[Stretch]) -> int:
    return sum(stretch.end - stretch.begin for stretch in stretches)


@pytest.mark.parametrize(("length", "margin"), [(700, 32), (20_000, 32), (300_000, 128), (1_000_000, 256)])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_pieces_of_validation_and_test_come_from_every_section(length: int, margin: int, share: float) -> None:
    used = int(share * length)
    cut = spread_cut(length, used, margin)
    check(cut, length, margin)
    assert size(cut.validation) == size(cut.test) == pytest.approx(0.05 * used, rel=0.03)
    assert size(cut.train) >= 0.7 * used - 3 * margin
    for part in (cut.validation, cut.test):
        assert [stretch.begin * len(part) // length for stretch in part] == list(range(len(part)))
        assert [stretch.unit for stretch in part] == list(range(len(part)))
    first = [a.begin < b.begin for a, b in zip(cut.validation, cut.test, strict=True)]
    assert len(first) < 2 or 0.4 <= sum(first) / len(first) <= 0.6


def test_documents_are_in_one_split_each() -> None:
    starts = tuple(range(0, 50_000, 1000))
    for used in (50_000, 20_000):
        cut = document_cut(starts, 50_000, used)
        check(cut, 50_000, 0)
        documents = [{stretch.begin // 1000 for stretch in part} for part in cut]
        assert set.union(*documents) == set(range(50)) and sum(map(len, documents)) == 50
        assert [len(part) for part in documents[1:]] == [5, 5] and size([s for part in cut for s in part]) == used
        assert all(stretch.context == stretch.begin // 1000 * 1000 and stretch.unit == stretch.begin // 1000
                   for part in cut[1:] for stretch in part)


@pytest.mark.parametrize("length", [100, 1000, 60_001])
def test_a_contiguous_cut_is_the_begin_of_the_text_in_order(length: int) -> None:
    cut = contiguous_cut(length, length // 2)
    check(cut, length, 0)
    borders = [0, *(stretch.end for part in cut for stretch in part)]
    assert [stretch.begin for part in cut for stretch in part] == borders[:-1] and borders[-1] == length // 2
