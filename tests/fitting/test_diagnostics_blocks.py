import numpy as np
import pytest
from scipy.stats import chi2_contingency

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.card import block_rates
from vae_anomaly.fitting.diagnostics import calibration_blocks
from vae_anomaly.fitting.splits import split_rows


def test_the_test_is_pearsons() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=1003)
    found = block_rates(scores, 1.2)
    assert found is not None
    alarms = np.array_split(scores > 1.2, 10)
    counts = np.array([[part.sum(), (~part).sum()] for part in alarms])
    assert found.rates == pytest.approx([part.mean() for part in alarms])
    assert found.p_value == pytest.approx(chi2_contingency(counts, correction=False).pvalue, rel=1e-9)


def test_exchangeable_rows_are_found_uneven_as_often_as_said() -> None:
    random = np.random.default_rng(1)
    found = [block_rates(random.normal(size=2000), 2.0) for _ in range(400)]
    p_values = np.array([f.p_value for f in found if f is not None])
    assert len(p_values) == 400
    assert 0.07 < np.mean(p_values < 0.1) < 0.13


def test_a_drift_is_seen() -> None:
    found = block_rates(np.random.default_rng(2).normal(size=2000) + np.linspace(0.0, 2.0, 2000), 2.0)
    assert found is not None
    assert found.p_value < 1e-6
    assert found.rates[0] < found.rates[-1]


@pytest.mark.parametrize("scores", [np.zeros(100), np.append(np.zeros(100), np.ones(7)), np.ones(100), np.full(50, np.nan)])
def test_too_few_alarms_say_nothing(scores: np.ndarray) -> None:
    assert block_rates(scores, 0.5) is None


def test_fewer_alarms_make_fewer_parts() -> None:
    found = block_rates(np.append(np.zeros(100), np.ones(9)), 0.5)
    assert found is not None
    assert len(found.rates) == 2


def test_a_detector_keeps_the_rates_of_its_calibration_rows() -> None:
    detector = tiny.detector(Case(kind="mixed", size="one", method="split", prior="exemplar"))
    rows = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    plan = split_rows(detector.config.calibration, len(rows), detector.config.seed)
    expected = block_rates(detector.scores(rows).total.numpy()[plan.calibration], detector.threshold.value)
    # 72 rows at alpha 0.1: seven alarms are too few.
    assert (detector.blocks, expected) == (None, None)
    loose = detector.threshold.at(0.3)
    found = calibration_blocks(detector.ensemble, rows, plan, loose)
    assert found == block_rates(detector.scores(rows).total.numpy()[plan.calibration], loose.value)
    turned = calibration_blocks(detector.ensemble, rows, plan, loose, -np.arange(len(rows)))
    assert found is not None
    assert turned is not None
    backwards = block_rates(detector.scores(rows).total.numpy()[plan.calibration[::-1]], loose.value)
    assert turned == backwards


def test_cross_fitted_rows_have_no_order_to_look_at() -> None:
    detector = tiny.detector(Case(kind="numeric", size="one", method="cross", prior="exemplar"))
    assert detector.blocks is None
