"""Score models on the test text of domains, and let them write."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "analysis", follows=lambda models, **_: models)
@click.option("--models", required=True, help=options.MODEL_HELP + "; comma-separated")
def evaluate(config: Config, models: str) -> None:
    """Score models on the test text of domains, and let them write from the same prompts."""
    from nanogpt.study import inputs
    from nanogpt.study.evaluate import evaluate_models
    from nanogpt.study.phase import Study

    studied = inputs.load_models(models)
    inputs.check_prompts(config)
    config = inputs.shaped(config, studied[0])
    corpora = inputs.corpora_for(studied[0].checkpoint, inputs.read_texts(config), config)
    study = Study(config, corpora, studied)
    evaluate_models(study)
    columns = ["source", "step", "target", "bits_per_byte", "seen_loss_nats", "unseen_share", "accuracy"]
    click.echo(study.tables.frame("zero_shot")[columns].round(4).to_string(index=False))
