"""Which parameters are prunable, by kind of module, and under which names."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils import prune as torch_prune

import autosparse
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, dense_warning
from autosparse.pruning.prunable import matrices


class Conv1D(nn.Module):
    """As in Hugging Face's GPT-2: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))


class Experts(nn.Module):
    """Matrices of one's own kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(2, 4, 6))
        self.scale = nn.Parameter(torch.ones(4))


def names(model: nn.Module, **options: Any) -> list[str]:
    return [layer.name for layer in Layout.of(model, **options).layers]


def dense(model: nn.Module) -> dict[str, str | None]:
    return {matrix.name: matrix.why_dense for matrix in matrices(model)}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 2), {"weight": (3, 2)}),
        (nn.Bilinear(3, 4, 2), {"weight": (12, 8)}),
        (nn.Conv1d(4, 6, 3, groups=2), {"weight": (6, 18)}),
        (nn.ConvTranspose2d(4, 6, 3), {"weight": (54, 36)}),
        (nn.LSTM(3, 4, proj_size=2), {"weight_ih_l0": (3, 16), "weight_hh_l0": (2, 16), "weight_hr_l0": (4, 2)}),
        (
            nn.RNN(3, 4, bidirectional=True),
            {f"weight_{k}_l0{way}": (n, 4) for k, n in (("ih", 3), ("hh", 4)) for way in ("", "_reverse")},
        ),
        (nn.LSTMCell(3, 4), {"weight_ih": (3, 16), "weight_hh": (4, 16)}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": (4, 12), "out_proj.weight": (4, 4)}),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            {"q_proj_weight": (4, 4), "k_proj_weight": (3, 4), "v_proj_weight": (5, 4), "out_proj.weight": (4, 4)},
        ),
        (Conv1D(6, 3), {"weight": (3, 6)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_matrices_that_multiply_and_their_fans(module: nn.Module, expected: dict[str, tuple[int, int]]) -> None:
    assert {layer.name: (layer.fan_in, layer.fan_out) for layer in Layout.of(module).layers} == expected


def test_embeddings_and_heads_tied_to_them_stay_dense() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 9, bias=False), "body": nn.Linear(4, 4), "words": nn.Embedding(9, 4)})
    assert names(model) == ["head.weight", "body.weight"]
    model["head"].weight = model["words"].weight
    assert names(model) == ["body.weight"]
    assert dense(model)["head.weight"] == "an embedding, or tied to one"
    assert names(model, include=["head.weight"]) == ["head.weight", "body.weight"]


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (parametrizations.weight_norm, "0.parametrizations.weight.original1"),
        (spectral_norm, "0.weight_orig"),
        (lambda layer: torch_prune.random_unstructured(layer, "weight", 0.5), "0.weight_orig"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_computed_weight_is_listed_once_and_not_computed(
    compute: Callable[[nn.Module], nn.Module], name: str
) -> None:
    model = nn.Sequential(compute(nn.Linear(4, 4)), nn.Linear(4, 4))
    before = copy.deepcopy(model.state_dict())
    layout = Layout.of(model)
    assert [layer.name for layer in layout.layers] == ["1.weight"]
    sizes = {row.name: row.size for row in Mask.full(layout).summary(model).rows}
    assert [each for each, size in sizes.items() if size == 16] == [name, "1.weight"]
    with pytest.warns(UserWarning, match=rf"{name}, a parameter of .*\. Prune them with include="):
        autosparse.prune(model, criterion="magnitude", sparsity=0.5)
    assert names(model, include=[name]) == [name, "1.weight"]
    assert dense_warning(model, layout, exclude=["0.*"]) is None
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Spectrum(nn.Module):
    """Complex weights, and embeddings with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.complex = nn.Linear(4, 4, dtype=torch.cfloat)
        self.words = nn.Embedding(4, 4, sparse=True)
        self.real = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (Spectrum, "complex.weight", "complex64, not real floating-point numbers"),
        (Spectrum, "words.weight", "an embedding with sparse gradients; make it with sparse=False"),
        (lambda: torch.jit.script(nn.Linear(4, 4)), "weight", r"scripted; prune the model before torch\.jit\.script"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_include_of_an_unprunable_parameter_raises(make: Callable[[], nn.Module], name: str, why: str) -> None:
    model = make()
    with pytest.raises(UserError, match=rf"include='{name}' finds nothing to prune: {name} is {why}$"):
        Layout.of(model, include=[name])


def test_include_is_not_advised_for_complex_weights() -> None:
    model = Spectrum()
    message = dense_warning(model, Layout.of(model), exclude=["words.*"])
    assert message is not None
    assert message.endswith("numbers. Say that they stay with exclude=, by names or patterns of names")
    assert names(model, include=["*"]) == ["real.weight", "real.bias"]


def test_a_pattern_may_be_one_string_and_any_name_of_a_tied_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4), nn.Linear(4, 4, bias=False))
    model[1].weight, model[3].weight = model[0].weight, model[2].weight
    assert names(model) == ["0.weight"]
    assert names(model, include="3.weight") == ["0.weight", "2.weight"]
    assert names(model, include="3.weight", exclude="1.weight") == ["2.weight"]
    assert dense_warning(model, Layout.of(model), exclude="3.weight") is None


