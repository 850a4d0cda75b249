import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.evaluation import metrics
from vae_anomaly.evaluation.metrics import bootstrap, compare, exact_interval, measure, rank
from vae_anomaly.evaluation.results import Ranking
from vae_anomaly.schema.keys import read_labels


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
    found = measure(np.array([1.0, 30.0, 2.0, 3.0]), np.array([25.0, 5.0, 26.0]), threshold, labels, seed=0)
    assert (found.normal_rows, found.anomalous_rows, found.recall, found.precision) == (4, 3, 2 / 3, 2 / 3)
    assert found.false_alarms is not None
    assert (found.false_alarms.rows, found.false_alarms.rate) == (1, 0.25)
    assert found.f1 == pytest.approx(2 / 3)
    assert [(f.label, f.rows, f.flagged) for f in found.by_label] == [("leak", 2, 2), ("wear", 1, 0)]


def test_measure_on_calibration_rows_says_nothing_of_false_alarms() -> None:
    labels = read_labels(pa.array(["leak"]), ("normal",))
    found = measure(np.arange(19.0), np.array([0.5]), calibrate(np.arange(19.0), 0.06), labels, seed=0, calibrated_on=True)
    assert (found.false_alarms, found.recall) == (None, 0.0)


def test_no_alarm_has_no_precision() -> None:
    labels = read_labels(pa.array(["leak"]), ("normal",))
    assert measure(np.zeros(3), np.zeros(1), calibrate(np.arange(19.0), 0.05), labels, seed=0).precision is None


def test_a_loss_is_admitted() -> None:
    ours, peer = Ranking(name="ours", auroc=0.9, average_precision=0.5), Ranking(name="PCA", auroc=0.95, average_precision=0.4)
    lost = compare([ours, peer], "ours", peer_rows=5, test_rows=9)
    assert ([r.name for r in lost.rankings], lost.words) == (["PCA", "ours"], "PCA ranks better here: AUROC 0.9500, ours 0.9000")
    assert compare([ours], "ours", peer_rows=5, test_rows=9).words == "ours ranks first of 1 here (AUROC 0.9000)"


# Bootstrap


def _drawn() -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties."""
    random = np.random.default_rng(1)
    return random.normal(size=300).round(1), random.normal(1.0, 1.0, 60).round(1)


def test_figures_of_a_sample_are_those_of_scikit_learn_with_weights() -> None:
    normal, anomalous = _drawn()
    threshold = calibrate(np.sort(normal), 0.1)
    scores, truth = np.concatenate([normal, anomalous]), np.arange(360) >= 300
    order = metrics._Ordered.of(scores, 300, threshold)  # noqa: SLF001
    flags = threshold.flags(scores)
    for seed in range(5):
        weight = np.random.default_rng(seed).integers(0, 3, 360)
        found = order.figures(weight)
        precision, recall, f1, _ = precision_recall_fscore_support(truth, flags, average="binary", sample_weight=weight)
        expected = (
            roc_auc_score(truth, scores, sample_weight=weight),
            average_precision_score(truth, scores, sample_weight=weight),
            recall,
            precision,
            f1,
        )
        assert found == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_figure_and_are_as_wide_as_theory_says() -> None:
    normal, anomalous = _drawn()
    labels = read_labels(pa.array(["leak"] * 60), ("normal",))
    found = measure(normal, anomalous, calibrate(np.sort(normal), 0.1), labels, seed=0)
    assert found.intervals is not None
    for name in ("auroc", "average_precision", "recall", "precision", "f1"):
        interval = getattr(found.intervals, name)
        assert interval.low < getattr(found, name) < interval.high, name
    # The recall of 60 rows is a binomial share: four standard errors between the ends, nearly.
    expected = 2 * 1.96 * np.sqrt(found.recall * (1 - found.recall) / 60)
    assert found.intervals.recall.high - found.intervals.recall.low == pytest.approx(expected, rel=0.15)
    assert found.intervals == measure(normal, anomalous, calibrate(np.sort(normal), 0.1), labels, seed=0).intervals
    assert found.intervals != measure(normal, anomalous, calibrate(np.sort(normal), 0.1), labels, seed=1).intervals


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """AUROC of N(1, 1) over N(0, 1) is Φ(1/√2) = 0.7602; 95 of 100 intervals should hold it."""
    random = np.random.default_rng(0)
    threshold = calibrate(np.sort(random.normal(size=999)), 0.1)
    held = 0
    for seed in range(100):
        interval = bootstrap(random.normal(size=120), random.normal(1.0, 1.0, 60), threshold, seed).auroc
        held += interval.low <= norm.cdf(1 / np.sqrt(2)) <= interval.high
    assert held >= 88


def test_without_a_flagged_row_precision_has_no_interval() -> None:
    threshold = calibrate(np.arange(100.0, 119.0), 0.06)
    found = bootstrap(np.zeros(5), np.ones(4), threshold, 0)
    assert (found.precision, found.recall.high, found.f1.high, found.auroc.low) == (None, 0.0, 0.0, 1.0)
