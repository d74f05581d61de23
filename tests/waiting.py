"""Runs of IRP that wait in the middle of an iteration, so that a test can do to them what it wants at its own pace."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from autosparse.cluster import interruption
from autosparse.cluster.records import Progress
from tests.conftest import SMALL_IRP, run_script
from tests.world import FORKS


@contextmanager
def waiting(step: int, sign: Path) -> Iterator[None]:
    """Touch a file after K steps, and wait there until this process is asked to stop."""
    go_on = Progress.update

    def update(progress: Progress, steps: int, note: str = "") -> None:
        go_on(progress, steps, note)
        if progress._done == step:
            sign.touch()
            while not interruption.received():
                time.sleep(0.05)

    Progress.update = update
    try:
        yield
    finally:
        Progress.update = go_on


def waiting_irp(step: int, output: Path, options: Sequence[str] = SMALL_IRP) -> BaseProcess:
    """A process that runs IRP and waits after a step; its standard error is in the file `said`."""
    process = FORKS.Process(target=_irp, args=(step, output, options), daemon=True)
    process.start()
    while not (output / "waiting").exists():
        assert process.is_alive(), (output / "said").read_text()
        time.sleep(0.01)
    return process


def _irp(step: int, output: Path, options: Sequence[str]) -> None:
    sys.stderr = (output / "said").open("w", buffering=1)
    with waiting(step, output / "waiting"):
        sys.exit(run_script("irp", *options, "--output", str(output)))
