"""The false-alarm guarantee of a threshold, as values and as the sentences of the terminal, the report and the artifact.

A limit for this very model is stated only where one is known; a rate that holds on average over calibrations is called so.
"""

from dataclasses import dataclass

from vae_anomaly.calibration.blocks import BlockRates
from vae_anomaly.calibration.conformal import CONFIDENCE, finest_alpha, rounded_up
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.messages import percent


def guarantee_statement(threshold: Threshold) -> str:
    """Return one sentence: the upper limit of the false-alarm rate, its confidence and the rows it holds for."""
    n, rates = len(threshold.calibration), threshold.rates
    if rates is not None:
        return blocks_statement(threshold.alpha, rates)
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
        f"with n = {_counted_rows(threshold)}{fitted} the false-alarm rate{pooled} is {sure}{assumed}, for exchangeable rows{chosen}"
        f"{_of_groups(threshold)}"
    )


def blocks_statement(alpha: float, rates: BlockRates) -> str:
    """Return what blocks of time say about the false-alarm rate of a threshold: an estimate, and for which time it holds."""
    worth = max(1.0, float(f"{rates.effective_rows:.2g}"))
    few = f", fewer than the {1 / alpha:,.0f} of which one would be a false alarm" if rates.effective_rows < 1 / alpha else ""
    return (
        f"alpha {alpha:g} is set from {rates.blocks} contiguous blocks of your training time. Its rows resemble their neighbours: "
        f"{rates.rows:,} rows are worth about {worth:,.0f} independent ones{few}. Inside that time the blocks' own rates were "
        f"{percent(rates.lowest)} to {percent(rates.highest)}. In the next stretch of the same kind expect between {percent(rates.low)} "
        f"and {percent(rates.high)}; if the process drifts beyond what these blocks show, more. This is an estimate, not a guarantee"
    )


def _counted_rows(threshold: Threshold) -> str:
    """Return how many calibration rows there are, and how many distinct ones where some are copies."""
    n, copies = len(threshold.calibration), threshold.copies
    return f"{n - copies:,} distinct calibration rows ({copies:,} more are copies)" if copies else f"{n:,} calibration rows"


def _of_groups(threshold: Threshold) -> str:
    """Return the part of the sentence on groups: for how many of them the rate holds within the group."""
    groups = threshold.groups
    if groups is None:
        return ""
    exact = int((groups.lent == 0.0).sum())
    pooled = int((groups.lent == 1.0).sum())
    others = [(len(groups.names) - exact - pooled, "borrow rows of others"), (pooled, "have the pooled threshold")]
    rest = " and ".join(f"{count:,} {what}" for count, what in others if count)
    return f"; within {exact:,} of {len(groups.names):,} groups it is at most {percent(threshold.alpha)} on average" + (
        f", {rest}, without a guarantee of their own" if rest else ""
    )


BAND = 0.99  # probability, over calibrations, of the interval ``low`` to ``high`` of the rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What a threshold guarantees; ``low`` to ``high`` (``split`` only) contains the rate of 99 of 100 calibrations."""

    alpha: float
    method: str
    threshold: float  # weighted nats
    calibration_rows: int
    finest_alpha: float
    exact: bool
    low: float | None
    high: float | None
    words: str
    limit: float | None = None  # upper 95 % confidence limit of the rate of this model; None for ``cross``: unknown
    statement: str = ""


def guarantee_of(threshold: Threshold) -> Guarantee:
    """Return the guarantee of a threshold.

    The rate of a ``split`` threshold follows Beta(j, n + 1 − j), j = ⌊(n + 1)·alpha⌋, over calibration samples (Vovk 2012), where copies
    of a row count once.
    """
    n = len(threshold.calibration)
    low, high = threshold.law.central(BAND) if threshold.method == "split" else (None, None)
    estimated = threshold.method in {"cross", "blocks"}
    return Guarantee(
        alpha=threshold.alpha,
        method=threshold.method,
        threshold=threshold.value,
        calibration_rows=n,
        finest_alpha=finest_alpha(n) if threshold.tail is None else threshold.tail.finest,
        exact=threshold.method == "split",
        low=low,
        high=high,
        words=_promise_in_words(threshold, low, high),
        limit=None if estimated else threshold.limit,
        statement=guarantee_statement(threshold),
    )


def _promise_in_words(threshold: Threshold, low: float | None, high: float | None) -> str:
    alpha, n = threshold.alpha, len(threshold.calibration)
    if threshold.tail is not None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged (estimated by a tail fitted to the "
            f"{threshold.tail.exceedances:,} highest of {n:,} calibration rows)"
        )
    if (rates := threshold.rates) is not None:
        return (
            f"about {percent(alpha)} of normal rows in time like these are flagged: between {percent(rates.low)} and {percent(rates.high)} "
            f"in the next stretch, estimated from {rates.blocks} blocks of {n:,} rows"
        )
    if low is None or high is None:
        return (
            f"about {percent(alpha)} of normal rows like these are flagged "
            f"(cross-fitted on {n:,} rows: approximate, at most {percent(2 * alpha)} is proven)"
        )
    return (
        f"at most {percent(alpha)} of normal rows like these are flagged on average (exact for exchangeable rows); "
        f"with {_counted_rows(threshold)} the rate of one model is {percent(low)} to {percent(high)} in 99 of 100 cases"
    )
