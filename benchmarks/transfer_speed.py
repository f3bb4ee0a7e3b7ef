"""Many fine-tunings as one batched model against one after the other in plain eager steps, in turns.

    python benchmarks/transfer_speed.py --members 64 --device cuda

Every member has weights, windows and a learning rate of its own. On a GPU a step of the batched model, and one of
a single model, is also measured as a CUDA graph. "difference" is the largest one between a member's validation loss
after all steps and that of the same member fine-tuned alone, in nats per character.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import seconds_of
from nanogpt.config import ModelConfig
from nanogpt.evaluation.evaluate import stacked_losses
from nanogpt.model.checkpoint import Checkpoint, weights_of
from nanogpt.model.device import random_stream, resolve_device, scoring_type
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Split, make_split
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.training.stacked import MemberAdam, stack
from nanogpt.training.step import RecordedStep, Step, make_step

ALPHABET = "".join(sorted({chr(i) for i in range(32, 127)} | {"\n"}))


def make_members(count: int, config: ModelConfig, vocabulary: Vocabulary) -> list[Checkpoint]:
    """Random weights, one seed for each."""
    members = []
    for seed in range(count):
        with random_stream(seed, torch.device("cpu")):
            weights = weights_of(GPT(config, len(vocabulary)))
        members.append(Checkpoint(f"member {seed}", 0, config, vocabulary, weights, torch.zeros(len(vocabulary))))
    return members


def stepper(members: list[Checkpoint], rates: list[float], device: torch.device, *, recorded: bool) -> tuple[GPT, Step]:
    """The members as one model and the function that updates all of them once."""
    model = stack(members, device)
    optimizer = MemberAdam(model.parameters(), torch.tensor(rates, device=device))
    step = make_step(model, [optimizer], scoring_type(device), members=len(members))
    return model, step if recorded or not isinstance(step, RecordedStep) else step.eager


def plain_stepper(member: Checkpoint, rate: float, device: torch.device) -> tuple[GPT, Step]:
    """A model by itself, torch's fused AdamW, no recording."""
    model = member.build(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return model, make_step(model, [optimizer], scoring_type(device))


def solo_losses(members: list[Checkpoint], rates: list[float], batches: list[tuple[Tensor, Tensor]], split: Split,
                device: torch.device) -> Tensor:
    """Each member's loss on `split` after its own rows of every batch, one member after the other."""
    rows = len(batches[0][0]) // len(members)
    found = []
    for i, (member, rate) in enumerate(zip(members, rates, strict=True)):
        model, step = plain_stepper(member, rate, device)
        for inputs_NT, targets_NT in batches:
            step(inputs_NT[i * rows:(i + 1) * rows], targets_NT[i * rows:(i + 1) * rows])
        found.append(stacked_losses(stack([as_checkpoint(member, model)], device), [split])[0].mean())
    return torch.stack(found)


def as_checkpoint(member: Checkpoint, model: GPT) -> Checkpoint:
    return Checkpoint(member.domain, 0, member.model_config, member.vocabulary, weights_of(model),
                      member.character_counts_V)


def random_batches(text: str, vocabulary: Vocabulary, shape: tuple[int, int], device: torch.device) -> Iterator[
        tuple[Tensor, Tensor]]:
    ids_N, generator = vocabulary.encode(text), torch.Generator().manual_seed(1)
    while True:
        begin_N = torch.randint(len(ids_N) - shape[1] - 1, (shape[0], 1), generator=generator)
        windows = ids_N[begin_N + torch.arange(shape[1] + 1)].to(device)
        yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def turns(ways: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median over `repeats` rounds, the ways in turn in each, of the seconds that each takes."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            times[name].append(seconds_of(work, device, repeats=3))
    return {name: statistics.median(values) for name, values in times.items()}


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="a UTF-8 file; left out: square numbers")
@click.option("--members", default=64, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--rows", default=16, show_default=True, help="windows of each member in a step")
@click.option("--length", default=64, show_default=True, help="characters of a window")
@click.option("--n-layer", default=4, show_default=True, help="layers of width 128: 4 are 0.8 M parameters")
@click.option("--n-embd", default=128, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="rounds of which the median is taken")
@click.option("--steps", default=12, show_default=True, help="steps after which the losses are compared")
def main(text: Path | None, members: int, device: str, rows: int, length: int, n_layer: int, n_embd: int,
         repeats: int, steps: int) -> None:
    place = resolve_device(device)
    written = text.read_text("utf-8") if text else "".join(str(k * k) + " " for k in range(20_000))
    vocabulary = Vocabulary(ALPHABET)
    config = ModelConfig(n_layer=n_layer, n_embd=n_embd, block_size=length)
    checkpoints = make_members(members, config, vocabulary)
    rates = torch.logspace(-3.5, -1.8, members).tolist()
    feed = random_batches(written, vocabulary, (members * rows, length), place)
    click.echo(f"{members} members of {sum(w.numel() for w in checkpoints[0].weights.values()):,} parameters, "
               f"batch {rows} × {length}, {torch.cuda.get_device_name() if place.type == 'cuda' else place}, "
               f"torch {torch.__version__}")

    batches, split = [next(feed) for _ in range(steps)], make_split(written[:4096], vocabulary)
    model, step = stepper(checkpoints, rates, place, recorded=True)
    for batch in batches:
        step(*batch)
    together = torch.stack(stacked_losses(model, [split] * members)).mean(1)
    difference = together - solo_losses(checkpoints, rates, batches, split, place)
    click.echo(f"difference after {steps} steps: {float(difference.abs().max()):.2g} nats at most, "
               f"median {float(difference.abs().median()):.2g}")

    batch, one = batches[0], tuple(ids_NT[:rows].contiguous() for ids_NT in batches[0])
    ways = {"one, eager": (plain_stepper(checkpoints[0], rates[0], place)[1], one)}
    if place.type == "cuda":
        ways["one, recorded"] = stepper(checkpoints[:1], rates[:1], place, recorded=True)[1], one
    ways["together, eager"] = stepper(checkpoints, rates, place, recorded=False)[1], batch
    if place.type == "cuda":
        ways["together, recorded"] = step, batch
    seconds = turns({name: lambda way=way, ids=ids: way(*ids) for name, (way, ids) in ways.items()}, place, repeats)
    alone = members * seconds["one, eager"]
    for name, value in seconds.items():
        count = members if name.startswith("together") else 1
        click.echo(f"{name:20} {1000 * value:9.2f} ms a step, {1000 * value / count:8.3f} ms a member, "
                   f"{alone / value * count / members:6.1f} times as fast as one after the other")


if __name__ == "__main__":
    main()
