"""Which stretches of a text are learnt, chosen on and tested on.

A text is used in full or, where domains are cut to equal bytes, by a part of it taken from everywhere. Three ways:

- spread: validation and test are many short pieces, drawn one from each of as many equal sections of the text, so that
  they stand for all of it; a margin of one context, in no split, keeps pieces of different splits apart;
- documents: whole plays, articles or modules are in one split alone: the harder question, of other works;
- contiguous: the first 90 %, the next 5 %, the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

SHARE = 0.05
"""Of the used text: as much is for validation, and as much for test."""
DOCUMENT_SHARE = 0.1
"""The same where whole documents are kept apart: they are few."""
MOST_HELD_OUT = 2_000_000
"""Characters of validation, and of test, at the most: with more an interval is no narrower than seeds differ."""
PIECE, MARGINS_IN_PIECE = 512, 3
"""Characters of a piece, about, or so many contexts if that is more; less in a short text."""
LEAST_SECTIONS, MARGINS_IN_SECTION = 8, 24
"""A short text is cut into so many sections where each is as long as so many contexts."""
SEED = 0
"""Of the places of pieces. They depend on the text and the context length alone, never on how much of the text is used:
what one study tests on no other study of the same text learns from."""


class Stretch(NamedTuple):
    """Characters `begin` to `end` of a text. Those before it, from `context` on, may be read as its context."""

    begin: int
    end: int
    unit: int           # pieces of one unit vary together: intervals count units
    context: int = 0


class Cut(NamedTuple):
    """What each split holds of a text, in the order of the text."""

    train: list[Stretch]
    validation: list[Stretch]
    test: list[Stretch]


def held_out(length: int, share: float = SHARE) -> float:
    """Say which share of a text is for validation, and as much for test."""
    return min(share, MOST_HELD_OUT / length)


def contiguous_cut(length: int, used: int) -> Cut:
    """Cut a text into the first 90 %, the next 5 % and the rest; of each its begin is used, `used` in all."""
    share = held_out(length)
    borders = (0, int(length * (1 - 2 * share)), int(length * (1 - share)), length)
    train, validation, test = ((begin, begin + (end - begin) * used // length) for begin, end in pairwise(borders))
    return Cut([Stretch(*train, 0)], list(pieces(*validation)), list(pieces(*test)))


def pieces(begin: int, end: int, context: int = 0, unit: int | None = None) -> Iterator[Stretch]:
    """Cut a stretch into pieces; each is a unit of its own unless `unit` is given."""
    count = max(1, round((end - begin) / PIECE))
    borders = [begin + (end - begin) * k // count for k in range(count + 1)]
    for number, (first, last) in enumerate(pairwise(borders)):
        yield Stretch(first, last, number if unit is None else unit, context)


def spread_cut(length: int, used: int, margin: int) -> Cut:
    """Draw a piece for validation and one for test from each of many equal sections of the text.

    The two lie next to each other at a random place of the section, in turns the one or the other first, with `margin`
    characters before, between and after them. Where less than the text is used, sections are, evenly spaced.
    """
    generator = torch.Generator().manual_seed(SEED)
    count = sections(length, margin)
    size = int(held_out(length) * length / count)
    both = 2 * size + 3 * margin
    places = torch.rand(count, generator=generator)
    kept = max(1, round(count * used / length))
    cut = Cut([], [], [])
    for number in sorted({(2 * k + 1) * count // (2 * kept) for k in range(kept)}):
        section, end = length * number // count, length * (number + 1) // count
        at = section + int(places[number] * max(1, end - section - both))
        for splits, begin in zip((cut.validation, cut.test) if number % 2 else (cut.test, cut.validation),
                                 (at + margin, at + 2 * margin + size), strict=True):
            splits.append(Stretch(begin, begin + size, number))
        for first, last in ((section, at), (at + both, end)):
            if cut.train and cut.train[-1].end == first:
                cut.train[-1] = cut.train[-1]._replace(end=max(first, last))
            elif last > first:
                cut.train.append(Stretch(first, last, number))
    tested = sum(stretch.end - stretch.begin for stretch in (*cut.validation, *cut.test))
    return cut if used == length else cut._replace(train=list(head(cut.train, used - tested)))


def head(stretches: Sequence[Stretch], characters: int) -> Iterator[Stretch]:
    """Give the first `characters` of some stretches: of a short text one section may be more than is used."""
    for stretch in stretches:
        if characters > 0:
            yield stretch._replace(end=min(stretch.end, stretch.begin + characters))
        characters -= stretch.end - stretch.begin


def sections(length: int, margin: int) -> int:
    """Say into how many sections a text is cut."""
    by_piece = round(held_out(length) * length / max(PIECE, MARGINS_IN_PIECE * margin))
    return max(1, by_piece, min(LEAST_SECTIONS, length // (MARGINS_IN_SECTION * margin)))


def document_cut(starts: Sequence[int], length: int, used: int) -> Cut:
    """Deal whole documents to the splits at random, as much of each as is used of all; a document is a unit.

    In which split a document is depends on the text alone.
    """
    generator = torch.Generator().manual_seed(SEED)
    documents, share = list(pairwise((*starts, length))), held_out(length, DOCUMENT_SHARE)
    cut, held = Cut([], [], []), [0, 0, 0]
    for number in torch.randperm(len(documents), generator=generator).tolist():
        begin, end = documents[number]
        taken = max(1, (end - begin) * used // length)
        at = begin + int(torch.randint(end - begin - taken + 1, (), generator=generator))
        place = next((i for i in (2, 1) if held[i] < share * length), 0)
        held[place] += end - begin
        cut[place].extend([Stretch(at, at + taken, number)] if place == 0 else
                          pieces(at, at + taken, context=begin, unit=number))
    return Cut(*(sorted(stretches) for stretches in cut))
