"""What the phases of a study take: texts, models, prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.config import JOINT, Config, Row
from nanogpt.errors import UserError, require
from nanogpt.model.allocator import return_freed_memory
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.model.gpt import GPT
from nanogpt.study.checks import check_cache
from nanogpt.text.corpus import Corpus, joint_corpus, make_corpora
from nanogpt.text.sources import DomainText, domain_name, load_domain
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.tracking import registry
from nanogpt.tracking.run import EarlierTraining, TextDataset
from nanogpt.transfer.finetune import extend_vocabulary

log = logging.getLogger("nanogpt")

PROMPT_CHARACTERS = 48
PROMPTS_PER_DOMAIN = 4
MOST_PROMPTS = 1000
MOST_PROMPT_BYTES = 1_000_000


@dataclass(frozen=True)
class StudiedModel:
    """A checkpoint that is studied: what tables call it, and where it is kept."""

    checkpoint: Checkpoint
    stages: tuple[str, ...] = ()   # early, mid, late, final, scratch; an alias or "step 450" where a user named it
    uri: str = ""
    model_id: str | None = None    # MLflow's id of the logged model, for its metrics

    @property
    def domain(self) -> str:
        return self.checkpoint.domain

    @property
    def seed(self) -> int:
        """Give the seed of its training; -1 where it is not known."""
        return int(self.checkpoint.notes.get("seed", -1))

    @property
    def stage(self) -> str:
        """Give the latest of its stages, by which tables name it, or ''."""
        return self.stages[-1] if self.stages else ""

    @property
    def title(self) -> str:
        """Name it for people: "scratch", "shakespeare early" or "shakespeare step 450"."""
        return " ".join(dict.fromkeys((self.domain, self.stage or f"step {self.checkpoint.step}")))

    @property
    def row(self) -> Row:
        """Give the columns that name it in tables."""
        return {"source": self.domain, "training_seed": self.seed, "step": self.checkpoint.step, "stage": self.stage}

    def build(self, config: Config) -> GPT:
        return build_model(self.checkpoint, config)


def build_model(checkpoint: Checkpoint, config: Config) -> GPT:
    """Build a checkpoint's model on the device of the configuration."""
    return checkpoint.build(resolve_device(config.device))


def text_dataset(corpus: Corpus) -> TextDataset:
    """Describe a corpus's text for MLflow."""
    source = corpus.source
    return TextDataset(corpus.name, source.sha256, source.origin, source.licence)


def read_texts(config: Config) -> list[DomainText]:
    """Read the texts of the study's domains; a later spec replaces an earlier one of its name."""
    cache = Path(config.data.cache) if config.data.cache else None
    check_cache(config)
    texts: dict[str, DomainText] = {}
    for spec in config.data.domain_specs:
        text = load_domain(spec, config.data.corpora, cache)
        texts[text.name] = text
    return_freed_memory()
    return list(texts.values())


def study_corpora(config: Config) -> dict[str, Corpus]:
    return make_corpora(read_texts(config), config.data, config.model.block_size)


def with_domain(config: Config, spec: str) -> Config:
    """Add a domain to the configuration, unless it has it; a `spec` with a path wins over one of its name."""
    known = config.data.domain_specs
    specs = known if spec in (*known, *map(domain_name, known)) else (*known, spec)
    return replace(config, data=replace(config.data, domains=",".join(specs)))


def training_inputs(config: Config, specs: Sequence[str]) -> tuple[Config, list[Corpus]]:
    """Add domains to the configuration and cut their corpora; JOINT stands for all domains of it together."""
    for spec in specs:
        if spec != JOINT:
            config = with_domain(config, spec)
    enough = JOINT not in specs or len(config.data.domain_specs) > 1
    require(enough, f"domains must be at least two for {JOINT}", config.data.domains)
    corpora = study_corpora(config)
    return config, [joint_corpus(corpora) if spec == JOINT else corpora[domain_name(spec)] for spec in specs]


def resumed_specs(earlier: EarlierTraining, specs: Sequence[str]) -> list[str]:
    """Find the specs of the domains that a stopped training reads; `specs` are read for a user's files."""
    known = {domain_name(spec): spec for spec in (*earlier.config.data.domain_specs, *specs)} | {JOINT: JOINT}
    for name in earlier.domains:
        require(name in known, f"domain must be name=path of the text of {name!r}, which was trained on",
                ",".join(specs))
    return [known[name] for name in earlier.domains]


def corpora_for(checkpoint: Checkpoint, texts: Sequence[DomainText], config: Config) -> dict[str, Corpus]:
    """Encode the texts in a model's own vocabulary."""
    return make_corpora(texts, config.data, checkpoint.model_config.block_size, checkpoint.vocabulary)


def load_model(uri: str) -> StudiedModel:
    """Load a model by its URI; its stage is its alias, or else its step."""
    checkpoint = registry.load(uri)
    alias = uri.partition("@")[2].partition(registry.SEED)[0] if uri.startswith("models:/") else ""
    return StudiedModel(checkpoint, stages=(alias or f"step {checkpoint.step}",), uri=uri)


