"""The list of a study's figures: what the page shows, what each phase logs, and what the documentation lists.

To add a figure, write its function in `plots/` and its line in `FIGURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from nanogpt.report.plots import attribution, confidence, prompts, scaling, training, transfer, zero_shot
from nanogpt.report.plots.panels import paint
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables, last_steps, own_texts
from nanogpt.report.wording import attributed_scores, tested_value
from nanogpt.transfer.tables import with_front

LOGGING_PHASES = ("train", "evaluate", "transfer", "adapt", "attribute", "scale")
PROMPTS_OF_A_PHASE = 6
"""Most prompts whose figures a phase logs; the page shows fewer, the tables hold all."""


@dataclass(frozen=True)
class StudyFigure:
    """A figure: where it stands, which tables it needs, what is said of it, and how it is drawn.

    It is left out where one of its tables is missing or empty, or `when` says no.
    """

    name: str
    section: str                           # of the page; "": it is not on the page
    tables: tuple[str, ...]
    caption: str                           # {scores} and {value} say what was attributed and tested
    draw: Callable[..., Figure]            # of the tables; where `prompts` is not 0, of the tables and a prompt
    phases: tuple[str, ...] = ()           # that log it in their own runs
    when: Callable[[StudyTables], bool] = lambda tables: True
    prompts: int = 0                       # most prompts for which the page shows it; 0: it is of no prompt

    def caption_for(self, tables: StudyTables) -> str:
        """Return the caption, with what the study attributed and by which method."""
        return self.caption.format(scores=attributed_scores(tables), value=tested_value(tables))

    def can_draw(self, tables: StudyTables, prompt: str | None = None) -> bool:
        """Say whether the tables hold what the figure shows, of the prompt where one is given."""
        return (tables.has(*self.tables) and self.when(tables)
                and (prompt is None or prompt in tables.values(self.tables[0], "prompt")))


FIGURES = (
    StudyFigure(
        "training_curves", "training", ("training",),
        "Training from random weights. Left: mean loss of the training batches (thin) and of the validation text "
        "(marked). Right: validation bits per UTF-8 byte. Lower is better.",
        training.training_curves, phases=("train",)),
    StudyFigure(
        "zero_shot_matrix", "matrix", ("zero_shot",),
        "Each model (row) on each domain's test text (column), none of it seen in training. Bits per UTF-8 byte, every "
        "character scored once; the best model for a text is bold. Lower is better.",
        zero_shot.zero_shot_matrix),
    StudyFigure(
        "regret", "matrix", ("comparisons",),
        "How far each other model (row) is behind the domain's own on the same characters of its test text (column), "
        "in bits per byte, with the 95 % interval over units of text and, where there are several, trainings.",
        zero_shot.regret, when=lambda tables: len(zero_shot.last_leads(tables.table("comparisons"))) > 0),
    StudyFigure(
        "zero_shot_curves", "zero-shot", ("zero_shot",),
        "Bits per UTF-8 byte over training: one panel for each model, one line for each text. The step axis is "
        "logarithmic with room for step 0, the random weights.",
        zero_shot.zero_shot_curves, phases=("evaluate",)),
    StudyFigure(
        "ranking", "zero-shot", ("zero_shot",),
        "After the last step: every model with its 95 % interval over units of the text (not over trainings), and what "
        "counting and compressing the domain's own training text reach (bars). Lower is better.",
        zero_shot.ranking, when=lambda tables: "bits_per_byte_low" in tables.table("zero_shot")),
    StudyFigure(
        "class_losses", "zero-shot", ("breakdown",),
        "Mean loss after the last step by kind of character; at the right, its share of the text. Colour: the domain "
        "that the model was trained on.",
        zero_shot.class_losses,
        when=lambda tables: "character class" in set(last_steps(tables.table("breakdown"), "source")["by"])),
    StudyFigure(
        "context_losses", "zero-shot", ("breakdown",),
        "Mean loss after the last step by how many characters the prediction could read; at the right, the share of "
        "such predictions.",
        zero_shot.context_losses,
        when=lambda tables: "characters read before" in set(last_steps(tables.table("breakdown"), "source")["by"])),
    StudyFigure(
        "sharpening_curves", "confidence", ("zero_shot",),
        "Above: mean entropy of the predictions. Below: the temperature, fitted on validation text, for which the loss "
        "would be least; above 1 the model is overconfident. Before any training there is none.",
        confidence.sharpening_curves, when=lambda tables: "temperature" in tables.table("zero_shot")),
    StudyFigure(
        "confidence_curves", "confidence", ("zero_shot",),
        "Mean probability of the likeliest character (line) and how often it was right (dotted), a panel for each "
        "model. A line above its dots is overconfident.",
        confidence.confidence_curves, phases=("evaluate",)),
    StudyFigure(
        "divergence_curves", "confidence", ("zero_shot",),
        "Mean Kullback–Leibler divergence of the predictions of the own domain's validation text from the uniform "
        "distribution and from the unigram and bigram of the training text. A curve's lowest point is where the model "
        "predicts most like one that only counts.",
        confidence.divergence_curves,
        when=lambda tables: "bigram_divergence_nats" in own_texts(tables.table("zero_shot")).dropna(axis=1, how="all")),
    StudyFigure(
        "reliability_diagrams", "confidence", ("reliability",),
        "How often a prediction was right (up) against how sure it was (across), 15 bins; a dot's size is its share of "
        "the characters. Below the diagonal: overconfident.",
        confidence.reliability_diagrams),
    StudyFigure(
        "stage_differences", "transfer", ("stage_comparisons",),
        "Later minus earlier stage, paired over source, target, shots and seed; left of 0 the later one is better. "
        "Bars: 95 % intervals over sources and targets.",
        transfer.stage_differences, phases=("adapt",)),
    StudyFigure(
        "transfer_curves", "transfer", ("transfer_curves",),
        "Few-shot adaptation at the tuned learning rate: bits per byte on the target's validation text over adaptation "
        "steps, of which the one of lowest loss counts, be it step 0. The stronger the colour, the later the "
        "checkpoint of the source; dashed: random weights.",
        transfer.transfer_curves),
    StudyFigure(
        "transfer_summary", "transfer", ("transfers",),
        "By the stage that was adapted. Left: the learning rate chosen on validation. Middle: test text of the target "
        "before (hollow) and after (filled). Right: the source's own test text, that is, what was forgotten. Dashed: "
        "adapted from random weights.",
        transfer.transfer_summary, when=lambda tables: bool((tables.table("transfers")["stage"] != "scratch").any())),
    StudyFigure(
        "loss_by_shots", "transfer", ("transfer_measures",),
        "Test bits per byte after adaptation to so many windows of the target; bars: 95 % intervals over seeds, where "
        "there is more than one.",
        transfer.loss_by_shots, phases=("adapt",),
        when=lambda tables: tables.table("transfer_measures")["shots"].nunique() > 1),
    StudyFigure(
        "forgetting_against_gain", "transfer", ("transfer_measures",),
        "Bits per byte gained on the target's test text against those lost on the source's. The line joins what no "
        "other cell of the pair beats in both.",
        transfer.forgetting_against_gain, phases=("adapt",),
        when=lambda tables: len(with_front(tables.table("transfer_measures"))) > 0),
    StudyFigure(
        "trials_by_learning_rate", "transfer", ("trials",),
        "The trials of the search for a learning rate that ended: final bits per byte on the target's validation "
        "text. Stars mark the chosen rates, which may be one for several pairs; of random weights (dashed) what is "
        "far above the stages is cut off.",
        transfer.trials_by_learning_rate, phases=("transfer",),
        when=lambda tables: bool(tables.table("trials")["validation_bits_per_byte"].notna().any())),
    StudyFigure(
        "trials_in_order", "", ("trials",),
        "The trials of the search for a learning rate in their order; the line is the lowest validation loss so far.",
        transfer.trials_in_order, phases=("transfer", "adapt"),
        when=lambda tables: bool(tables.table("trials")["validation_bits_per_byte"].notna().any())),
    StudyFigure(
        "learning_curves", "", ("transfer_curves",),
        "Few-shot adaptation at the tuned (full) and the fixed (dotted) learning rate: mean bits per byte on the "
        "target's validation text, shaded from the lowest to the highest seed.",
        transfer.learning_curves, phases=("transfer", "adapt")),
    StudyFigure(
        "scaling_laws", "scaling", ("scaling",),
        "Test bits per byte of models of several sizes. Left: trained with all of the text; each point is a training, "
        "at its lowest validation loss. Middle: the largest size, trained with shares of the text. Right: all "
        "checkpoints with all of the text, a thin line for each size. Thick lines are the fitted laws, shaded their "
        "95 % intervals; right, the law is that of the lowest losses for their cost.",
        scaling.scaling_laws, phases=("scale",)),
    StudyFigure(
        "transfer_worth", "scaling", ("scaling_worth",),
        "How many characters of the target a character of the source is worth: those that a model from random weights "
        "needs beside the windows to come as low as the adapted one, less those of untrained weights that are adapted "
        "alike, for each different character of the source's text. "
        "Hollow: a bound, where the loss is outside of what was trained from random weights. Bars: 95 % intervals over "
        "trainings.",
        scaling.transfer_worth, phases=("scale",)),
    StudyFigure(
        "attribution_curves", "attribution", ("attribution_summary",),
        "What the models look at over training, on all prompts, by the {scores}: how far back (distance weighted by "
        "share), how evenly, at what, and how alike the maps are to those of the last checkpoint.",
        attribution.attribution_curves, phases=("attribute",),
        when=lambda tables: "all" in set(tables.table("attribution_summary")["prompt_domain"])),
    StudyFigure(
        "faithfulness", "attribution", ("faithfulness",),
        "What the maps of each model's last checkpoint are worth. Left: rank correlation of the sizes of the scores "
        "with leave-one-out. Middle and right: how far {value} falls without the characters that a method puts first, "
        "and with nothing but them. Dashed: recency and random, which know nothing of the model; a method is worth "
        "what it adds to them. Upright bar: the mean of the models.",
        attribution.faithfulness, phases=("attribute",),
        when=lambda tables: bool(tables.table("faithfulness")["comprehensiveness"].notna().any())),
    StudyFigure(
        "deletion_curves", "attribution", ("deletion_curves",),
        "The falls behind the two means, by the share of the characters taken away or kept.",
        attribution.deletion_curves, phases=("attribute",),
        when=lambda tables: bool(tables.table("deletion_curves")["deletion"].notna().any())),
    StudyFigure(
        "method_agreement", "attribution", ("method_agreement",),
        "Mean rank correlation between the maps of two methods.",
        attribution.method_agreement, phases=("attribute",),
        when=lambda tables: bool(tables.table("method_agreement")["spearman"].notna().any())),
    StudyFigure(
        "attribution_map", "attribution", ("attribution",),
        "What the prediction after the last character rests on: {scores}, as a share of the row; the target is the "
        "likeliest next character. Beside each row: the step, that character and its probability. ␣ is a space, ⏎ a "
        "new line.",
        prompts.attribution_map, phases=("attribute",), prompts=3),
    StudyFigure(
        "top_characters", "attribution", ("top_characters",),
        "Entropy (nats) of the prediction after each character of the prompt, over training steps. In the cell: the "
        "likeliest next character, bold where it is the one that follows.",
        prompts.top_characters, phases=("attribute",), prompts=3),
    StudyFigure(
        "candidates", "attribution", ("top_characters",),
        "Confidence sharpening: the likeliest next characters after each character of the prompt, stacked by "
        "probability, over checkpoints of the model of the prompt's domain. Below each column: the character that does "
        "follow; in colour where it is among them, grey what would be wrong.",
        prompts.candidates, prompts=1),
    StudyFigure(
        "attribution_triangle", "attribution", ("attribution",),
        "After the last step and for every position, the same shares of the {scores}: row, the character that was "
        "predicted; column, the character that was read. The colour scale is a square root, so that small shares show.",
        prompts.attribution_triangle, prompts=1),
)


def draw(tables: StudyTables, phase: str = "", drawn: Mapping[str, Drawing] | None = None,
         ) -> dict[str, Drawing]:
    """Return name to drawing of every figure of the page, or of those that one of LOGGING_PHASES logs in its own run.

    A figure of a prompt has the prompt's place among all prompts behind its name: `attribution_map_01`. Those in
    `drawn` were drawn from the same tables before and are taken as they are.
    """
    assert phase in ("", *LOGGING_PHASES), phase
    return {name: (drawn or {}).get(name) or paint(make(), name) for name, make in drawings(tables, phase)}


def drawings(tables: StudyTables, phase: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the name of each figure for which the tables have rows, and what draws it."""
    for figure in FIGURES:
        if not (phase in figure.phases if phase else figure.section):
            continue
        if figure.prompts:
            for place, prompt in spread_prompts(tables, PROMPTS_OF_A_PHASE if phase else figure.prompts):
                if figure.can_draw(tables, prompt):
                    yield prompt_figure_name(figure, place), partial(figure.draw, tables, prompt)
        elif figure.can_draw(tables):
            yield figure.name, partial(figure.draw, tables)


def section_figures(section: str) -> list[StudyFigure]:
    """Return the figures of a section of the page, in its order."""
    return [figure for figure in FIGURES if figure.section == section]


def prompt_figure_name(figure: StudyFigure, place: int) -> str:
    return f"{figure.name}_{place:02d}"


def spread_prompts(tables: StudyTables, most: int) -> Iterator[tuple[int, str]]:
    """Yield at most `most` prompts with their places from 1 on, as evenly spread over all as can be."""
    every = list(enumerate(tables.prompts, start=1))
    yield from every[::max(1, -(-len(every) // most))]


def figures_table() -> str:
    """Return the list of figures in Markdown, each with the caption that it has with the default settings."""
    defaults = StudyTables("", {}, {}, {})
    rows = [(f"`{figure.name}`" + (" (of a prompt)" if figure.prompts else ""), figure.section or "–",
             ", ".join(f"`{name}`" for name in figure.tables), ", ".join(figure.phases) or "–",
             figure.caption_for(defaults)) for figure in FIGURES]
    head = ("figure", "section of the page", "tables", "phases that log it", "caption")
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)) + "\n"
