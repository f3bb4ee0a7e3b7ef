"""The page that tells the study's story: one self-contained HTML file made from the study's tables."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from nanogpt.report.attribution_map import interactive_map
from nanogpt.report.findings import findings
from nanogpt.report.plots import attribution as figures_attribution
from nanogpt.report.plots import common as figures
from nanogpt.report.plots import confidence as figures_confidence
from nanogpt.report.plots import transfer as figures_transfer
from nanogpt.report.style import domain_colors, visible
from nanogpt.report.tables import StudyTables, by_first_method
from nanogpt.transfer.tables import COMPARED, view_means, with_front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = {"unseen_share", "unseen_loss_share", "confidence", "top5_mass", "accuracy", "overconfidence",
          "calibration_error", "adaptive_calibration_error", "maximum_calibration_error", "confidence_when_wrong",
          "sure_error_rate", "shared_share", "copied_share", "distinct_share", "repeated_share", "classifier_accuracy"}
SHOWN_PROMPTS = 3
"""Prompts of which the page holds maps, spread over the domains; the CSV tables have all."""
WORTH = ("domain", "step", "method", "spearman_leave_one_out", "comprehensiveness", "sufficiency", "completeness_gap",
         "spearman_step_0", "fails_sanity")
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
    "ranking": "After the last step: every model with its 95 % interval from a moving-block bootstrap over the text, "
               "and what counting and compressing the domain's own training text reach (bars). Lower is better.",
    "class_losses": "Mean loss after the last step by kind of character; at the right, its share of the text. Colour: "
                    "the domain that the model was trained on.",
    "context_losses": "Mean loss after the last step by how many characters the prediction could read; at the right, "
                      "the share of such predictions.",
    "sharpening_curves": "Above: mean entropy of the predictions. Below: the temperature, fitted on validation text, "
                         "for which the loss would be least; above 1 the model is overconfident. Before any training "
                         "there is none.",
    "divergence_curves": "Mean Kullback–Leibler divergence of the predictions of the own domain's validation text from "
                         "the uniform distribution and from the unigram and bigram of the training text. A curve's "
                         "lowest point is where the model predicts most like one that only counts.",
    "reliability_diagrams": "How often a prediction was right (up) against how sure it was (across), 15 bins; a dot's "
                            "size is its share of the characters. Below the diagonal: overconfident.",
    "transfer_curves": "Few-shot adaptation at the tuned learning rate: bits per byte on the target's validation text "
                       "over adaptation steps. Darker: a later checkpoint of the source; grey: random weights.",
    "transfer_summary": "By the stage that was adapted. Left: the learning rate chosen on validation. Middle: test "
                        "text of the target before (hollow) and after (filled). Right: the source's own test text, "
                        "that is, what was forgotten.",
    "stage_differences": "Later minus earlier stage, paired over source, target, shots and seed; left of 0 the later "
                         "one is better. Bars: 95 % t intervals over source → target pairs.",
    "loss_by_shots": "Test bits per byte after adaptation to so many windows of the target; bars: 95 % intervals over "
                     "seeds, where there is more than one.",
    "forgetting_against_gain": "Bits per byte gained on the target's test text against those lost on the source's. The "
                               "line joins what no other cell of the pair beats in both.",
    "tuning_history": "Every trial of the search for a learning rate that ended: final bits per byte on the target's "
                      "validation text. Stars mark the chosen rates.",
    "attribution": "What the prediction after the last character rests on: norm of the gradient of the predicted "
                   "character's logit with respect to each input embedding, as a share of the row. Beside each row: "
                   "the step, the likeliest next character and its probability. ␣ is a space, ⏎ a new line.",
    "attribution_curves": "What the models look at over training, on all prompts: how far back (distance weighted by "
                          "share), how evenly, at what, and how alike the maps are to those of the last checkpoint.",
    "faithfulness": "What the maps of each model's last checkpoint are worth. Left: rank correlation of the sizes of "
                    "the scores with leave-one-out. Middle and right: what the target loses without the characters "
                    "that a method puts first, and with nothing but them. Dashed: recency and random, which know "
                    "nothing of the model; a method is worth what it adds to them. Black: the mean of the models.",
    "deletion_curves": "The losses behind the two means, by the share of the characters taken away or kept.",
    "method_agreement": "Mean rank correlation between the maps of two methods.",
    "triangle": "The same at the last step for every position: row, the character that was predicted; column, the "
                "character that was read. The colour scale is a square root, so that small shares show.",
    "candidates": "Confidence sharpening: the likeliest next characters after each character of the prompt, stacked by "
                  "probability, over checkpoints of the model of the prompt's domain. Below each column: the character "
                  "that does follow; in colour where it is among them, grey what would be wrong.",
    "top": "Entropy (nats) of the prediction after each character of the prompt, over training steps. In the cell: "
           "the likeliest next character, bold where it is the one that follows.",
}


def draw(study: StudyTables) -> dict[str, bytes]:
    """Name to PNG of every picture of the report; those of prompts are numbered: `attribution_1`, `top_1`, …"""
    drawn = study_figures(study) | evaluation_figures(study) | transfer_figures(study) | prompt_figures(study)
    return {name: figures.png(figure) for name, figure in drawn.items()}


def study_figures(study: StudyTables) -> dict[str, Figure]:
    """Training, zero-shot losses, confidence, and what attribution is worth, where their tables are there."""
    domains, chosen = study.domains, {
        "training_curves": ("training", figures.training_curves),
        "zero_shot_matrix": ("zero_shot", figures.zero_shot_matrix),
        "zero_shot_curves": ("zero_shot", figures.zero_shot_curves),
        "confidence_curves": ("zero_shot", figures.confidence_curves),
        "attribution_curves": ("attribution_summary", figures_attribution.attribution_curves),
        "faithfulness": ("faithfulness", figures_attribution.faithfulness_bars),
        "deletion_curves": ("deletion_curves", lambda frame, _: figures_attribution.deletion_curves(frame)),
        "method_agreement": ("method_agreement", lambda frame, _: figures_attribution.agreement_matrix(frame))}
    return {name: figure(study.table(table), domains) for name, (table, figure) in chosen.items()
            if len(study.table(table))}


def transfer_figures(study: StudyTables) -> dict[str, Figure]:
    """The few-shot transfers, where their tables are there."""
    transfers, measures = study.table("transfers"), study.table("transfer_measures")
    found = {}
    if len(study.table("transfer_curves")):
        found["transfer_curves"] = figures.transfer_curves(view_means(study.table("transfer_curves")))
    if len(transfers):
        found["transfer_summary"] = figures.transfer_summary(view_means(transfers), study.domains)
    if len(study.table("trials")):
        found["tuning_history"] = figures.tuning_history(study.table("trials"))
    if len(study.table("stage_comparisons")):
        found["stage_differences"] = figures_transfer.stage_differences(study.table("stage_comparisons"), COMPARED)
    if len(measures):
        found["forgetting_against_gain"] = figures_transfer.forgetting_against_gain(with_front(measures))
    if len(measures) and measures["shots"].nunique() > 1:
        found["loss_by_shots"] = figures_transfer.loss_by_shots(measures)
    return found


def prompt_figures(study: StudyTables) -> dict[str, Figure]:
    """The maps of the shown prompts, and two more of the first."""
    attribution, tops = by_first_method(study.table("attribution")), study.table("top_characters")
    found = {}
    for number, prompt in enumerate(shown_prompts(study), start=1):
        if prompt in set(attribution.get("prompt", ())):
            found[f"attribution_{number}"] = figures_attribution.attribution_map(attribution, prompt)
        if prompt in set(tops.get("prompt", ())):
            found[f"top_{number}"] = figures_attribution.top_character_map(tops, prompt)
            if number == 1:
                found["candidates_1"] = figures_confidence.candidates(tops, prompt, home(study, prompt), study.domains)
        if number == 1 and len(attribution):
            last = int(attribution["step"].max())
            found["triangle_1"] = figures_attribution.attribution_triangle(attribution, prompt, last)
    return found


def evaluation_figures(study: StudyTables) -> dict[str, Figure]:
    """What the evaluation adds to losses and confidence, where its columns and tables are there."""
    domains, zero_shot = study.domains, study.table("zero_shot")
    parts, reliability = study.table("breakdown"), study.table("reliability")
    found = {}
    if "temperature" in zero_shot:
        found = {"ranking": figures_confidence.ranking(zero_shot, study.table("baselines"), domains),
                 "sharpening_curves": figures_confidence.sharpening_curves(zero_shot, domains),
                 "divergence_curves": figures_confidence.divergence_curves(zero_shot, domains)}
    if len(parts):
        found |= {"class_losses": figures_confidence.class_losses(parts, domains),
                  "context_losses": figures_confidence.context_losses(parts, domains)}
    if len(reliability):
        found["reliability_diagrams"] = figures_confidence.reliability_diagrams(reliability, domains)
    return found


def home(study: StudyTables, prompt: str) -> str:
    """The model whose domain the prompt comes from, else the first."""
    written, tops = study.table("generations"), study.table("top_characters")
    sources = list(dict.fromkeys(tops["source"]))
    homes = dict(zip(written.get("prompt", ()), written.get("prompt_domain", ()), strict=True))
    return homes[prompt] if homes.get(prompt) in sources else str(sources[0])


def shown_prompts(study: StudyTables) -> list[str]:
    """At most SHOWN_PROMPTS prompts that have maps, as evenly spread over all of them as can be."""
    prompts = list(dict.fromkeys([*study.table("attribution").get("prompt", ()),
                                  *study.table("top_characters").get("prompt", ())]))
    return prompts[::max(1, -(-len(prompts) // SHOWN_PROMPTS))]


def cell(column: str, value: Any) -> str:
    """A value as the page shows it: counts with separators, shares in per cent, losses to 0.001, digests short."""
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value)):
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
    pictures = {name: base64.b64encode(figures.webp(image)).decode() for name, image in drawn.items()}
    zero_shot = study.table("zero_shot")
    final = zero_shot[zero_shot["stage"] != ""] if len(zero_shot) else zero_shot
    templates = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    pages = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                               undefined=jinja2.StrictUndefined)
    template = pages.get_template("report.html")
    key, faithfulness = ("source", "stage", "step", "target"), study.table("faithfulness")
    runs = {run_id: {"name": name, "path": path} for name, (run_id, path) in study.links.items()}

    def origins(*names: str) -> list[str]:
        """The known runs that the rows of these tables come from."""
        found = (run_id for name in names for run_id in study.table(name).get("run_id", ()))
        return [run_id for run_id in dict.fromkeys(found) if run_id in runs]

    return template.render(
        study=study, pictures=pictures, captions=CAPTIONS, findings=findings(study), prompts=shown_prompts(study),
        colors=domain_colors(study.domains), written=written(study), visible=visible, runs=runs,
        origins=origins,
        maps=interactive_map(study.table("attribution")),
        grids={"corpora": grid(study.table("corpora")),
               "zero_shot": grid(final, (*key, "bits_per_byte", "bits_per_byte_low", "bits_per_byte_high",
                                         "nats_per_character", "seen_loss_nats", "unseen_share", "unseen_loss_share",
                                         "run_id")),
               "confidence": grid(final, (*key, "entropy_nats", "confidence", "top5_mass", "accuracy",
                                          "overconfidence", "calibration_error", "adaptive_calibration_error",
                                          "maximum_calibration_error", "brier_score", "entropy_auroc",
                                          "confidence_when_wrong", "sure_error_rate", "temperature", "tempered_nats",
                                          "run_id")),
               **{name: grid(study.table(name)) for name in ("comparisons", "baselines", "distances", "leakage",
                                                             "specialisation", "writing")},
               "faithfulness": grid(figures_attribution.last_steps(faithfulness) if len(faithfulness) else faithfulness,
                                    WORTH),
               "transfers": grid(study.table("transfers")), "trials": grid(study.table("trials")),
               "measures": grid(study.table("transfer_measures")), "stages": grid(study.table("stage_comparisons"))})
