"""The training phase: each training in a run of its own; every checkpoint is logged, registered and aliased."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from nanogpt.config import Config, Row
from nanogpt.errors import UserError
from nanogpt.evaluation.evaluate import losses_together
from nanogpt.model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.study.cells import cell_digest, keep, kept_tables
from nanogpt.study.estimate import part
from nanogpt.study.inputs import StudiedModel, text_dataset
from nanogpt.study.phase import Study, seed_suffix
from nanogpt.study.stages import stage_steps, stages_of
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.study.verify import promote, score_tags
from nanogpt.text.corpus import Corpus, Split, joint_corpus
from nanogpt.tracking import registry
from nanogpt.tracking.run import CELL, TRAININGS, TrackedRun, open_run, open_run_id
from nanogpt.tracking.scratch import scratch_path
from nanogpt.training.loop import Pretraining, Progress, identity_of, train_together, trainings_together
from nanogpt.training.processes import handed_out
from nanogpt.training.schedule import checkpoint_steps
from nanogpt.training.state import TrainingState, load_state, save_state

log = logging.getLogger("nanogpt")

DIVERGED = "diverged"
"""The kept table of a training that has diverged."""
SECONDS_BETWEEN_LINES = 2.0
STATES = "states"
"""The folder of a run in which the states of its training are kept."""
KEPT_STATES = 2
METRICS = {"seconds": "train/seconds", "characters_per_second": "train/characters_per_second",
           "loss_nats": "train/loss_nats", "learning_rate_factor": "train/learning_rate_factor",
           "validation_bits_per_byte": "validation/bits_per_byte", "validation_nats": "validation/nats_per_character"}
"""Columns of the training table, in their order, and the keys under which MLflow has them."""


@dataclass
class TrackedTraining:
    """A training while its run is open."""

    corpus: Corpus
    config: Config                      # with the training's own seed
    run: TrackedRun
    below: str = ""                     # the id of the run over several trainings, which draws the curves of all
    state: TrainingState | None = None  # from which a stopped one goes on
    models: dict[int, StudiedModel] = field(default_factory=dict)       # by step; those of an earlier process too
    tags: dict[int, Mapping[str, str]] = field(default_factory=dict)    # of their versions
    diverged_at: int | None = None      # the step of the first loss that was not finite
    rows: list[Row] = field(default_factory=list)                       # of the training table

    @property
    def first_step(self) -> int:
        return self.state.step if self.state else -1

    @property
    def title(self) -> str:
        return f"{self.corpus.name} seed {self.config.seed}"

    @property
    def validation(self) -> Split:
        return validation_split(self.corpus, self.config)


@dataclass(frozen=True)
class Share:
    """Where the trainings of a group stand among those to be made."""

    before: int
    total: int

    def part(self, members: int, step: int, max_steps: int) -> dict[str, float]:
        """Make the `extra` of a log record when `members` have come to a step."""
        return part(self.before * max_steps + members * step, self.total * max_steps)


@dataclass(frozen=True)
class EndedTraining:
    """What a training has come to: the result of its cell and its models, by step; none where it has diverged."""

    run: TrackedRun
    tables: Tables = field(default_factory=Tables)
    models: list[StudiedModel] = field(default_factory=list)
    left_out: str = ""                  # why, in words


def train_models(study: Study) -> None:
    """Train a model of every domain and seed, and where the configuration says so of all domains together."""
    joint = study.config.analysis.joint and len(study.corpora) > 1
    train_corpora([*study.corpora.values(), *([joint_corpus(study.corpora)] if joint else ())], study)
    study.leave_out_untrained()


def run_trainings(study: Study, resume: str = "") -> None:
    """Train the corpora of a study and nothing more; several trainings have a run over them, which may go on."""
    config, corpora = study.config, list(study.corpora.values())
    if not resume and (study.resume or len(corpora) * config.train.seeds == 1):
        return train_corpora(corpora, study)
    name = f"train {len(corpora) * config.train.seeds} models"
    with open_run(name, config, resume, phase=TRAININGS, domain=",".join(study.corpora)) as run:
        train_corpora(corpora, study)
        log_tables(run, study.tables)
        log_figures(run, study.tables, config, "train")


def train_corpora(corpora: Sequence[Corpus], study: Study) -> None:
    """Train each corpus with each seed; on a GPU small models train together as one batched model.

    With `study.resume` its trainings alone: those that were stopped go on in their runs and end as if they had never
    stopped, those that ended are read back.
    """
    config = study.config
    planned = [(corpus, replace(config, seed=config.seed + k, train=replace(config.train, seeds=1)))
               for corpus in corpora for k in range(config.train.seeds)]
    if study.resume:
        planned = [(corpus, own) for corpus, own in planned if (corpus.name, own.seed) in study.resume]
    size = trainings_together(config, planned[0][0])
    to_do = [(corpus, own) for corpus, own in planned
             if not study.cells.whole(training_digest(corpus, own, study.size))]
    groups = [(to_do[begin:begin + size], Share(begin, len(to_do))) for begin in range(0, len(to_do), size)]
    work = functools.partial(train_or_read, study=study, trainings=len(planned))
    ended: dict[tuple[str, int], EndedTraining] = {}
    texts = [*study.corpora.values(), *(corpus for corpus, _ in to_do)]
    for of_group in study.engine.each(work, groups, texts, models=size, config=config):
        ended |= of_group
    for corpus, own in planned:         # tables have this order, whichever of them was read back
        if run := study.cells.whole(training_digest(corpus, own, study.size)):
            ended[corpus.name, own.seed] = read_training(run, study)
        training = ended[corpus.name, own.seed]
        study.models += training.models
        if training.left_out:
            study.left_out.append(training.left_out)
        else:
            study.add(training.run, training.tables)
    if not study.models and not study.size:
        raise UserError("; ".join(study.left_out))
    if not study.size:
        for domain, last in {model.domain: model for model in study.models}.items():
            registry.settle(domain, last.uri)


def training_digest(corpus: Corpus, config: Config, size: str = "") -> str:
    """Return the digest of the cell of a training, `config` being that with its own seed."""
    return cell_digest("train", config, [corpus], identity_of(corpus, config), *filter(None, [size]))


def read_training(run: TrackedRun, study: Study) -> EndedTraining:
    """Read a training that has ended back from the store."""
    study.cells.reuse(run)
    tables = kept_tables(run)
    if diverged := tables.rows.pop(DIVERGED, []):
        return EndedTraining(run, left_out=diverged[0]["reason"])
    logged = {model.checkpoint.step: (model, tags) for model, tags in logged_before(run)}
    models = {step: model for step, (model, _) in logged.items()}
    return EndedTraining(run, tables, staged(models if study.size else registered(
        models, run, {step: tags for step, (_, tags) in logged.items()})))


def train_or_read(group: tuple[Sequence[tuple[Corpus, Config]], Share], study: Study, trainings: int
                  ) -> dict[tuple[str, int], EndedTraining]:
    """Train a group, but for those that a worker had trained before it died: they are read back."""
    planned, share = group
    whole = {(corpus.name, own.seed): study.cells.whole(training_digest(corpus, own, study.size))
             for corpus, own in planned}
    ended = {training: read_training(run, study) for training, run in whole.items() if run}
    to_do = [(corpus, own) for corpus, own in planned if (corpus.name, own.seed) not in ended]
    return ended | (train_group(to_do, study, trainings, share) if to_do else {})


def train_group(planned: Sequence[tuple[Corpus, Config]], study: Study, trainings: int, share: Share
                ) -> dict[tuple[str, int], EndedTraining]:
    """Train some together, each in a run of its own that is open all the while."""
    log.info("      %s", ", ".join(f"{corpus.name}{seed_title(config, study)}" for corpus, config in planned))
    parent, every = open_run_id(), dict[tuple[str, int], EndedTraining]()
    with contextlib.ExitStack() as runs:
        tracked = [runs.enter_context(open_training(corpus, config, study, parent)) for corpus, config in planned]
        unfinished = [training for training in tracked if not is_finished(training)]
        for _, same_step in groupby(sorted(unfinished, key=lambda training: training.first_step),
                                    key=lambda training: training.first_step):
            train_and_log(list(same_step), trainings, share)
        for training in tracked:
            ended = finish if training.diverged_at is None else leave_out
            every[training.corpus.name, training.config.seed] = ended(training, study)
    for training in tracked:
        if training.diverged_at is not None:
            training.run.fail()
    return every


def seed_title(config: Config, study: Study) -> str:
    """Name the seed where there are several."""
    return f" seed {config.seed}" if study.config.train.seeds > 1 else ""


@contextlib.contextmanager
def open_training(corpus: Corpus, config: Config, study: Study, parent: str) -> Iterator[TrackedTraining]:
    """Open the run of a training below the run `parent`, a stopped one as it was left."""
    digest = training_digest(corpus, config, study.size)
    stopped = study.cells.begun(digest)
    resume = stopped.id if stopped else study.resume.get((corpus.name, config.seed), "")
    name, phase = ((f"train {corpus.name} · {study.size}", "scale") if study.size else
                   (f"train {corpus.name}", "train"))
    with open_run(f"{name}{seed_suffix(config.seed)}", config, resume, parent,
                  **{CELL: digest}, phase=phase, domain=corpus.name, first_seed=study.config.seed,
                  vocabulary_sha256=corpus.vocabulary.sha256, corpus_sha256=corpus.source.sha256) as run:
        training = TrackedTraining(corpus, config, run, parent)
        if resume:
            for model, tags in logged_before(run, forget_damaged=True):
                training.models[model.checkpoint.step], training.tags[model.checkpoint.step] = model, tags
            training.rows = [{"domain": corpus.name, "training_seed": config.seed} | row
                             for row in run.history(METRICS)]
            if (state := kept_state(run)) and is_logged_until(training, state.step):
                training.state = state
                training.rows = [row for row in training.rows if row["step"] <= state.step]
                log.info("      %s goes on from step %d", run.name, training.state.step)
                study.cells.continued.append(f"{run.name} (step {training.state.step})")
        if not training.rows:
            run.datasets([text_dataset(corpus)], "training")
        yield training


def is_finished(training: TrackedTraining) -> bool:
    """Tell whether a training that is resumed had ended: all was logged and no state is left."""
    return training.state is None and is_logged_until(training, training.config.train.max_steps)


def is_logged_until(training: TrackedTraining, step: int) -> bool:
    """Tell whether the checkpoints up to a step are whole, and their metrics logged, which comes after them."""
    settings = training.config.train
    steps = {each for each in checkpoint_steps(settings.max_steps, settings.checkpoints) if each <= step}
    return steps <= training.models.keys() & {row["step"] for row in training.rows}


def train_and_log(tracked: Sequence[TrackedTraining], trainings: int, share: Share) -> None:
    """Train some that stand at the same step, as one model where they are several, and log each in its run."""
    last_line, last_state = 0.0, time.monotonic()
    for training in tracked:
        if training.state is None:
            training.rows.clear()
    members = [Pretraining(training.corpus, training.config, training.state) for training in tracked]
    handed_out((members[0], trainings))
    for records in train_together(members, trainings=trainings):
        log_records(tracked, records)
        ended = records[0].step == records[0].max_steps
        alive = [(training, progress) for training, progress in zip(tracked, records, strict=True)
                 if training.diverged_at is None]
        if time.monotonic() - last_state > tracked[0].config.train.state_seconds and not ended:
            for training, progress in alive:
                keep_state(training.run, progress.state())
            last_state = time.monotonic()
        if alive and (time.monotonic() - last_line > SECONDS_BETWEEN_LINES or ended):
            last_line = time.monotonic()
            log.info("%s", progress_line([training.rows[-1] for training, _ in alive], records[0]),
                     extra=share.part(len(tracked), records[0].step, records[0].max_steps))
        if not alive:
            break
    for training in tracked:
        training.run.delete(*training.run.files(STATES))


def log_records(tracked: Sequence[TrackedTraining], records: Sequence[Progress]) -> None:
    """Log where each training stands, and its checkpoint where there is one; one that has diverged is left."""
    for training, progress in zip(tracked, records, strict=True):
        training.diverged_at = progress.diverged_at if training.diverged_at is None else training.diverged_at
    going_on = [(training, progress) for training, progress in zip(tracked, records, strict=True)
                if training.diverged_at is None]
    scores = validation_scores(going_on)
    for (training, progress), score in zip(going_on, scores, strict=True):
        if progress.checkpoint and not math.isfinite(score["validation_nats"]):     # it was the last update's fault
            training.diverged_at = progress.step
            continue
        row: Row = {"domain": training.corpus.name, "training_seed": training.config.seed, "step": progress.step,
               "seconds": progress.seconds, "characters_per_second": progress.characters_per_second,
               "loss_nats": progress.loss_nats, "learning_rate_factor": progress.rate_factor} | score
        if progress.checkpoint and not is_logged(progress.checkpoint, training.models):
            training.models[progress.step] = log_checkpoint(progress.checkpoint, row, training)
        model_id = training.models[progress.step].model_id if progress.checkpoint else None
        training.run.metrics({key: row[column] for column, key in METRICS.items() if row[column] is not None},
                             progress.step, model_id, text_dataset(training.corpus) if model_id else None)
        training.rows.append(row)


def validation_scores(trainings: Sequence[tuple[TrackedTraining, Progress]]) -> list[Row]:
    """Score checkpoints on the validation texts, all at once; None where there is no checkpoint."""
    checkpoints = [progress.checkpoint for _, progress in trainings if progress.checkpoint]
    if not checkpoints:
        return [{"validation_bits_per_byte": None, "validation_nats": None} for _ in trainings]
    device = resolve_device(trainings[0][0].config.device)
    return [{"validation_bits_per_byte": bits_per_byte, "validation_nats": nats} for bits_per_byte, nats in
            losses_together(checkpoints, [training.validation for training, _ in trainings], device)]


def finish(training: TrackedTraining, study: Study) -> EndedTraining:
    """Log the tables and figures of a training, register and alias its models."""
    corpus, config, run, rows = training.corpus, training.config, training.run, training.rows
    models = training.models if study.size else registered(training.models, run, training.tags)
    tables, kept = Tables(), Tables()
    tables.add("corpora", [corpus.row()])
    tables.add("training", rows)
    log_tables(run, tables)
    kept.add("training", tables.rows["training"])
    if not training.below:
        log_figures(run, tables, config, "train")
    validation = {row["step"]: row["validation_bits_per_byte"] for row in rows if row["step"] in models}
    run.describe(f"Trained on **{corpus.name}** for {config.train.max_steps} steps.\n\n"
                 f"- validation: **{rows[-1]['validation_bits_per_byte']:.3f} bits per byte**\n"
                 + ("" if study.size else name_models(models, validation, training, study)))
    return EndedTraining(run, keep(run, kept), staged(models))


def name_models(models: Mapping[int, StudiedModel], validation: Mapping[int, float], training: TrackedTraining,
                study: Study) -> str:
    """Alias the models of a training and write their card; returns a line on what they are called."""
    name = registry.model_name(training.corpus.name)
    aliases = alias_all(models, validation, training, "" if training.config.seed == study.config.seed else
                        f"{registry.SEED}{training.config.seed}")
    registry.write_card(name)
    return f"- registered as `{name}`: " + ", ".join(f"{alias} = step {step}" for alias, step in aliases.items())


def leave_out(training: TrackedTraining, _: Study) -> EndedTraining:
    """Say that a training has diverged, at its run and in the study; nothing of it is registered."""
    settings = training.config.train
    reason = (f"the training of {training.title} diverged: its loss is not finite from step {training.diverged_at} on "
              f"(learning rates {settings.matrix_learning_rate:g} of matrices, {settings.learning_rate:g} of the rest)")
    log.warning("      %s; it is left out", reason)
    training.run.describe(f"Left out: {reason}.")
    kept = Tables()
    kept.add(DIVERGED, [{"step": training.diverged_at, "reason": reason}])
    keep(training.run, kept)
    return EndedTraining(training.run, left_out=reason)


def registered(models: Mapping[int, StudiedModel], run: TrackedRun, tags: Mapping[int, Mapping[str, str]]
               ) -> dict[int, StudiedModel]:
    """Register the checkpoints that were logged as models of a run, by step, unless they are by now."""
    steps = sorted(models)
    uris = registry.register([registry.ToRegister(models[step].checkpoint, str(models[step].model_id), tags[step])
                              for step in steps], run.id)
    return {step: replace(models[step], uri=uri) for step, uri in zip(steps, uris, strict=True)}


def staged(models: Mapping[int, StudiedModel]) -> list[StudiedModel]:
    """List the models of a training by step, each with its stages."""
    return [replace(models[step], stages=stages_of(step, models)) for step in sorted(models)]


def keep_state(run: TrackedRun, state: TrainingState) -> None:
    """Keep what a training needs to go on, and the state before it: a kill or a bad disk may spoil the last one."""
    local = save_state(state, scratch_path(f"step_{state.step:09d}.pt"))
    run.file(local, STATES)
    local.unlink()
    run.delete(*run.files(STATES)[:-KEPT_STATES])


def kept_state(run: TrackedRun) -> TrainingState | None:
    """Read the last whole state with which the training of a run was stopped; None where none was kept."""
    for path in reversed(run.files(STATES)):
        try:
            with run.download(path) as copy:
                return load_state(copy)
        except UserError as error:      # it was cut off while it was written, or changed since
            log.warning("a state is left out: %s", error)
    return None


def logged_before(run: TrackedRun, *, forget_damaged: bool = False
                  ) -> Iterator[tuple[StudiedModel, Mapping[str, str]]]:
    """Load the checkpoints that were logged in this run before it was stopped, each with the tags of its version.

    CheckpointError for one that is damaged; with `forget_damaged` it is deleted instead, as it will be logged anew.
    """
    for model_id, tags in registry.logged_models(run.id, run.experiment_id):
        try:
            checkpoint = registry.load(f"models:/{model_id}")
        except CheckpointError as error:
            if not forget_damaged:
                raise
            log.warning("a checkpoint is computed anew: %s", error)
            registry.forget_logged(model_id)
            continue
        yield StudiedModel(checkpoint, model_id=model_id), tags


def is_logged(checkpoint: Checkpoint, models: Mapping[int, StudiedModel]) -> bool:
    return checkpoint.step in models and models[checkpoint.step].checkpoint.sha256 == checkpoint.sha256


def validation_split(corpus: Corpus, config: Config) -> Split:
    """Give the validation text that a training's checkpoints are scored on."""
    return corpus.validation.spread(config.analysis.eval_characters)


