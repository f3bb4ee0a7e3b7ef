"""The transfer phase: a grid of few-shot transfers, tuned, run with fresh seeds, tested and compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from nanogpt.config import Config, Row
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.study.inputs import StudiedModel, build_model
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables
from nanogpt.study.transfer_runs import (
    CellResult,
    FineTunedRun,
    TransferCell,
    fill_measures,
    log_cell,
    log_stage_tuning,
    register_best,
)
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt, few_shot_windows, transfers_together
from nanogpt.transfer.tuning import (
    Trial,
    best_rate,
    open_storage,
    open_study,
    pair_title,
    shared_rate,
    study_name,
    tune,
)

log = logging.getLogger("nanogpt")

TestLosses = dict[tuple[str, str], float]
"""(checkpoint's SHA-256, domain) to the bits per byte on the test text: of the models before they are adapted."""


@dataclass(frozen=True)
class TunedCell:
    """The learning rate of each view of a cell, the trials that it was chosen by, and the Optuna study of these."""

    rates: Mapping[str, float]
    trials: list[Trial] = field(default_factory=list)
    study: str = ""


def transfer_models(study: Study) -> None:
    """Adapt every early, mid and late model to every other domain, and untrained weights to all, at all shots.

    The caller has checked the grid (`check_grid`) before the first phase.
    """
    transfer_cells(grid_cells(study.models, study.corpora, study.config), study.config, study.tables)
    fill_measures(study.tables)


def check_grid(config: Config, corpora: Mapping[str, Corpus]) -> None:
    """Raise UserError for what a grid of transfers cannot do with these texts and this configuration."""
    require(not config.transfer.extend_vocabulary,
            "extend_vocabulary must be off but in transfer and tune, where one model meets one text",
            config.transfer.extend_vocabulary)
    for corpus in corpora.values():
        few_shot_windows(corpus.train, config.model.block_size, max(config.transfer.shot_levels), config.seed)
    open_storage(config.transfer.storage)


def transfer_cells(cells: Sequence[TransferCell], config: Config, tables: Tables, *,
                   learning_rate: float | None = None, alone: bool = False) -> None:
    """Transfer every cell, in a run each; then register the best adapted model of each source and target.

    A given `learning_rate` is taken in place of the fixed one and nothing is tuned. `alone`: the run of a transfer is
    all there is, so it holds measures and figures itself, and its rate is its own.
    """
    if learning_rate is not None:
        require(0 <= learning_rate < math.inf, "rate must be >= 0 and finite", learning_rate)
    test_losses: TestLosses = {}
    logged = []
    for shots in dict.fromkeys(cell.shots for cell in cells):
        group = [cell for cell in cells if cell.shots == shots]
        own_config = replace(config, transfer=replace(config.transfer, shots=shots))
        tuned = [TunedCell({"fixed": learning_rate}) for _ in group] if learning_rate is not None else (
            tune_alone(group, own_config) if alone else tune_grid(group, own_config, tables))
        for result in transfer_group(group, tuned, own_config, test_losses):
            logged.append(log_cell(result, own_config, tables, alone=alone))
    register_best(logged, config)


def tune_alone(cells: Sequence[TransferCell], config: Config) -> list[TunedCell]:
    """Tune the rate of each cell by itself; the fixed rate is the middle of the range."""
    return [TunedCell({"tuned": best_rate(trials), "fixed": config.transfer.middle_rate}, trials, name)
            for trials, name in tune_cells(cells, config)]


def tune_cells(cells: Sequence[TransferCell], config: Config) -> list[tuple[list[Trial], str]]:
    """Run an Optuna study of each cell's learning rate; returns its trials and its name."""
    pairs = [(cell.model.checkpoint, cell.target) for cell in cells]
    names = [study_name([pair], pair_title(*pair), config) for pair in pairs]
    studies = [open_study(name, config.transfer.storage) for name in names]
    return list(zip(tune(studies, [[pair] for pair in pairs], config), names, strict=True))


def tune_grid(cells: Sequence[TransferCell], config: Config, tables: Tables) -> list[TunedCell]:
    """Tune a rate for each stage over all its cells at once, with equal budgets, in a run for each stage.

    The tuned rate is the stage's, or with `tune_by=cell` the cell's own best among the same trials. The fixed rate is
    one for all: that of the lowest mean over the stages. Both are chosen on validation text, before test is read.
    """
    stages = {stage: [i for i, cell in enumerate(cells) if cell.model.stage == stage]
              for stage in dict.fromkeys(cell.model.stage for cell in cells)}
    pairs = {stage: [(cells[i].model.checkpoint, cells[i].target) for i in places] for stage, places in stages.items()}
    names = {stage: study_name(pairs[stage], f"{stage}-to-all", config) for stage in stages}
    studies = [open_study(name, config.transfer.storage) for name in names.values()]
    trials_of = dict(zip(stages, tune(studies, list(pairs.values()), config), strict=True))
    fixed = shared_rate(list(trials_of.values()))
    tuned: dict[int, TunedCell] = {}
    for stage, places in stages.items():
        log_stage_tuning(stage, trials_of[stage], names[stage], config, tables)
        for number, i in enumerate(places):
            own = [trial.of_pair(number) for trial in trials_of[stage]]
            chosen = best_rate(own if config.transfer.tune_by == "cell" else trials_of[stage])
            tuned[i] = TunedCell({"tuned": chosen, "fixed": fixed}, own, names[stage])
    return [tuned[i] for i in range(len(cells))]


def scratch_model(untrained: StudiedModel) -> StudiedModel:
    """Make a source of the untrained weights that every training of this seed and vocabulary began with."""
    checkpoint = untrained.checkpoint
    require(checkpoint.step == 0, "the scratch model must be a checkpoint of step 0", checkpoint.step)
    unseen = torch.zeros_like(checkpoint.character_counts_V)
    return StudiedModel(replace(checkpoint, domain="scratch", character_counts_V=unseen), ("scratch",))


def grid_cells(models: Sequence[StudiedModel], corpora: Mapping[str, Corpus], config: Config) -> list[TransferCell]:
    """List the cells of a study: each staged model to every other domain, untrained weights to all, at all shots."""
    seeds = dict.fromkeys(model.seed for model in models)
    scratch = [scratch_model(next(model for model in models if model.checkpoint.step == 0 and model.seed == seed))
               for seed in seeds if any(model.checkpoint.step == 0 and model.seed == seed for model in models)]
    require(bool(scratch), "models must have an untrained one among them", [model.title for model in models])
    staged = [model for model in models
              if model.domain in corpora and set(model.stages) & set(config.transfer.stage_names)]
    return [TransferCell(model, target, corpora.get(model.domain), shots)
            for shots in config.transfer.shot_levels for model in (*scratch, *staged)
            for name, target in corpora.items() if name != model.domain]


def transfer_group(cells: Sequence[TransferCell], tuned: Sequence[TunedCell], config: Config,
                   test_losses: TestLosses) -> Iterator[CellResult]:
    """Run each cell with fresh seeds at each view's rate: what was tuned on is not what is reported."""
    seeds = range(config.seed + 1, config.seed + 1 + config.transfer.transfer_seeds)
    jobs = dict.fromkeys((i, rate, seed) for i, own in enumerate(tuned) for rate in own.rates.values()
                         for seed in seeds)
    curves = fine_tune(cells, jobs, config)
    tests = {job: score_tests(cells[job[0]], points[-1].checkpoint, config, test_losses)
             for job, points in curves.items()}
    for i, (cell, own) in enumerate(zip(cells, tuned, strict=True)):
        runs = [FineTunedRun(view, seed, rate, curves[i, rate, seed], tests[i, rate, seed])
                for view, rate in own.rates.items() for seed in seeds]
        yield CellResult(cell, own.trials, runs, own.study)


Job = tuple[int, float, int]
"""Place of the cell, learning rate, seed."""


def fine_tune(cells: Sequence[TransferCell], jobs: Iterable[Job], config: Config) -> dict[Job, list[AdaptationPoint]]:
    """Run every job, as many together as the configuration allows; returns their learning curves."""
    waiting, size = list(jobs), transfers_together(config)
    curves: dict[Job, list[AdaptationPoint]] = {}
    for begin in range(0, len(waiting), size):
        part = waiting[begin:begin + size]
        members = [FineTuning(cells[i].model.checkpoint, cells[i].target, rate, seed) for i, rate, seed in part]
        for job, points in zip(part, zip(*adapt(members, config), strict=True), strict=True):
            curves[job] = list(points)
    return curves


def score_tests(cell: TransferCell, adapted: Checkpoint | None, config: Config, known: TestLosses) -> Row:
    """Score model and adapted model on the test text of the target and of the model's own domain, where there is one.

    Bits per byte.
    """
    assert adapted is not None
    row: Row = {}
    for corpus, before, after in ((cell.target, "zero_shot_bits_per_byte", "test_bits_per_byte"),
                                  (cell.own, "source_bits_per_byte_before", "source_bits_per_byte_after")):
        if corpus is not None:
            place = cell.model.checkpoint.sha256, corpus.name
            if place not in known:
                known[place] = loss_on_test(cell.model.checkpoint, corpus, config)
            row |= {before: known[place], after: loss_on_test(adapted, corpus, config)}
    return row


def loss_on_test(checkpoint: Checkpoint, corpus: Corpus, config: Config) -> float:
    split = corpus.test.spread(config.analysis.eval_characters)
    return evaluate(build_model(checkpoint, config), checkpoint, split).bits_per_byte
