"""Saved views: in the format that the page of this version of MLflow reads, and a person's changes stay.

`tests/slow/test_views_in_browser.py` opens them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

import mlflow
import pytest

from nanogpt.study.views import study_views
from nanogpt.tracking.run import open_run
from nanogpt.tracking.views import TAG, share

VIEWS = study_views(["math", "wikipedia"])


@pytest.fixture(scope="module")
def page() -> str:
    """The JavaScript of MLflow's page."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return "".join(path.read_text("utf-8") for path in folder.glob("*.js"))


def test_the_page_of_this_mlflow_knows_each_word_of_the_format(page: str) -> None:
    for view in VIEWS:
        value = json.loads(view.tag(5))
        method, _, packed = value["state"].partition(";")
        state = json.loads(zlib.decompress(base64.b64decode(packed)))
        assert state == view.state() and value["name"] == view.title and value["createdAt"] == value["updatedAt"] == 5
        words = {method, *state, *(word for card in state.get("compareRunCharts", []) for word in card),
                 "viewStateShareKey", "SHOW_ALL", "Run Name"}
        assert TAG in page and [word for word in words if word not in page] == []


def test_a_view_is_made_anew_unless_a_person_has_changed_it(models: str) -> None:
    client, name = mlflow.MlflowClient(), f"{TAG}{VIEWS[0].key}"
    with open_run("views") as run:
        experiment = run.experiment_id
    share(VIEWS, experiment)
    kept = json.loads(client.get_experiment(experiment).tags[name])
    for changed in (json.dumps(kept | {"updatedAt": kept["updatedAt"] + 1}), "not ours"):
        client.set_experiment_tag(experiment, name, changed)
        share(VIEWS, experiment)
        assert client.get_experiment(experiment).tags[name] == changed
    client.set_experiment_tag(experiment, name, json.dumps(kept | {"state": ""}))
    share(VIEWS, experiment)
    assert json.loads(client.get_experiment(experiment).tags[name])["state"] == kept["state"]


def test_a_view_that_no_tag_can_hold_is_left_out(models: str) -> None:
    experiment = mlflow.create_experiment("many domains")
    share(study_views([hashlib.sha512(bytes([i])).hexdigest() for i in range(200)]), experiment)
    kept = {name.removeprefix(TAG) for name in mlflow.get_experiment(experiment).tags if name.startswith(TAG)}
    assert kept == {view.key for view in VIEWS[1:]}
