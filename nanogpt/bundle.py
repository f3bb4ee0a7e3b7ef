"""The code that a served model needs, as a package whose name is the digest of its content.

MLflow puts a model's code on `sys.path`, where of two packages of one name the first wins silently. Under a name made
from the content two versions of this code are two packages, and the same code is loaded once.
"""

from __future__ import annotations

import ast
import hashlib
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
OWN_IMPORT = re.compile(rf"^(\s*)from {HERE.name}(?=[. ])", re.MULTILINE)


LOADER = """\"\"\"Loads a model by the code in the zip file beside this file.\"\"\"

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).with_name("{package}.zip")))
from {package}.{module} import {name}  # noqa: E402, F401
"""


class Bundle(NamedTuple):
    """Two files, so that a model costs a remote store few requests."""

    loader: Path        # a module that offers what was asked for
    code: Path          # the package, as a zip file that Python imports from


def write_bundle(module: str, name: str, folder: Path) -> Bundle:
    """The loader of `name` from `module` of this package, and the code: all of the package that `module` imports."""
    sources = sources_behind(module)
    digest = hashlib.sha256("".join(f"{name}\0{text}\0" for name, text in sorted(sources.items())).encode())
    package = f"{HERE.name}_{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(folder / f"load_{package}.py", folder / f"{package}.zip")
    bundle.loader.write_text(LOADER.format(package=package, module=module, name=name), "utf-8")
    with zipfile.ZipFile(bundle.code, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "")
        for file, text in sources.items():
            archive.writestr(f"{package}/{file}.py", OWN_IMPORT.sub(rf"\1from {package}", text))
    return bundle


def sources_behind(module: str) -> dict[str, str]:
    """The source of a module and of all modules of this package that it imports, by name."""
    found: dict[str, str] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = (HERE / f"{name}.py").read_text("utf-8")
            wanted += own_imports(found[name])
    return found


def own_imports(source: str) -> Iterator[str]:
    """The modules of this package that `source` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package == HERE.name:
                yield from [module] if module else (alias.name for alias in node.names)
