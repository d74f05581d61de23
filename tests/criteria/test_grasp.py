import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn import functional as F

from autosparse.criteria import Scoring
from autosparse.criteria.grasp import class_balanced, grasp
from autosparse.pruning import Layout, Mask


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(12, 3)
    ).double()


def samples(n: int = 40) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return list(zip(x.split(16), torch.randint(3, (n,), generator=generator).split(16), strict=True))


def test_against_the_whole_hessian() -> None:
    model, batches = tiny(), samples()
    layout = Layout.of(model)
    scores = grasp(model, Mask.full(layout), Scoring(batches), per_class=5)

    ((x, y),) = class_balanced(batches, 5)
    others = {name: p.detach() for name, p in model.named_parameters() if name not in layout.weights(model)}
    plain = tiny().eval()
    plain[1].training, plain[1].track_running_stats = True, False  # batch norm sees the batch

    def loss(flat: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(plain, {**layout.unflatten(flat), **others}, (x,)) / 200, y)

    theta = layout.flatten(layout.weights(model))
    gradient = torch.func.grad(loss)(theta)
    expected = theta * (hessian(loss)(theta) @ gradient)
    assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()

    # the sign: without what scores highest, the gradient flows less
    step = 1e-4

    def flow(flat: Tensor) -> float:
        return torch.func.grad(loss)(flat).square().sum().item()

    for index in (int(scores.argmax()), int(scores.argmin())):
        smaller = theta.clone()
        smaller[index] *= 1 - step
        change = (flow(smaller) - flow(theta)) / step
        assert change == pytest.approx(-2 * scores[index].item(), rel=1e-2)


def test_balanced_batches_hold_the_first_of_each_class() -> None:
    batches = samples()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    ((inputs, labels),) = class_balanced(batches, 4)
    assert labels.tolist() == [0, 1, 2] * 4
    for label in range(3):
        assert torch.equal(inputs[labels == label], x[y == label][:4])
    fewest = int(y.bincount().min())
    ((_, labels),) = class_balanced(batches, 1000)
    assert labels.bincount().tolist() == [fewest] * 3


def test_samples_of_different_shapes_are_not_balanced() -> None:
    batches = [(torch.zeros(2, 3, size, size), torch.arange(2)) for size in (8, 10)]
    assert class_balanced(batches, 4) is None


def test_many_classes_make_several_batches() -> None:
    batches = class_balanced([(torch.zeros(1000, 1), torch.arange(1000) % 100)], 10)
    assert {len(labels) for _, labels in batches} == {62, 63}
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(1000) % 100)
