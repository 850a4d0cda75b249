"""Many rows at once: a cut-off for a false-discovery rate, and p-values that hold for this very calibration.

Knows ranks and p-values, no scores. A conformal p-value of ``n`` calibration rows is i/(n + 1) for a rank i from 1 to n + 1, so that
the p-values of any number of rows are n + 1 counts.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_Floats = NDArray[np.float64]
# Share of calibrations for which the conditional p-values are not valid (Bates et al. 2023 use the same).
CONDITIONAL_DELTA = 0.1


def marginal_table(n: int) -> _Floats:
    """Return the p-value i/(n + 1) of every rank i = 1 … n + 1, valid on average over calibrations (Vovk et al. 2005)."""
    return np.arange(1, n + 2) / (n + 1.0)


def conditional_table(n: int, delta: float = CONDITIONAL_DELTA) -> _Floats:
    """Return the p-value b_i of every rank i = 1 … n + 1, valid for all rates at once with a chance of 1 − delta over calibrations.

    Simes' adjustment: b_(n+1−i) = 1 − delta^(1/k) [i (i−1) … (i−k+1) / (n (n−1) … (n−k+1))]^(1/k) with k = ⌈n/2⌉, b_(n+1) = 1 (Bates,
    Candès, Lei, Romano & Sesia 2023, section 3.2). Given the calibration, rows are then independent and Benjamini-Hochberg holds for
    this model.
    """
    k = -(-n // 2)
    i = np.arange(n, 0, -1, dtype=np.float64)
    # i!/(i−k)! over n!/(n−k)!, in logarithms; a product with a factor 0 is 0.
    log_ratio = np.full(n, -np.inf)
    inside = i >= k
    log_ratio[inside] = gammaln(i[inside] + 1) - gammaln(i[inside] - k + 1) - gammaln(n + 1.0) + gammaln(n - k + 1.0)
    return np.append(-np.expm1((np.log(delta) + log_ratio) / k), 1.0)


def rank_counts(p_values: _Floats, n: int) -> NDArray[np.int64]:
    """Return how many marginal ``p_values`` have each rank 1 … n + 1; those that are NaN are left out."""
    ranks = np.rint(p_values[~np.isnan(p_values)] * (n + 1)).astype(np.int64)
    return np.bincount(ranks - 1, minlength=n + 1).astype(np.int64)


def cutoff(counts: NDArray[np.int64], table: _Floats, rate: float) -> float | None:
    """Return the largest p-value that Benjamini & Hochberg (1995) reject at the false-discovery rate ``rate``; None: none.

    ``counts`` of rows by rank and the p-value of each rank give max{p_i: p_i ≤ rate · #{p ≤ p_i} / m}, the step-up rule.

    >>> cutoff(np.array([2, 0, 0, 6]), np.array([0.1, 0.2, 0.3, 1.0]), 0.5)
    0.1
    """
    below = np.cumsum(counts)
    # A p-value that meets its line exactly is rejected in spite of the last bit.
    rejected = np.flatnonzero((counts > 0) & (table * below[-1] <= rate * below * (1.0 + 1e-12)))
    return float(table[rejected[-1]]) if len(rejected) else None
