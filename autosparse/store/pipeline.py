"""What decodes a store's chunks: zarr-python, or `zarrs`, the same in Rust."""

import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator

import zarr

from autosparse.errors import UserError, unknown
from autosparse.store.storage import Folder, Storage

PIPELINES = ("auto", "zarr", "zarrs")

_configuring = threading.Lock()  # zarr's configuration is the same for all threads
_started_by: int | None = None  # the process whose threads zarrs has started; a forked child does not have them


def choose(wanted: str, storage: Storage) -> str:
    """`zarr` or `zarrs`.

    Raises:
        UserError: an unknown name, or zarrs where it is not installed, cannot read, or would deadlock.
    """
    if wanted not in PIPELINES:
        raise unknown("pipeline", wanted, PIPELINES)
    possible = isinstance(storage, Folder) and importlib.util.find_spec("zarrs") is not None
    if wanted == "auto":
        return "zarrs" if possible and not _is_forked() else "zarr"
    if wanted == "zarrs" and not possible:
        raise UserError(f"zarrs reads folders, where it is installed (pip install 'autosparse[fast]'); {storage}: zarr")
    check(wanted)
    return wanted


def check(name: str) -> None:
    """Refuse what would wait forever.

    Raises:
        UserError: zarrs in a child of a process that has used it, by fork.
    """
    if name == "zarrs" and _is_forked():
        raise UserError(
            "zarrs would deadlock in a forked process; start it by spawn or forkserver, "
            "or open the store there, with pipeline='zarr'"
        )


@contextlib.contextmanager
def configured(name: str) -> Iterator[None]:
    """Arrays opened in this block are decoded by that pipeline from then on."""
    global _started_by
    with _configuring:
        if name == "zarrs":
            _started_by = os.getpid()
            # strict: an error rather than a silent fall-back to zarr-python
            with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
                yield
        else:
            yield


def _is_forked() -> bool:
    return _started_by not in (None, os.getpid())
