"""Graphs of jobs: in order, and what a failure keeps from running."""

import json
import re
from pathlib import Path

import pytest

from autosparse.cluster import Resources, Stage, launch_graph, status
from autosparse.errors import UserError
from tests.cluster.jobs import Note
from tests.commands import Commands
from tests.conftest import Capture, tree


def graph(output: Path, fail: str = "") -> list[Stage]:
    """Two heads, one of which may fail; a tail of each; and an end after both."""
    return [
        Stage("a", (Note(output, "a", fail=fail, seconds=0.2), Note(output, "b"))),
        Stage("c", (Note(output, "c"),)),
        Stage("d", (Note(output, "d", reads=("a", "b")),), after=("a",)),
        Stage("e", (Note(output, "e", reads=("c",)),), after=("c",)),
        Stage("end", (Note(output, "end", reads=("d", "e")),), after=("d", "e"), single=True),
    ]


class Damaged(Note):
    """Has an output that cannot be read."""

    def is_complete(self) -> bool:
        raise UserError("the store is damaged")


def words(output: Path) -> set[str]:
    return {path.read_text() for path in output.glob("*/word")}


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_failed_stage_stops_only_later_stages_and_the_same_command_resumes(
    cluster: str, tmp_path: Path, capsys: Capture
) -> None:
    resources = Resources(cluster=cluster)
    with pytest.raises(UserError, match="3 of 6 runs failed"):
        launch_graph(graph(tmp_path, fail="user"), resources, tmp_path)
    printed = capsys.readouterr()
    assert words(tmp_path) == {"b", "c", "e"}
    assert len(status.find([tmp_path])) == 6  # Runs that were not started count, too.
    assert printed.out.splitlines() == [str(job.folder) for stage in graph(tmp_path) for job in stage.jobs]
    assert f"failed: {tmp_path / 'note_a'}: no such word" in printed.err
    assert f"failed: {tmp_path / 'note_d'}: not started, as a failed" in printed.err
    assert f"failed: {tmp_path / 'note_end'}: not started, as d failed" in printed.err
    before = {name: data for name, data in tree(tmp_path).items() if re.match(r"note_[bce]/", name)}
    launch_graph(graph(tmp_path), resources, tmp_path)
    assert f"a: 2 runs, 1 complete, 1 to run ({cluster})" in capsys.readouterr().err
    assert words(tmp_path) == {"a", "b", "c", "d", "e", "end"}
    assert before.items() <= tree(tmp_path).items()
    spans = {path.parent.name[5:]: json.loads(path.read_text()) for path in tmp_path.glob("*/span0")}
    assert spans["d"][0] >= max(spans["a"][1], spans["b"][1])
    assert spans["end"][0] >= max(spans["d"][1], spans["e"][1])


def test_run_with_new_or_missing_input_is_refused(tmp_path: Path) -> None:
    stages = [Stage("a", (Note(tmp_path, "a"),)), Stage("d", (Note(tmp_path, "d", reads=("a",)),), after=("a",))]
    launch_graph(stages, Resources(cluster="inline"), tmp_path)
    (tmp_path / "note_a" / "word").unlink()
    launch_graph(stages, Resources(cluster="inline"), tmp_path)  # the same again: nothing to complain about
    (tmp_path / "note_a" / "word").write_text("other")
    with pytest.raises(UserError, match=r"is a run with read = \['a'\], asked for is \['other'\]"):
        launch_graph(stages, Resources(cluster="inline"), tmp_path)
    with pytest.raises(UserError, match="there is no b"):
        launch_graph([Stage("e", (Note(tmp_path, "e", reads=("b",)),))], Resources(cluster="inline"), tmp_path)


def dependencies(scripts: str) -> dict[str, str | None]:
    """Of each batch script, by the job's name."""
    found = {}
    for script in scripts.split("#!/bin/bash\n")[1:]:
        name, depends = (re.search(rf"#SBATCH --{key}=(\S+)", script) for key in ("job-name", "dependency"))
        assert name
        found[name[1]] = depends[1] if depends else None
    return found


