"""What the phases of a study take and fill: texts, models, prompts, and tables of rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from nanogpt import registry, study
from nanogpt.checkpoint import Checkpoint
from nanogpt.config import Config, require
from nanogpt.corpus import Corpus, Vocabulary, make_corpora
from nanogpt.domains import DomainText, domain_name, load_domain
from nanogpt.study import Row
from nanogpt.tracking import Run, earlier_run
from nanogpt.transfer import extend_vocabulary

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


@dataclass
class Tables:
    """Rows by table, as they come; frames when they are asked for. `links` leads to the runs that they came from."""

    links: dict[str, tuple[str, str]] = field(default_factory=dict)
    rows: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    parts: defaultdict[str, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))   # of large tables

    def add(self, name: str, rows: Iterable[Row]) -> None:
        self.rows[name].extend(rows)

    def add_frame(self, name: str, frame: pd.DataFrame) -> None:
        self.parts[name].append(frame)

    def add_all(self, other: Tables) -> None:
        for name, rows in other.rows.items():
            self.add(name, rows)
        for name, parts in other.parts.items():
            self.parts[name] += parts

    def frame(self, name: str) -> pd.DataFrame:
        """Of rows, or of frames; a table that got neither is empty."""
        return pd.concat(self.parts[name], ignore_index=True) if name in self.parts else pd.DataFrame(self.rows[name])

    def frames(self) -> dict[str, pd.DataFrame]:
        return {name: self.frame(name) for name in [*self.rows, *self.parts]}


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
    """The models of a comma-separated list of URIs. ValueError where one is missing or their vocabularies differ."""
    found = [load_source(uri) for uri in (part.strip() for part in uris.split(",")) if uri]
    require(bool(found), "models must name at least one model", uris)
    vocabularies = {source.checkpoint.vocabulary.sha256[:12] for source in found}
    require(len(vocabularies) == 1, "models must share one vocabulary", sorted(vocabularies))
    return found


def read_prompts(config: Config, corpora: Mapping[str, Corpus]) -> list[tuple[str, str]]:
    """(domain, prompt) of the user's file, else of the corpora. ValueError for a missing or empty file."""
    if not config.analysis.prompts:
        return study.prompts_of(corpora)
    path = Path(config.analysis.prompts)
    require(path.is_file(), "prompts must be an existing file", str(path))
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts must be a UTF-8 text, got byte {error.start} of {str(path)!r}") from error
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
    (source,) = load_sources(uri)
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


PER_CHARACTER = ("attribution", "top_characters")
"""Tables with a row for each character of a prompt."""


def log_tables(run: Run, tables: Tables, *, show: bool = True) -> None:
    """All tables of a run; the large ones, and all unless `show`, as CSV alone.

    A row says in which run it was first logged: `run_id`.
    """
    for name in tables.rows.keys() - set(PER_CHARACTER):
        for row in tables.rows[name]:
            row.setdefault("run_id", run.id)
    for name, frame in tables.frames().items():
        run.table(frame, name, show=show and len(frame) <= 2000)
