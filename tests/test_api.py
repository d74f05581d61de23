"""What `autosparse.prune` makes of how it is called."""

import itertools
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autosparse
from autosparse.config import PRETRAINED
from autosparse.criteria import Scoring, repeatable
from autosparse.criteria.rounds import Rounds
from autosparse.criteria.snip import snip
from autosparse.criteria.table import CRITERIA
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask, keep_top
from autosparse.tasks import Data, Images
from tests.criteria.quick import quick
from tests.models import GPT, images, texts

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
prune = autosparse.prune
CALLED_WRONGLY: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "a number by position": (lambda m: prune(m, images(), 0.9), "as in sparsity=0.9"),  # type: ignore[arg-type]
    "a name by position": (lambda m: prune(m, images(), "snip"), "as in criterion='snip'"),  # type: ignore[arg-type]
    "no batches": (lambda m: prune(m, None, criterion="snip"), "snip needs batches, if only for their shape"),
    "an exhausted iterator": (lambda m: prune(m, iter([]), criterion="snip"), "iterator of batches is exhausted"),
    "a batch for batches": (lambda m: prune(m, images()[0], criterion="snip"), "give [(inputs, targets)]"),
    "a tensor for batches": (lambda m: prune(m, images()[0][0], criterion="snip"), "give a single one as [batch]"),
    "without an end": (lambda m: prune(m, endless(), criterion="snip"), "no length and do not end after 1,000; give a"),
    "rounds over a generator that is not kept": (
        lambda m: prune(m, iter(images()), criterion=quick("synflow")),
        "list(itertools.islice(batches, 10)) is one of ten",
    ),
    "a mask and a choice": (
        lambda m: prune(m, images(), exclude=["fc1*"], mask=Mask.full(Layout.of(m))),
        "mask has its own choice of parameters",
    ),
    "no criterion": (lambda m: prune(m, images(), criterion=3), "a function of model, mask and scoring; got a int"),  # type: ignore[arg-type]
    "a class": (lambda m: prune(m, images(), criterion=Rounds), "the criterion Rounds is a class; give an instance"),  # type: ignore[arg-type]
    "a sparsity in words": (
        lambda m: prune(m, images(), sparsity="0.9"),  # type: ignore[arg-type]
        "between 0 and 1 (0.95 removes 95% of the weights), got '0.9'",
    ),
    "no round": (
        lambda m: prune(m, images(), criterion="short-irp", rounds=0, steps_per_round=1, optimizer=torch.optim.Adam),
        "rounds must be an integer of at least 1, got 0",
    ),
    "no loss": (lambda m: prune(m, images(), loss="mse", criterion="snip"), "mean loss of the batch, got 'mse'"),  # type: ignore[arg-type]
    "a loss of outputs": (
        lambda m: prune(m, images(), loss=F.cross_entropy, criterion="snip"),
        "fails at the loss, a function of (model, batch): cross_entropy_loss(): argument 'input'",
    ),
    "a loss of outputs, fed": (
        lambda m: prune(m, images(), loss=nn.CrossEntropyLoss(), criterion="px"),
        "the loss, a function of (model, batch), fails before it calls the network",
    ),
    "scores that are none": (
        lambda m: prune(m, images(), criterion=lambda *_: torch.zeros(3)),
        "scores float32 (50200,), higher is kept; this one gives torch.float32 (3,)",
    ),
    "less than is there": (
        lambda m: prune(m, images(), sparsity=0.5, mask=a_quarter(m), criterion="snip"),
        "give at least 0.75",
    ),
}


def endless() -> Iterator[Any]:
    return itertools.repeat((torch.ones(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)))


def a_quarter(model: nn.Module) -> Mask:
    layout = Layout.of(model)
    drawn = torch.randperm(layout.size, generator=torch.Generator().manual_seed(0))
    return Mask(layout, drawn % 4 == 0)


