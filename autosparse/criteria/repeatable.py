"""Batches as `autosparse.prune` reads them: the same in every pass, never without an end, counted by a progress bar."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from autosparse.criteria.failures import naming_layers
from autosparse.distributed import rank_and_size
from autosparse.errors import UserError
from autosparse.generators import start_generators
from autosparse.seeds import stream

_LIMIT = 1_000
"""Largest number of batches that are read from an iterable without a length."""
_PART = "list(itertools.islice(batches, 10))"
_MEMORY = 1 << 29
"""Bytes of batches that are copied for later passes: a loader may be slow, and criteria in rounds make a hundred."""
_PATIENCE = 2.0  # seconds before the bar appears
_bar: ContextVar[tqdm | None] = ContextVar("bar", default=None)


@dataclass
class RepeatableBatches:
    """Batches that every pass reads from the same seed: a loader that shuffles or augments gives the same again.

    Later passes give copies of the batches of the first pass if all of them fit into `_MEMORY` bytes, and else read
    the loader again, which an iterator cannot be. They are copies because a loader may write every batch into the same
    memory, and a network may write into its inputs. Use inside `restoring_generators` only: a pass starts the global
    generators again.

    Attributes:
        batches: list, loader or iterator of batches.
        seed: seed of the global generators and of those of the loader and its samplers.
    """

    batches: Iterable[Any]
    seed: int
    _copies: list[Any] = field(default_factory=list)
    _started: bool = False

    def __iter__(self) -> Iterator[Any]:
        if self._copies:
            for batch in self._copies:
                _count_batch()
                yield copied(batch)
            return
        if self._started and isinstance(self.batches, Iterator):
            raise UserError(
                "the batches are needed several times; give a list or a DataLoader, not a generator: "
                f"{_PART} is one of ten"
            )
        self._started = True
        seed, copies, room, count = stream("order of batches", self.seed), list[Any](), _MEMORY, 0
        with _seeded(_generators(self.batches), seed):
            start_generators(seed)
            for count, batch in enumerate(self.batches, 1):
                if count > _LIMIT and not _has_length(self.batches):
                    raise UserError(
                        f"batches have no length and do not end after {_LIMIT:,}; give a part of them, such as {_PART}"
                    )
                room -= sum(tensor.nbytes for tensor in tensors_of(batch))
                try:
                    own = copied(batch)
                    copies += [copied(own)] if room >= 0 else []
                except UserError:  # Each pass reads the loader again.
                    own, room = batch, -1
                _count_batch()
                yield own
        if count == 0 and isinstance(self.batches, Iterator):
            raise UserError("the iterator of batches is exhausted: it was read before; give a list or a DataLoader")
        if room >= 0:
            self._copies = copies


def copied(batch: Any) -> Any:
    """Return a copy of a batch that shares no memory with it."""
    # deepcopy copies whole storages.
    tensors = {id(each): each.detach().clone().requires_grad_(each.requires_grad) for each in tensors_of(batch)}
    with naming_layers("a batch cannot be copied"):
        return copy.deepcopy(batch, tensors)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_of(part)


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
    """Return the generators of a loader and its samplers."""
    batcher = getattr(batches, "batch_sampler", None)
    owners = (batches, getattr(batches, "sampler", None), batcher, getattr(batcher, "sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in generators if isinstance(each, torch.Generator)}.values())


def _has_length(batches: object) -> bool:
    try:
        return len(batches) >= 0  # type: ignore[arg-type]
    except TypeError:  # A loader has __len__ whether or not its data have.
        return False


@contextlib.contextmanager
def progress_bar(name: str) -> Iterator[None]:
    """Show, on the first process, the batches read inside the block or, if the criterion has any, its rounds."""
    disable = True if rank_and_size()[0] > 0 else None  # None: if standard error is not a terminal
    with tqdm(desc=f"pruning by {name}", unit=" batches", delay=_PATIENCE, leave=False, disable=disable) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def _count_batch() -> None:
    """Count one more batch, unless rounds are counted."""
    bar = _bar.get()
    if bar is not None and bar.total is None:
        bar.update(1)


def round_started(number: int, rounds: int) -> None:
    """Count rounds from now on; the first is number 1."""
    bar = _bar.get()
    if bar is not None:
        bar.unit, bar.total = " rounds", rounds
        bar.update(number - 1 - bar.n)
