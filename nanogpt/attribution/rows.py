"""Attribution over checkpoints and domains, as tidy rows: what is looked at, how that drifts, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import pandas as pd

from nanogpt.attribution.faithfulness import (
    REFERENCE_METHOD,
    SANITY_LIMIT,
    TOP_SHARES,
    Faithfulness,
    mean_rank_correlation,
    measure_faithfulness,
    method_agreement,
)
from nanogpt.attribution.maps import Attribution, attribute, summarize, tidy_columns, unit_rows
from nanogpt.config import ATTRIBUTION_BASELINES, AttributionConfig, Row
from nanogpt.evaluation.intervals import clustered_interval
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

Item = TypeVar("Item")
Prompts = Sequence[tuple[str, str]]
"""(domain, prompt) of each."""


@dataclass(frozen=True, eq=False)
class ModelAttributions:
    """One model's maps: of all prompts by the first method, and of the compared ones, if it has them, by every one."""

    model_row: Row                              # model, domain, step, stage: the columns that name the model
    attributions: list[Attribution]
    compared: dict[str, list[Attribution]]      # by method
    faithfulness: list[Faithfulness]


def attribute_prompts(model: GPT, checkpoint: Checkpoint, model_row: Row, prompts: Prompts, config: AttributionConfig,
                      *, compare: bool) -> ModelAttributions:
    """Return the maps of a model; with `compare` also those of every other method and their tests, on a few prompts."""
    texts = [prompt for _, prompt in prompts]
    attributions = attribute(model, checkpoint, texts, config.method_names[0], config)
    chosen = evenly_spread(attributions, config.compared_prompts) if compare else []
    if not chosen:
        return ModelAttributions(model_row, attributions, {}, [])
    compared = {chosen[0].method: chosen}
    for name in dict.fromkeys([*config.method_names[1:], REFERENCE_METHOD, *ATTRIBUTION_BASELINES]):
        if name not in compared:
            compared[name] = attribute(model, checkpoint, [attribution.prompt for attribution in chosen], name, config)
    return ModelAttributions(model_row, attributions, compared,
                             list(measure_faithfulness(model, checkpoint, compared, config)))


