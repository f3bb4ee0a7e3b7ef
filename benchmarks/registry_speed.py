"""Logging, registering and aliasing checkpoints, loading one, and 100 served characters, in a store of its own.

    python benchmarks/registry_speed.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import mlflow
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanogpt.commands.options import show_progress
from nanogpt.config import STAGE_SHARES, make_config
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint, weights_of
from nanogpt.model.gpt import GPT
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.tracking import registry
from nanogpt.tracking.run import open_run
from nanogpt.tracking.scratch import scratch_path


def checkpoints(count: int, preset: str) -> list[Checkpoint]:
    """Random weights of the preset's shape, with a vocabulary of 95 characters."""
    config, vocabulary = make_config(preset).model, Vocabulary("".join(map(chr, range(32, 127))))
    made = []
    for step in range(count):
        torch.manual_seed(step)
        weights = weights_of(GPT(config, len(vocabulary)))
        counts_V = torch.ones(len(vocabulary), dtype=torch.int64)
        made.append(Checkpoint("speed", step, config, vocabulary, weights, counts_V))
    return made


def register_all(made: list[Checkpoint]) -> tuple[float, float]:
    """Seconds to save, log, register and alias all, and how many of them this process was computing."""
    began, busy = time.perf_counter(), time.process_time()
    with open_run("registry speed") as run:
        for checkpoint in made:
            path = save_checkpoint(checkpoint, scratch_path(checkpoint.file_name))
            run.file(path, "checkpoints")
            model_id = registry.log_model(checkpoint, path, {"step": checkpoint.step}, run.id)
            (uri,) = registry.register([registry.ToRegister(checkpoint, model_id, {"bits_per_byte": "4.0000"})], run.id)
            registry.set_alias(uri, list(STAGE_SHARES)[checkpoint.step % len(STAGE_SHARES)])
    return time.perf_counter() - began, time.process_time() - busy


def served(repeats: int) -> tuple[float, list[float]]:
    """Seconds to load a model by name, and sorted seconds of 100 characters after one prompt, warmed up."""
    began = time.perf_counter()
    model = mlflow.pyfunc.load_model("models:/nanogpt-speed@late")
    loaded = time.perf_counter() - began
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model.predict(["ROMEO: "], params={"max_new_tokens": 100})
        times.append(time.perf_counter() - began)
    return loaded, sorted(times[1:])


@click.command(help=__doc__)
@click.option("--count", default=30, show_default=True, help="checkpoints")
@click.option("--preset", default="standard", show_default=True, help="whose shape the models have")
@click.option("--repeats", default=9, show_default=True, help="of the prediction")
def main(count: int, preset: str, repeats: int) -> None:
    show_progress()
    made = checkpoints(count, preset)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("speed", f"{folder}/mlruns"))
        elapsed, busy = register_all(made)
        click.echo(f"{count} checkpoints of {sum(w.numel() for w in made[0].weights.values()):,} parameters: "
                   f"{elapsed:.2f} s to log, register and alias ({busy:.2f} s of CPU time)")
        loaded, times = served(repeats)
        click.echo(f"load by name {loaded:.3f} s; 100 characters {statistics.median(times):.3f} s "
                   f"(median of {repeats}; shortest {times[0]:.3f} s)")


if __name__ == "__main__":
    main()
