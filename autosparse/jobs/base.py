"""Task and training, trackers, options and identity, which several kinds of run share."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import tyro

from autosparse import registry
from autosparse.cluster import Job
from autosparse.command import CHOSEN, choices
from autosparse.config import NO_IDENTITY, Bounds, Config, Tracker
from autosparse.errors import UserError
from autosparse.jobs.tracking import check_trackers
from autosparse.options import option_fields, option_names, option_types, option_values, typed
from autosparse.tasks.base import TASKS, Task, find_task
from autosparse.tasks.images import Images
from autosparse.tasks.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from autosparse.pruning import Layout
    from autosparse.tasks import Data

_IDENTITY = {"kind", "task", "code", "data", "autos", "criterion_code", "network_code", "files", "options"}
"""Keys of `config.yaml` that are not options."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TaskArguments:
    """The arguments of a command that has `--task`."""

    task: Annotated[str, choices([*TASKS, "FILE.py:CLASS"])] = "images"
    """The task to learn; `--task NAME --help` lists the options of another task."""

    @classmethod
    def task_class(cls, name: str) -> type[Any]:
        """Return the class of a task, whose fields become options; raise if they have the names of other options."""
        from autosparse.jobs import IRPRun, PruneRun

        kind = find_task(name)
        used = {*option_types(cls), *(field for run in (cls, IRPRun, PruneRun) for field, _ in option_fields(run))}
        used = _IDENTITY | {option.replace("-", "_") for option in used}
        names = {*(field.name for field in fields(kind)), *option_types(kind)}
        if taken := sorted(used & {option.replace("-", "_") for option in names}):
            raise UserError(f"fields of {name} have the names of options: {', '.join(taken)}; rename them")
        return kind


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Config):
    """Training of the networks."""

    task: Annotated[Task, CHOSEN] = field(default_factory=Images)
    epochs: int | None = field(default=None, metadata=NO_IDENTITY)
    """Epochs of each training; drops of the learning rate keep their relative place. Default: the recipe's."""
    batch_size: int | None = field(default=None, metadata=NO_IDENTITY)
    """Number of samples in a batch, over all processes. Default: the recipe's."""
    learning_rate: float | None = field(default=None, metadata=NO_IDENTITY)
    """Initial learning rate. Default: the recipe's."""
    accumulate: Annotated[int | None, Bounds(1)] = field(default=None, metadata=NO_IDENTITY)
    """Pieces into which each process cuts its part of a batch (gradient accumulation). Default: the recipe's."""
    grad_batches: Annotated[int | None, Bounds(1)] = None
    """Number of batches that a criterion and the stored gradient see, of 256 images each or, for another task, of the
    task's own size. Default: the whole training set."""
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
        """Refuse a task or a recipe that cannot run, before anything is submitted."""
        self.task.check()
        self.make_recipe()

    def make_recipe(self) -> Recipe:
        """Return the task's recipe with the values that the options set."""
        recipe = self.task.recipe
        if self.epochs is not None:
            recipe = recipe.with_epochs(self.epochs)
        names = ("batch_size", "learning_rate", "accumulate", "precision", "compile", "channels_last")
        return replace(recipe, **{name: value for name in names if (value := getattr(self, name)) is not None})

    def make_model(self, seed: int, accelerator: "Accelerator") -> "nn.Module":
        """Return the model at the initial weights of a seed, on this process's device."""
        import torch

        from autosparse.seeds import stream

        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(stream("initial weights", seed))
            model = self.task.model()
        return model.to(accelerator.device)

    def make(self, seed: int, accelerator: "Accelerator") -> "tuple[nn.Module, Data]":
        """Return the model at the initial weights of a seed, and the data, on this process's device."""
        from autosparse.tasks import Data

        rank, world_size = accelerator.process_index, accelerator.num_processes
        data = Data(self.task, accelerator.device, rank, world_size, self.workers)
        return self.make_model(seed, accelerator), data

    def layout(self, model: "nn.Module") -> "Layout":
        """Return the layout of the weights to prune, and warn of matrices that stay dense."""
        from autosparse.pruning import Layout, dense_warning

        layout = Layout.of(model, self.include, self.exclude)
        if warning := dense_warning(model, layout, self.exclude):
            log.warning("%s", warning)
        return layout

    def resolved(self) -> dict[str, Any]:
        """Return what the options resolve to: the values of the recipe, digests of the data and of the task's file."""
        return {
            "task": self.task_name,
            "code": None if self.task_name in TASKS else registry.digest_of(registry.name_of(type(self.task), {})),
            "network": self.task.network.rpartition("/")[2],
            "dataset": self.task.source,
            **({} if self.task.absent() else {"data": self.task.digest()}),
            **self.task.resolved(),
            "recipe": option_values(self.make_recipe(), identity=True),
        }

    @property
    def task_name(self) -> str:
        """Name of the task's class; one in a file has the file's name without its folder."""
        return registry.name_of(type(self.task), TASKS).rpartition("/")[2]

    @property
    def name(self) -> str:
        """Start of the name of a run's folder."""
        network = self.task.network.rpartition("/")[2].replace(":", "-")
        return f"{network}{self.task.variant}_{self.task.source}".replace("/", "-")


