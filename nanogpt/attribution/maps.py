"""How much each earlier character counts for the prediction of the next one, by any method, as maps of prompts.

Shape suffixes: P prompts, T positions (targets), S positions (sources), C channels, V characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nanogpt.attribution.gradients import Query
from nanogpt.attribution.methods import method_function
from nanogpt.config import AttributionConfig
from nanogpt.errors import require
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.gpt import GPT

PROMPTS_PER_PASS = 32


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of a prompt: `scores_TS[t, s]` is how much character s counted for what follows character t."""

    prompt: str
    scores_TS: Tensor            # lower triangular; negative where a character spoke against the target
    probability_T: Tensor        # of the target
    targets: str                 # what the prediction after each character was asked for
    method: str = "gradient_norm"
    unknown: str = ""            # the characters of the prompt that the model reads as <unk>

    @property
    def share_TS(self) -> Tensor:
        """Return |score| as a share of its target's: rows sum to 1, or to 0 where no position counts."""
        size_TS = self.scores_TS.abs()
        return size_TS / size_TS.sum(-1, keepdim=True).clamp_min(torch.finfo(size_TS.dtype).tiny)


def neutral_input(model: GPT, checkpoint: Checkpoint) -> Tensor:
    """Return the mean input over the characters of the training text, (C,); of all characters where there was none."""
    counts_V = checkpoint.character_counts_V.to(model.head.weight)
    if not counts_V.any():
        counts_V = torch.ones_like(counts_V)
    every_1V = torch.arange(len(counts_V), device=counts_V.device)[None]
    return counts_V / counts_V.sum() @ model.embed(every_1V)[0].detach()


@torch.no_grad()
def make_query(model: GPT, checkpoint: Checkpoint, prompts: Sequence[str],
               config: AttributionConfig) -> tuple[Query, Tensor]:
    """Return the query and the targets' probabilities (P, T).

    The target is the character that follows, the likeliest one after the last; its foil the likeliest other. Shorter
    prompts are filled up: what stands after a prompt cannot reach back into it.
    """
    device = model.head.weight.device
    ids_PT = pad_sequence([checkpoint.vocabulary.encode(prompt) for prompt in prompts], batch_first=True).to(device)
    last_P = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    every_P = torch.arange(len(prompts), device=device)
    logits_PTV, targets_PT = model(ids_PT), ids_PT.roll(-1, dims=1)
    targets_PT[every_P, last_P] = logits_PTV[every_P, last_P].argmax(-1)
    foils_PT = logits_PTV.scatter(-1, targets_PT[..., None], -torch.inf).argmax(-1) if config.contrastive else None
    query = Query(ids_PT, targets_PT, neutral_input(model, checkpoint), config.attribute_of, foils_PT)
    return query, logits_PTV.softmax(-1).gather(-1, targets_PT[..., None]).squeeze(-1)


def attribute(model: GPT, checkpoint: Checkpoint, prompts: Sequence[str], method: str = "gradient_norm",
              config: AttributionConfig | None = None) -> list[Attribution]:
    """Return the maps of every prompt, by a method or a baseline.

    Only the last block_size characters of a prompt are read. UserError for an empty prompt or an unknown method.
    """
    score, config = method_function(method), config or AttributionConfig()
    prompts = [prompt[-model.config.block_size:] for prompt in prompts]
    require(all(prompts), "prompt must have at least one character", "")
    attributions = []
    for first in range(0, len(prompts), PROMPTS_PER_PASS):
        group = prompts[first:first + PROMPTS_PER_PASS]
        query, probability_PT = make_query(model, checkpoint, group, config)
        scores_PTS, probability_PT = score(model, query, config).cpu(), probability_PT.cpu()
        for row, prompt in enumerate(group):
            n = len(prompt)
            likeliest = checkpoint.vocabulary.decode([int(query.targets_PT[row, n - 1])])
            attributions.append(Attribution(prompt, scores_PTS[row, :n, :n], probability_PT[row, :n],
                                            prompt[1:] + likeliest, method, checkpoint.vocabulary.unknown_in(prompt)))
    return attributions


