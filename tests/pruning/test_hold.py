"""A mask that is held: removed weights are zero whatever trains the network."""

import copy
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import autosparse
from autosparse.errors import UserError
from autosparse.pruning import Mask
from tests.models import random_mask
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


@pytest.mark.parametrize(
    "optimizer_of",
    [
        partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        partial(Adam, lr=0.01, amsgrad=True),
        partial(Adam, lr=0.01, fused=True),
    ],
)
def test_every_step_and_all_momentum(optimizer_of: Callable[..., Optimizer]) -> None:
    model = network()
    optimizer, mask = optimizer_of(model.parameters()), random_mask(model)
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


def test_what_is_loaded_is_masked_also_through_a_tied_layer() -> None:
    model, other = network(), network()
    mask, optimizer = random_mask(model), Adam(model.parameters())
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
    mask, optimizer = random_mask(model), SGD(model.parameters(), 0.1)
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
    mask, optimizer = random_mask(model), SGD(model.parameters(), 0.1)
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
    mask, optimizer = random_mask(model), SGD(model.parameters(), 0.1)
    mask.hold(model, optimizer)
    averages = [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    for seed in range(3):
        step(model, optimizer, seed)
        for average in averages:
            average.update_parameters(model)
    assert all(holds(mask, average) for average in averages)


def test_under_accelerate(accelerator: Accelerator) -> None:
    model = network()
    model, optimizer = accelerator.prepare(model, SGD(model.parameters(), 0.1))
    mask = random_mask(model)
    mask.hold(model, optimizer)
    step(model, optimizer)
    assert holds(mask, model)


def test_frozen_weights_are_named_and_their_gradients_masked_once_thawed() -> None:
    model = network()
    frozen = model.first.weight.requires_grad_(False)
    mask, optimizer = random_mask(model), SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    with pytest.warns(
        UserWarning, match=r"frozen layers \(requires_grad=False\): first\.weight; prune\(\.\.\., exclude="
    ) as seen:
        mask.hold(model, optimizer)
    assert (len(seen), seen[0].filename) == (1, __file__)
    step(model, optimizer)
    frozen.requires_grad_(True)
    model(torch.ones(1, 3, 8)).sum().backward()
    assert removed_are_zero(mask, {name: weight.grad for name, weight in mask.layout.weights(model).items()})
    optimizer.add_param_group({"params": [frozen], "weight_decay": -1.0})
    frozen.data.fill_(1.0)
    optimizer.step()
    assert holds(mask, model)


def test_gradients_that_were_written_by_hand() -> None:
    model = network()
    mask, optimizer = random_mask(model), SGD(model.parameters(), 0.1, momentum=0.9)
    mask.hold(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = mask.layout.weights(model)
    momentum = {name: optimizer.state[weight]["momentum_buffer"] for name, weight in weights.items()}
    assert removed_are_zero(mask, momentum)
    assert holds(mask, model)


def test_weights_in_no_optimizer_are_named_and_apply_zeroes_them() -> None:
    model = network()
    mask = random_mask(model)
    first, second = (SGD(part.parameters(), 0.1) for part in (model.attention, model.recurrent))
    with pytest.warns(UserWarning, match=r"none of the optimizers has these layers: first\.weight; give all") as seen:
        hold = mask.hold(model, first, second)
    assert (len(seen), seen[0].filename) == (1, __file__)
    for optimizer in (first, second):
        step(model, optimizer)
        assert holds(mask, model)
    with torch.no_grad():
        model.first.weight.add_(1.0)
    hold.apply()
    assert holds(mask, model)


class Lookahead(Optimizer):
    """As first implemented: no `Optimizer.__init__`, slow weights in a list, an attribute of its own name."""

    def __init__(self, fast: Optimizer) -> None:
        self.fast, self.param_groups, self.count = fast, fast.param_groups, 0
        self.slow = [[weight.detach().clone() for weight in group["params"]] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.fast.step(closure)
        self.count += 1
        for group, slow in zip(self.param_groups, self.slow, strict=True):
            for weight, other in zip(group["params"], slow, strict=True):
                if self.count % 2 == 0:
                    weight.copy_(other.lerp_(weight, 0.5))
        return loss


class SAM(Optimizer):
    """Two passes, the second at weights that are perturbed; its other optimizer has a state of its own."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base_optimizer = base

    def step(self, closure: Any = None) -> Any:
        weights = [weight for group in self.param_groups for weight in group["params"]]
        loss, before = closure(), [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn_like(weight), alpha=0.1)
        closure()
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
        self.base_optimizer.step()
        return loss


class ScheduleFree:
    """Trains at an average of its weights and others, in the state; no subclass of `Optimizer`."""

    def __init__(self, *inner: Optimizer) -> None:
        self.inner = inner
        self.others = {weight: weight.detach().clone() for each in inner for weight in each.param_groups[0]["params"]}

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for weight, other in self.others.items():
                weight.data, other.data = other.data, weight.data
            for each in self.inner:
                each.step()
            for weight, other in self.others.items():
                weight.data, other.data = other.data.lerp(weight, 0.1), weight.data
        return loss


@pytest.mark.parametrize(
    ("wrap", "scheduled"),
    [(Lookahead, True), (SAM, False), (ScheduleFree, False), (lambda inner: Lookahead(SAM(inner)), True)],
)
def test_removed_weights_are_zero_under_wrappers_of_optimizers(wrap: Any, scheduled: bool) -> None:
    model = network()
    mask, inner = random_mask(model), SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    step(model, inner)  # momentum from before
    optimizer, x, called = wrap(inner), torch.ones(4, 3, 8), []

    @torch.enable_grad()
    def closure() -> Tensor:
        inner.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()
        return loss

    hold = mask.hold(model, optimizer)
    model.register_forward_hook(lambda *_: called.append(holds(mask, model)))
    if scheduled and isinstance(optimizer, Optimizer):
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(4):
        optimizer.step(closure)
        assert holds(mask, model)
    assert len(called) >= 4
    assert all(called)
    hold.release()
    with torch.no_grad():
        model.first.weight.fill_(1.0)
    optimizer.step(closure)
    assert not holds(mask, model)


def test_state_that_a_wrapper_loads_is_masked() -> None:
    class Wrapper(Lookahead):
        def load_state_dict(self, state: Any) -> None:
            self.state = state

    model = network()
    mask, optimizer = random_mask(model), Wrapper(SGD(model.parameters(), 0.1))
    hold = mask.hold(model, optimizer)
    for held in (True, False):
        optimizer.load_state_dict({weight: {"slow": torch.ones_like(weight)} for weight in model.parameters()})
        weights = mask.layout.weights(model)
        slow = {name: optimizer.state[weight]["slow"] for name, weight in weights.items()}
        assert removed_are_zero(mask, slow) == held
        hold.release()


@pytest.mark.parametrize("call", ["plain", "compiled", "without gradients", "in inference mode"])
def test_weights_changed_between_steps_are_zero_when_the_model_is_called(call: str) -> None:
    model = network()
    called = torch.compile(model, backend="eager") if call == "compiled" else model
    called(torch.ones(1, 3, 8))
    mask = random_mask(model)
    mask.hold(called, SGD(model.parameters(), 0.1))
    for weight in mask.layout.weights(model).values():
        weight.data.fill_(1.0)  # as averages of weights are put there
    with torch.inference_mode(call == "in inference mode"), torch.set_grad_enabled(call != "without gradients"):
        called(torch.ones(1, 3, 8))
    assert holds(mask, model)


def test_a_held_model_may_be_called_twice_before_backward_traced_and_differentiated() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.ones(3)
    random_mask(model).hold(model, SGD(model.parameters(), 0.1))
    (model(x) + model(2 * x)).sum().backward()
    assert torch.func.jacrev(model)(x).shape == (2, 3)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), model(x))
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))


@pytest.mark.parametrize("fault", ["an optimizer that takes no hooks", "a warning that is an error"])
def test_a_hold_that_fails_changes_nothing(fault: str) -> None:
    class Hookless(SGD):
        def register_step_post_hook(self, hook: Any) -> Any:
            raise RuntimeError("no hooks")

    model = network()
    mask, optimizer = random_mask(model), Hookless(model.parameters(), 0.1, momentum=0.9)
    step(model, optimizer)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model.first.weight.requires_grad_(fault != "a warning that is an error")
    with pytest.raises((RuntimeError, UserWarning)), warnings.catch_warnings(action="error"):
        mask.hold(model, optimizer)
    for now, then in zip(
        (model.state_dict(), optimizer.state_dict()["state"]), (before[0], before[1]["state"]), strict=True
    ):
        torch.testing.assert_close(now, then, rtol=0, atol=0)
    model.load_state_dict(before[0])
    step(model, optimizer)
    assert not holds(mask, model)


def test_model_or_optimizer_that_cannot_be_held_raises() -> None:
    model = network()
    mask, optimizer = random_mask(model), SGD(model.parameters(), 0.1)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    own, of_layers = random_mask(layers), SGD(layers.parameters(), 0.1)
    scripted = torch.jit.script(layers)
    cases: list[tuple[str, Callable[[], object]]] = [
        (r"mask\.hold\(model, optimizer\); a loop without one calls mask\.apply_", lambda: mask.hold(model)),
        (r"has none of the weights of the mask \(attention\.in_proj_weight, ", lambda: mask.hold(model, of_layers)),
        ("the model, a torch module, comes first; got SGD", lambda: mask.hold(optimizer, model)),  # type: ignore[arg-type]
        ("its optimizers one by one; got list", lambda: mask.hold(model, [optimizer])),  # type: ignore[arg-type]
        (r"torch\.jit\.script makes modules that run no hooks", lambda: own.hold(scripted, of_layers)),
    ]
    for message, call in cases:
        with pytest.raises(UserError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)


def in_a_world() -> tuple[bool, bool, bool]:
    """What one rank does: steps under DistributedDataParallel, and of a model that FSDP2 has sharded."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model = network()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    mask, optimizer = random_mask(model), SGD(wrapped.parameters(), 0.1, momentum=0.9)
    mask.hold(wrapped, optimizer)
    for seed in range(2):
        step(wrapped, optimizer, 10 * seed + rank)
    optimizer.zero_grad()
    wrapped(torch.randn(4, 3, 8) + rank).square().mean().backward()  # masked before a step sees the gradients
    masked = removed_are_zero(mask, {name: weight.grad for name, weight in mask.layout.weights(model).items()})

    sharded = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8))
    other = random_mask(sharded)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(
        UserError, match=r"^layer 0\.weight is sharded \(a DTensor, as of FSDP2\); choose the mask before"
    ):
        autosparse.prune(sharded, criterion="magnitude")
    optimizer = SGD(sharded.parameters(), 0.1, momentum=0.9)
    other.hold(sharded, optimizer)
    for seed in range(2):
        step(sharded, optimizer, 10 * seed + rank)
    whole: dict[str, Any] = {name: weight.full_tensor() for name, weight in other.layout.weights(sharded).items()}
    alive = sum(int((weight != 0).sum()) for weight in whole.values())
    torch.distributed.destroy_process_group()
    return holds(mask, model), masked, removed_are_zero(other, whole) and alive == other.count


def test_on_several_processes() -> None:
    assert world(2, in_a_world) == [(True, True, True)] * 2
