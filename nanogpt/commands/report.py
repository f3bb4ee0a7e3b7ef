"""The report of a finished study, made anew from the tables in the store."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import LATEST, Config


@options.command()
@click.option("--study", default=LATEST, show_default=True, help="run id of a study, or latest")
def report(config: Config, study: str) -> None:
    """Draw the figures and write report.html of a finished study anew, at its run."""
    from nanogpt.study import pipeline
    from nanogpt.study.archive import read_study
    from nanogpt.tracking.finished import find_study

    run = find_study(study)
    for claim in pipeline.publish_page(run, read_study(run)):
        click.echo(claim)
    click.echo(run.artifact("report.html"))
