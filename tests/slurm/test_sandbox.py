"""The sandbox itself: what it leaves running, and what it says."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.slurm.conftest import Sandbox, until


def processes(sandbox: Sandbox) -> list[str]:
    """The live processes that have to do with a sandbox: its folder is in their arguments or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # gone by now
            continue
        if str(sandbox.folder).encode() in said:
            found.append(process.name)
    return found


@pytest.mark.parametrize("namespaces", ["1", "0"])
def test_it_starts_runs_a_job_and_leaves_nothing_running(
    namespaces: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    second = Sandbox(tmp_path_factory.mktemp("two"))  # beside the one that the other tests use

    def shown(*command: str) -> list[str]:
        environment = os.environ | second.environment
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
        return done.stdout.splitlines()

    try:
        second("start", SANDBOX_NAMESPACES=namespaces)
        seen = shown("srun", "--partition=gpu", "--gpus-per-node=2", "--cpus-per-task=8", "printenv")
        assert {"CUDA_VISIBLE_DEVICES=0,1", "SLURMD_NODENAME=gpu1"} <= set(seen)
        (job_id,) = shown("sbatch", "--parsable", "--output=/dev/null", "--wrap=srun sleep 600")
        accounting = ["sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job_id]
        until(lambda: shown(*accounting)[1:] == [f"{job_id}|RUNNING|cpu1"])
        assert processes(second)
    finally:
        second("stop")
    until(lambda: not processes(second))
    second("stop")  # again: nothing to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: slurm/sandbox start|stop DIR, or slurm/sandbox crash|boot DIR NODE"),
        (["stop", "nowhere"], "no folder nowhere"),
        (["crash", ".", "gpu1"], "is not a sandbox"),
        (["start", "a" * 70], "a path of at most 69 is needed"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    program = Path(__file__).parents[2] / "slurm" / "sandbox"
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
