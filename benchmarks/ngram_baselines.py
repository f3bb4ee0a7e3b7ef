"""What character n-grams (interpolated Witten–Bell) reach: losses for the orders 1 to 6.

    python benchmarks/ngram_baselines.py                    the domains as the preset `quick` cuts them, test split
    python benchmarks/ngram_baselines.py --text input.txt   first 90 % train, last 10 % validation

The domains have one vocabulary and an unknown character costs 8 bits for each of its bytes, as for the models.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_corpus
from nanogpt.config import make_config
from nanogpt.evaluation.metrics import code_bits
from nanogpt.evaluation.ngram import fit_ngram, ngram_losses
from nanogpt.study.inputs import study_corpora


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="a UTF-8 text file")
@click.option("--order", default=6, show_default=True, help="longest n-gram, in characters")
def main(text: Path | None, order: int) -> None:
    corpora = {text.stem: load_corpus(text)} if text else study_corpora(make_config())
    for name, corpus in corpora.items():
        began = time.perf_counter()
        losses_KN = ngram_losses(fit_ngram(corpus.train, order), corpus.test)
        click.echo(f"{name}: {len(corpus.train):,} characters counted and {len(corpus.test):,} scored "
                   f"in {time.perf_counter() - began:.2f} s")
        for k, loss_N in enumerate(losses_KN, start=1):
            bits_per_byte = float(code_bits(loss_N, corpus.test.escape_bytes_N).sum()) / corpus.test.n_bytes
            click.echo(f"  order {k}   {float(loss_N.mean()):.4f} nats per character   "
                       f"{bits_per_byte:.4f} bits per byte")


if __name__ == "__main__":
    main()
