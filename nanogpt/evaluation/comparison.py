"""Models against each other on the same text: differences with intervals, regret, advantage, asymmetry."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor

from nanogpt.config import Row
from nanogpt.evaluation.intervals import block_bootstrap, holm
from nanogpt.text.corpus import Split

Losses = Mapping[str, Mapping[str, Tensor]]
"""Target to rival to the bits (N,) of each character of the target's test text."""


def bits_interval(bits_N: Tensor, split: Split) -> Row:
    """95 % interval of the bits per byte."""
    found = block_bootstrap(bits_N.numpy(), split.bytes_N.numpy())
    return {"bits_per_byte_low": found.low, "bits_per_byte_high": found.high}


def comparisons(losses: Losses, texts: Mapping[str, Split], stage: str) -> list[Row]:
    """By how much each domain's own model is ahead of every rival on its test text; Holm's correction over all."""
    rows: list[Row] = []
    for target, by_model in losses.items():
        for rival, bits_N in by_model.items():
            if rival != target and target in by_model:
                found = block_bootstrap((bits_N - by_model[target]).numpy(), texts[target].bytes_N.numpy())
                rows.append({"target": target, "stage": stage, "rival": rival, "ahead_bits_per_byte": found.value,
                             "ahead_low": found.low, "ahead_high": found.high, "p_value": found.p_value})
    adjusted = holm([row["p_value"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def specialisation(zero_shot: Iterable[Row]) -> Iterator[Row]:
    """For each model, text and step that all models have, in bits per byte:

    - regret: above the best model for the text at that step;
    - advantage, on the own text: mean of the others' loss less the own one;
    - asymmetry, on another's text: regret there less the other's regret here.
    """
    by_step: dict[int, dict[tuple[str, str], float]] = {}
    for row in zero_shot:
        by_step.setdefault(row["step"], {})[row["source"], row["target"]] = row["bits_per_byte"]
    models = {source for bits in by_step.values() for source, _ in bits}
    for step, bits in sorted(by_step.items()):
        if len(models) > 1 and {source for source, _ in bits} == models:
            best = {target: min(bits[source, target] for source in models) for _, target in bits}
            regret = {(source, target): value - best[target] for (source, target), value in bits.items()}
            for source, target in bits:
                yield {"step": step, "source": source, "target": target, "regret": regret[source, target],
                       "advantage": advantage(bits, source, models) if source == target else None,
                       "asymmetry": regret[source, target] - regret[target, source]
                       if source != target and (target, source) in regret else None}


def advantage(bits: Mapping[tuple[str, str], float], domain: str, models: Collection[str]) -> float:
    others = [bits[source, domain] for source in models if source != domain]
    return sum(others) / len(others) - bits[domain, domain]
