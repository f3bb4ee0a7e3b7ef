"""The characters that a model knows, and their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanogpt.errors import require

UNKNOWN = 0
"""The id of `<unk>`."""


@dataclass(frozen=True)
class Vocabulary:
    """`<unk>` has id 0, the sorted `characters` have 1, 2, …"""

    characters: str

    def __post_init__(self) -> None:
        rule = list(self.characters) == sorted(set(self.characters))
        require(rule, "vocabulary must be sorted and without repetition", self.characters)

    def __len__(self) -> int:
        return len(self.characters) + 1

    @cached_property
    def index(self) -> dict[str, int]:
        """Map each character to its id."""
        return {character: i for i, character in enumerate(self.characters, start=1)}

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the characters in UTF-8, 64 hexadecimal digits."""
        return hashlib.sha256(self.characters.encode()).hexdigest()

    @property
    def start_id(self) -> int:
        """Return what stands before the first character of any text: a new line, where the vocabulary has one."""
        return self.index.get("\n", UNKNOWN)

    def encode(self, text: str) -> Tensor:
        """Return ids (N,) int64; unknown characters become 0."""
        return torch.tensor([self.index.get(character, UNKNOWN) for character in text], dtype=torch.int64)

    def decode(self, ids: Iterable[int], unknown: str = "\N{REPLACEMENT CHARACTER}") -> str:
        """Return the text of ids, with `unknown` in place of each id 0."""
        return "".join(self.characters[i - 1] if i else unknown for i in map(int, ids))

    def unknown_in(self, text: str) -> str:
        """Return the characters of `text` that the vocabulary lacks, each once, sorted."""
        return "".join(sorted(set(text) - self.index.keys()))

    @classmethod
    def of(cls, texts: Iterable[str], min_count: int) -> Vocabulary:
        """Take the characters that occur at least `min_count` times in `texts` together."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls("".join(sorted(c for c, count in counts.items() if count >= min_count)))
