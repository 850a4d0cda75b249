import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import fbeta_score

from vae_anomaly.calibration.conformal import quantile_rank
from vae_anomaly.calibration.operating_point import (
    CANDIDATE_ALPHAS,
    Costs,
    budget_alpha,
    budget_table,
    candidate_alphas,
    choose_alpha,
    objective_value,
    rows_per_day,
)
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.choices import FScore
from vae_anomaly.errors import ConfigError, DataError

START = dt.datetime(2025, 3, 3, tzinfo=dt.UTC)


def _minutes(count: int, machines: int = 1, *, step: int = 1) -> list[dt.datetime]:
    return [START + dt.timedelta(minutes=step * i) for i in range(count) for _ in range(machines)]


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param(pa.array(_minutes(500)), 1440.0, id="one machine a minute"),
        pytest.param(pa.array(_minutes(500, machines=4)), 4 * 1440.0, id="four machines"),
        pytest.param(pa.array(_minutes(50, step=90)[::-1]), 16.0, id="backwards"),
        pytest.param(pa.array([t.strftime("%Y-%m-%d %H:%M:%S") for t in _minutes(30)]), 1440.0, id="texts"),
        pytest.param(pa.array([START.date(), START.date(), START.date() + dt.timedelta(days=1), None]), 2.0, id="dates and a missing one"),
        pytest.param(pa.array(_minutes(60), pa.timestamp("ns", tz="UTC")), 1440.0, id="nanoseconds with a zone"),
        pytest.param(pa.array([i * 60 * 10**9 + i % 2 for i in range(60)], pa.timestamp("ns")), 1440.0, id="finer than a microsecond"),
        pytest.param(pa.array([t.isoformat() for t in _minutes(30)]).dictionary_encode(), 1440.0, id="texts in a dictionary"),
        pytest.param(pa.array([0, 86_400_000, 2 * 86_400_000], pa.date64()), 1.0, id="dates in milliseconds"),
        pytest.param(pa.array([2**61, 2**61 + 86_400 * 10**6], pa.timestamp("s")), 1.0, id="beyond the year 9999"),
    ],
)
def test_rows_per_day_are_those_of_a_day_that_has_rows(times: pa.Array, expected: float) -> None:
    assert rows_per_day(pa.chunked_array([times]), "t").rows == pytest.approx(expected)


def _stretch(start: str, hours: float, step: float = 1.0) -> list[dt.datetime]:
    """Return times every ``step`` minutes for so many hours."""
    first = dt.datetime.fromisoformat(start)
    return [first + dt.timedelta(minutes=i * step) for i in range(round(hours * 60 / step))]


STRAY = _stretch("2023-12-01", 1)[0]
TWO_DAYS = _stretch("2024-01-01", 48)


@pytest.mark.parametrize(
    ("times", "expected", "said"),
    [
        pytest.param(TWO_DAYS + _stretch("2024-03-01", 48), 1440, "4 of the 62 days from 2024-01-01 to 2024-03-02 have rows", id="gap"),
        pytest.param(
            [*TWO_DAYS[:-1], STRAY],
            1440,
            "3 of the 33 days from 2023-12-01 to 2024-01-02 have rows; stray rows on other days do not count: 1",
            id="stray",
        ),
        pytest.param([*TWO_DAYS, *_stretch("2099-01-01", 0.02)], 1440, "do not count", id="stray in the future"),
        pytest.param([*TWO_DAYS, *(STRAY + dt.timedelta(days=i) for i in range(10))], 1440, "not count: 10", id="ten strays"),
        pytest.param(_stretch("2024-01-01 12:20", 24), 1440, "have rows", id="a day from noon to noon"),
        pytest.param(_stretch("2024-01-01 12:20", 48), 1440, "have rows", id="two days from noon to noon"),
        pytest.param(_stretch("2024-01-01 03:00", 36), 1440, "have rows", id="a day and a half"),
        pytest.param(_stretch("2024-01-01 06:00", 12), 1440, "cover 12 hours of a day", id="half a day"),
        pytest.param([*_stretch("2024-01-01 06:00", 12), STRAY], 1440, "cover 12 hours", id="half a day and a stray"),
        pytest.param(_stretch("2024-01-01 06:00", 12) + _stretch("2024-03-01 06:00", 12), 720, "2 of the 61 days", id="two half days"),
        pytest.param([t for d in range(1, 29) for t in _stretch(f"2024-01-{d:02} 08:00", 8)], 480, "28 of the 28", id="one shift a day"),
        pytest.param(
            [t for d in range(1, 29) if d % 7 not in {6, 0} for t in _stretch(f"2024-01-{d:02}", 24, 5)], 288, "20 of the 26", id="weekends"
        ),
        pytest.param(_stretch("2024-01-01", 24 * 40, 24 * 60 * 7), 1, "6 of the 36 days", id="a row a week"),
        pytest.param(TWO_DAYS[::-1] * 3, 3 * 1440, "2 of the 2", id="three machines, newest first"),
    ],
)
def test_standstills_strays_and_short_recordings_do_not_change_the_rows_of_a_day(
    times: list[dt.datetime], expected: float, said: str
) -> None:
    found = rows_per_day(pa.chunked_array([pa.array(times, pa.timestamp("s"))]), "t")
    assert found.rows == pytest.approx(expected, rel=0.01)
    assert said in found.note


