"""How often the intervals contain the mean of text that nothing has used.

    python benchmarks/coverage.py --domains shakespeare,wikipedia,python

Models of the preset are trained on the domains; what no split holds of each text, a context away from all that is
used, is its pool. The own model, the next domain's model and an order-5 n-gram of the training text read the whole
pool once: their means are the truth. Then splits like those of a study are drawn from the pool again and again, and
it is counted how often the interval of a draw contains the mean of the pool: of the loss, of the lead over the rival
and of the lead over the n-gram.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import read_config
from nanogpt.config import Config
from nanogpt.evaluation.evaluate import score_split
from nanogpt.evaluation.intervals import clustered_interval
from nanogpt.evaluation.metrics import code_bits
from nanogpt.evaluation.ngram import fit_ngram, ngram_losses
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.text.corpus import Corpus, cut, make_corpora, split_of
from nanogpt.text.sources import DomainText, load_domain
from nanogpt.text.splits import DOCUMENT_SHARE, PIECE, Stretch, pieces
from nanogpt.training.loop import Pretraining, train_together

ORDER = 5
Draw = list[int]
"""A drawn split: the numbers of its pieces in the pool."""


@dataclass
class Pool:
    """Unused text in pieces, and what each of three readers pays for each character, in bits."""

    units: list[int]                # the document of each piece
    bytes_of: list[Tensor]          # of each piece: UTF-8 bytes (N,)
    bits_of: list[Tensor]           # of each piece: (3, N): own model, rival, n-gram

    def values(self, what: str) -> list[Tensor]:
        """The bits whose mean is sought: the loss, or a lead over a rival."""
        place = {"loss": None, "lead over rival": 1, f"lead over {ORDER}-gram": 2}[what]
        return [bits[0] if place is None else bits[place] - bits[0] for bits in self.bits_of]


def unused(text: DomainText, corpora: dict[str, Corpus], smallest: DomainText, block_size: int) -> list[Stretch]:
    """The pieces of a text that no split holds, a context away from all of them; the unit is the document."""
    used = sorted((stretch.begin, stretch.end) for part in cut(text, smallest, "spread", block_size)
                  for stretch in part)
    ends = [(0, 0), *used, (text.n_characters, text.n_characters)]
    documents = [*text.document_starts, text.n_characters]
    found = []
    for (_, end), (begin, _) in pairwise(ends):
        for number, (first, last) in enumerate(pairwise(documents)):
            low, high = max(first, end + block_size), min(last, begin - block_size)
            if high - low >= PIECE // 2:
                found += [piece._replace(context=first, unit=number) for piece in pieces(low, high)]
    return found


def read_pool(stretches: Sequence[Stretch], text: DomainText, corpus: Corpus, own: Checkpoint, rival: Checkpoint,
              config: Config) -> Pool:
    split = split_of(text.text, stretches, corpus.vocabulary, config.model.block_size)
    device = resolve_device(config.device)
    losses = [score_split(checkpoint.build(device), split).loss_N for checkpoint in (own, rival)]
    losses.append(ngram_losses(fit_ngram(corpus.train, ORDER), split)[ORDER - 1])
    bits_3N = torch.stack([code_bits(loss_N, split.escape_bytes_N) for loss_N in losses])
    lengths = [piece.end - piece.begin for piece in split.pieces]
    return Pool([stretch.unit for stretch in stretches], list(split.bytes_N.double().split(lengths)),
                list(bits_3N.split(lengths, dim=1)))


def spread_draw(pool: Pool, characters: int, size: int, generator: random.Random) -> Draw:
    """One piece from each of equal sections of the pool."""
    count = max(1, characters // size)
    total = len(pool.units)
    return [generator.randrange(total * k // count, max(total * k // count + 1, total * (k + 1) // count))
            for k in range(count)]


def document_draw(pool: Pool, characters: int, size: int, generator: random.Random) -> Draw:
    """Whole documents at random until they are the share of the pool that a split is of its text."""
    characters = round(DOCUMENT_SHARE * sum(map(len, pool.bytes_of)))
    documents = sorted(set(pool.units))
    generator.shuffle(documents)
    places = {number: [i for i, unit in enumerate(pool.units) if unit == number] for number in documents}
    drawn: Draw = []
    for number in documents:
        if sum(len(pool.bytes_of[i]) for i in drawn) >= characters:
            break
        drawn += places[number]
    return drawn


def contiguous_draw(pool: Pool, characters: int, size: int, generator: random.Random) -> Draw:
    """Neighbouring pieces from a random place on."""
    count = min(len(pool.units), characters // PIECE)
    begin = generator.randrange(len(pool.units) - count + 1)
    return list(range(begin, begin + count))


def sums(values: Sequence[Tensor], size: int) -> NDArray[np.float64]:
    """The sum of the first `size` characters of each piece."""
    return np.array([float(value[:size].sum()) for value in values])


def coverage(pool: Pool, what: str, draws: Sequence[Draw], size: int, *, by_document: bool) -> float:
    """The share of draws whose interval contains the mean of the pool."""
    values = pool.values(what)
    truth = sums(values, 10**9).sum() / sums(pool.bytes_of, 10**9).sum()
    bits, weights, units = sums(values, size), sums(pool.bytes_of, size), np.array(pool.units)
    hits = 0
    for draw in draws:
        interval = clustered_interval(bits[draw], weights[draw], units[draw] if by_document else np.arange(len(draw)))
        hits += interval.low <= truth <= interval.high
    return hits / len(draws)


@click.command(help=__doc__)
@click.option("--domains", default="shakespeare,wikipedia,python", show_default=True, help="of which much is unused")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--draws", default=200, show_default=True, help="of each kind")
def main(domains: str, preset: str, changes: tuple[str, ...], draws: int) -> None:
    config = read_config(preset, (*changes, f"domains={domains}"))
    texts = [load_domain(spec, config.data.corpora) for spec in config.data.domain_specs]
    smallest = load_domain("math")      # as in a study of the built-in three: each domain is cut to its bytes
    every = make_corpora([*texts, smallest], config.data, config.model.block_size)
    corpora = {text.name: every[text.name] for text in texts}
    *_, last = train_together([Pretraining(corpus, config) for corpus in corpora.values()])
    finals = [progress.checkpoint for progress in last if progress.checkpoint]
    used = len(every["math"].test)
    kinds: dict[str, tuple[Callable[[Pool, int, int, random.Random], Draw], int, int]] = {
        "spread, whole split": (spread_draw, used, PIECE),
        "spread, 6144 characters": (spread_draw, 6144, 64),
        "documents": (document_draw, 0, PIECE * 2),
        "contiguous (for comparison)": (contiguous_draw, used, PIECE)}
    for number, (text, corpus) in enumerate(zip(texts, corpora.values(), strict=True)):
        rival = finals[(number + 1) % len(finals)]
        pool = read_pool(unused(text, corpora, smallest, config.model.block_size), text, corpus, finals[number], rival,
                         config)
        click.echo(f"{text.name}: pool of {sum(map(len, pool.bytes_of)):,} characters in {len(set(pool.units))} "
                   f"documents; rival {rival.domain}")
        for kind, (draw, characters, size) in kinds.items():
            generator, shares = random.Random(1), []
            drawn = [draw(pool, characters, size, generator) for _ in range(draws)]
            for what in ("loss", "lead over rival", f"lead over {ORDER}-gram"):
                share = coverage(pool, what, drawn, size, by_document=kind == "documents")
                shares.append(f"{what} {share:.1%}")
            click.echo(f"  {kind}: {', '.join(shares)} (each ± {100 * (0.95 * 0.05 / draws) ** 0.5:.1f} points)")


if __name__ == "__main__":
    main()
