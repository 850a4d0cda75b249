import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from vae_anomaly.core.labels import read_labels
from vae_anomaly.core.metrics import compare, exact_interval, measure, rank
from vae_anomaly.core.report import Ranking
from vae_anomaly.core.threshold import calibrate


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
