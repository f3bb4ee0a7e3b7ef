"""What the phases of a study take and fill: texts, models, prompts, and tables of rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.config import Config, Row
from nanogpt.errors import UserError, require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.study import stages
from nanogpt.text.corpus import Corpus, make_corpora
from nanogpt.text.sources import DomainText, domain_name, load_domain
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.tracking import registry
from nanogpt.tracking.run import earlier_run
from nanogpt.transfer.finetune import extend_vocabulary

log = logging.getLogger("nanogpt")

URI_HELP = "models:/nanogpt-math@late, runs:/…/checkpoints/final.pt or the path of a .pt file"


@dataclass(frozen=True)
class Source:
    """A checkpoint that is studied: what tables call it, and where it is kept."""

    checkpoint: Checkpoint
    stage: str = ""                # early, mid, late, final, scratch; an alias or "step 450" where a user named it
    uri: str = ""
    model_id: str | None = None    # MLflow's id of the logged model, for its metrics

    @property
    def title(self) -> str:
        """"scratch", "shakespeare early" or "shakespeare step 450"."""
        names = (self.checkpoint.domain, self.stage or f"step {self.checkpoint.step}")
        return " ".join(dict.fromkeys(names))

    @property
    def row(self) -> Row:
        return {"source": self.checkpoint.domain, "step": self.checkpoint.step, "stage": self.stage}


def read_texts(config: Config) -> list[DomainText]:
    """The texts of the study's domains; a later spec replaces an earlier one of its name."""
    cache = Path(config.data.cache) if config.data.cache else None
    texts: dict[str, DomainText] = {}
    for spec in config.data.domain_specs:
        text = load_domain(spec, config.data.corpora, cache)
        texts[text.name] = text
    return list(texts.values())


def study_corpora(config: Config) -> dict[str, Corpus]:
    return make_corpora(read_texts(config), config.data, config.model.block_size)


def with_domain(config: Config, spec: str) -> Config:
    """The configuration with one more domain, or with the same where it has it; `spec` wins over one of its name."""
    known = config.data.domain_specs
    specs = known if spec in known else (*known, spec)
    return replace(config, data=replace(config.data, domains=",".join(specs)))


def resumed_inputs(run_id: str, domain: str) -> tuple[Config, str]:
    """The configuration of a stopped training and the spec of its domain; `domain` matters for a user's file alone."""
    config, name = earlier_run(run_id)
    specs = {domain_name(spec): spec for spec in (*config.data.domain_specs, domain)}
    require(name in specs, f"domain must be name=path of the text of {name!r}, which was trained on", domain)
    return config, specs[name]


def corpora_for(checkpoint: Checkpoint, texts: Sequence[DomainText], config: Config) -> dict[str, Corpus]:
    """The texts in a model's own vocabulary."""
    return make_corpora(texts, config.data, checkpoint.model_config.block_size, checkpoint.vocabulary)


def load_source(uri: str) -> Source:
    """A model by its URI; its stage is its alias, or else its step."""
    checkpoint = registry.load(uri)
    alias = uri.partition("@")[2] if uri.startswith("models:/") else ""
    return Source(checkpoint, stage=alias or f"step {checkpoint.step}", uri=uri)


def load_sources(uris: str) -> list[Source]:
    """The models of a comma-separated list of URIs. UserError where one is missing or their vocabularies differ."""
    found = [load_source(uri) for uri in (part.strip() for part in uris.split(",")) if uri]
    require(bool(found), "models must name at least one model", uris)
    vocabularies = {source.checkpoint.vocabulary.sha256[:12] for source in found}
    require(len(vocabularies) == 1, "models must share one vocabulary", sorted(vocabularies))
    return found


def read_prompts(config: Config, corpora: Mapping[str, Corpus]) -> list[tuple[str, str]]:
    """(domain, prompt) of the user's file, else of the corpora. UserError for a missing or empty file."""
    if not config.analysis.prompts:
        return stages.prompts_of(corpora)
    path = Path(config.analysis.prompts)
    require(path.is_file(), "prompts must be an existing file", str(path))
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"prompts must be a UTF-8 text, got byte {error.start} of {str(path)!r}") from error
    prompts = [("prompts", line) for line in lines if line.strip()]
    require(bool(prompts), "prompts must have at least one line that is not empty", str(path))
    return prompts


def warn_of_unknown(vocabulary: Vocabulary, prompts: Iterable[str]) -> None:
    """Say which characters of the prompts the model reads as <unk>."""
    if unknown := vocabulary.unknown_in("".join(prompts)):
        log.warning("the model does not know these characters and reads each as <unk>: %s",
                    " ".join(f"{c!r}" for c in unknown))


def shaped(config: Config, source: Source) -> Config:
    """The configuration with the shape that the loaded model has."""
    return replace(config, model=source.checkpoint.model_config)


def transfer_inputs(config: Config, uri: str, spec: str) -> tuple[Source, Corpus, Corpus | None, Config]:
    """Source model, target corpus, the source's own corpus where it is a known domain, and the fitting config."""
    source = load_source(uri)
    config = with_domain(shaped(config, source), spec)
    texts = read_texts(config)
    corpora = corpora_for(source.checkpoint, texts, config)
    if config.transfer.extend_vocabulary:
        text = corpora[domain_name(spec)].train.text
        source = replace(source, checkpoint=extend_vocabulary(source.checkpoint, text, config.data.min_count))
        corpora = corpora_for(source.checkpoint, texts, config)
    return source, corpora[domain_name(spec)], corpora.get(source.checkpoint.domain), config


def grid_inputs(config: Config) -> tuple[list[Source], dict[str, Corpus], Config]:
    """The registered models of all domains and stages, an untrained one first, and the corpora in their vocabulary."""
    names = [domain_name(spec) for spec in config.data.domain_specs]
    stages = config.transfer.stage_names
    uris = [f"models:/{registry.model_name(name)}@{stage}" for name in names for stage in stages]
    sources = load_sources(",".join([registry.untrained(names[0]), *uris]))
    config = shaped(config, sources[0])
    return sources, corpora_for(sources[0].checkpoint, read_texts(config), config), config
