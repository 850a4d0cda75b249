"""Who learns from what: networks dealt out over views and over the folds of a plan. Knows no network and no table."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.conformal import calibration_rows_needed, finest_text
from vae_anomaly.calibration.threshold import FEW_FOLDS, FEW_FOLDS_FROM_ROWS, Method
from vae_anomaly.config import CalibrationConfig, Config, ModelConfig, ViewName
from vae_anomaly.errors import TooFewRows

# Below this many rows a fifth of them is too few to calibrate on, and too many to do without.
SPLIT_FROM_ROWS = 2000
# Ten folds learn from more rows each; from 500 rows on, five are enough and half the work.
MANY_FOLDS = 10
# Calibration never takes more than this share of the rows.
LARGEST_SHARE = 0.5
# Rows left out between the training part and the calibration part of a time series, as a share of the group.
GAP_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowSplit:
    """Who learns from which rows: ``fold`` int64 ``[n]``: −1 = calibration only (``split``), −2 = left out (gap), else the fold.

    Nothing is learned from the rows ``left_out`` bool ``[n]``, though they keep their fold, and those ``doubted`` bool ``[n]`` are no
    exemplars; None: there are none.
    """

    method: Method
    folds: int
    fold: NDArray[np.int64]
    left_out: NDArray[np.bool_] | None = None
    doubted: NDArray[np.bool_] | None = None

    @property
    def calibration(self) -> NDArray[np.int64]:
        """Rows whose scores calibrate: the part held out, or under ``cross`` all."""
        return np.flatnonzero(self.fold == -1) if self.method == "split" else np.arange(len(self.fold))

    @property
    def training(self) -> NDArray[np.int64]:
        """Rows that some network may learn from."""
        return np.flatnonzero(self.learning)

    @property
    def learning(self) -> NDArray[np.bool_]:
        """Whether some network may learn from a row, ``[n]``."""
        inside: NDArray[np.bool_] = self.fold >= 0
        return inside if self.left_out is None else inside & ~self.left_out


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


def split_rows(
    config: CalibrationConfig, rows: int, seed: int, *, time: NDArray[np.int64] | None = None, group: NDArray[np.int64] | None = None
) -> RowSplit:
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
    return RowSplit(method=method, folds=folds, fold=fold)


def _hold_out_last(fold: NDArray[np.int64], time: NDArray[np.int64], group: NDArray[np.int64], size: int) -> None:
    """Mark the last rows of every group as calibration and a gap before them as unused; neighbouring seconds are not exchangeable."""
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        rows = rows[np.argsort(time[rows], kind="stable")]
        held = math.ceil(size * len(rows) / len(fold))
        gap = math.ceil(GAP_SHARE * len(rows))
        fold[rows[len(rows) - held :]] = -1
        fold[rows[max(0, len(rows) - held - gap) : len(rows) - held]] = -2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """What each network is: its view, its fold or member number, and the rows it learns from, is watched on and takes exemplars from."""

    views: tuple[ViewName, ...]
    part: tuple[int, ...]
    rows: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    exemplars: tuple[Tensor, ...]


def assign(plan: RowSplit, config: Config) -> Assignment:
    """Deal networks out over folds and views.

    Under ``cross`` one for every fold, which never sees that fold. Under ``split`` ``members``, each leaving one fold out of training to
    be watched on; exemplars then come from all training rows, since none of them calibrates.
    """
    folds = plan.folds if plan.method == "cross" else min(members(plan, config.model), plan.folds)
    learning = [torch.from_numpy(np.flatnonzero(plan.learning & (plan.fold != k))) for k in range(folds)]
    watched = [torch.from_numpy(np.flatnonzero(plan.learning & (plan.fold == k))) for k in range(folds)]
    training = torch.from_numpy(plan.training)
    part = tuple(k for _ in config.model.views for k in range(folds))
    rows = tuple(learning[k] for k in part)
    return Assignment(
        views=tuple(view for view in config.model.views for _ in range(folds)),
        part=part,
        rows=rows,
        validation=tuple(watched[k] for k in part),
        exemplars=tuple(_trusted(plan, r) for r in (rows if plan.method == "cross" else (training,) * len(part))),
    )


def _trusted(plan: RowSplit, rows: Tensor) -> Tensor:
    return rows if plan.doubted is None else rows[torch.from_numpy(~plan.doubted)[rows]]


FOLDS = 5


def members(plan: RowSplit, config: ModelConfig) -> int:
    """Return the networks of a view under ``split``."""
    return config.members if plan.doubted is None else max(config.members, FOLDS)
