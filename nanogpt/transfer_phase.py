"""Few-shot transfers, each in a run of its own with its trials below it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from nanogpt import figures, registry, study
from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config, require
from nanogpt.corpus import Corpus
from nanogpt.evaluation import evaluate
from nanogpt.inputs import Source, Tables, log_tables
from nanogpt.study import Row
from nanogpt.tracking import Run, open_run
from nanogpt.transfer import AdaptationPoint, adapt
from nanogpt.tuning import Trial, best_rate, open_study, tune
from nanogpt.verification import record

log = logging.getLogger("nanogpt")


def scratch_source(source: Source) -> Source:
    """The untrained weights that every training of this seed and vocabulary began with, as a source of their own."""
    checkpoint = source.checkpoint
    require(checkpoint.step == 0, "the scratch model must be a checkpoint of step 0", checkpoint.step)
    unseen = torch.zeros_like(checkpoint.character_counts_V)
    return Source(replace(checkpoint, domain="scratch", character_counts_V=unseen), "scratch")


def transfer(source: Source, target: Corpus, own: Corpus | None, config: Config, tables: Tables,
             learning_rate: float | None = None, *, draw: bool = True) -> Checkpoint:
    """Adapt `source` to `target` in a run of its own, at a given or a tuned rate; trials are runs below it.

    The rate is chosen on validation; the run at the chosen rate draws other windows and alone reads test. `own` is
    the source's corpus, read before and after to see what was forgotten.
    """
    names = transfer_names(source, target, config)
    if learning_rate is not None:
        require(learning_rate >= 0, "learning rate must be >= 0", learning_rate)
    with open_run(f"transfer {source.title} → {target.name} · {config.transfer.shots} shots · {config.preset} · "
                  f"seed {config.seed}", config, phase="transfer", parent_uri=source.uri,
                  corpus_sha256=target.source.sha256, vocabulary_sha256=target.vocabulary.sha256, **names) as run:
        tables.links[run.name] = run.link
        trials = tune_rate(source, target, config, run) if learning_rate is None else []
        rate = best_rate(trials) if learning_rate is None else learning_rate
        points = list(adapt(source.checkpoint, target, config, rate, seed=config.seed + 1))
        adapted = points[-1].checkpoint
        assert adapted is not None
        for point in points:
            run.metrics({"transfer/bits_per_byte": point.bits_per_byte}, point.step)
        summary = names | {"learning_rate": rate, "trials": len(trials)}
        summary |= before_and_after(source.checkpoint, adapted, target, own, config)
        run.metrics({f"transfer/{name}": value for name, value in summary.items()
                     if isinstance(value, float)}, config.transfer.transfer_steps)
        path = run.checkpoint(adapted, "adapted.pt")
        mine = Tables()
        mine.add("transfers", [summary])
        mine.add("transfer_curves", curve_rows(points, names | {"learning_rate": rate}))
        mine.add("trials", [names | trial.row() for trial in trials])
        log_tables(run, mine)
        if draw:
            score = record(target.name, config.transfer.curve_characters, points[-1].bits_per_byte)
            register_adapted(adapted, path, source, run, {"preset": config.preset, **score})
            run.figure(figures.transfer_curves(mine.frame("transfer_curves")), "transfer_curve")
            run.figure(figures.tuning_history(mine.frame("trials")), "trials")
        run.describe(f"From **{summary['zero_shot_bits_per_byte']:.3f}** to **{summary['test_bits_per_byte']:.3f}** "
                     f"bits per byte on {target.name} (test) at learning rate {rate:.2g}.")
    tables.add_all(mine)
    log.info("      %s → %s · rate %.2g · %.3f → %.3f bits per byte", source.title, target.name, rate,
             summary["zero_shot_bits_per_byte"], summary["test_bits_per_byte"])
    return adapted


def register_adapted(adapted: Checkpoint, path: Path, source: Source, run: Run, tags: Mapping[str, str]) -> None:
    """Register an adapted model, with the version that it came from as its parent; its newest version is `final`."""
    parent = registry.version_of(source.uri).uri if source.uri.startswith("models:/") else source.uri
    tags = {**tags, "parent": parent, "vocabulary_sha256": adapted.vocabulary.sha256}
    model_id = registry.log_model(adapted, path, {"domain": adapted.domain, "step": adapted.step, **tags})
    run.metrics({"validation/bits_per_byte": float(tags["bits_per_byte"])}, adapted.step, model_id)
    registry.set_alias(registry.register(adapted, model_id, run.id, tags), "final")


def transfer_names(source: Source, target: Corpus, config: Config) -> Row:
    return {"source": source.checkpoint.domain, "stage": source.stage, "checkpoint_step": source.checkpoint.step,
            "target": target.name, "shots": config.transfer.shots}


def tune_rate(source: Source, target: Corpus, config: Config, run: Run) -> list[Trial]:
    """The Optuna study of the learning rate; each trial is a run below the open one."""
    optuna_study = open_study(source.checkpoint, target, config, config.transfer.storage)
    run.tags({"optuna_study": optuna_study.study_name, "optuna_storage": config.transfer.storage})
    trials = []
    for trial in tune(optuna_study, source.checkpoint, target, config):
        trials.append(trial)
        with open_run(f"trial {trial.number}", phase="trial", state=trial.state) as child:
            child.metrics({"tune/learning_rate": trial.learning_rate})
            if trial.validation_bits_per_byte is not None:
                child.metrics({"tune/bits_per_byte": trial.validation_bits_per_byte})
    run.metrics({"tune/best_learning_rate": best_rate(trials)})
    return trials


def before_and_after(source: Checkpoint, adapted: Checkpoint, target: Corpus, own: Corpus | None,
                     config: Config) -> Row:
    """Test losses in bits per byte of the source and the adapted model on the target and on the source's own text."""
    texts = {"target": target} | ({"source": own} if own else {})
    found: dict[tuple[str, str], float] = {}
    for when, checkpoint in (("before", source), ("after", adapted)):
        model = study.built(checkpoint, config)
        for name, corpus in texts.items():
            split = corpus.test.head(config.analysis.eval_characters)
            found[name, when] = evaluate(model, checkpoint, split).bits_per_byte
    return {"zero_shot_bits_per_byte": found["target", "before"], "test_bits_per_byte": found["target", "after"],
            "source_bits_per_byte_before": found.get(("source", "before")),
            "source_bits_per_byte_after": found.get(("source", "after"))}


def curve_rows(points: Iterable[AdaptationPoint], names: Row) -> list[Row]:
    return [names | {"step": point.step, "validation_bits_per_byte": point.bits_per_byte,
                     "validation_nats": point.nats_per_character} for point in points]
