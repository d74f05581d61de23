import json
from pathlib import Path

import pytest

from autosparse.cluster import submissions


def submission(root: Path, number: int, runs: dict[str, list[Path]]) -> Path:
    with submissions.claimed(root, "irp") as folder:
        for job_id in runs:
            (folder / job_id).mkdir()
        (folder / "4242").mkdir()
        (folder / ".submission_file_1.sh").symlink_to(folder / "4242" / "4242_submission.sh")
    assert folder.name == f"irp_{number}"
    submissions.record(folder, [(job_id, run) for job_id, those in runs.items() for run in those])
    return folder


def run(tmp_path: Path, name: str, state: str | None) -> Path:
    folder = tmp_path / "irp" / name
    folder.mkdir(parents=True)
    if state:
        (folder / "status.json").write_text(json.dumps({"state": state}))
    return folder


def kept(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.glob("*/*_*") if path.is_dir()}


def test_prune_keeps_queued_jobs_and_the_last_of_unfinished_runs(tmp_path: Path) -> None:
    root = tmp_path / "submitted"
    runs = {state: run(tmp_path, state, state) for state in ("complete", "failed", "running")}
    new = run(tmp_path, "new", None)
    submission(
        root,
        0,
        {"1_0": [runs["complete"]], "1_1": [runs["failed"]], "1_2": [runs["running"], runs["complete"]], "1_3": [new]},
    )
    submission(root, 1, {"2_0": [runs["failed"]]})
    submission(root, 2, {"3_0": [runs["complete"]]})
    submissions.prune(root, {"3_0"}.__contains__)
    assert kept(root) == {"irp_0/1_2", "irp_0/1_3", "irp_1/2_0", "irp_2/3_0"}
    submissions.prune(root, {}.__contains__)
    assert kept(root) == {"irp_0/1_2", "irp_0/1_3", "irp_1/2_0"}
    assert not (root / "irp_2").exists()
    assert not list(root.rglob(".submission*"))


def test_prune_leaves_other_files_alone(tmp_path: Path) -> None:
    root, done = tmp_path / "submitted", run(tmp_path, "done", "complete")
    damaged = submission(root, 0, {"1_0": [done]})
    (damaged / "jobs.json").write_text("{")
    (root / "notes.txt").write_text("mine")
    submissions.prune(root, {}.__contains__)
    assert kept(root) == {"irp_0/1_0"}
    assert (root / "notes.txt").exists()


def test_moved_folder_still_finds_its_runs(tmp_path: Path) -> None:
    old = tmp_path / "old"
    submission(old / "submitted", 0, {"1_0": [run(old, "done", "complete")]})
    old.rename(tmp_path / "new")
    submissions.prune(tmp_path / "new" / "submitted", {}.__contains__)
    assert not list((tmp_path / "new" / "submitted").iterdir())


def test_failed_claim_leaves_nothing(tmp_path: Path) -> None:
    def fail(root: Path) -> None:
        with submissions.claimed(root, "irp") as folder:
            (folder / "file").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a" / "b" / "submitted")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "a" / "b" / "submitted")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a"]
