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
from typing import IO, Any

PAUSE = 2.0  # seconds from an answer to the next question
_PATIENCE = 60.0  # seconds to wait for another process, which may be suspended while it asks


def shared(ask: Callable[[], str | None], question: str) -> str | None:
    """What `ask` returns, here or in another process of this user and machine that asks the same.

    Whoever calls this waits for its turn, so that one process asks at a time, and `PAUSE` seconds after the answer
    before. The answer is never older than the call: one that was asked for before is asked for again. Where files of
    one's own cannot be made, or another process takes its turn for a minute, this process asks by itself.

    Args:
        ask: asks; None where there is no answer, which is shared likewise.
        question: by which processes know that they ask the same.
    """
    called = time.time()
    with _turn(question) as file:
        if file is None:
            return ask()
        began, ended, answer = _last(file)
        if called <= began <= time.time():
            return answer
        time.sleep(min(PAUSE, max(0.0, ended + PAUSE - time.time())))
        began = time.time()
        answer = ask()
        file.seek(0)
        file.truncate()
        json.dump({"began": began, "ended": time.time(), "answer": answer}, file)
        return answer


@contextlib.contextmanager
def _turn(question: str) -> Iterator[IO[str] | None]:
    """The file of a question, locked; None where it cannot be had."""
    with contextlib.ExitStack() as closing:
        try:
            name = hashlib.sha256(question.encode()).hexdigest()[:16]
            file: IO[str] | None = closing.enter_context(open(_folder() / name, "a+"))
        except OSError:
            file = None
        end = time.monotonic() + _PATIENCE
        while file and not _locked(file):
            if time.monotonic() > end:
                file = None
            time.sleep(0.05)
        yield file


def _folder() -> Path:
    """A folder that no other user may read or write.

    Raises:
        OSError: what stands there is something else.
    """
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), f"autosparse-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(folder)
    return folder


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _last(file: IO[str]) -> tuple[float, float, str | None]:
    """When the last answer was asked for and came, and what it was; long ago, if it cannot be read."""
    file.seek(0)
    try:
        said: dict[str, Any] = json.load(file)
        return said["began"], said["ended"], said["answer"]
    except (ValueError, LookupError, TypeError):
        return 0.0, 0.0, None
