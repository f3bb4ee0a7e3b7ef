"""One step: what it changes, what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nanogpt.config import ModelConfig, TrainConfig
from nanogpt.model.device import random_stream
from nanogpt.model.gpt import GPT
from nanogpt.training.optimizer import make_optimizers, set_rate_factor
from nanogpt.training.step import RecordedStep, make_step

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def small_model(dropout: float = 0.0, device: torch.device = CPU) -> GPT:
    with random_stream(3, CPU):
        return GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, dropout=dropout), 13).to(device)


def some_batch(seed: int = 0, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    window_BT = torch.randint(13, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return window_BT[:, :-1], window_BT[:, 1:]


def test_a_step_is_the_gradient_of_the_mean_loss_given_to_the_optimizers() -> None:
    model, twin = small_model(), small_model()
    inputs_BT, targets_BT = some_batch()
    loss = make_step(model, make_optimizers(model, TrainConfig()))(inputs_BT, targets_BT)
    expected = F.cross_entropy(twin(inputs_BT).flatten(0, 1), targets_BT.flatten())
    expected.backward()
    for optimizer in make_optimizers(twin, TrainConfig()):
        optimizer.step()
    assert float(loss) == float(expected.detach()) and not loss.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_steps_on_one_batch_lower_its_loss() -> None:
    model = small_model()
    step = make_step(model, make_optimizers(model, TrainConfig()))
    losses = [float(step(*some_batch())) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


@needs_cuda
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_recorded_step_is_the_step_as_it_is(dropout: float) -> None:
    device, results = torch.device("cuda"), []
    for eager_calls in (3, 1000):
        model = small_model(dropout, device).train()
        optimizers = make_optimizers(model, TrainConfig())
        step = make_step(model, optimizers)
        assert isinstance(step, RecordedStep)
        step.eager_calls = eager_calls
        losses = []
        for k in range(12):
            set_rate_factor(optimizers, 1 / (k + 1))
            with random_stream(k, device):
                losses.append(step(*(part.to(device) for part in some_batch(k))))
        results.append(torch.stack(losses).cpu())
    torch.testing.assert_close(*results, rtol=0, atol=5e-3)
    assert len(set(results[0].tolist())) == 12
