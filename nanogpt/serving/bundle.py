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

PACKAGE = Path(__file__).parents[1]
OWN_IMPORT = re.compile(rf"^(\s*)from {PACKAGE.name}(?=[. ])", re.MULTILINE)


LOADER = """\"\"\"Loads a model by the code in the zip file beside this file.\"\"\"

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).with_name("{package}.zip")))
from {package}.{module} import {name}  # noqa: E402, F401
"""


class Bundle(NamedTuple):
    """Two files, so that a model costs a remote store few requests."""

    loader: Path        # a module that offers the wanted name
    code: Path          # the package, as a zip file that Python imports from


def write_bundle(module: str, name: str, folder: Path) -> Bundle:
    """Write the loader of `name` from `module` of this package, and the code: every module that `module` imports.

    `module` is dotted and without the package's name: "serving.pyfunc".
    """
    sources = sources_behind(module)
    digest = hashlib.sha256("".join(f"{file}\0{text}\0" for file, text in sorted(sources.items())).encode())
    package = f"{PACKAGE.name}_{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(folder / f"load_{package}.py", folder / f"{package}.zip")
    bundle.loader.write_text(LOADER.format(package=package, module=module, name=name), "utf-8")
    folders = {str(parent) for file in sources for parent in Path(file).parents}
    with zipfile.ZipFile(bundle.code, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner in sorted(folders):
            archive.writestr(f"{package}/{inner}/__init__.py".replace("/./", "/"), "")
        for file, text in sources.items():
            archive.writestr(f"{package}/{file}", OWN_IMPORT.sub(rf"\1from {package}", text))
    return bundle


def sources_behind(module: str) -> dict[str, str]:
    """Read the sources of a module and of all modules of this package that it imports, by file below the package."""
    sources: dict[str, str] = {}
    wanted = [module]
    while wanted:
        file = wanted.pop().replace(".", "/") + ".py"
        if file not in sources:
            sources[file] = (PACKAGE / file).read_text("utf-8")
            wanted += own_imports(sources[file])
    return sources


def own_imports(source: str) -> Iterator[str]:
    """List the modules of this package that `source` imports, dotted and without the package's name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            if package == PACKAGE.name:
                names = [module] if is_module(module) else [f"{module}.{alias.name}" for alias in node.names]
                yield from (name for name in names if is_module(name))


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name.replace('.', '/')}.py").is_file()
