"""What a training of another size differs in: shape and learning rates; and what it costs."""

from __future__ import annotations

from dataclasses import replace

from nanogpt.config import Config, ModelConfig, Shape


def sized(config: Config, shape: Shape) -> Config:
    """Return the configuration of a size: its shape, and the learning rates that follow from its width.

    The rates of `config` belong to its own width, and a size of that width keeps them. AdamW's rate, of embedding, head
    and vectors, goes with the inverse square root of the width (as in nanochat, github.com/karpathy/nanochat,
    `gpt.py`): between what maximal updates ask of an embedding, none, and of a head, the inverse of the width (Yang et
    al. 2022, arXiv:2203.03466). Muon's stays: the spectral norm of its update depends on the ratio of a matrix's sides
    alone, which keeps a change of the outputs the same at all widths (Yang, Simon & Bernstein 2023, arXiv:2310.17813).
    Nothing follows from the depth, and nothing is tuned for a size.
    """
    model, train = config.model, config.train
    rate = train.learning_rate * (model.n_embd / shape.n_embd) ** 0.5
    return replace(
        config, train=replace(train, learning_rate=rate, checkpoints=config.scaling.size_checkpoints),
        model=replace(model, n_layer=shape.n_layer, n_embd=shape.n_embd, n_head=shape.n_head),
        attribution=replace(config.attribution, cam_block=min(config.attribution.cam_block, shape.n_layer)))


def block_weights(model: ModelConfig) -> int:
    """Count the weights of the matrices inside the blocks: the N of scaling laws, without embedding and head."""
    return 12 * model.n_layer * model.n_embd**2


def training_flops_per_character(model: ModelConfig) -> float:
    """Count the operations of a training step's matrix products, forward and backward, for each character.

    6 N + 6 n_layer block_size n_embd, of which the second part is causal attention (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1); without embedding and head.
    """
    return 6.0 * block_weights(model) + 6.0 * model.n_layer * model.n_embd * model.block_size
