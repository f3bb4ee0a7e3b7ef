"""Transfers in MLflow: a run for each cell with its trials below it, and the best adapted models registered."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt.config import Config, Row
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint
from nanogpt.study.inputs import StudiedModel
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.study.verify import score_tags
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.tracking.run import TrackedRun, key, open_run
from nanogpt.tracking.scratch import scratch_path
from nanogpt.transfer.finetune import AdaptationPoint
from nanogpt.transfer.tables import cell_measures, run_measures, stage_comparisons
from nanogpt.transfer.tuning import Trial, best_rate

log = logging.getLogger("nanogpt")

OWN_TEXT_UNKNOWN = {"source_bits_per_byte_before": math.nan, "source_bits_per_byte_after": math.nan}
"""What the table of transfers says of a cell whose source has no text of its own here."""


@dataclass(frozen=True)
class TransferCell:
    """A model, a target and a number of shots: one Optuna study, then runs at the fixed and at the tuned rate."""

    model: StudiedModel
    target: Corpus
    own: Corpus | None          # of the model's own domain, read before and after to see what was forgotten
    shots: int

    @property
    def title(self) -> str:
        return f"{self.model.title} → {self.target.name} · {self.shots} shots"

    @property
    def row(self) -> Row:
        """Give the columns that name it in tables."""
        return {"source": self.model.domain, "training_seed": self.model.seed, "stage": self.model.stage,
                "checkpoint_step": self.model.checkpoint.step, "target": self.target.name, "shots": self.shots}


@dataclass(frozen=True)
class FineTunedRun:
    """One fine-tuning of a cell with a fresh seed: its view of the learning rate, its curve and its test losses."""

    view: str                   # tuned, fixed
    seed: int
    learning_rate: float
    points: list[AdaptationPoint]
    test: Row

    @property
    def adapted(self) -> Checkpoint:
        checkpoint = self.points[-1].checkpoint
        assert checkpoint is not None
        return checkpoint

    @property
    def loss(self) -> float:
        """Give the lowest validation loss, bits per byte, by which the best is chosen."""
        return min((point.bits_per_byte for point in self.points if math.isfinite(point.bits_per_byte)),
                   default=math.inf)

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.points[-1].bits_per_byte)

    @property
    def row(self) -> Row:
        return {"view": self.view, "seed": self.seed, "learning_rate": self.learning_rate}


@dataclass(frozen=True)
class CellResult:
    """What came of a cell."""

    cell: TransferCell
    trials: list[Trial]
    runs: list[FineTunedRun]
    study: str = ""             # the Optuna study of its trials

    @property
    def best(self) -> FineTunedRun:
        """Choose the run of the lowest validation loss."""
        return min(self.runs, key=lambda run: run.loss)

    @property
    def by_view(self) -> dict[str, list[FineTunedRun]]:
        return {view: [run for run in self.runs if run.view == view] for view in dict.fromkeys(
            run.view for run in self.runs)}

    def tables(self) -> Tables:
        """Fill the tables of transfers, their curves and their trials."""
        cell, tables = self.cell.row, Tables()
        tables.add("transfers", (cell | run.row | {"trials": len(self.trials), "stopped_at_step": run.adapted.step,
                                                     "last_bits_per_byte": run.points[-1].bits_per_byte}
                                 | OWN_TEXT_UNKNOWN | run.test
                                  for run in self.runs))
        tables.add("transfer_curves", (row for run in self.runs for row in curve_rows(run, cell)))
        tables.add("trials", (cell | trial.row() for trial in self.trials))
        return tables


@dataclass(frozen=True)
class LoggedCell:
    """A cell's result, the run that holds it and the local file of its best adapted model."""

    result: CellResult
    run: TrackedRun
    path: Path


def curve_rows(run: FineTunedRun, cell: Row) -> Iterator[Row]:
    for point in run.points:
        yield cell | run.row | {"step": point.step, "validation_bits_per_byte": point.bits_per_byte,
                                "validation_nats": point.nats_per_character}


def log_cell(result: CellResult, config: Config, tables: Tables, *, alone: bool) -> LoggedCell:
    """Log a cell in a run: trials below it, learning curves, tables, and the best adapted model as a file."""
    cell, cell_tables, best = result.cell, result.tables(), result.best
    with open_run(f"transfer {cell.title} · {config.preset} · seed {config.seed}", config, phase="transfer",
                  parent_uri=cell.model.uri, corpus_sha256=cell.target.source.sha256,
                  vocabulary_sha256=cell.target.vocabulary.sha256, **cell.row) as run:
        tables.links[run.name] = run.link
        if alone:
            log_trials(run, result.trials, result.study, config)
        elif result.trials:
            run.tags({"optuna_study": result.study, "optuna_storage": config.transfer.storage})
        log_views(run, result)
        path = save_checkpoint(best.adapted, scratch_path("adapted.pt"))
        run.file(path, "checkpoints")
        log_tables(run, cell_tables, show=alone)
        if alone:
            log_alone(run, cell_tables, config)
        run.describe("\n".join(
            f"- {view} learning rate {runs[0].learning_rate:.2g}: from {mean_of(runs, 'zero_shot_bits_per_byte'):.3f} "
            f"to **{mean_of(runs, 'test_bits_per_byte'):.3f}** bits per byte on {cell.target.name} (test, mean of "
            f"{len(runs)} seeds)" for view, runs in result.by_view.items()))
    tables.add_all(cell_tables)
    log.info("      %s · rate %.2g · %.3f → %.3f bits per byte", cell.title, best.learning_rate,
             best.test["zero_shot_bits_per_byte"], best.test["test_bits_per_byte"])
    return LoggedCell(result, run, path)


