"""How much of survival can be learned at all: `python -m benchmarks.learnable --scale small`.

Two runs of IRP from the same weights, with other orders of samples, share all that is known before training. The
agreement of the two is the most that any function of the initial weights can reach.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from autosparse import command
from autosparse.autos.features import label_table
from autosparse.autos.fit import overlap, spearman
from autosparse.cluster import Job
from autosparse.config import Label, Probed
from autosparse.errors import UserError
from autosparse.jobs import IRPRun
from autosparse.lookahead import Probe
from autosparse.page import Document
from autosparse.pruning import Layout, Mask
from autosparse.store import TripleStore
from autosparse.study.parts import Part
from autosparse.study.pretrained import lookahead_scale, probed_irp
from autosparse.study.scale import Scale
from autosparse.training import Callback, train
from benchmarks.common import StudyArguments, report

Floats = NDArray[np.float32]

_PROBED: tuple[Probed, ...] = get_args(Probed)
_SHARES = (0.01, 0.05, 0.2, 0.5)  # Fractions of a training run that probes last.
_K = 0.2  # The fraction that the criterion that looks ahead takes.
_LABELS: tuple[Label, ...] = ("share", "rank", "log-density")
_ROWS = 100_000  # Number of parameters of a run that a regression learns from.
_MORE = {"small": range(3, 11), "smoke": range(3, 5)}  # Seeds of more runs of the first network, by scale.
_SETS: Mapping[str, tuple[str, ...]] = {
    "θ0": ("theta",),
    "θ0, g0 (the paper's)": ("theta", "grad"),
    "θ0, ḡ": ("theta", "probe-gradient"),
    "θ_K": ("probe-theta",),
    "θ0, θ_K": ("theta", "probe-theta"),
    "θ0, θ_K, Σg²": ("theta", "probe-theta", "probe-rms"),
    "θ0, θ_K, layer": ("theta", "probe-theta", "layer"),
    "θ0, θ_K, row, column": ("theta", "probe-theta", "row", "column"),
    "all": ("theta", "grad", *_PROBED, "layer", "row", "column"),
}
_CHOSEN = "θ0, θ_K"


@dataclass(frozen=True, kw_only=True)
class Arguments(StudyArguments):
    """Compare the survival of two runs, and what a regression predicts of it."""


def learnable(scale: Scale) -> list[Part]:
    """Return the tables of each kind of network.

    Three pairs of runs of IRP for each kind of network, by magnitude, a pair from the same weights in two orders of
    samples. A regression learns the survival of one run from the first steps of its dense network; it is judged
    on the other order of a seed that it has not seen. Gradient boosting stands for any learner.
    """
    inner, steps = lookahead_scale(scale)
    more = {next(iter(steps)): _MORE.get(scale.name, ())}
    return [Learnable(inner, name, k, more.get(name, ())) for name, k in steps.items()]


@dataclass(frozen=True)
class Learnable:
    """Tables of one kind of network: the ceiling, features, lengths of a probe, scaling, labels, number of runs."""

    scale: Scale
    network: str
    steps: int
    """Steps of the probe of its runs."""
    more: Sequence[int]
    """Seeds of runs that show what more of them teach."""

    def jobs(self) -> list[Job]:
        return [*(run for pair in self._pairs for run in pair), *self._more]

    def write(self, document: Document) -> None:
        pairs = [(Seen.of(first), TripleStore.open(other.folder)) for first, other in self._pairs]
        document.heading(f"What can be learned: {self.network.replace('_', ' on ')}", 3)
        document.text(
            f"Mean ± deviation over {len(pairs)} pairs of runs. R²: the share of the variance of survival that is "
            "explained. Overlap: the share of what is kept that is kept by both, chance being the density."
        )
        document.table(pd.DataFrame({"one run of the other": _ceiling(pairs)}).T.rename_axis("ceiling"))
        ceiling = float(np.mean([_correlation(seen.survival, other.survival()) for seen, other in pairs]))
        document.text(
            "A regression learns from the other seeds and is judged on the other order. No function of the initial "
            f"weights can exceed an R² of {ceiling:.2f}, the correlation of the two runs. "
            f"K = {100 * _K:g}% of a training."
        )
        table = {label: _judged(pairs, _Regression(names), ceiling) for label, names in _SETS.items()}
        document.table(pd.DataFrame(table).T.rename_axis("features"))
        names = _SETS[_CHOSEN]
        lengths = {f"{100 * k:g}%": _judged(pairs, _Regression(names, share=k), ceiling) for k in _SHARES}
        document.text(f"{_CHOSEN}, by the length of the probe.")
        document.table(pd.DataFrame(lengths).T.rename_axis("K"))
        document.text(f"{_CHOSEN}, by the root mean square that features are divided by, and by label.")
        how = {
            "of the network": _Regression(names),
            "of each layer": _Regression(names, by_layer=True),
            **{f"label {label}": _Regression(names, label=label) for label in _LABELS[1:]},
        }
        found = {label: _judged(pairs, regression, ceiling) for label, regression in how.items()}
        document.table(pd.DataFrame(found).T.rename_axis("scaling, label"))
        if self._more:
            more, counts = [Seen.of(run) for run in self._more], [1]
            while 2 * counts[-1] <= len(more):
                counts.append(2 * counts[-1])
            found = {f"{n}": _judged(pairs, _Regression(names), ceiling, more[:n]) for n in counts}
            document.text(f"{_CHOSEN}, by the number of runs that are learned from.")
            document.table(pd.DataFrame(found).T.rename_axis("runs"))

    @cached_property
    def _pairs(self) -> list[tuple[IRPRun, IRPRun]]:
        """One pair of runs per seed: from the same weights, in two orders of samples."""
        irp = partial(self.scale.irp, self.network, "magnitude")
        probed = partial(probed_irp, self.scale, self.network, self.steps)
        return [(probed(seed), irp(seed=seed, order_seed=seed + 10)) for seed in (0, 1, 2)]

    @cached_property
    def _more(self) -> tuple[IRPRun, ...]:
        """Runs of IRP of the other seeds."""
        return tuple(self.scale.irp(self.network, "magnitude", seed=seed) for seed in self.more)


class Seen:
    """A run of IRP, and columns that its dense network has in the first half of its training.

    Attributes:
        layout: layout of the run.
        survival: survival of each parameter, int (P,).
        densities: densities of the masks.
    """

    def __init__(self, store: TripleStore, probes: Mapping[float, Probe]) -> None:
        self.layout, self.survival, self.densities = store.layout, store.survival(), store.densities
        self._first = {"theta": store.theta(), "grad": store.grad()}
        self._probes = probes

    @classmethod
    def of(cls, run: IRPRun) -> "Seen":
        """Train as the run did, dense, from its weights, to the end of the longest probe."""
        store, accelerator = TripleStore.open(run.folder), Accelerator()
        model, data = run.setting.make(run.config.seed, accelerator)
        recipe = run.setting.make_recipe()
        length = recipe.epochs * len(data.training(recipe.batch_size))
        mask = Mask.full(store.layout, accelerator.device)
        probes = {
            share: Probe(store.layout, max(1, round(share * length)), _PROBED, accelerator.device) for share in _SHARES
        }
        steps = max(probe.steps for probe in probes.values())
        together = Together([*probes.values()])
        train(model, mask, data, recipe, accelerator, seed=run.config.order, callback=together, steps=steps)
        return cls(store, probes)

    def features(self, names: Sequence[str], share: float, by_layer: bool) -> Floats:
        """Return inputs of a regression, (P, F): values over their root mean square, signs relative to the weight's."""
        columns = self._first | {name: values.cpu().numpy() for name, values in self._probes[share].columns.items()}
        sign = np.where(np.signbit(columns["theta"]), -1, 1).astype(np.float32)
        found = []
        for name in names:
            if name in columns:
                found.append(columns[name] / self._size(columns[name], by_layer) * sign)
            else:
                sizes = torch.from_numpy(np.abs(columns["probe-theta"] / self._size(columns["probe-theta"], by_layer)))
                found.append(_context(self.layout, name, sizes))
        return np.stack(found, 1)

    def layers(self) -> Iterator[slice]:
        """Yield the span of each layer."""
        for layer in self.layout.layers:
            yield slice(layer.offset, layer.offset + layer.size)

    def _size(self, values: Floats, by_layer: bool) -> Floats:
        if not by_layer:
            return np.full(len(values), np.sqrt(np.square(values, dtype=np.float64).mean()), np.float32)
        sizes = [np.sqrt(np.square(values[where], dtype=np.float64).mean()) for where in self.layers()]
        return np.repeat(np.array(sizes, np.float32), [layer.size for layer in self.layout.layers])


