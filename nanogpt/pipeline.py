"""The phases of a study: iterate the science, hand each record to the run. Shared by all entry points."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from nanogpt import figures, registry, study
from nanogpt.attribution import attribute, summarize
from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config, require
from nanogpt.corpus import Corpus
from nanogpt.domains import domain_name
from nanogpt.evaluation import evaluate
from nanogpt.inputs import Source, Tables, read_prompts, warn_of_unknown
from nanogpt.study import Row
from nanogpt.tracking import Run, key, open_run
from nanogpt.training import Progress, train
from nanogpt.transfer import AdaptationPoint, adapt
from nanogpt.tuning import Trial, best_rate, open_study, tune

log = logging.getLogger("nanogpt")

CONFIDENCE_KEYS = ("entropy_nats", "confidence", "top5_mass", "accuracy", "overconfidence", "calibration_error")
LOSS_KEYS = ("bits_per_byte", "nats_per_character", "seen_loss_nats", "unseen_share", "unseen_loss_share")
SECONDS_BETWEEN_LINES = 2.0


# Train ----------------------------------------------------------------------------------------------------------


def train_domain(corpus: Corpus, config: Config, tables: Tables) -> list[Source]:
    """Train one domain in a run of its own; every checkpoint is logged, registered and, where it is due, aliased."""
    name = f"train {corpus.name} · {config.preset} · seed {config.seed}"
    with open_run(name, config, phase="train", domain=corpus.name, preset=config.preset,
                  vocabulary_sha256=corpus.vocabulary.sha256, corpus_sha256=corpus.source.sha256) as run:
        tables.links[run.name] = run.link
        run.datasets({corpus.name: corpus}, "training")
        run.table(pd.DataFrame([corpus.row()]), "corpora")
        kept: list[Source] = []
        validation: dict[int, float] = {}
        said = 0.0
        for progress in train(corpus, config):
            row = progress_row(progress, corpus, config)
            if progress.checkpoint:
                kept.append(keep(progress.checkpoint, row, run, final=progress.step == progress.max_steps))
                validation[progress.step] = row["validation_bits_per_byte"]
            run.metrics(progress_metrics(row), progress.step)
            tables.add("training", [row])
            if time.monotonic() - said > SECONDS_BETWEEN_LINES or progress.step == progress.max_steps:
                said = time.monotonic()
                log.info("%s", progress_line(progress, row))
        colors = [domain_name(spec) for spec in config.data.domain_specs]
        aliases = study.stage_steps(validation) | {"best": min(validation, key=lambda step: validation[step])}
        kept = alias_all(kept, aliases)
        curves = figures.training_curves(own_rows(tables.frame("training"), "domain", corpus.name), colors)
        run.figure(curves, "training")
        run.describe(f"Trained on **{corpus.name}** for {config.train.max_steps} steps.\n\n"
                     f"- validation: **{row['validation_bits_per_byte']:.3f} bits per byte**\n"
                     f"- registered as `{registry.model_name(corpus.name)}`: "
                     + ", ".join(f"{alias} = step {step}" for alias, step in aliases.items()))
    return kept


def progress_row(progress: Progress, corpus: Corpus, config: Config) -> Row:
    """A row of the training table; validation is read where there is a checkpoint."""
    row: Row = {"domain": corpus.name, "step": progress.step, "seconds": progress.seconds,
                "characters_per_second": progress.characters_per_second, "loss_nats": progress.loss_nats,
                "learning_rate_factor": progress.rate_factor,
                "validation_nats": None, "validation_bits_per_byte": None}
    if progress.checkpoint:
        split = corpus.validation.head(config.analysis.eval_characters)
        result = evaluate(study.built(progress.checkpoint, config), progress.checkpoint, split)
        row |= {"validation_nats": result.nats_per_character, "validation_bits_per_byte": result.bits_per_byte}
    return row


def progress_metrics(row: Row) -> dict[str, float]:
    names = {"loss_nats": "train/loss_nats", "characters_per_second": "train/characters_per_second",
             "seconds": "train/seconds", "learning_rate_factor": "train/learning_rate_factor",
             "validation_nats": "validation/nats_per_character",
             "validation_bits_per_byte": "validation/bits_per_byte"}
    return {metric: row[column] for column, metric in names.items() if row[column] is not None}


def progress_line(progress: Progress, row: Row) -> str:
    parts = [f"      step {progress.step}/{progress.max_steps}"]
    if progress.loss_nats is not None:
        parts.append(f"loss {progress.loss_nats:.3f} nats")
    if row["validation_bits_per_byte"] is not None:
        parts.append(f"validation {row['validation_bits_per_byte']:.3f} bits per byte")
    if progress.step:
        parts.append(f"{progress.characters_per_second:,.0f} characters/s · {progress.seconds_left:.0f} s left")
    return " · ".join(parts)


def keep(checkpoint: Checkpoint, row: Row, run: Run, *, final: bool) -> Source:
    """Log a checkpoint as artifact and as model, and register it."""
    path = run.checkpoint(checkpoint, "final.pt" if final else None)
    tags = {"bits_per_byte": f"{row['validation_bits_per_byte']:.4f}", "preset": checkpoint.notes.get("preset", "")}
    model_id = registry.log_model(checkpoint, path, {"domain": checkpoint.domain, "step": checkpoint.step} | tags)
    run.metrics({"validation/bits_per_byte": row["validation_bits_per_byte"]}, checkpoint.step, model_id)
    return Source(checkpoint, uri=registry.register(checkpoint, model_id, run.id, tags), model_id=model_id)


def alias_all(kept: Sequence[Source], aliases: Mapping[str, int]) -> list[Source]:
    """Point the aliases at their versions; the sources come back with their stages."""
    by_step = {source.checkpoint.step: source for source in kept}
    for alias, step in aliases.items():
        registry.set_alias(by_step[step].uri, alias)
    return [replace(source, stage=study.stage_of(source.checkpoint.step, by_step)) for source in kept]


# Evaluate -------------------------------------------------------------------------------------------------------


def evaluate_sources(sources: Sequence[Source], corpora: Mapping[str, Corpus], config: Config,
                     tables: Tables) -> None:
    """Losses and confidence of each source on each domain's test text, by training step, in one run per domain."""
    texts = {name: corpus.test.head(config.analysis.eval_characters) for name, corpus in corpora.items()}
    prompts = read_prompts(config, corpora)
    warn_of_unknown(sources[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))
    for domain in dict.fromkeys(source.checkpoint.domain for source in sources):
        with open_run(f"evaluate {domain} · {config.preset} · seed {config.seed}", config, phase="evaluate",
                      domain=domain) as run:
            tables.links[run.name] = run.link
            run.datasets(corpora, "test")
            mine = Tables()
            for source in (s for s in sources if s.checkpoint.domain == domain):
                model = study.built(source.checkpoint, config)
                for row in study.zero_shot(model, source.checkpoint, texts, source.row):
                    run.metrics(evaluation_metrics(row), source.checkpoint.step, source.model_id)
                    mine.add("zero_shot", [row])
                if source.stage:
                    mine.add("generations", study.generations(model, source.checkpoint, prompts, config, source.row))
                log.info("      %s · %s", source.checkpoint.title, ", ".join(
                    f"{row['target']} {row['bits_per_byte']:.3f}" for row in mine.rows["zero_shot"][-len(texts):])
                    + " bits per byte")
            log_tables(run, mine)
            run.figure(figures.zero_shot_curves(mine.frame("zero_shot"), list(corpora)), "zero_shot")
            run.figure(figures.confidence_curves(mine.frame("zero_shot"), list(corpora)), "confidence")
        tables.add_all(mine)


