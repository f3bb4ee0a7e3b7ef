"""The rows of the tables: those of one evaluation, and details that add up to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanogpt.config import Config
from nanogpt.evaluation.baselines import HIGHEST_ORDER
from nanogpt.evaluation.comparison import bits_interval
from nanogpt.evaluation.evaluate import evaluate, window_logits
from nanogpt.evaluation.rows import score_domains, scored_texts
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus


def with_sample(config: Config) -> Config:
    """So that a sample is less than the whole."""
    return replace(config, analysis=replace(config.analysis, eval_characters=600, temperature_characters=500))


@pytest.mark.parametrize("whole", [True, False])
def test_the_rows_of_a_domain_are_its_evaluation(trained: Checkpoint, corpora: dict[str, Corpus], tiny_config: Config,
                                                 whole: bool) -> None:
    texts, model = scored_texts(corpora, with_sample(tiny_config)), trained.build()
    by_target = {scores.row["target"]: scores
                 for scores in score_domains(model, trained, texts, {"stage": "final"}, whole=whole)}
    assert by_target.keys() == corpora.keys()
    for target, scores in by_target.items():
        split, row = texts.tests(whole=whole)[target], scores.row
        result = evaluate(model, trained, split, row["temperature"])
        assert {name: row[name] for name in result.row()} == pytest.approx(result.row(), nan_ok=True)
        assert row["bits_per_byte_low"] < row["bits_per_byte"] < row["bits_per_byte_high"]
        assert bits_interval(result.bits_N, split)["bits_per_byte_low"] == pytest.approx(row["bits_per_byte_low"])
        assert row["bigram_divergence_nats"] > 0 and row["tempered_nats"] > 0
        assert sum(part["characters"] for part in scores.reliability) == len(split)
        error = sum(part["characters"] * abs(part["confidence"] - part["accuracy"]) for part in scores.reliability)
        assert error / len(split) == pytest.approx(row["calibration_error"])


def test_details_carry_the_key_of_their_model_and_text(trained: Checkpoint, corpora: dict[str, Corpus],
                                                       tiny_config: Config) -> None:
    source = {"source": "shakespeare", "step": 48, "stage": "final"}
    texts, model = scored_texts(corpora, tiny_config), trained.build()
    for scores in score_domains(model, trained, texts, source, whole=False):
        for row in (scores.row, *scores.breakdown, *scores.reliability):
            assert row.items() >= (source | {"target": scores.row["target"]}).items()
        by_grouping = {row["by"] for row in scores.breakdown}
        assert len(by_grouping) == 4
        for by in by_grouping:
            rows = [row for row in scores.breakdown if row["by"] == by]
            assert sum(row["loss_share"] for row in rows) == pytest.approx(1)
            assert sum(row["share"] for row in rows) == pytest.approx(1)
            nats = sum(row["characters"] * row["nats_per_character"] for row in rows)
            if by == "characters read before":      # of the validation text, all targets of its windows
                nats_N = window_logits(model, texts.temperature_texts[scores.row["target"]]).nats_N
                assert nats == pytest.approx(float(nats_N.double().sum()))
                assert sum(row["characters"] for row in rows) == len(nats_N)
            else:
                assert nats == pytest.approx(scores.row["nats_per_character"] * scores.row["n_characters"])
        assert scores.bits_N.sum() / scores.row["n_bytes"] == pytest.approx(scores.row["bits_per_byte"])


def test_divergences_need_the_ngrams_of_the_own_training_text(trained: Checkpoint, corpora: dict[str, Corpus],
                                                              tiny_config: Config) -> None:
    others = {name: corpus for name, corpus in corpora.items() if name != trained.domain}
    for scores in score_domains(trained.build(), trained, scored_texts(others, tiny_config), {}, whole=False):
        assert not any(name.endswith("divergence_nats") for name in scores.row)


def test_texts_are_the_parts_that_the_configuration_asks_for(corpora: dict[str, Corpus], tiny_config: Config) -> None:
    config = with_sample(tiny_config)
    texts, analysis = scored_texts(corpora, config), config.analysis
    for name, corpus in corpora.items():
        assert texts.tests(whole=True)[name] is texts.whole[name].split is corpus.test
        assert texts.tests(whole=False)[name].text == corpus.test.spread(analysis.eval_characters).text
        assert len(texts.sample[name].split) < len(corpus.test)
        assert texts.temperature_texts[name].text == corpus.validation.spread(analysis.temperature_characters).text
        assert len(texts.ngrams[name].by_length) == HIGHEST_ORDER
        for text in (texts.whole[name], texts.sample[name]):
            assert all(len(grouping.index_N) == len(text.split) for grouping in text.groupings)
    everything = replace(config, analysis=replace(analysis, eval_characters=0))
    assert all(text.split is corpora[name].test for name, text in scored_texts(corpora, everything).sample.items())
