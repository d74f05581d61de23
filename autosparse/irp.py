"""Iterative rewind pruning: the algorithm that yields the labels (paper, Algorithm 2).

A run's folder holds `initial.safetensors` (θ0 and all other state), `rewind.safetensors` where it rewinds to a later
state, `triples.zarr`, `history.json` (the accuracy of every mask) and, while it is running, `checkpoint.pt`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_model, save_model
from torch import nn

from autosparse.config import IRPConfig, settings
from autosparse.criteria import Criterion, Targeted, make_criterion
from autosparse.criteria.gradient import mean_gradient
from autosparse.data import Data
from autosparse.distributed import group
from autosparse.errors import UserError
from autosparse.files import read_json, replacing, write_json
from autosparse.lookahead import Probe
from autosparse.metrics import described
from autosparse.pruning import Layout, Mask, keep_top, make_schedule
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleWriter
from autosparse.store.schema import MARKER
from autosparse.training import Checkpoint, Recipe, summarize, train

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class IRP:
    """Prunes a network in N iterations of train, score, prune, rewind; leaves its triples in `folder/triples.zarr`.

    Each step returns at once where its output is there, so a run that was killed goes on from the last committed
    iteration and, within it, from the last checkpoint; the store ends with the bytes of an uninterrupted run (on as
    many processes).

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
    history: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        c = self.config
        self.schedule = make_schedule(c.schedule, c.iterations, c.final_sparsity, c.rate)
        found = self.criterion or make_criterion(c.criterion, c.order)
        if isinstance(found, Targeted):
            raise UserError("this criterion scores for one final sparsity, and IRP has one an iteration")
        self._score = found
        self._layout = self.layout or Layout.of(self.model)
        self._batches = self.data.scoring(limit=self.grad_batches)
        steps = self.recipe.epochs * len(self.data.training(self.recipe.batch_size))
        if c.probe_steps > steps:
            raise UserError(f"a probe of {c.probe_steps:,} steps is longer than a training, which has {steps:,}")
        self._initial = self.folder / "initial.safetensors"
        self._rewound = self.folder / "rewind.safetensors" if c.rewind_epoch else self._initial
        self._mask: Mask | None = None
        self._probe: Probe | None = None

    def run(self) -> list[dict[str, Any]]:
        """Run Algorithm 2, or what is left of it; returns the history.

        Raises:
            UserError: a loss, gradient or score that is no number (names iteration and layer), or a folder of another
                run.
        """
        if self._is_complete():
            return self.history
        self._open()
        self.features()
        for i in range(self.schedule.iterations + 1):  # line 10, and once more for the accuracy of m_N
            with _naming(i):
                self.train(i)
                self.prune(i)
        self.finish()
        return self.history

    def features(self) -> None:
        """Measure and store θ0 and its gradient g0 over the data (line 9)."""
        if self._writer.committed >= 0:
            return
        _load(self.model, self._initial)
        theta = self._layout.flatten(self._layout.weights(self.model))
        grad = mean_gradient(self.model, self._layout, self._batches, self.config.batch_norm)
        self._writer.commit_features(theta, grad)

    def train(self, i: int) -> None:
        """Train θ0 under m_i (line 11); the first training leaves the state to rewind to."""
        if i < len(self.history):
            return
        _load(self.model, self._rewound if i else self._initial)  # line 15
        if self._mask is None:
            self._mask = self._writer.store.mask(i).to(self.accelerator.device)
        self._probe = self._make_probe() if i < self.schedule.iterations else None
        epochs = train(
            self.model,
            self._mask,
            self.data,
            self.recipe,
            self.accelerator,
            seed=self.config.order,
            resume=self._checkpoint(i),
            progress=self.progress,
            after_epoch=self._keep if i == 0 else lambda epochs: None,
            callback=self._probe,
        )
        row: dict[str, Any] = {"iteration": i, "density": self._mask.density, "loss": epochs[-1]["loss"]}
        row |= summarize(epochs, self.data.better)
        self.history.append(row)
        log.info(
            "iteration %d of %d: sparsity %.2f%%, %s",
            i,
            self.schedule.iterations,
            100 * self._mask.sparsity,
            described(row["metric"], row["test"]),
        )
        if self.accelerator.is_main_process:
            write_json(self.folder / "history.json", self.history)

    def prune(self, i: int) -> None:
        """Score the trained weights and keep the highest: m_{i+1} (lines 12 and 13)."""
        if i < self._writer.committed or i == self.schedule.iterations:
            return
        assert self._mask is not None  # the training that the scores are of has just ended
        k = keep_count(self.schedule.density(i + 1), self._layout.size)
        scores = broadcast(self._score(self.model, self._mask, self._batches))  # the main process's: one mask for all
        seen = self._probe.columns if self._probe else {}
        probe = {name: values[self._mask.kept] for name, values in seen.items()}
        self._mask = keep_top(scores, k, self._mask)
        del scores  # as large as the model
        self._writer.commit_alive(i + 1, self._mask, probe)
        self._forget(i)

    def finish(self) -> None:
        """Store survival, the sum of the masks (line 14), and mark the store complete."""
        self._forget(self.schedule.iterations)
        self._writer.finish()

    def _is_complete(self) -> bool:
        """Whether all is done; the history so far is read."""
        path, marker = self.folder / "history.json", self.folder / "triples.zarr" / MARKER
        main = self.accelerator.is_main_process
        # one looks, for all: on a network file system another process may not see yet what is there
        seen = (marker.exists(), read_json(path) if path.is_file() else []) if main else None
        complete, self.history = broadcast_object_list([seen])[0]
        return complete

    def _open(self) -> None:
        """Keep the initial state, open the store, and bring the history to what it has."""
        if self.accelerator.is_main_process and not self._initial.is_file():
            _save(self.model, self._initial)
        size = self.data.scoring_batch
        samples = min(len(self.data), size * self.grad_batches) if self.grad_batches else len(self.data)
        gradient = {"batch_size": size, "samples": samples, "batch_norm": self.config.batch_norm}
        attributes = {**settings(self.config), **self.attributes, "gradient": gradient}
        iterations = self.schedule.iterations
        columns = self.config.probe_columns if self.config.probe_steps else ()
        store = self.folder / "triples.zarr"
        self._writer = TripleWriter.open(store, self._layout, iterations, attributes, group(), columns=columns)
        masks = max(self._writer.committed, 0)
        if len(self.history) < masks:
            raise UserError(
                f"{self.folder / 'history.json'} lacks the accuracies of the {masks} iterations in the store; "
                "delete the run"
            )
        if masks < iterations or len(self.history) <= iterations:
            self.history = self.history[:masks]  # what has no mask after it is trained again, from its checkpoint
        self.progress(len(self.history) * self.recipe.epochs * len(self.data.training(self.recipe.batch_size)))

    def _make_probe(self) -> Probe | None:
        c = self.config
        if not c.probe_steps:
            return None
        return Probe(self._layout, c.probe_steps, c.probe_columns, self.accelerator.device)

    def _keep(self, epochs: int) -> None:
        """Keep the state to rewind to, when so many epochs are done."""
        if self.accelerator.is_main_process and epochs == self.config.rewind_epoch:
            _save(self.model, self._rewound)

    def _checkpoint(self, i: int) -> Checkpoint:
        main = self.accelerator.is_main_process
        return Checkpoint(self.folder / "checkpoint.pt", f"iteration {i}", self.checkpoint_interval, write=main)

    def _forget(self, i: int) -> None:
        """Remove the checkpoint of a training that nothing will go on from."""
        self._checkpoint(i).remove()
        self.accelerator.wait_for_everyone()  # nobody looks for a checkpoint while it is removed


def _load(model: nn.Module, state: Path) -> None:
    """Restore a whole state: weights, biases, batch-norm weights and running statistics."""
    load_model(model, state)


def _save(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_model(model, str(temporary))  # what has several names is there once


@contextlib.contextmanager
def _naming(i: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"iteration {i}: {error}") from error
