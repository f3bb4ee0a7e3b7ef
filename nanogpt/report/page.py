"""The page that tells the study's story: one self-contained HTML file made from the study's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from nanogpt.config import ATTRIBUTION_CATALOGUE
from nanogpt.report.attribution_map import interactive_map
from nanogpt.report.cards import cards
from nanogpt.report.figures import draw, prompt_figure_name, section_figures
from nanogpt.report.findings import WARNING, findings
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.style import NAMED_COLORS, domain_colors
from nanogpt.report.tables import StudyTables, last_steps
from nanogpt.report.wording import attributed_scores, attributed_value, listed, spaced, visible

SHARES = {"unseen_share", "unseen_loss_share", "confidence", "top5_mass", "accuracy", "overconfidence",
          "calibration_error", "adaptive_calibration_error", "maximum_calibration_error", "confidence_when_wrong",
          "sure_error_rate", "shared_share", "approximate_share", "copied_share", "distinct_share", "repeated_share",
          "classifier_accuracy", "already_there"}
"""Columns that are shown in per cent."""
CHECKPOINT = ("source", "stage", "step", "target")


def at_stages(zero_shot: pd.DataFrame) -> pd.DataFrame:
    return zero_shot[zero_shot["stage"] != ""]


def of_chosen(scaling: pd.DataFrame) -> pd.DataFrame:
    return scaling[scaling["chosen"]]


@dataclass(frozen=True)
class Numbers:
    """A table of a section: some of its columns (none named: all) and of its rows, folded away unless it is `open`."""

    table: str
    title: str
    columns: tuple[str, ...] = ()
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    open: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: its text, a template of its own before the figures, tables, and the tables whose runs it
    names. Its figures are those of `figures.FIGURES` that name it; a section with nothing to show is left out."""

    name: str
    title: str
    text: str = ""                     # {scores} says what was attributed, {prompts} where the prompts come from
    template: str = ""
    numbers: tuple[Numbers, ...] = ()
    origins: tuple[str, ...] = ()


SECTIONS = (
    Section("matrix", "Who predicts what", origins=("zero_shot",)),
    Section("generations", "Generations",
            "The same prompt, temperature and seed for every model. Move the slider, or play, to see a model "
            "learn to write; a column shows the newest checkpoint at or before that step.",
            template="generations.html", numbers=(
                Numbers("writing", "Each text under every model: loss, entropy, variety, what is copied, and the "
                                   "domain it reads like"),),
            origins=("generations", "writing")),
    Section("corpora", "Corpora", "Validation and test are pieces from everywhere in each text, whole documents or its "
            "end, as the setting “split” says; the rest is for training.",
            template="corpora.html", numbers=(Numbers("corpora", "Corpora", open=True),)),
    Section("training", "Training", origins=("training",)),
    Section("zero-shot", "Zero-shot", numbers=(
        Numbers("zero_shot", "The numbers", (*CHECKPOINT, "bits_per_byte", "bits_per_byte_low", "bits_per_byte_high",
                                             "nats_per_character", "seen_loss_nats", "unseen_share",
                                             "unseen_loss_share", "run_id"), at_stages),
        Numbers("zero_shot_means", "Means over the trainings of each domain, with intervals over text and seeds"),
        Numbers("comparisons", "Each domain's own model against every rival, on the same characters"),
        Numbers("baselines", "Baselines"), Numbers("distances", "Distances between the domains"),
        Numbers("leakage", "Shared spans of training and test texts"),
        Numbers("specialisation", "Regret, advantage and asymmetry, over training")),
        origins=("zero_shot", "comparisons")),
    Section("confidence", "Confidence", numbers=(
        Numbers("zero_shot", "The numbers", (*CHECKPOINT, "entropy_nats", "confidence", "top5_mass", "accuracy",
                                             "overconfidence", "calibration_error", "adaptive_calibration_error",
                                             "maximum_calibration_error", "brier_score", "entropy_auroc",
                                             "confidence_when_wrong", "sure_error_rate", "temperature",
                                             "tempered_nats", "run_id"), at_stages),),
        origins=("zero_shot",)),
    Section("transfer", "Few-shot transfer", numbers=(
        Numbers("stage_comparisons", "Stages compared"), Numbers("transfer_measures", "Measures of each transfer"),
        Numbers("transfers", "All transfers"), Numbers("trials", "All trials")), origins=("transfers",)),
    Section("scaling", "Sizes", "Weights are those of the matrices inside the blocks. Learning rates follow from the "
            "width by a rule and were not tuned for a size; all sizes read the same text, in several epochs. A law "
            "holds inside what was measured.", numbers=(
                Numbers("scaling_fits", "Fitted laws: floor + coefficient · x^-exponent, with the exponent's 95 % "
                                        "interval", open=True),
                Numbers("scaling_worth", "What a character of a source is worth"),
                Numbers("scaling", "Trainings, at the lowest validation loss", rows=of_chosen),
                Numbers("scaling_transfers", "Transfers of each size")),
            origins=("scaling", "scaling_fits")),
    Section("attribution", "Attribution",
            "Prompts come from {prompts}. Where no other method is named, maps show the {scores}, as a share of all "
            "characters read. A gradient says how strongly a prediction would react to a small change of an input, not "
            "what caused it.",
            template="attribution.html", numbers=(
                Numbers("seed_agreement", "Maps of two seeds, and of one training early and late"),
                Numbers("faithfulness", "The numbers",
                        ("domain", "step", "method", "spearman_leave_one_out", "comprehensiveness", "sufficiency",
                         "completeness_gap", "spearman_step_0", "fails_sanity"),
                        lambda frame: last_steps(frame, "domain")),),
            origins=("attribution_summary", "method_agreement")),
)


