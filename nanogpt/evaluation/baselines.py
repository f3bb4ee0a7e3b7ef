"""What a loss is to be compared with: models that only count, compressors, and each other.

Shape suffixes: N characters of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from torch import Tensor

from nanogpt.evaluation.metrics import code_bits
from nanogpt.evaluation.ngram import NGram, ngram_losses
from nanogpt.text.corpus import Corpus, Split
from nanogpt.text.overlap import (
    COMPRESSORS,
    MOST_COMPARED,
    SPAN,
    compressed_bits_per_byte,
    compression_distance,
    copied_passages,
    shared_spans,
    trigram_divergence,
    vocabulary_overlap,
)

HIGHEST_ORDER = 6
"""Characters of the longest n-grams that are counted."""
MOST_READ = 5_000_000
"""Characters of a longer training text that are counted (from everywhere in it) or compressed (its last ones):
xz itself looks back eight million, and counts take a hundred bytes for each."""
DISTANCE_CHARACTERS = 100_000
"""Of the training texts whose distance is measured."""
ORDER_NAMES = {0: "uniform", 1: "unigram", 2: "bigram"}


def counted_bits(ngram: NGram, split: Split) -> dict[str, Tensor]:
    """Return the bits (N,) of each character with its escape bits, by baseline: uniform, and each order of n-gram."""
    losses_by_order = ngram_losses(ngram, split)
    uniform_N = losses_by_order[0].new_full((len(split),), math.log(ngram.vocab_size))
    return {ORDER_NAMES.get(order, f"{order}-gram"): code_bits(loss_N, split.escape_bytes_N)
            for order, loss_N in enumerate((uniform_N, *losses_by_order))}


def baseline_rows(corpus: Corpus, test: Split, bits_by_baseline: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Yield the bits per byte of every baseline that has read the domain's training text, MOST_READ of it."""
    for name, bits_N in bits_by_baseline.items():
        yield {"target": corpus.name, "baseline": name, "bits_per_byte": float(bits_N.sum()) / test.n_bytes}
    training, text = corpus.train.characters(len(corpus.train) - MOST_READ, len(corpus.train)), test.text
    for name, compress in COMPRESSORS.items():
        yield {"target": corpus.name, "baseline": name,
               "bits_per_byte": compressed_bits_per_byte(training, text, compress)}


def distance_rows(corpora: Mapping[str, Corpus]) -> Iterator[dict[str, Any]]:
    """Yield how far apart the training texts of each two domains are."""
    for first, second in combinations(corpora, 2):
        first_text, second_text = (corpora[name].train.characters(0, DISTANCE_CHARACTERS) for name in (first, second))
        yield {"first": first, "second": second, "vocabulary_overlap": vocabulary_overlap(first_text, second_text),
               "trigram_divergence_bits": trigram_divergence(first_text, second_text),
               "compression_distance": compression_distance(first_text, second_text)}


def leakage_rows(corpora: Mapping[str, Corpus]) -> Iterator[dict[str, Any]]:
    """Yield how much of each test text a training text holds too: in exact spans, and with near copies of passages.

    Of a longer training text that is a sample of MOST_COMPARED characters: what is shared may then be more.
    """
    tests = {name: corpus.test.text for name, corpus in corpora.items()}
    for training, corpus in corpora.items():
        read = corpus.train.spread(MOST_COMPARED)
        both = zip(shared_spans(read.stretches(), tests.values()),
                   copied_passages(read.stretches(), tests.values()), strict=True)
        for (test, tested), (shared_N, passages_N) in zip(tests.items(), both, strict=True):
            copied_N = shared_N | passages_N
            yield {"training": training, "test": test, "training_characters": len(corpus.train),
                   "compared_characters": len(read),
                   "shared_characters": int(shared_N.sum()),
                   "shared_share": float(shared_N.double().mean()), "example": first_of(tested, shared_N),
                   "approximate_share": float(copied_N.double().mean()),
                   "approximate_example": first_of(tested, copied_N)}


def first_of(text: str, shared_N: Tensor) -> str:
    """Return the beginning of the first shared stretch of `text` and what follows; nothing where none is shared."""
    start = int(shared_N.int().argmax()) if shared_N.any() else len(text)
    return text[start:start + 2 * SPAN]
