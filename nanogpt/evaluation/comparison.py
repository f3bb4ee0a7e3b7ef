"""Models against each other on the same text: differences with intervals, regret, advantage, asymmetry."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from torch import Tensor

from nanogpt.config import JOINT, Row
from nanogpt.evaluation.intervals import block_bootstrap, holm
from nanogpt.text.corpus import Split

Losses = Mapping[str, Mapping[str, Tensor]]
"""Target to rival to the bits (N,) of each character of the target's test text."""
BitsPerByte = dict[tuple[str, str], float]
"""(source, target) to the loss of the source's model on the target's text, at one step."""


def bits_interval(bits_N: Tensor, split: Split) -> Row:
    """Return the 95 % interval of the bits per byte."""
    interval = block_bootstrap(bits_N.numpy(), split.bytes_N.numpy())
    return {"bits_per_byte_low": interval.low, "bits_per_byte_high": interval.high}


def comparisons(losses: Losses, texts: Mapping[str, Split], stage: str) -> list[Row]:
    """Return how far each domain's own model is ahead of every rival on its test text; Holm's correction over all."""
    rows: list[Row] = []
    for target, by_model in losses.items():
        for rival, bits_N in by_model.items():
            if rival != target and target in by_model:
                interval = block_bootstrap((bits_N - by_model[target]).numpy(), texts[target].bytes_N.numpy())
                rows.append({"target": target, "stage": stage, "rival": rival, "ahead_bits_per_byte": interval.value,
                             "ahead_low": interval.low, "ahead_high": interval.high, "p_value": interval.p_value})
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
    by_step: dict[int, BitsPerByte] = {}
    for row in zero_shot:
        by_step.setdefault(row["step"], {})[row["source"], row["target"]] = row["bits_per_byte"]
    domains = sorted({source for bits in by_step.values() for source, _ in bits} - {JOINT})
    for step, bits in sorted(by_step.items()):
        if len(domains) > 1 and {source for source, _ in bits} >= set(domains):
            best = {target: min(bits[source, target] for source in domains) for _, target in bits}
            regret = {(source, target): value - best[target] for (source, target), value in bits.items()}
            for source, target in bits:
                yield {"step": step, "source": source, "target": target, "regret": regret[source, target],
                       "advantage": advantage(bits, source, domains) if source == target else None,
                       "asymmetry": regret[source, target] - regret[target, source]
                       if source != target and (target, source) in regret else None}


def advantage(bits: BitsPerByte, domain: str, domains: Collection[str]) -> float:
    """Return by how much the domain's own model is better on its text than those of the other `domains` on average."""
    others = [bits[source, domain] for source in domains if source != domain]
    return sum(others) / len(others) - bits[domain, domain]
