"""Adapt a model to a domain with a few windows of its text."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config


@options.command("data", "transfer", "analysis", follows=lambda source, **_: source)
@click.option("--source", required=True, help=options.MODEL_HELP)
@click.option("--target", required=True, help="a domain, or name=path of a UTF-8 file")
@click.option("--rate", type=float, default=None, help="learning rate; left out: tuned with Optuna")
def transfer(config: Config, source: str, target: str, rate: float | None) -> None:
    """Adapt a model to a domain with a few windows of its text, at a given or a tuned learning rate."""
    from nanogpt.study import inputs
    from nanogpt.study.tables import Tables
    from nanogpt.study.transfer import transfer_cells
    from nanogpt.study.transfer_runs import TransferCell

    model, corpus, own, config = inputs.transfer_inputs(config, source, target)
    tables, cell = Tables(), TransferCell(model, corpus, own, config.transfer.shots)
    transfer_cells([cell], config, tables, learning_rate=rate, alone=True)
    columns = ["source", "stage", "target", "shots", "view", "seed", "learning_rate", "zero_shot_bits_per_byte",
               "test_bits_per_byte"]
    click.echo(tables.frame("transfers")[columns].to_string(index=False))
