"""The frozen dataclasses and named presets in which a run is fully described.

Each field has its default here and nowhere else, and says its unit in its help text. The command line is
made from these fields (`commands/options.py`), so their names are unique over all groups.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple, get_type_hints

from nanogpt.errors import UserError, require

Row = dict[str, Any]
"""A row of a tidy table: column to value."""
JOINT = "joint"
"""What stands in place of a domain for the reference model that is trained on all of them."""
CORPORA = ("embedded", "full")
SPLIT_WAYS = ("spread", "documents", "contiguous")
BUILT_IN_DOMAINS = ("shakespeare", "wikipedia", "math", "python", "cpp", "reference", "science")
"""The names of the domains that `text/sources.py` can read without a path."""
ALL = "all"
"""What stands in place of the names of all built-in domains."""
LATEST = "latest"
"""What stands in place of a run id for the newest finished study."""
RESUME_AUTO, RESUME_OFF = "auto", "off"
"""What stands in place of a study's run id: go on with the one that was stopped, or begin anew."""
LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
STRONGEST_COUNTS = "5-gram"
"""The n-gram against which models are tested; the longest that gains on texts of a megabyte."""


def knob(default: Any, help_text: str) -> Any:
    """A dataclass field with the help text that the command line shows."""
    return field(default=default, metadata={"help": help_text})


def require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{name} must be > 0", value)
        require(value < math.inf, f"{name} must be finite", value)


def require_at_most(config: object, most: int, *names: str) -> None:
    for name in names:
        require(getattr(config, name) <= most, f"{name} must be <= {most:,}", getattr(config, name))


LARGEST_SIDE = 65_536
LARGEST_STREAM = 2**26
"""Numbers in the residual stream of one text at all layers: what a model remembers of it has eight times as many bytes.
A file cannot ask for more than is there to be had."""


STAGE_SHARES = {"early": 1 / 16, "mid": 1 / 4, "late": 3 / 4, "final": 1.0}
"""Which share of a training each stage stands for; the checkpoint nearest to it carries the name."""


def listed_domains(domains: str) -> tuple[str, ...]:
    """List what a comma-separated text names, each once; ALL stands for the built-in domains."""
    specs = [spec.strip() for spec in domains.split(",") if spec.strip()]
    return tuple(dict.fromkeys(known for spec in specs for known in (BUILT_IN_DOMAINS if spec == ALL else (spec,))))


