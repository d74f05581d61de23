"""Results as figures, each written as SVG and PNG."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autosparse.autos import AutoS, Scale, Surface
from autosparse.files import replacing
from autosparse.metrics import factor
from autosparse.metrics import label as metric_label
from autosparse.store import TripleStore, sample
from autosparse.study.results import metric_of

_SAMPLE = 20_000  # points of a scatter plot
_REACH, _PIXELS = 4.0, 241  # of a map, from its middle in root mean squares, and along an axis
_MARKERS = "osD^vP*X<>"
AT_START = "at initialization"
"""The family of criteria that look at the start alone, whose points are not joined."""
_BESIDE = (1e-4, 1e-2, 1.0)  # of its mean: flow, which a map cannot show on its axes
_LABELS = {
    "share": "survival / N",
    "min-max": "survival, 0 to 1",
    "log-density": "-log10 density at death",
    "rank": "share of the parameters outlived",
}


def accuracy_curves(pruned: pd.DataFrame, irp: pd.DataFrame, title: str) -> Figure:
    """The metric against sparsity, mean and deviation over seeds; IRP and the dense network for comparison."""
    figure, axes = _figure(6.4, 4.2)
    metric, better = metric_of(pruned, irp)
    times = factor(metric)
    if len(irp):
        for name, group in irp.groupby("criterion"):
            mean = group.groupby("iteration")[["density", "test"]].mean()
            axes.plot(100 * mean["density"], times * mean["test"], "k--", lw=1.2, label=f"{name} (iterative)")
        dense = irp[irp["iteration"] == 0]["test"].mean()
        axes.axhline(times * dense, color="0.6", lw=0.8, ls=":", label="dense")
    for name, group in pruned.groupby("criterion") if len(pruned) else ():
        by = group.groupby("sparsity")["test"]
        density = 100 * (1 - by.mean().index.to_numpy())
        axes.errorbar(
            density, times * by.mean(), times * by.std().fillna(0), marker="o", ms=4, capsize=2, label=_short(name)
        )
    sparsities = pruned["sparsity"] if len(pruned) else irp["sparsity"][:: max(1, len(irp) // 6)]
    accuracies = pd.concat([frame["test"] for frame in (pruned, irp) if len(frame)])
    label = "sparsity (share of weights removed, logarithmic in density)"
    _against_sparsity(axes, {*sparsities, 0.0}, accuracies, metric, better, xlabel=label, title=title)
    return figure


def lines(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Accuracy against sparsity, a line a method.

    Args:
        curves: rows of `sparsity`, `mean` and `std`, shares, by label.
        title: stands above it.
    """
    figure, axes = _figure(6.8, 4.4)
    for label, rows in curves.items():
        density = 100 * (1 - rows["sparsity"])
        axes.errorbar(density, 100 * rows["mean"], 100 * rows["std"], marker="o", ms=4, capsize=2, label=_short(label))
    sparsities = {sparsity for rows in curves.values() for sparsity in rows["sparsity"]}
    means = pd.concat([rows["mean"] for rows in curves.values()])
    _against_sparsity(
        axes, sparsities, means, "accuracy", "higher", xlabel="sparsity (logarithmic in density)", title=title
    )
    return figure


