"""How well a fit predicts parameters that it was not fitted to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosparse.autos.autos import AutoS
from autosparse.autos.samples import Samples
from autosparse.store.order import Part

SPARSITIES = (0.90, 0.95, 0.98, 0.99)


def validate(autos: AutoS, samples: Samples, run: int = 0, part: Part = "held-out") -> dict[str, Any]:
    """Compare the predictions with the labels of parameters that were not fitted to.

    Args:
        autos: fitted network.
        samples: samples of the fit.
        run: index of the run in the samples.
        part: `held-out`, or `all` for a run that was left out of the fit.

    Returns:
        `samples`, the number of parameters; `mse`, and for comparison `variance`, the mean squared error of a constant;
        `spearman`, the rank correlation; `overlap`, for each sparsity the fraction of the parameters kept by prediction
        that survival keeps too, and `overlap_by_chance` (equal survivals count as drawn at random: the expected
        fraction). All are of the run's initial state. If the samples have other states, `mse_all` is over all states.
    """
    sample = samples.validation(run, part)
    scores = autos.score(*(values.to(autos.device) for values in sample.columns), scale=sample.scale).cpu()
    initial = sample.iteration == 0
    prediction, label = scores[initial].numpy(), sample.labels[initial].numpy()
    metrics = {
        "samples": len(label),
        "mse": float(np.square(prediction - label).mean()),
        "variance": float(label.var()),
        "spearman": spearman(prediction, label),
        "overlap": {str(s): overlap(prediction, label, 1 - s) for s in SPARSITIES},
        "overlap_by_chance": {str(s): 1 - s for s in SPARSITIES},
    }
    if not initial.all():
        metrics["mse_all"] = float((scores - sample.labels).square().mean())
    return metrics


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the rank correlation; ties share their mean rank."""
    from scipy.stats import rankdata  # The import takes half a second.

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def overlap(scores: NDArray[Any], labels: NDArray[Any], density: float) -> float:
    """Return the expected fraction of the top `density` by score that is also top by label, ties broken at random."""
    k = max(1, round(density * len(scores)))
    kept = np.argsort(-scores, kind="stable")[:k]
    threshold = np.sort(labels)[len(labels) - k]
    above, tied = labels > threshold, labels == threshold
    chance = (k - above.sum()) / tied.sum()
    return float((above[kept].sum() + chance * tied[kept].sum()) / k)
