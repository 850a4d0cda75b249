"""Scores of rows that nothing has learned from become a threshold, p-values and flags; and which rows those are.

Knows no model. ``split`` is exact for exchangeable rows (Vovk et al. 2005; Lei et al. 2018); ``cross`` is the approximate form for few
rows: every row is scored by the model that has not seen its fold.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.config import CalibrationConfig
from vae_anomaly.errors import ConfigError, NotCalibrated, TooFewRows

Method = Literal["split", "cross"]
# Below this many rows a fifth of them is too few to calibrate on, and too many to do without.
SPLIT_FROM_ROWS = 2000
# Ten folds learn from more rows each; from 500 rows on, five are enough and half the work.
MANY_FOLDS, FEW_FOLDS, FEW_FOLDS_FROM_ROWS = 10, 5, 500
# Calibration never takes more than this share of the rows.
LARGEST_SHARE = 0.5
# Rows left out between the training part and the calibration part of a time series, as a share of the group.
GAP_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Threshold:
    """``value`` such that a normal row exceeds it with probability at most ``alpha``; ``calibration`` float64 ``[n]``, ascending."""

    method: Method
    alpha: float
    value: float
    calibration: NDArray[np.float64]

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (1 + #{calibration ≥ s}) / (n + 1) for every score; small = anomalous; NaN where the score is NaN."""
        n = len(self.calibration)
        at_least = n - np.searchsorted(self.calibration, scores, side="left")
        return np.where(np.isnan(scores), np.nan, (1.0 + at_least) / (n + 1.0))

    def flags(self, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where the score is above the threshold (higher = more anomalous); False where the score is NaN."""
        return scores > self.value

    def at(self, alpha: float) -> "Threshold":
        """Return the threshold for another false-alarm rate.

        Raises NotCalibrated when ``alpha`` is finer than the rows allow and ConfigError when it is no rate.
        """
        n = len(self.calibration)
        if calibration_rows_needed(alpha) > n:
            msg = (
                f"alpha {alpha:g} needs at least {calibration_rows_needed(alpha):,} calibration rows; this model has {n:,}. "
                f"Finest alpha possible: {finest_text(n)}. Ask for that, or calibrate on more normal rows."
            )
            raise NotCalibrated(msg)
        return replace(self, alpha=alpha, value=conformal_value(self.calibration, alpha))


def calibrate(scores: NDArray[np.float64], alpha: float, method: Method = "split") -> Threshold:
    """Turn calibration scores into a threshold: the ⌈(n+1)(1−alpha)⌉-th smallest.

    Raises NotCalibrated when there are too few scores for ``alpha``.

    >>> calibrate(np.arange(1.0, 100.0), 0.05).value
    95.0
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return Threshold(method=method, alpha=alpha, value=math.inf, calibration=ordered).at(alpha)


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
    unit = 10.0 ** (math.floor(math.log10(finest_alpha(n))) - 2)
    return f"{math.ceil(finest_alpha(n) / unit - 1e-9) * unit:.3g}"


def calibration_rows_needed(alpha: float) -> int:
    """Return ⌈1/alpha⌉ − 1, the fewest calibration rows that can promise ``alpha``. Raises ConfigError outside (0, 1)."""
    if not 0.0 < alpha < 1.0:
        msg = f"alpha must be in (0, 1); got {alpha:g}."
        raise ConfigError(msg)
    return math.ceil(1.0 / alpha - 1e-9) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Who learns from which rows: ``fold`` int64 ``[n]``: −1 = calibration only (``split``), −2 = left out (gap), else the fold."""

    method: Method
    folds: int
    fold: NDArray[np.int64]

    @property
    def calibration(self) -> NDArray[np.int64]:
        """Rows whose scores calibrate: the part held out, or under ``cross`` all."""
        return np.flatnonzero(self.fold == -1) if self.method == "split" else np.arange(len(self.fold))

    @property
    def training(self) -> NDArray[np.int64]:
        """Rows that some network may learn from."""
        return np.flatnonzero(self.fold >= 0)


def calibration_size(config: CalibrationConfig, rows: int) -> tuple[Method, int]:
    """Return the method and the number of calibration rows. Raises TooFewRows, before anything is trained.

    Exact ``split`` from 2,000 rows on: 20 %, at most 20,000 and at least what alpha needs; below that, cross-fitting uses all.
    """
    method: Method = config.method if config.method != "auto" else ("split" if rows >= SPLIT_FROM_ROWS else "cross")
    need = calibration_rows_needed(config.alpha)
    most = rows if method == "cross" else math.floor(LARGEST_SHARE * rows)
    if most < need:
        part = "" if method == "cross" else f" (half of the {rows:,} rows at most)"
        msg = (
            f"alpha {config.alpha:g} needs at least {need:,} calibration rows; {most:,} given{part}. Finest alpha possible with these "
            f"rows: {finest_text(most)}. Use --alpha {finest_text(most)} or more rows."
        )
        raise TooFewRows(msg)
    if method == "cross":
        return method, rows
    return method, max(need, min(config.max_rows, round(config.share * rows)))


def plan_rows(
    config: CalibrationConfig, rows: int, seed: int, *, time: NDArray[np.int64] | None = None, group: NDArray[np.int64] | None = None
) -> Plan:
    """Deal ``rows`` out: at random by ``seed``, or with ``time`` the last block of each ``group`` after a gap.

    Ten folds (five from 500 rows under ``cross``) among the rows that are learned from. Raises TooFewRows.
    """
    method, size = calibration_size(config, rows)
    generator = np.random.default_rng([seed, 1])
    folds = FEW_FOLDS if method == "cross" and rows >= FEW_FOLDS_FROM_ROWS else MANY_FOLDS
    folds = min(folds, rows)
    fold = np.zeros(rows, dtype=np.int64)
    if method == "split" and time is not None:
        _hold_out_last(fold, time, group if group is not None else np.zeros(rows, dtype=np.int64), size)
    elif method == "split":
        fold[generator.permutation(rows)[:size]] = -1
    learning = np.flatnonzero(fold >= 0)
    fold[generator.permutation(learning)] = np.arange(len(learning)) % folds
    return Plan(method=method, folds=folds, fold=fold)


def _hold_out_last(fold: NDArray[np.int64], time: NDArray[np.int64], group: NDArray[np.int64], size: int) -> None:
    """Mark the last rows of every group as calibration and a gap before them as unused; neighbouring seconds are not exchangeable."""
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        rows = rows[np.argsort(time[rows], kind="stable")]
        held = math.ceil(size * len(rows) / len(fold))
        gap = math.ceil(GAP_SHARE * len(rows))
        fold[rows[len(rows) - held :]] = -1
        fold[rows[max(0, len(rows) - held - gap) : len(rows) - held]] = -2