@pytest.mark.parametrize("case", CALLED_WRONGLY)
def test_invalid_call_raises_in_one_line(case: str, model: nn.Module) -> None:
    call, message = CALLED_WRONGLY[case]
    with pytest.raises(UserError, match=re.escape(message)) as error:
        call(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("criterion", "kind"), [("random", np.float16), ("random-erk", np.float32), ("magnitude", np.float64)]
)
def test_criterion_without_data_needs_no_batches(criterion: str, kind: type[Any], model: nn.Module) -> None:
    assert prune(model, None, criterion=criterion, sparsity=kind(0.9)).count == 5020


def test_the_same_call_gives_the_same_mask_and_leaves_the_generators(model: nn.Module) -> None:
    x, y = images(200)[0]
    own = torch.Generator()
    loaders = [DataLoader(TensorDataset(x, y), 20, shuffle=True, generator=each) for each in (None, own)]
    state = own.get_state()
    for loader in loaders:
        part = First(loader)
        before = torch.get_rng_state(), words(), random.getstate()
        masks = [prune(model, part, criterion="snip").kept for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before[0])
        assert words() == before[1]
        assert random.getstate() == before[2]
        assert torch.equal(*masks)
        assert not torch.equal(masks[0], prune(model, part, criterion="snip", seed=1).kept)
    assert torch.equal(own.get_state(), state)


def words() -> list[int]:
    """The state of numpy's global generator."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return [*state[1].tolist(), state[2]]


class First:
    """The first batch of a loader alone, so that its order matters; the loader's generator is seen through it."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader, self.generator, self.sampler = loader, loader.generator, loader.sampler

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.loader, 1)


