"""Plain values and tensors in a file that torch reads, with a digest of all of them.

Whoever reads such a file may trust that it is what was written, and may not trust who wrote it: what a value means is
checked by the reader. `torch.load` itself notices one flipped bit in twenty-five.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import secrets
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DIGEST = "payload_sha256"
DEEPEST = 12
"""Levels of nested values that a payload may have."""
ENCODED_SHARE = 16
"""How many times the size of its file a payload may be: values that are named in a few bytes can be large again and
again."""


def bytes_of(tensor: Tensor) -> bytes:
    """Copy the numbers of a tensor on the CPU as they lie in memory (`.numpy()` would need numpy)."""
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it becomes `path` when the block ends well, else it vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest_of(value: Any, most_bytes: float = float("inf"), *, numbers: bool = True) -> str:
    """Return the SHA-256 of nested plain values and tensors; equal digests mean equal values.

    Without `numbers`, of tensors their types and shapes alone: where the values hold a digest of the numbers already.
    ValueError or TypeError for what is no such value, is nested deeply, or has more than `most_bytes` bytes.
    """
    digest, size = hashlib.sha256(), 0
    for part in encoded(value):
        size += part.nbytes if isinstance(part, Tensor) else len(part)
        if size > most_bytes:
            raise ValueError("values are larger than their file")
        if not isinstance(part, Tensor):
            digest.update(part)
        elif numbers:
            digest.update(bytes_of(part))
    return digest.hexdigest()


def encoded(value: Any, depth: int = 0) -> Iterator[bytes | Tensor]:
    """Write a value in parts that no other value has: its type, its size, its content."""
    if depth > DEEPEST:
        raise ValueError("values are nested too deeply")
    if value is None or isinstance(value, bool):
        yield f"{value};".encode()
    elif isinstance(value, int):
        yield b"i" + value.to_bytes(8, "little", signed=True)
    elif isinstance(value, float):
        yield b"f" + struct.pack("<d", value)
    elif isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        yield f"s{len(text)};".encode()
        yield text
    elif isinstance(value, Tensor):
        require_plain(value)
        yield f"{value.dtype} {tuple(value.shape)};".encode()
        yield value
    elif isinstance(value, Mapping):
        yield f"d{len(value)};".encode()
        for name in sorted(value, key=lambda name: (type(name).__name__, name)):
            yield from encoded(name, depth + 1)
            yield from encoded(value[name], depth + 1)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__}{len(value)};".encode()
        for item in value:
            yield from encoded(item, depth + 1)
    else:
        raise TypeError(f"a payload holds no {type(value).__name__}")


def require_plain(tensor: Tensor) -> None:
    """Raise ValueError for a tensor that is not just numbers in memory: a view of less, sparse, on another device."""
    plain = (type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type == "cpu"
             and not tensor.is_quantized and not tensor.requires_grad
             and tensor.nbytes <= tensor.untyped_storage().nbytes())
    if not plain:
        raise ValueError("a payload's tensors must be plain numbers on the CPU")


def is_finite(tensor: Tensor) -> bool:
    """Tell whether all numbers are finite, in 1/14 of the time of `isfinite().all()`: the extremes carry NaN."""
    return not tensor.numel() or all(math.isfinite(float(extreme)) for extreme in torch.aminmax(tensor))


def save_payload(payload: Mapping[str, Any], path: Path, *, numbers: bool = True) -> Path:
    """Write a payload and its digest (`digest_of`), whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save({**payload, DIGEST: digest_of(payload, numbers=numbers)}, temporary)
    return path


def load_payload(path: Path, names: Set[str], *, numbers: bool = True, earlier: bool = False) -> dict[str, Any]:
    """Read a payload of these names and verify its digest; with `earlier` files of earlier versions have none.

    No code of the file is run, and no more memory taken than a few times its size. Any exception may come of a foreign
    file; ValueError says in its message what is wrong.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise ValueError("the file is larger than it looks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        payload = torch.load(path, map_location="cpu", weights_only=True)
    if type(payload) is not dict or payload.keys() - {DIGEST} != names:
        raise ValueError("the file has other parts")
    recorded = payload.pop(DIGEST, None)
    if recorded is None and not earlier:
        raise ValueError("the file is of an earlier version, without a digest")
    actual = digest_of(payload, ENCODED_SHARE * size, numbers=numbers)
    if recorded not in (None, actual):
        raise ValueError(f"the file must have its recorded SHA-256 {str(recorded)[:12]}…, got {actual[:12]}…")
    return payload
