"""What the tables of the evaluation say beyond the losses themselves: differences, confidence, baselines, leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from nanogpt.config import JOINT, STRONGEST_COUNTS
from nanogpt.report.style import STAGES, listed

LEVEL = 0.05


def evaluation_findings(zero_shot: pd.DataFrame, table: Callable[[str], pd.DataFrame]) -> Iterator[str]:
    """Sentences from the zero-shot rows of the domains' own models and from what `table` gives by name."""
    yield from ahead_findings(table("comparisons"))
    if len(baselines := table("baselines")):
        yield from _below(zero_shot, baselines)
    if "temperature" in zero_shot:
        yield from _temperatures(zero_shot)
    if "bigram_divergence_nats" in zero_shot:
        yield from _phases(zero_shot)
    if len(distances := table("distances")):
        yield from _distances(zero_shot, distances)
    yield from author_findings(table("writing"))
    if len(leakage := table("leakage")):
        worst = leakage.nlargest(1, "shared_share").to_dict("records")[0]
        yield (f"No test text shares more than {worst['shared_share']:.2%} of its characters with a training text in "
               f"spans of 50 ({worst['test']} with {worst['training']}: {worst['shared_characters']:,} characters).")


def ahead_findings(comparisons: pd.DataFrame) -> Iterator[str]:
    """The latest stage: each domain's own model against the nearest other one, an n-gram and the joint reference."""
    if comparisons.empty:
        return
    last = max(comparisons["stage"], key=lambda stage: list(STAGES).index(stage) if stage in STAGES else -1)
    rows = comparisons[comparisons["stage"] == last]
    kinds = rows["rival"].map({STRONGEST_COUNTS: f"a {STRONGEST_COUNTS}", JOINT: "the model of all domains"})
    clauses = []
    for what, nearest in rows.groupby(kinds.fillna("the next model"), sort=False):
        parts, sure = [], []
        for _, group in nearest.groupby("target", sort=False):
            row = group.loc[group["ahead_bits_per_byte"].idxmin()]
            parts.append(f"{row['ahead_bits_per_byte']:+.2f} ({row['ahead_low']:+.2f} to {row['ahead_high']:+.2f}) on "
                         f"{row['target']}" + (f" against {row['rival']}" if nearest["rival"].nunique() > 1 else ""))
            sure.append(row["p_holm"] < LEVEL and row["ahead_low"] * row["ahead_high"] > 0)
        clauses.append(f"of {what} by {listed(parts)}, {sum(sure)} of {len(sure)} surely")
    yield (f"On the same characters, each domain's own {last} model is ahead {'; '.join(clauses)}: bits per byte, 95 % "
           "intervals from a block bootstrap; sure is a difference that is larger than its interval and holds after "
           f"Holm's correction over {len(rows)} comparisons.")


def _below(zero_shot: pd.DataFrame, baselines: pd.DataFrame) -> Iterator[str]:
    """Which baselines, having read the same training text, have a lower loss than the last model of the domain."""
    own = zero_shot[zero_shot["source"] == zero_shot["target"]].sort_values("step").groupby("target")["bits_per_byte"]
    values = dict(own.last().items())
    lower = baselines[baselines["bits_per_byte"] < baselines["target"].map(values)].sort_values("bits_per_byte")
    better = [f"{len(rows)} on {target} ({rows['baseline'].iloc[0]} the lowest, {rows['bits_per_byte'].iloc[0]:.2f} "
              f"against {values[target]:.2f} bits per byte)" for target, rows in lower.groupby("target", sort=False)]
    yield (f"Below the own model's loss are, of the baselines that count or compress the same training text, "
           f"{listed(better) if better else 'none'}.")


def _temperatures(zero_shot: pd.DataFrame) -> Iterator[str]:
    last = zero_shot[zero_shot["step"] == zero_shot.groupby("source")["step"].transform("max")]
    own, away = last[last["source"] == last["target"]], last[last["source"] != last["target"]]
    if len(own) and len(away):
        yield (f"The temperature that fits best at the end is {_span(own['temperature'])} on the own domain and "
               f"{_span(away['temperature'])} on the others (1: calibrated, above: overconfident); confidence less "
               f"accuracy is {_span(100 * own['overconfidence'], '+.1f')} points at home and "
               f"{_span(100 * away['overconfidence'], '+.1f')} away.")


def _phases(zero_shot: pd.DataFrame) -> Iterator[str]:
    """When the predictions of the own text were nearest to those of the unigram and of the bigram."""
    own = zero_shot[zero_shot["source"] == zero_shot["target"]]
    parts = []
    for name in ("unigram", "bigram"):
        column = f"{name}_divergence_nats"
        means = own.groupby("step")[column].mean().dropna()
        if len(means) > 2:
            parts.append(f"to the {name} at step {means.idxmin():,} ({means.min():.2f} nats; at the end "
                         f"{means.iloc[-1]:.2f})")
    if parts:
        yield f"On the own text the predictions come nearest {listed(parts)}: what lies beyond is context."


def _distances(zero_shot: pd.DataFrame, distances: pd.DataFrame) -> Iterator[str]:
    """Rank correlation of the distance of two domains with what the model of one pays on the other's text."""
    last = zero_shot[zero_shot["step"] == zero_shot.groupby("source")["step"].transform("max")]
    mirrored = distances.rename(columns={"first": "second", "second": "first"})
    pairs = last.merge(pd.concat([distances, mirrored]), left_on=["source", "target"], right_on=["first", "second"])
    if len(pairs) >= 6:
        found = [f"{pairs['bits_per_byte'].corr(pairs[column], method='spearman'):.2f} for {name}"
                 for column, name in (("trigram_divergence_bits", "the Jensen–Shannon divergence of trigrams"),
                                      ("compression_distance", "the compression distance"))]
        yield (f"Over {len(pairs)} ordered pairs of domains, the rank correlation of the zero-shot loss with the "
               f"distance of the texts is {listed(found)}; so few pairs describe and do not prove.")


def author_findings(writing: pd.DataFrame) -> Iterator[str]:
    """Whether the last models write in their own domain or in that of a prompt from another one."""
    if writing.empty:
        return
    writing = writing[writing["source"] != JOINT]
    last = writing[writing["step"] == writing.groupby("source")["step"].transform("max")]
    abroad = last[last["prompt_domain"].isin(last["source"].unique()) & (last["prompt_domain"] != last["source"])]
    if len(abroad):
        model, prompt = ((abroad["written_domain"] == abroad[who]).mean() for who in ("source", "prompt_domain"))
        yield (f"After a prompt of another domain, what the last models write reads like the model's own domain in "
               f"{model:.0%} of {len(abroad)} texts and like the prompt's in {prompt:.0%} (by a classifier of "
               f"character n-grams with a held-out accuracy of {writing['classifier_accuracy'].iloc[0]:.1%}); of all "
               f"that they write, {last['copied_share'].mean():.1%} is copied from the training text in spans of 20.")


def _span(values: pd.Series[float], form: str = ".2f") -> str:
    low, high = (f"{value:{form}}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
