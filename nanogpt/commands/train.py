"""Train a GPT on one domain; its checkpoints are logged and registered as nanogpt-<domain>."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import JOINT, Config


@options.command("data", "model", "train", "analysis")
@click.option("--domain", default="shakespeare", show_default=True,
              help=f"a domain, name=path of a UTF-8 file, or {JOINT}: all of --domains together")
@click.option("--resume", default="", help="id of a stopped training's run, which then goes on with its own settings")
def train(config: Config, domain: str, resume: str) -> None:
    """Train a GPT on one domain.

    The vocabulary is that of --domains and this one together, so that the model can be compared with theirs.
    """
    from nanogpt.study import inputs
    from nanogpt.study.phase import Study
    from nanogpt.study.train import train_models

    if resume:
        config, domain = inputs.resumed_inputs(resume, domain)
    config, corpus = inputs.training_inputs(config, domain)
    study = Study(config, {corpus.name: corpus}, resume=resume)
    train_models(study)
    click.echo(f"registered {len(study.models)} checkpoints: models:/nanogpt-{corpus.name}@final")
