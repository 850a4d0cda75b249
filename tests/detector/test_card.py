"""Stability of the alarm rate over consecutive stretches of the calibration rows."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from vae_anomaly.detector.card import ALARMS_EACH, MOST_STRETCHES, alarm_stability


def test_the_p_value_is_that_of_pearsons_test() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=1003)
    found = alarm_stability(scores, 1.2)
    assert found is not None
    alarms = np.array_split(scores > 1.2, 10)
    counts = np.array([[stretch.sum(), (~stretch).sum()] for stretch in alarms])
    assert found.rates == pytest.approx([stretch.mean() for stretch in alarms])
    assert found.p_value == pytest.approx(chi2_contingency(counts, correction=False).pvalue, rel=1e-9)


def test_p_values_of_exchangeable_rows_are_uniform() -> None:
    random = np.random.default_rng(1)
    found = [alarm_stability(random.normal(size=2000), 2.0) for _ in range(400)]
    p_values = np.array([f.p_value for f in found if f is not None])
    assert len(p_values) == 400
    assert 0.07 < np.mean(p_values < 0.1) < 0.13


def test_a_drift_has_a_small_p_value() -> None:
    found = alarm_stability(np.random.default_rng(2).normal(size=2000) + np.linspace(0.0, 2.0, 2000), 2.0)
    assert found is not None
    assert found.p_value < 1e-6
    assert found.rates[0] < found.rates[-1]


@pytest.mark.parametrize("scores", [np.zeros(100), np.append(np.zeros(100), np.ones(7)), np.ones(100), np.full(50, np.nan)])
def test_too_few_alarms_have_no_result(scores: np.ndarray) -> None:
    assert alarm_stability(scores, 0.5) is None


def test_fewer_alarms_have_fewer_stretches() -> None:
    found = alarm_stability(np.append(np.zeros(100), np.ones(9)), 0.5)
    assert found is not None
    assert len(found.rates) == 2


def test_missing_scores_are_ignored() -> None:
    scores = np.random.default_rng(3).normal(size=500)
    with_missing = np.insert(scores, np.arange(0, 500, 7), np.nan)
    assert alarm_stability(with_missing, 1.0) == alarm_stability(scores, 1.0)


def test_every_stretch_has_enough_expected_alarms() -> None:
    for alarms in range(2 * ALARMS_EACH, 60):
        found = alarm_stability(np.append(np.zeros(300), np.ones(alarms)), 0.5)
        assert found is not None
        assert len(found.rates) <= MOST_STRETCHES
        assert alarms / len(found.rates) >= ALARMS_EACH


def test_a_score_at_the_limit_is_no_alarm() -> None:
    assert alarm_stability(np.full(100, 0.5), 0.5) is None
    found = alarm_stability(np.append(np.full(90, 0.5), np.full(10, 0.6)), 0.5)
    assert found is not None
    assert found.rates == (0.0, 0.2)
