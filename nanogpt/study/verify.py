"""Whether a registered version is what the registry says of it: loaded anew from the store, it scores the same."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from nanogpt.config import JOINT, Config
from nanogpt.errors import UserError, require
from nanogpt.evaluation.evaluate import evaluate, losses_together
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.study.inputs import build_model, corpora_for, read_texts
from nanogpt.text.corpus import Split, joint_corpus
from nanogpt.text.sources import DomainText
from nanogpt.tracking import registry
from nanogpt.tracking.registry import SCORED_ON, Version
from nanogpt.tracking.run import run_config

TAG = re.compile(r"(?P<domain>[\w-]+)\[:(?P<characters>\d*)\](?: sha256:(?P<digest>\w+))?")
"""As `math[:4096] sha256:0a1b2c3d4e5f`; versions of earlier code have no digest."""
SCORE_TOLERANCE = 1e-3
"""Bits per byte: scores written on a GPU (bfloat16) differ by less from those of a CPU."""


def promote(recorded: Mapping[str, float], aliases: Mapping[str, str], split: Split, config: Config) -> None:
    """Point each of `aliases` at its version once all versions were loaded anew and scored as recorded.

    `recorded` is the bits per byte of `split` by version (URI). UserError where one scores otherwise.
    """
    checkpoints = [registry.load(uri) for uri in recorded]
    scores = losses_together(checkpoints, [split] * len(checkpoints), resolve_device(config.device))
    for (uri, expected), (score, _) in zip(recorded.items(), scores, strict=True):
        require(math.isclose(score, expected, abs_tol=SCORE_TOLERANCE),
                f"{uri} must score the recorded {expected:.4f} bits per byte before it is aliased", round(score, 4))
    for alias, uri in aliases.items():
        registry.set_alias(uri, alias)


def promote_version(uri: str, alias: str, device: str) -> str:
    """Do the same for a version that was registered earlier; returns the URI of the version."""
    version = registry.version_of(uri)
    registry.check_alias(alias)
    wrong = list(faults(version, device))
    require(not wrong, f"{version.uri} must be what the registry says of it before it is called {alias}", wrong)
    registry.set_alias(version.uri, alias)
    registry.write_card(version.name)
    return version.uri


def rescore(checkpoint: Checkpoint, split: Split, config: Config) -> float:
    """Score a checkpoint on `split`, in bits per byte."""
    return evaluate(build_model(checkpoint, config), checkpoint, split).bits_per_byte


def score_tags(domain: str, split: Split, asked: int, bits_per_byte: float) -> dict[str, str]:
    """Write the tags that say which score a version had, and on which validation text: `asked` characters of it."""
    return {"bits_per_byte": f"{bits_per_byte:.4f}", SCORED_ON: f"{domain}[:{asked}] sha256:{digest_of(split)}"}


def digest_of(split: Split) -> str:
    return hashlib.sha256(split.text.encode()).hexdigest()[:12]


def scored_split(version: Version, checkpoint: Checkpoint, config: Config) -> Split:
    """Find the text that the recorded score of a version was read from. UserError where it cannot be had."""
    tag = TAG.fullmatch(version.tags.get(SCORED_ON, ""))
    if tag is None:
        raise UserError(f"version must have the tag {SCORED_ON}, got {version.tags.get(SCORED_ON, '')!r}")
    corpora = corpora_for(checkpoint, texts_of(config), config)
    if tag["domain"] == JOINT and JOINT not in corpora and len(corpora) > 1:
        corpora[JOINT] = joint_corpus(corpora)
    require(tag["domain"] in corpora, f"domains of the run must be among those that the version was {SCORED_ON}",
            tag["domain"])
    split = corpora[tag["domain"]].validation.spread(int(tag["characters"] or 0))
    require(tag["digest"] in (None, digest_of(split)), f"text of {tag['domain']!r} must be the one that the version "
            f"was {SCORED_ON}, sha256:{tag['digest']}", f"sha256:{digest_of(split)}")
    return split


@functools.cache
def texts_of(config: Config) -> Sequence[DomainText]:
    return read_texts(config)


def verify(versions: Sequence[Version], device: str) -> Iterator[tuple[Version, list[str]]]:
    """Say of each version what is wrong with it: its digest, score and vocabulary; then doubles and falling steps."""
    seen: dict[str, Version] = {}
    for name, group in groupby(versions, key=lambda version: version.name):
        steps: dict[str, float] = {}
        for version in group:
            wrong = list(faults(version, device))
            if (twin := seen.setdefault(name + version.tags.get("sha256", version.uri), version)) is not version:
                wrong.append(f"the same weights as version {twin.number}")
            step = registry.number_in(version.tags, "step")
            if step < steps.get(version.run_id, step):
                wrong.append(f"step {step:.0f} after step {steps[version.run_id]:.0f} of the same run")
            steps[version.run_id] = step
            yield version, wrong


def faults(version: Version, device: str) -> Iterator[str]:
    """Say what is wrong with one version by itself, in words."""
    try:
        checkpoint = registry.load(version.uri)
        yield from different(version.tags, {"sha256": checkpoint.sha256, "step": str(checkpoint.step),
                                            "domain": checkpoint.domain,
                                            "vocabulary_sha256": checkpoint.vocabulary.sha256})
        config = replace(run_config(version.run_id), device=device)
        score = rescore(checkpoint, scored_split(version, checkpoint, config), config)
    except UserError as error:
        yield f"cannot be scored: {error}"
        return
    recorded = registry.number_in(version.tags, "bits_per_byte")
    if not math.isclose(score, recorded, abs_tol=SCORE_TOLERANCE):
        yield f"{score:.4f} bits per byte, recorded {recorded:.4f}"


def different(tags: Mapping[str, str], actual: Mapping[str, str]) -> Iterator[str]:
    for name, value in actual.items():
        if tags.get(name, "") != value:
            yield f"{name} {value[:12]}, recorded {tags.get(name, '')[:12]}"
