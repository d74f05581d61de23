"""A site where jobs need an account and have limits: a Slurm with slurmdbd and MariaDB."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from autosparse.cluster import slurm
from tests.slurm.conftest import Sandbox, until

PACKAGES = ("mariadb-server", "slurmdbd")
PROGRAMS = ("mariadb-install-db", "mariadbd", "mariadb", "slurmdbd")
DATABASE = """
AuthType=auth/none
DbdHost=localhost
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=slurm
StoragePass=sandbox
"""
USER = "create user slurm@'127.0.0.1' identified by 'sandbox'; grant all on *.* to slurm@'127.0.0.1'"
ACCOUNTS = (
    "add account lab description=lab organization=lab",
    "add user {user} account=lab",
    "add qos small maxsubmitjobsperuser=3",
    "modify user {user} set qos=normal,small",
)
CPUS = ("--partition", "cpu", "--gpus-per-node", "0", "--cpus-per-task", "1")
RUN = ("--dataset", "digits", "--iterations", "1", "--epochs", "1", *CPUS)

pytestmark = pytest.mark.long


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster of its own, with accounts: this user has one, `lab`, and the quality of service `small`."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    if missing := [name for name, place in found.items() if place is None]:
        pytest.skip(f"no {', '.join(missing)}: apt-get install --no-install-recommends {' '.join(PACKAGES)}")
    folder, user = tmp_path_factory.mktemp("accounts"), os.environ.get("USER", "root")
    storage, port = free_port(), free_port()
    database = ["--no-defaults", f"--user={user}", f"--datadir={folder}/data"]
    client = [str(found["mariadb"]), "--no-defaults", f"--socket={folder}/socket", "--execute"]
    etc = folder / "slurm" / "etc"
    etc.mkdir(parents=True)
    (etc / "slurmdbd.conf").touch(mode=0o600)
    (etc / "slurmdbd.conf").write_text(DATABASE.format(port=port, storage=storage, user=user, folder=folder))
    log, cluster = folder / "slurmdbd.log", Sandbox(folder / "slurm")

    def run(*command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, capture_output=True, timeout=600)

    with ExitStack() as ends, pytest.MonkeyPatch.context() as own:
        own.setenv("SLURM_CONF", str(etc / "slurm.conf"))

        def start(*command: str) -> None:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ends.callback(process.wait)
            ends.callback(process.terminate)

        run(str(found["mariadb-install-db"]), *database).check_returncode()
        start(str(found["mariadbd"]), *database, f"--socket={folder}/socket", f"--port={storage}")
        until(lambda: run(*client, USER).returncode == 0)
        start(str(found["slurmdbd"]), "-D")
        until(lambda: log.is_file() and "started" in log.read_text())
        cluster("start", SANDBOX_DBD_PORT=str(port))
        ends.callback(cluster, "stop")
        for command in ACCOUNTS:
            run("sacctmgr", "--immediate", *command.format(user=user).split()).check_returncode()
        yield cluster


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("account", "nope", "account nope; see sacctmgr show associations user=$USER)"),
        ("qos", "nope", "qos nope; see sacctmgr show qos)"),
    ],
)
def test_an_account_or_qos_that_is_none(
    option: str,
    value: str,
    message: str,
    script: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script("irp", *RUN, "--output", str(tmp_path), f"--{option}", value) == 2
    assert message in capsys.readouterr().err
    assert slurm.queue() == {}


def test_a_limit_reached_in_the_middle_of_a_graph(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ("paper", "demo", "--scale", "smoke", *CPUS, "--output", str(tmp_path))
    assert script(*plan, "--qos", "small") == 2  # IRP and the fit are within the three jobs of a user, pruning is not
    assert "QOSMaxSubmitJobPerUserLimit" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "(qos small, " in line
    until(lambda: slurm.queue() == {})


def test_what_is_within_the_limits_runs(script: Callable[..., int], tmp_path: Path) -> None:
    seeds = ("--seeds", "0", "1", "--account", "lab", "--qos", "small", "--wait")
    assert script("irp", *RUN, "--output", str(tmp_path), *seeds) == 0
    assert len([*tmp_path.glob("irp/*/triples.zarr/complete")]) == 2
