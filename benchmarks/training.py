"""How long is an epoch of lenet-300-100, beside a plain DataLoader-and-transforms loop of the same batches?"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision.transforms.v2 as transforms
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from autosparse import networks
from autosparse.command import run
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data, Images
from autosparse.tasks.arrays import ImageArrays, load
from autosparse.training import find_recipe, train
from benchmarks.common import heading, median_seconds


@dataclass(frozen=True)
class Arguments:
    """Time an epoch, its evaluation included, in this package's loop and in a plain one of the same batches."""

    dataset: str = "mnist"
    """Any data set of grey images."""
    data_root: Path | None = None
    """Folder of the .npz files."""
    workers: int = 2
    """Processes of the plain loop's DataLoader, beside a run with none."""
    repeats: int = 3
    """Epochs timed, after one that is not; the median counts."""


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


if __name__ == "__main__":
    run(Arguments, main)
