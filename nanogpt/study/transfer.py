"""Few-shot transfers, each in a run of its own with its trials below it; the best adapted models are registered."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from nanogpt.config import Config, Row
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.report.plots import common as figures
from nanogpt.report.plots import transfer as figures_transfer
from nanogpt.study import stages
from nanogpt.study.inputs import Source
from nanogpt.study.tables import Tables, log_tables
from nanogpt.study.verify import record
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.tracking.run import Run, key, open_run
from nanogpt.transfer import tables as transfer_tables
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt
from nanogpt.transfer.tuning import Trial, best_rate, open_study, study_name, tune

log = logging.getLogger("nanogpt")

TOGETHER_ON_GPU = 64


@dataclass(frozen=True)
class Cell:
    """A source, a target and a number of shots: one Optuna study, then runs at the fixed and at the tuned rate."""

    source: Source
    target: Corpus
    own: Corpus | None          # the source's corpus, read before and after to see what was forgotten
    shots: int

    @property
    def title(self) -> str:
        return f"{self.source.title} → {self.target.name} · {self.shots} shots"

    @property
    def names(self) -> Row:
        return {"source": self.source.checkpoint.domain, "stage": self.source.stage,
                "checkpoint_step": self.source.checkpoint.step, "target": self.target.name, "shots": self.shots}


@dataclass(frozen=True)
class Ending:
    """One run of a cell with a fresh seed: its view of the learning rate, its curve and its test losses."""

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
        """On validation, by which the best is chosen, in bits per byte; a diverged run has an infinite one."""
        last = self.points[-1].bits_per_byte
        return last if math.isfinite(last) else math.inf

    @property
    def row(self) -> Row:
        return {"view": self.view, "seed": self.seed, "learning_rate": self.learning_rate}


@dataclass
class Grid:
    """Cells transferred one group after the other; what is read once for all of them; the best model of each pair."""

    config: Config
    tables: Tables
    rate: float | None = None   # given: nothing is tuned and this is the fixed one
    alone: bool = False         # the run of a transfer is all there is: it holds figures and measures itself
    zero_shot: dict[tuple[str, str], float] = field(default_factory=dict)
    best: dict[tuple[str, str], tuple[Ending, Cell, Run, Path]] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell]) -> None:
        """Transfer every cell; then register the best adapted model of each source and target."""
        if self.rate is not None:
            require(self.rate >= 0, "learning rate must be >= 0", self.rate)
        for group in groups(cells, together(self.config)):
            config = replace(self.config, transfer=replace(self.config.transfer, shots=group[0].shots))
            trials = [[] for _ in group] if self.rate is not None else tune_cells(group, config)
            for cell, tried, endings in zip(group, trials, self.endings(group, trials, config), strict=True):
                self.log(cell, tried, endings, config)
        for ending, cell, run, path in self.best.values():
            register(ending, cell, run, path, self.config)

    def endings(self, group: Sequence[Cell], trials: Sequence[list[Trial]], config: Config) -> list[list[Ending]]:
        """For each cell, its runs with fresh seeds at each view's rate: what was tuned on is not what is reported."""
        fixed = config.transfer.middle_rate if self.rate is None else self.rate
        rates = [{"tuned": best_rate(tried), "fixed": fixed} if tried else {"fixed": fixed} for tried in trials]
        seeds = range(config.seed + 1, config.seed + 1 + config.transfer.transfer_seeds)
        jobs = list(dict.fromkeys((i, rate, seed) for i in range(len(group)) for rate in rates[i].values()
                                  for seed in seeds))
        found: dict[tuple[int, float, int], tuple[list[AdaptationPoint], Row]] = {}
        for begin in range(0, len(jobs), together(config)):
            part = jobs[begin:begin + together(config)]
            members = [FineTuning(group[i].source.checkpoint, group[i].target, rate, seed) for i, rate, seed in part]
            for job, points in zip(part, zip(*adapt(members, config), strict=True), strict=True):
                found[job] = list(points), self.test_losses(group[job[0]], points[-1].checkpoint)
        return [[Ending(view, seed, rate, *found[i, rate, seed]) for view, rate in rates[i].items() for seed in seeds]
                for i in range(len(group))]

    def test_losses(self, cell: Cell, adapted: Checkpoint | None) -> Row:
        """Bits per byte of the source and the adapted model on the test text of the target and of the source."""
        assert adapted is not None
        row: Row = {"source_bits_per_byte_before": None, "source_bits_per_byte_after": None}
        for corpus, before, after in ((cell.target, "zero_shot_bits_per_byte", "test_bits_per_byte"),
                                      (cell.own, "source_bits_per_byte_before", "source_bits_per_byte_after")):
            if corpus is not None:
                known = cell.source.checkpoint.sha256, corpus.name
                if known not in self.zero_shot:
                    self.zero_shot[known] = test_loss(cell.source.checkpoint, corpus, self.config)
                row |= {before: self.zero_shot[known], after: test_loss(adapted, corpus, self.config)}
        return row

    def log(self, cell: Cell, trials: Sequence[Trial], endings: Sequence[Ending], config: Config) -> None:
        """A cell's own run: trials below it, learning curves, tables, and the best adapted model as a file."""
        mine, best = Tables(), min(endings, key=lambda ending: ending.loss)
        mine.add("transfers", (cell.names | ending.row | {"trials": len(trials)} | ending.test for ending in endings))
        mine.add("transfer_curves", (row for ending in endings for row in curve_rows(ending, cell.names)))
        mine.add("trials", (cell.names | trial.row() for trial in trials))
        with open_run(f"transfer {cell.title} · {config.preset} · seed {config.seed}", config, phase="transfer",
                      parent_uri=cell.source.uri, corpus_sha256=cell.target.source.sha256,
                      vocabulary_sha256=cell.target.vocabulary.sha256, **cell.names) as run:
            self.tables.links[run.name] = run.link
            log_trials(run, trials, cell, config)
            log_endings(run, endings)
            path = run.checkpoint(best.adapted, "adapted.pt")
            log_tables(run, mine, show=self.alone)
            if self.alone:
                show(run, mine)
            run.describe("\n".join(f"- {view} learning rate {ends[0].learning_rate:.2g}: from "
                                   f"{mean(ends, 'zero_shot_bits_per_byte'):.3f} to "
                                   f"**{mean(ends, 'test_bits_per_byte'):.3f}** bits per byte on {cell.target.name} "
                                   f"(test, mean of {len(ends)} seeds)" for view, ends in by_view(endings)))
        self.tables.add_all(mine)
        pair = cell.source.checkpoint.domain, cell.target.name
        if pair not in self.best or best.loss < self.best[pair][0].loss:
            self.best[pair] = best, cell, run, path
        log.info("      %s · rate %.2g · %.3f → %.3f bits per byte", cell.title, best.learning_rate,
                 best.test["zero_shot_bits_per_byte"], best.test["test_bits_per_byte"])


