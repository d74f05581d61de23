"""The program of a job's process, `python -m autosparse.cluster.begin FOLDER`: submitit, on pickles of this user alone.

A pickle runs code when it is loaded, and the folder may be one that others can write to.
"""

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import submitit
from submitit.core.submission import submitit_main

_UNTIL_THERE = 60  # seconds: it is moved to its place just after the submission


def main() -> None:
    """Run the submitted work and end the process, even if threads of the user's are still alive.

    Raises:
        SystemExit: the pickle belongs to another user.
    """
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
    """Refuse a pickle of another user, once it is there; that it is not, submitit says.

    Raises:
        SystemExit: see above.
    """
    for _ in range(_UNTIL_THERE):
        if pickle.exists():
            break
        time.sleep(1)
    else:
        return
    with tempfile.TemporaryFile(dir=pickle.parent) as own:  # file servers may number users otherwise
        if pickle.stat().st_uid != os.fstat(own.fileno()).st_uid:
            sys.exit(f"{pickle} is of another user, and is not loaded; submit again to a folder of your own")


if __name__ == "__main__":
    main()
