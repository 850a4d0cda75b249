import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import betabinom, binomtest

from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.labels import read_labels
from vae_anomaly.core.report import Ranking, band, compare, exact_interval, measure, missing_changes, percent, promise, rank
from vae_anomaly.core.threshold import calibrate


def test_the_band_is_that_of_many_calibrations() -> None:
    """Realised rates of simulated calibrations lie inside the band 99 times in 100, as often below as above."""
    random = np.random.default_rng(0)
    n, alpha = 199, 0.05
    low, high = band(n, alpha)
    rates = 1.0 - np.sort(random.random((4000, n)), axis=1)[:, n - 10]
    assert 0.985 < np.mean((rates >= low) & (rates <= high)) < 0.995
    assert betabinom(10**6, 10, n + 1 - 10).cdf(low * 10**6) == pytest.approx(0.005, rel=0.01)


def test_promise_of_split() -> None:
    found = promise(calibrate(np.arange(4000.0), 0.01))
    assert (found.exact, found.calibration_rows, found.threshold) == (True, 4000, 3960.0)
    assert found.words == (
        "at most 1 % of normal rows like these are flagged on average (exact for exchangeable rows); "
        "with 4,000 calibration rows the rate of one model is 0.641 % to 1.45 % in 99 of 100 cases"
    )


def test_promise_of_cross_is_approximate() -> None:
    found = promise(calibrate(np.arange(200.0), 0.05, "cross"))
    assert (found.exact, found.low, found.high) == (False, None, None)
    assert found.words == "about 5 % of normal rows like these are flagged (cross-fitted on 200 rows: approximate, at most 10 % is proven)"


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 10), (21, 4467)])
def test_interval_is_clopper_and_pearsons(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="exact")
    assert exact_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_rank_counts_ties_half() -> None:
    """Of the six pairs four are in order and one is a tie."""
    found = rank("x", np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]))
    assert found.auroc == pytest.approx((1 + 0.5 + 0 + 3) / 6)


def test_measure_by_hand() -> None:
    labels = read_labels(pa.array(["leak", "wear", "leak"]), ("normal",))
    threshold = calibrate(np.arange(1.0, 20.0), 0.05)
    found = measure(np.array([1.0, 30.0, 2.0, 3.0]), np.array([25.0, 5.0, 26.0]), threshold, labels)
    assert (found.normal_rows, found.anomalous_rows, found.recall, found.precision) == (4, 3, 2 / 3, 2 / 3)
    assert found.false_alarms is not None
    assert (found.false_alarms.rows, found.false_alarms.rate) == (1, 0.25)
    assert [(f.label, f.rows, f.flagged) for f in found.by_label] == [("leak", 2, 2), ("wear", 1, 0)]


def test_measure_on_calibration_rows_says_nothing_of_false_alarms() -> None:
    labels = read_labels(pa.array(["leak"]), ("normal",))
    found = measure(np.arange(19.0), np.array([0.5]), calibrate(np.arange(19.0), 0.06), labels, calibrated_on=True)
    assert (found.false_alarms, found.recall) == (None, 0.0)


def test_no_alarm_has_no_precision() -> None:
    labels = read_labels(pa.array(["leak"]), ("normal",))
    assert measure(np.zeros(3), np.zeros(1), calibrate(np.arange(19.0), 0.05), labels).precision is None


def test_a_loss_is_admitted() -> None:
    ours, peer = Ranking(name="ours", auroc=0.9, average_precision=0.5), Ranking(name="PCA", auroc=0.95, average_precision=0.4)
    lost = compare([ours, peer], "ours", peer_rows=5, test_rows=9)
    assert ([r.name for r in lost.rankings], lost.words) == (["PCA", "ours"], "PCA ranks better here: AUROC 0.9500, ours 0.9000")
    assert compare([ours], "ours", peer_rows=5, test_rows=9).words == "ours ranks first of 1 here (AUROC 0.9000)"


def test_missing_rates_change_by_more_than_chance() -> None:
    def column(name: str, missing: float) -> ColumnQuality:
        return ColumnQuality(name=name, kind="numeric", r2=0.5, missing=missing)

    fitted = [column("same", 0.01), column("gone", 0.01), column("back", 0.5), column("chance", 0.01)]
    found = missing_changes(fitted, 10_000, {"same": 10, "gone": 1000, "chance": 14}, 1000)
    assert [(c.column, c.at_fit, c.now) for c in found] == [("gone", 0.01, 1.0), ("back", 0.5, 0.0)]
    assert missing_changes(fitted, 10_000, {}, 0) == ()


def test_percent_has_three_digits() -> None:
    assert [percent(x) for x in (0.5, 0.000123456, 1.0)] == ["50 %", "0.0123 %", "100 %"]
