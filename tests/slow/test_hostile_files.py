"""Files made to do harm: each is refused in one line, quickly and in little memory, or is as good as any other.

Most agree with themselves: their digests are right, so that what they say is all that can be found wrong.
"""

from __future__ import annotations

import copy
import io
import pickle
import random
import resource
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from nanogpt.commands.generate import generate
from nanogpt.config import Config
from nanogpt.errors import UserError
from nanogpt.model.checkpoint import Checkpoint, save_checkpoint
from nanogpt.model.payload import DIGEST, digest_of
from nanogpt.model.safetensors_io import save_safetensors
from nanogpt.text.corpus import Corpus
from nanogpt.text.sources import load_domain
from nanogpt.training.loop import train
from nanogpt.training.state import load_state, save_state
from nanogpt.transfer.tuning import open_study, study_name, tune

SEED = 300
LONGEST_SECONDS, MOST_BYTES = 5, 600_000_000
MARK = "somebody-was-here"
"""A file that hostile code would write."""


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(MARK).touch, ()


def deep(levels: int) -> Any:
    return [] if levels == 0 else [deep(levels - 1)]


VALUES: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 2**62, lambda: 10**30, lambda: 0.5, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "../../x", lambda: "a\nb", lambda: "\ud800",
    lambda: "x" * 1_000_000, lambda: [], lambda: {}, lambda: [1], lambda: {"a": 1}, lambda: {1: {2: {}}}, lambda: (),
    lambda: deep(40), lambda: b"bytes", lambda: torch.zeros(0), lambda: torch.ones(3), lambda: torch.tensor(torch.nan),
    lambda: torch.ones(2, 2).to_sparse(), lambda: torch.ones(1).expand(10**9),
    lambda: torch.ones(1).expand(10**5, 10**5),
    lambda: torch.ones(2, dtype=torch.complex64), lambda: torch.ones(2, dtype=torch.bool),
    lambda: torch.ones(2, dtype=torch.float16), lambda: torch.ones(2, requires_grad=True),
    lambda: torch.ones(2, device="meta"), lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    lambda: Code()]
