import pytest
import torch
from torch import nn

from autosparse.pruning import Layout


def test_weights_of_convolutions_and_linear_layers_in_order(convolutional: nn.Module) -> None:
    layout = Layout.of(convolutional)
    assert [(layer.name, layer.shape, layer.offset) for layer in layout.layers] == [
        ("0.weight", (8, 1, 3, 3), 0),
        ("5.weight", (10, 512), 72),
    ]
    assert (layout.layers[0].fan_in, layout.layers[0].fan_out) == (9, 72)
    assert layout.size == 72 + 5120


def test_flatten_and_unflatten_are_inverse_and_unflatten_copies_nothing(model: nn.Module) -> None:
    layout = Layout.of(model)
    flat = layout.flatten(layout.weights(model))
    views = layout.unflatten(flat)
    assert all(torch.equal(views[name], weight) for name, weight in layout.weights(model).items())
    views["fc2.weight"].zero_()
    assert not flat[layout.layers[1].offset :][: layout.layers[1].size].any()
    with pytest.raises(ValueError, match="flat tensor of 50200"):
        layout.unflatten(flat[:-1])
