"""Samples of runs that AutoS is fitted to and measured by; a tenth of the parameters of each run is held out."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from autosparse.autos.features import Features, label_table, scale_of_store
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.seeds import stream
from autosparse.store import Counters, TripleLoader, Triples, TripleStore, samples
from autosparse.store.order import Part, Resumable, part_size

_VALIDATED = 1 << 20  # triples per run that a fit is measured by, at most
_TABULATED = 1 << 17  # held-out parameters of all runs that a lookup table is made from, at most


@dataclass(frozen=True)
class Sample:
    """Some parameters of a network, with their labels.

    Attributes:
        columns: float32 (S,) each, see `Features.columns`.
        scale: magnitude of each column over the whole network.
        labels: float64 (S,).
        iteration: number of the iteration of the run after which the parameters were measured, int64 (S,); 0 is the
            initial state.
    """

    columns: tuple[Tensor, ...]
    scale: tuple[float, ...]
    labels: Tensor
    iteration: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Sample":
        columns = tuple(values[index] for values in self.columns)
        return Sample(columns, self.scale, self.labels[index], self.iteration[index])

    @staticmethod
    def cat(parts: Sequence["Sample"]) -> "Sample":
        """Return samples that have the same scale as one sample."""
        columns = tuple(map(torch.cat, zip(*(part.columns for part in parts), strict=True)))
        labels, iteration = torch.cat([part.labels for part in parts]), torch.cat([part.iteration for part in parts])
        return Sample(columns, parts[0].scale, labels, iteration)


class RunSample(NamedTuple):
    """Parameters of a run after each of its iterations; columns are divided by their magnitudes, so their scale is 1.

    The labels are those of a run that starts after iteration i. A tenth of the parameters, the same ones at every
    iteration, is held out.
    """

    train: Sample
    held_out: Sample


class WeightedSampler(Resumable):
    """Batches of the indices of samples, each drawn in proportion to its weight, float64 (S,).

    An epoch has as many draws as there are samples. Sampling is stratified: the cumulative weight is divided into one
    stratum per draw of a batch, and each draw is uniform in its stratum. A batch is a function of (seed, epoch, batch);
    each process takes its part. Iteration yields the rest of the current epoch, int64 (B,), then moves to the next.
    """

    def __init__(self, weights: Tensor, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be divided among {world_size} processes")
        self.counters = Counters()
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._ends = weights.cumsum(0).cpu().numpy()

    def __len__(self) -> int:
        """Return the number of batches in an epoch: the whole ones, but at least one."""
        return max(1, len(self._ends) // self._batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        start = time.perf_counter()
        for batch in range(self._batch, len(self)):
            indices = self._draw(batch)
            self._batch += 1  # A state that the consumer takes counts this batch as done.
            self.counters.samples += len(indices)
            self.counters.seconds += time.perf_counter() - start
            start = time.perf_counter()
            yield indices
        self._epoch, self._batch = self._epoch + 1, 0

    def identity(self) -> dict[str, Any]:
        return {"number of samples": len(self._ends), "batch_size": self._batch_size, "seed": self._seed}

    def _draw(self, batch: int) -> Tensor:
        """Return this process's part of a batch: every `world_size`-th draw, since draws ascend."""
        generator = np.random.Generator(np.random.PCG64(stream("cells", self._seed, self._epoch, batch)))
        strata = np.arange(self._batch_size) + generator.random(self._batch_size)
        positions = strata / self._batch_size * self._ends[-1]
        indices = np.searchsorted(self._ends, positions, side="right").clip(max=len(self._ends) - 1)
        return torch.from_numpy(indices[self._rank :: self._world_size])


