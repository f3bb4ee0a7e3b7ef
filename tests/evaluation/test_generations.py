"""Texts in a batch are scored as each by itself; variety by hand; the classifier tells real domains apart; what was
written is measured on the written characters alone, and copies are found.
"""

from __future__ import annotations

import pytest
import torch

from nanogpt.evaluation.evaluate import score_split
from nanogpt.evaluation.generations import (
    distinct_share,
    fit_classifier,
    labelled_passages,
    repeated_share,
    score_texts,
    writing_rows,
)
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus, make_split
from nanogpt.text.vocabulary import Vocabulary


def test_a_batch_of_texts_is_scored_as_each_by_itself(trained: Checkpoint) -> None:
    model, texts = trained.build(), ["To be", "or not to be, that is the question: whether 'tis nobler", "q"]
    assert len(texts[1]) > model.config.block_size
    for text, loss_T, entropy_T in zip(texts, *score_texts(model, trained.vocabulary, texts), strict=True):
        alone = score_split(model, make_split(text, trained.vocabulary))
        torch.testing.assert_close(loss_T, alone.loss_N, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy_T, alone.entropy_N, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "distinct"), [("abcabc", 3 / 4), ("aaaaaa", 1 / 4), ("ab", 1.0), ("abcdef", 1.0)])
def test_variety(text: str, distinct: float) -> None:
    assert distinct_share(text) == distinct
    assert repeated_share(text, 3) == 1 - distinct


def test_the_classifier_tells_held_out_passages_apart(corpora: dict[str, Corpus]) -> None:
    classifier = fit_classifier(corpora, 100)
    assert classifier.accuracy > 0.9
    tests = {name: corpus.test for name, corpus in corpora.items()}
    passages, names = labelled_passages(tests, 100, 15)
    guesses = classifier.domains_of(passages)
    assert sum(a == b for a, b in zip(guesses, names, strict=True)) / len(names) > 0.85
    assert classifier.domains_of([]) == []


def test_passages_do_not_overlap_and_cover_the_text() -> None:
    vocabulary = Vocabulary("0123456789")
    splits = {name: make_split(text, vocabulary) for name, text in (("a", "0123456789"), ("b", "xy"))}
    passages, names = labelled_passages(splits, 3, 2)
    assert passages == ["012", "567", "xy"] and names == ["a", "a", "b"]


def test_rows_say_who_finds_a_text_likely_what_is_copied_and_how_it_reads(trained: Checkpoint,
                                                                          corpora: dict[str, Corpus]) -> None:
    key = {"training_seed": trained.notes["seed"], "step": trained.step, "stage": "final", "prompt_domain": "math",
           "prompt": "Let x be", "temperature": 0.8, "seed": 1}
    copied, own = (corpora[name].train.text[9000:9080] for name in ("shakespeare", "wikipedia"))
    generations = [key | {"source": "shakespeare", "text": copied}, key | {"source": "wikipedia", "text": own},
                   key | {"source": "elsewhere", "text": "zq" * 40}]
    model = trained.build()
    first, second, third = writing_rows(generations, [(model, trained)], corpora, 80)
    losses_N = score_split(model, make_split(key["prompt"] + copied, trained.vocabulary)).loss_N[len(key["prompt"]):]
    assert first["nats_under_shakespeare"] == pytest.approx(float(losses_N.mean()), rel=1e-4)
    assert first["copied_share"] == 1 and second["copied_share"] == 1 and third["copied_share"] != third["copied_share"]
    assert first["entropy_first_half_nats"] > 0 and second["entropy_first_half_nats"] is None
    assert (first["written_domain"], second["written_domain"]) == ("shakespeare", "wikipedia")
    assert third["distinct_share"] == 2 / 78 and third["repeated_share"] == 1 - 2 / 73
    assert 0.8 < first["classifier_accuracy"] <= 1 and "text" not in first and first.items() >= key.items()