def render(tables: StudyTables, drawn: Mapping[str, Drawing] | None = None) -> str:
    """Return the page. `drawn` are the figures (name to drawing) where they were drawn before."""
    figures = draw(tables) if drawn is None else drawn
    images = {name: Markup(drawing.svg) for name, drawing in figures.items()}
    folder = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    pages = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True,
                               undefined=jinja2.StrictUndefined)
    runs = {run_id: {"name": name, "path": path} for name, (run_id, path) in tables.links.items()}
    own_templates: dict[str, Mapping[str, Any]] = {
        "attribution.html": interactive_map(tables.table("attribution")),
        "corpora.html": excerpts_by_domain(tables.table("excerpts")),
        "generations.html": generations_by_prompt(tables.table("generations"))}
    every = [section_content(section, tables, images, own_templates.get(section.template)) for section in SECTIONS]
    colors, told = domain_colors(tables.domain_order), findings(tables)
    return pages.get_template("report.html").render(
        study=tables, cards=cards(tables), figures=set(images),
        sections=[section for section in every if has_content(section)],
        warnings=[sentence for sentence in told if sentence.startswith(WARNING)],
        findings=[sentence for sentence in told if not sentence.startswith(WARNING)],
        colors={name: colors[name] for name in tables.domains}, visible=visible, runs=runs,
        shades=dict(NAMED_COLORS.values()),
        value=attributed_value(tables), unsigned=listed([spaced(name) for name in unsigned_methods(tables)]))


def section_content(section: Section, tables: StudyTables, images: Mapping[str, Markup],
                    data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the template shows of a section; `data` is what its own template shows."""
    def picture(name: str, caption: str) -> dict[str, str | Markup]:
        return {"name": name, "caption": caption, "image": images[name]}

    prompt_source = "the user's file" if tables.setting("prompts") else "the test texts"
    figures = section_figures(section.name)
    prompts = [(prompt, [picture(name, figure.caption_for(tables)) for figure in figures
                         if (name := prompt_figure_name(figure, place)) in images])
               for place, prompt in enumerate(tables.prompts, start=1)]
    return {"name": section.name, "title": section.title,
            "text": section.text.format(scores=attributed_scores(tables), prompts=prompt_source),
            "template": section.template if data else "", "data": data,
            "figures": [picture(figure.name, figure.caption_for(tables)) for figure in figures
                        if figure.name in images],
            "prompts": [(prompt, pictures) for prompt, pictures in prompts if pictures],
            "numbers": [{"title": numbers.title, "open": numbers.open}
                        | grid(numbers.rows(tables.table(numbers.table)), numbers.columns)
                        for numbers in section.numbers if tables.has(numbers.table)],
            "runs": origins(tables, section.origins)}


def has_content(section: Mapping[str, Any]) -> bool:
    return any(section[part] for part in ("template", "figures", "prompts", "numbers"))


def origins(tables: StudyTables, names: tuple[str, ...]) -> list[str]:
    """Return the ids of the known runs that the rows of these tables come from."""
    known = {run_id for run_id, _ in tables.links.values()}
    return [run_id for run_id in dict.fromkeys(run_id for name in names
                                               for run_id in tables.table(name).get("run_id", ())) if run_id in known]


def cell(column: str, value: Any) -> str:
    """Return a value as the page shows it: counts with separators, shares in per cent, losses to 0.001."""
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
    """Return a table for the template: heads, which of them hold numbers, and rows of text."""
    chosen = [name for name in columns or frame.columns if name in frame]
    records = [[cell(name, value) for name, value in zip(chosen, row, strict=True)]
               for row in frame[chosen].astype(object).itertuples(index=False, name=None)]
    return {"heads": [name.replace("_", " ").replace("sha256", "SHA-256") for name in chosen], "rows": records,
            "numeric": [pd.api.types.is_numeric_dtype(frame[name]) for name in chosen]}


def excerpts_by_domain(excerpts: pd.DataFrame) -> dict[str, str]:
    """Return domain to a few lines of its text; {} where none is."""
    return dict(zip(excerpts["domain"], excerpts["text"], strict=True)) if len(excerpts) else {}


def generations_by_prompt(generations: pd.DataFrame) -> dict[str, Any]:
    """Return the generations as the page's script reads them, without the prompts in every row; {} where none is."""
    if generations.empty:
        return {}
    prompts = generations[["prompt_domain", "prompt"]].drop_duplicates().to_dict("records")
    places = {row["prompt"]: i for i, row in enumerate(prompts)}
    items = [{"source": row["source"], "step": int(row["step"]), "prompt": places[row["prompt"]], "text": row["text"],
              "temperature": float(row["temperature"]), "seed": int(row["seed"])}
             for row in generations.to_dict("records")]
    return {"prompts": prompts, "items": items, "sources": list(dict.fromkeys(generations["source"])),
            "steps": sorted({item["step"] for item in items}),
            "temperatures": sorted({item["temperature"] for item in items}),
            "seeds": sorted({item["seed"] for item in items})}


def unsigned_methods(tables: StudyTables) -> list[str]:
    """Return the methods of the maps whose scores do not say which way a character counts."""
    shown = tables.values("attribution", "method")
    return [method.name for method in ATTRIBUTION_CATALOGUE if method.name in shown and not method.signed]
