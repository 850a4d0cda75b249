"""What a threshold promises and how well a detector does on labelled rows, as plain values and in words.

Knows scores, labels and counts: no network, table or file. Scores: higher = more anomalous. Rates are shares of 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.labels import Labels
from vae_anomaly.core.threshold import Threshold, alarms_in, finest_alpha

# Share of calibrations whose long-run false-alarm rate lies inside the stated band.
BAND = 0.99
# Confidence of the interval around a realised rate.
CONFIDENCE = 0.95
# Of thousands of columns none should differ by chance, and what is too small to matter is not news.
STANDARD_ERRORS, SMALLEST_CHANGE = 4.0, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the threshold stands for; ``low`` and ``high`` (``split`` only): 99 of 100 calibrations have a rate between them."""

    alpha: float
    method: str
    threshold: float  # weighted nats
    calibration_rows: int
    finest_alpha: float
    exact: bool
    low: float | None
    high: float | None
    words: str


def promise(threshold: Threshold) -> Promise:
    """State the promise of a threshold.

    Given the calibration rows, the false-alarm rate of new rows follows Beta(j, n + 1 - j), j = ⌊(n + 1)·alpha⌋ (Vovk 2012).
    """
    n = len(threshold.calibration)
    low, high = band(n, threshold.alpha) if threshold.method == "split" else (None, None)
    return Promise(
        alpha=threshold.alpha,
        method=threshold.method,
        threshold=threshold.value,
        calibration_rows=n,
        finest_alpha=finest_alpha(n),
        exact=threshold.method == "split",
        low=low,
        high=high,
        words=_promise_in_words(threshold.alpha, n, low, high),
    )


def band(n: int, alpha: float) -> tuple[float, float]:
    """Return the central 99 % of Beta(j, n + 1 - j), j = ⌊(n + 1)·alpha⌋."""
    j = alarms_in(n, alpha)
    tail = (1.0 - BAND) / 2.0
    return float(beta.ppf(tail, j, n + 1 - j)), float(beta.ppf(1.0 - tail, j, n + 1 - j))


def _promise_in_words(alpha: float, n: int, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged "
            f"(cross-fitted on {n:,} rows: approximate, at most {percent(2 * alpha)} is proven)"
        )
    return (
        f"at most {percent(alpha)} of normal rows like these are flagged on average (exact for exchangeable rows); "
        f"with {n:,} calibration rows the rate of one model is {percent(low)} to {percent(high)} in 99 of 100 cases"
    )


def percent(share: float) -> str:
    """Write a share as per cent with three significant digits.

    >>> percent(0.01), percent(0.0123456)
    ('1 %', '1.23 %')
    """
    return f"{100 * share:.3g} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFound:
    """Rows that carry one label, and how many of them were flagged."""

    label: str
    rows: int
    flagged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well a detector orders anomalous rows above normal ones; 1 is perfect, ``auroc`` 0.5 is chance."""

    name: str
    auroc: float
    average_precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Detectors on the same rows, the best first; the others learned from ``peer_rows`` normal rows."""

    rankings: tuple[Ranking, ...]
    peer_rows: int
    test_rows: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Normal rows that were flagged; ``low`` and ``high`` are the exact (Clopper-Pearson) 95 % interval of the rate."""

    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Detection on labelled rows."""

    normal_rows: int
    anomalous_rows: int
    auroc: float
    average_precision: float
    precision: float | None  # None: no row was flagged
    recall: float
    false_alarms: FalseAlarms | None  # None: the normal rows are those that set the threshold, so their rate says nothing
    by_label: tuple[LabelFound, ...] = ()
    comparison: Comparison | None = None


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
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1.0 - tail, hits + 1, n - hits)) if hits < n else 1.0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingChange:
    """A column whose share of missing cells differs from the fit by more than chance."""

    column: str
    at_fit: float
    now: float


def missing_changes(quality: Sequence[ColumnQuality], fit_rows: int, missing: Mapping[str, int], rows: int) -> tuple[MissingChange, ...]:
    """Return the columns whose share of missing cells changed, the largest change first; ``missing`` is column → cells of ``rows`` rows.

    A change counts from four standard errors of the difference of two shares on, and from one cell in a hundred.
    """
    changes = [MissingChange(column=q.name, at_fit=q.missing, now=missing.get(q.name, 0) / rows) for q in quality if rows]
    return tuple(sorted((c for c in changes if _changed(c, fit_rows, rows)), key=lambda c: -abs(c.now - c.at_fit)))


def _changed(change: MissingChange, fit_rows: int, rows: int) -> bool:
    pooled = (change.at_fit * fit_rows + change.now * rows) / (fit_rows + rows)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / fit_rows + 1.0 / rows))
    difference = abs(change.now - change.at_fit)
    return difference >= SMALLEST_CHANGE and difference > STANDARD_ERRORS * error
