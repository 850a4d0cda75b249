"""What a threshold promises, how well a detector does, which columns changed: plain values, some in words.

Knows counts and calibration scores: no network, table or file. Rates are shares of 1. How detection is measured: ``core.metrics``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vae_anomaly.detector.card import ColumnQuality

# Of thousands of columns none should differ by chance, and what is too small to matter is not news.
STANDARD_ERRORS = 4.0
SMALLEST_CHANGE = 0.01


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
