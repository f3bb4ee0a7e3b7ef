"""Optuna over the learning rate of a transfer. Only training and validation text is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt

RATE = "learning_rate"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NOT_ASKED = ("trials", "stages", "storage", "grid_shots", "transfer_seeds", "together")
"""Settings that do not change what a study asks: how much is asked, of what else, and where it is kept."""


@dataclass(frozen=True)
class Trial:
    """One learning rate tried: the validation loss at the end of the transfer, None where it was pruned."""

    number: int
    learning_rate: float
    validation_bits_per_byte: float | None
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
    """The same name for the same question, so that a study goes on where it stopped: what is asked is in its digest."""
    asked = asdict(config.transfer) | {"seed": config.seed, "source": checkpoint.sha256, "target": target.row()}
    for name in NOT_ASKED:
        del asked[name]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return f"{checkpoint.domain}-{checkpoint.step}-to-{target.name}-{config.transfer.shots}-shots-{digest}"


def open_study(checkpoint: Checkpoint, target: Corpus, config: Config, storage: str) -> optuna.Study:
    """Create or load the study, and close what a killed process left running."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=study_name(checkpoint, target, config), storage=open_storage(storage), load_if_exists=True,
        direction="minimize", pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1))
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def tune(studies: Sequence[optuna.Study], sources: Sequence[tuple[Checkpoint, Corpus]],
         config: Config) -> list[list[Trial]]:
    """The trials of each study, those of earlier sessions first, until each has `trials` that ended or were pruned.

    `sources` are checkpoint and target of each study; trials of equal number train as one batched model, and each
    study goes as it would alone. The sampler is seeded by the number of ended trials, so 5 + 5 trials equal 10.
    """
    found = [[as_trial(trial) for trial in study.get_trials(states=ENDED)] for study in studies]
    while waiting := [i for i, trials in enumerate(found) if len(trials) < config.transfer.trials]:
        asked = [ask(studies[i], len(found[i]), config) for i in waiting]
        members = [FineTuning(*sources[i], trial.params[RATE], config.seed)
                   for i, trial in zip(waiting, asked, strict=True)]
        for i, trial, value in zip(waiting, asked, run_trials(asked, adapt(members, config)), strict=True):
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            found[i].append(as_trial(studies[i].tell(trial, value, state=state)))
    return found


def ask(study: optuna.Study, number: int, config: Config) -> optuna.Trial:
    """The next trial: the first rate is the geometric middle of the range, the others are log-uniform."""
    low, high = config.transfer.rate_low, config.transfer.rate_high
    study.sampler = optuna.samplers.TPESampler(seed=config.seed * 10_007 + number, n_startup_trials=4)
    if number == 0 and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial({RATE: config.transfer.middle_rate})
    trial = study.ask()
    trial.suggest_float(RATE, low, high, log=True)
    return trial


def run_trials(trials: Sequence[optuna.Trial], curves: Iterator[list[AdaptationPoint]]) -> list[float | None]:
    """Report the curves as they grow; the last loss of each, or None where it was pruned or is not finite."""
    values: list[float | None] = [math.inf] * len(trials)
    for points in curves:
        for i, (trial, point) in enumerate(zip(trials, points, strict=True)):
            if values[i] is not None:
                values[i] = reported(trial, point)
        if not any(value is not None for value in values):
            break
    return values


def reported(trial: optuna.Trial, point: AdaptationPoint) -> float | None:
    """The loss at the point, None where the pruner stops the trial there or the loss is not finite."""
    if not math.isfinite(point.bits_per_byte):
        return None
    trial.report(point.bits_per_byte, point.step)
    return None if trial.should_prune() else point.bits_per_byte


def as_trial(trial: optuna.trial.FrozenTrial) -> Trial:
    value = trial.value if trial.state is TrialState.COMPLETE else None
    return Trial(trial.number, trial.params[RATE], value, trial.state.name.lower())


def best_rate(trials: list[Trial]) -> float:
    """The learning rate of the lowest validation loss. UserError where no trial ended well."""
    ended = [t for t in trials if t.validation_bits_per_byte is not None]
    if not ended:
        raise UserError(f"learning rates must give at least one finite loss, got none in {len(trials)} trials")
    return min(ended, key=lambda t: (t.validation_bits_per_byte, t.number)).learning_rate
