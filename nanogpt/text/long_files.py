"""The user's own text where it is long: read in blocks, cleaned, and kept as numbers in the cache.

What comes out is the text that `user_files.py` would make, which holds all of it in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from nanogpt.errors import UserError, one_line
from nanogpt.text.stored_text import StoredFiles, StoredText, TextWriter, part_file, remove_left_parts
from nanogpt.text.user_files import (
    COLUMN,
    PACKED,
    TABLES,
    check_column,
    check_is_text,
    check_kind,
    check_markup,
    check_no_nul,
    clean,
    file_error,
    is_value,
    kind_of,
    normal,
    not_a_table,
    not_packed,
    not_utf8,
    read_table,
)

log = logging.getLogger("nanogpt")

LONG_BYTES = 200_000_000
"""Files that are larger together are read in blocks: a text of that size takes 2 GB of memory if it is read at once."""
UNPACKED_TIMES = 4
"""A packed file and a Parquet file count as so many times their size."""
BLOCK_BYTES = 2**20
ROWS_AT_ONCE = 1024


def is_long(paths: Iterable[Path]) -> bool:
    """Say whether files are to be read in blocks."""
    sizes = (path.stat().st_size * (UNPACKED_TIMES if path.suffix.lower() in (*PACKED, ".parquet") else 1)
             for path in paths)
    return sum(sizes) > LONG_BYTES


def read_long_files(domain: str, place: str, paths: Sequence[Path], column: str, folder: Path | None) -> StoredText:
    """Return the text of files, read from the cache folder where the same bytes were read before.

    UserError, one line: no folder, or one that cannot take the text; a file that changes meanwhile; and what
    `read_files` refuses.
    """
    raw = Digest()
    sizes = [raw.read(domain, path) for path in paths]
    kinds = [f"{kind_of(path)} {path.suffix.lower() in PACKED} {size}" for path, size in zip(paths, sizes, strict=True)]

    def again(digest: Digest, beside: Path) -> Iterator[Iterable[str]]:
        for path in paths:
            yield from documents(domain, path, column, digest, beside)

    return kept_text(domain, place, "\n".join((raw.hexdigest, column, *kinds)), raw, again, folder)


def read_long_set(domain: str, place: str, texts: Callable[[], Iterable[str]], folder: Path | None) -> StoredText:
    """Return the text of a set, whose texts are asked for twice; its digest is that of what they become."""
    def again(digest: Digest, _: Path) -> Iterator[Iterable[str]]:
        for text in map(clean, texts()):
            digest.update(memoryview(text.encode()))
            if text and not text.isspace():
                yield [text]

    raw = Digest()
    for _ in again(raw, Path()):
        pass
    return kept_text(domain, place, f"set {raw.hexdigest}", raw, again, folder)


def kept_text(domain: str, place: str, origin: str, raw: Digest, documents: Documents,
              folder: Path | None) -> StoredText:
    """Return what is kept of an origin, whose bytes were `raw`; what is not is written from its documents."""
    if folder is None:
        raise UserError(f"domain {domain!r} is longer than {LONG_BYTES:,} bytes and needs a cache folder, got none: "
                        "set NANOGPT_CACHE or pip install pooch")
    kept = StoredFiles(folder, origin)
    if stored := kept.load():
        return stored
    log.info("reading %.1f GB of domain %r, once: its text is kept in %s", raw.size / 1e9, domain, folder)
    try:
        remove_left_parts(folder)
        with part_file(folder) as file:
            facts = write_text(domain, place, documents, file, raw)
            kept.keep(file, facts | {"raw_sha256": raw.hexdigest, "raw_bytes": raw.size})
    except OSError as error:
        raise UserError(f"cache must be a folder with room for the text of domain {domain!r}, got {str(folder)!r}: "
                        f"{error.strerror or one_line(str(error))}") from error
    stored = kept.load()
    if stored is None:
        raise UserError(f"cache must be a folder that keeps what is written, got {str(folder)!r}")
    return stored


def write_text(domain: str, place: str, documents: Documents, file: IO[bytes], raw: Digest) -> dict[str, Any]:
    """Write documents as numbers; returns the text's facts. UserError where their bytes are not those of `raw`."""
    writer, again = TextWriter(file), Digest()
    for document in documents(again, Path(file.name).parent):
        writer.begin_document()
        for part in document:
            writer.write(part)
    if (again.hexdigest, again.size) != (raw.hexdigest, raw.size):
        raise UserError(f"texts of domain {domain!r} must not change while they are read, got {place!r} with "
                        f"{raw.size} bytes first and then {again.size}, or others")
    if not writer.starts:
        raise UserError(f"file of domain {domain!r} must hold text, got {place!r} with {raw.size} bytes and nothing "
                        "to read")
    writer.end()
    return writer.facts()


