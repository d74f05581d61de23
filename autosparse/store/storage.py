"""Where a store lies: a folder, or a prefix of an object store. Files appear whole and durable, or not at all."""

import contextlib
import datetime
import errno
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from autosparse.errors import StoreError, UserError
from autosparse.files import fsync_folder, walk

_VARIABLES = "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_RETRY: Any = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=30)}
_AT_ONCE = 512  # buffers that one call may write
Fill = Callable[[Sequence[memoryview]], None]  # fills buffers with what comes next of a file

_BLOCK = 1 << 22  # bytes read at a time where a file is only looked through


class Storage(ABC):
    """A flat space of named files; a name may hold slashes."""

    @abstractmethod
    def __str__(self) -> str:
        """The path or URL, as the user would give it."""

    @abstractmethod
    def child(self, name: str) -> "Storage":
        """The storage below."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes in a file, or None if there is none."""

    @abstractmethod
    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, a few megabytes at a time.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes in every file by its name, with what killed writers left."""

    @abstractmethod
    def stream(self, name: str, start: int, stop: int) -> AbstractContextManager[Fill]:
        """A function that fills buffers, one after the other, with the bytes start..stop of a file.

        The function raises ValueError where the file ends before.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def place(self, name: str, parts: Sequence[memoryview], replace: bool = False) -> None:
        """Put a file in storage, whole; its content is durable when this returns, its name after `sync`.

        Args:
            name: of the file.
            parts: its content, end to end.
            replace: whether there may be one.

        Raises:
            FileExistsError: there is one, and it is not to be replaced.
        """

    @abstractmethod
    def sync(self, names: Iterable[str]) -> None:
        """Make the names of files durable that were placed."""

    def write(self, name: str, data: bytes) -> None:
        """Put a file in storage or replace it, whole and durable when this returns."""
        self.place(name, [memoryview(data)], replace=True)
        self.sync([name])

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""

    def errors(self) -> AbstractContextManager[None]:
        """What goes wrong in the block with the storage itself is raised in one line that names it."""
        return contextlib.nullcontext()

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return b"".join(self.blocks(name))


class Folder(Storage):
    """A folder of a local or shared file system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> Storage:
        return Folder(self.path / name)

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def blocks(self, name: str) -> Iterator[bytes]:
        with open(self.path / name, "rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in walk(self.path):
            for path in map(folder.joinpath, names):
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile: the temporary file of a writer at work
                    found[str(path.relative_to(self.path))] = path.stat().st_size
        return found

    @contextlib.contextmanager
    def stream(self, name: str, start: int, stop: int) -> Iterator[Fill]:
        with open(self.path / name, "rb", buffering=0) as file:
            descriptor, place = file.fileno(), start

            def fill(buffers: Sequence[memoryview]) -> None:
                nonlocal place
                left = [buffer for buffer in buffers if len(buffer)]
                while left:
                    done = os.preadv(descriptor, left, place)
                    if not done:
                        raise ValueError("the file ends before")
                    place += done
                    left = _behind(left, done)

            yield fill

    def place(self, name: str, parts: Sequence[memoryview], replace: bool = False) -> None:
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb", buffering=0) as file:
                left = [part for part in parts if len(part)]
                while left:
                    left = _behind(left, os.writev(file.fileno(), left[:_AT_ONCE]))
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                _move(temporary, path)
        except OSError as error:  # a full disk, and the like: about the file that was to be, not the temporary one
            raise type(error)(error.errno, os.strerror(error.errno or errno.EIO), str(path)) from error
        finally:
            with contextlib.suppress(OSError):  # a read-only file system refuses this even where there is none
                temporary.unlink(missing_ok=True)

    def sync(self, names: Iterable[str]) -> None:
        above = {parent for name in names for parent in Path(name).parents}
        for folder in sorted(above, key=lambda folder: len(folder.parts), reverse=True):
            fsync_folder(self.path / folder)
        fsync_folder(self.path.parent)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Bucket(Storage):
    """A prefix of an S3 object store, reached by obstore with the usual `AWS_` variables.

    An object appears whole when its upload ends, and is durable then.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._obstore = _import_obstore(url)
        with self.errors():
            self._store = self._obstore.store.from_url(self._url, retry_config=_RETRY)

    def __str__(self) -> str:
        return self._url

    def child(self, name: str) -> Storage:
        return Bucket(f"{self._url}/{name}")

    def size(self, name: str) -> int | None:
        try:
            with self.errors():
                return int(self._obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def blocks(self, name: str) -> Iterator[bytes]:
        with self.errors():
            for block in self._obstore.get(self._store, name).stream(min_chunk_size=_BLOCK):
                yield bytes(block)

    def sizes(self) -> dict[str, int]:
        with self.errors():
            return {entry["path"]: entry["size"] for page in self._obstore.list(self._store) for entry in page}

    @contextlib.contextmanager
    def stream(self, name: str, start: int, stop: int) -> Iterator[Fill]:
        with self.errors():
            content = memoryview(self._obstore.get_range(self._store, name, start=start, end=stop)).cast("B")
        place = 0

        def fill(buffers: Sequence[memoryview]) -> None:
            nonlocal place
            for buffer in buffers:
                part = content[place : place + len(buffer)]
                if len(part) < len(buffer):
                    raise ValueError("the object ends before")
                buffer[:] = part
                place += len(buffer)

        yield fill

    def place(self, name: str, parts: Sequence[memoryview], replace: bool = False) -> None:
        # one request, not parts: parts have no way to say "only if there is none"
        mode: Any = "overwrite" if replace else "create"
        content = b"".join(parts)
        try:
            with self.errors():
                self._obstore.put(self._store, name, content, mode=mode, use_multipart=False)
        except FileExistsError:
            if self.read(name) != content:  # or it is this very one: its answer was lost, and it was sent again
                raise

    def sync(self, names: Iterable[str]) -> None:
        """An object is durable when its upload ends."""

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self.errors():
            self._obstore.delete(self._store, name)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn obstore's errors into Python's, or into one line that names the storage."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except self._obstore.exceptions.AlreadyExistsError as error:
            raise FileExistsError(errno.EEXIST, "exists", self._url) from error
        except self._obstore.exceptions.NotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "not found", self._url) from error
        except self._obstore.exceptions.BaseError as error:
            what = " ".join(str(error).partition("Debug source")[0].split())
            raise StoreError(f"{self._url}: {what} ({_VARIABLES} say where and who)") from error


def storage_of(path: str | Path) -> Storage:
    """The storage that a path or an `s3://` URL names.

    Raises:
        UserError: a URL of another kind, or obstore is not installed.
    """
    scheme = re.match(r"([a-z0-9]+):/", str(path), re.IGNORECASE)
    if scheme is None:
        return Folder(Path(path))
    if scheme[1].lower() != "s3":
        raise UserError(f"{path}: stores lie in folders or at s3://BUCKET/PREFIX, not at {scheme[1]}://")
    return Bucket(re.sub("^s3:/+", "s3://", str(path), flags=re.IGNORECASE))  # a Path has lost one of the slashes


def is_temporary(name: str) -> bool:
    """Whether a killed writer left this file."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".tmp")


def _behind(buffers: list[memoryview], done: int) -> list[memoryview]:
    """What is left of buffers when so many bytes of them are done."""
    for number, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *buffers[number + 1 :]]
        done -= len(buffer)
    return []


def _move(source: Path, target: Path) -> None:
    """Rename, but never over a file that is there."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        os.rename(source, target)


def _import_obstore(url: str) -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise UserError(f"{url} needs obstore: pip install 'autosparse[s3]'") from None
    return obstore
