"""Options of the cluster, from the command line and a site's profile."""

import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from autosparse.cluster import Resources, resources
from autosparse.cluster.resources import minutes
from autosparse.command import parse
from autosparse.errors import UserError
from tests.commands import Commands
from tests.conftest import ROOT, Patch

PROFILES = sorted((ROOT / "slurm" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("0:00:30", 1), ("2-01:00:00", 49 * 60), ("0:59:59", 60)])
def test_time_limits_are_whole_minutes(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(("answers", "expected"), [(True, "slurm"), (False, "inline")])
def test_auto_is_slurm_where_it_answers(answers: bool, expected: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: answers)
    assert Resources().resolve().cluster == expected
    assert Resources(cluster="local").resolve().cluster == "local"


@pytest.mark.parametrize("asked", [{"cluster": "slurm"}, {"partition": "gpu"}, {"nodes": 2}])
def test_silent_slurm_is_refused(asked: dict, monkeypatch: Patch) -> None:
    monkeypatch.setattr(resources, "slurm_answers", lambda: False)
    with pytest.raises(UserError, match="no Slurm here"):
        Resources(**asked).resolve()
    assert Resources(**asked, dry_run=True).resolve().cluster == "slurm"


def test_every_option_is_parsed() -> None:
    """Scripts and profiles rely on the names and types of the options."""
    given = """--cluster slurm --partition p --account a --qos q --nodes 2 --gpus-per-node 0 --tasks-per-node 3
        --cpus-per-task 4 --mem 1GB --time 5 --constraint c --exclude e --array-parallelism 6 --max-requeues 7
        --after 8 9_1 --setup 'module load cuda' --slurm k=v exclusive --log-dir l --wait --dry-run"""
    parsed = parse(Resources, shlex.split(given))
    assert (parsed.after, parsed.setup) == (("8", "9_1"), ("module load cuda",))
    assert parsed.slurm_options == {"k": "v", "exclusive": True}
    assert (parsed.minutes, parsed.tasks, parsed.gpus(1), parsed.wait) == (5, 3, 0, True)
    several = parse(Resources, ["--runs-per-job", "2", "--runs-at-once", "3", "--runs-per-gpu", "4"])
    both = (parsed, several)
    untouched = [each.name for each in fields(parsed) if all(getattr(one, each.name) == each.default for one in both)]
    assert untouched == []  # so there is no field that this test does not know


@pytest.mark.parametrize(
    ("option", "cluster", "needed"),
    [
        ({"partition": "x"}, "local", "slurm"),
        ({"after": ("1",)}, "inline", "slurm"),
        ({"setup": ("true",)}, "local", "slurm"),
        ({"gpus_per_node": 1}, "inline", "local or slurm"),
        ({"time": "1"}, "inline", "local or slurm"),
        ({"runs_at_once": 2}, "inline", "local or slurm"),
        ({"runs_per_job": 2}, "local", "slurm"),
    ],
)
def test_option_without_effect_on_the_cluster_is_refused(option: dict, cluster: str, needed: str) -> None:
    (name,) = option
    message = f"{name.replace('_', '-')} does nothing with the cluster {cluster}; it needs {needed}"
    with pytest.raises(UserError, match=message):
        Resources(cluster=cluster, **option).resolve()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"time": "1:30"}, "time '1:30' is neither minutes nor"),
        ({"time": "0"}, "less than a minute"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"gpus_per_node": -1}, "gpus per node must be at least 0"),
        ({"gpus_per_node": 2, "tasks_per_node": 4}, "one process runs on each GPU"),
        ({"runs_per_gpu": 2, "gpus_per_node": 0}, "runs-per-gpu: there is no GPU to share"),
        ({"runs_per_gpu": 2, "tasks_per_node": 1}, "there is no GPU to share"),
        ({"runs_per_job": 2, "nodes": 2}, "in a job of several runs each run has one process"),
        ({"slurm": ("gpus-per-node=1",)}, "slurm gpus-per-node=1: gpus-per-node is set by an option of"),
        ({"slurm": ("--dependency=after:1",)}, "dependency is set by"),
        ({"slurm": ("Key=5",)}, "as KEY=VALUE"),
        ({"slurm": ("comment=a\ntouch b",)}, "as KEY=VALUE"),
        ({"after": ("afterok:12",)}, "after takes job ids"),
        ({"partition": "a\ntouch b"}, r"partition takes one line of text, got 'a\\ntouch b'"),
        ({"log_dir": Path("a\nb")}, "log-dir takes one line of text"),
    ],
)
def test_wrong_value_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Resources(**wrong)


