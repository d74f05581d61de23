"""The board: what methods are worth at equal cost, over paired seeds, with intervals and p-values.

A track is a network, its data, a recipe that has converged, sparsities and seeds. Its results are a table in a file,
one row per run, from which the board is made.
"""

import datetime
import json
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
from autosparse.metrics import factor
from autosparse.study.compare import per_cent
from autosparse.study.scale import DIGITS
from autosparse.study.statistics import SIGNIFICANT, Difference, corrected, paired
from autosparse.tasks import Images

BEFORE, PROBE, END = "a mask before any training", "a mask after one probe", "sparse only at the end"
"""Classes of methods, which are compared within themselves."""
_PROBE_PAYS = "a probe against a longer training"
_COLUMNS = (
    *("method", "class", "criterion", "options", "seed", "sparsity", "metric", "better", "test", "cost", "epochs"),
    *("seconds", "commit", "date", "hardware"),
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
        (200, 201, 202),
    ),
    "digits": Track(DIGITS, "LeNet-300-100 on 8 x 8 digits: a trial", (0.95,), (200, 201, 202)),
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
            code = registry.digest_of(registry.resolve(name, "criterion", {}))[:6]
            label = f"{name.rpartition(':')[2]} ({code})"
            chosen.append(Method(label, BEFORE, name, code=code))
            chosen.append(Method(f"{label}, twice as long", BEFORE, name, {"trainings": 2}, code))
        elif name not in (names := {method.criterion: None for method in everything}):
            raise unknown("criterion", name, [*names, "FILE.py:FUNCTION"])
    return chosen


def jobs_of(
    track: Track, chosen: Iterable[Method], sparsities: Sequence[float], output: Path
) -> list[tuple[Method, PruneRun]]:
    """Return the runs of some methods on a track."""
    if other := set(sparsities) - set(track.sparsities):
        raise UserError(f"the track has no sparsity {min(other)}; it has {', '.join(map(str, track.sparsities))}")
    runs = []
    for method in chosen:
        dense = method.criterion == "dense"
        for sparsity in (0.0,) if dense else sparsities or track.sparsities:
            for seed in track.seeds:
                criterion = "magnitude" if dense else method.criterion
                config = PruneConfig(criterion=criterion, sparsity=sparsity, seed=seed, **method.how)
                runs.append((method, PruneRun(output=output / method.code, setting=track.setting, config=config)))
    return runs


def results_file(results: Path, track: str) -> Path:
    """Return the file of a track's results."""
    return results / f"{track}.csv"


def read(path: Path) -> pd.DataFrame:
    """Return the results of a track, one row per run; none if there is no file."""
    if not path.is_file():
        return pd.DataFrame(columns=_COLUMNS)
    try:
        rows = pd.read_csv(path)
    except ValueError as error:  # empty, or damaged in the middle
        raise UserError(f"{path} is not a file of results: {error}") from error
    if missing := [name for name in _COLUMNS if name not in rows]:
        raise UserError(f"{path} is not a file of results: it has no column {missing[0]}")
    return rows


def is_known(rows: pd.DataFrame, method: Method, run: PruneRun) -> bool:
    """Return True if the results have a run."""
    config = run.config
    same = (rows["method"] == method.name) & (rows["seed"] == config.seed) & (rows["sparsity"] == config.sparsity)
    return bool(same.any())


def add(path: Path, runs: Iterable[tuple[Method, PruneRun]]) -> pd.DataFrame:
    """Add complete runs to the file of a track's results, and return all results."""
    rows = read(path)
    new = [_row(method, run) for method, run in runs if not is_known(rows, method, run)]
    if new:
        rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True) if len(rows) else pd.DataFrame(new)
        rows = rows.sort_values(["class", "method", "sparsity", "seed"], na_position="first", ignore_index=True)
        write_text(path, rows.to_csv(index=False, columns=list(_COLUMNS)))
    return read(path)


def _row(method: Method, run: PruneRun) -> dict[str, Any]:
    result, environment = (read_json(run.folder / name) for name in ("result.json", "environment.json"))
    return {
        "method": method.name,
        "class": method.kind,
        "criterion": method.criterion,
        "options": json.dumps(method.how),
        "seed": run.config.seed,
        "sparsity": run.config.sparsity,
        "metric": result["metric"],
        "better": result["better"],
        "test": result["test"],
        "cost": round(result["cost"], 4),
        "epochs": run.make_recipe().epochs,
        "seconds": round(sum(result["seconds"].values()), 1),
        "commit": environment["commit"],
        "date": datetime.date.fromtimestamp((run.folder / "result.json").stat().st_mtime).isoformat(),
        "hardware": f"{environment['cpus']} CPUs" + "".join(f", {gpu}" for gpu in environment["gpus"][:1]),
    }


