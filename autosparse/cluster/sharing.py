"""One question for all who ask it at once: those of a user who watch runs on a machine share Slurm's answers."""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(tempfile.gettempdir(), f"autosparse-{os.getuid()}")
PAUSE = 2.0  # seconds from an answer to the next question
_PATIENCE = 150.0  # seconds for an answer; two questions may take a minute each until they are given up
_LOOK = 0.05  # seconds between two looks at what the others have


def shared(ask: Callable[[], str | None], question: str) -> str | None:
    """What `ask` returns, here or in another process of this user and machine that asks the same.

    One process asks at a time, `PAUSE` seconds after the answer before; the others wait for what it hears. An answer is
    never older than the call: one that was asked for before is not taken. A process asks by itself where it cannot
    have the file by which they know of each other, or when nothing has come for minutes, as the one whose turn it is
    may be suspended.

    Args:
        ask: asks; None where there is no answer, which is shared likewise.
        question: by which processes know that they ask the same.
    """
    called, end = time.time(), time.monotonic() + _PATIENCE
    with _opened(question) as file:
        while file is not None and time.monotonic() < end:
            began, ended, answer = _last(file)
            if called <= began <= time.time():
                return answer
            if not 0 <= time.time() - ended < PAUSE:  # or the clock was put back
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    pass
                except OSError:  # a file system without locks
                    break
                else:
                    if _last(file) == (began, ended, answer):
                        return _asked(ask, file)
                    fcntl.flock(file, fcntl.LOCK_UN)  # somebody has asked meanwhile
            time.sleep(_LOOK)
    return ask()


@contextlib.contextmanager
def _opened(question: str) -> Iterator[int | None]:
    """The file of a question, in a folder that no other user may read or write; None where it cannot be had."""
    file = None
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            FOLDER.mkdir(mode=0o700)
        found = FOLDER.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            name = hashlib.sha256(question.encode()).hexdigest()[:16]
            file = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        if file is not None:
            os.close(file)


def _asked(ask: Callable[[], str | None], file: int) -> str | None:
    """Ask, and leave the answer to the others."""
    began = time.time()
    answer = ask()
    with contextlib.suppress(OSError):  # on a full disk the others ask by themselves
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"began": began, "ended": time.time(), "answer": answer}).encode(), 0)
    return answer


def _last(file: int) -> tuple[float, float, str | None]:
    """When the last answer was asked for and came, and what it was; long ago, if there is none that can be read."""
    try:
        said = json.loads(os.pread(file, os.fstat(file).st_size, 0))
        return said["began"], said["ended"], said["answer"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0, 0.0, None