def test_weights_removed_by_the_first_mask_stay_removed(model: nn.Module) -> None:
    start = a_quarter(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for criterion in ("magnitude", quick("iterative-snip"), quick("force")):
        found = prune(model, images(), criterion=criterion, sparsity=0.9, mask=start)
        assert found.count == 5020
        assert not (found.kept & ~start.kept).any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_network_of_zeros_warns(model: nn.Module) -> None:
    mask = prune(model, criterion="magnitude", sparsity=0.9)
    mask.apply_(model)
    with pytest.warns(UserWarning, match=r"90% of the weights are zero already; .* mask="):
        prune(model, criterion="random", sparsity=0.95)
    prune(model, criterion="random", sparsity=0.95, mask=mask)  # no warning: see below


def test_empty_layer_of_zeros_is_named_as_such(model: nn.Module) -> None:
    nn.init.zeros_(model.get_parameter("fc3.weight"))
    with pytest.warns(UserWarning, match=r"nothing is kept of layers fc3\.weight: their weights are all zero"):
        prune(model, criterion="magnitude", sparsity=0.5)


def test_large_dense_matrices_warn() -> None:
    torch.manual_seed(0)
    model = GPT(vocabulary=200)
    told = r"% of the elements of the model's matrices stay dense: tokens.weight, an embedding"
    with pytest.warns(UserWarning, match=told):
        prune(model, texts(), criterion="random")
    prune(model, texts(), criterion="random", exclude=["tokens.*", "positions.*"])  # asked for: no warning


def test_any_loss_of_any_batches(model: nn.Module) -> None:
    (x, y), scale = images()[0], 3.0
    batches = [{"image": x[:13], "label": y[:13]}, {"image": x[13:], "label": y[13:]}]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return scale * F.cross_entropy(model(batch["image"]), batch["label"])

    own: dict[str, Any] = {"loss": loss}
    for criterion in ("snip", quick("force")):
        masks = [prune(model, each, criterion=criterion, **how).kept for each, how in ((batches, own), (images(), {}))]
        assert (masks[0] == masks[1]).float().mean() > 0.999
    assert prune(model, batches, criterion="grasp", **own).count == 2510
    assert prune(model, batches, rounds=3, **own).count == 2510


@pytest.mark.parametrize("terminal", [True, False])
def test_bar_is_shown_in_a_terminal_only(
    terminal: bool, model: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    prune(model, images(), criterion="snip")
    assert capsys.readouterr().err == ""  # It takes less than two seconds.
    monkeypatch.setattr("autosparse.criteria.repeatable._PATIENCE", 1e-9)

    def fewer(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        """Read less in each round."""
        time.sleep(0.11)
        batches = itertools.islice(scoring.batches, 4 if mask.count == mask.layout.size else 1)
        return snip(model, mask, Scoring(batches))

    prune(model, images() * 4, criterion=Rounds(fewer, 4))
    shown = capsys.readouterr().err
    assert re.findall(r"(\d)/(\d) ", shown) == [(str(done), "4") for done in range(1, 4)] * terminal
    assert terminal or not shown


class Shift(nn.Module):
    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5) if self.inplace else x - 0.5


def test_network_that_writes_into_its_inputs_gets_the_same_in_every_pass() -> None:
    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            return iter([(x.clone(), y) for x, y in images()])

    masks = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model, batches = nn.Sequential(Shift(inplace=inplace), nn.Flatten(), nn.Linear(64, 10)), Counted()
        masks.append(prune(model, batches, criterion=Rounds(snip, 5)))
        assert batches.passes == 1
    assert masks[0] == masks[1]


@dataclass
class Own:
    """A batch of a kind that nothing here knows."""

    x: Any
    y: Any
    lock: Any = None


class Staged:
    """A loader that writes every batch into the same memory."""

    def __init__(self, kind: str, batches: list[tuple[Tensor, Tensor]]) -> None:
        (x, y), self.batches = batches[0], batches
        self.x, self.y = x.numpy().copy(), y.numpy().copy()
        parts: Any = (self.x, self.y) if kind == "arrays" else (torch.from_numpy(self.x), torch.from_numpy(self.y))
        self.batch = Own(*parts, Lock() if kind == "locked" else None) if kind in ("own", "locked") else parts

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.batches:
            self.x[:], self.y[:] = x, y
            yield self.batch


def loss_of_any(model: nn.Module, batch: Any) -> Tensor:
    x, y = (batch.x, batch.y) if isinstance(batch, Own) else batch
    return F.cross_entropy(model(torch.as_tensor(x)), torch.as_tensor(y))


@pytest.mark.parametrize(("kind", "held"), [("tensors", 10**9), ("tensors", 0), ("arrays", 10**9), ("own", 10**9)])
@pytest.mark.parametrize("name", [PRETRAINED, "force", "grasp", "prospr", "dataflow", "short-irp"])
def test_batches_that_share_memory_give_the_mask_of_a_list(
    name: str, kind: str, held: int, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeatable, "_MEMORY", held)
    x, y = images(80)[0]
    batches = [(x[k::4], y[k::4]) for k in range(4)]
    how: dict[str, Any] = {"criterion": quick(name)} if name in CRITERIA else {"criterion": name, "rounds": 2}
    if name == "short-irp":
        how |= {"steps_per_round": 6, "optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1)}
    expected = prune(model, batches, loss=loss_of_any, **how)
    assert prune(model, Staged(kind, batches), loss=loss_of_any, **how) == expected


def test_batches_of_a_generator_are_kept_and_those_that_cannot_be_copied_read_again(model: nn.Module) -> None:
    rounds = partial(prune, model, criterion=quick("iterative-snip"), loss=loss_of_any)
    expected = rounds(images())
    assert rounds(iter(images())) == expected
    assert rounds(Staged("locked", images())) == expected


class Weighted(nn.Linear):
    def forward(self, x: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x.flatten(1)) * weights


def test_arguments_that_share_memory_are_copied_with_the_inputs() -> None:
    torch.manual_seed(0)
    model, shared = Weighted(64, 10), torch.zeros(20, 10, dtype=torch.int64)
    rows = torch.arange(10).repeat(20, 1)
    batches = [(images()[0][0], rows), (images()[0][0] + 1, rows.flip(1))]

    def loss(model: nn.Module, batch: Any, copy: bool = False) -> Tensor:
        return model(batch[0], weights=shared.copy_(batch[1]) if copy else batch[1]).mean()

    expected = prune(model, batches, loss=loss, criterion=quick("dataflow"))
    assert prune(model, batches, loss=partial(loss, copy=True), criterion=quick("dataflow")) == expected


def first(layout: Layout, k: int) -> Mask:
    return Mask(layout, torch.arange(layout.size) < k)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda mask, k: first(mask.layout, k + 1), r"gives a mask of 118 weights; this one keeps 119"),
        (lambda mask, k: first(mask.layout, k), "this choose() revives 118"),
        (lambda mask, k: first(Layout.of(nn.Linear(20, 10)), k), "of the layout of mask; this one gives a Mask"),
        (lambda mask, k: mask.kept, "this one gives a Tensor"),
    ],
    ids=["too many", "removed", "another layout", "a tensor"],
)
def test_wrong_mask_of_a_chooser_raises(choose: Callable[[Mask, int], object], message: str) -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    layout = Layout.of(model)
    start = Mask(layout, torch.arange(layout.size) >= 1000)
    chooser: Any = SimpleNamespace(choose=lambda model, mask, scoring, k: choose(mask, k))
    with pytest.raises(UserError, match=re.escape(message)):
        prune(model, criterion=chooser, sparsity=0.95, mask=start)


