"""Which cells of a grid of transfers a learning rate is tuned over."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from nanogpt.config import Config, make_config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.study.inputs import StudiedModel
from nanogpt.study.transfer import grid_cells, tuning_places
from nanogpt.study.transfer_runs import TransferCell
from nanogpt.text.corpus import Corpus


@pytest.fixture
def cells(checkpoints: list[Checkpoint], corpora: dict[str, Corpus], tiny_config: Config) -> list[TransferCell]:
    """A grid of late models of all domains, two seeds each."""
    models = [StudiedModel(replace(checkpoint, domain=domain, notes=dict(checkpoint.notes) | {"seed": seed}), stages)
              for domain in corpora for seed in (1, 2)
              for checkpoint, stages in ((checkpoints[0], ()), (checkpoints[-1], ("late",)))]
    return grid_cells(models, corpora, tiny_config)


@pytest.mark.parametrize("targets", [1, 2, 0])
def test_each_source_and_each_target_stands_equally_often_in_the_tuning(cells: list[TransferCell], targets: int
                                                                        ) -> None:
    config = make_config("smoke", tuning_trainings=1, tuning_targets=targets)
    domains = {cell.target.name for cell in cells}
    expected = min(targets or len(domains), len(domains) - 1)
    late, scratch = ([i for i, cell in enumerate(cells) if cell.model.stage == stage] for stage in ("late", "scratch"))
    chosen = [cells[i] for i in tuning_places(late, cells, config)]
    assert Counter(cell.model.domain for cell in chosen) == dict.fromkeys(domains, expected)
    assert Counter(cell.target.name for cell in chosen) == dict.fromkeys(domains, expected)
    assert {cell.model.seed for cell in chosen} == {1}
    assert {cells[i].target.name for i in tuning_places(scratch, cells, config)} == domains


def test_with_a_rate_for_each_cell_all_are_tuned(cells: list[TransferCell]) -> None:
    config = make_config("smoke", tuning_trainings=1, tuning_targets=1, tune_by="cell")
    assert tuning_places(range(len(cells)), cells, config) == list(range(len(cells)))
