"""Scores of rows that nothing has learned from become a threshold, p-values and flags; and which rows those are.

Knows no model. ``split`` is exact for exchangeable rows (Vovk et al. 2005; Lei et al. 2018); ``cross`` is the approximate form for few
rows: every row is scored by the model that has not seen its fold; ``gpd`` reaches finer rates than the rows by a fitted tail
(``core.tail``). A threshold may have groups, each with its own value (``core.groups``).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import (
    CONFIDENCE,
    RateLaw,
    calibration_rows_needed,
    conformal_law,
    conformal_value,
    finest_text,
    rounded_up,
)
from vae_anomaly.calibration.fdr import conditional_table, marginal_table
from vae_anomaly.calibration.groups import Groups
from vae_anomaly.calibration.tail import LEAST_ROWS, Tail, finest_with_tail
from vae_anomaly.errors import NotCalibrated

Method = Literal["split", "cross"]
ThresholdKind = Literal["split", "cross", "gpd"]
FEW_FOLDS = 5
FEW_FOLDS_FROM_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Threshold:
    """``value`` such that a normal row exceeds it with probability at most ``alpha``; ``calibration`` float64 ``[n]``, ascending.

    ``tail`` is there with the method ``gpd``. ``groups`` give each group its own value; without a group's code it is ``value``. Labels
    chose ``alpha`` among ``tried`` rates; 1: nobody chose.
    """

    method: ThresholdKind
    alpha: float
    value: float
    calibration: NDArray[np.float64]
    tail: Tail | None = None
    groups: Groups | None = None
    tried: int = 1
    table: NDArray[np.float64] | None = None  # conditional p-value of each rank; None: marginal ones

    def p_values(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return (1 + #{calibration ≥ s}) / (n + 1) for every score; small = anomalous; NaN where the score is NaN.

        ``codes`` int64 ``[n]`` say which of ``groups`` a row belongs to (−1: none); above the start of a ``tail`` its curve is read.
        """
        n = len(self.calibration)
        at_least = n - np.searchsorted(self.calibration, scores, side="left")
        found = marginal_table(n)[at_least] if self.table is None else self.table[at_least]
        if self.tail is not None:
            found = self.tail.p_values(scores, found, flagged=self.flags(scores), alpha=self.alpha)
        if self.groups is not None and codes is not None:
            found = self.groups.p_values(self.calibration, scores, codes, found)
        return np.where(np.isnan(scores), np.nan, found)

    def low_p_values(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return (1 + #{calibration ≤ s}) / (n + 1) for every score; small = lower than normal rows score; NaN where it is NaN."""
        n = len(self.calibration)
        found = marginal_table(n)[np.searchsorted(self.calibration, scores, side="right")]
        if self.groups is not None and codes is not None:
            found = self.groups.p_values(self.calibration, scores, codes, found, low=True)
        return np.where(np.isnan(scores), np.nan, found)

    def flags(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Return where the score is above the threshold (higher = more anomalous); False where the score is NaN."""
        if self.groups is None or codes is None:
            return scores > self.value
        return scores > np.append(self.groups.values, self.value)[codes]  # the last one is that of −1

    def at(self, alpha: float) -> "Threshold":
        """Return the threshold for another false-alarm rate.

        Raises NotCalibrated when ``alpha`` is finer than the rows allow and ConfigError when it is no rate.
        """
        n = len(self.calibration)
        needed = calibration_rows_needed(alpha)
        if self.tail is not None:
            return replace(self, alpha=alpha, value=self._value_of_tail(alpha, self.tail), tried=1)
        if self.table is not None:
            return replace(self, alpha=alpha, value=self._value_of_table(alpha, self.table), tried=1)
        if needed > n:
            msg = (
                f"alpha {alpha:g} needs at least {needed:,} calibration rows; this model has {n:,}. "
                f"Finest alpha possible: {finest_text(n)}. Ask for that, or calibrate on more normal rows{_by_tail(n, alpha)}."
            )
            raise NotCalibrated(msg)
        groups = None if self.groups is None else self.groups.at(self.calibration, alpha)
        return replace(self, alpha=alpha, value=conformal_value(self.calibration, alpha), groups=groups, tried=1)

    def conditional(self) -> "Threshold":
        """Return the threshold with p-values that hold for this very calibration with 90 % confidence; ``at`` then gives its value.

        Raises NotCalibrated unless the calibration is ``split`` and one for all rows.
        """
        self.refuse_unless_exact("--p-values conditional")
        return replace(self, table=conditional_table(len(self.calibration)))

    def refuse_unless_exact(self, what: str) -> None:
        """Raise NotCalibrated where p-values are not those of one exact ``split`` calibration for all rows."""
        kind = "a threshold for each group" if self.groups is not None else _KINDS[self.method]
        if kind:
            raise NotCalibrated(
                f"{what} needs the p-values of one exact split calibration; this model has {kind}. "
                "Calibrate it on normal rows that it has not seen: vae-anomaly calibrate DATA."
            )

    def _value_of_table(self, alpha: float, table: NDArray[np.float64]) -> float:
        rank = int(np.searchsorted(table, alpha, side="right"))
        if rank == 0:
            msg = (
                f"alpha {alpha:g} is finer than conditional p-values of {len(self.calibration):,} calibration rows can be. Finest alpha "
                f"possible: {rounded_up(float(table[0]))}. Ask for that, calibrate on more normal rows, or use --p-values marginal."
            )
            raise NotCalibrated(msg)
        return float(self.calibration[len(self.calibration) - rank])

    def _value_of_tail(self, alpha: float, tail: Tail) -> float:
        n = len(self.calibration)
        if alpha >= tail.share:
            return conformal_value(self.calibration, alpha)
        if alpha < tail.finest:
            msg = (
                f"alpha {alpha:g} is finer than the tail fitted to {n:,} calibration rows can say. "
                f"Finest alpha possible: {rounded_up(tail.finest)}. Ask for that, or calibrate on more normal rows."
            )
            raise NotCalibrated(msg)
        return tail.value(alpha)

    @property
    def law(self) -> RateLaw:
        """What is known of the false-alarm rate of this very threshold; exact for ``split``, an estimate for ``cross`` and ``gpd``."""
        if self.tail is not None and self.alpha < self.tail.share:
            return self.tail.law(self.alpha)
        if self.table is not None:
            return conformal_law(len(self.calibration), int(np.searchsorted(self.table, self.alpha, side="right")) / len(self.table))
        return conformal_law(len(self.calibration), self.alpha)

    @property
    def limit(self) -> float:
        """The limit that the rate stays under with 95 % confidence over calibration samples, for every rate that was tried at once."""
        return self.law.upper(1.0 - (1.0 - CONFIDENCE) / self.tried)

    @property
    def highest(self) -> float:
        """The highest value that the threshold takes at any alpha it allows."""
        return float(self.calibration[-1]) if self.tail is None else max(float(self.calibration[-1]), self.tail.value(self.tail.finest))


# What a threshold is that is not exact; nothing to say of one that is.
_KINDS = {"split": "", "cross": "cross-fitted ones, which are approximate", "gpd": "those of a fitted tail, which are estimates"}


def _by_tail(n: int, alpha: float) -> str:
    """Name the way to finer rates where it leads to this one."""
    possible = n >= LEAST_ROWS and alpha >= finest_with_tail(n)
    return " or with --method gpd" if possible else ""


def calibrate(scores: NDArray[np.float64], alpha: float, method: Method = "split") -> Threshold:
    """Turn calibration scores into a threshold: the ⌈(n+1)(1−alpha)⌉-th smallest.

    Raises NotCalibrated when there are too few scores for ``alpha``.

    >>> calibrate(np.arange(1.0, 100.0), 0.05).value
    95.0
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return Threshold(method=method, alpha=alpha, value=math.inf, calibration=ordered).at(alpha)
