"""A mask that is held: removed weights are zero whatever trains the network."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from tests.world import world


class Attention(nn.Module):
    """Self-attention, a recurrent layer, and two linear layers on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, x, x)[0]
        found: Tensor = self.second(self.first(self.recurrent(x)[0]).relu())
        return found


def network() -> nn.Module:
    torch.manual_seed(0)
    return Attention()


def half(model: nn.Module) -> Mask:
    layout = Layout.of(model)
    return Mask(layout, torch.rand(layout.size, generator=torch.Generator().manual_seed(1)) < 0.5)


def step(model: nn.Module, optimizer: Any, seed: int = 0) -> None:
    optimizer.zero_grad()
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(seed))
    model(x).square().mean().backward()
    optimizer.step()


def removed_are_zero(mask: Mask, tensors: dict[str, Any]) -> bool:
    kept = mask.layout.unflatten(mask.kept)
    return all(not tensors[name].detach()[~kept[name]].any() for name in kept)


def holds(mask: Mask, model: nn.Module) -> bool:
    """Removed weights are zero, and hardly any of the others are."""
    flat = mask.layout.flatten(mask.layout.weights(model))
    return not flat[~mask.kept].any() and bool((flat != 0).sum() >= mask.count - 2)


def optimizers(model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    return [
        SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        Adam(parameters, 0.01, amsgrad=True),
        Adam(parameters, 0.01, fused=True),
    ]


@pytest.mark.parametrize("number", range(3))
def test_every_step_and_all_momentum(number: int) -> None:
    model = network()
    optimizer, mask = optimizers(model)[number], half(model)
    step(model, optimizer)  # momentum from before
    before = copy.deepcopy(model.state_dict())
    mask.hold(model, optimizer)
    assert holds(mask, model)
    for seed in range(3):
        step(model, optimizer, seed)
        assert holds(mask, model)
    weights = mask.layout.weights(model)
    assert any(not torch.equal(weight[weight != 0], before[name][weight != 0]) for name, weight in weights.items())
    for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        states = {name: optimizer.state[weight].get(key) for name, weight in weights.items()}
        assert None in states.values() or removed_are_zero(mask, states)


def test_gradients_are_masked_before_they_are_clipped() -> None:
    model = network()
    mask = half(model)
    mask.hold(model, SGD(model.parameters(), 0.1))
    model(torch.ones(1, 3, 8)).sum().backward()
    assert removed_are_zero(mask, {name: weight.grad for name, weight in mask.layout.weights(model).items()})


def test_what_is_loaded_is_masked_also_through_a_tied_layer() -> None:
    model, other = network(), network()
    mask, optimizer = half(model), Adam(model.parameters())
    step(model, optimizer)
    dense = copy.deepcopy(optimizer.state_dict())
    mask.hold(model, optimizer)
    for target, source in ((model, other), (model.recurrent, other.recurrent)):
        target.load_state_dict(source.state_dict())
        assert holds(mask, model)
    optimizer.load_state_dict(dense)
    weights = mask.layout.weights(model)
    assert removed_are_zero(mask, {name: optimizer.state[weight]["exp_avg"] for name, weight in weights.items()})


def test_release_and_context() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1)
    with mask.hold(model, optimizer) as hold:
        step(model, optimizer)
        assert holds(mask, model)
    hold.release()
    step(model, optimizer)
    assert not holds(mask, model)
    model.load_state_dict(network().state_dict())
    assert not holds(mask, model)


def test_copies_and_files_work_and_hold_nothing() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1)
    mask.hold(model, optimizer)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for other in (copy.deepcopy(model), torch.load(saved, weights_only=False)):
        assert holds(mask, other)
        other.load_state_dict(network().state_dict())
        assert not holds(mask, other)
        step(other, SGD(other.parameters(), 0.1))
    assert holds(mask, model)


