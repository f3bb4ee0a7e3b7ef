"""Attribution and next-character distributions of checkpoints on prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from nanogpt.attribution import rows as attribution_study
from nanogpt.attribution.maps import summarize
from nanogpt.attribution.rows import ModelAttributions
from nanogpt.config import Config
from nanogpt.report.findings import attribution_findings
from nanogpt.report.plots import attribution as figures_attribution
from nanogpt.report.tables import by_first_method
from nanogpt.study import stages
from nanogpt.study.inputs import Source, warn_of_unknown
from nanogpt.study.tables import Tables, log_tables
from nanogpt.tracking.run import Run, key, open_run

log = logging.getLogger("nanogpt")


def analyze(sources: Sequence[Source], prompts: Sequence[tuple[str, str]], config: Config, tables: Tables,
            drawn: Iterable[str], *, compared: Iterable[str] = ()) -> None:
    """Attribution and confidence of each source on each prompt, in one run: tables, CSV, heat maps of those `drawn`.

    Models of the `compared` stages (none named: all) and those of step 0 are read by every method and test it.
    """
    compared_stages = set(compared) or {source.stage for source in sources}
    warn_of_unknown(sources[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))
    with open_run(f"analyze · {config.preset} · seed {config.seed}", config, phase="analyze") as run:
        tables.links[run.name] = run.link
        mine, readings = Tables(), list[ModelAttributions]()
        for source in sources:
            checkpoint, model = source.checkpoint, stages.built(source.checkpoint, config)
            who = {"model": source.uri, "domain": checkpoint.domain, "step": checkpoint.step, "stage": source.stage}
            compare = source.stage in compared_stages or checkpoint.step == 0
            reading = attribution_study.attribute_prompts(model, checkpoint, who, prompts, config.attribution,
                                                          compare=compare)
            readings.append(reading)
            log_reading(run, reading)
            mine.add_frame("attribution", attribution_study.attribution_frame(reading))
            if source.stage or checkpoint.step == 0:
                mine.add("top_characters", stages.position_tops(model, checkpoint, prompts, config, source.row))
            log.info("      %s", checkpoint.title)
        add_comparisons(mine, readings, prompts)
        log_tables(run, mine)
        draw(run, mine, drawn)
        run.describe("\n\n".join([f"{len(sources)} models read {len(prompts)} prompts by {config.attribution.methods}.",
                                  *attribution_findings(mine.frame("faithfulness"))]))
    tables.add_all(mine)


def add_comparisons(tables: Tables, readings: Sequence[ModelAttributions], prompts: Sequence[tuple[str, str]]) -> None:
    tables.add("attribution_summary", attribution_study.summary_rows(readings, prompts))
    tables.add("faithfulness", attribution_study.faithfulness_rows(readings))
    tables.add("deletion_curves", attribution_study.deletion_curve_rows(readings))
    tables.add("method_agreement", attribution_study.method_agreement_rows(readings))
    tables.add("attribution_domains", attribution_study.domain_difference_rows(readings))
    tables.add("attribution_words", attribution_study.word_and_line_rows(readings))


def log_reading(run: Run, reading: ModelAttributions) -> None:
    """Summary metrics by training step."""
    domain, step = reading.model_row["domain"], reading.model_row["step"]
    run.metrics({key("attribution", domain, name): value
                 for name, value in summarize(reading.attributions).items()}, step)
    run.metrics({key("faithfulness", domain, measured.method, name): getattr(measured, name)
                 for measured in reading.faithfulness
                 for name in ("spearman_leave_one_out", "comprehensiveness", "sufficiency")}, step)


def draw(run: Run, tables: Tables, drawn: Iterable[str]) -> None:
    attribution, tops = by_first_method(tables.frame("attribution")), tables.frame("top_characters")
    for number, prompt in enumerate(drawn):
        run.figure(figures_attribution.attribution_map(attribution, prompt), f"attribution_{number:02d}")
        run.figure(figures_attribution.top_character_map(tops, prompt), f"entropy_{number:02d}")
    run.figure(figures_attribution.attribution_curves(tables.frame("attribution_summary")), "attribution_curves")
    run.figure(figures_attribution.faithfulness_bars(tables.frame("faithfulness")), "faithfulness")
    run.figure(figures_attribution.deletion_curves(tables.frame("deletion_curves")), "deletion_curves")
    run.figure(figures_attribution.agreement_matrix(tables.frame("method_agreement")), "method_agreement")