def evaluation_metrics(row: Row) -> dict[str, float]:
    target = row["target"]
    return ({key("zero_shot", target, name): row[name] for name in LOSS_KEYS}
            | {key("confidence", target, name): row[name] for name in CONFIDENCE_KEYS})


def log_tables(run: Run, tables: Tables) -> None:
    """All tables of a run; the large ones as CSV alone."""
    for name, frame in tables.frames().items():
        run.table(frame, name, show=len(frame) <= 2000)


# Transfer -------------------------------------------------------------------------------------------------------


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
    with open_run(f"transfer {source.title} → {target.name} · {config.transfer.shots} shots", config,
                  phase="transfer", parent_uri=source.uri, **names) as run:
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
        run.checkpoint(adapted, "adapted.pt")
        mine = Tables()
        mine.add("transfers", [summary])
        mine.add("transfer_curves", curve_rows(points, names | {"learning_rate": rate}))
        mine.add("trials", [names | trial.row() for trial in trials])
        log_tables(run, mine)
        if draw:
            run.figure(figures.transfer_curves(mine.frame("transfer_curves")), "transfer_curve")
            run.figure(figures.tuning_history(mine.frame("trials")), "trials")
        run.describe(f"From **{summary['zero_shot_bits_per_byte']:.3f}** to **{summary['test_bits_per_byte']:.3f}** "
                     f"bits per byte on {target.name} (test) at learning rate {rate:.2g}.")
    tables.add_all(mine)
    log.info("      %s → %s · rate %.2g · %.3f → %.3f bits per byte", source.title, target.name, rate,
             summary["zero_shot_bits_per_byte"], summary["test_bits_per_byte"])
    return adapted


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


# Analyze --------------------------------------------------------------------------------------------------------


def analyze(sources: Sequence[Source], prompts: Sequence[tuple[str, str]], config: Config, tables: Tables,
            drawn: Iterable[str]) -> None:
    """Attribution and confidence of each source on each prompt, in one run: tables, CSV, heat maps of those `drawn`."""
    warn_of_unknown(sources[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))
    with open_run(f"analyze · {config.preset} · seed {config.seed}", config, phase="analyze") as run:
        tables.links[run.name] = run.link
        mine = Tables()
        for source in sources:
            checkpoint, model = source.checkpoint, study.built(source.checkpoint, config)
            found = attribute(model, checkpoint, [prompt for _, prompt in prompts])
            who = {"model": source.uri, "domain": checkpoint.domain, "step": checkpoint.step}
            mine.add("attribution", study.attribution_rows(found, who))
            mine.add("top_characters", study.position_tops(model, checkpoint, prompts, config, source.row))
            run.metrics({key("attribution", checkpoint.domain, name): value
                         for name, value in summarize(found).items()}, checkpoint.step)
            log.info("      %s", checkpoint.title)
        log_tables(run, mine)
        attribution, tops = mine.frame("attribution"), mine.frame("top_characters")
        for number, prompt in enumerate(drawn):
            run.figure(figures.attribution_map(attribution, prompt), f"attribution_{number:02d}")
            run.figure(figures.top_character_map(tops, prompt), f"entropy_{number:02d}")
    tables.add_all(mine)


def own_rows(frame: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    return frame[frame[column] == value]
