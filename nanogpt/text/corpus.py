"""Each domain's text as ids, cut into train, validation and test; batches and windows.

Shape suffixes: B rows of a batch, T positions, N characters of a text, V characters of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nanogpt.config import JOINT, DataConfig
from nanogpt.errors import require
from nanogpt.text.sources import DomainText
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """A contiguous stretch of a text, as characters and as ids."""

    text: str = field(repr=False)
    ids_N: Tensor = field(repr=False)
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.text)

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode())

    @cached_property
    def bytes_N(self) -> Tensor:
        """UTF-8 bytes of each character."""
        return torch.tensor([len(character.encode()) for character in self.text])

    @cached_property
    def escape_bytes_N(self) -> Tensor:
        """UTF-8 bytes of each unknown character, 0 for a known one."""
        return self.bytes_N * (self.ids_N == UNKNOWN)

    def head(self, characters: int) -> Split:
        """Return its first `characters`; 0: all."""
        if not 0 < characters < len(self):
            return self
        return Split(self.text[:characters], self.ids_N[:characters], self.vocabulary)


def make_split(text: str, vocabulary: Vocabulary) -> Split:
    """Encode `text`."""
    return Split(text, vocabulary.encode(text), vocabulary)


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
        return torch.bincount(self.train.ids_N, minlength=len(self.vocabulary))

    def row(self) -> dict[str, object]:
        """Return the row of the corpora table."""
        source = self.source
        splits = {name: getattr(self, name) for name in SPLITS}
        used = "".join(split.text for split in splits.values())
        unknown_N = torch.cat([split.ids_N == UNKNOWN for split in splits.values()])
        return {"domain": source.name, "source": source.source, "origin": source.origin, "licence": source.licence,
                "raw_bytes": source.raw_bytes, "raw_sha256": source.raw_sha256, "bytes": source.n_bytes,
                "characters": source.n_characters, "sha256": source.sha256,
                "used_bytes": len(used.encode()), "used_sha256": hashlib.sha256(used.encode()).hexdigest(),
                **{f"{name}_characters": len(split) for name, split in splits.items()},
                "unknown_share": float(unknown_N.double().mean())}


def cut(text: str, shares: Sequence[float] = (0.9, 0.05)) -> tuple[str, str, str]:
    """Return contiguous train, validation and test: the first 90 %, the next 5 %, the rest."""
    first = int(len(text) * shares[0])
    second = int(len(text) * (shares[0] + shares[1]))
    return text[:first], text[first:second], text[second:]


def clip_bytes(text: str, limit: int) -> str:
    """Return the longest head of `text` with at most `limit` UTF-8 bytes."""
    return text.encode()[:limit].decode(errors="ignore")


def make_corpora(texts: Sequence[DomainText], config: DataConfig, block_size: int,
                 vocabulary: Vocabulary | None = None) -> dict[str, Corpus]:
    """Return corpora by name, in the order of `texts`, under one vocabulary: theirs, unless it is given.

    UserError where a domain is named twice, a text is too short (each split must hold block_size + 1 characters) or
    no character is frequent enough for the vocabulary.
    """
    names = [text.name for text in texts]
    require(len(set(names)) == len(names), "domains must differ in name", names)
    cuts = equal_cuts(texts, block_size) if config.equal_bytes else whole_cuts(texts, block_size)
    if vocabulary is None:
        vocabulary = Vocabulary.of((parts[0] for parts in cuts.values()), config.min_count)
        require(len(vocabulary) > 1, "min_count must be reached by a character of the training texts", config.min_count)
    return {text.name: Corpus(text, *(make_split(part, vocabulary) for part in cuts[text.name])) for text in texts}


def whole_cuts(texts: Sequence[DomainText], block_size: int) -> dict[str, tuple[str, str, str]]:
    """Return the splits of each whole text. UserError where one is too short."""
    cuts = {text.name: cut(text.text) for text in texts}
    for name, parts in cuts.items():
        require_length(f"domain {name!r}", parts, block_size)
    return cuts


def equal_cuts(texts: Sequence[DomainText], block_size: int) -> dict[str, tuple[str, str, str]]:
    """Return the splits of each text, cut to the bytes of the smallest. UserError where that one is too short.

    Of as many bytes a text of another alphabet may have too few characters: then it says which domain cut it.
    """
    smallest = min(texts, key=lambda text: text.n_bytes)
    require_length(f"domain {smallest.name!r}", cut(smallest.text), block_size)
    cuts = {text.name: cut(clip_bytes(text.text, smallest.n_bytes)) for text in texts}
    for name, parts in cuts.items():
        require_length(f"domain {name!r}, cut to the {smallest.n_bytes} bytes of domain {smallest.name!r} by "
                       "equal_bytes,", parts, block_size)
    return cuts


def require_length(domain: str, parts: Sequence[str], block_size: int) -> None:
    """Raise UserError where a split does not hold a window; `domain` is how the message names it."""
    rule = (f"each split of {domain} must have more than block_size = {block_size} characters "
            f"(a text of about {20 * block_size + 40} or more)")
    shortest = min(map(len, parts))
    require(shortest > block_size, rule, shortest)


def joint_corpus(corpora: Mapping[str, Corpus]) -> Corpus:
    """Return all domains together, an equal share of each: the head of every split, as much as of one domain."""
    parts = ["".join(text[:len(text) // len(corpora)] for text in (getattr(corpus, name).text
                                                                   for corpus in corpora.values())) for name in SPLITS]
    text, sources = "".join(parts), [corpus.source for corpus in corpora.values()]
    origin = "; ".join(dict.fromkeys(source.origin for source in sources))
    licence = "; ".join(dict.fromkeys(source.licence for source in sources))
    digest, size = hashlib.sha256(text.encode()).hexdigest(), len(text.encode())
    vocabulary = next(iter(corpora.values())).vocabulary
    return Corpus(DomainText(JOINT, text, "joint", origin, licence, digest, size),
                  *(make_split(part, vocabulary) for part in parts))


def exact_windows(split: Split, block_size: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return inputs and targets (<= rows, <= block_size): every character is a target exactly once, in order.

    With block_size 4 and the text "ABCDEF", ⏎ standing for `Vocabulary.start_id`:

        inputs  ⏎ABC  DE
        targets ABCD  EF
    """
    targets_N = split.ids_N
    start = torch.tensor([split.vocabulary.start_id])
    inputs_N = torch.cat((start, targets_N[:-1])) if len(targets_N) else targets_N
    whole = len(targets_N) // block_size * block_size
    if whole:
        yield from zip(inputs_N[:whole].view(-1, block_size).split(rows),
                       targets_N[:whole].view(-1, block_size).split(rows), strict=True)
    if whole < len(targets_N):
        yield inputs_N[None, whole:], targets_N[None, whole:]


def batch_offsets(n: int, block_size: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Return where the windows of each step begin, (steps, B): from the arguments alone, so a training can resume.

    An epoch reads the n > block_size characters once, in shuffled windows of block_size from a random phase on; what
    does not fill a window at either end waits for an epoch with another phase.
    """
    require(n > block_size, f"text must have more than block_size = {block_size} characters", n)
    generator = torch.Generator().manual_seed(seed)
    epochs: list[Tensor] = []
    missing = steps * batch_size
    last = n - block_size - 1
    while missing > 0:
        phase = int(torch.randint(min(block_size, last + 1), (), generator=generator))
        starts = torch.arange(phase, last + 1, block_size)
        epochs.append(starts[torch.randperm(len(starts), generator=generator)])
        missing -= len(starts)
    return torch.cat([*epochs, torch.empty(0, dtype=torch.int64)])[: steps * batch_size].view(steps, batch_size)


def windows_at(ids_N: Tensor, offsets_B: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, T) of the windows that begin at `offsets_B`."""
    window_BT = ids_N[offsets_B[:, None] + torch.arange(block_size + 1, device=ids_N.device)]
    return window_BT[:, :-1], window_BT[:, 1:]
