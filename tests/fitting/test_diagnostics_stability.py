from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.card import alarm_stability
from vae_anomaly.fitting.diagnostics import calibration_stability
from vae_anomaly.fitting.splits import split_rows


def test_the_stability_of_a_detector_is_that_of_its_calibration_rows() -> None:
    detector = tiny.detector(Case(kind="mixed", size="one", method="split", prior="exemplar"))
    rows = tiny.encoded(detector.schema, tiny.normal_rows("mixed"))
    plan = split_rows(detector.config.calibration, len(rows), detector.config.seed)
    expected = alarm_stability(detector.scores(rows).total.numpy()[plan.calibration], detector.threshold.value)
    # 72 rows at alpha 0.1: seven alarms are too few.
    assert (detector.blocks, expected) == (None, None)
    loose = detector.threshold.at(0.3)
    found = calibration_stability(detector.ensemble, rows, plan, loose)
    assert found == alarm_stability(detector.scores(rows).total.numpy()[plan.calibration], loose.value)
    assert found is not None


def test_cross_fitted_detectors_have_no_stability() -> None:
    detector = tiny.detector(Case(kind="numeric", size="one", method="cross", prior="exemplar"))
    assert detector.blocks is None
