import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autosparse.tasks import Data
from autosparse.tasks.image_set import crop_and_flip
from tests.models import digits


def worlds(size: int) -> list[Data]:
    return [digits(rank=rank, world_size=size) for rank in range(size)]


@pytest.mark.parametrize(("size", "augment"), [(2, True), (4, False)])
def test_training_batches_are_the_same_for_any_number_of_processes(size: int, augment: bool) -> None:
    (one,) = worlds(1)
    many = [world.training(64, 3, augment).epoch(1) for world in worlds(size)]
    steps = list(zip(one.training(64, 3, augment).epoch(1), *many, strict=True))
    assert len(steps) == 1350 // 64
    for (x, y), *parts in steps:
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(y, torch.cat([part[1] for part in parts]))


def test_an_epoch_covers_every_image_at_most_once_in_an_order_of_its_own(data: Data) -> None:
    batches = data.training(50, seed=1)
    orders = [torch.cat([x for x, _ in batches.epoch(epoch)]).flatten(1) for epoch in (0, 0, 1)]
    assert len(orders[0]) == 1350
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert len(orders[0].unique(dim=0)) >= 1349  # two of the digits may be alike


def test_an_epoch_goes_on_from_any_step(data: Data) -> None:
    batches = data.training(128, seed=1, augment=True)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=6))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[6:], rest, strict=True))


def test_nothing_crosses_over_to_the_device_after_the_first_step() -> None:
    class Crossings(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copied = func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu"
            self.count += copied and torch.device((kwargs or {}).get("device") or "cpu").type == "meta"
            return func(*args, **kwargs or {})

    with Crossings() as crossings:
        batches = digits(validation=0.0, device="meta").training(128, augment=True).epoch(0)
        next(batches)
        before = crossings.count
        assert before
        assert len(list(batches)) == 10
        assert crossings.count == before


@pytest.mark.parametrize("size", [1, 3])
def test_scoring_deals_whole_batches(size: int) -> None:
    dealt = [list(world.scoring(100, limit=7)) for world in worlds(size)]
    labels = [dealt[k % size][k // size][1] for k in range(7)]
    assert sum(map(len, dealt)) == 7
    assert torch.equal(torch.cat(labels), torch.cat([y for _, y in worlds(1)[0].scoring(100)])[:700])


def test_the_validation_split_is_held_out() -> None:
    data = digits()
    assert data.has_validation
    assert (len(data), len(torch.cat([y for _, y in data.evaluation("validation")]))) == (1350, 150)
    assert not digits(validation=0.0).has_validation


def test_crop_and_flip_against_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 6, 5), generator=generator, dtype=torch.uint8)
    draws = torch.rand(3, 40, generator=generator)
    for image, draw, result in zip(images, draws.T, crop_and_flip(images, draws), strict=True):
        top, left = (int(d * 9) for d in draw[:2])
        expected = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))[:, top : top + 6, left : left + 5]
        assert np.array_equal(result.numpy(), expected if draw[2] < 0.5 else expected[:, :, ::-1])