def tidy_columns(attribution: Attribution) -> dict[str, list[object]]:
    """Return tidy columns of equal length: a row for each target position and each position at or before it."""
    targets, sources = torch.tril_indices(*attribution.scores_TS.shape)
    t, s = targets.tolist(), sources.tolist()
    return {"prompt": [attribution.prompt] * len(t), "target_position": [i + 1 for i in t],
            "target": [attribution.targets[i] for i in t],
            "probability": attribution.probability_T[targets].tolist(), "position": s,
            "character": [attribution.prompt[i] for i in s],
            "unknown": [attribution.prompt[i] in attribution.unknown for i in s],
            "method": [attribution.method] * len(t),
            "score": attribution.scores_TS[targets, sources].tolist(),
            "share": attribution.share_TS[targets, sources].tolist()}


def split_units(text: str, unit: str) -> list[str]:
    """Return `text` in words, each with the white space after it, or in lines.

    >>> split_units("To be,\\nor not", "word"), split_units("To be,\\nor not", "line")
    (['To ', 'be,\\n', 'or ', 'not'], ['To be,\\n', 'or not'])
    """
    return text.splitlines(keepends=True) if unit == "line" else re.findall(r"\S+\s*|\s+", text)


def unit_rows(attribution: Attribution, unit: str) -> Iterator[dict[str, object]]:
    """Yield tidy rows of the map between words or lines: of a word's targets, how much of their shares each word holds.

    `share` is the mean over the targets inside the word of the sum over the characters of the source word.
    """
    parts = split_units(attribution.prompt + attribution.targets[-1], unit)
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    part_of_character = torch.bucketize(torch.arange(int(ends[-1])), ends, right=True)
    is_in_part = part_of_character == torch.arange(len(parts))[:, None]     # (parts, characters)
    targets, sources = is_in_part[:, 1:].double(), is_in_part[:, :-1].double()
    target_counts = targets.sum(1)
    shares = targets @ attribution.share_TS.double() @ sources.T / target_counts.clamp_min(1)[:, None]
    for target, source in torch.tril_indices(len(parts), len(parts)).T.tolist():
        if target_counts[target] and sources[source].any():
            yield {"unit": unit, "method": attribution.method, "target_position": target, "target": parts[target],
                   "position": source, "text": parts[source], "share": float(shares[target, source])}


def character_kinds(prompt: str) -> dict[str, Tensor]:
    """Return masks (T, S) by kind: which characters are, for what follows character t, of the word that t stands in, of
    the word before it, of earlier words, spaces, new lines or punctuation. At or before t each has exactly one kind."""
    in_word_S = torch.tensor([character.isalnum() or character in "'’" for character in prompt])
    begins_word_S = in_word_S & ~torch.cat((torch.tensor([False]), in_word_S[:-1]))
    word_S, newline_S = begins_word_S.cumsum(0), torch.tensor([character in "\n\r" for character in prompt])
    space_S = torch.tensor([character.isspace() for character in prompt]) & ~newline_S
    previous_word_T1 = (word_S - in_word_S.long())[:, None]
    masks = {"same_word": in_word_S[:, None] & in_word_S & (word_S == word_S[:, None]),
             "previous_word": in_word_S & (word_S == previous_word_T1),
             "earlier_words": in_word_S & (word_S < previous_word_T1),
             "punctuation": ~(in_word_S | space_S | newline_S), "space": space_S, "newline": newline_S}
    return {kind: mask.expand(len(prompt), -1).tril() for kind, mask in masks.items()}


def summarize(attributions: Sequence[Attribution]) -> dict[str, float]:
    """Return means over all targets: the effective context length (distance in characters, weighted by share), the
    entropy of the shares (nats), and the share on each of the `character_kinds`."""
    sums = dict.fromkeys(("mean_distance_characters", "entropy_nats"), 0.0)
    count = sum(len(attribution.prompt) for attribution in attributions)
    for attribution in attributions:
        share_TS = attribution.share_TS.double()
        position_T = torch.arange(len(share_TS), dtype=torch.float64)
        measures = {"mean_distance_characters": share_TS * (position_T[:, None] - position_T),
                    "entropy_nats": torch.special.entr(share_TS)}
        for kind, mask_TS in character_kinds(attribution.prompt).items():
            measures[f"{kind}_share"] = share_TS * mask_TS
        for name, values_TS in measures.items():
            sums[name] = sums.get(name, 0.0) + float(values_TS.sum())
    return {name: value / max(1, count) for name, value in sums.items()}
