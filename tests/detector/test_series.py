"""Scores of rows in time: smoothing against its definition, and the same bits however the rows are cut."""

import json
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.series import COLUMNS, detector_of, rows_of
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import score_in_time
from vae_anomaly.detector.series import SeriesScores, SeriesState, kind_nets, state_from
from vae_anomaly.detector.stream import InputBatch, ScoreOptions, scored_batches
from vae_anomaly.errors import BadCell, DamagedArtifact, SchemaMismatch
from vae_anomaly.model.ensemble import column_terms, score_rows
from vae_anomaly.schema.encoding import encode
from vae_anomaly.schema.schema import conform


@cache
def new_rows() -> pa.RecordBatch:
    """Rows of two interleaved machines with a fault, missing cells, a row without any cell and a gap."""
    return rows_of(240, seed=5, fault=(80, 120), holes=True).combine_chunks().to_batches()[0]


def scored(detector: Detector, rows: pa.RecordBatch, state: SeriesState | None = None) -> tuple[SeriesScores, SeriesState]:
    cells = encode(detector.schema, conform(detector.schema, rows, where="the rows"))
    return score_in_time(detector, rows, cells, state)


def cut(detector: Detector, bounds: list[int], *, restart: bool = False) -> list[dict[str, Any]]:
    """Score the rows in pieces as files are, every row explained; ``restart``: the state is written and read between them."""
    rows, state, found = new_rows(), None, []
    for begin, end in zip([0, *bounds], [*bounds, rows.num_rows], strict=True):
        if end == begin:
            continue
        piece = InputBatch(rows=rows.slice(begin, end - begin))
        options = ScoreOptions(explain="all", top=None, first_row=begin)
        for batch in scored_batches(detector, [piece], options, state=state):
            found += batch.rows.to_pylist()
            state = batch.series
        if restart:
            assert state is not None
            state = state_from(json.loads(json.dumps(state.plain())))
    return found


def test_the_score_is_the_exponentially_weighted_mean_of_the_terms() -> None:
    detector, rows = detector_of(span=8), new_rows()
    assert detector.series is not None
    found, _ = scored(detector, rows)
    cells = found.rows.rows(slice(0, rows.num_rows))
    raw = column_terms(detector.ensemble, cells, kind_nets(detector.ensemble)).numpy()
    np.testing.assert_allclose(np.nansum(raw, axis=(1, 2)), np.nan_to_num(score_rows(detector.ensemble, cells).total.numpy()), rtol=1e-9)
    machine, clock = rows.column("machine").to_pylist(), rows.column("t").to_numpy()
    level: dict[str, np.ndarray] = {}
    before: dict[str, float] = {}
    for i, name in enumerate(machine):
        if name not in level or clock[i] - before[name] > detector.series.max_gap:
            level[name] = detector.series.start.numpy()
        before[name] = clock[i]
        if np.isnan(raw[i]).any():
            assert np.isnan(found.total[i])
            continue
        level[name] = level[name] + (2 / 9) * (raw[i] - level[name])
        np.testing.assert_allclose(found.total[i], level[name].sum(), rtol=1e-9)
        np.testing.assert_allclose(found.kl[i], level[name][:, -1].sum(), rtol=1e-9)
        np.testing.assert_allclose(found.reconstruction[i], level[name][:, :-1].sum(), rtol=1e-9)


def test_contributions_add_up_to_the_score_and_name_the_broken_relation() -> None:
    detector = detector_of()
    rows = cut(detector, [])
    for row in rows:
        if row["anomaly_score"] is None:
            assert row["top_features"] is None
            continue
        total = sum(feature["contribution"] for feature in row["top_features"])
        assert total == pytest.approx(row["anomaly_score"], rel=1e-9)
    fault = [row for row in rows if row["is_anomaly"]]
    assert len(fault) > 20
    first = {row["top_features"][0]["column"] for row in fault[10:30]}
    assert first <= {"flow", "power"}
    texts = [feature["expected"] for row in fault for feature in row["top_features"]]
    assert any("(own past)" in text for text in texts)
    assert any("(relation to " in text for text in texts)
    assert any("row before)" in (feature["value"] or "") for row in fault for feature in row["top_features"])


