"""What a study records of a model on each domain's text, as tidy rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from nanogpt.config import Config, Row
from nanogpt.evaluation.baselines import HIGHEST_ORDER, MOST_READ
from nanogpt.evaluation.breakdown import Grouping, breakdown, context_grouping, frequency_grouping, text_groupings
from nanogpt.evaluation.calibration import fit_temperature, reliability
from nanogpt.evaluation.comparison import bits_interval
from nanogpt.evaluation.evaluate import Evaluation, WindowLogits, evaluate, window_logits
from nanogpt.evaluation.metrics import bits
from nanogpt.evaluation.ngram import NGram, divergences, fit_ngram
from nanogpt.model.allocator import return_freed_memory
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus, Split


@dataclass(frozen=True)
class ScoredText:
    """A text that models are scored on, and what does not depend on the model."""

    split: Split
    groupings: list[Grouping]


@dataclass(frozen=True)
class ScoredTexts:
    """The texts that every model is scored on, by domain."""

    whole: Mapping[str, ScoredText]             # the test splits
    sample: Mapping[str, ScoredText]            # as many characters of them as the configuration says, from everywhere
    temperature_texts: Mapping[str, Split]      # where temperatures are fitted, from the validation splits
    ngrams: Mapping[str, NGram]                 # counted in the training splits

    def tests(self, *, whole: bool) -> dict[str, Split]:
        return {name: text.split for name, text in (self.whole if whole else self.sample).items()}


def scored_texts(corpora: Mapping[str, Corpus], config: Config) -> ScoredTexts:
    """Prepare the texts of all domains, once for all models."""
    analysis = config.analysis
    whole = {name: ScoredText(corpus.test, text_groupings(corpus.test)) for name, corpus in corpora.items()}
    samples = {name: corpus.test.spread(analysis.eval_characters) for name, corpus in corpora.items()}
    texts = ScoredTexts(
        whole,
        {name: whole[name] if split is whole[name].split else ScoredText(split, text_groupings(split))
         for name, split in samples.items()},
        {name: corpus.validation.spread(analysis.temperature_characters) for name, corpus in corpora.items()},
        {name: fit_ngram(corpus.train.spread(MOST_READ), HIGHEST_ORDER) for name, corpus in corpora.items()})
    return_freed_memory()
    return texts


@dataclass(frozen=True)
class DomainScores:
    """What one model does on one domain's text: its row of the zero-shot table, and those of the details."""

    row: Row
    breakdown: list[Row]
    reliability: list[Row]
    bits_N: Tensor          # of each character, with its escape bits


def score_domains(model: GPT, checkpoint: Checkpoint, texts: ScoredTexts, source: Row, *,
                  whole: bool, details: bool = True) -> Iterator[DomainScores]:
    """Yield the scores on each domain's text, in full or on the sample; `source` are the columns that name the model.

    Without `details` there are no rows of breakdown and reliability. The temperature and the divergences from n-grams
    are those of the validation text; all else is test.
    """
    for target, text in (texts.whole if whole else texts.sample).items():
        split, temperature_text = text.split, texts.temperature_texts[target]
        key = source | {"target": target}
        predictions = window_logits(model, temperature_text)
        logits_NV = predictions.scored_logits_NV
        result = evaluate(model, checkpoint, split, fit_temperature(logits_NV, temperature_text.ids_N.long()))
        row = key | result.row() | bits_interval(result.bits_N, split)
        if checkpoint.domain in texts.ngrams:
            row |= divergences(logits_NV, temperature_text, texts.ngrams[checkpoint.domain])
        scores = DomainScores(row, [], [], result.bits_N)
        if details:
            groupings = [*text.groupings, frequency_grouping(split, checkpoint.character_counts_V)]
            parts = [*breakdown(result.scores.loss_N, result.bits_N, groupings),
                     *by_context(predictions, model.config.block_size)]
            scores.breakdown.extend(key | part for part in parts)
            scores.reliability.extend(key | bin_row for bin_row in reliability_rows(result))
        yield scores


def by_context(predictions: WindowLogits, block_size: int) -> Iterator[Row]:
    """Yield the loss by how many characters were read before, of all targets of the windows: few before, many before.

    What is scored has always many before it where the text has.
    """
    nats_N = predictions.nats_N
    return breakdown(nats_N, bits(1.0) * nats_N.double(), [context_grouping(predictions.before_N, block_size)])


def reliability_rows(result: Evaluation) -> Iterator[Row]:
    """Yield a row for each bin of confidence that holds a prediction."""
    bins = reliability(result.scores.confidence_N, result.scores.correct_N)
    for number, (count, confidence, accuracy) in enumerate(zip(*(column.tolist() for column in bins), strict=True)):
        if count:
            yield {"bin": number + 1, "characters": int(count), "confidence": confidence, "accuracy": accuracy}
