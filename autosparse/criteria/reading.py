"""Batches as `autosparse.prune` reads them: the same in every pass, and never without an end."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autosparse.criteria.progress import batch_read
from autosparse.errors import UserError
from autosparse.generators import start_generators
from autosparse.seeds import stream

LIMIT = 1_000
"""The most batches that are read of what does not say how many it has."""
PART = "list(itertools.islice(batches, 10))"
_HELD = 1 << 29
"""Bytes of batches that are held for the next pass: a loader may be slow, and criteria in rounds make a hundred."""


@dataclass(frozen=True)
class Reading:
    """Batches that every pass reads from the same seed: a loader that shuffles or augments gives the same again.

    Inside `restoring_generators` only: each pass starts the global generators again.

    Attributes:
        batches: what is read.
        seed: of the generators, global or the loader's own, that each pass starts from.
    """

    batches: Iterable[Any]
    seed: int
    _held: list[Any] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            UserError: an iterator that has nothing more to give, or more than `LIMIT` batches of what has no length.
        """
        if self._held:
            for batch in self._held:
                batch_read()
                yield batch
            return
        seed, held, room, count = stream("order of batches", self.seed), list[tuple[Any, list[int]]](), _HELD, 0
        with _seeded(_generators(self.batches), seed):
            start_generators(seed)
            for count, batch in enumerate(self.batches, 1):
                if count > LIMIT and not _has_length(self.batches):
                    raise UserError(
                        f"batches have no length and do not end after {LIMIT:,}; give a part of them, such as {PART}"
                    )
                room -= _size(batch)
                if room >= 0:
                    held.append((batch, _versions(batch)))
                batch_read()
                yield batch
        if count == 0 and isinstance(self.batches, Iterator):
            raise UserError("the iterator of batches is exhausted: it was read before; give a list or a DataLoader")
        # not if they did not all fit, nor if the network has written into what it was given
        if room >= 0 and all(_versions(batch) == versions for batch, versions in held):
            self._held.extend(batch for batch, _ in held)


@contextlib.contextmanager
def _seeded(generators: list[torch.Generator], seed: int) -> Iterator[None]:
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(batches: object) -> list[torch.Generator]:
    """The generators of a loader and its samplers."""
    batcher = getattr(batches, "batch_sampler", None)
    owners = (batches, getattr(batches, "sampler", None), batcher, getattr(batcher, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _has_length(batches: object) -> bool:
    try:
        return len(batches) >= 0  # type: ignore[arg-type]
    except TypeError:  # a loader has __len__ whether or not its data have
        return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _versions(batch: Any) -> list[int]:
    """How often each tensor of a batch has been written into."""
    return [tensor._version for tensor in _tensors(batch) if not tensor.is_inference()]


def _size(batch: Any) -> int:
    """The bytes of the tensors of a batch."""
    return sum(tensor.nbytes for tensor in _tensors(batch))
