"""A text read once: loss, entropy, confidence, accuracy and calibration from the same pass.

Shape suffixes: N scored characters, V characters of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch

from nanogpt.checkpoint import Checkpoint
from nanogpt.corpus import Split, exact_windows
from nanogpt.engine import precision
from nanogpt.metrics import Scores, calibration_error, code_bits, concatenate, score
from nanogpt.model import GPT

CHARACTERS_PER_BATCH = 8192


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
    calibration_error: float      # expected calibration error, 15 bins
    n_characters: int
    n_bytes: int
    scores: Scores = field(repr=False, compare=False)

    def row(self) -> dict[str, float]:
        """The numbers without the scores of the single characters."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "scores"}


@torch.inference_mode()
def read(model: GPT, split: Split) -> Scores:
    """Scores of every character of `split`, in order, on the CPU. The model stays in the mode that it was in."""
    block_size, device, was_training = model.config.block_size, model.head.weight.device, model.training
    model.eval()
    parts = []
    try:
        for inputs_BT, targets_BT in exact_windows(split, block_size, max(1, CHARACTERS_PER_BATCH // block_size)):
            with precision(device):
                logits_BTV = model(inputs_BT.to(device))
            parts.append(score(logits_BTV.flatten(0, 1), targets_BT.flatten().to(device)))
    finally:
        model.train(was_training)
    scores = concatenate(parts)
    return Scores(*(column.cpu() for column in scores))


def evaluate(model: GPT, checkpoint: Checkpoint, split: Split) -> Evaluation:
    """Read `split` with `model`, built from `checkpoint`. ValueError where their vocabularies differ or it is empty."""
    if split.vocabulary != checkpoint.vocabulary:
        raise ValueError(f"text must be encoded with the model's vocabulary ({checkpoint.vocabulary.sha256[:12]}…), "
                         f"got {split.vocabulary.sha256[:12]}…")
    if not len(split):
        raise ValueError("text must have at least one character, got 0")
    scores = read(model, split)
    unseen_N = checkpoint.character_counts_V[split.ids_N] == 0
    unseen_N |= split.escape_bytes_N > 0
    bits_N = code_bits(scores.loss_N, split.escape_bytes_N)
    seen_loss_N = scores.loss_N[~unseen_N]
    confidence, accuracy = float(scores.confidence_N.mean()), float(scores.correct_N.mean())
    return Evaluation(
        bits_per_byte=float(bits_N.sum()) / split.n_bytes,
        nats_per_character=float(scores.loss_N.double().mean()),
        seen_loss_nats=float(seen_loss_N.double().mean()) if len(seen_loss_N) else float("nan"),
        unseen_share=float(unseen_N.double().mean()),
        unseen_loss_share=float(bits_N[unseen_N].sum() / bits_N.sum()),
        entropy_nats=float(scores.entropy_N.double().mean()),
        confidence=confidence, top5_mass=float(scores.top5_N.mean()), accuracy=accuracy,
        overconfidence=confidence - accuracy,
        calibration_error=calibration_error(scores.confidence_N, scores.correct_N),
        n_characters=len(split), n_bytes=split.n_bytes, scores=scores)


@torch.inference_mode()
def top_characters(model: GPT, checkpoint: Checkpoint, prompt: str, count: int) -> list[dict[str, object]]:
    """At each position of `prompt`, the `count` most probable next characters: one row for each rank.

    The prediction at position i has read the prompt up to and with character i; `target` is the character that
    follows there, None after the last one. Only the last block_size characters are read.
    """
    vocabulary = checkpoint.vocabulary
    prompt = prompt[-model.config.block_size:]
    log_p_TV = model(vocabulary.encode(prompt)[None].to(model.head.weight.device))[0].float().log_softmax(-1).cpu()
    p_TV = log_p_TV.exp()
    entropy_T = -(p_TV * log_p_TV).sum(-1)
    top_p, top_ids = p_TV.topk(min(count, len(vocabulary)))
    return [{"position": i, "character": prompt[i], "target": prompt[i + 1] if i + 1 < len(prompt) else None,
             "entropy_nats": float(entropy_T[i]), "rank": rank + 1,
             "candidate": vocabulary.decode([int(top_ids[i, rank])]), "probability": float(top_p[i, rank])}
            for i in range(len(prompt)) for rank in range(top_p.size(1))]
