"""Score models on the test text of domains, and let them write."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.study import evaluate as evaluation_phase
from nanogpt.study import inputs
from nanogpt.study.tables import Tables


@options.command("data", "analysis", follows=lambda models, **_: models)
@click.option("--models", required=True, help=inputs.URI_HELP + "; comma-separated")
def evaluate(config: Config, models: str) -> None:
    """Score models on the test text of domains, and let them write from the same prompts."""
    sources = inputs.load_sources(models)
    config = inputs.shaped(config, sources[0])
    corpora = inputs.corpora_for(sources[0].checkpoint, inputs.read_texts(config), config)
    tables = Tables()
    evaluation_phase.evaluate_sources(sources, corpora, config, tables)
    columns = ["source", "step", "target", "bits_per_byte", "seen_loss_nats", "unseen_share", "accuracy"]
    click.echo(tables.frame("zero_shot")[columns].round(4).to_string(index=False))