class Digest:
    """The SHA-256 and the number of all bytes that were read, one file after the other."""

    def __init__(self) -> None:
        self.sha256, self.size = hashlib.sha256(), 0

    @property
    def hexdigest(self) -> str:
        return self.sha256.hexdigest()

    def update(self, content: memoryview) -> None:
        self.sha256.update(content)
        self.size += len(content)

    def read(self, domain: str, path: Path) -> int:
        """Read a file to its end; returns its size."""
        before = self.size
        with reading(domain, path, self) as file:
            file.drain()
        return self.size - before


Documents = Callable[[Digest, Path], Iterator[Iterable[str]]]
"""Gives the documents of a text, none blank and each in parts, and takes all bytes read into the digest; the folder is
for files on the way."""


class ReadFile(io.RawIOBase):
    """A file that is read from its begin to its end, into a digest too. UserError where it cannot be read."""

    def __init__(self, domain: str, path: Path, digest: Digest) -> None:
        self.domain, self.path, self.digest = domain, path, digest
        try:
            self.file = path.open("rb", buffering=0)
        except OSError as error:
            raise file_error(domain, path, error) from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count = self.file.readinto(buffer)
        except OSError as error:
            raise file_error(self.domain, self.path, error) from error
        self.digest.update(memoryview(buffer)[:count])
        return count

    def drain(self) -> None:
        """Read what was not read yet."""
        buffer = bytearray(BLOCK_BYTES)
        while self.readinto(buffer):
            pass

    def close(self) -> None:
        """Do nothing: what unpacks it closes it too early, `reading` does at the end."""


@contextlib.contextmanager
def reading(domain: str, path: Path, digest: Digest) -> Iterator[ReadFile]:
    file = ReadFile(domain, path, digest)
    with file.file:
        yield file


def documents(domain: str, path: Path, column: str, digest: Digest, folder: Path) -> Iterator[Iterable[str]]:
    """Give the documents of a file that are not blank, cleaned, each in parts; all its bytes go into the digest.

    A packed Parquet file is unpacked into the folder.
    """
    check_kind(domain, path)
    kind = kind_of(path)
    if kind not in TABLES:
        check_is_text(domain, path, column)
    with reading(domain, path, digest) as raw:
        if kind == ".parquet":
            texts = parquet_texts(domain, path, raw, column or COLUMN, folder)
        else:
            stream = io.BufferedReader(unpacking(path, raw), BLOCK_BYTES)
            if kind not in TABLES:
                yield from text_documents(domain, path, stream)
                return raw.drain()
            texts = (jsonl_texts if kind == ".jsonl" else csv_texts)(domain, path, stream, column or COLUMN)
        for text in map(clean, texts):
            if text and not text.isspace():
                yield [text]
        raw.drain()


def unpacking(path: Path, raw: ReadFile) -> io.RawIOBase:
    """Return a file as it is, or what a packed one holds."""
    if path.suffix.lower() not in PACKED:
        return raw
    import pyarrow  # here and below: what reads no user's file need not wait for it

    return cast(io.RawIOBase, pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), PACKED[path.suffix.lower()]))


def blocks(domain: str, path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    """Give what a stream holds block by block. UserError for a packed file that is damaged."""
    while True:
        try:
            block = stream.read(BLOCK_BYTES)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, UserError) else not_packed(domain, path, error) from error
        if not block:
            return
        yield block


def text_documents(domain: str, path: Path, stream: IO[bytes]) -> Iterator[Iterable[str]]:
    """Give the one document of a text file, or none where it is blank."""
    parts, begin = cleaned_parts(decoded_parts(domain, path, blocks(domain, path, stream))), list[str]()
    for part in parts:
        begin.append(part)
        if part and not part.isspace():
            yield chain_parts(begin, parts)
            return


def chain_parts(begin: list[str], parts: Iterator[str]) -> Iterator[str]:
    yield from begin
    yield from parts


