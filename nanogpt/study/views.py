"""The views of a study's runs that the MLflow UI opens with one link, and the note that leads to them."""

from __future__ import annotations

from collections.abc import Iterable

from nanogpt.report.headlines import HEADLINES
from nanogpt.tracking.run import TrackedRun, key
from nanogpt.tracking.views import View, metric, share, tag

CURVES = ("validation/bits_per_byte", "train/loss_nats")
TRANSFER_COLUMNS = ("test_bits_per_byte", "zero_shot_bits_per_byte", "source_bits_per_byte_after", "learning_rate")


def study_views(domains: Iterable[str]) -> list[View]:
    """Make the views of an experiment with studies of these domains, the one to open first at the head."""
    losses = [metric(key("zero_shot", name, "bits_per_byte")) for name in domains]
    transfers = [metric(key("transfer", "tuned", name)) for name in TRANSFER_COLUMNS]
    trainings = [metric(name) for name in (*CURVES, "train/seconds")]
    headlines = [metric(key("study", name)) for name in HEADLINES]
    return [
        View("Leaderboard", "each model on each domain's test text", of_phase("evaluate"), losses, losses[0]),
        View("Trainings", "curves of all trainings, overlaid", of_phase("train"), trainings, trainings[0], CURVES),
        View("Transfers", "each source, stage and target", of_phase("transfer"), transfers, transfers[0]),
        View("Studies", "whole studies compared by eight numbers", of_phase("study"), headlines),
        View("Runs", "all of them, by phase", "tags.phase != 'trial'", [tag("phase"), tag("preset"), tag("seed")],
             tag("phase")),
    ]


def of_phase(phase: str) -> str:
    """Write the rule that lets the runs of a phase through."""
    return f"tags.phase = '{phase}'"


def first_page(run: TrackedRun, domains: Iterable[str]) -> str:
    """Give the page of the view to open first, below the address of the MLflow UI."""
    return study_views(domains)[0].page(run.experiment_id)


def introduce(run: TrackedRun, domains: Iterable[str]) -> None:
    """Keep the views with the experiment of a run, and lead to them in its note unless that is a person's."""
    views = study_views(domains)
    share(views, run.experiment_id)
    links = " · ".join(f"**[{view.title}]({view.page(run.experiment_id)[1:]})** ({view.about})" for view in views)
    run.introduce(f"Character-level GPTs of several domains: {links} · a study's own run holds its findings and "
                  "`report.html`")
