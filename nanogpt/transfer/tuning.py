"""Optuna over the learning rate of a transfer. Only training and validation text is read."""

from __future__ import annotations

import hashlib
import json
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt

RATE = "learning_rate"
PROCESS = "process"
"""The attribute of a trial that says which process runs it."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NOT_ASKED = ("trials", "stages", "storage", "grid_shots", "transfer_seeds", "together")
"""Settings that do not change what a study asks: how much is asked, of what else, and where it is kept."""


@dataclass(frozen=True)
class Trial:
    """One learning rate tried, and the validation losses of its transfer in bits per byte."""

    number: int
    learning_rate: float
    validation_bits_per_byte: float | None       # at the end; None where it was pruned or diverged
    last_bits_per_byte: float | None             # the last one that was reported, of pruned trials too
    state: str                                   # complete, pruned

    def row(self) -> dict[str, object]:
        return asdict(self)


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Open an Optuna storage: a URL (`sqlite:///…`, `postgresql://…`), or the path of a journal file.

    UserError where it cannot be opened.
    """
    try:
        if "://" in storage:
            return optuna.storages.get_storage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    except Exception as error:    # of the disk, of the database, of its driver, of a file that is no journal
        raise UserError(f"storage must be a journal file or the URL of a database that answers, got {storage!r} "
                        f"({type(error).__name__})") from error


def study_name(checkpoint: Checkpoint, target: Corpus, config: Config) -> str:
    """Name the study by a digest of its question, so that the same question goes on where it stopped."""
    question = asdict(config.transfer) | {"seed": config.seed, "source": checkpoint.sha256, "target": target.row()}
    for name in NOT_ASKED:
        del question[name]
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12]
    return f"{checkpoint.domain}-{checkpoint.step}-to-{target.name}-{config.transfer.shots}-shots-{digest}"


def open_study(checkpoint: Checkpoint, target: Corpus, config: Config, storage: str) -> optuna.Study:
    """Create or load the study, and close the trials of processes that are dead."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=study_name(checkpoint, target, config), storage=open_storage(storage), load_if_exists=True,
        direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1))
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if is_dead(trial.user_attrs.get(PROCESS)):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return study


def this_process() -> dict[str, object]:
    """Say which process runs a trial, so that another one can tell whether it still lives."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def is_dead(process: Mapping[str, Any] | None) -> bool:
    """Tell whether a process is provably dead: of this host, and gone, or its number is another process's by now."""
    if process is None or process["host"] != socket.gethostname():
        return False
    try:
        return psutil.Process(process["pid"]).create_time() != process["started"]
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def tune(studies: Sequence[optuna.Study], pairs: Sequence[tuple[Checkpoint, Corpus]],
         config: Config) -> list[list[Trial]]:
    """Run trials until each study has `trials` that ended or were pruned; returns them, earlier sessions' first.

    `pairs` are checkpoint and target of each study; trials of equal number train as one batched model, and each
    study goes as it would alone. The sampler is seeded by the number of ended trials, so 5 + 5 trials equal 10.
    """
    trials_of = [[as_trial(trial) for trial in study.get_trials(states=ENDED)] for study in studies]
    while waiting := [i for i, trials in enumerate(trials_of) if len(trials) < config.transfer.trials]:
        running = [ask(studies[i], len(trials_of[i]), config) for i in waiting]
        members = [FineTuning(*pairs[i], trial.params[RATE], config.seed)
                   for i, trial in zip(waiting, running, strict=True)]
        for i, trial, value in zip(waiting, running, run_trials(running, adapt(members, config)), strict=True):
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            trials_of[i].append(as_trial(studies[i].tell(trial, value, state=state)))
    return trials_of


def ask(study: optuna.Study, number: int, config: Config) -> optuna.Trial:
    """Begin the next trial: the first rate is the geometric middle of the range, the others are log-uniform."""
    low, high = config.transfer.rate_low, config.transfer.rate_high
    study.sampler = optuna.samplers.TPESampler(seed=config.seed * 10_007 + number, n_startup_trials=4)
    if number == 0 and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial({RATE: config.transfer.middle_rate})
    trial = study.ask()
    trial.set_user_attr(PROCESS, this_process())
    trial.suggest_float(RATE, low, high, log=True)
    return trial


def run_trials(trials: Sequence[optuna.Trial], curves: Iterator[list[AdaptationPoint]]) -> list[float | None]:
    """Report the curves as they grow; returns the last loss of each, or None where it was pruned or is not finite."""
    values: list[float | None] = [math.inf] * len(trials)
    for points in curves:
        for i, (trial, point) in enumerate(zip(trials, points, strict=True)):
            if values[i] is not None:
                values[i] = report_point(trial, point)
        if not any(value is not None for value in values):
            break
    return values


def report_point(trial: optuna.Trial, point: AdaptationPoint) -> float | None:
    """Report the loss at a point; returns it, or None where the pruner stops the trial or the loss is not finite."""
    if not math.isfinite(point.bits_per_byte):
        return None
    trial.report(point.bits_per_byte, point.step)
    return None if trial.should_prune() else point.bits_per_byte


def as_trial(trial: optuna.trial.FrozenTrial) -> Trial:
    value = trial.value if trial.state is TrialState.COMPLETE else None
    reported = trial.intermediate_values
    return Trial(trial.number, trial.params[RATE], value, reported[max(reported)] if reported else None,
                 trial.state.name.lower())


def best_rate(trials: Sequence[Trial]) -> float:
    """Choose the learning rate of the lowest validation loss. UserError where no trial ended well."""
    by_loss = [(trial.validation_bits_per_byte, trial.number, trial.learning_rate) for trial in trials
               if trial.validation_bits_per_byte is not None]
    if not by_loss:
        raise UserError(f"learning rates must give at least one finite loss, got none in {len(trials)} trials")
    return min(by_loss)[2]
