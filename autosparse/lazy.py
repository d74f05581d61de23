"""Names that a package imports on first use, so that a command that only reads runs does not wait for PyTorch."""

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package, for the names that it imports `if TYPE_CHECKING`; `dir` shows them too."""
    module = sys.modules[package]
    tree = ast.parse(inspect.getsource(module))
    blocks = [node.body for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    vars(module)["__dir__"] = lambda: sorted({*vars(module), *homes} - {"TYPE_CHECKING", "lazily", "lazy"})
    return find
