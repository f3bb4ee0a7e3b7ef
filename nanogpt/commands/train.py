"""Train a GPT on one domain; its checkpoints are logged and registered as nanogpt-<domain>."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.study import inputs
from nanogpt.study import train as training_phase
from nanogpt.study.tables import Tables
from nanogpt.text.sources import domain_name


@options.command("data", "model", "train", "analysis")
@click.option("--domain", default="shakespeare", show_default=True, help="a domain, or name=path of a UTF-8 file")
@click.option("--resume", default="", help="id of a stopped training's run, which then goes on with its own settings")
def train(config: Config, domain: str, resume: str) -> None:
    """Train a GPT on one domain.

    The vocabulary is that of --domains and this one together, so that the model can be compared with theirs.
    """
    if resume:
        config, domain = inputs.resumed_inputs(resume, domain)
    config = inputs.with_domain(config, domain)
    corpus = inputs.study_corpora(config)[domain_name(domain)]
    tables = Tables()
    kept = training_phase.train_domain(corpus, config, tables, resume)
    click.echo(f"registered {len(kept)} checkpoints: models:/nanogpt-{corpus.name}@final")