def page(results: Path, names: Sequence[str]) -> str:
    """Return the board as Markdown, made from the files of results alone."""
    parts = []
    for name in names:
        rows = read(results_file(results, name))
        if len(rows):
            parts.append(_section(name, find_track(name), rows))
    if not parts:
        raise UserError(f"no results in {results}; autosparse board run --track {names[0]} makes some")
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class _Comparison:
    """A method compared with another at one sparsity; `p` is corrected for all comparisons of the track."""

    difference: Difference
    p: float = float("nan")

    def __str__(self) -> str:
        d = self.difference
        verdict = "= " if not self.p < SIGNIFICANT else ""
        return f"{verdict}{d.mean:+.2f} [{d.low:.2f}, {d.high:.2f}]"


def _section(name: str, track: Track, rows: pd.DataFrame) -> str:
    """Return the board of one track."""
    metric, better = rows["metric"].iloc[0], rows["better"].iloc[0]
    values = {
        key: group.set_index("seed")["test"] * factor(metric) for key, group in rows.groupby(["method", "sparsity"])
    }
    groups = {
        f"{kind}, cost {cost}": list(dict.fromkeys(group["method"]))
        for (kind, cost), group in rows.dropna(subset="class").groupby(["class", rows["cost"].round().astype(int)])
    }
    best, pairs = dict[tuple[str, float], str](), dict[tuple[str, float], Difference]()
    for title, members in groups.items():
        for sparsity in track.sparsities:
            present = [method for method in members if (method, sparsity) in values]
            if not present:
                continue
            ranked = sorted(present, key=lambda method: values[method, sparsity].mean(), reverse=better == "higher")
            best[title, sparsity] = ranked[0]
            for method in ranked[1:]:
                pairs[method, sparsity] = paired(values[method, sparsity], values[ranked[0], sparsity], better)
    static, probed = f"{BEFORE}, cost 2", f"{PROBE}, cost 2"
    for sparsity in track.sparsities:
        if {(static, sparsity), (probed, sparsity)} <= best.keys():
            first, second = (values[best[title, sparsity], sparsity] for title in (probed, static))
            pairs[_PROBE_PAYS, sparsity] = paired(first, second, better)
    p_values = corrected([pair.p for pair in pairs.values()])
    compared = {key: _Comparison(pair, p) for (key, pair), p in zip(pairs.items(), p_values, strict=True)}
    seeds = rows.groupby(["method", "sparsity"])["seed"].count()
    count = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
    lines = [
        f"## {name}",
        "",
        f"{track.recipe}. Test {metric} after the last epoch, mean of {count} paired seeds. The best of each group is "
        "bold. The others have the mean difference from it and its 95% interval; = marks methods that are on par with "
        f"it (p at least {SIGNIFICANT} in a paired t-test, corrected for the {len(compared)} comparisons of this track "
        "by Benjamini and Hochberg).",
        "",
        *(f"{method}: {series.mean():.2f}." for (method, sparsity), series in values.items() if sparsity == 0),
    ]
    for title, members in groups.items():
        lines += ["", f"### {title[0].upper()}{title[1:]}", ""]
        lines += [f"| method | {' | '.join(map(per_cent, track.sparsities))} |"]
        lines += [f"| --- |{' ---: |' * len(track.sparsities)}"]
        for method in members:
            cells = [
                _cell(method, sparsity, best.get((title, sparsity)), values, compared) for sparsity in track.sparsities
            ]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    if headline := [_headline(s, best[probed, s], best[static, s], compared) for k, s in compared if k == _PROBE_PAYS]:
        lines += ["", "### Does a probe pay for one training?", "", *headline]
    return "\n".join(lines)


def _cell(
    method: str,
    sparsity: float,
    best: str | None,
    values: Mapping[tuple[str, float], pd.Series],
    compared: Mapping[tuple[str, float], _Comparison],
) -> str:
    if (method, sparsity) not in values:
        return "–"
    mean = f"{values[method, sparsity].mean():.2f}"
    return f"**{mean}**" if method == best else f"{mean} ({compared[method, sparsity]})"


def _headline(sparsity: float, probed: str, static: str, compared: Mapping[tuple[str, float], _Comparison]) -> str:
    pair = compared[_PROBE_PAYS, sparsity]
    if not pair.p < SIGNIFICANT:
        verdict = "is on par with"
    else:
        verdict = "is better than" if pair.difference.mean > 0 else "is worse than"
    numbers = f"{pair.difference.mean:+.2f} [{pair.difference.low:.2f}, {pair.difference.high:.2f}], p = {pair.p:.2g}"
    return f"- {per_cent(sparsity)}: {probed}, the best mask after a probe, {verdict} {static}: {numbers}."
