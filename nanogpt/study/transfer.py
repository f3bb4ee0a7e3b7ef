"""The transfer phase: a grid of few-shot transfers, tuned, run with fresh seeds, tested and compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from nanogpt.config import Config, Row
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.study.inputs import StudiedModel, build_model
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables
from nanogpt.study.transfer_runs import (
    CellResult,
    FineTunedRun,
    TransferCell,
    fill_measures,
    log_cell,
    register_best,
)
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt, few_shot_windows
from nanogpt.transfer.tuning import Trial, best_rate, open_storage, open_study, tune

log = logging.getLogger("nanogpt")

TOGETHER_ON_GPU = 64
TestLosses = dict[tuple[str, str], float]
"""(checkpoint's SHA-256, domain) to the bits per byte on the test text: of the models before they are adapted."""


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
    all there is, so it holds measures and figures itself.
    """
    if learning_rate is not None:
        require(0 <= learning_rate < math.inf, "rate must be >= 0 and finite", learning_rate)
    test_losses: TestLosses = {}
    logged = []
    for group in groups(cells, cells_together(config)):
        shots_config = replace(config, transfer=replace(config.transfer, shots=group[0].shots))
        for result in transfer_group(group, shots_config, learning_rate, test_losses):
            logged.append(log_cell(result, shots_config, tables, alone=alone))
    register_best(logged, config)


def scratch_model(untrained: StudiedModel) -> StudiedModel:
    """Make a source of the untrained weights that every training of this seed and vocabulary began with."""
    checkpoint = untrained.checkpoint
    require(checkpoint.step == 0, "the scratch model must be a checkpoint of step 0", checkpoint.step)
    unseen = torch.zeros_like(checkpoint.character_counts_V)
    return StudiedModel(replace(checkpoint, domain="scratch", character_counts_V=unseen), ("scratch",))


def grid_cells(models: Sequence[StudiedModel], corpora: Mapping[str, Corpus], config: Config) -> list[TransferCell]:
    """List the cells of a study: each staged model to every other domain, untrained weights to all, at all shots."""
    scratch = scratch_model(next(model for model in models if model.checkpoint.step == 0))
    staged = [model for model in models
              if model.domain in corpora and set(model.stages) & set(config.transfer.stage_names)]
    return [TransferCell(model, target, corpora.get(model.domain), shots)
            for shots in config.transfer.shot_levels for model in (scratch, *staged)
            for name, target in corpora.items() if name != model.domain]


def cells_together(config: Config) -> int:
    """Say how many transfers train as one model."""
    on_gpu = resolve_device(config.device).type == "cuda"
    return config.transfer.together or (TOGETHER_ON_GPU if on_gpu else 1)


def groups(cells: Sequence[TransferCell], size: int) -> Iterator[list[TransferCell]]:
    """Yield at most `size` cells of equal shots at a time, in order."""
    for shots in dict.fromkeys(cell.shots for cell in cells):
        equal = [cell for cell in cells if cell.shots == shots]
        yield from (equal[begin:begin + size] for begin in range(0, len(equal), size))


def transfer_group(cells: Sequence[TransferCell], config: Config, learning_rate: float | None,
                   test_losses: TestLosses) -> Iterator[CellResult]:
    """Tune each cell and run it with fresh seeds at each view's rate: what was tuned on is not what is reported."""
    trials = tune_cells(cells, config) if learning_rate is None else [[] for _ in cells]
    fixed = config.transfer.middle_rate if learning_rate is None else learning_rate
    rates = [{"tuned": best_rate(tried), "fixed": fixed} if tried else {"fixed": fixed} for tried in trials]
    seeds = range(config.seed + 1, config.seed + 1 + config.transfer.transfer_seeds)
    jobs = dict.fromkeys((i, rate, seed) for i in range(len(cells)) for rate in rates[i].values() for seed in seeds)
    curves = fine_tune(cells, jobs, config)
    tests = {job: score_tests(cells[job[0]], points[-1].checkpoint, config, test_losses)
             for job, points in curves.items()}
    for i, cell in enumerate(cells):
        runs = [FineTunedRun(view, seed, rate, curves[i, rate, seed], tests[i, rate, seed])
                for view, rate in rates[i].items() for seed in seeds]
        yield CellResult(cell, trials[i], runs)


def tune_cells(cells: Sequence[TransferCell], config: Config) -> list[list[Trial]]:
    """Run the Optuna study of each cell's learning rate."""
    pairs = [(cell.model.checkpoint, cell.target) for cell in cells]
    return tune([open_study(*pair, config, config.transfer.storage) for pair in pairs], pairs, config)


Job = tuple[int, float, int]
"""Place of the cell, learning rate, seed."""


def fine_tune(cells: Sequence[TransferCell], jobs: Iterable[Job], config: Config) -> dict[Job, list[AdaptationPoint]]:
    """Run every job, as many together as the configuration allows; returns their learning curves."""
    waiting, size = list(jobs), cells_together(config)
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
