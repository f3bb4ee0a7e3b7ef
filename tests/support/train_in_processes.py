"""A program for torch's launcher: each process trains its share and writes the losses and weights that it ends with.

Arguments: a text file, a folder for the results, settings over `smoke` as JSON. With `records` among them the first
process takes only so many records of a first training, before all make another one to the end.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nanogpt.config import Config, make_config
from nanogpt.model.launch import launch
from nanogpt.text.corpus import Corpus, make_corpora
from nanogpt.text.sources import load_domain
from nanogpt.training.loop import train
from nanogpt.training.processes import joined, rank


def inputs(text: Path, settings: dict[str, Any]) -> tuple[Corpus, Config]:
    config = make_config("smoke", **settings)
    return make_corpora([load_domain(f"own={text}")], config.data, config.model.block_size)["own"], config


def result(corpus: Corpus, config: Config) -> dict[str, Any]:
    """Training losses by step, and the final weights."""
    records = list(train(corpus, config))
    assert records[-1].checkpoint is not None
    return {"losses": {record.step: record.loss_nats for record in records if record.step},
            "weights": records[-1].checkpoint.weights}


def main(text: str, folder: str, settings_json: str) -> None:
    settings = json.loads(settings_json)
    taken = settings.pop("records", None)
    with joined(launch()):
        corpus, config = inputs(Path(text), settings)
        if taken is not None:
            # closed when it is dropped, as the generator of a consumer that leaves its loop
            list(islice(train(corpus, config), taken if rank() == 0 else None))
        torch.save(result(corpus, config), Path(folder) / f"{rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
