"""Scores of the rows of a fit by what has not seen them: the networks of the other folds, or the exemplars without the row itself.

Knows which rows an ensemble learned from; nothing of thresholds, labels or files.
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


def of_fold(ensemble: Ensemble, plan: RowSplit, part: Sequence[int], fold: int) -> Ensemble:
    """Return the networks that have not seen a fold, at full weight; ``part[g]`` is the fold that network ``g`` leaves out."""
    alone = ensemble.nets((torch.tensor(part) == fold).nonzero().flatten())
    return replace(alone, weight=alone.weight * plan.folds)


def scores_across(ensemble: Ensemble, batch: Batch, plan: RowSplit, part: Sequence[int]) -> Tensor:
    """Return the score of every row by the networks that have not seen its fold, float64 ``[n]``; NaN for a row in no fold."""
    totals = torch.full((len(batch),), torch.nan, dtype=torch.float64)
    for k in range(plan.folds):
        here = torch.from_numpy(np.flatnonzero(plan.fold == k))
        totals[here] = score_rows(of_fold(ensemble, plan, part, k), batch.rows(here)).total
    return totals


def places(own: Tensor, rows: int) -> Tensor:
    """Return the place of each of ``rows`` rows among the exemplars ``own`` ``[g, e]`` of each network, int64 ``[g, n]``, −1 = none."""
    place = torch.full((len(own), rows), -1)
    for g, index in enumerate(own):
        used = index[index >= 0]
        place[g, used] = torch.arange(len(used))
    return place


def without(ensemble: Ensemble, place: Tensor) -> Ensemble:
    """Return the ensemble without the exemplar at ``place`` ``[g]`` of each network, −1 = none; the others share its weight."""
    log_weight = ensemble.exemplars.log_weight.clone()
    for g, at in enumerate(place.tolist()):
        count = int(log_weight[g].isfinite().sum())
        if at >= 0 and count > 1:
            log_weight[g, at] = -torch.inf
            log_weight[g] += float(np.log(count / (count - 1)))
    return replace(ensemble, exemplars=replace(ensemble.exemplars, log_weight=log_weight))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A detector and its rows: how they were dealt out, their cells, the fold of each network and the rows that are its exemplars."""

    detector: Detector
    plan: RowSplit
    batch: Batch
    part: tuple[int, ...]
    own: Tensor

    def unseen_scores(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score rows by what has not seen them, as far as it can be had, ``[n]``: without their fold, or without their exemplar."""
        index, ensemble = torch.from_numpy(rows), self.detector.ensemble
        batch = self.batch.rows(index)
        if self.plan.method == "cross":
            scores = scores_across(ensemble, batch, replace(self.plan, fold=self.plan.fold[rows]), self.part)
        else:
            scores = score_rows(ensemble, batch, own=places(self.own, len(self.batch))[:, index]).total
        return scores.numpy()

    def fold(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return by which networks rows are scored, ``[n]``: those that have not seen a fold, or the same for all."""
        return self.plan.fold[rows] if self.plan.method == "cross" else np.zeros(len(rows), dtype=np.int64)

    def unseen_ensemble(self, row: int) -> Ensemble:
        """Return the ensemble that scores and explains a row as ``unseen_scores`` does."""
        ensemble = self.detector.ensemble
        if self.plan.method == "cross":
            return of_fold(ensemble, self.plan, self.part, int(self.plan.fold[row]))
        return without(ensemble, places(self.own, len(self.batch))[:, row])
