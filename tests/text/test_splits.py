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
def test_pieces_of_validation_and_test_come_from_everywhere(length: int, margin: int, share: float) -> None:
    used = int(share * length)
    cut = spread_cut(length, used, margin)
    check(cut, length, margin)
    assert size(cut.validation) == size(cut.test)
    if length > 10_000:
        assert size(cut.validation) == pytest.approx(0.05 * used, rel=0.05)
        assert 0.75 * used <= size(cut.train) <= 0.91 * used
    for part in (cut.validation, cut.test):
        assert all(abs(stretch.begin * len(part) / length - k - 0.5) <= 1 for k, stretch in enumerate(part))
        assert len({stretch.unit for stretch in part}) == len(part)
    first = [a.begin < b.begin for a, b in zip(cut.validation, cut.test, strict=True)]
    assert share < 1 or len(first) < 4 or 0.4 <= sum(first) / len(first) <= 0.6


@pytest.mark.parametrize("margin", [32, 256, 2048])
def test_a_long_context_leaves_most_of_the_text_to_be_learnt(margin: int) -> None:
    cut = spread_cut(1_000_000, 1_000_000, margin)
    assert size(cut.train) >= 0.8 * 1_000_000 and size(cut.test) == pytest.approx(50_000, rel=0.03)


STARTS = tuple(range(0, 300_000, 7_000))


@pytest.mark.parametrize("cut", [lambda used: spread_cut(300_000, used, 64), lambda used: contiguous_cut(300_000, used),
                                 lambda used: document_cut(STARTS, 300_000, used)],
                         ids=["spread", "contiguous", "documents"])
def test_what_one_study_tests_on_no_study_of_the_text_learns(cut) -> None:
    """However much of the text either of them uses."""
    places = [cut(used) for used in (15_000, 100_000, 170_000, 300_000)]
    learnt = {place for each in places for stretch in each.train for place in range(stretch.begin, stretch.end)}
    for each in places:
        for stretch in (*each.validation, *each.test):
            assert learnt.isdisjoint(range(stretch.begin, stretch.end))


def test_documents_are_in_one_split_each() -> None:
    starts = tuple(range(0, 50_000, 1000))
    for used in (50_000, 20_000):
        cut = document_cut(starts, 50_000, used)
        check(cut, 50_000, 0)
        documents = [{stretch.begin // 1000 for stretch in part} for part in cut]
        assert set.union(*documents) == set(range(50)) and sum(map(len, documents)) == 50
        assert [len(part) for part in documents[1:]] == [5, 5]
        assert size([s for part in cut for s in part]) == pytest.approx(used, abs=50)
        assert all(stretch.context == stretch.begin // 1000 * 1000 and stretch.unit == stretch.begin // 1000
                   for part in cut[1:] for stretch in part)


@pytest.mark.parametrize("length", [100, 1000, 60_001])
def test_a_contiguous_cut_is_the_begin_of_the_text_in_order(length: int) -> None:
    cut = contiguous_cut(length, length // 2)
    check(cut, length, 0)
    assert [part[0].begin for part in cut] == [0, int(0.9 * length), int(0.95 * length)]
    assert size([stretch for part in cut for stretch in part]) == pytest.approx(length // 2, abs=3)
