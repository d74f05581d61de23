"""The task and its training: the settings that runs of IRP and of pruning share."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_type_hints

import tyro

from autosparse import options, registry
from autosparse.cluster import Job
from autosparse.config import NO_IDENTITY, Bounds, Config, Tracker, defaults, settings
from autosparse.jobs.chosen import chosen_task, default_task
from autosparse.jobs.tracking import check_trackers
from autosparse.tasks.base import Task
from autosparse.tasks.catalog import TASKS, find_task
from autosparse.tasks.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from autosparse.pruning import Layout
    from autosparse.tasks import Data


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Setting(Config):
    """Task and training."""

    task: Annotated[Task, tyro.conf.arg(constructor_factory=chosen_task)] = field(default_factory=default_task)
    epochs: int | None = field(default=None, metadata=NO_IDENTITY)
    """Epochs of each training; drops of the learning rate keep their relative place. Default: the recipe's."""
    batch_size: int | None = field(default=None, metadata=NO_IDENTITY)
    """Number of samples in a batch, over all processes. Default: the recipe's."""
    learning_rate: float | None = field(default=None, metadata=NO_IDENTITY)
    """Initial learning rate. Default: the recipe's."""
    accumulate: Annotated[int | None, Bounds(1)] = field(default=None, metadata=NO_IDENTITY)
    """Pieces into which each process cuts its part of a batch (gradient accumulation). Default: the recipe's."""
    grad_batches: Annotated[int | None, Bounds(1)] = None
    """Number of batches that a gradient is computed from, of 256 images or, for another task, as large as the recipe's.
    Default: the whole training set."""
    include: Annotated[tuple[str, ...], tyro.conf.arg(name="include-weights")] = ()
    """Shell patterns of the names of parameters to prune, besides matrices of linear, convolutional, attention and
    recurrent layers."""
    exclude: Annotated[tuple[str, ...], tyro.conf.arg(name="exclude-weights")] = ()
    """Shell patterns of the names of parameters to leave dense; they override --include-weights."""
    workers: Annotated[int, Bounds(0)] = field(default=0, metadata=NO_IDENTITY)
    """Worker processes per training process that read samples which are not in the device's memory."""
    precision: Literal["float32", "bf16"] = field(default="float32", metadata=NO_IDENTITY)
    """bf16: forward passes of training under autocast."""
    compile: bool = field(default=False, metadata=NO_IDENTITY)
    """Train through torch.compile."""
    channels_last: bool = field(default=False, metadata=NO_IDENTITY)
    """Train with images and convolutions channels-last in memory; for GPUs, best with bf16."""

    def check(self) -> None:
        """Refuse what cannot run, before anything is submitted.

        Raises:
            UserError: what the task refuses, or a recipe that is none.
        """
        self.task.check()
        self.make_recipe()

    def make_recipe(self) -> Recipe:
        """The recipe with everything that was asked for otherwise."""
        recipe = self.task.recipe
        if self.epochs is not None:
            recipe = recipe.with_epochs(self.epochs)
        return replace(
            recipe,
            batch_size=recipe.batch_size if self.batch_size is None else self.batch_size,
            learning_rate=recipe.learning_rate if self.learning_rate is None else self.learning_rate,
            accumulate=recipe.accumulate if self.accumulate is None else self.accumulate,
            precision=self.precision,
            compile=self.compile,
            channels_last=self.channels_last,
        )

    def make(self, seed: int, accelerator: "Accelerator") -> "tuple[nn.Module, Data]":
        """The model at its initial weights, and the data, on this process's device."""
        return self.make_model(seed, accelerator), self.make_data(accelerator)

    def make_model(self, seed: int, accelerator: "Accelerator") -> "nn.Module":
        """The model at its initial weights, on this process's device."""
        import torch

        from autosparse.seeds import stream

        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(stream("initial weights", seed))
            model = self.task.model()
        return model.to(accelerator.device)

    def make_data(self, accelerator: "Accelerator") -> "Data":
        """Return the data of this process."""
        from autosparse.tasks import Data

        rank, world_size = accelerator.process_index, accelerator.num_processes
        return Data(self.task, accelerator.device, rank, world_size, self.workers)

    def layout(self, model: "nn.Module") -> "Layout":
        """What of the model is pruned; what else it has of matrices is said.

        Raises:
            UserError: nothing is, or a pattern matches no name.
        """
        from autosparse.pruning import Layout, dense_warning

        layout = Layout.of(model, self.include, self.exclude)
        if warning := dense_warning(model, layout, self.exclude):
            log.warning("%s", warning)
        return layout

    def derived(self) -> dict[str, Any]:
        """What decides the result, resolved: the recipe by its values, the data and the task's file by their digest."""
        return {
            "task": self.task_name,
            "code": None if self.task_name in TASKS else registry.digest_of(type(self.task)),
            "network": self.task.network.rpartition("/")[2],
            "dataset": self.task.source,
            **({} if self.task.absent() else {"data": self.task.digest()}),
            **self.task.resolved(),
            "recipe": settings(self.make_recipe()),
        }

    @property
    def task_name(self) -> str:
        """The task's class, by the name of its file alone where it has one: the same wherever that lies."""
        return registry.name_of(type(self.task), TASKS).rpartition("/")[2]

    @property
    def name(self) -> str:
        """The start of a run folder's name."""
        network = self.task.network.rpartition("/")[2].replace(":", "-")
        return f"{network}_{self.task.source}".replace("/", "-")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process: the user's files as they are here, before the values of the task."""
        values = {each.name: getattr(self.task, each.name) for each in fields(self.task)}
        return {**vars(self), "task": (registry.FILES, registry.name_of(type(self.task), TASKS), pickle.dumps(values))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        files, name, values = state["task"]
        registry.FILES.update(files)
        task = object.__new__(find_task(name))
        task.__dict__.update(pickle.loads(values))
        self.__dict__.update({**state, "task": task})


def described(task: Task) -> dict[str, Any]:
    """Return JSON values by which `revived` makes a task again."""
    return {"task_path": registry.name_of(type(task), TASKS), "task_fields": _absolute(task)}


def revived(path: str, values: Mapping[str, Any], data_root: Path | None) -> Task:
    """Return the task that `described` returned JSON values of, its data in another folder if one is given.

    Raises:
        UserError: its class is no longer there.
    """
    moved = {"data_root": data_root} if data_root and "data_root" in values else {}
    task: Task = _revived({**values, **moved}, find_task(path))
    return task


def _absolute(value: Any) -> Any:
    """Return a value as JSON, paths absolute."""
    if is_dataclass(value):
        return {each.name: _absolute(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [_absolute(each) for each in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def _revived(value: Any, hint: Any) -> Any:
    """Return the value of a type that `_absolute` made JSON of."""
    if isinstance(value, Mapping) and is_dataclass(hint):
        make, hints = cast(Any, hint), get_type_hints(hint)
        return make(**{name: _revived(each, hints[name]) for name, each in value.items() if name in hints})
    if isinstance(value, list):
        return tuple(_revived(each, hint) for each in value)
    return Path(value) if isinstance(value, str) and Path in (hint, *get_args(hint)) else value


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Job):
    """A run that trains a network; those of IRP and of pruning are some."""

    setting: Setting = field(default_factory=Setting)
    output: Path = field(default=Path("runs"), metadata=NO_IDENTITY)
    """The folder of all runs."""
    track: tuple[Tracker, ...] = field(default=(), metadata=NO_IDENTITY)
    """Trackers that log every epoch; the files of TensorBoard are in RUN/tracking."""

    def check(self) -> None:
        self.setting.check()
        check_trackers(self.track)

    def absent(self) -> str | None:
        return self.setting.task.absent()

    def derived(self) -> dict[str, Any]:
        return self.setting.derived()

    def options(self) -> dict[str, Any]:
        return {"task": registry.name_of(type(self.setting.task), TASKS), **options.of(self)}

    def sources(self) -> list[Path]:
        own = [] if self.setting.task_name in TASKS else [registry.source_of(type(self.setting.task))]
        return [*own, *self.setting.task.files()]

    @classmethod
    def defaults(cls) -> Mapping[str, Any]:
        return {**super().defaults(), "recipe": defaults(Recipe)}
