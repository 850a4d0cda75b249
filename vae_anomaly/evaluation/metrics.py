"""How well scores tell anomalous rows from normal ones, and how often a threshold was wrong.

Knows scores and labels only. Scores: higher = more anomalous. Rates are shares of 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from vae_anomaly.calibration.conformal import finest_alpha
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.evaluation.results import Comparison, FalseAlarms, Interval, Intervals, LabelFound, Quality, Ranking
from vae_anomaly.schema.keys import Labels

# Confidence of the interval around a realised rate.
BOOTSTRAP_CONFIDENCE = 0.95
# Bootstrap samples: the ends of an interval are then good to about a twentieth of its width.
BOOTSTRAP_SAMPLES = 500
# Points of a curve: more cannot be seen.
POINTS = 400


def rank(name: str, normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> Ranking:
    """Return area under the ROC curve and average precision of two sets of scores; ties count half in the former."""
    scores = np.concatenate([normal, anomalous])
    truth = np.arange(len(scores)) >= len(normal)
    return Ranking(name=name, auroc=float(roc_auc_score(truth, scores)), average_precision=float(average_precision_score(truth, scores)))


def measure(
    normal: NDArray[np.float64],
    anomalous: NDArray[np.float64],
    threshold: Threshold,
    labels: Labels,
    *,
    seed: int,
    calibrated_on: bool = False,
) -> Quality:
    """Measure scores of normal rows ``[n]`` and of anomalous rows ``[a]``, both not empty and without NaN.

    ``labels`` are those of the anomalous rows; ``calibrated_on`` says that the normal rows are those that set the threshold; ``seed``
    draws the bootstrap samples.
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
        f1=2.0 * hits / (len(anomalous) + hits + false),
        intervals=bootstrap(normal, anomalous, threshold, seed),
        by_label=_by_label(flags, labels),
    )


def bootstrap(normal: NDArray[np.float64], anomalous: NDArray[np.float64], threshold: Threshold, seed: int) -> Intervals:
    """Return the 2.5 % and 97.5 % quantiles of the figures over samples of each class with replacement (Efron 1979).

    The threshold stays as it is: the intervals speak of the labelled rows, not of the calibration.
    """
    random = np.random.default_rng([seed, 4])
    order = _Ordered.of(np.concatenate([normal, anomalous]), len(normal), threshold)
    drawn = []
    for _ in range(BOOTSTRAP_SAMPLES):
        weight = np.concatenate([
            np.bincount(random.integers(0, len(part), len(part)), minlength=len(part)) for part in (normal, anomalous)
        ])  # fmt: skip
        drawn.append(order.figures(weight))
    auroc, average, recall, precision, f1 = np.array(drawn).T
    precision_there = precision[~np.isnan(precision)]  # a sample may have no alarm at all
    return Intervals(
        auroc=_interval(auroc),
        average_precision=_interval(average),
        recall=_interval(recall),
        precision=_interval(precision_there) if len(precision_there) else None,
        f1=_interval(f1),
    )


def _interval(drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, [(1.0 - BOOTSTRAP_CONFIDENCE) / 2.0, (1.0 + BOOTSTRAP_CONFIDENCE) / 2.0]).tolist()
    return Interval(low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ordered:
    """Scores of both classes sorted once, so that a bootstrap sample is a weight a row: ``last`` marks the end of each run of ties."""

    order: NDArray[np.int64]
    anomalous: NDArray[np.bool_]
    last: NDArray[np.int64]
    flagged: int

    @classmethod
    def of(cls, scores: NDArray[np.float64], normal: int, threshold: Threshold) -> "_Ordered":
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
        return cls(order=order, anomalous=order >= normal, last=last, flagged=int(threshold.flags(scores).sum()))

    def figures(self, weight: NDArray[np.int64]) -> tuple[float, float, float, float, float]:
        """Return AUROC, average precision, recall, precision (NaN without a flagged row) and F1 of rows that count ``weight`` times."""
        w = weight[self.order]
        hits, rows = np.cumsum(w * self.anomalous), np.cumsum(w)
        all_hits, all_false = hits[-1], rows[-1] - hits[-1]
        h, n = hits[self.last], rows[self.last]
        before = np.concatenate([[0], h[:-1]])
        false_before = np.concatenate([[0], (n - h)[:-1]])
        # Area under the ROC curve by trapezia, ties half; average precision as Σ (recall step) × precision.
        area = float((((n - h) - false_before) * (h + before) / 2.0).sum() / (all_hits * all_false))
        average = float(((h - before) * h / np.maximum(n, 1)).sum() / all_hits)
        found, alarms = (float(x[self.flagged - 1]) if self.flagged else 0.0 for x in (hits, rows))
        return area, average, found / float(all_hits), found / alarms if alarms else math.nan, 2.0 * found / (float(all_hits) + alarms)


def roc_points(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (false-alarm rate, recall) of the ROC curve ``[k, 2]``, at most some hundred."""
    scores, truth = np.concatenate([normal, anomalous]), np.arange(len(normal) + len(anomalous)) >= len(normal)
    false, found, _ = roc_curve(truth, scores)
    return _thinned(np.stack([false, found], axis=1))


def precision_recall_points(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (recall, precision) ``[k, 2]``, at most some hundred, from the strictest threshold to the loosest."""
    scores, truth = np.concatenate([normal, anomalous]), np.arange(len(normal) + len(anomalous)) >= len(normal)
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return _thinned(np.stack([recall, precision], axis=1)[::-1])


def realised_rates(normal: NDArray[np.float64], threshold: Threshold) -> NDArray[np.float64]:
    """Return (alpha, share of normal rows with a p-value of at most alpha) ``[k, 2]``; on the diagonal where the promise holds."""
    p_values = np.sort(threshold.p_values(normal))
    asked = np.geomspace(finest_alpha(len(threshold.calibration)), 1.0, POINTS // 4)
    return np.stack([asked, np.searchsorted(p_values, asked * (1.0 + 1e-9), side="right") / len(p_values)], axis=1)


def _thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep at most some hundred points, the first and the last among them."""
    if len(points) <= POINTS:
        return points
    return points[np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(np.int64))]


def _false_alarms(hits: int, rows: int) -> FalseAlarms:
    low, high = exact_interval(hits, rows)
    return FalseAlarms(rows=hits, rate=hits / rows, low=low, high=high)


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate (Clopper & Pearson 1934).

    >>> [round(end, 4) for end in exact_interval(0, 100)]
    [0.0, 0.0362]
    """
    tail = (1.0 - BOOTSTRAP_CONFIDENCE) / 2.0
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
