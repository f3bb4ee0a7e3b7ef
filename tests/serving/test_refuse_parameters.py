"""The filter that makes MLflow refuse a parameter: whether it is still needed. What it refuses: test_pyfunc.py."""

from __future__ import annotations

import logging

import mlflow
import pytest

from nanogpt.serving import refuse_parameters


def test_mlflow_alone_drops_an_unknown_parameter_and_answers(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, MLflow refuses such parameters itself and `refuse_parameters.py` may go."""
    late = mlflow.pyfunc.load_model("models:/nanogpt-shakespeare@late")
    monkeypatch.setattr(logging.getLogger(refuse_parameters.LOGGER), "filters", [])
    misspelt = late.predict(["To be"], params={"topk": 1, "max_new_tokens": 5, "seed": 3})
    assert misspelt == late.predict(["To be"], params={"max_new_tokens": 5, "seed": 3})


def test_other_records_of_the_logger_pass() -> None:
    record = logging.LogRecord(refuse_parameters.LOGGER, logging.WARNING, "", 0, "Another %s", ("warning",), None)
    assert refuse_parameters.raise_for_unknown(record)
