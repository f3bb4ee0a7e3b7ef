"""Saved views: MLflow's own page, in a real browser, opens them filtered, sorted and with their columns and curves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from support import browse, tracking_server

from nanogpt.study.views import study_views
from nanogpt.tracking.run import open_run
from nanogpt.tracking.views import View, share

pytestmark = pytest.mark.slow
LOSS = "transfer/tuned/test_bits_per_byte"
LONGEST_NAME = "shakespeare@early → wikipedia"
NAMES = {LONGEST_NAME: 3.25, "math@late → wikipedia": 2.75, "scratch → wikipedia": 4.5}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a server and id of its experiment, with three transfers, a training with a curve, and the views."""
    with tracking_server(tmp_path_factory.mktemp("views")) as (address, _):
        mlflow.set_tracking_uri(address)
        experiment = mlflow.create_experiment("domains")
        mlflow.set_experiment(experiment_id=experiment)
        for name, loss in NAMES.items():
            with open_run(name, phase="transfer") as run:
                run.metrics({LOSS: loss})
        with open_run("train math", phase="train") as run:
            run.metrics_by_step({step: {"validation/bits_per_byte": 6.5 - step, "train/loss_nats": 4.5 - step}
                                 for step in range(4)})
        share(study_views(["math", "wikipedia"]), experiment)
        yield address, experiment
        mlflow.set_tracking_uri(None)


def view_of(title: str) -> View:
    return next(view for view in study_views(["math", "wikipedia"]) if view.title == title)


def test_transfers_open_filtered_and_sorted_with_whole_names(page: tuple[str, str], tmp_path: Path) -> None:
    dom, _ = browse(page[0] + view_of("Transfers").page(page[1]), tmp_path)
    shown = sorted((dom.index(f">{name}<"), name) for name in NAMES)
    assert [name for _, name in shown] == sorted(NAMES, key=lambda name: NAMES[name])
    assert ">train math<" not in dom and "2.75" in dom and LOSS in dom
    width = re.search(r'col-id="attributes.`Run Name`"[^>]*width: (\d+)px', dom)
    assert width and int(width[1]) == 300, "in which the longest name is whole"


def test_trainings_open_with_their_curves_overlaid(page: tuple[str, str], tmp_path: Path) -> None:
    dom, _ = browse(page[0] + view_of("Trainings").page(page[1]), tmp_path)
    assert ">train math<" in dom and ">scratch → wikipedia<" not in dom
    assert re.search(r">Trainings</div><div[^>]*>\(2\)<", dom), "a section with two charts"
