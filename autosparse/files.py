"""Files that exist whole or not at all, also after a crash."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autosparse.errors import UserError

_SCRATCH = ".tmp"


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder like `os.walk`, following links and visiting no folder twice."""
    seen = set[str]()
    for where, folders, files in os.walk(top, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(where), folders, files


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it is durable and takes the place of `path`.

    The file at `path` does not change until then, and not at all if the block raises. The umask decides who may read
    the new file, also if a library wrote it for its user alone. One writer at a time: the temporary path is in a folder
    next to `path` with a fixed name, so the next writer removes what a killed writer left.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}{_SCRATCH}")
    temporary = scratch / path.name
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fchmod(file.fileno(), mode)  # safetensors puts a file there that is for its user alone
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except Exception as error:
        if number := _system_error(error, scratch):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # a read-only file system refuses this even where there is none


def remove_unfinished(folder: Path, but: str) -> None:
    """Remove what killed writers left in a folder that only this process writes to, except for the file `but`."""
    for scratch in folder.glob(f".*{_SCRATCH}"):
        if scratch.name != f".{but}{_SCRATCH}":
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a path to errors of the operating system that name no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def check_writable(folder: Path, name: str) -> None:
    """Refuse a folder that takes no files, or whose nearest existing parent does not; `name` is its option."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryDirectory(prefix=".autosparse-", dir=there):
            pass
    except OSError as error:
        raise UserError(f"{name} {folder}: {there} takes no files ({error.strerror}); name another folder") from None


def _system_error(error: Exception, scratch: Path) -> int | None:
    """Return the number of an error of the operating system in writing a file, also as native code reports it."""
    if isinstance(error, OSError):
        here = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(scratch)
        return error.errno if here else None
    if match := re.search(r"os error (\d+)", str(error)):  # safetensors
        return int(match[1])
    if isinstance(error, RuntimeError) and "file write failed" in str(error):  # torch.save does not say why
        return errno.ENOSPC
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_record(path: Path, value: Any) -> None:
    """Write JSON that is not essential: where that fails, as on a full disk, overwrite the old file or give up."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        write_text(path, text)
    except OSError:
        with contextlib.suppress(OSError), open(path, "rb+") as file:
            file.write(text.encode())
            file.truncate()


def read_json(path: Path) -> Any:
    """Read a JSON file; raise a `UserError` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); put it back from a copy, or delete this file alone and run the same again"
        ) from error


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that is not essential; empty if the file is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def digest_of(path: Path) -> str:
    """Return a digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def is_json(path: Path) -> bool:
    """Return True if a file exists and holds JSON values."""
    try:
        return path.is_file() and bool(read_json(path))
    except UserError:
        return False
