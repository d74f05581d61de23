"""Forward passes that do more than call layers, batches that are no pairs, wrappers: right, or refused in one line."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import autosparse
from autosparse.config import PRETRAINED
from autosparse.criteria import Scoring
from autosparse.criteria.table import CRITERIA
from autosparse.errors import UserError
from autosparse.pruning import Mask
from tests.criteria.quick import MECHANISMS, ROUNDS, quick, scores_or_mask
from tests.models import GPT, images, texts

FLOWING = ("synflow", "dataflow", "npb", PRETRAINED)
Wiring = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Two layers, and how they are called."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.a, self.b, self.wiring = nn.Linear(64, 32), nn.Linear(32, 10), wiring
        self.shift = torch.full((32,), 0.0)  # neither parameter nor buffer
        self.projection = torch.eye(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def plain(m: Any, x: Tensor) -> Tensor:
    scores: Tensor = m.b(m.a(x.flatten(1)).relu())
    return scores


def narrowed(m: Any, x: Tensor) -> Tensor:
    scores: Tensor = m.b(m.a(x.flatten(1).float()).relu().to(torch.float32)).float()
    return scores


def autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return plain(m, x)


def constants(m: Any, x: Tensor) -> Tensor:
    hidden = F.linear(m.a(x.flatten(1)).relu(), m.projection) + m.shift
    held = torch.zeros(len(x), 32)
    held[:] = hidden  # written in place
    scores: Tensor = m.b(torch.cat([hidden[:, :16], hidden[:, 16:] * torch.ones(16)], 1))
    return scores


def recomputed(m: Any, x: Tensor) -> Tensor:
    scores = checkpoint(lambda x: m.b(m.a(x.float()).relu()), x.flatten(1), use_reentrant=False)
    assert isinstance(scores, Tensor)
    return scores


def scores(name: str, model: nn.Module, batches: list[Any]) -> Tensor:
    return scores_or_mask(quick(name), model, Scoring(batches), 400)


def net(wiring: Wiring) -> nn.Module:
    torch.manual_seed(0)
    return Net(wiring)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("wiring", [narrowed, autocast, constants, recomputed])
def test_casts_constants_and_checkpoints_change_no_score(wiring: Wiring, name: str) -> None:
    if wiring is recomputed and name == "prospr":  # computed again, they would be those of other weights
        with pytest.raises(UserError, match="cannot be differentiated twice; prospr-first-order takes them") as error:
            scores(name, net(wiring), images())
        assert "\n" not in str(error.value)
        return
    expected, found = (scores(name, net(each), images()) for each in (plain, wiring))
    if wiring is autocast and name not in FLOWING:  # the gradient is that of what the network computes
        assert not found.isnan().any()
    elif wiring is constants and name.startswith("npb"):  # a path through a constant is one
        assert found.shape == expected.shape
    else:
        torch.testing.assert_close(found, expected)


def prune(name: str, model: nn.Module, batches: Any, **how: Any) -> Mask:
    if name == PRETRAINED:
        return autosparse.prune(model, batches, sparsity=0.8, rounds=ROUNDS, **how)
    return autosparse.prune(model, batches, criterion=quick(name), sparsity=0.8, **how)


class Labelled(GPT):
    """Called as a model of Hugging Face is: ids, a mask and labels by name, to an output of loss and logits."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        logits = super().forward(input_ids) * attention_mask[..., None]
        return SimpleNamespace(logits=logits, loss=F.cross_entropy(logits.view(-1, 30), labels.view(-1)))


@pytest.mark.filterwarnings("ignore:14% of the elements of the model's matrices")
@pytest.mark.parametrize("name", [*FLOWING, "snip", "ntk-sap"])
def test_token_ids_in_a_dictionary(name: str) -> None:
    ids, labels = texts()[0]
    torch.manual_seed(0)
    model = Labelled()
    batches = [{"attention_mask": torch.ones_like(ids), "input_ids": ids, "labels": labels.contiguous()}]
    found = prune(name, model, batches, loss=lambda model, batch: model(**batch).loss)
    torch.manual_seed(0)
    expected = prune(name, GPT(), texts())
    assert (found.kept == expected.kept).float().mean() > 0.999


@pytest.mark.parametrize("name", FLOWING)
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (None, "this is a dict; snip, .* take any batch with loss=|a pair .* got a dict"),
        (lambda model, batch: model(batch["image"], batch["image"]).mean(), "loss= calls it with 2; snip"),
        (lambda model, batch: model(batch["nothing"]).mean(), "KeyError 'nothing'"),
        (lambda model, batch: model.a.weight.sum(), "the loss does not call the network"),
    ],
)
def test_batch_that_no_network_can_be_fed_raises(loss: Any, message: str, name: str) -> None:
    class Pair(Net):
        def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
            return plain(self, x)

    with pytest.raises(UserError, match=message) as error:
        prune(name, Pair(plain), [{"image": images()[0][0]}], loss=loss)
    assert "\n" not in str(error.value)


def compiled_part(model: nn.Module) -> nn.Module:
    model.a = torch.compile(model.a, backend="eager")
    return model


