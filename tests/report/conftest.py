"""What the tests of the report share: a made-up study with every table, its page, and figures without pixels."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support.study_tables import DOMAINS, complete_tables

from nanogpt.report import figures
from nanogpt.report.page import render
from nanogpt.report.plots.panels import paint
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables

LINKS = {"train math": ("0a1b", "/#/experiments/1/runs/0a1b")}


@pytest.fixture(scope="session")
def study() -> StudyTables:
    """A study with every table, whose numbers are known; no test changes its frames."""
    config = {"preset": "quick", "domains": ",".join(DOMAINS)}
    return StudyTables("A <study>", config, {"python": "3.11", "seed": 1}, complete_tables(), LINKS)


@pytest.fixture(scope="session")
def painted(study: StudyTables) -> dict[str, tuple[Figure, Drawing]]:
    """Its page's figures and their PNGs by name: to lay them out takes long, so it is done once."""
    kept: list[Figure] = []

    def paint_of(figure: Figure, name: str) -> Drawing:
        kept.append(figure)
        return paint(figure, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "paint", paint_of)
        images = figures.draw(study)
    return {name: (figure, image) for figure, (name, image) in zip(kept, images.items(), strict=True)}


@pytest.fixture(scope="session")
def whole_page(study: StudyTables, painted: dict[str, tuple[Figure, Drawing]]) -> str:
    """Its page with all figures."""
    return render(study, {name: image for name, (_, image) in painted.items()})


@pytest.fixture(scope="session")
def tiny_drawing() -> Drawing:
    return paint(Figure((1, 1)), dpi=20)


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch, tiny_drawing: Drawing) -> None:
    """Make every figure and paint none: the layout is what takes long."""
    monkeypatch.setattr(figures, "paint", lambda figure, name: tiny_drawing)


@pytest.fixture
def no_drawing(no_pixels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose which figures there are, and make none."""
    monkeypatch.setattr(figures, "FIGURES", tuple(
        dataclasses.replace(figure, draw=lambda *tables_and_prompt: Figure()) for figure in figures.FIGURES))


@pytest.fixture
def empty_study(study: StudyTables) -> StudyTables:
    return StudyTables("nothing", study.config, {}, {name: pd.DataFrame() for name in study.tables})
