"""What MLflow adds to a training: the same training bare and tracked, in turns.

    python benchmarks/tracking_cost.py --text input.txt

Bare is the loop with its validation losses; tracked logs, saves and registers all of it in a new store. Both times
are of the whole, from the first step to the finished run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click
import mlflow

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_corpus, read_config
from nanogpt.study.tables import Tables
from nanogpt.study.train import progress_row, train_domain
from nanogpt.training.loop import train


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="a UTF-8 text file")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--repeats", default=2, show_default=True)
def main(text: Path, preset: str, changes: tuple[str, ...], repeats: int) -> None:
    corpus, config = load_corpus(text), read_config(preset, changes)
    for repeat in range(repeats):
        began = time.perf_counter()
        for progress in train(corpus, config):
            progress_row(progress, corpus, config)
        bare = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
            mlflow.set_experiment(experiment_id=mlflow.create_experiment("domains", artifact_location=folder))
            began = time.perf_counter()
            train_domain(corpus, config, Tables())
            tracked = time.perf_counter() - began
        click.echo(f"pair {repeat + 1}: bare {bare:.1f} s, tracked {tracked:.1f} s, {tracked / bare - 1:+.1%}")


if __name__ == "__main__":
    main()
