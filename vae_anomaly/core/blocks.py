"""Whether alarms are spread evenly over the calibration rows in their order: the promise is for exchangeable rows.

Neighbouring rows of a time series are alike, and a process drifts; then the rate over all calibration rows is right and that of a
single hour is not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import chdtrc

from vae_anomaly.core.encode import Batch
from vae_anomaly.core.score import Ensemble, score_rows
from vae_anomaly.core.threshold import Plan, Threshold

# At most so many parts, and at least so many alarms in each by chance, so that χ² is near its law.
MOST_BLOCKS = 10
ALARMS_EACH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Share of flagged rows in consecutive parts of the calibration rows; ``p_value``: how often chance spreads them as unevenly."""

    rates: tuple[float, ...]
    p_value: float


def block_rates(scores: NDArray[np.float64], limit: float) -> Blocks | None:
    """Return the rates above ``limit`` in up to ten parts of ``scores`` in their order; None where there are too few to say.

    Pearson's χ² test that the rate is the same in all parts (Pearson 1900), degrees of freedom: parts − 1.
    """
    alarms = scores[~np.isnan(scores)] > limit
    count = min(MOST_BLOCKS, int(alarms.sum()) // ALARMS_EACH)
    if count < 2 or bool(alarms.all()):  # noqa: PLR2004 (one part has nothing to differ from)
        return None
    parts = np.array_split(alarms, count)
    sizes, hits = np.array([len(part) for part in parts]), np.array([int(part.sum()) for part in parts])
    share = alarms.mean()
    statistic = float(((hits - share * sizes) ** 2 / (share * (1.0 - share) * sizes)).sum())
    return Blocks(rates=tuple((hits / sizes).tolist()), p_value=float(chdtrc(count - 1, statistic)))


def calibration_blocks(
    ensemble: Ensemble, batch: Batch, plan: Plan, threshold: Threshold, time: NDArray[np.int64] | None = None
) -> Blocks | None:
    """Return the rates in consecutive parts of the calibration rows, in the order of ``time`` or of the table; None under ``cross``."""
    if plan.method == "cross":
        return None
    rows = plan.calibration if time is None else plan.calibration[np.argsort(time[plan.calibration], kind="stable")]
    return block_rates(score_rows(ensemble, batch.rows(torch.from_numpy(rows))).total.numpy(), threshold.value)
