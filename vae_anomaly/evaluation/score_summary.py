"""Streaming summary of scores: histogram, alarms at each alpha, scores over time, rows with the highest scores.

Its memory does not grow with the number of rows. Times are whole seconds since 1970.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import conformal_quantile, finest_alpha
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.explain.contributions import Alarm

_Scores = NDArray[np.float64]
_Flags = NDArray[np.bool_]
# Values of alpha in the report, from the finest that the calibration allows to LOOSEST.
RATE_STEPS = 60
LOOSEST = 0.5
# The histogram scale is linear up to this quantile of the calibration scores and logarithmic above.
LINEAR_QUANTILE = 0.05
# Bins over the range of the calibration scores while adding.
FINE_BINS = 240
# Bins of the result at most.
SHOWN_BINS = 80
# Widths of a time bin in seconds, each a multiple of the previous one, so that bins can be merged.
WIDTHS = (1, 10, 60, 300, 900, 3600, 21_600, 86_400, 604_800, 2_419_200, 31_449_600, 314_496_000)
# Time bins at most.
SPANS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Histogram with bin ``edges`` evenly spaced on the scale asinh(score / ``linear``); one edge more than bins."""

    edges: tuple[float, ...]
    linear: float
    counts: Mapping[str, tuple[int, ...]]  # kind of rows → rows in each bin


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Number of rows of each kind above the ``threshold`` for ``alpha``."""

    alpha: float
    threshold: float
    above: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time bin: rows from ``start`` on for the width of the time line; ``highest`` is the highest score."""

    start: int
    rows: int
    alarms: int
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLine:
    """Scores over the time in ``column`` in bins of ``width`` seconds; empty bins are omitted."""

    column: str
    width: int
    spans: tuple[Span, ...]


