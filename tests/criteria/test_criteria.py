import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosparse.criteria import Scoring, make_criterion
from autosparse.criteria.gradient import mean_gradient, scoring_mode
from autosparse.criteria.table import CRITERIA, TABLE
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from autosparse.tasks import Data
from tests.criteria.quick import quick, scores_or_mask


def scores(name: str, model: nn.Module, data: Data, seed: int = 0) -> torch.Tensor:
    criterion, k = quick(name, seed), Layout.of(model).size // 20
    return scores_or_mask(criterion, model, Scoring(data.scoring(100, limit=3)), k)


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_flat_float32_and_the_model_is_left_as_it_was(
    name: str, convolutional: nn.Module, data: Data
) -> None:
    frozen = convolutional[5].weight.requires_grad_(False)
    convolutional[4].eval()
    convolutional[0].weight.grad = torch.ones_like(convolutional[0].weight)
    before = {key: value.clone() for key, value in convolutional.state_dict().items()}
    state = [{**vars(module), "_forward_hooks": {}} for module in convolutional.modules()]
    result = scores(name, convolutional, data)
    assert result.shape == (Layout.of(convolutional).size,)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert not result.isnan().any()
    assert [module.training for module in convolutional.modules()] == [True, True, True, True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in convolutional.state_dict().items())
    assert not frozen.requires_grad
    assert [p.grad is None for p in convolutional.parameters()] == [False] + [True] * 5
    assert (convolutional[0].weight.grad == 1).all()
    for module, attributes in zip(convolutional.modules(), state, strict=True):
        assert vars(module).keys() == attributes.keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.seeded])
def test_seeded_criterion_is_a_function_of_the_seed(name: str, model: nn.Module, data: Data) -> None:
    one, same, other = (scores(name, model, data, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_magnitude(model: nn.Module, data: Data) -> None:
    expected = torch.cat([model.get_parameter(f"fc{k}.weight").abs().flatten() for k in (1, 2, 3)])
    assert torch.equal(scores("magnitude", model, data), expected)


def test_snip_against_finite_differences(model: nn.Module, data: Data) -> None:
    model = model.double()
    batches = [(x.double(), y) for x, y in data.scoring(100, limit=3)]
    layout = Layout.of(model)
    result = make_criterion("snip")(model, Mask.full(layout), Scoring(batches))

    def loss() -> float:
        total = sum(F.cross_entropy(model(x), y, reduction="sum").item() for x, y in batches)
        return total / sum(len(y) for _, y in batches)

    for layer in layout.layers:
        weight, index = model.get_parameter(layer.name).data.view(-1), layer.size // 3
        value = weight[index].item()
        step = 1e-5
        weight[index] = value + step
        above = loss()
        weight[index] = value - step
        below = loss()
        weight[index] = value
        expected = abs(value * (above - below) / (2 * step))
        assert result[layer.offset + index].item() == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_the_gradient_is_of_the_mean_loss_whatever_the_batches(model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    small, large = (mean_gradient(model, layout, Scoring(data.scoring(size))) for size in (97, 1350))
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-6)
    F.cross_entropy(*[model(x) if k == 0 else y for x, y in data.scoring(1350) for k in (0, 1)]).backward()
    expected = layout.flatten({name: weight.grad for name, weight in layout.weights(model).items()})
    torch.testing.assert_close(large, expected, rtol=1e-3, atol=1e-6)


def test_batch_norm_sees_the_batch_and_dropout_is_off(convolutional: nn.Module, data: Data) -> None:
    x, _ = next(iter(data.scoring(100)))
    norm = convolutional[1]
    with scoring_mode(convolutional):
        normed = norm(convolutional[0](x))
        assert torch.equal(convolutional(x), convolutional(x))  # no dropout
    assert normed.mean((0, 2, 3)).abs().max() < 1e-5
    with scoring_mode(convolutional, "running"):
        torch.testing.assert_close(norm(x.expand(-1, 8, -1, -1)), x.expand(-1, 8, -1, -1), rtol=1e-4, atol=1e-4)
    assert norm.training
    assert norm.track_running_stats
    assert norm.num_batches_tracked == 0


def test_frozen_weights_can_be_scored_and_stay_frozen(model: nn.Module, data: Data) -> None:
    expected = scores("snip", model, data)
    model.requires_grad_(False)
    assert torch.equal(scores("snip", model, data), expected)
    assert not any(p.requires_grad for p in model.parameters())


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"unknown criterion 'snap'; did you mean snip\? valid: random, magnitude"):
        make_criterion("snap")
    with pytest.raises(UserError, match="batch-norm mode"), scoring_mode(nn.Linear(1, 1), "eval"):
        pass
