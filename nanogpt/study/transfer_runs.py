"""Transfers in MLflow: a run for each cell with its trials below it, and the best adapted models registered."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nanogpt.config import Config, Row
from nanogpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nanogpt.study.cells import Cells, cell_digest, keep, kept_tables, run_cell
from nanogpt.study.inputs import StudiedModel
from nanogpt.study.phase import seed_suffix
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.study.verify import score_tags
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.tracking.run import CELL, TrackedRun, key, open_run
from nanogpt.tracking.scratch import scratch_path
from nanogpt.transfer.finetune import AdaptationPoint
from nanogpt.transfer.tables import cell_measures, run_measures, stage_comparisons
from nanogpt.transfer.tuning import Trial, best_rate

log = logging.getLogger("nanogpt")

ADAPTED = Path("checkpoints/adapted.pt")
"""The artifact of a pair's run that is its best adapted model."""
RESULTS = "results"
"""The kept table of a pair's run that holds its results with all that they were made of."""
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
    def pair(self) -> tuple[str, str]:
        """Name the model, by its weights, and the target: what all shots have in common."""
        return self.model.checkpoint.sha256, self.target.name

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
    stopped_step: int           # where its validation loss was lowest
    test: Row

    @property
    def loss(self) -> float:
        """Give the lowest validation loss, bits per byte, by which the best is chosen."""
        return lowest_loss(self.points)

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.points[-1].bits_per_byte)

    @property
    def row(self) -> Row:
        return {"view": self.view, "seed": self.seed, "learning_rate": self.learning_rate}


def lowest_loss(points: Sequence[AdaptationPoint]) -> float:
    """Find the lowest finite validation loss of a learning curve, bits per byte; infinite where there is none."""
    return min((point.bits_per_byte for point in points if math.isfinite(point.bits_per_byte)), default=math.inf)


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
        tables.add("transfers", (cell | run.row | {"trials": len(self.trials), "stopped_at_step": run.stopped_step,
                                                     "last_bits_per_byte": run.points[-1].bits_per_byte}
                                 | OWN_TEXT_UNKNOWN | run.test
                                  for run in self.runs))
        tables.add("transfer_curves", (row for run in self.runs for row in curve_rows(run, cell)))
        tables.add("trials", (cell | trial.row() for trial in self.trials))
        return tables


@dataclass(frozen=True)
class LoggedPair:
    """A model adapted to a target with each number of shots, the run that holds it, and its best adapted model."""

    results: Sequence[CellResult]
    adapted: Checkpoint
    run: TrackedRun

    def add_to(self, tables: Tables) -> None:
        """Add its rows, each with the run that holds it, and the link to that run."""
        own = tables_of(self.results)
        for row in (row for rows in own.rows.values() for row in rows):
            row["run_id"] = self.run.id
        tables.links[self.run.name] = self.run.link
        tables.add_all(own)

    @property
    def best(self) -> CellResult:
        return min(self.results, key=lambda result: result.best.loss)


def curve_rows(run: FineTunedRun, cell: Row) -> Iterator[Row]:
    for point in run.points:
        yield cell | run.row | {"step": point.step, "validation_bits_per_byte": point.bits_per_byte,
                                "validation_nats": point.nats_per_character}


def log_pair(results: Sequence[CellResult], adapted: Checkpoint, config: Config, digest: str, *, alone: bool
             ) -> LoggedPair:
    """Log all shots of a model and a target in a run: learning curves, tables, and the best adapted model as a file.

    The results are kept there too, as the cell of this digest.
    """
    cell, shots = results[0].cell, ",".join(str(result.cell.shots) for result in results)
    pair_tables = tables_of(results)
    with open_run(pair_name(cell), config, **{CELL: digest}, phase="transfer", parent_uri=cell.model.uri,
                  corpus_sha256=cell.target.source.sha256, vocabulary_sha256=cell.target.vocabulary.sha256,
                  **cell.row | {"shots": shots}) as run:
        for result in results:
            if alone:
                log_trials(run, result.trials, result.study, config)
            elif result.trials:
                run.tags({"optuna_study": result.study, "optuna_storage": config.transfer.storage})
        run.metrics_by_step(view_metrics(results))
        local = save_checkpoint(adapted, scratch_path(ADAPTED.name))
        run.file(local, ADAPTED.parent.as_posix())
        local.unlink()
        log_tables(run, pair_tables, show=alone)
        if alone:
            log_alone(run, pair_tables, config)
        run.describe("\n".join(line for result in results for line in view_lines(result)))
        kept = Tables()
        kept.add(RESULTS, map(asdict_without_cell, results))
        keep(run, kept)
    return LoggedPair(results, adapted, run)


def read_pair(run: TrackedRun, cells: Sequence[TransferCell], known: Cells) -> LoggedPair:
    """Read all shots of a model and a target back from the run that holds them."""
    known.reuse(run)
    results = [result_of(cell, row) for cell, row in zip(cells, kept_tables(run).rows[RESULTS], strict=True)]
    with run.download(ADAPTED.as_posix()) as copy:
        return LoggedPair(results, load_checkpoint(copy), run)


def tables_of(results: Iterable[CellResult]) -> Tables:
    tables = Tables()
    for result in results:
        tables.add_all(result.tables())
    return tables


def asdict_without_cell(result: CellResult) -> Row:
    """Turn a result into plain values; what it is of is known by the cell's digest."""
    return {"study": result.study, "trials": [asdict(trial) for trial in result.trials],
            "runs": [asdict(run) for run in result.runs]}


