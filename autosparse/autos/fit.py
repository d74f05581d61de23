"""Fitting AutoS to the triples of one or several runs (paper, section 4.2 and appendix B)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from autosparse.autos.condense import condense
from autosparse.autos.draws import CellDraws, steps_an_epoch
from autosparse.autos.features import Features, Scale
from autosparse.autos.labels import LABELS, label_table
from autosparse.autos.network import BACKBONES, AutoS, make_network
from autosparse.autos.surface import Surface
from autosparse.errors import UserError, unknown
from autosparse.seeds import streams
from autosparse.sizes import parse_size
from autosparse.store import Counters, TripleBatches, Triples, TripleStore, sample
from autosparse.store.order import Part
from autosparse.training import Checkpoint

SPARSITIES = (0.90, 0.95, 0.98, 0.99)
_VALIDATION_SAMPLES = 1 << 20  # held-out triples looked at in each run, at most
_SURFACE_SAMPLES = 1 << 17  # held-out triples of all runs that a surface is made and measured by


@dataclass(frozen=True)
class FitConfig:
    """How AutoS is fitted; the defaults are the paper's (appendix B.3) but for the small backbone.

    Attributes:
        backbone, features: the network and its input.
        epochs: passes over the triples, or as many draws of cells as `condense` says.
        max_steps: to stop earlier, after so many steps; 0 for no such limit.
        batch_size: triples in a step, over all processes.
        learning_rate: of Adam.
        seed: of the initial weights, the order and the held-out tenth.
        memory, weights: see `TripleBatches`; no weights for each run once.
        label: of survival, see `labels.label_table`.
        resolution: of the surface, nodes an axis, at most.
        condense: the cells, at most, that the triples are condensed into first (`condense.condense`): what the steps
            cost then does not depend on the number of triples; 0 to fit to the triples themselves.
    """

    backbone: str = "mlp"
    features: Features = field(default_factory=Features)
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 1024
    learning_rate: float = 0.01
    seed: int = 0
    memory: str = "512MB"
    weights: tuple[float, ...] = ()
    label: str = "share"
    resolution: int = 512
    condense: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        if self.label not in LABELS:
            raise unknown("label", self.label, LABELS)
        if self.resolution < 2:
            raise UserError(f"--resolution must be at least 2, got {self.resolution}")
        if 0 != self.condense < 16:
            raise UserError(f"--condense must be 0 or at least 16, got {self.condense}")
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        if self.max_steps < 0:
            raise UserError(f"--max-steps must be at least 0, got {self.max_steps}")
        parse_size(self.memory)
        if self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < np.inf:
            raise UserError(f"--learning-rate must be a positive number, got {self.learning_rate}")


class Encoder:
    """Triples of several stores to (input, label); each store by its own scale and its own densities."""

    def __init__(self, stores: Sequence[TripleStore], features: Features, label: str, device: torch.device) -> None:
        self._features, self._device = features, device
        scales = [Scale.of_store(store) for store in stores]
        self._rms = torch.tensor([scale.rms for scale in scales], device=device)
        self._labels = torch.zeros(len(stores), max(store.iterations for store in stores) + 1, device=device)
        for row, store in zip(self._labels, stores, strict=True):
            row[: store.iterations + 1] = torch.from_numpy(label_table(label, store.densities))

    def __call__(self, triples: Triples) -> tuple[Tensor, Tensor]:
        """Input float32 (B, width) and label float32 (B,), on the device."""
        store = triples.store.to(self._device)
        theta = triples.theta.to(self._device)
        grad = triples.grad.to(self._device)
        rms = self._rms[store]
        label = self._labels[store, triples.survival.to(self._device)]
        return self._features.encode(theta, grad, scale=rms.unbind(1)), label


def fit(
    stores: Sequence[TripleStore],
    config: FitConfig,
    accelerator: Accelerator,
    *,
    resume: Checkpoint | None = None,
    threads: int = 2,
    progress: Callable[[int, Counters], object] = lambda steps, counters: None,
) -> AutoS:
    """Fit a network to the labels of nine tenths of the triples, with Adam and the mean squared error.

    Args:
        stores: complete ones.
        config: backbone, features and the optimizer's settings.
        accelerator: of this process; batches are cut over all.
        resume: where to keep and look for the state. Going on with another number of processes takes the same samples
            in the same order; with the same number it ends with the same bits.
        threads: that read ahead, in each process.
        progress: told the number of steps done since it was last told, and how the reading goes.

    Returns:
        The criterion, its card telling what made it, without metrics: see `validate`. Its losses are those of cells
        where the triples are condensed: lower, by the variance of the labels within a cell.

    Raises:
        UserError: no stores, or a loss that is not a number.
    """
    model = make_network(config.backbone, config.features, config.seed).to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches, encode = _source(stores, config, accelerator, threads)
    steps = number_of_steps(stores, config, accelerator)
    position = resume.load(model, optimizer) if resume else None
    first_epoch, done, losses, total = 0, 0, list[float](), torch.zeros((), device=accelerator.device)
    if position:
        batches.load_state_dict(position["batches"])
        first_epoch, losses = position["batches"]["epoch"], position["losses"]
        total += position["total"]
        done = first_epoch * len(batches) + position["batches"]["batch"]
        progress(done, batches.counters)
    network = accelerator.prepare_model(model)
    model.train()
    with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
        for epoch in range(first_epoch, -(-steps // len(batches))):
            first = batches.state_dict()["batch"]
            dropout = streams("dropout of AutoS", len(batches), config.seed, epoch, accelerator.process_index)
            for step, batch in enumerate(batches, first):
                torch.manual_seed(int(dropout[step]))
                inputs, labels = encode(batch)
                loss = F.mse_loss(network(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
                done += 1
                progress(1, batches.counters)
                if done == steps:
                    break
                if resume and resume.due():
                    here = {"batches": batches.state_dict(), "losses": losses, "total": total.item()}
                    resume.save(model, optimizer, here)
            everywhere = accelerator.reduce(total, "sum").item()
            if not np.isfinite(everywhere):
                raise UserError(f"the loss of AutoS is {everywhere} in epoch {epoch + 1}; try a lower --learning-rate")
            losses.append(broadcast(total).item() / min(len(batches), steps - epoch * len(batches)))
            broadcast(list(model.buffers()))
            total.zero_()
    if network is not model:
        accelerator.free_memory()
    card = {
        "runs": [{"fingerprint": store.fingerprint, "iterations": store.iterations, **store.run} for store in stores],
        "fit": {**asdict(config), "weights": [*config.weights]},
        "losses": losses,
    }
    return AutoS(model.eval(), config.backbone, config.features, card)


def make_batches(
    stores: Sequence[TripleStore], config: FitConfig, accelerator: Accelerator, threads: int = 2
) -> TripleBatches:
    """The batches of a fit, this process's part of them.

    Raises:
        UserError: see `TripleBatches`.
    """
    return TripleBatches(
        stores,
        config.batch_size,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        memory=config.memory,
        weights=config.weights or None,
        threads=threads,
        device=accelerator.device,
    )


def _source(
    stores: Sequence[TripleStore], config: FitConfig, accelerator: Accelerator, threads: int
) -> tuple[TripleBatches | CellDraws, Callable[[Any], tuple[Tensor, Tensor]]]:
    """This process's part of the batches of a fit, and what makes (input, label) of each."""
    device = accelerator.device
    if not config.condense:
        batches = make_batches(stores, config, accelerator, threads)
        return batches, Encoder(stores, config.features, config.label, device)
    cells = condense(
        stores,
        Encoder(stores, config.features, config.label, torch.device("cpu")),
        config.condense,
        accelerator,
        seed=config.seed,
        memory=config.memory,
        weights=config.weights,
        threads=threads,
    )
    inputs, labels = cells.inputs.to(device), cells.labels.to(device)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    draws = CellDraws(cells, config.condense, config.batch_size, config.seed, rank, world_size, device=device)
    return draws, lambda drawn: (inputs[drawn], labels[drawn])


