"""Jobs that are stopped, preempted or lost on a real Slurm go on, and end with the bytes of one that was not."""

import json
import subprocess
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch, slurm
from autosparse.study.runs import IRPRun
from autosparse.study.setting import Setting
from tests.conftest import tree
from tests.slurm.conftest import Sandbox, until

GPU = {"partition": "gpu", "cpus_per_task": 1}


def a_run(output: Path) -> IRPRun:
    return IRPRun(output, Setting(dataset="digits", epochs=6), iterations=8)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, in one go, with as many threads."""
    output = tmp_path_factory.mktemp("undisturbed")
    launch([a_run(output)], Resources(cluster="local", cpus_per_task=1), output, "irp")
    return a_run(output).folder


def started(run: IRPRun, resources: Resources, iterations: int = 2) -> str:
    """Submit a run, wait until it has trained a few masks; returns its job id."""
    launch([run], resources, run.output, "irp")
    history = run.folder / "history.json"
    until(lambda: history.is_file() and len(json.loads(history.read_text())) >= iterations)
    return json.loads((run.folder / "job.json").read_text())["job"]


def status(run: IRPRun) -> dict:
    return json.loads((run.folder / "status.json").read_text())


def ends_as(run: IRPRun, undisturbed: Path) -> None:
    until(lambda: slurm.queue() == {})
    assert status(run)["state"] == "complete", (run.folder / "logs" / "rank0.log").read_text()
    assert tree(run.folder / "triples.zarr") == tree(undisturbed / "triples.zarr")
    assert (run.folder / "history.json").read_bytes() == (undisturbed / "history.json").read_bytes()


def call(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


def test_the_signal_of_the_time_limit_leads_to_a_checkpoint_and_the_same_job_goes_on(
    undisturbed: Path, tmp_path: Path
) -> None:
    run = a_run(tmp_path)
    job = started(run, Resources(**GPU))
    call("scancel", "--signal=USR2", job)
    until(lambda: status(run)["state"] == "interrupted")
    assert (run.folder / "checkpoint.pt").is_file()
    ends_as(run, undisturbed)
    assert status(run)["requeues"] == 1
    assert json.loads((run.folder / "environment.json").read_text())["jobs"] == [job, job]
    assert "stopped at a step, everything saved: SIGUSR2" in (run.folder / "logs" / "rank0.log").read_text()


def test_all_processes_of_a_world_stop_at_the_same_step(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    job = started(run, Resources(**GPU, gpus_per_node=2))
    call("scancel", "--signal=USR2", job)
    until(lambda: status(run)["state"] == "interrupted")
    until(lambda: slurm.queue() == {})
    assert (status(run)["state"], status(run)["requeues"]) == ("complete", 1)
    assert not list(run.folder.glob("logs/*.error.json"))


def test_a_lost_node_costs_the_work_since_the_last_checkpoint(
    undisturbed: Path, tmp_path: Path, sandbox: Sandbox
) -> None:
    run = a_run(tmp_path)
    started(run, Resources(**GPU))
    node = status(run)["node"]
    sandbox("crash", node)
    try:
        call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
        ends_as(run, undisturbed)
    finally:
        sandbox("boot", node)
        call("scontrol", "update", f"nodename={node}", "state=resume")
    assert status(run)["requeues"] == 1


def test_a_cancelled_job_is_not_queued_again_and_the_same_command_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    call("scancel", started(run, Resources(**GPU)))
    until(lambda: slurm.queue() == {})
    assert status(run)["state"] != "complete"
    launch([run], Resources(**GPU), tmp_path, "irp")
    ends_as(run, undisturbed)


def test_a_job_is_queued_again_as_often_as_it_may(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    job = started(run, Resources(**GPU, max_requeues=0))
    call("scancel", "--signal=USR2", job)
    until(lambda: slurm.queue() == {})
    assert status(run)["state"] == "interrupted"
    assert status(run)["requeues"] == 0
