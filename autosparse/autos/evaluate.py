"""How well a fit predicts what it has not seen, and the surface that is made and measured there."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autosparse.autos.autos import AutoS
from autosparse.autos.samples import Samples
from autosparse.autos.table import Surface
from autosparse.store.order import Part

SPARSITIES = (0.90, 0.95, 0.98, 0.99)


def validate(autos: AutoS, samples: Samples, run: int = 0, part: Part = "held-out") -> dict[str, Any]:
    """How well the predictions fit parameters of a run that were not fitted to.

    Args:
        autos: the criterion.
        samples: of the fit.
        run: its number among them.
        part: `held-out`, or `all` for a run that the fit has not seen.

    Returns:
        `mse` and `variance` of the labels (a constant's mean squared error); `spearman`, the rank correlation;
        `overlap`, for each sparsity the share of the parameters kept by prediction that survival keeps too, and
        `overlap_by_chance` (equal survivals count as drawn at random: the expected share). All are of the run's initial
        state; where the samples hold others, `mse_all` is over those of every state.
    """
    seen = samples.validation(run, part)
    scores = autos.score(*(values.to(autos.device) for values in seen.columns), scale=seen.scale).cpu()
    first = seen.iteration == 0
    metrics = _metrics(scores[first].numpy(), seen.labels[first].numpy())
    return metrics if first.all() else {**metrics, "mse_all": float((scores - seen.labels).square().mean())}


def tabulate_held_out(autos: AutoS, samples: Samples) -> Surface:
    """The surface of a fit, made and measured by parameters that were not fitted to."""
    seen = samples.tabulation()
    columns = [torch.cat(values).to(autos.device) for values in zip(*(each.columns for each in seen), strict=True)]
    sizes = [torch.tensor(each.scale.sizes, dtype=torch.float32).expand(len(each.labels), -1) for each in seen]
    scale = torch.cat(sizes).to(autos.device).unbind(1)
    return autos.surface(*columns, scale=scale, resolution=samples.config.resolution)


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
    from scipy.stats import rankdata  # takes half a second

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def overlap(scores: NDArray[Any], labels: NDArray[Any], density: float) -> float:
    """Expected share of the top `density` by score that the top by label holds too, its ties broken at random."""
    k = max(1, round(density * len(scores)))
    kept = np.argsort(-scores, kind="stable")[:k]
    threshold = np.sort(labels)[len(labels) - k]
    above, tied = labels > threshold, labels == threshold
    chance = (k - above.sum()) / tied.sum()
    return float((above[kept].sum() + chance * tied[kept].sum()) / k)
