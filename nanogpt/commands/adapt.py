"""The grid of transfers over the registered models of a finished study."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


def first_model(config: Config) -> str:
    from nanogpt.study.inputs import untrained_uri

    return untrained_uri(config)


@options.command("data", "transfer", "analysis", "cells", follows=first_model)
def adapt(config: Config) -> None:
    """Adapt every registered early, mid and late model, and an untrained one, to every other domain.

    At all --grid-shots, each with --transfer-seeds fresh seeds, at a fixed and at a tuned learning rate.
    """
    from nanogpt.study import inputs, pipeline

    click.echo(pipeline.adapt_registered(*inputs.grid_inputs(config)))
