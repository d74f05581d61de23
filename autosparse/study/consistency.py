"""How far two runs of iterative pruning agree on which parameters survive (paper, appendix F)."""

import numpy as np

from autosparse.errors import UserError
from autosparse.store import TripleStore


def concordance(a: TripleStore, b: TripleStore) -> float:
    """Concordance correlation coefficient of survival / N, parameter by parameter (paper, eq. 5; Lin 1989).

    2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²): 1 for equal scores, 0 for independent ones. Streams over the
    stores; the sums are of integers, so exact.

    Raises:
        UserError: the runs are of different networks, or every parameter has one and the same survival in both.
    """
    if a.layout != b.layout:
        raise UserError(f"{a.storage} and {b.storage} are runs of different networks; there is nothing to compare")
    sums = np.zeros(5, dtype=object)  # of x, y, x², y², xy; Python's integers do not overflow
    for span, columns in a.scan("survival"):
        x, y = columns["survival"].astype(np.int64), b.survival(span).astype(np.int64)
        sums += np.array([int(values.sum()) for values in (x, y, x * x, y * y, x * y)], dtype=object)
    n, (x1, y1, x2, y2, xy) = len(a), sums
    p, q = a.iterations, b.iterations
    covariance = (n * xy - x1 * y1) / (p * q)
    spread = (n * x2 - x1 * x1) / p**2 + (n * y2 - y1 * y1) / q**2 + (x1 / p - y1 / q) ** 2
    if not spread:
        raise UserError(f"every parameter has the same survival in {a.storage} and {b.storage}")
    return float(2 * covariance / spread)
