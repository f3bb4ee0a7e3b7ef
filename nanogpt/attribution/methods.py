"""Attribution methods by name: the functions of the methods that `config.ATTRIBUTION_CATALOGUE` lists."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from nanogpt.attribution.gradients import Query
from nanogpt.config import ATTRIBUTION_CATALOGUE, AttributionConfig
from nanogpt.errors import require
from nanogpt.model.gpt import GPT

MethodFunction = Callable[[GPT, Query, AttributionConfig], Tensor]
"""Scores (P, T, S) of every position S for the target at every position T; 0 after the target."""


def method_function(name: str) -> MethodFunction:
    """Return the function of a method or a baseline. UserError for an unknown name.

    Only its own file is imported, so a served model need not carry the others.
    """
    modules = {method.name: method.module for method in ATTRIBUTION_CATALOGUE}
    require(name in modules, f"method must be one of {', '.join(modules)}", name)
    function: MethodFunction = getattr(import_module(f"{__package__}.{modules[name]}"), name)
    return function
