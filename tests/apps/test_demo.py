"""The page to play with: what it answers is what the science says, and refuses the rest."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from nanogpt.apps import demo
from nanogpt.apps.demo import create_app, create_server, ladders
from nanogpt.apps.guards import client_waits
from nanogpt.attribution.maps import attribute
from nanogpt.errors import UserError
from nanogpt.evaluation.evaluate import evaluate
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import generate
from nanogpt.serving.turns import Interrupted
from nanogpt.text.corpus import make_split
from nanogpt.tracking import registry
from nanogpt.tracking.registry import Version


@pytest.fixture
def page(models: str) -> Iterator[FlaskClient]:
    with create_app(registry.catalogue()).test_client() as client:
        yield client


def test_it_writes_what_the_checkpoint_at_that_step_writes(page: FlaskClient, checkpoints: list[Checkpoint]) -> None:
    steps = page.get("/about").get_json()["steps"]
    assert steps == [checkpoint.step for checkpoint in checkpoints]
    for step, checkpoint in ((steps[-1], checkpoints[-1]), (steps[1] + 1, checkpoints[1])):
        answer = page.post("/write", json={"domain": "shakespeare", "step": step, "prompt": "To be", "characters": 12})
        (written,) = generate(checkpoint.build(), checkpoint.vocabulary, ["To be"], 12)
        assert answer.get_json() == {"step": checkpoint.step, "text": written}


def test_what_a_model_does_not_know_is_named(page: FlaskClient) -> None:
    unknown = [page.post("/read", json={"domain": "shakespeare", "prompt": prompt}).get_json()["unknown"]
            for prompt in ("To ☃be", "To be")]
    assert unknown == ["☃", ""]


def test_it_reads_with_shares_and_likely_characters(page: FlaskClient, trained: Checkpoint) -> None:
    answer = page.post("/read", json={"domain": "shakespeare", "prompt": "To be"}).get_json()
    (result,) = attribute(trained.build(), trained, ["To be"])
    assert "".join(target["character"] for target in answer["targets"]) == result.targets
    assert len(answer["positions"]) == 5 and all(len(entry["top"]) == 5 for entry in answer["positions"])


def test_the_prompt_costs_what_an_evaluation_says(page: FlaskClient, checkpoints: list[Checkpoint]) -> None:
    for step, text in ((0, "To be"), (1, "To be, or ☃ not to be: " * 20)):
        checkpoint = checkpoints[-step]
        answer = page.post("/score", json={"domain": "shakespeare", "prompt": text, "step": checkpoint.step}).get_json()
        expected = evaluate(checkpoint.build(), checkpoint, make_split(text, checkpoint.vocabulary)).bits_per_byte
        assert answer == {"step": checkpoint.step, "bits_per_byte": pytest.approx(expected, rel=1e-4)}


@pytest.mark.parametrize(("kind", "question", "message"), [
    ("write", {"domain": "cooking"}, "domain must be one of shakespeare"),
    ("write", {"domain": "shakespeare", "characters": 10**9}, "characters must be in"),
    ("write", {"domain": "shakespeare", "temperature": "hot"}, "temperature must be a number, got 'hot'"),
    ("write", {"domain": "shakespeare", "step": "late"}, "step must be a number, got 'late'"),
    ("write", {"domain": "shakespeare", "characters": None}, "characters must be a number, got None"),
    ("write", {"domain": ["shakespeare"]}, "domain must be a text, got ['shakespeare']"),
    ("write", {"domain": "shakespeare", "prompt": None}, "prompt must be a text, got None"),
    ("write", {"domain": "shakespeare", "prompt": 3}, "prompt must be a text, got 3"),
    ("read", {"domain": "shakespeare", "prompt": "a" * 10_001}, "prompt must have at most 10000 characters"),
    ("write", {"domain": "shakespeare", "characters": 2.5}, "characters must be a number, got 2.5"),
    ("write", {"domain": "shakespeare", "characters": True}, "characters must be a number, got True"),
    ("write", {"domain": "shakespeare", "seed": -1}, "seed must be in"),
    ("write", {"domain": "shakespeare", "seed": 2**70}, "seed must be in"),
    ("write", {"domain": "shakespeare", "temperature": "nan"}, "temperature must be"),
    ("write", {"domain": "shakespeare", "step": "1" * 5000}, "step must be a number"),
    ("score", {"domain": "shakespeare", "prompt": ""}, "prompt must have at least one character"),
    ("score", {"domain": "cooking", "prompt": "x"}, "domain must be one of shakespeare"),
    ("read", ["shakespeare"], "question must be a JSON object"),
    ("read", {"domain": "shakespeare", "prompt": ""}, "at least one character")])
def test_what_is_refused(page: FlaskClient, kind: str, question: object, message: str) -> None:
    answer = page.post(f"/{kind}", json=question)
    assert answer.status_code == 400 and message in answer.get_json()["error"]
    assert "\n" not in answer.get_json()["error"]


@pytest.mark.parametrize(("body", "status"), [
    (b"", 400), (b"{", 400), (b"\xff", 400), (b"[" * 100_000, 400), (b'{"domain":' * 10_000, 400),
    (b'{"step": ' + b"1" * 5000 + b"}", 400), (b" " * 200_001, 413)])
def test_what_is_no_json_is_refused_as_json(page: FlaskClient, body: bytes, status: int) -> None:
    answer = page.post("/write", data=body, content_type="application/json")
    assert answer.status_code == status and answer.get_json()["error"]
    assert page.post("/write", data=b"{}", content_type="text/plain").status_code == 415     # no preflight, no answer
    assert page.get("/write").status_code == 405 and page.get("/nothing").get_json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7860", "localhost:7860"])
def test_the_page_answers_to_this_machines_names_alone_and_in_no_frame(page: FlaskClient, host: str) -> None:
    for path in ("/", "/about"):
        known, strange = page.get(path, headers={"Host": host}), page.get(path, headers={"Host": "evil.example:7860"})
        assert known.status_code == 200 and strange.status_code == 400
        for answer in (known, strange):
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_work_stops_when_the_client_has_gone(models: str) -> None:
    here, there = socket.socketpair()
    assert client_waits(None) and client_waits(here)
    question = {"characters": 500}
    uri = registry.catalogue()[0].uri
    assert len(demo.write(uri, "To be", question, lambda: client_waits(here))) == 500
    there.close()
    assert not client_waits(here)
    with pytest.raises(Interrupted, match="nobody waits"):
        demo.write(uri, "To be", question, lambda: client_waits(here))
    here.close()
    assert not client_waits(here)


def test_a_fault_of_the_page_is_not_called_the_users(page: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "read", lambda uri, prompt: [].index(prompt))
    with pytest.raises(ValueError, match="is not in list"):
        page.application.testing = True
        page.post("/read", json={"domain": "shakespeare", "prompt": "To be"})


@pytest.mark.parametrize("port", [-1, 65536, 10**12])
def test_a_port_that_cannot_be_had_is_refused(models: str, port: int) -> None:
    with pytest.raises(UserError, match=r"port must be a free one in \[0, 65535\], got"):
        create_server(registry.catalogue(), port)


def test_a_port_that_is_taken_is_refused(models: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="in use"):
        create_server(registry.catalogue(), taken.getsockname()[1])


def test_a_model_that_others_registered_under_such_a_name_is_left_out() -> None:
    foreign = Version("nanogpt-b", 1, "run", {}, ())
    ours = Version("nanogpt-a", 1, "run", {"domain": "a", "step": "3"}, ())
    spoilt = Version("nanogpt-a", 2, "other", {"domain": "a", "step": "three"}, ())      # in the UI
    assert ladders([foreign, ours, spoilt]) == {"a": {3: "models:/nanogpt-a/1"}}


def test_the_newest_training_counts_and_adapted_models_do_not() -> None:
    def version(number: int, run_id: str, **tags: str) -> Version:
        return Version("nanogpt-a", number, run_id, {"domain": "a", "step": str(number), **tags}, ())

    adapted = version(4, "other", parent="models:/nanogpt-a/1")
    steps_by_domain = ladders([version(1, "old"), version(2, "new"), version(3, "new"), adapted])
    assert steps_by_domain == {"a": {2: "models:/nanogpt-a/2", 3: "models:/nanogpt-a/3"}}
    with pytest.raises(ValueError, match="at least one training"):
        create_app([])
