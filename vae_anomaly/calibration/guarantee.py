"""What a threshold promises, in one sentence that goes to the terminal and into the artifact.

Knows thresholds only. A limit *for this model* is said only where one is known; what holds on average over calibrations is said so.
"""

from dataclasses import dataclass

from scipy.special import betaincinv

from vae_anomaly.calibration.conformal import CONFIDENCE, alarms_in, finest_alpha, rounded_up
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.messages import percent


def statement(threshold: Threshold) -> str:
    """State the limit of the false-alarm rate, how sure it is and for which rows it holds."""
    n = len(threshold.calibration)
    if threshold.method == "cross":
        return (
            f"cross-fitted on n = {n:,} rows the false-alarm rate is about {percent(threshold.alpha)}, and at most "
            f"{percent(2 * threshold.alpha)} is proven on average; a limit for this model is not known"
        )
    limit = f"{rounded_up(100 * threshold.limit)} %"
    tail = threshold.tail if threshold.method == "gpd" else None
    fitted = "" if tail is None else f", {tail.exceedances:,} of them for a fitted tail,"
    sure = f"≤ {limit} with {percent(CONFIDENCE)} confidence over calibration samples"
    assumed = " if normal scores go on as that tail does" if tail is not None else ""
    chosen = f", whichever of {threshold.tried} rates the labels had chosen" if threshold.tried > 1 else ""
    pooled = "" if threshold.groups is None else " over all groups"
    return (
        f"with n = {n:,} calibration rows{fitted} the false-alarm rate{pooled} is {sure}{assumed}, for exchangeable rows{chosen}"
        f"{_of_groups(threshold)}"
    )


def _of_groups(threshold: Threshold) -> str:
    """Say for which groups the rate holds within the group."""
    groups = threshold.groups
    if groups is None:
        return ""
    exact = int((groups.lent == 0.0).sum())
    pooled = int((groups.lent == 1.0).sum())
    others = [(len(groups.names) - exact - pooled, "borrow rows of others"), (pooled, "have the pooled threshold")]
    rest = " and ".join(f"{count:,} {what}" for count, what in others if count)
    return f"; within {exact:,} of {len(groups.names):,} groups it is at most {percent(threshold.alpha)} on average" + (
        f", {rest}, without a promise of their own" if rest else ""
    )


# Share of calibrations whose long-run false-alarm rate lies inside the stated band.
BAND = 0.99


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
    limit: float | None = None  # 95 of 100 calibrations have a rate under it; None where no limit is known for this model
    statement: str = ""


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
        finest_alpha=finest_alpha(n) if threshold.tail is None else threshold.tail.finest,
        exact=threshold.method == "split",
        low=low,
        high=high,
        words=_promise_in_words(threshold, low, high),
        limit=None if threshold.method == "cross" else threshold.limit,
        statement=statement(threshold),
    )


def band(n: int, alpha: float) -> tuple[float, float]:
    """Return the central 99 % of Beta(j, n + 1 - j), j = ⌊(n + 1)·alpha⌋."""
    j = alarms_in(n, alpha)
    tail = (1.0 - BAND) / 2.0
    return float(betaincinv(j, n + 1 - j, tail)), float(betaincinv(j, n + 1 - j, 1.0 - tail))


def _promise_in_words(threshold: Threshold, low: float | None, high: float | None) -> str:
    alpha, n = threshold.alpha, len(threshold.calibration)
    if threshold.tail is not None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged (estimated by a tail fitted to the "
            f"{threshold.tail.exceedances:,} highest of {n:,} calibration rows)"
        )
    if low is None or high is None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged "
            f"(cross-fitted on {n:,} rows: approximate, at most {percent(2 * alpha)} is proven)"
        )
    return (
        f"at most {percent(alpha)} of normal rows like these are flagged on average (exact for exchangeable rows); "
        f"with {n:,} calibration rows the rate of one model is {percent(low)} to {percent(high)} in 99 of 100 cases"
    )
