"""The whole study, in one process, as nested runs."""

from __future__ import annotations

import click

from nanogpt import cli, inputs, program
from nanogpt.config import Config


@cli.command("data", "model", "train", "transfer", "analysis", "attribution")
def main(config: Config) -> None:
    """Train, evaluate, transfer, analyze and register: the whole study."""
    corpora = inputs.study_corpora(config)
    click.echo(program.study_domains(corpora, config))


if __name__ == "__main__":
    main()
