"""Choice of the false-alarm rate: from a budget of alerts, from costs or to maximise an F-score on labelled scores.

The rate is chosen on one half of the labelled rows and reported on the other half. It is one of a fixed list of candidates, so that the
confidence limit of the rate can hold for all of them simultaneously.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.calibration.conformal import CONFIDENCE, conformal_quantile, finest_alpha, quantile_rank
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.choices import FScore
from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import as_times, seconds

_Floats = NDArray[np.float64]
CANDIDATE_ALPHAS = 40  # log-spaced from the finest rate to one half: steps of a fifth to a third
LARGEST_CANDIDATE = 0.5
BOOTSTRAPS = 2000  # enough for 95 % limits
TABLE_ALPHAS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
SECONDS_PER_DAY = 86_400.0
MAIN_SHARE = 0.95  # of the rows that lie on the days that count
FEW_DAYS = 14  # up to which the first and the last day, which are seldom whole, would matter
FEWEST_DAYS = 3  # up to which, of hours that need as many days, the one with the fullest day counts
FULL_DAY = 0.02  # by which a day may fall short of 24 hours
STRAY = 0.01  # of the rows of a day, below which a day holds strays


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Cost of a false alarm and of a missed anomaly, in the same unit."""

    false_alarm: float
    miss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenAlpha:
    """A rate chosen on labels. ``value`` of the ``measure`` on the reporting half, ``low`` to ``high`` its 95 % bootstrap interval."""

    measure: str
    alpha: float
    tried: int
    anomaly_rate: float
    value: float
    low: float
    high: float
    recall: float
    normal_rows: int  # of the reporting half
    anomalous_rows: int  # of the reporting half


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One row of the table of rates: the 95 % upper limit of the rate (None: unknown), its alerts and its recall."""

    alpha: float
    limit: float | None
    threshold: float
    false_alarms_per_10000: float
    alerts_per_day: float | None
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRate:
    """Number of ``rows`` on a day that has rows, and a ``note`` on which days these are."""

    rows: float
    note: str


def rows_per_day(times: pa.ChunkedArray, name: str, form: str | None = None) -> DayRate:
    """Return the number of rows on a day that has rows: the median over the fewest days that hold 95 % of the rows.

    Days without rows do not count, nor do the few rows of a clock that was reset. Rows of up to two weeks are cut into days at the hour
    that needs the fewest days, so that a recording from noon to noon is one. Rows of one day count as if they went on for 24 hours at the
    rate of the middle half of their times. Raises DataError if the column holds no timestamps or fewer than two distinct ones.
    """
    whole = as_times(parsing.plain_array(times).combine_chunks(), name, form)
    if not (pa.types.is_timestamp(whole.type) or pa.types.is_date(whole.type)):
        raise DataError(f"time column {name!r} is {whole.type}, which has no days. Name a column of timestamps, or give --rows-per-day.")
    moments = np.sort(seconds(whole))
    if len(moments) == 0 or moments[0] == moments[-1]:
        raise DataError(f"time column {name!r} holds one time only, which says nothing of a day. Give --rows-per-day.")
    start, counts, main = _main_days(moments, 0.0)
    if len(main) <= FEW_DAYS:
        hours = [_main_days(moments, 3600.0 * hour) for hour in range(24)]
        start, counts, main = min(hours, key=lambda days: (len(days[2]), -int(days[2][0]) if len(days[2]) <= FEWEST_DAYS else 0))
    rows = float(np.sort(main)[len(main) // 2])
    span = int((moments[-1] - start) // SECONDS_PER_DAY) + 1
    notes = [f"{len(counts):,} of the {span:,} days from {_date(moments[0])} to {_date(moments[-1])} have rows"]
    if len(main) == 1:
        rate = _rate_in_the_middle(moments)
        if rate > rows * (1.0 + FULL_DAY):
            notes.append(f"they cover {24.0 * rows / rate:.3g} hours of a day, and their rate is taken for all of it")
        rows = max(rows, rate)
    stray = counts[counts < STRAY * rows]
    if len(stray) and len(main) < len(counts):
        notes.append(f"stray rows on other days do not count: {int(stray.sum()):,}")
    return DayRate(rows=rows, note="; ".join(notes))


def _main_days(moments: _Floats, offset: float) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
    """Return the start of the first day, and the rows of all days and of the fewest that hold 95 %; days start ``offset`` s late."""
    days = np.floor((moments - offset) / SECONDS_PER_DAY)
    counts = np.unique(days, return_counts=True)[1].astype(np.int64)
    falling = -np.sort(-counts)
    enough = int(np.searchsorted(falling.cumsum(), MAIN_SHARE * len(moments) - 1e-9)) + 1
    return float(days[0]) * SECONDS_PER_DAY + offset, counts, falling[:enough]


def _rate_in_the_middle(moments: _Floats) -> float:
    """Return the rows a day at the rate of the middle half of the distinct times, which a few strays do not change."""
    distinct = np.unique(moments)
    low, high = np.quantile(distinct, [0.25, 0.75])
    steps = 0.5 * (len(distinct) - 1)
    return float(len(moments) / len(distinct) * steps * SECONDS_PER_DAY / (high - low)) if high > low else 0.0


def _date(moment: float) -> str:
    return str(np.datetime64(int(moment), "s").astype("datetime64[D]"))


def budget_alpha(alerts_per_day: float, rows: float) -> float:
    """Return the false-alarm rate that gives ``alerts_per_day`` on ``rows`` a day. Raises ConfigError if it is not in (0, 1)."""
    alpha = alerts_per_day / rows
    if not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"--alerts-per-day must be more than 0 and less than the {rows:,.6g} rows a day; got {alerts_per_day:g}. "
            "A budget below that is a false-alarm rate."
        )
    return alpha


def choose_alpha(
    normal: _Floats, anomalous: _Floats, objective: FScore | Costs, *, anomaly_rate: float | None = None, seed: int = 0
) -> ChosenAlpha:
    """Choose the false-alarm rate that maximises the objective on one half of the rows and report it on the other half.

    ``normal`` ``[n]`` and ``anomalous`` ``[a]`` are scores, higher = more anomalous. ``anomaly_rate`` is the prevalence in production; None
    takes that of the rows. Raises DataError for fewer than two rows of a class.
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
    alphas = candidate_alphas(len(ordered))
    limits = np.array([conformal_quantile(ordered, alpha) for alpha in alphas.tolist()])
    best = int(np.argmax(objective_value(objective, *_shares(chosen_on, faults, limits), rate)))
    false_alarm_rate, recall = _shares(reported_on, other_faults, limits[best : best + 1])
    # Bootstrap stratified by class: the counts of a class are binomial (Efron & Tibshirani 1993).
    shares = ((reported_on, false_alarm_rate), (other_faults, recall))
    resampled = [generator.binomial(len(scores), share[0], BOOTSTRAPS) / len(scores) for scores, share in shares]
    sign = -1.0 if isinstance(objective, Costs) else 1.0
    bootstrap = sign * objective_value(objective, resampled[0], resampled[1], rate)
    low, high = np.quantile(bootstrap, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    return ChosenAlpha(
        measure=objective_name(objective),
        alpha=float(alphas[best]),
        tried=len(alphas),
        anomaly_rate=rate,
        value=float(sign * objective_value(objective, false_alarm_rate, recall, rate)[0]),
        low=float(low),
        high=float(high),
        recall=float(recall[0]),
        normal_rows=len(reported_on),
        anomalous_rows=len(other_faults),
    )


def candidate_alphas(n: int) -> _Floats:
    """Return the candidate rates for ``n`` calibration rows, ascending, each with another quantile rank."""
    finest, largest = finest_alpha(n), LARGEST_CANDIDATE
    alphas = np.geomspace(finest, largest, CANDIDATE_ALPHAS) if finest < largest else np.array([largest])
    ranks = np.array([quantile_rank(n, alpha) for alpha in alphas.tolist()])
    return alphas[np.unique(ranks, return_index=True)[1]]


def objective_value(objective: FScore | Costs, false_alarm_rate: _Floats, recall: _Floats, anomaly_rate: float) -> _Floats:
    """Return the objective to maximise, ``[c]``: F_β or minus the expected cost per row, for false-alarm rates and recalls ``[c]``.

    F_β = (1 + β²) P R / (β² P + R) with precision P = π R / (π R + (1 − π) FPR), 0 for zero recall (van Rijsbergen 1979).
    Cost = c_false (1 − π) FPR + c_miss π (1 − R) (Elkan 2001). π is the prevalence of anomalous rows.
    """
    right, wrong = anomaly_rate * recall, (1.0 - anomaly_rate) * false_alarm_rate
    if isinstance(objective, Costs):
        return -(objective.false_alarm * wrong + objective.miss * (anomaly_rate - right))
    beta = float(objective[1:]) ** 2
    return (1.0 + beta) * right / (right + wrong + beta * anomaly_rate)


def objective_name(objective: FScore | Costs) -> str:
    """Return the name of the objective as reported."""
    return "cost per row" if isinstance(objective, Costs) else objective.upper()


def _shares(normal: _Floats, anomalous: _Floats, limits: _Floats) -> tuple[_Floats, _Floats]:
    """Return the false-alarm rates and recalls ``[c]`` of the thresholds ``limits`` ``[c]``."""
    return _share(normal, limits), _share(anomalous, limits)


def _share(scores: _Floats, limits: _Floats) -> _Floats:
    return 1.0 - np.searchsorted(np.sort(scores), limits, side="right") / len(scores)


def budget_table(threshold: Threshold, anomalous: _Floats | None, rows: float | None) -> tuple[BudgetRow, ...]:
    """Return one row for each false-alarm rate that the threshold allows, ascending, including its own.

    ``anomalous`` scores give the recall and ``rows`` per day the alerts; group thresholds are ignored.
    """
    n = len(threshold.calibration)
    finest = finest_alpha(n) if threshold.tail is None else threshold.tail.finest
    rates = sorted({alpha for alpha in TABLE_ALPHAS if alpha >= finest} | {threshold.alpha})
    return tuple(_budget_row(threshold if alpha == threshold.alpha else threshold.at(alpha), anomalous, rows) for alpha in rates)


def _budget_row(threshold: Threshold, anomalous: _Floats | None, rows: float | None) -> BudgetRow:
    return BudgetRow(
        alpha=threshold.alpha,
        limit=None if threshold.method in {"cross", "blocks"} else threshold.limit,
        threshold=threshold.value,
        false_alarms_per_10000=threshold.alpha * 10_000,
        alerts_per_day=None if rows is None else threshold.alpha * rows,
        recall=None if anomalous is None or not len(anomalous) else float(threshold.flags(anomalous).mean()),
    )
