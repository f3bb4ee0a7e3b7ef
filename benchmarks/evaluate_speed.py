"""Characters per second of training, of evaluation, and of a bare forward pass with its loss, in turns.

    python benchmarks/evaluate_speed.py --text input.txt
    python benchmarks/evaluate_speed.py --text input.txt --preset standard --set max_steps=10 --characters 100000

Evaluation is all that a row of the zero-shot table holds, temperature included (its fit reads other text and is not
counted). The bare pass reads the same windows, which overlap: about two characters are read for each that is scored.
The ratio is the median over the turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import click
import torch
import torch.nn.functional as F

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_corpus, read_config, seconds_of
from nanogpt.evaluation.evaluate import CHARACTERS_PER_BATCH, evaluate
from nanogpt.model.device import products_in, resolve_device, scoring_type
from nanogpt.text.windows import scoring_windows
from nanogpt.training.loop import train


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="a UTF-8 text file")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, default=("max_steps=100",), show_default=True)
@click.option("--characters", default=0, show_default=True, help="characters of validation text that are read; 0: all")
@click.option("--turns", default=5, show_default=True)
def main(text: Path, preset: str, changes: tuple[str, ...], characters: int, turns: int) -> None:
    corpus, config = load_corpus(text), read_config(preset, changes)
    device, split = resolve_device(config.device), corpus.validation.spread(characters)
    began = time.perf_counter()
    *_, last = train(corpus, config)
    assert last.checkpoint is not None
    checkpoint = last.checkpoint
    trained_on = config.train.max_steps * config.train.batch_size * config.model.block_size
    training = trained_on / (time.perf_counter() - began)
    model = checkpoint.build(device)
    rows = max(1, CHARACTERS_PER_BATCH // config.model.block_size)
    windows = scoring_windows(split, config.model.block_size)
    batches = [tuple(column.to(device) for column in windows.rows(begin, begin + rows)[:3])
               for begin in range(0, len(windows), rows)]

    @torch.inference_mode()
    def bare() -> float:
        total = torch.zeros((), device=device)
        for inputs_BT, targets_BT, scored_BT in batches:
            with products_in(scoring_type(device), device):
                logits_BTV = model(inputs_BT)
                total += F.cross_entropy(logits_BTV[scored_BT], targets_BT[scored_BT], reduction="sum")
        return float(total)

    pairs = [(seconds_of(bare, device, 1), seconds_of(lambda: evaluate(model, checkpoint, split, 1.1), device, 1))
             for _ in range(turns)]
    without, whole = (len(split) / statistics.median(column) for column in zip(*pairs, strict=True))
    for name, speed in {"training": training, "evaluation": whole, "bare forward": without}.items():
        click.echo(f"{name:12s} {speed:10,.0f} characters/s, {speed / training:.2f} times training")
    ratios = sorted(evaluation / forward for forward, evaluation in pairs)
    click.echo(f"evaluation takes {statistics.median(ratios):.2f} times a bare forward pass with loss "
               f"({turns} turns: {ratios[0]:.2f} to {ratios[-1]:.2f}; {len(split):,} characters, "
               f"{sum(p.numel() for p in model.parameters()):,} weights, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
