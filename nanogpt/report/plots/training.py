"""The figure of the trainings."""

from __future__ import annotations

from matplotlib.figure import Figure

from nanogpt.report.plots.panels import add_legend, draw_line, name_axes, panels, step_axis
from nanogpt.report.style import domain_styles
from nanogpt.report.tables import StudyTables


def training_curves(tables: StudyTables) -> Figure:
    """Draw training and validation loss in nats per character, and validation bits per byte, over the steps.

    A line for each seed.
    """
    training = tables.table("training")
    styles = domain_styles(tables.domain_order, training, "domain")
    figure, (loss, bits) = panels(1, 2, (4.6, 3.3))
    for (domain, _), rows in training.sort_values("step").groupby(["domain", "training_seed"], sort=False):
        batches, style = rows.dropna(subset="loss_nats"), styles[str(domain)]
        loss.plot(batches["step"], batches["loss_nats"], color=style.color, linewidth=1, alpha=0.5)
        draw_line(loss, rows, "step", "validation_nats", style)
        draw_line(bits, rows, "step", "validation_bits_per_byte", style)
    for axes in (loss, bits):
        step_axis(axes, training["step"])
    name_axes(loss, "loss: training (thin), validation (marked)", "training step", "nats per character")
    name_axes(bits, "validation", "training step", "bits per byte")
    add_legend(figure, styles)
    return figure
