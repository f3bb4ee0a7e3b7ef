"""What a corpus of many gigabytes costs: its first and second reading, and training from it.

    python benchmarks/large_corpus.py --folder /path/with/room --gigabytes 10
    python benchmarks/large_corpus.py --folder /path/with/room --gigabytes 10 --files 1

It writes the built-in domains' texts again and again, each time after a line with a counter, into files (packed or not,
by --ending), which the disk's cache then forgets. Each step is a process of its own, whose anonymous memory is sampled
every 20 ms: pages of mapped files, which the system takes back when it needs them, are not counted. Trainings from the
large corpus take turns, every 5 steps, with those from the first 5 000 000 characters of the same text under the same
vocabulary. What was written is deleted at the end.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import read_config, synchronize
from nanogpt.config import ALL, Config, listed_domains
from nanogpt.model.device import resolve_device
from nanogpt.text.corpus import Corpus, make_corpora
from nanogpt.text.sources import load_domain
from nanogpt.text.user_files import PACKED
from nanogpt.training.loop import train

SMALL_CHARACTERS = 5_000_000
SECONDS_BETWEEN_SAMPLES = 0.02


@functools.cache
def domain_texts(domains: str) -> list[str]:
    return [text for name in listed_domains(domains) if isinstance(text := load_domain(name).text, str)]


def texts(size: int, names: str) -> Iterator[bytes]:
    """Real text of at least `size` bytes: some built-in domains in turns, each after a line with a counter."""
    domains, counter = domain_texts(names), 0
    while size > 0:
        content = f"\n=== {counter} ===\n{domains[counter % len(domains)]}".encode()
        counter, size = counter + 1, size - len(content)
        yield content


def write_corpus(folder: Path, size: int, files: int, ending: str, domains: str) -> int:
    """Write files of about `size` bytes of text in all; returns their bytes on the disk, whose cache forgets them."""
    folder.mkdir(parents=True)
    written = 0
    for number in range(files):
        path = folder / f"part-{number:03}{ending}"
        if path.suffix in PACKED:
            import pyarrow

            packing = PACKED[path.suffix]
            with pyarrow.OSFile(str(path), "wb") as raw, pyarrow.CompressedOutputStream(raw, packing) as out:
                for content in texts(size // files, domains):
                    out.write(content)
        else:
            with path.open("wb") as out:
                for content in texts(size // files, domains):
                    out.write(content)
        forget(path)
        written += path.stat().st_size
    return written


def forget(path: Path) -> None:
    """Have the system drop what it holds of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def large_corpus(place: Path, config: Config) -> Corpus:
    return make_corpora([load_domain(f"large={place}")], config.data, config.model.block_size)["large"]


def small_corpus(large: Corpus, config: Config) -> Corpus:
    """The begin of the same text, in memory, under the same vocabulary."""
    text = dataclasses.replace(large.source, name="small", text=large.source.text[:SMALL_CHARACTERS])
    return make_corpora([text], config.data, config.model.block_size, large.vocabulary)["small"]


def child_report(step: str, place: Path, config: Config, pairs: int) -> dict[str, Any]:
    """Do one step here and now: `read`, `train` on the large corpus, or trainings in `turns`."""
    began = time.perf_counter()
    corpus = large_corpus(place, config)
    if step == "read":
        return {"seconds": time.perf_counter() - began, "characters": corpus.source.n_characters,
                "vocabulary": len(corpus.vocabulary), "pieces": len(corpus.train.pieces)}
    if step == "train":
        return {"is_mapped": corpus.train.is_mapped, **timed_training(corpus, config)}
    small = small_corpus(corpus, config)
    timed_training(small, config)               # not counted: what is done at first alone
    ratios = [ratio_in_turns(corpus, small, config, first=pair % 2) for pair in range(pairs)]
    return {"speeds_large_to_small": [round(ratio, 4) for ratio in ratios], "median": statistics.median(ratios)}


def timed_training(corpus: Corpus, config: Config) -> dict[str, Any]:
    began = time.perf_counter()
    *_, last = train(corpus, config)
    synchronize(resolve_device(config.device))
    return {"characters_per_second": last.characters_per_second, "loss_nats": last.loss_nats,
            "seconds_before_the_first_step": time.perf_counter() - began - last.seconds}


def ratio_in_turns(large: Corpus, small: Corpus, config: Config, first: int) -> float:
    """The speed of a training from `large` over that from `small`, which take turns at each record.

    A training's time leaves out what happens between its records, and both meet the same other programs.
    """
    trainings = [train(corpus, config) for corpus in (large, small)]
    trainings = trainings[::-1] if first else trainings
    for records in zip(*trainings, strict=True):
        seconds = [record.seconds for record in records]
    of_large, of_small = seconds[::-1] if first else seconds
    return of_small / of_large


def measured(step: str, folder: Path, config: Config, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run a step as a process of its own; its report, with its most anonymous memory."""
    settings = [f"--set={name}={value}" for name, value in config.flat().items() if name != "preset"]
    command = [sys.executable, __file__, "--folder", str(folder), "--preset", config.preset, "--child", step, *options,
               *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"NANOGPT_CACHE": str(folder / "cache")}) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        assert process.stdout is not None
        if process.returncode:
            raise click.ClickException(f"{step} ended with {process.returncode}")
        return json.loads(process.stdout.read().splitlines()[-1]) | {"peak_anonymous_gb": peak / 1e9}


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file stands behind."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return 1024 * sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", status)))


def show(step: str, report: dict[str, Any]) -> None:
    click.echo(f"{step}: " + "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                                       for key, value in report.items()))


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="a folder with room for three times it")
@click.option("--gigabytes", default=10.0, show_default=True)
@click.option("--files", default=8, show_default=True)
@click.option("--ending", default=".txt", show_default=True, help="of the files' names: .txt, .txt.gz or .txt.zst")
@click.option("--pairs", default=4, show_default=True, help="of trainings from the large and the small corpus")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--domains", default=ALL, show_default=True, help="built-in domains whose texts are written")
@click.option("--child", hidden=True)
def main(folder: Path, gigabytes: float, files: int, ending: str, pairs: int, preset: str, changes: tuple[str, ...],
         domains: str, child: str | None) -> None:
    if child:
        return click.echo(json.dumps(child_report(child, folder / "texts", read_config(preset, changes), pairs)))
    config = read_config(preset, ("max_steps=150", "log_every=5", *changes))
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder, prefix="large-corpus-"))
    try:
        began = time.perf_counter()
        size = write_corpus(work / "texts", int(gigabytes * 1e9), files, ending, domains)
        show("written", {"gb": size / 1e9, "files": files, "seconds": time.perf_counter() - began})
        measure(functools.partial(measured, folder=work, config=config, options=[f"--pairs={pairs}"]), work, pairs)
    finally:
        shutil.rmtree(work)


def measure(run: Callable[[str], dict[str, Any]], work: Path, pairs: int) -> None:
    for step in ("first reading", "second reading"):
        show(step, run("read"))
    show("cache", {"gb": sum(path.stat().st_size for path in (work / "cache").glob("stored-*")) / 1e9})
    show("training", run("train"))
    if pairs:
        show(f"{pairs} pairs of trainings in turns", run("turns"))


if __name__ == "__main__":
    main()
