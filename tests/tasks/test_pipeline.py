"""From IRP to the report on text and the tasks of examples/, and tasks of a user's file."""

import json
import pickle
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from autosparse import registry
from autosparse.cli import irp
from autosparse.command import parse
from autosparse.errors import UserError
from autosparse.jobs import IRPRun, TrainingOptions
from autosparse.jobs.base import make_task
from autosparse.pruning import Mask
from autosparse.store import TripleStore
from autosparse.store.schema import MARKER
from autosparse.study import compare, results
from autosparse.tasks import Data, Images, Text, find_task
from tests.conftest import ROOT, run_script
from tests.jobs.test_tracking import scalars

pytestmark = pytest.mark.usefixtures("small_mlp")
Script = Callable[..., int]
SHORT = ("--epochs", "1", "--grad-batches", "2")
TEXT = ("--task", "text", "--layers", "1", "--heads", "2", "--width", "16", "--context", "64")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noise, dark and bright."""
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        for name, level in (("dark", 60), ("bright", 200)):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(level - 50, level + 50, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words drawn at random, 20,000 bytes."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    words = np.random.default_rng(0).choice(["mask ", "weight ", "prune ", "rewind ", "triple\n"], 4000)
    path.write_text("".join(words)[:20_000])
    return path


def test_text_uses_its_first_bytes(text: Path) -> None:
    whole, start = Text(text=text, context=64), Text(text=text, context=64, size=8_000)
    assert [len(task.dataset("train")) for task in (whole, start)] == [281, 112]
    assert whole.digest() != start.digest()
    with pytest.raises(UserError, match="the text has 100 bytes; at least 40 samples"):
        replace(start, size=100).check()


def test_unicode_text_has_a_fixed_digest() -> None:
    assert Text(text="unicode").digest() == "d1236c91"
    assert Text(text="unicode").source == "unicode"


EXAMPLES = {
    "tabular_regression.py:Diabetes": "squared error",
    "image_folder.py:Photographs": "accuracy",
    "hugging_face.py:GPT2": "loss",
}


def run_pipeline(folder: Path, options: tuple[str, ...], metric: str) -> Path:
    """Run IRP, fit AutoS and prune by it, check what they leave, and return the folder of IRP."""
    where = ("--output", str(folder), *SHORT)
    assert run_script("irp", *options, "--iterations", "2", *where) == 0
    (run,) = (folder / "irp").iterdir()
    assert TripleStore.open(run).problems() == []
    fit = ("--runs", str(run), "--name", "own", "--output", str(folder))
    assert run_script("fit", *fit, "--epochs", "1", "--resolution", "16") == 0
    criteria = ("snip", str(folder / "autos" / "own"))
    assert run_script("prune", *options, "--criteria", *criteria, "--sparsities", "0.8", "--seeds", "7", *where) == 0
    results = [json.loads(path.read_text()) for path in (folder / "prune").glob("*/result.json")]
    assert [each["metric"] for each in results] == [metric] * 2
    return run


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_from_irp_to_pruning(
    name: str, photographs: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = ROOT / "examples" / name.partition(":")[0]
    options = {
        "image_folder.py": ("--folder", str(photographs), "--size", "16", "--batch-size", "8"),
        "hugging_face.py": ("--layers", "1", "--width", "16", "--text", str(text)),
    }.get(file.name, ())
    run = run_pipeline(tmp_path, ("--task", f"examples/{name}", *options), EXAMPLES[name])
    assert (run / file.name).read_bytes() == file.read_bytes()


def test_text_runs_from_irp_to_the_report(text: Path, tmp_path: Path) -> None:
    """The second metric, accuracy, is in the rows, the tables and the switch of the report, too."""
    run, report = run_pipeline(tmp_path, (*TEXT, "--text", str(text), "--track", "tensorboard"), "loss"), tmp_path / "r"
    assert {"iteration/loss", "iteration/accuracy"} <= scalars(run).keys()
    assert run_script("report", str(tmp_path), "--output", str(report)) == 0
    rows = pd.read_csv(report / "results.csv")
    assert len(rows) == len(rows[["test/accuracy", "test_best_validation/accuracy"]].dropna())
    tables, page = (report / "report.md").read_text(), (report / "index.html").read_text()
    assert "Test loss after the last epoch" in page
    for measure in ("test", "test_best_validation"):
        assert compare.MEASURES[measure].format("accuracy")[1:] in tables
    assert compare.MEASURES["test_best"].format("accuracy")[1:] not in tables  # nobody has said which way is better
    assert re.search(r'<input type="radio" name="metric-\d+" value="accuracy">', page)
    assert '<div data-value="accuracy">' in page


def test_fields_and_code_are_part_of_the_identity(tmp_path: Path) -> None:
    text = (ROOT / "tests" / "tasks" / "own.py").read_text()
    identities = []
    for code in (text, text + "\n# another"):
        path = tmp_path / f"task{len(identities)}.py"
        path.write_text(code)
        kind = find_task(f"{path}:Own")
        identities += [IRPRun(setting=TrainingOptions(task=kind(width=width))).identity() for width in (8, 9)]
    assert len({json.dumps({**each, "task": ""}) for each in identities}) == 4
    assert identities[0]["task"] == "task0.py:Own"


def test_criterion_of_a_file_is_used_and_copied(script: Script, tmp_path: Path) -> None:
    code = "def largest(model, mask, scoring):\n    return mask.layout.flatten(mask.layout.weights(model)).float()\n"
    (tmp_path / "scores.py").write_text(code)
    options = ("--task", f"{ROOT}/tests/tasks/own.py:Own", "--sparsities", "0.5", "--seeds", "1", "--output", tmp_path)
    assert script("prune", *options, "--criteria", f"{tmp_path}/scores.py:largest", "magnitude") == 0
    masks = [Mask.load(next((tmp_path / "prune").glob(f"*_{name}_*/mask.safetensors"))) for name in ("largest", "mag*")]
    assert not torch.equal(masks[0].kept, masks[1].kept)
    assert (next((tmp_path / "prune").glob("*_largest_*")) / "scores.py").read_text() == code
    (tmp_path / "scores.py").write_text(code.replace("float()", "neg().float()"))
    assert script("prune", *options, "--criteria", f"{tmp_path}/scores.py:largest") == 2  # another criterion by now


CLASSES = """
from dataclasses import dataclass
from pathlib import Path

