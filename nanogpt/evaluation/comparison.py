"""Models against each other on the same text: differences with intervals, regret, advantage, asymmetry."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from nanogpt.config import JOINT, Row
from nanogpt.evaluation.intervals import Interval, clustered_interval, holm
from nanogpt.text.corpus import Split

Losses = Mapping[str, Mapping[str, Tensor]]
"""Target to rival to the bits (S, N) of each character of the target's test text under each seed's model.

What has no seed, as an n-gram, has its bits once for each."""
BitsPerByte = dict[tuple[str, str], float]
"""(source, target) to the loss of the source's model on the target's text, at one step."""


def text_interval(bits_SN: Tensor, split: Split) -> Interval:
    """Return the interval of the mean over seeds of the bits per byte: over units of text, and over seeds if several.

    A unit is a piece of the split, or a document.
    """
    units_N = torch.unique(split.units_N, return_inverse=True)[1]
    count, seeds = int(units_N.max()) + 1, len(bits_SN)
    bits_SU = torch.zeros(seeds, count, dtype=torch.float64).index_add_(1, units_N, bits_SN.double())
    bytes_U = torch.bincount(units_N, split.bytes_N.double(), count)
    by_seed, by_unit = (ids.flatten().numpy() for ids in torch.meshgrid(
        torch.arange(seeds), torch.arange(count), indexing="ij"))
    clusters = (by_unit, by_seed) if seeds > 1 else (by_unit,)
    return clustered_interval(bits_SU.flatten().numpy(), bytes_U.repeat(seeds).numpy(), *clusters)


def bits_interval(bits_N: Tensor, split: Split) -> Row:
    """Return the 95 % interval of the bits per byte of one model, over units of text."""
    interval = text_interval(bits_N[None], split)
    return {"bits_per_byte_low": interval.low, "bits_per_byte_high": interval.high}


def zero_shot_means(losses: Losses, texts: Mapping[str, Split], stage: str) -> Iterator[Row]:
    """Yield the loss of each source on each target, mean over seeds, and how much single seeds differ."""
    for target, by_model in losses.items():
        split = texts[target]
        for source, bits_SN in by_model.items():
            interval, by_seed_S = text_interval(bits_SN, split), bits_SN.sum(1) / split.n_bytes
            yield {"source": source, "target": target, "stage": stage, "bits_per_byte": interval.value,
                   "low": interval.low, "high": interval.high, "units": len(set(split.units_N.tolist())),
                   "seeds": len(bits_SN),
                   "seed_deviation": float(by_seed_S.std()) if len(bits_SN) > 1 else math.nan}


def comparisons(losses: Losses, texts: Mapping[str, Split], stage: str) -> list[Row]:
    """Return how far each domain's own model is ahead of every rival on its test text; Holm's correction over all.

    The family of the correction is all comparisons of a stage. Models are paired in the order of their seeds.
    """
    rows: list[Row] = []
    for target, by_model in losses.items():
        for rival, bits_SN in by_model.items():
            if rival != target and target in by_model:
                interval = text_interval(bits_SN - by_model[target], texts[target])
                rows.append({"target": target, "stage": stage, "rival": rival, "ahead_bits_per_byte": interval.value,
                             "ahead_low": interval.low, "ahead_high": interval.high, "p_value": interval.p_value,
                             "units": len(set(texts[target].units_N.tolist())), "seeds": len(bits_SN)})
    adjusted = holm([row["p_value"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def specialisation(zero_shot: Iterable[Row]) -> Iterator[Row]:
    """Yield for each model, text and step that all domains' models have, in bits per byte:

    - regret: above the best domain's model for the text at that step;
    - advantage, on the own text: mean loss of the other domains' models less the own one;
    - asymmetry, on another's text: regret there less the other's regret here.

    The model of all domains together is no rival, so that these numbers mean the same with and without it. Its own
    regret is measured against the best domain's model too, and is negative where it is better than all of them.
    """
    by_step: dict[tuple[int, int], BitsPerByte] = {}
    for row in zero_shot:
        at = row["training_seed"], row["step"]
        by_step.setdefault(at, {})[row["source"], row["target"]] = row["bits_per_byte"]
    domains = sorted({source for bits in by_step.values() for source, _ in bits} - {JOINT})
    for (seed, step), bits in sorted(by_step.items()):
        if len(domains) > 1 and {source for source, _ in bits} >= set(domains):
            best = {target: min(bits[source, target] for source in domains) for _, target in bits}
            regret = {(source, target): value - best[target] for (source, target), value in bits.items()}
            for source, target in bits:
                yield {"training_seed": seed, "step": step, "source": source, "target": target,
                       "regret": regret[source, target],
                       "advantage": advantage(bits, source, domains) if source == target else None,
                       "asymmetry": regret[source, target] - regret[target, source]
                       if source != target and (target, source) in regret else None}


def advantage(bits: BitsPerByte, domain: str, domains: Collection[str]) -> float:
    """Return by how much the domain's own model is better on its text than those of the other `domains` on average."""
    others = [bits[source, domain] for source in domains if source != domain]
    return sum(others) / len(others) - bits[domain, domain]
