"""Rows of a calibration: contradictory options, the columns that are read, and scores by label, time and group."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny
from vae_anomaly.calibration.groups import calibrate_groups
from vae_anomaly.calibration.operating_point import DayRate
from vae_anomaly.calibration.threshold import calibrate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, SchemaMismatch
from vae_anomaly.messages import ignore_progress
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.workflow.calibration_rows import (
    CalibrationColumns,
    CalibrationRows,
    calibration_columns,
    check_calibrate_request,
    check_unseen,
    score_calibration_rows,
)
from vae_anomaly.workflow.requests import CalibrateRequest

REQUEST = CalibrateRequest(data=("x.parquet",), model="m")
ROWS = 40


@pytest.fixture
def table() -> pa.Table:
    """Rows of a pump, every fourth one a leak, one every minute, in two units; one row without a cell."""
    rows = tiny.table("mixed", ROWS, seed=3).to_pylist()
    rows[6] = dict.fromkeys(rows[6])
    more = {
        "state": ["leak" if i % 4 == 3 else "normal" for i in range(ROWS)],
        "when": np.datetime64("2025-01-01T00:00", "s") + 60 * np.arange(ROWS),
        "unit": ["U0" if i < 30 else "U1" for i in range(ROWS)],
    }
    whole = pa.Table.from_pylist(rows, schema=tiny.table("mixed", 1, seed=3).schema)
    for name, values in more.items():
        whole = whole.append_column(name, pa.array(values))
    return whole


def source_of(table: pa.Table, folder: Path) -> Source:
    pq.write_table(table, folder / "x.parquet", row_group_size=16)
    return open_source([str(folder / "x.parquet")])


@pytest.fixture
def source(table: pa.Table, tmp_path: Path) -> Source:
    return source_of(table, tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 0.1, "maximize": "f1"}, "alpha is chosen in 2 ways: --alpha; --maximize. Give one of them."),
        (
            {"alpha": 0.1, "alerts_per_day": 3.0, "cost_miss": 1.0},
            "alpha is chosen in 3 ways: --alpha; --alerts-per-day; --cost-false-alarm and --cost-miss. Give one of them.",
        ),
        ({"cost_false_alarm": 1.0}, "costs come in pairs: give both --cost-false-alarm and --cost-miss."),
        ({"cost_false_alarm": 0.0, "cost_miss": 1.0}, "--cost-false-alarm must be > 0; got 0."),
        ({"cost_false_alarm": 1.0, "cost_miss": np.inf}, "--cost-miss must be > 0; got inf."),
        ({"rows_per_day": -5.0}, "--rows-per-day must be > 0; got -5."),
        ({"alpha": 1.0}, "--alpha must be in (0, 1); got 1."),
        ({"anomaly_rate": 0.0}, "--anomaly-rate must be in (0, 1); got 0."),
        (
            {"method": "gpd", "group_by": "unit"},
            "--method gpd fits one tail to all rows; leave --group-by out, or use --method conformal.",
        ),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_calibrate_request(replace(REQUEST, **options))
    assert str(error.value) == text


@pytest.mark.parametrize("options", [{}, {"alpha": 0.1}, {"cost_false_alarm": 1.0, "cost_miss": 9.0}, {"method": "gpd", "group_by": ""}])
def test_complete_options_pass(options: dict[str, Any]) -> None:
    check_calibrate_request(replace(REQUEST, **options))


def test_columns_are_those_of_the_request_or_of_the_fit(tiny_detector: Detector, source: Source) -> None:
    assert calibration_columns(REQUEST, tiny_detector, source) == CalibrationColumns(label=None, time=None, group=None)
    request = replace(REQUEST, label_column="state", time_column="when", group_by="unit")
    assert calibration_columns(request, tiny_detector, source).names == ["state", "when", "unit"]
    data = replace(tiny_detector.config.data, label_column="state", time_column="nowhere")
    fitted = replace(tiny_detector, config=replace(tiny_detector.config, data=data))
    assert calibration_columns(REQUEST, fitted, source) == CalibrationColumns(label="state", time=None, group=None)
    # The number of rows a day is given, so that no time is needed.
    assert calibration_columns(replace(request, rows_per_day=9.0), tiny_detector, source).time is None
    assert CalibrationColumns(label="unit", time=None, group="unit").names == ["unit"]


def test_groups_stay_unless_the_request_says_otherwise(tiny_detector: Detector, source: Source, table: pa.Table, tmp_path: Path) -> None:
    scores = np.arange(1.0, 41.0)
    threshold = replace(calibrate(scores, 0.1), groups=calibrate_groups("unit", table["unit"], scores, 0.1))
    grouped = tiny_detector.recalibrated(threshold)
    assert calibration_columns(REQUEST, grouped, source).group == "unit"
    assert calibration_columns(replace(REQUEST, group_by=""), grouped, source).group is None
    assert calibration_columns(replace(REQUEST, method="gpd"), grouped, source).group is None
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError) as error:
        calibration_columns(REQUEST, grouped, source_of(table.drop_columns(["unit"]), tmp_path / "other"))
    assert str(error.value) == (
        f"this model has a threshold for each 'unit', and {tmp_path}/other/x.parquet has no such column. "
        "Give rows with it, or --group-by '' for one threshold."
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"label_column": "fault"}, "--label-column names a column that is not in the data: 'fault'"),
        (
            {"label_column": "flow"},
            "the label column 'flow' is an input of this model, which would be judged by what it was told.",
        ),
        ({"group_by": "units"}, "--group-by names a column that is not in the data: 'units'"),
        ({"maximize": "f1"}, "--maximize needs labels, to measure the recall of a threshold. Name their column with --label-column."),
        ({"anomaly_rate": 0.1}, "--anomaly-rate is for --maximize and --cost-miss; neither is given."),
        ({"alerts_per_day": 5.0}, "--alerts-per-day needs the number of rows a day: name a column of timestamps with --time-column, or"),
    ],
)
def test_a_column_that_is_absent_or_needed_is_refused(tiny_detector: Detector, source: Source, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        calibration_columns(replace(REQUEST, **options), tiny_detector, source)
    assert str(error.value).startswith(text)


def test_a_column_of_the_model_must_be_there(tiny_detector: Detector, table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatch, match="'flow'"):
        calibration_columns(REQUEST, tiny_detector, source_of(table.drop_columns(["flow"]), tmp_path))


def test_training_rows_are_refused(tiny_detector: Detector, source: Source) -> None:
    check_unseen(source, tiny_detector)
    with pytest.raises(DataError, match=r"x\.parquet holds the rows that the model was fitted on"):
        check_unseen(source, replace(tiny_detector, card=replace(tiny_detector.card, data_digest=source.digest())))


def read(detector: Detector, source: Source, **options: Any) -> CalibrationRows:
    request = replace(REQUEST, **options)
    return score_calibration_rows(detector, source, calibration_columns(request, detector, source), request, ignore_progress)


def test_scores_are_parted_by_label(tiny_detector: Detector, source: Source, table: pa.Table) -> None:
    scores = tiny_detector.scores(tiny.encoded(tiny_detector.schema, table)).total.numpy()
    normal = [i for i in range(ROWS) if i % 4 != 3 and i != 6]
    rows = read(tiny_detector, source, label_column="state", group_by="unit", time_column="when")
    assert rows.normal_scores.tolist() == scores[normal].tolist()
    assert rows.anomalous_scores.tolist() == scores[3::4].tolist()
    assert rows.groups is not None
    assert rows.groups.to_pylist() == ["U0" if i < 30 else "U1" for i in normal]
    assert (rows.labelled, rows.null_scores, rows.rejected) == (True, 1, None)
    assert rows.per_day is not None
    assert rows.per_day.rows == pytest.approx(1440.0, rel=0.05)


def test_without_labels_every_row_with_a_score_is_normal(tiny_detector: Detector, source: Source) -> None:
    rows = read(tiny_detector, source, rows_per_day=500.0)
    assert (len(rows.normal_scores), len(rows.anomalous_scores), rows.groups, rows.labelled) == (ROWS - 1, 0, None, False)
    assert rows.per_day == DayRate(rows=500.0, note="")


def test_rows_without_a_cell_cannot_calibrate(tiny_detector: Detector, table: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tiny_detector, source_of(table.slice(6, 1), tmp_path))
    assert str(error.value) == f"no row of {tmp_path}/x.parquet has a value in any column of the model."


def test_one_class_is_refused_where_a_rate_is_chosen(tiny_detector: Detector, table: pa.Table, tmp_path: Path) -> None:
    normal = table.filter(pa.array([i % 4 != 3 for i in range(ROWS)]))
    source = source_of(normal, tmp_path)
    assert len(read(tiny_detector, source, label_column="state").normal_scores) == 29
    with pytest.raises(DataError, match="no row is anomalous: column 'state'"):
        read(tiny_detector, source, label_column="state", maximize="f1")


def test_a_text_that_is_no_time_is_named_with_its_row(tiny_detector: Detector, table: pa.Table, tmp_path: Path) -> None:
    texts = [str(time) if i != 17 else "noon" for i, time in enumerate(table["when"].to_pylist())]
    source = source_of(table.set_column(table.schema.get_field_index("when"), "when", pa.array(texts)), tmp_path)
    with pytest.raises(DataError, match=r"'noon' in .*x\.parquet row 18"):
        read(tiny_detector, source, time_column="when")
