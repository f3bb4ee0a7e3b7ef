"""Attribution and next-character distributions of checkpoints on prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from nanogpt import figures, study
from nanogpt.attribution import attribute, summarize
from nanogpt.config import Config
from nanogpt.inputs import Source, Tables, log_tables, warn_of_unknown
from nanogpt.tracking import key, open_run

log = logging.getLogger("nanogpt")


def analyze(sources: Sequence[Source], prompts: Sequence[tuple[str, str]], config: Config, tables: Tables,
            drawn: Iterable[str]) -> None:
    """Attribution and confidence of each source on each prompt, in one run: tables, CSV, heat maps of those `drawn`."""
    warn_of_unknown(sources[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))
    with open_run(f"analyze · {config.preset} · seed {config.seed}", config, phase="analyze") as run:
        tables.links[run.name] = run.link
        mine = Tables()
        for source in sources:
            checkpoint, model = source.checkpoint, study.built(source.checkpoint, config)
            found = attribute(model, checkpoint, [prompt for _, prompt in prompts])
            who = {"model": source.uri, "domain": checkpoint.domain, "step": checkpoint.step}
            mine.add("attribution", study.attribution_rows(found, who))
            mine.add("top_characters", study.position_tops(model, checkpoint, prompts, config, source.row))
            run.metrics({key("attribution", checkpoint.domain, name): value
                         for name, value in summarize(found).items()}, checkpoint.step)
            log.info("      %s", checkpoint.title)
        log_tables(run, mine)
        attribution, tops = mine.frame("attribution"), mine.frame("top_characters")
        for number, prompt in enumerate(drawn):
            run.figure(figures.attribution_map(attribution, prompt), f"attribution_{number:02d}")
            run.figure(figures.top_character_map(tops, prompt), f"entropy_{number:02d}")
    tables.add_all(mine)
