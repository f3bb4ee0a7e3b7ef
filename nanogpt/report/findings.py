"""What the tables of a study say, in sentences made from their numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd
from scipy.special import stdtr

from nanogpt.config import JOINT, STRONGEST_COUNTS
from nanogpt.report.tables import STAGE_ORDER, StudyTables, last_steps, own_texts
from nanogpt.report.wording import listed, spaced
from nanogpt.transfer.tables import sentences

SIGNIFICANCE = 0.05
OUTLIER = 0.01
LEAKED_SHARE = 0.01
"""A test text of which a training text holds more than this is warned of."""
WARNING = "Warning"
"""How a sentence begins that the page never folds away."""
NAMED_LEAKS = 4
"""Of all leaks, how many are named in one sentence."""


def findings(tables: StudyTables) -> list[str]:
    """Return what the tables say, in sentences; a table that is missing leaves its sentences out."""
    zero_shot = of_domains(tables.table("zero_shot"))
    return [*_of_leaks(tables.table("leakage")), *_of_training(zero_shot), *_of_best_models(zero_shot),
            *_of_entropy(zero_shot), *ahead_findings(tables.table("comparisons")),
            *seed_findings(tables.table("zero_shot_means")), *outlier_findings(tables.by_seed("zero_shot")),
            *_of_baselines(zero_shot, tables.table("baselines")), *_of_temperatures(zero_shot),
            *_of_counting(zero_shot), *_of_distances(zero_shot, tables.table("distances")),
            *author_findings(tables.table("writing")), *_of_leakage(tables.table("leakage")),
            *sentences(tables.table("stage_comparisons")), *attribution_findings(tables.table("faithfulness")),
            *seed_map_findings(tables.table("seed_agreement")),
            *scaling_findings(tables.table("scaling_fits"), tables.table("scaling_worth"))]


def ahead_findings(comparisons: pd.DataFrame) -> Iterator[str]:
    """Yield how far each domain's own model of the latest stage is ahead of the nearest rival of each kind."""
    if comparisons.empty:
        return
    last = latest_stage(comparisons)
    rows = comparisons[comparisons["stage"] == last]
    kinds = rows["rival"].map({STRONGEST_COUNTS: f"a {STRONGEST_COUNTS}", JOINT: "the model of all domains"})
    for kind, rivals in rows.groupby(kinds.fillna("the next model"), sort=False):
        nearest = nearest_rivals(rivals)
        leads = [f"{row['ahead_bits_per_byte']:+.2f} ({row['ahead_low']:+.2f} to {row['ahead_high']:+.2f}) on "
                 f"{row['target']}" + (f" against {row['rival']}" if rivals["rival"].nunique() > 1 else "")
                 for row in nearest]
        yield (f"Each domain's own {last} model leads {kind} in {sum(map(is_ahead, nearest))} of {len(nearest)} "
               f"domains. Its lead: {listed(leads)}.")
    seeds = f" and {rows['seeds'].iloc[0]} trainings of each domain" if rows["seeds"].iloc[0] > 1 else ", one training"
    yield (f"These leads are in bits per byte on the same characters, with 95 % intervals over "
           f"{_span(rows['units'], 'd')} units of text{seeds}. One counts where its lower limit is above 0 and it "
           f"holds after Holm's correction over {len(rows)} comparisons.")


