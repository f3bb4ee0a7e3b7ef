"""The transfer phase: a grid of few-shot transfers, tuned, run with fresh seeds, tested and compared."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nanogpt.config import Config, Row
from nanogpt.errors import require
from nanogpt.evaluation.evaluate import losses_together
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.study.cells import Cells, cell_digest
from nanogpt.study.engine import Engine, LocalEngine
from nanogpt.study.estimate import part
from nanogpt.study.inputs import StudiedModel
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables
from nanogpt.study.transfer_runs import (
    CellResult,
    FineTunedRun,
    LoggedPair,
    TransferCell,
    fill_measures,
    log_pair,
    log_stage_tuning,
    lowest_loss,
    read_pair,
    register_best,
)
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, ZeroShot, adapt, few_shot_windows, transfers_together
from nanogpt.transfer.tuning import (
    Each,
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


@dataclass
class Unadapted:
    """What the models of all cells lose before they are adapted, each read once."""

    validation: ZeroShot = field(default_factory=dict)
    test: TestLosses = field(default_factory=dict)


RATES_OF_CELL = 2
"""Rates at which each cell is run: a tuned one and the fixed one."""


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
    cells = grid_cells(study.models, study.corpora, study.config)
    transfer_cells(cells, study.config, study.tables, study.cells, engine=study.engine)
    fill_measures(study.tables)


def check_grid(config: Config, corpora: Mapping[str, Corpus]) -> None:
    """Raise UserError for what a grid of transfers cannot do with these texts and this configuration."""
    require(not config.transfer.extend_vocabulary,
            "extend_vocabulary must be off but in transfer and tune, where one model meets one text",
            config.transfer.extend_vocabulary)
    for corpus in corpora.values():
        few_shot_windows(corpus.train, config.model.block_size, max(config.transfer.shot_levels), config.seed)
    open_storage(config.transfer.storage)


def transfer_cells(cells: Sequence[TransferCell], config: Config, tables: Tables, known: Cells | None = None, *,
                   learning_rate: float | None = None, alone: bool = False, engine: Engine | None = None) -> None:
    """Transfer every cell, log each model and target in a run, and register the best of each source and target.

    Models and targets whose run is among the `known` cells are read back.

    A given `learning_rate` is taken in place of the fixed one and nothing is tuned. `alone`: the run of a transfer is
    all there is, so it holds measures and figures itself, and its rate is its own.
    """
    if learning_rate is not None:
        require(0 <= learning_rate < math.inf, "rate must be >= 0 and finite", learning_rate)
    known, before, size = known or Cells(), Unadapted(), transfers_together(config)
    each: Each = functools.partial((engine or LocalEngine()).each, shared=shared_by(cells, before), models=size)
    tuned: dict[TransferCell, TunedCell] = {}
    for shots in dict.fromkeys(cell.shots for cell in cells):
        group, own_config = [cell for cell in cells if cell.shots == shots], with_shots(config, shots)
        tuned |= zip(group, [TunedCell({"fixed": learning_rate}) for _ in group] if learning_rate is not None else (
            tune_alone(group, own_config, before) if alone else
            tune_grid(group, own_config, tables, known, before, each)), strict=True)
    logged = list[LoggedPair]()
    for pair in logged_pairs(cells, tuned, config, before, known, each, alone=alone):
        pair.add_to(tables)
        logged.append(pair)
    register_best(logged, config)


def shared_by(cells: Sequence[TransferCell], before: Unadapted) -> list[Any]:
    """List the large things that cells have in common, and the losses that whoever reads them adds to."""
    corpora = (corpus for cell in cells for corpus in (cell.target, cell.own) if corpus)
    return [*dict.fromkeys(corpora), *dict.fromkeys(cell.model.checkpoint for cell in cells), before.validation]


@dataclass(frozen=True)
class PairsToDo:
    """A group of cells that are transferred together, and those of its pairs, by digest, that are not known yet."""

    cells: Sequence[TransferCell]
    tuned: Sequence[TunedCell]
    digests: Mapping[tuple[str, str], str]


def logged_pairs(cells: Sequence[TransferCell], tuned: Mapping[TransferCell, TunedCell], config: Config,
                 before: Unadapted, known: Cells, each: Each, *, alone: bool) -> Iterator[LoggedPair]:
    """Transfer all pairs, group by group, but for those that are known, which are read back."""
    groups = list(groups_of_pairs(cells, config))
    whole = {cell.pair: known.whole(pair_digest(cell, config)) for cell in {cell.pair: cell for cell in cells}.values()}
    unknown = [PairsToDo(group, [tuned[cell] for cell in group], digests) for group in groups if (
        digests := {cell.pair: pair_digest(cell, config) for cell in group if not whole[cell.pair]})]
    if unknown:
        before.test |= test_losses(cells, config, each)
    work = functools.partial(transfer_and_log, config=config, before=before, known=known, alone=alone)
    done, logged = each(work, unknown), 0
    for group in groups:
        of_group = {cell.pair: [other for other in group if other.pair == cell.pair] for cell in group}
        new = next(done) if not all(whole[pair] for pair in of_group) else {}
        for pair, of_pair in of_group.items():
            run = whole[pair]
            yield read_pair(run, of_pair, known) if run else new[pair]
        logged += len(of_group)
        log.info("      %d of %d transfers", logged, len(whole), extra=part(logged, len(whole)))


def transfer_and_log(to_do: PairsToDo, config: Config, before: Unadapted, known: Cells, *, alone: bool
                     ) -> dict[tuple[str, str], LoggedPair]:
    """Transfer a group and log its pairs that are not known; those that a worker logged before it died are read."""
    whole = {pair: known.whole(digest) for pair, digest in to_do.digests.items()}
    tuned = dict(zip(to_do.cells, to_do.tuned, strict=True))
    done = {} if all(whole.values()) else transfer_pairs(to_do.cells, tuned, config, before)
    return {pair: read_pair(run, [cell for cell in to_do.cells if cell.pair == pair], known) if (run := whole[pair])
            else log_pair(*done[pair], config, digest, alone=alone) for pair, digest in to_do.digests.items()}


def with_shots(config: Config, shots: int) -> Config:
    return replace(config, transfer=replace(config.transfer, shots=shots))


def pair_digest(cell: TransferCell, config: Config) -> str:
    """Return the digest of the cell of a model and a target, with all shots."""
    corpora = [corpus for corpus in (cell.target, cell.own) if corpus]
    return cell_digest("transfer", config, corpora, cell.pair, cell.model.stages)


def groups_of_pairs(cells: Sequence[TransferCell], config: Config) -> Iterator[list[TransferCell]]:
    """Cut the cells into groups of whole pairs that fill a batched model with the transfers of equal shots.

    Each group is logged before the next one begins. Groups do not depend on what is done already: how transfers are
    batched may change their last bit.
    """
    pairs = list(dict.fromkeys(cell.pair for cell in cells))
    size = max(1, transfers_together(config) // (RATES_OF_CELL * config.transfer.transfer_seeds))
    for begin in range(0, len(pairs), size):
        yield [cell for cell in cells if cell.pair in pairs[begin:begin + size]]


def transfer_pairs(cells: Sequence[TransferCell], tuned: Mapping[TransferCell, TunedCell], config: Config,
                   before: Unadapted) -> dict[tuple[str, str], tuple[list[CellResult], Checkpoint]]:
    """Run some pairs with all their shots; gives the results of each and its best adapted model."""
    results, best = dict[tuple[str, str], list[CellResult]](), BestAdapted()
    for shots in dict.fromkeys(cell.shots for cell in cells):
        group = [cell for cell in cells if cell.shots == shots]
        for result in transfer_group(group, [tuned[cell] for cell in group], with_shots(config, shots), before, best):
            results.setdefault(result.cell.pair, []).append(result)
    return {pair: (of_pair, best[pair][1]) for pair, of_pair in results.items()}


def tune_alone(cells: Sequence[TransferCell], config: Config, before: Unadapted) -> list[TunedCell]:
    """Tune the rate of each cell by itself; the fixed rate is the middle of the range."""
    return [TunedCell({"tuned": best_rate(trials), "fixed": config.transfer.middle_rate}, trials, name)
            for trials, name in tune_cells(cells, config, before.validation)]


def tune_cells(cells: Sequence[TransferCell], config: Config, zero_shot: ZeroShot | None = None,
               ) -> list[tuple[list[Trial], str]]:
    """Run an Optuna study of each cell's learning rate; returns its trials and its name."""
    pairs = [(cell.model.checkpoint, cell.target) for cell in cells]
    names = [study_name([pair], pair_title(*pair), config) for pair in pairs]
    studies = [open_study(name, config.transfer.storage) for name in names]
    return list(zip(tune(studies, [[pair] for pair in pairs], config, zero_shot), names, strict=True))


