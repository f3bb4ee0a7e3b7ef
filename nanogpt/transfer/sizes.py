"""Models of one size: what trainings of it come to, with all of a text and with shares of it, and what transfers give.

A row of a training says what it has cost and learnt at each of its checkpoints. `chosen` are those that count: of a
model and an amount of text the one of the lowest validation loss (early stopping).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from nanogpt.config import Config, Row
from nanogpt.evaluation.evaluate import losses_together
from nanogpt.model.checkpoint import Checkpoint, weights_of
from nanogpt.model.device import resolve_device
from nanogpt.model.gpt import count_weights
from nanogpt.text.corpus import Corpus
from nanogpt.training.loop import Pretraining, new_model, take_checkpoint, train_together
from nanogpt.training.sizes import block_weights, training_flops_per_character
from nanogpt.transfer.finetune import AdaptationPoint, FineTuning, adapt, transfers_together

SCRATCH = "scratch"
LESS_TEXT = 4
"""From one amount of text to the next smaller one."""
PIECES_OF_SHARE = 8
"""Of which a share of a text is made at the least, so that it is from everywhere in it."""
LEAST_STEPS = 20
PATIENCE = 2
"""Checkpoints in a row above the lowest validation loss, after which a training with less text is not gone on with."""


@dataclass
class Learnt:
    """A training: its rows, and the checkpoint of its lowest validation loss; neither where it has diverged."""

    rows: list[Row] = field(default_factory=list)
    best: Checkpoint | None = None
    has_diverged: bool = False

    @property
    def lowest(self) -> float:
        return min((row["validation_bits_per_byte"] for row in self.rows), default=math.inf)

    @property
    def is_past_its_best(self) -> bool:
        last = [row["validation_bits_per_byte"] for row in self.rows[-PATIENCE:]]
        return len(self.rows) > PATIENCE and min(last) > self.lowest


def size_row(checkpoint: Checkpoint, corpus: Corpus, config: Config, share: int, validation: float, test: float) -> Row:
    """Make the row of a checkpoint that was trained on one in `share` of a text; losses in bits per byte."""
    model, train = checkpoint.model_config, config.train
    characters = checkpoint.step * train.batch_size * model.block_size
    return {"size": f"{model.n_layer}x{model.n_embd}", "n_layer": model.n_layer, "n_embd": model.n_embd,
            "n_head": model.n_head, "block_weights": block_weights(model),
            "weights": count_weights(model, len(checkpoint.vocabulary)), "domain": corpus.name,
            "training_seed": checkpoint.notes["seed"], "one_in": share, "unique_characters": len(corpus.train),
            "max_steps": train.max_steps, "step": checkpoint.step, "characters": characters,
            "epochs": characters / len(corpus.train), "flops": characters * training_flops_per_character(model),
            "learning_rate": train.learning_rate, "matrix_learning_rate": train.matrix_learning_rate,
            "validation_bits_per_byte": validation, "test_bits_per_byte": test, "chosen": False}


def choose(rows: Iterable[Row]) -> None:
    """Mark of each size, text, amount of it and seed the row of the lowest validation loss."""
    best: dict[tuple[object, ...], Row] = {}
    for row in rows:
        row["chosen"] = False
        key = row["size"], row["domain"], row["one_in"], row["training_seed"]
        if key not in best or row["validation_bits_per_byte"] < best[key]["validation_bits_per_byte"]:
            best[key] = row
    for row in best.values():
        row["chosen"] = True


def scored(checkpoints: Sequence[Checkpoint], corpora: Sequence[Corpus], split: str, config: Config) -> list[float]:
    """Score each checkpoint on a split of the corpus in its place, bits per byte, all at once."""
    splits = [getattr(corpus, split).spread(config.analysis.eval_characters) for corpus in corpora]
    return [bits for bits, _ in losses_together(checkpoints, splits, resolve_device(config.device))]


@dataclass(frozen=True)
class ShareTraining:
    """A training and how much of a text it learns: one in `share`."""

    member: Pretraining
    share: int = 1


def learn(trainings: Sequence[ShareTraining], *, of_shape: int = 1, to_the_end: bool = True) -> list[Learnt]:
    """Train some as one model, and score each checkpoint on validation and test text; what has diverged is left out.

    Unless `to_the_end`, they are given up when all are past their best. `of_shape` trainings of this shape share one
    compilation.
    """
    every = [Learnt() for _ in trainings]
    for progress in train_together([training.member for training in trainings], trainings=of_shape):
        for own, learnt in zip(progress, every, strict=True):
            if own.diverged_at is not None:
                learnt.rows, learnt.best, learnt.has_diverged = [], None, True
        take([None if learnt.has_diverged else own.checkpoint for own, learnt in zip(progress, every, strict=True)],
             trainings, every)
        if not to_the_end and all(learnt.has_diverged or learnt.is_past_its_best for learnt in every):
            break
    return every


def take(checkpoints: Sequence[Checkpoint | None], trainings: Sequence[ShareTraining], every: Sequence[Learnt]) -> None:
    """Add the rows of those trainings that have a checkpoint, which is kept where it is the best so far."""
    alive = [(checkpoint, training, learnt) for checkpoint, training, learnt
             in zip(checkpoints, trainings, every, strict=True) if checkpoint]
    if not alive:
        return
    kept, corpora = [checkpoint for checkpoint, _, _ in alive], [training.member.corpus for _, training, _ in alive]
    validation, test = (scored(kept, corpora, split, trainings[0].member.config) for split in ("validation", "test"))
    for (checkpoint, training, learnt), *losses in zip(alive, validation, test, strict=True):
        if all(map(math.isfinite, losses)):
            if losses[0] < learnt.lowest:
                learnt.best = checkpoint
            learnt.rows.append(size_row(checkpoint, training.member.corpus, training.member.config, training.share,
                                        *losses))


def checkpoint_rows(checkpoints: Sequence[Checkpoint], corpora: Mapping[str, Corpus], config: Config,
                    together: int) -> list[Row]:
    """Score checkpoints of one size, each trained with all of its domain's text, `together` so many at once."""
    rows: list[Row] = []
    for begin in range(0, len(checkpoints), together):
        group = checkpoints[begin:begin + together]
        own = [corpora[checkpoint.domain] for checkpoint in group]
        validation, test = (scored(group, own, split, config) for split in ("validation", "test"))
        rows += [size_row(checkpoint, corpus, config, 1, *losses) for checkpoint, corpus, *losses
                 in zip(group, own, validation, test, strict=True)]
    return rows