def scratch_source(source: Source) -> Source:
    """The untrained weights that every training of this seed and vocabulary began with, as a source of their own."""
    checkpoint = source.checkpoint
    require(checkpoint.step == 0, "the scratch model must be a checkpoint of step 0", checkpoint.step)
    unseen = torch.zeros_like(checkpoint.character_counts_V)
    return Source(replace(checkpoint, domain="scratch", character_counts_V=unseen), "scratch")


def grid_cells(sources: Iterable[Source], corpora: Mapping[str, Corpus], config: Config) -> list[Cell]:
    """Every early, mid and late checkpoint to every other domain, and untrained weights to all, at all shots."""
    sources = list(sources)
    scratch = scratch_source(next(source for source in sources if source.checkpoint.step == 0))
    staged = [source for source in sources
              if source.stage in config.transfer.stage_names and source.checkpoint.domain in corpora]
    return [Cell(source, target, corpora.get(source.checkpoint.domain), shots)
            for shots in config.transfer.shot_levels for source in (scratch, *staged)
            for name, target in corpora.items() if name != source.checkpoint.domain]


def together(config: Config) -> int:
    """How many transfers train as one model."""
    on_gpu = resolve_device(config.device).type == "cuda"
    return config.transfer.together or (TOGETHER_ON_GPU if on_gpu else 1)


