"""What the rows of several sizes say: fitted laws, the curves to draw, and what transfers are worth in text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from nanogpt.config import Row
from nanogpt.evaluation.intervals import clustered_interval
from nanogpt.evaluation.scaling import ScalingFit, drawn_at, fit_scaling, frontier
from nanogpt.transfer.measures import effective_data_transferred
from nanogpt.transfer.sizes import SCRATCH

PARAMETERS, CHARACTERS, COMPUTE, TRANSFER = "parameters", "characters", "compute", "transferred"
"""The laws: loss over weights of the blocks, characters of the text, operations; effective data over weights."""
X = {PARAMETERS: "block_weights", CHARACTERS: "unique_characters", COMPUTE: "flops", TRANSFER: "block_weights"}
MORE_THAN, LESS_THAN = "more than", "less than"


def with_worth(transfers: Iterable[Row], scratch: pd.DataFrame) -> Iterator[Row]:
    """Add to each transfer how many characters of its target models from scratch need for the same loss, and more.

    `scratch` are rows of trainings (transfer/sizes.py). `effective_characters` is D_E of Hernandez et al. 2021
    (arXiv:2102.01293), `transferred_characters` D_T = D_E - D_F. `control_characters` are D_T of the untrained weights
    of the same size, seed, target and windows: what so many windows give beyond as many characters of the curve, with
    no source at all; none where that is less. `worth` is the rest over the different characters of the source's text.
    Where no training from scratch came as low, or the one with least text came lower, they are those of the most or the
    least text, and `bound` says so.
    """
    rows = list(with_effective_data(transfers, scratch))
    controls = {(row["size"], row["target"], row["training_seed"]): max(0.0, row["transferred_characters"])
                for row in rows if row["source"] == SCRATCH}
    for row in rows:
        control = controls.get((row["size"], row["target"], row["training_seed"]), 0.0)
        rest, characters = row["transferred_characters"] - control, row["source_characters"]
        yield row | {"control_characters": control, "worth": rest / characters if characters else None}


def with_effective_data(transfers: Iterable[Row], scratch: pd.DataFrame) -> Iterator[Row]:
    """Add D_E and D_T to each transfer, and whether they are bounds."""
    curves = {key: rows.groupby("unique_characters")["test_bits_per_byte"].mean()
              for key, rows in scratch[scratch["chosen"]].groupby(["size", "domain"])}
    for row in transfers:
        curve, given = curves[row["size"], row["target"]].sort_index(), row["given_characters"]
        amounts, losses, loss = curve.index.tolist(), curve.tolist(), row["test_bits_per_byte"]
        transferred, is_bounded = effective_data_transferred(loss, given, amounts, losses)
        bound = MORE_THAN if not is_bounded else LESS_THAN if loss > losses[0] else ""
        yield row | {"effective_characters": transferred + given, "transferred_characters": transferred,
                     "bound": bound}


def worth_rows(transfers: pd.DataFrame) -> Iterator[Row]:
    """Yield what a character of each source is worth for each target at each size: the mean over trainings.

    With the 95 % interval over these where all of them were measured; where one is a bound, so is the mean.
    `transferred_characters` are those beyond the control.
    """
    trained = transfers[transfers["source"] != SCRATCH]
    for (size, weights, source, target), rows in trained.groupby(["size", "block_weights", "source", "target"],
                                                                  sort=False):
        bounds = set(rows["bound"]) - {""}
        interval = clustered_interval(rows["worth"], [1.0] * len(rows))
        measured = {"low": interval.low, "high": interval.high} if not bounds else {"low": None, "high": None}
        yield {"size": size, "block_weights": weights, "source": source, "target": target, "seeds": len(rows),
               "worth": interval.value, **measured,
               "transferred_characters": (rows["transferred_characters"] - rows["control_characters"]).mean(),
               "control_characters": rows["control_characters"].mean(),
               "bound": bounds.pop() if len(bounds) == 1 else "between bounds" if bounds else ""}


def law_points(rows: pd.DataFrame, worth: pd.DataFrame) -> Iterator[tuple[Row, pd.DataFrame, int | None]]:
    """Yield the names of each law, its points as columns x and y, and how many of these are independent if not all.

    Of weights those up to the size that loses least on validation text: a power law does not rise again. Of compute
    those that lose least there for their cost, if this is at least that of the cheapest whole training: for less,
    models that are smaller than all of these would be better. The checkpoints of one size count as one. Of transfers
    those of pairs that were measured at all sizes.
    """
    whole, chosen = rows[rows["one_in"] == 1], rows[rows["chosen"]]
    for domain, part in whole.groupby("domain", sort=False):
        names = {"domain": domain, "source": "", "size": ""}
        own = part[part["chosen"]]
        least = own.groupby("block_weights")["validation_bits_per_byte"].mean().idxmin()
        sizes = {"law": PARAMETERS, "tried_to": float(own["block_weights"].max())}
        yield names | sizes, points(own[own["block_weights"] <= least], PARAMETERS), None
        dear = part[part["flops"] >= part[part["step"] == part["max_steps"]]["flops"].min()]
        means = dear.groupby(["size", "flops"])[["validation_bits_per_byte", "test_bits_per_byte"]].mean().reset_index()
        best = means.loc[frontier(means["flops"], means["validation_bits_per_byte"])]
        yield names | {"law": COMPUTE}, points(best, COMPUTE), best["size"].nunique()
        for size, amounts in chosen[chosen["domain"] == domain].groupby("size", sort=False):
            yield names | {"law": CHARACTERS, "size": size}, points(amounts, CHARACTERS), None
    if len(worth):
        measured = worth[(worth["bound"] == "") & (worth["transferred_characters"] > 0)]
        for (source, target), part in measured.groupby(["source", "target"], sort=False):
            if part["size"].nunique() < worth["size"].nunique():
                continue
            yield ({"domain": target, "source": source, "size": "", "law": TRANSFER},
                   points(part, TRANSFER, "transferred_characters"), None)


def points(rows: pd.DataFrame, law: str, y: str = "test_bits_per_byte") -> pd.DataFrame:
    """Return x and y of a law, y averaged over trainings."""
    means = rows.groupby(X[law])[y].mean()
    return pd.DataFrame({"x": means.index.to_numpy(float), "y": means.to_numpy(float)})


def fitted_laws(rows: pd.DataFrame, worth: pd.DataFrame) -> tuple[list[Row], list[Row]]:
    """Fit all laws that have points enough; returns a row for each, and the rows of its curve and band.

    `exponent` is that of a fall; of `transferred`, which may grow, that of growth. `tried_to` is the largest number of
    weights that was trained, `most` the largest that the law holds for.
    """
    fits, curves = list[Row](), list[Row]()
    for names, of_law, units in law_points(rows, worth):
        grows = names["law"] == TRANSFER
        fit = fit_scaling(of_law["x"], of_law["y"], units=units, floor=not grows)
        if fit is not None:
            curves += [names | row for row in curve_rows(fit)]
            fits.append(names | fit_row(fit, grows=grows))
    return fits, curves


def fit_row(fit: ScalingFit, *, grows: bool) -> Row:
    if grows:
        fit = replace(fit, exponent=-fit.exponent, low=-fit.high, high=-fit.low)
    return {"exponent": fit.exponent, "low": fit.low, "high": fit.high, "coefficient": fit.coefficient,
            "floor": fit.floor, "deviation": fit.deviation, "points": fit.points, "freedom": fit.freedom,
            "least": fit.least, "most": fit.most}


def curve_rows(fit: ScalingFit) -> list[Row]:
    """Tabulate a curve with its band, inside what was measured."""
    x: Sequence[float] = drawn_at(fit.least, fit.most)
    low, high = fit.band(x)
    return [{"x": at, "fitted": float(middle), "low": float(lower), "high": float(upper)}
            for at, middle, lower, upper in zip(x, fit.at(x), low, high, strict=True)]