def progress_line(rows: Sequence[Row], progress: Progress) -> str:
    """Say where some trainings stand that go on together."""
    parts = [f"      step {progress.step}/{progress.max_steps}"]
    for column, title, unit in (("loss_nats", "loss", "nats"), ("validation_bits_per_byte", "validation",
                                                                "bits per byte")):
        if rows[0][column] is not None:
            values = sorted(row[column] for row in rows)
            spread = f"{values[0]:.3f}" if len(rows) == 1 else f"{values[0]:.3f} to {values[-1]:.3f}"
            parts.append(f"{title} {spread} {unit}")
    if progress.step:
        parts.append(f"{len(rows) * progress.characters_per_second:,.0f} characters/s · "
                     f"{progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def log_checkpoint(checkpoint: Checkpoint, row: Row, training: TrackedTraining) -> StudiedModel:
    """Log a checkpoint as artifact and as model, with the score that `verify` will look for.

    It is registered when its training has ended well.
    """
    corpus, config, run = training.corpus, training.config, training.run
    is_last = checkpoint.step == checkpoint.notes["max_steps"]
    path = save_checkpoint(checkpoint, scratch_path("final.pt" if is_last else checkpoint.file_name))
    run.file(path, "checkpoints")
    tags = score_tags(corpus.name, training.validation, config.analysis.eval_characters,
                      row["validation_bits_per_byte"]) | {
        "preset": config.preset, "seed": str(config.seed), "vocabulary_sha256": corpus.vocabulary.sha256}
    facts = {"domain": checkpoint.domain, "step": checkpoint.step, "corpus_sha256": corpus.source.sha256}
    model_id = registry.log_model(checkpoint, path, facts | tags, run.id)
    training.tags[checkpoint.step] = tags
    return StudiedModel(checkpoint, model_id=model_id)


def alias_all(models: Mapping[int, StudiedModel], validation: Mapping[int, float], training: TrackedTraining,
              suffix: str) -> dict[str, int]:
    """Point the aliases at their versions, each loaded anew and scored; returns the step of each alias.

    Those of the first seed bear the names of stages, those of others have its number as `suffix`. `best` is of all
    seeds, and stays with a version of an earlier training that has a lower score of the same text.
    """
    aliases = {stage + suffix: step for stage, step in stage_steps(validation).items()}
    best = registry.best_of(models[max(models)].uri)
    for step, model in models.items():
        if model.uri == best:
            aliases["best"] = step
    recorded = {models[step].uri: validation[step] for step in sorted(set(aliases.values()))}
    uris = {alias: models[step].uri for alias, step in aliases.items()}
    promote(recorded, uris, training.validation, training.config)
    return aliases
