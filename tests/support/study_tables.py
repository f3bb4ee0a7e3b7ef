"""The tables of a study made up: realistic numbers without a training."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nanogpt.transfer.tables import cell_measures, run_measures, stage_comparisons

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


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
