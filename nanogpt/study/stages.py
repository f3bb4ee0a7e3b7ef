"""The grids of a study, as tidy rows: which checkpoints stand for early, mid and late, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nanogpt.config import STAGE_SHARES, Config, Row
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.device import resolve_device
from nanogpt.model.generate import top_characters
from nanogpt.model.gpt import GPT
from nanogpt.text.corpus import Corpus

PROMPT_CHARACTERS = 48
PROMPTS_PER_DOMAIN = 4

def stage_steps(steps: Iterable[int]) -> dict[str, int]:
    """Stage to step, for the checkpoint steps of one training; step 0 stands for no stage unless it is alone."""
    known = sorted(steps)
    trained = [step for step in known if step > 0] or known
    return {stage: min(trained, key=lambda step: abs(step - share * known[-1]))
            for stage, share in STAGE_SHARES.items()}


def stage_of(step: int, steps: Iterable[int]) -> str:
    """The latest stage that `step` stands for, or ''."""
    return next((stage for stage, at in reversed(stage_steps(steps).items()) if at == step), "")


def prompts_of(corpora: Mapping[str, Corpus]) -> list[tuple[str, str]]:
    """(domain, prompt): the same few for every model, from evenly spaced places of each domain's test text.

    A prompt begins at a word and is at most PROMPT_CHARACTERS long.
    """
    found = []
    for name, corpus in corpora.items():
        text = corpus.test.text
        for k in range(PROMPTS_PER_DOMAIN):
            at = len(text) * k // PROMPTS_PER_DOMAIN
            begin = text.find(" ", at, at + PROMPT_CHARACTERS) + 1 or at
            if prompt := text[begin:begin + PROMPT_CHARACTERS].strip():
                found.append((name, prompt))
    return found


def position_tops(model: GPT, checkpoint: Checkpoint, prompts: Sequence[tuple[str, str]], config: Config,
                  source: Row) -> Iterator[Row]:
    """The most probable characters at each position of every prompt."""
    for _, prompt in prompts:
        for row in top_characters(model, checkpoint, prompt, config.analysis.top_characters):
            yield source | {"prompt": prompt} | row


def built(checkpoint: Checkpoint, config: Config) -> GPT:
    return checkpoint.build(resolve_device(config.device))