def log_stage_tuning(stage: str, trials: Sequence[Trial], study: str, config: Config, tables: Tables) -> None:
    """Log the tuning of a stage's learning rate in a run: its trials are the steps of two metrics, and a table."""
    with open_run(f"tune {stage} · {config.transfer.shots} shots · {config.preset} · seed {config.seed}", config,
                  phase="tune", stage=stage, optuna_study=study, optuna_storage=config.transfer.storage) as run:
        tables.links[run.name] = run.link
        for trial in trials:
            run.metrics({"tune/learning_rate": trial.learning_rate,
                         "tune/bits_per_byte": math.nan if trial.validation_bits_per_byte is None
                         else trial.validation_bits_per_byte}, trial.number)
        run.metrics({"tune/best_learning_rate": best_rate(trials)})
        own = Tables()
        own.add("trials", (trial.row() for trial in trials))
        log_tables(run, own)
        pruned = sum(trial.state == "pruned" for trial in trials)
        run.describe(f"Best learning rate of {len(trials)} trials ({pruned} pruned) over all transfers of the stage: "
                     f"**{best_rate(trials):.3g}**")


def log_trials(run: TrackedRun, trials: Sequence[Trial], study: str, config: Config) -> None:
    """Log each trial in a run below the open one."""
    if not trials:
        return
    run.tags({"optuna_study": study, "optuna_storage": config.transfer.storage})
    run.metrics({"tune/best_learning_rate": best_rate(trials)})
    for trial in trials:
        with open_run(f"trial {trial.number}", phase="trial", state=trial.state) as child:
            child.metrics({"tune/learning_rate": trial.learning_rate})
            if trial.validation_bits_per_byte is not None:
                child.metrics({"tune/bits_per_byte": trial.validation_bits_per_byte})


def log_views(run: TrackedRun, result: CellResult) -> None:
    """Log learning curves and test losses of each view, means over the seeds."""
    by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for view, runs in result.by_view.items():
        for points in zip(*(each.points for each in runs), strict=False):
            loss = sum(point.bits_per_byte for point in points) / len(points)
            by_step[points[0].step][key("transfer", view, "validation_bits_per_byte")] = loss
        last = by_step[runs[0].points[-1].step]
        last[key("transfer", view, "learning_rate")] = runs[0].learning_rate
        last |= {key("transfer", view, name): mean_of(runs, name) for name in runs[0].test}
    for step, metrics in by_step.items():
        run.metrics(metrics, step)


def mean_of(runs: Sequence[FineTunedRun], name: str) -> float:
    """Average a test loss over runs."""
    return sum(run.test[name] for run in runs) / len(runs)


def log_alone(run: TrackedRun, cell_tables: Tables, config: Config) -> None:
    """Log the measures and figures of a transfer that is no part of a grid."""
    tables = Tables()
    tables.add_all(cell_tables)
    fill_measures(tables)
    run.table(tables.frame("transfer_measures"), "transfer_measures")
    log_figures(run, tables, config, "transfer")


def fill_measures(tables: Tables) -> None:
    """Fill the tables that are made from all transfers together: measures of cells, stages compared."""
    runs = run_measures(tables.frame("transfers"), tables.frame("transfer_curves"))
    made = {"transfers": runs, "transfer_measures": cell_measures(runs, tables.frame("trials")),
            "stage_comparisons": stage_comparisons(runs)}
    for name, frame in made.items():
        tables.rows[name] = [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def register_best(cells: Iterable[LoggedCell], config: Config) -> None:
    """Register the adapted model of the lowest validation loss of each source and target."""
    best: dict[tuple[str, str], LoggedCell] = {}
    for logged in cells:
        cell = logged.result.cell
        pair = cell.model.domain, cell.target.name
        if pair not in best or logged.result.best.loss < best[pair].result.best.loss:
            best[pair] = logged
    for logged in best.values():
        register_cell(logged, config)


def register_cell(logged: LoggedCell, config: Config) -> None:
    """Register an adapted model as a version of `nanogpt-<source>-to-<target>`, unless it began untrained or diverged.

    `best` is the version of the lowest loss.
    """
    cell, best = logged.result.cell, logged.result.best
    if all(run.diverged for run in logged.result.runs):
        log.warning("%s diverged at every learning rate: no adapted model is registered", cell.title)
    if cell.model.stage == "scratch" or best.adapted.step == 0:    # adapting did nothing but harm
        return
    adapted, uri = best.adapted, cell.model.uri
    split = cell.target.validation.spread(config.transfer.curve_characters)
    tags = {"parent": registry.version_of(uri).uri if uri.startswith("models:/") else uri, "stage": cell.model.stage,
            "shots": str(cell.shots), "learning_rate": f"{best.learning_rate:.6g}", "preset": config.preset,
            "vocabulary_sha256": adapted.vocabulary.sha256, 
            **score_tags(cell.target.name, split, config.transfer.curve_characters, best.loss)}
    with open_run(logged.run.name, resume=logged.run.id) as run:
        model_id = registry.log_model(adapted, logged.path, {"domain": adapted.domain, "step": adapted.step} | tags,
                                      run.id)
        run.metrics({"transfer/validation_bits_per_byte": best.loss}, adapted.step, model_id)
    registry.set_alias(registry.best_of(registry.register(adapted, model_id, run.id, tags)), "best")
