"""Losses, confidence and generations of checkpoints on the test text of every domain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nanogpt import figures, study
from nanogpt.config import Config
from nanogpt.corpus import Corpus
from nanogpt.inputs import Source, Tables, log_tables, read_prompts, warn_of_unknown
from nanogpt.study import Row
from nanogpt.tracking import key, open_run

log = logging.getLogger("nanogpt")

CONFIDENCE_KEYS = ("entropy_nats", "confidence", "top5_mass", "accuracy", "overconfidence", "calibration_error")
LOSS_KEYS = ("bits_per_byte", "nats_per_character", "seen_loss_nats", "unseen_share", "unseen_loss_share")


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
