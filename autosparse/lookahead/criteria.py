"""Criteria of what a probe sees, in rounds: what a learned one that looks ahead is measured against at its cost."""

from torch import Tensor, nn

from autosparse.criteria.base import Batches, Criterion
from autosparse.criteria.rounds import Rounds
from autosparse.lookahead.probe import look_ahead
from autosparse.pruning import Mask

ROUNDS = 5
"""Few long rounds are better than many short ones of the same cost."""


def short_irp(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """|θ_K|, the weight after the K steps of a probe; in rounds, iterative rewind pruning with trainings so short."""
    return look_ahead("short-irp", model, mask, batches, ["probe-theta"])["probe-theta"].abs_()


def snip_probe(model: nn.Module, mask: Mask, batches: Batches) -> Tensor:
    """|θ0 ⊙ ḡ|: SNIP (Lee et al. 2019), the gradient averaged along a probe in place of that at its start."""
    theta = mask.layout.flatten(mask.layout.weights(model))
    return look_ahead("snip-probe", model, mask, batches, ["probe-gradient"])["probe-gradient"].mul_(theta).abs_()


_SCORES: dict[str, Criterion] = {"short-irp": short_irp, "snip-probe": snip_probe}


def make_look_ahead(name: str, rounds: int | None = None) -> Rounds:
    """A criterion of `config.LOOK_AHEAD` by name, in so many rounds; `ROUNDS` if not given."""
    return Rounds(_SCORES[name], ROUNDS if rounds is None else rounds)
