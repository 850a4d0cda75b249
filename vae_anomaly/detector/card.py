"""Model card: provenance, quality of every column and stability of the alarm rate, as plain values that are stored with a detector."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.model.training import History


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnQuality:
    """Reconstruction of a column on validation rows and its cells in the rows of the fit.

    ``r2``: 1 − SSE/SST for numbers, 1 − nll/entropy for booleans and categories, 1 = perfect; None for a constant column, whose value is
    ``constant``. ``missing``: share of missing cells. ``low``, ``middle``, ``high``: 1 %, 50 % and 99 % quantiles of a number.
    ``longest_run``: most rows in a row, in the order of the fit, with one value of a number of many values; None for other columns.
    ``longest_gap``: most rows in a row without a value. Both None: fitted by a version that did not store them.
    ``doubt``: a sentence on why it may be no measurement, empty if nothing says so.
    """

    name: str
    kind: str
    r2: float | None
    missing: float
    constant: str | None = None
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    longest_run: int | None = None
    longest_gap: int | None = None
    doubt: str = ""


def are_measured(quality: Sequence[ColumnQuality]) -> bool:
    """Whether a column holds numbers of many values, so that equal rows are copies; rows of levels repeat by themselves."""
    return any(q.longest_run is not None for q in quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Provenance of a detector. Fields with a default are filled in by the workflow, since a fit knows neither clock nor files.

    ``data_bytes`` (0: not known) and ``file_digests`` recognise the files of the fit, the latter by name, size and time, 1,000 at most.
    ``source_versions`` are those of the lakehouse tables in ``source``, empty texts for files; empty if there are none. ``calibrated``
    (ISO 8601), ``calibration_source`` with its versions and ``calibration_digest`` describe a later calibration; empty if there was none.
    ``cautions`` are those on the table of the fit; those on the model are computed from it (``fitting.diagnostics``).
    """

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
    calibrated: str = ""
    calibration_source: tuple[str, ...] = ()
    calibration_digest: str = ""
    cautions: tuple[str, ...] = ()
    copied_rows: int = 0  # calibration rows whose copies the networks that score them have learned from
    data_bytes: int = 0
    file_digests: tuple[str, ...] = ()
    source_versions: tuple[str, ...] = ()
    calibration_versions: tuple[str, ...] = ()

    @property
    def data(self) -> tuple[str, ...]:
        """The files of the fit, tables with their version."""
        versions = self.source_versions or ("",) * len(self.source)
        return tuple(f"{path} (version {version})" if version else path for path, version in zip(self.source, versions, strict=True))


# Stretches of the calibration rows at most.
MOST_STRETCHES = 10
# Expected alarms in a stretch at least, so that the χ² approximation holds.
ALARMS_EACH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Stability of the alarm rate: ``rates`` of flagged rows in consecutive stretches of the calibration rows, in their order.

    ``p_value`` of the test that the rate is the same everywhere. The guarantee is for exchangeable rows; in a time series with drift the
    rate over all rows can be right while that of a single hour is not. The class has the name of the stored key.
    """

    rates: tuple[float, ...]
    p_value: float


def alarm_stability(scores: NDArray[np.float64], limit: float) -> Blocks | None:
    """Return the rates of scores ``[n]`` above ``limit`` in up to ten consecutive stretches, NaN ignored; None if alarms are too few.

    Pearson's χ² test of equal rates (Pearson 1900) with one degree of freedom less than there are stretches.
    """
    from scipy.special import chdtrc

    alarms = scores[~np.isnan(scores)] > limit
    count = min(MOST_STRETCHES, int(alarms.sum()) // ALARMS_EACH)
    if count < 2 or bool(alarms.all()):  # noqa: PLR2004 (a test needs two stretches)
        return None
    stretches = np.array_split(alarms, count)
    sizes, hits = np.array([len(stretch) for stretch in stretches]), np.array([int(stretch.sum()) for stretch in stretches])
    share = alarms.mean()
    statistic = float(((hits - share * sizes) ** 2 / (share * (1.0 - share) * sizes)).sum())
    return Blocks(rates=tuple((hits / sizes).tolist()), p_value=float(chdtrc(count - 1, statistic)))
