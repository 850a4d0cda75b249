"""Outliers of a finished fit: rows above the limit that the highest of n normal rows hardly exceeds, with reasons."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.fitting.fit import fit_rows
from vae_anomaly.fitting.held_out import FitRecord
from vae_anomaly.fitting.outliers import MOST_SCREENED, REASONS_SHOWN, outlier_positions, screened_rows, suspicious_rows
from vae_anomaly.fitting.robust import fold_normalized
from vae_anomaly.fitting.splits import split_rows
from vae_anomaly.schema.schema import infer_schema

CASE = Case(kind="mixed", size="one", method="split", prior="exemplar")
# A training row; every training row is an exemplar below, so that held-out scores and explanations differ from those of the detector.
PLANTED = int(split_rows(tiny.config(CASE).calibration, tiny.NORMAL_ROWS, 0).training[60])


@pytest.fixture(scope="module")
def planted() -> tuple[FitRecord, pa.Table]:
    """Return a fit and its rows, of which one has a pressure far from all others."""
    rows = tiny.normal_rows("mixed")
    values = rows["pressure"].to_pylist()
    values[PLANTED] = 9e5
    rows = rows.set_column(rows.column_names.index("pressure"), "pressure", pa.array(values))
    rows = rows.append_column("id", pa.array([f"r{i}" for i in range(rows.num_rows)]))
    config = tiny.config(CASE)
    config = replace(config, model=replace(config.model, exemplars=tiny.NORMAL_ROWS), data=replace(config.data, id_columns=("id",)))
    return fit_rows(rows, infer_schema(rows, config.data), config), rows


def test_a_planted_outlier_is_reported_first_with_its_column_score_and_keys(planted: tuple[FitRecord, pa.Table]) -> None:
    fitted, rows = planted
    numbers = np.arange(rows.num_rows) * 10
    first = suspicious_rows(fitted, rows, numbers, ["id"])[0]
    score = fitted.held_out_scores(np.array([PLANTED]))
    assert (first.row, dict(first.ids)) == (10 * PLANTED, {"id": f"r{PLANTED}"})
    assert first.score == score[0]
    assert first.p_value == fitted.detector.threshold.p_values(score)[0]
    assert len(first.reasons) == REASONS_SHOWN
    assert (first.reasons[0].column, first.reasons[0].value) == ("pressure", "900000")


def test_contributions_are_those_of_the_held_out_ensemble_in_descending_order(planted: tuple[FitRecord, pa.Table]) -> None:
    fitted, rows = planted
    reasons = suspicious_rows(fitted, rows, np.arange(rows.num_rows), [])[0].reasons
    explained = explain_rows(fitted.held_out_ensemble(PLANTED), fitted.batch.rows(slice(PLANTED, PLANTED + 1)))
    expected = np.sort(explained.contribution[0].numpy())[::-1][:REASONS_SHOWN]
    np.testing.assert_array_equal([reason.contribution for reason in reasons], expected)


def test_a_level_that_is_not_in_the_schema_is_shown_by_its_text(planted: tuple[FitRecord, pa.Table]) -> None:
    """A category has at most 255 levels; rarer ones are unseen."""
    fitted, rows = planted
    crews = rows["crew"].to_pylist()
    crews[PLANTED] = "night shift"
    rows = rows.set_column(rows.column_names.index("crew"), "crew", pa.array(crews))
    schema = fitted.detector.schema
    assert "night shift" not in next(c.levels for c in schema.columns if c.name == "crew")
    reasons = suspicious_rows(fit_rows(rows, schema, fitted.detector.config), rows, np.arange(rows.num_rows), [])[0].reasons
    assert ("crew", "night shift (unseen)") in [(reason.column, reason.value) for reason in reasons]


def test_normal_rows_have_no_outlier() -> None:
    rows, config = tiny.normal_rows("numeric"), tiny.config(Case(kind="numeric", size="one", method="split", prior="exemplar"))
    fitted = fit_rows(rows, infer_schema(rows, config.data), config)
    assert suspicious_rows(fitted, rows, np.arange(rows.num_rows), []) == ()


def test_of_tables_with_exponential_distances_hardly_any_has_an_outlier() -> None:
    random = np.random.default_rng(0)
    found = [len(outlier_positions(random.exponential(size=500) ** 2, np.zeros(500, dtype=np.int64), 0.0)) > 0 for _ in range(400)]
    assert sum(found) <= 16, "1 % is the nominal chance; 16 of 400 allow for the quantiles being estimated"


def test_outliers_are_the_five_highest_above_both_limits_the_highest_first() -> None:
    scores, one = np.linspace(1.0, 2.0, 100), np.zeros(100, dtype=np.int64)
    scores[[3, 50, 97, 12, 60, 7]] = [40.0, 50.0, 30.0, 60.0, 45.0, 35.0]
    scores[20] = np.nan
    assert outlier_positions(scores, one, 0.0).tolist() == [12, 50, 60, 3, 7]
    assert outlier_positions(scores, one, 45.0).tolist() == [12, 50]
    assert outlier_positions(np.linspace(1.0, 2.0, 100), one, 0.0).tolist() == []


def test_few_scores_or_none_have_no_outliers() -> None:
    assert outlier_positions(np.array([1.0, 1.0, 900.0]), np.zeros(3, dtype=np.int64), 0.0).tolist() == []
    assert outlier_positions(np.full(50, np.nan), np.zeros(50, dtype=np.int64), 0.0).tolist() == []


def test_screened_rows_are_evenly_spread_and_bounded() -> None:
    assert screened_rows(5).tolist() == [0, 1, 2, 3, 4]
    rows = screened_rows(3 * MOST_SCREENED - 1)
    assert len(rows) == MOST_SCREENED
    assert set(np.diff(rows).tolist()) == {3}


def test_a_fold_that_is_scored_higher_as_a_whole_has_no_outliers_for_that() -> None:
    scores, fold = np.linspace(1.0, 2.0, 100), np.arange(100) % 20
    scores[fold == 3] *= 20.0
    np.testing.assert_allclose(fold_normalized(scores, fold)[[3, 23]], scores[[3, 23]] / np.median(scores[3::20]))
    assert outlier_positions(scores, fold, 0.0).tolist() == []
    assert len(outlier_positions(scores, np.zeros(100, dtype=np.int64), 0.0)) == 5, "the control: without folds they stand out"
    scores[[10, 11]] = [30.0, np.nan]
    assert outlier_positions(scores, fold, 0.0).tolist() == [10]
    assert outlier_positions(scores, fold, 30.0).tolist() == []
