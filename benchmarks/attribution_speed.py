"""Gradient norms of every target of 32 prompts of 64 characters, against captum called once for each target.

    python benchmarks/attribution_speed.py --threads 2

captum is handed the whole prompts, and for a second comparison only what stands up to the target. All three in
turns in one process; the maps must agree.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import click
import torch
from captum.attr import Saliency
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanogpt.attribution.gradients import Query, gradient_norm
from nanogpt.config import AttributionConfig, make_config
from nanogpt.model.gpt import GPT

VOCABULARY = 90


class AfterEmbedding(nn.Module):
    """From embeddings to the logits at one position."""

    def __init__(self, model: GPT, position: int) -> None:
        super().__init__()
        self.model, self.position = model, position

    def forward(self, x_PTC: Tensor) -> Tensor:
        return self.model.unembed(self.model.run_blocks(x_PTC))[:, self.position]


def by_captum(model: GPT, query: Query, *, prefix: bool) -> Tensor:
    scores_PTS = torch.zeros(*query.ids_PT.shape, query.ids_PT.size(1))
    for t in range(query.ids_PT.size(1)):
        x_PSC = model.embed(query.ids_PT[:, :t + 1] if prefix else query.ids_PT).detach().requires_grad_()
        gradient_PSC = Saliency(AfterEmbedding(model, t)).attribute(x_PSC, query.targets_PT[:, t], abs=False)
        scores_PTS[:, t, :x_PSC.size(1)] = gradient_PSC.norm(dim=-1)
    return scores_PTS


@click.command(help=__doc__)
@click.option("--preset", default="standard", show_default=True, help="whose shape the model has: 0.8 M parameters")
@click.option("--prompts", default=32, show_default=True)
@click.option("--characters", default=64, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(preset: str, prompts: int, characters: int, threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GPT(make_config(preset).model, VOCABULARY).eval()
    ids_PT = torch.randint(VOCABULARY, (prompts, characters))
    query = Query(ids_PT, ids_PT.roll(-1, 1), torch.zeros(model.config.n_embd))
    ways = {"ours": lambda: gradient_norm(model, query, AttributionConfig()),
            "captum, whole prompts": lambda: by_captum(model, query, prefix=False),
            "captum, prefixes": lambda: by_captum(model, query, prefix=True)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    expected = ways["ours"]()
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            torch.testing.assert_close(way(), expected, rtol=1e-4, atol=1e-6)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    ours = [statistics.median(kind) for kind in zip(*seconds["ours"], strict=True)]
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters, {prompts} prompts of {characters} "
               f"characters, {threads} threads, median of {repeats}")
    for name, times in seconds.items():
        wall, cpu = (statistics.median(kind) for kind in zip(*times, strict=True))
        click.echo(f"{name:22} {wall:7.2f} s, {wall / ours[0]:.2f} × ours; {cpu:7.2f} CPU s, {cpu / ours[1]:.2f} ×")


if __name__ == "__main__":
    main()