def against_cost(panels: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """A metric against the trainings that it took; better is higher up.

    Args:
        panels: by title, one row a run, with `method`, `family` (whose variants are joined; without one it is not
            drawn), `cost`, `test` and what says which metric it is.
        title: stands above them.
    """
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.8 * lines + 1.2), layout="constrained")
    drawn = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in drawn[len(panels) :]:
        unused.set_visible(False)
    families = [each for each in dict.fromkeys(pd.concat(panels.values())["family"]) if each]
    for axes, (name, rows) in zip(drawn, panels.items(), strict=False):
        metric, better = metric_of(rows)
        times = factor(metric)
        means = times * rows[rows["family"] != ""].groupby("method")["test"].mean()
        for number, family in enumerate(families):
            by = rows[rows["family"] == family].groupby("method").agg({"cost": "mean", "test": ["mean", "std"]})
            points = by.sort_values(("cost", "mean"))
            axes.errorbar(
                points["cost", "mean"] * (1 + 0.02 * (number - len(families) / 2)),  # beside each other, not upon
                times * points["test", "mean"],
                times * points["test", "std"].fillna(0.0),
                marker=_MARKERS[number % len(_MARKERS)],
                color=f"C{number % 10}",
                ls="none" if family == AT_START else "-",
                ms=5,
                capsize=2,
                label=family,
            )
        axes.set_xscale("log")
        ticks = [1, 2, 3, 5, 10, 20]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        # a criterion at chance must not flatten the differences among the others
        worst, best = (
            means.quantile(0.1 if better == "higher" else 0.9),
            means.max() if better == "higher" else means.min(),
        )
        axes.set_ylim(worst - 0.15 * (best - worst), best + 0.15 * (best - worst))
        axes.set(xlabel="cost, trainings", ylabel=f"test {metric_label(metric)}, {better} is better", title=name)
        axes.grid(alpha=0.25)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def survival_beside(columns: Mapping[str, NDArray[Any]], survival: NDArray[Any]) -> Figure:
    """Survival of parameters drawn at random beside what is known of them at initialization, a panel a column.

    Args:
        columns: by axis label, values (P,).
        survival: share of the iterations survived, (P,).
    """
    chosen = np.random.default_rng(0).permutation(len(survival))[:_SAMPLE]
    figure = Figure(figsize=(4 * len(columns), 3.6), layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        axes.scatter(values[chosen], survival[chosen], s=1.5, alpha=0.25, linewidths=0, rasterized=True)
        low, high = np.quantile(values, [0.001, 0.999])
        axes.set(xlabel=label, ylabel="survival / N", ylim=(-0.05, 1.05), xlim=(low, high) if low < high else None)
    return figure


def truth_and_prediction(autos: AutoS, store: TripleStore) -> Figure:
    """Survival over theta and grad, and from both sides: as it was, and as predicted (paper, Figures 1 and 4)."""
    triples = sample(store, _SAMPLE, seed=0)
    theta, grad = triples.theta.numpy(), triples.grad.numpy()
    scale = Scale.of_store(store)
    labels = autos.label_table(store.densities)
    truth, low, high = labels[triples.survival.numpy()], labels.min(), labels.max()
    predicted = autos.score(triples.theta.to(_device()), triples.grad.to(_device()), scale=scale).cpu().numpy()
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    x, y = (values / rms for values, rms in zip((theta, grad), scale.sizes, strict=True))
    limit = float(np.quantile(np.abs(y), 0.999))
    for row, (name, values) in zip(axes, (("truth", truth), ("prediction", predicted)), strict=True):
        points = row[0].scatter(x, y, c=values, s=2, vmin=low, vmax=high, cmap="viridis", linewidths=0, rasterized=True)
        row[0].set(xlabel="theta / rms", ylabel="grad / rms", title=f"{name}: survival over both", ylim=(-limit, limit))
        figure.colorbar(points, ax=row[0], label=_LABELS[autos.label])
        for one, label, values_x in ((row[1], "theta", x), (row[2], "grad", y)):
            one.scatter(values_x, values, s=1.5, alpha=0.25, linewidths=0, rasterized=True)
            one.set(
                xlabel=f"{label} / rms",
                ylabel=_LABELS[autos.label],
                title=f"{name}: from the side of {label}",
                ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)),
            )
        row[2].set_xlim(-limit, limit)
    return figure