def averaged(model: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(torch.compile(nn.DataParallel(model), backend="eager"))


@pytest.mark.parametrize("name", [*MECHANISMS, PRETRAINED])
@pytest.mark.parametrize("wrapped", [nn.DataParallel, averaged, torch.compile, compiled_part])
def test_wrappers_are_seen_through(wrapped: Callable[[nn.Module], nn.Module], name: str) -> None:
    expected, wrapper = prune(name, net(plain), images()), wrapped(net(plain))
    found = prune(name, wrapper, images())
    assert found.layout == expected.layout
    assert torch.equal(found.kept, expected.kept)
    found.apply_(wrapper)
    weights = found.layout.weights(wrapper)
    assert [*weights] == ["a.weight", "b.weight"]
    assert not found.layout.flatten(weights)[~found.kept].any()


class Stateful(Net):
    """A network whose outputs depend on buffers and attributes that each forward pass writes."""

    def __init__(self) -> None:
        super().__init__(plain)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.ones(32))
        self.register_buffer("range", torch.zeros(0))
        self.register_buffer("shared", torch.ones(1).expand(32))
        self.steps, self.last = 0, torch.ones(32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x.flatten(1))
        self.calls += 1
        self.steps += 1
        self.average = 0.5 * self.average + hidden.detach().mean(0)
        self.range.resize_(32).copy_(hidden.detach().amax(0))
        self.register_buffer("new", self.average * self.last)
        self.last = self.range + self.shared
        scale = 1 + self.average * (self.calls + self.steps) + 0.1 * self.new
        scores: Tensor = self.b((hidden * scale).relu())
        return scores


@pytest.mark.parametrize("name", [*MECHANISMS, "force", PRETRAINED, "short-irp"])
def test_buffers_and_attributes_that_a_forward_pass_writes_are_restored(name: str) -> None:
    torch.manual_seed(0)
    model, how = Stateful(), dict[str, Any]()
    if name == "short-irp":
        optimizer = partial(torch.optim.SGD, lr=0.01)
        how = {"criterion": name, "rounds": ROUNDS, "steps_per_round": 3, "optimizer": optimizer}
    state = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    attributes = vars(model).copy()
    first, second = (
        autosparse.prune(model, images(), sparsity=0.8, **how) if how else prune(name, model, images()) for _ in "ab"
    )
    assert first == second
    assert vars(model) == attributes
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is state[name][0]
        assert torch.equal(value, state[name][1])


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, None), (torch.bfloat16, "meta")])
@pytest.mark.parametrize("name", [*MECHANISMS, "random-erk", PRETRAINED, "short-irp"])
def test_default_dtype_and_device_change_no_mask(name: str, dtype: torch.dtype, device: str | None) -> None:
    model, batches, how = net(plain), images(), dict[str, Any]()
    if name == "short-irp":
        how = {"steps_per_round": 2, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    how |= {"criterion": quick(name)} if name in CRITERIA else {"criterion": name, "rounds": ROUNDS}
    expected = autosparse.prune(model, batches, sparsity=0.8, **how)
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        assert autosparse.prune(model, batches, sparsity=0.8, **how) == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("name", ["synflow", "npb"])
def test_kernel_without_double_precision_names_its_layer(name: str) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            if self.gate(x).dtype == torch.float64:
                raise RuntimeError("Expected mat_a to be Float32, got Double")
            return x

    model = net(lambda m, x: m.b(m.experts(m.a(x.flatten(1)))))
    model.experts = Experts()
    with pytest.raises(
        UserError, match=r"it fails at layer experts: Expected mat_a .* snip, which runs a network as it"
    ):
        prune(name, model, images())
    assert prune("snip", model, images()).count == round(0.2 * 2368)


@pytest.mark.parametrize("name", FLOWING)
@pytest.mark.parametrize("kind", ["mask", "observer"])
def test_buffers_of_infinity_keep_their_sign(kind: str, name: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if kind == "mask":
            weights = (m.least[:32] + torch.zeros(32)).softmax(0)  # all of it on the second half
            return m.b(m.a(x.flatten(1)).relu() * (1 + weights))
        hidden = m.a(x.flatten(1)).relu()
        low, high = (hidden.min(), hidden.max()) if m.least[0] == -torch.inf else (m.least[0], m.least[-1])
        return m.b(hidden.clamp(low, high))

    model = net(forward)
    model.register_buffer("least", torch.tensor([-torch.inf] * 16 + [0.0] * 16))
    assert prune(name, model, images()).count == round(0.2 * 2368)


def test_criterion_that_trains_batch_norm_leaves_the_model_as_it_was() -> None:
    def own(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        for x, _ in scoring.batches:
            model.train()(x)
        return mask.layout.flatten(mask.layout.weights(model)).abs()

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    autosparse.prune(model, images(), criterion=own)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_part_is_left_as_it_was() -> None:
    model = net(lambda m, x: m.b(m.norm(m.a(x.flatten(1)))))
    model.norm = torch.jit.script(nn.Sequential(nn.BatchNorm1d(32), nn.ReLU()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for criterion in ("snip", "synflow"):
        assert prune(criterion, model, images()) == prune(criterion, model, images())
    assert model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
