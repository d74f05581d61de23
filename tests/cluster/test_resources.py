import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from autosparse.cluster import Resources, resources
from autosparse.cluster.resources import minutes
from autosparse.cluster.slurm import slurm_answers
from autosparse.command import parse
from autosparse.errors import UserError
from tests.cluster.conftest import Commands


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1:30:00", 90), ("0:00:30", 1), ("2-01:00:00", 49 * 60), ("0:59:59", 60)]
)
def test_time_limits_are_whole_minutes(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "1:30", "0", "0:00:00", "soon", "-5"])
def test_time_limit_of_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="time"):
        Resources(time=text)


@pytest.mark.parametrize(("answers", "expected"), [(True, "slurm"), (False, "inline")])
def test_auto_is_slurm_where_it_answers(answers: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: answers)
    assert Resources().resolve().cluster == expected
    assert Resources(cluster="local").resolve().cluster == "local"


@pytest.mark.parametrize("asked", [{"cluster": "slurm"}, {"partition": "gpu"}, {"account": "a"}, {"nodes": 2}])
def test_silent_slurm_is_refused(asked: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: False)
    with pytest.raises(UserError, match="no Slurm here"):
        Resources(**asked).resolve()
    assert Resources(**asked, dry_run=True).resolve().cluster == "slurm"


def test_sinfo_decides(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (0, 1):
        commands.answer("sinfo", f"exit {code}")
        assert slurm_answers() == (code == 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert not slurm_answers()


def test_every_option_is_parsed() -> None:
    """What scripts and profiles rely on: the names, and that each takes what it says."""
    given = """--cluster slurm --partition p --account a --qos q --nodes 2 --gpus-per-node 0 --tasks-per-node 3
        --cpus-per-task 4 --mem 1GB --time 5 --constraint c --exclude e --array-parallelism 6 --max-requeues 7
        --after 8 9_1 --setup 'module load cuda' --slurm k=v exclusive --log-dir l --wait --dry-run"""
    parsed = parse(Resources, shlex.split(given))
    assert (parsed.after, parsed.setup) == (("8", "9_1"), ("module load cuda",))
    assert parsed.slurm_options == {"k": "v", "exclusive": True}
    assert (parsed.minutes, parsed.tasks, parsed.gpus(1), parsed.wait) == (5, 3, 0, True)
    untouched = [each.name for each in fields(parsed) if getattr(parsed, each.name) == each.default]
    assert untouched == []  # so there is no field that this test does not know


def test_tasks_and_gpus_exclude_each_other() -> None:
    assert Resources(gpus_per_node=4).tasks == 4
    assert Resources(tasks_per_node=2).gpus(1) == 0
    with pytest.raises(UserError, match="one process runs on each GPU"):
        Resources(gpus_per_node=2, tasks_per_node=4)


SLURM_ONLY = [
    *[(name, "x") for name in ("partition", "account", "qos", "mem", "constraint", "exclude")],
    *[("nodes", 2), ("max_requeues", 1), ("after", ("1",)), ("setup", ("true",)), ("slurm", ("a=b",))],
]


@pytest.mark.parametrize(("field", "value"), SLURM_ONLY)
@pytest.mark.parametrize("cluster", ["local", "inline"])
def test_option_of_slurm_is_refused_elsewhere(cluster: str, field: str, value: object) -> None:
    refused = f"{field.replace('_', '-')} does nothing with the cluster {cluster}; it needs slurm"
    with pytest.raises(UserError, match=refused):
        Resources(cluster=cluster, **{field: value}).resolve()


@pytest.mark.parametrize("field", ["tasks_per_node", "array_parallelism", "gpus_per_node", "time", "log_dir"])
def test_option_of_jobs_is_refused_inline(field: str) -> None:
    with pytest.raises(UserError, match=f"{field.replace('_', '-')} does nothing with the cluster inline"):
        Resources(cluster="inline", **{field: "1" if field in ("time", "log_dir") else 1}).resolve()
    Resources(cluster="local", **{field: "1" if field in ("time", "log_dir") else 1}).resolve()


def test_profile_counts_only_on_slurm() -> None:
    said = {"partition": "gpu", "gpus_per_node": 4, "time": "9"}
    here = Resources(**said, cluster="local", array_parallelism=2, site=said).resolve()
    assert (here.partition, here.gpus_per_node, here.time, here.array_parallelism) == (None, None, None, 2)
    with pytest.raises(UserError, match="partition does nothing with the cluster local"):
        Resources(partition="mine", cluster="local", site=said).resolve()


def test_numbers_out_of_range_are_refused() -> None:
    for field in ("nodes", "cpus_per_task", "array_parallelism", "tasks_per_node"):
        with pytest.raises(UserError, match=f"{field.replace('_', ' ')} must be at least 1"):
            Resources(**{field: 0})
    for field in ("gpus_per_node", "max_requeues"):
        with pytest.raises(UserError, match=f"{field.replace('_', ' ')} must be at least 0"):
            Resources(**{field: -1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time=5", "use the option time"),
        ("gpus-per-node=1", "use the option gpus-per-node"),
        ("ntasks=5", "use the option tasks-per-node"),
        ("--dependency=after:1", "use the option after"),
        ("array=0-3", "use the option array-parallelism"),
        ("signal=USR1", "signal is set by the submission itself"),
        ("=5", "as KEY=VALUE"),
        ("Key=5", "as KEY=VALUE"),
    ],
)
def test_sbatch_option_with_an_option_of_its_own_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resources(slurm=(text,))


@pytest.mark.parametrize("job", ["x", "12,13", "afterok:12", "12_"])
def test_after_takes_job_ids(job: str) -> None:
    with pytest.raises(UserError, match="after takes job ids"):
        Resources(after=(job,))


@pytest.mark.parametrize("name", ["partition", "account", "qos", "mem", "constraint", "exclude", "log_dir", "slurm"])
def test_line_break_in_a_value_is_refused(name: str) -> None:
    value: Any = {"log_dir": Path("a\nb"), "slurm": ("comment=a\ntouch b",)}.get(name, "a\ntouch b")
    with pytest.raises(UserError, match=rf"{name.replace('_', '-')} takes .*, got '.*a\\n"):
        Resources(**{name: value})
