"""The fit of AutoS to parameters of runs (paper, section 4.2 and appendix B), and how well it predicts others."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional as F

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import make_network
from autosparse.autos.features import Features
from autosparse.autos.samples import Samples
from autosparse.config import FitConfig
from autosparse.generators import restoring_torch_generators, seed_torch
from autosparse.options import option_values
from autosparse.seeds import streams
from autosparse.store import Counters
from autosparse.store.order import Part
from autosparse.training import Checkpoint
from autosparse.training.step import end_epoch

SPARSITIES = (0.90, 0.95, 0.98, 0.99)  # at which the predictions are compared with survival


def fit(
    samples: Samples,
    accelerator: Accelerator,
    *,
    resume: Checkpoint | None = None,
    progress: Callable[[int, Counters], object] = lambda steps, counters: None,
    after_epoch: Callable[[int, float], object] = lambda epochs, loss: None,
) -> AutoS:
    """Fit a network to the labels of nine tenths of the samples, with Adam and the mean squared error.

    Args:
        samples: parameters to fit to, with the options of the fit as `samples.config`.
        accelerator: accelerator of this process; batches are divided among all processes.
        resume: checkpoint to resume from and to save to. With another number of processes a resumed fit takes the same
            samples in the same order; with the same number it ends with the same bits.
        progress: called with the number of steps since the last call, and the counters of the loader.
        after_epoch: called with the number of finished epochs and the mean loss of the last one.

    Returns:
        The fitted network. Its card says what it was fitted to, without metrics: see `validate`.

    Raises:
        UserError: no runs, or a loss that is not finite.
    """
    config = samples.config
    features = Features.of(config)
    model = make_network(config.backbone, features, config.seed).to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches = samples.batches(accelerator)
    steps = number_of_steps(config, len(batches))
    position = resume.load(model, optimizer) if resume else None
    first_epoch, done, losses = 0, 0, list[float]()
    total = torch.zeros((), dtype=torch.float32, device=accelerator.device)
    if position:
        batches.source.load_state_dict(position["batches"])
        first_epoch, losses = position["batches"]["epoch"], position["losses"]
        total += position["total"]
        done = first_epoch * len(batches) + position["batches"]["batch"]
        progress(done, batches.source.counters)
    network = accelerator.prepare_model(model)
    model.train()
    with restoring_torch_generators(accelerator.device):
        for epoch in range(first_epoch, -(-steps // len(batches))):
            first = batches.source.state_dict()["batch"]
            dropout = streams("dropout of AutoS", len(batches), config.seed, epoch, accelerator.process_index)
            for step, (inputs, labels) in enumerate(batches, first):
                if config.anneal:
                    for group in optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
                seed_torch(int(dropout[step]), accelerator.device)
                loss = F.mse_loss(network(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
                done += 1
                progress(1, batches.source.counters)
                if done == steps:
                    break
                if resume and resume.due():
                    position = {"batches": batches.source.state_dict(), "losses": losses, "total": total.item()}
                    resume.save(model, optimizer, position)
            epoch_steps = min(len(batches), steps - epoch * len(batches))
            losses.append(end_epoch(model, total, epoch_steps, epoch, accelerator))
            after_epoch(epoch + 1, losses[-1])
    if network is not model:
        accelerator.free_memory()
    card = {
        "runs": [
            {"fingerprint": store.fingerprint, "iterations": store.iterations, **store.run} for store in samples.stores
        ],
        "fit": option_values(config, identity=True),
        "losses": losses,
    }
    return AutoS(model.eval(), config.backbone, features, card)


def number_of_steps(config: FitConfig, steps_per_epoch: int) -> int:
    """Return the number of steps of a whole fit."""
    steps = config.epochs * steps_per_epoch
    return min(steps, config.max_steps) if config.max_steps else steps


def validate(autos: AutoS, samples: Samples, run: int = 0, part: Part = "held-out") -> dict[str, Any]:
    """Compare the predictions with the labels of parameters that were not fitted to.

    They are the held-out part of a run, or `all` of a run that was left out of the fit. Returns `samples`, their
    number; `mse`, and for comparison `variance`, the mean squared error of a constant; `spearman`, the rank
    correlation; `overlap`, for each sparsity the fraction of the parameters kept by prediction that survival keeps too,
    and `overlap_by_chance` (equal survivals count as drawn at random: the expected fraction). All are of the run's
    initial state. If the samples have other states, `mse_all` is over all states.
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
