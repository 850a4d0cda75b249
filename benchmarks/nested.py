"""Leave-sets-out: what the weights of evidence (``vae_anomaly.model.weighting``) are worth on sets that they were not learned from.

Letters of shapes: g networks (views one after another, the same number for each), n rows, 2 bounds of the KL, 3 kinds of made rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = NDArray[np.float64]
VIEWS = 3
# Strength of the ridge penalty, and how much a unit of predicted standardised gain counts in the log odds.
RIDGE, SHARPNESS = 0.01, 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """Terms of the score of the networks of one fit: on the test rows, and on exemplars that leave themselves out.

    ``evidence`` ``[g, 2, 3]``; ``reconstruction`` and ``own_reconstruction`` ``[g, n]``; ``kl`` and ``own_kl`` ``[2, g, n]`` by both
    bounds; ``cell_cost`` ``[n]`` of changed constants and silence, in weighted nats of the fit, ``level`` its largest calibration score.
    """

    evidence: Floats
    reconstruction: Floats
    kl: Floats
    own_reconstruction: Floats
    own_kl: Floats
    cell_cost: Floats
    level: float
    truth: NDArray[np.bool_]


def normalised(terms: Terms) -> Floats:
    """Return the score of each bound and network at beta, in units of its 90 % quantile on its own rows, ``[2, g, n]``."""
    from vae_anomaly.model.weighting import LEAST_RECONSTRUCTION, MOST_BETA

    high = lambda x: np.quantile(x, 0.9, axis=-1, keepdims=True).clip(1e-9)  # noqa: E731
    beta = np.minimum(MOST_BETA, high(terms.own_reconstruction) / (LEAST_RECONSTRUCTION * high(terms.own_kl)))
    own = terms.own_reconstruction + beta * terms.own_kl
    flagged = terms.cell_cost / max(terms.level, 1e-9)  # a changed constant counts as the largest score of its own rows
    return (terms.reconstruction + beta * terms.kl) / high(own) + flagged * (1.0 + own.max(-1, keepdims=True) / high(own))


def features(terms: Terms) -> Floats:
    """Return the evidence and whether the bound is the mean over groups, mean over the networks of a view, ``[VIEWS, 2, 4]``."""
    return _with_bound(terms.evidence).reshape(VIEWS, -1, 2, 4).mean(1)


def _with_bound(evidence: Floats) -> Floats:
    """Append whether the bound is the mean over groups, ``[g, 2, 3] → [g, 2, 4]``."""
    several = np.broadcast_to(np.array([[0.0], [1.0]]), (len(evidence), 2, 1))
    return np.concatenate([evidence, several], -1)


def gains(terms: Terms) -> Floats:
    """Return the mean of AUROC and AP, in points, of each view and bound alone, ``[VIEWS, 2]``."""
    scores = normalised(terms)
    by_view = scores.reshape(2, VIEWS, -1, scores.shape[-1]).mean(2)
    return np.array([[np.mean(points(terms.truth, by_view[b, v])) for b in range(2)] for v in range(VIEWS)])


def points(truth: NDArray[np.bool_], scores: Floats) -> tuple[float, float]:
    """Return AUROC and average precision, in points."""
    return 100.0 * float(roc_auc_score(truth, scores)), 100.0 * float(average_precision_score(truth, scores))


def learn(fits: Sequence[Terms]) -> Floats:
    """Return the log odds for each kind of evidence and for the mean over groups, ``[4]``: ridge regression of gains within each fit."""
    x, y = [], []
    for terms in fits:
        evidence, gain = features(terms).reshape(-1, 4), gains(terms).ravel()
        scale = 1.0 / (gain.std() + 1.0)  # a set on which the choice matters much is not all that matters
        x.append(evidence - evidence.mean(0))
        y.append((scale, (gain - gain.mean()) * scale))
    spread = np.concatenate(x).std(0) + 1e-9
    design = np.concatenate([a / spread * scale for a, (scale, _) in zip(x, y, strict=True)])
    target = np.concatenate([b for _, b in y])
    return SHARPNESS * np.linalg.solve(design.T @ design + RIDGE * len(design) * np.eye(4), design.T @ target) / spread


def combined(terms: Terms, weights: Floats) -> Floats:
    """Return the score ``[n]`` with log odds by ``weights`` ``[4]``: each network by its better bound, views by their chance."""
    scores, nets = normalised(terms), len(terms.evidence) // VIEWS
    odds = _with_bound(terms.evidence) @ weights
    best, total = odds.argmax(1), np.zeros(scores.shape[-1])
    for f in range(nets):
        here = np.arange(VIEWS) * nets + f
        chance = np.exp(odds[here].max(1) - odds[here].max())
        total += (chance / chance.sum()) @ scores[best[here], here]
    return total
