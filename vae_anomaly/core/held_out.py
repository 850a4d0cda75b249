"""Scores of the rows of a fit by what has not seen them: the networks of the other folds, or the exemplars without the row itself.

Knows which rows an ensemble learned from; nothing of thresholds, labels or files.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vae_anomaly.core.encode import Batch
from vae_anomaly.core.score import Ensemble, score_rows
from vae_anomaly.core.threshold import Plan


def of_fold(ensemble: Ensemble, plan: Plan, part: Sequence[int], fold: int) -> Ensemble:
    """Return the networks that have not seen a fold, at full weight; ``part[g]`` is the fold that network ``g`` leaves out."""
    alone = ensemble.nets((torch.tensor(part) == fold).nonzero().flatten())
    return replace(alone, weight=alone.weight * plan.folds)


def scores_across(ensemble: Ensemble, batch: Batch, plan: Plan, part: Sequence[int]) -> Tensor:
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
