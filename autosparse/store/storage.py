"""The place of a store: a folder, or a prefix of an object store. Files appear whole and durable, or not at all.

A storage is a flat space of named files; a name may contain slashes. `str` gives its path or URL as a user writes it.
"""

import contextlib
import datetime
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

from autosparse.errors import StoreError, UserError
from autosparse.files import fsync_folder, walk

_RETRY: Any = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=30)}


class Folder:
    """A folder of a local or shared file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None if it does not exist."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file by its name, including files that killed writers left behind."""
        sizes = {}
        for folder, _, names in walk(self.path):
            for path in map(folder.joinpath, names):
                with contextlib.suppress(FileNotFoundError):  # the temporary file of a writer at work
                    sizes[str(path.relative_to(self.path))] = path.stat().st_size
        return sizes

    def read(self, name: str) -> bytes:
        """Return the content of a file, or raise `FileNotFoundError`."""
        return (self.path / name).read_bytes()

    def open(self, name: str, start: int, size: int) -> BufferedIOBase:
        """Return a file to read `size` bytes from, at `start`, or raise `FileNotFoundError`."""
        file = open(self.path / name, "rb")  # noqa: SIM115 (the caller closes it)
        file.seek(start)
        return file

    def put(self, name: str, parts: Sequence[memoryview], replace: bool = False) -> None:
        """Create a file of some parts. Its content is durable on return, its name after `sync`.

        An existing file raises `FileExistsError`, except with `replace`.
        """
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                _move(temporary, path)
        except OSError as error:  # such as a full disk: name the file, not its temporary path
            raise type(error)(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from error
        finally:
            with contextlib.suppress(OSError):  # usually it is missing by now
                temporary.unlink()

    def sync(self, names: Iterable[str]) -> None:
        """Make the names of files durable."""
        parents = {parent for name in names for parent in Path(name).parents}
        for folder in sorted(parents, key=lambda folder: len(folder.parts), reverse=True):
            fsync_folder(self.path / folder)
        fsync_folder(self.path.parent)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file; content and name are durable on return."""
        self.put(name, [memoryview(data)], replace=True)
        self.sync([name])

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        (self.path / name).unlink(missing_ok=True)


class Bucket:
    """A prefix of an S3 object store, reached by obstore with the usual `AWS_` variables; has the methods of `Folder`.

    An object appears whole and durable when its upload ends.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ImportError:
            raise UserError(f"{url} needs obstore: pip install 'autosparse[s3]'") from None
        self._obstore: Any = obstore
        with self._errors():
            self._store = self._obstore.store.from_url(self._url, retry_config=_RETRY)

    def __str__(self) -> str:
        return self._url

    def size(self, name: str) -> int | None:
        try:
            with self._errors():
                return int(self._obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        with self._errors():
            return {entry["path"]: entry["size"] for page in self._obstore.list(self._store) for entry in page}

    def read(self, name: str) -> bytes:
        with self._errors():
            return bytes(self._obstore.get(self._store, name).bytes())

    def open(self, name: str, start: int, size: int) -> BufferedIOBase:
        with self._errors():
            return BytesIO(self._obstore.get_range(self._store, name, start=start, length=size))

    def put(self, name: str, parts: Sequence[memoryview], replace: bool = False) -> None:
        # Only an upload in one request has a mode that does not replace an object.
        mode: Any = "overwrite" if replace else "create"
        content = b"".join(parts)
        try:
            with self._errors():
                self._obstore.put(self._store, name, content, mode=mode, use_multipart=False)
        except FileExistsError:
            if self.read(name) != content:  # equal if this upload succeeded, its answer was lost and it was repeated
                raise

    def sync(self, names: Iterable[str]) -> None:
        pass

    def write(self, name: str, data: bytes) -> None:
        self.put(name, [memoryview(data)], replace=True)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._errors():
            self._obstore.delete(self._store, name)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Re-raise obstore's errors as Python's, or as a one-line `StoreError` that names the storage."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except self._obstore.exceptions.AlreadyExistsError as error:
            raise FileExistsError(errno.EEXIST, "exists", self._url) from error
        except self._obstore.exceptions.NotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "not found", self._url) from error
        except self._obstore.exceptions.BaseError as error:
            message = " ".join(str(error).partition("Debug source")[0].split())
            raise StoreError(
                f"{self._url}: {message} (check AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY)"
            ) from error


Storage = Folder | Bucket


def storage_of(path: str | Path) -> Storage:
    """Return the storage that a path or an `s3://` URL names."""
    scheme = re.match(r"([a-z0-9]+):/", str(path), re.IGNORECASE)
    if scheme is None:
        return Folder(Path(path))
    if scheme[1].lower() != "s3":
        raise UserError(f"{path}: a store is a folder or s3://BUCKET/PREFIX, not {scheme[1]}://")
    return Bucket(re.sub("^s3:/+", "s3://", str(path), flags=re.IGNORECASE))  # a Path has lost one of the slashes


def is_temporary(name: str) -> bool:
    """Return True if a killed writer left this file behind."""
    base = name.rpartition("/")[2]
    return base.startswith(".") and base.endswith(".tmp")


def _move(source: Path, target: Path) -> None:
    """Rename a file, but never over an existing one."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError from None
        os.rename(source, target)
