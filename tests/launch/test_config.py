"""`--config FILE.yaml`: a run's configuration makes it again, and a file of one's own is options."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from autosparse.cli import demo, fit, irp, paper, prune, report
from autosparse.command import parse
from autosparse.errors import UserError
from autosparse.study.experiments import find_scale, stages
from tests.conftest import Capture, Script

OWN = """
from dataclasses import dataclass
from autosparse.tasks.images import Images

@dataclass(frozen=True, kw_only=True)
class Mine(Images):
    width: int = 128
"""


def read(kind: Any, path: Path, *arguments: str) -> Any:
    return parse(kind, ["--config", str(path), *arguments])


def written(folder: Path, content: Any) -> Path:
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (irp.Arguments, "--dataset digits --recipe strong --seeds 3 --order-seeds 5 --criteria magnitude --epochs 2"),
        (irp.Arguments, "--task text --layers 1 --width 32 --include-weights embed* --iterations 3 --compile"),
        (prune.Arguments, "--criteria gmp --sparsities 0.9 --seeds 7 --trainings 2 --learning-rate 0.5"),
        (fit.Arguments, "--runs a b --weights 1 0.5 --anneal --memory 1GB --features theta --name x --seeds 4"),
    ],
)
def test_options_of_a_run_parse_to_the_same_arguments(kind: Any, arguments: str, tmp_path: Path) -> None:
    asked = parse(kind, arguments.split())
    swept = {"criteria": "criterion", "sparsities": "sparsity", "seeds": "seed", "order_seeds": "order_seed"}
    single = {one: values[0] for many, one in swept.items() if len(values := getattr(asked, many, ())) == 1}
    said = asked.job.options() | single
    assert read(kind, written(tmp_path, {"kind": "irp", "options": said})) == asked


def test_config_of_a_run_asks_for_the_same_run(script: Script, finished: Path, tmp_path: Path, capsys: Capture) -> None:
    (run,) = (finished / "irp").iterdir()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.json")}
    assert script("irp", "--config", run / "config.yaml") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(run)
    assert "1 complete, 0 to run" in printed.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.json")} == before
    assert script("irp", "--config", run / "config.yaml", "--output", tmp_path, "--seed", "1", "--dry-run") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "irp" / run.name.replace("_s0", "_s1"))


def test_task_of_a_file_brings_its_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    file = written(tmp_path, {"task": f"{tmp_path}/mine.py:Mine", "width": 64, "seeds": [1, 2]})
    arguments = read(irp.Arguments, file, "--seeds", "3")
    assert (arguments.job.setting.task.width, arguments.seeds) == (64, (3,))
    with pytest.raises(UserError, match="unknown option 'width'"):
        read(irp.Arguments, file, "--task", "images")


def test_typed_positionals_override_those_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"runs": ["a", "b"], "output": "here"})
    assert read(report.Arguments, file) == report.Arguments((Path("a"), Path("b")), Path("here"))
    typed = parse(report.Arguments, ["c", "--config", str(file)])
    assert typed == report.Arguments((Path("c"),), Path("here"))


@pytest.mark.parametrize(("said", "on"), [("true", True), ("no", False)])
def test_typed_flag_overrides_the_file_either_way(said: str, on: bool, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(f"compile: {said}")
    assert read(irp.Arguments, file).job.setting.compile is on
    assert read(irp.Arguments, file, "--no-compile").job.setting.compile is False
    assert read(irp.Arguments, file, "--compile").job.setting.compile is True


@pytest.mark.parametrize(("name", "scale"), [("table2", "small"), ("all", "full"), ("demo", "smoke")])
def test_options_of_an_experiment_are_name_and_scale(name: str, scale: str, tmp_path: Path) -> None:
    found, kind = find_scale(name, scale, tmp_path), demo.Arguments if name == "demo" else paper.Arguments
    names = ("demo",) if name == "demo" else tuple(paper.study.find_experiments(name))
    asked = read(kind, written(tmp_path, {"options": stages(names, found)[-1].jobs[0].options()}))
    assert (getattr(asked, "name", "demo"), asked.scale, asked.output) == (name, scale, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "unknown option 'epoch'; did you mean epochs? valid: account, accumulate, "),
        (["epochs"], "is not a list of OPTION: VALUE"),
        ({"compile": "maybe"}, "compile must be true or false, got maybe"),
        ({"epochs": "many"}, "epochs must be INT, got many"),
        ({"seed": 1, "seeds": [2, 3]}, "has seeds and seed, two names of one option; delete one"),
        ({"schedule": "cosine"}, "schedule: unknown value 'cosine'; valid: geometric, linear, constant"),
    ],
)
def test_invalid_config_is_refused_in_one_line(
    content: Any, message: str, script: Script, tmp_path: Path, capsys: Capture
) -> None:
    assert script("irp", "--config", written(tmp_path, content)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert script("irp", "--config", tmp_path / "none.yaml") == 2
    assert "none.yaml: No such file or directory; a file of options is needed" in capsys.readouterr().err
