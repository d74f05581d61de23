"""A run's network and data built again as its store describes them, for what a fit wants beyond stored triples."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from autosparse.autos import RunSample, measure_iterations
from autosparse.config import FitConfig
from autosparse.errors import UserError
from autosparse.jobs.setting import Setting, revived
from autosparse.store import TripleStore


def remeasure(store: TripleStore, how: FitConfig, data_root: Path | None, accelerator: Accelerator) -> RunSample:
    """Measure a run's parameters after each of its iterations, the same in every process.

    Args:
        store: of the run.
        how: options of the fit.
        data_root: see `FitRun.data_root`.
        accelerator: of this process; batches are dealt to all.

    Raises:
        UserError: the run does not say what it was, or its data are not there or others.
    """
    model, data = setting_of(store, data_root).make(store.run["seed"], accelerator)
    return measure_iterations(store, model, data.scoring(limit=store.run["grad_batches"]), how)


def setting_of(store: TripleStore, data_root: Path | None) -> Setting:
    """The setting that holds the task of a run.

    Raises:
        UserError: see `remeasure`.
    """
    run: dict[str, Any] = store.run
    if absent := [key for key in ("task_path", "task_fields", "data", "seed") if key not in run]:
        raise UserError(
            f"{store.storage} does not say the {absent[0]} of its run, which a fit in rounds or with flow needs"
        )
    task = revived(run["task_path"], run["task_fields"], data_root)
    task.check()
    if not task.absent() and (found := task.digest()) != run["data"]:
        raise UserError(f"{store.storage} is of other {task.source} data than are here ({run['data']}, not {found})")
    setting = Setting(task=task)
    for key, value in setting.derived().items():
        if key in ("code", "network_code") and value != run.get(key):
            raise UserError(f"the file of {task.network} is another than that of {store.storage} ({key})")
    return setting
