"""What a threshold promises, how well a detector does, which columns changed: plain values, some in words.

Knows counts and calibration scores: no network, table or file. Rates are shares of 1. How detection is measured: ``core.metrics``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import betaincinv

from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.rates import percent
from vae_anomaly.core.statement import statement
from vae_anomaly.core.threshold import Threshold, alarms_in, finest_alpha

__all__ = [
    "Comparison", "FalseAlarms", "LabelFound", "MissingChange", "Promise", "Quality", "Ranking", "band", "missing_changes",
    "percent", "promise",
]  # fmt: skip

# Share of calibrations whose long-run false-alarm rate lies inside the stated band.
BAND = 0.99
# Of thousands of columns none should differ by chance, and what is too small to matter is not news.
STANDARD_ERRORS = 4.0
SMALLEST_CHANGE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the threshold stands for; ``low`` and ``high`` (``split`` only): 99 of 100 calibrations have a rate between them."""

    alpha: float
    method: str
    threshold: float  # weighted nats
    calibration_rows: int
    finest_alpha: float
    exact: bool
    low: float | None
    high: float | None
    words: str
    limit: float | None = None  # 95 of 100 calibrations have a rate under it; None where no limit is known for this model
    statement: str = ""


def promise(threshold: Threshold) -> Promise:
    """State the promise of a threshold.

    Given the calibration rows, the false-alarm rate of new rows follows Beta(j, n + 1 - j), j = ⌊(n + 1)·alpha⌋ (Vovk 2012).
    """
    n = len(threshold.calibration)
    low, high = band(n, threshold.alpha) if threshold.method == "split" else (None, None)
    return Promise(
        alpha=threshold.alpha,
        method=threshold.method,
        threshold=threshold.value,
        calibration_rows=n,
        finest_alpha=finest_alpha(n) if threshold.tail is None else threshold.tail.finest,
        exact=threshold.method == "split",
        low=low,
        high=high,
        words=_promise_in_words(threshold, low, high),
        limit=None if threshold.method == "cross" else threshold.limit,
        statement=statement(threshold),
    )


def band(n: int, alpha: float) -> tuple[float, float]:
    """Return the central 99 % of Beta(j, n + 1 - j), j = ⌊(n + 1)·alpha⌋."""
    j = alarms_in(n, alpha)
    tail = (1.0 - BAND) / 2.0
    return float(betaincinv(j, n + 1 - j, tail)), float(betaincinv(j, n + 1 - j, 1.0 - tail))


def _promise_in_words(threshold: Threshold, low: float | None, high: float | None) -> str:
    alpha, n = threshold.alpha, len(threshold.calibration)
    if threshold.tail is not None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged (estimated by a tail fitted to the "
            f"{threshold.tail.exceedances:,} highest of {n:,} calibration rows)"
        )
    if low is None or high is None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged "
            f"(cross-fitted on {n:,} rows: approximate, at most {percent(2 * alpha)} is proven)"
        )
    return (
        f"at most {percent(alpha)} of normal rows like these are flagged on average (exact for exchangeable rows); "
        f"with {n:,} calibration rows the rate of one model is {percent(low)} to {percent(high)} in 99 of 100 cases"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFound:
    """Rows that carry one label, and how many of them were flagged."""

    label: str
    rows: int
    flagged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well a detector orders anomalous rows above normal ones; 1 is perfect, ``auroc`` 0.5 is chance."""

    name: str
    auroc: float
    average_precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Detectors on the same rows, the best first; the others learned from ``peer_rows`` normal rows."""

    rankings: tuple[Ranking, ...]
    peer_rows: int
    test_rows: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Normal rows that were flagged; ``low`` and ``high`` are the exact (Clopper-Pearson) 95 % interval of the rate."""

    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Where the figures would lie with other rows of both classes, as many of each; None: no row was flagged."""

    auroc: Interval
    average_precision: Interval
    recall: Interval
    precision: Interval | None
    f1: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Detection on labelled rows."""

    normal_rows: int
    anomalous_rows: int
    auroc: float
    average_precision: float
    precision: float | None  # None: no row was flagged
    recall: float
    false_alarms: FalseAlarms | None  # None: the normal rows are those that set the threshold, so their rate says nothing
    f1: float = 0.0  # harmonic mean of precision and recall
    intervals: Intervals | None = None
    by_label: tuple[LabelFound, ...] = ()
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingChange:
    """A column whose share of missing cells differs from the fit by more than chance."""

    column: str
    at_fit: float
    now: float


def missing_changes(quality: Sequence[ColumnQuality], fit_rows: int, missing: Mapping[str, int], rows: int) -> tuple[MissingChange, ...]:
    """Return the columns whose share of missing cells changed, the largest change first; ``missing`` is column → cells of ``rows`` rows.

    A change counts from four standard errors of the difference of two shares on, and from one cell in a hundred.
    """
    changes = [MissingChange(column=q.name, at_fit=q.missing, now=missing.get(q.name, 0) / rows) for q in quality if rows]
    return tuple(sorted((c for c in changes if _changed(c, fit_rows, rows)), key=lambda c: -abs(c.now - c.at_fit)))


def _changed(change: MissingChange, fit_rows: int, rows: int) -> bool:
    pooled = (change.at_fit * fit_rows + change.now * rows) / (fit_rows + rows)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / fit_rows + 1.0 / rows))
    difference = abs(change.now - change.at_fit)
    return difference >= SMALLEST_CHANGE and difference > STANDARD_ERRORS * error