@pytest.mark.parametrize(
    ("times", "text"),
    [
        pytest.param(
            pa.array([1, 2, 3]),
            "time column 't' is int64, which has no days. Name a column of timestamps, or give --rows-per-day.",
            id="numbers",
        ),
        pytest.param(
            pa.array([START, START]),
            "time column 't' holds one time only, which says nothing of a day. Give --rows-per-day.",
            id="one time",
        ),
    ],
)
def test_what_has_no_days_is_refused(times: pa.Array, text: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_per_day(pa.chunked_array([times]), "t")
    assert str(caught.value) == text


def test_a_budget_is_a_rate() -> None:
    assert budget_alpha(20, 5760) == pytest.approx(20 / 5760)
    for alerts in (0.0, 5760.0, -1.0):
        with pytest.raises(ConfigError) as caught:
            budget_alpha(alerts, 5760)
        assert str(caught.value) == (
            f"--alerts-per-day must be more than 0 and less than the 5,760 rows a day; got {alerts:g}. "
            "A budget below that is a false-alarm rate."
        )


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wish", ["f1", "f0.5", "f2"])
def test_f_scores_are_those_of_scikit_learn(wish: FScore) -> None:
    random = np.random.default_rng(0)
    truth, flags = random.random(400) < 0.2, random.random(400) < 0.3
    found = objective_value(wish, np.array([flags[~truth].mean()]), np.array([flags[truth].mean()]), float(truth.mean()))
    assert found[0] == pytest.approx(fbeta_score(truth, flags, beta=float(wish[1:])))


def test_costs_are_those_of_each_row() -> None:
    random = np.random.default_rng(0)
    truth, flags = random.random(400) < 0.2, random.random(400) < 0.3
    by_row = np.where(truth, np.where(flags, 0.0, 800.0), np.where(flags, 5.0, 0.0))
    costs = Costs(false_alarm=5.0, miss=800.0)
    found = objective_value(costs, np.array([flags[~truth].mean()]), np.array([flags[truth].mean()]), float(truth.mean()))
    assert -found[0] == pytest.approx(by_row.mean())


def test_candidates_are_rates_of_different_ranks() -> None:
    for n in (1, 2, 9, 100, 20_000):
        alphas = candidate_alphas(n)
        ranks = [quantile_rank(n, alpha) for alpha in alphas.tolist()]
        assert ranks[0] == 1
        assert len(set(ranks)) == len(ranks) <= CANDIDATE_ALPHAS
        assert 1 / 3 - 1e-12 <= alphas[-1] <= 0.5 + 1e-12


@pytest.mark.parametrize(("wish", "sign"), [("f1", 1), ("f0.5", 1), ("f2", 1), (Costs(false_alarm=1.0, miss=30.0), -1)])
def test_a_choice_is_near_the_best_there_is_and_its_interval_holds_the_truth(wish: FScore | Costs, sign: int) -> None:
    """Two normal laws, whose rates are known: what was chosen on one half is measured on 200,000 new rows."""
    random = np.random.default_rng(3)
    normal, anomalous = random.normal(size=4000), random.normal(2.5, 1.0, size=400)
    choice = choose_alpha(normal, anomalous, wish)
    limit = np.array([np.quantile(normal, 1 - choice.alpha)])
    new_normal, new_anomalous = random.normal(size=200_000), random.normal(2.5, 1.0, size=200_000)
    limits = np.quantile(new_normal, 1 - candidate_alphas(2000))
    best, truth = (
        objective_value(wish, (new_normal[:, None] > at).mean(0), (new_anomalous[:, None] > at).mean(0), choice.anomaly_rate).max()
        for at in (limits, limit)
    )
    assert choice.anomaly_rate == pytest.approx(400 / 4400)
    assert truth > best - 0.06 * abs(best)
    assert choice.low <= sign * truth <= choice.high
    assert choice.low < choice.value < choice.high
    assert (choice.normal_rows, choice.anomalous_rows) == (2000, 200)


def test_rarer_anomalies_make_the_rate_finer() -> None:
    random = np.random.default_rng(3)
    normal, anomalous = random.normal(size=4000), random.normal(2.5, 1.0, size=400)
    common, rare = (choose_alpha(normal, anomalous, "f1", anomaly_rate=rate) for rate in (0.3, 0.001))
    assert rare.alpha < common.alpha
    assert rare.anomaly_rate == 0.001


def test_a_choice_is_made_by_the_seed_and_not_by_the_order() -> None:
    random = np.random.default_rng(3)
    normal, anomalous = random.normal(size=400), random.normal(2.5, 1.0, size=40)
    assert choose_alpha(normal, anomalous, "f1", seed=1) == choose_alpha(normal.copy(), anomalous.copy(), "f1", seed=1)
    assert choose_alpha(normal, anomalous, "f1", seed=1) != choose_alpha(normal, anomalous, "f1", seed=2)


def test_two_rows_of_each_class_are_needed() -> None:
    with pytest.raises(DataError) as caught:
        choose_alpha(np.arange(50.0), np.array([60.0]), "f1")
    assert str(caught.value) == (
        "labels choose on one half of the rows and report on the other, which needs two rows of each class; "
        "there are 50 normal and 1 anomalous ones. Give more labelled rows."
    )


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_has_the_rates_that_the_rows_allow_and_the_one_chosen() -> None:
    threshold = calibrate(np.arange(999.0), 0.003)
    rows = budget_table(threshold, np.array([10.0, 950.0, 997.5, 2000.0]), 5760.0)
    assert [row.alpha for row in rows] == [0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1]
    row = rows[2]
    assert (row.threshold, row.recall, row.limit) == (996.0, 0.5, threshold.limit)
    assert row.alerts_per_day == pytest.approx(17.28)
    assert row.false_alarms_per_10000 == pytest.approx(30.0)
    assert [r.recall for r in rows][-1] == 0.75


def test_a_table_without_labels_or_time_has_neither() -> None:
    row = budget_table(calibrate(np.arange(99.0), 0.05, "cross"), None, None)[0]
    assert (row.recall, row.alerts_per_day, row.limit) == (None, None, None)
