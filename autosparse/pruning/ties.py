"""Equal scores: which of them are kept, and when so many are equal that the scores say nothing."""

from collections.abc import Collection, Iterable
from typing import NoReturn

import torch
from torch import Tensor

from autosparse.errors import UserError
from autosparse.pruning.layout import Layout
from autosparse.pruning.parts import BINS, Part, World, bin_of, pieces

ALL, NONE = 0, 1 << 48  # the least priorities that let every tie pass, and none
_SHOWN = 3


def priority(index: Tensor) -> Tensor:
    """int64 in [0, 2^48), another for each flat index in [0, 2^48): a fixed permutation that looks random.

    By index alone the first layers, and the first units of a layer, would win every tie.
    """
    mixed = index
    for shift, odd in ((25, 0xFF51AFD7ED55), (23, 0xC4CEB9FE1A85), (26, 0x9E3779B97F4B)):
        mixed = ((mixed ^ (mixed >> shift)) * odd) & (NONE - 1)  # each step can be undone, so no two become one
    return mixed ^ (mixed >> 24)


def tied(piece: Part, value: float, start: int) -> tuple[Tensor, Tensor]:
    """Where the scores of a piece that are alive equal a value: positions in the piece, and their priorities.

    Args:
        piece: float32 (n,) scores and bool (n,) of those alive, or None.
        value: the score.
        start: the flat index of the first score.
    """
    scores, alive = piece
    equal = scores == value if alive is None else (scores == value) & alive
    positions = equal.nonzero().squeeze(1)
    return positions, priority(positions + start)


def least_priority(parts: Iterable[Part], value: float, wanted: int, world: World, start: int) -> int:
    """The priority from which on exactly the wanted number of the scores equal to a value are kept.

    A histogram of the upper 16 bits of the priorities; then, within the bin that it falls in, of the next ones.

    Args:
        parts: as in `keep_top_of_parts`.
        value: the score.
        wanted: how many to keep of those that have it, fewer than they are.
        world: the processes that hold the parts.
        start: the flat index of the first score of this process.
    """
    found = 0
    for shift in (32, 16, 0):
        counts = torch.zeros(BINS, dtype=torch.int64, device="cpu")
        position = start
        for piece in pieces(parts):
            _, priorities = tied(piece, value, position)
            position += len(piece[0])
            within = priorities[priorities >> (shift + 16) == found]
            counts = counts.to(within.device).add_(torch.bincount((within >> shift) & (BINS - 1), minlength=BINS))
        counts = world.total(counts)
        place, above = bin_of(counts, wanted)
        found, wanted = found << 16 | place, wanted - above
        if int(counts[place]) == wanted:
            break
    return found << shift


def refuse_ties(
    parts: Iterable[Part], value: float, drawn: tuple[int, int, int], layout: Layout, world: World, start: int
) -> NoReturn:
    """Refuse scores that do not distinguish.

    Args:
        parts, value, world, start: as in `least_priority`.
        drawn: how many would be taken of those equal to the value, of how many, and how many are kept in all.
        layout: the index space.

    Raises:
        UserError: always; names the layers in which all scores are equal.
    """
    equal = _constant_layers(parts, layout, world, start)
    removed = [name for name, score in equal.items() if score == -torch.inf]
    where = f"; all scores are equal in {_listed(equal)}" if equal else ""
    if removed:
        where = f"; nothing is left of {_listed(removed)}"
        cause = "too few rounds, of which one has removed a whole layer, or a criterion that scores it -inf"
    elif value == 0:
        cause = (
            "all-zero gradients: a zero-initialized head, a backbone without gradients, a network cut in two, "
            "or a training that diverged"
        )
    else:
        cause = "weights set to one value or of low precision, or a criterion of few values"
    taken, of, k = drawn
    raise UserError(
        f"the scores do not tell the weights apart: {taken:,} of the {k:,} to keep would be drawn among {of:,} that "
        f"score {value:g}{where}; likely {cause}"
    )


def _listed(names: Collection[str]) -> str:
    """How many layers, and which, the first of them."""
    some = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} layer{'s' if len(names) > 1 else ''} ({some})"


def _constant_layers(parts: Iterable[Part], layout: Layout, world: World, start: int) -> dict[str, float]:
    """The layers of which at least two weights are alive and all that are score the same, and that score."""
    # of the scores, and of their negatives
    highest = torch.full((2, len(layout.layers)), -torch.inf, dtype=torch.float32, device="cpu")
    alive_of = torch.zeros(len(layout.layers), dtype=torch.int64, device="cpu")
    for scores, alive in pieces(parts):
        for number, layer in enumerate(layout.layers):
            span = slice(max(layer.offset - start, 0), max(layer.offset + layer.size - start, 0))
            own = scores[span] if alive is None else scores[span][alive[span]]
            if len(own):
                extremes = torch.stack([own.amax(), -own.amin()]).cpu()
                highest[:, number] = torch.maximum(highest[:, number], extremes)
                alive_of[number] += len(own)
        start += len(scores)
    highest, alive_of = world.highest(highest), world.total(alive_of)
    constant = (highest[0] == -highest[1]) & (alive_of > 1)
    found = zip(layout.layers, highest[0].tolist(), constant.tolist(), strict=True)
    return {layer.name: score for layer, score, same in found if same}
