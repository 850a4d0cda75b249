"""Rows of a table as time series: their times and entities, the scorer that carries their state, and their reasons."""

import numpy as np
import pyarrow as pa
import pytest

from tests import tiny
from tests.series import detector_of, rows_of
from tests.tiny import Case
from vae_anomaly.detector.in_time import Scorer, score_in_time, series_features, times_of, total_scores
from vae_anomaly.errors import BadCell
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.schema import conform


def test_the_times_and_entities_of_a_table() -> None:
    detector = detector_of()
    table = pa.table({"t": [3.0, 1.0, 2.0, 5.0], "machine": ["b", "a", None, "b"]})
    times = times_of(table, detector.schema, None)
    assert times is not None
    assert (times.value.tolist(), times.entity.tolist(), times.is_clock) == ([3.0, 1.0, 2.0, 5.0], [2, 1, 0, 2], False)
    assert times.order.tolist() == [2, 1, 0, 3]
    assert times_of(table, tiny.detector(Case(kind="mixed", size="one", method="split", prior="exemplar")).schema, None) is None


def test_a_scorer_carries_the_state_and_counts_the_rows() -> None:
    detector, rows = detector_of(), rows_of(60, seed=7).combine_chunks().to_batches()[0]
    cells = encode(detector.schema, conform(detector.schema, rows, where="the rows"))
    whole, _ = score_in_time(detector, rows, cells, None)
    scorer, found = Scorer(detector), []
    for first in (0, 20, 40):
        here = slice(first, first + 20)
        found.append(total_scores(scorer(rows.slice(first, 20), cells.rows(here))))
    np.testing.assert_array_equal(np.concatenate(found), whole.total)
    with pytest.raises(BadCell) as error:
        scorer(rows.slice(0, 1), cells.rows(slice(0, 1)))
    assert error.value.row == 60


def test_a_scorer_of_single_rows_scores_them() -> None:
    detector = tiny.detector(Case(kind="numeric", size="one", method="split", prior="exemplar"))
    rows = tiny.normal_rows("numeric").combine_chunks().to_batches()[0]
    cells = encode(detector.schema, conform(detector.schema, rows, where="the rows"))
    np.testing.assert_array_equal(total_scores(Scorer(detector)(rows, cells)), detector.scores(cells).total.numpy())


def test_wide_tables_are_scored_in_fewer_rows_at_once() -> None:
    detector = detector_of()
    assert detector.series is not None
    assert detector.rows_at_once() == min(65_536, 2**22 // detector.series.start.numel())
    assert detector.rows_at_once(10) == 10
    assert detector.time_columns == ("t", "machine")
    single = tiny.detector(Case(kind="numeric", size="one", method="split", prior="exemplar"))
    assert (single.rows_at_once(), single.time_columns) == (65_536, ())


def test_no_row_has_no_reason_and_a_row_names_its_top_columns() -> None:
    detector, rows = detector_of(), rows_of(80, seed=9, fault=(40, 80)).combine_chunks().to_batches()[0]
    cells = encode(detector.schema, conform(detector.schema, rows, where="the rows"))
    scores, _ = score_in_time(detector, rows, cells, None)
    nothing = series_features(detector, scores, np.empty(0, np.int64), 2)
    assert nothing.to_pylist() == [None] * 80
    one = series_features(detector, scores, np.array([70]), 2).to_pylist()[70]
    assert [feature["column"] for feature in one][-1] == "(other)"
    assert {one[0]["column"], one[1]["column"]} == {"flow", "power"}
    assert sum(feature["contribution"] for feature in one) == pytest.approx(scores.total[70], rel=1e-9)
    alone = scores.row(70)
    again = series_features(detector, alone, np.zeros(1, np.int64), 2).to_pylist()[0]
    assert again == one
