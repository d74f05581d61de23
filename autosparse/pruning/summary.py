"""Summary of a masked model, one row per matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autosparse.pruning.layout import Layout
from autosparse.pruning.multiplications import multiplications
from autosparse.pruning.prunable import Matrix, matrices, total

if TYPE_CHECKING:
    import pandas as pd

WARN_ABOVE = 0.1  # fraction of the elements that stays dense
_NONE = "-"


@dataclass(frozen=True)
class Row:
    """A matrix of the model.

    Attributes:
        name: name of the parameter.
        shape: its shape.
        size: its number of elements.
        kept: number of kept elements.
        multiplications: number of multiplications in the forward pass of the dense matrix; None if unknown.
        dense: reason why the matrix is not in the layout; None if it is.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    multiplications: int | None
    dense: str | None

    @property
    def saved(self) -> int | None:
        """Number of multiplications by removed weights; every weight of a matrix takes part in equally many."""
        if self.multiplications is None:
            return None
        return self.multiplications * (self.size - self.kept) // self.size


@dataclass(frozen=True)
class Summary:
    """A table of a model's matrices, in the layout or not; printed as text, `frame` for more."""

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, layout: Layout, kept: Tensor, model: nn.Module, batch: Any = None) -> "Summary":
        """Make the summary; see `Mask.summary`."""
        weights = layout.weights(model)
        counts = {name: int(part.count_nonzero()) for name, part in layout.unflatten(kept).items()}
        found = {matrix.name: matrix for matrix in matrices(model)}
        tensors = {**{name: matrix.tensor for name, matrix in found.items()}, **weights}
        products = {} if batch is None else multiplications(model, tensors, batch)
        return cls(
            tuple(
                Row(
                    name,
                    tuple(tensor.shape),
                    tensor.numel(),
                    counts.get(name, tensor.numel()),
                    products.get(name),
                    None if name in weights else found[name].dense or "excluded",
                )
                for name, tensor in tensors.items()
            )
        )

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per matrix: name, shape, size, kept, density, multiplications, saved, dense."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "name": [row.name for row in self.rows],
                "shape": [row.shape for row in self.rows],
                "size": [row.size for row in self.rows],
                "kept": [row.kept for row in self.rows],
                "density": [row.kept / row.size for row in self.rows],
                "multiplications": pd.array([row.multiplications for row in self.rows], dtype="Int64"),
                "saved": pd.array([row.saved for row in self.rows], dtype="Int64"),
                "dense": [row.dense for row in self.rows],
            }
        )
        return frame

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = []
        for row in self.rows:
            shape = " x ".join(map(str, row.shape))
            numbers = _numbers(row.kept, row.size, row.multiplications, row.saved)
            lines.append((row.name, shape, *numbers, row.dense or ""))
        known = [row for row in self.rows if row.multiplications is not None]
        products = sum(row.multiplications or 0 for row in known) if known else None
        saved = sum(row.saved or 0 for row in known) if known else None
        kept, size = (sum(values) for values in zip(*((row.kept, row.size) for row in self.rows), strict=True))
        head = ("matrix", "shape", "kept", "of", "density", "multiplications", "saved", "dense because")
        lines = [head, *lines, ("all", "", *_numbers(kept, size, products, saved), "")]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = {0, 1, len(widths) - 1}
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield console.render_str(str(self), markup=False, highlight=False)


def _numbers(kept: int, size: int, products: int | None, saved: int | None) -> tuple[str, ...]:
    return (
        f"{kept:,}",
        f"{size:,}",
        f"{kept / size:.2%}",
        *(_NONE if value is None else f"{value:,}" for value in (products, saved)),
    )


def dense_warning(model: nn.Module, layout: Layout, exclude: Sequence[str] = ()) -> str | None:
    """Return a line that names the largest matrices that stay dense although nobody excluded them.

    Args:
        model: model of the layout, wrapped or not.
        layout: the prunable weights.
        exclude: patterns that the layout was made with. A prunable matrix that is not in the layout counts as excluded.

    Returns:
        The line, or None if these matrices have at most a tenth of the elements of all matrices.
    """
    every = matrices(model, exclude=exclude)
    left = sorted(_left(every, layout), key=lambda matrix: -matrix.tensor.numel())
    fraction = total(left) / max(total(every), 1)
    if fraction <= WARN_ABOVE:
        return None
    some = "; ".join(f"{matrix.name}, {matrix.dense}" for matrix in left[:3])
    prunable = any(matrix.tensor.is_floating_point() for matrix in left)
    return (
        f"{fraction:.0%} of the elements of the model's matrices stay dense: {some}{'; ...' if len(left) > 3 else ''}. "
        f"{'Prune them with include=, or say' if prunable else 'Say'} that they stay with exclude=, "
        "by names or patterns of names"
    )


def _left(every: list[Matrix], layout: Layout) -> list[Matrix]:
    pruned = {layer.name for layer in layout.layers}
    return [matrix for matrix in every if matrix.dense is not None and not matrix.asked and matrix.name not in pruned]
