"""The program of a job's process: submitit's, with two safeguards.

A pickle runs code when it is loaded, and others may be able to write to the folder, so only pickles of this user are
loaded. And the process ends when its work is done, even if threads of the user's are still alive. The same holds for
the processes of `workers`.
"""

import os
import pickle
import shlex
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Never

import submitit
from submitit.core.submission import submitit_main
from tqdm import tqdm

HOLD_SIGNALS = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); "
    "work = 'from autosparse.cluster.worker import main; main()'; "
    "words = ['-c', work] if sys.argv[2:4] == ['-m', 'submitit.core._submit'] else sys.argv[2:4]; "
    "os.execv(sys.executable, [sys.executable, sys.argv[1], *words, *sys.argv[4:]])"
)
"""First code of a job's process. It holds signals until `interruption.listening`, as a signal during the imports would
end the process, and runs this module instead of submitit's."""
PYTHON = f"{shlex.quote(sys.executable)} -ISc {shlex.quote(HOLD_SIGNALS)}"
"""The Python of submitit's jobs."""
_PICKLE_TIMEOUT = 60  # seconds; submitit moves the pickle to its place just after the submission.


def main() -> None:
    """Run the submitted work and end the process."""
    os.environ["SUBMITIT_FOLDER"] = sys.argv[1]
    check_owner(submitit.JobEnvironment().paths.submitted_pickle)
    _run_and_exit(submitit_main)


def run_forked(work: bytes, environment: Mapping[str, str], log: Path) -> None:
    """Run pickled work in a forked process and end the process.

    Args:
        work: pickled function without arguments.
        environment: mapping of all environment variables of the process.
        log: file to which standard output and standard error are appended.
    """
    os.environ.clear()
    os.environ.update(environment)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    tqdm.set_lock(threading.RLock())  # Its own lock has a semaphore, which the end below would leave behind.
    _run_and_exit(lambda: pickle.loads(work)())


def _run_and_exit(work: Callable[[], object]) -> Never:
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # The disk may be full.
                stream.flush()
        os._exit(code)


def check_owner(pickle: Path) -> None:
    """Exit if a pickle belongs to another user; if it does not come to exist, submitit reports it."""
    end = time.monotonic() + _PICKLE_TIMEOUT
    while not pickle.exists():
        if time.monotonic() > end:
            return
        time.sleep(1)
    with tempfile.TemporaryFile(dir=pickle.parent) as file:  # A file server may number users differently.
        if pickle.stat().st_uid != os.fstat(file.fileno()).st_uid:
            sys.exit(f"{pickle} is of another user, and is not loaded; submit again to a folder of your own")
