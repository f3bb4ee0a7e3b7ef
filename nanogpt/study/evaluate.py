"""The evaluation phase: losses, confidence and generations of checkpoints on all test texts, and baselines."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanogpt.config import STRONGEST_COUNTS, Config, Row
from nanogpt.evaluation import baselines
from nanogpt.evaluation.comparison import comparisons, specialisation, zero_shot_means
from nanogpt.evaluation.generations import generations, writing_rows
from nanogpt.evaluation.rows import ScoredTexts, score_domains, scored_texts
from nanogpt.model.allocator import return_freed_memory
from nanogpt.model.payload import load_payload, save_payload
from nanogpt.report.findings import ahead_findings, author_findings, leaks
from nanogpt.study.cells import FOLDER, run_cell
from nanogpt.study.estimate import part
from nanogpt.study.inputs import StudiedModel, text_dataset, warn_of_unknown
from nanogpt.study.phase import Study, seed_suffix
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.run import TrackedRun, key
from nanogpt.tracking.scratch import scratch_path

log = logging.getLogger("nanogpt")

CONFIDENCE_KEYS = ("entropy_nats", "confidence", "top5_mass", "accuracy", "overconfidence", "calibration_error",
                   "adaptive_calibration_error", "maximum_calibration_error", "brier_score", "entropy_auroc",
                   "confidence_when_wrong", "sure_error_rate", "temperature", "tempered_nats")
LOSS_KEYS = ("bits_per_byte", "bits_per_byte_low", "bits_per_byte_high", "nats_per_character", "seen_loss_nats",
             "unseen_share", "unseen_loss_share", "uniform_divergence_nats", "unigram_divergence_nats",
             "bigram_divergence_nats")

CharacterBits = dict[tuple[str, str, int], dict[str, Tensor]]
"""(source, stage, seed) to target to the bits of each character."""
WHOLE = "final"
"""The stage whose models are scored on whole test splits; others are scored on the sample."""
BITS = "bits.pt"


@dataclass(frozen=True, eq=False)
class TextsToScore:
    """The texts that models are scored on, prepared when there is something to score."""

    corpora: Mapping[str, Corpus]
    config: Config

    @functools.cached_property
    def prepared(self) -> ScoredTexts:
        return scored_texts(self.corpora, self.config)


@dataclass(frozen=True)
class TrainedModels:
    """The models of one domain and seed, and where they stand among all that are scored."""

    models: Sequence[StudiedModel]
    before: int
    total: int
    write: bool         # whether those of a stage write


@dataclass(frozen=True)
class ScoredModels:
    """The result of their cell, and the bits of each character where it was not read back."""

    run: TrackedRun
    tables: Tables
    bits: CharacterBits

    def bits_to_compare(self) -> CharacterBits:
        return self.bits or kept_bits(self.run)


def evaluate_models(study: Study) -> None:
    """Score each model on each domain's test text, in one run per domain; then compare all with all."""
    texts = TextsToScore(study.corpora, study.config)
    warn_of_unknown(study.models[0].checkpoint.vocabulary, (prompt for _, prompt in study.prompts))
    work = functools.partial(evaluate_training, texts=texts, study=study)
    scored = list[ScoredModels]()
    shared = [*study.corpora.values(), texts, *(model.checkpoint for model in study.models)]
    for of_training in study.engine.each(work, models_by_training(study), shared):
        study.add(of_training.run, of_training.tables)
        scored.append(of_training)
    compare(scored, texts, study)
    compare_writing(study)


def models_by_training(study: Study) -> list[TrainedModels]:
    """Part the models of a study by domain and seed."""
    listed = list[TrainedModels]()
    for training in dict.fromkeys((model.domain, model.seed) for model in study.models):
        models = [model for model in study.models if (model.domain, model.seed) == training]
        before = sum(len(other.models) for other in listed)
        listed.append(TrainedModels(models, before, len(study.models), study.is_read_wholly(models[0])))
    return listed