def tune_grid(cells: Sequence[TransferCell], config: Config, tables: Tables, known: Cells, before: Unadapted,
              each: Each) -> list[TunedCell]:
    """Tune a rate for each stage over cells of all its pairs at once, with equal budgets, in a run for each stage.

    The tuned rate is the stage's, or with `tune_by=cell` the cell's own best among the same trials. The fixed rate is
    one for all: that of the lowest mean over the stages. Both are chosen on validation text, before test is read.
    """
    stages = {stage: [i for i, cell in enumerate(cells) if cell.model.stage == stage]
              for stage in dict.fromkeys(cell.model.stage for cell in cells)}
    tuned_on = {stage: tuning_places(places, cells, config) for stage, places in stages.items()}
    pairs = {stage: [(cells[i].model.checkpoint, cells[i].target) for i in tuned_on[stage]] for stage in stages}
    names = {stage: study_name(pairs[stage], f"{stage}-to-all", config, known.owner) for stage in stages}
    studies = [open_study(name, config.transfer.storage) for name in names.values()]
    tried = tune(studies, list(pairs.values()), config, before.validation, each)
    trials_of = dict(zip(stages, tried, strict=True))
    fixed = shared_rate(list(trials_of.values()))
    tuned: dict[int, TunedCell] = {}
    for stage, places in stages.items():
        log_stage_tuning(stage, trials_of[stage], names[stage], config, tables, known)
        for i in places:
            own = [trial.of_pair(tuned_on[stage].index(i)) for trial in trials_of[stage] if i in tuned_on[stage]]
            chosen = best_rate(own if config.transfer.tune_by == "cell" else trials_of[stage])
            tuned[i] = TunedCell({"tuned": chosen, "fixed": fixed}, own, names[stage])
    return [tuned[i] for i in range(len(cells))]


