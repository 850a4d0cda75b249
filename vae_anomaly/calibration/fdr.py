"""False-discovery rate control (Benjamini & Hochberg 1995) on conformal p-values, marginal or calibration-conditional.

Conformal p-values from ``n`` calibration rows are functions of a rank i = 1 … n + 1, so the p-values of any number of rows are
represented by n + 1 counts.
"""

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def rank_counts(p_values: _Floats, n: int) -> NDArray[np.int64]:
    """Return the number of marginal ``p_values`` of each rank, int64 ``[n + 1]``; NaN is ignored."""
    ranks = np.rint(p_values[~np.isnan(p_values)] * (n + 1)).astype(np.int64)
    return np.bincount(ranks - 1, minlength=n + 1).astype(np.int64)


def benjamini_hochberg_cutoff(counts: NDArray[np.int64], table: _Floats, rate: float) -> float | None:
    """Return the largest p-value rejected at the false-discovery rate ``rate``, or None if none is (Benjamini & Hochberg 1995).

    The step-up rule is max{p_i: p_i ≤ rate · #{p ≤ p_i} / m}; ``counts`` ``[n + 1]`` are the rows and ``table`` ``[n + 1]`` the p-value of
    each rank.

    >>> benjamini_hochberg_cutoff(np.array([2, 0, 0, 6]), np.array([0.1, 0.2, 0.3, 1.0]), 0.5)
    0.1
    """
    below = np.cumsum(counts)
    # Tolerance: a p-value that equals its bound is rejected despite rounding.
    rejected = np.flatnonzero((counts > 0) & (table * below[-1] <= rate * below * (1.0 + 1e-12)))
    return float(table[rejected[-1]]) if len(rejected) else None
