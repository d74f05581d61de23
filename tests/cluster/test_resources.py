import pytest

from autosparse.cluster import Resources, resources
from autosparse.cluster.resources import minutes
from autosparse.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1:30:00", 90), ("0:00:30", 1), ("2-01:00:00", 49 * 60), ("0:59:59", 60)]
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "1:30", "0", "0:00:00", "soon", "-5"])
def test_time_limits_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--time"):
        Resources(time=text)


@pytest.mark.parametrize(("answers", "expected"), [(True, "slurm"), (False, "inline")])
def test_auto_is_slurm_where_it_answers(answers: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: answers)
    assert Resources().resolve() == expected
    assert Resources(cluster="local").resolve() == "local"


@pytest.mark.parametrize("asked", [{"cluster": "slurm"}, {"partition": "gpu"}, {"account": "a"}, {"nodes": 2}])
def test_slurm_that_does_not_answer(asked: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: False)
    with pytest.raises(UserError, match="no Slurm here"):
        Resources(**asked).resolve()
    assert Resources(**asked, dry_run=True).resolve() == "slurm"


def test_sinfo_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not resources.slurm_answers()
    for code in (0, 1):
        script = tmp_path / "sinfo"
        script.write_text(f"#!/bin/sh\nexit {code}\n")
        script.chmod(0o755)
        assert resources.slurm_answers() == (code == 0)


def test_one_task_a_gpu() -> None:
    assert Resources(gpus_per_node=4).slurm_parameters("x")["ntasks_per_node"] == 4
    cpu = Resources(gpus_per_node=0, tasks_per_node=3).slurm_parameters("x")
    assert (cpu["ntasks_per_node"], "gpus_per_node" in cpu) == (3, False)
    assert Resources().slurm_parameters("x")["gpus_per_node"] == 1


def test_processes_or_gpus() -> None:
    assert "gpus_per_node" not in Resources(tasks_per_node=2).slurm_parameters("x")
    with pytest.raises(UserError, match="one process runs on each GPU"):
        Resources(gpus_per_node=2, tasks_per_node=4)


def test_flags_that_would_do_nothing_are_refused() -> None:
    for field, value in (("tasks_per_node", 2), ("array_parallelism", 2), ("gpus_per_node", 1), ("mem", "1GB")):
        with pytest.raises(UserError, match=f"--{field.replace('_', '-')} does nothing with --cluster inline"):
            Resources(cluster="inline", **{field: value}).resolve()


def test_numbers_out_of_range_are_refused() -> None:
    for field in ("nodes", "cpus_per_task", "array_parallelism", "tasks_per_node"):
        with pytest.raises(UserError, match=f"--{field.replace('_', '-')} must be at least 1"):
            Resources(**{field: 0})
    with pytest.raises(UserError, match="needs --cluster slurm"):
        Resources(cluster="local", nodes=2).resolve()
