"""Iterative pruning with rewinding (IRP), which makes the triples that AutoS learns from (paper, Algorithm 2).

A run's folder has `initial.safetensors` (θ0 and all other state), `rewind.safetensors` if the run rewinds to a later
state, `carried-I.safetensors` (all but the prunable weights after training I) if it rewinds these weights alone,
`triples.zarr`, `history.json` (the accuracy of every mask) and, during the run, `checkpoint.pt`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_model, save_model
from torch import nn

from autosparse import tensors
from autosparse.config import IRPConfig
from autosparse.criteria import Chooser, Criterion, Scoring, select
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.table import ROWS
from autosparse.distributed import group
from autosparse.errors import UserError
from autosparse.files import replacing, write_json
from autosparse.lookahead import Probe
from autosparse.metrics import described
from autosparse.options import option_values
from autosparse.pruning import Layout, Mask, Schedule
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
    """Prunes a network in N iterations of train, score, prune, rewind, and stores its triples.

    A killed run resumes from the last committed iteration and, within it, from the last checkpoint. Its store,
    `folder/triples.zarr`, ends with the bytes of an uninterrupted run on the same number of processes. Files that are
    read again are compared with the store's ledger. Lost files next to the store are made again.

    Attributes:
        model: the model at its initial weights, on `accelerator.device`; trained in place.
        data: batches, loss and metrics of the task, for this process.
        recipe: recipe of each training, which starts with a fresh optimizer and learning rate.
        config: criterion, schedule, epoch to rewind to, and seeds.
        folder: the run's folder.
        accelerator: the accelerator of this process.
        layout: layout of the weights to prune. Default: all prunable weights.
        criterion: criterion that scores the trained weights. Default: the criterion that `config` names.
        grad_batches: number of batches for the gradient and the criterion. Default: all.
        attributes: attributes of the run in the store, JSON values.
        checkpoint_interval: seconds between two checkpoints.
        progress: called with the number of training steps since the last call.
        after_epoch: called with i and each epoch of the training under m_i, before a checkpoint contains it.
        after_training: called with each row of the history before it is written.
        history: one row per mask m_0..m_N: iteration, density, loss and metric of the network trained with it.
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
        self.schedule = Schedule(c.schedule, c.iterations, c.final_sparsity, c.rate)
        criterion = self.criterion or ROWS[c.criterion].make(c.order, c.batch_norm)
        if isinstance(criterion, Chooser):
            raise UserError("this criterion scores for one final sparsity, and IRP has one an iteration")
        self._score = criterion
        self._layout = self.layout or Layout.of(self.model)
        batches = self.data.scoring(limit=self.grad_batches)
        self._scoring = Scoring(batches, batches.loss)
        self._steps = self.recipe.epochs * len(self.data.training(self.recipe.batch_size))
        if c.probe_steps > self._steps:
            raise UserError(f"a probe of {c.probe_steps:,} steps is longer than the training, of {self._steps:,}")
        self._initial_path = self.folder / "initial.safetensors"
        self._rewind_path = self.folder / "rewind.safetensors" if c.rewind_epoch else self._initial_path
        self._path, self._final_ledger = self.folder / "triples.zarr", Ledger()
        self._writer: TripleWriter | None = None  # None if the store is complete and only the history is not

    def run(self) -> list[dict[str, Any]]:
        """Run Algorithm 2, or the rest of it, and return the history.

        Raises:
            UserError: a loss, gradient or score is not finite (names iteration and layer), the folder belongs to
                another run, or a file differs from the one that the run committed.
        """
        # The main process looks for all: another process may not see every file yet on a network file system.
        state = self._read_state() if self.accelerator.is_main_process else None
        is_complete, self._final_ledger, self.history = broadcast_object_list([state])[0]
        if is_complete and len(self.history) > self.schedule.iterations:
            return self.history
        self._save_initial_state()
        if not is_complete:
            self._open_store()
        self.progress(len(self.history) * self._steps)
        self._store_features()
        mask: Mask | None = None
        for i in range(len(self.history), self.schedule.iterations + 1):  # line 10, and once more for m_N
            try:
                if mask is None:
                    store = self._writer.store if self._writer else TripleStore.open(self._path)
                    mask = store.mask(i).to(self.accelerator.device)
                probe = self._make_probe(i)
                self._train(i, mask, probe)
                mask = self._prune(i, mask, probe)
            except UserError as error:
                raise UserError(f"iteration {i}: {error}") from error
        self._remove_checkpoint(self.schedule.iterations)
        if self._writer:
            self._writer.finish(row_digest(self.history[-1]))  # survival is the sum of the masks (line 14)
        return self.history

    def _store_features(self) -> None:
        """Store θ0 and its gradient g0 over the data (line 9), unless they are committed."""
        if self._ledger.committed >= 0:
            return
        assert self._writer
        if self.accelerator.is_main_process:  # a file from before the commit may be of another model
            _save(self.model, self._initial_path)
        self.accelerator.wait_for_everyone()
        self._load(self._initial_path)
        theta = self._layout.flatten(self._layout.weights(self.model))
        grad = mean_gradient(self.model, self._layout, self._scoring, self.config.batch_norm)
        self._writer.commit_features(theta, grad, sidecars=file_digest(self._initial_path))

    def _train(self, i: int, mask: Mask, probe: Probe | None) -> None:
        """Rewind (line 15), train under m_i (line 11) and add a row to the history."""
        self._rewind(i)
        epochs = train(
            self.model,
            mask,
            self.data,
            self.recipe,
            self.accelerator,
            seed=self.config.order,
            resume=self._checkpoint(i),
            progress=self.progress,
            after_epoch=partial(self._end_epoch, i),
            callback=probe,
        )
        if self._is_carried(i):
            self._save_carried(i)
        row: dict[str, Any] = {"iteration": i, "density": mask.density, "loss": epochs[-1]["loss"]}
        row |= summarize(epochs, self.data.better)
        if not agree(self._ledger.sidecars, row_digest(row)):
            raise UserError(
                "the training that makes history.json again has a result that differs from the first; "
                "run it on the same hardware, with as many processes"
            )
        self.after_training(row)
        self.history.append(row)
        result = described(row["metric"], row["test"])
        log.info("iteration %d of %d: sparsity %.2f%%, %s", i, self.schedule.iterations, 100 * mask.sparsity, result)
        if self.accelerator.is_main_process:
            write_json(self.folder / HISTORY, self.history)

    def _prune(self, i: int, mask: Mask, probe: Probe | None) -> Mask | None:
        """Score the trained weights and commit m_{i+1} (lines 12 and 13); return None if it is committed already.

        With `prune_first` m_1 is chosen by the initial weights; the training under m_0 only measures the dense network.
        """
        if i < self._ledger.committed or i == self.schedule.iterations:
            return None
        assert self._writer
        if i == 0 and self.config.prune_first:
            self._load(self._initial_path)
        k = keep_count(self.schedule.density(i + 1), self._layout.size)
        columns = {name: values[mask.kept] for name, values in probe.columns.items()} if probe else {}
        mask = select(self._score, self.model, mask, self._scoring, k)
        carried = self._is_carried(i) and self.accelerator.is_main_process
        files = file_digest(self._carried_path(i)) if carried else {}
        self._writer.commit_alive(i + 1, mask, columns, row_digest(self.history[i]) | files)
        self._remove_checkpoint(i)
        return mask

    @property
    def _ledger(self) -> Ledger:
        return self._writer.ledger if self._writer else self._final_ledger

    def _read_state(self) -> tuple[bool, Ledger, list[dict[str, Any]]]:
        """Return whether the store is complete, its ledger, and the history so far."""
        if not (self._path / LEDGER).is_file():
            return False, Ledger(), []
        ledger = Ledger.read(Folder(self._path))
        history = read_history(self.folder, ledger.sidecars)
        needed = [self._carried_path(i) for i in range(len(history)) if self._is_carried(i)]
        if self.config.rewind_epoch and (history or self._rewind_path.name in ledger.sidecars):
            needed.append(self._rewind_path)
        if len(history) <= self.schedule.iterations and not all(path.is_file() for path in needed):
            history = []  # A state is lost, so training is repeated from the first run on.
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return (self._path / MARKER).exists(), ledger, history

    def _save_initial_state(self) -> None:
        if self.accelerator.is_main_process and not self._initial_path.is_file():
            _save(self.model, self._initial_path)
        self.accelerator.wait_for_everyone()

    def _open_store(self) -> None:
        """Create or open the store, and drop the rows of the history that its ledger does not contain."""
        size = self.data.scoring_batch
        samples = min(len(self.data), size * self.grad_batches) if self.grad_batches else len(self.data)
        gradient = {"batch_size": size, "samples": samples, "batch_norm": self.config.batch_norm}
        attributes = {**option_values(self.config, identity=True), **self.attributes, "gradient": gradient}
        iterations = self.schedule.iterations
        columns = self.config.probe_columns if self.config.probe_steps else ()
        self._writer = TripleWriter.open(self._path, self._layout, iterations, attributes, group(), columns=columns)
        self.history = [row for row in self.history if row_digest(row).items() <= self._ledger.sidecars.items()]

    def _load(self, state: Path) -> None:
        """Restore a whole state: weights, biases, batch-norm weights and running statistics."""
        check_file(state, self._ledger.sidecars)
        load_model(self.model, state)

    def _rewind(self, i: int) -> None:
        """Load the state that the training under m_i starts from."""
        self._load(self._rewind_path if i else self._initial_path)
        if i and self._is_carried(i - 1):
            path = self._carried_path(i - 1)
            check_file(path, self._ledger.sidecars)
            self.model.load_state_dict(tensors.load(path)[0], strict=False)

    def _is_carried(self, i: int) -> bool:
        """Return True if the next training starts with all but the prunable weights as the training under m_i ends."""
        first = 1 if self.config.prune_first else 0
        return self.config.rewind == "weights" and first <= i < self.schedule.iterations

    def _carried_path(self, i: int) -> Path:
        return self.folder / f"carried-{i}.safetensors"

    def _save_carried(self, i: int) -> None:
        if self.accelerator.is_main_process:
            pruned = {id(weight) for weight in self._layout.weights(self.model).values()}
            state = self.model.state_dict(keep_vars=True)
            others = {name: value.detach().clone() for name, value in state.items() if id(value) not in pruned}
            tensors.save(self._carried_path(i), others, {})
        self.accelerator.wait_for_everyone()

    def _make_probe(self, i: int) -> Probe | None:
        """Return the probe of the training under m_i, unless its columns are committed."""
        c = self.config
        if not c.probe_steps or not self._ledger.committed <= i < self.schedule.iterations:
            return None
        return Probe(self._layout, c.probe_steps, c.probe_columns, self.accelerator.device)

    def _end_epoch(self, i: int, epoch: Epoch) -> None:
        """Save the rewind state after its epoch of the first training, and report the epoch."""
        if i == 0 and epoch["epoch"] == self.config.rewind_epoch:
            main = self.accelerator.is_main_process
            if main:
                _save(self.model, self._rewind_path)
            if self._writer and self._ledger.committed == 0:  # later masks depend on the state of this digest
                self._writer.commit_sidecars(file_digest(self._rewind_path) if main else {})
        self.after_epoch(i, epoch)

    def _checkpoint(self, i: int) -> Checkpoint:
        main = self.accelerator.is_main_process
        tag = f"iteration {i} of {replace(self._ledger, sidecars={}).checksum}"  # unique to this run and its store
        return Checkpoint(self.folder / CHECKPOINT, tag, self.checkpoint_interval, write=main)

    def _remove_checkpoint(self, i: int) -> None:
        self._checkpoint(i).remove()
        self.accelerator.wait_for_everyone()  # so that no process looks for the file while it is removed


def _save(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_model(model, str(temporary))  # Tied tensors are saved once.