@dataclass(frozen=True)
class DataConfig:
    """Which texts, and how they become characters."""

    domains: str = knob("shakespeare,wikipedia,math", "domains of the study, comma-separated: "
                        f"{', '.join(BUILT_IN_DOMAINS)}, {ALL} of these, or name=path of a text, folder, glob "
                        "or table (path#column), or name=hf://owner/set#column")
    corpora: str = knob("embedded", "embedded (texts inside installed packages) or full (pinned downloads; where a "
                        "domain has none, its embedded text)")
    cache: str = knob("", "folder of downloaded texts; empty: the user's cache folder, or NANOGPT_CACHE")
    equal_bytes: bool = knob(True, "use of each domain as many bytes as the smallest has")
    split: str = knob("spread", "validation and test are spread (pieces from everywhere in the text), documents "
                                "(whole plays, articles, modules) or contiguous (the end of the text)")
    min_count: int = knob(20, "a character enters the vocabulary if training texts hold it this often")

    def __post_init__(self) -> None:
        require(self.corpora in CORPORA, f"corpora must be {' or '.join(CORPORA)}", self.corpora)
        require(self.split in SPLIT_WAYS, f"split must be one of {', '.join(SPLIT_WAYS)}", self.split)
        require_positive(self, "min_count")
        require(bool(self.domain_specs), "domains must name at least one domain", self.domains)

    @property
    def domain_specs(self) -> tuple[str, ...]:
        return listed_domains(self.domains)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT; `vocab_size` is added by whoever knows the vocabulary."""

    n_layer: int = knob(3, "transformer blocks")
    n_head: int = knob(4, "attention heads in a block")
    n_embd: int = knob(128, "width of the residual stream")
    block_size: int = knob(128, "context, in characters")
    dropout: float = knob(0.0, "share of activations dropped in training")

    def __post_init__(self) -> None:
        require_positive(self, "n_layer", "n_head", "n_embd", "block_size")
        require(0 <= self.dropout < 1, "dropout must be in [0, 1)", self.dropout)
        divides = self.n_embd % (2 * self.n_head) == 0
        require(divides, f"n_embd must be divisible by 2 * n_head = {2 * self.n_head}", self.n_embd)
        require_at_most(self, LARGEST_SIDE, "n_layer", "n_embd", "block_size")
        stream = self.n_layer * self.n_embd * self.block_size
        require(stream <= LARGEST_STREAM, f"n_layer * n_embd * block_size must be <= {LARGEST_STREAM:,}", stream)


PRECISIONS = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "on", "off")


@dataclass(frozen=True)
class TrainConfig:
    """Trainings from random weights."""

    seeds: int = knob(1, "trainings of each domain, with the seeds seed, seed + 1, …")
    train_together: int = knob(0, "trainings that run as one batched model; 0: as many as gain by it on a GPU, "
                               "1 elsewhere")
    max_steps: int = knob(750, "optimizer steps")
    batch_size: int = knob(8, "windows of block_size characters in a step")
    matrix_learning_rate: float = knob(0.02, "Muon's learning rate, for the matrices inside the blocks")
    learning_rate: float = knob(0.01, "AdamW's learning rate, for embeddings, head and vectors")
    weight_decay: float = knob(0.0, "decoupled weight decay of the matrices")
    warmup_steps: int = knob(10, "steps of linear warm-up")
    decay_share: float = knob(0.7, "share of the steps, at the end, over which the rate falls linearly to 0")
    checkpoints: int = knob(8, "checkpoints after step 0: log-spaced, then even")
    log_every: int = knob(20, "steps between two records of the training loss")
    state_seconds: float = knob(30.0, "seconds between two saved states, from which a killed training goes on")
    precision: str = knob("auto", "of the matrix products in training: float32, bfloat16, or auto: bfloat16 where the "
                          "device has it in hardware")
    compile: str = knob("auto", "fuse the kernels of each block with torch.compile: on, off, or auto: on a GPU where "
                        "the steps pay for it")

    def __post_init__(self) -> None:
        require_positive(self, "seeds", "batch_size", "matrix_learning_rate", "learning_rate", "checkpoints",
                         "log_every")
        require_at_most(self, 1000, "seeds", "train_together")
        require_at_most(self, 10_000, "checkpoints")
        require_at_most(self, 100_000_000, "max_steps", "batch_size")
        require(self.train_together >= 0, "train_together must be >= 0", self.train_together)
        require(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}", self.precision)
        require(self.compile in COMPILE, f"compile must be one of {', '.join(COMPILE)}", self.compile)
        require(self.max_steps >= 1, "max_steps must be >= 1", self.max_steps)
        require(self.state_seconds >= 0, "state_seconds must be >= 0", self.state_seconds)
        require(self.warmup_steps >= 0, "warmup_steps must be >= 0", self.warmup_steps)
        require(0 <= self.weight_decay < math.inf, "weight_decay must be >= 0 and finite", self.weight_decay)
        require(0 <= self.decay_share <= 1, "decay_share must be in [0, 1]", self.decay_share)


TUNE_BY = ("stage", "cell")
SAMPLERS = ("grid", "tpe")


@dataclass(frozen=True)
class TransferConfig:
    """A few windows of a new domain and a few steps from a checkpoint."""

    stages: str = knob("early,mid,late", "checkpoint stages that a study adapts, comma-separated")
    shots: int = knob(16, "training windows of block_size characters of the target domain")
    grid_shots: str = knob("16", "the shots of a study's grid of transfers, comma-separated")
    transfer_seeds: int = knob(1, "fresh seeds that each transfer is run with, at the fixed and at the tuned rate")
    fine_tune: str = knob("all", "all (weights), or head (the output head alone)")
    extend_vocabulary: bool = knob(False, "add the target's frequent characters that the source's vocabulary lacks")
    transfer_steps: int = knob(8, "optimizer steps of a transfer")
    transfer_batch_size: int = knob(4, "windows in a step of a transfer")
    trials: int = knob(8, "Optuna trials for each learning rate that is tuned")
    tune_by: str = knob("stage", "in a grid of transfers a learning rate is tuned for each stage (over all its "
                                 "sources and targets together) or for each cell (source, target and stage)")
    tuning_trainings: int = knob(2, "trainings of each source, those of the first seeds, that a stage's rate is tuned "
                                    "over; it then serves all seeds")
    tuning_targets: int = knob(0, "targets of each source that a stage's rate is tuned over, all equally often; "
                                  "it then serves all; 0: all")
    tuning_seeds: int = knob(1, "draws of windows that each trial adapts to, other ones than those reported")
    sampler: str = knob("grid", "grid (the trials lie evenly over the logarithm of the rate) or tpe; with tpe the one "
                              "fixed rate of a grid of transfers is the middle of the range")
    rate_low: float = knob(0.00001, "smallest learning rate that is tried (AdamW)")
    rate_high: float = knob(0.03, "largest learning rate that is tried (AdamW)")
    together: int = knob(0, "transfers that train as one batched model; 0: up to 64 on a GPU, 1 elsewhere")
    curve_points: int = knob(2, "validation losses along a transfer, after the one at step 0")
    curve_characters: int = knob(2048, "characters of validation text behind each of them")
    storage: str = knob("mlruns/optuna.journal", "where Optuna studies live: a journal file, or a storage URL")

    def __post_init__(self) -> None:
        require(self.tune_by in TUNE_BY, f"tune_by must be {' or '.join(TUNE_BY)}", self.tune_by)
        require(self.sampler in SAMPLERS, f"sampler must be {' or '.join(SAMPLERS)}", self.sampler)
        require_positive(self, "shots", "transfer_batch_size", "trials", "tuning_trainings", "tuning_seeds",
                         "rate_low", "rate_high", "curve_points", "curve_characters", "transfer_seeds")
        require_at_most(self, 1000, "transfer_seeds", "tuning_trainings", "tuning_targets", "tuning_seeds", "trials",
                        "curve_points", "together")
        require_at_most(self, 1_000_000, "transfer_steps", "transfer_batch_size", "shots")
        require(self.fine_tune in ("all", "head"), "fine_tune must be all or head", self.fine_tune)
        require(self.together >= 0, "together must be >= 0", self.together)
        require(self.tuning_targets >= 0, "tuning_targets must be >= 0", self.tuning_targets)
        require(min(self.shot_levels, default=0) > 0, "grid_shots must be numbers > 0, comma-separated",
                self.grid_shots)
        require(self.transfer_steps >= 0, "transfer_steps must be >= 0", self.transfer_steps)
        require(self.rate_low <= self.rate_high, "rate_low must be <= rate_high", self.rate_low)
        require(bool(self.stage_names) and set(self.stage_names) <= set(STAGE_SHARES),
                f"stages must be among {', '.join(STAGE_SHARES)}", self.stages)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.strip() for stage in self.stages.split(",") if stage.strip())

    @property
    def middle_rate(self) -> float:
        """Take the geometric middle of the range: the fixed rate of a transfer that is no part of a grid."""
        return math.sqrt(self.rate_low * self.rate_high)

    @property
    def grid_rates(self) -> list[float]:
        """List the rates of a grid of `trials`: evenly spaced in the logarithm, both ends of the range among them."""
        if self.trials == 1 or self.rate_low == self.rate_high:
            return [self.middle_rate]
        ratio = self.rate_high / self.rate_low
        return [self.rate_low * ratio ** (k / (self.trials - 1)) for k in range(self.trials)]

    @property
    def shot_levels(self) -> tuple[int, ...]:
        """List the numbers of `grid_shots`, ascending; none where it is no list of numbers."""
        parts = [part.strip() for part in self.grid_shots.split(",")]
        return tuple(sorted({int(part) for part in parts})) if all(part.isdecimal() for part in parts) else ()


@dataclass(frozen=True)
class AnalysisConfig:
    """What is read from trained models: losses, generations, attributions."""

    eval_characters: int = knob(6144, "test characters scored for each checkpoint and domain; 0: all")
    temperature_characters: int = knob(2048, "validation characters on which each temperature is fitted")
    generate_characters: int = knob(120, "characters of each controlled generation")
    temperatures: str = knob("0.8", "temperatures of the controlled generations, comma-separated")
    prompts: str = knob("", "file of prompts, one on each line; empty: from each domain's test text")
    joint: bool = knob(False, "also train and score a model of all domains together, on as many characters as of one")
    top_characters: int = knob(5, "most probable characters listed at each position of a prompt")

    def __post_init__(self) -> None:
        require(self.eval_characters >= 0, "eval_characters must be >= 0", self.eval_characters)
        require_positive(self, "temperature_characters", "generate_characters", "top_characters")
        require_at_most(self, 100_000, "generate_characters")
        require(len(self.temperature_values) <= 100, "temperatures must be at most 100", len(self.temperature_values))
        rule = all(0 <= t < math.inf for t in self.temperature_values)
        require(rule, "temperatures must be >= 0 and finite", self.temperatures)

    @property
    def temperature_values(self) -> tuple[float, ...]:
        try:
            return tuple(float(t) for t in self.temperatures.split(","))
        except ValueError:
            raise UserError(f"temperatures must be numbers, comma-separated, got {self.temperatures!r}") from None


@dataclass(frozen=True)
class AttributionMethod:
    """A way to say how much each character that was read counts for a prediction.

    Its function has its name and stands in attribution/<module>.py. It is named here and not imported, so that
    settings, the command line's help and the report list the methods without torch.
    """

    name: str
    module: str
    signed: bool               # whether a character can speak against the target, with a score below 0
    explanation: str           # what a character's score is
    source: str
    is_baseline: bool = False


ATTRIBUTION_CATALOGUE = (
    AttributionMethod("gradient_norm", "gradients", False, "length of the gradient by the character's embedding",
                      "Simonyan et al. 2013, arXiv:1312.6034; Li et al. 2016, arXiv:1506.01066"),
    AttributionMethod("gradient_times_input", "gradients", True, "the gradient times the character's embedding",
                      "Shrikumar et al. 2016, arXiv:1605.01713"),
    AttributionMethod("integrated_gradients", "gradients", True,
                      "the gradient, averaged on the way from neutral embeddings, times the difference to them",
                      "Sundararajan et al. 2017, arXiv:1703.01365"),
    AttributionMethod("smoothgrad", "gradients", False, "length of the gradient, averaged over noisy embeddings",
                      "Smilkov et al. 2017, arXiv:1706.03825"),
    AttributionMethod("grad_cam", "gradients", False,
                      "the stream inside the model times its gradient averaged over positions, where positive",
                      "Selvaraju et al. 2017, arXiv:1610.02391"),
    AttributionMethod("hires_cam", "gradients", True,
                      "the stream inside the model times its gradient at the character's own position",
                      "Draelos & Carin 2020, arXiv:2011.08891"),
    AttributionMethod("leave_one_out", "perturbation", True, "what the target loses without the character",
                      "Li et al. 2016, arXiv:1612.08220"),
    AttributionMethod("occlusion", "perturbation", True,
                      "what the target loses without the character and its neighbours",
                      "Zeiler & Fergus 2014, arXiv:1311.2901"),
    AttributionMethod("recency", "baselines", False, "1 / (1 + distance): nothing of the model", "", is_baseline=True),
    AttributionMethod("random", "baselines", False, "a random number: nothing at all", "", is_baseline=True))
"""The attribution methods in the order in which tables and figures show them, then the baselines. To add a method,
write its function into a file of attribution/ and its line here."""
ATTRIBUTION_METHODS = tuple(method.name for method in ATTRIBUTION_CATALOGUE if not method.is_baseline)
ATTRIBUTION_BASELINES = tuple(method.name for method in ATTRIBUTION_CATALOGUE if method.is_baseline)
"""What knows nothing of the model, and what every method is therefore compared with."""
ATTRIBUTE_OF = ("logit", "log_probability", "loss")


@dataclass(frozen=True)
class AttributionConfig:
    """How what counted for a prediction is measured, and how much of that is tested."""

    methods: str = knob("gradient_norm,gradient_times_input,grad_cam,hires_cam,leave_one_out",
                        f"attribution methods, comma-separated: {', '.join(ATTRIBUTION_METHODS)}; the first reads "
                        "every model and prompt, the others some")
    attribute_of: str = knob("logit", "of what: logit, log_probability or loss of the target")
    contrastive: bool = knob(False, "the target less its strongest rival: why this character and not that one")
    cam_block: int = knob(1, "Grad-CAM and HiResCAM read the stream after so many blocks; 0: the embeddings")
    integration_points: int = knob(16, "points on the path of integrated gradients")
    smooth_draws: int = knob(8, "noisy copies of the embeddings that SmoothGrad averages over")
    smooth_noise: float = knob(0.2, "standard deviation of that noise, in units of the embeddings' root mean square")
    occlusion_span: int = knob(3, "characters that occlusion takes away together")
    compared_prompts: int = knob(2, "prompts on which all methods are compared and tested; 0: none")

    def __post_init__(self) -> None:
        require(bool(self.method_names) and set(self.method_names) <= set(ATTRIBUTION_METHODS),
                f"methods must be among {', '.join(ATTRIBUTION_METHODS)}", self.methods)
        require(self.attribute_of in ATTRIBUTE_OF, f"attribute_of must be one of {', '.join(ATTRIBUTE_OF)}",
                self.attribute_of)
        require_positive(self, "integration_points", "smooth_draws", "occlusion_span")
        require_at_most(self, 1000, "integration_points", "smooth_draws", "compared_prompts")
        for name in ("cam_block", "smooth_noise", "compared_prompts"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must be >= 0 and finite", getattr(self, name))

    @property
    def method_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.methods.split(",") if name.strip())


SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})(?:x([0-9]{1,5}))?")
WIDE, HEAD_SIZE, HEAD_SIZE_OF_WIDE = 256, 32, 64


class Shape(NamedTuple):
    """Layers, width and heads of one of the sizes that a study compares."""

    n_layer: int
    n_embd: int
    n_head: int

    @property
    def name(self) -> str:
        return f"{self.n_layer}x{self.n_embd}"


def read_shape(text: str) -> Shape:
    """Read `<layers>x<width>`, optionally `x<heads>`.

    Else a head has 64 channels in models of at least WIDE that are a multiple of it, 32 in others.
    """
    rule = "sizes must be <layers>x<width> or <layers>x<width>x<heads>, comma-separated"
    found = SIZE.fullmatch(text)
    require(found is not None, rule, text)
    assert found
    layers, width, heads = (int(number) if number else 0 for number in found.groups())
    if found[3] is None:
        require(width % HEAD_SIZE == 0, f"sizes must say <layers>x<width>x<heads> where the width is no multiple of "
                f"{HEAD_SIZE}", text)
        wide = width >= WIDE and width % HEAD_SIZE_OF_WIDE == 0
        heads = width // (HEAD_SIZE_OF_WIDE if wide else HEAD_SIZE)
    try:
        ModelConfig(layers, heads, width, block_size=1)
    except UserError as error:
        raise UserError(f"sizes must be shapes that a model can have, got {text!r} ({error})") from None
    return Shape(layers, width, heads)


@dataclass(frozen=True)
class ScalingConfig:
    """Models of several sizes, beside those that the rest of a study reads."""

    sizes: str = knob("", "shapes whose losses and transfers are compared, comma-separated <layers>x<width> or "
                          "<layers>x<width>x<heads>, as 2x64,3x96,4x128,6x256,6x384; empty: none")
    size_checkpoints: int = knob(4, "checkpoints after step 0 of a training of one of the sizes")

    def __post_init__(self) -> None:
        require_positive(self, "size_checkpoints")
        require_at_most(self, 10_000, "size_checkpoints")
        names = [shape.name for shape in self.shapes]
        require(len(set(names)) == len(names), "sizes must differ in layers or width", self.sizes)

    @functools.cached_property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(read_shape(text.strip()) for text in self.sizes.split(",")) if self.sizes.strip() else ()


@dataclass(frozen=True)
class CellsConfig:
    """What carries the cells of a study out. No number depends on it but by the count of threads (last bits)."""

    engine: str = knob(LOCAL, "local (this process, one cell after the other) or ray (many at once: tasks on the Ray "
                              "cluster that RAY_ADDRESS names, else on one that is begun on this machine)")
    cell_cpus: int = knob(1, "CPU cores, and torch's threads, of each cell that Ray carries out")

    def __post_init__(self) -> None:
        require(self.engine in ENGINES, f"engine must be {' or '.join(ENGINES)}", self.engine)
        require_positive(self, "cell_cpus")


@dataclass(frozen=True)
class Config:
    """A whole study. `preset` names where the values came from; changed fields win over it."""

    preset: str = "quick"
    seed: int = knob(1, "seed of weights, batches, trials and generations")
    device: str = knob("auto", "auto, cpu, cuda or mps")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    attribution: AttributionConfig = field(default_factory=AttributionConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    cells: CellsConfig = field(default_factory=CellsConfig)

    def __post_init__(self) -> None:
        require(self.device in ("auto", "cpu", "cuda", "mps"), "device must be auto, cpu, cuda or mps", self.device)
        require(0 <= self.seed < 2**32, "seed must be in [0, 2**32)", self.seed)
        layers, block = self.model.n_layer, self.attribution.cam_block
        require(block <= layers, f"cam_block must be <= n_layer = {layers}", block)

    def flat(self) -> dict[str, Any]:
        """List every setting by its field name, without the groups."""
        nested = asdict(self)
        groups = [nested.pop(name) for name in GROUPS]
        return nested | {key: value for group in groups for key, value in group.items()}


def config_of(nested: Mapping[str, Any]) -> Config:
    """Rebuild the configuration that `asdict` took apart. UserError for an unknown name or a broken rule."""
    flat = {key: value for name, value in nested.items() for key, value in
            (value.items() if name in GROUPS else [(name, value)])}
    return make_config(**flat)


GROUPS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig,
                           "transfer": TransferConfig, "analysis": AnalysisConfig,
                           "attribution": AttributionConfig, "scaling": ScalingConfig, "cells": CellsConfig}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "max_steps": 60, "checkpoints": 4,
              "log_every": 10, "stages": "early,late", "shots": 4, "grid_shots": "4", "together": 32,
              "transfer_steps": 6, "trials": 2, "curve_points": 2, "curve_characters": 2048, "eval_characters": 4096,
              "generate_characters": 40, "compared_prompts": 1},
    "quick": {},
    "standard": {"n_layer": 4, "n_embd": 128, "block_size": 256, "batch_size": 8, "max_steps": 1600,
                 "learning_rate": 0.005, "weight_decay": 0.1, "checkpoints": 16, "log_every": 50,
                 "seeds": 3, "eval_characters": 16_384, "transfer_steps": 32, "transfer_batch_size": 8,
                 "curve_points": 4, "grid_shots": "1,16,256", "tuning_targets": 1, "temperature_characters": 8192,
                 "generate_characters": 200,
                 "joint": True, "methods": ",".join(ATTRIBUTION_METHODS)},
    "gpu": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "batch_size": 64, "max_steps": 600,
            "matrix_learning_rate": 0.03, "learning_rate": 0.0025, "dropout": 0.2, "weight_decay": 0.2,
            "checkpoints": 16, "log_every": 50, "seeds": 3,
            "eval_characters": 16_384, "transfer_steps": 32, "transfer_batch_size": 8, "curve_points": 4,
            "grid_shots": "1,16,256", "transfer_seeds": 2, "curve_characters": 4096, "temperature_characters": 8192,
            "generate_characters": 200,
            "methods": ",".join(ATTRIBUTION_METHODS)},
}


@functools.cache
def settings() -> dict[str, tuple[type, Any, str]]:
    """List (type, default, help) by field name of everything the command line can set, but for `preset`."""
    by_name: dict[str, tuple[type, Any, str]] = {}
    for owner in (Config, *GROUPS.values()):
        hints = get_type_hints(owner)
        for item in fields(owner):
            if "help" in item.metadata:
                assert item.name not in by_name, item.name
                by_name[item.name] = (hints[item.name], item.default, item.metadata["help"])
    return by_name


def make_config(preset: str = "quick", **changes: Any) -> Config:
    """Lay `changes` (by field name) over a preset. UserError for an unknown name or a broken rule."""
    require(preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}", preset)
    known = settings()
    for name in changes:
        require(name in known, "setting must be a field of the configuration", name)
    values = PRESETS[preset] | changes
    config = Config(preset=preset, **{k: v for k, v in values.items() if k in ("seed", "device")})
    groups = {name: owner(**{f.name: values[f.name] for f in fields(owner) if f.name in values})
              for name, owner in GROUPS.items()}
    return replace(config, **groups)
