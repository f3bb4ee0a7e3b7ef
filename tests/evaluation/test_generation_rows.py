"""What was written is measured on the written characters alone, and copies are found."""

from __future__ import annotations

import pytest

from nanogpt.evaluation.evaluate import read
from nanogpt.evaluation.generations import writing_rows
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus, make_split


def test_rows_say_who_finds_a_text_likely_what_is_copied_and_how_it_reads(trained: Checkpoint,
                                                                          corpora: dict[str, Corpus]) -> None:
    key = {"step": trained.step, "stage": "final", "prompt_domain": "math", "prompt": "Let x be", "temperature": 0.8,
           "seed": 1}
    copied, own = (corpora[name].train.text[9000:9080] for name in ("shakespeare", "wikipedia"))
    generations = [key | {"source": "shakespeare", "text": copied}, key | {"source": "wikipedia", "text": own},
                   key | {"source": "elsewhere", "text": "zq" * 40}]
    model = trained.build()
    first, second, third = writing_rows(generations, [(model, trained)], corpora, 80)
    losses_N = read(model, make_split(key["prompt"] + copied, trained.vocabulary)).loss_N[len(key["prompt"]):]
    assert first["nats_under_shakespeare"] == pytest.approx(float(losses_N.mean()), rel=1e-4)
    assert first["copied_share"] == 1 and second["copied_share"] == 1 and third["copied_share"] != third["copied_share"]
    assert first["entropy_first_half_nats"] > 0 and second["entropy_first_half_nats"] is None
    assert (first["written_domain"], second["written_domain"]) == ("shakespeare", "wikipedia")
    assert third["distinct_share"] == 2 / 78 and third["repeated_share"] == 1 - 2 / 73
    assert 0.8 < first["classifier_accuracy"] <= 1 and "text" not in first
