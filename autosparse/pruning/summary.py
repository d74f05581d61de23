"""Summary of a masked model, one row per matrix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autosparse.pruning.layout import Layout
from autosparse.pruning.multiplications import observed
from autosparse.pruning.prunable import matrices

if TYPE_CHECKING:
    import pandas as pd

WARN_ABOVE = 0.1  # fraction of the elements that stays dense


@dataclass(frozen=True)
class Row:
    """A matrix of the model.

    Attributes:
        name: name of the parameter.
        shape: its shape.
        size: its number of elements.
        kept: number of kept elements.
        density: fraction of kept elements.
        multiplications: number of multiplications in the forward pass of the dense matrix; None if unknown.
        saved: number of those by removed weights; every weight of a matrix takes part in equally many.
        dense: reason why the matrix is not in the layout; None if it is.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    density: float
    multiplications: int | None
    saved: int | None
    dense: str | None


@dataclass(frozen=True)
class Summary:
    """A table of a model's matrices, in the layout or not; printed as text, `frame` for more.

    Examples:
        >>> mask = autosparse.prune(model, criterion="random-erk", sparsity=0.9)
        >>> int(mask.summary(model).frame["kept"].sum())
        192
    """

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, layout: Layout, kept: Tensor, model: nn.Module, batch: Any = None) -> "Summary":
        """Make the summary; see `Mask.summary`."""
        weights = layout.weights(model)
        counts = {name: int(part.count_nonzero()) for name, part in layout.unflatten(kept).items()}
        found = {matrix.name: matrix for matrix in matrices(model)}
        tensors = {**{name: matrix.tensor for name, matrix in found.items()}, **weights}
        products = {} if batch is None else observed(model, tensors, batch).multiplications
        rows = []
        for name, tensor in tensors.items():
            size, product = tensor.numel(), products.get(name)
            count = counts.get(name, size)
            saved = None if product is None else product * (size - count) // size
            dense = None if name in weights else found[name].why_dense or "excluded"
            rows.append(Row(name, tuple(tensor.shape), size, count, count / size, product, saved, dense))
        return cls(tuple(rows))

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per matrix: name, shape, size, kept, density, multiplications, saved, dense."""
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.rows])
        return frame.astype({"multiplications": "Int64", "saved": "Int64"})

    def __str__(self) -> str:
        kept, size = sum(row.kept for row in self.rows), sum(row.size for row in self.rows)
        known = [(row.multiplications, row.saved or 0) for row in self.rows if row.multiplications is not None]
        products, saved = map(sum, zip(*known, strict=True)) if known else (None, None)
        head = ("matrix", "shape", "kept", "of", "density", "multiplications", "saved", "dense because")
        lines: list[tuple[str, ...]] = [head]
        for row in (*self.rows, Row("all", (), size, kept, kept / size, products, saved, None)):
            counts = ("-" if count is None else f"{count:,}" for count in (row.multiplications, row.saved))
            numbers = f"{row.kept:,}", f"{row.size:,}", f"{row.density:.2%}", *counts
            lines.append((row.name, " x ".join(map(str, row.shape)), *numbers, row.dense or ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ["<", "<", ">", ">", ">", ">", ">", "<"]
        return "\n".join(
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)).rstrip()
            for line in lines
        )

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield console.render_str(str(self), markup=False, highlight=False)


def dense_warning(model: nn.Module, layout: Layout, exclude: Sequence[str] = ()) -> str | None:
    """Return a line that names the largest matrices that stay dense although nobody excluded them.

    Args:
        model: model of the layout, wrapped or not.
        layout: the prunable weights.
        exclude: patterns that the layout was made with. A prunable matrix that is not in the layout counts as excluded.

    Returns:
        The line, or None if these matrices have at most a tenth of the elements of all matrices.
    """
    every, pruned = matrices(model, exclude=exclude), {layer.name for layer in layout.layers}
    dense = [matrix for matrix in every if matrix.why_dense and not matrix.excluded and matrix.name not in pruned]
    dense.sort(key=lambda matrix: -matrix.tensor.numel())
    size, left = (sum(matrix.tensor.numel() for matrix in some) for some in (every, dense))
    if left <= WARN_ABOVE * size:
        return None
    some = "; ".join(f"{matrix.name}, {matrix.why_dense}" for matrix in dense[:3])
    prunable = any(matrix.tensor.is_floating_point() for matrix in dense)
    return (
        f"{left / size:.0%} of the elements of the model's matrices stay dense: {some}"
        f"{'; ...' if len(dense) > 3 else ''}. {'Prune them with include=, or say' if prunable else 'Say'} that they "
        "stay with exclude=, by names or patterns of names"
    )
