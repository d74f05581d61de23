"""Iterative rewind pruning: the algorithm that yields the labels (paper, Algorithm 2).

Lines of Algorithm 2 stand beside the code. A run's folder holds `initial.safetensors` (θ0 and all other state),
`rewind.safetensors` where it rewinds to a later state, `triples.zarr`, `history.json` (the accuracy of every mask) and,
while it is running, `checkpoint.pt`.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn

from autosparse.criteria import Criterion
from autosparse.criteria.gradient import mean_gradient
from autosparse.data import ImageData
from autosparse.distributed import group
from autosparse.errors import UserError
from autosparse.files import read_json, replacing, write_json
from autosparse.pruning import Layout, Schedule, keep_top
from autosparse.pruning.schedule import keep_count
from autosparse.store import TripleWriter
from autosparse.store.schema import MARKER
from autosparse.training import Checkpoint, Recipe, summarize, train

log = logging.getLogger(__name__)

SCORING_BATCH = 256  # images whose gradient is taken together; batch norm sees as many


def rewind_pruning(
    model: nn.Module,
    data: ImageData,
    criterion: Criterion,
    schedule: Schedule,
    recipe: Recipe,
    folder: Path,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    grad_batches: int | None = None,
    batch_norm: str = "batch",
    rewind_epoch: int = 0,
    run: dict[str, Any] | None = None,
    checkpoint_interval: float = 60.0,
    progress: Callable[[int], object] = lambda steps: None,
) -> list[dict[str, Any]]:
    """Prune a network in N rounds of train, score, prune, rewind; leave its triples in `folder/triples.zarr`.

    Called again on the folder of a run that was killed, it goes on from the last committed iteration and, within it,
    from the last checkpoint; the store ends with the bytes of an uninterrupted run (on as many processes).

    Args:
        model: at its initial weights, on `accelerator.device`; trained in place.
        data: what it learns from, made for this process.
        criterion: scores the trained weights.
        schedule: N and the density after each iteration.
        recipe: of every training, each with a fresh optimizer and learning rate.
        folder: the run's folder.
        seed: of the order of samples; the same in every iteration.
        grad_batches: how many batches of 256 the gradient and the criterion look at; all if None.
        batch_norm: mode of the gradient feature, see `criteria.gradient.scoring_mode`.
        rewind_epoch: rewind to the state after so many epochs of the first training (Frankle et al. 2019) rather than
            to the initial one; the learning rate starts anew all the same.
        run: what to say of this run in the store's attributes.
        checkpoint_interval: seconds.
        progress: told the number of training steps done since it was last told.

    Returns:
        One row a mask m_0..m_N: iteration, density, loss and accuracies of the network trained with it.

    Raises:
        UserError: a loss, gradient or score that is no number (names iteration and layer), or a folder of another run.
    """
    main, device = accelerator.is_main_process, accelerator.device
    initial, history_path = folder / "initial.safetensors", folder / "history.json"
    rewound = folder / "rewind.safetensors" if rewind_epoch else initial
    if main and not initial.is_file():
        _save(model, initial)
    store_path = folder / "triples.zarr"
    # one looks, for all: on a network file system another process may not see yet what is there
    seen = [(store_path / MARKER).exists(), read_json(history_path) if history_path.is_file() else []] if main else []
    complete, history = broadcast_object_list([seen])[0]
    if complete:
        return history
    gradient = {
        "batch_size": SCORING_BATCH,
        "samples": min(len(data), SCORING_BATCH * grad_batches) if grad_batches else len(data),
        "batch_norm": batch_norm,
    }
    run = {**(run or {}), "gradient": gradient}
    writer = TripleWriter.open(store_path, Layout.of(model), schedule.iterations, run, group())
    layout = writer.layout
    batches = data.scoring(SCORING_BATCH, grad_batches)
    steps = recipe.epochs * len(data.training(recipe.batch_size))
    _rewind(model, initial)

    if writer.committed < 0:  # line 9: g0(D) of θ0
        theta = layout.flatten(layout.weights(model))
        grad = mean_gradient(model, layout, batches, batch_norm)
        writer.commit_features(theta, grad)
        del theta, grad
    first = writer.committed
    history = history[: first + 1]
    if len(history) < first:
        raise UserError(f"{history_path} lacks the accuracies of the {first} iterations in the store; delete the run")
    if len(history) <= schedule.iterations:  # else all that is left is to finish the store
        history = history[:first]
    mask = writer.store.mask(first).to(device)
    if history:
        _rewind(model, rewound)
    progress(len(history) * steps)

    for i in range(len(history), schedule.iterations + 1):  # line 10, and once more for the accuracy of m_N
        with _naming(i):
            checkpoint = Checkpoint(folder / "checkpoint.pt", f"iteration {i}", checkpoint_interval, write=main)
            epochs = train(  # line 11: θ_{i+1} of (θ0, m_i)
                model,
                mask,
                data,
                recipe,
                accelerator,
                seed=seed,
                resume=checkpoint,
                progress=progress,
                after_epoch=partial(_keep, model, rewound, rewind_epoch if main and i == 0 else 0),
            )
            history.append({"iteration": i, "density": mask.density, "loss": epochs[-1]["loss"], **summarize(epochs)})
            log.info(
                "iteration %d of %d: sparsity %.2f%%, accuracy %.2f%%",
                i,
                schedule.iterations,
                100 * mask.sparsity,
                100 * history[-1]["accuracy"],
            )
            if main:
                write_json(history_path, history)
            if i < schedule.iterations:
                k = keep_count(schedule.density(i + 1), layout.size)  # line 12
                scores = broadcast(criterion(model, mask, batches))  # the main process's: one mask for all
                mask = keep_top(scores, k, mask)  # line 13: m_{i+1}
                del scores
                writer.commit_alive(i + 1, mask)
                _rewind(model, rewound)  # line 15
            checkpoint.remove()
            accelerator.wait_for_everyone()  # nobody looks for a checkpoint while it is removed

    writer.finish()  # line 14: s = Σ m_i
    return history


def _rewind(model: nn.Module, state: Path) -> None:
    """Restore a whole state: weights, biases, batch-norm weights and running statistics."""
    model.load_state_dict(load_file(state))


def _save(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)


def _keep(model: nn.Module, path: Path, wanted: int, epochs: int) -> None:
    """Keep the state to rewind to, when so many epochs are done as wanted."""
    if epochs == wanted:
        _save(model, path)


@contextlib.contextmanager
def _naming(i: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"iteration {i}: {error}") from error