@dataclass(frozen=True)
class SampleLoader:
    """Batches of input float32 (B, width) and label float32 (B,), epoch after epoch.

    `encode` makes them of the triples or indices that `source`, which has the position, yields.
    """

    source: TripleLoader | WeightedSampler
    encode: Callable[[Any], tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rest of the current epoch."""
        return map(self.encode, self.source)

    @classmethod
    def in_memory(
        cls, parts: Sequence[Sample], weights: Tensor, config: FitConfig, accelerator: Accelerator
    ) -> "SampleLoader":
        """Return this process's part of the batches of samples, drawn by their weights, float64 (S,)."""
        device, features = accelerator.device, Features.of(config)
        inputs = torch.cat([features.encode(*part.columns, scale=part.scale) for part in parts]).to(device)
        labels = torch.cat([part.labels.float() for part in parts]).to(device)
        rank, world_size = accelerator.process_index, accelerator.num_processes
        sampler = WeightedSampler(weights, config.batch_size, config.seed, rank, world_size)
        return cls(sampler, lambda indices: (inputs[indices.to(device)], labels[indices.to(device)]))


@dataclass(frozen=True)
class StoredSamples:
    """The triples of complete runs: initial weight, gradient and survival of each parameter.

    Attributes:
        stores: stores of the runs.
        config: options of the fit.
        threads: number of threads that read ahead.
    """

    stores: Sequence[TripleStore]
    config: FitConfig
    threads: int = 2
    # Triples of each run for the lookup table, read together with those that measure the fit.
    _tabulation: dict[int, Sample] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.config.by_states:
            raise UserError("a fit with rounds, flow or probes needs IterationSamples, not StoredSamples")

    def batches(self, accelerator: Accelerator) -> SampleLoader:
        """Return this process's part of the batches of the nine tenths."""
        config = self.config
        if config.samples:
            return SampleLoader.in_memory(*self._in_memory, config, accelerator)
        loader = TripleLoader(
            self.stores,
            config.batch_size,
            config.seed,
            accelerator.process_index,
            accelerator.num_processes,
            memory=config.memory,
            weights=config.weights or None,
            threads=self.threads,
            device=accelerator.device,
        )
        return SampleLoader(loader, self._encoder(accelerator.device))

    def validation(self, run: int, part: Part = "held-out") -> Sample:
        """Return parameters of a run to measure a fit by: the held-out part, or `all` of a run left out of the fit."""
        validation, tabulation = self._read(run, (_VALIDATED, _TABULATED // len(self.stores)), part)
        if part == "held-out":
            self._tabulation[run] = tabulation
        return validation

    def tabulation(self) -> list[Sample]:
        """Return held-out parameters of all runs, to make and measure a lookup table."""
        runs = range(len(self.stores))
        for run in {*runs} - {*self._tabulation}:
            self.validation(run)
        return [self._tabulation[run] for run in runs]

    def only(self, runs: Sequence[int]) -> "StoredSamples":
        """Return the samples of some of the runs."""
        return StoredSamples([self.stores[run] for run in runs], self.config.only(runs), self.threads)

    @cached_property
    def _in_memory(self) -> tuple[list[Sample], Tensor]:
        """Some triples of each run to fit to, and weights by which a run is drawn as often as if all were taken."""
        sizes = [part_size(0, len(store), self.config.seed, "train") for store in self.stores]
        repeats = self.config.weights or [1.0] * len(sizes)
        parts, weights = list[Sample](), list[Tensor]()
        for run, (size, repeat) in enumerate(zip(sizes, repeats, strict=True)):
            parts += self._read(run, (max(1, self.config.samples * size // sum(sizes)),), "train")
            weights.append(torch.full_like(parts[-1].labels, repeat * size / len(parts[-1])))
        return parts, torch.cat(weights)

    def _read(self, run: int, limits: Sequence[int], part: Part) -> list[Sample]:
        """Return for each limit at most as many triples of a run, in one reading of the store."""
        store = self.stores[run]
        scale, table = scale_of_store(store), torch.from_numpy(label_table(self.config.label, store.densities))
        parts = []
        for triples in samples(store, limits, self.config.seed, part):
            survival = triples.survival.long()
            columns = (triples.theta, triples.grad * Features.of(self.config).gradient_factor(store))
            parts.append(Sample(columns, scale, table[survival], torch.zeros_like(survival)))
        return parts

    def _encoder(self, device: torch.device) -> Callable[[Triples], tuple[Tensor, Tensor]]:
        """Return the function from triples to input and label, with the scale and densities of each store."""
        features = Features.of(self.config)
        scales = torch.tensor([scale_of_store(store) for store in self.stores], dtype=torch.float32, device=device)
        factors = torch.tensor([features.gradient_factor(store) for store in self.stores], device=device)
        shape = len(self.stores), max(store.iterations for store in self.stores) + 1
        labels = torch.zeros(shape, dtype=torch.float32, device=device)
        for row, store in zip(labels, self.stores, strict=True):
            row[: store.iterations + 1] = torch.from_numpy(label_table(self.config.label, store.densities))

        def encode(triples: Triples) -> tuple[Tensor, Tensor]:
            store = triples.store.long()
            inputs = features.encode(triples.theta, triples.grad * factors[store], scale=scales[store].unbind(1))
            return inputs, labels[store, triples.survival.long()]

        return encode


@dataclass(frozen=True)
class IterationSamples:
    """Parameters of runs after each of their iterations, see `measure_iterations` and `read_iterations`.

    All iterations of a run have the same weight.
    """

    stores: Sequence[TripleStore]
    config: FitConfig
    runs: Sequence[RunSample]

    def batches(self, accelerator: Accelerator) -> SampleLoader:
        """Return this process's part of the batches of the nine tenths."""
        train = [run.train for run in self.runs]
        weights = [
            weight / torch.bincount(sample.iteration).double()[sample.iteration]
            for sample, weight in zip(train, self.config.weights or [1.0] * len(train), strict=True)
        ]
        return SampleLoader.in_memory(train, torch.cat(weights), self.config, accelerator)

    def validation(self, run: int, part: Part = "held-out") -> Sample:
        """Return parameters of a run to measure a fit by: the held-out part, or `all` of a run left out of the fit."""
        return Sample.cat(self.runs[run]) if part == "all" else self.runs[run].held_out

    def tabulation(self) -> list[Sample]:
        """Return held-out parameters of all runs, to make and measure a lookup table."""
        held_out = Sample.cat([run.held_out for run in self.runs])
        generator = torch.Generator().manual_seed(stream("sample of states", self.config.seed))
        return [held_out[torch.randperm(len(held_out), generator=generator)[:_TABULATED]]]

    def only(self, runs: Sequence[int]) -> "IterationSamples":
        """Return the samples of some of the runs."""
        stores, parts = [self.stores[run] for run in runs], [self.runs[run] for run in runs]
        return IterationSamples(stores, self.config.only(runs), parts)


Samples = StoredSamples | IterationSamples
