"""How far apart two texts are, without a model; what a compressor makes of them; and whether a test text leaked.

Shape suffixes: N characters of a text.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

SPAN = 50
"""Characters of a span that two texts share only if one was copied from the other or both from a third."""
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": lzma.compress}
Compressor = Callable[[bytes], bytes]


def vocabulary_overlap(first: str, second: str) -> float:
    """Return characters of both over characters of either (Jaccard), in [0, 1]; 1 for two empty texts."""
    either = set(first) | set(second)
    return len(set(first) & set(second)) / len(either) if either else 1.0


def trigram_divergence(first: str, second: str) -> float:
    """Return the Jensen–Shannon divergence of the trigrams of two texts, bits, in [0, 1] (Lin 1991)."""
    p, q = (Counter(zip(text, text[1:], text[2:], strict=False)) for text in (first, second))
    total_p, total_q, divergence = max(1, p.total()), max(1, q.total()), 0.0
    for trigram in p.keys() | q.keys():
        a, b = p[trigram] / total_p, q[trigram] / total_q
        divergence += sum(x * math.log2(2 * x / (a + b)) for x in (a, b) if x) / 2
    return divergence


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


def shared_spans(training: str, tests: Iterable[str], length: int = SPAN) -> Iterator[Tensor]:
    """Say of each test which of its characters lie in a span of `length` that `training` holds too, booleans (N,).

    Spans are compared by a polynomial modulo 2**64, so a false alarm has a chance of about N² / 2**64.
    """
    known = span_hashes(training, length).sort().values
    for test in tests:
        covered_N = torch.zeros(len(test), dtype=torch.bool)
        hashes = span_hashes(test, length)
        place = torch.searchsorted(known, hashes).clamp(max=len(known) - 1)
        for begin in (known[place] == hashes).nonzero().flatten().tolist() if len(known) else ():
            covered_N[begin:begin + length] = True
        yield covered_N


def span_hashes(text: str, length: int) -> Tensor:
    """Return a number for each span of `length` characters, equal for equal spans."""
    code_N = torch.tensor(list(map(ord, text)), dtype=torch.int64)
    hashes = torch.zeros(max(0, len(text) - length + 1), dtype=torch.int64)
    for offset in range(length):
        hashes = hashes * 0x5851F42D4C957F2D + code_N[offset:offset + len(hashes)]
    return hashes