from autosparse.training import Recipe
from tests.tasks.own import Own
{imports}
RECIPE = Recipe(2, "adamw", 1e-2, batch_size=8, drops=(1,))


@dataclass(frozen=True)
class Sizes:
    depth: int = 2
    widths: tuple[int, ...] = (4, 8)


@dataclass(frozen=True, kw_only=True)
class Middle(Own):
    sizes: Sizes = Sizes()


{decorator}
class Mine(Middle):
    {field}

"""
_DECORATOR = "@dataclass(frozen=True, kw_only=True)"


def written(folder: Path, **parts: str) -> str:
    """Return the name of a task in a file of its own, for a module is imported once."""
    path = folder / f"{folder.name}.py"
    empty = {"imports": "", "decorator": _DECORATOR, "field": "pass"}
    path.write_text(CLASSES.format(**{**empty, **parts}))
    return f"{path}:Mine"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nothing", "unknown task 'nothing'; valid: images, text, package.module:Object"),
        ("nothing.py:Own", "there is no file"),
        ("torch.nn:Linear", "is not a task: it must be a frozen dataclass that extends autosparse.Task"),
        (f"{ROOT}/tests/tasks/own.py:Other", "unknown task in"),
        ("text --width 10", "the width must be a multiple of the heads, got 10 and 4"),
        ("text --text nothing.txt", "the file nothing.txt of --text does not exist"),
        ({"field": "include = seeds = nodes = 1; include: int; seeds: int; nodes: int"}, ": include, nodes, seeds;"),
        ({"field": "recipe = None"}, "it lacks recipe"),
        ({"field": "recipe: Recipe"}, "the field recipe of"),
        ({"decorator": "", "field": "depth: int = 1"}, "has fields without a decorator of its own; "),
        ({"field": "check: bool = True"}, "the field check of"),
        ({"field": "files: int = 1"}, "has the name of a method of Task; rename it"),
        ({"field": "autos: int = 1"}, "have the names of options: autos; rename them"),
        ({"field": "better = 'up'"}, "must be higher or lower, got 'up'"),
    ],
)
def test_task_that_cannot_be_made_raises_in_one_line(
    task: str | dict[str, str], message: str, script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = task.split() if isinstance(task, str) else [written(tmp_path, **task)]
    assert script("irp", "--task", *options, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_fields_of_all_kinds_are_options_of_a_task(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In config.yaml, in a store and in another process, too; `--epochs` and its like set a recipe's other fields."""
    (tmp_path / "neighbour.py").write_text("VALUE = 4\n")
    monkeypatch.setattr("sys.path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    fields = "recipe: Recipe = RECIPE; needed: Path; more: tuple[int, ...] = (8, VALUE)"
    name = Path(written(tmp_path, imports="from neighbour import VALUE", field=fields)).name
    options = ("--widths", "6", "7", "--optimizer", "nesterov", "--clip", "1.5", "--epochs", "1", "--batch-size", "4")
    where = ("--needed", "neighbour.py", "--iterations", "1", "--final-sparsity", "0.5", "--output", tmp_path)
    assert script("irp", "--task", name, *options, *where) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "irp").iterdir()
    (run / "triples.zarr" / MARKER).unlink()  # resumed then
    assert script("irp", "--task", name, *options, *where) == 0, capsys.readouterr().err
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((run / "config.yaml").read_text())
    recipe = [config["recipe"][name] for name in ("epochs", "optimizer", "clip", "batch_size", "drops")]
    assert recipe == [1, "nesterov", 1.5, 4, [1]]
    assert (config["depth"], config["widths"], "epochs" in config) == (2, [6, 7], False)
    task = make_task(TripleStore.open(run).run, None)
    assert (task.needed, task.more) == (tmp_path / "neighbour.py", (8, 4))
    monkeypatch.chdir(tmp_path)
    job = parse(irp.Arguments, ["--config", str(run / "config.yaml")]).job
    assert job.identity() == {name: value for name, value in config.items() if name not in ("options", "files")}
    pickled = pickle.dumps(job)
    assert replace(task, needed=Path("neighbour.py")) == job.setting.task
    sys.modules.pop(tmp_path.name)
    registry._LOADED.pop(tmp_path.name)
    assert pickle.loads(pickled).identity() == job.identity()


