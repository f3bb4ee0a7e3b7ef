"""Command lines of chance, really run: each ends well or with one line, and none is silent for long."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import mlflow
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from nanogpt.apps import demo
from nanogpt.commands.app import COMMANDS, Commands
from nanogpt.text.sources import DomainText

SEED = 15_5
QUIET_SECONDS, LONGEST_SECONDS = 20, 60
SMOKE = ("--preset", "smoke", "--device", "cpu")
SMALL: dict[str, Sequence[str]] = {
    "preset": ["smoke"], "device": ["cpu", "auto"], "seed": ["1", "2", "7"], "corpora": ["embedded"],
    "domains": ["alpha=alpha.txt,beta=beta.txt", "alpha=alpha.txt"], "cache": ["", "cache"],
    "equal_bytes": ["true", "no"], "split": ["spread", "contiguous"], "min_count": ["1", "20"],
    "n_layer": ["1", "2"], "n_head": ["1", "2"], "n_embd": ["8", "32"], "block_size": ["8", "32"],
    "dropout": ["0", "0.5"], "seeds": ["1", "2"], "train_together": ["0", "1", "2"], "max_steps": ["1", "4"],
    "batch_size": ["1", "3"], "checkpoints": ["1", "3"], "log_every": ["1", "100"], "state_seconds": ["0", "30"],
    "precision": ["auto", "float32", "bfloat16"], "compile": ["auto", "off"], "warmup_steps": ["0", "9"],
    "stages": ["early", "early,late"], "shots": ["1", "2"], "grid_shots": ["1", "1,2"], "transfer_seeds": ["1", "2"],
    "fine_tune": ["all", "head"], "extend_vocabulary": ["no", "yes"], "transfer_steps": ["0", "1", "2"],
    "transfer_batch_size": ["1", "4"], "trials": ["1", "2"], "tune_by": ["stage", "cell"], "tuning_seeds": ["1", "2"],
    "sampler": ["grid", "tpe"], "together": ["0", "1", "3"], "curve_points": ["1", "2"],
    "curve_characters": ["1", "300"], "storage": ["journal", "sqlite:///trials.db"], "eval_characters": ["300", "1"],
    "temperature_characters": ["1", "300"], "generate_characters": ["1", "30"],
    "temperatures": ["0", "0.8", "0,1.5", "0.0000001"], "prompts": ["", "prompts.txt"], "joint": ["no", "yes"],
    "top_characters": ["1", "5", "9999"], "methods": ["gradient_norm", "leave_one_out,occlusion", "smoothgrad"],
    "attribute_of": ["logit", "loss"], "contrastive": ["no", "yes"], "cam_block": ["0", "1"],
    "integration_points": ["1", "3"], "smooth_draws": ["1", "3"], "occlusion_span": ["1", "50"],
    "compared_prompts": ["0", "1"],
    "model": ["models:/nanogpt-alpha@late", "models:/nanogpt-beta/1", "models:/nanogpt-alpha@best"],
    "models": ["models:/nanogpt-alpha@late", "models:/nanogpt-alpha@early,models:/nanogpt-beta@late"],
    "source": ["models:/nanogpt-alpha@late", "models:/nanogpt-alpha@early"],
    "target": ["beta=beta.txt", "alpha=alpha.txt", "gamma=beta.txt"], "rate": ["0.001", "0"],
    "domain": ["alpha=alpha.txt", "beta=beta.txt", "joint"], "resume": [""], "study": ["latest"],
    "prompt": ["The ", "", "☃ é\n", "a" * 200], "temperature": ["0", "0.8", "0.0000001", "100"],
    "top_k": ["0", "1", "500"], "top_p": ["1", "0.5", "0.000001"],
    "action": ["list", "verify", "promote", "export"], "alias": ["mine", "late", ""], "output": ["", "out.safetensors"],
    "port": []}
"""Values that a command can do something with in a moment. Other settings keep their default."""
ABSURD = ["", " ", ",", "-1", "0", "1.5", "1e3", "nan", "inf", "-inf", "10000000000", "1" + "0" * 30, "0x10", "٣",
          "true", "abc", "None", "null", "../../x", "/dev/null", "/proc/self/mem", ".", "/", "alpha.txt", "latin.txt",
          "binary", "empty.txt", "missing.txt", "x" * 5000, "\udcff", "\n", "a\nb", "😀", "'; drop table runs; --",
          "{}", "%s%n", "models:/", "models:/nanogpt-alpha", "models:/nanogpt-alpha@nothing",
          "models:/nanogpt-alpha/99", "runs:/", "runs:/0/x", "models:/../..", "file:///etc/passwd",
          "http://127.0.0.1:9/x", "s3://x/y", "sqlite:////proc/x.db", "foo://x", "x=y", "=x", "x=",
          "alpha=missing.txt", "alpha=.", "alpha=latin.txt", "alpha=binary", "alpha=empty.txt", "alpha=short.txt",
          "all=alpha.txt", "joint=alpha.txt", "scratch=alpha.txt", "a-to-b=alpha.txt", "X=alpha.txt", "a,b",
          "math@late", "v1", "latest", "--help", "--seed", "-h", "\x00"]
WEIGHTS = {"generate": 30, "registry": 20, "transfer": 9, "tune": 8, "evaluate": 9, "analyze": 9, "train": 8,
           "report": 2, "study": 2, "adapt": 1, "demo": 2}
REQUIRED = {"generate": ["model"], "transfer": ["source", "target"], "tune": ["source", "target"],
            "evaluate": ["models"], "analyze": ["models"], "train": ["domain"]}


class Silent(BaseException):
    """A command said nothing for QUIET_SECONDS."""


class Stopped(Exception):
    """A command was Silent or Long."""


class Long(BaseException):
    """A command goes on and says so."""


def command(name: str) -> click.Command:
    found = Commands().get_command(click.Context(click.Command("x")), name)
    assert found is not None
    return found


def line(choice: random.Random, names: Sequence[str], model: str) -> tuple[str, list[str]]:
    """A command and its arguments: small values, of which a few are replaced by absurd ones. It reads `model`'s."""
    name = choice.choices(names, [WEIGHTS[name] for name in names])[0]
    options = {str(option.name): option.opts[0] for option in command(name).params if isinstance(option, click.Option)}
    small = [option for option in options if SMALL.get(option) and option not in ("preset", "device")]
    given = [*REQUIRED.get(name, ()), *choice.sample(small, min(len(small), choice.randrange(6)))]
    values = {option: choice.choice(SMALL[option]) for option in given}
    if "domains" in options:
        values.setdefault("domains", SMALL["domains"][0])
    for option in choice.sample(sorted(options), choice.choice([0, 0, 1, 1, 1, 2])):
        if option not in ("help", "port"):
            values[option] = choice.choice(ABSURD)
    if name == "demo":
        values["port"] = choice.choice(["-1", "65536", "10000000000", "abc", "", "0"])
    arguments = [word.replace("nanogpt-alpha", f"nanogpt-{model}")
                 for option, value in values.items() for word in (options[option], value)]
    if choice.random() < 0.03:
        arguments.insert(choice.randrange(len(arguments) + 1), choice.choice(ABSURD))
    smoke = [] if "preset" in values else list(SMOKE[:2])
    return name, [*smoke, *([] if "device" in values else SMOKE[2:]), *arguments]


