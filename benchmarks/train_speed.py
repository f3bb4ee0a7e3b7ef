"""How long a training takes to a loss, against a nanoGPT checkout that you bring.

    python benchmarks/train_speed.py --text input.txt --preset quick
    python benchmarks/train_speed.py --text input.txt --set max_steps=160 … --peer ~/nanoGPT --repeats 3

Each training is a process of its own, timed from its start to its exit: imports, corpus, training, and the
evaluation of the whole validation split (nanoGPT: of its own random batches, and a checkpoint). With --peer, ours
and nanoGPT's take turns on the same bytes; then the peer's last checkpoint is scored on the whole split too.

Both are scored in disjoint windows, in which early characters have little before them, as nanoGPT estimates its loss:
not as in a study, where each character has at least half a window before it and costs less.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import disjoint_loss, disjoint_windows, load_corpus, matmul_peak, read_config, synchronize
from nanogpt.config import Config
from nanogpt.model.device import resolve_device
from nanogpt.text.corpus import Corpus
from nanogpt.training.loop import train
from nanogpt.training.sizes import training_flops_per_character

PEER_ON_CPU = {"device": "cpu", "compile": False, "eval_iters": 20, "block_size": 64, "batch_size": 12, "n_layer": 4,
               "n_head": 4, "n_embd": 128, "dropout": 0.0, "log_interval": 100}
"""The settings of nanoGPT's README for a CPU; 2000 iterations belong to them."""
PEER_ON_GPU = {"eval_interval": 250, "log_interval": 100}
"""config/train_shakespeare_char.py as it is; its loss is best near 1500 iterations."""


def own_training(text: Path, config: Config) -> dict[str, Any]:
    """Train here and now; what the child process reports."""
    corpus, device = load_corpus(text), resolve_device(config.device)
    began = time.perf_counter()
    *_, last = train(corpus, config)
    synchronize(device)
    seconds = time.perf_counter() - began
    assert last.checkpoint is not None
    loss = disjoint_loss(last.checkpoint.build(device), corpus.validation)
    characters = config.train.max_steps * config.train.batch_size * config.model.block_size
    memory = (torch.cuda.max_memory_allocated() if device.type == "cuda"
              else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"validation_nats": loss, "training_seconds": seconds,
            "characters_per_second": characters / seconds, "step_ms": 1000 * seconds / config.train.max_steps,
            "model_gflops": characters / seconds * training_flops_per_character(config.model) / 1e9,
            "peak_gib": memory / 2**30}


def own_process(text: Path, config: Config) -> dict[str, Any]:
    """The same in a fresh process: with `process_seconds`, from its start to its exit."""
    settings = [f"--set={name}={value}" for name, value in config.flat().items() if name != "preset"]
    command = [sys.executable, __file__, "--text", str(text), "--preset", config.preset, "--child", *settings]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    matmul_gflops = matmul_peak(resolve_device(config.device)) / 1e9
    return {"who": "ours", "process_seconds": seconds, **report, "matmul_gflops": matmul_gflops,
            "model_flops_utilisation": report["model_gflops"] / matmul_gflops}


def write_peer_data(corpus: Corpus, folder: Path) -> None:
    """train.bin, val.bin and meta.pkl, as nanoGPT's prepare.py writes them."""
    import numpy as np

    characters = corpus.vocabulary.characters
    for name, split in (("train", corpus.train), ("val", corpus.validation)):
        (split.ids_N - 1).numpy().astype(np.uint16).tofile(folder / f"{name}.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)),
            "stoi": {character: i for i, character in enumerate(characters)}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def peer_process(peer: Path, corpus: Corpus, changes: dict[str, Any], target: float) -> dict[str, Any]:
    """One run of nanoGPT's train.py; when its own estimate first was at most `target`, and its whole-split loss."""
    with tempfile.TemporaryDirectory() as name:
        write_peer_data(corpus, Path(name))
        settings = [f"--{key}={value}" for key, value in {**changes, "dataset": name, "out_dir": f"{name}/out"}.items()]
        began, reached, own = time.perf_counter(), None, float("nan")
        process = subprocess.Popen([sys.executable, "-u", "train.py", "config/train_shakespeare_char.py", *settings],
                                   cwd=peer, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)", line):
                own = float(found[2])
                reached = reached or (time.perf_counter() - began if own <= target else None)
        if process.wait():
            raise click.ClickException("".join(lines[-15:]))
        return {"who": "nanoGPT", "process_seconds": time.perf_counter() - began, "own_estimate_nats": own,
                "seconds_to_target": reached, "validation_nats": peer_loss(peer, Path(name) / "out/ckpt.pt", corpus)}


def peer_loss(peer: Path, checkpoint: Path, corpus: Corpus) -> float:
    """Nats per character of a nanoGPT checkpoint over the whole validation split, each character once."""
    sys.path.insert(0, str(peer))
    try:
        from model import GPT, GPTConfig  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved["model"].items()})
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for inputs_BT, targets_BT in disjoint_windows(corpus.validation, saved["model_args"]["block_size"], 64):
            total += float(model(inputs_BT - 1, targets_BT - 1)[1]) * targets_BT.numel()
    return total / len(corpus.validation)


def show(report: dict[str, Any]) -> None:
    click.echo("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in report.items()))


@click.command(help=__doc__)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="a UTF-8 text file")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "changes", multiple=True, help="name=value over the preset; repeatable")
@click.option("--repeats", default=1, show_default=True, help="runs, with seeds that count up from the preset's")
@click.option("--peer", type=click.Path(exists=True, path_type=Path), help="a nanoGPT checkout to take turns with")
@click.option("--peer-iterations", default=2000, show_default=True)
@click.option("--peer-set", multiple=True, help="name=value for nanoGPT's train.py; repeatable")
@click.option("--target", default=0.0, help="a validation loss, nats: report when nanoGPT reached it")
@click.option("--child", is_flag=True, hidden=True)
def main(text: Path, preset: str, changes: tuple[str, ...], repeats: int, peer: Path | None, peer_iterations: int,
         peer_set: tuple[str, ...], target: float, child: bool) -> None:
    config = read_config(preset, changes)
    if child:
        return click.echo(json.dumps(own_training(text, config)))
    on_gpu = resolve_device(config.device).type == "cuda"
    base = PEER_ON_GPU if on_gpu else PEER_ON_CPU
    settings = {"eval_interval": peer_iterations, **base, "max_iters": peer_iterations,
                "lr_decay_iters": 5000 if on_gpu else peer_iterations,
                **dict(change.split("=", 1) for change in peer_set)}
    for repeat in range(repeats):
        ours = own_process(text, dataclasses.replace(config, seed=config.seed + repeat))
        show({"seed": config.seed + repeat, **ours})
        if peer:
            theirs = peer_process(peer, load_corpus(text), settings, target)
            show({"pair": repeat + 1, **theirs})
            show({"pair": repeat + 1, "process_time_ratio": theirs["process_seconds"] / ours["process_seconds"],
                  "to_target_ratio": (theirs["seconds_to_target"] or float("nan")) / ours["process_seconds"],
                  "loss_difference_nats": ours["validation_nats"] - theirs["validation_nats"]})


if __name__ == "__main__":
    main()
