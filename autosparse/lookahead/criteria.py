"""Criteria of the columns of a probe: the baselines at equal cost of an AutoS that looks ahead."""

from torch import Tensor, nn

from autosparse.criteria.base import Scoring
from autosparse.lookahead.probe import look_ahead
from autosparse.pruning import Mask


def short_irp(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ_K|, the weight after the K steps of a probe; in rounds, iterative rewind pruning cut short."""
    return look_ahead("short-irp", model, mask, scoring, ["probe-theta"])["probe-theta"].abs_()


def snip_probe(model: nn.Module, mask: Mask, scoring: Scoring) -> Tensor:
    """Return |θ0 ⊙ ḡ|: SNIP (Lee et al. 2019) with the mean gradient along a probe, not the one at its start."""
    theta = mask.layout.flatten(mask.layout.weights(model))
    return look_ahead("snip-probe", model, mask, scoring, ["probe-gradient"])["probe-gradient"].mul_(theta).abs_()
