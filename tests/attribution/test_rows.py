"""Rows over checkpoints, the interactive map, its figures, and the map in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.study_tables import words

from nanogpt.attribution import rows as attribution_study
from nanogpt.attribution.faithfulness import mean_rank_correlation
from nanogpt.attribution.rows import ModelAttributions
from nanogpt.config import ATTRIBUTION_BASELINES, AttributionConfig
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.report import page as report
from nanogpt.report.attribution_map import DIGITS, interactive_map
from nanogpt.report.plots.attribution import attribution_curves, deletion_curves, faithfulness, method_agreement
from nanogpt.report.plots.panels import paint
from nanogpt.report.tables import StudyTables, by_first_method

PROMPTS = [("shakespeare", "To be, or\nnot"), ("math", "the sum & <☃>")]
CONFIG = AttributionConfig(compared_prompts=1)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def models(checkpoints: list[Checkpoint]) -> list[ModelAttributions]:
    """Of the first and the last checkpoint, and of one between them that is not compared."""
    chosen = (checkpoints[0], checkpoints[2], checkpoints[-1])
    return [attribution_study.attribute_prompts(
        c.build(), c, {"model": c.title, "domain": c.domain, "step": c.step, "stage": ""}, PROMPTS, CONFIG,
        compare=c is not checkpoints[2]) for c in chosen]


@pytest.fixture(scope="module")
def tables(models: list[ModelAttributions]) -> dict[str, pd.DataFrame]:
    frames = {"attribution_summary": attribution_study.summary_rows(models, PROMPTS),
              "faithfulness": attribution_study.faithfulness_rows(models),
              "deletion_curves": attribution_study.deletion_curve_rows(models),
              "method_agreement": attribution_study.method_agreement_rows(models),
              "attribution_words": attribution_study.word_and_line_rows(models)}
    return {"attribution": pd.concat(map(attribution_study.attribution_frame, models), ignore_index=True)} | {
        name: pd.DataFrame(rows) for name, rows in frames.items()}


def test_the_first_method_reads_everything_and_the_others_some(tables: dict[str, pd.DataFrame]) -> None:
    counts = tables["attribution"].groupby(["method", "step"])["prompt"].nunique().unstack()
    assert counts.loc["gradient_norm"].tolist() == [2, 2, 2]
    others = counts.drop("gradient_norm")
    assert set(others.index) == {*CONFIG.method_names[1:], *ATTRIBUTION_BASELINES} and "leave_one_out" in others.index
    assert (others.iloc[:, [0, 2]] == 1).all(axis=None) and others.iloc[:, 1].isna().all()
    assert len(by_first_method(tables["attribution"])) == 3 * (13 * 14 // 2 + 13 * 14 // 2)


def test_drift_ends_at_one_and_baselines_fail_the_sanity_check(tables: dict[str, pd.DataFrame]) -> None:
    summary, faithfulness = tables["attribution_summary"], tables["faithfulness"]
    last = summary[summary["step"] == summary["step"].max()]
    assert last["spearman_with_last"].to_numpy() == pytest.approx(1)
    assert set(summary["prompt_domain"]) == {"all", "shakespeare", "math"}
    assert (summary.query("step == 0")["spearman_with_last"] < 1).all()
    faithfulness = faithfulness[faithfulness["step"] > 0].set_index("method")
    assert faithfulness.loc[["recency", "random"], "fails_sanity"].isna().all()
    assert faithfulness.loc["recency", "spearman_step_0"] == pytest.approx(1)
    assert set(tables["attribution_words"]["unit"]) == {"word", "line"}


def test_models_of_two_domains_are_compared_on_each_prompt(models: list[ModelAttributions]) -> None:
    other = [replace(model, model_row=model.model_row | {"domain": "math"}) for model in models[:2]]
    rows = list(attribution_study.domain_difference_rows([*models, *other]))
    assert [row["prompt"] for row in rows] == [prompt for _, prompt in PROMPTS]
    assert all(0 < row["total_variation"] < 1 and -1 <= row["spearman"] < 1 for row in rows)
    itself = replace(models[0], model_row=other[0].model_row)
    (same, _) = attribution_study.domain_difference_rows([models[0], itself])
    assert same["total_variation"] == 0 and same["spearman"] == pytest.approx(1)


def test_every_figure_shows_its_rows(tables: dict[str, pd.DataFrame]) -> None:
    made = StudyTables("maps", {}, {}, tables)
    for draw_figure, word in ((attribution_curves, "effective context, characters"), (faithfulness, "grad cam"),
                              (deletion_curves, "recency"), (method_agreement, "leave one out")):
        paint(figure := draw_figure(made), dpi=20)     # ticks get their names when it is painted
        assert word in words(figure).splitlines(), draw_figure.__name__


def test_the_map_holds_every_share_to_a_digit(tables: dict[str, pd.DataFrame]) -> None:
    shown_map, attribution = interactive_map(tables["attribution"]), tables["attribution"]
    assert shown_map["prompts"] == [prompt for _, prompt in PROMPTS]
    for (prompt, method, domain, step), rows in attribution.groupby(["prompt", "method", "domain", "step"]):
        shown = shown_map["maps"][method][str(shown_map["prompts"].index(prompt))][domain][str(step)]
        levels = np.array([DIGITS.index(digit) - 31 for digit in shown["scores"]]) / 31
        np.testing.assert_allclose(np.sign(levels) * levels**2, np.sign(rows["score"]) * rows["share"], atol=0.034)
        last = rows[rows["position"] == rows["target_position"] - 1]
        np.testing.assert_allclose(shown["percent"], 100 * last["probability"], atol=0.51)
        assert shown["last"] == rows["target"].iloc[-1]
    assert "☃" in shown_map["unknown"] and "e" not in shown_map["unknown"]
    assert interactive_map(pd.DataFrame()) == {}


ACT = """<script>addEventListener("load", () => {
  const map = document.getElementById("map"), text = map.querySelector("pre"), said = [];
  const spans = () => [...text.children], pick = name => map.querySelector(`[name=${name}]`);
  const fire = (node, kind) => { node.dispatchEvent(new Event(kind, {bubbles: true})); note(); };
  const shade = span => Number((span.style.background.match(/([\\d.]+)\\)$/) || [0, 0])[1]);
  const set = (name, value) => { pick(name).value = value; fire(pick(name), "input"); };
  const note = () => said.push({
    at: spans().findIndex(span => span.hasAttribute("aria-current")), step: map.querySelector("b").textContent,
    text: text.textContent, output: map.querySelector("output").textContent, shades: spans().map(shade)});
  note();
  fire(spans()[5], "pointerover");
  fire(spans()[3], "click");
  text.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"})); note();
  set("step", 0);
  set("method", "leave_one_out");
  set("prompt", "1");
  document.body.dataset.said = JSON.stringify(said);
});</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_map_answers_pointer_tap_keyboard_slider_and_choices_in_a_browser(
        tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    page = report.render(StudyTables("maps", {}, {}, tables), drawn={})
    (tmp_path / "report.html").write_text(page.replace("</body>", ACT), "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'x'}",
               "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dumped = re.search(r'data-said="([^"]*)"', done.stdout)
    assert dumped, done.stderr[-2000:]
    first, hover, tap, key, step, method, prompt = json.loads(html.unescape(dumped[1]))
    last_step = str(tables["attribution"]["step"].max())
    assert first["at"] == 13 and first["step"] == last_step and first["text"].startswith("To␣be,␣or⏎\nnot")
    assert [state["at"] for state in (hover, tap, key)] == [5, 3, 4]
    for state in (first, hover, tap, key, step, method, prompt):
        assert any(state["shades"][:state["at"]]) and not any(state["shades"][state["at"]:])
    assert step["step"] == "0" and step["shades"] != key["shades"]
    assert method["shades"] != step["shades"] and "%" in method["output"]
    assert prompt["text"].startswith("the␣sum␣&␣<☃>")
    rows = by_first_method(tables["attribution"]).query("target_position == 5")
    rows = rows[rows["prompt"] == PROMPTS[0][1]]
    shares = rows[rows["step"] == rows["step"].max()]["share"].to_numpy()
    np.testing.assert_allclose(hover["shades"][:5], 0.75 * np.sqrt(shares), atol=0.014)


def test_maps_of_two_trainings_are_compared_at_the_end_and_of_one_early_and_late(
        models: list[ModelAttributions]) -> None:
    early, final = models[0].attributions, models[-1].attributions
    same = {"math": {1: {"early": early, "final": final}, 2: {"early": early, "final": final}}}
    seeds, drift = attribution_study.seed_agreement_rows(same)
    assert seeds["compared"] == "two seeds, final" and seeds["spearman"] == pytest.approx(1)
    expected = mean_rank_correlation(early, final)
    assert drift["spearman"] == pytest.approx(expected, abs=0.02) and drift["trainings"] == 2
    assert drift["low"] <= drift["spearman"] <= drift["high"] and drift["prompts"] <= len(PROMPTS)
