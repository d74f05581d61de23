from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autosparse.errors import UserError
from autosparse.pruning import Mask
from tests.models import random_mask


def test_densities(model: nn.Module) -> None:
    mask = random_mask(model, 0.25)
    layers = mask.layer_densities()
    assert mask.density == mask.count / 50200
    assert mask.sparsity == pytest.approx(1 - mask.density)
    assert sum(layers[layer.name] * layer.size for layer in mask.layout.layers) == pytest.approx(mask.count)
    assert Mask.full(mask.layout).density == 1.0


def test_apply_zeroes_what_is_removed_and_nothing_else(model: nn.Module) -> None:
    mask = random_mask(model, 0.25)
    before = mask.layout.flatten(mask.layout.weights(model)).clone()
    with torch.no_grad():
        model.get_parameter("fc1.weight")[0, 0] = torch.inf  # zero times infinity must not survive as NaN
    mask.kept[0] = False
    mask.apply_(model)
    after = mask.layout.flatten(mask.layout.weights(model))
    assert torch.equal(after[mask.kept], before[mask.kept])
    assert not after[~mask.kept].any()


def test_the_mask_of_a_layer_by_its_name(model: nn.Module) -> None:
    mask = random_mask(model, 0.25)
    assert mask["fc2.weight"].dtype == torch.bool
    assert mask["fc2.weight"].shape == model.get_parameter("fc2.weight").shape
    assert torch.equal(torch.cat([mask[layer.name].reshape(-1) for layer in mask.layout.layers]), mask.kept)
    with pytest.raises(UserError, match=r"unknown layer 'fc2'; valid: fc1\.weight"):
        mask["fc2"]


@pytest.mark.parametrize("folder", [".", "", "/", "made"])
def test_a_folder_as_the_path_of_a_file_is_refused(
    folder: str, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    for write in (random_mask(model, 0.25).save, lambda path: random_mask(model, 0.25).compress(model, path)):
        with pytest.raises(UserError, match=rf"^{Path(folder)} is a folder; give the path of a file$"):
            write(folder)
    assert [*Path().rglob("*")] == [Path("made")]


def test_export_to_torch(model: nn.Module) -> None:
    mask = random_mask(model, 0.25)
    mask.export(torch.compile(model, backend="eager"), torch.zeros(2, 1, 8, 8))
    pruned = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kept = mask.layout.unflatten(mask.kept)
    assert all(not weight[~kept[f"{name}.weight"]].any() for name, weight in pruned.items())
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    assert model.get_parameter("fc1.weight_orig").grad is not None


def tied() -> nn.Module:
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    layers[2].weight = layers[1].weight
    return layers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied, r"1\.weight is one weight under several names \(1\.weight, 2\.weight\)"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), r"1\.weight_ih_l0 is read by LSTM"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2)),
            r"1\.in_proj_weight is read by Multihead",
        ),
        (
            lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 4)),
            r"0\.self_attn\.in_proj_weight is read by TransformerEncoderLayer",
        ),
    ],
)
def test_weight_out_of_reach_of_the_hook_is_not_exported(make: Callable[[], nn.Module], message: str) -> None:
    network = make()
    before = [*network.state_dict()]
    with pytest.raises(UserError, match=message) as refused:
        random_mask(network, 0.25).export(network, torch.zeros(1, 4))
    assert "\n" not in str(refused.value)
    assert [*network.state_dict()] == before


class Scores(nn.Module):
    """Reads weights as Swin and BEiT do, and ties one by its use; has a head that only training calls."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read = read
        self.inputs, self.values, self.auxiliary = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x) if self.read != "standardized" else x @ (self.inputs.weight - self.inputs.weight.mean())
        x = nn.functional.linear(x, self.values.weight, self.values.bias) if self.read == "past" else self.values(x)
        found: Tensor = self.auxiliary(x) if self.training else x @ self.inputs.weight.t()
        return found


@pytest.mark.parametrize(("read", "name"), [("past", "values.weight"), ("standardized", "inputs.weight"), ("", None)])
def test_weights_read_without_a_call_of_their_module_are_not_exported(read: str, name: str | None) -> None:
    network = Scores(read)
    if name is None:
        random_mask(network, 0.25).export(network, torch.zeros(1, 4))
        assert "auxiliary.weight_mask" in network.state_dict()
        return
    before = [*network.state_dict()]
    with pytest.raises(UserError, match=rf"the mask: {name} is read without a call of its module; use mask\.apply_"):
        random_mask(network, 0.25).export(network, torch.zeros(1, 4))
    assert [*network.state_dict()] == before
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_saved_mask_is_loaded_and_a_damaged_one_raises(model: nn.Module, tmp_path: Path) -> None:
    mask, path = random_mask(model, 0.25), tmp_path / "mask.safetensors"
    with pytest.raises(UserError, match="no mask at"):
        Mask.load(path)
    mask.save(path)
    loaded = Mask.load(path)
    assert loaded.layout == mask.layout
    assert torch.equal(loaded.kept, mask.kept)
    assert loaded == mask != Mask.full(mask.layout)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a mask file, or damaged: its content is not what was written"):
        Mask.load(path)
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!")
    with pytest.raises(UserError, match="is not a mask file"):
        Mask.load(path)
    with pytest.raises(ValueError, match="a mask is bool"):
        Mask(mask.layout, torch.zeros(3, dtype=torch.bool))
