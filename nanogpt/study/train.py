"""Train domains in runs of their own; every checkpoint is logged, registered and aliased."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from nanogpt.config import Config, Row
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.report.plots import common as figures
from nanogpt.study import stages
from nanogpt.study.inputs import Source
from nanogpt.study.tables import Tables
from nanogpt.study.verify import promote, record
from nanogpt.text.corpus import Corpus
from nanogpt.text.sources import domain_name
from nanogpt.tracking import registry
from nanogpt.tracking.run import Run, open_run
from nanogpt.training.loop import Progress, train

log = logging.getLogger("nanogpt")

SECONDS_BETWEEN_LINES = 2.0
METRICS = {"loss_nats": "train/loss_nats", "characters_per_second": "train/characters_per_second",
           "seconds": "train/seconds", "learning_rate_factor": "train/learning_rate_factor",
           "validation_nats": "validation/nats_per_character", "validation_bits_per_byte": "validation/bits_per_byte"}
"""Columns of the training table and the keys under which MLflow has them."""


def train_domain(corpus: Corpus, config: Config, tables: Tables, resume: str = "") -> list[Source]:
    """Train one domain in a run of its own; every checkpoint is logged, registered and, where it is due, aliased.

    `resume` is the id of a run whose training was stopped: it goes on there and ends as if it had never stopped.
    """
    name = f"train {corpus.name} · {config.preset} · seed {config.seed}"
    with open_run(name, config, resume, phase="train", domain=corpus.name,
                  vocabulary_sha256=corpus.vocabulary.sha256, corpus_sha256=corpus.source.sha256) as run:
        tables.links[run.name] = run.link
        if not resume:
            run.datasets({corpus.name: corpus}, "training")
            run.table(pd.DataFrame([corpus.row()]), "corpora")
        rows, kept = follow(corpus, config, run, resumed=bool(resume))
        tables.add("training", (row | {"run_id": run.id} for row in rows))
        validation = {row["step"]: row["validation_bits_per_byte"] for row in rows if row["step"] in kept}
        aliases = alias_all(kept, validation, corpus, config)
        colors = [domain_name(spec) for spec in config.data.domain_specs]
        run.figure(figures.training_curves(pd.DataFrame(rows), colors), "training")
        run.describe(f"Trained on **{corpus.name}** for {config.train.max_steps} steps.\n\n"
                     f"- validation: **{rows[-1]['validation_bits_per_byte']:.3f} bits per byte**\n"
                     f"- registered as `{registry.model_name(corpus.name)}`: "
                     + ", ".join(f"{alias} = step {step}" for alias, step in aliases.items()))
        return [replace(source, stage=stages.stage_of(step, kept)) for step, source in kept.items()]


def follow(corpus: Corpus, config: Config, run: Run, *, resumed: bool) -> tuple[list[Row], dict[int, Source]]:
    """Train and log; the rows of the training table and the checkpoints by step, those of an earlier process too."""
    state = run.kept_state() if resumed else None
    kept = {source.checkpoint.step: source for source in kept_before(run)} if resumed else {}
    rows = [{"domain": corpus.name} | row for row in run.history(METRICS) if row["step"] <= state.step] if state else []
    said, saved = 0.0, time.monotonic()
    for progress in train(corpus, config, state):
        row, ended = progress_row(progress, corpus, config), progress.step == progress.max_steps
        if progress.checkpoint and not is_kept(progress.checkpoint, kept):
            kept[progress.step] = keep(progress.checkpoint, row, run, corpus, config)
        run.metrics({key: row[column] for column, key in METRICS.items() if row[column] is not None}, progress.step)
        rows.append(row)
        if time.monotonic() - saved > config.train.state_seconds and not ended:
            run.keep_state(progress.state())
            saved = time.monotonic()
        if time.monotonic() - said > SECONDS_BETWEEN_LINES or ended:
            said = time.monotonic()
            log.info("%s", progress_line(progress, row))
    run.delete(*run.states())
    return rows, dict(sorted(kept.items()))


def kept_before(run: Run) -> Iterator[Source]:
    """The checkpoints that were logged in this run before it was stopped."""
    for model_id, tags in registry.logged_models(run.id, run.experiment_id):
        checkpoint = registry.load(f"models:/{model_id}")
        yield Source(checkpoint, uri=registry.register(checkpoint, model_id, run.id, tags), model_id=model_id)


def is_kept(checkpoint: Checkpoint, kept: Mapping[int, Source]) -> bool:
    return checkpoint.step in kept and kept[checkpoint.step].checkpoint.sha256 == checkpoint.sha256


def progress_row(progress: Progress, corpus: Corpus, config: Config) -> Row:
    """A row of the training table; validation is read where there is a checkpoint."""
    row: Row = {"domain": corpus.name, "step": progress.step, "seconds": progress.seconds,
                "characters_per_second": progress.characters_per_second, "loss_nats": progress.loss_nats,
                "learning_rate_factor": progress.rate_factor,
                "validation_nats": None, "validation_bits_per_byte": None}
    if progress.checkpoint:
        split = corpus.validation.head(config.analysis.eval_characters)
        result = evaluate(stages.built(progress.checkpoint, config), progress.checkpoint, split)
        row |= {"validation_nats": result.nats_per_character, "validation_bits_per_byte": result.bits_per_byte}
    return row


def progress_line(progress: Progress, row: Row) -> str:
    parts = [f"      step {progress.step}/{progress.max_steps}"]
    if progress.loss_nats is not None:
        parts.append(f"loss {progress.loss_nats:.3f} nats")
    if row["validation_bits_per_byte"] is not None:
        parts.append(f"validation {row['validation_bits_per_byte']:.3f} bits per byte")
    if progress.step:
        parts.append(f"{progress.characters_per_second:,.0f} characters/s · {progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def keep(checkpoint: Checkpoint, row: Row, run: Run, corpus: Corpus, config: Config) -> Source:
    """Log a checkpoint as artifact and as model, and register it with the score that `verify` will look for."""
    path = run.checkpoint(checkpoint, "final.pt" if checkpoint.step == checkpoint.notes["max_steps"] else None)
    tags = record(corpus.name, config.analysis.eval_characters, row["validation_bits_per_byte"]) | {
        "preset": config.preset, "vocabulary_sha256": corpus.vocabulary.sha256}
    facts = {"domain": checkpoint.domain, "step": checkpoint.step, "seed": config.seed,
             "corpus_sha256": corpus.source.sha256}
    model_id = registry.log_model(checkpoint, path, facts | tags)
    run.metrics({"validation/bits_per_byte": row["validation_bits_per_byte"]}, checkpoint.step, model_id, corpus)
    return Source(checkpoint, uri=registry.register(checkpoint, model_id, run.id, tags), model_id=model_id)


def alias_all(kept: Mapping[int, Source], validation: Mapping[int, float], corpus: Corpus,
              config: Config) -> dict[str, int]:
    """Point the aliases at their versions, each loaded anew and scored; returns the step of each alias."""
    aliases = stages.stage_steps(validation) | {"best": min(validation, key=lambda step: validation[step])}
    split = corpus.validation.head(config.analysis.eval_characters)
    for step in sorted(set(aliases.values())):
        names = [alias for alias, at in aliases.items() if at == step]
        promote(kept[step].uri, names, split, validation[step], config)
    return aliases
