import json
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator

from autosparse.cluster import Resources, launch, status
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.commands import Commands
from tests.conftest import Capture, Patch, tree


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_every_job_runs_and_leaves_its_record(cluster: str, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "with space"
    jobs = [Note(output, "a"), Note(output, "b", fail="user"), Note(output, "c", fail="bug"), Note(output, "d")]
    with pytest.raises(UserError, match="2 of 4 runs failed"):
        launch(jobs, Resources(cluster=cluster), output, "notes")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(job.folder) for job in jobs]
    assert f"failed: {jobs[1].folder}: no such word" in printed.err
    assert f"failed: {jobs[2].folder}: ZeroDivisionError: a bug in two lines" in printed.err
    assert (jobs[3].folder / "word").read_text() == "d"
    assert yaml.safe_load((jobs[0].folder / "config.yaml").read_text()) == jobs[0].identity()
    environment = json.loads((jobs[0].folder / "environment.json").read_text())
    assert environment["versions"]["zarr"]
    assert environment["jobs"] == []  # ids of Slurm: a process number is none
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert environment["commit"].rstrip("+") == head.stdout.strip()
    states = [json.loads((job.folder / "status.json").read_text())["state"] for job in jobs]
    assert states == ["complete", "failed", "failed", "complete"]
    assert "ZeroDivisionError" in (jobs[2].folder / "logs" / "rank0.log").read_text()
    if cluster == "local":
        logs = [(job.folder / "logs" / "output.log").read_text().splitlines()[-1] for job in jobs[1:3]]
        assert logs == ["autosparse.errors.UserError: no such word", "in two lines"]


def test_sys_exit_fails_one_run(tmp_path: Path, capsys: Capture) -> None:
    jobs = [Note(tmp_path, "a", fail="exit"), Note(tmp_path, "b")]
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        launch(jobs, Resources(cluster="inline"), tmp_path, "notes")
    said = "RuntimeError: sys.exit(0) was called before the run was complete (jobs.py, line "
    assert f"failed: {jobs[0].folder}: {said}" in capsys.readouterr().err
    assert jobs[1].is_complete()


