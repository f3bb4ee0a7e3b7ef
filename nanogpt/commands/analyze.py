"""Confidence and attribution of models on prompts."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.study import attribute as analysis_phase
from nanogpt.study import inputs
from nanogpt.study.tables import Tables


@options.command("data", "analysis", "attribution", follows=lambda models, **_: models)
@click.option("--models", required=True, help=inputs.URI_HELP + "; comma-separated")
def analyze(config: Config, models: str) -> None:
    """Confidence and attribution of models on prompts: tables, CSV and figures."""
    sources = inputs.load_sources(models)
    config = inputs.shaped(config, sources[0])
    corpora = {} if config.analysis.prompts else inputs.corpora_for(
        sources[0].checkpoint, inputs.read_texts(config), config)
    tables = Tables()
    prompts = inputs.read_prompts(config, corpora)
    analysis_phase.analyze(sources, prompts, config, tables, drawn=[prompt for _, prompt in prompts])
    click.echo(f"{len(tables.frame('attribution'))} attribution rows in tables/attribution.csv of the run")
