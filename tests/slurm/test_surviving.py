"""Jobs that are stopped, preempted or lost on a real Slurm go on, and end with the bytes of one that was not."""

import json
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from autosparse.cluster import Resources, launch, slurm
from autosparse.config import IRPConfig
from autosparse.errors import UserError
from autosparse.jobs import IRPRun
from autosparse.jobs.base import TrainingOptions
from autosparse.tasks import Images
from tests.conftest import Capture, tree
from tests.slurm.conftest import Sandbox, until
from tests.slurm.work import PatientRun

GPU = {"partition": "gpu", "cpus_per_task": 1}


SETTING, CONFIG = TrainingOptions(task=Images(source="digits"), epochs=6), IRPConfig(iterations=8)


def a_run(output: Path) -> IRPRun:
    return IRPRun(output=output, setting=SETTING, config=CONFIG)


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
    subprocess.run(command, check=True, timeout=600)


@dataclass
class Stopped:
    """A run, how it is stopped, and what the command that waits for it says in the end."""

    run: PatientRun
    resources: Resources
    stop: Callable[[str, str], None] | None
    """Given job and node; None to leave it to Slurm."""
    said: str = "it did not end"

    def wait(self) -> None:
        try:
            launch([self.run], self.resources, self.run.output, "irp")
            self.said = "complete"
        except UserError as error:
            self.said = str(error)


def test_time_limit_preemption_requeue_and_a_lost_node_each_end_as_if_nothing_had_been(
    undisturbed: Path, tmp_path: Path, sandbox: Sandbox, capsys: Capture
) -> None:
    """All four at once, as most of the time is spent waiting for Slurm."""

    def lose(job: str, node: str) -> None:
        sandbox("crash", node)
        call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def preempt(job: str, node: str) -> None:
        call("srun", "--partition=cpu", f"--nodelist={node}", "--cpus-per-task=8", "true")

    low = {"partition": "low", "gpus_per_node": 0, "cpus_per_task": 1}
    stopped = {
        "time limit": (Resources(**GPU, time="2", wait=True), 400, None),
        "requeue": (Resources(**GPU, wait=True), 100, lambda job, node: call("scontrol", "requeue", job)),
        "preemption": (Resources(**low, slurm=("nodelist=cpu1",), wait=True), 250, preempt),
        "lost node": (Resources(**low, slurm=("nodelist=cpu2",), wait=True), 300, lose),
    }
    runs = {
        how: Stopped(PatientRun(output=tmp_path / how, setting=SETTING, config=CONFIG, step=step), resources, stop)
        for how, (resources, step, stop) in stopped.items()
    }
    waiting = {how: threading.Thread(target=each.wait, daemon=True) for how, each in runs.items()}
    for each in runs.values():
        launch([each.run], replace(each.resources, wait=False), each.run.output, "irp")
    for thread in waiting.values():  # the same command again, which waits
        thread.start()
    for each in runs.values():
        if each.stop:
            until((each.run.folder / "logs" / "waiting").is_file)
            each.stop(status(each.run)["job"], status(each.run)["node"])
    sandbox("boot", "cpu2")
    call("scontrol", "update", "nodename=cpu2", "state=resume")
    for thread in waiting.values():
        thread.join(timeout=600)
    assert {how: each.said for how, each in runs.items()} == dict.fromkeys(runs, "complete")
    told = capsys.readouterr().err
    for how, each in runs.items():
        job, folder = status(each.run)["job"], each.run.folder
        assert f"queued again: {folder} ({job})" in told
        ends_as(each.run, undisturbed)
        requeues = status(each.run)["requeues"]
        assert requeues == 1 or (how == "time limit" and requeues)  # a slow machine may need another minute
        assert json.loads((folder / "environment.json").read_text())["jobs"] == [job] * (requeues + 1)
        signals = re.findall("stopped at a step, everything saved: (.*)", (folder / "logs" / "rank0.log").read_text())
        assert signals[:1] == {"requeue": ["SIGTERM"], "lost node": []}.get(how, ["SIGUSR2"]), how


def test_all_processes_of_a_world_stop_at_the_same_step(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    job = started(run, Resources(**GPU, gpus_per_node=2))
    call("scancel", "--signal=USR2", job)
    until(lambda: status(run)["state"] == "interrupted")
    until(lambda: slurm.queue() == {})
    assert (status(run)["state"], status(run)["requeues"]) == ("complete", 1)
    assert not list(run.folder.glob("logs/*.error.json"))


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
