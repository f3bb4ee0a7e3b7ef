"""Every picture can be drawn from realistic, sparse and empty rows; colours are steady; text stays text."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from nanogpt import figures, figures_attribution, figures_transfer, looks
from nanogpt.transfer_tables import cell_measures, run_measures, stage_comparisons, view_means

DOMAINS = ("shakespeare", "wikipedia", "math")
STEPS = {0: "", 50: "early", 200: "mid", 400: "", 600: "late", 800: "final"}
PROMPTS = {"shakespeare": "ROMEO:\nBut, soft! what light ", "wikipedia": "The population of\tthe $city$ was ",
           "math": "Let $f(x)$ be continuous for $x > 0"}
UNKNOWN = "\t"
Tables = dict[str, pd.DataFrame]


def make_tables(domains: tuple[str, ...] = DOMAINS, steps: dict[int, str] = STEPS) -> Tables:
    """The tables of a study in which every model is best on its own domain and late adapts better than early."""
    last = max(steps)
    zero = [zero_shot_row(source, step, stage, target, last)
            for source, target in itertools.product(domains, domains) for step, stage in steps.items()]
    training = [{"domain": name, "step": step, "seconds": step / 20, "loss_nats": 4.6 * np.exp(-step / 90) + 1.6,
                 "validation_nats": 4.6 * np.exp(-step / 90) + 1.7 if step in steps else np.nan,
                 "validation_bits_per_byte": 6.2 * np.exp(-step / 90) + 2.3 + i / 9 if step in steps else np.nan}
                for i, name in enumerate(domains) for step in range(0, last + 1, 10)]
    corpora = [{"domain": name, "source": "embedded", "origin": f"package-{i}==1.0", "licence": "MIT", "bytes": 900_000,
                "characters": 890_000, "sha256": f"{i}" * 64} for i, name in enumerate(domains)]
    return {"corpora": pd.DataFrame(corpora), "training": pd.DataFrame(training), "zero_shot": pd.DataFrame(zero),
            **transfer_tables(domains), **prompt_tables(domains, steps)}


def zero_shot_row(source: str, step: int, stage: str, target: str, last: int) -> dict[str, Any]:
    own, learned = source == target, 1 - np.exp(-5 * step / last)
    bits = 6.3 - (4.0 if own else 2.9 - 0.2 * len(target) / 10) * learned
    confidence, accuracy = 0.03 + 0.5 * learned, 0.02 + (0.52 if own else 0.36) * learned
    return {"source": source, "step": step, "stage": stage, "target": target, "bits_per_byte": bits,
            "nats_per_character": bits * 0.69, "seen_loss_nats": bits * 0.65, "unseen_share": 0 if own else 0.01,
            "unseen_loss_share": 0 if own else 0.08, "entropy_nats": 4.7 - (3.1 if own else 2.6) * learned,
            "confidence": confidence, "top5_mass": confidence * 1.5, "accuracy": accuracy,
            "overconfidence": confidence - accuracy, "calibration_error": 0.03, "n_characters": 44_000,
            "n_bytes": 45_000}


def transfer_tables(domains: tuple[str, ...]) -> Tables:
    curves: list[dict[str, Any]] = []
    transfers, trials = [], []
    maturity = {"early": 0.3, "mid": 0.5, "late": 0.7, "scratch": 0.0}
    for (source, target), stage in itertools.product(itertools.permutations(domains, 2), maturity):
        key = {"source": source, "stage": stage, "target": target}
        rate = {"early": 0.004, "mid": 0.003, "late": 0.002, "scratch": 0.011}[stage]
        shift = 0.1 * domains.index(target) + 0.05 * domains.index(source)
        start = (4.2 - maturity[stage] if stage != "scratch" else 6.4) + shift
        after = (3.3 - maturity[stage] if stage != "scratch" else 4.6) + shift
        rate *= 1 + shift
        cell = key | {"checkpoint_step": int(100 * maturity[stage]), "shots": 16}
        curves += [cell | run | {"step": k, "validation_bits_per_byte": after + (start - after) * np.exp(-k / 8)}
                   for run in views(rate) for k in range(0, 31, 5)]
        transfers += [cell | run | {"zero_shot_bits_per_byte": start, "test_bits_per_byte": after + 0.02 * run["seed"],
                                 "source_bits_per_byte_before": None if stage == "scratch" else 2.5,
                                 "source_bits_per_byte_after": None if stage == "scratch" else 3.1 - after / 10,
                                 "trials": 4} for run in views(rate)]
        tried = [0.0005, 0.02, 0.25 * rate, rate]
        trials += [cell | {"number": i, "learning_rate": r, "state": "pruned" if i == 1 else "complete",
                          "validation_bits_per_byte": None if i == 1 else after + 0.1 * np.log(r / rate) ** 2}
                   for i, r in enumerate(tried)]
    runs = run_measures(pd.DataFrame(transfers), pd.DataFrame(curves))
    return {"transfer_curves": pd.DataFrame(curves), "transfers": runs, "trials": pd.DataFrame(trials),
            "transfer_measures": cell_measures(runs, pd.DataFrame(trials)),
            "stage_comparisons": stage_comparisons(runs)}


def views(tuned: float) -> list[dict[str, Any]]:
    """Two seeds at the tuned and at the fixed rate."""
    return [{"view": view, "seed": seed, "learning_rate": rate}
            for view, rate in (("tuned", tuned), ("fixed", 0.003)) for seed in (2, 3)]


def prompt_tables(domains: tuple[str, ...], steps: dict[int, str]) -> Tables:
    generator = np.random.default_rng(1)
    generations, tops, scores = [], [], []
    prompts = [(name, PROMPTS.get(name, f"a prompt of {name} ")) for name in domains]
    for source, (step, stage), (home, prompt) in itertools.product(domains, steps.items(), prompts):
        key = {"source": source, "step": step, "prompt": prompt}
        text = f" step {step} of {source} & <script>alert('{home}')</script>\nand so forth, in the same vein, on and on"
        generations.append(key | {"stage": stage, "prompt_domain": home, "temperature": 0.8, "seed": 1, "text": text})
        followers = [*prompt[1:], None]
        for position, (character, target) in enumerate(zip(prompt, followers, strict=True)):
            entropy = 4.7 - (2 + 1.5 * generator.random()) * step / max(steps)
            tops += [key | {"position": position, "character": character, "unknown": character in UNKNOWN,
                            "target": target, "entropy_nats": entropy, "rank": rank,
                            "candidate": "e \nta"[(position + rank) % 5], "probability": 0.4 / rank}
                     for rank in range(1, 4)]
            share = generator.dirichlet(np.linspace(0.2, 3, position + 1))
            scores += [{"model": f"nanogpt-{source}", "domain": source, "step": step, "prompt": prompt,
                        "method": "gradient_norm", "target_position": position + 1, "target": target or "e",
                        "probability": 0.31, "position": s, "unknown": prompt[s] in UNKNOWN,
                        "character": prompt[s], "score": share[s] * 2, "share": share[s]} for s in range(position + 1)]
    return {"generations": pd.DataFrame(generations), "top_characters": pd.DataFrame(tops),
            "attribution": pd.DataFrame(scores)}


tables_of = cache(make_tables)


def every_figure(tables: Tables) -> dict[str, Figure]:
    prompt = tables["attribution"]["prompt"].iloc[0] if len(tables["attribution"]) else ""
    last = int(tables["attribution"]["step"].max()) if len(tables["attribution"]) else 0
    return {
        "training_curves": figures.training_curves(tables["training"]),
        "zero_shot_matrix": figures.zero_shot_matrix(tables["zero_shot"]),
        "zero_shot_curves": figures.zero_shot_curves(tables["zero_shot"]),
        "confidence_curves": figures.confidence_curves(tables["zero_shot"]),
        "transfer_curves": figures.transfer_curves(view_means(tables["transfer_curves"])),
        "transfer_summary": figures.transfer_summary(view_means(tables["transfers"])),
        **figures_transfer.grid_figures(tables),
        "tuning_history": figures.tuning_history(tables["trials"]),
        "attribution_map": figures_attribution.attribution_map(tables["attribution"], prompt),
        "attribution_triangle": figures_attribution.attribution_triangle(tables["attribution"], prompt, last),
        "top_character_map": figures_attribution.top_character_map(tables["top_characters"], prompt)}


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("domains", [DOMAINS, ("recipes",)])
def test_every_figure_names_every_domain_it_was_given(domains: tuple[str, ...]) -> None:
    drawn = every_figure(tables_of(domains))
    alone = {"transfer_curves", "transfer_summary", "tuning_history", *figures_transfer.grid_figures(tables_of())}
    alone = alone if len(domains) == 1 else {"stage_differences"}
    for name, figure in drawn.items():
        expected = domains if name not in alone else ("no data",) if len(domains) == 1 else ("late − early",)
        assert all(word in words(figure) for word in expected), name
        height, width, _ = imread(io.BytesIO(figures.png(figure, dpi=40))).shape
        assert width >= 160 and height >= 40, name


def test_empty_frames_give_a_figure_that_says_so() -> None:
    for frames in ({name: pd.DataFrame() for name in tables_of()}, {k: v.head(0) for k, v in tables_of().items()}):
        assert all(words(figure) == "no data" for figure in every_figure(frames).values())


def test_unknown_prompt_has_no_data() -> None:
    assert words(figures_attribution.attribution_map(tables_of()["attribution"], "never asked")) == "no data"


def test_colors_are_steady_and_distinct() -> None:
    assert figures.domain_colors(["a", "b", "a"]) == figures.domain_colors(["a", "b"])
    assert len(set(figures.domain_colors("abcdef").values())) == 6
    part = tables_of()["training"].query("domain == 'math'")
    assert looks.domain_looks(part, DOMAINS, "domain")["math"].color == figures.domain_colors(DOMAINS)["math"]


def test_matrix_writes_the_numbers_of_every_stage() -> None:
    zero_shot = tables_of()["zero_shot"]
    text = words(figures.zero_shot_matrix(zero_shot))
    staged = zero_shot[zero_shot["stage"] != ""]
    assert all(f"{value:.2f}" in text for value in staged["bits_per_byte"])
    assert all(f"{stage}, step" in text for stage in ("early", "mid", "late", "final"))


@pytest.mark.parametrize("stage", ["best", "step 450"])
def test_a_stage_that_a_user_named_is_drawn_too(stage: str) -> None:
    frames = {name: frame.assign(stage=stage) for name, frame in transfer_tables(("math", "wikipedia")).items()}
    drawn = figures_transfer.grid_figures(frames)
    del drawn["stage_differences"]
    for figure in (figures.transfer_curves(view_means(frames["transfer_curves"])),
                   figures.transfer_summary(view_means(frames["transfers"])),
                   figures.tuning_history(frames["trials"]), *drawn.values()):
        figures.png(figure, dpi=40)  # drawing names the ticks
        assert stage in words(figure)


def test_prompts_are_shown_letter_by_letter_and_never_read_as_formulas() -> None:
    figure = figures_attribution.attribution_map(tables_of()["attribution"], PROMPTS["wikipedia"])
    text = words(figure).splitlines()
    assert {"␣", "⇥", "$"} <= set(text)
    labels = figure.axes[0].get_xticklabels()
    assert "".join(label.get_text() for label in labels) == figures.visible(PROMPTS["wikipedia"])
    assert not any(label.get_parse_math() for label in labels)


def test_unknown_characters_are_boxed_and_the_others_are_not() -> None:
    tables, prompt = tables_of(), PROMPTS["wikipedia"]
    maps = (figures_attribution.attribution_map(tables["attribution"], prompt),
            figures_attribution.top_character_map(tables["top_characters"], prompt),
            figures_attribution.attribution_triangle(tables["attribution"], prompt, max(STEPS)))
    for figure in maps:
        boxed = [label.get_bbox_patch() is not None for label in figure.axes[0].get_xticklabels()]
        assert boxed == [character in UNKNOWN for character in prompt] and any(boxed)
        assert "boxed: unknown to the model" in words(figure)
    assert "boxed" not in words(figures_attribution.attribution_map(tables["attribution"], PROMPTS["math"]))


def test_attribution_map_shows_the_shares_of_the_last_prediction() -> None:
    rows, prompt = tables_of()["attribution"], PROMPTS["math"]
    image = np.asarray(figures_attribution.attribution_map(rows, prompt).axes[0].images[0].get_array())
    assert image.shape == (len(STEPS), len(prompt))
    np.testing.assert_allclose(image.sum(axis=1), 1)


@pytest.mark.parametrize("steps", [(0,), (0, 1), (0, 16, 31, 62, 125, 250, 500, 750, 1000), range(0, 5001, 50)])
def test_step_ticks_are_few_and_true(steps: tuple[int, ...]) -> None:
    ticks = looks.step_ticks(steps)
    assert 0 in ticks and max(steps) in ticks and set(ticks) <= set(steps) and len(ticks) <= 10


def test_no_pyplot() -> None:
    code = "import sys, nanogpt.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
