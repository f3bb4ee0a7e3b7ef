"""The served model: what it answers, what it refuses, and that it needs nothing but itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from support import elsewhere_environment, served_model

from nanogpt.attribution.maps import attribute
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import Sampling, generate, top_characters
from nanogpt.serving import bundle
from nanogpt.serving import pyfunc as serving
from nanogpt.tracking import registry

LATE = "models:/nanogpt-shakespeare@late"
PARAMETERS = {"max_new_tokens": 30, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 5}


@pytest.fixture
def late(models: str) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(LATE)


def test_text_is_what_the_science_writes(late: mlflow.pyfunc.PyFuncModel, trained: Checkpoint) -> None:
    prompts = ["ROMEO:", "To be"]
    written = generate(trained.build(), trained.vocabulary, prompts, 30, sampling=Sampling(0.7, 9, 0.9), seeds=5)
    assert late.predict(prompts, params=PARAMETERS) == [p + text for p, text in zip(prompts, written, strict=True)]
    assert len(late.predict("ROMEO:")[0]) == len("ROMEO:") + 200


def test_distribution_is_a_row_for_each_character(late: mlflow.pyfunc.PyFuncModel, trained: Checkpoint) -> None:
    (answer,) = late.predict(["To be"], params={"return": "distribution", "top_k": 3})
    rows = top_characters(trained.build(), trained, "To be", 3)
    assert [entry["character"] for entry in answer["positions"]] == list("To be")
    answered = [(p["entropy_nats"], t["character"], t["probability"]) for p in answer["positions"] for t in p["top"]]
    assert answered == [(row["entropy_nats"], row["candidate"], row["probability"]) for row in rows]
    assert len(late.predict(["T"], params={"return": "distribution"})[0]["positions"][0]["top"]) == 5


@pytest.mark.parametrize("wanted", ["distribution", "attribution"])
def test_unknown_characters_of_a_prompt_are_named(wanted: str, late: mlflow.pyfunc.PyFuncModel) -> None:
    answers = late.predict(["To ☃be", "To be"], params={"return": wanted})
    assert [answer["unknown"] for answer in answers] == ["☃", ""]


def test_attribution_shares_sum_to_one(late: mlflow.pyfunc.PyFuncModel, trained: Checkpoint) -> None:
    (answer,) = late.predict(["To be"], params={"return": "attribution"})
    (result,) = attribute(trained.build(), trained, ["To be"])
    assert "".join(target["character"] for target in answer["targets"]) == result.targets
    for t, target in enumerate(answer["targets"]):
        assert len(target["shares"]) == t + 1 and sum(target["shares"]) == pytest.approx(1)
        assert target["shares"] == pytest.approx((result.scores_TS[t] / result.scores_TS[t].sum())[:t + 1].tolist())


@pytest.mark.parametrize(("params", "message"), [
    ({"topk": 3}, "parameters must be among max_new_tokens, temperature, top_k, top_p, seed, return, got ['topk']"),
    ({"return": "poem"}, "return must be one of text, distribution, attribution, got 'poem'"),
    ({"temperature": -1.0}, "temperature must be >= 0 and finite, got -1.0"), ({"top_p": 0.0}, "top_p must be in"),
    ({"max_new_tokens": -1}, "max_new_tokens must be in [0, 10000], got -1"),
    ({"max_new_tokens": 10**9}, "max_new_tokens must be in [0, 10000], got 1000000000"),
    ({"top_k": -2, "return": "distribution"}, "top_k must be in [0, 20]"), ({"top_k": -2}, "top_k must be >= 0"),
    ({"seed": -1}, "seed must be in [0, 2**63), got -1"), ({"seed": 2**63}, "seed must be in [0, 2**63)"),
    ({"seed": None}, "seed must be a number, got None"), ({"return": None}, "return must be a text, got None"),
    ({"temperature": "hot"}, "Invalid parameters found")])
def test_what_is_refused(late: mlflow.pyfunc.PyFuncModel, params: dict[str, object], message: str) -> None:
    with pytest.raises(MlflowException) as caught:
        late.predict(["To be"], params=params)
    assert message in caught.value.message and caught.value.get_http_status_code() == 400


@pytest.mark.parametrize(("sent", "message"), [
    ([None], "prompt must be a text, got None"), (["a", 3], "prompt must be a text, got 3"), ([True], "got True"),
    ([["a", "b"]], "prompt must be a text, got ['a', 'b']"), ([], "prompts must be 1 to 32, got 0"),
    (["a"] * 33, "prompts must be 1 to 32, got 33"), (["a" * 10_001], "at most 10000 characters, got 10001"),
    ({"a": ["x"]}, "prompts must be a list of texts"), (3, "prompts must be a list of texts, got 3"),
    (pd.DataFrame({"p": ["a"], "q": ["b"]}), "prompts must be one column, got ['p', 'q']"),
    (pd.DataFrame({"p": ["a", None]}), "prompt must be a text, got nan")])
def test_what_is_no_prompt_is_refused(late: mlflow.pyfunc.PyFuncModel, sent: Any, message: str) -> None:
    with pytest.raises(MlflowException) as caught:
        late.predict(sent)
    assert message in caught.value.message and caught.value.get_http_status_code() == 400
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_a_text_a_list_and_a_column_are_prompts(late: mlflow.pyfunc.PyFuncModel) -> None:
    params = {"max_new_tokens": 3}
    answers = [late.predict(sent, params=params) for sent in (
        "To be", ["To be"], pd.DataFrame({"any": ["To be"]}), pd.Series(["To be"]), np.array(["To be"]))]
    assert all(answer == answers[0] and len(answer[0]) == 8 for answer in answers)


@pytest.mark.parametrize("kind", ["distribution", "attribution"])
def test_an_empty_prompt_has_no_positions(late: mlflow.pyfunc.PyFuncModel, kind: str) -> None:
    with pytest.raises(MlflowException, match="prompt must have at least one character"):
        late.predict([""], params={"return": kind})


def test_other_models_of_the_process_keep_mlflows_own_way(late: mlflow.pyfunc.PyFuncModel, tmp_path: Path) -> None:
    class Echo(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return list(model_input)

    signature = ModelSignature(inputs=Schema([ColSpec("string")]), params=serving.SIGNATURE.params)
    mlflow.pyfunc.save_model(tmp_path / "echo", python_model=Echo(), signature=signature, pip_requirements=[])
    assert len(mlflow.pyfunc.load_model(str(tmp_path / "echo")).predict(["a"], params={"topk": 3})) == 1


def test_cpu_threads_are_those_of_before_after_a_prediction(late: mlflow.pyfunc.PyFuncModel) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        late.predict(["To be"], params={"max_new_tokens": 1})
        assert torch.get_num_threads() == 2
        with serving.cpu_threads(1):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_two_versions_of_the_code_live_in_one_process(models: str, trained: Checkpoint, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    sources = bundle.sources_behind("serving.pyfunc")
    changed = sources["serving/pyfunc.py"].replace("prompt + text for prompt", "text.upper() for prompt")
    assert changed != sources["serving/pyfunc.py"]
    monkeypatch.setattr(bundle, "sources_behind", lambda module: sources | {"serving/pyfunc.py": changed})
    code = bundle.write_bundle("serving.pyfunc", "_load_pyfunc", tmp_path)
    monkeypatch.setattr(registry, "served_code", lambda: code)
    with mlflow.start_run() as run:
        logged = registry.log_model(trained, trained_file(trained, tmp_path), {}, run.info.run_id)
    other = mlflow.pyfunc.load_model(f"models:/{logged}")
    ours = mlflow.pyfunc.load_model(LATE)
    for _ in range(2):
        (loud,), (plain,) = (model.predict(["To be"], params=PARAMETERS) for model in (other, ours))
        assert loud == plain.removeprefix("To be").upper()


def trained_file(trained: Checkpoint, folder: Path) -> Path:
    path = folder / "other.pt"
    torch.save(trained.payload(), path)
    return path


def test_it_loads_in_a_fresh_process_elsewhere_without_the_repository(model_store: str, tmp_path: Path) -> None:
    program = ("import sys; sys.modules['nanogpt'] = None\n"     # the package itself cannot be imported there
               "import mlflow\n"
               f"print(mlflow.pyfunc.load_model({LATE!r}).predict(['ROMEO:'], params={PARAMETERS!r}))")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=elsewhere_environment(model_store),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    (text,) = eval(done.stdout)
    assert text.startswith("ROMEO:") and len(text) == len("ROMEO:") + 30


@pytest.fixture(scope="module")
def server(model_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the last checkpoint."""
    with served_model(LATE, model_store, tmp_path_factory.mktemp("server")) as (address, _):
        yield address


def curl(address: str, body: object) -> tuple[int, dict[str, object]]:
    command = ["curl", "-s", "-w", "\n%{http_code}", address, "-H", "Content-Type: application/json", "-d",
               json.dumps(body)]
    answer, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(answer)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_server_answers_curl(server: str, trained: Checkpoint) -> None:
    status, answer = curl(server, {"inputs": ["ROMEO:"], "params": PARAMETERS})
    (written,) = generate(trained.build(), trained.vocabulary, ["ROMEO:"], 30, sampling=Sampling(0.7, 9, 0.9), seeds=5)
    assert status == 200 and answer == {"predictions": ["ROMEO:" + written]}
    status, answer = curl(server, {"inputs": ["ab"], "params": {"return": "attribution"}})
    assert status == 200 and len(answer["predictions"][0]["targets"]) == 2  # type: ignore[index]
    status, answer = curl(server, {"inputs": ["ab"], "params": {"topk": 1}})
    assert status == 400 and "got ['topk']" in str(answer["message"])
    for wrong in ([None], [1], ["a" * 20_000], [["a", "b"]]):
        status, answer = curl(server, {"inputs": wrong})
        assert status == 400 and str(answer["message"]).startswith("prompt must") and "\n" not in str(answer["message"])
