"""Time and losses of one training by several processes (training/processes.py), with torch alone: no store, no MLflow.

    python benchmarks/processes_speed.py --text input.txt --preset standard
    torchrun --nproc-per-node 2 benchmarks/processes_speed.py --text input.txt --preset standard

The first process prints a line of JSON: device, processes, training losses at the recorded steps, the validation loss
of nanoGPT's split, a digest of the final weights, and characters per second (the first record apart: libraries, graphs
and compilations are set up before it). `--compare FILE` adds the largest differences from the line in a file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import torch

if __name__ == "__main__":      # the launcher starts the file, and the package is beside it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import disjoint_loss, load_corpus, read_config
from nanogpt.config import Config
from nanogpt.model.device import resolve_device
from nanogpt.model.launch import launch
from nanogpt.training.loop import Progress, train
from nanogpt.training.processes import joined, rank, world_size


def report(records: list[Progress], config: Config, validation_nats: float) -> dict[str, Any]:
    """Say what a training came to and how fast it was."""
    device, last = resolve_device(config.device), records[-1]
    assert last.checkpoint is not None
    first = next(record for record in records if record.step)
    characters = (last.step - first.step) * config.train.batch_size * config.model.block_size
    return {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "processes": world_size(),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "preset": config.preset,
            "batch_size": config.train.batch_size, "steps": last.step, "seconds": round(last.seconds, 3),
            "characters_per_second": round(characters / max(last.seconds - first.seconds, 1e-9)),
            "validation_nats": validation_nats, "weights": last.checkpoint.sha256,
            "losses": {record.step: record.loss_nats for record in records if record.loss_nats is not None}}


def differences(own: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Compare two reports of the same training."""
    losses = [abs(loss - other["losses"][str(step)]) for step, loss in own["losses"].items()]
    return {"largest_loss_difference_nats": max(losses), "validation_difference_nats":
            abs(own["validation_nats"] - other["validation_nats"]),
            "speed_ratio": own["characters_per_second"] / other["characters_per_second"]}


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="a UTF-8 text file")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--compare", type=click.Path(exists=True, path_type=Path), help="a file with the line of another run")
def main(text: Path, preset: str, changes: tuple[str, ...], compare: Path | None) -> None:
    config, corpus = read_config(preset, changes), load_corpus(text)
    with joined(launch()):
        records = list(train(corpus, config))
        if rank() == 0:
            assert records[-1].checkpoint is not None
            model = records[-1].checkpoint.build(resolve_device(config.device))
            said = report(records, config, disjoint_loss(model, corpus.validation))
            if compare:
                said |= differences(said, json.loads(compare.read_text().strip().splitlines()[-1]))
            click.echo(json.dumps(said))


if __name__ == "__main__":
    main()
