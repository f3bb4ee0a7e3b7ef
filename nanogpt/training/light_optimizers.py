"""A trick: torch's optimizers without the decorators that import torch._dynamo.

Importing it takes longer than a short transfer or a smoke training (benchmarks/README.md). It may go when `import
torch; torch.optim.AdamW([p]).step()` leaves torch._dynamo unloaded: `tests/training/test_optimizer.py` asks that of
ours.
"""

from __future__ import annotations

import inspect

import torch


class Optimizer(torch.optim.Optimizer):
    """torch's own base class, undecorated."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(Optimizer, torch.optim.AdamW):
    """torch's own AdamW, undecorated."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
