"""Windows: every character is scored once with half a window before it; epochs read a text once."""

from __future__ import annotations

import pytest
import torch

from nanogpt.text.corpus import Split, make_split, split_of
from nanogpt.text.splits import Stretch
from nanogpt.text.vocabulary import Vocabulary
from nanogpt.text.windows import batch_offsets, scoring_windows, windows_at

LETTERS = Vocabulary("\nabcdefghijklmnopqrstuvwxyz")


def scored(split: Split, block_size: int) -> list[tuple[str, str]]:
    """What was read before each scored character, and the character."""
    found = []
    windows = scoring_windows(split, block_size).all()
    for inputs_T, targets_T, scored_T, inside_T in zip(*windows, strict=True):
        assert not (scored_T & ~inside_T).any()
        for place in scored_T.nonzero().flatten().tolist():
            assert torch.equal(inputs_T[1:place + 1], targets_T[:place])
            found.append((LETTERS.decode(inputs_T[:place + 1].tolist()), LETTERS.decode([int(targets_T[place])])))
    return found


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 13, 14, 100])
@pytest.mark.parametrize("length", [1, 2, 12, 13, 14, 40])
def test_every_character_is_scored_once_with_half_a_window_or_all_there_is_before_it(block_size: int,
                                                                                     length: int) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"[:length]
    for place, (before, character) in enumerate(scored(make_split(text, LETTERS), block_size)):
        assert character == text[place] and ("\n" + text[:place]).endswith(before)
        assert len(before) >= min(place + 1, block_size - block_size // 2, block_size)
    assert len(scored(make_split(text, LETTERS), block_size)) == len(text)


@pytest.mark.parametrize("block_size", [1, 4, 7])
def test_a_piece_is_read_after_its_context_and_never_after_another_piece(block_size: int) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    stretches = [Stretch(5, 12, 0), Stretch(14, 15, 1), Stretch(20, 26, 2, context=19)]
    split = split_of(text, stretches, LETTERS, block_size)
    found = scored(split, block_size)
    assert "".join(character for _, character in found) == split.text == "fghijklouvwxyz"
    for before, character in found:
        assert (before + character).lstrip("\n") in text
        begin = 19 if character in "uvwxyz" else -1
        assert len(before) >= min(block_size - block_size // 2, text.index(character) - begin)
        assert character not in "uvwxyz" or not set(before) & set("abcdefghijklmnopqrs")


def test_an_empty_text_has_no_windows() -> None:
    assert len(scoring_windows(make_split("", LETTERS), 4)) == 0


def test_offsets_are_in_bounds_and_an_epoch_does_not_repeat_for_any_small_text() -> None:
    for block_size in (1, 2, 3, 8):
        for n in range(block_size + 1, 4 * block_size + 3):
            for seed in range(3):
                offsets = batch_offsets(n, block_size, 3, 7, seed)
                assert offsets.shape == (7, 3) and offsets.dtype == torch.int64
                assert int(offsets.min()) >= 0 and int(offsets.max()) + block_size + 1 <= n


def test_an_epoch_covers_the_text_but_for_less_than_a_block_at_each_end() -> None:
    n, block_size = 103, 5
    for seed in range(20):
        offsets = batch_offsets(n, block_size, 1, 40, seed).flatten()
        phase = int(offsets[0]) % block_size
        per_epoch = len(range(phase, n - block_size, block_size))
        epoch = sorted(offsets[:per_epoch].tolist())
        assert epoch == list(range(phase, n - block_size, block_size))
        assert epoch[0] < block_size and n - (epoch[-1] + block_size + 1) < block_size


def test_over_many_epochs_every_phase_and_every_character_is_read() -> None:
    n, block_size = 40, 6
    offsets = batch_offsets(n, block_size, 6, 100, 0).flatten()
    assert set(offsets.tolist()) == set(range(n - block_size))
    first = [batch_offsets(n, block_size, 1, 1, seed).item() for seed in range(300)]
    assert set(first) == set(range(n - block_size))


def test_offsets_depend_on_the_seed_and_longer_trainings_begin_with_shorter_ones() -> None:
    long = batch_offsets(1000, 8, 4, 200, 3)
    for steps in (0, 1, 31, 199):
        assert torch.equal(batch_offsets(1000, 8, 4, steps, 3), long[:steps])
    assert not torch.equal(batch_offsets(1000, 8, 4, 200, 4), long)


def test_offsets_leave_the_global_random_stream_alone() -> None:
    before = torch.get_rng_state()
    batch_offsets(1000, 8, 4, 20, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_without_a_window_has_no_offsets() -> None:
    for n in (0, 1, 8):
        with pytest.raises(ValueError, match=f"text must have more than block_size = 8 characters, got {n}"):
            batch_offsets(n, 8, 4, 20, 3)


def test_windows_are_the_text_and_the_text_one_later() -> None:
    inputs_BT, targets_BT = windows_at(torch.arange(100, 150), torch.tensor([0, 45, 7]), 4)
    assert inputs_BT.tolist() == [[100, 101, 102, 103], [145, 146, 147, 148], [107, 108, 109, 110]]
    assert torch.equal(targets_BT, inputs_BT + 1)
