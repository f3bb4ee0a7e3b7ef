"""Many trainings as one batched model against the same trainings alone: times, and how far their losses differ.

    python benchmarks/seeds_speed.py --text a.txt --text b.txt --text c.txt --seeds 8 --preset standard
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_source, read_config, synchronize
from nanogpt.config import DataConfig
from nanogpt.evaluation.evaluate import stacked_losses
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.text.corpus import make_corpora
from nanogpt.training.loop import Pretraining, train_together
from nanogpt.training.stacked import stack


def timed(work: Callable[[], list[Checkpoint]], device: torch.device) -> tuple[float, list[Checkpoint]]:
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - began, result


def finals(members: Sequence[Pretraining], trainings: int) -> list[Checkpoint]:
    """Train all of them as one; returns their last checkpoints."""
    *_, last = train_together(members, trainings=trainings)
    return [progress.checkpoint for progress in last if progress.checkpoint]


def validation_losses(checkpoints: Sequence[Checkpoint], members: Sequence[Pretraining], device: torch.device,
                      ) -> list[float]:
    """Score each on its own validation text, nats per character."""
    losses = stacked_losses(stack(checkpoints, device), [member.corpus.validation for member in members])
    return [float(losses_N.mean()) for losses_N in losses]


@click.command(help=__doc__)
@click.option("--text", "texts", type=click.Path(exists=True, path_type=Path), multiple=True, required=True,
              help="a UTF-8 text file; repeatable")
@click.option("--seeds", default=8, show_default=True, help="trainings of each text")
@click.option("--alone", default=3, show_default=True, help="how many of them are trained alone too")
@click.option("--preset", default="standard", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--repeats", default=2, show_default=True, help="of the batched training; the first one compiles")
def main(texts: tuple[Path, ...], seeds: int, alone: int, preset: str, changes: tuple[str, ...],
         repeats: int) -> None:
    config = read_config(preset, changes)
    device, steps = resolve_device(config.device), config.train.max_steps
    corpora = make_corpora([load_source(path) for path in texts], DataConfig(), config.model.block_size)
    members = [Pretraining(corpus, dataclasses.replace(config, seed=config.seed + k))
               for corpus in corpora.values() for k in range(seeds)]
    for repeat in range(repeats):
        seconds, together = timed(lambda: finals(members, len(members)), device)
        click.echo(f"{len(members)} trainings as one, time {repeat + 1}: {seconds:.2f} s, "
                   f"{1000 * seconds / steps:.2f} ms a step")
    losses = validation_losses(together, members, device)
    for name in corpora:
        own = [loss for member, loss in zip(members, losses, strict=True) if member.corpus.name == name]
        spread = statistics.stdev(own) if len(own) > 1 else float("nan")
        click.echo(f"{name}: {statistics.mean(own):.4f} ± {spread:.4f} nats per character ({len(own)} seeds)")
    for i in range(0, len(members), max(1, len(members) // max(1, alone))):
        seconds, (single,) = timed(lambda i=i: finals([members[i]], alone), device)
        (loss,) = validation_losses([single], [members[i]], device)
        title = f"{members[i].corpus.name} seed {members[i].config.seed}"
        click.echo(f"{title} alone: {seconds:.2f} s, {loss:.4f} nats; as a member {losses[i]:.4f}")
    if device.type == "cuda":
        click.echo(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