def evenly_spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` of the items, evenly spread.

    >>> evenly_spread("abcdefgh", 3), evenly_spread("ab", 3)
    (['a', 'c', 'f'], ['a', 'b'])
    """
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]


def attribution_frame(model: ModelAttributions) -> pd.DataFrame:
    """Return a tidy table: a row for each prompt, method, target position and character at or before it."""
    first_method = model.attributions[0].method if model.attributions else ""
    others = [attribution for method, attributions in model.compared.items() if method != first_method
              for attribution in attributions]
    columns: dict[str, list[object]] = {}
    for attribution in (*model.attributions, *others):
        for name, values in tidy_columns(attribution).items():
            columns.setdefault(name, []).extend(values)
    frame = pd.DataFrame(model.model_row | columns)      # one frame: to join many takes longer
    return frame.astype(dict.fromkeys(("probability", "score", "share"), "float32"))    # what they were


def last_by_domain(models: Iterable[ModelAttributions]) -> dict[str, ModelAttributions]:
    """Return the maps of each domain's last checkpoint."""
    return {model.model_row["domain"]: model for model in sorted(models, key=lambda model: model.model_row["step"])}


def summary_rows(models: Sequence[ModelAttributions], prompts: Prompts) -> Iterator[Row]:
    """Yield what each model looks at in the prompts of each domain and of all, and how alike that is to its last
    one's."""
    last = last_by_domain(models)
    domains = [domain for domain, _ in prompts]
    for model in models:
        last_attributions = last[model.model_row["domain"]].attributions
        for prompt_domain in ("all", *dict.fromkeys(domains)):
            chosen = [i for i, domain in enumerate(domains) if prompt_domain in ("all", domain)]
            attributions = [model.attributions[i] for i in chosen]
            drift = mean_rank_correlation(attributions, [last_attributions[i] for i in chosen])
            yield (model.model_row | {"prompt_domain": prompt_domain, "method": attributions[0].method}
                   | summarize(attributions) | {"spearman_with_last": drift})


def faithfulness_rows(models: Sequence[ModelAttributions]) -> Iterator[Row]:
    """Yield what each method's maps of each model are worth.

    `fails_sanity`: the maps of step 0, random weights, look like this checkpoint's (Adebayo et al. 2018,
    arXiv:1810.03292); None where there are none, and for baselines, which look at no weights.
    """
    untrained = {model.model_row["domain"]: model for model in models if model.model_row["step"] == 0}
    for model in models:
        random_weights = untrained.get(model.model_row["domain"])
        for measured in model.faithfulness:
            likeness, tested = float("nan"), measured.method not in ATTRIBUTION_BASELINES
            if random_weights and random_weights.compared and random_weights is not model:
                likeness = mean_rank_correlation(model.compared[measured.method],
                                                 random_weights.compared[measured.method])
            yield model.model_row | {
                "method": measured.method, "spearman_leave_one_out": measured.spearman_leave_one_out,
                "comprehensiveness": measured.comprehensiveness, "sufficiency": measured.sufficiency,
                "completeness_gap": measured.completeness_gap, "spearman_step_0": likeness,
                "fails_sanity": likeness >= SANITY_LIMIT if tested and not math.isnan(likeness) else None}


def deletion_curve_rows(models: Iterable[ModelAttributions]) -> Iterator[Row]:
    """Yield what a target loses without, and with only, a share of what was read: deletion and insertion curves."""
    for model in models:
        for measured in model.faithfulness:
            for share, deletion, insertion in zip(TOP_SHARES, measured.deletion, measured.insertion, strict=True):
                yield model.model_row | {"method": measured.method, "character_share": share, "deletion": deletion,
                                         "insertion": insertion}


def method_agreement_rows(models: Iterable[ModelAttributions]) -> Iterator[Row]:
    """Yield the mean rank correlation of the maps of every two methods, for each model."""
    for model in models:
        for method, other, correlation in method_agreement(model.compared):
            yield model.model_row | {"method": method, "other": other, "spearman": correlation}


def domain_difference_rows(models: Sequence[ModelAttributions]) -> Iterator[Row]:
    """Yield how differently the last models of two domains read one prompt: ρ, and half the sum of |difference of
    shares|."""
    for one, other in combinations(last_by_domain(models).values(), 2):
        for first, second in zip(one.attributions, other.attributions, strict=True):
            variation = (first.share_TS - second.share_TS).abs().sum(-1).mean() / 2
            yield {"domain": one.model_row["domain"], "other": other.model_row["domain"], "prompt": first.prompt,
                   "spearman": mean_rank_correlation([first], [second]), "total_variation": float(variation)}


def word_and_line_rows(models: Iterable[ModelAttributions]) -> Iterator[Row]:
    """Yield the first method's maps between words and, where a prompt has several, between lines; of compared
    models."""
    for model in models:
        for attribution in model.attributions if model.compared else ():
            for unit in ("word", "line") if "\n" in attribution.prompt else ("word",):
                prompt_row = model.model_row | {"prompt": attribution.prompt}
                yield from (prompt_row | row for row in unit_rows(attribution, unit))


def seed_agreement_rows(by_training: Mapping[str, Mapping[int, Mapping[str, Sequence[Attribution]]]]) -> Iterator[Row]:
    """Yield for each domain how alike the maps of two trainings are at the end, and of one training early and late.

    `by_training` is domain to seed to stage to the maps of all prompts. Rank correlations, means with 95 % intervals
    over prompts and trainings: a drift over training means something where it is larger than what a seed changes.
    """
    for domain, by_seed in by_training.items():
        pairs = {"two seeds, final": [(f"{one} and {other}", by_seed[one]["final"], by_seed[other]["final"])
                                      for one, other in combinations(by_seed, 2)],
                 "early and final": [(f"{seed}", maps["early"], maps["final"]) for seed, maps in by_seed.items()]}
        for compared, trainings in pairs.items():
            cells = [(prompt, label, mean_rank_correlation([first], [second])) for label, one, other in trainings
                     for prompt, (first, second) in enumerate(zip(one, other, strict=True))]
            known = [cell for cell in cells if not math.isnan(cell[2])]
            if known:
                prompts, labels, values = zip(*known, strict=True)
                clusters = (prompts, labels) if len(set(labels)) > 1 else (prompts,)
                interval = clustered_interval(values, [1.0] * len(values), *clusters)
                yield {"domain": domain, "compared": compared, "spearman": interval.value, "low": interval.low,
                       "high": interval.high, "prompts": len(set(prompts)), "trainings": len(by_seed)}