def learned_map(autos: AutoS, surface: Surface | None = None) -> Figure:
    """The learned score over the first two features, in root mean squares of a network (paper, section 6.1).

    Drawn from the surface, if it is given. What is seen beside them has a panel for each of some values.
    """
    line = torch.linspace(-_REACH, _REACH, _PIXELS)
    second, first = (values.reshape(-1).to(_device()) for values in torch.meshgrid(line, line, indexing="ij"))
    others = autos.features.columns[2:]
    panels = [dict.fromkeys(others, value) for value in _BESIDE] if others else [{}]
    scorer = surface or autos
    maps = []
    for panel in panels:
        at = (first, second, *(torch.full_like(first, value) for value in panel.values()))
        maps.append(scorer.score(*at, scale=Scale((1.0,) * len(at))).view(_PIXELS, _PIXELS).cpu().numpy())
    figure = Figure(figsize=(1.6 + 4 * len(panels), 4.6), layout="constrained")
    low, high = min(values.min() for values in maps), max(values.max() for values in maps)
    for axes, panel, values in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, maps, strict=True):
        image = axes.imshow(
            values,
            origin="lower",
            extent=(-_REACH, _REACH, -_REACH, _REACH),
            cmap="viridis",
            aspect="auto",
            vmin=low,
            vmax=high,
        )
        beside = ", ".join(f"{name} {value:g} of its mean" for name, value in panel.items())
        names = autos.features.columns
        axes.set(xlabel=f"{names[0]} / rms", ylabel=f"{names[1]} / rms", title=beside or "score learned by AutoS")
    figure.colorbar(image, ax=figure.axes, label=f"predicted {_LABELS[autos.label]}")
    return figure


def layer_densities(pruned: pd.DataFrame, title: str) -> Figure:
    """Density by layer of each criterion, one panel a sparsity, mean over seeds."""
    sparsities = sorted(pruned["sparsity"].unique())
    columns = min(2, len(sparsities))
    rows = -(-len(sparsities) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in panels[len(sparsities) :]:
        unused.set_visible(False)
    for axes, sparsity in zip(panels, sparsities, strict=False):
        for name, group in pruned[pruned["sparsity"] == sparsity].groupby("criterion"):
            mean = pd.DataFrame(group["layer_densities"].tolist()).mean()
            axes.plot(range(len(mean)), 100 * mean.to_numpy(), marker="o", ms=3, label=_short(name))
        names = list(mean.index)
        shown = range(0, len(names), -(-len(names) // 12))
        axes.set_xticks(
            list(shown), [names[k].removesuffix(".weight") for k in shown], rotation=60, ha="right", fontsize=7
        )
        axes.set_yscale("log")
        axes.set_title(f"sparsity {100 * sparsity:g}%", fontsize=9)
        axes.grid(alpha=0.25)
        axes.set_ylabel("density of the layer, %")
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def save(figure: Figure, stem: Path) -> Path:
    """Write `stem.svg` and `stem.png`; returns the latter."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png"))
    with rc_context({"svg.hashsalt": stem.name}), replacing(svg) as temporary:  # the same figure gives the same bytes
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    with replacing(png) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return png


def _device() -> torch.device:
    """Where a network scores thousands of points: on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _against_sparsity(
    axes: Any, sparsities: Collection[float], values: pd.Series, metric: str, better: str, **labels: str
) -> None:
    """Finish a plot of a metric over densities in per cent, with a tick for each sparsity.

    A criterion at chance must not flatten the differences among the others, and falls beyond the axis.
    """
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = sorted({round(100 * (1 - sparsity), 3) for sparsity in sparsities})
    axes.set_xticks(ticks, [f"{100 - tick:g}%" for tick in ticks])
    axes.minorticks_off()
    if factor(metric) > 1:
        axes.set_ylim(max(0.0, 100 * values.quantile(0.12) - 6), min(100.0, 100 * values.max() + 1.5))
    elif better == "lower":
        low, high = values.min(), values.quantile(0.88)
        axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.15 * (high - low) + 1e-9)
    axes.set(ylabel=f"test {metric_label(metric)}", **labels)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _short(name: str) -> str:
    return f"{name[:34]}…" if len(name) > 35 else name
