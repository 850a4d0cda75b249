"""Ranks of calibration scores: which false-alarm rates ``n`` scores can promise, and the score that a rate stands for.

Knows numbers only: no model, no threshold. Split conformal prediction, Vovk et al. 2005, Lei et al. 2018.
"""

import math

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.errors import ConfigError

# More calibration rows than anybody has; 1/alpha of a rate that is hardly a number is infinite.
MOST_ROWS = 1e18


def conformal_value(ordered: NDArray[np.float64], alpha: float) -> float:
    """Return the ⌈(n+1)(1−alpha)⌉-th smallest of ascending scores (split conformal, Lei et al. 2018).

    Counted from above, n − ⌊(n+1)alpha⌋ + 1 − 1 zero-based, because (n+1)(1−alpha) in floating point can land on the wrong side.
    """
    n = len(ordered)
    return float(ordered[n - alarms_in(n, alpha)])


def alarms_in(n: int, alpha: float) -> int:
    """Return j = ⌊(n+1)·alpha⌋: realised false alarms follow BetaBinomial(n_test; j, n+1−j)."""
    return math.floor((n + 1) * alpha + 1e-9)


def finest_alpha(n: int) -> float:
    """Return the smallest false-alarm rate that ``n`` calibration rows can promise, 1/(n+1)."""
    return 1.0 / (n + 1)


def finest_text(n: int) -> str:
    """Write the finest alpha with three digits, rounded up: typed again, it is accepted."""
    return rounded_up(finest_alpha(n))


def rounded_up(rate: float) -> str:
    """Write a rate with three digits, rounded up.

    >>> rounded_up(1 / 41)
    '0.0244'
    """
    unit = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return f"{math.ceil(rate / unit - 1e-9) * unit:.3g}"


def calibration_rows_needed(alpha: float) -> int:
    """Return ⌈1/alpha⌉ − 1, the fewest rows that can promise ``alpha``, at most ``MOST_ROWS``. Raises ConfigError outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        msg = f"alpha must be in (0, 1); got {alpha:g}."
        raise ConfigError(msg)
    return math.ceil(min(1.0 / alpha, MOST_ROWS) - 1e-9) - 1
