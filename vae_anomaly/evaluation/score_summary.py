"""Scores gathered while they go by: how they are spread, what each threshold would flag, when, and which rows are worst.

What is held does not grow with the rows. Knows scores, times and a threshold; no model, table or file. Times are whole seconds since 1970.
"""

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import conformal_value, finest_alpha
from vae_anomaly.calibration.threshold import Threshold

_Scores = NDArray[np.float64]
_Flags = NDArray[np.bool_]
# False-alarm rates that a reader can try, from the finest that the calibration allows to this one.
RATE_STEPS = 60
LOOSEST = 0.5
# The scale of scores is linear up to this quantile of the calibration scores and logarithmic above.
LINEAR_QUANTILE = 0.05
# Bins over the calibration scores while gathering, and at most so many when shown.
FINE_BINS = 240
SHOWN_BINS = 80
# Widths of a bin of time in seconds, each a multiple of the one before, and at most so many bins.
WIDTHS = (1, 10, 60, 300, 900, 3600, 21_600, 86_400, 604_800, 2_419_200, 31_449_600, 314_496_000)
SPANS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Rows between ``edges`` (one more than there are bins), evenly spaced on the scale asinh(score / ``linear``)."""

    edges: tuple[float, ...]
    linear: float
    counts: Mapping[str, tuple[int, ...]]  # what the rows are → rows a bin


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a threshold for ``alpha`` flags: rows of each kind above ``threshold``."""

    alpha: float
    threshold: float
    above: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows from ``start`` on for the width of the time line; ``highest`` is the highest score."""

    start: int
    rows: int
    alarms: int
    highest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLine:
    """Scores over time in spans of ``width`` seconds, by the time in ``column``; spans without rows are left out."""

    column: str
    width: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstReason:
    """One column of an alarm in raw units; ``low``, ``middle``, ``high``: its 1 %, 50 % and 99 % quantiles at fit, numbers only."""

    column: str
    value: str | None
    expected: str | None
    contribution: float
    z: float | None = None
    low: float | None = None
    middle: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstRow:
    """A flagged row; ``row`` counts from 0."""

    row: int
    ids: Mapping[str, str | None]
    score: float
    p_value: float
    reasons: tuple[WorstReason, ...]
    label: str = ""


def steps_of(threshold: Threshold) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rates that a reader can try, ascending, and the threshold of each; the one in use is among them."""
    n = len(threshold.calibration)
    grid = np.geomspace(finest_alpha(n) * (1.0 + 1e-9), max(LOOSEST, threshold.alpha), RATE_STEPS)
    others = grid[np.abs(np.log(grid / threshold.alpha)) > math.log(grid[1] / grid[0]) / 2]
    alphas = np.sort(np.append(others, threshold.alpha))
    values = [threshold.value if a == threshold.alpha else conformal_value(threshold.calibration, float(a)) for a in alphas]
    return alphas, np.array(values)


