"""A finished study, read back from the store."""

from __future__ import annotations

from nanogpt.report.tables import TABLES, StudyTables
from nanogpt.tracking.finished import read_environment, read_tables, runs_below
from nanogpt.tracking.run import TrackedRun, run_config


def read_study(run: TrackedRun) -> StudyTables:
    """Read what the report of a study is made of: its tables, configuration, environment and runs."""
    links = {each.name: each.link for each in (*runs_below(run), run)}
    return StudyTables(run.name, run_config(run.id).flat(), read_environment(run), read_tables(run, TABLES), links)