def tuning_places(places: Sequence[int], cells: Sequence[TransferCell], config: Config) -> list[int]:
    """Choose the cells of a stage that its rate is tuned over; all of them where each cell has a rate of its own.

    Else those of the first trainings of each source, to the targets that come next after it in a circle; from random
    weights to all targets.
    """
    if config.transfer.tune_by == "cell":
        return list(places)
    first = sorted({cells[i].model.seed for i in places})[:config.transfer.tuning_trainings]
    targets = list(dict.fromkeys(cells[i].target.name for i in places))
    next_ones = {source: targets_after(source, targets)[:config.transfer.tuning_targets or None] for source in targets}
    return [i for i in places if cells[i].model.seed in first
            and cells[i].target.name in next_ones.get(cells[i].model.domain, targets)]


def targets_after(source: str, targets: Sequence[str]) -> list[str]:
    """List the targets of a source, which is one of them, beginning with the one behind it."""
    place = targets.index(source)
    return [*targets[place + 1:], *targets[:place]]


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


Job = tuple[int, float, int]
"""Place of the cell, learning rate, seed."""
BestAdapted = dict[tuple[str, str], tuple[float, Checkpoint]]
"""Model and target to the lowest validation loss of its transfers, with whatever shots, and the weights there."""


@dataclass(frozen=True)
class FineTuned:
    """What is kept of a fine-tuning: its curve without weights, the step it was stopped at, its test losses."""

    points: list[AdaptationPoint]
    stopped_step: int
    test: Row


