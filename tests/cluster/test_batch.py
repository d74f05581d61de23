"""Scripts and arguments for Slurm, and the reading of its answers."""

import os
import re
import sys
from pathlib import Path

import pytest

from autosparse.cluster import Resources
from autosparse.cluster.submit import scripts, submit_array
from autosparse.errors import UserError
from tests.commands import Commands
from tests.conftest import Capture, Patch

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


def test_dry_run_asks_slurm_only_for_its_limits(commands: Commands, tmp_path: Path, monkeypatch: Patch) -> None:
    there = dry_run(3, Resources(), tmp_path / "logs")
    assert {call.split()[0] for call in commands.calls_file.read_text().splitlines()} == {"scontrol"}
    monkeypatch.setenv("PATH", os.environ["PATH"].replace(str(commands.folder), "/nowhere"))
    assert dry_run(3, Resources(), tmp_path / "logs") == there


def test_submitted_script_equals_that_of_the_dry_run(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    shown = dry_run(3, EVERYTHING, folder)
    mask = os.umask(0)
    try:
        submitted = submit_array([nothing] * 3, EVERYTHING, "irp", folder)
    finally:
        os.umask(mask)
    assert [each.job_id for each in submitted] == ["4242_0", "4242_1", "4242_2"]
    assert {each.script.read_text() for each in submitted} == {shown}
    assert [each.log.name for each in submitted] == [f"4242_{k}_0_log.err" for k in range(3)]
    assert len(commands.calls("sbatch")) == 1
    written = [path for path in folder.rglob("*") if not path.is_symlink()]
    assert not [path for path in written if path.stat().st_mode & 0o022]


COUNTING = 'n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1)); echo $n >"$0.n"'


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
        ("something else\nin two lines", EVERYTHING, "something else in two lines"),
    ],
)
def test_refusal_is_one_line_with_the_request(
    said: str, resources: Resources, shown: str, commands: Commands, tmp_path: Path, capfd: Capture
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


def test_submission_inside_a_job_hides_its_environment(commands: Commands, tmp_path: Path, monkeypatch: Patch) -> None:
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