def evaluate_training(trained: TrainedModels, texts: TextsToScore, study: Study) -> ScoredModels:
    """Score the models of one domain and seed in a run, or read back what came of it."""
    models, bits = trained.models, CharacterBits()
    domain, seed = models[0].domain, models[0].seed
    config = study.config if seed < 0 else replace(study.config, seed=seed)

    def score(run: TrackedRun, tables: Tables) -> None:
        run.datasets(map(text_dataset, study.corpora.values()), "test")
        run.models(model.model_id for model in models)
        for number, model in enumerate(models, start=trained.before + 1):
            for row in score_model(model, texts.prepared, study, tables, bits, write=trained.write):
                run.metrics(evaluation_metrics(row), model.checkpoint.step, model.model_id,
                            text_dataset(study.corpora[row["target"]]))
            log.info("      %s%s · %s bits per byte", model.checkpoint.title, seed_suffix(seed), ", ".join(
                f"{row['target']} {row['bits_per_byte']:.3f}" for row in tables.rows["zero_shot"][-len(study.corpora):]
            ), extra=part(number, trained.total))
        log_tables(run, tables)
        log_figures(run, tables, config, "evaluate")
        run.describe(f"The last checkpoint of **{domain}** on test texts, bits per byte:\n\n" + "\n".join(
            f"- {row['target']}: **{row['bits_per_byte']:.3f}**"
            for row in tables.rows["zero_shot"][-len(study.corpora):]))
        keep_bits(run, bits)

    digest = study.digest("evaluate", [[model.checkpoint.sha256, model.stages] for model in models])
    run, tables = run_cell(study.cells, f"evaluate {domain}{seed_suffix(seed)}", digest, score, config,
                           phase="evaluate", domain=domain, vocabulary_sha256=models[0].checkpoint.vocabulary.sha256)
    return ScoredModels(run, tables, bits)


def keep_bits(run: TrackedRun, bits: CharacterBits) -> None:
    """Keep the bits of each character in the run: what is compared needs them."""
    listed = [{"of": list(key), "targets": dict(targets)} for key, targets in bits.items()]
    run.file(save_payload({"bits": listed}, scratch_path(BITS)), FOLDER)


def kept_bits(run: TrackedRun) -> CharacterBits:
    with run.download(f"{FOLDER}/{BITS}") as path:
        listed = load_payload(path, {"bits"})["bits"]
    return {tuple(entry["of"]): entry["targets"] for entry in listed}


def score_model(model: StudiedModel, texts: ScoredTexts, study: Study, tables: Tables, bits: CharacterBits, *,
                write: bool) -> Iterator[Row]:
    """Score one model on every text and let it write; yields the rows of the zero-shot table.

    Details, the bits of each character and generations are those of a stage; in a study models of other seeds than
    the first do not write.
    """
    network = model.build(study.config)
    for scores in score_domains(network, model.checkpoint, texts, model.row, whole=WHOLE in model.stages,
                                details=bool(model.stage)):
        tables.add("zero_shot", [scores.row])
        if model.stage:
            tables.add("breakdown", scores.breakdown)
            tables.add("reliability", scores.reliability)
            bits.setdefault((model.domain, model.stage, model.seed), {})[scores.row["target"]] = scores.bits_N
        yield scores.row
    if model.stage and write:
        tables.add("generations", generations(network, model.checkpoint, study.prompts, study.config, model.row))


def compare(scored: Iterable[ScoredModels], texts: TextsToScore, study: Study) -> None:
    """Compare each domain's own model with its rivals and with baselines; measure distances and leaks; in a run."""
    def measure(run: TrackedRun, tables: Tables) -> None:
        bits = {key: targets for each in scored for key, targets in each.bits_to_compare().items()}
        fill_comparisons(bits, texts.prepared, study, tables)
        log_comparisons(run, tables)
        log_tables(run, tables)
        run.describe("\n\n".join(ahead_findings(tables.frame("comparisons"))))

    digest = study.digest("compare", [model.checkpoint.sha256 for model in study.models])
    study.add(*run_cell(study.cells, "comparison of domains", digest, measure, study.config, phase="compare"))


