"""A detector together with the rows of its fit, so that these can be looked at by what has not seen them.

Only a fit has one; the artifact holds no rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_anomaly.core.detector import Detector
from vae_anomaly.core.encode import Batch
from vae_anomaly.core.held_out import of_fold, places, scores_across, without
from vae_anomaly.core.score import Ensemble, score_rows
from vae_anomaly.core.threshold import Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A detector and its rows: how they were dealt out, their cells, the fold of each network and the rows that are its exemplars."""

    detector: Detector
    plan: Plan
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
