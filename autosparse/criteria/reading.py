"""Batches as `autosparse.prune` reads them: the same in every pass, and never without an end."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from autosparse.criteria.failures import in_one_line
from autosparse.criteria.progress import batch_read
from autosparse.criteria.scored import Scored
from autosparse.errors import UserError
from autosparse.generators import start_generators
from autosparse.seeds import stream

LIMIT = 1_000
"""The most batches that are read of what does not say how many it has."""
PART = "list(itertools.islice(batches, 10))"
_HELD = 1 << 29
"""Bytes of batches that are copied for later passes: a loader may be slow, and criteria in rounds make a hundred."""


@dataclass(frozen=True)
class Reading:
    """Batches that every pass reads from the same seed: a loader that shuffles or augments gives the same again.

    Later passes give copies of the batches of the first pass if all of them fit into `_HELD` bytes, and else read the
    loader again. They are copies because a loader may write every batch into the same memory, and a network may write
    into its inputs. Use inside `restoring_generators` only: reading starts the global generators again.

    Attributes:
        batches: a list, a loader or an iterator of batches.
        seed: seed of the global generators and of the loader's and its samplers' own.
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
                yield copied(batch)
            return
        seed, held, room, count = stream("order of batches", self.seed), list[Any](), _HELD, 0
        with _seeded(_generators(self.batches), seed):
            start_generators(seed)
            for count, batch in enumerate(self.batches, 1):
                if count > LIMIT and not _has_length(self.batches):
                    raise UserError(
                        f"batches have no length and do not end after {LIMIT:,}; give a part of them, such as {PART}"
                    )
                room -= _size(batch)
                try:
                    held += [copied(batch)] if room >= 0 else []
                except UserError:  # each pass reads the loader again
                    room = -1
                batch_read()
                yield batch
        if count == 0 and isinstance(self.batches, Iterator):
            raise UserError("the iterator of batches is exhausted: it was read before; give a list or a DataLoader")
        if room >= 0:
            self._held.extend(held)


def source(batches: Iterable[Any]) -> Iterable[Any]:
    """Return the list, loader or iterator that batches are read from."""
    while isinstance(batches, Scored | Reading):
        batches = batches.batches
    return batches


def check_finite(batches: Iterable[Any]) -> None:
    """Refuse batches that explain why a result is not finite; an iterator cannot be read again.

    Raises:
        UserError: a batch has a value that is not finite.
    """
    for number, batch in enumerate(() if isinstance(source(batches), Iterator) else batches, 1):
        if not all(tensor.isfinite().all() for tensor in _tensors(batch)):
            raise UserError(f"batch {number} has values that are not finite (NaN or infinity)")


def copied(batch: Any) -> Any:
    """Return a copy of a batch that shares no memory with it.

    Raises:
        UserError: the batch cannot be copied.
    """
    tensors = {id(tensor): tensor.detach().clone() for tensor in _tensors(batch)}  # deepcopy copies the whole storage
    with in_one_line("a batch cannot be copied"):
        return copy.deepcopy(batch, tensors)


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


def _size(batch: Any) -> int:
    """The bytes of the tensors of a batch."""
    return sum(tensor.nbytes for tensor in _tensors(batch))
