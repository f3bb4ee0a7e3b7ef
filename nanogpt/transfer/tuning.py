"""Optuna over the learning rate of a transfer. Only training and validation text is read."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nanogpt.config import Config
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.payload import digest_of
from nanogpt.model.processes import is_dead, this_process
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, ZeroShot, adapt, transfers_together

log = logging.getLogger("nanogpt")

OPERATION = "op_code"
"""What every line of a journal names."""
VERSION = 2
"""Of what a trial says: 2 with its digest."""
RATE = "learning_rate"
METRIC = "validation bits per byte"
PROCESS = "process"
"""The attribute of a trial that says which process runs it."""
DIGEST = "sha256"
"""The attribute of a trial with the digest of all that is read of it."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NOT_ASKED = ("stages", "storage", "grid_shots", "transfer_seeds", "together", "tune_by", "tuning_trainings",
             "tuning_targets")
"""Settings that do not change what a study asks: of what else it is asked, and where it is kept."""
BY_PAIR = "by_pair"
"""The attribute of a trial with the loss of each source and target."""
FIRST_TUNING_SEED = 10_000
"""Windows that trials adapt to are drawn with seeds so far above those of the transfers that are reported."""
SECONDS_BETWEEN_LINES = 10.0
STARTUP_TRIALS = 4
"""Trials before the pruner compares, and before TPE models."""
Pair = tuple[Checkpoint, Corpus]
"""What is adapted to what."""
A = TypeVar("A")
R = TypeVar("R")


class Each(Protocol):
    """Does the same work for each input, as `map`, here or elsewhere; elsewhere an iterator's items come as a list."""

    def __call__(self, work: Callable[[A], R], inputs: Sequence[A], /) -> Iterator[R]: ...


@dataclass(frozen=True)
class Trial:
    """One learning rate tried, and the validation losses of its transfers in bits per byte, means over them."""

    number: int
    learning_rate: float
    validation_bits_per_byte: float | None       # the lowest along the curves; None where it was pruned or diverged
    last_bits_per_byte: float | None             # the last one that was reported, of pruned trials too
    state: str                                   # complete, pruned
    by_pair: tuple[float, ...] = ()              # the lowest of each pair; empty where it was pruned or diverged

    def row(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != BY_PAIR}

    def of_pair(self, number: int) -> Trial:
        """Return the trial as that of one pair alone; one that was pruned keeps the mean over all pairs."""
        if not self.by_pair:
            return self
        loss = self.by_pair[number]
        return replace(self, validation_bits_per_byte=loss, last_bits_per_byte=loss, by_pair=())


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Open an Optuna storage: a URL (`sqlite:///…`, `postgresql://…`), or the path of a journal file.

    UserError where it cannot be opened. A journal is read wholly, so that a damaged one is found out here.
    """
    try:
        if "://" in storage:
            return optuna.storages.get_storage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        lock = JournalFileSymlinkLock(storage)
        lock.acquire()
        try:
            prepare_journal(Path(storage))
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(storage, lock))
    except Exception as error:    # of the disk, of the database, of its driver, of a file that is no journal
        raise UserError(f"storage must be a journal file or the URL of a database that answers, got {storage!r} "
                        f"({type(error).__name__})") from error


def prepare_journal(journal: Path) -> None:
    """Cut off half a line at the end, which a full disk leaves: Optuna would write on behind it.

    ValueError where the file is another one or damaged: Optuna would write behind a last line that it cannot read.
    """
    if journal.exists() and not journal.is_file():
        raise ValueError("the path is no file")
    content = journal.read_bytes() if journal.exists() else b""
    whole = content[:content.rfind(b"\n") + 1]
    if not all(OPERATION in json.loads(line) for line in whole.splitlines() or content.splitlines()):
        raise ValueError("the file is no journal")
    if whole != content:
        log.warning("the last line of %s was not written to its end, and is left out", journal)
        os.truncate(journal, len(whole))


def study_name(pairs: Sequence[Pair], title: str, config: Config, owner: str = "") -> str:
    """Name the study by a digest of its question, so that the same question goes on where it stopped.

    What asks for itself alone, beside others that may ask the same at the same time, says so as `owner`.
    """
    question = asdict(config.transfer) | {"version": VERSION, "seed": config.seed, "pairs": [
        [source.sha256, target.row()] for source, target in pairs]}
    for name in (*NOT_ASKED, *(["trials"] if config.transfer.sampler == "tpe" else [])):    # of a grid they are part
        del question[name]
    digest = hashlib.sha256((json.dumps(question, sort_keys=True) + owner).encode()).hexdigest()[:12]
    return f"{title}-{config.transfer.shots}-shots-{digest}"


def pair_title(source: Checkpoint, target: Corpus) -> str:
    return f"{source.domain}-{source.step}-to-{target.name}"


def open_study(name: str, storage: str) -> optuna.Study:
    """Create or load the study, and close the trials of processes that are dead."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name, storage=open_storage(storage), load_if_exists=True, direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([METRIC])
    require(study.direction is StudyDirection.MINIMIZE, f"storage must hold the study {name} as it was made", storage)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if is_dead(trial.user_attrs.get(PROCESS)):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return study


