"""What is handed to Slurm, and what is made of its answers."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmJobEnvironment

from autosparse.cluster import Resources, submit
from autosparse.cluster.submit import Submitted, parameters, scripts, submit_array
from autosparse.errors import UserError
from tests.cluster.conftest import Commands

GOLDEN = Path(__file__).parent / "golden"
EVERYTHING = Resources(
    partition="gpu",
    account="project-1234",
    qos="normal",
    nodes=2,
    gpus_per_node=4,
    cpus_per_task=6,
    mem="64GB",
    time="1-12:00:00",
    constraint="a100|h100",
    exclude="gpu[3-4]",
    array_parallelism=2,
    max_requeues=3,
    after=("4242", "4243_1"),
    setup=("module load cuda/12.4", "export GREETING='it is \"here\"'"),
    slurm=("mail-type=FAIL,END", "exclusive"),
)
SCRIPTS: dict[str, tuple[Resources, int, str]] = {
    "plain": (Resources(), 1, "logs"),
    "array": (Resources(partition="gpu", time="90"), 3, "logs"),
    "everything": (EVERYTHING, 8, "logs"),
    "cpu": (Resources(partition="cpu", gpus_per_node=0, tasks_per_node=2, time="1", max_requeues=0), 1, "logs"),
    "quotes": (Resources(), 2, 'it\'s a "log" $HOME; folder'),
}


def nothing() -> None:
    pass


def dry_run(jobs: int, resources: Resources, folder: Path) -> str:
    """The script that would be submitted."""
    (script,) = scripts([nothing] * jobs, resources, "irp", folder)
    return script


@pytest.mark.parametrize("name", SCRIPTS)
def test_batch_scripts(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`pytest tests/cluster --regenerate` writes the files anew."""
    resources, jobs, folder = SCRIPTS[name]
    script = dry_run(jobs, resources, tmp_path / folder)
    script = script.replace(sys.executable, "PYTHON").replace(str(tmp_path), "/OUTPUT")
    golden = GOLDEN / f"{name}.sh"
    if request.config.getoption("--regenerate"):
        golden.write_text(script)
    assert script == golden.read_text()
    assert list(tmp_path.iterdir()) == []


