"""Attribution over checkpoints and domains, as tidy rows: what is looked at, how that drifts, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import pandas as pd

from nanogpt.attribution.faithfulness import ALIKE, SHARES, Faithfulness, agreement, faithfulness, similarity
from nanogpt.attribution.maps import Attribution, aggregate, attribute, columns, summarize
from nanogpt.attribution.methods import BASELINES
from nanogpt.config import AttributionConfig, Row
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

T = TypeVar("T")
Prompts = Sequence[tuple[str, str]]
"""(domain, prompt) of each."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One model's maps: of all prompts by the first method, and of the compared ones, if it has them, by every one."""

    who: Row                                    # model, domain, step, stage
    found: list[Attribution]
    compared: dict[str, list[Attribution]]
    worth: list[Faithfulness]


def read(model: GPT, checkpoint: Checkpoint, who: Row, prompts: Prompts, config: AttributionConfig,
         *, compare: bool) -> Reading:
    """`compare`: also by every other method and with their tests, on a few of the prompts."""
    texts = [prompt for _, prompt in prompts]
    found = attribute(model, checkpoint, texts, config.method_names[0], config)
    chosen = spread(found, config.compared_prompts) if compare else []
    if not chosen:
        return Reading(who, found, {}, [])
    names = dict.fromkeys([*config.method_names[1:], "leave_one_out", *BASELINES])
    maps = {chosen[0].method: chosen} | {
        name: attribute(model, checkpoint, [attribution.prompt for attribution in chosen], name, config)
        for name in names if name != chosen[0].method}
    return Reading(who, found, maps, list(faithfulness(model, checkpoint, maps, config)))


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread.

    >>> spread("abcdefgh", 3), spread("ab", 3)
    (['a', 'c', 'f'], ['a', 'b'])
    """
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]


def attribution_frame(reading: Reading) -> pd.DataFrame:
    """Tidy: a row for each prompt, method, target position and character at or before it."""
    first = reading.found[0].method if reading.found else ""
    others = (found for method, found in reading.compared.items() if method != first)
    every = [*reading.found, *(attribution for found in others for attribution in found)]
    frame = pd.concat([pd.DataFrame(reading.who | {"prompt": attribution.prompt} | columns(attribution))
                       for attribution in every], ignore_index=True)
    return frame.astype(dict.fromkeys(("probability", "score", "share"), "float32"))    # what they were


def last_readings(readings: Iterable[Reading]) -> dict[str, Reading]:
    """The reading of each domain's last checkpoint."""
    return {reading.who["domain"]: reading for reading in sorted(readings, key=lambda reading: reading.who["step"])}


def summary_rows(readings: Sequence[Reading], prompts: Prompts) -> Iterator[Row]:
    """What each model looks at in the prompts of each domain and of all, and how alike that is to its last one's."""
    last = last_readings(readings)
    domains = [domain for domain, _ in prompts]
    for reading in readings:
        final = last[reading.who["domain"]].found
        for prompt_domain in ("all", *dict.fromkeys(domains)):
            chosen = [i for i, domain in enumerate(domains) if prompt_domain in ("all", domain)]
            found = [reading.found[i] for i in chosen]
            yield (reading.who | {"prompt_domain": prompt_domain, "method": found[0].method} | summarize(found)
                   | {"spearman_with_last": similarity(found, [final[i] for i in chosen])})


def faithfulness_rows(readings: Sequence[Reading]) -> Iterator[Row]:
    """What each method's maps of each model are worth.

    `fails_sanity`: the maps of step 0, random weights, look like this checkpoint's (Adebayo et al. 2018,
    arXiv:1810.03292).
    """
    untrained = {reading.who["domain"]: reading for reading in readings if reading.who["step"] == 0}
    for reading in readings:
        random_weights = untrained.get(reading.who["domain"])
        for worth in reading.worth:
            alike = float("nan")
            if random_weights and random_weights.compared and random_weights is not reading:
                alike = similarity(reading.compared[worth.method], random_weights.compared[worth.method])
            yield reading.who | {
                "method": worth.method, "spearman_leave_one_out": worth.spearman_leave_one_out,
                "comprehensiveness": worth.comprehensiveness, "sufficiency": worth.sufficiency,
                "completeness_gap": worth.completeness_gap, "spearman_step_0": alike, "fails_sanity": alike >= ALIKE}


def curve_rows(readings: Iterable[Reading]) -> Iterator[Row]:
    """Deletion and insertion curves: what a target loses without, and with only, a share of what was read."""
    for reading in readings:
        for worth in reading.worth:
            for share, deletion, insertion in zip(SHARES, worth.deletion_K, worth.insertion_K, strict=True):
                yield reading.who | {"method": worth.method, "character_share": share, "deletion": deletion,
                                     "insertion": insertion}


def agreement_rows(readings: Iterable[Reading]) -> Iterator[Row]:
    for reading in readings:
        for method, other, rho in agreement(reading.compared):
            yield reading.who | {"method": method, "other": other, "spearman": rho}


def domain_rows(readings: Sequence[Reading]) -> Iterator[Row]:
    """How differently the last models of two domains read one prompt: ρ, and half the sum of |difference of shares|."""
    for one, other in combinations(last_readings(readings).values(), 2):
        for first, second in zip(one.found, other.found, strict=True):
            moved = (first.share_TS - second.share_TS).abs().sum(-1).mean() / 2
            yield {"domain": one.who["domain"], "other": other.who["domain"], "prompt": first.prompt,
                   "spearman": similarity([first], [second]), "total_variation": float(moved)}


def word_rows(readings: Iterable[Reading]) -> Iterator[Row]:
    """The first method's maps between words and, where a prompt has several, between lines; of compared models."""
    for reading in readings:
        for attribution in reading.found if reading.compared else ():
            for unit in ("word", "line") if "\n" in attribution.prompt else ("word",):
                yield from (reading.who | {"prompt": attribution.prompt} | row for row in aggregate(attribution, unit))
