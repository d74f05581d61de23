"""Fitting AutoS to the triples of one or several runs (paper, section 4.2 and appendix B)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn import functional as F

from autosparse.autos.autos import AutoS
from autosparse.autos.backbones import BACKBONES, make_network
from autosparse.autos.condense import condense
from autosparse.autos.features import STORED, Features, Scale
from autosparse.autos.labels import LABELS, label_table
from autosparse.autos.sampler import CellDraws, steps_an_epoch
from autosparse.autos.trajectory import States, cells_of
from autosparse.errors import UserError, unknown
from autosparse.seeds import streams
from autosparse.sizes import parse_size
from autosparse.store import Counters, TripleLoader, Triples, TripleStore
from autosparse.training import Checkpoint


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
        memory, weights: see `TripleLoader`; no weights for each run once.
        label: of survival, see `labels.label_table`.
        resolution: of the surface, nodes an axis, at most.
        condense: the cells, at most, that the triples are condensed into first (`condense.condense`): what the steps
            cost then does not depend on the number of triples; 0 to fit to the triples themselves.
        anneal: whether the learning rate falls to 0 along a cosine, rather than staying what it is.
        rounds: in how many the criterion is meant to prune. Above 1 it is fitted to the networks that each iteration of
            the runs has left, see `states`.
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
    rounds: int = 1
    anneal: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise unknown("backbone", self.backbone, BACKBONES)
        if self.label not in LABELS:
            raise unknown("label", self.label, LABELS)
        if self.resolution < 2:
            raise UserError(f"--resolution must be at least 2, got {self.resolution}")
        if 0 != self.condense < 16:
            raise UserError(f"--condense must be 0 or at least 16, got {self.condense}")
        if self.rounds < 1:
            raise UserError(f"--rounds must be at least 1, got {self.rounds}")
        if self.by_states and self.features.transform == "raw":
            raise UserError("--features raw is for fits to stored triples, not with --rounds or --inputs both+flow")
        if self.condense and self.by_states:
            raise UserError("--condense is for fits to stored triples, not with --rounds or --inputs both+flow")
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        if self.max_steps < 0:
            raise UserError(f"--max-steps must be at least 0, got {self.max_steps}")
        parse_size(self.memory)
        if self.batch_size < 2:
            raise UserError(f"--batch-size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < np.inf:
            raise UserError(f"--learning-rate must be a positive number, got {self.learning_rate}")

    @property
    def by_states(self) -> bool:
        """Whether it is fitted to measured states rather than to the triples of the stores."""
        return self.rounds > 1 or self.features.columns != STORED


class Encoder:
    """Triples of several stores to (input, label); each store by its own scale and its own densities."""

    def __init__(self, stores: Sequence[TripleStore], features: Features, label: str, device: torch.device) -> None:
        self._features, self._device = features, device
        scales = [Scale.of_store(store) for store in stores]
        self._rms = torch.tensor([scale.sizes for scale in scales], device=device)
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
    states: Sequence[States] = (),
    resume: Checkpoint | None = None,
    threads: int = 2,
    progress: Callable[[int, Counters], object] = lambda steps, counters: None,
) -> AutoS:
    """Fit a network to the labels of nine tenths of the triples, with Adam and the mean squared error.

    Args:
        stores: complete ones.
        config: backbone, features and the optimizer's settings.
        accelerator: of this process; batches are cut over all.
        states: of the runs in the stores, where `config.by_states`.
        resume: where to keep and look for the state. Going on with another number of processes takes the same samples
            in the same order; with the same number it ends with the same bits.
        threads: that read ahead, in each process.
        progress: told the number of steps done since it was last told, and how the reading goes.

    Returns:
        The criterion, its card telling what made it, without metrics: see `held_out`. Its losses are those of cells
        where the triples are condensed: lower, by the variance of the labels within a cell.

    Raises:
        UserError: no stores, or a loss that is not a number.
    """
    if len(states) != (len(stores) if config.by_states else 0):
        raise UserError(
            "a fit in rounds or with flow is made from the states of its runs (autos.states_of), others are not"
        )
    model = make_network(config.backbone, config.features, config.seed).to(accelerator.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    batches, encode = _source(stores, config, accelerator, states, threads)
    steps = number_of_steps(stores, config, accelerator, states)
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
                if config.anneal:
                    for group in optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
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
) -> TripleLoader:
    """The batches of a fit, this process's part of them.

    Raises:
        UserError: see `TripleLoader`.
    """
    return TripleLoader(
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
    stores: Sequence[TripleStore],
    config: FitConfig,
    accelerator: Accelerator,
    states: Sequence[States],
    threads: int,
) -> tuple[TripleLoader | CellDraws, Callable[[Any], tuple[Tensor, Tensor]]]:
    """This process's part of the batches of a fit, and what makes (input, label) of each."""
    device = accelerator.device
    if states:
        cells = cells_of(states, config.features, config.weights)
    elif config.condense:
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
    else:
        batches = make_batches(stores, config, accelerator, threads)
        return batches, Encoder(stores, config.features, config.label, device)
    inputs, labels = cells.inputs.to(device), cells.labels.to(device)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    draws = CellDraws(
        cells, config.condense or len(cells), config.batch_size, config.seed, rank, world_size, device=device
    )
    return draws, lambda drawn: (inputs[drawn], labels[drawn])


def number_of_steps(
    stores: Sequence[TripleStore], config: FitConfig, accelerator: Accelerator, states: Sequence[States] = ()
) -> int:
    """Steps of a whole fit; reads no triples.

    Raises:
        UserError: see `TripleLoader`.
    """
    if states:
        epoch = steps_an_epoch(sum(int((~run.held_out).sum()) for run in states), config.batch_size)
    elif config.condense:
        epoch = steps_an_epoch(config.condense, config.batch_size)
    else:
        epoch = len(make_batches(stores, config, accelerator))
    steps = config.epochs * epoch
    return min(steps, config.max_steps) if config.max_steps else steps