@dataclass(kw_only=True)
class Gathering:
    """Grows with every ``add``; kinds of rows (``rows``, or ``normal`` and ``anomalous``) are counted apart."""

    threshold: Threshold
    worst_rows: int
    source: str = ""  # where the rows are
    time_column: str = ""  # what the times are called; empty: there are none
    rows: int = 0
    alarms: int = 0
    unscored: int = 0
    _bins: dict[str, Counter[int]] = field(default_factory=dict)
    _above: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _spans: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    _width: int = 0
    _worst: list[tuple[float, int, WorstRow]] = field(default_factory=list)

    def __post_init__(self) -> None:
        scores = self.threshold.calibration
        self.linear = max(float(np.quantile(np.abs(scores), LINEAR_QUANTILE)), 1e-9)
        low, high = np.arcsinh(scores[[0, -1]] / self.linear)
        self.bin_width = float(high - low) / FINE_BINS or 1.0 / FINE_BINS
        self._alphas, self._values = steps_of(self.threshold)
        self.add(scores, np.zeros(len(scores), dtype=np.bool_), kind="calibration")
        self.rows = 0

    def add(self, scores: _Scores, flags: _Flags, *, kind: str = "rows", times: NDArray[np.int64] | None = None) -> None:
        """Add scores ``[n]`` (NaN: none) of one kind of rows; ``times`` ``[n]`` in seconds, the least int64 where there is none."""
        there = ~np.isnan(scores)
        self.rows += len(scores)
        self.unscored += int((~there).sum())
        self.alarms += int(flags.sum())
        found, counts = np.unique(np.floor(np.arcsinh(scores[there] / self.linear) / self.bin_width).astype(np.int64), return_counts=True)
        self._bins.setdefault(kind, Counter()).update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        # Thresholds fall while alphas rise; a score is above those that stand before it.
        below = np.searchsorted(-self._values, -scores[there], side="right")
        above = np.bincount(below, minlength=len(self._values) + 1)[: len(self._values)].cumsum()
        self._above[kind] = self._above.get(kind, np.zeros(len(self._values), dtype=np.int64)) + above
        if times is not None:
            self._add_times(times[there], scores[there], flags[there])

    def offer(self, row: WorstRow) -> None:
        """Keep a flagged row if it is among the worst so far; of equal scores the earliest."""
        entry = (row.score, -row.row, row)
        # Rows have different numbers, so that rows themselves are never compared.
        (heapq.heappush if len(self._worst) < self.worst_rows else heapq.heappushpop)(self._worst, entry)

    def wants(self, score: float) -> bool:
        """Say whether a row of this score would be kept."""
        return len(self._worst) < self.worst_rows or score > self._worst[0][0]

    def worst(self) -> tuple[WorstRow, ...]:
        """Return the rows kept, the worst first."""
        return tuple(row for _, _, row in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1])))

    def steps(self) -> tuple[Step, ...]:
        """Return what every rate would flag."""
        return tuple(
            Step(alpha=float(a), threshold=float(t), above={kind: int(above[i]) for kind, above in self._above.items()})
            for i, (a, t) in enumerate(zip(self._alphas, self._values, strict=True))
        )

    def histogram(self) -> Histogram:
        """Return how the scores are spread, neighbouring bins put together until there are few enough."""
        places = [place for counter in self._bins.values() for place in counter]
        first, last = min(places), max(places)
        together = -(-(last - first + 1) // SHOWN_BINS)
        count = -(-(last - first + 1) // together)
        counts = {}
        for kind, counter in self._bins.items():
            shown = [0] * count
            for place, rows in counter.items():
                shown[(place - first) // together] += rows
            counts[kind] = tuple(shown)
        edges = np.sinh((first + together * np.arange(count + 1)) * self.bin_width) * self.linear
        return Histogram(edges=tuple(edges.tolist()), linear=self.linear, counts=counts)

    def time_line(self) -> TimeLine | None:
        """Return the scores over time; None where no row had a time, or all had the same."""
        if len(self._spans) < 2:  # noqa: PLR2004 (a line needs two points)
            return None
        width = WIDTHS[self._width]
        spans = [Span(start=k * width, rows=r, alarms=a, highest=h) for k, (r, a, h) in sorted(self._spans.items())]
        return TimeLine(column=self.time_column, width=width, spans=tuple(spans))

    def _add_times(self, times: NDArray[np.int64], scores: _Scores, flags: _Flags) -> None:
        known = times != np.iinfo(np.int64).min
        times, scores, flags = times[known], scores[known], flags[known]
        keys, place = np.unique(times // WIDTHS[self._width], return_inverse=True)
        rows, alarms = np.bincount(place, minlength=len(keys)), np.bincount(place, weights=flags, minlength=len(keys))
        highest = np.full(len(keys), -np.inf)
        np.maximum.at(highest, place, scores)
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