def alpha_grid(threshold: Threshold) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ascending values of alpha, including that of ``threshold``, and the threshold for each."""
    n = len(threshold.calibration)
    grid = np.geomspace(finest_alpha(n) * (1.0 + 1e-9), max(LOOSEST, threshold.alpha), RATE_STEPS)
    others = grid[np.abs(np.log(grid / threshold.alpha)) > math.log(grid[1] / grid[0]) / 2]
    alphas = np.sort(np.append(others, threshold.alpha))
    values = [threshold.value if a == threshold.alpha else _value_at(threshold, float(a)) for a in alphas]
    return alphas, np.array(values)


def _value_at(threshold: Threshold, alpha: float) -> float:
    return conformal_quantile(threshold.calibration, alpha) if threshold.block is None else threshold.at(alpha).value


@dataclass(kw_only=True)
class ScoreSummary:
    """Summary of all scores added so far; kinds of rows (``rows``, or ``normal`` and ``anomalous``) are counted separately.

    ``worst_rows``: how many of the highest scoring alarms to store. Calibration scores are added at the start.
    """

    threshold: Threshold
    worst_rows: int
    source: str = ""  # location of the rows
    time_column: str = ""  # name of the time column, empty if there is none
    rows: int = 0
    alarms: int = 0
    unscored: int = 0
    _bins: dict[str, Counter[int]] = field(default_factory=dict)
    _above: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _spans: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    _width: int = 0
    _worst: list[tuple[float, int, Alarm]] = field(default_factory=list)

    def __post_init__(self) -> None:
        scores = self.threshold.calibration
        self.linear = max(float(np.quantile(np.abs(scores), LINEAR_QUANTILE)), 1e-9)
        low, high = np.arcsinh(scores[[0, -1]] / self.linear)
        self.bin_width = float(high - low) / FINE_BINS or 1.0 / FINE_BINS
        self._alphas, self._values = alpha_grid(self.threshold)
        self.add(scores, np.zeros(len(scores), dtype=np.bool_), kind="calibration")
        self.rows = 0

    def add(self, scores: _Scores, flags: _Flags, *, kind: str = "rows", times: NDArray[np.int64] | None = None) -> None:
        """Add scores ``[n]`` (NaN: no score) of one kind of rows; ``times`` ``[n]`` in seconds, the smallest int64 if missing."""
        scored = ~np.isnan(scores)
        self.rows += len(scores)
        self.unscored += int((~scored).sum())
        self.alarms += int(flags.sum())
        bins, counts = np.unique(np.floor(np.arcsinh(scores[scored] / self.linear) / self.bin_width).astype(np.int64), return_counts=True)
        self._bins.setdefault(kind, Counter()).update(dict(zip(bins.tolist(), counts.tolist(), strict=True)))
        # In falling thresholds, a score is above all from its position on; those of a time series may rise with alpha.
        order = np.argsort(-self._values, kind="stable")
        below = np.searchsorted(-self._values[order], -scores[scored], side="right")
        above = np.empty(len(order), dtype=np.int64)
        above[order] = np.bincount(below, minlength=len(order) + 1)[: len(order)].cumsum()
        self._above[kind] = self._above.get(kind, np.zeros(len(self._values), dtype=np.int64)) + above
        if times is not None:
            self._add_times(times[scored], scores[scored], flags[scored])

    def offer(self, row: Alarm) -> None:
        """Store an alarm if its score is among the highest so far; of equal scores, the earliest row."""
        entry = (row.score, -row.row, row)
        # Row numbers differ, so that alarms themselves are never compared.
        (heapq.heappush if len(self._worst) < self.worst_rows else heapq.heappushpop)(self._worst, entry)

    def wants(self, score: float) -> bool:
        """Return whether an alarm with this score would be stored."""
        return len(self._worst) < self.worst_rows or score > self._worst[0][0]

    def worst(self) -> tuple[Alarm, ...]:
        """Return the stored alarms, the highest score first."""
        return tuple(row for _, _, row in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1])))

    def steps(self) -> tuple[Step, ...]:
        """Return the number of rows that each alpha would flag."""
        return tuple(
            Step(alpha=float(a), threshold=float(t), above={kind: int(above[i]) for kind, above in self._above.items()})
            for i, (a, t) in enumerate(zip(self._alphas, self._values, strict=True))
        )

    def histogram(self) -> Histogram:
        """Return the histogram of all scores, with neighbouring bins merged to at most 80."""
        bins = [k for counter in self._bins.values() for k in counter]
        first, last = min(bins), max(bins)
        merged = -(-(last - first + 1) // SHOWN_BINS)
        count = -(-(last - first + 1) // merged)
        counts = {}
        for kind, counter in self._bins.items():
            totals = [0] * count
            for k, rows in counter.items():
                totals[(k - first) // merged] += rows
            counts[kind] = tuple(totals)
        edges = np.sinh((first + merged * np.arange(count + 1)) * self.bin_width) * self.linear
        return Histogram(edges=tuple(edges.tolist()), linear=self.linear, counts=counts)

    def time_line(self) -> TimeLine | None:
        """Return the scores over time, None if there are fewer than two time bins."""
        if len(self._spans) < 2:  # noqa: PLR2004 (a line needs two points)
            return None
        width = WIDTHS[self._width]
        spans = [Span(start=k * width, rows=r, alarms=a, highest=h) for k, (r, a, h) in sorted(self._spans.items())]
        return TimeLine(column=self.time_column, width=width, spans=tuple(spans))

    def _add_times(self, times: NDArray[np.int64], scores: _Scores, flags: _Flags) -> None:
        known = times != np.iinfo(np.int64).min
        times, scores, flags = times[known], scores[known], flags[known]
        keys, inverse = np.unique(times // WIDTHS[self._width], return_inverse=True)
        rows, alarms = np.bincount(inverse, minlength=len(keys)), np.bincount(inverse, weights=flags, minlength=len(keys))
        highest = np.full(len(keys), -np.inf)
        np.maximum.at(highest, inverse, scores)
        for key, r, a, h in zip(keys.tolist(), rows.tolist(), alarms.tolist(), highest.tolist(), strict=True):
            self._merge(self._spans, key, (r, int(a), h))
        while self._spans and max(self._spans) - min(self._spans) >= SPANS and self._width + 1 < len(WIDTHS):
            ratio = WIDTHS[self._width + 1] // WIDTHS[self._width]
            coarse: dict[int, tuple[int, int, float]] = {}
            for key, span in self._spans.items():
                self._merge(coarse, key // ratio, span)
            self._spans, self._width = coarse, self._width + 1

    @staticmethod
    def _merge(spans: dict[int, tuple[int, int, float]], key: int, more: tuple[int, int, float]) -> None:
        rows, alarms, highest = spans.get(key, (0, 0, -math.inf))
        spans[key] = (rows + more[0], alarms + more[1], max(highest, more[2]))
