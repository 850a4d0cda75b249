"""What is known of the false-alarm rate of one calibrated model, and how many alarms that means for rows to come.

Knows no scores. scipy.stats is slow to import, so the laws are written with scipy.special; the tests hold them against scipy.stats.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv, betaln, gammaln

from vae_anomaly.core.ranks import alarms_in

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


def percent(share: float) -> str:
    """Write a share as per cent with three significant digits.

    >>> percent(0.01), percent(0.0123456)
    ('1 %', '1.23 %')
    """
    return f"{100 * share:.3g} %"