def fill_comparisons(bits: CharacterBits, texts: ScoredTexts, study: Study, tables: Tables) -> None:
    tests = texts.tests(whole=True)
    counted = {name: baselines.counted_bits(texts.ngrams[name], split) for name, split in tests.items()}
    for name, corpus in study.corpora.items():
        tables.add("baselines", baselines.baseline_rows(corpus, tests[name], counted[name]))
    return_freed_memory()
    tables.add("distances", baselines.distance_rows(study.corpora))
    tables.add("leakage", baselines.leakage_rows(study.corpora))
    for leak in leaks(tables.frame("leakage")):
        log.warning("leakage: %s", leak)
    for stage in dict.fromkeys(stage for _, stage, _ in bits):
        scored = texts.tests(whole=stage == WHOLE)
        losses = losses_of(stage, bits, scored)
        tables.add("zero_shot_means", zero_shot_means(losses, scored, stage))
        counts = {target: baselines.counted_bits(texts.ngrams[target], split)[STRONGEST_COUNTS]
                  for target, split in scored.items()}
        tables.add("comparisons", comparisons(
            {target: by_model | {STRONGEST_COUNTS: like(counts[target], by_model)}
             for target, by_model in losses.items()}, scored, stage))
    tables.add("specialisation", specialisation(study.tables.rows["zero_shot"]))


def losses_of(stage: str, bits: CharacterBits, targets: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Give target to source to the bits (S, N) of each character under each seed's model of a stage.

    Where sources have different seeds, as many of each as the one with fewest has.
    """
    sources = dict.fromkeys(source for source, at, _ in bits if at == stage)
    every = {source: sorted(seed for name, at, seed in bits if (name, at) == (source, stage)) for source in sources}
    fewest = min(map(len, every.values()))
    seeds = {source: known[:fewest] for source, known in every.items()}
    return {target: {source: torch.stack([bits[source, stage, seed][target] for seed in seeds[source]])
                     for source in sources} for target in targets}


def like(bits_N: Tensor, by_model: Mapping[str, Tensor]) -> Tensor:
    """Repeat what has no seed as often as the models have seeds."""
    return bits_N.expand(len(next(iter(by_model.values()))), -1)


def log_comparisons(run: TrackedRun, tables: Tables) -> None:
    for row in tables.rows["specialisation"]:
        run.metrics({key("specialisation", row["source"], row["target"], name): row[name]
                     for name in ("regret", "advantage", "asymmetry") if row[name] is not None}, row["step"])
    run.metrics({key("baseline", row["target"], row["baseline"], "bits_per_byte"): row["bits_per_byte"]
                 for row in tables.rows["baselines"]})


def compare_writing(study: Study) -> None:
    """Score every generation under the last model of every domain, in a run of its own."""
    config = study.config
    first = {model.domain: model.seed for model in reversed(study.models)}
    last = {model.domain: model for model in study.models
            if model.stage and model.seed == first[model.domain]}      # steps ascend

    def score(run: TrackedRun, tables: Tables) -> None:
        scorers = [(model.build(config), model.checkpoint) for model in last.values()]
        tables.add("writing", writing_rows(study.tables.rows["generations"], scorers, study.corpora,
                                           config.analysis.generate_characters))
        log_tables(run, tables)
        run.describe("\n\n".join(author_findings(tables.frame("writing"))))

    digest = study.digest("writing", [model.checkpoint.sha256 for model in study.models])
    study.add(*run_cell(study.cells, "writing", digest, score, config, phase="writing"))


def evaluation_metrics(row: Row) -> Mapping[str, float]:
    target = row["target"]
    return ({key("zero_shot", target, name): row[name] for name in LOSS_KEYS if name in row}
            | {key("confidence", target, name): row[name] for name in CONFIDENCE_KEYS})
