"""The default loss takes what torch takes and refuses in one line what it cannot mean; other losses are averaged."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosparse.criteria import Scoring
from autosparse.criteria.gradient import mean_gradient
from autosparse.criteria.loss import CrossEntropy, batch_size
from autosparse.errors import UserError
from autosparse.pruning import Layout

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


class Scores(nn.Module):
    """Outputs of any shape: a linear layer's, reshaped."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.layer = shape, nn.Linear(8, int(torch.Size(shape).numel()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).view(len(x), *self.shape)
        return out


@dataclass
class Output:
    logits: Tensor


def total(shape: tuple[int, ...], targets: Tensor, **how: Any) -> tuple[Tensor, Tensor | int]:
    return CrossEntropy(**how).total(Scores(*shape), (X, targets))


def indices(*shape: int, classes: int = 3) -> Tensor:
    return torch.randint(classes, (6, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("shape", "targets", "second"),
    [
        ((3,), indices(), True),
        ((3, 5), indices(5), True),
        ((5, 3), indices(5), False),
        ((3, 3), indices(3), True),  # both fit: as torch has it
        ((3, 4, 5), indices(4, 5), True),
        ((4, 5, 3), indices(4, 5), False),
        ((3,), indices().to(torch.uint8), True),
        ((3,), F.one_hot(indices(), 3).float(), True),
        ((5, 3), F.one_hot(indices(5), 3).float(), False),
        ((3, 5), F.one_hot(indices(5), 3).float().movedim(-1, 1), True),
    ],
)
def test_classes_are_where_the_targets_say(shape: tuple[int, ...], targets: Tensor, second: bool) -> None:
    scores = Scores(*shape)(X)
    expected = targets if targets.is_floating_point() else targets.long()
    if not second:
        scores, expected = scores.movedim(-1, 1), expected.movedim(-1, 1) if expected.is_floating_point() else expected
    loss, count = total(shape, targets)
    torch.testing.assert_close(loss, F.cross_entropy(scores, expected, reduction="sum"))
    assert count == scores.numel() // scores.shape[1]
    torch.testing.assert_close(CrossEntropy()(Scores(*shape), (X, targets)), F.cross_entropy(scores, expected))


def test_ignored_targets_do_not_count() -> None:
    targets = torch.tensor([0, -100, 1, 2, -100, 2])
    loss, count = total((3,), targets)
    assert count == 4
    torch.testing.assert_close(loss, F.cross_entropy(Scores(3)(X), targets, reduction="sum"))
    assert total((3,), Y, ignore_index=0)[1] == 4
    model = Scores(3)
    gradient = mean_gradient(model, Layout.of(model), Scoring([(X[:3], targets[:3]), (X[3:], targets[3:])]))
    (expected,) = torch.autograd.grad(F.cross_entropy(model(X), targets), [model.layer.weight])
    torch.testing.assert_close(gradient, expected.flatten())


def test_logits_of_an_output_are_taken() -> None:
    class Wrapped(Scores):
        def forward(self, x: Tensor) -> Any:
            return Output(super().forward(x))

    torch.testing.assert_close(CrossEntropy()(Wrapped(3), (X, Y)), CrossEntropy()(Scores(3), (X, Y)))


@pytest.mark.parametrize(
    ("shape", "batch", "message"),
    [
        ((1,), (X, Y), "one class score"),
        ((1,), (X, torch.zeros(6, 1)), "one class score"),
        ((), (X, Y), r"class scores are floating point \(B, classes\), this network returns float32 \(6,\)"),
        ((3,), (X, torch.randn(6, 3)), r"probabilities .*, which sum to 1; got float32 \(6, 3\)"),
        ((3,), (X, Y + 1), r"targets must lie in 0\.\.2 for 3 class scores, got 1\.\.3"),
        ((3,), (X, torch.full((6,), -100)), "all targets of a batch are -100"),
        ((3,), (X, indices(2)), r"the targets must be class indices \(6,\), .* got int64 \(6, 2\)"),
        ((3,), {"x": X}, r"a pair \(inputs, targets\) of tensors of one length, got a dict"),
        ((3,), (X, Y, Y), r"of one length, got \(float32 \(6, 8\), int64 \(6,\), int64 \(6,\)\)"),
        ((3,), (X, Y[:4]), r"of one length, got \(float32 \(6, 8\), int64 \(4,\)\)"),
        ((3,), (X.numpy(), Y), r"of one length, got \(ndarray, int64 \(6,\)\)"),
    ],
)
def test_batch_without_a_cross_entropy_raises_naming_the_way_out(
    shape: tuple[int, ...], batch: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        CrossEntropy()(Scores(*shape), batch)
    assert "loss=" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_loss_is_averaged_over_samples() -> None:
    def squares(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return (model(batch["x"]) - batch["y"]).square().mean()

    model, y = Scores(1), torch.randn(6, 1, generator=torch.Generator().manual_seed(2))
    parts = [{"x": X[:4], "y": y[:4]}, {"x": X[4:], "y": y[4:]}]
    found = mean_gradient(model, Layout.of(model), Scoring(parts, squares))
    (expected,) = torch.autograd.grad((model(X) - y).square().mean(), [model.layer.weight])
    torch.testing.assert_close(found, expected.flatten())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: model(batch).sum().item(), "tensor of one number; it returns a float"),
        (lambda model, batch: model(batch), r"tensor of one number; it returns \(6, 3\)"),
        (lambda model, batch: model(batch).sum().detach(), "the loss has no gradient"),
        (lambda model, batch: model.layer.bias.sum(), "the loss depends on no prunable weight"),
        (
            lambda model, batch: batch.labels,
            r"fails at the loss, a function of \(model, batch\): 'Tensor' object has no",
        ),
        (lambda model, batch: {}[model(batch).sum() > 1e9], r"the loss, .*: KeyError"),
    ],
)
def test_function_that_returns_no_mean_loss_raises(loss: Any, message: str) -> None:
    model = Scores(3)
    with pytest.raises(UserError, match=message) as error:
        mean_gradient(model, Layout.of(model), Scoring([X], loss))
    assert "\n" not in str(error.value)


def test_the_size_of_any_batch() -> None:
    ragged = [torch.zeros(3, 2), torch.zeros(4, 2)]
    sizes: list[tuple[Any, int]] = [
        (X, 6),
        ((X, Y), 6),
        ([X, Y, Y], 6),
        ({"a": X, "b": 1}, 6),
        (((X, X), Y), 6),
        (ragged, 2),
        ((ragged, [{}, {}]), 2),
        ([{"image": X}, {"image": X}, {"image": X}], 3),
        (["a", "b"], 2),
        (torch.tensor(1.0), 1),
        (3, 1),
    ]
    assert [batch_size(batch) for batch, _ in sizes] == [size for _, size in sizes]