def test_averages_of_the_model_stay_masked() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1)
    mask.hold(model, optimizer)
    averages = [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    for seed in range(3):
        step(model, optimizer, seed)
        for average in averages:
            average.update_parameters(model)
    assert all(holds(mask, average) for average in averages)


def test_compiled() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    mask, optimizer = half(compiled), SGD(compiled.parameters(), 0.1)
    mask.hold(compiled, optimizer)
    step(compiled, optimizer)
    assert holds(mask, model)


def test_under_a_gradient_scaler() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1)
    mask.hold(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 3, 8)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert holds(mask, model)


def test_under_accelerate(accelerator: Accelerator) -> None:
    model = network()
    model, optimizer = accelerator.prepare(model, SGD(model.parameters(), 0.1))
    mask = half(model)
    mask.hold(model, optimizer)
    step(model, optimizer)
    assert holds(mask, model)


def test_a_frozen_weight_and_one_that_is_thawed() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1)
    model.first.weight.requires_grad_(False)
    mask.hold(model, optimizer)
    step(model, optimizer)
    model.first.weight.requires_grad_(True)
    step(model, optimizer)
    assert holds(mask, model)


def test_gradients_that_were_written_by_hand() -> None:
    model = network()
    mask, optimizer = half(model), SGD(model.parameters(), 0.1, momentum=0.9)
    mask.hold(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = mask.layout.weights(model)
    momentum = {name: optimizer.state[weight]["momentum_buffer"] for name, weight in weights.items()}
    assert removed_are_zero(mask, momentum)
    assert holds(mask, model)


def test_an_optimizer_that_moves_weights_without_a_gradient() -> None:
    class Noisy(SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # as Langevin dynamics does
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(torch.randn_like(parameter), alpha=group["lr"])

    model = network()
    mask, optimizer = half(model), Noisy(model.parameters(), 0.1)
    mask.hold(model, optimizer)
    optimizer.step()
    assert holds(mask, model)


def test_several_optimizers() -> None:
    model = network()
    mask = half(model)
    first, second = (SGD(part.parameters(), 0.1) for part in (model.attention, model.recurrent))
    mask.hold(model, first, second)
    for optimizer in (first, second):
        step(model, optimizer)
        assert holds(mask, model)


def test_an_optimizer_of_another_model_or_none_is_refused() -> None:
    model = network()
    with pytest.raises(UserError, match=r"mask\.hold\(model, optimizer\)"):
        Mask.full(Layout.of(model)).hold(model)
    with pytest.raises(UserError, match=r"has none of the weights of the mask \(attention\.in_proj_weight, "):
        half(model).hold(model, SGD(network().parameters(), 0.1))


def in_a_world(folder: Path) -> tuple[bool, bool, bool]:
    """What one rank does: steps under DistributedDataParallel, and of a model that FSDP2 has sharded."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = network()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    mask, optimizer = half(model), SGD(wrapped.parameters(), 0.1, momentum=0.9)
    mask.hold(wrapped, optimizer)
    for seed in range(2):
        step(wrapped, optimizer, 10 * seed + rank)
    optimizer.zero_grad()
    wrapped(torch.randn(4, 3, 8) + rank).square().mean().backward()  # masked before a step sees the gradients
    masked = removed_are_zero(mask, {name: weight.grad for name, weight in mask.layout.weights(model).items()})

    sharded = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8))
    other = half(sharded)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    optimizer = SGD(sharded.parameters(), 0.1, momentum=0.9)
    other.hold(sharded, optimizer)
    for seed in range(2):
        step(sharded, optimizer, 10 * seed + rank)
    whole: dict[str, Any] = {name: weight.full_tensor() for name, weight in other.layout.weights(sharded).items()}
    alive = sum(int((weight != 0).sum()) for weight in whole.values())
    torch.distributed.destroy_process_group()
    return holds(mask, model), masked, removed_are_zero(other, whole) and alive == other.count


def test_on_several_processes(tmp_path: Path) -> None:
    assert world(2, in_a_world, tmp_path) == [(True, True, True)] * 2
