"""How well a fit predicts what it has not seen, and the surface that is made and measured there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from autosparse.autos.autos import AutoS
from autosparse.autos.features import Scale
from autosparse.autos.table import Surface
from autosparse.autos.trajectory import States, held_out_of
from autosparse.store import TripleStore, sample
from autosparse.store.order import Part

SPARSITIES = (0.90, 0.95, 0.98, 0.99)
_VALIDATION_SAMPLES = 1 << 20  # held-out triples looked at in each run, at most
_SURFACE_SAMPLES = 1 << 17  # held-out triples of all runs that a surface is made and measured by


def validate(autos: AutoS, store: TripleStore, seed: int = 0, part: Part = "held-out") -> dict[str, Any]:
    """How well the predictions fit triples that were not fitted to.

    Looks at a million of them at most, drawn from all over the store.

    Args:
        autos: the criterion.
        store: the run.
        seed: of the split, the fit's own for `part="held-out"`.
        part: `held-out`, or `all` for a run that the fit has not seen.

    Returns:
        `mse` and `variance` of the labels (a constant's mean squared error); `spearman`, the rank correlation;
        `overlap`, for each sparsity the share of the parameters kept by prediction that survival keeps too, and
        `overlap_by_chance` (equal survivals count as drawn at random: the expected share).
    """
    triples = sample(store, _VALIDATION_SAMPLES, seed, part)
    label = autos.label_table(store.densities)[triples.survival.numpy()]
    device = next(autos.network.parameters()).device
    scores = autos.score(triples.theta.to(device), triples.grad.to(device), scale=Scale.of_store(store))
    return _metrics(scores.cpu().numpy(), label)


def validate_states(autos: AutoS, run: States, part: Part = "held-out") -> dict[str, Any]:
    """The same as `validate`, by the parameters of a run's initial state; and `mse_all`, over those of every state."""
    device = next(autos.network.parameters()).device
    seen = run[run.held_out] if part == "held-out" else run
    scores = autos.score(*(values.to(device) for values in seen.columns), scale=seen.scale).cpu()
    first = seen.iteration == 0
    metrics = _metrics(scores[first].numpy(), seen.labels[first].double().numpy())
    return {**metrics, "mse_all": float((scores - seen.labels).double().square().mean())}


def tabulate_held_out(autos: AutoS, stores: Sequence[TripleStore], seed: int = 0, resolution: int = 512) -> Surface:
    """The surface of a fit, made and measured by triples that were not fitted to.

    Args:
        autos: the criterion.
        stores: the runs that it was fitted to.
        seed: of the split, the fit's own.
        resolution: see `AutoS.surface`.
    """
    device = next(autos.network.parameters()).device
    samples = [sample(store, _SURFACE_SAMPLES // len(stores), seed, "held-out") for store in stores]
    theta, grad = (torch.cat([getattr(each, name) for each in samples]).to(device) for name in ("theta", "grad"))
    sizes = torch.tensor([len(each) for each in samples])
    rms = torch.tensor([scale.sizes for scale in map(Scale.of_store, stores)])
    each = rms.repeat_interleave(sizes, dim=0).to(device).unbind(1)
    return autos.surface(theta, grad, scale=each, resolution=resolution)


def tabulate_states(autos: AutoS, states: Sequence[States], seed: int = 0, resolution: int = 512) -> Surface:
    """The same as `tabulate_held_out`, by the parameters of every state of runs."""
    device = next(autos.network.parameters()).device
    seen = held_out_of(states, _SURFACE_SAMPLES, seed)
    columns = [values.to(device) for values in seen.columns]
    return autos.surface(*columns, scale=seen.scale, resolution=resolution)


def _metrics(scores: NDArray[Any], label: NDArray[Any]) -> dict[str, Any]:
    return {
        "samples": len(label),
        "mse": float(np.square(scores - label).mean()),
        "variance": float(label.var()),
        "spearman": spearman(scores, label),
        "overlap": {str(s): overlap(scores, label, 1 - s) for s in SPARSITIES},
        "overlap_by_chance": {str(s): 1 - s for s in SPARSITIES},
    }


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation; ties share their mean rank."""
    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def overlap(scores: NDArray[Any], labels: NDArray[Any], density: float) -> float:
    """Expected share of the top `density` by score that the top by label holds too, its ties broken at random."""
    k = max(1, round(density * len(scores)))
    kept = np.argsort(-scores, kind="stable")[:k]
    threshold = np.sort(labels)[len(labels) - k]
    above, tied = labels > threshold, labels == threshold
    chance = (k - above.sum()) / tied.sum()
    return float((above[kept].sum() + chance * tied[kept].sum()) / k)
