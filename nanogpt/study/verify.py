"""Whether a registered version is what the registry says of it: loaded anew from the store, it scores the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from nanogpt.config import Config
from nanogpt.errors import UserError, require
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.study import stages
from nanogpt.study.inputs import corpora_for, read_texts
from nanogpt.text.corpus import Split
from nanogpt.text.sources import DomainText
from nanogpt.tracking import registry
from nanogpt.tracking.registry import Version
from nanogpt.tracking.run import run_config

SCORED_ON = "scored_on"
"""The tag that says which validation text a version's score was read from: `math[:4096]`, or `math[:]` for all."""
TOLERANCE = 1e-3
"""Bits per byte: scores written on a GPU (bfloat16) differ by less from those of a CPU."""


def promote(uri: str, aliases: Sequence[str], split: Split, recorded: float, config: Config) -> None:
    """Point `aliases` at a version once it was loaded anew and scored as recorded (bits per byte of `split`)."""
    found = rescore(registry.load(uri), split, config)
    require(math.isclose(found, recorded, abs_tol=TOLERANCE),
            f"{uri} must score the recorded {recorded:.4f} bits per byte before it is aliased", round(found, 4))
    for alias in aliases:
        registry.set_alias(uri, alias)


def promote_version(uri: str, alias: str, device: str) -> str:
    """The same for a version that was registered earlier; returns the URI of the version."""
    version = registry.version_of(uri)
    wrong = list(faults(version, device))
    require(not wrong, f"{version.uri} must be what the registry says of it before it is called {alias}", wrong)
    registry.set_alias(version.uri, alias)
    return version.uri


def rescore(checkpoint: Checkpoint, split: Split, config: Config) -> float:
    """Bits per byte of `split`."""
    return evaluate(stages.built(checkpoint, config), checkpoint, split).bits_per_byte


def record(domain: str, characters: int, bits_per_byte: float) -> dict[str, str]:
    """The tags that say which score a version had on how many characters (0: all) of a domain's validation text."""
    return {"bits_per_byte": f"{bits_per_byte:.4f}", SCORED_ON: f"{domain}[:{characters or ''}]"}


def validation_split(version: Version, checkpoint: Checkpoint, config: Config) -> Split:
    """The text that the recorded score of a version was read from. UserError where it cannot be had."""
    corpora = corpora_for(checkpoint, texts_of(config), config)
    name, _, characters = version.tags[SCORED_ON].partition("[:")
    require(name in corpora, f"domains of the run must be among those that the version was {SCORED_ON}", name)
    return corpora[name].validation.head(int(characters.rstrip("]") or 0))


@functools.cache
def texts_of(config: Config) -> Sequence[DomainText]:
    return read_texts(config)


def verify(versions: Sequence[Version], device: str) -> Iterator[tuple[Version, list[str]]]:
    """Each version with what is wrong with it: its digest, score and vocabulary; then doubles and falling steps."""
    seen: dict[str, Version] = {}
    for name, group in groupby(versions, key=lambda version: version.name):
        steps: dict[str, int] = {}
        for version in group:
            wrong = list(faults(version, device))
            if (twin := seen.setdefault(name + version.tags.get("sha256", version.uri), version)) is not version:
                wrong.append(f"the same weights as version {twin.number}")
            step = int(version.tags.get("step", 0))
            if step < steps.get(version.run_id, step):
                wrong.append(f"step {step} after step {steps[version.run_id]} of the same run")
            steps[version.run_id] = step
            yield version, wrong


def faults(version: Version, device: str) -> Iterator[str]:
    """What is wrong with one version by itself, in words."""
    try:
        checkpoint = registry.load(version.uri)
        yield from different(version.tags, {"sha256": checkpoint.sha256, "step": str(checkpoint.step),
                                            "domain": checkpoint.domain,
                                            "vocabulary_sha256": checkpoint.vocabulary.sha256})
        config = replace(run_config(version.run_id), device=device)
        found = rescore(checkpoint, validation_split(version, checkpoint, config), config)
    except (UserError, KeyError) as error:
        yield f"cannot be scored: {error}"
        return
    recorded = float(version.tags["bits_per_byte"])
    if not math.isclose(found, recorded, abs_tol=TOLERANCE):
        yield f"{found:.4f} bits per byte, recorded {recorded:.4f}"


def different(tags: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name, value in found.items():
        if tags.get(name, "") != value:
            yield f"{name} {value[:12]}, recorded {tags.get(name, '')[:12]}"
