"""What a threshold promises, in one sentence that goes to the terminal and into the artifact.

Knows thresholds only. A limit *for this model* is said only where one is known; what holds on average over calibrations is said so.
"""

from vae_anomaly.core.ranks import rounded_up
from vae_anomaly.core.rates import CONFIDENCE, percent
from vae_anomaly.core.threshold import Threshold


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