@contextmanager
def watched() -> Iterator[None]:
    """Raise Silent or Long inside the block."""
    began = spoke = time.monotonic()
    said = 0

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal spoke, said
        sys.stdout.flush()
        sys.stderr.flush()
        if (at := sys.stdout.buffer.tell() + sys.stderr.buffer.tell()) != said:
            said, spoke = at, time.monotonic()
        if time.monotonic() - spoke > QUIET_SECONDS:
            raise Silent
        if time.monotonic() - began > LONGEST_SECONDS:
            raise Long

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(name: str, arguments: Sequence[str]) -> Result:
    inner = command(name)

    class Watched(click.Command):
        def invoke(self, context: click.Context) -> object:
            try:
                with watched():
                    return super().invoke(context)
            except (Silent, Long) as error:     # the runner lets what is no Exception through
                raise Stopped(error) from error

    shell = Watched(name, params=inner.params, callback=inner.callback, context_settings=inner.context_settings)
    return CliRunner().invoke(shell, list(arguments))


def verdict(result: Result) -> str:
    """How a command ended; AssertionError where that is no good end."""
    if isinstance(result.exception, Stopped) and isinstance(result.exception.args[0], Long):
        return "long"
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (0, 2) and "Traceback" not in result.output
    errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert len(errors) == (result.exit_code == 2) and all(len(text) < 6000 for text in errors), result.stderr[-3000:]
    return "refused" if errors else "well"


