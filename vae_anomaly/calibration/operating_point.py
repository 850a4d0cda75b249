"""A false-alarm rate from a budget, from costs or from labels.

Knows scores of normal and of anomalous rows, no model. Labels choose on one half of the rows and are reported on the other; they choose
from a list of rates, so that the limit of the rate can hold for all of them at once.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import CONFIDENCE, alarms_in, conformal_value, finest_alpha
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import as_times, seconds

_Floats = NDArray[np.float64]
FScore = Literal["f1", "f0.5", "f2"]
# Rates that labels choose among: from the finest to a half, by a fifth to a third each.
CANDIDATE_RATES = 40
COARSEST = 0.5
BOOTSTRAPS = 2000
# Rates of the table of budgets; those that the calibration allows are in it.
TABLE_RATES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a false alarm and a missed anomaly cost, in one unit."""

    false_alarm: float
    miss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A rate that labels chose: ``value`` of the ``measure`` on the half that did not choose, with its 95 % bootstrap interval."""

    measure: str
    alpha: float
    tried: int
    anomaly_rate: float
    value: float
    low: float
    high: float
    recall: float
    normal_rows: int  # that it was reported on
    anomalous_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One line of the table: a false-alarm rate, its limit with 95 % confidence (None: unknown), what it costs and what it finds."""

    alpha: float
    limit: float | None
    threshold: float
    false_alarms_per_10000: float
    alerts_per_day: float | None
    recall: float | None


def rows_per_day(times: pa.ChunkedArray, name: str) -> float:
    """Return how many rows a day brings: rows over the time they span and one step more.

    Raises DataError for a column that is no time, or holds one time only.
    """
    whole = as_times(parsing.plain_array(times).combine_chunks(), name)
    if not (pa.types.is_timestamp(whole.type) or pa.types.is_date(whole.type)):
        raise DataError(f"time column {name!r} is {whole.type}, which has no days. Name a column of timestamps, or give --rows-per-day.")
    found = seconds(whole)
    different = np.unique(found)
    if len(different) < 2:  # noqa: PLR2004  # a span has two ends
        raise DataError(f"time column {name!r} holds one time only, which says nothing of a day. Give --rows-per-day.")
    span = float(different[-1] - different[0]) * len(different) / (len(different) - 1)
    return len(found) / (span / SECONDS_PER_DAY)


def alpha_of_budget(alerts_per_day: float, rows: float) -> float:
    """Return the false-alarm rate of so many alerts on so many rows a day. Raises ConfigError where that is no rate."""
    alpha = alerts_per_day / rows
    if not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"--alerts-per-day must be more than 0 and less than the {rows:,.6g} rows a day; got {alerts_per_day:g}. "
            "A budget below that is a false-alarm rate."
        )
    return alpha


