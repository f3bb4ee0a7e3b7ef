"""Writing with a key-value cache against reading the context anew for each character, greedily, same weights.

    python benchmarks/generate_speed.py --text input.txt
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import load_corpus, read_config
from nanogpt.model.generate import Sampling, context_start, generate
from nanogpt.model.gpt import GPT
from nanogpt.text.vocabulary import UNKNOWN, Vocabulary
from nanogpt.training.loop import train


@torch.inference_mode()
def recompute(model: GPT, vocabulary: Vocabulary, prompts: list[str], count: int) -> list[str]:
    """The same contexts as `generate`, one text after the other and each context read from its beginning."""
    texts = []
    for prompt in prompts:
        ids = vocabulary.encode(prompt).tolist()
        for _ in range(count):
            context = torch.tensor([ids[context_start(len(ids), model.config.block_size):]])
            logits_V = model(context)[0, -1]
            logits_V[UNKNOWN] = -torch.inf
            ids.append(int(logits_V.argmax()))
        texts.append(vocabulary.decode(ids[-count:]))
    return texts


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="a UTF-8 text file")
@click.option("--preset", default="standard", show_default=True)
@click.option("--set", "changes", multiple=True, default=("max_steps=20",), show_default=True,
              help="name=value over the preset; repeatable")
@click.option("--characters", default=500, show_default=True)
@click.option("--recomputed", default=2, show_default=True, help="texts written the slow way; the rest is extrapolated")
def main(text: Path, preset: str, changes: tuple[str, ...], characters: int, recomputed: int) -> None:
    corpus, config = load_corpus(text), read_config(preset, changes)
    *_, last = train(corpus, config)
    assert last.checkpoint is not None
    model, greedy = last.checkpoint.build("cpu"), Sampling(temperature=0)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters, context {config.model.block_size}")
    for rows in (1, 64):
        prompts = [corpus.validation.text[1000 * i:1000 * i + 16] for i in range(rows)]
        slow = prompts[:recomputed]
        began = time.perf_counter()
        cached_texts = generate(model, corpus.vocabulary, prompts, characters, sampling=greedy)
        cached = time.perf_counter() - began
        began = time.perf_counter()
        slow_texts = recompute(model, corpus.vocabulary, slow, characters)
        anew = (time.perf_counter() - began) * rows / len(slow)
        equal = sum(a == b for a, b in zip(cached_texts, slow_texts, strict=False))
        click.echo(f"{rows} prompts × {characters}: cached {cached:.2f} s, recomputed {anew:.2f} s "
                   f"({rows * characters / cached:.0f} and {rows * characters / anew:.0f} characters/s)")
        click.echo(f"  {anew / cached:.1f} times as long; {equal} of {len(slow)} compared texts identical")


if __name__ == "__main__":
    main()
