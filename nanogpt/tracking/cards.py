"""What the registry's pages say of a model and of a version: what it is, how it scores, how to load and serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt.config import JOINT, Config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.serving.pyfunc import LIMITS

ADAPTED = "-to-"
"""Stands in the domain of an adapted model, between its source and its target."""

LOAD = """\
### Load
```python
import mlflow
model = mlflow.pyfunc.load_model("{uri}")
print(model.predict(["The "], params={{"max_new_tokens": 100, "seed": 1}})[0])
```"""
SERVE = """\
### Serve
```sh
mlflow models serve -m "{uri}" --env-manager local --port 5001
curl http://127.0.0.1:5001/invocations -H "Content-Type: application/json" \\
  -d '{{"inputs": ["The "]}}'
```"""


def logged_name(checkpoint: Checkpoint, tags: Mapping[str, Any]) -> str:
    """Name a logged model: "math · step 412", with the seed unless it is the default; "math@late → wikipedia"."""
    source, adapted, target = checkpoint.domain.partition(ADAPTED)
    if adapted:
        return f"{source}@{tags.get('stage', '')} → {target}"
    seed = checkpoint.notes.get("seed", Config().seed)
    return f"{source}{'' if seed == Config().seed else f' · seed {seed}'} · step {checkpoint.step}"


def version_card(checkpoint: Checkpoint, tags: Mapping[str, Any], model_id: str) -> str:
    """Write the description of a version: where it comes from, its score, three lines to load it."""
    return f"{score_line(checkpoint, tags)}\n\n{LOAD.format(uri=f'models:/{model_id}')}"


def score_line(checkpoint: Checkpoint, tags: Mapping[str, Any]) -> str:
    """Say "Step 412 of 800, seed 1, 2.3456 bits per byte on validation"; of an adapted model what it began with."""
    parts = [f"Step {checkpoint.step}"]
    if "max_steps" in checkpoint.notes:
        parts[0] += f" of {checkpoint.notes['max_steps']}"
    if "parent" in tags:
        parts.append(f"adapted from `{tags['parent']}` with {tags['shots']} windows, learning rate "
                     f"{tags['learning_rate']}")
    elif "seed" in checkpoint.notes:
        parts.append(f"seed {checkpoint.notes['seed']}")
    if "bits_per_byte" in tags:
        parts.append(f"**{tags['bits_per_byte']} bits per byte** on validation")
    return ", ".join(parts)


def first_line(domain: str) -> str:
    """Say what a registered model is."""
    source, adapted, target = domain.partition(ADAPTED)
    source = "all domains together" if source == JOINT else source
    what = f"trained on **{source}** and adapted to **{target}**" if adapted else f"trained on **{source}**"
    return f"Checkpoints of a character-level GPT {what}: prompts in, text out."


def model_card(name: str, domain: str, scores: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Write the description of a registered model; `scores` are its aliases, each with the tags of its version."""
    lines = [f"- `{alias}`: step {tags.get('step', '?')}, {tags['bits_per_byte']} bits per byte"
             for alias, tags in scores if "bits_per_byte" in tags]
    uri = f"models:/{name}@{scores[-1][0]}" if scores else f"models:/{name}/1"
    parts = [first_line(domain), *(["\n".join(["### Scores on validation text", *lines])] if lines else []),
             LOAD.format(uri=uri), SERVE.format(uri=uri), LIMITS]
    return "\n\n".join(parts)
