"""What decides: criteria by name. A criterion scores every prunable parameter; higher is kept.

`criterion(model, mask, batches) -> scores`: the model's weights are those to be scored, `mask` has already been applied
to them, `batches` is an iterable of (inputs, targets); the scores are float32 (P,) in layout order, on the model's
device. The model is left as it was. Under `torch.distributed` each process passes its own batches and all get the
scores of them all.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor, nn

from autosparse.criteria.magnitude import magnitude
from autosparse.criteria.random import UniformRandom
from autosparse.criteria.snip import snip
from autosparse.errors import unknown
from autosparse.pruning import Mask

__all__ = ["CRITERIA", "Criterion", "make_criterion"]


class Criterion(Protocol):
    """Scores every prunable parameter; higher is kept."""

    def __call__(self, model: nn.Module, mask: Mask, batches: Iterable[tuple[Tensor, Tensor]], /) -> Tensor:
        """Scores float32 (P,) in layout order."""


# name -> seed -> criterion; only what draws numbers looks at the seed
CRITERIA: dict[str, Callable[[int], Criterion]] = {
    "random": UniformRandom,
    "magnitude": lambda seed: magnitude,
    "snip": lambda seed: snip,
}


def make_criterion(name: str, seed: int = 0) -> Criterion:
    """A criterion by name.

    Raises:
        UserError: an unknown name.
    """
    if name not in CRITERIA:
        raise unknown("criterion", name, CRITERIA)
    return CRITERIA[name](seed)
