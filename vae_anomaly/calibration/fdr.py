"""False-discovery rate control (Benjamini & Hochberg 1995) on conformal p-values, marginal or calibration-conditional.

Conformal p-values from ``n`` calibration rows are functions of a rank i = 1 … n + 1, so the p-values of any number of rows are
represented by n + 1 counts.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_Floats = NDArray[np.float64]
CONDITIONAL_DELTA = 0.1  # probability that conditional p-values are invalid for a calibration, as in Bates et al. 2023


def marginal_p_values(n: int) -> _Floats:
    """Return the p-value i/(n + 1) of every rank, float64 ``[n + 1]``: valid on average over calibrations (Vovk et al. 2005)."""
    return np.arange(1, n + 2) / (n + 1.0)


def conditional_p_values(n: int, delta: float = CONDITIONAL_DELTA) -> _Floats:
    """Return the p-value b_i of every rank, float64 ``[n + 1]``: valid at all levels at once with probability 1 − delta.

    Simes' adjustment: b_(n+1−i) = 1 − delta^(1/k) [i (i−1) … (i−k+1) / (n (n−1) … (n−k+1))]^(1/k) with k = ⌈n/2⌉, b_(n+1) = 1 (Bates,
    Candès, Lei, Romano & Sesia 2023, section 3.2). The probability is over calibrations; given the calibration, the p-values of new
    rows are independent, so Benjamini-Hochberg controls the false-discovery rate of this model.
    """
    k = -(-n // 2)
    i = np.arange(n, 0, -1, dtype=np.float64)
    # Factorials overflow: log of i!/(i−k)! over n!/(n−k)!, −inf where the product has a factor 0.
    log_ratio = np.full(n, -np.inf)
    inside = i >= k
    log_ratio[inside] = gammaln(i[inside] + 1) - gammaln(i[inside] - k + 1) - gammaln(n + 1.0) + gammaln(n - k + 1.0)
    return np.append(-np.expm1((np.log(delta) + log_ratio) / k), 1.0)


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
