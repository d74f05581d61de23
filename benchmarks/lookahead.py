"""What does looking ahead cost compared with the training steps that it takes: in time, and in memory?"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from accelerate import Accelerator
from torch import nn

from autosparse import networks
from autosparse.api import find_criterion
from autosparse.command import run
from autosparse.config import IRPConfig, Probed
from autosparse.criteria import Scoring, select
from autosparse.jobs.base import TrainingOptions
from autosparse.lookahead import Probe, RecipeLearner
from autosparse.pruning import Layout, Mask
from autosparse.pruning.schedule import keep_count
from autosparse.tasks import Data, Images, Text
from autosparse.training import Callback, Recipe, train
from benchmarks.common import Noise, goal, heading, peak_during, resident_memory, row, scratch, seconds, table

Network = Literal["lenet-300-100", "resnet8", "gpt"]
Goal = tuple[str, bool]

# as in the experiment `lookahead` of `autosparse paper`
_SETTINGS: Mapping[Network, TrainingOptions] = {
    "lenet-300-100": TrainingOptions(task=Images(source="fashion-mnist"), epochs=3),
    "resnet8": TrainingOptions(task=Images(network="resnet8", source="cifar10-16"), epochs=4),
    "gpt": TrainingOptions(task=Text(layers=2, heads=2, width=64, context=64), epochs=1, batch_size=18),
}
_PROBES: Mapping[str, tuple[Probed, ...]] = {
    "one column": IRPConfig.probe_columns,
    "three columns": ("probe-gradient", "probe-theta", "probe-rms"),
}
_NONE = "no probe"
_SHARE = 5  # a training has so many times the steps of a probe
_IN_TRAINING, _IN_PRUNING = 2.0, 5.0  # per cent
_FLOATS = 1.05  # a parameter; what the system gives to a process is not exact


@dataclass(frozen=True)
class Arguments:
    """Time probes, and prunings by their columns, in turns with plain training; measure a large network's memory.

    On the CPU, whose seconds in this process are what is compared: other work on the machine makes wall times longer,
    not those. The first turn is a warm-up.
    """

    networks: tuple[Network, ...] = ("lenet-300-100", "resnet8", "gpt")
    """Networks that are timed; their images are read from $AUTOSPARSE_DATA, or data."""
    steps: int | None = None
    """Steps of a probe, K; a fifth of a training if not given."""
    probe_repeats: int = 9
    """Turns of trainings of K steps, with and without a probe; the medians count."""
    criteria: tuple[str, ...] = ("lookahead", "short-irp")
    """Criteria that look ahead."""
    rounds: int = 5
    """Rounds of K steps of a pruning, R."""
    sparsity: float = 0.98
    """Share of the weights to remove."""
    repeats: int = 3
    """Prunings by each criterion, each round next to K steps alone, and trainings whose memory is measured."""
    memory: bool = True
    """Measure memory, too."""
    large: str = "vgg19-4096"
    """The network whose memory is measured, on random images of 32 x 32, in a new process each time."""
    large_steps: int = 3
    """Steps of its training."""
    large_batch_size: int = 4
    """Images in one of them."""
    folder: Path | None = None
    """Where prunings keep what they saw (a folder of its own is made in it, and deleted)."""


class Taken(NamedTuple):
    """Seconds of one action, by the clock and of the CPU."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Beside(RecipeLearner):
    """After each round, times its steps alone: under no mask, and under the round's own."""

    plain: list[Taken] = field(default_factory=list)
    masked: list[Taken] = field(default_factory=list)

    def learn(self, model: nn.Module, mask: Mask, callback: Callback) -> None:
        super().learn(model, mask, callback)
        for held, found in ((Mask.full(mask.layout), self.plain), (mask, self.masked)):
            arguments = model, held, self.data, self.recipe, self.accelerator
            found.append(_taken(partial(train, *arguments, steps=self.steps)))


class Pruned(NamedTuple):
    """Times of a pruning, and of its steps alone."""

    whole: Taken
    plain: Taken
    masked: Taken


def main(a: Arguments) -> None:
    """Time, measure and print."""
    heading()
    goals: list[Goal] = []
    for name in a.networks:
        with scratch(a.folder) as folder:
            timed = Timed(name, a.steps, folder)
            print(f"\n{timed.title}\n")
            goals += [(f"{name}, {text}", met) for text, met in _probes(a, timed) + _prunings(a, timed)]
    if a.memory:
        goals += _memory(a)
    print()
    for text, met in goals:
        goal(text, met)


class Timed:
    """A network and its training, each time from the same initial weights."""

    def __init__(self, name: Network, steps: int | None, folder: Path) -> None:
        setting, self.accelerator = _SETTINGS[name], Accelerator(cpu=True)
        self.model, self.data = setting.make(0, self.accelerator)
        self.recipe, self.folder = setting.make_recipe(), folder
        self.steps = steps or self.recipe.epochs * len(self.data.training(self.recipe.batch_size)) // _SHARE
        self.layout = Layout.of(self.model)
        self.full = Mask.full(self.layout)
        self._initial = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.title = f"{name} on {setting.task.source}, {self.layout.size:,} prunable weights"

    def training(self, columns: tuple[Probed, ...]) -> None:
        """The first steps of a training, with a probe if it is to see something."""
        self.model.load_state_dict(self._initial)
        probe = Probe(self.layout, self.steps, columns) if columns else None
        train(self.model, self.full, self.data, self.recipe, self.accelerator, callback=probe, steps=self.steps)

    def pruning(self, criterion: str, rounds: int, sparsity: float) -> Pruned:
        """Prune by a criterion that looks ahead."""
        self.model.load_state_dict(self._initial)
        learner = Beside(self.data, self.recipe, self.accelerator, self.steps, 0, self.folder)
        batches = self.data.scoring()
        scoring = Scoring(batches, batches.loss, learner)
        k = keep_count(1 - sparsity, self.layout.size)

        def prune() -> None:
            select(find_criterion(criterion, rounds=rounds), self.model, self.full, scoring, k)
            learner.forget()

        every = _taken(prune)
        plain, masked = _sum(learner.plain), _sum(learner.masked)
        own = Taken(every.wall - plain.wall - masked.wall, every.cpu - plain.cpu - masked.cpu)
        return Pruned(own, plain, masked)


