"""One optimizer step, as fast as the device allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.model.device import products_in
from nanogpt.model.gpt import Block
from nanogpt.training.processes import DDP_EAGER_CALLS, with_mean_gradients

Step = Callable[[Tensor, Tensor], Tensor]
EAGER_CALLS = 3
"""Updates of one process before a step is recorded."""


class RecordedStep:
    """A step on a GPU as one CUDA graph: no launch costs, no synchronisation, the CPU free.

    The first `eager_calls` run as they are, since libraries and optimizers set themselves up in them; the next one is
    recorded on `stream` and from then on replayed. All calls are real updates. What changes between calls is on the
    device: each batch is copied to the place of the first, the learning rates are tensors, and a replay draws its
    dropout from the random stream of the moment. A batch of another shape runs as it is.
    """

    def __init__(self, eager: Step, stream: torch.cuda.Stream, eager_calls: int) -> None:
        self.eager, self.stream, self.eager_calls, self.calls = eager, stream, eager_calls, 0
        self.graph = torch.cuda.CUDAGraph()
        self.batch: tuple[Tensor, ...] = ()
        self.losses = torch.empty(0)

    def __call__(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        self.batch = self.batch or (torch.empty_like(inputs_BT), torch.empty_like(targets_BT))
        if self.batch[0].shape != inputs_BT.shape:
            return self.alone(inputs_BT, targets_BT)
        for place, value in zip(self.batch, (inputs_BT, targets_BT), strict=True):
            place.copy_(value)
        self.calls += 1
        if self.calls <= self.eager_calls:
            return self.alone(*self.batch)
        if self.calls == self.eager_calls + 1:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.losses = self.eager(*self.batch)
        self.graph.replay()
        return self.losses.clone()

    def alone(self, *batch: Tensor) -> Tensor:
        """Run the step without recording it, on the stream that the recording will use."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            losses = self.eager(*batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return losses


def release(step: Step) -> None:
    """Free the graph of a recorded step, after the last update: processes cannot part while it has their connection."""
    if isinstance(step, RecordedStep):
        torch.cuda.synchronize()
        step.graph.reset()


def compile_blocks(model: nn.Module) -> None:
    """Have torch.compile fuse the kernels of each block: one function for all of them, so it compiles once."""
    forward = torch.compile(Block.forward)
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]


def make_step(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], kind: torch.dtype = torch.float32,
              *, compiled: bool = False, members: int = 1, processes: int = 1) -> Step:
    """Make a function of inputs and targets (B, T) that updates `model` once and returns the mean loss, (1,), in nats.

    Matrix products are in `kind`, weights and the loss in float32. Of `members` stacked models (training/stacked.py)
    each follows the gradient of the mean over its own rows, and the losses are (members,). Of several
    `processes` (training/processes.py) each has its share of the rows, makes the update of all rows, and returns the
    mean loss of its own.

    On a GPU it is recorded as a CUDA graph where all learning rates are tensors (a recorded number cannot change).
    `compiled` has torch.compile fuse the kernels of each block, which all share one compilation.
    """
    device = next(model.parameters()).device
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    recordable = device.type == "cuda" and all(isinstance(rate, Tensor) for rate in rates)
    stream = torch.cuda.Stream() if recordable else None
    forward = with_mean_gradients(model, stream) if processes > 1 else model

    def mean_losses(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        logits = forward(inputs_BT).flatten(0, 1).float()
        return F.cross_entropy(logits, targets_BT.flatten(), reduction="none").view(members, -1).mean(1)

    if compiled:
        compile_blocks(model)

    def step(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        with products_in(kind, device):
            losses = mean_losses(inputs_BT, targets_BT)
        losses.sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    if stream is None:
        return step
    return RecordedStep(step, stream, DDP_EAGER_CALLS if processes > 1 else EAGER_CALLS)