def tune(studies: Sequence[optuna.Study], pairs: Sequence[Sequence[Pair]], config: Config,
         zero_shot: ZeroShot | None = None, each: Each = map) -> list[list[Trial]]:
    """Run trials until each study has `trials` that ended or were pruned; returns them, earlier sessions' first.

    A trial adapts all `pairs` of its study at one rate, each to `tuning_seeds` draws of windows; its value is the mean
    of their lowest validation losses. Transfers of all studies' trials of equal number train as batched models, as
    many together as the configuration says, and each study goes as it would alone. The sampler is seeded by the number
    of ended trials, so a study that is stopped goes on as if it had not been. `zero_shot` is what `adapt`
    takes: losses that are known, to which new ones are added.
    """
    trials_of = [[as_trial(trial, study, number) for number, trial in enumerate(study.get_trials(states=ENDED))]
                 for study in studies]
    zero_shot = {} if zero_shot is None else zero_shot
    for study, of_study in zip(studies, pairs, strict=True):
        describe(study, of_study, config)
    said = time.monotonic()
    while waiting := [i for i, trials in enumerate(trials_of) if len(trials) < config.transfer.trials]:
        running = [RunningTrial(ask(studies[i], len(trials_of[i]), config), pairs[i], config) for i in waiting]
        run_trials(running, config, zero_shot, each)
        for i, trial in zip(waiting, running, strict=True):
            trials_of[i].append(as_trial(trial.end(studies[i]), studies[i], len(trials_of[i])))
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            log.info("      %d of %d trials with %d shots", min(map(len, trials_of)), config.transfer.trials,
                     config.transfer.shots)
    return trials_of


def describe(study: optuna.Study, pairs: Sequence[Pair], config: Config) -> None:
    """Write on a study what is adapted to what, for whoever opens it: `optuna-dashboard`, `optuna.load_study`."""
    said = {"pairs": [pair_title(*pair) for pair in pairs], "shots": config.transfer.shots, "preset": config.preset}
    for name, value in said.items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)


def ask(study: optuna.Study, number: int, config: Config) -> optuna.Trial:
    """Begin the next trial: of the grid in random order, or by TPE after some log-uniform ones."""
    settings = config.transfer
    if settings.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=config.seed * 10_007 + number, n_startup_trials=STARTUP_TRIALS)
        if number == 0:
            study.sampler = always(settings.middle_rate)
    else:       # Optuna's GridSampler stops a study, which ask and tell do not allow
        tried = {trial.params.get(RATE) for trial in study.get_trials(states=(*ENDED, TrialState.RUNNING))}
        untried = [rate for rate in settings.grid_rates if rate not in tried]
        rates = untried or settings.grid_rates      # others may be at all
        study.sampler = always(random.Random(config.seed * 10_007 + number).choice(rates))
    trial = study.ask()
    trial.set_user_attr(PROCESS, this_process())
    trial.suggest_float(RATE, settings.rate_low, settings.rate_high, log=True)
    return trial


