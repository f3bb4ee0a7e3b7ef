"""The training phase: domains in runs of their own; every checkpoint is logged, registered and aliased."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from nanogpt.config import Config, Row
from nanogpt.errors import UserError
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint
from nanogpt.study.inputs import StudiedModel, build_model, text_dataset
from nanogpt.study.phase import Study
from nanogpt.study.stages import stage_steps, stages_of
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.study.verify import promote, score_tags
from nanogpt.text.corpus import Corpus, Split, joint_corpus
from nanogpt.tracking import registry
from nanogpt.tracking.run import TrackedRun, open_run, scratch_path
from nanogpt.training.loop import Progress, TrainingState, load_state, save_state, train

log = logging.getLogger("nanogpt")

SECONDS_BETWEEN_LINES = 2.0
STATES = "states"
"""The folder of a run in which the state of its training is kept."""
METRICS = {"loss_nats": "train/loss_nats", "characters_per_second": "train/characters_per_second",
           "seconds": "train/seconds", "learning_rate_factor": "train/learning_rate_factor",
           "validation_nats": "validation/nats_per_character", "validation_bits_per_byte": "validation/bits_per_byte"}
"""Columns of the training table and the keys under which MLflow has them."""


def train_models(study: Study) -> None:
    """Train a model of every domain, and where the configuration says so one of all domains together."""
    joint = study.config.analysis.joint and len(study.corpora) > 1    # the command train hands over one corpus
    corpora = [*study.corpora.values(), *([joint_corpus(study.corpora)] if joint else ())]
    for corpus in corpora:
        log.info("      %s", corpus.name)
        study.models += train_domain(corpus, study, trainings=len(corpora))


def train_domain(corpus: Corpus, study: Study, trainings: int) -> list[StudiedModel]:
    """Train one domain in a run of its own; every checkpoint is logged, registered and, where it is due, aliased.

    With `study.resume` a stopped training goes on in its run and ends as if it had never stopped.
    """
    config, tables = study.config, Tables()
    with open_run(f"train {corpus.name} · {study.label}", config, study.resume, phase="train", domain=corpus.name,
                  vocabulary_sha256=corpus.vocabulary.sha256, corpus_sha256=corpus.source.sha256) as run:
        study.tables.links[run.name] = run.link
        if not study.resume:
            run.datasets([text_dataset(corpus)], "training")
            tables.add("corpora", [corpus.row()])
        rows, models = train_and_log(corpus, config, run, trainings, resumed=bool(study.resume))
        study.tables.add("training", (row | {"run_id": run.id} for row in rows))
        log_tables(run, tables)
        tables.add("training", rows)
        log_figures(run, tables, config, "train")
        validation = {row["step"]: row["validation_bits_per_byte"] for row in rows if row["step"] in models}
        aliases = alias_all(models, validation, corpus, config)
        run.describe(f"Trained on **{corpus.name}** for {config.train.max_steps} steps.\n\n"
                     f"- validation: **{rows[-1]['validation_bits_per_byte']:.3f} bits per byte**\n"
                     f"- registered as `{registry.model_name(corpus.name)}`: "
                     + ", ".join(f"{alias} = step {step}" for alias, step in aliases.items()))
        return [replace(model, stages=stages_of(step, models)) for step, model in models.items()]


def train_and_log(corpus: Corpus, config: Config, run: TrackedRun, trainings: int, *,
                  resumed: bool) -> tuple[list[Row], dict[int, StudiedModel]]:
    """Train and log; returns the rows of the training table and the models by step, those of an earlier process too."""
    state = kept_state(run) if resumed else None
    models = {model.checkpoint.step: model for model in logged_before(run)} if resumed else {}
    rows = [{"domain": corpus.name} | row for row in run.history(METRICS) if row["step"] <= state.step] if state else []
    last_line, last_state = 0.0, time.monotonic()
    for progress in train(corpus, config, state, trainings=trainings):
        row, ended = progress_row(progress, corpus, config), progress.step == progress.max_steps
        if progress.checkpoint and not is_logged(progress.checkpoint, models):
            models[progress.step] = log_checkpoint(progress.checkpoint, row, run, corpus, config)
        run.metrics({key: row[column] for column, key in METRICS.items() if row[column] is not None}, progress.step)
        rows.append(row)
        if time.monotonic() - last_state > config.train.state_seconds and not ended:
            keep_state(run, progress.state())
            last_state = time.monotonic()
        if time.monotonic() - last_line > SECONDS_BETWEEN_LINES or ended:
            last_line = time.monotonic()
            log.info("%s", progress_line(progress, row))
    run.delete(*run.files(STATES))
    return rows, dict(sorted(models.items()))


def keep_state(run: TrackedRun, state: TrainingState) -> None:
    """Keep what a training needs to go on. Only then is an earlier state removed: a kill may come at any moment."""
    local = save_state(state, scratch_path(f"step_{state.step:06d}.pt"))
    run.file(local, STATES)
    local.unlink()
    run.delete(*(path for path in run.files(STATES) if not path.endswith(local.name)))


def kept_state(run: TrackedRun) -> TrainingState | None:
    """Read the last whole state with which the training of a run was stopped; None where none was kept."""
    for path in reversed(run.files(STATES)):
        with contextlib.suppress(UserError), run.download(path) as copy:  # one was cut off while it was written
            return load_state(copy)
    return None


def logged_before(run: TrackedRun) -> Iterator[StudiedModel]:
    """Load the checkpoints that were logged in this run before it was stopped."""
    for model_id, tags in registry.logged_models(run.id, run.experiment_id):
        checkpoint = registry.load(f"models:/{model_id}")
        yield StudiedModel(checkpoint, uri=registry.register(checkpoint, model_id, run.id, tags), model_id=model_id)


def is_logged(checkpoint: Checkpoint, models: Mapping[int, StudiedModel]) -> bool:
    return checkpoint.step in models and models[checkpoint.step].checkpoint.sha256 == checkpoint.sha256


def validation_split(corpus: Corpus, config: Config) -> Split:
    """Give the validation text that a training's checkpoints are scored on."""
    return corpus.validation.head(config.analysis.eval_characters)