def test_process_that_failed_first_is_reported(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(UserError, match="1 of 1 run failed"):
        launch([Note(tmp_path, "a", fail="rank 1")], Resources(cluster="local", tasks_per_node=2), tmp_path, "notes")
    assert "the second process has had enough" in capsys.readouterr().err


def test_local_tasks_form_one_group(tmp_path: Path) -> None:
    job = Note(tmp_path, "a")
    launch([job], Resources(cluster="local", tasks_per_node=2), tmp_path, "notes")
    assert [json.loads((job.folder / f"span{rank}").read_text())[2] for rank in (0, 1)] == [2, 2]


def test_other_options_are_taken_without_output_and_refused_with_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 run failed"):
        launch([Note(tmp_path, "a", fail="user")], Resources(cluster="inline"), tmp_path, "notes")
    launch([Note(tmp_path, "a")], Resources(cluster="inline"), tmp_path, "notes")
    assert yaml.safe_load((tmp_path / "note_a" / "config.yaml").read_text())["fail"] == ""
    with pytest.raises(UserError, match="is a run with fail = , asked for is user"):
        launch([Note(tmp_path, "a", fail="user")], Resources(cluster="inline"), tmp_path, "notes")
    with pytest.raises(UserError, match="two runs of this grid have the folder"):
        launch([Note(tmp_path, "b")] * 2, Resources(cluster="inline"), tmp_path, "notes")


def test_dry_run_prints_runs_and_script_and_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    jobs = [Note(tmp_path / "out", word) for word in "abc"]
    launch(jobs, Resources(partition="gpu", array_parallelism=2, dry_run=True), tmp_path / "out", "notes")
    *folders, script = capsys.readouterr().out.split("\n", 3)
    assert folders == [str(job.folder) for job in jobs]
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0-2%2\n" in script
    assert list(tmp_path.iterdir()) == []


def test_queued_job_is_not_submitted_again(commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    jobs = [Note(tmp_path, word) for word in "ab"]
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    commands.answer("squeue", "echo '4242_0|RUNNING|None'")
    capsys.readouterr()
    launch([*jobs, Note(tmp_path, "c")], Resources(cluster="slurm"), tmp_path, "notes")
    assert "1 of them in the queue already: 4242\n" in capsys.readouterr().err
    assert "--array=0-1%2" in (tmp_path / "note_c" / "batch.sh").read_text()
    commands.answer("squeue", "echo '4242_0|RUNNING|None'; echo '4242_1|PENDING|Priority'")
    before = len(commands.calls("sbatch"))
    launch([*jobs, Note(tmp_path, "c")], Resources(cluster="slurm"), tmp_path, "notes")
    assert len(commands.calls("sbatch")) == before


def test_held_job_is_released(commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    jobs = [Note(tmp_path, word) for word in "ab"]
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    commands.answer("squeue", "echo '4242_0|PENDING|launch failed requeued held'; echo '4242_1|PENDING|Priority'")
    assert [row["state"] for row in status.rows([job.folder for job in jobs])] == [
        "held (launch failed requeued held)",
        "pending (Priority)",
    ]
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    assert "held, and released now: 4242_0\n" in capsys.readouterr().err
    assert commands.calls("scontrol")[-1] == "scontrol release 4242_0"
    assert len(commands.calls("sbatch")) == 1
    jobs[0].run(Accelerator(cpu=True))  # it had done its work, and others wait for the end of its job
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    assert commands.calls("scontrol")[-2:] == ["scontrol release 4242_0"] * 2


def test_job_that_never_starts_is_replaced(commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    jobs = [Note(tmp_path, word) for word in "ab"]
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    commands.answer("squeue", "echo '4242_0|PENDING|BadConstraints'; echo '4242_1|PENDING|Priority'")
    commands.answer("sbatch", "echo Submitted batch job 4243")
    launch(jobs, Resources(cluster="slurm"), tmp_path, "notes")
    assert "pending forever, and replaced now: 4242_0 (BadConstraints)\n" in capsys.readouterr().err
    assert [json.loads((job.folder / "job.json").read_text())["job"] for job in jobs] == ["4243", "4242_1"]
    assert commands.calls("scancel") == ["scancel 4242_0"]


def test_refusal_keeps_earlier_files(commands: Commands, tmp_path: Path) -> None:
    launch([Note(tmp_path, "a")], Resources(cluster="slurm"), tmp_path, "notes")
    before = tree(tmp_path)
    commands.answer("sbatch", "exit 1")
    with pytest.raises(UserError, match="Slurm refuses"):
        launch([Note(tmp_path, "b")], Resources(cluster="slurm"), tmp_path, "notes")
    assert tree(tmp_path) == before


def test_interrupted_wait_names_the_remaining_jobs(
    commands: Commands, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autosparse.cluster.submit.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch([Note(tmp_path, word) for word in "ab"], Resources(cluster="slurm", wait=True), tmp_path, "notes")
    assert "the jobs stay in the queue; to end them: scancel 4242" in capsys.readouterr().err
    assert commands.calls("scancel") == []
    assert (tmp_path / "note_b" / "job.json").exists()


def test_log_dir_with_special_characters_is_refused(tmp_path: Path) -> None:
    for name in ("100%", "a\\b", "a\ntouch b"):
        with pytest.raises(UserError, match="use another log-dir"):
            launch([Note(tmp_path, "a")], Resources(cluster="slurm", dry_run=True), tmp_path / name, "notes")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["job.json", "status.json", "environment.json", "config.yaml"])
@pytest.mark.parametrize("content", ["[]", "\0\0\0"])
def test_damaged_record_fails_one_run(name: str, content: str, tmp_path: Path, capsys: Capture) -> None:
    whole, damaged = Note(tmp_path, "whole"), Note(tmp_path, "damaged", fail="user")
    with pytest.raises(UserError, match="1 of 2 runs failed"):
        launch([whole, damaged], Resources(cluster="inline"), tmp_path, "notes")
    (damaged.folder / "span0").touch()  # it has some output
    for job in (whole, damaged):
        (job.folder / name).write_text(content)
    added = Note(tmp_path, "added")
    with pytest.raises(UserError, match=r"of 3 runs failed"):
        launch([whole, damaged, added], Resources(cluster="inline"), tmp_path, "notes")
    assert added.is_complete()
    said = capsys.readouterr().err
    if name == "config.yaml":
        assert f"{damaged.folder}/config.yaml is damaged; delete this file alone and give the very command" in said
    else:
        assert said.count("no such word") == 2
    if name == "status.json":
        assert json.loads((whole.folder / name).read_text())["state"] == "complete"
