import numpy as np
import pytest
from scipy.stats import betabinom

from vae_anomaly.calibration.guarantee import band, promise
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.evaluation.results import missing_changes
from vae_anomaly.messages import percent


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


def test_missing_rates_change_by_more_than_chance() -> None:
    def column(name: str, missing: float) -> ColumnQuality:
        return ColumnQuality(name=name, kind="numeric", r2=0.5, missing=missing)

    fitted = [column("same", 0.01), column("gone", 0.01), column("back", 0.5), column("chance", 0.01)]
    found = missing_changes(fitted, 10_000, {"same": 10, "gone": 1000, "chance": 14}, 1000)
    assert [(c.column, c.at_fit, c.now) for c in found] == [("gone", 0.01, 1.0), ("back", 0.5, 0.0)]
    assert missing_changes(fitted, 10_000, {}, 0) == ()
    # Certain, but too small to matter.
    assert missing_changes([column("same", 0.010)], 10**8, {"same": 12 * 10**5}, 10**8) == ()


def test_percent_has_three_digits() -> None:
    assert [percent(x) for x in (0.5, 0.000123456, 1.0)] == ["50 %", "0.0123 %", "100 %"]
