"""The user's own text: a file, a folder or a glob of texts and tables, packed or not, or a set of the Hugging Face hub.

A text file is one document; of a table each row of one column is one. Bytes of markup would be learnt as if they were
text, so what is neither is refused by name.
"""

from __future__ import annotations

import glob
import hashlib
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nanogpt.errors import UserError, one_line
from nanogpt.text.readers import joined
from nanogpt.text.vocabulary import CHARACTERS_AT_ONCE

HUB = "hf://"
TABLES = (".jsonl", ".csv", ".parquet")
PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Ends of names, and what pyarrow calls the codec."""
NOT_TEXT = (
    ".html", ".htm", ".xhtml", ".xml", ".svg", ".rss", ".json", ".yaml", ".yml", ".ipynb", ".rtf", ".pdf", ".ps",
    ".doc", ".docx", ".odt", ".epub", ".mobi", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".tsv", ".feather", ".arrow",
    ".orc", ".avro", ".db", ".sqlite", ".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".bin", ".h5", ".safetensors",
    ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".lz4", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp3",
    ".mp4", ".wav")
"""Ends of names of markup and of binary formats; other names are read as text."""
MARKUP = {b"<!doctype": "HTML", b"<html": "HTML", b"<?xml": "XML", b"{\\rtf": "RTF", b"%pdf": "PDF"}
"""How files of a markup begin, in lower case."""
COLUMN = "text"
"""The column of a table that is read where none is named."""
READ = "texts (such as .txt and .md), .jsonl, .csv and .parquet are read, also as .gz and .zst"


class UserText(NamedTuple):
    """A text of documents, where they begin, and the SHA-256 and size of the bytes that it was read from."""

    text: str
    document_starts: tuple[int, ...]
    raw_sha256: str
    raw_bytes: int


def read_files(domain: str, place: str, paths: Sequence[Path], column: str) -> UserText:
    """Return the text of the files at `place`.

    Files are taken in the sorted order of their paths, a folder's with all below it but hidden ones. A text loses its
    byte-order mark, its CRLF become LF, it is in NFC, and otherwise left alone. Long files are for `long_files.py`.
    """
    documents, digest, size = list[str](), hashlib.sha256(), 0
    for path in paths:
        raw = read_bytes(domain, path)
        digest.update(raw)
        size += len(raw)
        documents += map(clean, texts_of(domain, path, raw, column))
        del raw
    return user_text(domain, place, documents, digest.hexdigest(), size)


def read_set(domain: str, place: str, texts: Iterable[str]) -> UserText:
    """Return the text of a set on the hub; its digest is that of what its texts become."""
    documents = [clean(text) for text in texts]
    raw = "".join(documents).encode()
    return user_text(domain, place, documents, hashlib.sha256(raw).hexdigest(), len(raw))


def user_text(domain: str, place: str, documents: list[str], raw_sha256: str, raw_bytes: int) -> UserText:
    """Join documents, without the blank ones; an empty line parts each from the next. UserError where none is left."""
    documents = [document for document in documents if document and not document.isspace()]
    if not documents:
        raise UserError(f"file of domain {domain!r} must hold text, got {place!r} with {raw_bytes} bytes and nothing "
                        "to read")
    if len(documents) > 1:
        documents = [document if document.endswith("\n") else document + "\n" for document in documents]
    return UserText(*joined(documents), raw_sha256, raw_bytes)


def user_paths(domain: str, place: str) -> tuple[list[Path], str]:
    """Return the files at a place, sorted, and the column that it names or ""."""
    column = ""
    if "#" in place and not Path(place).expanduser().exists():
        place, _, column = place.rpartition("#")
    path = Path(place).expanduser()
    if place and path.is_dir():
        paths = [file for file in path.rglob("*") if file.is_file()
                 and not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not paths:
            raise UserError(f"folder of domain {domain!r} must hold files, got {place!r} without one")
    elif place and path.exists():
        if not path.is_file():      # a device or a pipe has no end
            raise UserError(f"file of domain {domain!r} must be a regular file, got {place!r}")
        paths = [path]
    else:
        paths = [Path(found) for found in glob.glob(str(path), recursive=True) if Path(found).is_file()]
        if not place or not paths:
            raise UserError(f"file of domain {domain!r} must exist, got {place!r}")
    return sorted(paths), column


def read_bytes(domain: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise file_error(domain, path, error) from error


def file_error(domain: str, path: Path, error: OSError) -> UserError:
    return UserError(f"file of domain {domain!r} must be readable, got {str(path)!r}: {error.strerror}")


def kind_of(path: Path) -> str:
    """Return the end of a file's name that says its format, in lower case; `.gz` and `.zst` are packings of one."""
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def check_kind(domain: str, path: Path) -> None:
    """Raise UserError for a file that is neither a text nor a table, by its name."""
    if kind_of(path) in NOT_TEXT:
        raise UserError(f"file of domain {domain!r} must be a text or a table, got {str(path)!r}: {READ}")


def check_is_text(domain: str, path: Path, column: str) -> None:
    """Raise UserError where a column is asked for of a text."""
    if column:
        raise UserError(f"file of domain {domain!r} must be a table to have the column {column!r}, got {str(path)!r}: "
                        f"{', '.join(TABLES)} have columns")


def texts_of(domain: str, path: Path, raw: bytes, column: str) -> Iterable[str]:
    """Return the texts of a file: one, or of a table those of the column."""
    check_kind(domain, path)
    content = unpacked(domain, path, raw) if path.suffix.lower() in PACKED else raw
    if kind_of(path) in TABLES:
        return column_texts(domain, path, kind_of(path), content, column or COLUMN)
    check_is_text(domain, path, column)
    return [decoded(domain, path, content)]