def test_batches_of_a_task_bring_its_loss() -> None:
    task = OwnLoss(network="lenet-300-100", source="digits")
    model, batches = task.model(), Data(task).scoring(limit=1)
    own = prune(model, batches, criterion="snip", sparsity=0.9)
    given = prune(model, list(batches), criterion="snip", sparsity=0.9, loss=task.loss)
    cross_entropy = prune(model, list(batches), criterion="snip", sparsity=0.9)
    assert torch.equal(own.kept, given.kept)
    assert not torch.equal(own.kept, cross_entropy.kept)


def test_batches_stay_as_they_are() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 10))
    batches = images()
    before = batches[0][0].clone()
    prune(model, batches, criterion="snip", sparsity=0.9)
    assert torch.equal(batches[0][0], before)


class OwnLoss(Images):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return F.multi_margin_loss(model(inputs), targets)


class Trains:
    """A criterion that trains the model and leaves it changed."""

    def __call__(self, model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for batch in scoring.batches:
            scoring.loss(model, batch).backward()
            optimizer.step()
        next(model.parameters()).data.fill_(torch.nan)
        model.eval()
        return mask.layout.flatten({name: weight.grad.abs() for name, weight in mask.layout.weights(model).items()})


class Rebuilds(Trains):
    """The same that also leaves it converted, frozen and with other parameters and modules."""

    def __call__(self, model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
        scores = super().__call__(model, mask, scoring)
        model.double().requires_grad_(False)
        layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
        layer.weight, layer.scale = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))
        model.added = nn.Linear(2, 2)
        return scores


class TrainsAndChooses(Trains):
    """The same that chooses the mask."""

    def choose(self, model: nn.Module, mask: Mask, scoring: Scoring, k: int) -> Mask:
        return keep_top(self(model, mask, scoring), k, mask)


@pytest.mark.parametrize("criterion", [Rebuilds(), TrainsAndChooses(), Rounds(Trains(), rounds=2)])
def test_own_criterion_leaves_the_model_as_it_was(criterion: Any, model: nn.Module) -> None:
    gradient = torch.ones_like(next(model.parameters()))
    next(model.parameters()).grad = gradient
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = [*model.parameters()]
    assert prune(model, images(), criterion=criterion, sparsity=0.9).count > 0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(one is other for one, other in zip(model.parameters(), own, strict=True))
    assert all(parameter.requires_grad for parameter in own)
    assert next(model.parameters()).grad is gradient
    assert all(weight.grad is None for weight in [*model.parameters()][1:])
    assert model.training
