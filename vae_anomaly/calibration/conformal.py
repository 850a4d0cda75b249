"""Ranks of calibration scores: which false-alarm rates ``n`` scores can promise, and the score that a rate stands for.

Knows numbers only: no model, no threshold. Split conformal prediction, Vovk et al. 2005, Lei et al. 2018.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, betaln, gammaln

from vae_anomaly.errors import ConfigError

# More calibration rows than anybody has; 1/alpha of a rate that is hardly a number is infinite.
MOST_CALIBRATION_ROWS = 1e18


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
    """Return ⌈1/alpha⌉ − 1, the fewest rows that can promise ``alpha``, at most ``MOST_CALIBRATION_ROWS``.

    Raises ConfigError outside (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        msg = f"alpha must be in (0, 1); got {alpha:g}."
        raise ConfigError(msg)
    return math.ceil(min(1.0 / alpha, MOST_CALIBRATION_ROWS) - 1e-9) - 1


# Confidence of the limit of the rate and of the interval of the alarms.
CONFIDENCE = 0.95
# Numbers of alarms that are summed one by one; where more are likely, binomial noise is nothing beside that of the rate.
MOST_TERMS = 1_000_000
# So many standard deviations leave nothing out of a sum that matters to 95 %.
WIDE = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLaw:
    """The share of new normal rows that one threshold flags follows Beta(``a``, ``b``) over calibration samples."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """The mean rate."""
        return self.a / (self.a + self.b)

    def upper(self, confidence: float = CONFIDENCE) -> float:
        """Return the limit that the rate stays under with this confidence over calibration samples."""
        return float(betaincinv(self.a, self.b, confidence))

    def at_most(self, rate: float) -> float:
        """Return the chance that the rate is at most ``rate``."""
        return float(betainc(self.a, self.b, rate))

    def alarms(self, rows: int, share: float = CONFIDENCE) -> tuple[int, int]:
        """Return the central interval that holds the alarms on ``rows`` new normal rows with a chance of at least ``share``.

        Their number is BetaBinomial(rows, a, b): the rate is one draw, each row another.
        """
        if rows == 0:
            return 0, 0
        tail = (1.0 - share) / 2.0
        a, b, mean = self.a, self.b, self.mean
        spread = math.sqrt(rows * mean * (1.0 - mean) * (a + b + rows) / (a + b + 1.0))
        first, last = max(0, math.floor(rows * mean - WIDE * spread)), min(rows, math.ceil(rows * mean + WIDE * spread) + 10)
        if last - first > MOST_TERMS:
            return math.floor(rows * betaincinv(a, b, tail)), math.ceil(rows * betaincinv(a, b, 1.0 - tail))
        k = np.arange(first, last + 1, dtype=np.float64)
        chance = np.exp(
            gammaln(rows + 1.0) - gammaln(k + 1.0) - gammaln(rows - k + 1.0) + betaln(k + a, rows - k + b) - betaln(a, b)
        ).cumsum()
        # An end that meets its share exactly is taken in spite of the last bits of a sum.
        low, high = np.searchsorted(chance, [tail + 1e-12, 1.0 - tail - 1e-9])
        return first + int(low), first + min(int(high), len(k) - 1)


def conformal_law(n: int, alpha: float) -> RateLaw:
    """Return Beta(j, n + 1 − j), j = ⌊(n+1)·alpha⌋: the rate of a conformal threshold over calibration samples (Vovk 2012).

    Exact for exchangeable rows whose scores differ; where scores tie the rate is smaller.
    """
    j = alarms_in(n, alpha)
    return RateLaw(a=float(j), b=float(n + 1 - j))
