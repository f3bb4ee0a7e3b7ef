"""The tables that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

TABLES = ("corpora", "training", "zero_shot", "generations", "top_characters", "transfer_curves", "transfers", "trials",
          "transfer_measures", "stage_comparisons", "attribution", "breakdown", "reliability", "baselines", "distances",
          "leakage", "comparisons", "specialisation", "writing", "attribution_summary", "faithfulness",
          "deletion_curves", "method_agreement", "attribution_domains", "attribution_words")


@dataclass(frozen=True)
class StudyTables:
    """What a report is made of; a table that is missing or empty leaves its section out.

    `tables` has names of `TABLES`. `links` maps a run's name to its id and to its path below the address of the
    MLflow UI, such as `/#/experiments/1/runs/0a1b`.
    """

    title: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """The table, empty where there is none; a `stage` that a CSV file lost is '' again."""
        assert name in TABLES, name
        frame = self.tables.get(name, pd.DataFrame())
        return frame.assign(stage=frame["stage"].fillna("")) if "stage" in frame else frame

    @property
    def domains(self) -> list[str]:
        """The domains in the study's order, which gives them their colours."""
        columns = (("corpora", "domain"), ("corpora", "name"), ("training", "domain"), ("zero_shot", "source"),
                   ("zero_shot", "target"))
        names = (name for table, column in columns for name in self.table(table).get(column, ()))
        return list(dict.fromkeys(map(str, names)))


def by_first_method(attribution: pd.DataFrame) -> pd.DataFrame:
    """The rows of the method that read every model and prompt."""
    return attribution[attribution["method"] == attribution["method"].iloc[0]] if len(attribution) else attribution