def choose(normal: _Floats, anomalous: _Floats, wish: FScore | Costs, *, anomaly_rate: float | None = None, seed: int = 0) -> Choice:
    """Choose the rate that is best for ``wish`` on one half of the rows and report it on the other.

    ``normal`` ``[n]`` and ``anomalous`` ``[a]`` scores, higher = more anomalous; without ``anomaly_rate`` the share of the anomalous rows.
    Raises DataError for fewer than two rows of a class.
    """
    if min(len(normal), len(anomalous)) < 2:  # noqa: PLR2004  # two halves
        raise DataError(
            f"labels choose on one half of the rows and report on the other, which needs two rows of each class; there are "
            f"{len(normal):,} normal and {len(anomalous):,} anomalous ones. Give more labelled rows."
        )
    generator = np.random.default_rng([seed, 4])
    halves = [np.array_split(generator.permutation(scores), 2) for scores in (normal, anomalous)]
    (chosen_on, reported_on), (faults, other_faults) = halves
    rate = len(anomalous) / (len(normal) + len(anomalous)) if anomaly_rate is None else anomaly_rate
    ordered = np.sort(chosen_on)
    alphas = candidates(len(ordered))
    limits = np.array([conformal_value(ordered, alpha) for alpha in alphas.tolist()])
    best = int(np.argmax(goodness(wish, *_shares(chosen_on, faults, limits), rate)))
    false, found = _shares(reported_on, other_faults, limits[best : best + 1])
    # Rows drawn again with their classes kept: the counts of a class are binomial (Efron & Tibshirani 1993).
    again = [generator.binomial(len(x), share[0], BOOTSTRAPS) / len(x) for x, share in ((reported_on, false), (other_faults, found))]
    sign = -1.0 if isinstance(wish, Costs) else 1.0
    drawn = sign * goodness(wish, again[0], again[1], rate)
    low, high = np.quantile(drawn, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return Choice(
        measure=measure_name(wish),
        alpha=float(alphas[best]),
        tried=len(alphas),
        anomaly_rate=rate,
        value=float(sign * goodness(wish, false, found, rate)[0]),
        low=float(low),
        high=float(high),
        recall=float(found[0]),
        normal_rows=len(reported_on),
        anomalous_rows=len(other_faults),
    )


def candidates(n: int) -> _Floats:
    """Return the rates that ``n`` rows can choose among, ascending, no two of the same rank."""
    alphas = np.geomspace(finest_alpha(n), COARSEST, CANDIDATE_RATES) if finest_alpha(n) < COARSEST else np.array([COARSEST])
    ranks = np.array([alarms_in(n, alpha) for alpha in alphas.tolist()])
    return alphas[np.unique(ranks, return_index=True)[1]]


def goodness(wish: FScore | Costs, false: _Floats, found: _Floats, anomaly_rate: float) -> _Floats:
    """Return what is to be as large as possible: F_β, or minus the expected cost a row, for false-alarm rates and recalls ``[c]``.

    F_β = (1 + β²) P R / (β² P + R) with precision P = π R / (π R + (1 − π) FPR); 0 where nothing is found (van Rijsbergen 1979).
    Cost = c_false (1 − π) FPR + c_miss π (1 − R) (Elkan 2001). π is the share of anomalous rows.
    """
    right, wrong = anomaly_rate * found, (1.0 - anomaly_rate) * false
    if isinstance(wish, Costs):
        return -(wish.false_alarm * wrong + wish.miss * (anomaly_rate - right))
    beta = float(wish[1:]) ** 2
    return (1.0 + beta) * right / (right + wrong + beta * anomaly_rate)


def measure_name(wish: FScore | Costs) -> str:
    """Name what was made best."""
    return "cost per row" if isinstance(wish, Costs) else wish.upper()


def _shares(normal: _Floats, anomalous: _Floats, limits: _Floats) -> tuple[_Floats, _Floats]:
    """Return the shares of both above each of ``limits`` ``[c]``."""
    return _share(normal, limits), _share(anomalous, limits)


def _share(scores: _Floats, limits: _Floats) -> _Floats:
    return 1.0 - np.searchsorted(np.sort(scores), limits, side="right") / len(scores)


def budget_table(threshold: Threshold, anomalous: _Floats | None, rows: float | None) -> tuple[BudgetRow, ...]:
    """Return what other rates would mean, finest first, that of the threshold among them.

    ``anomalous`` scores give the recall, ``rows`` a day the alerts; the values are those of all rows, without groups.
    """
    n = len(threshold.calibration)
    finest = finest_alpha(n) if threshold.tail is None else threshold.tail.finest
    rates = sorted({alpha for alpha in TABLE_RATES if alpha >= finest} | {threshold.alpha})
    return tuple(_budget_row(threshold if alpha == threshold.alpha else threshold.at(alpha), anomalous, rows) for alpha in rates)


def _budget_row(threshold: Threshold, anomalous: _Floats | None, rows: float | None) -> BudgetRow:
    return BudgetRow(
        alpha=threshold.alpha,
        limit=None if threshold.method == "cross" else threshold.limit,
        threshold=threshold.value,
        false_alarms_per_10000=threshold.alpha * 10_000,
        alerts_per_day=None if rows is None else threshold.alpha * rows,
        recall=None if anomalous is None or not len(anomalous) else float(threshold.flags(anomalous).mean()),
    )