def share_of(corpus: Corpus, share: int, number: int) -> Corpus:
    """Return the corpus with one in `share` of its training text, from everywhere in it."""
    return replace(corpus, train=corpus.train.share(number % share, share, PIECES_OF_SHARE))


def shares(corpus: Corpus, config: Config) -> list[int]:
    """List the shares of a text from which models are trained besides all of it: one in 4, 16, …

    Down to a quarter of what a transfer is given, so that what this is worth lies between them; a share holds two
    windows at the least.
    """
    least = max(2 * config.model.block_size + 2, given_characters(config) // LESS_TEXT)
    found: list[int] = []
    while len(share_of(corpus, share := LESS_TEXT ** (1 + len(found)), config.seed).train) >= least:
        found.append(share)
    return found


def given_characters(config: Config) -> int:
    """Return the characters of the target that a transfer reads."""
    return config.transfer.shots * config.model.block_size


def budgets(share: int, config: Config) -> list[int]:
    """List the steps for which models learn a share of a text: as many as for all of it, and for a root of the share.

    The better one counts: with little text a schedule that comes to its end before the model knows the text by heart is
    better, unless the model is small.
    """
    steps = config.train.max_steps
    return sorted({steps, min(steps, max(LEAST_STEPS, round(steps / share**0.5)))})


def scratch_rows(corpora: Iterable[Corpus], config: Config, together: int) -> Iterator[Row]:
    """Train models of the size of `config` from random weights on shares of each text; yields their rows.

    `together` so many train as one model.
    """
    jobs: dict[int, list[ShareTraining]] = {}
    for corpus in corpora:
        for share in shares(corpus, config):
            for steps in budgets(share, config):
                own = replace(config, train=replace(config.train, max_steps=steps))
                jobs.setdefault(steps, []).append(
                    ShareTraining(Pretraining(share_of(corpus, share, config.seed), own), share))
    for trainings in jobs.values():
        for begin in range(0, len(trainings), together):
            for learnt in learn(trainings[begin:begin + together], of_shape=len(trainings), to_the_end=False):
                yield from learnt.rows


def untrained(corpus: Corpus, config: Config) -> Checkpoint:
    """Return the weights with which each training of this size, seed and vocabulary began, as a source of transfers."""
    checkpoint = take_checkpoint(weights_of(new_model(corpus, config)), Pretraining(corpus, config), 0)
    return replace(checkpoint, domain=SCRATCH, character_counts_V=torch.zeros_like(checkpoint.character_counts_V))


def transfer_rows(models: Sequence[Checkpoint], corpora: Mapping[str, Corpus], config: Config) -> list[Row]:
    """Adapt models of one size to the other domains with the configured shots; a row for each model and target.

    Each is adapted at all rates of the grid to windows that its seed draws; the rate and the step are those of the
    lowest validation loss, and test text is read once, with what was chosen.
    """
    pairs = [(model, corpus) for model in models for name, corpus in corpora.items() if model.domain != name]
    rows, size = list[Row](), transfers_together(config)
    for begin in range(0, len(pairs), size):        # so that weights of some pairs alone are kept
        rows += rows_of_pairs(pairs[begin:begin + size], size, config)
    return rows


def rows_of_pairs(pairs: Sequence[tuple[Checkpoint, Corpus]], size: int, config: Config) -> list[Row]:
    """Adapt each model of some pairs to the corpus beside it, `size` transfers at once; a row for each."""
    members = [FineTuning(model, corpus, rate, int(model.notes["seed"]) + 1)
               for model, corpus in pairs for rate in config.transfer.grid_rates]
    best = Adapted()
    for begin in range(0, len(members), size):
        batch = members[begin:begin + size]
        for member, points in zip(batch, zip(*adapt(batch, config), strict=True), strict=True):
            keep_better(best, member, points)
    found, targets = [best[model.sha256, corpus.name] for model, corpus in pairs], [corpus for _, corpus in pairs]
    before = scored([model for model, _ in pairs], targets, "test", config)
    after = scored([adapted for _, _, adapted in found], targets, "test", config)
    return [transfer_row(model, corpus, config) | {
        "learning_rate": rate, "steps": adapted.step, "zero_shot_bits_per_byte": zero_shot,
        "validation_bits_per_byte": validation, "test_bits_per_byte": test}
        for (model, corpus), (validation, rate, adapted), zero_shot, test in zip(pairs, found, before, after,
                                                                                 strict=True)]


Adapted = dict[tuple[str, str], tuple[float, float, Checkpoint]]
"""(source's SHA-256, target) to the lowest validation loss, the rate and the adapted weights."""


def keep_better(best: Adapted, member: FineTuning, points: Sequence[AdaptationPoint]) -> None:
    """Keep what a fine-tuning came to where no other one of its source and target came lower."""
    lowest = min((point.bits_per_byte for point in points if math.isfinite(point.bits_per_byte)), default=math.inf)
    key, adapted = (member.checkpoint.sha256, member.target.name), points[-1].checkpoint
    assert adapted is not None
    if key not in best or lowest < best[key][0]:
        best[key] = lowest, member.learning_rate, adapted


def transfer_row(model: Checkpoint, target: Corpus, config: Config) -> Row:
    """Make the columns that name a transfer, and say how much it was given."""
    shape = model.model_config
    return {"size": f"{shape.n_layer}x{shape.n_embd}", "block_weights": block_weights(shape), "source": model.domain,
            "target": target.name, "training_seed": model.notes["seed"], "shots": config.transfer.shots,
            "given_characters": given_characters(config),
            "source_characters": 0 if model.domain == SCRATCH else int(model.character_counts_V.sum())}
