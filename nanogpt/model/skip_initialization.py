"""A trick: build a module without drawing its random weights, which a checkpoint replaces at once.

Drawing them takes longer than loading a small checkpoint, and building on the meta device would import
torch._dynamo. It may go when `GPT(config, size)` costs no more than the loading (`benchmarks/registry_speed.py`);
`tests/model/test_checkpoint.py` tells whether all weights are those of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode


class skip_initialization(TorchFunctionMode):
    """Inside it the functions of `torch.nn.init` leave weights as they are."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawing = getattr(function, "__module__", "") == "torch.nn.init"
        return None if drawing else function(*args, **kwargs or {})
