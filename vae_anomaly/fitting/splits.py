"""Split of the rows by label, into calibration rows and training folds, and assignment of networks to views and folds."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.calibration.conformal import calibration_rows_needed, finest_text
from vae_anomaly.calibration.threshold import Method
from vae_anomaly.config import CalibrationConfig, Config, DataConfig, ModelConfig, ViewName
from vae_anomaly.errors import ConfigError, TooFewRows
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.encoding import Batch
from vae_anomaly.schema.keys import Labels, check_normal_rows, read_labels

# Rows from which on ``auto`` means ``split``: a fifth of fewer rows is too few to calibrate on and too many to lose for training.
SPLIT_FROM_ROWS = 2000
# Folds of small tables: each network learns from more rows than with five, which are half the work and enough from 500 rows on.
MANY_FOLDS = 10
# Folds of ``cross`` on this many rows or more: fewer models to train, and each still learns from four fifths of the rows.
FEW_FOLDS = 5
FEW_FOLDS_FROM_ROWS = 500
# Largest share of the rows held out for calibration.
LARGEST_SHARE = 0.5
# Folds of the first pass of a robust fit, and its fewest networks for each view.
ROBUST_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRows:
    """Rows of a fit: those labelled normal, or all, are for training and calibration, the others for evaluation.

    The numbers, int64, are those of the rows in the input, from 0. ``labels`` are those of the anomalous rows; None: no label column.
    """

    normal: pa.Table
    normal_numbers: NDArray[np.int64]
    anomalous: pa.Table
    anomalous_numbers: NDArray[np.int64]
    labels: Labels | None


def split_by_label(table: pa.Table, numbers: NDArray[np.int64], data: DataConfig) -> LabelledRows:
    """Split a table, whose rows have ``numbers`` ``[n]``, by its label column. Raises ConfigError, DataError without normal rows."""
    name = data.label_column
    if name is None:
        return LabelledRows(normal=table, normal_numbers=numbers, anomalous=table.slice(0, 0), anomalous_numbers=numbers[:0], labels=None)
    if name not in table.column_names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([name], table.column_names)}")
    labels = read_labels(table[name], data.normal_labels, name)
    check_normal_rows(labels, name, data.normal_labels)
    normal = labels.normal
    return LabelledRows(
        normal=table.filter(pa.array(normal)),
        normal_numbers=numbers[normal],
        anomalous=table.filter(pa.array(~normal)),
        anomalous_numbers=numbers[~normal],
        labels=labels.where(~normal),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowSplit:
    """Split of n rows: ``fold`` int64 ``[n]`` is the fold, −1 for a calibration row of ``split``.

    ``excluded`` bool ``[n]`` rows are not trained on, although they keep their fold; ``not_exemplar`` bool ``[n]`` rows are not used as
    exemplars. Both are None unless the fit is robust.
    """

    method: Method
    folds: int
    fold: NDArray[np.int64]
    excluded: NDArray[np.bool_] | None = None
    not_exemplar: NDArray[np.bool_] | None = None

    @property
    def calibration(self) -> NDArray[np.int64]:
        """Indices of the calibration rows: the held-out rows, or all under ``cross``."""
        return np.flatnonzero(self.fold == -1) if self.method == "split" else np.arange(len(self.fold))

    @property
    def training(self) -> NDArray[np.int64]:
        """Indices of the rows that at least one network may learn from."""
        return np.flatnonzero(self.trainable)

    @property
    def trainable(self) -> NDArray[np.bool_]:
        """Mask ``[n]`` of the rows that at least one network may learn from."""
        inside: NDArray[np.bool_] = self.fold >= 0
        return inside if self.excluded is None else inside & ~self.excluded


def calibration_size(config: CalibrationConfig, rows: int) -> tuple[Method, int]:
    """Return the calibration method and the number of calibration rows.

    ``auto``: exact ``split`` from 2,000 rows on with 20 % of the rows, at most 20,000 and at least the number that alpha needs; fewer
    rows are cross-fitted and all calibrate. Raises TooFewRows if alpha needs more calibration rows than there can be.
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


