"""The table of a model's matrices, and the warning of what stays dense."""

import io

import pytest
import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, dense_warning


class Words(nn.Module):
    """Embedding, attention, a recurrent layer, a transposed convolution, and an own matrix; `loose` is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 4, 2, groups=2, bias=False)
        self.own, self.loose = nn.Parameter(torch.randn(4, 6)), nn.Linear(3, 3)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = self.words(x)
        memory = self.words(other) if other is not None else x
        x = self.memory(self.attention(x, memory, memory)[0])[0]
        found: Tensor = self.up(x.mT).mT @ self.own
        return found


def half(model: nn.Module, **options: list[str]) -> Mask:
    layout = Layout.of(model, **options)
    return Mask(layout, torch.arange(layout.size) % 2 == 0)


def test_multiplications_of_linear_layers_and_convolutions(convolutional: nn.Module) -> None:
    frame = half(convolutional).summary(convolutional, torch.zeros(3, 1, 8, 8)).frame.set_index("name")
    assert [*frame.columns] == ["shape", "size", "kept", "density", "multiplications", "saved", "dense"]
    assert frame["multiplications"].to_dict() == {"0.weight": 3 * 64 * 72, "5.weight": 3 * 5120}
    assert frame["saved"].to_dict() == {"0.weight": 3 * 64 * 36, "5.weight": 3 * 2560}
    assert frame["kept"].to_dict() == {"0.weight": 36, "5.weight": 2560}
    assert convolutional.training
    assert convolutional[1].num_batches_tracked == 0


@pytest.mark.parametrize("crossed", [False, True])
def test_multiplications_by_views_of_weights(crossed: bool) -> None:
    model, x = Words(), torch.zeros(2, 5, dtype=torch.long)
    summary = half(model, exclude=["loose.*"]).summary(model, {"x": x, "other": x + 1} if crossed else x)
    frame = summary.frame.set_index("name")
    found = {name: None if value != value else value for name, value in frame["multiplications"].astype(float).items()}
    assert found["attention.in_proj_weight"] == 10 * 192
    assert found["attention.out_proj.weight"] == 10 * 64
    assert found["up.weight"] == 10 * model.up.weight.numel()
    assert found["own"] == 2 * 6 * 24
    assert found["words.weight"] is None
    assert found["loose.weight"] is None
    assert frame["dense"].dropna().to_dict() == {
        "own": "a parameter of Words",
        "words.weight": "an embedding, or tied to one",
        "loose.weight": "excluded",
    }
    assert frame["kept"]["own"] == 24


def test_multiplications_under_autocast(model: nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        frame = half(model).summary(model, torch.zeros(2, 1, 8, 8)).frame
    assert (frame["multiplications"] == 2 * frame["size"]).all()


def test_text() -> None:
    model = nn.Sequential(nn.Linear(4, 300), nn.GRU(300, 2))
    text = str(half(model).summary(model))
    lines = text.splitlines()
    assert lines[0].split()[:5] == ["matrix", "shape", "kept", "of", "density"]
    assert lines[1].split() == ["0.weight", "300", "x", "4", "600", "1,200", "50.00%", "-", "-"]
    assert lines[-1].split() == ["all", "1,506", "3,012", "50.00%", "-", "-"]
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, record=True, file=io.StringIO())
    console.print(half(model).summary(model))
    assert lines[1] in console.export_text()


def test_a_batch_that_does_not_fit_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"does not take this batch of inputs: .*; give a tensor, a tuple"):
        half(model).summary(model, torch.zeros(2, 3))
    assert model.training


def test_a_large_fraction_that_stays_dense_is_a_warning() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10), nn.Embedding(20, 10))
    message = dense_warning(model, Layout.of(model))
    assert message is not None
    assert message.startswith("50% of the elements of the model's matrices stay dense: 2.weight, an embedding")
    assert "include=" in message
    assert "\n" not in message
    assert dense_warning(model, Layout.of(model), exclude=["2.*"]) is None
    assert dense_warning(model, Layout.of(model, exclude=["1.*"])) == message
    assert dense_warning(model, Layout.of(model, include=["2.*"])) is None
