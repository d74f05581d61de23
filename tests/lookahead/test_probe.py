"""What a probe sees, by arithmetic; a model is left as it was; the same bits after a stop, and in two processes."""

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

import autosparse
from autosparse.criteria import Scoring, make_criterion, select
from autosparse.criteria.loss import CrossEntropy
from autosparse.errors import UserError
from autosparse.lookahead import OptimizerLearner, Probe, RecipeLearner, look_ahead
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.tasks import Data
from autosparse.training import Callback, Recipe, train
from tests.models import random_mask
from tests.training.test_loop import StoppedError, stop_after

K = 7
RECIPE = Recipe(2, "nesterov", 0.05, batch_size=200, clip=1.0)
COLUMNS = ("probe-gradient", "probe-theta", "probe-rms")


class Spy(Callback):
    def __init__(self, layout: Layout) -> None:
        self.layout, self.seen = layout, list[Tensor]()

    def gradients(self, step: int, model: nn.Module) -> None:
        grads = {name: weight.grad for name, weight in self.layout.weights(model).items()}
        self.seen.append(self.layout.flatten(grads).clone())  # type: ignore[arg-type]


def test_it_sees_the_first_steps_of_a_training(convolutional: nn.Module, data: Data, accelerator: Accelerator) -> None:
    mask, initial = random_mask(convolutional), {k: v.clone() for k, v in convolutional.state_dict().items()}
    spy = Spy(mask.layout)
    assert train(convolutional, mask, data, RECIPE, accelerator, callback=spy, steps=K) == []
    assert len(spy.seen) == K
    after = mask.layout.flatten(mask.layout.weights(convolutional)).clone()

    convolutional.load_state_dict(initial)
    probe = Probe(mask.layout, K, COLUMNS)
    history = train(convolutional, mask, data, RECIPE, accelerator, callback=probe)  # all of it: sees no more for it
    assert len(history) == 2
    seen = torch.stack(spy.seen)
    torch.testing.assert_close(probe.columns["probe-gradient"], seen.mean(0))
    torch.testing.assert_close(probe.columns["probe-rms"], seen.square().mean(0).sqrt())
    assert torch.equal(probe.columns["probe-theta"], after)
    assert probe.columns["probe-gradient"][~mask.kept].any()  # of removed weights as well
    assert not probe.columns["probe-theta"][~mask.kept].any()


@pytest.mark.parametrize("kind", [OptimizerLearner, RecipeLearner])
def test_the_model_is_left_bit_for_bit(
    kind: type, convolutional: nn.Module, data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    learner: Any = RecipeLearner(data, RECIPE, accelerator, K, 0, tmp_path)
    if kind is OptimizerLearner:
        optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
        learner = OptimizerLearner(optimizer, data.scoring(200), CrossEntropy(), K)
    mask = random_mask(convolutional)
    mask.apply_(convolutional)
    before = {k: v.clone() for k, v in convolutional.state_dict().items()}
    gradient = torch.ones(8)
    convolutional[0].bias.grad = gradient
    convolutional[4].eval()
    batches = Scoring(data.scoring(200), learner=learner)
    state = torch.get_rng_state()
    with torch.no_grad():
        seen = look_ahead("short-irp", convolutional, mask, batches, ["probe-theta"])["probe-theta"]
    assert not torch.equal(seen[mask.kept], mask.layout.flatten(mask.layout.weights(convolutional))[mask.kept])
    assert all(torch.equal(value, before[name]) for name, value in convolutional.state_dict().items())
    assert convolutional[0].bias.grad is gradient
    assert convolutional[0].weight.grad is None
    assert convolutional.training
    assert not convolutional[4].training
    if kind is RecipeLearner:
        assert torch.equal(torch.get_rng_state(), state)


def test_short_irp_and_snip_are_what_they_say(model: nn.Module, data: Data) -> None:
    batches = [*data.scoring(100, limit=3)]
    layout = Layout.of(model)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    theta = layout.flatten(layout.weights(model)).clone()
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    how: dict[str, Any] = {"sparsity": 0.9, "rounds": 1, "steps_per_round": 4, "optimizer": sgd}
    found = {name: autosparse.prune(model, batches, criterion=name, **how) for name in ("short-irp", "snip-probe")}
    assert all(torch.equal(value, initial[name]) for name, value in model.state_dict().items())
    optimizer = sgd(model.parameters())
    mean = torch.zeros(layout.size)
    for inputs, targets in [*batches, batches[0]]:  # again from the first when they end
        nn.functional.cross_entropy(model(inputs), targets).backward()
        mean += layout.flatten({name: weight.grad for name, weight in layout.weights(model).items()}) / 4
        optimizer.step()
        optimizer.zero_grad()
    k = round(0.1 * layout.size)
    last = layout.flatten(layout.weights(model))
    for name, scores in (("short-irp", last.abs()), ("snip-probe", (theta * mean).abs())):
        expected = torch.zeros(layout.size, dtype=torch.bool)
        expected[scores.topk(k).indices] = True
        assert (found[name].kept & expected).sum() >= k - 1  # two equal scores may be exchanged


def test_rounds_train_what_is_left_from_the_initial_weights(model: nn.Module, data: Data) -> None:
    layout = Layout.of(model)
    theta = layout.flatten(layout.weights(model)).clone()
    seen = list[Mask]()

    class Learner:
        steps = 1

        def learn(self, model: nn.Module, mask: Mask, probe: Probe) -> None:
            assert torch.equal(layout.flatten(layout.weights(model)), theta * mask.kept)
            seen.append(mask)
            probe.start(model, mask)
            for weight in layout.weights(model).values():
                weight.data.mul_(torch.arange(weight.numel()).view(weight.shape))
            probe.stepped(1, model, mask, torch.optim.SGD(model.parameters()))

    scoring = Scoring(learner=Learner())
    select(make_criterion("short-irp", rounds=3), model, Mask.full(layout), scoring, 1000)
    alive = layout.size
    assert [mask.count for mask in seen] == [round(alive * (1000 / alive) ** (i / 3)) for i in range(3)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"short-irp looks ahead: .*give steps_per_round= and optimizer=, as in optimizer=lambda"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer= takes a function that makes one"),
        ({"optimizer": lambda parameters: 3}, "optimizer= makes an optimizer of parameters; it made a int"),
        ({"optimizer": partial(torch.optim.SGD, lr=1e30), "steps_per_round": 30}, "not finite|loss is"),
        ({"criterion": "snip", "optimizer": torch.optim.Adam}, "snip does not train: steps_per_round= and optimizer="),
        ({"criterion": "ticket", "rounds": 3}, "rounds are for a saved AutoS and .*short-irp.*, not for ticket"),
        ({"criterion": "mine.py:score", "rounds": 3}, "rounds are for a saved AutoS and .*, not for mine.py:score"),
    ],
)
def test_prune_with_options_that_do_not_fit_a_look_ahead_raises(
    more: dict[str, Any], message: str, model: nn.Module, data: Data
) -> None:
    steps = {"steps_per_round": 3} if "optimizer" in more else {}
    with pytest.raises(UserError, match=message):
        autosparse.prune(model, [*data.scoring(100, limit=2)], **{"criterion": "short-irp", **steps, **more})


