"""The attribution phase: attribution and next-character distributions of models on prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from nanogpt.attribution import rows
from nanogpt.attribution.export import save_attributions
from nanogpt.attribution.maps import Attribution, attribute, summarize
from nanogpt.attribution.rows import ModelAttributions, Prompts
from nanogpt.config import Config, Row
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import top_characters
from nanogpt.model.gpt import GPT
from nanogpt.report.findings import attribution_findings
from nanogpt.study.cells import run_cell
from nanogpt.study.estimate import part
from nanogpt.study.inputs import warn_of_unknown
from nanogpt.study.phase import Study
from nanogpt.study.tables import Tables, log_figures, log_tables
from nanogpt.tracking.run import TrackedRun, key
from nanogpt.tracking.scratch import scratch_path

log = logging.getLogger("nanogpt")


def attribute_models(study: Study) -> None:
    """Attribute the predictions of each model on each prompt, in one run; in a study, of each of the first seed.

    Models of `study.compared_stages` and those of step 0 are read by every method, which is tested on them. Of other
    seeds the first method reads the early and the final model: how much of a map is the seed's.
    """
    config, prompts = study.config, study.prompts
    models = [model for model in study.models if study.is_read_wholly(model)]
    compared = set(study.compared_stages or (stage for model in models for stage in model.stages))
    warn_of_unknown(study.models[0].checkpoint.vocabulary, (prompt for _, prompt in prompts))

    def read(run: TrackedRun, tables: Tables) -> None:
        attributions = list[ModelAttributions]()
        for number, model in enumerate(models, start=1):
            checkpoint, network = model.checkpoint, model.build(config)
            untrained = checkpoint.step == 0
            columns = {"model": model.uri, "domain": model.domain, "step": checkpoint.step, "stage": model.stage}
            attributed = rows.attribute_prompts(network, checkpoint, columns, prompts, config.attribution,
                                                compare=untrained or bool(compared & set(model.stages)))
            attributions.append(attributed)
            log_summary(run, attributed)
            tables.add_frame("attribution", rows.attribution_frame(attributed))
            tensors = scratch_path(f"{model.title.replace(' ', '-')}-{number:02d}.safetensors")
            run.file(save_attributions(attributed, tensors), "attributions")
            if model.stage or untrained:
                tables.add("top_characters", top_character_rows(network, checkpoint, prompts, config, model.row))
            log.info("      %s", checkpoint.title, extra=part(number, len(models)))
        add_comparisons(tables, attributions, prompts)
        tables.add("seed_agreement", rows.seed_agreement_rows(maps_by_training(study)))
        log_tables(run, tables)
        study.drawn |= log_figures(run, tables, config, "attribute")
        first = f"{len(models)} models read {len(prompts)} prompts by {config.attribution.methods}."
        run.describe("\n\n".join([first, *attribution_findings(tables.frame("faithfulness"))]))

    digest = study.digest("attribute", [[model.checkpoint.sha256, model.stages] for model in study.models])
    study.add(*run_cell(study.cells, "attribution", digest, read, config, phase="analyze"))


def maps_by_training(study: Study) -> dict[str, dict[int, dict[str, list[Attribution]]]]:
    """Read all prompts by the early and the final model of each training: domain to seed to stage to maps.

    Empty where each domain was trained once, and outside a study.
    """
    config, texts = study.config.attribution, [prompt for _, prompt in study.prompts]
    maps: dict[str, dict[int, dict[str, list[Attribution]]]] = {}
    if study.compared_stages and len({model.seed for model in study.models}) > 1:
        for model in study.models:
            for stage in [stage for stage in ("early", "final") if stage in model.stages]:
                found = attribute(model.build(study.config), model.checkpoint, texts, config.method_names[0], config)
                maps.setdefault(model.domain, {}).setdefault(model.seed, {})[stage] = found
    return {domain: {seed: stages for seed, stages in by_seed.items() if len(stages) == 2}
            for domain, by_seed in maps.items()}


def top_character_rows(model: GPT, checkpoint: Checkpoint, prompts: Prompts, config: Config,
                       columns: Row) -> Iterator[Row]:
    """List the most probable characters at each position of what the model reads of every prompt."""
    for prompt in (prompt[-model.config.block_size:] for _, prompt in prompts):
        for row in top_characters(model, checkpoint, prompt, config.analysis.top_characters):
            yield columns | {"prompt": prompt} | row


def add_comparisons(tables: Tables, attributions: Sequence[ModelAttributions], prompts: Prompts) -> None:
    """Fill the tables that compare models, methods and domains."""
    tables.add("attribution_summary", rows.summary_rows(attributions, prompts))
    tables.add("faithfulness", rows.faithfulness_rows(attributions))
    tables.add("deletion_curves", rows.deletion_curve_rows(attributions))
    tables.add("method_agreement", rows.method_agreement_rows(attributions))
    tables.add("attribution_domains", rows.domain_difference_rows(attributions))
    tables.add("attribution_words", rows.word_and_line_rows(attributions))


def log_summary(run: TrackedRun, attributed: ModelAttributions) -> None:
    """Log a model's summary metrics at its training step."""
    domain, step = attributed.model_row["domain"], attributed.model_row["step"]
    run.metrics({key("attribution", domain, name): value
                 for name, value in summarize(attributed.attributions).items()}, step)
    run.metrics({key("faithfulness", domain, measured.method, name): getattr(measured, name)
                 for measured in attributed.faithfulness
                 for name in ("spearman_leave_one_out", "comprehensiveness", "sufficiency")}, step)
