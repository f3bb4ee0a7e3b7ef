"""Where a loss comes from: by kind of character, place in the word, place in the context, and frequency.

Shape suffixes: N characters of a text, V characters of the vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanogpt.text.corpus import Split

MARKUP = frozenset("\\^_{}$")
"""What mathematics is written with in LaTeX; counted as mathematical symbols like those of Unicode's class Sm."""
CLASSES = ("letter", "digit", "whitespace", "newline", "punctuation", "mathematical symbol", "other")
WORD_PLACES = ("1st letter", "2nd", "3rd", "4th", "5th", "6th and later", "not in a word")
FREQUENCIES = {"unseen": 0.0, "below 0.01 %": 1e-4, "below 0.1 %": 1e-3, "below 1 %": 1e-2, "1 % and more": 1.0}
"""Upper limit of the share of the training text that a character of each group makes up."""


class Grouping(NamedTuple):
    """A way to sort the characters of a text into groups, and the index of each character's group."""

    name: str
    groups: tuple[str, ...]
    index_N: Tensor


def character_class(character: str) -> str:
    """Return one of CLASSES, from Unicode's general category.

    >>> [character_class(character) for character in "é7,+$"]
    ['letter', 'digit', 'punctuation', 'mathematical symbol', 'mathematical symbol']
    """
    category = unicodedata.category(character)
    if character == "\n":
        return "newline"
    if character in MARKUP or category == "Sm":
        return "mathematical symbol"
    if character.isspace():
        return "whitespace"
    return {"L": "letter", "N": "digit", "P": "punctuation"}.get(category[0], "other")


def word_places(text: str) -> list[int]:
    """Count for each character the letters before it in its word, at most 5; 6 where it is no letter."""
    places, letters_before = [], 0
    for character in text:
        places.append(min(letters_before, 5) if character.isalpha() else 6)
        letters_before = letters_before + 1 if character.isalpha() else 0
    return places


def text_groupings(split: Split) -> list[Grouping]:
    """Return the groupings that do not depend on the model: class of the character, place in the word."""
    text = split.text
    class_index = {character: CLASSES.index(character_class(character)) for character in set(text)}
    return [Grouping("character class", CLASSES, torch.tensor([class_index[character] for character in text])),
            Grouping("place in the word", WORD_PLACES, torch.tensor(word_places(text)))]


def context_grouping(before_N: Tensor, block_size: int) -> Grouping:
    """Group by how many characters of its window were read before each one."""
    last = block_size - 1
    lengths = ["0", "1", *(f"{2**k} to {min(2 ** (k + 1) - 1, last)}" for k in range(1, last.bit_length()))]
    return Grouping("characters read before", tuple(lengths), torch.frexp(before_N.double()).exponent.long())


def frequency_grouping(split: Split, character_counts_V: Tensor) -> Grouping:
    """Group by how often the character occurs in the training text; an unknown one is unseen."""
    share_V = character_counts_V / character_counts_V.sum().clamp(min=1)
    limits = torch.tensor(list(FREQUENCIES.values()), dtype=share_V.dtype)
    index_N = torch.bucketize(share_V, limits[1:-1], right=True)[split.ids_N.long()] + 1
    unseen_N = (character_counts_V[split.ids_N.long()] == 0) | (split.escape_bytes_N > 0)
    return Grouping("frequency in training", tuple(FREQUENCIES), index_N.masked_fill(unseen_N, 0))


def breakdown(loss_N: Tensor, bits_N: Tensor, groupings: Iterable[Grouping]) -> Iterator[dict[str, Any]]:
    """Yield a row for each group that occurs: its share of the characters, their mean loss, their share of all bits."""
    for name, groups, index_N in groupings:
        totals = torch.zeros(3, len(groups), dtype=torch.float64)
        for total, values_N in zip(totals, (torch.ones_like(bits_N), loss_N.double(), bits_N), strict=True):
            total.index_add_(0, index_N, values_N)
        for group, count, loss, bits in zip(groups, *totals.tolist(), strict=True):
            if count:
                yield {"by": name, "group": group, "characters": int(count), "share": count / len(index_N),
                       "nats_per_character": loss / count, "loss_share": bits / float(bits_N.sum())}
