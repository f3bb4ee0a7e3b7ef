"""The configuration: each field explains itself, each broken rule is one line, the presets are valid."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from nanogpt.config import BUILT_IN_DOMAINS, GROUPS, PRESETS, Config, ModelConfig, make_config, settings

BROKEN = [("n_layer", 0), ("n_head", -1), ("n_embd", 0), ("block_size", -1), ("dropout", 1.0), ("dropout", -0.1),
          ("max_steps", 0), ("batch_size", 0), ("learning_rate", 0.0), ("matrix_learning_rate", -1.0),
          ("learning_rate", float("nan")), ("weight_decay", -0.1), ("warmup_steps", -1), ("decay_share", 1.1),
          ("checkpoints", 0), ("log_every", 0), ("shots", 0), ("transfer_steps", -1), ("trials", 0), ("rate_low", 0.0),
          ("curve_points", 0), ("eval_characters", -1), ("generate_characters", 0), ("temperatures", "-1"),
          ("temperatures", "0.5,warm"), ("temperatures", ""), ("temperatures", "nan"), ("temperatures", "inf"),
          ("min_count", 0), ("domains", " , "), ("corpora", "half"), ("seed", -1), ("seed", 2**32), ("device", "tpu")]


def test_every_field_that_can_be_set_has_a_name_of_its_own_and_a_help_text() -> None:
    owned = [item.name for owner in GROUPS.values() for item in fields(owner)]
    own = {item.name for item in fields(Config)} - {"preset", *GROUPS}
    assert len(owned) == len(set(owned)) and not set(owned) & own
    assert settings().keys() == set(owned) | own
    for name, (kind, default, text) in settings().items():
        assert type(default) is kind, name
        assert len(text.split()) >= 2, name


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_a_broken_rule_is_one_line_with_the_name_and_the_received_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must .*, got ") as caught:
        make_config(**{name: value})
    assert str(caught.value).endswith(f"got {value!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [
    ("seed", 0), ("seed", 2**32 - 1), ("dropout", 0.0), ("warmup_steps", 0), ("decay_share", 1), ("max_steps", 1),
    ("eval_characters", 0), ("transfer_steps", 0), ("temperatures", "0"), ("min_count", 1)])
def test_the_borders_of_the_rules_are_allowed(name: str, value: Any) -> None:
    assert make_config(**{name: value}).flat()[name] == value


@pytest.mark.parametrize(("n_embd", "n_head"), [(32, 3), (30, 4), (4, 4)])
def test_the_width_holds_pairs_of_channels_for_every_head(n_embd: int, n_head: int) -> None:
    with pytest.raises(ValueError, match=f"n_embd must be divisible by 2 \\* n_head = {2 * n_head}, got {n_embd}"):
        ModelConfig(n_embd=n_embd, n_head=n_head)


def test_the_smallest_rate_is_not_above_the_largest() -> None:
    with pytest.raises(ValueError, match=r"rate_low must be <= rate_high, got 0\.5"):
        make_config(rate_low=0.5, rate_high=0.1)
    assert make_config(rate_low=0.1, rate_high=0.1).transfer.rate_low == 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_known_fields_and_changes_win_over_it(preset: str) -> None:
    assert PRESETS[preset].keys() <= settings().keys()
    config = make_config(preset)
    assert config.preset == preset and config.flat().items() >= PRESETS[preset].items()
    untouched = settings().keys() - PRESETS[preset].keys()
    assert {name: config.flat()[name] for name in untouched} == {name: settings()[name][1] for name in untouched}
    for name in PRESETS[preset].keys() - {"n_head", "n_embd"}:
        changed = make_config(preset, **{name: settings()[name][1]})
        assert changed.flat() == config.flat() | {name: settings()[name][1]}


def test_changes_reach_the_group_that_owns_them() -> None:
    config = make_config("smoke", seed=7, n_layer=5, shots=3, domains="math, own=a.txt ,")
    assert (config.seed, config.model.n_layer, config.transfer.shots) == (7, 5, 3)
    assert config.data.domain_specs == ("math", "own=a.txt")
    assert make_config(temperatures="0, 1.5").analysis.temperature_values == (0.0, 1.5)


@pytest.mark.parametrize(("domains", "specs"), [
    ("all", BUILT_IN_DOMAINS), (" all ,", BUILT_IN_DOMAINS), ("all,mine=x.txt", (*BUILT_IN_DOMAINS, "mine=x.txt")),
    ("mine=x.txt,all,math", ("mine=x.txt", *BUILT_IN_DOMAINS)), ("math,all,all", ("math", *[
        name for name in BUILT_IN_DOMAINS if name != "math"])), ("math,math", ("math",))])
def test_all_stands_for_every_built_in_domain_and_none_is_listed_twice(domains: str, specs: tuple[str, ...]) -> None:
    assert make_config(domains=domains).data.domain_specs == specs


def test_the_default_domains_are_three() -> None:
    assert make_config().data.domain_specs == ("shakespeare", "wikipedia", "math")


@pytest.mark.parametrize("name", ["n_embed", "preset_", "model", "vocab_size"])
def test_an_unknown_setting_or_preset_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'$"):
        make_config(**{name: 1})
    with pytest.raises(ValueError, match=f"preset must be one of smoke, quick, .*, got '{name}'$"):
        make_config(name)
