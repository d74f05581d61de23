import re
from collections.abc import Callable
from pathlib import Path

import pytest

from autosparse.cluster import Resources, site_resources
from autosparse.cluster.resources import EXAMPLES, VARIABLE
from autosparse.errors import UserError


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    path = tmp_path / "slurm.yaml"
    monkeypatch.setenv(VARIABLE, str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_values_are_read_as_on_a_command_line(profile: Callable[[str], Path]) -> None:
    profile(
        "partition: no\ntime: 12:00:00\naccount: 0123\ngpus-per-node: 4\nqos:\n"
        "setup: [module load cuda, 'echo a: b']\nslurm: --mail-type=END\nlog-dir: ~/logs\ncluster: slurm\n"
    )
    said = site_resources()
    # YAML's own types would have made these False, 43200 and 83
    assert (said.partition, said.time, said.account) == ("no", "12:00:00", "0123")
    assert (said.minutes, said.gpus_per_node, said.qos, said.cluster) == (720, 4, None, "slurm")
    assert said.setup == ("module load cuda", "echo a: b")
    assert said.slurm_options == {"mail-type": "END"}
    assert said.log_dir == Path.home() / "logs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus: 4", "unknown key 'gpus'; valid: cluster, partition, gpus-per-node"),
        ("partion:", "unknown key 'partion'"),
        ("gpus-per-node: four", "gpus-per-node must be INT, got four"),
        ("partition: [a, b]", r"partition must be STR, got \['a', 'b'\]"),
        ("cluster: cloud", "cluster: unknown value 'cloud'; valid: auto, slurm, local, inline"),
        ("time: later", "has a value that does not fit, see above"),
        ("slurm: [time=5]", "has a value that does not fit, see above"),
        ("after: [1]", "unknown key 'after'"),
        ("dry-run: true", "unknown key 'dry-run'"),
        ("setup: {a: b}", "setup must be a value or a list of values"),
        ("setup: [{a: b}]", "setup must be a value or a list of values"),
        ("[a", "is not valid YAML, see line 1"),
        ("partition", "is not a list of OPTION: VALUE"),
        ("partition: a\npartition: b", "has partition twice"),
    ],
)
def test_mistake_is_one_line_with_the_file(profile: Callable[[str], Path], text: str, message: str) -> None:
    path = profile(text)
    with pytest.raises(UserError, match=message) as caught:
        site_resources()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time: later", "time 'later' is neither"),
        ("slurm: [time=5]", "use the option time"),
    ],
)
def test_mistake_is_named_with_valid_values(
    profile: Callable[[str], Path], text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    profile(text)
    with pytest.raises(UserError):
        site_resources()
    assert said in " ".join(word.strip("│╭╮╰╯─") for word in capsys.readouterr().err.split() if word.strip("│╭╮╰╯─"))


def test_profile_is_found_by_variable_or_in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE)
    assert site_resources() == Resources()
    usual = tmp_path / ".config" / "autosparse" / "slurm.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text("partition: home\n")
    assert site_resources().partition == "home"
    monkeypatch.setenv(VARIABLE, "preemptible")
    assert site_resources().partition == "preemptible"
    monkeypatch.setenv(VARIABLE, "")
    assert site_resources() == Resources()
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(UserError, match="no profile nowhere; valid: a path, or an example: preemptible, small-lab"):
        site_resources()


def test_command_line_wins_and_help_shows_the_profile(
    script: Callable[..., int],
    profile: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile("partition: gpu\ngpus-per-node: 4\ntime: 9:00:00\ncluster: slurm\n")
    assert script("irp", "--dry-run", "--dataset", "digits", "--time", "10", "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for line in ("--partition=gpu", "--gpus-per-node=4", "--ntasks-per-node=4", "--time=10"):
        assert f"#SBATCH {line}\n" in printed
    assert script("irp", "--help-cluster") == 0
    assert re.search(r"--gpus-per-node.*?Default: 4\.", capsys.readouterr().out, re.DOTALL)
    assert script("irp", "--help") == 0
    assert re.search(r"--partition.*?Default: gpu\.", capsys.readouterr().out, re.DOTALL)
    # what the site says is about its Slurm; what is typed is refused where it does nothing
    assert script("irp", "--cluster", "inline", "--dry-run", "--dataset", "digits", "--output", tmp_path / "out") == 0
    assert script("irp", "--cluster", "inline", "--gpus-per-node", "2", "--dataset", "digits") == 2
    assert "gpus-per-node does nothing with the cluster inline" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_example_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, name)
    said = site_resources()
    assert said.cluster == "slurm"
    assert {"partition", "gpus_per_node", "time"} <= said.site.keys()
