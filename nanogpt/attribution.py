"""How much each earlier character counts for the prediction of the next one.

Shape suffixes: P prompts, T positions (targets), S positions (sources), C channels, V characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanogpt.checkpoint import Checkpoint
from nanogpt.model import GPT


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of a prompt: `scores_TS[t, s]` is how much character s counted for what follows character t."""

    prompt: str
    scores_TS: Tensor            # >= 0, lower triangular
    probability_T: Tensor        # of the target
    targets: str                 # what the prediction after each character was asked for


def gradient_norms(model: GPT, ids_PT: Tensor, targets_PT: Tensor) -> tuple[Tensor, Tensor]:
    """‖∂ logit of target t / ∂ embedding of s‖₂ for all t and s, (P, T, S), and the targets' probabilities (P, T).

    Saliency of Simonyan et al. 2013 (arXiv:1312.6034), the norm over channels as in Li et al. 2016
    (arXiv:1506.01066). One forward pass; one backward pass for each target position serves all prompts. Weights
    collect no gradient.
    """
    x_PTC = model.embed(ids_PT).detach().requires_grad_()
    logits_PTV = model.unembed(model.run_blocks(x_PTC))
    target_logits_PT = logits_PTV.gather(-1, targets_PT[..., None]).squeeze(-1)
    length = ids_PT.size(1)
    scores_PTS = x_PTC.new_zeros(*ids_PT.shape, length)
    for t in range(length):
        (gradient_PSC,) = torch.autograd.grad(target_logits_PT[:, t].sum(), x_PTC, retain_graph=t + 1 < length)
        scores_PTS[:, t] = gradient_PSC.norm(dim=-1)
    probability_PTV = logits_PTV.detach().softmax(-1)
    return scores_PTS, probability_PTV.gather(-1, targets_PT[..., None]).squeeze(-1)


def attribute(model: GPT, checkpoint: Checkpoint, prompts: Sequence[str]) -> list[Attribution]:
    """Gradient norms of every prompt: the target is the character that follows, the likeliest one after the last.

    Only the last block_size characters of a prompt are read. ValueError for an empty prompt.
    """
    vocabulary, device = checkpoint.vocabulary, model.head.weight.device
    prompts = [prompt[-model.config.block_size:] for prompt in prompts]
    if not all(prompts):
        raise ValueError("prompt must have at least one character, got ''")
    if not prompts:
        return []
    encoded = [vocabulary.encode(prompt) for prompt in prompts]
    ids_PT = pad_sequence(encoded, batch_first=True).to(device)  # what stands after a prompt cannot reach back into it
    last_P = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    every_P = torch.arange(len(prompts), device=device)
    with torch.no_grad():
        likeliest_P = model(ids_PT)[every_P, last_P].argmax(-1)
    targets_PT = ids_PT.roll(-1, dims=1)
    targets_PT[every_P, last_P] = likeliest_P
    scores_PTS, probability_PT = (t.cpu() for t in gradient_norms(model, ids_PT, targets_PT))
    return [Attribution(prompt, scores_PTS[row, :len(prompt), :len(prompt)], probability_PT[row, :len(prompt)],
                        prompt[1:] + vocabulary.decode([int(likeliest_P[row])]))
            for row, prompt in enumerate(prompts)]


def rows(attribution: Attribution) -> Iterator[dict[str, object]]:
    """Tidy: a row for each target position and each position at or before it.

    `share` sums to 1 over a target, or to 0 where no position counts.
    """
    share_TS = attribution.scores_TS / attribution.scores_TS.sum(-1, keepdim=True).clamp_min(1e-12)
    scores, shares, probabilities = (x.tolist() for x in (attribution.scores_TS, share_TS, attribution.probability_T))
    for t, target in enumerate(attribution.targets):
        for s, character in enumerate(attribution.prompt[: t + 1]):
            yield {"target_position": t + 1, "target": target, "probability": probabilities[t],
                   "position": s, "character": character, "score": scores[t][s], "share": shares[t][s]}


def summarize(found: Sequence[Attribution]) -> dict[str, float]:
    """Means over all targets: how far back the model looks (characters) and how evenly (entropy of shares, nats)."""
    distance = entropy = count = 0.0
    for attribution in found:
        scores_TS = attribution.scores_TS.double()
        share_TS = scores_TS / scores_TS.sum(-1, keepdim=True).clamp_min(1e-12)
        position_T = torch.arange(len(share_TS), dtype=torch.float64)
        distance += float((share_TS * (position_T[:, None] - position_T).clamp_min(0)).sum())
        entropy += float(torch.special.entr(share_TS).sum())
        count += len(share_TS)
    return {"mean_distance_characters": distance / max(1, count), "entropy_nats": entropy / max(1, count)}
