"""Features and labels of a run's parameters as they are after each of its iterations, before any training.

A store holds what was known of them at initialization and, if the run had a probe, what that saw in each iteration. A
criterion that prunes in rounds without one, or looks at the flow, learns from the network itself, masked as it was
after iteration i at its initial weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autosparse.autos.features import Features, Scale
from autosparse.autos.labels import label_table
from autosparse.autos.samples import Sample, SampleLoader
from autosparse.config import FitConfig
from autosparse.criteria import Scoring
from autosparse.errors import UserError
from autosparse.seeds import stream
from autosparse.store import TripleStore
from autosparse.store.order import Part, part_indices

SAMPLES = 1 << 16  # parameters of each iteration, at most: what a fit costs does not grow with their number
_TABULATION = 1 << 17  # held-out parameters that a surface is made and measured by, at most


@dataclass(frozen=True)
class States:
    """A sample of a run's parameters, for each iteration of those that it had left.

    Attributes:
        columns: float32 (S,) each, see `Features.columns`, over their size among what was alive, see `Scale`.
        labels: of survival from there on, float32 (S,): the label of a run that starts where iteration i left it.
        iteration: i, int64 (S,).
        held_out: bool (S,), the tenth of the parameters that is not fitted to; the same at every iteration.
    """

    columns: tuple[Tensor, ...]
    labels: Tensor
    iteration: Tensor
    held_out: Tensor

    def __getitem__(self, index: Any) -> "States":
        columns = tuple(values[index] for values in self.columns)
        return States(columns, self.labels[index], self.iteration[index], self.held_out[index])

    @property
    def sample(self) -> Sample:
        """The same, as a fit takes them."""
        scale = Scale((1.0,) * len(self.columns))  # the columns have been divided by theirs
        return Sample(self.columns, scale, self.labels.double(), self.iteration)


@dataclass(frozen=True)
class TrajectorySamples:
    """What runs have left after each of their iterations; see `Samples`. All iterations of a run count the same.

    Attributes:
        stores: of the runs.
        config: how AutoS is fitted to them.
        states: of each run.

    Raises:
        UserError: the fit has one round and no feature but theta and grad (see `StoredSamples`).
    """

    stores: Sequence[TripleStore]
    config: FitConfig
    states: Sequence[States]

    def __post_init__(self) -> None:
        if not self.config.by_states:
            raise UserError("a fit in one round to weights and gradients is made from the stores (StoredSamples)")

    def batches(self, accelerator: Accelerator) -> SampleLoader:
        fitted = [run[~run.held_out] for run in self.states]
        weights = [
            weight / torch.bincount(run.iteration).double()[run.iteration]
            for run, weight in zip(fitted, self.config.weights or [1.0] * len(fitted), strict=True)
        ]
        return SampleLoader.in_memory([run.sample for run in fitted], torch.cat(weights), self.config, accelerator)

    def validation(self, run: int, part: Part = "held-out") -> Sample:
        states = self.states[run]
        return (states if part == "all" else states[states.held_out]).sample

    def tabulation(self) -> list[Sample]:
        found = _joined([run[run.held_out] for run in self.states])
        generator = torch.Generator().manual_seed(stream("sample of states", self.config.seed))
        return [found[torch.randperm(len(found.labels), generator=generator)[:_TABULATION]].sample]

    def only(self, runs: Sequence[int]) -> "TrajectorySamples":
        states = [self.states[run] for run in runs]
        return TrajectorySamples([self.stores[run] for run in runs], self.config.only(runs), states)


@torch.no_grad()
def states_of(
    store: TripleStore,
    model: nn.Module,
    scoring: Scoring,
    features: Features,
    label: str,
    *,
    batch_norm: str = "batch",
    iterations: int | None = None,
    seed: int = 0,
) -> States:
    """Measure a run's parameters after each of its iterations; costs a pass over the batches for each.

    Args:
        store: of the run.
        model: its network at its initial weights; left as it was.
        scoring: batches and loss.
        features: what to measure.
        label: see `labels.label_table`.
        batch_norm: mode of the gradient.
        iterations: how many of the run to look at, from the initial state on; all if None.
        seed: of the sample and the held-out tenth.

    Raises:
        UserError: the model is not the run's.
    """
    layout = store.layout
    theta = layout.flatten(layout.weights(model)).clone()
    if not np.array_equal(theta.cpu().numpy(), store.theta()):
        raise UserError(f"the network of {store.storage} cannot be built again with its initial weights")

    def measure(i: int, alive: Tensor) -> tuple[Tensor, ...]:
        mask = store.mask(i).to(theta.device)
        mask.apply_(model)
        found = features.measure(model, mask, scoring, batch_norm)
        for name, weight in layout.weights(model).items():
            weight.copy_(layout.unflatten(theta)[name])
        return tuple(column[mask.kept] for column in found)

    return _states(store, features, label, iterations, seed, measure)


def stored_states_of(
    store: TripleStore, features: Features, label: str, *, iterations: int | None = None, seed: int = 0
) -> States:
    """The same of what the store has of each iteration: initial weights, and what a probe saw. Needs no data.

    Raises:
        StoreError: the run did not measure one of the columns.
    """
    theta = torch.from_numpy(store.theta())

    def read(i: int, alive: Tensor) -> tuple[Tensor, ...]:
        names = features.columns
        return tuple(theta[alive] if name == "theta" else torch.from_numpy(store.probe(name, i)) for name in names)

    return _states(store, features, label, iterations, seed, read)


def _states(
    store: TripleStore,
    features: Features,
    label: str,
    iterations: int | None,
    seed: int,
    columns_of: Callable[[int, Tensor], tuple[Tensor, ...]],
) -> States:
    """The states of a run, by what is known of the parameters that m_i keeps: (i, their indices) -> columns."""
    held_out = torch.zeros(len(store), dtype=torch.bool)
    held_out[torch.from_numpy(part_indices(0, len(store), seed, "held-out"))] = True
    survival = torch.from_numpy(store.survival().astype(np.int64))
    parts = []
    for i in range(store.iterations if iterations is None else iterations):
        alive = store.mask(i).kept.nonzero().squeeze(1)
        columns = columns_of(i, alive)
        sizes = Scale.of(*columns, names=features.columns, pruned=i > 0).sizes
        chosen = _some(len(alive), seed, i)
        values = tuple(
            column[chosen.to(column.device)].cpu() / size for column, size in zip(columns, sizes, strict=True)
        )
        chosen = alive[chosen]
        table = label_table(label, [density / store.densities[i] for density in store.densities[i:]])
        labels = torch.from_numpy(table).float()[survival[chosen] - i]
        parts.append(States(values, labels, torch.full_like(chosen, i), held_out[chosen]))
    return _joined(parts)


def _some(count: int, seed: int, i: int) -> Tensor:
    """So many of `count` that a fit takes, ascending."""
    if count <= SAMPLES:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(stream("sample of states", seed, i))
    return torch.randperm(count, generator=generator)[:SAMPLES].sort().values


def _joined(parts: Sequence[States]) -> States:
    columns = tuple(torch.cat(values) for values in zip(*(part.columns for part in parts), strict=True))
    labels, iteration, held_out = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "iteration", "held_out")
    )
    return States(columns, labels, iteration, held_out)
