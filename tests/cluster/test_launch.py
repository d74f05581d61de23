import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate import Accelerator

from autosparse.cluster import Job, Resources, launch
from autosparse.errors import UserError


@dataclass(frozen=True)
class Note(Job):
    """Writes a word; fails if asked to."""

    output: Path
    word: str
    fail: str = ""
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        return self.output / f"note_{self.word}"

    def config(self) -> dict[str, Any]:
        return {"kind": "note", "word": self.word, "fail": self.fail}

    def is_complete(self) -> bool:
        return (self.folder / "word").is_file()

    def run(self, accelerator: Accelerator) -> None:
        start = time.time()
        time.sleep(self.seconds)
        if self.fail == "user":
            raise UserError("no such word")
        if self.fail == "rank 1":
            if accelerator.process_index == 1:
                raise UserError("the second process has had enough")
            accelerator.wait_for_everyone()
        if self.fail:
            raise ZeroDivisionError("a bug\nin two lines")
        with (self.folder / f"span{accelerator.process_index}").open("w") as file:
            json.dump([start, time.time(), accelerator.num_processes], file)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (self.folder / "word").write_text(self.word)


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_every_job_runs_and_leaves_its_record(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "with space"
    jobs = [Note(output, "a"), Note(output, "b", fail="user"), Note(output, "c", fail="bug"), Note(output, "d")]
    with pytest.raises(UserError, match="2 of 4 runs failed"):
        launch(jobs, Resources(cluster=cluster), output, "notes")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(job.folder) for job in jobs]
    assert f"failed: {jobs[1].folder}: no such word" in printed.err
    assert f"failed: {jobs[2].folder}: ZeroDivisionError: a bug in two lines" in printed.err
    assert (jobs[3].folder / "word").read_text() == "d"
    assert yaml.safe_load((jobs[0].folder / "config.yaml").read_text()) == jobs[0].config()
    environment = json.loads((jobs[0].folder / "environment.json").read_text())
    assert environment["versions"]["zarr"]
    assert len(environment["jobs"]) == (cluster == "local")
    states = [json.loads((job.folder / "status.json").read_text())["state"] for job in jobs]
    assert states == ["complete", "failed", "failed", "complete"]
    assert "ZeroDivisionError" in (jobs[2].folder / "logs" / "rank0.log").read_text()


def test_what_is_complete_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Note(tmp_path, "a")
    launch([job], Resources(cluster="inline"), tmp_path, "notes")
    span = (job.folder / "span0").read_text()
    launch([job], Resources(cluster="inline"), tmp_path, "notes")
    assert (job.folder / "span0").read_text() == span
    assert "1 runs, 1 complete, 0 to run" in capsys.readouterr().err


def test_local_jobs_keep_to_the_array_parallelism(tmp_path: Path) -> None:
    jobs = [Note(tmp_path, word, seconds=1.0) for word in "abcd"]
    launch(jobs, Resources(cluster="local", array_parallelism=2), tmp_path, "notes")
    spans = [json.loads((job.folder / "span0").read_text())[:2] for job in jobs]
    assert max(sum(a <= t < b for a, b in spans) for t, _ in spans) <= 2


def test_the_process_that_failed_by_itself_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="1 of 1 runs failed"):
        launch([Note(tmp_path, "a", fail="rank 1")], Resources(cluster="local", tasks_per_node=2), tmp_path, "notes")
    assert "the second process has had enough" in capsys.readouterr().err


def test_a_run_that_failed_before_any_output_can_be_asked_for_otherwise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 runs failed"):
        launch([Note(tmp_path, "a", fail="user")], Resources(cluster="inline"), tmp_path, "notes")
    launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")
    assert yaml.safe_load((tmp_path / "note_a" / "config.yaml").read_text())["fail"] == ""


def test_a_damaged_config_is_one_line(tmp_path: Path) -> None:
    launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")
    for text in ("junk", "", "a: [1"):
        (tmp_path / "note_a" / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml is damaged"):
            launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")


def test_local_tasks_are_one_world(tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    launch([job], Resources(cluster="local", tasks_per_node=2), tmp_path, "notes")
    assert [json.loads((job.folder / f"span{rank}").read_text())[2] for rank in (0, 1)] == [2, 2]


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")
    with pytest.raises(UserError, match="is a run with fail = , asked for is user"):
        launch([Note(tmp_path, "a", fail="user")], Resources(cluster="inline"), tmp_path, "notes")
    with pytest.raises(UserError, match="two runs of this grid have the folder"):
        launch([Note(tmp_path, "b")] * 2, Resources(cluster="inline"), tmp_path, "notes")


GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=6
#SBATCH --error={folder}/submitted/%A_%a/%A_%a_0_log.err
#SBATCH --gpus-per-node=2
#SBATCH --job-name=notes
#SBATCH --mem=64GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output={folder}/submitted/%A_%a/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --signal=USR2@90
#SBATCH --time=90

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {folder}/submitted/%A_%a/%A_%a_%t_log.out \
--error {folder}/submitted/%A_%a/%A_%a_%t_log.err --cpus-per-task=6 --kill-on-bad-exit=1 \
"""


def test_a_dry_run_prints_the_batch_script_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resources = Resources(
        partition="gpu",
        nodes=2,
        gpus_per_node=2,
        cpus_per_task=6,
        mem="64GB",
        time="1:30:00",
        array_parallelism=2,
        dry_run=True,
    )
    jobs = [Note(tmp_path, word) for word in "abc"]
    launch(jobs, resources, tmp_path, "notes")
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == [str(job.folder) for job in jobs]
    assert printed.split("\n", 3)[3].startswith(GOLDEN.format(folder=tmp_path))
    assert not any(job.folder.exists() for job in jobs)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands that submission talks to, as programs that only answer; a real Slurm is for tests of its own."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {"sinfo": "true", "srun": "true", "sbatch": "echo Submitted batch job 4242"}.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    return commands


def test_slurm_gets_one_array_and_the_script_of_the_dry_run(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with space"
    jobs = [Note(output, word) for word in "abc"]
    launch(jobs, Resources(partition="gpu", dry_run=True), output, "notes")
    script = capsys.readouterr().out.split("\n", 3)[3]
    launch(jobs, Resources(partition="gpu"), output, "notes")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(job.folder) for job in jobs]
    assert "submitted as 4242" in printed.err
    for job in jobs:
        assert (job.folder / "batch.sh").read_text().strip() == script.strip()
    assert "#SBATCH --array=0-2%3" in script


def test_slurms_own_reason_is_shown(slurm: Path, tmp_path: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"^Slurm refuses: invalid partition specified: nope$"):
        launch([Note(tmp_path, "a")], Resources(partition="nope"), tmp_path, "notes")


def test_the_record_names_the_commit_of_the_code(tmp_path: Path) -> None:
    launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")
    environment = json.loads((tmp_path / "note_a" / "environment.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert environment["commit"].rstrip("+") == head.stdout.strip()
