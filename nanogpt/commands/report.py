"""The report of a finished study, made anew from the tables in the store."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.study import archive, pipeline


@options.command()
@click.option("--study", default=archive.LATEST, show_default=True, help="run id of a study, or latest")
def report(config: Config, study: str) -> None:
    """Draw the figures and write report.html of a finished study anew, at its run."""
    run = archive.find_study(study)
    for sentence in pipeline.publish_page(run, archive.read_study(run)):
        click.echo(f"  · {sentence}")
    click.echo(run.artifact("report.html"))
