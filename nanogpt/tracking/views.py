"""Views of an experiment's runs that open in the MLflow UI with one link: filter, order, columns, charts.

MLflow keeps a shared view as a tag of the experiment and opens it by its key. The format is not documented: it is that
of MLflow 3.17.2 (`ExperimentPageUIState` and the search facets of its JavaScript). `tests/tracking/test_views.py`
compares it with the installed version, `tests/slow/test_views_in_browser.py` opens it. A page that reads it otherwise
opens as without it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlflow
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from nanogpt.tracking.store_errors import again_if_beaten

TAG = "mlflow.sharedViewState."
NAME_COLUMN = "attributes.`Run Name`"
NAME_PIXELS, MOST_PIXELS, PIXELS_OF_CHARACTER, PADDING_PIXELS = 300, 230, 7, 40
"""Widths of the column of names, in which the longest of a study is whole, and what the heads of others need."""


@dataclass(frozen=True)
class View:
    """A view: which runs, in which order, with which columns; `curves` are overlaid in charts."""

    title: str
    about: str
    rule: str                       # of MLflow's search
    columns: Sequence[str]          # made by `metric` and `tag`
    order_by: str = ""              # a column, the lowest first; '': the newest run first, nested ones folded
    curves: Sequence[str] = ()      # metrics by step, each in a chart of all runs

    @property
    def key(self) -> str:
        return f"nanogpt-{self.title.lower()}"

    def state(self) -> dict[str, Any]:
        """Give what the page reads: the facets of its search, its columns and its charts."""
        widths = {column: min(MOST_PIXELS, PADDING_PIXELS + PIXELS_OF_CHARACTER * len(column.partition(".")[2]))
                  for column in self.columns}
        state = {"searchFilter": self.rule, "orderByKey": self.order_by or "attributes.start_time",
                 "orderByAsc": bool(self.order_by), "selectedColumns": list(self.columns),
                 "columnOrder": [NAME_COLUMN, *self.columns], "columnWidths": {NAME_COLUMN: NAME_PIXELS} | widths,
                 "runsHiddenMode": "SHOW_ALL" if self.curves else "FIRST_10_RUNS"}
        return state | (self.charts() if self.curves else {})

    def charts(self) -> dict[str, Any]:
        section = {"uuid": f"{self.key}-section", "name": self.title, "display": True, "isReordered": True}
        cards = [{"type": "LINE", "uuid": f"{self.key}-{i}", "metricSectionId": section["uuid"], "metricKey": metric,
                  "selectedMetricKeys": [metric], "deleted": False, "isGenerated": False, "runsCountToCompare": 100,
                  "scaleType": "linear", "xAxisScaleType": "linear", "xAxisKey": "step", "selectedXAxisMetricKey": "",
                  "lineSmoothness": 0, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": False}
                 for i, metric in enumerate(self.curves)]
        return {"compareRunCharts": cards, "compareRunSections": [section], "isAccordionReordered": True}

    def tag(self, milliseconds: int) -> str:
        """Write the value of the view's tag."""
        packed = base64.b64encode(zlib.compress(json.dumps(self.state()).encode())).decode()
        return json.dumps({"name": self.title, "createdAt": milliseconds, "updatedAt": milliseconds,
                           "state": f"deflate;{packed}"})

    def page(self, experiment_id: str) -> str:
        """Give the page below the address of the MLflow UI."""
        chart = "&compareRunsMode=CHART" if self.curves else ""
        return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning{chart}&viewStateShareKey={self.key}"


def metric(name: str) -> str:
    """Name the column of a metric as the page does."""
    return f"metrics.`{name}`"


def tag(name: str) -> str:
    """Name the column of a tag as the page does."""
    return f"tags.`{name}`"


def share(views: Sequence[View], experiment_id: str) -> None:
    """Keep the views with the experiment, each anew unless a person has changed it in the UI.

    One with more columns than a tag can hold is left out.
    """
    client = mlflow.MlflowClient()
    known = client.get_experiment(experiment_id).tags
    for view in views:
        name, value = f"{TAG}{view.key}", view.tag(get_current_time_millis())
        if not is_changed(known.get(name, "")) and len(value) <= MAX_EXPERIMENT_TAG_VAL_LENGTH:
            again_if_beaten(partial(client.set_experiment_tag, experiment_id, name, value))


def is_changed(tag: str) -> bool:
    """Tell whether a view was saved again after it was made."""
    try:
        kept = json.loads(tag or "{}")
        return bool(kept.get("createdAt") != kept.get("updatedAt"))
    except (ValueError, AttributeError):    # not ours
        return True