def groups(cells: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    """At most `size` cells of equal shots at a time, in order."""
    for shots in dict.fromkeys(cell.shots for cell in cells):
        equal = [cell for cell in cells if cell.shots == shots]
        yield from (equal[begin:begin + size] for begin in range(0, len(equal), size))


def tune_cells(cells: Sequence[Cell], config: Config) -> list[list[Trial]]:
    """The Optuna studies of the learning rates."""
    pairs = [(cell.source.checkpoint, cell.target) for cell in cells]
    return tune([open_study(*pair, config, config.transfer.storage) for pair in pairs], pairs, config)


def test_loss(checkpoint: Checkpoint, corpus: Corpus, config: Config) -> float:
    split = corpus.test.head(config.analysis.eval_characters)
    return evaluate(stages.built(checkpoint, config), checkpoint, split).bits_per_byte


def log_trials(run: Run, trials: Sequence[Trial], cell: Cell, config: Config) -> None:
    """A run below the open one for each trial."""
    if not trials:
        return
    run.tags({"optuna_study": study_name(cell.source.checkpoint, cell.target, config),
              "optuna_storage": config.transfer.storage})
    run.metrics({"tune/best_learning_rate": best_rate(list(trials))})
    for trial in trials:
        with open_run(f"trial {trial.number}", phase="trial", state=trial.state) as child:
            child.metrics({"tune/learning_rate": trial.learning_rate})
            if trial.validation_bits_per_byte is not None:
                child.metrics({"tune/bits_per_byte": trial.validation_bits_per_byte})


def log_endings(run: Run, endings: Sequence[Ending]) -> None:
    """Learning curves and test losses of each view, means over the seeds."""
    by_step: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for view, ends in by_view(endings):
        for points in zip(*(ending.points for ending in ends), strict=False):
            loss = sum(point.bits_per_byte for point in points) / len(points)
            by_step[points[0].step][key("transfer", view, "validation_bits_per_byte")] = loss
        last = by_step[ends[0].points[-1].step]
        last[key("transfer", view, "learning_rate")] = ends[0].learning_rate
        last |= {key("transfer", view, name): mean(ends, name) for name, value in ends[0].test.items()
                 if value is not None}
    for step, metrics in by_step.items():
        run.metrics(metrics, step)


def by_view(endings: Sequence[Ending]) -> list[tuple[str, list[Ending]]]:
    views = dict.fromkeys(ending.view for ending in endings)
    return [(view, [ending for ending in endings if ending.view == view]) for view in views]


def mean(endings: Sequence[Ending], name: str) -> float:
    """Of a test loss over runs."""
    return sum(ending.test[name] for ending in endings) / len(endings)


def curve_rows(ending: Ending, names: Row) -> Iterator[Row]:
    for point in ending.points:
        yield names | ending.row | {"step": point.step, "validation_bits_per_byte": point.bits_per_byte,
                                    "validation_nats": point.nats_per_character}


def measure(tables: Tables) -> None:
    """Fill the tables that are made from all transfers together: measures of cells, stages compared."""
    runs = transfer_tables.run_measures(tables.frame("transfers"), tables.frame("transfer_curves"))
    made = {"transfers": runs, "transfer_measures": transfer_tables.cell_measures(runs, tables.frame("trials")),
            "stage_comparisons": transfer_tables.stage_comparisons(runs)}
    for name, frame in made.items():
        tables.rows[name] = [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def show(run: Run, transfers: Tables) -> None:
    """The measures and figures of one transfer."""
    tables = Tables()
    tables.add_all(transfers)
    measure(tables)
    run.table(tables.frame("transfer_measures"), "transfer_measures")
    run.figure(figures_transfer.learning_curves(transfer_tables.curve_means(tables.frame("transfer_curves"))),
               "transfer_curve")
    if tables.rows["trials"]:
        run.figure(figures.tuning_history(tables.frame("trials")), "trials")
        run.figure(figures_transfer.optuna_history(tables.frame("trials")), "trials_in_order")


def register(ending: Ending, cell: Cell, run: Run, path: Path, config: Config) -> None:
    """The adapted model as a version of `nanogpt-<source>-to-<target>`; `best` is the version of the lowest loss."""
    if cell.source.stage == "scratch" or not math.isfinite(ending.loss):
        return
    adapted, uri = ending.adapted, cell.source.uri
    tags = {"parent": registry.version_of(uri).uri if uri.startswith("models:/") else uri, "stage": cell.source.stage,
            "shots": str(cell.shots), "learning_rate": f"{ending.learning_rate:.6g}", "preset": config.preset,
            "vocabulary_sha256": adapted.vocabulary.sha256,
            **record(cell.target.name, config.transfer.curve_characters, ending.loss)}
    with open_run(run.name, resume=run.id):
        model_id = registry.log_model(adapted, path, {"domain": adapted.domain, "step": adapted.step} | tags)
        run.metrics({"transfer/validation_bits_per_byte": ending.loss}, adapted.step, model_id)
    registry.set_best(registry.register(adapted, model_id, run.id, tags))
