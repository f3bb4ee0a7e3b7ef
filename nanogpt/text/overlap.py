"""How far apart two texts are, without a model; what a compressor makes of them; and whether a test text leaked.

Shape suffixes: N characters of a text, K those of them that are compared.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogpt.text.vocabulary import code_points

SPAN = 50
"""Characters of a span that two texts share only if one was copied from the other or both from a third."""
NEAR_SPAN, PASSAGE, DENSITY = 32, 300, 0.5
"""A passage is copied where, of PASSAGE characters, at least the share DENSITY lies in shared spans of NEAR_SPAN
letters, digits and spaces. Chosen by measurement: shorter spans are common phrases, and too few of the longer ones
survive a change of one character in 40."""
PART, PARTS_SHARE = 2_000_000, 5_000
"""Characters of a training text that are read at once, and those that are read again, in which a span lies whole."""
MOST_COMPARED = 200_000_000
"""Characters of a training text that are compared; of a longer one so many, in pieces evenly spread over it."""
SIEVE_BITS = 24
BASE = 0x5851F42D4C957F2D
SPACE = ord(" ")
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": lzma.compress}
Compressor = Callable[[bytes], bytes]


class Reading(NamedTuple):
    """What of a text is compared: a code for each character that is kept, and its place in the text."""

    code_K: Tensor
    place_K: Tensor


def vocabulary_overlap(first: str, second: str) -> float:
    """Return characters of both over characters of either (Jaccard), in [0, 1]; 1 for two empty texts."""
    either = set(first) | set(second)
    return len(set(first) & set(second)) / len(either) if either else 1.0


def trigram_divergence(first: str, second: str) -> float:
    """Return the Jensen–Shannon divergence of the trigrams of two texts, bits, in [0, 1] (Lin 1991).

    The terms stand in a set, whose order is another one in each process: `fsum` gives the same sum in any order.
    """
    p, q = (Counter(zip(text, text[1:], text[2:], strict=False)) for text in (first, second))
    total_p, total_q = max(1, p.total()), max(1, q.total())
    shares = [(p[trigram] / total_p, q[trigram] / total_q) for trigram in p.keys() | q.keys()]
    return math.fsum(x * math.log2(2 * x / (a + b)) / 2 for a, b in shares for x in (a, b) if x)


def compression_distance(first: str, second: str, compress: Compressor = lzma.compress) -> float:
    """Return the normalised compression distance (Cilibrasi & Vitányi 2005), near 0 for equal texts, 1 for others."""
    alone = sorted(len(compress(text.encode())) for text in (first, second))
    return (len(compress((first + second).encode())) - alone[0]) / max(1, alone[1])


def compressed_bits_per_byte(training: str, test: str, compress: Compressor) -> float:
    """Return what `test` adds to the compressed `training`, in bits for each of its UTF-8 bytes; nan without test."""
    if not test:
        return math.nan
    with ThreadPoolExecutor(2) as pool:     # the compressors let go of the interpreter
        without, together = pool.map(compress, (training.encode(), (training + test).encode()))
    return 8 * (len(together) - len(without)) / len(test.encode())


def every_character(text: str) -> Reading:
    """Read all characters as they are."""
    code_N = torch.from_numpy(code_points(text).astype(np.int64))
    return Reading(code_N, torch.arange(len(code_N)))


def folded(text: str) -> Reading:
    """Read letters and digits without their case, and one space for what lies between words; no punctuation."""
    code_N = every_character(text).code_K
    characters = set(text)
    kept = torch.zeros(max(map(ord, characters), default=0) + 1, dtype=torch.int64)
    for character in characters:
        if character.isalnum() or character.isspace():
            kept[ord(character)] = ord(character.casefold()[0]) if character.isalnum() else SPACE
    place_K = kept[code_N].nonzero().flatten()
    code_K = kept[code_N[place_K]]
    again_K = torch.zeros(len(code_K), dtype=torch.bool)
    again_K[1:] = (code_K[1:] == SPACE) & (code_K[:-1] == SPACE)
    return Reading(code_K[~again_K], place_K[~again_K])


def shared_spans(training: str | Iterable[str], tests: Iterable[str], length: int = SPAN,
                 read: Callable[[str], Reading] = every_character) -> Iterator[Tensor]:
    """Say of each test which of its characters lie in a span of `length` that `training` holds too, booleans (N,).

    Spans are `length` of the characters that `read` keeps, and cover what lies between them. They are compared by a
    polynomial modulo 2**64, so a false alarm has a chance of about N² / 2**64. `training` is a text, or the
    stretches of one in their order; a long one is read part by part.
    """
    tests = list(tests)
    readings = [read(test) for test in tests]
    hashes = [span_hashes(reading.code_K, length) for reading in readings]
    asked, place = torch.cat([torch.empty(0, dtype=torch.int64), *hashes]).unique(return_inverse=True)
    likely, found = torch.zeros(2**SIEVE_BITS, dtype=torch.bool), torch.zeros(len(asked), dtype=torch.bool)
    likely[asked % 2**SIEVE_BITS] = True        # most spans of the training text need not be looked for
    for part in parts_of([training] if isinstance(training, str) else training):
        known = span_hashes(read(part).code_K, length)
        known = known[likely[known % 2**SIEVE_BITS]]
        at = torch.searchsorted(asked, known).clamp(max=len(asked) - 1)
        found[at[asked[at] == known]] = True
    for test, (_, place_K), seen in zip(tests, readings, found[place].split(list(map(len, hashes))), strict=True):
        first = seen.nonzero().flatten()
        yield covered(place_K[first], place_K[first + length - 1] + 1, len(test))


def parts_of(stretches: Iterable[str]) -> Iterator[str]:
    """Give a text in parts of PART characters or more, each with the last PARTS_SHARE of the part before it."""
    held, new = list[str](), 0
    for stretch in stretches:
        held.append(stretch)
        new += len(stretch)
        if new >= PART:
            yield (part := "".join(held))
            held, new = [part[-PARTS_SHARE:]], 0
    if new:
        yield "".join(held)


def copied_passages(training: str | Iterable[str], tests: Iterable[str]) -> Iterator[Tensor]:
    """Say of each test which of its characters are copied from `training` in a passage, booleans (N,).

    White space, case and punctuation do not matter, and a letter may differ here and there: such a copy still holds
    many short spans of `training`, close together. Those of a common phrase stand alone and do not count.
    """
    for shared_N in shared_spans(training, tests, NEAR_SPAN, folded):
        window = min(PASSAGE, len(shared_N))
        sums = torch.cat((shared_N.new_zeros(1, dtype=torch.int64), shared_N.cumsum(0)))
        first = (sums[window:] - sums[:len(sums) - window] >= window * DENSITY).nonzero().flatten()
        yield shared_N & covered(first, first + window, len(shared_N))


def covered(first: Tensor, end: Tensor, length: int) -> Tensor:
    """Say which of `length` places lie in one of the ranges from `first` to before `end`, booleans (N,)."""
    steps = torch.zeros(length + 1, dtype=torch.int64)
    steps.index_add_(0, first, torch.ones_like(first)).index_add_(0, end, -torch.ones_like(end))
    return steps[:-1].cumsum(0) > 0


def span_hashes(code_K: Tensor, length: int) -> Tensor:
    """Return a number for each span of `length` codes, equal for equal spans.

    It is a polynomial with the codes as coefficients, put together from those of spans of 1, 2, 4, … codes.
    """
    count = max(0, len(code_K) - length + 1)
    hashes, done = torch.zeros(count, dtype=torch.int64), 0
    doubled, size, power = code_K, 1, BASE          # power: BASE to the `size`, modulo 2**64
    while count and done < length:
        if length & size:
            hashes = hashes * power + doubled[done:done + count]
            done += size
        doubled = doubled[:-size] * power + doubled[size:]
        size, power = 2 * size, signed(power * power)
    return hashes


def signed(number: int) -> int:
    """Return what is left of an integer in 64 bits with a sign."""
    return (number + 2**63) % 2**64 - 2**63
