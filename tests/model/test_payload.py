"""The digest of values and tensors: different for different values, and refused for what is none."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from nanogpt.model.payload import digest_of, is_finite

DIFFERENT: list[Any] = [
    None, True, False, 0, 1, -1, 2**62, 0.0, -0.0, 1.0, math.nan, "", "0", "a", "ab", "\ud800", [], (), {}, [[]], [0],
    [1], ["a", "b"], ["ab"], ["ab", ""], [["a"], "b"], (1,), {"a": 1}, {"a": "1"}, {1: "a"}, {"a": None}, {"a": {}},
    {"a": 1, "b": 2}, {"a": 2, "b": 1}, [1, 2], [2, 1], torch.zeros(2), torch.zeros(2, 1), torch.zeros(1, 2),
    torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int32), torch.ones(2), torch.tensor([0.0, -0.0]),
    torch.zeros(0), torch.zeros(0, 3), torch.zeros(()), [torch.zeros(1), torch.zeros(1)]]


def test_different_values_have_different_digests() -> None:
    digests = [digest_of(value) for value in DIFFERENT]
    assert len(set(digests)) == len(digests) and digests == [digest_of(value) for value in DIFFERENT]


def test_order_of_names_and_memory_layout_do_not_count() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    turned = torch.arange(6.0).view(2, 3)
    assert digest_of(turned) == digest_of(turned.mT.contiguous().mT)


def test_without_numbers_only_types_and_shapes_of_tensors_count() -> None:
    digests = [digest_of([tensor, "x"], numbers=False) for tensor in (torch.zeros(2), torch.ones(2), torch.zeros(1, 2))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("value", [
    2**63, b"bytes", {1, 2}, object(), torch.ones(1).expand(5), torch.ones(2).to_sparse(), torch.ones(1, device="meta"),
    torch.ones(1, requires_grad=True), torch.nn.Parameter(torch.ones(1)), {(1, 2): 3, "a": object()}])
def test_what_is_no_value_has_no_digest(value: object) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        digest_of({"a": [value]})


def test_neither_nesting_nor_repetition_takes_for_ever() -> None:
    nested: Any = []
    for _ in range(50):
        nested = [nested]
    with pytest.raises(ValueError, match="nested too deeply"):
        digest_of(nested)
    repeated: Any = "ha"
    for _ in range(10):
        repeated = [repeated] * 10
    with pytest.raises(ValueError, match="larger than their file"):
        digest_of(repeated, 10_000)


def test_a_tensor_is_finite_where_all_its_numbers_are() -> None:
    for place, bad in itertools.product((0, 7, 99), (math.nan, math.inf, -math.inf)):
        tensor = torch.randn(100)
        assert is_finite(tensor)
        tensor[place] = bad
        assert not is_finite(tensor) and not is_finite(tensor.view(10, 10))
    assert is_finite(torch.zeros(0)) and is_finite(torch.arange(3))
