"""What a study records of a model on each domain's text, as tidy rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from nanogpt.config import Config, Row
from nanogpt.evaluation.baselines import HIGHEST_ORDER
from nanogpt.evaluation.breakdown import Grouping, breakdown, frequency_grouping, text_groupings
from nanogpt.evaluation.calibration import fit_temperature, reliability
from nanogpt.evaluation.comparison import bits_interval
from nanogpt.evaluation.evaluate import Evaluation, evaluate, split_logits
from nanogpt.evaluation.ngram import NGram, divergences, fit_ngram
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split


@dataclass(frozen=True)
class ScoredTexts:
    """The texts that every model is scored on, and what does not depend on the model, by domain."""

    tests: Mapping[str, Split]
    temperature_texts: Mapping[str, Split]      # where temperatures are fitted, from the validation text
    groupings: Mapping[str, list[Grouping]]     # of the characters of the test text
    ngrams: Mapping[str, NGram]                 # counted in the training text


def scored_texts(corpora: Mapping[str, Corpus], config: Config) -> ScoredTexts:
    """Prepare the texts of all domains, once for all models."""
    tests = {name: corpus.test.head(config.analysis.eval_characters) for name, corpus in corpora.items()}
    return ScoredTexts(
        tests,
        {name: corpus.validation.head(config.analysis.temperature_characters) for name, corpus in corpora.items()},
        {name: text_groupings(split, config.model.block_size) for name, split in tests.items()},
        {name: fit_ngram(corpus.train, HIGHEST_ORDER) for name, corpus in corpora.items()})


@dataclass(frozen=True)
class DomainScores:
    """What one model does on one domain's text: its row of the zero-shot table, and those of the details."""

    row: Row
    breakdown: list[Row]
    reliability: list[Row]
    bits_N: Tensor          # of each character, with its escape bits


def score_domains(model: GPT, checkpoint: Checkpoint, texts: ScoredTexts, source: Row) -> Iterator[DomainScores]:
    """Yield the scores on each domain's text; `source` are the columns that name the model.

    The temperature and the divergences from n-grams are those of the validation text; all else is test.
    """
    for target, split in texts.tests.items():
        temperature_text, key = texts.temperature_texts[target], source | {"target": target}
        logits_NV = split_logits(model, temperature_text)
        result = evaluate(model, checkpoint, split, fit_temperature(logits_NV, temperature_text.ids_N))
        row = key | result.row() | bits_interval(result.bits_N, split)
        if checkpoint.domain in texts.ngrams:
            row |= divergences(logits_NV, temperature_text, texts.ngrams[checkpoint.domain])
        groupings = [*texts.groupings[target], frequency_grouping(split, checkpoint.character_counts_V)]
        yield DomainScores(
            row, [key | group for group in breakdown(result.scores.loss_N, result.bits_N, groupings)],
            [key | bin_row for bin_row in reliability_rows(result)], result.bits_N)


def reliability_rows(result: Evaluation) -> Iterator[Row]:
    """Yield a row for each bin of confidence that holds a prediction."""
    bins = reliability(result.scores.confidence_N, result.scores.correct_N)
    for number, (count, confidence, accuracy) in enumerate(zip(*(column.tolist() for column in bins), strict=True)):
        if count:
            yield {"bin": number + 1, "characters": int(count), "confidence": confidence, "accuracy": accuracy}
