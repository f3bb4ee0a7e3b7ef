"""The tables that a report is made of, and the rows that its figures and sentences pick from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from nanogpt.config import STAGE_SHARES, settings

TABLES = ("corpora", "excerpts", "training", "zero_shot", "generations", "top_characters", "transfer_curves",
          "transfers", "trials", "transfer_measures", "stage_comparisons", "attribution", "breakdown", "reliability",
          "baselines", "distances", "leakage", "comparisons", "zero_shot_means", "specialisation", "writing",
          "attribution_summary", "faithfulness", "deletion_curves", "seed_agreement", "method_agreement",
          "attribution_domains", "attribution_words", "scaling", "scaling_transfers", "scaling_worth", "scaling_fits",
          "scaling_curves")
BY_SEED = ("training", "transfers", "transfer_curves", "trials", "scaling", "scaling_transfers")
"""Tables whose figures and measures tell seeds apart themselves."""
SHOWN_OF_ONE_SEED = ("generations", "top_characters", "attribution", "writing")
STAGE_ORDER = (*STAGE_SHARES, "scratch")


@dataclass(frozen=True)
class StudyTables:
    """What a report is made of; a table that is missing or empty leaves out what is made from it.

    `tables` has names of `TABLES`. `config` maps a setting to its value, in its group or without groups. `links` maps
    a run's name to its id and to its path below the address of the MLflow UI, such as `/#/experiments/1/runs/0a1b`.
    """

    title: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """Return the table, empty where there is none; a `stage` that a CSV file lost is '' again."""
        assert name in TABLES, name
        return self._frames.get(name, pd.DataFrame())

    @cached_property
    def _frames(self) -> dict[str, pd.DataFrame]:
        staged = {name: frame.assign(stage=frame["stage"].fillna("")) if "stage" in frame else frame
                  for name, frame in self.tables.items()}
        return {name: over_seeds(name, frame) for name, frame in staged.items()}

    def by_seed(self, name: str) -> pd.DataFrame:
        """Return the table with the rows of each training, empty where there is none."""
        return self.tables.get(name, pd.DataFrame())

    def values(self, name: str, column: str) -> list[Any]:
        """Return the different values of a column, in their order; none where the table lacks it."""
        if (name, column) not in self._values:
            frame = self.table(name)
            self._values[name, column] = list(frame[column].unique()) if column in frame else []
        return self._values[name, column]

    @cached_property
    def _values(self) -> dict[tuple[str, str], list[Any]]:
        return {}

    def has(self, *names: str) -> bool:
        """Say whether each of these tables is there and has rows."""
        return all(len(self.table(name)) for name in names)

    def setting(self, name: str) -> Any:
        """Return what the study was configured with, or the setting's default where it does not say."""
        groups = [self.config, *(group for group in self.config.values() if isinstance(group, Mapping))]
        return next((group[name] for group in groups if name in group), settings()[name][1])

    @cached_property
    def domains(self) -> list[str]:
        """The domains of the tables, in the study's order."""
        columns = (("corpora", "domain"), ("corpora", "name"), ("training", "domain"), ("zero_shot", "source"),
                   ("zero_shot", "target"), ("attribution", "domain"))
        names = dict.fromkeys(str(name) for table, column in columns for name in self.values(table, column))
        configured = self.configured_domains
        return [*(name for name in configured if name in names), *(name for name in names if name not in configured)]

    @property
    def domain_order(self) -> list[str]:
        """Every domain of the configuration, then the others of the tables: a domain's place gives it its colour."""
        return list(dict.fromkeys([*self.configured_domains, *self.domains]))

    @property
    def configured_domains(self) -> list[str]:
        """The domains that the study was configured with, without the paths of the user's own texts."""
        return [spec.partition("=")[0].strip() for spec in str(self.setting("domains")).split(",")]

    @cached_property
    def prompts(self) -> list[str]:
        """Every prompt that has a map or a distribution of its next characters, in the study's order."""
        return list(dict.fromkeys(prompt for name in ("attribution", "top_characters")
                                  for prompt in self.values(name, "prompt")))

    @cached_property
    def first_maps(self) -> dict[str, pd.DataFrame]:
        """The maps of each prompt by the method that read every model and prompt."""
        rows = by_first_method(self.table("attribution"))
        return {str(prompt): part for prompt, part in rows.groupby("prompt", sort=False)} if len(rows) else {}

    @property
    def first_method(self) -> str:
        """The attribution method that read every model and prompt."""
        configured = (name.strip() for name in str(self.setting("methods")).split(","))
        return str(next(iter((*self.values("attribution", "method"), *configured))))


