"""Everything that a study asks of a model about each domain's text, as tidy rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from nanogpt.config import Config, Row
from nanogpt.evaluation.baselines import ORDER
from nanogpt.evaluation.breakdown import Grouping, breakdown, frequency_grouping, text_groupings
from nanogpt.evaluation.calibration import fit_temperature, reliability
from nanogpt.evaluation.comparison import bits_interval
from nanogpt.evaluation.evaluate import Evaluation, evaluate, read_logits
from nanogpt.evaluation.ngram import NGram, divergences, fit_ngram
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split


@dataclass(frozen=True)
class Material:
    """What all models are asked to read, by domain."""

    tests: Mapping[str, Split]
    tuning: Mapping[str, Split]                     # where temperatures are fitted, from the validation text
    groupings: Mapping[str, list[Grouping]]
    ngrams: Mapping[str, NGram]


def gather(corpora: Mapping[str, Corpus], config: Config) -> Material:
    tests = {name: corpus.test.head(config.analysis.eval_characters) for name, corpus in corpora.items()}
    return Material(tests, {name: corpus.validation.head(config.analysis.temperature_characters)
                            for name, corpus in corpora.items()},
                    {name: text_groupings(split, config.model.block_size) for name, split in tests.items()},
                    {name: fit_ngram(corpus.train, ORDER) for name, corpus in corpora.items()})


@dataclass(frozen=True)
class Reading:
    """What one model does on one text: its row of the zero-shot table, and those of details."""

    row: Row
    breakdown: list[Row]
    reliability: list[Row]
    bits_N: Tensor


def readings(model: GPT, checkpoint: Checkpoint, material: Material, source: Row) -> Iterator[Reading]:
    """One for each text. The temperature is fitted on validation; all else is test."""
    for target, split in material.tests.items():
        tuning, who = material.tuning[target], source | {"target": target}
        logits_NV = read_logits(model, tuning)
        result = evaluate(model, checkpoint, split, fit_temperature(logits_NV, tuning.ids_N))
        row = who | result.row() | bits_interval(result.bits_N, split)
        if checkpoint.domain in material.ngrams:
            row |= divergences(logits_NV, tuning, material.ngrams[checkpoint.domain])
        groupings = [*material.groupings[target], frequency_grouping(split, checkpoint.character_counts_V)]
        yield Reading(row, [who | found for found in breakdown(result.scores.loss_N, result.bits_N, groupings)],
                      [who | found for found in reliability_rows(result)], result.bits_N)


def reliability_rows(result: Evaluation) -> Iterator[Row]:
    """A row for each bin of confidence that holds a prediction."""
    found = reliability(result.scores.confidence_N, result.scores.correct_N)
    for number, (count, confidence, accuracy) in enumerate(zip(*(column.tolist() for column in found), strict=True)):
        if count:
            yield {"bin": number + 1, "characters": int(count), "confidence": confidence, "accuracy": accuracy}
