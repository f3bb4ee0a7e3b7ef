"""A trick: a filter of MLflow's log that raises, so that a served model refuses a parameter that it does not know.

MLflow drops a parameter that the signature lacks and warns in the server's log; whoever misspelt it (`topk` for
`top_k`) gets a text that was written without it, and no word. The model itself is not told: the warning is the only
place where the name can still be seen. The filter may go when MLflow refuses such parameters itself, which
`tests/serving/test_refuse_parameters.py` tells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mlflow.exceptions import MlflowException
from mlflow.pyfunc.context import get_prediction_context

LOGGER = "mlflow.models.utils"
"""The name of the logger that warns."""

parameters_by_model: dict[str | None, tuple[str, ...]] = {}
"""Id of each logged model that refuses, and the parameters that it takes."""


def refuse_other_parameters(model_id: str | None, names: Iterable[str]) -> None:
    """Have predictions of the logged model refuse every parameter but those of these names."""
    parameters_by_model[model_id] = tuple(names)
    logging.getLogger(LOGGER).addFilter(raise_for_unknown)    # the same filter is added once


def raise_for_unknown(record: logging.LogRecord) -> bool:
    """Raise an MlflowException (400 over HTTP) where the record says that a parameter is ignored; True otherwise.

    Predictions of other models in the process are told apart by the id of their logged model.
    """
    context = get_prediction_context()
    message = record.getMessage()
    if context and context.model_id in parameters_by_model and message.startswith("Unrecognized params"):
        unknown = message.removeprefix("Unrecognized params ").partition(" are ")[0]
        known = ", ".join(parameters_by_model[context.model_id])
        raise MlflowException.invalid_parameter_value(f"parameters must be among {known}, got {unknown}")
    return True
