"""How long is training compared with a plain DataLoader loop, and with a bare loop over tensors on the device?"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.v2 as transforms
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from autosparse import networks
from autosparse.command import run
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.tasks import Data, Images, Task, Text
from autosparse.tasks.arrays import ImageArrays, load
from autosparse.training import find_recipe, train
from autosparse.training.step import make_optimizer
from benchmarks.common import goal, heading, median_seconds, row, table


@dataclass(frozen=True)
class Arguments:
    """Time an epoch, its evaluation included, against a DataLoader loop, and steps against the limit, a bare loop."""

    dataset: str = "mnist"
    """Any data set of grey images."""
    data_root: Path | None = None
    """Folder of the .npz files."""
    workers: int = 2
    """Processes of the plain loop's DataLoader, besides a run with none."""
    repeats: int = 3
    """Epochs timed, after one that is not; the median counts."""
    steps: int = 100
    """Steps of each measurement against the bare loop."""
    pairs: int = 9
    """Measurements against the bare loop, in turn; the median of their ratios counts."""


class Plain(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's data sets give them: PIL, then ToTensor and Normalize, one at a time."""

    def __init__(self, images: ImageArrays, part: str) -> None:
        self.images, self.labels = getattr(images, f"x_{part}")[:, 0], getattr(images, f"y_{part}")
        mean, deviation = (value.item() / 255 for value in images.moments)
        self.transform = transforms.Compose(
            [
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize([mean], [deviation]),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def main(a: Arguments) -> None:
    """Time and print."""
    heading()
    images = load(a.dataset, a.data_root)
    accelerator = Accelerator()
    device = accelerator.device
    data = Data(Images(source=a.dataset, data_root=a.data_root, validation=0.0), device)
    recipe = find_recipe("short", "lenet-300-100", a.dataset).with_epochs(1)

    def fresh() -> nn.Module:
        return networks.build("lenet-300-100", images.shape, images.classes).to(device)

    def ours() -> float:
        model = fresh()
        history = train(model, Mask.full(Layout.of(model), device), data, recipe, accelerator)
        return history[-1]["loss"]

    def plain(workers: int) -> float:
        model = fresh()
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        order = data.training(recipe.batch_size).order(0).tolist()
        batches = DataLoader(Plain(images, "train"), batch_sampler=order, num_workers=workers)
        total = 0.0
        model.train()
        for inputs, targets in batches:
            loss = F.cross_entropy(model(inputs.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.no_grad():
            for inputs, _ in DataLoader(Plain(images, "test"), 1024, num_workers=workers):
                model(inputs.to(device)).argmax(1).cpu()
        return total / len(order)

    print(f"\nlenet-300-100 on {a.dataset}, one epoch of {len(data)} images in batches of {recipe.batch_size}\n")
    losses = [ours(), plain(0)]
    base = median_seconds(ours, a.repeats)
    print("| loop | seconds | relative to ours | mean loss |\n| --- | ---: | ---: | ---: |")
    print(f"| this package | {base:.2f} | 1.00 | {losses[0]:.5f} |")
    for workers in sorted({0, a.workers}):
        seconds = median_seconds(partial(plain, workers), a.repeats)
        print(f"| DataLoader, {workers} workers | {seconds:.2f} | {seconds / base:.2f} | {losses[1]:.5f} |")
    met = dict[str, bool]()
    print(f"\nsteps of training compared with a bare loop, CPU seconds of {a.steps} steps, {a.pairs} pairs\n")
    table("network", "mask", "ms per step, bare", "ratio, median", "least", "most")
    tasks: dict[str, Task] = {
        "lenet-300-100": Images(source="mnist5k"),
        "resnet8": Images(network="resnet8", source="mnist5k"),
        "gpt-4x128": Text(),
    }
    for name, task in tasks.items():
        for sparsity, limit in ((0.0, 1.05), (0.9, 1.10)):
            bare, ratios = _step_ratios(task, sparsity, accelerator, a)
            mask = f"{sparsity:.0%} removed" if sparsity else "none"
            ratio = statistics.median(ratios)
            row(name, mask, f"{1000 * bare:.2f}", f"{ratio:.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}")
            met[f"{name}, {mask}: at most {limit:.2f} of the bare loop"] = ratio <= limit
    print()
    for text, is_met in met.items():
        goal(text, is_met)


def _step_ratios(task: Task, sparsity: float, accelerator: Accelerator, a: Arguments) -> tuple[float, list[float]]:
    """Return the seconds of a bare step, and the ratios of this package's CPU seconds to those of bare steps."""
    data = Data(task, accelerator.device)
    recipe = replace(task.recipe, augment=False, clip=0.0, cosine=False, warmup=0.0)
    batches = data.training(recipe.batch_size)
    recipe = recipe.with_epochs(-(-a.steps // len(batches)))
    order = torch.cat([batches.order(epoch) for epoch in range(recipe.epochs)])[: a.steps].to(accelerator.device)
    dataset: Any = task.dataset("train")
    inputs, targets = (tensor.to(accelerator.device) for tensor in dataset[: len(data)])
    torch.manual_seed(0)
    initial = task.model().to(accelerator.device)
    layout = Layout.of(initial)
    mask = keep_top(torch.rand(layout.size), round((1 - sparsity) * layout.size), Mask.full(layout))

    def ours() -> None:
        train(copy.deepcopy(initial), mask.to(accelerator.device), data, recipe, accelerator, steps=a.steps)

    def bare() -> None:
        model = copy.deepcopy(initial).train()
        optimizer = make_optimizer(recipe, model)
        for index in order:
            scores = model(inputs[index])
            F.cross_entropy(scores.flatten(0, -2), targets[index].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

    ours()
    bare()
    times = [(_cpu_seconds(ours), _cpu_seconds(bare)) for _ in range(a.pairs)]
    return statistics.median(limit for _, limit in times) / a.steps, [took / limit for took, limit in times]


def _cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU seconds of this process, or wall seconds where a GPU does the work."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    run(Arguments, main)