def test_dry_run_asks_slurm_only_for_its_limits(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = dry_run(3, Resources(), tmp_path / "logs")
    assert {call.split()[0] for call in commands.calls_file.read_text().splitlines()} == {"scontrol"}
    monkeypatch.setenv("PATH", os.environ["PATH"].replace(str(commands.folder), "/nowhere"))
    assert dry_run(3, Resources(), tmp_path / "logs") == there


def test_submitted_script_equals_that_of_the_dry_run(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    shown = dry_run(3, EVERYTHING, folder)
    submitted = submit_array([nothing] * 3, EVERYTHING, "irp", folder)
    assert [each.job_id for each in submitted] == ["4242_0", "4242_1", "4242_2"]
    assert {each.script.read_text() for each in submitted} == {shown}
    assert [each.log.name for each in submitted] == [f"4242_{k}_0_log.err" for k in range(3)]
    assert len(commands.calls("sbatch")) == 1
    assert not [path for path in folder.rglob("*_submitted.pkl") if path.stat().st_mode & 0o022]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("code", "done", "ends"), [(0, True, 0), (0, False, 1), (3, False, 3), (3, True, 3)])
def test_job_without_a_result_fails(
    jobs: int, code: int, done: bool, ends: int, commands: Commands, tmp_path: Path
) -> None:
    submitted = submit_array([nothing] * jobs, Resources(), "irp", tmp_path / "it's a folder")[-1]
    commands.answer("srun", f"exit {code}")
    if done:
        submitted.log.with_name(f"{submitted.job_id}_0_result.pkl").touch()
    given = {"SLURM_JOB_ID": "4243", "SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": "1"}
    given = given if jobs > 1 else {"SLURM_JOB_ID": "4242"}
    ended = subprocess.run(["bash", submitted.script], env=os.environ | given, capture_output=True, text=True)
    assert ended.returncode == ends
    assert ("the process exited before its work was done" in ended.stderr) == (code == 0 and not done)


COUNTING = 'n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1)); echo $n >"$0.n"'


@pytest.mark.parametrize(("limit", "parts"), [(4, [4, 4, 1]), (9, [9]), (0, [1] * 9)])
def test_array_above_the_limit_is_cut(limit: int, parts: list[int], commands: Commands, tmp_path: Path) -> None:
    commands.answer("scontrol", f"echo 'MaxArraySize            = {limit}'")
    commands.answer("sbatch", f"{COUNTING}; echo Submitted batch job 10$n")
    submitted = submit_array([nothing] * 9, Resources(array_parallelism=2), "irp", tmp_path / "logs")
    arrays = [(f"10{part}", size) for part, size in enumerate(parts, 1)]
    expected = [[f"{job}_{k}" for k in range(size)] if size > 1 else [job] for job, size in arrays]
    assert [each.job_id for each in submitted] == [job_id for part in expected for job_id in part]
    assert all((tmp_path / "logs" / each.job_id / f"{each.job_id}_submitted.pkl").exists() for each in submitted)
    # each part starts when the last has ended, so that there are never more at once than asked for
    scripts = list(dict.fromkeys(each.script.read_text() for each in submitted))
    waits = [re.findall(r"--dependency=(.*)", script) for script in scripts]
    assert waits == [[], *([f"afterany:{job}"] for job, _ in arrays[:-1])]


def test_refused_part_cancels_earlier_parts(commands: Commands, tmp_path: Path) -> None:
    commands.answer("scontrol", "echo 'MaxArraySize            = 2'")
    commands.answer("sbatch", f'{COUNTING}; [ $n = 1 ] && echo Submitted batch job 7 || {{ echo "no" >&2; exit 1; }}')
    with pytest.raises(UserError, match="Slurm refuses: no"):
        submit_array([nothing] * 4, Resources(), "irp", tmp_path / "logs")
    assert commands.calls("scancel") == ["scancel 7_0 7_1"]


REQUEST = (
    "partition gpu, account project-1234, qos normal, nodes 2, gpus-per-node 4, cpus-per-task 6, mem 64GB, "
    "time 1-12:00:00, constraint a100|h100, exclude gpu[3-4], after 4242 4243_1, slurm mail-type=FAIL,END exclusive"
)


@pytest.mark.parametrize(
    ("said", "resources", "shown"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            EVERYTHING,
            f"invalid partition specified: nope; Invalid partition name specified (asked for {REQUEST})",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            Resources(cpus_per_task=99),
            "Requested node configuration is not available (asked for gpus-per-node 1, cpus-per-task 99, time 4:00:00)",
        ),
        ("something else\nin two lines", EVERYTHING, "something else in two lines"),
    ],
)
def test_refusal_is_one_line_with_the_request(
    said: str, resources: Resources, shown: str, commands: Commands, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands.answer("sbatch", f'cat >&2 <<"END"\n{said}\nEND\nexit 1')
    with pytest.raises(UserError) as caught:
        submit_array([nothing] * 2, resources, "irp", tmp_path / "logs")
    assert f"Slurm refuses: {shown}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        ("PartitionTimeLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("InvalidAccount", True),
        ("Priority", False),
        ("QOSMaxJobsPerUserLimit", False),
    ],
)
def test_job_that_would_never_start_is_cancelled(reason: str, never: bool, commands: Commands, tmp_path: Path) -> None:
    commands.answer("squeue", f"echo '4242_0|PENDING|{reason}'")
    if never:
        with pytest.raises(UserError, match=f"^Slurm would never start it: {reason}"):
            submit_array([nothing] * 2, EVERYTHING, "irp", tmp_path / "logs")
    else:
        submit_array([nothing] * 2, EVERYTHING, "irp", tmp_path / "logs")
    assert commands.calls("scancel") == ["scancel 4242_0 4242_1"] * never


def test_submission_inside_a_job_hides_its_environment(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "SBATCH_PARTITION", "SUBMITIT_EXECUTOR", "WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    commands.answer("sbatch", f"env >{tmp_path}/env; echo Submitted batch job 1")
    before = dict(os.environ)
    submit_array([nothing], Resources(), "irp", tmp_path / "logs")
    assert dict(os.environ) == before
    left = (tmp_path / "env").read_text().splitlines()
    assert "SLURM_CONF=/etc/other/slurm.conf" in left
    assert not [line for line in left if re.match(r"(SLURM_(?!CONF)|SBATCH|SUBMITIT|WORLD)", line)]


@pytest.mark.parametrize(("time", "signal"), [("1", 15), ("1-00:00:00", 90)])
def test_signal_comes_within_the_time_limit(time: str, signal: int) -> None:
    assert parameters(Resources(time=time), "irp")["signal_delay_s"] == signal


@pytest.mark.parametrize("time", ["1", "4:00:00"])
def test_submitit_never_takes_a_signal_for_a_timeout(time: str, commands: Commands, tmp_path: Path) -> None:
    (job,) = submit_array([nothing], Resources(time=time), "irp", tmp_path / "logs")
    delayed = DelayedSubmission.load(tmp_path / "logs" / job.job_id / f"{job.job_id}_submitted.pkl")
    environment: Any = SlurmJobEnvironment()
    assert not SignalHandler(environment, environment, delayed).has_timed_out()


def test_interrupted_submission_leaves_no_jobs(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., list[Submitted]] = submit._submit_part
    parts: list[int] = []

    def interrupted(*arguments: Any) -> list[Submitted]:
        parts.append(1)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(submit, "_submit_part", interrupted)
    commands.answer("scontrol", "echo 'MaxArraySize            = 2'")
    with pytest.raises(KeyboardInterrupt):
        submit_array([nothing] * 4, Resources(), "irp", tmp_path / "logs")
    assert commands.calls("scancel") == ["scancel 4242_0 4242_1"]
