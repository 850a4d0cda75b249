"""Held-out scores of the rows of a fit: by the networks that left out the row's fold, or without the row's own exemplar.

Letters of shapes: g networks, n rows, e exemplars.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.detector.detector import Detector
from vae_anomaly.fitting.splits import RowSplit
from vae_anomaly.model.ensemble import Ensemble, score_rows
from vae_anomaly.schema.encoding import Batch


def ensemble_without_fold(ensemble: Ensemble, split: RowSplit, held_out_fold: Sequence[int], fold: int) -> Ensemble:
    """Return the networks with ``held_out_fold[g] == fold``, their weights rescaled to those of a whole ensemble."""
    subset = ensemble.nets((torch.tensor(held_out_fold) == fold).nonzero().flatten())
    return replace(subset, weight=subset.weight * split.folds)


def cross_fit_scores(ensemble: Ensemble, batch: Batch, split: RowSplit, held_out_fold: Sequence[int]) -> Tensor:
    """Score every row by the networks that left out its fold, float64 ``[n]``; NaN for a row in no fold."""
    totals = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    for k in range(split.folds):
        here = torch.from_numpy(np.flatnonzero(split.fold == k))
        nets = ensemble_without_fold(ensemble, split, held_out_fold, k)
        totals[here] = score_rows(nets, batch.rows(here), threads=torch.get_num_threads()).total
    return totals


def exemplar_positions(exemplar_rows: Tensor, rows: int) -> Tensor:
    """Return the position of each row among the exemplars ``exemplar_rows`` ``[g, e]`` of each network, int64 ``[g, n]``, −1 = none."""
    position = torch.full((len(exemplar_rows), rows), -1)
    for g, index in enumerate(exemplar_rows):
        used = index[index >= 0]
        position[g, used] = torch.arange(len(used))
    return position


def without_exemplar(ensemble: Ensemble, position: Tensor) -> Ensemble:
    """Return the ensemble without the exemplar at ``position`` ``[g]`` of each network, −1 = none; the others share its weight."""
    log_weight = ensemble.exemplars.log_weight.clone()
    for g, at in enumerate(position.tolist()):
        count = int(log_weight[g].isfinite().sum())
        if at >= 0 and count > 1:
            log_weight[g, at] = -torch.inf
            log_weight[g] += float(np.log(count / (count - 1)))
    return replace(ensemble, exemplars=replace(ensemble.exemplars, log_weight=log_weight))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitRecord:
    """A fitted detector with its rows, kept in memory to score them held out.

    ``batch``: all rows ``[n]``. ``held_out_fold``: for each network the fold that it did not learn from. ``exemplar_rows`` int64
    ``[g, e]``: the rows that are its exemplars, −1 = padding. ``smoothed`` float64 ``[n]``: held-out scores of rows in time.
    """

    detector: Detector
    split: RowSplit
    batch: Batch
    held_out_fold: tuple[int, ...]
    exemplar_rows: Tensor
    smoothed: NDArray[np.float64] | None = None

    def held_out_scores(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return held-out scores of ``rows``, ``[n]``.

        Under ``cross`` by the networks that left out the fold of the row. Under ``split`` by all networks without the exemplar of the row;
        a training row has then still trained the networks.
        """
        if self.smoothed is not None:
            return self.smoothed[rows]
        index, ensemble = torch.from_numpy(rows), self.detector.ensemble
        batch = self.batch.rows(index)
        if self.split.method == "cross":
            scores = cross_fit_scores(ensemble, batch, replace(self.split, fold=self.split.fold[rows]), self.held_out_fold)
        else:
            own = exemplar_positions(self.exemplar_rows, len(self.batch))[:, index]
            scores = score_rows(ensemble, batch, own=own, threads=torch.get_num_threads()).total
        return scores.numpy()

    def fold(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the fold whose networks score each row, ``[n]``; all 0 under ``split``, where all networks score all rows."""
        return self.split.fold[rows] if self.split.method == "cross" else np.zeros(len(rows), dtype=np.int64)

    def held_out_ensemble(self, row: int) -> Ensemble:
        """Return the ensemble that scores and explains a row as ``held_out_scores`` does."""
        ensemble = self.detector.ensemble
        if self.split.method == "cross":
            return ensemble_without_fold(ensemble, self.split, self.held_out_fold, int(self.split.fold[row]))
        return without_exemplar(ensemble, exemplar_positions(self.exemplar_rows, len(self.batch))[:, row])
