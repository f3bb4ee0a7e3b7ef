"""The tables of a study made up: realistic numbers without a training."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nanogpt.config import ATTRIBUTION_BASELINES, ATTRIBUTION_METHODS, STRONGEST_COUNTS
from nanogpt.transfer.scaling import fitted_laws, worth_rows
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
    training = [{"domain": name, "training_seed": 1, "step": step, "seconds": step / 20,
                 "loss_nats": 4.6 * np.exp(-step / 90) + 1.6,
                 "validation_nats": 4.6 * np.exp(-step / 90) + 1.7 if step in steps else np.nan,
                 "validation_bits_per_byte": 6.2 * np.exp(-step / 90) + 2.3 + i / 9 if step in steps else np.nan}
                for i, name in enumerate(domains) for step in range(0, last + 1, 10)]
    corpora = [{"domain": name, "source": "embedded", "origin": f"package-{i}==1.0", "licence": "MIT", "bytes": 900_000,
                "characters": 890_000, "sha256": f"{i}" * 64} for i, name in enumerate(domains)]
    return {"corpora": pd.DataFrame(corpora), "training": pd.DataFrame(training), "zero_shot": pd.DataFrame(zero),
            **transfer_tables(domains), **prompt_tables(domains, steps)}


def complete_tables(domains: tuple[str, ...] = DOMAINS, methods: tuple[str, ...] = ATTRIBUTION_METHODS) -> Tables:
    """Make every table that a report can be made of; the first of `methods` reads every prompt."""
    tables = make_tables(domains)
    return (tables | evaluation_tables(domains) | transfer_tables(domains, shots=(4, 16))
            | attribution_tables(domains, methods) | scaling_tables(domains)
            | {"zero_shot": with_calibration(tables["zero_shot"]),
               "attribution": tables["attribution"].assign(method=methods[0])})


def with_calibration(zero_shot: pd.DataFrame) -> pd.DataFrame:
    """The columns that need counting models and fits: an own model is calibrated, the others are overconfident."""
    own, step = zero_shot["source"] == zero_shot["target"], zero_shot["step"]
    return zero_shot.assign(
        temperature=(1.0 + 0.5 * ~own).where(step > 0, 50.0), tempered_nats=1.5,
        bits_per_byte_low=zero_shot["bits_per_byte"] - 0.1, bits_per_byte_high=zero_shot["bits_per_byte"] + 0.1,
        uniform_divergence_nats=step / step.max(), unigram_divergence_nats=(step - 50).abs() / 100,
        bigram_divergence_nats=(step - 200).abs() / 100 + 0.5)


def evaluation_tables(domains: tuple[str, ...] = DOMAINS) -> Tables:
    """The own model is ahead of the others by 1 and level with the n-gram; texts have a domain that they read like."""
    last, (first, *_) = max(STEPS), domains
    keys = [{"source": source, "target": target, "stage": "final", "step": last}
            for source, target in itertools.product(domains, domains)]
    groups = {"letter": "character class", "newline": "character class", "0": "characters read before",
              "1": "characters read before"}
    parts = [key | {"by": by, "group": group, "share": 0.5, "nats_per_character": 2.0}
             for key in keys for group, by in groups.items()]
    bins = [key | {"stage": stage, "bin": k, "characters": 10 * k, "confidence": k / 15, "accuracy": k / 20}
            for key in keys for stage in ("early", "mid", "late") for k in (3, 9, 14)]
    counted = [{"target": target, "baseline": name, "bits_per_byte": bits} for target in domains
               for name, bits in (("uniform", 6.9), ("unigram", 4.8), ("5-gram", 2.4), ("xz", 2.6))]
    rivals = [{"target": target, "stage": stage, "rival": rival, "ahead_bits_per_byte": ahead, "ahead_low": ahead - 0.2,
               "ahead_high": ahead + 0.2, "p_value": 0.001, "p_holm": 0.9 if rival == STRONGEST_COUNTS else 0.01,
               "units": 100, "seeds": 2}
              for target in domains for stage in ("early", "final")
              for rival, ahead in (*((name, 1.0) for name in domains if name != target), (STRONGEST_COUNTS, 0.1))]
    means = [{"source": source, "target": target, "stage": "final", "bits_per_byte": 2.5, "low": 2.4, "high": 2.6,
              "units": 100, "seeds": 2, "seed_deviation": 0.01}
             for source, target in itertools.product(domains, domains)]
    spans = [{"training": first, "test": name, "shared_characters": 51 * i, "shared_share": i / 1000,
              "approximate_share": i / 500}
             for i, name in enumerate(domains)]
    apart = [{"first": a, "second": b, "vocabulary_overlap": 0.5, "trigram_divergence_bits": 0.3 + i / 10,
              "compression_distance": 0.9 + i / 100} for i, (a, b) in enumerate(itertools.combinations(domains, 2))]
    ahead = [{"source": a, "target": b, "step": last, "regret": 0.5, "advantage": 0.1, "asymmetry": 0.0}
             for a, b in itertools.permutations(domains, 2)]
    written = [{"source": source, "step": last, "prompt_domain": home, "prompt": prompt_of(home), "copied_share": 0.25,
                "written_domain": source if home != "math" else home, "classifier_accuracy": 0.975}
               for source, home in itertools.product(domains, domains)]
    new = {"breakdown": parts, "reliability": bins, "baselines": counted, "comparisons": rivals,
           "excerpts": [{"domain": name, "text": f"{name} begins & goes on\nin <b>lines</b>"} for name in domains],
           "zero_shot_means": means, "leakage": spans, "distances": apart, "specialisation": ahead, "writing": written}
    return {name: pd.DataFrame(rows) for name, rows in new.items()}


def attribution_tables(domains: tuple[str, ...] = DOMAINS, methods: tuple[str, ...] = ATTRIBUTION_METHODS) -> Tables:
    """What the maps of `methods` and of the baselines are worth: a method is worth less the later it stands."""
    last, every = max(STEPS), [*methods, *ATTRIBUTION_BASELINES]
    worth = {name: 1 - i / len(every) for i, name in enumerate(every)}
    keys = [{"domain": domain, "step": step} for domain in domains for step in (0, last)]
    summary = [{"domain": domain, "step": step, "prompt_domain": "all", "method": methods[0],
                "mean_distance_characters": 3 + step / 100, "entropy_nats": 2 - step / last, "same_word_share": 0.4,
                "previous_word_share": 0.2, "punctuation_share": 0.1, "newline_share": 0.05,
                "spearman_with_last": step / last} for domain in domains for step in STEPS]
    faithfulness = [key | {"method": name, "spearman_leave_one_out": worth[name], "comprehensiveness": 2 * worth[name],
                           "sufficiency": 3 - worth[name], "completeness_gap": np.nan, "spearman_step_0": 0.2,
                           "fails_sanity": False} for key in keys for name in every]
    curves = [key | {"method": name, "character_share": share, "deletion": worth[name] * share,
                     "insertion": 3 - worth[name] * share}
              for key in keys for name in every for share in (0.05, 0.1, 0.2, 0.5)]
    alike = [key | {"method": a, "other": b, "spearman": worth[a] * worth[b]}
             for key in keys for a, b in itertools.combinations(every, 2)]
    seeds = [{"domain": domain, "compared": compared, "spearman": value, "low": value - 0.1, "high": value + 0.1,
              "prompts": 3, "trainings": 2}
             for domain in domains for compared, value in (("two seeds, final", 0.8), ("early and final", 0.4))]
    apart = [{"domain": a, "other": b, "prompt": prompt_of(a), "spearman": 0.5, "total_variation": 0.3}
             for a, b in itertools.combinations(domains, 2)]
    parts = [{"domain": domain, "step": last, "prompt": prompt_of(domain), "unit": "word", "method": methods[0],
              "target_position": 1, "target": "x", "position": 0, "text": "y", "share": 1.0} for domain in domains]
    new = {"attribution_summary": summary, "faithfulness": faithfulness, "deletion_curves": curves,
           "method_agreement": alike, "seed_agreement": seeds, "attribution_domains": apart, "attribution_words": parts}
    return {name: pd.DataFrame(rows) for name, rows in new.items()}


def scaling_tables(domains: tuple[str, ...] = DOMAINS) -> Tables:
    """Make the tables of five sizes: loss is a power of weights and of text, and transfers are worth less with size."""
    sizes = [(layers, width, 12 * layers * width**2) for layers, width in
             ((2, 64), (3, 96), (4, 128), (6, 256), (6, 384))]
    rows = [{"size": f"{layers}x{width}", "block_weights": weights, "domain": domain, "training_seed": seed,
             "one_in": share, "unique_characters": 10**6 // share, "max_steps": 600, "step": step,
             "flops": 6 * weights * step * 16_384, "validation_bits_per_byte": bits, "test_bits_per_byte": bits,
             "chosen": step == 600}
            for layers, width, weights in sizes for i, domain in enumerate(domains) for seed in (1, 2)
            for share in (1, 4, 16, 64) for step in (0, 150, 600)
            for bits in [(8 + i / 9 + seed / 99) * weights**-0.08 * share**0.1 * (1.5 if step < 600 else 1)]]
    transfers = [{"size": f"{layers}x{width}", "block_weights": weights, "source": source, "target": target,
                  "training_seed": seed, "test_bits_per_byte": 3.0, "source_characters": 10**6,
                  "transferred_characters": 10**9 / weights + seed, "control_characters": 0.0,
                  "worth": 1000 / weights + seed / 10**6,
                  "bound": "more than" if width == 64 else ""}
                 for layers, width, weights in sizes for source, target in itertools.permutations(domains, 2)
                 for seed in (1, 2)]
    scaling, worth = pd.DataFrame(rows), pd.DataFrame(worth_rows(pd.DataFrame(transfers)))
    fits, curves = fitted_laws(scaling, worth)
    return {"scaling": scaling, "scaling_transfers": pd.DataFrame(transfers), "scaling_worth": worth,
            "scaling_fits": pd.DataFrame(fits), "scaling_curves": pd.DataFrame(curves)}


def prompt_of(domain: str) -> str:
    return PROMPTS.get(domain, f"a prompt of {domain} ")


def zero_shot_row(source: str, step: int, stage: str, target: str, last: int) -> dict[str, Any]:
    own, learned = source == target, 1 - np.exp(-5 * step / last)
    bits = 6.3 - (4.0 if own else 2.9 - 0.2 * len(target) / 10) * learned
    confidence, accuracy = 0.03 + 0.5 * learned, 0.02 + (0.52 if own else 0.36) * learned
    return {"source": source, "training_seed": 1, "step": step, "stage": stage, "target": target,
            "bits_per_byte": bits,
            "nats_per_character": bits * 0.69, "seen_loss_nats": bits * 0.65, "unseen_share": 0 if own else 0.01,
            "unseen_loss_share": 0 if own else 0.08, "entropy_nats": 4.7 - (3.1 if own else 2.6) * learned,
            "confidence": confidence, "top5_mass": confidence * 1.5, "accuracy": accuracy,
            "overconfidence": confidence - accuracy, "calibration_error": 0.03, "n_characters": 44_000,
            "n_bytes": 45_000}


def transfer_tables(domains: tuple[str, ...], shots: tuple[int, ...] = (16,)) -> Tables:
    curves: list[dict[str, Any]] = []
    transfers, trials = [], []
    maturity = {"early": 0.3, "mid": 0.5, "late": 0.7, "scratch": 0.0}
    for (source, target), stage, windows in itertools.product(itertools.permutations(domains, 2), maturity, shots):
        key = {"source": source, "stage": stage, "target": target}
        rate = {"early": 0.004, "mid": 0.003, "late": 0.002, "scratch": 0.011}[stage]
        shift = 0.1 * domains.index(target) + 0.05 * domains.index(source)
        start = (4.2 - maturity[stage] if stage != "scratch" else 6.4) + shift
        after = (3.3 - maturity[stage] if stage != "scratch" else 4.6) + shift + (16 - windows) / 20
        rate *= 1 + shift
        cell = key | {"training_seed": 1, "checkpoint_step": int(100 * maturity[stage]), "shots": windows}
        curves += [cell | run | {"step": k, "validation_bits_per_byte": after + (start - after) * np.exp(-k / 8)}
                   for run in views(rate) for k in range(0, 31, 5)]
        transfers += [cell | run | {"zero_shot_bits_per_byte": start, "test_bits_per_byte": after + 0.02 * run["seed"],
                                 "source_bits_per_byte_before": None if stage == "scratch" else 2.5,
                                 "source_bits_per_byte_after": None if stage == "scratch" else 3.1 - after / 10,
                                 "trials": 4} for run in views(rate)]
        tried = [0.0005, 0.02, 0.25 * rate, rate]
        trials += [cell | {"number": i, "learning_rate": r, "state": "pruned" if i == 1 else "complete",
                          "last_bits_per_byte": after + 0.1 * np.log(r / rate) ** 2,
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
    prompts = [(name, prompt_of(name)) for name in domains]
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
