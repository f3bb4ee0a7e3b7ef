"""The page that tells the study's story: one self-contained HTML file made from the study's tables."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from nanogpt import figures
from nanogpt.looks import domain_colors, visible

TABLES = ("corpora", "training", "zero_shot", "generations", "top_characters", "transfer_curves", "transfers", "trials",
          "attribution")
SHARES = {"unseen_share", "unseen_loss_share", "confidence", "top5_mass", "accuracy", "overconfidence",
          "calibration_error"}
SHOWN_PROMPTS = 3
"""Prompts of which the page holds maps, spread over the domains; the CSV tables have all."""
CAPTIONS = {
    "training_curves": "Training from random weights. Left: mean loss of the training batches (thin) and of the "
                       "validation text (marked). Right: validation bits per UTF-8 byte. Lower is better.",
    "zero_shot_matrix": "Each model (row) on each domain's test text (column), none of it seen in training. Bits per "
                        "UTF-8 byte, every character scored once; the best model for a text is bold. Lower is better.",
    "zero_shot_curves": "The same over training: one panel for each model, one line for each text. The step axis is "
                        "logarithmic with room for step 0, the random weights.",
    "confidence_curves": "Left: mean entropy of the next-character distribution in nats. Right: mean probability of "
                         "the likeliest character (line) and how often it was right (dotted). A line above its dots "
                         "is overconfident.",
    "transfer_curves": "Few-shot adaptation at the tuned learning rate: bits per byte on the target's validation text "
                       "over adaptation steps. Darker: a later checkpoint of the source; grey: random weights.",
    "transfer_summary": "By the stage that was adapted. Left: the learning rate chosen on validation. Middle: test "
                        "text of the target before (hollow) and after (filled). Right: the source's own test text, "
                        "that is, what was forgotten.",
    "tuning_history": "Every trial of the search for a learning rate that ended: final bits per byte on the target's "
                      "validation text. Stars mark the chosen rates.",
    "attribution": "What the prediction after the last character rests on: norm of the gradient of the predicted "
                   "character's logit with respect to each input embedding, as a share of the row. Beside each row: "
                   "the step, the likeliest next character and its probability. ␣ is a space, ⏎ a new line.",
    "triangle": "The same at the last step for every position: row, the character that was predicted; column, the "
                "character that was read. The colour scale is a square root, so that small shares show.",
    "top": "Entropy (nats) of the prediction after each character of the prompt, over training steps. In the cell: "
           "the likeliest next character, bold where it is the one that follows.",
}


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


def draw(study: StudyTables) -> dict[str, bytes]:
    """Name to PNG of every picture of the report; those of prompts are numbered: `attribution_1`, `top_1`, …"""
    domains, zero_shot, attribution = study.domains, study.table("zero_shot"), study.table("attribution")
    drawn = {"training_curves": figures.training_curves(study.table("training"), domains),
             "zero_shot_matrix": figures.zero_shot_matrix(zero_shot, domains),
             "zero_shot_curves": figures.zero_shot_curves(zero_shot, domains),
             "confidence_curves": figures.confidence_curves(zero_shot, domains),
             "transfer_curves": figures.transfer_curves(study.table("transfer_curves")),
             "transfer_summary": figures.transfer_summary(study.table("transfers"), domains),
             "tuning_history": figures.tuning_history(study.table("trials"))}
    needs = {"training_curves": "training", "transfer_summary": "transfers", "tuning_history": "trials",
             "transfer_curves": "transfer_curves"}
    drawn = {name: figure for name, figure in drawn.items() if len(study.table(needs.get(name, "zero_shot")))}
    for number, prompt in enumerate(shown_prompts(study), start=1):
        if prompt in set(attribution.get("prompt", ())):
            drawn[f"attribution_{number}"] = figures.attribution_map(attribution, prompt)
        if prompt in set(study.table("top_characters").get("prompt", ())):
            drawn[f"top_{number}"] = figures.top_character_map(study.table("top_characters"), prompt)
        if number == 1 and len(attribution):
            drawn["triangle_1"] = figures.attribution_triangle(attribution, prompt, int(attribution["step"].max()))
    return {name: figures.png(figure) for name, figure in drawn.items()}


def shown_prompts(study: StudyTables) -> list[str]:
    """At most SHOWN_PROMPTS prompts that have maps, as evenly spread over all of them as can be."""
    prompts = list(dict.fromkeys([*study.table("attribution").get("prompt", ()),
                                  *study.table("top_characters").get("prompt", ())]))
    return prompts[::max(1, -(-len(prompts) // SHOWN_PROMPTS))]


def findings(study: StudyTables) -> list[str]:
    """What the tables say, in sentences."""
    zero_shot = study.table("zero_shot")
    found = _zero_shot_findings(zero_shot) if len(zero_shot) else ()
    return [*found, *_transfer_findings(study.table("transfers"))]


def _zero_shot_findings(zero_shot: pd.DataFrame) -> Iterator[str]:
    by_model = zero_shot.groupby("source")["step"]
    first = zero_shot[zero_shot["step"] == by_model.transform("min")]
    last = zero_shot[zero_shot["step"] == by_model.transform("max")]
    own, own_first = last[last["source"] == last["target"]], first[first["source"] == first["target"]]
    if len(own) and len(first) and first["step"].max() < last["step"].min():
        falls = own.merge(own_first, on="source", suffixes=("", "_first"))
        changes = [f"from {row.bits_per_byte_first:.2f} to {row.bits_per_byte:.2f} on {row.source}"
                   for row in falls.itertuples()]
        yield (f"Over {last['step'].max():,} training steps, the bits per byte of each model on its own domain's test "
               f"text went {listed(changes)}.")
    if zero_shot["source"].nunique() > 1 and len(own):
        yield from _best_models(last, own)
    away, away_first = last[last["source"] != last["target"]], first[first["source"] != first["target"]]
    if len(own) and len(away):
        yield (f"The mean entropy of the predictions went from {own_first['entropy_nats'].mean():.2f} to "
               f"{own['entropy_nats'].mean():.2f} nats on the own domain and from "
               f"{away_first['entropy_nats'].mean():.2f} to {away['entropy_nats'].mean():.2f} on the others; there, "
               f"characters never seen in training carry {away['unseen_loss_share'].min():.1%} to "
               f"{away['unseen_loss_share'].max():.1%} of the loss.")


def _best_models(last: pd.DataFrame, own: pd.DataFrame) -> Iterator[str]:
    """Which model is best on each domain, and by how much."""
    wins, losses = [], []
    for name, mine in zip(own["target"], own["bits_per_byte"], strict=True):
        others = last[(last["target"] == name) & (last["source"] != name)].nsmallest(1, "bits_per_byte")
        for rival, value in zip(others["source"], others["bits_per_byte"], strict=True):
            if mine < value:
                wins.append(f"{name} by {value - mine:.2f}")
            else:
                losses.append(f"on {name} the model of {rival} is ahead by {mine - value:.2f}")
    count = len(wins) + len(losses)
    many = "all" if not losses else f"{len(wins)} of" if wins else "none of"
    tail = f"; {listed(losses)}" if losses else ""
    lead = f", ahead of the next model on {listed(wins)}" if wins else ""
    yield (f"The model trained on a domain is the best on its test text for {many} {count} domains{lead}{tail} bits "
           "per byte.")


def _transfer_findings(transfers: pd.DataFrame) -> Iterator[str]:
    """Whether late checkpoints adapt better than early ones, each at its tuned rate."""
    if transfers.empty:
        return
    keys = ["source", "target", "shots"]
    early, late = (transfers[transfers["stage"] == stage] for stage in ("early", "late"))
    pairs = early.merge(late, on=keys, suffixes=("_early", "_late"))
    if pairs.empty:
        return
    gain = pairs["test_bits_per_byte_early"] - pairs["test_bits_per_byte_late"]
    verdict = "lower" if gain.mean() > 0 else "higher"
    yield (f"Adapted at its tuned learning rate, the late checkpoint ends below the early one in "
           f"{int((gain > 0).sum())} of {len(pairs)} transfers, on average {abs(gain.mean()):.2f} bits per byte "
           f"{verdict} on the target's test text (median tuned rate {pairs['learning_rate_early'].median():.2g} early, "
           f"{pairs['learning_rate_late'].median():.2g} late); without repeated seeds this is a description, not a "
           "test.")


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def cell(column: str, value: Any) -> str:
    """A value as the page shows it: counts with separators, shares in per cent, losses to 0.001, digests short."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if "sha256" in column:
        return f"{value}"[:12] + "…"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if column in SHARES:
        return f"{value:.1%}"
    if "learning_rate" in column:
        return f"{value:.2g}"
    return f"{value:.3f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