def number_of_steps(stores: Sequence[TripleStore], config: FitConfig, accelerator: Accelerator) -> int:
    """Steps of a whole fit; reads no triples.

    Raises:
        UserError: see `TripleBatches`.
    """
    if config.condense:
        epoch = steps_an_epoch(config.condense, config.batch_size)
    else:
        epoch = len(make_batches(stores, config, accelerator))
    steps = config.epochs * epoch
    return min(steps, config.max_steps) if config.max_steps else steps


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
    scores = autos.score(triples.theta.to(device), triples.grad.to(device), scale=Scale.of_store(store)).cpu().numpy()
    return {
        "samples": len(label),
        "mse": float(np.square(scores - label).mean()),
        "variance": float(label.var()),
        "spearman": spearman(scores, label),
        "overlap": {str(s): overlap(scores, label, 1 - s) for s in SPARSITIES},
        "overlap_by_chance": {str(s): 1 - s for s in SPARSITIES},
    }


def tabulate_held_out(autos: AutoS, stores: Sequence[TripleStore], seed: int = 0, resolution: int = 512) -> Surface:
    """The surface of a fit, made and measured by triples that were not fitted to.

    Args:
        autos: the criterion.
        stores: the runs that it was fitted to.
        seed: of the split, the fit's own.
        resolution: nodes an axis, at most.
    """
    device = next(autos.network.parameters()).device
    samples = [sample(store, _SURFACE_SAMPLES // len(stores), seed, "held-out") for store in stores]
    theta, grad = (torch.cat([getattr(each, name) for each in samples]).to(device) for name in ("theta", "grad"))
    sizes = torch.tensor([len(each) for each in samples])
    rms = torch.tensor([scale.rms for scale in map(Scale.of_store, stores)])
    each = rms.repeat_interleave(sizes, dim=0).to(device).unbind(1)
    return autos.surface(theta, grad, scale=each, resolution=resolution)


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
