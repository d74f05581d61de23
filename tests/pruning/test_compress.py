"""A pruned model in a small file, and back."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autosparse.errors import UserError
from autosparse.pruning import Mask
from tests.models import random_mask


def fresh(model: nn.Module) -> nn.Module:
    """Another model of the same shape, in which nothing is as it was."""
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        tensor.fill_(7)
    return other


@pytest.mark.parametrize(
    ("density", "dtype"), [(0.0, torch.float32), (0.01, torch.bfloat16), (0.5, torch.float32), (1.0, torch.bfloat16)]
)
def test_bit_for_bit(convolutional: nn.Module, density: float, dtype: torch.dtype, tmp_path: Path) -> None:
    model = convolutional.to(dtype)
    mask, other = random_mask(model, density), fresh(model)
    mask.compress(torch.compile(model, backend="eager"), tmp_path / "model.safetensors")
    with torch.device("meta"):  # As `torch.set_default_device` does.
        found = Mask.restore(torch.compile(other, backend="eager"), tmp_path / "model.safetensors")
    assert found.layout == mask.layout
    assert torch.equal(found.kept, mask.kept)
    mask.apply_(model)  # removed weights count as zero, whatever they were
    for name, tensor in model.state_dict().items():
        same = [each.reshape(-1).view(torch.uint8) for each in (other.state_dict()[name], tensor)]
        assert torch.equal(*same), name


def test_only_what_is_kept_is_in_the_file(model: nn.Module, tmp_path: Path) -> None:
    sizes = {}
    for density in (0.5, 0.01):
        mask = random_mask(model, density)
        mask.compress(model, tmp_path / "model.safetensors")
        tensors = load_file(tmp_path / "model.safetensors")
        assert sum(len(tensor) for name, tensor in tensors.items() if name.endswith(":values")) == mask.count
        sizes[density] = {name.rpartition(":")[2] for name in tensors if name.startswith("fc1.weight")}
    assert sizes == {0.5: {"values", "bits"}, 0.01: {"values", "positions"}}


def test_a_tied_weight_is_there_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"words": nn.Embedding(5, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    mask, other = random_mask(model, 0.5), fresh(model)
    mask.compress(model, tmp_path / "model.safetensors")
    assert "b.weight" not in str(load_file(tmp_path / "model.safetensors").keys())
    Mask.restore(other, tmp_path / "model.safetensors")
    mask.apply_(model)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_file_that_cannot_be_restored_raises(model: nn.Module, convolutional: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="no compressed model at"):
        Mask.restore(model, path)
    mask = random_mask(model, 0.5)
    mask.compress(model, path)
    with pytest.raises(UserError, match=r"of another model: 0\.weight is not in the file there and float32 \(8, 1, "):
        Mask.restore(convolutional, path)
    with pytest.raises(UserError, match=r"fc1\.weight is float32 \(300, 64\) there and float64 \(300, 64\) here"):
        Mask.restore(model.double(), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="is damaged"):
        Mask.restore(model, path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is not a compressed model"):
        Mask.restore(model, path)


def test_state_that_is_not_a_tensor_raises(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: object) -> None:
            pass

    model = nn.Sequential(Extra(2, 2))
    with pytest.raises(UserError, match=r"0\._extra_state is dict, not a tensor"):
        random_mask(model, 1.0).compress(model, tmp_path / "model.safetensors")
