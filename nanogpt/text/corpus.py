"""Each domain's text as ids, cut into train, validation and test.

Shape suffixes: N characters of a text, C characters of context, V characters of the vocabulary.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.config import JOINT, DataConfig
from nanogpt.errors import require
from nanogpt.text.sources import DomainText
from nanogpt.text.splits import Cut, Stretch, contiguous_cut, document_cut, spread_cut
from nanogpt.text.stored_text import LAST_OF_BYTES, LongText, StoredText
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary, code_points

SPLITS = ("train", "validation", "test")
LEAST_SCORED = 64
"""Characters that are scored of a piece at the least: what is read before them is as much again."""
MOST_IN_MEMORY = 2**24
"""Characters of a split of a stored text that are in memory; a longer split is read window by window."""
LONGEST_PIECE = 2**24
"""Characters of a piece of a stored text: a piece is read whole."""
EXCERPT_LINES, EXCERPT_CHARACTERS = 6, 480
LEAST_DOCUMENTS = 8
"""With fewer, whole documents in validation and test would be one or two."""


class Piece(NamedTuple):
    """Characters `begin` to `end` of a split, which stood together in their text."""

    begin: int
    end: int
    unit: int               # pieces of one unit vary together: intervals count units
    context_C: Tensor       # ids of what stood before them: read, never scored here
    source: str | LongText  # the text in which they stood,
    at: int                 # and where: a text is kept once, whatever is cut from it

    @property
    def text(self) -> str:
        return self.source[self.at:self.at + self.end - self.begin]


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a text in one or more pieces, one after the other; its characters stay in their text."""

    vocabulary: Vocabulary
    pieces: tuple[Piece, ...] = field(repr=False)

    def __len__(self) -> int:
        return self.pieces[-1].end if self.pieces else 0

    @cached_property
    def is_mapped(self) -> bool:
        """Say whether it is too long to be in memory: then neither `ids_N` nor `text` can be asked for."""
        return len(self) > MOST_IN_MEMORY and any(not isinstance(piece.source, str) for piece in self.pieces)

    def check_in_memory(self) -> None:
        if self.is_mapped:
            raise MemoryError(f"a split of {len(self):,} characters is read in parts, not whole")

    @cached_property
    def ids_N(self) -> Tensor:
        """Its characters as ids, from when they are first asked for: int16, or int32 for a large vocabulary."""
        self.check_in_memory()
        return self.vocabulary.encode_small(self.stretches(), len(self))

    def ids_at(self, places: Tensor) -> Tensor:
        """Return the ids at some places, int64 in the shape of `places`."""
        return self.mapped_ids.at(places) if self.is_mapped else self.ids_N[places].long()

    def expect(self, places_B: Tensor, length: int) -> None:
        """Have what begins at some places read from its file, where that is not in memory, before it is asked for."""
        if self.is_mapped:
            self.mapped_ids.expect(places_B, length)

    @cached_property
    def mapped_ids(self) -> MappedIds:
        return MappedIds(self)

    @property
    def text(self) -> str:
        """Its characters, made anew each time."""
        self.check_in_memory()
        return "".join(self.stretches())

    def stretches(self) -> Iterator[str]:
        """Give its characters piece by piece: a long text need not be there twice."""
        return (piece.text for piece in self.pieces)

    def characters(self, first: int, last: int) -> str:
        """Return the characters `first` to before `last`."""
        number, parts = max(0, bisect_right(self.pieces, first, key=lambda piece: piece.begin) - 1), list[str]()
        while number < len(self.pieces) and self.pieces[number].begin < last:
            piece = self.pieces[number]
            parts.append(piece.text[max(0, first - piece.begin):last - piece.begin])
            number += 1
        return "".join(parts)

    @cached_property
    def n_bytes(self) -> int:
        if self.is_mapped:
            points_C = code_points("".join(self.tally))
            return int((1 + np.searchsorted(LAST_OF_BYTES, points_C)) @ np.array(list(self.tally.values())))
        return sum(len(piece.text.encode()) for piece in self.pieces)

    @cached_property
    def tally(self) -> Counter[str]:
        """Count how often each character occurs in it."""
        return tally((piece.source, piece.at, piece.at + piece.end - piece.begin) for piece in self.pieces)

    @cached_property
    def counts_V(self) -> Tensor:
        """Count how often each character of the vocabulary occurs in it, `<unk>` first."""
        if not self.is_mapped:
            return torch.bincount(self.ids_N, minlength=len(self.vocabulary))
        counts_V = torch.zeros(len(self.vocabulary), dtype=torch.int64)
        return counts_V.index_add_(0, self.vocabulary.encode("".join(self.tally)),
                                   torch.tensor(list(self.tally.values())))

    def digest(self) -> Iterator[bytes]:
        """Give what a digest of its text is made from: its characters, or of what is mapped their text and places."""
        for piece in self.pieces:
            yield (f"{piece.source.sha256} {piece.at} {piece.end - piece.begin}\n".encode()
                   if self.is_mapped and not isinstance(piece.source, str) else piece.text.encode())

    @cached_property
    def bytes_N(self) -> Tensor:
        """UTF-8 bytes of each character."""
        return torch.from_numpy(1 + np.searchsorted(LAST_OF_BYTES, code_points(self.text)))

    @cached_property
    def escape_bytes_N(self) -> Tensor:
        """UTF-8 bytes of each unknown character, 0 for a known one."""
        return self.bytes_N * (self.ids_N == UNKNOWN)

    @cached_property
    def units_N(self) -> Tensor:
        """The unit of each character."""
        lengths = torch.tensor([piece.end - piece.begin for piece in self.pieces])
        return torch.tensor([piece.unit for piece in self.pieces]).repeat_interleave(lengths)

    @cached_property
    def previous_N(self) -> Tensor:
        """The id before each character: of its context at the begin of a piece, the start where there is none."""
        before_N = self.ids_N.long().roll(1)
        for piece in self.pieces:
            if piece.begin < len(before_N):
                before_N[piece.begin] = piece.context_C[-1] if len(piece.context_C) else self.vocabulary.start_id
        return before_N

    def spread(self, characters: int) -> Split:
        """Return about `characters` of it, an equal number from the begin of evenly spaced pieces; 0: all."""
        if not 0 < characters < len(self):
            return self
        longest = max(piece.end - piece.begin for piece in self.pieces)
        size = min(longest, max(LEAST_SCORED, -(-characters // len(self.pieces))))
        count = min(len(self.pieces), max(1, round(characters / size)))
        chosen = [self.pieces[len(self.pieces) * k // count] for k in range(count)]
        return self.part([piece._replace(end=min(piece.end, piece.begin + size)) for piece in chosen])

    def share(self, number: int, shares: int, pieces: int = 1) -> Split:
        """Return every so many-th piece of it from piece `number` on.

        Of a text with fewer than so many `pieces` for each share, every so many-th of that many equal parts.
        """
        parts = pieces * shares
        if len(self.pieces) >= parts:
            return self.part(self.pieces[number::shares])
        ends = [len(self) * k // parts for k in range(parts + 1)]
        return self.part([self.clipped(piece, ends[k], ends[k + 1]) for k in range(number, parts, shares)
                          for piece in self.pieces if piece.begin < ends[k + 1] and piece.end > ends[k]])

    def clipped(self, piece: Piece, first: int, last: int) -> Piece:
        """Return what of a piece lies between two places; what of it stands before is context."""
        begin = max(first, piece.begin)
        before = piece.source[piece.at:piece.at + begin - piece.begin]
        return piece._replace(begin=begin, end=min(last, piece.end), at=piece.at + len(before), context_C=torch.cat(
            (piece.context_C, self.vocabulary.encode_small([before], len(before)))))

    def part(self, pieces: Sequence[Piece]) -> Split:
        """Return the split of some of its pieces, or of parts of them."""
        ends = list(accumulate(piece.end - piece.begin for piece in pieces))
        return Split(self.vocabulary, tuple(piece._replace(begin=end - piece.end + piece.begin, end=end)
                                            for piece, end in zip(pieces, ends, strict=True)))


class MappedIds:
    """The ids of a split whose text is not in memory: which piece a place lies in, and where that is in its text."""

    def __init__(self, split: Split) -> None:
        pieces = split.pieces
        self.begins_P = torch.tensor([piece.begin for piece in pieces])
        self.shifts_P = torch.tensor([piece.at - piece.begin for piece in pieces])
        texts = {id(piece.source): piece.source for piece in pieces}
        numbers = {key: number for number, key in enumerate(texts)}
        self.text_P = torch.tensor([numbers[id(piece.source)] for piece in pieces])
        self.sources = list(texts.values())
        self.texts = [numbers_and_ids(text, split.vocabulary) for text in self.sources]

    def expect(self, places_B: Tensor, length: int) -> None:
        """Have what begins at some places read before it is asked for."""
        piece_B = torch.searchsorted(self.begins_P, places_B, right=True) - 1
        places_B = places_B + self.shifts_P[piece_B]
        for number, source in enumerate(self.sources):
            if isinstance(source, StoredText):
                source.expect(places_B[self.text_P[piece_B] == number].tolist(), length)

    def at(self, places: Tensor) -> Tensor:
        """Return the ids at some places of the split, int64 in the shape of `places`."""
        piece = torch.searchsorted(self.begins_P, places, right=True) - 1
        places = places + self.shifts_P[piece]
        if len(self.texts) == 1:
            return ids_of(*self.texts[0], places)
        ids, text = torch.empty_like(places), self.text_P[piece]
        for number, known in enumerate(self.texts):
            ids[text == number] = ids_of(*known, places[text == number])
        return ids


def numbers_and_ids(text: str | LongText, vocabulary: Vocabulary) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return a number for each character of a text and the id of each number; None where the numbers are the ids."""
    if isinstance(text, StoredText):
        return text.numbers_N, text.ids_of_numbers(vocabulary)
    return vocabulary.encode_small([text[:]], len(text)).numpy(), None


def ids_of(numbers_N: NDArray[Any], id_A: NDArray[Any] | None, places: Tensor) -> Tensor:
    numbers = numbers_N[places.numpy()]
    return torch.from_numpy(numbers if id_A is None else id_A[numbers]).long()


def tally(stretches: Iterable[tuple[str | LongText, int, int]]) -> Counter[str]:
    """Count the characters in stretches of texts, each its text, begin and end. They do not overlap."""
    counts, stored = Counter[str](), dict[int, tuple[StoredText, list[tuple[int, int]]]]()
    for text, begin, end in stretches:
        if isinstance(text, StoredText):
            stored.setdefault(id(text), (text, []))[1].append((begin, end))
        else:
            counts.update(text[begin:end])
    for text, parts in stored.values():
        counts.update({character: int(count) for character, count in
                       zip(text.alphabet, text.counts_in(parts)[1:], strict=True) if count})
    return counts


def make_split(text: str, vocabulary: Vocabulary) -> Split:
    """Make a split of a text, in one piece."""
    return Split(vocabulary, (Piece(0, len(text), 0, vocabulary.encode_small([], 0), text, 0),))


def split_of(text: str | LongText, stretches: Sequence[Stretch], vocabulary: Vocabulary, context: int) -> Split:
    """Make a split of stretches of a text, each with up to `context` characters before it.

    Of a text that is not in memory a stretch of more than LONGEST_PIECE characters becomes several pieces of one unit.
    """
    if not isinstance(text, str):
        stretches = [stretch._replace(begin=begin, end=min(stretch.end, begin + LONGEST_PIECE))
                     for stretch in stretches for begin in range(stretch.begin, stretch.end, LONGEST_PIECE)]
    ends = accumulate(stretch.end - stretch.begin for stretch in stretches)
    before = (text[max(stretch.context, stretch.begin - context):stretch.begin] for stretch in stretches)
    pieces = tuple(Piece(end - stretch.end + stretch.begin, end, stretch.unit,
                         vocabulary.encode_small([characters], len(characters)), text, stretch.begin)
                   for end, stretch, characters in zip(ends, stretches, before, strict=True))
    return Split(vocabulary, pieces)


def joined(splits: Sequence[Split]) -> Split:
    """Return some splits as one; their units stay different."""
    pieces, units = list[Piece](), 0
    for split, base in zip(splits, accumulate(map(len, splits), initial=0), strict=False):
        pieces += [piece._replace(begin=base + piece.begin, end=base + piece.end, unit=units + piece.unit)
                   for piece in split.pieces]
        units += 1 + max((piece.unit for piece in split.pieces), default=0)
    return Split(splits[0].vocabulary, tuple(pieces))


@dataclass(frozen=True, eq=False)
class Corpus:
    """A domain's text under a study's vocabulary."""

    source: DomainText
    train: Split
    validation: Split
    test: Split

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def vocabulary(self) -> Vocabulary:
        return self.train.vocabulary

    @property
    def character_counts_V(self) -> Tensor:
        """Count how often each character of the vocabulary occurs in the training split, `<unk>` first."""
        return self.train.counts_V

    def excerpt(self) -> str:
        """Return a few lines of the training text, from the begin of a line near its middle on.

        At most EXCERPT_LINES and EXCERPT_CHARACTERS; a text without line ends gives characters from its middle.
        """
        text = self.train.pieces[len(self.train.pieces) // 2].text
        begin = text.rfind("\n", 0, len(text) // 2) + 1 or len(text) // 2
        shown = text[begin:begin + EXCERPT_CHARACTERS]
        return "\n".join(shown.split("\n")[:EXCERPT_LINES]).rstrip()

    def row(self) -> dict[str, object]:
        """Return the row of the corpora table.

        Of a split that is mapped, `used_sha256` takes the SHA-256 of its text and the places of its pieces in it.
        """
        source = self.source
        splits: dict[str, Split] = {name: getattr(self, name) for name in SPLITS}
        used = hashlib.sha256()
        for split in splits.values():
            for part in split.digest():
                used.update(part)
        unknown = sum(int(split.counts_V[UNKNOWN]) for split in splits.values())
        return {"domain": source.name, "source": source.source, "origin": source.origin, "licence": source.licence,
                "raw_bytes": source.raw_bytes, "raw_sha256": source.raw_sha256, "bytes": source.n_bytes,
                "characters": source.n_characters, "sha256": source.sha256,
                "used_bytes": sum(split.n_bytes for split in splits.values()), "used_sha256": used.hexdigest(),
                **{f"{name}_characters": len(split) for name, split in splits.items()},
                "unknown_share": unknown / sum(map(len, splits.values()))}


def make_corpora(texts: Sequence[DomainText], config: DataConfig, block_size: int,
                 vocabulary: Vocabulary | None = None) -> dict[str, Corpus]:
    """Return corpora by name, in the order of `texts`, under one vocabulary: theirs, unless it is given.

    UserError where a domain is named twice, a text is too short (each split must hold block_size + 1 characters), has
    too few documents to keep them apart, or no character is frequent enough for the vocabulary.
    """
    names = [text.name for text in texts]
    require(len(set(names)) == len(names), "domains must differ in name", names)
    smallest = min(texts, key=lambda text: text.n_bytes)
    cuts = {text.name: cut(text, smallest if config.equal_bytes else text, config.split, block_size)
            for text in sorted(texts, key=lambda text: text.n_bytes)}       # so that a short text is blamed itself
    if vocabulary is None:
        learnt = tally((text.text, stretch.begin, stretch.end) for text in texts for stretch in cuts[text.name].train)
        vocabulary = Vocabulary.of([learnt], config.min_count)
        require(len(vocabulary) > 1, "min_count must be reached by a character of the training texts", config.min_count)
    return {text.name: Corpus(text, *(split_of(text.text, part, vocabulary, block_size) for part in cuts[text.name]))
            for text in texts}


def cut(text: DomainText, smallest: DomainText, way: str, block_size: int) -> Cut:
    """Cut a text, of which as many bytes are used as `smallest` has. UserError where a split holds no window.

    Of as many bytes a text of another alphabet may have too few characters: then it says which domain cut it.
    """
    length, used = text.n_characters, text.n_characters
    if text is not smallest:
        used = min(length, length * smallest.n_bytes // text.n_bytes)
    if length <= block_size:
        stretches = Cut([], [], [])
    elif way == "contiguous":
        stretches = contiguous_cut(length, used)
    elif way == "documents":
        require(len(text.document_starts) >= LEAST_DOCUMENTS,
                f"documents of domain {text.name!r} must be at least {LEAST_DOCUMENTS} for split=documents",
                len(text.document_starts))
        stretches = document_cut(text.document_starts, length, used)
    else:
        stretches = spread_cut(length, used, block_size)
    whose = "" if used == length else (f", cut to the {smallest.n_bytes} bytes of domain {smallest.name!r} by "
                                       "equal_bytes,")
    shortest = min(sum(stretch.end - stretch.begin for stretch in part) for part in stretches)
    require(shortest > block_size,
            f"each split of domain {text.name!r}{whose} must have more than block_size = {block_size} characters "
            f"(a text of about {20 * block_size + 40} or more)", shortest)
    return stretches


def joint_corpus(corpora: Mapping[str, Corpus]) -> Corpus:
    """Return all domains together, an equal share of each one's splits, in all as much as of one domain."""
    parts = [joined([getattr(corpus, name).share(number, len(corpora)) for number, corpus in
                     enumerate(corpora.values())]) for name in SPLITS]
    sources = [corpus.source for corpus in corpora.values()]
    origin = "; ".join(dict.fromkeys(source.origin for source in sources))
    licence = "; ".join(dict.fromkeys(source.licence for source in sources))
    text = (JointText(tuple(parts)) if any(part.is_mapped for part in parts) else
            "".join(part.text for part in parts))
    digest, size = (digest_and_size(text) if isinstance(text, str) else (text.sha256, text.n_bytes))
    return Corpus(DomainText(JOINT, text, "joint", origin, licence, digest, size), *parts)


def digest_and_size(text: str) -> tuple[str, int]:
    content = text.encode()
    return hashlib.sha256(content).hexdigest(), len(content)


@dataclass(frozen=True, eq=False)
class JointText:
    """The text of some splits, one after the other, that is not in memory; its digest is of what they give to one."""

    splits: tuple[Split, ...]

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for split in self.splits:
            for part in split.digest():
                digest.update(part)
        return digest.hexdigest()

    @cached_property
    def n_bytes(self) -> int:
        return sum(split.n_bytes for split in self.splits)

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def __getitem__(self, part: slice) -> str:
        first, last, _ = part.indices(len(self))
        return joined(self.splits).characters(first, last)
