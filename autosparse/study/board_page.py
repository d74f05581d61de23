"""The page and the picture of the board: methods at equal cost, over paired seeds, with intervals and p-values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from autosparse.cluster.records import say
from autosparse.errors import UserError
from autosparse.metrics import decimals, factor, label
from autosparse.page import ROWS, Chart, number_series, series_encodings
from autosparse.study import board
from autosparse.study.board import BEFORE, END, PROBE, Track
from autosparse.study.charts import axis_limits
from autosparse.study.compare import per_cent
from autosparse.study.statistics import SIGNIFICANT, TESTED, Difference, corrected, paired, ranked

_ROW = 15  # pixels of a method in the picture
_RIVALS = {
    "for one full training run under the mask": f"{BEFORE}, cost 2",
    "for many full training runs under the mask": f"{BEFORE}, cost 1",
    "if the mask may change during the training run": f"{END}, cost 2",
}
"""Groups that a mask after a probe is compared with, by their use."""


@dataclass(frozen=True)
class _Comparison:
    """A method compared with another at one sparsity; `p` is corrected for all comparisons of the track."""

    difference: Difference
    p: float
    decimals: int

    def __str__(self) -> str:
        d = self.difference
        return ("= " if d.n >= TESTED and self.p >= SIGNIFICANT else "") + self.numbers

    @property
    def numbers(self) -> str:
        """Mean and interval; without the interval for too few seeds."""
        d, digits = self.difference, self.decimals
        if not d.n:
            return "no seed in common"
        mean = f"{d.mean:+.{digits}f}"
        return f"{mean} [{d.low:.{digits}f}, {d.high:.{digits}f}]" if d.n >= TESTED else f"{mean}, too few seeds"


@dataclass(frozen=True)
class _Standing:
    """Where the methods of a track stand.

    Attributes:
        name: name of the track.
        rows: its results, one row per run.
    """

    name: str
    rows: pd.DataFrame

    @property
    def track(self) -> Track:
        """The track by its name."""
        return board.find_track(self.name)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return str(self.rows["metric"].iloc[0])

    def mean(self, method: str, sparsity: float) -> str:
        """Return a method's mean over its seeds with the metric's decimals."""
        return f"{self.values[method, sparsity].mean():.{decimals(self.metric)}f}"

    @cached_property
    def values(self) -> Mapping[tuple[str, float], pd.Series]:
        """Test metric by seed (fractions in per cent), by method and sparsity."""
        groups = self.rows.groupby(["method", "sparsity"])
        return {key: group.set_index("seed")["test"] * factor(self.metric) for key, group in groups}

    @cached_property
    def groups(self) -> Mapping[str, list[str]]:
        """Methods of the same class and cost, by a title; a method has those of its most expensive run."""
        methods = self.rows.sort_values("cost", kind="stable").groupby("method").last().reset_index()
        costs = np.ceil(methods["cost"]).astype(int)  # A part of a training run counts as a whole one.
        groups = dict(iter(methods.groupby(["class", costs])["method"]))
        return {
            f"{kind}, cost {cost}": list(groups[kind, cost])
            for kind in (BEFORE, PROBE, END)
            for cost in sorted({*costs})
            if (kind, cost) in groups
        }

    @cached_property
    def ranked(self) -> Mapping[tuple[str, float], list[str]]:
        """Methods by group and sparsity, the best of those with the most seeds first, the others by their mean.

        Groups without results at a sparsity are missing.
        """
        found = {}
        for title, members in self.groups.items():
            for sparsity in self.track.sparsities:
                present = [method for method in members if (method, sparsity) in self.values]
                if present:
                    values = {method: self.values[method, sparsity] for method in present}
                    found[title, sparsity] = ranked(values, self.better)
        return found

    @cached_property
    def most_seeds(self) -> int:
        """Largest number of seeds of a method."""
        return max(map(len, self.values.values()))

    def fewer(self, method: str, sparsity: float) -> list[str]:
        """Return the number of seeds of a method in words, if another method has more."""
        n = len(self.values[method, sparsity])
        return [f"n = {n}"] if n < self.most_seeds else []

    @property
    def better(self) -> str:
        """Direction of the metric, higher or lower."""
        return str(self.rows["better"].iloc[0])

    @cached_property
    def compared(self) -> Mapping[tuple[str, float], _Comparison]:
        """Comparisons with the best of the group by method and sparsity, and of probes by their use."""
        pairs = dict[tuple[str, float], Difference]()
        for (_, sparsity), (best, *others) in self.ranked.items():
            for method in others:
                pairs[method, sparsity] = self._paired(method, best, sparsity)
        for use, rivals in _RIVALS.items():
            for sparsity, probed, best in self.headlines(rivals):
                pairs[use, sparsity] = self._paired(probed, best, sparsity)
        p_values = corrected([pair.p for pair in pairs.values()])
        return {
            key: _Comparison(pair, p, decimals(self.metric))
            for (key, pair), p in zip(pairs.items(), p_values, strict=True)
        }

    def headlines(self, rivals: str) -> Iterator[tuple[float, str, str]]:
        """Return sparsities with the best mask after a probe and the best of another group."""
        for sparsity in self.track.sparsities:
            keys = (f"{PROBE}, cost 2", sparsity), (rivals, sparsity)
            if all(key in self.ranked for key in keys):
                probed, best = (self.ranked[key][0] for key in keys)
                yield sparsity, probed, best

    def _paired(self, first: str, second: str, sparsity: float) -> Difference:
        return paired(self.values[first, sparsity], self.values[second, sparsity], self.better)


def _standings(results: Path, names: Sequence[str]) -> list[_Standing]:
    """Return the standings of the tracks that have results."""
    found = {name: board.read(board.results_file(results, name)) for name in names}
    standings = [_Standing(name, rows) for name, rows in found.items() if len(rows)]
    if not standings:
        raise UserError(f"no results in {results}; autosparse board run --track {names[0]} makes some")
    return standings


def page(results: Path, names: Sequence[str]) -> str:
    """Return the board as Markdown, made from the files of results alone.

    Args:
        results: folder of the results.
        names: names of the tracks.

    Raises:
        UserError: no track has results.
    """
    return "\n\n".join(_section(standing) for standing in _standings(results, names)) + "\n"


def _section(s: _Standing) -> str:
    """Return the board of one track."""
    fewer = min(map(len, s.values.values())) < s.most_seeds
    comparisons = f"the {len(s.compared)} comparisons" if len(s.compared) > 1 else "the comparison"
    lines = [
        f"## {s.name}",
        "",
        f"{s.track.recipe}. Test {s.metric} after the last epoch, mean of {s.most_seeds} paired seeds"
        f"{', or of n where n is given' if fewer else ''}. The best of each group"
        f"{', of the methods with the most seeds,' if fewer else ''} is bold. The others have the mean difference from "
        "it (negative: worse) and its 95% interval, over the seeds that both have; = marks methods that are on par "
        f"with it (p at least {SIGNIFICANT} in a paired t-test, corrected by Benjamini and Hochberg for {comparisons} "
        "of this track). Intervals are not corrected, so that of a method on par may exclude 0. –: not run.",
        *([""] if ("dense", 0.0) in s.values else []),
        *(
            f"{method}: {', '.join([s.mean(method, sparsity), *s.fewer(method, sparsity)])}."
            for method, sparsity in s.values
            if sparsity == 0
        ),
    ]
    for title, members in s.groups.items():
        lines += ["", f"### {title[0].upper()}{title[1:]}", ""]
        lines += [f"| method | {' | '.join(map(per_cent, s.track.sparsities))} |"]
        lines += [f"| --- |{' ---: |' * len(s.track.sparsities)}"]
        for method in members:
            cells = [_cell(s, method, sparsity, title) for sparsity in s.track.sparsities]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    pays = [line for use, rivals in _RIVALS.items() for line in _headlines(s, use, rivals)]
    return "\n".join([*lines, *(["", "### Does a probe pay?", "", *pays] if pays else [])])


def _cell(s: _Standing, method: str, sparsity: float, title: str) -> str:
    if (method, sparsity) not in s.values:
        return "–"
    (best, *others), mean = s.ranked[title, sparsity], s.mean(method, sparsity)
    facts = [] if method == best else [str(s.compared[method, sparsity])]
    facts += s.fewer(method, sparsity)
    return (f"**{mean}**" if method == best and others else mean) + (f" ({', '.join(facts)})" if facts else "")


def _headlines(s: _Standing, use: str, rivals: str) -> Iterator[str]:
    """Return one line per sparsity: the best mask after a probe against the best of another group."""
    for sparsity, probed, best in s.headlines(rivals):
        pair = s.compared[use, sparsity]
        verdict, p = "is on par with", f", p = {pair.p:.2g}"
        if pair.difference.n < TESTED:
            verdict, p = "was not tested against", ""
        elif pair.p < SIGNIFICANT:
            verdict = "is better than" if pair.difference.mean > 0 else "is worse than"
        yield f"- {per_cent(sparsity)}, {use}: {probed} {verdict} {best}: {pair.numbers}{p}."


def picture(results: Path, names: Sequence[str], sparsity: float) -> Chart:
    """Draw all methods at one sparsity, one view per track: the mean and its 95% interval by Student's t.

    Args:
        results: folder of the results.
        names: names of the tracks.
        sparsity: fraction of the weights that are removed.

    Raises:
        UserError: no track has results at this sparsity.
    """
    standings = _standings(results, names)
    shown = [s for s in standings if any(at == sparsity for _, at in s.ranked)]
    if not shown:
        raise UserError(f"no results at a sparsity of {per_cent(sparsity)}")
    if absent := [s.name for s in standings if s not in shown]:
        say(f"not in the picture, without results at {per_cent(sparsity)}: {', '.join(absent)}")
    kinds = number_series((BEFORE, PROBE, END))
    rows, views = list[dict[str, object]](), dict[str, alt.LayerChart]()
    for s in shown:
        points = _points(s, sparsity)
        rows += points.to_dict("records")
        levels = [float(s.values["dense", 0.0].mean())] if ("dense", 0.0) in s.values else []
        rows += [{"track": s.name, "dense": level} for level in levels]
        n = f"{points['n'].min()} to {points['n'].max()}" if points["n"].nunique() > 1 else f"{points['n'].max()}"
        low, high, _ = axis_limits(points, s.metric, s.better)
        what = s.track.recipe.partition(",")[0]
        views[f"{what}, {per_cent(sparsity)} of the weights removed, {n} seeds"] = _view(
            s, points["method"].tolist(), kinds, (min([low, *levels]), max([high, *levels]))
        )
    return Chart(rows=rows, views=views, series=kinds, columns=1)


def _points(s: _Standing, sparsity: float) -> pd.DataFrame:
    """Return one row per method; `std` is half of the 95% interval of the mean."""
    rows = []
    for (title, at), methods in s.ranked.items():
        for method in methods if at == sparsity else ():
            values = s.values[method, sparsity]
            mean, n = float(values.mean()), len(values)
            half = float(stats.t.ppf(0.975, n - 1) * values.sem()) if n > 1 else 0.0
            row = {
                "track": s.name,
                "method": f"{method}  {s.mean(method, sparsity)}",
                "series": title.rpartition(", ")[0],
                "n": n,
            }
            numbers = {"sparsity": sparsity, "mean": mean, "std": half, "low": mean - half, "high": mean + half}
            rows.append(row | numbers)
    return pd.DataFrame(rows)


def _view(
    s: _Standing, methods: Sequence[str], kinds: Mapping[str, int], domain: tuple[float, float]
) -> alt.LayerChart:
    """Draw one track; an arrow stands for each method beyond the axis."""
    color, shape = series_encodings(kinds)
    track = alt.Chart(ROWS).transform_filter(f"datum.track === '{s.name}'")
    dense_mean = f"; dashed: dense, {s.mean('dense', 0.0)}" if ("dense", 0.0) in s.values else ""
    direction = "" if s.better == "higher" else ", lower is better"
    title = f"test {label(s.metric)}{direction}: mean and 95% interval{dense_mean}"
    mean, low, dense = (
        alt.X(f"{name}:Q").scale(domain=[*domain], nice=False).title(title) for name in ("mean", "low", "dense")
    )
    y = alt.Y("method:N").sort([*methods]).axis(title=None, labelLimit=260)
    points = track.transform_filter("isValid(datum.mean)").encode(y=y, color=color)
    level = track.transform_filter("isValid(datum.dense)").encode(x=dense)
    layers = [
        level.mark_rule(strokeDash=[2, 3], color="currentColor", opacity=0.6),
        points.mark_rule(clip=True).encode(x=low, x2="high:Q"),
        points.mark_point(clip=True).encode(x=mean, shape=shape),
        *(
            points.transform_filter(beyond).mark_text(text=arrow).encode(x=alt.value(place))
            for beyond, arrow, place in (
                (f"datum.mean < {domain[0]}", "◂", 5),
                (f"datum.mean > {domain[1]}", "▸", alt.expr("width - 5")),
            )
        ),
    ]
    return alt.LayerChart(layer=layers).properties(height=_ROW * len(methods))
