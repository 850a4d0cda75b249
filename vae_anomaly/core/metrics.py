"""How well scores tell anomalous rows from normal ones, and how often a threshold was wrong.

Knows scores and labels only. Scores: higher = more anomalous. Rates are shares of 1.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_anomaly.core.labels import Labels
from vae_anomaly.core.report import Comparison, FalseAlarms, LabelFound, Quality, Ranking
from vae_anomaly.core.threshold import Threshold

# Confidence of the interval around a realised rate.
CONFIDENCE = 0.95


def rank(name: str, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Ranking:
    """Return area under the ROC curve and average precision of two sets of scores; ties count half in the former."""
    scores = np.concatenate([normal, anomalous])
    truth = np.arange(len(scores)) >= len(normal)
    return Ranking(name=name, auroc=float(roc_auc_score(truth, scores)), average_precision=float(average_precision_score(truth, scores)))


def measure(
    normal: NDArray[np.float64], anomalous: NDArray[np.float64], threshold: Threshold, labels: Labels, *, calibrated_on: bool = False
) -> Quality:
    """Measure scores of normal rows ``[n]`` and of anomalous rows ``[a]``, both not empty and without NaN.

    ``labels`` are those of the anomalous rows; ``calibrated_on`` says that the normal rows are those that set the threshold.
    """
    false, flags = int(threshold.flags(normal).sum()), threshold.flags(anomalous)
    hits = int(flags.sum())
    ranking = rank("", normal, anomalous)
    return Quality(
        normal_rows=len(normal),
        anomalous_rows=len(anomalous),
        auroc=ranking.auroc,
        average_precision=ranking.average_precision,
        precision=hits / (hits + false) if hits + false else None,
        recall=hits / len(anomalous),
        false_alarms=None if calibrated_on else _false_alarms(false, len(normal)),
        by_label=_by_label(flags, labels),
    )


def _false_alarms(hits: int, rows: int) -> FalseAlarms:
    low, high = exact_interval(hits, rows)
    return FalseAlarms(rows=hits, rate=hits / rows, low=low, high=high)


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate (Clopper & Pearson 1934).

    >>> [round(end, 4) for end in exact_interval(0, 100)]
    [0.0, 0.0362]
    """
    tail = (1.0 - CONFIDENCE) / 2.0
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1.0 - tail)) if hits < n else 1.0
    return low, high


def _by_label(flags: NDArray[np.bool_], labels: Labels) -> tuple[LabelFound, ...]:
    """How many rows of each label were flagged, the most frequent label first."""
    flagged = labels.where(flags).counts()
    return tuple(LabelFound(label=name, rows=count, flagged=flagged.get(name, 0)) for name, count in labels.counts().items())


def compare(rankings: list[Ranking], ours: str, *, peer_rows: int, test_rows: int) -> Comparison:
    """Order the detectors by AUROC and say in words whether ``ours`` earned its place."""
    ordered = tuple(sorted(rankings, key=lambda ranking: -ranking.auroc))
    own = next(ranking for ranking in ordered if ranking.name == ours)
    best = ordered[0]
    if best.auroc <= own.auroc:
        words = f"{ours} ranks first of {len(ordered)} here (AUROC {own.auroc:.4f})"
    else:
        words = f"{best.name} ranks better here: AUROC {best.auroc:.4f}, {ours} {own.auroc:.4f}"
    return Comparison(rankings=ordered, peer_rows=peer_rows, test_rows=test_rows, words=words)
