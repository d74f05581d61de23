from pkgutil import resolve_name

import pytest
import torch

from autosparse import networks
from autosparse.errors import UserError
from autosparse.pruning import Layout


@pytest.mark.parametrize(
    ("name", "shape", "classes", "prunable"),
    [
        ("lenet-300-100", (1, 28, 28), 10, 266_200),
        ("resnet8", (3, 16, 16), 10, 77_360),
        ("resnet20", (3, 32, 32), 10, 270_896),
        ("resnet18", (3, 32, 32), 10, 11_164_352),
        ("resnet18", (3, 64, 64), 200, 11_261_632),
        ("vgg7", (3, 16, 16), 10, 72_496),
        ("vgg16", (3, 32, 32), 10, 14_715_584),
        ("vgg19", (3, 32, 32), 100, 20_070_080),
        ("vgg19-4096", (3, 32, 32), 10, 139_597_504),
        ("vgg19-4096", (3, 32, 32), 1000, 143_652_544),
    ],
)
def test_prunable_counts(name: str, shape: tuple[int, int, int], classes: int, prunable: int) -> None:
    with torch.device("meta"):
        model = resolve_name(networks.NETWORKS[name])(shape, classes)
    assert Layout.of(model).size == prunable


@pytest.mark.parametrize("name", ["lenet-300-100", "resnet8", "resnet18", "vgg7", "vgg16"])
def test_forward_shape_for_any_channels(name: str) -> None:
    model = networks.build(name, (1, 32, 32), 7).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (networks.build("resnet8", (3, 16, 16), 10, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert torch.equal(first["bn1.weight"], torch.ones(16))  # batch norm starts as the identity
    assert torch.equal(first["bn1.running_var"], torch.ones(16))
    assert not first["bn1.running_mean"].any()


@pytest.mark.parametrize(("fan", "n"), [("fan_in", 784), ("fan_out", 300)])
def test_kaiming_normal(fan: str, n: int) -> None:
    model = networks.build("lenet-300-100", fan=fan)
    assert model.get_parameter("fc1.weight").std().item() == pytest.approx((2 / n) ** 0.5, rel=0.01)
    assert not model.get_parameter("fc1.bias").any()


def test_torch_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs() -> None:
    model = networks.draw("lenet-300-100", (1, 28, 28), 10, init="torch")
    for part in ("fc1.weight", "fc1.bias"):
        assert model.get_parameter(part).abs().max().item() == pytest.approx(1 / 28, rel=0.02)
    state = networks.draw("resnet8", (3, 16, 16), 10, init="torch").state_dict()
    assert torch.equal(state["bn1.weight"], torch.ones(16))


def test_unknown_network_and_small_images_raise() -> None:
    with pytest.raises(UserError, match="unknown network 'alexnet'; valid: lenet-300-100, lenet-500-300, resnet8"):
        networks.build("alexnet")
    with pytest.raises(UserError, match="halves its images 5 times and needs 32 x 32 or larger, got 28 x 28"):
        networks.build("vgg16", (1, 28, 28))
