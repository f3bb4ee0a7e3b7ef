"""Models of several sizes on the full texts: trainings, shares of each text, transfers; then the laws over all tables.

    python benchmarks/scaling.py train --out tables --sizes 2x64,3x96,4x128 --text a.txt b.txt c.txt
    python benchmarks/scaling.py fit --out figures --tables tables more_tables --held-out 10x1024

It needs torch, numpy, scipy and pandas alone. Each size has its own tables, written when it is done, so that sizes may
be trained by several commands on one or more machines. Settings are those of a preset with changes (`--set
dropout=0.1`); what follows from a size is in nanogpt/training/sizes.py. Sizes `--held-out` are not fitted: what the
laws say of them is printed beside what was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_source, read_config
from nanogpt.config import Config, DataConfig, Row, Shape
from nanogpt.errors import require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.text.corpus import Corpus, make_corpora
from nanogpt.training.loop import Pretraining, trainings_together
from nanogpt.training.sizes import sized
from nanogpt.transfer.scaling import fitted_laws, with_worth, worth_rows
from nanogpt.transfer.sizes import ShareTraining, choose, learn, scratch_rows, transfer_rows, untrained

TRAININGS, TRANSFERS = "trainings", "transfers"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.run(options)


def parser() -> argparse.ArgumentParser:
    every = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = every.add_subparsers(required=True)
    train = commands.add_parser("train", help="train and transfer models of some sizes; writes their tables")
    train.set_defaults(run=train_sizes)
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--sizes", required=True, help="comma-separated shapes, <layers>x<width>")
    train.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 text files, cut to equal bytes")
    train.add_argument("--domains", default="", help="those of the texts that are trained on; empty: all")
    train.add_argument("--seeds", type=int, default=3, help="trainings of each text")
    train.add_argument("--preset", default="gpu")
    train.add_argument("--set", dest="changes", nargs="*", default=[], help="name=value over the preset")
    train.add_argument("--no-transfers", action="store_true", help="train with all of each text, and nothing more")
    fit = commands.add_parser("fit", help="fit the laws over all tables")
    fit.set_defaults(run=fit_tables)
    fit.add_argument("--out", type=Path, required=True)
    fit.add_argument("--tables", type=Path, nargs="+", required=True, help="folders that `train` has written")
    fit.add_argument("--held-out", default="", help="sizes that are not fitted, comma-separated")
    return every


def train_sizes(options: argparse.Namespace) -> None:
    config = read_config(options.preset, (f"sizes={options.sizes}", *options.changes))
    require(bool(config.scaling.shapes), "sizes must name at least one shape", options.sizes)
    corpora = make_corpora([load_source(path) for path in options.text], DataConfig(min_count=config.data.min_count),
                           config.model.block_size)
    names = options.domains.split(",") if options.domains else list(corpora)
    require(set(names) <= set(corpora), f"domains must be among {', '.join(corpora)}", options.domains)
    chosen = {name: corpora[name] for name in names}
    for shape in config.scaling.shapes:
        began = time.perf_counter()
        tables = size_tables(shape, chosen, config, options.seeds, transfers=not options.no_transfers)
        for table, rows in tables.items():
            pd.DataFrame(rows).to_csv(options.out / f"{shape.name}_{table}.csv", index=False)
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        print(f"{shape.name}: {time.perf_counter() - began:.1f} s in all, peak {memory:.1f} GiB", flush=True)


def size_tables(shape: Shape, corpora: Mapping[str, Corpus], config: Config, seeds: int, *, transfers: bool,
                ) -> dict[str, list[Row]]:
    """Train a size on all texts with all seeds, then on shares; adapt the best checkpoints and untrained ones."""
    config, started = sized(config, shape), time.perf_counter()
    first = next(iter(corpora.values()))
    together = trainings_together(config, first)
    members = [ShareTraining(Pretraining(corpus, dataclasses.replace(config, seed=config.seed + k)))
               for corpus in corpora.values() for k in range(seeds)]
    rows, models = list[Row](), list[Checkpoint]()
    for begin in range(0, len(members), together):
        for learnt in learn(members[begin:begin + together], of_shape=len(members)):
            rows += learnt.rows
            models += [learnt.best] if learnt.best else []
    began = said(f"{shape.name}: {len(members)} trainings, {together} together", started)
    adapted: list[Row] = []
    if transfers:
        rows += scratch_rows(corpora.values(), config, together)
        began = said(f"{shape.name}: shares of texts", began)
        models += [untrained(first, dataclasses.replace(config, seed=config.seed + k)) for k in range(seeds)]
        adapted = transfer_rows(models, corpora, config)
        said(f"{shape.name}: {len(adapted)} transfers", began)
    choose(rows)
    print(pd.DataFrame(rows).query("chosen").groupby(["one_in", "domain"])["test_bits_per_byte"].mean().unstack(),
          flush=True)
    return {TRAININGS: rows} | ({TRANSFERS: adapted} if adapted else {})


def said(what: str, began: float) -> float:
    """Say how long something took; returns the time."""
    now = time.perf_counter()
    print(f"{what}: {now - began:.1f} s", flush=True)
    return now


def fit_tables(options: argparse.Namespace) -> None:
    every = read_tables(options.tables, TRAININGS)
    held_out = every["size"].isin(options.held_out.split(","))
    rows, transfers = every[~held_out], read_tables(options.tables, TRANSFERS)
    transfers = pd.DataFrame(list(with_worth(transfers.to_dict("records"), rows))) if len(transfers) else transfers
    worth = pd.DataFrame(worth_rows(transfers)) if len(transfers) else transfers
    fits, curves = map(pd.DataFrame, fitted_laws(rows, worth))
    require(len(fits) > 0, "tables must hold at least four sizes or amounts of text", sorted(set(rows["size"])))
    tables = {"scaling": every, "scaling_transfers": transfers, "scaling_worth": worth, "scaling_fits": fits,
              "scaling_curves": curves}
    for name, table in tables.items():
        table.to_csv(options.out / f"{name}.csv", index=False)
    with pd.option_context("display.width", 200, "display.max_rows", 200, "display.max_columns", 30):
        print(fits.drop(columns=["coefficient", "freedom"]).to_string(index=False))
        if len(worth):
            print(worth.to_string(index=False))
        say_held_out(every[held_out & every["chosen"]], fits)


def say_held_out(rows: pd.DataFrame, fits: pd.DataFrame) -> None:
    """Print what the law of parameters says of each size that was not fitted beside what it came to."""
    laws = fits[fits["law"] == "parameters"].set_index("domain")
    known = rows[(rows["one_in"] == 1) & rows["domain"].isin(laws.index)]
    for (size, domain), part in known.groupby(["size", "domain"]):
        law, weights = laws.loc[domain], part["block_weights"].iloc[0]
        said_by_law = law["floor"] + law["coefficient"] * weights ** -law["exponent"]
        print(f"held out: {size} ({weights:,} weights) on {domain}: {part['test_bits_per_byte'].mean():.4f} bits per "
              f"byte, {said_by_law:.4f} by the law of the others")


def read_tables(folders: Sequence[Path], table: str) -> pd.DataFrame:
    """Read the tables of all sizes; a size that lies in two folders is named and refused."""
    paths = sorted(path for folder in folders for path in folder.glob(f"*_{table}.csv"))
    names = [path.name for path in paths]
    require(len(set(names)) == len(names), "tables must hold each size once", names)
    require(bool(paths) or table == TRANSFERS, "tables must be folders that `train` has written",
            [str(folder) for folder in folders])
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True) if paths else pd.DataFrame()


if __name__ == "__main__":
    main()
