"""A threshold calibrated on held-out normal scores: flags, conformal p-values and the distribution of the false-alarm rate.

``split`` is exact for exchangeable rows (Vovk et al. 2005; Lei et al. 2018). ``cross`` is the approximation for few rows: every row is
scored by the model that did not train on its fold. ``gpd`` extrapolates to smaller rates with a generalised Pareto tail (module ``tail``).
A threshold may have one value per group (module ``groups``).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.blocks import BlockRates, block_rates, block_threshold, highest_quantile
from vae_anomaly.calibration.conformal import (
    CONFIDENCE,
    RateLaw,
    calibration_rows_needed,
    conditional_p_values,
    conformal_law,
    conformal_quantile,
    finest_text,
    marginal_p_values,
    rounded_up,
)
from vae_anomaly.calibration.groups import Groups
from vae_anomaly.calibration.tail import LEAST_ROWS, Tail, finest_tail_alpha
from vae_anomaly.errors import NotCalibrated

Method = Literal["split", "cross"]
ThresholdKind = Literal["split", "cross", "gpd", "blocks"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Threshold:
    """``value``, in weighted nats, that a normal row exceeds with probability at most ``alpha``.

    ``calibration`` float64 ``[n]``: the ascending scores. ``tail``: the fitted tail of the method ``gpd``. ``groups``: one value per group;
    ``value`` applies to rows of no known group. ``tried``: the number of rates among which labels chose ``alpha``; 1 without a choice.
    ``copies``: calibration rows that repeat another one; the threshold counts them, the law of its rate does not.
    """

    method: ThresholdKind
    alpha: float
    value: float
    calibration: NDArray[np.float64]
    tail: Tail | None = None
    groups: Groups | None = None
    tried: int = 1
    copies: int = 0
    block: NDArray[np.int64] | None = None  # of a time series: block of training time of each calibration score, [n]
    effective_rows: float | None = None  # of a time series: how many independent rows the calibration scores are worth
    table: NDArray[np.float64] | None = None  # conditional p-value of each rank, [n + 1]; None for marginal p-values

    def p_values(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return the conformal p-values (1 + #{calibration ≥ s}) / (n + 1); small = anomalous, NaN for a NaN score.

        ``codes`` int64 ``[n]`` is the index of each row's group (−1: none). Above the start of a ``tail`` its rates are the p-values.
        """
        n = len(self.calibration)
        at_least = n - np.searchsorted(self.calibration, scores, side="left")
        p_values = marginal_p_values(n)[at_least] if self.table is None else self.table[at_least]
        if self.tail is not None:
            p_values = self.tail.p_values(scores, p_values, flagged=self.flags(scores), alpha=self.alpha)
        if self.groups is not None and codes is not None:
            p_values = self.groups.p_values(self.calibration, scores, codes, p_values)
        return np.where(np.isnan(scores), np.nan, p_values)

    def low_p_values(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return the lower-tail p-values (1 + #{calibration ≤ s}) / (n + 1); small = unusually low score, NaN for a NaN score."""
        n = len(self.calibration)
        p_values = marginal_p_values(n)[np.searchsorted(self.calibration, scores, side="right")]
        if self.groups is not None and codes is not None:
            p_values = self.groups.p_values(self.calibration, scores, codes, p_values, low=True)
        return np.where(np.isnan(scores), np.nan, p_values)

    def flags(self, scores: NDArray[np.float64], codes: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Return a bool array, True where the score is above the threshold (higher = more anomalous), False for NaN."""
        if self.groups is None or codes is None:
            return scores > self.value
        return scores > np.append(self.groups.values, self.value)[codes]  # index −1, no group, takes the last

    def at(self, alpha: float) -> "Threshold":
        """Return the threshold for another false-alarm rate.

        Raises NotCalibrated if ``alpha`` is finer than the calibration rows allow and ConfigError if it is not in (0, 1).
        """
        n = len(self.calibration)
        needed = calibration_rows_needed(alpha)
        if self.block is not None and needed <= n:
            return replace(self, alpha=alpha, value=block_threshold(self.calibration, self.block, alpha), tried=1)
        if self.tail is not None:
            return replace(self, alpha=alpha, value=self._value_of_tail(alpha, self.tail), tried=1)
        if self.table is not None:
            return replace(self, alpha=alpha, value=self._value_of_table(alpha, self.table), tried=1)
        if needed > n:
            by_tail = _by_tail(n, alpha) if self.block is None else ""
            msg = (
                f"alpha {alpha:g} needs at least {needed:,} calibration rows; this model has {n:,}. "
                f"Finest alpha possible: {finest_text(n)}. Ask for that, or calibrate on more normal rows{by_tail}."
            )
            raise NotCalibrated(msg)
        groups = None if self.groups is None else self.groups.at(self.calibration, alpha)
        return replace(self, alpha=alpha, value=conformal_quantile(self.calibration, alpha), groups=groups, tried=1)

    def conditional(self) -> "Threshold":
        """Return the threshold with calibration-conditional p-values, valid with 90 % confidence; call ``at`` to update its value.

        Raises NotCalibrated unless the method is ``split`` without groups.
        """
        self.refuse_unless_exact("--p-values conditional")
        return replace(self, table=conditional_p_values(len(self.calibration)))

    def refuse_unless_exact(self, what: str) -> None:
        """Raise NotCalibrated unless the method is ``split`` without groups."""
        kind = "a threshold for each group" if self.groups is not None else _KINDS[self.method]
        if kind:
            if self.block is not None:
                raise NotCalibrated(f"{what} needs exact p-values, and those of rows in time are estimates. Leave it out.")
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
            return conformal_quantile(self.calibration, alpha)
        if alpha < tail.finest:
            msg = (
                f"alpha {alpha:g} is finer than the tail fitted to {n:,} calibration rows can say. "
                f"Finest alpha possible: {rounded_up(tail.finest)}. Ask for that, or calibrate on more normal rows."
            )
            raise NotCalibrated(msg)
        return tail.value(alpha)

    @property
    def law(self) -> RateLaw:
        """Distribution of the false-alarm rate of this threshold; exact for ``split``, an estimate for ``cross`` and ``gpd``."""
        if self.tail is not None and self.alpha < self.tail.share:
            return self.tail.law(self.alpha)
        if self.table is not None:
            return conformal_law(len(self.calibration), int(np.searchsorted(self.table, self.alpha, side="right")) / len(self.table))
        if self.copies:
            # Of m distinct scores, r are not below the threshold: it is their r-th highest, however often each of them was copied.
            distinct = np.unique(self.calibration)
            rank = max(1, int((distinct >= self.value).sum()))
            return RateLaw(a=float(rank), b=float(len(distinct) + 1 - rank))
        return conformal_law(len(self.calibration), self.alpha)

    def with_copies_counted(self) -> "Threshold":
        """Return the threshold with equal calibration scores taken for copies of one row, which is so where rows hold measured numbers."""
        return replace(self, copies=len(self.calibration) - len(np.unique(self.calibration)))

    @property
    def event_value(self) -> float:
        """Threshold of events, in weighted nats: the highest quantile of a block, at most ``value``; events must also last."""
        if self.block is None or not math.isfinite(self.value):
            return self.value
        return min(self.value, highest_quantile(self.calibration, self.block, self.alpha))

    @property
    def rates(self) -> BlockRates | None:
        """What the blocks of a time series say about the false-alarm rate; None for rows that are not in time."""
        if self.block is None or self.effective_rows is None:
            return None
        return block_rates(self.calibration, self.block, self.alpha, effective_rows=self.effective_rows)

    @property
    def limit(self) -> float:
        """Upper 95 % confidence limit of the false-alarm rate, Bonferroni-corrected for the ``tried`` rates."""
        return self.law.upper(1.0 - (1.0 - CONFIDENCE) / self.tried)

    @property
    def highest(self) -> float:
        """Value of the threshold at the smallest alpha it allows."""
        if self.block is not None:
            return max(float(self.calibration[-1]), self.value)
        return float(self.calibration[-1]) if self.tail is None else max(float(self.calibration[-1]), self.tail.value(self.tail.finest))


# How an error names the p-values of each method; empty for exact ones.
_KINDS = {
    "split": "",
    "blocks": "those of a time series, which are estimates",
    "cross": "cross-fitted ones, which are approximate",
    "gpd": "those of a fitted tail, which are estimates",
}


def _by_tail(n: int, alpha: float) -> str:
    """Return the hint at ``--method gpd`` if it can reach ``alpha``."""
    possible = n >= LEAST_ROWS and alpha >= finest_tail_alpha(n)
    return " or with --method gpd" if possible else ""


def calibrate(scores: NDArray[np.float64], alpha: float, method: Method = "split") -> Threshold:
    """Return the threshold for calibration scores ``[n]``: the ⌈(n+1)(1−alpha)⌉-th smallest.

    Raises NotCalibrated if there are too few scores for ``alpha``.

    >>> calibrate(np.arange(1.0, 100.0), 0.05).value
    95.0
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return Threshold(method=method, alpha=alpha, value=math.inf, calibration=ordered).at(alpha)


def calibrate_blocks(scores: NDArray[np.float64], block: NDArray[np.int64], alpha: float, *, effective_rows: float) -> Threshold:
    """Return the threshold of a time series for smoothed held-out scores ``[n]`` and the block of training time of each, int64 ``[n]``.

    Raises NotCalibrated if there are too few scores for ``alpha``.
    """
    order = np.argsort(scores, kind="stable")
    found = Threshold(
        method="blocks", alpha=alpha, value=math.inf, calibration=scores[order], block=block[order], effective_rows=effective_rows
    )
    return found.at(alpha)


AS_FEW = 0.001  # probability below which few alarms are told: of one batch of normal rows in a thousand


def too_few_alarms(threshold: Threshold, rows: int, alarms: int) -> str:
    """Return a caution if so few alarms among ``rows`` scored rows are no chance, empty otherwise.

    The probability is that of independent normal rows like those of the calibration, over calibrations and batches.
    """
    if (
        threshold.block is not None
        or not math.isfinite(threshold.value)
        or alarms >= threshold.alpha * rows
        or threshold.law.as_few(rows, alarms) >= AS_FEW
    ):
        return ""
    return (
        f"{alarms:,} alarms are fewer than chance allows: {threshold.alpha * rows:,.1f} are expected of {rows:,} normal rows. Rows that "
        "repeat, a feed that stands still, rows that vary less than those of the fit, or rows that the fit has seen look like this"
    )
