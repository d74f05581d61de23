import json

import pytest
import torch
from torch import nn

from autosparse.errors import UserError
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


def test_layer_at(model: nn.Module) -> None:
    layout = Layout.of(model)
    for layer in layout.layers:
        assert layout.layer_at(layer.offset) is layer
        assert layout.layer_at(layer.offset + layer.size - 1) is layer


def test_json_round_trip(model: nn.Module) -> None:
    layout = Layout.of(model)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_a_shared_weight_is_listed_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    assert Layout.of(nn.Sequential(first, second)).size == 16


def test_a_model_of_another_layout_is_refused(model: nn.Module, convolutional: nn.Module) -> None:
    with pytest.raises(UserError, match="not those of this layout"):
        Layout.of(model).weights(convolutional)