def of_domains(zero_shot: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the domains' own models: the reference trained on all domains is at home on none."""
    return zero_shot[zero_shot["source"] != JOINT] if len(zero_shot) else zero_shot


def latest_stage(comparisons: pd.DataFrame) -> str:
    """Return the stage of the rows that comes last in a training; one that a user named comes before those."""
    return max(comparisons["stage"], key=lambda stage: STAGE_ORDER.index(stage) if stage in STAGE_ORDER else -1)


def nearest_rivals(comparisons: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return for each target the row of the rival over which its own model's lead is smallest."""
    return [row for _, group in comparisons.groupby("target", sort=False)
            for row in group.nsmallest(1, "ahead_bits_per_byte").to_dict("records")]


def is_ahead(row: Mapping[Hashable, Any]) -> bool:
    """Say whether a lead has a lower limit above 0 and holds after Holm's correction over its stage."""
    return bool(row["p_holm"] < SIGNIFICANCE and row["ahead_low"] > 0)


def overconfidence(zero_shot: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return confidence less accuracy of the last models: on their own texts, and on those of other domains."""
    if zero_shot.empty or "overconfidence" not in zero_shot:
        return pd.Series(dtype=float), pd.Series(dtype=float)
    last = last_steps(zero_shot, "source")
    return own_texts(last)["overconfidence"].dropna(), _other_texts(last)["overconfidence"].dropna()


def seed_findings(means: pd.DataFrame) -> Iterator[str]:
    """Yield how much trainings that differ in the seed alone differ in loss, and which stands out."""
    if means.empty or means["seeds"].max() < 2:
        if len(means):
            yield ("Each domain was trained once: how much another seed would change is not known here; a study with "
                   "seeds=3 says it.")
        return
    last = means[means["stage"] == means["stage"].iloc[-1]]
    own, away = last[last["source"] == last["target"]], last[last["source"] != last["target"]]
    parts = [f"{_span(rows['seed_deviation'])} on {text}" for rows, text in ((own, "the own text"), (away, "others"))
             if len(rows)]
    yield (f"Trainings that differ in the seed alone ({last['seeds'].iloc[0]} of each domain) have a standard "
           f"deviation of {listed(parts)}, bits per byte. Smaller differences say nothing.")


def outlier_findings(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield which trainings end far from the other seeds of their domain.

    Studentised residuals from the domains' means, each without itself in the deviation, which is that of all domains
    together; far is what chance gives in one of a hundred studies.
    """
    if zero_shot.empty or "training_seed" not in zero_shot or zero_shot["training_seed"].nunique() < 3:
        return
    last = own_texts(last_steps(zero_shot, "source"))
    seeds = last.groupby("source")["bits_per_byte"].transform("size")
    residual = last["bits_per_byte"] - last.groupby("source")["bits_per_byte"].transform("mean")
    freedom = len(last) - last["source"].nunique() - 1
    scaled = residual**2 / (1 - 1 / seeds)
    others = (((residual**2).sum() - scaled) / freedom).clip(lower=1e-12)
    far = last[2 * stdtr(freedom, -(scaled / others) ** 0.5) * len(last) < OUTLIER]
    if len(far):
        names = [f"{row.source} with seed {row.training_seed} ({row.bits_per_byte:.2f})" for row in far.itertuples()]
        yield f"Far from the other seeds of its domain {'ends' if len(far) == 1 else 'end'} {listed(names)}."


def author_findings(writing: pd.DataFrame) -> Iterator[str]:
    """Yield whether the last models write in their own domain or in that of a prompt from another one."""
    if writing.empty:
        return
    last = last_steps(writing[writing["source"] != JOINT], "source")
    abroad = last[last["prompt_domain"].isin(last["source"].unique()) & (last["prompt_domain"] != last["source"])]
    if len(abroad):
        model, prompt = ((abroad["written_domain"] == abroad[column]).mean() for column in ("source", "prompt_domain"))
        yield (f"After a prompt of another domain, the last models write like their own domain in {model:.0%} of "
               f"{len(abroad)} texts and like the prompt's in {prompt:.0%}. A classifier of character n-grams says so; "
               f"its held-out accuracy is {last['classifier_accuracy'].iloc[0]:.1%}. Of all that they write, "
               f"{last['copied_share'].mean():.1%} is copied from the training text in spans of 20.")


def attribution_findings(faithfulness: pd.DataFrame) -> Iterator[str]:
    """Yield whether the maps of the last checkpoints say more than recency does."""
    if faithfulness.empty:
        return
    means = last_steps(faithfulness, "domain").groupby("method", sort=False)["spearman_leave_one_out"].mean().dropna()
    if means.empty:    # every prompt was too short
        return
    parts = [f"{means[name]:.2f} by {spaced(name)}" for name in means.index if name != "leave_one_out"]
    yield (f"What happens when a character is taken away is ranked (Spearman) {listed(parts)}. A map that does not "
           "rank it better than recency adds nothing to it.")


def seed_map_findings(agreement: pd.DataFrame) -> Iterator[str]:
    """Yield how alike maps of two seeds are, beside those of early and final: what a seed changes, and training."""
    if agreement.empty:
        return
    means = agreement.groupby("compared")["spearman"].mean()
    if {"two seeds, final", "early and final"} <= set(means.index):
        yield (f"Attribution maps of two trainings that differ in the seed alone agree to ρ = "
               f"{means['two seeds, final']:.2f} at the end; those of the early and the final checkpoint of one "
               f"training to {means['early and final']:.2f}.")


def scaling_findings(fits: pd.DataFrame, worth: pd.DataFrame) -> Iterator[str]:
    """Yield how the loss falls with the size of a model, and what another domain's text is worth by size."""
    laws = fits[fits["law"] == "parameters"] if len(fits) else fits
    if len(laws):
        parts = [f"{row['exponent']:.3f} ({row['low']:.3f} to {row['high']:.3f}) on {row['domain']}"
                 + (f" towards {row['floor']:.2f} bits per byte" if row["floor"] else "")
                 for row in laws.to_dict("records")]
        yield (f"From {laws['least'].min():,.0f} to {laws['most'].max():,.0f} weights in the blocks, test loss falls "
               f"with their number to the power of {listed(parts)} (95 % intervals over sizes). That holds for one "
               "amount of text, one number of steps and a rule for learning rates that was not tuned for each size; it "
               "says nothing of larger models or more text.")
        for (most, tried), rows in laws[laws["tried_to"] > laws["most"]].groupby(["most", "tried_to"], sort=False):
            yield (f"On {listed(rows['domain'].tolist())} models of more than {most:,.0f} weights, up to {tried:,.0f}, "
                   "lose more: of the amount of text, the steps, and rates and dropout that were not tuned for each "
                   "size, nothing tells which is the cause.")
    if len(worth):
        ends = {worth["block_weights"].min(), worth["block_weights"].max()}
        told = " ".join(_worth(worth[worth["block_weights"] == end]) for end in sorted(ends))
        yield (f"{told} Pairs share texts and the trainings from random weights, so their differences are described, "
               "not tested.")


def _worth(rows: pd.DataFrame) -> str:
    """Say between what the pairs of one size lie, in characters of the target."""
    low, high = rows.sort_values("worth").iloc[[0, -1]].to_dict("records")
    bounds = int((rows["bound"].fillna("") != "").sum())
    known = f"; {bounds} of {len(rows)} pairs are bounds" if bounds else ""
    return (f"At {rows['size'].iloc[0]} a character of the source is worth {low['worth']:.3f} ({low['source']} for "
            f"{low['target']}) to {high['worth']:.3f} ({high['source']} for {high['target']}) of the target, after "
            f"adaptation{known}.")


def _of_training(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield how the loss of each model on its own domain fell over training."""
    if zero_shot.empty:
        return
    first, last = _first_steps(zero_shot), last_steps(zero_shot, "source")
    if first["step"].max() < last["step"].min() and len(own_texts(last)):
        falls = own_texts(last).merge(own_texts(first), on="source", suffixes=("", "_first"))
        changes = [f"from {row.bits_per_byte_first:.2f} to {row.bits_per_byte:.2f} on {row.source}"
                   for row in falls.itertuples()]
        yield (f"Over {last['step'].max():,} training steps, the bits per byte of each model on its own domain's test "
               f"text went {listed(changes)}.")


def _of_best_models(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield which model is best on each domain, and by how much."""
    if zero_shot.empty or zero_shot["source"].nunique() == 1:
        return
    wins, defeats, last = [], [], last_steps(zero_shot, "source")
    for name, own_loss in own_texts(last)[["target", "bits_per_byte"]].itertuples(index=False):
        others = last[(last["target"] == name) & (last["source"] != name)].nsmallest(1, "bits_per_byte")
        for rival, loss in zip(others["source"], others["bits_per_byte"], strict=True):
            if own_loss < loss:
                wins.append(f"{name} by {loss - own_loss:.2f}")
            else:
                defeats.append(f"on {name} the model of {rival} is ahead by {own_loss - loss:.2f}")
    count = len(wins) + len(defeats)
    if count:
        many = "all" if not defeats else f"{len(wins)} of" if wins else "none of"
        tail = f"; {listed(defeats)}" if defeats else ""
        lead = f", ahead of the next model on {listed(wins)}" if wins else ""
        yield (f"The model trained on a domain has the lowest loss on its test text for {many} {count} domains"
               f"{lead}{tail} bits per byte.")


def _of_entropy(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield how the entropy of the predictions fell at home and away, and what unseen characters cost away."""
    if zero_shot.empty:
        return
    first, last = _first_steps(zero_shot), last_steps(zero_shot, "source")
    own, own_first, away, away_first = own_texts(last), own_texts(first), _other_texts(last), _other_texts(first)
    if len(own) and len(away):
        yield (f"The mean entropy of the predictions went from {own_first['entropy_nats'].mean():.2f} to "
               f"{own['entropy_nats'].mean():.2f} nats on the own domain and from "
               f"{away_first['entropy_nats'].mean():.2f} to {away['entropy_nats'].mean():.2f} on the others. There, "
               f"characters never seen in training carry {away['unseen_loss_share'].min():.1%} to "
               f"{away['unseen_loss_share'].max():.1%} of the loss.")


def _of_baselines(zero_shot: pd.DataFrame, baselines: pd.DataFrame) -> Iterator[str]:
    """Yield which baselines, having read the same training text, have a lower loss than the domain's last model."""
    if zero_shot.empty or baselines.empty:
        return
    own_losses = dict(own_texts(zero_shot).sort_values("step").groupby("target")["bits_per_byte"].last().items())
    lower = baselines[baselines["bits_per_byte"] < baselines["target"].map(own_losses)].sort_values("bits_per_byte")
    better = [f"{len(rows)} on {target} ({rows['baseline'].iloc[0]} the lowest, {rows['bits_per_byte'].iloc[0]:.2f} "
              f"against {own_losses[target]:.2f} bits per byte)"
              for target, rows in lower.groupby("target", sort=False)]
    yield (f"Below the own model's loss are, of the baselines that count or compress the same training text, "
           f"{listed(better) if better else 'none'}.")


def _of_temperatures(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield the temperatures that fit best after the last step, and overconfidence, at home and away."""
    if "temperature" not in zero_shot or zero_shot.empty:
        return
    last = last_steps(zero_shot, "source")
    own, away = own_texts(last), _other_texts(last)
    parts = [f"{_span(100 * values, '+.1f')} points {where} (mean {100 * values.mean():+.1f})"
             for values, where in zip(overconfidence(zero_shot), ("at home", "away"), strict=True)]
    if len(own) and len(away):
        yield (f"The temperature that fits best at the end is {_span(own['temperature'])} on the own domain and "
               f"{_span(away['temperature'])} on the others (1: calibrated, above: overconfident). Confidence less "
               f"accuracy is {listed(parts)}.")


def _of_counting(zero_shot: pd.DataFrame) -> Iterator[str]:
    """Yield when the predictions of the own text were nearest to those of the unigram and of the bigram."""
    if "bigram_divergence_nats" not in zero_shot:
        return
    parts = []
    for name in ("unigram", "bigram"):
        means = own_texts(zero_shot).groupby("step")[f"{name}_divergence_nats"].mean().dropna()
        if len(means) > 2:
            parts.append(f"to the {name} at step {means.idxmin():,} ({means.min():.2f} nats; at the end "
                         f"{means.iloc[-1]:.2f})")
    if parts:
        yield f"On the own text the predictions come nearest {listed(parts)}. What lies beyond is context."


def _of_distances(zero_shot: pd.DataFrame, distances: pd.DataFrame) -> Iterator[str]:
    """Yield how the distance of two domains ranks with what the model of one pays on the other's text."""
    if zero_shot.empty or distances.empty:
        return
    mirrored = distances.rename(columns={"first": "second", "second": "first"})
    pairs = last_steps(zero_shot, "source").merge(pd.concat([distances, mirrored]), left_on=["source", "target"],
                                                  right_on=["first", "second"])
    if len(pairs) >= 6:
        parts = [f"{pairs['bits_per_byte'].corr(pairs[column], method='spearman'):.2f} for {name}"
                 for column, name in (("trigram_divergence_bits", "the Jensen–Shannon divergence of trigrams"),
                                      ("compression_distance", "the compression distance"))]
        yield (f"Over {len(pairs)} ordered pairs of domains, the rank correlation of the zero-shot loss with the "
               f"distance of the texts is {listed(parts)}. So few pairs describe and do not prove.")


def leaks(leakage: pd.DataFrame) -> list[str]:
    """Return, for each test text that a training text holds to more than LEAKED_SHARE, how much of it that is.

    Those of one domain come first, for they flatter its own model; then the larger share comes first.
    """
    if leakage.empty:
        return []
    own = leakage["training"] == leakage["test"]
    cells = leakage.assign(own=own, copied=_copied_shares(leakage)).query("copied > @LEAKED_SHARE").sort_values(
        ["own", "copied"], ascending=False)
    return [f"{row['copied']:.1%} of the test text of {row['test']} stands in "
            f"{'its own training text' if row['own'] else 'the training text of ' + str(row['training'])} "
            f"({row['shared_share']:.1%} in exact spans of 50{_sampled(row)})" for row in cells.to_dict("records")]


def _of_leaks(leakage: pd.DataFrame) -> Iterator[str]:
    """Yield a warning that names the texts of which too much was seen in training; nothing where none was."""
    told = leaks(leakage)
    if told:
        more = [f"{len(told) - NAMED_LEAKS} more"] if len(told) > NAMED_LEAKS else []
        yield (f"{WARNING}: test text was seen in training. {listed([*told[:NAMED_LEAKS], *more])}. A loss there also "
               "measures what was memorised.")


def _of_leakage(leakage: pd.DataFrame) -> Iterator[str]:
    """Yield how much the test and training texts that share most have in common, where that is no leak."""
    if len(leakage) and not leaks(leakage):
        worst = leakage.assign(copied=_copied_shares(leakage)).nlargest(1, "copied").to_dict("records")[0]
        near = ", near copies of passages included" if "approximate_share" in leakage else ""
        yield (f"No test text shares more than {worst['copied']:.2%} of its characters with a training text in spans "
               f"of 50{near} ({worst['test']} with {worst['training']}: {worst['shared_characters']:,} characters in "
               f"exact spans{_sampled(worst)}).")


def _sampled(row: Mapping[Hashable, Any]) -> str:
    """Say of which part of a long training text a row of the leakage table knows; nothing where that is all of it."""
    compared, held = row.get("compared_characters"), row.get("training_characters")
    return f", in a sample of {compared:,} of its {held:,} characters" if compared != held else ""


def _copied_shares(leakage: pd.DataFrame) -> pd.Series[float]:
    """Return the larger share of each row; tables of earlier versions know the exact one alone."""
    return leakage.filter(["shared_share", "approximate_share"]).max(axis=1)


def _first_steps(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["step"] == frame.groupby("source")["step"].transform("min")]


def _other_texts(zero_shot: pd.DataFrame) -> pd.DataFrame:
    return zero_shot[zero_shot["source"] != zero_shot["target"]]


def _span(values: pd.Series[float], form: str = ".2f") -> str:
    """Return the lowest and the highest value, or the one that both are."""
    low, high = (f"{value:{form}}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
