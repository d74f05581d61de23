"""The triples of runs as samples: what was known of each parameter at initialization, out of the runs' stores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos.features import Features, Scale
from autosparse.autos.labels import label_table
from autosparse.autos.samples import Sample, SampleLoader
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.store import TripleLoader, Triples, TripleStore, samples
from autosparse.store.order import Part, part_size

_VALIDATION = 1 << 20  # triples of a run that a fit is measured by, at most
_TABULATION = 1 << 17  # triples of all runs that a surface is made and measured by, at most


@dataclass(frozen=True)
class StoredSamples:
    """The triples of complete runs; see `Samples`.

    Attributes:
        stores: of the runs.
        config: how AutoS is fitted to them.
        threads: that read ahead.

    Raises:
        UserError: the fit has rounds, flow or probe features (see `TrajectorySamples`).
    """

    stores: Sequence[TripleStore]
    config: FitConfig
    threads: int = 2
    _tabulated: dict[int, Sample] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a surface is made by, drawn of each run when that was read to measure the fit."""

    def __post_init__(self) -> None:
        if self.config.by_states:
            raise UserError("a fit with rounds, flow or probes needs the states of its runs (TrajectorySamples)")

    def batches(self, accelerator: Accelerator) -> SampleLoader:
        config, stores = self.config, self.stores
        if config.samples:
            return SampleLoader.in_memory(*self._drawn, config, accelerator)
        loader = TripleLoader(
            stores,
            config.batch_size,
            config.seed,
            accelerator.process_index,
            accelerator.num_processes,
            memory=config.memory,
            weights=config.weights or None,
            threads=self.threads,
            device=accelerator.device,
        )
        return SampleLoader(loader, Encoder(stores, self.scales, config, accelerator.device))

    def validation(self, run: int, part: Part = "held-out") -> Sample:
        limits = (_VALIDATION, _TABULATION // len(self.stores))
        seen, few = (self._known(run, triples) for triples in samples(self.stores[run], limits, self.config.seed, part))
        if part == "held-out":
            self._tabulated[run] = few
        return seen

    def tabulation(self) -> list[Sample]:
        for run in {*range(len(self.stores))} - {*self._tabulated}:
            self.validation(run)
        return [self._tabulated[run] for run in range(len(self.stores))]

    def only(self, runs: Sequence[int]) -> "StoredSamples":
        return StoredSamples([self.stores[run] for run in runs], self.config.only(runs), self.threads)

    @cached_property
    def scales(self) -> list[Scale]:
        """The scale of each run's network."""
        return [Scale.of_store(store) for store in self.stores]

    @cached_property
    def _drawn(self) -> tuple[list[Sample], Tensor]:
        """The triples that are fitted to in place of all, and weights by which a run comes as often as if all were."""
        runs = range(len(self.stores))
        sizes = [part_size(0, len(store), self.config.seed, "train") for store in self.stores]
        each = []
        for run in runs:
            limit = max(1, self.config.samples * sizes[run] // sum(sizes))
            (triples,) = samples(self.stores[run], (limit,), self.config.seed, "train")
            each.append(self._known(run, triples))
        times = self.config.weights or [1.0] * len(runs)
        weights = [
            torch.full_like(drawn.labels, weight * size / len(drawn.labels))
            for drawn, weight, size in zip(each, times, sizes, strict=True)
        ]
        return each, torch.cat(weights)

    def _known(self, run: int, triples: Triples) -> Sample:
        """Triples of a run with their labels."""
        store, survival = self.stores[run], triples.survival.long()
        labels = torch.from_numpy(label_table(self.config.label, store.densities))[survival]
        return Sample((triples.theta, triples.grad), self.scales[run], labels, torch.zeros_like(survival))


class Encoder:
    """Triples of several stores to (input, label); each store by its own scale and its own densities."""

    def __init__(
        self, stores: Sequence[TripleStore], scales: Sequence[Scale], config: FitConfig, device: torch.device
    ) -> None:
        self._features, self._device = Features.of(config), device
        self._rms = torch.tensor([scale.sizes for scale in scales], dtype=torch.float32, device=device)
        shape = len(stores), max(store.iterations for store in stores) + 1
        self._labels = torch.zeros(shape, dtype=torch.float32, device=device)
        for row, store in zip(self._labels, stores, strict=True):
            row[: store.iterations + 1] = torch.from_numpy(label_table(config.label, store.densities))

    def __call__(self, triples: Triples) -> tuple[Tensor, Tensor]:
        """Input float32 (B, width) and label float32 (B,), on the device."""
        store = triples.store.to(self._device).long()
        theta = triples.theta.to(self._device)
        grad = triples.grad.to(self._device)
        rms = self._rms[store]
        label = self._labels[store, triples.survival.to(self._device).long()]
        return self._features.encode(theta, grad, scale=rms.unbind(1)), label