def over_seeds(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the seeds of trainings; of texts and distributions those of the first seed."""
    if name in BY_SEED or "training_seed" not in frame or frame["training_seed"].nunique() < 2:
        return frame
    if name in SHOWN_OF_ONE_SEED:
        return frame[frame["training_seed"] == frame["training_seed"].min()]
    values = [column for column in frame.select_dtypes("float")]
    keys = [column for column in frame if column not in (*values, "training_seed", "run_id")]
    means = frame.groupby(keys, sort=False, dropna=False, as_index=False)[values].mean()
    return means[[column for column in frame if column in means]]


def groups_of(frame: pd.DataFrame, column: str, order: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Return the rows of each value of `column`, in `order`, without the empty ones."""
    return {name: rows for name in order if len(rows := frame.loc[frame[column] == name])}


def by_source(frame: pd.DataFrame, domains: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the rows of each source, in the order of `domains`."""
    return groups_of(frame, "source", dict.fromkeys([*domains, *frame["source"]]))


def by_stage(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each stage, in the order of a training, then of any other (a model that a user named)."""
    return groups_of(frame, "stage", dict.fromkeys([*STAGE_ORDER, *frame["stage"]]))


def by_pair(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return `source → target` to its rows, those of one target side by side."""
    return {f"{source} → {target}": rows for target, part in frame.groupby("target", sort=False)
            for source, rows in part.groupby("source", sort=False)}


def most_shots(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the largest number of `shots`, where there is such a column."""
    return frame[frame["shots"] == frame["shots"].max()] if "shots" in frame else frame


def last_steps(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows of each model's last checkpoint; `model` is the column that names the models."""
    return frame[frame["step"] == frame.groupby(model)["step"].transform("max")]


def own_texts(zero_shot: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in which a model reads the text of its own domain."""
    return zero_shot[zero_shot["source"] == zero_shot["target"]]


def pivot(rows: pd.DataFrame, index: str, columns: str, values: str) -> pd.DataFrame:
    """Return `values` by `index` and `columns`; where a pair occurs twice its first row counts."""
    return rows.drop_duplicates([index, columns]).pivot(index=index, columns=columns, values=values)


def loss_tables(zero_shot: pd.DataFrame, domains: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return title to bits per byte by source and target: a table for each stage, or else one for the last steps."""
    order = dict.fromkeys([*domains, *zero_shot["source"], *zero_shot["target"]])
    frames = groups_of(zero_shot, "stage", STAGE_ORDER)
    frames = frames or {"last step": zero_shot.sort_values("step").groupby(["source", "target"]).tail(1)}
    tables = {}
    for stage, rows in frames.items():
        steps, table = rows["step"].unique(), pivot(rows, "source", "target", "bits_per_byte")
        title = f"{stage}, step {steps[0]:,}" if len(steps) == 1 else stage
        tables[title] = table.reindex(index=[name for name in order if name in table.index],
                                      columns=[name for name in order if name in table])
    return tables


def by_first_method(attribution: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the method that read every model and prompt."""
    return attribution[attribution["method"] == attribution["method"].iloc[0]] if len(attribution) else attribution


def last_predictions(maps: pd.DataFrame) -> pd.DataFrame:
    """Return those rows of a prompt's maps that are of what follows it, a model's name as `source`."""
    last: pd.DataFrame = maps[maps["target_position"] == maps["target_position"].max()]
    return last.rename(columns={"domain": "source"})


def likeliest(top_characters: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """Return the rows of the likeliest next character after each one of `prompt`."""
    return top_characters[(top_characters["prompt"] == prompt) & (top_characters["rank"] == 1)]
