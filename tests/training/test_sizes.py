"""What follows from a size: a shape, learning rates, operations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanogpt.config import ModelConfig, Shape, make_config, read_shape
from nanogpt.model.gpt import GPT
from nanogpt.training.sizes import block_weights, sized, training_flops_per_character


@pytest.mark.parametrize(("text", "shape"), [
    ("2x64", (2, 64, 2)), ("3x96", (3, 96, 3)), ("4x128", (4, 128, 4)), ("6x384", (6, 384, 6)), ("8x288", (8, 288, 9)),
    ("12x768", (12, 768, 12)), ("1x48x3", (1, 48, 3))])
def test_a_head_has_64_channels_in_wide_models_and_32_in_others(text: str, shape: tuple[int, int, int]) -> None:
    assert read_shape(text) == Shape(*shape)


@pytest.mark.parametrize("sizes", ["2y64", "64", "2x64,", "2x64x", "0x64", "2x-64", "2x48", "2x64x5", "9999999x64",
                                   "99999x64", "2x64,2x64x4"])
def test_a_bad_shape_is_one_line_with_what_was_given(sizes: str) -> None:
    with pytest.raises(ValueError, match=r"^sizes must .*, got '") as caught:
        make_config(sizes=sizes)
    assert "\n" not in str(caught.value)


def test_no_size_is_the_default_and_spaces_do_not_matter() -> None:
    assert make_config().scaling.shapes == ()
    assert make_config(sizes=" 2x64 , 3x96").scaling.shapes == (Shape(2, 64, 2), Shape(3, 96, 3))


def test_a_size_of_the_studys_own_width_keeps_its_rates_and_others_follow_the_width() -> None:
    config = make_config("gpu", cam_block=5)
    own, half, four = (sized(config, read_shape(text)) for text in ("6x384", "2x96", "6x1536"))
    assert own.train.learning_rate == config.train.learning_rate and own.model == config.model
    assert half.train.learning_rate == pytest.approx(2 * config.train.learning_rate)
    assert four.train.learning_rate == pytest.approx(config.train.learning_rate / 2)
    assert half.train.matrix_learning_rate == four.train.matrix_learning_rate == config.train.matrix_learning_rate
    assert half.attribution.cam_block == 2 and half.model.dropout == config.model.dropout


def test_operations_are_those_that_torch_counts() -> None:
    """But for head, which is not counted, and for attention, of which torch counts the masked half too."""
    config, size, vocabulary = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16), 4, 11
    model, ids = GPT(config, vocabulary), torch.zeros(size, config.block_size, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    characters = size * config.block_size
    forward_and_backward = 3 * 2 * characters
    head = forward_and_backward * vocabulary * config.n_embd
    masked = counter.get_flop_counts()["Global"]
    attention = sum(count for operation, count in masked.items() if "attention" in str(operation))
    products = counter.get_total_flops() - attention
    assert products - head == 6 * block_weights(config) * characters
    assert training_flops_per_character(config) - 6 * block_weights(config) == 6 * 2 * 32 * 16
