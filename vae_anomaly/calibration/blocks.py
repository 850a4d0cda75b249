"""Thresholds of time series: rows resemble their neighbours, so contiguous blocks of the training time calibrate, not rows.

The threshold is the upper prediction limit of the next block's (1 − alpha) quantile q, if log q is about normal over blocks:
exp(mean + t(b − 1; 0.95) · sd · √(1 + 1/b)) of the b blocks' log q (Hahn & Meeker 1991, chapter 4). It widens by itself where blocks
differ. It is an estimate: exact is only that the next of b + 1 exchangeable blocks has the highest quantile once in b + 1 times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT_CONFIDENCE = 0.95  # one-sided, of the threshold
RANGE = 0.95  # two-sided, of the rate in the next block
# Window of the sum of autocorrelations, in autocorrelation times (Sokal 1997).
WINDOW_TIMES = 5.0
LEAST_NATS = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRates:
    """What ``blocks`` blocks say about the false-alarm rate of a threshold.

    ``effective_rows``: rows divided by the integrated autocorrelation time of their scores. ``lowest``, ``highest``: the blocks' own rates
    at the pooled (1 − alpha) quantile of all; ``worst``: the highest rate of a block above the threshold. ``low`` to ``high``: the range of
    the rate above the threshold in a next block of the same kind. ``drift``: log ratio of the median scores of the last and first block.
    """

    blocks: int
    rows: int
    effective_rows: float
    lowest: float
    highest: float
    low: float
    high: float
    drift: float
    worst: float = 0.0


def t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # noqa: PLC0415  # only a calibration asks for it

    return float(stdtrit(freedom, share))


def _log_quantiles(scores: NDArray[np.float64], block: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    quantiles = [np.quantile(scores[block == b], 1.0 - alpha) for b in np.unique(block)]
    logs: NDArray[np.float64] = np.log(np.maximum(np.array(quantiles), LEAST_NATS))
    return logs


def _spread(logs: NDArray[np.float64], share: float) -> float:
    count = len(logs)
    return t_quantile(share, count - 1) * float(logs.std(ddof=1)) * math.sqrt(1.0 + 1.0 / count)


def block_threshold(scores: NDArray[np.float64], block: NDArray[np.int64], alpha: float) -> float:
    """Return the upper prediction limit of the next block's (1 − alpha) quantile of ``scores`` ``[n]``; ``block`` int64 ``[n]``.

    >>> scores = np.concatenate([np.linspace(0.0, top, 101) for top in (1.0, 1.1, 0.9)])
    >>> round(block_threshold(scores, np.repeat([0, 1, 2], 101), 0.01), 3)
    1.384
    """
    logs = _log_quantiles(scores, block, alpha)
    return float(np.exp(logs.mean() + _spread(logs, LIMIT_CONFIDENCE)))


def highest_quantile(scores: NDArray[np.float64], block: NDArray[np.int64], alpha: float) -> float:
    """Return the highest (1 − alpha) quantile of a block: of b + 1 exchangeable blocks, the next has a higher one once in b + 1 times."""
    return float(np.exp(_log_quantiles(scores, block, alpha).max()))


def block_rates(scores: NDArray[np.float64], block: NDArray[np.int64], alpha: float, *, effective_rows: float) -> BlockRates:
    """Return what the blocks say about the rate of ``block_threshold`` at ``alpha``; arguments as there."""
    names = np.unique(block)
    pooled, logs = float(np.quantile(scores, 1.0 - alpha)), _log_quantiles(scores, block, alpha)
    own = [float((scores[block == b] > pooled).mean()) for b in names]
    centre, spread = float(logs.mean()), _spread(logs, 0.5 + 0.5 * RANGE)
    level = np.log(np.maximum(scores, LEAST_NATS)) + (centre - logs[np.searchsorted(names, block)])
    limit = math.log(block_threshold(scores, block, alpha))
    medians = [float(np.median(scores[block == b])) for b in (names[0], names[-1])]
    return BlockRates(
        blocks=len(names),
        rows=len(scores),
        effective_rows=effective_rows,
        lowest=min(own),
        highest=max(own),
        low=float((level - spread > limit).mean()),
        high=float((level + spread > limit).mean()),
        worst=max(float((np.log(np.maximum(scores[block == b], LEAST_NATS)) > limit).mean()) for b in names),
        drift=math.log(max(medians[1], LEAST_NATS) / max(medians[0], LEAST_NATS)),
    )


def effective_rows(series: Sequence[NDArray[np.float64]]) -> float:
    """Return how many independent rows the scores of several time series are worth: rows / integrated autocorrelation time of each."""
    return sum(len(scores) / autocorrelation_time(scores) for scores in series)


def autocorrelation_time(scores: NDArray[np.float64]) -> float:
    """Return 1 + 2 Σ autocorrelation, at least 1, summed up to the first lag of five times the sum (Sokal 1997); 1 for constant scores."""
    count = len(scores)
    centred = scores - scores.mean() if count else scores
    power = float(centred @ centred)
    if count < 2 or power <= 0.0:  # noqa: PLR2004  # one row has no neighbour
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * count)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), 2 * count)[:count] / power
    sums = 1.0 + 2.0 * np.cumsum(correlation[1:])
    enough = np.flatnonzero(np.arange(1, count) >= WINDOW_TIMES * sums)
    return max(1.0, float(sums[enough[0] if len(enough) else -1]))
