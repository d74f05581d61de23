"""Objects by name: those of the package, `package.module:Object` and `path/file.py:Object`."""

import importlib
import importlib.util
import inspect
import pickle
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from autosparse.errors import UserError, unknown


def resolve(name: str, kind: str, builtin: Mapping[str, str]) -> Any:
    """Return the object that a name stands for.

    Args:
        name: a key of `builtin`, or the place of the object, `package.module:Object` or `path/file.py:Object`.
        kind: name of such objects in errors, such as "task".
        builtin: maps names to places, `package.module:Object`.

    Raises:
        UserError: an unknown name, or a module, file or object that is missing or fails.
    """
    if name in builtin:
        return resolve_name(builtin[name])
    where, colon, what = name.rpartition(":")
    if not colon:
        valid = [*builtin, "package.module:Object", "path/file.py:Object"]
        raise unknown(kind, name, valid)
    module = _load(Path(where)) if where.endswith(".py") else _import(where, kind)
    try:
        return getattr(module, what)
    except AttributeError:
        names = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise unknown(f"{kind} in {where}:", what, names) from None


def rebuild(files: Mapping[Path, bytes], name: str, fields: bytes) -> Any:
    """Make an object of a class, by pickled arguments, in another process with the user's files as they were here."""
    FILES.update(files)
    return resolve(name, "class", {})(**pickle.loads(fields))


def is_path(name: str) -> bool:
    """Return True if a name is the place of an object rather than a built-in name or a folder."""
    where, colon, what = name.rpartition(":")
    return bool(colon) and what.isidentifier() and "//" not in where


def name_of(target: Any, builtin: Mapping[str, str]) -> str:
    """Return the name by which `resolve` finds an object on any machine that shares its files."""
    path = f"{target.__module__}:{target.__qualname__}"
    for name, place in builtin.items():
        if place == path:
            return name
    if "<locals>" in path:
        raise UserError(f"{target.__qualname__} is defined within a function; jobs need it at the top of a module")
    module = sys.modules[target.__module__]
    if module.__name__ == "__main__" or module.__name__ in _LOADED:
        return f"{Path(inspect.getfile(target)).resolve()}:{target.__qualname__}"
    return path


def digest_of(name: str) -> str:
    """Return the CRC-32, in hex, of the file that an object's name refers to."""
    return f"{zlib.crc32(content_of(source_of(name))):08x}"


def source_of(name: str) -> Path:
    """Return the file that an object's name refers to: that of its module, or `path/file.py`.

    The object itself does not tell: a decorator or a class of another file may have made it.
    """
    where = name.rpartition(":")[0]
    return Path(where if where.endswith(".py") else inspect.getfile(_import(where, "object"))).resolve()


def content_of(path: Path) -> bytes:
    """Return what a user's file contained when it was loaded; what it contains now if it was not."""
    content = FILES.get(path, _IMPORTED.get(path))
    return path.read_bytes() if content is None else content


FILES = dict[Path, bytes]()
"""The user's files as this process loaded them. Jobs run the files of the command, so later edits change nothing."""
_IMPORTED = dict[Path, bytes]()  # Files of imported modules. Jobs import them anew.
_LOADED = dict[str, Path]()  # Files of the user's, by the name of their module.


def _load(path: Path) -> ModuleType:
    """Import a file as the module of its name, as `python file.py` would: modules of its folder can be imported."""
    path = path.resolve()
    if path not in FILES and not path.is_file():
        raise UserError(f"there is no file {path}")
    name, content = path.stem, content_of(path)
    if _LOADED.get(name) == path:
        return sys.modules[name]
    if name in sys.modules or not name.isidentifier():
        raise UserError(
            f"{path} cannot be imported as {name}, which is taken or not a name of modules; rename the file"
        )
    # Worker processes that read data import the module by its name, too.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(content, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} fails: {type(error).__name__}: {error}") from error
    _LOADED[name], FILES[path] = path, content
    return module


def _import(name: str, kind: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        problem = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise UserError(f"the module {name!r} of this {kind} cannot be imported: {problem}") from error
    if (file := getattr(module, "__file__", None)) and (path := Path(file).resolve()) not in _IMPORTED:
        _IMPORTED[path] = path.read_bytes()
    return module