def test_each_stage_is_one_array_with_dependencies(commands: Commands, tmp_path: Path, capsys: Capture) -> None:
    commands.number_jobs()
    output = tmp_path / "out"
    resources = Resources(partition="gpu", nodes=2, gpus_per_node=2)
    launch_graph(graph(output), Resources(partition="gpu", nodes=2, gpus_per_node=2, dry_run=True), output)
    shown, said = capsys.readouterr()
    assert not output.exists()
    assert "these scripts number their own jobs from 1; --dependency gets Slurm's ids when" in said
    assert dependencies(shown) == {"a": None, "c": None, "d": "afterok:1", "e": "afterok:2", "end": "afterok:3:4"}
    launch_graph(graph(output), resources, output)
    assert all((job.folder / "batch.sh").read_text() in shown for stage in graph(output) for job in stage.jobs)
    end = (output / "note_end" / "batch.sh").read_text()
    assert "#SBATCH --nodes=1\n" in end
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in end

    # the same again, while the second head still waits: only what is not in the queue, after what is
    commands.answer("squeue", "echo '2|PENDING|Priority'")
    commands.number_jobs(after=10)
    for word in "abd":
        (output / f"note_{word}" / "word").write_text(word)
    launch_graph(graph(output), resources, output)
    said = [json.loads((output / f"note_{word}" / "job.json").read_text())["job"] for word in ("c", "e", "end")]
    assert said == ["2", "11", "12"]
    assert "#SBATCH --dependency=afterok:2\n" in (output / "note_e" / "batch.sh").read_text()


def test_queued_tail_is_replaced_when_its_head_is_submitted_again(commands: Commands, tmp_path: Path) -> None:
    commands.number_jobs()
    output, resources = tmp_path / "out", Resources(partition="gpu")
    launch_graph(graph(output), resources, output)
    # one of the first array (1) has failed, all else waits or runs; e and its head c are left alone
    commands.answer("squeue", 'for n in 1_1 2 3 4 5; do echo "$n|PENDING|Dependency"; done')
    commands.number_jobs(after=10)
    launch_graph(graph(output), resources, output)
    said = {word: json.loads((output / f"note_{word}" / "job.json").read_text())["job"] for word in ("a", "b", "e")}
    assert said == {"a": "11", "b": "1_1", "e": "4"}
    assert "#SBATCH --dependency=afterok:1_1:11\n" in (output / "note_d" / "batch.sh").read_text()
    assert "#SBATCH --dependency=afterok:12:4\n" in (output / "note_end" / "batch.sh").read_text()
    assert commands.calls("scancel") == ["scancel 3 5"]


def test_dry_run_names_damaged_outputs(tmp_path: Path, capsys: Capture) -> None:
    stages = [Stage("a", (Damaged(tmp_path, "a"),)), Stage("b", (Note(tmp_path, "b"),), after=("a",))]
    with pytest.raises(UserError, match="2 of 2 runs failed"):
        launch_graph(stages, Resources(cluster="inline", dry_run=True), tmp_path)
    printed = capsys.readouterr()
    assert "the store is damaged" in printed.err
    assert "not started, as a failed" in printed.err
    assert printed.out == ""


def test_refused_stage_cancels_earlier_stages(commands: Commands, tmp_path: Path) -> None:
    refused = 'grep -q job-name=d "$1" && { echo "sbatch: error: no" >&2; exit 1; }'
    commands.answer("sbatch", f"{refused}; echo Submitted batch job 4242")
    with pytest.raises(UserError, match="Slurm refuses: no"):
        launch_graph(graph(tmp_path / "out"), Resources(partition="gpu"), tmp_path / "out")
    assert "4242" in commands.calls("scancel")[-1]
    assert list(tmp_path.iterdir()) == []
