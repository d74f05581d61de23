import pytest
import torch

from autosparse.autos import BACKBONES, Features
from autosparse.autos.backbones import make_network


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("names", [("grad",), ("theta", "grad")])
def test_backbones_map_parameters_to_numbers(name: str, names: tuple[str, ...]) -> None:
    network = make_network(name, Features(names=names), seed=0).eval()
    with torch.no_grad():
        assert network(torch.randn(3, len(names))).shape == (3,)


def test_backbones_have_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        count = {name: sum(p.numel() for p in make_network(name, Features(), 0).parameters()) for name in BACKBONES}
    assert count["mlp"] == pytest.approx(1.19e6, rel=0.01)
    assert count["resnet18"] == pytest.approx(11.2e6 + 64 * 3072, rel=0.01)
    assert count["vgg19"] == pytest.approx(20.0e6 + 64 * 4096 + 4096 * 12288 + 3.1e6, rel=0.01)