def split_rows(config: CalibrationConfig, rows: int, seed: int) -> RowSplit:
    """Split ``rows`` rows at random by ``seed``; training rows get ten folds (five from 500 rows on under ``cross``). Raises TooFewRows."""
    method, size = calibration_size(config, rows)
    generator = np.random.default_rng([seed, 1])
    folds = FEW_FOLDS if method == "cross" and rows >= FEW_FOLDS_FROM_ROWS else MANY_FOLDS
    folds = min(folds, rows)
    fold = np.zeros(rows, dtype=np.int64)
    if method == "split":
        fold[generator.permutation(rows)[:size]] = -1
    learning = np.flatnonzero(fold >= 0)
    fold[generator.permutation(learning)] = np.arange(len(learning)) % folds
    return RowSplit(method=method, folds=folds, fold=fold)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkAssignment:
    """For each network: its view, the fold it does not learn from, and its training, validation and exemplar candidate rows."""

    views: tuple[ViewName, ...]
    held_out_fold: tuple[int, ...]
    rows: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    exemplars: tuple[Tensor, ...]


def assign_networks(split: RowSplit, config: Config) -> NetworkAssignment:
    """Assign networks to views and folds; each is validated on the fold that it does not learn from.

    Under ``cross`` there is one network for each view and fold, and its exemplars do not come from that fold either. Under ``split``
    there are ``members_per_view`` for each view, and exemplars come from all training rows, because none of them calibrates.
    """
    folds = split.folds if split.method == "cross" else min(members_per_view(split, config.model), split.folds)
    learning = [torch.from_numpy(np.flatnonzero(split.trainable & (split.fold != k))) for k in range(folds)]
    validation = [torch.from_numpy(np.flatnonzero(split.trainable & (split.fold == k))) for k in range(folds)]
    training = torch.from_numpy(split.training)
    held_out_fold = tuple(k for _ in config.model.views for k in range(folds))
    rows = tuple(learning[k] for k in held_out_fold)
    return NetworkAssignment(
        views=tuple(view for view in config.model.views for _ in range(folds)),
        held_out_fold=held_out_fold,
        rows=rows,
        validation=tuple(validation[k] for k in held_out_fold),
        exemplars=tuple(_candidates(split, r) for r in (rows if split.method == "cross" else (training,) * len(held_out_fold))),
    )


def _candidates(split: RowSplit, rows: Tensor) -> Tensor:
    return rows if split.not_exemplar is None else rows[torch.from_numpy(~split.not_exemplar)[rows]]


def members_per_view(split: RowSplit, config: ModelConfig) -> int:
    """Return the number of networks of a view under ``split``."""
    return config.members if split.not_exemplar is None else max(config.members, ROBUST_FOLDS)


def copied_rows(batch: Batch, split: RowSplit) -> int:
    """Return how many calibration rows are exact copies of rows that the networks which score them have learned from.

    Rows are compared by a hash of 64 bits over the columns of the model.
    """
    key, fold = row_hashes(batch), split.fold
    if split.method == "split":
        return int(np.isin(key[split.calibration], key[split.training]).sum())
    rows = split.training
    pairs = np.unique(np.stack([key[rows], fold[rows].astype(np.uint64)], axis=1), axis=0)
    copied, folds = np.unique(pairs[:, 0], return_counts=True)
    return int(np.isin(key[rows], copied[folds > 1]).sum())


def row_hashes(batch: Batch) -> NDArray[np.uint64]:
    """Return a hash of the cells of each row, ``[n]``: a sum over columns of their bits times random odd numbers, modulo 2⁶⁴, mixed."""
    numbers = (batch.numeric.flatten(1).numpy() + 0.0).view(np.uint64)  # adding 0 makes one zero of two
    rest = np.concatenate([batch.codes.flatten(1).numpy(), batch.observed.flatten(1).numpy()], axis=1).astype(np.uint64)
    total = np.zeros(len(batch), dtype=np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=numbers.shape[1] + rest.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for column, factor in zip((*numbers.T, *rest.T), factors, strict=True):
        mixed = (column ^ (column >> np.uint64(32))) * factor
        total += mixed ^ (mixed >> np.uint64(29))
    return total
