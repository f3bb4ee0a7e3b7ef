"""The code that a served model needs, as a package whose name is the digest of its content.

MLflow puts a model's code on `sys.path`, where of two packages of one name the first wins silently. Under a name made
from the content two versions of this code are two packages, and the same code is loaded once.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
OWN_IMPORT = re.compile(rf"^(\s*)from {HERE.name}(?=[. ])", re.MULTILINE)


def write_bundle(module: str, folder: Path) -> Path:
    """Write `module` of this package, and all of the package that it imports, as `folder/nanogpt_<digest>`."""
    sources = sources_behind(module)
    digest = hashlib.sha256("".join(f"{name}\0{text}\0" for name, text in sorted(sources.items())).encode())
    package = folder / f"{HERE.name}_{digest.hexdigest()[:12]}"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, text in sources.items():
        (package / f"{name}.py").write_text(OWN_IMPORT.sub(rf"\1from {package.name}", text), "utf-8")
    return package


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
