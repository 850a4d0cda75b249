"""Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): quantile ranks and the distribution of the false-alarm rate.

``n`` is the number of calibration scores and ``alpha`` the false-alarm rate; higher scores are more anomalous.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vae_anomaly.errors import ConfigError

CONDITIONAL_DELTA = 0.1  # probability that conditional p-values are invalid for a calibration, as in Bates et al. 2023

MOST_CALIBRATION_ROWS = 1e18  # 1/alpha of a subnormal alpha overflows to infinity
CONFIDENCE = 0.95  # of the upper limit of the rate and of the interval of the number of alarms
MOST_TERMS = 1_000_000  # beyond, binomial noise is negligible beside the uncertainty of the rate
WIDE = 40.0  # standard deviations; the probability outside does not change a 95 % interval


def conformal_quantile(ordered: NDArray[np.float64], alpha: float) -> float:
    """Return the split conformal quantile: the ⌈(n+1)(1−alpha)⌉-th smallest of the ascending scores ``[n]`` (Lei et al. 2018).

    Computed as zero-based index n − ⌊(n+1)·alpha⌋, because (n+1)(1−alpha) can round to the wrong side of an integer.
    """
    n = len(ordered)
    return float(ordered[n - quantile_rank(n, alpha)])


def quantile_rank(n: int, alpha: float) -> int:
    """Return the rank j = ⌊(n+1)·alpha⌋ of the threshold, counted from the highest score.

    The false alarms among n_test normal rows follow BetaBinomial(n_test; j, n+1−j).
    """
    return math.floor((n + 1) * alpha + 1e-9)


def finest_alpha(n: int) -> float:
    """Return the smallest false-alarm rate that ``n`` calibration rows can guarantee, 1/(n+1)."""
    return 1.0 / (n + 1)


def finest_text(n: int) -> str:
    """Return ``finest_alpha`` with three digits, rounded up so that it is accepted as ``--alpha``."""
    return rounded_up(finest_alpha(n))


def rounded_up(rate: float) -> str:
    """Return a rate as text with three significant digits, rounded up.

    >>> rounded_up(1 / 41)
    '0.0244'
    """
    unit = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return f"{math.ceil(rate / unit - 1e-9) * unit:.3g}"


def calibration_rows_needed(alpha: float) -> int:
    """Return ⌈1/alpha⌉ − 1, the fewest rows that can guarantee ``alpha``, at most ``MOST_CALIBRATION_ROWS``.

    Raises ConfigError if ``alpha`` is not in (0, 1).
    """
    if not 0.0 < alpha < 1.0:
        msg = f"alpha must be in (0, 1); got {alpha:g}."
        raise ConfigError(msg)
    return math.ceil(min(1.0 / alpha, MOST_CALIBRATION_ROWS) - 1e-9) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLaw:
    """Beta(``a``, ``b``) distribution, over calibration samples, of the false-alarm rate of one threshold."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """Mean of the rate."""
        return self.a / (self.a + self.b)

    def upper(self, confidence: float = CONFIDENCE) -> float:
        """Return the upper confidence limit of the rate, one-sided, over calibration samples."""
        from scipy.special import betaincinv

        return float(betaincinv(self.a, self.b, confidence))

    def central(self, share: float) -> tuple[float, float]:
        """Return the equal-tailed interval that contains the rate with probability ``share``."""
        from scipy.special import betaincinv

        tail = (1.0 - share) / 2.0
        return float(betaincinv(self.a, self.b, tail)), float(betaincinv(self.a, self.b, 1.0 - tail))

    def alarms(self, rows: int, share: float = CONFIDENCE) -> tuple[int, int]:
        """Return the equal-tailed interval of the number of alarms among ``rows`` new normal rows, of probability ``share`` or more.

        The number follows BetaBinomial(rows, a, b): the rate is drawn once, then every row independently.
        """
        if rows == 0:
            return 0, 0
        tail = (1.0 - share) / 2.0
        a, b, mean = self.a, self.b, self.mean
        spread = math.sqrt(rows * mean * (1.0 - mean) * (a + b + rows) / (a + b + 1.0))
        first, last = max(0, math.floor(rows * mean - WIDE * spread)), min(rows, math.ceil(rows * mean + WIDE * spread) + 10)
        if last - first > MOST_TERMS:
            low_rate, high_rate = self.central(share)
            return math.floor(rows * low_rate), math.ceil(rows * high_rate)
        k = np.arange(first, last + 1, dtype=np.float64)
        chance = np.exp(
            _log_gamma(rows + 1.0) - _log_gamma(k + 1.0) - _log_gamma(rows - k + 1.0) + _log_beta(k + a, rows - k + b) - _log_beta(a, b)
        ).cumsum()
        # Tolerances: a bound that meets its probability exactly counts despite the rounding of the cumulative sum.
        low, high = np.searchsorted(chance, [tail + 1e-12, 1.0 - tail - 1e-9])
        return first + int(low), first + min(int(high), len(k) - 1)

    def as_few(self, rows: int, alarms: int) -> float:
        """Return the probability of at most ``alarms`` among ``rows`` new normal rows."""
        if alarms >= rows:
            return 1.0
        if alarms > MOST_TERMS:
            from scipy.special import betainc

            return float(betainc(self.a, self.b, alarms / rows))
        k = np.arange(alarms + 1.0)
        chance = _log_gamma(rows + 1.0) - _log_gamma(k + 1.0) - _log_gamma(rows - k + 1.0) + _log_beta(k + self.a, rows - k + self.b)
        return min(1.0, float(np.exp(chance - _log_beta(self.a, self.b)).sum()))


def _log_gamma(x: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.lgamma(torch.as_tensor(x, dtype=torch.float64)).numpy()


def _log_beta(a: float | NDArray[np.float64], b: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def conformal_law(n: int, alpha: float) -> RateLaw:
    """Return Beta(j, n + 1 − j), j = ⌊(n+1)·alpha⌋: the distribution of the rate over calibration samples (Vovk 2012).

    Exact for exchangeable rows with distinct scores; ties make the rate smaller.
    """
    j = quantile_rank(n, alpha)
    return RateLaw(a=float(j), b=float(n + 1 - j))


def marginal_p_values(n: int) -> NDArray[np.float64]:
    """Return the p-value i/(n + 1) of every rank, float64 ``[n + 1]``: valid on average over calibrations (Vovk et al. 2005)."""
    return np.arange(1, n + 2) / (n + 1.0)


def conditional_p_values(n: int, delta: float = CONDITIONAL_DELTA) -> NDArray[np.float64]:
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
    log_ratio[inside] = _log_gamma(i[inside] + 1) - _log_gamma(i[inside] - k + 1) - _log_gamma(n + 1.0) + _log_gamma(n - k + 1.0)
    return np.append(-np.expm1((np.log(delta) + log_ratio) / k), 1.0)


def two_sided(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return min(1, 2·min(upper, lower)), valid because each p-value is and a half goes to each side; NaN where the score is NaN."""
    return np.minimum(1.0, 2.0 * np.minimum(upper, lower))


def untypical_rows(typicality: NDArray[np.float64], upper: NDArray[np.float64], alpha: float) -> tuple[int, int]:
    """Return how many rows have a typicality of at most ``alpha``, and how many of them because they score too low."""
    untypical = typicality <= alpha * (1.0 + 1e-12)
    return int(untypical.sum()), int((untypical & (typicality < np.minimum(1.0, 2.0 * upper))).sum())
