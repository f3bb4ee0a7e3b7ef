"""Distances of texts against scipy and brute force; leaks are found to the character."""

from __future__ import annotations

import gzip
import math
import random

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.feature_extraction.text import CountVectorizer

from nanogpt.text.corpus import Corpus
from nanogpt.text.overlap import (
    COMPRESSORS,
    DENSITY,
    NEAR_SPAN,
    PASSAGE,
    compressed_bits_per_byte,
    compression_distance,
    copied_passages,
    shared_spans,
    trigram_divergence,
    vocabulary_overlap,
)


def test_trigram_divergence_is_scipys(corpora: dict[str, Corpus]) -> None:
    first, second = (corpora[name].train.text[:5000] for name in ("shakespeare", "math"))
    counts = CountVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False).fit_transform(
        [first.replace("\n", "¶").replace("  ", " ¤"), second.replace("\n", "¶").replace("  ", " ¤")]).toarray()
    expected = jensenshannon(counts[0], counts[1], base=2) ** 2
    divergence = trigram_divergence(*(text.replace("\n", "¶").replace("  ", " ¤") for text in (first, second)))
    assert divergence == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [trigram_divergence, compression_distance])
def test_a_text_is_nearest_to_itself_and_to_its_own_domain(corpora: dict[str, Corpus], distance) -> None:
    own = corpora["shakespeare"].train.text
    half, other_half, far = own[:15_000], own[15_000:30_000], corpora["math"].train.text[:15_000]
    assert distance(half, half) < distance(half, other_half) < distance(half, far) <= 1.05
    assert distance(half, far) == pytest.approx(distance(far, half), rel=0.02)


def test_extremes() -> None:
    assert vocabulary_overlap("ab", "bc") == 1 / 3 and vocabulary_overlap("", "") == 1
    assert trigram_divergence("aaaa", "bbbb") == 1 and trigram_divergence("", "") == 0


def test_a_compressor_learns_from_the_training_text() -> None:
    noise = "".join(random.Random(0).choices("abcdefghijklmnop", k=4000))
    for compress in COMPRESSORS.values():
        assert 4 <= compressed_bits_per_byte("", noise, compress) < 5, "16 letters cost 4 bits each"
        assert compressed_bits_per_byte(noise, noise, compress) < 1
    assert math.isnan(compressed_bits_per_byte("abc", "", gzip.compress))


def test_leaked_characters_are_those_of_shared_substrings() -> None:
    rng = random.Random(1)
    training = "".join(rng.choices("abcd", k=3000))
    test = "".join(rng.choices("abcd", k=200)) + training[700:760] + "x" + training[100:149] + training[:51]
    spans = {training[i:i + 50] for i in range(len(training) - 49)}
    expected = np.zeros(len(test), bool)
    for i in range(len(test) - 49):
        if test[i:i + 50] in spans:
            expected[i:i + 50] = True
    shared_N, again = shared_spans(training, [test, training])
    assert again.all()
    assert shared_N.tolist() == expected.tolist() and 110 <= shared_N.sum() <= 114


def test_short_texts_share_nothing() -> None:
    for training, test in (("a" * 49, "a" * 80), ("a" * 80, "a" * 49), ("", "")):
        (shared_N,) = shared_spans(training, [test])
        assert len(shared_N) == len(test) and not shared_N.any()


def read(text: str) -> list[tuple[str, int]]:
    """Letters and digits without case, one space between words, each with its place."""
    kept: list[tuple[str, int]] = []
    for place, character in enumerate(text):
        if character.isalnum():
            kept.append((character.casefold()[0], place))
        elif character.isspace() and (not kept or kept[-1][0] != " "):
            kept.append((" ", place))
    return kept


def passages_of(training: str, test: str) -> list[bool]:
    """What `copied_passages` says of a test, from a set of spans and the definition of a passage."""
    known, kept = "".join(character for character, _ in read(training)), read(test)
    spans = {known[i:i + NEAR_SPAN] for i in range(len(known) - NEAR_SPAN + 1)}
    shared, copied = [False] * len(test), [False] * len(test)
    for i in range(len(kept) - NEAR_SPAN + 1):
        if "".join(character for character, _ in kept[i:i + NEAR_SPAN]) in spans:
            for place in range(kept[i][1], kept[i + NEAR_SPAN - 1][1] + 1):
                shared[place] = True
    window = min(PASSAGE, len(test))
    for i in range(len(test) - window + 1):
        if sum(shared[i:i + window]) >= DENSITY * window:
            copied[i:i + window] = shared[i:i + window]
    return copied


def test_copied_passages_are_those_of_sets_and_loops() -> None:
    found = 0
    for seed in range(8):
        rng = random.Random(seed)
        training = "".join(rng.choices("abCD ,\n", k=1500))
        copy = "".join(rng.choice("xy") if rng.random() < seed / 200 else character for character in training[300:900])
        test = "".join(rng.choices("abcdß漢𝔸 .", k=250)) + copy.upper() + training[1100:1160] + "".join(
            rng.choices("abcd ", k=250))
        for text in (test, test[200:300], test[260:400]):
            (copied_N,) = copied_passages(training, [text])
            assert copied_N.tolist() == passages_of(training, text)
            found += int(copied_N.sum())
    assert found > 3000, "not for want of copies"


def test_a_copy_is_found_where_it_stands_in_the_text_as_it_is() -> None:
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(300)]
    passage = " ".join(words[100:180])
    copy = passage.upper().replace(" ", " –\n\t ")
    before, after = "ИКЛ, ß𝔸мно! " * 70 + "й", "ъ: " + "пр ст. " * 70
    copied_N, other_N = copied_passages(" ".join(words), [before + copy + after, before + after])
    assert copied_N.nonzero().flatten().tolist() == list(range(len(before), len(before) + len(copy)))
    assert not other_N.any()


def test_a_phrase_alone_is_no_passage_unless_it_is_half_of_the_text() -> None:
    rng = random.Random(3)
    training, other = ("".join(rng.choices("abcdefgh ", k=2000)) for _ in range(2))
    phrase = training[500:600]
    alone_N, whole_N = copied_passages(training, [other[:1000] + phrase + other[1000:], phrase])
    assert not alone_N.any() and whole_N.all()


def test_texts_without_letters_or_nearly_empty_hold_no_passage() -> None:
    for training, test in (("", ""), ("", "abc " * 50), ("abc " * 50, ""), ("ab" * 40, "ab" * 15),
                           ("ab" * 15, "ab" * 40), ("?!" * 200, "?!" * 200)):
        (copied_N,) = copied_passages(training, [test])
        assert len(copied_N) == len(test) and not copied_N.any()
