"""The board: tracks, the methods that are compared on them, and the results of their runs.

A track is a network, its data, a recipe, sparsities and seeds. Its results are a table in a file, one row per run;
`board_page` makes the board from it.
"""

import datetime
import json
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from autosparse import registry
from autosparse.config import PRETRAINED, PRETRAINED_AHEAD, PruneConfig
from autosparse.errors import UserError, unknown
from autosparse.files import read_json, write_text
from autosparse.jobs import PruneRun
from autosparse.jobs.base import TrainingOptions
from autosparse.study.scale import DIGITS
from autosparse.tasks import Images, Task, Text

BEFORE, PROBE, END = "a mask before any training", "a mask after one probe", "a mask found during training"
"""Classes of methods, which are compared within themselves."""
_RELEASED = Path(sysconfig.get_path("data"), "share", "autosparse", "results")  # of a wheel
_RUN = ("method", "sparsity", "seed")  # what tells a run from others
_COLUMNS = (
    *("method", "class", "criterion", "options", "seed", "sparsity", "metric", "better", "test", "cost", "epochs"),
    *("seconds", "data", "commit", "date", "hardware"),
)


@dataclass(frozen=True)
class Track:
    """Runs that are compared.

    Attributes:
        setting: network, data and recipe.
        recipe: sentence about network, data and recipe.
        sparsities: fractions of the weights to remove.
        seeds: seeds of initial weights and order of samples, the same for every method; nothing is chosen on them.
    """

    setting: TrainingOptions
    recipe: str
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """A row of the board."""

    name: str
    kind: str
    criterion: str
    how: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    """Digest of a user's own file, so that results of an earlier one are not taken for its own."""


TRACKS = {
    "lenet": Track(
        TrainingOptions(task=Images(source="fashion-mnist", recipe_name="converged"), grad_batches=20),
        "LeNet-300-100 on Fashion-MNIST, 12 epochs of Adam along a cosine",
        (0.95, 0.98, 0.99),
        (200, 201, 202, 203, 204),
    ),
    "resnet8": Track(
        TrainingOptions(
            task=Images(network="resnet8", source="cifar10-16", recipe_name="converged"),
            grad_batches=20,
        ),
        "ResNet-8 on CIFAR-10 at 16 x 16, 16 epochs of SGD with Nesterov momentum along a cosine",
        (0.95, 0.98, 0.99),
        (200, 201, 202, 203, 204),
    ),
    "vgg7": Track(
        TrainingOptions(
            task=Images(network="vgg7", source="cifar10-16", recipe_name="converged"),
            grad_batches=20,
        ),
        "VGG-7 on CIFAR-10 at 16 x 16, 16 epochs of SGD with Nesterov momentum along a cosine",
        (0.95, 0.98, 0.99),
        (200, 201, 202),
    ),
    "gpt": Track(
        TrainingOptions(
            task=Text(text="unicode", size=128 * 1024, layers=2, width=64, context=64, recipe_name="long"),
            grad_batches=20,
        ),
        "GPT of two layers of width 64 on 128 KiB of names of Unicode characters, 32 epochs of AdamW along a cosine",
        (0.95, 0.98, 0.99),
        (200, 201, 202),
    ),
    "resnet20": Track(
        TrainingOptions(task=Images(network="resnet20", source="cifar10", recipe_name="strong"), grad_batches=20),
        "ResNet-20 on CIFAR-10, 160 epochs of SGD with Nesterov momentum",
        (0.8, 0.9, 0.95, 0.98),
        (200, 201, 202),
    ),
    "digits": Track(DIGITS, "LeNet-300-100 on 8 x 8 digits for one epoch: a trial", (0.95,), (200, 201, 202)),
}
_STATIC = ("random", "random-erk", "magnitude", "snip", "synflow", PRETRAINED)
METHODS = (
    *(Method(name, BEFORE, name) for name in _STATIC),
    *(Method(f"{name}, twice as long", BEFORE, name, {"trainings": 2}) for name in _STATIC),
    Method(PRETRAINED_AHEAD, PROBE, PRETRAINED_AHEAD),
    *(Method(f"short-irp, {rounds} rounds", PROBE, "short-irp", {"rounds": rounds}) for rounds in (2, 3, 5)),
    Method("ticket", PROBE, "ticket"),
    Method("gmp-ticket", PROBE, "gmp-ticket"),
    *(Method(name, END, name) for name in ("gmp", "rigl")),
    *(Method(f"{name}, twice as long", END, name, {"trainings": 2}) for name in ("gmp", "rigl")),
)
DENSE = (Method("dense", "", "dense"), Method("dense, twice as long", "", "dense", {"trainings": 2}))


def find_track(name: str) -> Track:
    """Return a track by name."""
    if name not in TRACKS:
        raise unknown("track", name, TRACKS)
    return TRACKS[name]