def unpacked(domain: str, path: Path, raw: bytes) -> bytes:
    """Return what a file of gzip or zstd holds."""
    import pyarrow  # here and below: what reads no user's file need not wait for it

    try:
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(raw), PACKED[path.suffix.lower()]) as stream:
            return stream.read()
    except (OSError, ValueError) as error:
        raise not_packed(domain, path, error) from error


def not_packed(domain: str, path: Path, error: Exception) -> UserError:
    return UserError(f"file of domain {domain!r} must be packed as its name says, got {str(path)!r}: "
                     f"{one_line(str(error))}")


def decoded(domain: str, path: Path, content: bytes) -> str:
    """Return the text of a file. UserError for bytes that are none, and for markup under a text's name."""
    check_markup(domain, path, content)
    check_no_nul(domain, path, content)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(domain, path, content[error.start], error.start) from error


def check_markup(domain: str, path: Path, content: bytes) -> None:
    """Raise UserError where a file begins as markup does."""
    head = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for begin, markup in MARKUP.items():
        if head.startswith(begin):
            raise UserError(f"file of domain {domain!r} must be a text, got {str(path)!r}, which is {markup}: {READ}")


def check_no_nul(domain: str, path: Path, content: bytes, place: int = 0) -> None:
    """Raise UserError for a NUL byte in what stands at a place of a file."""
    if b"\0" in content:
        raise UserError(f"file of domain {domain!r} must be UTF-8 text, got {str(path)!r} with a NUL byte at byte "
                        f"{place + content.index(0)}")


def not_utf8(domain: str, path: Path, byte: int, place: int) -> UserError:
    return UserError(f"file of domain {domain!r} must be UTF-8 text, got {str(path)!r} with byte 0x{byte:02x} at byte "
                     f"{place}")


def column_texts(domain: str, path: Path, kind: str, content: bytes, column: str) -> Iterator[str]:
    """Give the texts of a table's column; an empty cell gives none."""
    try:
        table = read_table(kind, content)
    except (OSError, ValueError) as error:
        raise not_a_table(domain, path, kind, error) from error
    check_column(domain, path, column, list(table.columns))
    yield from (value for value in table[column] if is_value(domain, path, column, value))


def not_a_table(domain: str, path: Path, kind: str, error: Exception) -> UserError:
    return UserError(f"file of domain {domain!r} must be a {kind} table, got {str(path)!r}: {one_line(str(error))}")


def check_column(domain: str, path: Path, column: str, columns: Sequence[object]) -> None:
    """Raise UserError where a table lacks a column."""
    if column not in columns:
        raise UserError(f"column of domain {domain!r} must be one of {', '.join(map(str, columns))} (write "
                        f"{domain}=path#column), got {column!r} for {str(path)!r}")


def is_value(domain: str, path: Path, column: str, value: object) -> bool:
    """Say whether a cell holds a text; an empty one holds none. UserError for one that holds something else."""
    if isinstance(value, str):
        return True
    if missing(value):
        return False
    raise UserError(f"column {column!r} of domain {domain!r} must hold texts, got {one_line(repr(value))} in "
                    f"{str(path)!r}")


def read_table(kind: str, content: bytes) -> Any:
    """Return a table as a pandas DataFrame, with its texts as they stand."""
    import pandas

    if kind == ".jsonl":
        return pandas.read_json(io.BytesIO(content), lines=True, dtype=False, convert_dates=False)
    if kind == ".csv":
        return pandas.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    return pandas.read_parquet(io.BytesIO(content))


def missing(value: object) -> bool:
    """Say whether a cell is empty: None, or nan, which alone differs from itself."""
    return value is None or value != value


def hub_rows(domain: str, name: str, column: str) -> Any:
    """Return the rows of the training split of a set on the hub, with a column alone: a `datasets.Dataset`."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"domain {domain!r} needs the package datasets, got none installed: pip install "
                        "'nanogpt[hf]'") from error
    try:
        rows = load_dataset(name, split="train")
    except Exception as error:      # the hub, the network, the disk and each format raise their own
        raise UserError(f"domain {domain!r} must name a set with a split called train, got {HUB + name!r}: "
                        f"{one_line(str(error))}") from error
    if column not in rows.column_names:
        raise UserError(f"column of domain {domain!r} must be one of {', '.join(rows.column_names)} (write "
                        f"{domain}={HUB}{name}#column), got {column!r}")
    return rows.select_columns([column])


def values_of(domain: str, rows: Any, column: str) -> Iterator[str]:
    """Give the texts of the rows of a set."""
    for value in rows[column]:
        if isinstance(value, str):
            yield value
        elif value is not None:
            raise UserError(f"column {column!r} of domain {domain!r} must hold texts, got {one_line(repr(value))}")


def clean(text: str) -> str:
    """Return a text without its byte-order mark, with LF at its line ends, in NFC.

    """
    return normal(text.removeprefix("\ufeff").replace("\r\n", "\n"))


def normal(text: str) -> str:
    """Return a text in NFC.

    It is looked at some lines at a time: to normalise takes several bytes for each character. No character composes
    with a line end.
    """
    if text.isascii() or all(unicodedata.is_normalized("NFC", part) for part in in_lines(text)):
        return text
    return "".join(unicodedata.normalize("NFC", part) for part in in_lines(text))


def in_lines(text: str) -> Iterator[str]:
    """Cut a text after line ends into parts of CHARACTERS_AT_ONCE or a little more."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin + CHARACTERS_AT_ONCE) + 1 or len(text)
        yield text[begin:end]
        begin = end
