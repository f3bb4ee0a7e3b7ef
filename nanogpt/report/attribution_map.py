"""The attribution table as the report's interactive map reads it: a character for each score."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pandas as pd

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+"
"""A digit stands for sign(score) · √share in steps of 1 / 31: A is −1, f is 0, + is 1."""
MOST_SCORES = 900_000
"""Of all maps in a page; prompts beyond it are left out."""


def interactive_map(attribution: pd.DataFrame) -> dict[str, Any]:
    """Prompts, and for each prompt, method, domain and step: `scores`, the lower triangle row by row in DIGITS; the
    `last` target; and the targets' probabilities in `percent`. Empty where the table is."""
    if attribution.empty:
        return {}
    half = len(DIGITS) // 2
    level = np.sign(attribution["score"]) * np.sqrt(attribution["share"]) * half
    digits = np.frombuffer(DIGITS.encode(), np.uint8)[np.rint(level).astype(int) + half]
    keys = ["prompt", "method", "domain", "step"]
    places: dict[Any, Any] = dict(attribution.groupby(keys, sort=False).indices)
    sizes = attribution.groupby("prompt", sort=False).size().cumsum()
    prompts = list(sizes.index[sizes <= max(MOST_SCORES, sizes.iloc[0])])
    maps: dict[str, Any] = {}
    for (prompt, method, domain, step), rows in places.items():
        if prompt in prompts:
            ends = np.arange(1, len(prompt) + 1).cumsum() - 1
            rows = rows[:ends[-1] + 1]     # a prompt that stands twice in the list has its map twice
            percent = np.rint(attribution["probability"].to_numpy()[rows[ends]] * 100).astype(int)
            branch = maps.setdefault(method, {}).setdefault(str(prompts.index(prompt)), {}).setdefault(domain, {})
            branch[str(step)] = {"scores": digits[rows].tobytes().decode(), "percent": percent.tolist(),
                                 "last": attribution["target"].iat[rows[-1]]}
    return {"prompts": prompts, "methods": list(maps), "domains": list(attribution["domain"].unique()), "maps": maps,
            "digits": DIGITS, "unknown": "".join(attribution.loc[attribution["unknown"], "character"].unique())}
