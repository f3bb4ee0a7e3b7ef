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
PIECE = 512
"""Characters of a piece, about: less in a short text."""
SEED = 0
"""Of the places of pieces: a split depends on the text and the context length alone."""


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


def contiguous_cut(length: int, used: int) -> Cut:
    """Cut the first `used` characters into the first 90 %, the next 5 % and the rest."""
    first, second = int(used * (1 - 2 * SHARE)), int(used * (1 - SHARE))
    return Cut([Stretch(0, first, 0)], list(pieces(first, second)), list(pieces(second, min(used, length))))


def pieces(begin: int, end: int, context: int = 0, unit: int | None = None) -> Iterator[Stretch]:
    """Cut a stretch into pieces; each is a unit of its own unless `unit` is given."""
    count = max(1, round((end - begin) / PIECE))
    borders = [begin + (end - begin) * k // count for k in range(count + 1)]
    for number, (first, last) in enumerate(pairwise(borders)):
        yield Stretch(first, last, number if unit is None else unit, context)


def spread_cut(length: int, used: int, margin: int) -> Cut:
    """Draw a piece for validation and one for test from each of many equal sections of the text.

    Of a section the first `used / length` is taken; the two pieces lie next to each other at a random place of it, in
    turns the one or the other first, with `margin` characters before, between and after them.
    """
    generator = torch.Generator().manual_seed(SEED)
    count = max(1, round(SHARE * used / PIECE))
    size, taken = int(SHARE * used / count), used // count
    both = 2 * size + 3 * margin
    cut = Cut([], [], [])
    for number in range(count):
        section = length * number // count
        at = section + int(torch.randint(max(1, taken - both), (), generator=generator))
        first, second = at + margin, at + 2 * margin + size
        for splits, begin in zip((cut.validation, cut.test) if number % 2 else (cut.test, cut.validation),
                                 (first, second), strict=True):
            splits.append(Stretch(begin, begin + size, number))
        for begin, end in ((section, at), (at + both, section + taken)):
            if cut.train and cut.train[-1].end == begin:
                cut.train[-1] = cut.train[-1]._replace(end=max(begin, end))
            elif end > begin:
                cut.train.append(Stretch(begin, end, number))
    return cut


def document_cut(starts: Sequence[int], length: int, used: int) -> Cut:
    """Deal whole documents to the splits at random, as much of each as is used of all; a document is a unit."""
    generator = torch.Generator().manual_seed(SEED)
    documents = list(pairwise((*starts, length)))
    cut, held = Cut([], [], []), [0, 0, 0]
    for number in torch.randperm(len(documents), generator=generator).tolist():
        begin, end = documents[number]
        taken = max(1, (end - begin) * used // length)
        at = begin + int(torch.randint(end - begin - taken + 1, (), generator=generator))
        place = next((i for i in (2, 1) if held[i] < DOCUMENT_SHARE * used), 0)
        held[place] += taken
        cut[place].extend([Stretch(at, at + taken, number)] if place == 0 else
                          pieces(at, at + taken, context=begin, unit=number))
    return Cut(*(sorted(stretches) for stretches in cut))