def load_models(uris: str) -> list[StudiedModel]:
    """Load the models of a comma-separated list of URIs. UserError where one is missing or vocabularies differ."""
    models = [load_model(uri) for uri in (part.strip() for part in uris.split(",")) if uri]
    require(bool(models), "models must name at least one model", uris)
    vocabularies = {model.checkpoint.vocabulary.sha256[:12] for model in models}
    require(len(vocabularies) == 1, "models must share one vocabulary", sorted(vocabularies))
    return models


def domain_prompts(corpora: Mapping[str, Corpus]) -> list[tuple[str, str]]:
    """Choose (domain, prompt), the same few for every model, at evenly spaced places of each domain's test text.

    A prompt begins at a word and is at most PROMPT_CHARACTERS long.
    """
    prompts = []
    for name, corpus in corpora.items():
        pieces = corpus.test.pieces
        for k in range(PROMPTS_PER_DOMAIN):
            piece = pieces[len(pieces) * k // PROMPTS_PER_DOMAIN]
            text = corpus.test.text[piece.begin:piece.end]
            at = len(text) * k // PROMPTS_PER_DOMAIN if len(pieces) < PROMPTS_PER_DOMAIN else 0
            begin = text.find(" ", at, at + PROMPT_CHARACTERS) + 1 or at
            if prompt := text[begin:begin + PROMPT_CHARACTERS].strip():
                prompts.append((name, prompt))
    return prompts


def read_prompts(config: Config, corpora: Mapping[str, Corpus]) -> list[tuple[str, str]]:
    """Read (domain, prompt) from the user's file, else from the corpora. UserError for a missing or empty file."""
    if not config.analysis.prompts:
        return domain_prompts(corpora)
    path = Path(config.analysis.prompts)
    require(path.is_file(), "prompts must be an existing file", str(path))
    size = path.stat().st_size
    require(size <= MOST_PROMPT_BYTES, f"prompts must be a file of at most {MOST_PROMPT_BYTES:,} bytes", size)
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"prompts must be a UTF-8 text, got byte {error.start} of {str(path)!r}") from error
    except OSError as error:
        raise UserError(f"prompts must be a file that can be read, got {str(path)!r} ({error.strerror})") from error
    prompts = [("prompts", line) for line in lines if line.strip()]
    require(1 <= len(prompts) <= MOST_PROMPTS, f"prompts must have 1 to {MOST_PROMPTS} lines that are not empty",
            len(prompts))
    return prompts


def check_prompts(config: Config) -> None:
    """Raise UserError where the user's file of prompts cannot be read."""
    if config.analysis.prompts:
        read_prompts(config, {})


def warn_of_unknown(vocabulary: Vocabulary, prompts: Iterable[str]) -> None:
    """Say which characters of the prompts the model reads as <unk>."""
    if unknown := vocabulary.unknown_in("".join(prompts)):
        log.warning("the model does not know these characters and reads each as <unk>: %s",
                    " ".join(f"{c!r}" for c in unknown))


def shaped(config: Config, model: StudiedModel) -> Config:
    """Give the configuration the shape of the loaded model, and its way of splitting texts: it may not meet in a test
    what it has learnt. Models of earlier versions, which do not say, were trained on the begin of a text."""
    split = str(model.checkpoint.notes.get("split", "contiguous"))
    return replace(config, model=model.checkpoint.model_config, data=replace(config.data, split=split))


def transfer_inputs(config: Config, uri: str, spec: str) -> tuple[StudiedModel, Corpus, Corpus | None, Config]:
    """Load a model, the target's corpus, the corpus of the model's own domain where it is known, and fit the config."""
    model = load_model(uri)
    config = with_domain(shaped(config, model), spec)
    texts = read_texts(config)
    corpora = corpora_for(model.checkpoint, texts, config)
    if config.transfer.extend_vocabulary:
        counts = corpora[domain_name(spec)].train.tally
        model = replace(model, checkpoint=extend_vocabulary(model.checkpoint, counts, config.data.min_count))
        corpora = corpora_for(model.checkpoint, texts, config)
    return model, corpora[domain_name(spec)], corpora.get(model.domain), config


def untrained_uri(config: Config) -> str:
    """Name the registered version of step 0 of the first domain."""
    return registry.untrained(domain_name(config.data.domain_specs[0]))


def grid_inputs(config: Config) -> tuple[list[StudiedModel], dict[str, Corpus], Config]:
    """Load the registered models of all domains and stages, an untrained one first, and the corpora for them."""
    names = [domain_name(spec) for spec in config.data.domain_specs]
    uris = [f"models:/{registry.model_name(name)}@{stage}" for name in names for stage in config.transfer.stage_names]
    models = load_models(",".join([untrained_uri(config), *uris]))
    shapes = list(dict.fromkeys(str(model.checkpoint.model_config) for model in models))
    require(len(shapes) == 1, "registered models of the domains must have one shape", shapes)
    config = shaped(config, models[0])
    return models, corpora_for(models[0].checkpoint, read_texts(config), config), config