def decoded_parts(domain: str, path: Path, contents: Iterable[bytes]) -> Iterator[str]:
    """Decode the UTF-8 of a text file block by block; a character may lie in two. UserError for bytes that are none."""
    held, place = b"", 0        # place: of the first byte that is not decoded yet
    for block in contents:
        if not place:
            check_markup(domain, path, block)
        check_no_nul(domain, path, block, place + len(held))
        content = held + block
        try:
            text, held = content.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                raise not_utf8(domain, path, content[error.start], place + error.start) from error
            text, held = content[:error.start].decode("utf-8"), content[error.start:]
        place += len(content) - len(held)
        yield text
    if held:
        raise not_utf8(domain, path, held[0], place)


def cleaned_parts(texts: Iterable[str]) -> Iterator[str]:
    """Clean a text that comes in parts as `clean` does one that is whole."""
    held, begins = "", True
    for text in filter(None, texts):
        held += text.removeprefix("\ufeff") if begins else text
        begins, end = False, last_cut(held)
        yield normal(held[:end].replace("\r\n", "\n"))
        held = held[end:]
    yield normal(held.replace("\r\n", "\n"))


def last_cut(text: str) -> int:
    """Return the last place at which a text may be cut: what follows is not changed by what is before it.

    That is before any character but a line feed, which may belong to a CR, a mark, and a vowel or final consonant of
    Korean: only these compose with what they follow.
    """
    for place in range(len(text) - 1, 0, -1):
        character = text[place]
        if character != "\n" and not "\u1160" <= character <= "\u11ff" and unicodedata.category(character)[0] != "M":
            return place
    return 0


def jsonl_texts(domain: str, path: Path, stream: IO[bytes], column: str) -> Iterator[str]:
    """Give the texts of a column of rows of JSON, read some lines at a time."""
    known: dict[str, None] = {}         # the columns, in order
    for lines in whole_lines(blocks(domain, path, stream)):
        try:
            table = read_table(".jsonl", lines)
        except (OSError, ValueError) as error:
            raise not_a_table(domain, path, ".jsonl", error) from error
        known |= dict.fromkeys(map(str, table.columns))
        yield from (value for value in table.get(column, ()) if is_value(domain, path, column, value))
    check_column(domain, path, column, list(known))


def whole_lines(contents: Iterable[bytes]) -> Iterator[bytes]:
    """Give what comes in blocks in parts that end with a line; none is blank."""
    held = list[bytes]()
    for block in contents:
        end = block.rfind(b"\n") + 1
        if end:
            lines = b"".join((*held, block[:end]))
            held = []
            if not lines.isspace():
                yield lines
        held.append(block[end:])
    lines = b"".join(held)
    if lines and not lines.isspace():
        yield lines


def csv_texts(domain: str, path: Path, stream: IO[bytes], column: str) -> Iterator[str]:
    """Give the texts of a column of a CSV table, read some rows at a time."""
    import pandas

    try:
        with pandas.read_csv(stream, dtype=str, keep_default_na=False, chunksize=ROWS_AT_ONCE) as tables:
            for table in tables:
                check_column(domain, path, column, list(table.columns))
                yield from (value for value in table[column] if is_value(domain, path, column, value))
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UserError) else not_a_table(domain, path, ".csv", error) from error


def parquet_texts(domain: str, path: Path, raw: ReadFile, column: str, folder: Path) -> Iterator[str]:
    """Give the texts of a column of a Parquet file, read some rows at a time."""
    if path.suffix.lower() not in PACKED:
        yield from parquet_rows(domain, path, path, column)
        return
    with part_file(folder) as unpacked:
        stream = io.BufferedReader(unpacking(path, raw), BLOCK_BYTES)
        for block in blocks(domain, path, stream):
            unpacked.write(block)
        unpacked.flush()
        yield from parquet_rows(domain, path, Path(unpacked.name), column)


def parquet_rows(domain: str, path: Path, readable: Path, column: str) -> Iterator[str]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(readable, pre_buffer=False, buffer_size=BLOCK_BYTES) as table:
            check_column(domain, path, column, table.schema_arrow.names)
            for rows in table.iter_batches(ROWS_AT_ONCE, columns=[column]):
                yield from (value for value in rows[column].to_pylist() if is_value(domain, path, column, value))
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UserError) else not_a_table(domain, path, ".parquet", error) from error
