"""The whole study, as nested runs."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import RESUME_AUTO, RESUME_OFF, Config


@options.command("data", "model", "train", "transfer", "analysis", "attribution", "scaling", "cells", says_where=True)
@click.option("--resume", default=RESUME_AUTO, show_default=True,
              help=f"{RESUME_AUTO}: a study of the same settings, texts and code that was stopped goes on; "
                   f"{RESUME_OFF}: begin anew; or the run id of a stopped study")
def study(config: Config, resume: str) -> None:
    """Train, evaluate, transfer, analyze and register: the whole study."""
    from nanogpt.study import inputs, pipeline

    click.echo(pipeline.run_study(inputs.study_corpora(config), config, resume))
