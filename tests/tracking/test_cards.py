"""What the registry's pages say of a model: it loads and writes as the card says, and a person's words stay."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re

import mlflow
import pytest

from nanogpt.model.checkpoint import Checkpoint
from nanogpt.tracking import registry
from nanogpt.tracking.cards import logged_name

NAME = "nanogpt-shakespeare"
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_lines_of_both_cards_load_the_model_and_write_with_it(models: str) -> None:
    registry.write_card(NAME)
    client = mlflow.MlflowClient()
    cards = [client.get_registered_model(NAME).description, client.get_model_version_by_alias(NAME, "late").description]
    for card in cards:
        (code,) = CODE.findall(card)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        assert len(code.splitlines()) == 3 and len(printed.getvalue()) == len("The ") + 100 + len("\n")
        assert "4.0000 bits per byte" in card
    assert "`late`: step 48" in cards[0] and "curl http://" in cards[0] and "Step 48 of 48, seed 1" in cards[1]


def test_a_description_that_a_person_wrote_stays(models: str) -> None:
    client = mlflow.MlflowClient()
    card = client.get_registered_model(NAME).description
    for words in ("Ours, for the exhibition.", card.replace("prompts in", "prompts of visitors in")):
        client.update_registered_model(NAME, words)
        registry.write_card(NAME)
        assert client.get_registered_model(NAME).description == words != card
    client.update_registered_model(NAME, "")
    registry.write_card(NAME)
    assert client.get_registered_model(NAME).description.partition("\n")[0] == card.partition("\n")[0]


@pytest.mark.parametrize(("domain", "notes", "tags", "name"), [
    ("math", {"seed": 1}, {}, "math · step 48"), ("math", {"seed": 2}, {}, "math · seed 2 · step 48"),
    ("math", {}, {}, "math · step 48"), ("math-to-wikipedia", {"seed": 1}, {"stage": "late"}, "math@late → wikipedia")])
def test_a_logged_model_is_named_by_what_differs(trained: Checkpoint, domain: str, notes: dict[str, int],
                                                 tags: dict[str, str], name: str) -> None:
    assert logged_name(dataclasses.replace(trained, domain=domain, notes=notes), tags) == name
