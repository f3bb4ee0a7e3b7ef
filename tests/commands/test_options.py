"""The command line: a field is an option, and what a user can cause is one line and exit code 2."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import mlflow
import pytest
from click.testing import CliRunner, Result

from nanogpt.commands import options
from nanogpt.commands.analyze import analyze
from nanogpt.commands.evaluate import evaluate
from nanogpt.commands.generate import generate
from nanogpt.commands.study import study as main
from nanogpt.commands.train import train
from nanogpt.commands.transfer import transfer
from nanogpt.config import GROUPS, Config
from nanogpt.model.allocator import keep_freed_memory


@options.command("data", "model", "train", "transfer", "analysis")
def show(config: Config) -> None:
    click.echo(f"{config.preset} {config.model.n_embd} {config.model.block_size} {config.data.equal_bytes}")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_hyphens_and_underscores_are_the_same_and_empty_means_preset() -> None:
    spelled = [run(show, "--n-embd", "64", "--equal-bytes", "false"),
               run(show, "--n_embd", "64", "--equal_bytes", "no")]
    assert {result.output for result in spelled} == {"quick 64 128 False\n"}
    assert run(show, "--preset", "smoke", "--n-embd", "").output == "smoke 32 32 True\n"


def test_help_lists_each_option_once_in_the_section_of_its_group() -> None:
    sections = re.split(r"^(?=\S)", run(main, "--help").output, flags=re.MULTILINE)[1:]
    listed = {section.partition(":\n")[0]: re.findall(r"^  --([a-z-]+)", section, re.MULTILINE) for section in sections}
    for group, owner in GROUPS.items():
        own = [item.name.replace("_", "-") for item in dataclasses.fields(owner) if "help" in item.metadata]
        assert listed[options.SECTIONS[group]] == own
    assert listed[options.OWN_SECTION] == ["resume", "help"]
    assert listed[options.SECTIONS["shared"]] == ["preset", "seed", "device"]


def test_a_command_ends_with_where_its_run_is(models: str) -> None:
    result = run(generate, "--model", "models:/nanogpt-shakespeare@late", "--prompt", "To be",
                 "--generate-characters", "5")
    (found,) = mlflow.search_runs(filter_string="tags.phase = 'generate'", output_format="list")
    page = f"http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
    assert result.stderr.splitlines()[-1] == f"where to look: mlflow ui, then {page}"
    assert len(result.stdout) == len("To be") + 5 + len("\n")


def test_a_command_has_freed_memory_kept() -> None:
    keep_freed_memory.cache_clear()
    run(show)
    assert keep_freed_memory.cache_info().currsize == 1


BAD = [
    (main, ["--preset", "quik"], "preset must be one of smoke, quick, standard, gpu, got 'quik'"),
    (main, ["--device", "tpu"], "device must be auto, cpu, cuda or mps, got 'tpu'"),
    (main, ["--n-embd", "100", "--n-head", "7"], "n_embd must be divisible by"),
    (main, ["--block-size", "0"], "block_size must be > 0, got 0"),
    (main, ["--rate-high", "inf"], "rate_high must be finite, got inf"),
    (train, ["--precision", "half"], "precision must be one of auto, float32, bfloat16, got 'half'"),
    (train, ["--compile", "true"], "compile must be one of auto, on, off, got 'true'"),
    (main, ["--cam-block", "9"], "cam_block must be <= n_layer = 3, got 9"),
    (main, ["--preset", "smoke", "--domains", "math", "--grid-shots", "4,99999"], "shots must be at most the"),
    (main, ["--preset", "smoke", "--domains", "math", "--prompts", "empty.txt"], "prompts must have 1 to 1000 lines"),
    (main, ["--preset", "smoke", "--domains", "math", "--storage", "foo://x"], "storage must be a journal file or"),
    (main, ["--weight-decay", "inf"], "weight_decay must be >= 0 and finite, got inf"),
    (main, ["--smooth-noise", "nan"], "smooth_noise must be >= 0 and finite, got nan"),
    (main, ["--stages", ","], "stages must be among early, mid, late, final, got ','"),
    (main, ["--domains", "joint=x.txt"], "domain name must not be all or joint, which stand for several"),
    (train, ["--domain", "joint", "--domains", "math"], "domains must be at least two for joint, got 'math'"),
    (main, ["--extend-vocabulary", "yes"], "extend_vocabulary must be off but in transfer and tune"),
    (main, ["--grid-shots", "4,x"], "grid_shots must be numbers > 0, comma-separated, got '4,x'"),
    (main, ["--stages", "erly"], "stages must be among early, mid, late, final, got 'erly'"),
    (main, ["--temperatures", "warm"], "temperatures must be numbers, comma-separated, got 'warm'"),
    (main, ["--corpora", "none"], "corpora must be embedded or full, got 'none'"),
    (main, ["--domains", "shakespear"], "shakespeare"),
    (main, ["--domains", "math,math=x.txt"], "x.txt"),
    (train, ["--domain", "recipes=nowhere.txt"], "nowhere.txt"),
    (train, ["--domain", "recipes=short.txt", "--domains", "recipes=short.txt"], "block_size"),
    (train, ["--domain", "recipes=empty.txt"], "empty"),
    (train, ["--domain", "recipes=binary.txt"], "binary.txt"),
    (train, ["--domain", "recipes=latin.txt"], "UTF-8"),
    (train, ["--resume", "nothing"], "resume must be the id of a run of the entry point train, got 'nothing'"),
    (evaluate, ["--models", "missing.pt"], "missing.pt"),
    (evaluate, ["--models", "short.txt"], "short.txt"),
    (analyze, ["--models", "missing.pt", "--prompts", "latin.txt"], "missing.pt"),
    (main, ["--cache", "a\udcff"], "cache must be UTF-8 text, got 'a\\udcff'"),
    (generate, ["--model", "a.pt", "--prompt", "\udcff"], "prompt must be UTF-8 text, got '\\udcff'"),
    (generate, ["--model", "models:/"], "model must exist in the registry or a run, got 'models:/'"),
    (generate, ["--model", "runs:/nothing/x"], "model must exist in the registry or a run, got 'runs:/nothing/x'"),
    (generate, ["--model", "a.pt,b.pt"], "checkpoint must be an existing file, got 'a.pt,b.pt'"),
    (generate, ["--model", "models:/nanogpt-nothing@late"], "models:/nanogpt-nothing@late"),
    (generate, ["--model", "missing.pt", "--temperature", "-1"], "temperature must be >= 0 and finite, got -1.0"),
]


@pytest.mark.parametrize(("command", "arguments", "text"), BAD, ids=[f"{c.name} {' '.join(a)}" for c, a, _ in BAD])
def test_bad_input_gets_one_line_and_exit_code_2(command, arguments, text, elsewhere: Path) -> None:
    (elsewhere / "short.txt").write_text("Boil the water.\n" * 5)
    (elsewhere / "empty.txt").write_text("")
    (elsewhere / "binary.txt").write_bytes(b"PK\x00\x01" * 500)
    (elsewhere / "latin.txt").write_bytes("crème brûlée\n".encode("latin-1") * 500)
    result = run(command, *arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and text in lines[0]
    assert "Traceback" not in result.output
    assert not list(elsewhere.glob("mlruns/**/*"))


@pytest.mark.parametrize("arguments", [["--rate", "inf"], ["--rate", "nan"], ["--rate", "-1"], ["--storage", "folder"],
                                       ["--storage", "text.txt"], ["--storage", "text.txt/journal"],
                                       ["--storage", "foo://x"], ["--storage", "sqlite:////proc/nothing/x.db"]])
def test_a_rate_or_a_storage_that_cannot_be_is_one_line(arguments: list[str], models: str, elsewhere: Path) -> None:
    (elsewhere / "folder").mkdir()
    (elsewhere / "text.txt").write_text("Boil the water, then add the rice.\n" * 200)
    result = run(transfer, "--source", "models:/nanogpt-shakespeare@late", "--target", "recipes=text.txt",
                 "--domains", "recipes=text.txt", "--preset", "smoke", "--transfer-steps", "1", *arguments)
    assert result.exit_code == 2, result.output
    assert f"Error: {arguments[0].removeprefix('--')} must be" in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(("option", "value", "line"), [
    ("--max-steps", "1e3", "Error: max_steps must be a whole number, got '1e3'\n"),
    ("--learning-rate", "fast", "Error: learning_rate must be a number, got 'fast'\n"),
    ("--joint", "perhaps", "Error: joint must be true or false, got 'perhaps'\n")])
def test_a_value_of_another_type_is_refused_in_one_line(option: str, value: str, line: str) -> None:
    result = run(show, option, value)
    assert (result.exit_code, result.stderr) == (2, line)
