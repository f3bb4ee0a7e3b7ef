"""The characters that a model knows, and their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanogpt.errors import require

UNKNOWN = 0
"""The id of `<unk>`."""
CHARACTERS_AT_ONCE = 2**20
"""That are read: what it takes beside a text and its ids is bounded."""


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the Unicode code point of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


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

    @cached_property
    def table(self) -> NDArray[Any]:
        """Map each code point up to the largest known one to its id; the last entry stands for all larger ones."""
        places = code_points(self.characters)
        kind = np.int16 if len(self) <= np.iinfo(np.int16).max else np.int32
        table = np.full(int(places.max(initial=0)) + 2, UNKNOWN, dtype=kind)
        table[places] = np.arange(1, len(self), dtype=kind)
        return table

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
        return self.encode_small([text], len(text)).long()

    def encode_small(self, texts: Iterable[str], characters: int) -> Tensor:
        """Return the ids (N,) of texts of so many characters in all, one after the other, in the smallest type.

        That is int16, or int32 for a large vocabulary.
        """
        ids_N, end = np.empty(characters, self.table.dtype), 0
        for text in texts:
            for begin in range(0, len(text), CHARACTERS_AT_ONCE):
                codes = code_points(text[begin:begin + CHARACTERS_AT_ONCE])
                ids_N[end:end + len(codes)] = self.table[np.minimum(codes, len(self.table) - 1)]
                end += len(codes)
        return torch.from_numpy(ids_N)

    def decode(self, ids: Iterable[int], unknown: str = "\N{REPLACEMENT CHARACTER}") -> str:
        """Return the text of ids, with `unknown` in place of each id 0."""
        return "".join(self.characters[i - 1] if i else unknown for i in map(int, ids))

    def unknown_in(self, text: str) -> str:
        """Return the characters of `text` that the vocabulary lacks, each once, sorted."""
        return "".join(sorted(set(text) - self.index.keys()))

    @classmethod
    def of(cls, texts: Iterable[str | Mapping[str, int]], min_count: int) -> Vocabulary:
        """Take the characters that occur at least `min_count` times in `texts`, or their counts, together."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return cls("".join(sorted(c for c, count in counts.items() if count >= min_count)))