def methods(criteria: Sequence[str]) -> list[Method]:
    """Return all methods of the board or, if some are named, those of these criteria, a user's own among them."""
    everything = [*DENSE, *METHODS]
    if not criteria:
        return everything
    chosen = [method for method in everything if method.criterion in criteria]
    for name in criteria:
        if registry.is_path(name):
            registry.resolve(name, "criterion", {})
            code = registry.digest_of(name)[:6]
            label = f"{Path(name).name} ({code})"
            chosen.append(Method(label, BEFORE, name, code=code))
            chosen.append(Method(f"{label}, twice as long", BEFORE, name, {"trainings": 2}, code))
        elif name not in (names := {method.criterion: None for method in everything}):
            raise unknown("criterion", name, [*names, "FILE.py:FUNCTION"])
    return chosen


def jobs_of(
    track: Track, chosen: Iterable[Method], sparsities: Sequence[float], seeds: Sequence[int], output: Path
) -> list[tuple[Method, PruneRun]]:
    """Return the runs of some methods on a track, at all of its sparsities and seeds or at some of them."""
    for name, some, known in (("sparsity", sparsities, track.sparsities), ("seed", seeds, track.seeds)):
        if other := {*some} - {*known}:
            raise UserError(f"the track has no {name} {min(other)}; it has {', '.join(map(str, known))}")
    runs = []
    for method in {method.name: method for method in chosen}.values():
        dense = method.criterion == "dense"
        for sparsity in (0.0,) if dense else dict.fromkeys(sparsities or track.sparsities):
            for seed in dict.fromkeys(seeds or track.seeds):
                criterion = "magnitude" if dense else method.criterion
                config = PruneConfig(criterion=criterion, sparsity=sparsity, seed=seed, **method.how)
                runs.append((method, PruneRun(output=output / method.code, setting=track.setting, config=config)))
    return runs


def results_file(results: Path, track: str) -> Path:
    """Return the file of a track's results."""
    return results / f"{track}.csv"


def read(path: Path) -> pd.DataFrame:
    """Return the results of a track, one row per run; without a file, those that came with the wheel, if any."""
    if not path.is_file():
        path = _RELEASED / path.name
    if not path.is_file():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        rows = pd.read_csv(path, dtype={"data": str})  # a digest may look like a number
    except ValueError as error:  # empty, or damaged in the middle
        raise UserError(f"{path} is not a file of results: {error}") from error
    if missing := [name for name in _COLUMNS if name not in rows]:
        raise UserError(f"{path} is not a file of results: it has no column {missing[0]}")
    lines = rows.index[rows[[*_RUN, "metric", "better", "test", "cost", "data"]].isna().any(axis=1)]
    if len(lines):
        raise UserError(f"{path} is not a file of results: its line {lines[0] + 2} is incomplete")
    if len(lines := rows.index[rows.duplicated(list(_RUN))]):
        raise UserError(f"{path} has the run of its line {lines[0] + 2} twice; delete one of its lines")
    return rows


def check_data(task: Task, rows: pd.DataFrame, here: str | None) -> None:
    """Raise if results are of other data than those of a digest."""
    if others := {*rows["data"]} - {here}:
        raise UserError(
            f"the results are of other {task.source} data ({min(others)}) than those here ({here}), and runs on both "
            "cannot be compared; use the data of the results"
        )


def is_known(rows: pd.DataFrame, method: Method, run: PruneRun) -> bool:
    """Return True if the results have a run."""
    config = run.config
    same = (rows["method"] == method.name) & (rows["seed"] == config.seed) & (rows["sparsity"] == config.sparsity)
    return bool(same.any())


def add(path: Path, runs: Iterable[tuple[Method, PruneRun]]) -> None:
    """Add complete runs to the file of a track's results."""
    rows, new = read(path), list[dict[str, Any]]()
    for method, run in runs:
        if not is_known(rows, method, run):
            new.append(_row(method, run))
            check_data(run.setting.task, rows, new[-1]["data"])
    if new:
        rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True) if len(rows) else pd.DataFrame(new)
        rows = rows.sort_values(["class", "method", "sparsity", "seed"], na_position="first", ignore_index=True)
        write_text(path, rows.to_csv(index=False, columns=list(_COLUMNS)))


def _row(method: Method, run: PruneRun) -> dict[str, Any]:
    result, environment = (read_json(run.folder / name) for name in ("result.json", "environment.json"))
    return {
        "method": method.name,
        "class": PROBE if method.kind == BEFORE and result["ahead"]["steps"] else method.kind,
        "criterion": method.criterion,
        "options": json.dumps(method.how),
        "seed": run.config.seed,
        "sparsity": run.config.sparsity,
        "metric": result["metric"],
        "better": result["better"],
        "test": result["test"],
        "cost": round(result["cost"], 6),
        "epochs": run.make_recipe().epochs,
        "seconds": round(sum(result["seconds"].values()), 1),
        "data": result["data"],
        "commit": environment["commit"],
        "date": datetime.date.fromtimestamp((run.folder / "result.json").stat().st_mtime).isoformat(),
        "hardware": f"{environment['cpus']} CPUs" + "".join(f", {gpu}" for gpu in environment["gpus"][:1]),
    }