def _probes(a: Arguments, timed: Timed) -> list[Goal]:
    """Print what a probe adds to a training; returns the goals."""
    steps = timed.steps
    ways: dict[str, tuple[Probed, ...]] = {_NONE: (), **_PROBES}
    found = _in_turns({way: partial(timed.training, columns) for way, columns in ways.items()}, a.probe_repeats)
    table(f"{steps:,} steps with", "seconds", "CPU seconds", "more, %", f"of a training of {_SHARE * steps:,}, %")
    shares = {}
    for way in ways:
        more = _more(found[way], found[_NONE])
        shares[way] = more / _SHARE
        row(way, *_medians(found[way]), f"{more:.1f}", f"{shares[way]:.2f}")
    return [
        (f"{way}: under {_IN_TRAINING:g}% of a training: {shares[way]:.2f}", shares[way] < _IN_TRAINING)
        for way in _PROBES
    ]


def _prunings(a: Arguments, timed: Timed) -> list[Goal]:
    """Print what prunings take compared with their steps; returns the goals."""
    print()
    columns = "seconds", "CPU seconds", "more than as many plain steps, %", "than steps under the same masks, %"
    table(f"{a.rounds} x {timed.steps:,} steps", *columns)
    goals = []
    for way in a.criteria:
        turns = [timed.pruning(way, a.rounds, a.sparsity) for _ in range(1 + a.repeats)][1:]
        more = {
            "as many plain steps": _more([each.whole for each in turns], [each.plain for each in turns]),
            "steps under the same masks": _more([each.whole for each in turns], [each.masked for each in turns]),
        }
        row(way, *_medians([each.whole for each in turns]), *(f"{each:.1f}" for each in more.values()))
        goals += [
            (f"{way}: under {_IN_PRUNING:g}% more than {base}: {each:.1f}", each < _IN_PRUNING)
            for base, each in more.items()
        ]
    return goals


def _in_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Taken]]:
    """Return times of each way, run one after the other in each turn, so that other load meets all of them alike."""
    turns = [{name: _taken(action) for name, action in ways.items()} for _ in range(1 + repeats)]
    return {name: [turn[name] for turn in turns[1:]] for name in ways}


def _taken(action: Callable[[], object]) -> Taken:
    start = time.process_time()
    wall = seconds(action)
    return Taken(wall, time.process_time() - start)


def _sum(taken: list[Taken]) -> Taken:
    return Taken(*map(sum, zip(*taken, strict=True)))


def _more(found: list[Taken], base: list[Taken]) -> float:
    """How much more of the CPU one way takes than another, per cent: the median over turns."""
    ratios = [taken.cpu / plain.cpu for taken, plain in zip(found, base, strict=True)]
    return 100 * (statistics.median(ratios) - 1)


def _medians(taken: list[Taken]) -> tuple[str, str]:
    return f"{statistics.median(t.wall for t in taken):.3f}", f"{statistics.median(t.cpu for t in taken):.3f}"


def _memory(a: Arguments) -> list[Goal]:
    """Print the table of memory; returns its goals."""
    size = Layout.of(networks.build(a.large, (3, 32, 32), 10)).size
    print(f"\n{a.large}, {size:,} prunable weights; {a.large_steps} steps of {a.large_batch_size} images\n")
    table("training with", "peak besides the model, MiB", "from", "to", "more, float32 per parameter")
    ways: dict[str, tuple[Probed, ...]] = {_NONE: (), **_PROBES}
    turns = [{way: _apart(a, columns) for way, columns in ways.items()} for _ in range(a.repeats)]
    peaks = {way: [turn[way] for turn in turns] for way in ways}
    goals = []
    for way, columns in ways.items():
        peak = statistics.median(peaks[way])
        more = (peak - statistics.median(peaks[_NONE])) * 2**20 / 4 / size
        row(way, *(f"{each:,.0f}" for each in (peak, min(peaks[way]), max(peaks[way]))), f"{more:.2f}")
        if len(columns) == 1:
            goals.append((f"{way}: one float32 per parameter more: {more:.2f}", more <= _FLOATS))
    return goals


def _apart(a: Arguments, columns: tuple[Probed, ...]) -> float:
    """Peak memory of a training with such a probe, in a process that does nothing else, MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, a, columns).result()


def _peak(a: Arguments, columns: tuple[Probed, ...]) -> float:
    count = a.large_steps * a.large_batch_size
    accelerator = Accelerator(cpu=True)
    data, model = Data(Noise(count=count)), networks.build(a.large, (3, 32, 32), 10)
    layout, recipe = Layout.of(model), Recipe(1, "nesterov", 1e-3, batch_size=a.large_batch_size)
    full, before = Mask.full(layout), resident_memory()

    def training() -> None:
        probe = Probe(layout, a.large_steps, columns) if columns else None
        train(model, full, data, recipe, accelerator, callback=probe, steps=a.large_steps)

    return peak_during(training) - before


if __name__ == "__main__":
    run(Arguments, main)
