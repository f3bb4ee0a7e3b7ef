"""A text that is longer than the memory should hold: a file of numbers, one for each character, that is mapped.

A number stands for a character of the text's own alphabet. Which id a character has in a vocabulary is looked up where
it is read, so one file serves every study of the text, whatever its vocabulary.

Shape suffixes: A numbers of an alphabet (0 stands for none), N characters.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from nanogpt.errors import require
from nanogpt.text.cache import cache_key
from nanogpt.text.vocabulary import CHARACTERS_AT_ONCE, Vocabulary, code_points

CODE_POINTS = 0x110000
NUMBER_TYPES = (np.uint8, np.uint16, np.uint32)
"""The types of a file's numbers; it has the first that its alphabet fits into."""
MOST_DOCUMENTS = 100_000
"""Documents of a stored text; of more, so many neighbours count as one that there are no more."""
LAST_OF_BYTES = np.array([0x7F, 0x7FF, 0xFFFF])
"""The last code points that UTF-8 writes in one, two and three bytes."""


class LongText(Protocol):
    """What is known of a text without having it in memory, and parts of it."""

    @property
    def sha256(self) -> str: ...

    @property
    def n_bytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> str: ...


@dataclass(frozen=True, eq=False)
class StoredText:
    """A cleaned text in a file, and what was counted when it was written.

    `sha256` and `n_bytes` are those of the text in UTF-8; `raw_sha256` and `raw_bytes` of what it was made from.
    """

    numbers_N: NDArray[Any]     # mapped
    alphabet: str               # the characters of the numbers 1, 2, …
    counts_A: NDArray[np.int64]
    n_bytes: int
    sha256: str
    document_starts: tuple[int, ...]
    raw_sha256: str
    raw_bytes: int

    def __len__(self) -> int:
        return len(self.numbers_N)

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand other processes the place of a mapped file, not its content: each maps it."""
        values = [getattr(self, item.name) for item in fields(self)]
        if isinstance(self.numbers_N, np.memmap):
            values[0] = MappedNumbers(str(self.numbers_N.filename), self.numbers_N.dtype.str)
        return text_of, tuple(values)

    def __getitem__(self, part: slice) -> str:
        """Return a part of the text; it is in memory then."""
        return self.points_A[self.numbers_N[part]].tobytes().decode("utf-32-le", "surrogatepass")

    @cached_property
    def points_A(self) -> NDArray[np.uint32]:
        """The code point of each number."""
        return code_points("\0" + self.alphabet)

    def expect(self, places: Iterable[int], length: int) -> None:
        """Have the system read `length` characters from each place on, while something else is done."""
        if isinstance(self.numbers_N, np.memmap) and hasattr(mmap, "MADV_WILLNEED"):
            size, mapped = self.numbers_N.itemsize, cast(mmap.mmap, self.numbers_N.base)
            for place in places:
                begin = place * size // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, begin, min((place + length) * size, len(mapped)) - begin)

    def ids_of_numbers(self, vocabulary: Vocabulary) -> NDArray[Any]:
        """Return the id of each number (A,)."""
        return vocabulary.table[np.minimum(self.points_A, len(vocabulary.table) - 1)]

    def counts_in(self, stretches: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        """Count each number (A,) in stretches of the text, `begin` to `end`, that do not overlap.

        Where they are most of the text, what lies between them is read instead.
        """
        ordered = sorted(stretches)
        if 2 * sum(end - begin for begin, end in ordered) <= len(self):
            return self.counted(ordered)
        ends, begins = [0, *(end for _, end in ordered)], [*(begin for begin, _ in ordered), len(self)]
        return self.counts_A - self.counted(zip(ends, begins, strict=True))

    def counted(self, stretches: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        counts_A = np.zeros(len(self.alphabet) + 1, np.int64)
        for begin, end in stretches:
            for at in range(begin, end, CHARACTERS_AT_ONCE):
                part = self.numbers_N[at:min(end, at + CHARACTERS_AT_ONCE)]
                counts_A += np.bincount(part, minlength=len(counts_A))
        return counts_A


class MappedNumbers(NamedTuple):
    """Where the numbers of a text lie, and their type."""

    path: str
    dtype: str


def text_of(numbers: MappedNumbers | NDArray[Any], *others: Any) -> StoredText:
    """Make the text that another process has handed over. UserError where its file is not to be had here."""
    if not isinstance(numbers, MappedNumbers):
        return StoredText(numbers, *others)
    require(Path(numbers.path).is_file(), "the cache must be a folder that all processes share", numbers.path)
    return StoredText(np.memmap(numbers.path, numbers.dtype, "r"), *others)


class TextWriter:
    """Writes documents into a file of numbers, in parts of any length; what it keeps in memory is bounded."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.kind = file, 0
        self.table = np.zeros(CODE_POINTS, NUMBER_TYPES[0])        # code point to number, 0 where it was not met
        self.alphabet, self.counts_A = "", np.zeros(1, np.int64)
        self.waiting, self.waiting_characters = list[str](), 0
        self.characters, self.n_bytes, self.digest = 0, 0, hashlib.sha256()
        self.starts, self.ended = array("q"), True                 # ended: the text so far ends with a new line

    def begin_document(self) -> None:
        """Begin a document: an empty line parts it from the one before it."""
        if self.starts:
            self.write("\n" if self.ended else "\n\n")
        self.starts.append(self.characters + self.waiting_characters)

    def write(self, text: str) -> None:
        self.waiting.append(text)
        self.waiting_characters += len(text)
        self.ended = text.endswith("\n") if text else self.ended
        if self.waiting_characters >= CHARACTERS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the numbers of what is waiting, and count it."""
        text = "".join(self.waiting)
        self.waiting, self.waiting_characters = [], 0
        content, points_N = text.encode(), code_points(text)
        self.digest.update(content)
        self.n_bytes += len(content)
        self.characters += len(text)
        numbers_N = self.table.take(points_N)
        if not numbers_N.all():
            self.learn(np.unique(points_N[numbers_N == 0]))
            numbers_N = self.table.take(points_N)
        self.counts_A += np.bincount(numbers_N, minlength=len(self.counts_A))
        self.file.write(numbers_N.data)

    def learn(self, points: NDArray[np.uint32]) -> None:
        """Give the next numbers to characters that were not met before."""
        first = len(self.alphabet) + 1
        while first + len(points) - 1 > np.iinfo(NUMBER_TYPES[self.kind]).max:
            self.widen()
        self.table[points] = np.arange(first, first + len(points))
        self.alphabet += points.tobytes().decode("utf-32-le")
        self.counts_A = np.concatenate((self.counts_A, np.zeros(len(points), np.int64)))

    def widen(self) -> None:
        """Write all numbers so far anew in the next type, in the same file, from its end to its begin."""
        narrow = NUMBER_TYPES[self.kind]
        self.kind += 1
        wide, end = NUMBER_TYPES[self.kind], self.file.tell() // np.dtype(narrow).itemsize
        self.table = self.table.astype(wide)
        for begin in reversed(range(0, end, CHARACTERS_AT_ONCE)):
            self.file.seek(begin * np.dtype(narrow).itemsize)
            count = min(CHARACTERS_AT_ONCE, end - begin)
            part = np.frombuffer(self.file.read(count * np.dtype(narrow).itemsize), narrow).astype(wide)
            self.file.seek(begin * part.itemsize)
            self.file.write(part.data)
        self.file.seek(end * np.dtype(wide).itemsize)

    def end(self) -> None:
        """Write what is waiting; the last of several documents ends with a new line, as the others do."""
        if len(self.starts) > 1 and not self.ended:
            self.write("\n")
        self.flush()

    def facts(self) -> dict[str, Any]:
        every = -(-len(self.starts) // MOST_DOCUMENTS) or 1
        return {"type": NUMBER_TYPES[self.kind].__name__, "characters": self.characters,
                "points": code_points(self.alphabet).tolist(), "counts": self.counts_A.tolist(),
                "n_bytes": self.n_bytes, "sha256": self.digest.hexdigest(),
                "document_starts": self.starts[::every].tolist()}


class StoredFiles:
    """Where a text of some origin is kept in the cache: its numbers, and the facts without which they are not believed.

    The names change with the origin and with the code of this wing.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, hashlib.sha256(origin.encode()).hexdigest()[:16]
        self.code = cache_key("")
        self.numbers, self.facts = (folder / f"stored-{self.origin}-{self.code}.{ending}"
                                    for ending in ("numbers", "json"))

    def load(self) -> StoredText | None:
        """Map the text that is kept here; None where there is none, or one that is damaged."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads(self.facts.read_text("utf-8"))
            kind = np.dtype(facts["type"])
            if self.numbers.stat().st_size == facts["characters"] * kind.itemsize:
                alphabet = np.array(facts["points"], "<u4").tobytes().decode("utf-32-le")
                return StoredText(
                    np.memmap(self.numbers, kind, "r"), alphabet, np.array(facts["counts"], np.int64),
                    facts["n_bytes"], facts["sha256"], tuple(facts["document_starts"]), facts["raw_sha256"],
                    facts["raw_bytes"])
        return None

    def keep(self, numbers: IO[bytes], facts: dict[str, Any]) -> None:
        """Give the files their names: first the numbers, then the facts; older code's files of the origin go."""
        numbers.flush()
        os.fsync(numbers.fileno())
        with part_file(self.folder) as file:
            file.write(json.dumps(facts).encode())
            file.flush()
            os.fsync(file.fileno())
            os.replace(numbers.name, self.numbers)
            os.replace(file.name, self.facts)
        for path in self.folder.glob(f"stored-{self.origin}-*"):
            if path not in (self.numbers, self.facts):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def part_file(folder: Path) -> Iterator[IO[bytes]]:
    """Open a new file of the folder to write and read, which goes at the end unless it was given another name.

    Its lock says that it is being written: what a killed process has left has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w+b", dir=folder, prefix=".stored-", suffix=".part", delete=False) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield file.file
        finally:
            Path(file.name).unlink(missing_ok=True)


def remove_left_parts(folder: Path) -> None:
    """Remove the files of passes that were killed."""
    for path in folder.glob(".stored-*.part"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)      # OSError: it is being written
            path.unlink()
