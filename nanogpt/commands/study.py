"""The whole study, in one process, as nested runs."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "model", "train", "transfer", "analysis", "attribution")
def study(config: Config) -> None:
    """Train, evaluate, transfer, analyze and register: the whole study."""
    from nanogpt.study import inputs, pipeline

    click.echo(pipeline.run_study(inputs.study_corpora(config), config))