def grid(frame: pd.DataFrame, columns: tuple[str, ...] = ()) -> dict[str, Any]:
    """A table for the template: heads, which of them hold numbers, and rows of text."""
    chosen = [name for name in columns or frame.columns if name in frame]
    records = [[cell(name, value) for name, value in zip(chosen, row, strict=True)]
               for row in frame[chosen].astype(object).itertuples(index=False, name=None)]
    return {"heads": [name.replace("_", " ").replace("sha256", "SHA-256") for name in chosen], "rows": records,
            "numeric": [pd.api.types.is_numeric_dtype(frame[name]) for name in chosen]}


def written(study: StudyTables) -> dict[str, Any]:
    """The generations as the page's script reads them, without the prompts in every row."""
    frame = study.table("generations")
    if frame.empty:
        return {}
    prompts = frame[["prompt_domain", "prompt"]].drop_duplicates().to_dict("records")
    places = {row["prompt"]: i for i, row in enumerate(prompts)}
    items = [{"source": row["source"], "step": int(row["step"]), "prompt": places[row["prompt"]], "text": row["text"],
              "temperature": float(row["temperature"]), "seed": int(row["seed"])} for row in frame.to_dict("records")]
    return {"prompts": prompts, "items": items, "sources": list(dict.fromkeys(frame["source"])),
            "steps": sorted({item["step"] for item in items}),
            "temperatures": sorted({item["temperature"] for item in items}),
            "seeds": sorted({item["seed"] for item in items})}


def render(study: StudyTables, drawn: Mapping[str, bytes] | None = None) -> str:
    """The page. `drawn` are the pictures where `draw` was called before."""
    drawn = draw(study) if drawn is None else drawn
    pictures = {name: base64.b64encode(image).decode() for name, image in drawn.items()}
    zero_shot = study.table("zero_shot")
    final = zero_shot[zero_shot["stage"] != ""] if len(zero_shot) else zero_shot
    pages = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = pages.from_string(Path(__file__).with_name("report.html").read_text("utf-8"))
    key = ("source", "stage", "step", "target")
    return template.render(
        study=study, pictures=pictures, captions=CAPTIONS, findings=findings(study), prompts=shown_prompts(study),
        colors=domain_colors(study.domains), written=written(study), visible=visible,
        grids={"corpora": grid(study.table("corpora")),
               "zero_shot": grid(final, (*key, "bits_per_byte", "nats_per_character", "seen_loss_nats",
                                         "unseen_share", "unseen_loss_share")),
               "confidence": grid(final, (*key, "entropy_nats", "confidence", "top5_mass", "accuracy",
                                          "overconfidence", "calibration_error")),
               "transfers": grid(study.table("transfers")), "trials": grid(study.table("trials"))})
