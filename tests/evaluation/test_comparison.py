"""The detector and the baselines are ranked on the same rows, with baselines that did not learn from the rows that they score."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation import baselines
from vae_anomaly.evaluation.baselines import baseline_scores
from vae_anomaly.evaluation.comparison import OURS, BaselineSplit, compare_with_baselines, encode_batches, evaluate_fit
from vae_anomaly.fitting.splits import RowSplit, split_rows
from vae_anomaly.schema.encoding import Batch, concatenate
from vae_anomaly.schema.keys import Labels, read_labels

SPLIT = Case(kind="numeric", size="one", method="split", prior="exemplar")
CROSS = Case(kind="numeric", size="one", method="cross", prior="exemplar")
LEVELS: tuple[int, ...] = ()


def _rows(detector: Detector) -> tuple[Batch, Batch]:
    """Return the normal rows of the fit and 20 rows with a pressure that is too high."""
    normal = encode_batches(detector.schema, tiny.normal_rows("numeric").to_batches())
    faults = normal.rows(torch.arange(20))
    numeric = faults.numeric.clone()
    numeric[..., 1] += 3e4
    return normal, Batch(numeric=numeric, codes=faults.codes, observed=faults.observed)


def _split(case: Case) -> RowSplit:
    return split_rows(tiny.config(case).calibration, tiny.NORMAL_ROWS, 0)


def _labels(rows: int) -> Labels:
    table = tiny.table("mixed", rows, seed=3)
    return read_labels(table["crew"], ("normal",), "crew")


def test_batches_are_encoded_one_after_the_other() -> None:
    detector, table = tiny.detector(SPLIT), tiny.normal_rows("numeric")
    whole = encode_batches(detector.schema, table.to_batches())
    pieces = encode_batches(detector.schema, table.to_batches(max_chunksize=7))
    assert all(torch.equal(getattr(whole, name), getattr(pieces, name)) for name in ("numeric", "codes", "observed"))


def test_under_split_baselines_are_fitted_on_training_rows_and_tested_on_calibration_rows() -> None:
    detector, split = tiny.detector(SPLIT), _split(SPLIT)
    normal, faults = _rows(detector)
    found = evaluate_fit(detector, split, normal, faults, _labels(20))
    assert found is not None
    assert found.comparison is not None
    assert (found.comparison.peer_rows, found.comparison.test_rows) == (len(split.training), len(split.calibration) + 20)
    train, test = (normal.rows(torch.from_numpy(rows)) for rows in (split.training, split.calibration))
    scores = baseline_scores(train, concatenate([test, faults]), LEVELS, detector.config.seed)
    truth = np.arange(len(test) + 20) >= len(test)
    auroc = {ranking.name: ranking.auroc for ranking in found.comparison.rankings}
    assert set(auroc) == {OURS, *scores}
    for name, values in scores.items():
        assert auroc[name] == pytest.approx(roc_auc_score(truth, values))
    assert auroc[OURS] == found.auroc


def test_the_detector_is_ranked_by_its_calibration_scores_and_those_of_the_faults() -> None:
    detector = tiny.detector(SPLIT)
    normal, faults = _rows(detector)
    found = evaluate_fit(detector, _split(SPLIT), normal, faults, _labels(20))
    ours = detector.scores(faults).total.numpy()
    calibration = detector.threshold.calibration
    truth = np.arange(len(calibration) + 20) >= len(calibration)
    assert found is not None
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.concatenate([calibration, ours])))
    assert found.false_alarms is None, "the rate on the rows that set the threshold is no evaluation"


def test_under_cross_every_row_is_tested_once_and_faults_have_the_mean_score_of_the_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "BASELINES", {"PCA": baselines.pca})  # ten folds of the others take seconds
    detector, split = tiny.detector(CROSS), _split(CROSS)
    normal, faults = _rows(detector)
    found = evaluate_fit(detector, split, normal, faults, _labels(20))
    assert found is not None
    assert found.comparison is not None
    assert found.comparison.test_rows == tiny.NORMAL_ROWS + 20
    assert found.comparison.peer_rows == tiny.NORMAL_ROWS - max(np.bincount(split.fold))
    normal_scores, fault_scores = [], np.zeros(20)
    for k in range(split.folds):
        train, test = (normal.rows(torch.from_numpy(np.flatnonzero(mask))) for mask in (split.fold != k, split.fold == k))
        scores = baseline_scores(train, concatenate([test, faults]), LEVELS, detector.config.seed)["PCA"]
        normal_scores.append(scores[: len(test)])
        fault_scores += scores[len(test) :] / split.folds
    truth = np.arange(tiny.NORMAL_ROWS + 20) >= tiny.NORMAL_ROWS
    expected = roc_auc_score(truth, np.concatenate([*normal_scores, fault_scores]))
    assert next(r.auroc for r in found.comparison.rankings if r.name == "PCA") == pytest.approx(expected)


def test_excluded_rows_do_not_train_the_baselines() -> None:
    detector, split = tiny.detector(SPLIT), _split(SPLIT)
    normal, faults = _rows(detector)
    excluded = np.zeros(tiny.NORMAL_ROWS, dtype=np.bool_)
    excluded[split.training[:30]] = True
    trimmed = RowSplit(method="split", folds=split.folds, fold=split.fold, excluded=excluded)
    found = evaluate_fit(detector, trimmed, normal, faults, _labels(20))
    assert found is not None
    assert found.comparison is not None
    assert found.comparison.peer_rows == len(split.training) - 30


def test_rows_without_a_score_are_not_evaluated() -> None:
    detector = tiny.detector(SPLIT)
    normal, faults = _rows(detector)
    observed = faults.observed.clone()
    observed[:5] = False
    some = Batch(numeric=faults.numeric, codes=faults.codes, observed=observed)
    found = evaluate_fit(detector, _split(SPLIT), normal, some, _labels(20))
    assert found is not None
    assert found.anomalous_rows == 15
    assert found.comparison is not None
    assert found.comparison.test_rows == len(_split(SPLIT).calibration) + 15
    none = Batch(numeric=faults.numeric, codes=faults.codes, observed=torch.zeros_like(observed))
    assert evaluate_fit(detector, _split(SPLIT), normal, none, _labels(20)) is None


def test_the_winner_is_named_even_if_it_is_a_baseline() -> None:
    detector = tiny.detector(SPLIT)
    normal, faults = _rows(detector)
    split = BaselineSplit(train=normal.rows(torch.arange(100)), test=normal.rows(torch.arange(100, 240)))
    worst = compare_with_baselines(detector, [split], faults, np.ones(140), np.zeros(20))
    assert worst.rankings[-1].name == OURS
    assert worst.words.startswith(f"{worst.rankings[0].name} ranks better here: AUROC ")
    best = compare_with_baselines(detector, [split], faults, np.zeros(140), np.ones(20))
    assert best.words == "vae-anomaly ranks first of 4 here (AUROC 1.0000)"
