import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.tiny import Case
from vae_anomaly.detector.stream import ScoreOptions, score_batches
from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.tables.scores import NO_TIME, as_seconds, keys_of, read_scores
from vae_anomaly.tables.source import open_source
from vae_anomaly.tables.writer import write_batches

CASE = Case(kind="mixed", size="one", method="split", prior="exemplar")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same scores as Parquet and as CSV."""
    folder = tmp_path_factory.mktemp("scored")
    rows = tiny.odd_rows("mixed")
    times = pa.array([datetime(2025, 3, 1, 0, i % 60, tzinfo=UTC).replace(tzinfo=None) for i in range(len(rows))], pa.timestamp("s"))
    rows = rows.append_column("machine", pa.array(["M1"] * len(rows))).append_column("clock", times)
    options = ScoreOptions(id_columns=("machine", "clock"), model="pump", model_version="3")
    batches = list(score_batches(tiny.detector(CASE), rows.to_batches(), options))
    for name, kind in (("scores.parquet", "parquet"), ("scores.csv", "csv")):
        write_batches(folder / name, iter(batches), batches[0].schema, fmt=kind)  # type: ignore[arg-type]  # two of the two formats
    return folder


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv"])
def test_scores_are_read_back(scored: Path, name: str) -> None:
    table = pq.read_table(scored / "scores.parquet")
    rows = next(iter(read_scores(open_source([str(scored / name)]))))
    np.testing.assert_array_equal(rows.scores, table["anomaly_score"].to_numpy())
    np.testing.assert_array_equal(rows.p_values, table["p_value"].to_numpy())
    assert rows.flags.tolist() == table["is_anomaly"].to_pylist()
    assert (rows.first, rows.time, np.isnan(rows.scores[tiny.EMPTY])) == (0, "clock", True)
    assert rows.times is not None
    assert rows.times[1] - rows.times[0] == 60
    assert rows.times[0] == datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    assert rows.ids(tiny.OUTLIER) == {"machine": "M1", "clock": "2025-03-01 00:03:00"}
    features = rows.features(tiny.OUTLIER)
    expected = [f for f in table["top_features"][tiny.OUTLIER].as_py() if f["column"] != "(other)"]
    assert [f["column"] for f in features] == [f["column"] for f in expected]
    assert features[0]["contribution"] == pytest.approx(expected[0]["contribution"])
    assert rows.features(0) == ()


def test_a_row_number_is_no_key_and_no_time(tmp_path: Path) -> None:
    table = pa.table({"row": [0], "anomaly_score": [1.0], "p_value": [0.5], "is_anomaly": [True], "top_features": ["[]"]})
    pq.write_table(table, tmp_path / "s.parquet")
    rows = next(iter(read_scores(open_source([str(tmp_path / "s.parquet")]))))
    assert (rows.time, rows.times, rows.ids(0)) == ("", None, {})
    assert keys_of(["a", "b", "anomaly_score", "kl"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["1970-01-01 00:00:10", "", "1970-01-01T00:01:00"], [10, None, 60]),
        (["1970-01-01T00:00:10Z", "1970-01-01T01:00:00+01:00"], [10, 0]),
        (["P1", "P2"], [None, None]),
    ],
)
def test_times_as_text(texts: list[str], seconds: list[int | None]) -> None:
    found = as_seconds(pa.array(texts))
    assert found is not None
    assert found.to_pylist() == seconds


def test_other_types_as_times() -> None:
    assert as_seconds(pa.array([1.0])) is None
    day = as_seconds(pa.array([1], pa.date32()))
    assert day is not None
    assert day.to_pylist() == [86_400]
    zoned = as_seconds(pa.array([1500], pa.timestamp("ms", tz="Europe/Berlin")))
    assert zoned is not None
    assert zoned.to_pylist() == [1]
    assert np.iinfo(np.int64).min == NO_TIME


def test_a_table_that_is_no_output_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"anomaly_score": [1.0], "p_value": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(SchemaMismatch) as caught:
        next(iter(read_scores(open_source([str(tmp_path / "x.parquet")]))))
    assert str(caught.value) == (
        f"{tmp_path / 'x.parquet'} is no output of score: it lacks 'is_anomaly', 'top_features'. Give --scores a file that score wrote."
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"anomaly_score": ["high"]}, "column 'anomaly_score' of {path} is not what score writes (Failed to parse string: 'high'"),
        ({"top_features": ["[1"]}, "top_features of {path} row 1 (counted from 1) is not what score writes (Expecting"),
        (
            {"top_features": ['[{"name": 1}]']},
            "top_features of {path} row 1 (counted from 1) is not what score writes ('column'). Score the rows again.",
        ),
    ],
)
def test_a_damaged_output_is_refused_in_one_line(tmp_path: Path, change: dict[str, list[str]], text: str) -> None:
    good = {"anomaly_score": ["1"], "p_value": ["0.5"], "is_anomaly": ["true"], "top_features": [json.dumps([])]}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(good | change), path)
    rows = next(iter(read_scores(open_source([str(path)]))))
    with pytest.raises(DataError) as caught:
        _ = rows.scores, rows.features(0)
    assert str(caught.value).startswith(text.format(path=path))
    assert "\n" not in str(caught.value)
