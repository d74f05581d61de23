"""The program of a job's process, `python -m autosparse.cluster.worker FOLDER`: submitit's, with two safeguards.

A pickle runs code when it is loaded, and others may be able to write to the folder, so only pickles of this user are
loaded. And the process ends when its work is done, even if threads of the user's are still alive.
"""

import os
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

import submitit
from submitit.core.submission import submitit_main

HOLD_SIGNALS = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM}); "
    "words = [word.replace('submitit.core._submit', 'autosparse.cluster.worker') for word in sys.argv[1:4]]; "
    "os.execv(sys.executable, [sys.executable, *words, *sys.argv[4:]])"
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
    code = 1
    try:
        submitit_main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
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


if __name__ == "__main__":
    main()
