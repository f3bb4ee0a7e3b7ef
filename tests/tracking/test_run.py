"""What a run takes: its tables are the ones that MLflow shows and loads."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from nanogpt.tracking.run import in_ui, open_run


def test_tables_are_shown_as_those_of_mlflow(models: str) -> None:
    frame = pd.DataFrame({"name": ["a", None], "loss": [0.5, float("nan")], "step": [1, 2], "best": [True, False]})
    with open_run("tables") as run:
        mlflow.log_table(frame.astype(object).where(frame.notna(), None), "tables/by_mlflow.json", run_id=run.id)
        run.tables({"shown": frame, "large": frame, "empty": frame.head(0)}, shown=["shown", "empty"])
        run.table(frame, "later")
        folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{run.id}/tables"))
    assert {path.name for path in folder.iterdir()} == {"by_mlflow.json", "shown.json", "shown.csv", "large.csv",
                                                        "large.parquet", "later.json", "later.csv"}
    assert (folder / "shown.json").read_text() == (folder / "by_mlflow.json").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "shown.csv"), pd.read_csv(folder / "large.csv"))
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "large.parquet"), frame)
    listed = json.loads(mlflow.get_run(run.id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": f"tables/{name}.json", "type": "table"} for name in ("by_mlflow", "shown", "later")]


@pytest.mark.parametrize(("store", "said"), [
    ("sqlite:///mlflow.db", "mlflow ui, then http://127.0.0.1:5000/#/models"),
    ("http://127.0.0.1:5999/", "http://127.0.0.1:5999/#/models"),
    ("https://ada:secret@team.example/mlflow", "https://team.example/mlflow/#/models")])
def test_a_page_is_on_the_server_of_the_store_and_no_password_is_said(monkeypatch: pytest.MonkeyPatch, store: str,
                                                                      said: str) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: store)
    assert in_ui("/#/models") == said
