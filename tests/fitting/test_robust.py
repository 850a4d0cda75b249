"""A robust fit trims planted anomalies, few other rows, and never a calibration row."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from tests import tiny
from tests.tiny import Case
from vae_anomaly.config import Config
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import FitRecord
from vae_anomaly.fitting.robust import (
    CHANCE,
    TRIMMED_SHARE,
    FirstPassScores,
    exemplar_limit,
    first_pass_split,
    outlier_limit,
    robust_note,
    trim_rows,
)
from vae_anomaly.fitting.splits import RowSplit, assign_networks, members_per_view, split_rows
from vae_anomaly.schema.schema import infer_schema

SPLIT = Case(kind="numeric", size="several", method="split", prior="exemplar")
CROSS = replace(SPLIT, method="cross")


def _config(case: Case) -> Config:
    config = tiny.config(case)
    return replace(config, train=replace(config.train, contamination_robust=True))


def _fit(rows: pa.Table, case: Case) -> FitRecord:
    config = _config(case)
    return fit_rows(rows, infer_schema(rows, config.data), config)


def _planted(rows: pa.Table, places: NDArray[np.int64], columns: tuple[str, ...]) -> pa.Table:
    """Return the rows with gross faults at these places, in these columns in turn."""
    for i, place in enumerate(places.tolist()):
        name = columns[i % len(columns)]
        values = rows[name].to_pylist()
        spread = float(np.nanstd(np.array(values, dtype=np.float64)))
        values[place] = (values[place] or 0.0) + (40.0 + 20.0 * i) * spread
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    return rows


def _marked(rows: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    assert rows is not None
    return np.flatnonzero(rows)


@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_gross_faults_are_excluded_from_training(case: Case) -> None:
    clean, config = tiny.normal_rows("numeric"), _config(case)
    places = split_rows(config.calibration, clean.num_rows, 0).training[[3, 30, 60, 90]]
    fitted = _fit(_planted(clean, places, tuple(clean.column_names)), case)
    assert set(places.tolist()) <= set(_marked(fitted.split.excluded).tolist())
    nets = assign_networks(fitted.split, config)
    for learned, watched, exemplars in zip(nets.rows, nets.validation, nets.exemplars, strict=True):
        assert not set(places.tolist()) & {*learned.tolist(), *watched.tolist(), *exemplars.tolist()}
    assert not set(places.tolist()) & set(fitted.exemplar_rows.flatten().tolist())


@pytest.mark.parametrize("case", [SPLIT, CROSS], ids=str)
def test_few_clean_rows_are_trimmed(case: Case) -> None:
    fitted = _fit(tiny.normal_rows("numeric"), case)
    excluded, not_exemplar = _marked(fitted.split.excluded), _marked(fitted.split.not_exemplar)
    trained = len(fitted.split.training) + len(excluded)
    assert len(excluded) <= 0.02 * trained
    assert len(not_exemplar) <= TRIMMED_SHARE * trained
    assert robust_note(fitted.split) in fitted.detector.card.notes


def test_calibration_rows_are_not_trimmed() -> None:
    """Other calibration rows change nothing that is learned or trimmed, so that ``split`` stays exact."""
    clean, config = tiny.normal_rows("numeric"), _config(SPLIT)
    calibration = split_rows(config.calibration, clean.num_rows, 0).calibration
    first, second = _fit(clean, SPLIT), _fit(_planted(clean, calibration[:10], ("pressure",)), SPLIT)
    assert first.split.calibration.tolist() == second.split.calibration.tolist() == calibration.tolist()
    assert len(second.detector.threshold.calibration) == len(calibration)
    states = [f.detector.state()[1] for f in (first, second)]
    changed = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    assert sorted(changed) == ["calibration", "usual.middle", "usual.spread"]


def test_under_cross_a_trimmed_row_calibrates() -> None:
    fitted = _fit(tiny.normal_rows("numeric"), CROSS)
    assert len(fitted.detector.threshold.calibration) == tiny.NORMAL_ROWS


def test_a_first_pass_splits_the_training_rows_alone() -> None:
    fold = np.full(30, -1)
    fold[10:] = np.arange(20) % 10
    found = first_pass_split(RowSplit(method="split", folds=10, fold=fold), 0)
    assert (found.method, found.folds) == ("cross", 5)
    assert np.bincount(found.fold[10:]).tolist() == [4] * 5
    assert (found.fold[:10] == -1).all()
    assert not _marked(found.not_exemplar).size


def test_rows_far_from_all_exemplars_and_from_a_few_are_trimmed() -> None:
    """By hand: of 40 training rows the two with the largest product are no exemplars; an outlier is excluded instead."""
    near, few = np.linspace(1.0, 1.5, 50), np.linspace(1.0, 1.5, 50)
    near[[0, 20, 30]], few[[0, 20, 30]] = [99.0, 1.9, 1.8], [99.0, 0.7, 9.0]
    near[5] = np.nan
    plan = RowSplit(method="split", folds=10, fold=np.where(np.arange(50) >= 10, np.arange(50) % 10, -1))
    found = trim_rows(plan, FirstPassScores(all_exemplars=near, few=few))
    assert (_marked(found.excluded).tolist(), _marked(found.not_exemplar).tolist()) == ([], [30, 49])
    near[40] = 99.0
    found = trim_rows(plan, FirstPassScores(all_exemplars=near, few=few))
    assert (_marked(found.excluded).tolist(), _marked(found.not_exemplar).tolist()) == ([40], [30])


def test_a_robust_fit_has_fewer_exemplars_and_more_networks() -> None:
    config, plan = Config().model, RowSplit(method="split", folds=10, fold=np.arange(10))
    assert (exemplar_limit(plan, config), members_per_view(plan, config)) == (2000, 1)
    not_exemplar = replace(plan, not_exemplar=np.zeros(10, dtype=np.bool_))
    assert (exemplar_limit(not_exemplar, config), exemplar_limit(not_exemplar, replace(config, exemplars=64))) == (100, 64)
    assert (members_per_view(not_exemplar, config), members_per_view(not_exemplar, replace(config, members=7))) == (5, 7)


def test_the_note_counts_trimmed_rows_and_says_what_the_threshold_guarantees() -> None:
    marked = np.arange(10) < 3
    plan = RowSplit(method="split", folds=10, fold=np.arange(10), excluded=marked, not_exemplar=np.arange(10) == 7)
    assert robust_note(plan) == (
        "contamination-robust: 3 outlying training rows were excluded and 1 more are not used as exemplars; "
        "calibration rows are not trimmed, so anomalies among them raise the threshold: fewer false alarms than alpha, fewer faults found"
    )


def test_the_limit_is_the_quantile_of_the_highest_of_n_exponential_distances() -> None:
    """P(highest of n > r) ≈ n exp(−r) = 1 % at r = ln(n / 0.01), whatever the scale; a score is the square of a distance."""
    n = 2000
    distances = -7.0 * np.log(1.0 - (np.arange(n) + 0.5) / n)
    np.testing.assert_allclose(outlier_limit(distances**2), (7.0 * math.log(n / CHANCE)) ** 2, rtol=4e-3)
