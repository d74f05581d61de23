"""Samples of stores as tensors, and a few of them drawn from everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosparse.seeds import stream
from autosparse.store.lanes import Columns
from autosparse.store.order import Part, part_indices, part_size
from autosparse.store.reader import TripleStore


@dataclass(frozen=True)
class Triples:
    """Samples of one or several stores, tensors of one length.

    Attributes:
        theta, grad: float32, as stored.
        survival: int64, 0..N of its store.
        store: int64, the number of the store that each comes from.
    """

    theta: Tensor
    grad: Tensor
    survival: Tensor
    store: Tensor

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, index: Any) -> "Triples":
        return Triples(self.theta[index], self.grad[index], self.survival[index], self.store[index])

    @staticmethod
    def cat(parts: Sequence["Triples"]) -> "Triples":
        """The parts end to end."""
        fields = ("theta", "grad", "survival", "store")
        return Triples(*(torch.cat([getattr(part, field) for part in parts]) for field in fields))


def sample(store: TripleStore, limit: int, seed: int, part: Part = "all") -> Triples:
    """At most `limit` triples of a part of the split, the same share of each window, in the order of their index.

    Reads the store window by window.
    """
    return samples(store, (limit,), seed, part)[0]


def samples(store: TripleStore, limits: Sequence[int], seed: int, part: Part = "all") -> list[Triples]:
    """For each limit what `sample` draws, in one reading of the store."""
    total = part_size(0, len(store), seed, part)
    generators = [np.random.Generator(np.random.PCG64(stream("sample of triples", seed))) for _ in limits]
    parts: list[list[Columns]] = [[] for _ in limits]
    for window, columns in store.scan("theta", "grad", "survival"):
        there = part_indices(window.start, window.stop, seed, part)
        for limit, generator, drawn in zip(limits, generators, parts, strict=True):
            wanted = there
            if total > limit:
                n = len(there) * limit // total
                wanted = np.sort(generator.choice(there, n, replace=False, shuffle=False))
            drawn.append({name: values[wanted] for name, values in columns.items()})
    return [_joined(drawn) for drawn in parts]


def _joined(parts: Sequence[Columns]) -> Triples:
    """Columns of one store end to end."""
    theta, grad, survival = (
        torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in ("theta", "grad", "survival")
    )
    return Triples(theta, grad, survival.long(), torch.zeros(len(theta), dtype=torch.int64))