@settings(max_examples=30, deadline=None)
@given(bounds=st.lists(st.integers(0, 240), max_size=6).map(sorted), restart=st.booleans())
def test_a_cut_anywhere_gives_the_scores_and_reasons_of_the_whole_bit_for_bit(bounds: list[int], restart: bool) -> None:  # noqa: FBT001
    detector = detector_of()
    whole = _whole()
    assert json.dumps(cut(detector, bounds, restart=restart)) == whole


@cache
def _whole() -> str:
    return json.dumps(cut(detector_of(), []))


def test_machines_scored_apart_or_together_are_the_same() -> None:
    detector, rows = detector_of(), pa.Table.from_batches([new_rows()])
    together, _ = scored(detector, new_rows())
    names = np.array(rows["machine"].to_pylist())
    for name in ("a", "b"):
        apart, _ = scored(detector, rows.filter(pa.array(names == name)).combine_chunks().to_batches()[0])
        np.testing.assert_array_equal(apart.total, together.total[names == name])


def test_an_artifact_scores_as_the_fitted_detector_does() -> None:
    detector = detector_of()
    values, tensors = detector.state()
    loaded = Detector.from_state(json.loads(json.dumps(values)), tensors)
    np.testing.assert_array_equal(scored(loaded, new_rows())[0].total, scored(detector, new_rows())[0].total)
    assert loaded.threshold.value == detector.threshold.value
    assert loaded.threshold.rates == detector.threshold.rates


@pytest.mark.parametrize(
    "name", ["series.start", "predictors.kind", "predictors.across", "predictors.own", "predictors.spread", "threshold.block"]
)
def test_a_damaged_tensor_is_an_error(name: str) -> None:
    values, tensors = detector_of().state()
    broken = torch.full_like(tensors[name], -7) if name in {"predictors.kind", "predictors.spread"} else tensors[name].flatten()[:-1]
    with pytest.raises(DamagedArtifact):
        Detector.from_state(values, {**tensors, name: broken})


@pytest.mark.parametrize(("key", "value"), [("span", 0), ("span", "a"), ("max_gap", -1.0), ("is_clock", 1), ("more", 1)])
def test_damaged_settings_of_a_series_are_an_error(key: str, value: object) -> None:
    values, tensors = detector_of().state()
    with pytest.raises(DamagedArtifact):
        Detector.from_state({**values, "series": {**values["series"], key: value}}, tensors)
    with pytest.raises(DamagedArtifact):
        Detector.from_state({name: v for name, v in values.items() if name != "series"}, tensors)


def test_time_that_goes_back_names_the_machine_the_time_and_the_row() -> None:
    detector, rows = detector_of(), new_rows()
    _, state = scored(detector, rows)
    batch = InputBatch(rows=rows.slice(10, 3))
    with pytest.raises(BadCell, match=r"time goes back of machine 'a': t is 5\.5, before that of the row above in the data row 251 "):
        list(scored_batches(detector, [batch], ScoreOptions(first_row=250), state=state))


def test_rows_without_a_time_column_or_with_other_times_are_refused() -> None:
    detector, rows = detector_of(), pa.Table.from_batches([new_rows()])
    for name in ("t", "machine"):
        with pytest.raises(SchemaMismatch, match="lacks the time or group column of this model of rows in time"):
            scored(detector, rows.drop_columns([name]).to_batches()[0])
    times = rows.set_column(rows.column_names.index("t"), "t", pa.array(np.arange(rows.num_rows), pa.timestamp("s")))
    with pytest.raises(SchemaMismatch, match="time column 't' holds times in the data and held plain numbers in the fit"):
        scored(detector, times.to_batches()[0])


def test_a_first_row_starts_from_the_level_of_the_calibration() -> None:
    detector = detector_of()
    assert detector.series is not None
    found, _ = scored(detector, new_rows().slice(0, 1))
    start, newest = float(detector.series.start.sum()), detector.series.newest
    raw = float(score_rows(detector.ensemble, found.rows.rows(slice(0, 1))).total[0])
    assert found.total[0] == pytest.approx(start + newest * (raw - start), rel=1e-9)
    assert set(COLUMNS) == set(detector.schema.names)