@pytest.mark.parametrize(
    ("given", "at_once", "gpus", "threads"),
    [
        ({"gpus_per_node": 0, "cpus_per_task": 8}, 8, 0, 1),
        ({"gpus_per_node": 0, "cpus_per_task": 8, "runs_at_once": 2}, 2, 0, 4),
        ({"gpus_per_node": 2, "cpus_per_task": 16, "runs_per_gpu": 4}, 8, 1, 2),
        ({}, 1, 1, 4),
    ],
)
def test_runs_share_the_resources_of_their_job(given: dict, at_once: int, gpus: int, threads: int) -> None:
    job = Resources(**given, runs_per_job=10)
    run = job.of_each_run()
    assert job.tasks == 1
    assert (run.side_by_side(), run.gpus_per_node, run.threads(at_once)) == (at_once, gpus, threads)


@pytest.mark.parametrize("option", ["runs_at_once", "runs_per_gpu"])
def test_option_of_several_runs_without_them_raises(option: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr("autosparse.cluster.resources.slurm_answers", lambda: True)
    with pytest.raises(UserError, match="is for jobs of several runs; give runs-per-job"):
        Resources(**{option: 2}, cluster="slurm").resolve()
    assert Resources(**{option: 2}, runs_per_job=4, cluster="slurm").resolve().cluster == "slurm"


def test_runs_per_gpu_without_a_gpu_raises(monkeypatch: Patch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="there is no GPU to share"):
        Resources(cluster="local", runs_per_gpu=4).side_by_side()


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: Patch) -> Callable[[str], Path]:
    path = tmp_path / "slurm.yaml"
    monkeypatch.setenv("AUTOSPARSE_SLURM", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_profile_is_read_as_a_command_line_and_given_options_override_it(
    profile: Callable[[str], Path], commands: Commands
) -> None:
    profile(
        "partition: no\ntime: 12:00:00\naccount: 0123\ngpus-per-node: 4\nqos:\n"
        "setup: [module load cuda, 'echo a: b']\nslurm: --mail-type=END\nlog-dir: ~/logs\ncluster: slurm\n"
    )
    site = Resources(gpus_per_node=2, wait=True).resolve()
    # YAML's own types would have made these False, 43200 and 83
    assert (site.partition, site.time, site.account) == ("no", "12:00:00", "0123")
    assert (site.minutes, site.gpus_per_node, site.qos, site.cluster, site.wait) == (720, 2, None, "slurm", True)
    assert site.setup == ("module load cuda", "echo a: b")
    assert site.slurm_options == {"mail-type": "END"}
    assert site.log_dir == Path.home() / "logs"
    assert Resources(cluster="local").resolve() == Resources(cluster="local")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion:", "unknown option 'partion'; did you mean partition"),
        ("gpus-per-node: four", "gpus-per-node must be INT, got four"),
        ("cluster: cloud", "cluster: unknown value 'cloud'; valid: auto, slurm, local, inline"),
        ("time: later", "time 'later' is neither"),
        ("dry-run: true", "unknown option 'dry-run'"),
        ("[a", "is not valid YAML, see line 1"),
    ],
)
def test_mistake_in_a_profile_is_one_line_with_the_file(
    profile: Callable[[str], Path], text: str, message: str
) -> None:
    path = profile(text)
    with pytest.raises(UserError, match=message) as caught:
        Resources().resolve()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_profile_is_found_by_variable_or_in_home(tmp_path: Path, commands: Commands, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AUTOSPARSE_SLURM")
    assert Resources().resolve().partition is None
    usual = tmp_path / ".config" / "autosparse" / "slurm.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text("partition: home\n")
    assert Resources().resolve().partition == "home"
    monkeypatch.setenv("AUTOSPARSE_SLURM", "")
    assert Resources().resolve().partition is None
    monkeypatch.setenv("AUTOSPARSE_SLURM", "nowhere")
    with pytest.raises(UserError, match="nowhere: No such file or directory"):
        Resources().resolve()


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_example_of_a_profile_is_valid(path: Path, commands: Commands, monkeypatch: Patch) -> None:
    monkeypatch.setenv("AUTOSPARSE_SLURM", str(path))
    site = Resources().resolve()
    assert site.cluster == "slurm"
    assert None not in (site.partition, site.gpus_per_node, site.time)
