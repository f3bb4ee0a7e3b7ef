"""Losses, confidence and generations of checkpoints on the test text of every domain, beside baselines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from nanogpt.config import STRONGEST_COUNTS, Config, Row
from nanogpt.evaluation import baselines
from nanogpt.evaluation.comparison import comparisons, specialisation
from nanogpt.evaluation.generations import generations, writing_rows
from nanogpt.evaluation.rows import ScoredTexts, score_domains, scored_texts
from nanogpt.model.gpt import GPT
from nanogpt.report.findings_evaluation import ahead_findings, author_findings
from nanogpt.report.plots import common as figures
from nanogpt.study import stages
from nanogpt.study.inputs import Source, read_prompts, warn_of_unknown
from nanogpt.study.tables import Tables, log_tables
from nanogpt.text.corpus import Corpus
from nanogpt.tracking.run import Run, key, open_run

log = logging.getLogger("nanogpt")

CONFIDENCE_KEYS = ("entropy_nats", "confidence", "top5_mass", "accuracy", "overconfidence", "calibration_error",
                   "adaptive_calibration_error", "maximum_calibration_error", "brier_score", "entropy_auroc",
                   "confidence_when_wrong", "sure_error_rate", "temperature", "tempered_nats")
LOSS_KEYS = ("bits_per_byte", "bits_per_byte_low", "bits_per_byte_high", "nats_per_character", "seen_loss_nats",
             "unseen_share", "unseen_loss_share", "uniform_divergence_nats", "unigram_divergence_nats",
             "bigram_divergence_nats")

Losses = dict[tuple[str, str], dict[str, Tensor]]
"""(source, stage) to target to the bits of each character."""


def evaluate_sources(sources: Sequence[Source], corpora: Mapping[str, Corpus], config: Config,
                     tables: Tables) -> None:
    """Each source on each domain's test text, by training step, in one run per domain; then all against all."""
    material, losses = scored_texts(corpora, config), Losses()
    prompts = read_prompts(config, corpora)
    warn_of_unknown(sources[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))
    for domain in dict.fromkeys(source.checkpoint.domain for source in sources):
        mine = Tables()
        with open_run(f"evaluate {domain} · {config.preset} · seed {config.seed}", config, phase="evaluate",
                      domain=domain, vocabulary_sha256=sources[0].checkpoint.vocabulary.sha256) as run:
            tables.links[run.name] = run.link
            run.datasets(corpora, "test")
            for source in (s for s in sources if s.checkpoint.domain == domain):
                model = stages.built(source.checkpoint, config)
                read_domains(source, model, material, run, mine, corpora=corpora, losses=losses)
                if source.stage:
                    mine.add("generations", generations(model, source.checkpoint, prompts, config, source.row))
            log_tables(run, mine)
            frame = mine.frame("zero_shot")
            run.figure(figures.zero_shot_curves(frame, list(corpora)), "zero_shot")
            run.figure(figures.confidence_curves(frame, list(corpora)), "confidence")
            run.describe(f"The last checkpoint of **{domain}** on test texts, bits per byte:\n\n" + "\n".join(
                f"- {row['target']}: **{row['bits_per_byte']:.3f}**" for row in mine.rows["zero_shot"][-len(corpora):]))
        tables.add_all(mine)
    compare(losses, material, corpora, config, tables)
    compare_writing(sources, corpora, config, tables)


def read_domains(source: Source, model: GPT, material: ScoredTexts, run: Run, tables: Tables, *,
                 corpora: Mapping[str, Corpus], losses: Losses) -> None:
    """One model on every text: the rows, its metrics, and at a stage the details and the losses to compare."""
    said = []
    for reading in score_domains(model, source.checkpoint, material, source.row):
        target = reading.row["target"]
        run.metrics(evaluation_metrics(reading.row), source.checkpoint.step, source.model_id,
                    corpora[target])
        tables.add("zero_shot", [reading.row])
        if source.stage:
            tables.add("breakdown", reading.breakdown)
            tables.add("reliability", reading.reliability)
            losses.setdefault((source.checkpoint.domain, source.stage), {})[target] = reading.bits_N
        said.append(f"{target} {reading.row['bits_per_byte']:.3f}")
    log.info("      %s · %s bits per byte", source.checkpoint.title, ", ".join(said))


def compare(losses: Losses, material: ScoredTexts, corpora: Mapping[str, Corpus], config: Config,
            tables: Tables) -> None:
    """Baselines, distances of the domains, leaks, and each domain's own model against its rivals, in a run."""
    with open_run(f"compare · {config.preset} · seed {config.seed}", config, phase="compare") as run:
        tables.links[run.name], mine = run.link, Tables()
        counted = {name: baselines.counted_bits(material.ngrams[name], split) for name, split in material.tests.items()}
        for name, corpus in corpora.items():
            mine.add("baselines", baselines.baseline_rows(corpus, material.tests[name], counted[name]))
        mine.add("distances", baselines.distance_rows(corpora))
        mine.add("leakage", baselines.leakage_rows(corpora))
        for stage in dict.fromkeys(stage for _, stage in losses):
            by_model = {domain: bits for (domain, at), bits in losses.items() if at == stage}
            by_target = {target: {domain: bits[target] for domain, bits in by_model.items()}
                         | {STRONGEST_COUNTS: counted[target][STRONGEST_COUNTS]} for target in corpora}
            mine.add("comparisons", comparisons(by_target, material.tests, stage))
        mine.add("specialisation", specialisation(tables.rows["zero_shot"]))
        for row in mine.rows["specialisation"]:
            run.metrics({key("specialisation", row["source"], row["target"], name): row[name]
                         for name in ("regret", "advantage", "asymmetry") if row[name] is not None}, row["step"])
        run.metrics({key("baseline", row["target"], row["baseline"], "bits_per_byte"): row["bits_per_byte"]
                     for row in mine.rows["baselines"]})
        log_tables(run, mine)
        run.describe("\n\n".join(ahead_findings(mine.frame("comparisons"))))
    tables.add_all(mine)


def compare_writing(sources: Sequence[Source], corpora: Mapping[str, Corpus], config: Config, tables: Tables) -> None:
    """Every generation under the last model of every domain, in a run of its own."""
    last = {source.checkpoint.domain: source for source in sources if source.stage}     # steps ascend
    with open_run(f"writing · {config.preset} · seed {config.seed}", config, phase="writing") as run:
        tables.links[run.name], mine = run.link, Tables()
        scorers = [(stages.built(source.checkpoint, config), source.checkpoint) for source in last.values()]
        mine.add("writing", writing_rows(tables.rows["generations"], scorers, corpora,
                                         config.analysis.generate_characters))
        log_tables(run, mine)
        run.describe("\n\n".join(author_findings(mine.frame("writing"))))
    tables.add_all(mine)


def evaluation_metrics(row: Row) -> dict[str, float]:
    target = row["target"]
    return ({key("zero_shot", target, name): row[name] for name in LOSS_KEYS if name in row}
            | {key("confidence", target, name): row[name] for name in CONFIDENCE_KEYS})
