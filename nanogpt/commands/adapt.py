"""The grid of transfers over the registered models of a finished study."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.study import inputs, pipeline
from nanogpt.text.sources import domain_name
from nanogpt.tracking import registry


@options.command("data", "transfer", "analysis",
                 follows=lambda config, **_: registry.untrained(domain_name(config.data.domain_specs[0])))
def adapt(config: Config) -> None:
    """Adapt every registered early, mid and late model, and an untrained one, to every other domain.

    At all --grid-shots, each with --transfer-seeds fresh seeds, at a fixed and at a tuned learning rate.
    """
    click.echo(pipeline.adapt_registered(*inputs.grid_inputs(config)))