def progress_row(progress: Progress, corpus: Corpus, config: Config) -> Row:
    """Make a row of the training table; validation is read where there is a checkpoint."""
    row: Row = {"domain": corpus.name, "step": progress.step, "seconds": progress.seconds,
                "characters_per_second": progress.characters_per_second, "loss_nats": progress.loss_nats,
                "learning_rate_factor": progress.rate_factor,
                "validation_nats": None, "validation_bits_per_byte": None}
    if progress.checkpoint:
        result = evaluate(build_model(progress.checkpoint, config), progress.checkpoint,
                          validation_split(corpus, config))
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


def log_checkpoint(checkpoint: Checkpoint, row: Row, run: TrackedRun, corpus: Corpus, config: Config) -> StudiedModel:
    """Log a checkpoint as artifact and as model, and register it with the score that `verify` will look for."""
    is_last = checkpoint.step == checkpoint.notes["max_steps"]
    path = save_checkpoint(checkpoint, scratch_path("final.pt" if is_last else checkpoint.file_name))
    run.file(path, "checkpoints")
    tags = score_tags(corpus.name, validation_split(corpus, config), row["validation_bits_per_byte"]) | {
        "preset": config.preset, "vocabulary_sha256": corpus.vocabulary.sha256}
    facts = {"domain": checkpoint.domain, "step": checkpoint.step, "seed": config.seed,
             "corpus_sha256": corpus.source.sha256}
    model_id = registry.log_model(checkpoint, path, facts | tags)
    run.metrics({"validation/bits_per_byte": row["validation_bits_per_byte"]}, checkpoint.step, model_id,
                text_dataset(corpus))
    return StudiedModel(checkpoint, uri=registry.register(checkpoint, model_id, run.id, tags), model_id=model_id)


def alias_all(models: Mapping[int, StudiedModel], validation: Mapping[int, float], corpus: Corpus,
              config: Config) -> dict[str, int]:
    """Point the aliases at their versions, each loaded anew and scored; returns the step of each alias.

    `best` stays with a version of an earlier training that has a lower score of the same text.
    """
    aliases, best = dict(stage_steps(validation)), registry.best_of(models[max(models)].uri)
    for step, model in models.items():
        if model.uri == best:
            aliases["best"] = step
    for step in sorted(set(aliases.values())):
        names = [alias for alias, at in aliases.items() if at == step]
        promote(models[step].uri, names, validation_split(corpus, config), validation[step], config)
    return aliases