def always(rate: float) -> optuna.samplers.BaseSampler:
    """Make a sampler of one rate. A trial that is enqueued instead would be run twice after a kill before it begins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler({RATE: rate}, optuna.samplers.RandomSampler())


class RunningTrial:
    """A trial under way: its transfers, and their losses point by point."""

    def __init__(self, trial: optuna.Trial, pairs: Sequence[Pair], config: Config) -> None:
        self.trial, self.seeds = trial, config.transfer.tuning_seeds
        first = config.seed + FIRST_TUNING_SEED
        self.members = [FineTuning(*pair, trial.params[RATE], first + k) for pair in pairs for k in range(self.seeds)]
        self.lowest = [math.inf] * len(self.members)
        self.reported: dict[int, float] = {}
        self.by_pair: list[float] = []
        self.is_pruned = False

    @property
    def value(self) -> float | None:
        """The mean of the lowest losses; None where it was pruned or one is not finite."""
        mean = sum(self.lowest) / len(self.lowest)
        return mean if math.isfinite(mean) and not self.is_pruned else None

    def report(self, points: Sequence[AdaptationPoint]) -> None:
        """Take the next point of every transfer: the pruner may stop the trial, as does a loss that is not finite."""
        if self.is_pruned:
            return
        mean = sum(point.bits_per_byte for point in points) / len(points)
        self.lowest = [min(low, point.bits_per_byte) for low, point in zip(self.lowest, points, strict=True)]
        if math.isfinite(mean):
            self.trial.report(mean, points[0].step)
            self.reported[points[0].step] = mean
        self.is_pruned = not math.isfinite(mean) or self.trial.should_prune()
        if self.value is not None:
            size = self.seeds
            self.by_pair = [sum(self.lowest[begin:begin + size]) / size for begin in range(0, len(self.lowest), size)]
            self.trial.set_user_attr(BY_PAIR, self.by_pair)

    def end(self, study: optuna.Study) -> optuna.trial.FrozenTrial:
        """Tell the study what came of it, with the digest of all that it says."""
        state = TrialState.PRUNED if self.value is None else TrialState.COMPLETE
        said = [study.study_name, self.trial.number, self.trial.params, self.value, self.reported, self.by_pair]
        self.trial.set_user_attr(DIGEST, digest_of([*said, state.name]))
        return study.tell(self.trial, self.value, state=state)


def run_trials(running: Sequence[RunningTrial], config: Config, zero_shot: ZeroShot | None = None, each: Each = map
               ) -> None:
    """Adapt the members of all trials, as many as one batched model as is configured, and report point by point.

    `each` adapts the batches. Of a curve that comes whole, what was adapted after all its trials were pruned is left.
    """
    members = [member for trial in running for member in trial.members]
    owners = [trial for trial in running for _ in trial.members]
    size = transfers_together(config)
    batches = [slice(begin, begin + size) for begin in range(0, len(members), size)]
    work = functools.partial(adapt, config=config, keep=False, zero_shot=zero_shot)
    curves: list[Iterator[Sequence[AdaptationPoint | None]]] = [
        iter(curve) for curve in each(work, [members[batch] for batch in batches])]
    ended = False
    while not ended:
        latest: list[AdaptationPoint | None] = [None] * len(members)
        for batch, curve in zip(batches, curves, strict=True):
            if not all(trial.is_pruned for trial in owners[batch]):
                latest[batch] = next(curve, latest[batch])
        begin, ended = 0, not any(latest)
        for trial in running:
            known = [point for point in latest[begin:begin + len(trial.members)] if point]
            begin += len(trial.members)
            if len(known) == len(trial.members):
                trial.report(known)


def as_trial(trial: optuna.trial.FrozenTrial, study: optuna.Study, number: int) -> Trial:
    """Read a trial that ended, number so much of those: a trial that a kill has cut off counts for nothing.

    UserError where it is not as it was written: the file of a journal notices no change.
    """
    value = trial.value if trial.state is TrialState.COMPLETE else None
    reported, by_pair = trial.intermediate_values, list(trial.user_attrs.get(BY_PAIR, ()))
    said = [study.study_name, trial.number, trial.params, value, reported, by_pair]
    digest = digest_of([*said, trial.state.name])
    require(trial.user_attrs.get(DIGEST) == digest, "storage must hold trials as they were written (name another one, "
            "or delete it)", f"trial {trial.number} of {study.study_name} changed")
    return Trial(number, trial.params[RATE], value, reported[max(reported)] if reported else None,
                 trial.state.name.lower(), tuple(trial.user_attrs.get(BY_PAIR, ())) if value is not None else ())


def best_rate(trials: Sequence[Trial]) -> float:
    """Choose the learning rate of the lowest validation loss. UserError where no trial ended well."""
    by_loss = [(trial.validation_bits_per_byte, trial.number, trial.learning_rate) for trial in trials
               if trial.validation_bits_per_byte is not None]
    if not by_loss:
        raise UserError(f"learning rates must give at least one finite loss, got none in {len(trials)} trials")
    return min(by_loss)[2]


def shared_rate(trials_of: Sequence[Sequence[Trial]]) -> float:
    """Choose the one learning rate of the lowest mean validation loss over all studies, of those that all ended.

    Where no rate ended in all of them, that which ended in most.
    """
    losses: dict[float, list[float]] = {}
    for trials in trials_of:
        for trial in trials:
            if trial.validation_bits_per_byte is not None:
                losses.setdefault(trial.learning_rate, []).append(trial.validation_bits_per_byte)
    if not losses:
        raise UserError(f"learning rates must give at least one finite loss, got none in {len(trials_of)} studies")
    return min(losses, key=lambda rate: (-len(losses[rate]), sum(losses[rate]) / len(losses[rate]), rate))
