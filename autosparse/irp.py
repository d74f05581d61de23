"""Iterative rewind pruning: the algorithm that yields the labels (paper, Algorithm 2).

A run's folder holds `initial.safetensors` (θ0 and all other state), `rewind.safetensors` where it rewinds to a later
state, `triples.zarr`, `history.json` (the accuracy of every mask) and, while it is running, `checkpoint.pt`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_model, save_model
from torch import nn

from autosparse.config import IRPConfig
from autosparse.criteria import Chooser, Criterion, Scoring, make_criterion
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.loss import CrossEntropy
from autosparse.distributed import group
from autosparse.errors import UserError
from autosparse.files import replacing, write_json
from autosparse.lookahead import Probe
from autosparse.metrics import described
from autosparse.options import option_values
from autosparse.pruning import Layout, Mask, keep_top, make_schedule
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleStore, TripleWriter
from autosparse.store.schema import LEDGER, MARKER, Ledger
from autosparse.store.sidecars import HISTORY, agree, check_file, file_digest, read_history, row_digest
from autosparse.store.storage import Folder
from autosparse.tasks import Data
from autosparse.training import Checkpoint, Epoch, Recipe, summarize, train

CHECKPOINT = "checkpoint.pt"
log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class IRP:
    """Prunes a network in N iterations of train, score, prune, rewind; leaves its triples in `folder/triples.zarr`.

    Each step returns at once where its output is there, so a run that was killed goes on from the last committed
    iteration and, within it, from the last checkpoint; the store ends with the bytes of an uninterrupted run (on as
    many processes). What is read again is compared with what the store's ledger says of it. What was lost beside the
    store is made again.

    Attributes:
        model: at its initial weights, on `accelerator.device`; trained in place.
        data: what it learns from, made for this process.
        recipe: how it is trained, each time with a fresh optimizer and learning rate.
        config: criterion, schedule, what it rewinds to, seeds.
        folder: the run's folder.
        accelerator: of this process.
        layout: what of the model is pruned; all that is prunable if not given.
        criterion: scores the trained weights; the one that `config` names if not given.
        grad_batches: how many batches the gradient and the criterion look at; all if None.
        attributes: what the store says of this run, JSON values.
        checkpoint_interval: seconds.
        progress: told the number of training steps done since it was last told.
        after_epoch: told of each epoch of the training under m_i with i, before any checkpoint says so.
        after_training: told each row of the history before that is written.
        history: one row a mask m_0..m_N: iteration, density, loss and metric of the network trained with it.
    """

    model: nn.Module
    data: Data
    recipe: Recipe
    config: IRPConfig
    folder: Path
    accelerator: Accelerator
    layout: Layout | None = None
    criterion: Criterion | None = None
    grad_batches: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    checkpoint_interval: float = 60.0
    progress: Callable[[int], object] = lambda steps: None
    after_epoch: Callable[[int, Epoch], object] = lambda i, epoch: None
    after_training: Callable[[dict[str, Any]], object] = lambda row: None
    history: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        c = self.config
        self.schedule = make_schedule(c.schedule, c.iterations, c.final_sparsity, c.rate)
        criterion = self.criterion or make_criterion(c.criterion, c.order)
        if isinstance(criterion, Chooser):
            raise UserError("this criterion scores for one final sparsity, and IRP has one an iteration")
        self._score = criterion
        self._layout = self.layout or Layout.of(self.model)
        batches = self.data.scoring(limit=self.grad_batches)
        self._scoring = Scoring(batches, batches.loss or CrossEntropy())
        steps = self.recipe.epochs * len(self.data.training(self.recipe.batch_size))
        if c.probe_steps > steps:
            raise UserError(f"a probe of {c.probe_steps:,} steps is longer than a training, which has {steps:,}")
        self._initial_path = self.folder / "initial.safetensors"
        self._rewind_path = self.folder / "rewind.safetensors" if c.rewind_epoch else self._initial_path
        self._path, self._committed, self._finished = self.folder / "triples.zarr", Ledger(), False
        self._writer: TripleWriter | None = None  # none where the store is complete, and only the history is not
        self._mask: Mask | None = None
        self._probe: Probe | None = None

    def run(self) -> list[dict[str, Any]]:
        """Run Algorithm 2, or what is left of it; returns the history.

        Raises:
            UserError: a loss, gradient or score that is no number (names iteration and layer), a folder of another run,
                or a file that is not what the run committed.
        """
        if self._is_complete():
            return self.history
        self._open()
        self._measure_features()
        for i in range(self.schedule.iterations + 1):  # line 10, and once more for the accuracy of m_N
            with _naming(i):
                self._train(i)
                self._prune(i)
        self._finish()
        return self.history

    def _measure_features(self) -> None:
        """Measure and store θ0 and its gradient g0 over the data (line 9)."""
        if self._ledger.iterations >= 0:
            return
        assert self._writer
        if self.accelerator.is_main_process:  # in place of one that nothing vouches for yet
            _save(self.model, self._initial_path)
        self.accelerator.wait_for_everyone()
        self._load(self._initial_path)
        theta = self._layout.flatten(self._layout.weights(self.model))
        grad = mean_gradient(self.model, self._layout, self._scoring, self.config.batch_norm)
        self._writer.commit_features(theta, grad, sidecars=file_digest(self._initial_path))

    def _train(self, i: int) -> None:
        """Train θ0 under m_i (line 11), unless that is done; the first training leaves the state to rewind to."""
        if i < len(self.history):
            return
        self._load(self._rewind_path if i else self._initial_path)  # line 15
        if self._mask is None:
            self._mask = self._store.mask(i).to(self.accelerator.device)
        self._probe = self._make_probe() if self._ledger.iterations <= i < self.schedule.iterations else None
        epochs = train(
            self.model,
            self._mask,
            self.data,
            self.recipe,
            self.accelerator,
            seed=self.config.order,
            resume=self._checkpoint(i),
            progress=self.progress,
            after_epoch=partial(self._end_epoch, i),
            callback=self._probe,
        )
        self._record(i, self._mask, epochs)

    def _record(self, i: int, mask: Mask, epochs: list[Epoch]) -> None:
        """Add the training under m_i to the history."""
        row: dict[str, Any] = {"iteration": i, "density": mask.density, "loss": epochs[-1]["loss"]}
        row |= summarize(epochs, self.data.better)
        if not agree(self._ledger.sidecars, row_digest(row)):
            raise UserError(
                "the training that makes history.json again has another result than the first; "
                "run it on the same hardware, with as many processes"
            )
        self.after_training(row)
        self.history.append(row)
        log.info(
            "iteration %d of %d: sparsity %.2f%%, %s",
            i,
            self.schedule.iterations,
            100 * mask.sparsity,
            described(row["metric"], row["test"]),
        )
        if self.accelerator.is_main_process:
            write_json(self.folder / HISTORY, self.history)

    def _prune(self, i: int) -> None:
        """Score the trained weights and keep the highest: m_{i+1} (lines 12 and 13)."""
        if i < self._ledger.iterations or i == self.schedule.iterations:
            self._mask = None  # the next one is in the store
            return
        assert self._writer
        assert self._mask is not None  # the training that the scores are of has just ended
        k = keep_count(self.schedule.density(i + 1), self._layout.size)
        scores = broadcast(self._score(self.model, self._mask, self._scoring))  # the main process's: one mask for all
        seen = self._probe.columns if self._probe else {}
        probe = {name: values[self._mask.kept] for name, values in seen.items()}
        self._mask = keep_top(scores, k, self._mask)
        del scores  # as large as the model
        self._writer.commit_alive(i + 1, self._mask, probe, row_digest(self.history[i]))
        self._forget(i)

    def _finish(self) -> None:
        """Store survival, the sum of the masks (line 14), and mark the store complete."""
        self._forget(self.schedule.iterations)
        if self._writer:
            self._writer.finish(row_digest(self.history[-1]))

    @property
    def _store(self) -> TripleStore:
        """What has been committed so far."""
        return self._writer.store if self._writer else TripleStore.open(self._path)

    @property
    def _ledger(self) -> Ledger:
        return self._writer.ledger if self._writer else self._committed

    def _is_complete(self) -> bool:
        """Whether all is done; the history so far is read."""
        # one looks, for all: on a network file system another process may not see yet what is there
        seen = self._look() if self.accelerator.is_main_process else None
        self._finished, self._committed, self.history = broadcast_object_list([seen])[0]
        return self._finished and len(self.history) > self.schedule.iterations

    def _look(self) -> tuple[bool, Ledger, list[dict[str, Any]]]:
        """Whether the store is complete, its ledger, and the history so far."""
        if not (self._path / LEDGER).is_file():
            return False, Ledger(), []
        ledger = Ledger.read(Folder(self._path))
        history = read_history(self.folder, ledger.sidecars)
        wanted = self.config.rewind_epoch and len(history) <= self.schedule.iterations
        if wanted and (history or self._rewind_path.name in ledger.sidecars) and not self._rewind_path.is_file():
            history = []  # the state to rewind to is lost: the first training is done again, from its start
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return (self._path / MARKER).exists(), ledger, history

    def _open(self) -> None:
        """Keep the initial state, open the store, and bring the history to what it has."""
        if self.accelerator.is_main_process and not self._initial_path.is_file():
            _save(self.model, self._initial_path)
        if self._finished:
            self.accelerator.wait_for_everyone()
            self._resume()
            return
        size = self.data.scoring_batch
        samples = min(len(self.data), size * self.grad_batches) if self.grad_batches else len(self.data)
        gradient = {"batch_size": size, "samples": samples, "batch_norm": self.config.batch_norm}
        attributes = {**option_values(self.config, identity=True), **self.attributes, "gradient": gradient}
        iterations = self.schedule.iterations
        columns = self.config.probe_columns if self.config.probe_steps else ()
        self._writer = TripleWriter.open(self._path, self._layout, iterations, attributes, group(), columns=columns)
        # A row that the ledger does not vouch for is trained again, from its checkpoint.
        self.history = [row for row in self.history if row_digest(row).items() <= self._ledger.sidecars.items()]
        self._resume()

    def _resume(self) -> None:
        """Say how much is done already."""
        self.progress(len(self.history) * self.recipe.epochs * len(self.data.training(self.recipe.batch_size)))

    def _load(self, state: Path) -> None:
        """Restore a whole state: weights, biases, batch-norm weights and running statistics."""
        check_file(state, self._ledger.sidecars)
        load_model(self.model, state)

    def _make_probe(self) -> Probe | None:
        c = self.config
        if not c.probe_steps:
            return None
        return Probe(self._layout, c.probe_steps, c.probe_columns, self.accelerator.device)

    def _end_epoch(self, i: int, epoch: Epoch) -> None:
        """Report an epoch of the training under m_i; of the first training keep the state to rewind to."""
        if i == 0 and epoch["epoch"] == self.config.rewind_epoch:
            main = self.accelerator.is_main_process
            if main:
                _save(self.model, self._rewind_path)
            if self._writer and self._ledger.iterations == 0:  # later masks come from the state of that digest
                self._writer.commit_sidecars(file_digest(self._rewind_path) if main else {})
        self.after_epoch(i, epoch)

    def _checkpoint(self, i: int) -> Checkpoint:
        main = self.accelerator.is_main_process
        tag = (
            f"iteration {i} of {replace(self._ledger, sidecars={}).checksum}"  # of this run alone, as its store stands
        )
        return Checkpoint(self.folder / CHECKPOINT, tag, self.checkpoint_interval, write=main)

    def _forget(self, i: int) -> None:
        """Remove the checkpoint of a training that nothing will go on from."""
        self._checkpoint(i).remove()
        self.accelerator.wait_for_everyone()  # nobody looks for a checkpoint while it is removed


def _save(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_model(model, str(temporary))  # what has several names is there once


@contextlib.contextmanager
def _naming(i: int) -> Iterator[None]:
    """Let an error for the user say in which iteration it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"iteration {i}: {error}") from error
