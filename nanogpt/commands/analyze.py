"""Confidence and attribution of models on prompts."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "analysis", "attribution", follows=lambda models, **_: models)
@click.option("--models", required=True, help=options.MODEL_HELP + "; comma-separated")
def analyze(config: Config, models: str) -> None:
    """Confidence and attribution of models on prompts: tables, CSV and figures."""
    from nanogpt.study import inputs
    from nanogpt.study.attribute import attribute_models
    from nanogpt.study.phase import Study

    studied = inputs.load_models(models)
    inputs.check_prompts(config)
    config = inputs.shaped(config, studied[0])
    corpora = {} if config.analysis.prompts else inputs.corpora_for(
        studied[0].checkpoint, inputs.read_texts(config), config)
    study = Study(config, corpora, studied)
    attribute_models(study)
    click.echo(f"{len(study.tables.frame('attribution'))} attribution rows in tables/attribution.csv of the run")