def result_of(cell: TransferCell, row: Row) -> CellResult:
    """Undo `asdict_without_cell`."""
    trials = [Trial(**trial | {"by_pair": tuple(trial["by_pair"])}) for trial in row["trials"]]
    runs = [FineTunedRun(**run | {"points": [AdaptationPoint(**point) for point in run["points"]]})
            for run in row["runs"]]
    return CellResult(cell, trials, runs, row["study"])


def pair_name(cell: TransferCell) -> str:
    """Name a run by what differs: `math@late → wikipedia`, with the seed of the training where it is another one."""
    return f"{cell.model.title.replace(' ', '@', 1)} → {cell.target.name}{seed_suffix(cell.model.seed)}"


def view_lines(result: CellResult) -> Iterator[str]:
    for view, runs in result.by_view.items():
        yield (f"- {result.cell.shots} shots, {view} learning rate {runs[0].learning_rate:.2g}: from "
               f"{mean_of(runs, 'zero_shot_bits_per_byte'):.3f} to **{mean_of(runs, 'test_bits_per_byte'):.3f}** bits "
               f"per byte on {result.cell.target.name} (test, mean of {len(runs)} seeds)")


def log_stage_tuning(stage: str, trials: Sequence[Trial], study: str, config: Config, tables: Tables,
                     known: Cells) -> None:
    """Log the tuning of a stage's learning rate in a run: its trials are the steps of two metrics, and a table."""
    def log_trial_rows(run: TrackedRun, own: Tables) -> None:
        for trial in trials:
            run.metrics({"tune/learning_rate": trial.learning_rate,
                         "tune/bits_per_byte": math.nan if trial.validation_bits_per_byte is None
                         else trial.validation_bits_per_byte}, trial.number)
        run.metrics({"tune/best_learning_rate": best_rate(trials)})
        own.add("trials", (trial.row() for trial in trials))
        log_tables(run, own)
        pruned = sum(trial.state == "pruned" for trial in trials)
        run.describe(f"Best learning rate of {len(trials)} trials ({pruned} pruned) over all transfers of the stage: "
                     f"**{best_rate(trials):.3g}**")

    run, _ = run_cell(known, f"tune {stage} · {config.transfer.shots} shots", cell_digest("tune", config, [], study),
                      log_trial_rows, config, phase="tune", stage=stage, optuna_study=study,
                      optuna_storage=config.transfer.storage)
    tables.links[run.name] = run.link


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


def view_metrics(results: Sequence[CellResult]) -> dict[int, dict[str, float]]:
    """Give learning curves and test losses of each view by step, means over the seeds.

    Where there are several numbers of shots, they are part of the names.
    """
    by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for result in results:
        prefix = ["transfer", *([f"{result.cell.shots}_shots"] if len(results) > 1 else [])]
        for view, runs in result.by_view.items():
            for points in zip(*(each.points for each in runs), strict=False):
                loss = sum(point.bits_per_byte for point in points) / len(points)
                by_step[points[0].step][key(*prefix, view, "validation_bits_per_byte")] = loss
            last = by_step[runs[0].points[-1].step]
            last[key(*prefix, view, "learning_rate")] = runs[0].learning_rate
            last |= {key(*prefix, view, name): mean_of(runs, name) for name in runs[0].test}
    return by_step


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


def register_best(logged: Iterable[LoggedPair], config: Config) -> None:
    """Register the adapted model of the lowest validation loss of each source and target."""
    best: dict[tuple[str, str], LoggedPair] = {}
    for pair in logged:
        cell = pair.best.cell
        names = cell.model.domain, cell.target.name
        if names not in best or pair.best.best.loss < best[names].best.best.loss:
            best[names] = pair
    for pair in best.values():
        register_pair(pair, config)


def register_pair(logged: LoggedPair, config: Config) -> None:
    """Register an adapted model as a version of `nanogpt-<source>-to-<target>`, unless it began untrained or diverged.

    `best` is the version of the lowest loss.
    """
    cell, best, adapted = logged.best.cell, logged.best.best, logged.adapted
    if all(run.diverged for result in logged.results for run in result.runs):
        log.warning("%s diverged at every learning rate: no adapted model is registered", cell.title)
    if cell.model.stage == "scratch" or adapted.step == 0:    # adapting did nothing but harm
        return
    uri = cell.model.uri
    split = cell.target.validation.spread(config.transfer.curve_characters)
    tags = {"parent": registry.version_of(uri).uri if uri.startswith("models:/") else uri, "stage": cell.model.stage,
            "shots": str(cell.shots), "learning_rate": f"{best.learning_rate:.6g}", "preset": config.preset,
            "vocabulary_sha256": adapted.vocabulary.sha256,
            **score_tags(cell.target.name, split, config.transfer.curve_characters, best.loss)}
    with open_run(logged.run.name, resume=logged.run.id) as run:
        facts = {"domain": adapted.domain, "step": adapted.step}
        model_id = next((model_id for model_id, _ in registry.logged_models(run.id, run.experiment_id)),
                        "") or registry.log_model(
                            adapted, save_checkpoint(adapted, scratch_path(ADAPTED.name)), facts | tags, run.id)
        run.metrics({"transfer/validation_bits_per_byte": best.loss}, adapted.step, model_id)
    (uri,) = registry.register([registry.ToRegister(adapted, model_id, tags)], run.id)
    registry.set_alias(registry.best_of(uri), "best")
    registry.write_card(registry.model_name(adapted.domain))