def test_networks_that_differ_in_a_field_share_no_cell(script: Script, tmp_path: Path) -> None:
    task = ("--task", f"{ROOT}/tests/tasks/own.py:Own", "--criteria", "magnitude", "--sparsities", "0.5")
    for width, seed in (("8", "1"), ("16", "2")):
        assert script("prune", *task, "--width", width, "--seeds", seed, "--output", tmp_path) == 0
    with pytest.raises(UserError, match=r"cannot share a table: width=\d+ and width=\d+;"):
        compare.accuracy_table(results.load(tmp_path), pd.DataFrame())


RETURNS = """
from dataclasses import dataclass

import torch

from tests.tasks.own import Own


@dataclass(frozen=True, kw_only=True)
class Mine(Own):
    def {}(self, model, batch):
        return {}
"""
_FORM = "metrics must return a sum and a count by name, as in {'accuracy': (right, count)}"


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("metrics", '{"mse": (torch.tensor([2.0]), torch.tensor(4))}', ""),
        ("metrics", '{"mse": (torch.tensor(float("nan")), 4)}', "mse of the validation samples is not a finite"),
        ("metrics", '{"mse": 0.5}', _FORM),
        ("metrics", '{"mse": (torch.ones(8), 8)}', _FORM),
        ("metrics", "(2.0, 4)", _FORM),
        ("metrics", "{}", "the task has no metrics of the validation samples"),
        ("metrics", '{"agreement": (2, 4)}', "is the metric 'agreement' better higher or lower? say it"),
        ("loss", "0.5", "loss must return the mean loss of a batch, a tensor of one number; it returns a float"),
    ],
)
def test_loss_or_metrics_of_another_form_raise(
    method: str, value: str, message: str, script: Script, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / f"{tmp_path.name}.py"  # a name of its own: a module is imported once
    path.write_text(RETURNS.format(method, value))
    run = ("--criteria", "magnitude", "--sparsities", "0.5", "--seeds", "1", "--output", tmp_path, "--epochs", "1")
    assert script("prune", "--task", f"{path}:Mine", *run) == (2 if message else 0)
    assert message in capsys.readouterr().err
    if not message:
        (result,) = tmp_path.glob("prune/*/result.json")
        assert json.loads(result.read_text())["test"] == 0.5


@pytest.mark.parametrize(
    ("parent", "metric", "refused"),
    [(Images, "val_WER", True), (Images, "power", False), (Text, "bpb", False), (Text, "accuracy", True)],
)
def test_metric_whose_direction_its_class_does_not_say_raises(parent: Any, metric: str, refused: bool) -> None:
    def metrics(self: Any, model: Any, batch: Any) -> Any:
        return {metric: (1, 2)}

    for better in (None, "lower", "higher"):
        said = {} if better is None else {"better": better}
        task = type("Mine", (type("Base", (parent,), {"metrics": metrics, **said}),), {})()
        data = Data(replace(task, source="digits") if parent is Images else task)
        assert data.better == (better or parent.better)
        with pytest.raises(UserError, match="in the class Base") if refused and not better else nullcontext():
            data.metrics(nn.Identity(), None)
