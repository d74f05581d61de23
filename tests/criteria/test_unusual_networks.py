"""Networks and batches of many kinds are pruned to the exact count, or refused in one line."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

import autosparse
from autosparse.autos import AutoS, AutoSCriterion, Features
from autosparse.autos.backbones import make_network
from autosparse.errors import UserError
from autosparse.pruning import Layout
from tests.criteria.quick import MECHANISMS, quick

IMAGES, LABELS = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
LEARNED = AutoSCriterion(AutoS(make_network("mlp", Features(), 0), "mlp", Features()))
BATCH = [(IMAGES, LABELS)]
GRADIENT = ("snip", "autos")
FLOWING = ("synflow", "npb")

Batch = tuple[Tensor, Tensor]
Network = Callable[[], nn.Module]


class Wired(nn.Module):
    """Layers by name and what is done with them."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.wiring = forward

    def forward(self, x: Tensor) -> object:
        return self.wiring(self, x)


def dense(inputs: int = 64, **how: torch.dtype) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32, **how), nn.ReLU(), nn.Linear(32, 10, **how))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    model[3].weight = model[1].weight
    return model


def tied_to_what_is_not_pruned() -> nn.Module:
    """As a language model's embedding and head are, which both stay dense."""
    first = torch.zeros(1, dtype=torch.int64)
    wired = Wired(
        lambda m, x: m.head(m.body(x.flatten(1)) + m.table(first)),
        body=nn.Linear(64, 8),
        table=nn.Embedding(10, 8),
        head=nn.Linear(8, 10),
    )
    wired.head.weight = wired.table.weight
    return wired


def saturated() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 90), nn.Sigmoid(), nn.Linear(90, 10), nn.Sigmoid())
    nn.init.uniform_(model[1].weight, 4.0, 6.0)
    return nn.Sequential(*model, nn.Linear(10, 10))


def attention(m: Wired, x: Tensor) -> Tensor:
    words = x.flatten(1).view(-1, 8, 8)
    return m.head(m.attention(words, words, words, need_weights=False)[0].flatten(1))


def unused(*, called: bool) -> nn.Module:
    def forward(m: Wired, x: Tensor) -> Tensor:
        if called:
            m.loose(x.flatten(1))
        return m.used(x.flatten(1))

    return Wired(forward, used=nn.Linear(64, 10), loose=nn.Linear(64, 10))


def prune(criterion: str, model: nn.Module, batches: Iterable[Batch], sparsity: float = 0.8) -> autosparse.Mask:
    torch.manual_seed(0)
    by = LEARNED if criterion == "autos" else quick(criterion)
    return autosparse.prune(model, batches, criterion=by, sparsity=sparsity)


TAKEN: dict[str, Network] = {
    "3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, (1, 3, 3)), nn.Flatten(), nn.Linear(144, 10)),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Flatten(), nn.Linear(288, 10)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 10)
    ),
    "recurrent": lambda: Wired(
        lambda m, x: m.head(m.lstm(x[:, 0])[0][:, -1]), lstm=nn.LSTM(8, 16, batch_first=True), head=nn.Linear(16, 10)
    ),
    "attention": lambda: Wired(
        attention, attention=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(64, 10)
    ),
    "tied": tied,
    "tied to an embedding": tied_to_what_is_not_pruned,
    "half precision": lambda: Wired(lambda m, x: m.net(x.to(m.net[1].weight)), net=dense().half()),
    "double precision": lambda: Wired(lambda m, x: m.net(x.to(m.net[1].weight)), net=dense().double()),
    "by keyword": lambda: Wired(
        lambda m, x: m.b(m.a(input=x.flatten(1)).relu()), a=nn.Linear(64, 32), b=nn.Linear(32, 10)
    ),
    "a layer never called": lambda: unused(called=False),
    "a layer that leads nowhere": lambda: unused(called=True),
}
REFUSED_BY = {
    "recurrent": ("npb", "px"),
    "attention": ("npb", "px"),
    "a layer never called": ("synflow", "npb"),
    "a layer that leads nowhere": ("synflow", "npb"),
}


@pytest.mark.filterwarnings("ignore:nothing is kept of layers", "ignore:.*is deprecated")
@pytest.mark.parametrize("criterion", [*MECHANISMS, "autos"])
@pytest.mark.parametrize("network", TAKEN)
def test_network_is_pruned_to_the_exact_count(network: str, criterion: str) -> None:
    torch.manual_seed(0)
    model = TAKEN[network]()
    if criterion in REFUSED_BY.get(network, ()):
        with pytest.raises(UserError, match=f"{criterion} cannot prune this network: .*(layer |ReLUs)") as error:
            prune(criterion, model, BATCH)
        assert "\n" not in str(error.value)
        return
    size = Layout.of(model).size
    assert prune(criterion, model, BATCH).count == round(0.2 * size)


@pytest.mark.parametrize(
    ("network", "batches", "criteria", "message"),
    [
        (lambda: dense(dtype=torch.complex64), BATCH, ["magnitude"], "no prunable weights .* complex64"),
        (lambda: nn.Sequential(nn.LazyLinear(10)), BATCH, ["magnitude"], "layer 0 has no shape yet"),
        (lambda: dense().to("meta"), BATCH, ["magnitude"], r"layer 1\.weight is on the meta device"),
        (lambda: Wired(lambda m, x: (m.net(x), x), net=dense()), BATCH, [*GRADIENT, *FLOWING], "returns a tuple"),
        (lambda: Wired(lambda m, x: m.net(x).sum(), net=dense()), BATCH, GRADIENT, r"returns float32 \(\)"),
        (lambda: dense().half(), BATCH, GRADIENT, "fails at layer 1: .*same dtype"),
        (lambda: dense(81), BATCH, [*GRADIENT, "synflow"], "fails at layer 1: .*shapes"),
        (lambda: dense(81), BATCH, ["npb"], r"layer 1\.weight has 81 input channels and is given 64"),
        (saturated, BATCH, ["synflow"], r"through layer 1\.weight .* a sigmoid"),
        (lambda: unused(called=True), BATCH, FLOWING, r"no path leads from layer loose\.weight"),
        (lambda: Wired(lambda m, x: m.net(x).detach(), net=dense()), BATCH, GRADIENT, "detached"),
        (dense, [(IMAGES, LABELS + 1)], GRADIENT, r"lie in 0\.\.9 for 10 class scores, got 1\.\.10"),
        (dense, [*BATCH, (IMAGES / 0.0, LABELS)], ["snip", "prospr"], "batch [12] has values that"),
        (dense, [(IMAGES * torch.nan, LABELS)], ["px"], "layer 0 gets values that are not finite"),
    ],
)
def test_network_or_batch_that_cannot_be_taken_raises(
    network: Network, batches: list[Batch], criteria: list[str], message: str
) -> None:
    for criterion in criteria:
        with pytest.raises(UserError, match=message) as refused:
            prune(criterion, network(), batches)
        assert "\n" not in str(refused.value)
