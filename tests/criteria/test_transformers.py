"""Vision transformers and language models, by every criterion: the exact count, or one line."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autosparse
from autosparse.config import PRETRAINED
from autosparse.criteria import Scoring
from autosparse.criteria.synflow import deviation, synflow
from autosparse.errors import UserError
from autosparse.pruning import Layout, Mask
from tests.criteria.quick import MECHANISMS, ROUNDS, quick
from tests.models import GPT, ViT, images, texts

Batch = tuple[Tensor, Tensor]
BY_LOSS_OR_FLOW = ("snip", "synflow", "dataflow", PRETRAINED)
MODELS: dict[str, tuple[Callable[[], nn.Module], list[Batch], dict[tuple[str, ...], str]]] = {  # and what is refused
    "vit": (ViT, images(), {("px",): "this computes layer_norm"}),
    "vit, head of zeros": (
        lambda: ViT(zero_head=True),
        images(),
        {
            BY_LOSS_OR_FLOW: "all weights of layer head.weight are zero; it must be initialized otherwise",
            ("px",): "this computes layer_norm",
        },
    ),
    "gpt": (GPT, texts(), {("px",): "these are indices; synflow, dataflow and snip may take it"}),
}


def prune(criterion: str, model: nn.Module, batches: list[Batch]) -> Mask:
    if criterion == PRETRAINED:
        return autosparse.prune(model, batches, sparsity=0.8, rounds=ROUNDS)
    return autosparse.prune(model, batches, criterion=quick(criterion), sparsity=0.8)


@pytest.mark.filterwarnings("ignore:nothing is kept of layers", "ignore:14% of the elements")
@pytest.mark.parametrize("criterion", [*MECHANISMS, PRETRAINED])
@pytest.mark.parametrize("name", MODELS)
def test_transformer_is_pruned_to_the_exact_count_or_refused(name: str, criterion: str) -> None:
    make, batches, refused = MODELS[name]
    torch.manual_seed(0)
    model = make()
    for criteria, message in refused.items():
        if criterion in criteria:
            with pytest.raises(UserError, match=re.escape(message)) as error:
                prune(criterion, model, batches)
            assert "\n" not in str(error.value)
            return
    assert prune(criterion, model, batches).count == round(0.2 * Layout.of(model).size)


class Bag(nn.Module):
    """Token ids to classes, linear in what is embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions, self.head = nn.Embedding(9, 4), nn.Embedding(3, 4), nn.Linear(12, 5, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head((self.table(ids) + self.positions(torch.arange(3))).flatten(1))
        return scores


def test_synflow_of_ids_starts_from_ones_where_they_are_embedded() -> None:
    torch.manual_seed(0)
    model = Bag()
    scores = synflow(model, Mask.full(Layout.of(model)), Scoring([torch.randint(9, (4, 3))]))
    given = 1 + model.positions.weight.abs().flatten()  # positions are a parameter like any other
    expected = (model.head.weight.abs() * given).flatten().detach()
    torch.testing.assert_close(scores, expected / expected.max())


def test_the_deviation_of_ids_is_that_of_what_is_embedded_for_them() -> None:
    torch.manual_seed(0)
    model, ids = Bag(), torch.randint(9, (7, 3))
    batches = [(part, torch.zeros(len(part))) for part in ids.split(3)]  # the last has one sample
    _, embedded = deviation(model, Scoring(batches), torch.device("cpu"))
    assert embedded is not None
    table, positions = embedded
    assert not positions.any()
    torch.testing.assert_close(table, model.table(ids).double().std(0, correction=0).detach())