def transfer_group(cells: Sequence[TransferCell], tuned: Sequence[TunedCell], config: Config, before: Unadapted,
                   best: BestAdapted) -> Iterator[CellResult]:
    """Run each cell with fresh seeds at each view's rate: what was tuned on is not what is reported."""
    seeds = range(config.seed + 1, config.seed + 1 + config.transfer.transfer_seeds)
    waiting = list(dict.fromkeys((i, rate, seed) for i, own in enumerate(tuned) for rate in own.rates.values()
                                 for seed in seeds))
    size, done = transfers_together(config), dict[Job, FineTuned]()
    for begin in range(0, len(waiting), size):
        jobs = waiting[begin:begin + size]
        done |= zip(jobs, fine_tune(jobs, cells, config, before, best), strict=True)
    for i, (cell, own) in enumerate(zip(cells, tuned, strict=True)):
        ended = [(view, seed, rate, done[i, rate, seed]) for view, rate in own.rates.items() for seed in seeds]
        runs = [FineTunedRun(view, seed, rate, job.points, job.stopped_step, job.test)
                for view, seed, rate, job in ended]
        result = CellResult(cell, own.trials, runs, own.study)
        log.info("      %s · rate %.2g · %.3f → %.3f bits per byte", cell.title, result.best.learning_rate,
                 result.best.test["zero_shot_bits_per_byte"], result.best.test["test_bits_per_byte"])
        yield result


def fine_tune(jobs: Sequence[Job], cells: Sequence[TransferCell], config: Config, before: Unadapted,
              best: BestAdapted) -> Iterator[FineTuned]:
    """Run some jobs as one model and score them on test text; of the weights those that are the best are kept."""
    members = [FineTuning(cells[i].model.checkpoint, cells[i].target, rate, seed) for i, rate, seed in jobs]
    curves = list(zip(*adapt(members, config, zero_shot=before.validation), strict=True))
    adapted = [points[-1].checkpoint for points in curves]
    assert all(adapted)
    checkpoints = [checkpoint for checkpoint in adapted if checkpoint]
    own = [cells[i].own for i, *_ in jobs]
    on_target = losses_on_test(checkpoints, [cells[i].target for i, *_ in jobs], config)
    on_own = iter(losses_on_test([checkpoint for checkpoint, corpus in zip(checkpoints, own, strict=True) if corpus],
                                 [corpus for corpus in own if corpus], config))
    for (i, *_), points, checkpoint, after in zip(jobs, curves, checkpoints, on_target, strict=True):
        cell, loss = cells[i], lowest_loss(points)
        test = {"zero_shot_bits_per_byte": before.test[cell.pair], "test_bits_per_byte": after}
        if cell.own:
            test |= {"source_bits_per_byte_before": before.test[cell.pair[0], cell.own.name],
                     "source_bits_per_byte_after": next(on_own)}
        if cell.pair not in best or loss < best[cell.pair][0]:
            best[cell.pair] = loss, checkpoint
        yield FineTuned([replace(point, checkpoint=None) for point in points], checkpoint.step, test)


def test_losses(cells: Sequence[TransferCell], config: Config, each: Each) -> TestLosses:
    """Score the models of all cells, before they are adapted, on the test texts of targets and of their own domains."""
    wanted = {(cell.model.checkpoint.sha256, corpus.name): (cell.model.checkpoint, corpus)
              for cell in cells for corpus in (cell.target, cell.own) if corpus}
    checkpoints, corpora = zip(*wanted.values(), strict=True)
    return dict(zip(wanted, losses_on_test(checkpoints, corpora, config, each), strict=True))


def losses_on_test(checkpoints: Sequence[Checkpoint], corpora: Sequence[Corpus], config: Config, each: Each = map
                   ) -> list[float]:
    """Score each checkpoint on the test text of the corpus in its place, bits per byte, as many together as may be."""
    size, scored = transfers_together(config), list(zip(checkpoints, corpora, strict=True))
    batches = [scored[begin:begin + size] for begin in range(0, len(scored), size)]
    return [loss for losses in each(functools.partial(losses_of_batch, config=config), batches) for loss in losses]


def losses_of_batch(scored: Sequence[tuple[Checkpoint, Corpus]], config: Config) -> list[float]:
    splits = [corpus.test.spread(config.analysis.eval_characters) for _, corpus in scored]
    losses = losses_together([checkpoint for checkpoint, _ in scored], splits, resolve_device(config.device))
    return [bits_per_byte for bits_per_byte, _ in losses]
