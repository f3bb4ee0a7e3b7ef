"""A text scored in one pass: loss, entropy, confidence, accuracy and calibration together.

Shape suffixes: B rows, T positions, M members, N scored characters, V characters of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.evaluation.calibration import SURE, adaptive_reliability, auroc, reliability
from nanogpt.evaluation.metrics import Scores, code_bits, score
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import products_in, scoring_type
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Split
from nanogpt.text.windows import scoring_windows
from nanogpt.training.stacked import stack

CHARACTERS_PER_BATCH = 8192
Columns = tuple[Tensor, ...]


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a text, every character of which was predicted exactly once."""

    bits_per_byte: float          # headline: (prediction + escape bits) / UTF-8 bytes of the text
    nats_per_character: float     # mean loss, without escapes
    seen_loss_nats: float         # mean loss over the vocabulary's characters that the training text held
    unseen_share: float           # share of all others: not in the vocabulary, or not in the training text
    unseen_loss_share: float      # their share of all bits
    entropy_nats: float           # mean entropy of the predictions
    confidence: float             # mean probability of the most probable character
    top5_mass: float              # mean summed probability of the five most probable characters
    accuracy: float               # share of characters that were the most probable one
    overconfidence: float         # confidence - accuracy
    calibration_error: float            # expected calibration error, 15 bins of equal width
    adaptive_calibration_error: float   # the same with 15 bins of equally many characters
    maximum_calibration_error: float    # the largest gap of a bin of equal width
    brier_score: float            # mean squared distance of the probabilities from the outcome, in [0, 2]
    entropy_auroc: float          # chance that a right prediction has less entropy than a wrong one
    confidence_when_wrong: float  # mean confidence of the wrong predictions
    sure_error_rate: float        # share of wrong ones among the predictions with confidence above 0.9
    temperature: float            # as it was given
    tempered_nats: float          # mean loss of softmax(logits / temperature), without escapes
    n_characters: int
    n_bytes: int
    scores: Scores = field(repr=False, compare=False)
    bits_N: Tensor = field(repr=False, compare=False)    # of each character with its escape bits

    def row(self) -> dict[str, float]:
        """Return the numbers without those of the single characters."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.repr}


@torch.inference_mode()
def map_predictions(model: GPT, split: Split, of: Callable[[Tensor, Tensor], Columns], *,
                    every: bool = False) -> Columns:
    """Return `of(logits_NV, targets_N)` for every character of `split`, in order, on the CPU.

    With `every`, for every target of the windows, scored or not. The model stays in the mode that it was in.
    """
    block_size, device, was_training = model.config.block_size, model.head.weight.device, model.training
    model.eval()
    parts: list[Columns] = []
    try:
        windows, rows = scoring_windows(split, block_size), max(1, CHARACTERS_PER_BATCH // block_size)
        for begin in range(0, len(windows), rows):
            inputs_BT, targets_BT, scored_BT, inside_BT = windows.rows(begin, begin + rows)
            chosen_BT = inside_BT if every else scored_BT
            with products_in(scoring_type(device), device):
                logits_BTV = model(inputs_BT.to(device))
            parts.append(of(logits_BTV[chosen_BT.to(device)], targets_BT[chosen_BT].to(device)))
    finally:
        model.train(was_training)
    return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))


def score_split(model: GPT, split: Split, temperature: float = 1.0) -> Scores:
    """Score every character of `split`, in order."""
    return Scores(*map_predictions(model, split, partial(score, temperature=temperature)))


class WindowLogits(NamedTuple):
    """The prediction of every target of the windows over a text, scored or not, on the CPU.

    A character may be a target twice, once with few and once with many before it. What a window begins with is not
    counted: the start, or the character in its place.
    """

    logits_NV: Tensor       # float32
    targets_N: Tensor
    scored_N: Tensor        # booleans: each character of the text once, in order
    before_N: Tensor        # characters of the window that were read before

    @property
    def scored_logits_NV(self) -> Tensor:
        return self.logits_NV[self.scored_N]

    @property
    def nats_N(self) -> Tensor:
        return F.cross_entropy(self.logits_NV, self.targets_N, reduction="none")


def window_logits(model: GPT, split: Split) -> WindowLogits:
    """Predict every target of the windows over `split` in one pass."""
    logits_NV, targets_N = map_predictions(
        model, split, lambda logits_NV, targets_N: (logits_NV.float(), targets_N), every=True)
    windows = scoring_windows(split, model.config.block_size).all()
    inside_BT = windows.inside_BT
    before_N = torch.arange(model.config.block_size).expand_as(inside_BT)[inside_BT]
    return WindowLogits(logits_NV, targets_N, windows.scored_BT[inside_BT], before_N)


def evaluate(model: GPT, checkpoint: Checkpoint, split: Split, temperature: float = 1.0) -> Evaluation:
    """Score `split` with `model`, built from `checkpoint`. ValueError for another vocabulary or an empty text."""
    if split.vocabulary != checkpoint.vocabulary:
        raise ValueError(f"text must be encoded with the model's vocabulary ({checkpoint.vocabulary.sha256[:12]}…), "
                         f"got {split.vocabulary.sha256[:12]}…")
    if not len(split):
        raise ValueError("text must have at least one character, got 0")
    scores = score_split(model, split, temperature)
    unseen_N = checkpoint.character_counts_V[split.ids_N.long()] == 0
    unseen_N |= split.escape_bytes_N > 0
    bits_N = code_bits(scores.loss_N, split.escape_bytes_N)
    confidence, accuracy = mean(scores.confidence_N), mean(scores.correct_N)
    return Evaluation(
        bits_per_byte=float(bits_N.sum()) / split.n_bytes,
        nats_per_character=mean(scores.loss_N),
        seen_loss_nats=mean(scores.loss_N[~unseen_N]),
        unseen_share=mean(unseen_N),
        unseen_loss_share=float(bits_N[unseen_N].sum() / bits_N.sum()),
        entropy_nats=mean(scores.entropy_N),
        confidence=confidence, top5_mass=mean(scores.top5_N), accuracy=accuracy,
        overconfidence=confidence - accuracy,
        **calibration(scores), brier_score=mean(scores.brier_N),
        temperature=temperature, tempered_nats=mean(scores.tempered_loss_N),
        n_characters=len(split), n_bytes=split.n_bytes, scores=scores, bits_N=bits_N)


def mean(values_N: Tensor) -> float:
    """Return the mean in float64; nan where there are no values."""
    return float(values_N.double().mean())


def calibration(scores: Scores) -> dict[str, float]:
    """Return the fields of an Evaluation that say how confidence and being right go together."""
    confidence_N, wrong_N = scores.confidence_N, 1 - scores.correct_N
    even = reliability(confidence_N, scores.correct_N)
    return {"calibration_error": even.expected_error, "maximum_calibration_error": even.maximum_error,
            "adaptive_calibration_error": adaptive_reliability(confidence_N, scores.correct_N).expected_error,
            "entropy_auroc": auroc(-scores.entropy_N, scores.correct_N),
            "confidence_when_wrong": mean(confidence_N[wrong_N > 0]),
            "sure_error_rate": mean(wrong_N[confidence_N > SURE])}


@torch.inference_mode()
def stacked_losses(model: GPT, splits: Sequence[Split]) -> list[Tensor]:
    """Return -ln p of every character of M texts, one for each member of a stacked model: (N,) each, nats, on the CPU.

    Texts with fewer windows are filled up with windows of which nothing is scored.
    """
    device, block_size = model.head.weight.device, model.config.block_size
    laid = {id(split): scoring_windows(split, block_size) for split in splits}     # members may share a text
    count, rows = max(map(len, laid.values())), max(1, CHARACTERS_PER_BATCH // block_size)
    laid = {key: windows.padded(count) for key, windows in laid.items()}
    parts_MN: list[list[Tensor]] = [[] for _ in splits]
    for begin in range(0, count, rows):
        windows = [laid[id(split)].rows(begin, begin + rows) for split in splits]
        inputs_NT, targets_NT, *_ = (torch.cat(column).to(device) for column in zip(*windows, strict=True))
        with products_in(scoring_type(device), device):
            logits_NTV = model(inputs_NT)
        nats = F.cross_entropy(logits_NTV.flatten(0, 1).float(), targets_NT.flatten(), reduction="none")
        for parts, nats_BT, window in zip(parts_MN, nats.view(len(splits), -1, block_size).cpu(), windows, strict=True):
            parts.append(nats_BT[window.scored_BT])
    return [torch.cat(parts) for parts in parts_MN]


def losses_together(checkpoints: Sequence[Checkpoint], splits: Sequence[Split], device: torch.device,
                    ) -> list[tuple[float, float]]:
    """Score each checkpoint on the text in its place, all at once; returns bits per byte and nats per character.

    ValueError where the checkpoints differ in shape.
    """
    nats = stacked_losses(stack(checkpoints, device), splits)
    return [mean_losses(nats_N, split) for nats_N, split in zip(nats, splits, strict=True)]


def mean_losses(nats_N: Tensor, split: Split) -> tuple[float, float]:
    """Return bits per byte and nats per character of a text whose characters cost `nats_N`."""
    bits_N = code_bits(nats_N, split.escape_bytes_N)
    return float(bits_N.sum()) / split.n_bytes, mean(nats_N)