"""What may stand anywhere in a file of values."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List where something stands in nested values."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items)[:40]:
        yield from places(item, (*path, key))


def changed(payload: dict[str, Any], choice: random.Random) -> dict[str, Any]:
    """Put one to three values where others belong, take one away, or add one."""
    payload = copy.deepcopy(payload)
    for _ in range(choice.choice([1, 1, 2, 3])):
        path = choice.choice(list(places(payload)))
        owner = payload
        for key in path[:-1]:
            owner = owner[key]
        how = choice.random()
        if how < 0.8:
            owner[path[-1]] = choice.choice(VALUES)()
        elif how < 0.9:
            del owner[path[-1]]
        elif isinstance(owner, dict):
            owner[choice.choice(["more", "x", 7])] = choice.choice(VALUES)()
    return payload


def write_payload(payload: dict[str, Any], path: Path) -> None:
    """Write values with the digest that they have, where they can have one."""
    try:
        digest = digest_of(payload, 50_000_000, numbers="model" not in payload)
    except Exception:
        digest = "0" * 64
    torch.save(payload | {DIGEST: digest}, path)


def no_payload(whole: Path, path: Path, choice: random.Random) -> None:
    """Write a file of another format in place of one of values."""
    payload = torch.load(whole, weights_only=True)
    kind = choice.randrange(10)
    if kind == 0:
        path.write_bytes(pickle.dumps({"model": Code()}))
    elif kind == 1:
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    elif kind == 2:
        module = torch.jit.script(torch.nn.Linear(2, 2))
        torch.jit.save(module, path)
    elif kind == 3:
        with tarfile.open(path, "w") as archive:
            archive.add(whole, "data.pkl")
    elif kind == 4:
        path.write_bytes(choice.randbytes(choice.choice([0, 1, 30, 5000])))
    elif kind == 5:
        path.write_bytes(b"PK\x03\x04" + choice.randbytes(5000) + b"PK\x05\x06" + bytes(18))
    elif kind == 6:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(20):
                archive.writestr(f"archive/data/{number}", bytes(20_000_000))
    elif kind == 7:
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as archive:
            for name in source.namelist():
                archive.writestr(name, pickle.dumps(Code()) if name.endswith("data.pkl") else source.read(name))
    elif kind == 8:
        torch.save(choice.choice(VALUES[:-1])(), path)
    else:
        path.write_bytes(whole.read_bytes() * 2)


@dataclass
class Place:
    """The files as they should be, and what reads them."""

    folder: Path
    trained: Checkpoint
    corpus: Corpus
    config: Config

    def read_model(self, path: Path) -> None:
        """Write with the model as a user would."""
        result = CliRunner().invoke(generate, ["--model", str(path), "--generate-characters", "3", "--device", "cpu"])
        if result.exit_code == 2:
            (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
            raise UserError(line)
        assert result.exit_code == 0, repr(result.exception)

    def read_state(self, path: Path) -> None:
        next(train(self.corpus, self.config, load_state(path)))

    def read_journal(self, path: Path) -> None:
        pair = (self.trained, self.corpus)
        (trials,) = tune([open_study(study_name([pair], "tuned", self.config), str(path))], [[pair]], self.config)
        assert len(trials) == 2

    def read_text(self, path: Path) -> None:
        load_domain(f"mine={path}")

    def hostile(self, kind: str, choice: random.Random) -> Path:
        """Write a hostile file of a kind."""
        path, whole = self.folder / "hostile", self.folder / kind
        path.unlink(missing_ok=True)
        if kind in ("checkpoint.pt", "state"):
            path = path.with_suffix(".pt")
            if choice.random() < 0.3:
                no_payload(whole, path, choice)
            else:
                payload = torch.load(whole, weights_only=True)
                del payload[DIGEST]
                write_payload(changed(payload, choice), path)
        elif kind == "model.safetensors":
            path = path.with_suffix(".safetensors")
            self.write_safetensors(path, choice)
        elif kind == "journal":
            lines = whole.read_bytes().splitlines(keepends=True)
            choice.shuffle(lines)
            path.write_bytes(b"".join(choice.choices(lines, k=choice.randrange(1, 30))))
        else:
            content = choice.choice([b"", b"\0", b"\xff\xfe", bytes(range(256)), "\u202e☃".encode(), b"\n" * 10**6,
                                     b"a" * 5_000_000, "\U0010ffff".encode() * 1000, b"\xed\xa0\x80", b"\xef\xbb\xbf"])
            path.write_bytes(content * choice.choice([1, 3]))
        return path

    def write_safetensors(self, path: Path, choice: random.Random) -> None:
        tensors, content = load_file(self.folder / "model.safetensors"), bytearray()
        if choice.random() < 0.5:
            name, tensor = choice.choice(sorted(tensors.items()))
            tensors[choice.choice([name, "more"])] = choice.choice([
                tensor * torch.nan, tensor.half(), tensor[:1].clone(), torch.zeros(0), torch.ones(3),
                tensor.long().clone()])
            save_file(tensors, path, metadata={"domain": choice.choice(['"x"', "{", "[" * 10_000, ""])})
            return
        content += (self.folder / "model.safetensors").read_bytes()
        header = choice.choice([b"\xff" * 8, (10**9).to_bytes(8, "little"), bytes(8), b"{" * 8])
        content[:8] = header
        path.write_bytes(bytes(content))


READERS: dict[str, Callable[[Place, Path], None]] = {
    "checkpoint.pt": Place.read_model, "model.safetensors": Place.read_model, "state": Place.read_state,
    "journal": Place.read_journal, "text": Place.read_text}


@pytest.fixture
def place(trained: Checkpoint, corpora: dict[str, Corpus], tiny_config: Config, models: str, tmp_path: Path) -> Place:
    settings = replace(tiny_config.transfer, trials=2, transfer_steps=1, curve_points=1, curve_characters=64)
    made = Place(tmp_path, trained, corpora["math"], replace(tiny_config, transfer=settings))
    save_checkpoint(trained, tmp_path / "checkpoint.pt")
    save_safetensors(trained, tmp_path / "model.safetensors")
    records = train(made.corpus, made.config)
    save_state(next(record for record in records if record.step == 10).state(), tmp_path / "state")
    made.read_journal(tmp_path / "journal")
    (tmp_path / "text").write_text("To be, or not to be\n" * 100)
    for kind, read in READERS.items():
        read(made, tmp_path / kind)
    return made


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_hostile_files_are_refused_or_as_good_as_any(place: Place, count: int) -> None:
    choice, refused, slowest, faults = random.Random(SEED), 0, 0.0, []
    kinds = ["checkpoint.pt"] * 4 + ["state"] * 3 + ["model.safetensors"] * 2 + ["journal", "text"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path, began = place.hostile(kind, choice), time.monotonic()
        try:
            READERS[kind](place, path)
        except UserError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 1500:
                faults.append(f"{number} {kind}: {str(error)[:2000]}")
        except BaseException as error:
            faults.append(f"{number} {kind}: {error!r:.500}")
        slowest = max(slowest, time.monotonic() - began)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    print(f"{count} files: {refused} refused, {count - refused} as good as any; slowest {slowest:.1f} s; "
          f"memory grown by {grown / 1e6:.0f} MB")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
    assert not Path(MARK).exists() and slowest < LONGEST_SECONDS and grown < MOST_BYTES


def test_what_is_hostile_here_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.load(io.BytesIO(pickle.dumps(Code())))
    assert Path(MARK).exists()