def make_files(folder: Path, texts: Sequence[DomainText]) -> None:
    (folder / "alpha.txt").write_text(texts[0].text[:30_000])
    (folder / "beta.txt").write_text(texts[2].text[:24_000])
    (folder / "prompts.txt").write_text("To be\nLet x be ☃\n")
    (folder / "short.txt").write_text("Boil the water.\n")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("crème brûlée\n".encode("latin-1") * 500)
    (folder / "binary").write_bytes(bytes(range(256)) * 20)


def fuzz(count: int, names: Sequence[str], model: str = "alpha") -> None:
    """Run command lines; all faults are told together, each with its line."""
    choice, ends, faults = random.Random(SEED), dict[str, int](), list[str]()
    began = time.monotonic()
    for number in range(count):
        name, arguments = line(choice, names, model)
        took = time.monotonic()
        result = run(name, arguments)
        took = time.monotonic() - took
        try:
            end = verdict(result)
            assert mlflow.active_run() is None or end == "long", "a run is left open"
        except AssertionError as error:
            end = "fault"
            trace = "" if result.exc_info is None else str(result.exc_info[2] and frames(result.exc_info[2]))
            faults.append(f"{name} {str(arguments)[:600]}\n    {str(error)[:1500]}\n    {trace}")
        while mlflow.active_run():
            mlflow.end_run()
        ends[end] = ends.get(end, 0) + 1
        if os.environ.get("FUZZ_LOG"):
            with open(os.environ["FUZZ_LOG"], "a") as log:
                log.write(f"{number} {end} {took:.1f} {name} {' '.join(arguments)[:300]!a}\n")
                if end == "fault":
                    log.write(faults[-1] + "\n")
    print(f"{count} command lines in {time.monotonic() - began:.0f} s: {ends}")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:20])


def frames(trace: object) -> str:
    import traceback

    return " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(trace)[-6:])  # type: ignore[arg-type]


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that could begin ends at once."""
    made = demo.create_server

    def ends_at_once(versions, port):  # type: ignore[no-untyped-def]
        server = made(versions, port)
        server.serve_forever = server.server_close
        return server

    monkeypatch.setattr(demo, "create_server", ends_at_once)


def test_some_command_lines_of_chance(models: str, texts: list[DomainText], tmp_path: Path,
                                      caplog: pytest.LogCaptureFixture) -> None:
    make_files(tmp_path, texts)
    fuzz(60, ["generate", "registry"], "shakespeare")


@pytest.mark.slow
def test_two_thousand_command_lines_of_chance(texts: list[DomainText], tmp_path: Path, no_server: None,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path, texts)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("fuzz", str(tmp_path / "mlruns")))
    logging.getLogger("nanogpt").handlers.clear()
    base = run("study", [*SMOKE, "--domains", SMALL["domains"][0], "--max-steps", "6", "--checkpoints", "3",
                         "--transfer-steps", "1", "--trials", "1", "--curve-points", "1", "--eval-characters", "500",
                         "--generate-characters", "20", "--methods", "gradient_norm"])
    assert base.exit_code == 0, base.output
    try:
        fuzz(int(os.environ.get("FUZZ_COUNT", "2000")), list(COMMANDS))
        running = MlflowClient().search_runs(["0", mlflow.get_experiment_by_name("fuzz").experiment_id],
                                             "attributes.status = 'RUNNING'")
        assert not running
    finally:
        mlflow.set_tracking_uri(None)
