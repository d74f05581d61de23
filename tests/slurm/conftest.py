"""A real Slurm on this machine, for the tests of this folder."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import cloudpickle
import pytest

from autosparse.cluster import slurm
from tests import waiting
from tests.cluster import jobs
from tests.conftest import ROOT, Patch
from tests.mounts import mounted
from tests.slurm import work

MAX_ARRAY = 8
BY_VALUE = (jobs, work, waiting)  # jobs cannot import tests by name: they start in pytest's folder, whichever it is
Found = TypeVar("Found")


class Sandbox:
    """`slurm/sandbox` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str, *arguments: str, **variables: str) -> None:
        """Run a command of slurm/sandbox."""
        done = subprocess.run(
            [ROOT / "slurm" / "sandbox", command, self.folder, *arguments],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=6000,
        )
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        """Start it; in place of one that runs, with nothing left of that."""
        self("start", SANDBOX_MAX_ARRAY=str(MAX_ARRAY))

    @property
    def environment(self) -> dict[str, str]:
        """What `. DIR/env` sets."""
        command = f'. "{self.folder}/env"; echo "$SLURM_CONF"; echo "$PATH"'
        shown = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, timeout=600).stdout
        return dict(zip(("SLURM_CONF", "PATH"), shown.splitlines(), strict=True))


@pytest.fixture(scope="package")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, which a test may fill; where only root may mount, a folder like any other."""
    folder = tmp_path_factory.mktemp("disk")
    own = mounted("size=1g", folder)
    yield folder
    if own:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="package")
def sandbox(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Sandbox]:
    """A cluster for all tests of this folder; skipped without Slurm, failed if AUTOSPARSE_REQUIRE_SLURM is set.

    Its nodes see what is mounted before.
    """
    places = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=places)]
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install --no-install-recommends slurmctld slurmd slurm-client"
        if os.environ.get("AUTOSPARSE_REQUIRE_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    cluster = Sandbox(tmp_path_factory.mktemp("slurm"))
    for module in BY_VALUE:
        cloudpickle.register_pickle_by_value(module)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster("stop")
        for module in BY_VALUE:
            cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(autouse=True)
def on_the_cluster(sandbox: Sandbox, monkeypatch: Patch) -> Iterator[None]:
    """Each test talks to the sandbox, and leaves it idle."""
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    yield
    subprocess.run(["scancel", f"--user={os.getuid()}"], check=True, timeout=600)
    until(lambda: slurm.queue() == {})


def until(what: Callable[[], Found], timeout: float = 600.0) -> Found:
    """Ask until the answer is true; returns it."""
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)
    return found
