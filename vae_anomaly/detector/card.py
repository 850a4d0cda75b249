"""Whether alarms are spread evenly over the calibration rows in their order: the promise is for exchangeable rows.

Neighbouring rows of a time series are alike, and a process drifts; then the rate over all calibration rows is right and that of a
single hour is not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from vae_anomaly.model.training import History


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnQuality:
    """How well a column is reconstructed on validation rows and how its cells were at fit.

    ``r2``: 1 − SSE/SST for numbers, 1 − nll/entropy for booleans and categories, 1 = perfect; None for a constant column.
    ``missing`` is the share of missing cells; ``low``, ``middle``, ``high`` the 1 %, 50 % and 99 % quantiles of a number.
    """

    name: str
    kind: str
    r2: float | None
    missing: float
    constant: str | None = None
    low: float | None = None
    middle: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Provenance: what the detector was made from. ``versions``, ``created`` and ``source`` are filled in by the caller who knows them."""

    rows: int
    training_rows: int
    calibration_rows: int
    seed: int
    history: History
    notes: tuple[str, ...] = ()
    created: str = ""
    seconds: float = 0.0
    versions: tuple[tuple[str, str], ...] = ()
    source: tuple[str, ...] = ()
    data_digest: str = ""
    contents_digest: str = ""
    # When a later calibration was made and from which rows; empty: the rows were those of the fit.
    calibrated: str = ""
    calibration_source: tuple[str, ...] = ()
    calibration_digest: str = ""


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
