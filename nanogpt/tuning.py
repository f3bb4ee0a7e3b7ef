"""Optuna over the learning rate of a transfer. Only training and validation text is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config
from nanogpt.corpus import Corpus
from nanogpt.transfer import AdaptationPoint, adapt

RATE = "learning_rate"


@dataclass(frozen=True)
class Trial:
    """One learning rate tried: the validation loss at the end of the transfer, None where it was pruned."""

    number: int
    learning_rate: float
    validation_bits_per_byte: float | None
    state: str                                   # complete, pruned

    def row(self) -> dict[str, object]:
        return asdict(self)


def open_storage(storage: str) -> optuna.storages.BaseStorage | str:
    """An Optuna storage: a URL (`sqlite:///…`, `postgresql://…`), or the path of a journal file."""
    if "://" in storage:
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def study_name(checkpoint: Checkpoint, target: Corpus, config: Config) -> str:
    """The same name for the same question, so that a study goes on where it stopped: what is asked is in its digest."""
    asked = asdict(config.transfer) | {"seed": config.seed, "source": checkpoint.sha256, "target": target.row()}
    for name in ("trials", "stages", "storage"):  # how much is asked, of what else, and where it is kept
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


def tune(study: optuna.Study, checkpoint: Checkpoint, target: Corpus, config: Config) -> Iterator[Trial]:
    """Yield every trial, those of earlier sessions first, until `trials` have ended well or been pruned.

    The first rate is the geometric middle of the range, the others are log-uniform. The sampler is seeded by the
    number of ended trials, so 5 + 5 trials equal 10.
    """
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    done = study.get_trials(states=ended)
    yield from map(as_trial, done)
    for number in range(len(done), config.transfer.trials):
        study.sampler = optuna.samplers.TPESampler(seed=config.seed * 10_007 + number, n_startup_trials=4)
        if number == 0:
            middle = math.sqrt(config.transfer.rate_low * config.transfer.rate_high)
            study.enqueue_trial({RATE: middle}, skip_if_exists=True)
        trial = study.ask()
        rate = trial.suggest_float(RATE, config.transfer.rate_low, config.transfer.rate_high, log=True)
        value, state = run_trial(trial, adapt(checkpoint, target, config, rate, seed=config.seed))
        yield as_trial(study.tell(trial, value, state=state))


def run_trial(trial: optuna.Trial, curve: Iterator[AdaptationPoint]) -> tuple[float | None, TrialState]:
    """Report the curve as it grows; its last loss, or pruned where the pruner says so or the loss is not finite."""
    value = math.nan
    for point in curve:
        value = point.bits_per_byte
        if not math.isfinite(value):
            return None, TrialState.PRUNED
        trial.report(value, point.step)
        if trial.should_prune():
            return None, TrialState.PRUNED
    return value, TrialState.COMPLETE


def as_trial(trial: optuna.trial.FrozenTrial) -> Trial:
    value = trial.value if trial.state is TrialState.COMPLETE else None
    return Trial(trial.number, trial.params[RATE], value, trial.state.name.lower())


def best_rate(trials: list[Trial]) -> float:
    """The learning rate of the lowest validation loss. ValueError where no trial ended well."""
    ended = [t for t in trials if t.validation_bits_per_byte is not None]
    if not ended:
        raise ValueError(f"learning rates must give at least one finite loss, got none in {len(trials)} trials")
    return min(ended, key=lambda t: (t.validation_bits_per_byte, t.number)).learning_rate
