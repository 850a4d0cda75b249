"""Columns of live files by name or id, values of other types, and what ``--at`` names."""

# ruff: noqa: DTZ001  # times without a zone are what the columns hold

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from vae_anomaly.errors import DataError
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.lakehouse import LakeColumn, LiveFile, LiveTable, live_reader, parse_at, scalar_of
from vae_anomaly.tables.reader import Chunk, ColumnSelection

LOCAL = pafs.LocalFileSystem()


def written(path: Path, table: pa.Table, ids: list[int] | None = None) -> LiveFile:
    if ids is not None:
        fields = [f.with_metadata({"PARQUET:field_id": str(i)}) for f, i in zip(table.schema, ids, strict=True)]
        table = table.cast(pa.schema(fields))
    pq.write_table(table, path)
    return LiveFile(filesystem=LOCAL, location=str(path), order=(path.name,), size=1, rows=table.num_rows)


def read(folder: Path, columns: list[LakeColumn], *files: LiveFile) -> pa.Table:
    listed = Listed(
        path="t", location=str(folder), root=str(folder.parent), size=1, modified=0, filesystem=LOCAL, lake="delta", version="3"
    )
    live = LiveTable(called="version 3 of the Delta table", written=None, columns=columns, files=files)
    reader = live_reader(TableFile(listed=listed, format="delta"), live)
    return pa.Table.from_batches(reader.stream(ColumnSelection(raw=reader.names), Chunk()))


def test_columns_are_found_by_id_whatever_their_names(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", pa.table({"y": [1, 2], "x": [0.5, 1.5]}), ids=[7, 3])
    columns = [LakeColumn(name="x", type=pa.int64(), field_id=7), LakeColumn(name="new", type=pa.float64(), field_id=9, default=4.0)]
    assert read(tmp_path, columns, file).to_pydict() == {"x": [1, 2], "new": [4.0, 4.0]}


def test_a_file_without_ids_is_an_error_where_columns_have_nothing_else(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", pa.table({"x": [1]}))
    with pytest.raises(DataError, match="column 'x' is found by its field id, and the files have none"):
        read(tmp_path, [LakeColumn(name="x", type=pa.int64(), field_id=1, ids_needed=True)], file)
    assert read(tmp_path, [LakeColumn(name="z", type=pa.int64(), field_id=1, names=("q", "x"))], file)["z"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        (pa.array([1, None], pa.int8()), pa.int64()),
        (pa.array([1, None], pa.int32()), pa.float64()),
        (pa.array([1.5, None], pa.float32()), pa.float64()),
        (pa.array([date(2024, 1, 2), None]), pa.timestamp("us")),
        (pa.array([Decimal("1.5"), None], pa.decimal128(4, 1)), pa.decimal128(12, 3)),
        (pa.array(["a", None]).dictionary_encode(), pa.string()),
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array([datetime(2024, 1, 2, 3), None], pa.timestamp("us")), pa.timestamp("us", "UTC")),
    ],
)
def test_values_have_the_type_of_the_table(tmp_path: Path, values: pa.Array, wide: pa.DataType) -> None:
    files = [written(tmp_path / "a.parquet", pa.table({"x": values})), written(tmp_path / "b.parquet", pa.table({"x": pa.nulls(1, wide)}))]
    found = read(tmp_path, [LakeColumn(name="x", type=wide, names=("x",))], *files)["x"]
    assert found.type == wide
    assert found.to_pylist()[1:] == [None, None]
    assert found[0] == pa.scalar(values[0].as_py(), values.type if values.type == wide else None).cast(wide)


def test_times_of_the_old_type_of_spark_reach_beyond_nanoseconds(tmp_path: Path) -> None:
    long_ago = pa.array([datetime(1, 1, 1), datetime(2024, 1, 1)], pa.timestamp("us"))
    pq.write_table(pa.table({"x": long_ago}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    file = LiveFile(filesystem=LOCAL, location=str(tmp_path / "a.parquet"), order=(), size=1, rows=2)
    found = read(tmp_path, [LakeColumn(name="x", type=pa.timestamp("us", "UTC"), names=("x",))], file)["x"]
    assert found.to_pylist()[1] == datetime(2024, 1, 1, tzinfo=UTC)
    assert found[0].value == long_ago[0].value


def test_a_file_with_none_of_the_columns_has_its_rows_all_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", pa.table({"old": [1, 2, 3]}))
    gone = LiveFile(
        filesystem=LOCAL,
        location=file.location,
        order=(),
        size=1,
        rows=3,
        constants={"line": pa.scalar("A")},
        deleted=np.array([1]),
    )
    columns = [LakeColumn(name="line", type=pa.string(), names=("line",)), LakeColumn(name="x", type=pa.int64(), names=("x",))]
    assert read(tmp_path, columns, gone).to_pydict() == {"line": ["A", "A"], "x": [None, None]}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.parquet", pa.table({"x": [1]}))
    Path(file.location).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"t/a\.parquet is damaged"):
        read(tmp_path, [LakeColumn(name="x", type=pa.int64(), names=("x",))], file)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (19_723, pa.date32(), date(2024, 1, 1)),
        (1_704_067_200_000_000, pa.timestamp("us"), datetime(2024, 1, 1)),
        ("2024-01-01", pa.date32(), date(2024, 1, 1)),
        (5, pa.float64(), 5.0),
        (None, pa.string(), None),
        ("x", pa.string(), "x"),
    ],
)
def test_a_scalar_of_a_log(value: object, kind: pa.DataType, expected: object) -> None:
    assert scalar_of(value, kind).as_py() == expected


def test_at_is_a_number_or_a_time() -> None:
    assert parse_at(" 7 ") == 7
    assert parse_at("2024-03-01T12:00:00+02:00") == datetime(2024, 3, 1, 10, tzinfo=UTC)
    assert parse_at("-1") is None