@dataclass(frozen=True, kw_only=True)
class TrackedRun(Job, Config):
    """A run in the common folder of all runs, which trackers can follow."""

    output: Path = field(default=Path("runs"), metadata=NO_IDENTITY)
    """The folder of all runs."""
    track: tuple[Tracker, ...] = field(default=(), metadata=NO_IDENTITY)
    """Trackers that log every epoch; the files of TensorBoard are in RUN/tracking."""

    def check(self) -> None:
        check_trackers(self.track)

    @classmethod
    def imports(cls) -> tuple[str, ...]:
        return *super().imports(), "autosparse.irp", "autosparse.api", "autosparse.autos", "autosparse.lookahead"

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in option_values(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingRun(TrackedRun):
    """A run that trains a network."""

    setting: TrainingOptions = field(default_factory=TrainingOptions)

    def check(self) -> None:
        self.setting.check()
        super().check()

    def absent(self) -> str | None:
        return self.setting.task.absent()

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **self.setting.resolved()}

    def options(self) -> dict[str, Any]:
        return {"task": registry.name_of(type(self.setting.task), TASKS), **super().options()}

    def sources(self) -> list[Path]:
        name = registry.name_of(type(self.setting.task), TASKS)
        return [*([] if name in TASKS else [registry.source_of(name)]), *self.setting.task.files()]


def task_attributes(task: Task) -> dict[str, Any]:
    """Return what a store says of its task, from which `make_task` makes the task again; JSON values."""
    return {"task_path": registry.name_of(type(task), TASKS), "task_fields": _absolute(task)}


def make_task(run: Mapping[str, Any], data_root: Path | None) -> Task:
    """Return the task of a run, by the attributes of its store; `data_root` replaces the folder of its data sets."""
    moved = {"data_root": str(data_root)} if data_root and "data_root" in run["task_fields"] else {}
    task: Task = _from_json({**run["task_fields"], **moved}, find_task(run["task_path"]))
    return task


def task_words(task: Task) -> list[str]:
    """Return the words of a command line that name a task and those of its options that differ from their defaults."""
    name, hints = registry.name_of(type(task), TASKS), get_type_hints(type(task), include_extras=True)
    words = ["--task", name] if name != "images" else []
    for entry in fields(cast(Any, task)):
        value, flag = getattr(task, entry.name), option_names(entry.name, hints[entry.name])[0].replace("_", "-")
        if isinstance(value, bool) and value != entry.default:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value != entry.default and not is_dataclass(value):
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def _absolute(value: Any) -> Any:
    """Return a value as JSON, with absolute paths."""
    if is_dataclass(value):
        return {entry.name: _absolute(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, tuple | list):
        return [_absolute(element) for element in value]
    return str(value.resolve()) if isinstance(value, Path) else value


def _from_json(value: Any, hint: Any) -> Any:
    """Return the value of a type that `_absolute` made JSON of."""
    if is_dataclass(hint):
        kind, hints = cast(Any, hint), get_type_hints(hint, include_extras=True)
        if gone := [name for name in value if name not in hints]:
            raise UserError(f"{kind.__name__} of {inspect.getfile(kind)} no longer has the field {gone[0]}")
        return kind(**{name: _from_json(element, hints[name]) for name, element in value.items()})
    return typed(hint, [*map(str, value if isinstance(value, list) else [value])])
