"""What a threshold promises and how well a detector does on labelled rows, as plain values and in words.

Knows scores and labels only: no model, table or file. Scores: higher = more anomalous. Rates are shares of 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_anomaly.core.labels import Labels
from vae_anomaly.core.threshold import Threshold, alarms_in, finest_alpha

# Share of calibrations whose long-run false-alarm rate lies inside the stated band.
BAND = 0.99
# Confidence of the interval around a realised rate.
CONFIDENCE = 0.95


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


def rank(name: str, scores: NDArray[np.float64], anomalous: NDArray[np.bool_]) -> Ranking:
    """Return area under the ROC curve and average precision; ties count half in the former."""
    return Ranking(
        name=name,
        auroc=float(roc_auc_score(anomalous, scores)),
        average_precision=float(average_precision_score(anomalous, scores)),
    )


def measure(scores: NDArray[np.float64], flags: NDArray[np.bool_], labels: Labels, *, calibrated_on: bool = False) -> Quality:
    """Measure scores ``[n]`` and flags ``[n]`` against labels of the same rows; both classes must be there, no score may be NaN.

    ``calibrated_on`` says that the normal rows are those that set the threshold.
    """
    normal, anomalous = labels.normal, ~labels.normal
    hits, flagged = int((flags & anomalous).sum()), int(flags.sum())
    ranking = rank("", scores, anomalous)
    return Quality(
        normal_rows=int(normal.sum()),
        anomalous_rows=int(anomalous.sum()),
        auroc=ranking.auroc,
        average_precision=ranking.average_precision,
        precision=hits / flagged if flagged else None,
        recall=hits / int(anomalous.sum()),
        false_alarms=None if calibrated_on else _false_alarms(int((flags & normal).sum()), int(normal.sum())),
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
    """Anomalous labels, the most frequent first."""
    flagged = labels.counts(flags)
    return tuple(LabelFound(label=name, rows=count, flagged=flagged.get(name, 0)) for name, count in labels.counts(~labels.normal).items())


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