def test_empty_and_one_dimensional_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.append(nn.Module())
    model[2].weight = nn.Parameter(torch.zeros(0, 4))
    assert [*dense(model)] == ["0.weight"]


def test_patterns_add_and_leave_out() -> None:
    model = nn.Sequential(Experts(), nn.Linear(4, 4), nn.Linear(4, 4))
    assert names(model) == ["1.weight", "2.weight"]
    assert names(model, include=["*gate_up"]) == ["0.gate_up", "1.weight", "2.weight"]
    assert names(model, include=["0.*"], exclude=["0.scale", "1.*"]) == ["0.gate_up", "2.weight"]
    for option in ("include", "exclude"):
        with pytest.raises(UserError, match=r"no parameter's name matches 'heads\.\*'; they are 0\.gate_up, 0\.scale"):
            Layout.of(model, **{option: ["heads.*"]})
    with pytest.raises(UserError, match=r"no prunable weights \(0\.gate_up is a parameter of Experts\)"):
        Layout.of(nn.Sequential(Experts()))


def test_the_first_tensor_that_differs_is_named() -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 3)))
    others: list[tuple[nn.Module, str]] = [
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 3)), r"1\.weight \(3, 4\) is \(2, 4\) there"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), r"2\.weight \(3, 3\) is not there"),
    ]
    for other, message in others:
        with pytest.raises(UserError, match=message):
            layout.weights(other)


@pytest.mark.parametrize("alias", [Tensor.t, lambda weight: weight[:2], lambda weight: weight.view(8, 2)])
def test_two_parameters_in_one_memory_raise(alias: Callable[[Tensor], Tensor]) -> None:
    model = nn.Module()
    model.first, model.loose = nn.Linear(4, 4), nn.Parameter(torch.zeros(4, 4))
    model.second = nn.Linear(4, 4)
    model.second.weight = nn.Parameter(alias(model.first.weight.data))
    with pytest.raises(UserError, match=r"first\.weight and second\.weight|second\.weight and first\.weight"):
        Layout.of(model)
    model.loose = nn.Parameter(model.second.weight.data)
    with pytest.raises(UserError, match=r"(first|second)\.weight and loose|loose and (first|second)\.weight"):
        Layout.of(model, exclude="second.weight")


def test_parts_of_one_memory_without_overlap_are_layers() -> None:
    model, whole = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(2, 4), nn.Linear(2, 4)), torch.randn(4, 4)
    model[0].weight, model[1].weight = nn.Parameter(whole[:2]), nn.Parameter(whole[2:])
    other = torch.randn(4, 4)
    model[2].weight, model[3].weight = nn.Parameter(other[:, :2]), nn.Parameter(other[:, 2:])
    assert len(names(model)) == 4