@pytest.mark.parametrize(
    ("network", "more", "message"),
    [
        (nn.Linear(9, 10), {}, "it fails at the forward of Linear: mat1 and mat2"),
        (nn.Linear(64, 10), {"optimizer": torch.optim.LBFGS}, "a step of the optimizer fails, .* argument: 'closure'"),
        (nn.Linear(64, 10), {"optimizer": lambda p: torch.optim.SGD(p, -1.0)}, "optimizer= fails: Invalid learning"),
    ],
)
def test_training_ahead_that_fails_raises_in_one_line(network: nn.Module, more: dict[str, Any], message: str) -> None:
    how = {"steps_per_round": 2, "optimizer": partial(torch.optim.SGD, lr=0.1), **more}
    with pytest.raises(UserError, match=message) as error:
        autosparse.prune(
            network, [(torch.ones(1, 64), torch.zeros(1, dtype=torch.int64))], criterion="short-irp", **how
        )
    assert "\n" not in str(error.value)


def test_steps_per_round_are_taken_in_each_of_five_rounds(model: nn.Module, data: Data) -> None:
    steps = 0

    def counted(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        groups = [[each for each in parameters if (each.ndim > 1) == wide] for wide in (True, False)]
        optimizer = torch.optim.SGD([{"params": group} for group in groups], 0.1)
        assert all(groups)
        optimizer.register_step_post_hook(count)
        return optimizer

    for criterion in ("lookahead", "short-irp"):
        autosparse.prune(model, data.scoring(limit=2), criterion=criterion, steps_per_round=3, optimizer=counted)
    assert steps == 2 * 5 * 3


def test_no_batches_and_too_many_steps(model: nn.Module, data: Data, accelerator: Accelerator) -> None:
    with pytest.raises(UserError, match="looking ahead needs at least one batch"):
        autosparse.prune(model, [], criterion="short-irp", steps_per_round=2, optimizer=torch.optim.Adam)
    with pytest.raises(UserError, match=r"99 steps are more than the 12 of a training"):
        train(model, random_mask(model), data, RECIPE, accelerator, steps=99)
    for steps, columns, message in ((0, COLUMNS, "at least one step"), (1, (), "at least one column")):
        with pytest.raises(UserError, match=message):
            Probe(Layout.of(model), steps, columns)


def test_probe_stopped_at_a_step_sees_the_same_when_resumed(
    convolutional: nn.Module, data: Data, accelerator: Accelerator, tmp_path: Path
) -> None:
    mask = random_mask(convolutional)

    def seen(folder: str, stop: int = K) -> dict[str, Tensor]:
        probe = Probe(mask.layout, K, COLUMNS)
        learner = RecipeLearner(data, RECIPE, accelerator, K, 0, tmp_path / folder, stop_after(stop), 0)
        learner.learn(copy.deepcopy(convolutional), mask, probe)
        return dict(probe.columns)

    whole = seen("whole")
    with pytest.raises(StoppedError):
        seen("cut", 4)
    for found in (seen("cut"), seen("cut")):  # the second reads what the first has kept
        assert all(torch.equal(values, whole[name]) for name, values in found.items())


def test_tickets_are_masks_of_a_training_for_its_initial_weights(model: nn.Module, data: Data) -> None:
    full, k = Mask.full(Layout.of(model)), 3000
    batches = [*data.scoring(100, limit=2)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sgd = partial(torch.optim.SGD, lr=0.1)
    how: dict[str, Any] = {"sparsity": 1 - k / full.layout.size, "steps_per_round": 30, "optimizer": sgd}
    ticket, gmp_ticket = (autosparse.prune(model, batches, criterion=name, **how) for name in ("ticket", "gmp-ticket"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trained = copy.deepcopy(model)
    optimizer = sgd(trained.parameters())
    for step in range(30):
        inputs, targets = batches[step % 2]
        F.cross_entropy(trained(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    magnitudes = full.layout.flatten(full.layout.weights(trained)).abs()
    assert torch.equal(ticket.kept, keep_top(magnitudes, k, full).kept)
    assert gmp_ticket.count == k
    assert not torch.equal(ticket.kept, gmp_ticket.kept)