class Together(Callback):
    """Several probes of one training run."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes

    def start(self, model: nn.Module, mask: Mask) -> Mask:
        for probe in self._probes:
            probe.start(model, mask)
        return mask

    def gradients(self, step: int, model: nn.Module) -> None:
        for probe in self._probes:
            probe.gradients(step, model)

    def stepped(self, step: int, model: nn.Module, mask: Mask, optimizer: torch.optim.Optimizer) -> Mask:
        for probe in self._probes:
            probe.stepped(step, model, mask, optimizer)
        return mask


@dataclass(frozen=True)
class _Regression:
    """Survival from features."""

    names: tuple[str, ...]
    share: float = _K
    by_layer: bool = False
    label: Label = "share"

    def fit(self, runs: Sequence[Seen]) -> Any:
        """Return the regressor of scikit-learn, fitted to some parameters of each run."""
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError:
            raise UserError("this benchmark needs scikit-learn: pip install 'autosparse[demo]'") from None
        draw = np.random.default_rng(0)
        inputs, labels = [], []
        for run in runs:
            chosen = np.sort(draw.permutation(len(run.survival))[:_ROWS])
            inputs.append(run.features(self.names, self.share, self.by_layer)[chosen])
            labels.append(label_table(self.label, run.densities)[run.survival[chosen]])
        learner = HistGradientBoostingRegressor(early_stopping=False, random_state=0)
        return learner.fit(np.concatenate(inputs), np.concatenate(labels))

    def predict(self, learner: Any, run: Seen) -> NDArray[np.float64]:
        """Return the predicted label of each parameter of a run."""
        predicted: NDArray[np.float64] = learner.predict(run.features(self.names, self.share, self.by_layer))
        return predicted


def _judged(
    pairs: Sequence[tuple[Seen, TripleStore]],
    regression: _Regression,
    ceiling: float,
    learned: Sequence[Seen] = (),
) -> dict[str, str]:
    """Measure the predictions of a regression for each pair.

    It learns from the runs `learned`, or from those of the other pairs.
    """
    rows = []
    for run, other in pairs:
        learner = regression.fit(learned or [each for each, _ in pairs if each is not run])
        predicted = regression.predict(learner, run)
        of_other, of_own = (label_table(regression.label, run.densities)[s] for s in (other.survival(), run.survival))
        explained = _explained(predicted, of_other)
        rows.append(
            {
                "R²": explained,
                "of the ceiling, %": 100 * explained / ceiling,
                "R², its own order": _explained(predicted, of_own),
                **_ranks(predicted, other.survival(), run),
            }
        )
    return _cells(rows)


def _ceiling(pairs: Sequence[tuple[Seen, TripleStore]]) -> dict[str, str]:
    """Measure how well one run of each pair predicts the other; ties are broken at random."""
    rows = []
    for run, other in pairs:
        jitter = np.random.default_rng(0).random(len(run.survival)) / 2
        survival = other.survival()
        within = [_correlation(run.survival[where], survival[where]) for where in run.layers()]
        sizes = [layer.size for layer in run.layout.layers]
        rows.append(
            {
                "correlation": _correlation(run.survival, survival),
                "within layers": float(np.average(within, weights=sizes)),
                **_ranks(run.survival, survival, run, jitter),
            }
        )
    return _cells(rows)


def _ranks(
    scores: NDArray[Any], survival: NDArray[Any], run: Seen, jitter: NDArray[Any] | float = 0.0
) -> dict[str, float]:
    """Return rank correlations, over the network and as a weighted mean over its layers, and overlaps of masks."""
    within = [spearman(scores[where], survival[where]) for where in run.layers()]
    sizes = [layer.size for layer in run.layout.layers]
    return {
        "Spearman": spearman(scores, survival),
        "Spearman within layers": float(np.average(np.nan_to_num(within), weights=sizes)),
        **{f"overlap at {100 * s:g}%": overlap(scores + jitter, survival, 1 - s) for s in (0.95, 0.99)},
    }


def _context(layout: Layout, name: str, sizes: Tensor) -> Floats:
    """Return the layer's number of each parameter, or the mean magnitude of its row (output) or column (input)."""
    found = torch.empty(layout.size, dtype=torch.float32)
    views, given = layout.unflatten(found), layout.unflatten(sizes)
    for number, (view, values) in enumerate(zip(views.values(), given.values(), strict=True)):
        if name == "layer":
            view.fill_(number)
        else:
            others = [d for d in range(values.ndim) if d != (0 if name == "row" else 1)]
            view.copy_(values.mean(others, keepdim=True).expand_as(view))
    return found.numpy()


def _explained(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(1 - np.square(predicted - labels).mean() / labels.var())


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def _cells(rows: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Format mean and standard deviation of each column."""
    frame = pd.DataFrame(rows)
    return {
        name: f"{values.mean():.1f} ± {values.std():.1f}"
        if name.endswith("%") and name.startswith("of")
        else f"{values.mean():.3f} ± {values.std():.3f}"
        for name, values in frame.items()
    }


if __name__ == "__main__":
    command.run(Arguments, lambda arguments: report(arguments, "What can be learned", learnable))
