"""The parts of a reader that do not depend on the format: names, types and the columns of partition folders."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.files import TableFile, column_names, column_type, with_partition
from vae_anomaly.tables.reader import ColumnSelection, Reader, partitions_typed


@dataclass(frozen=True)
class Opened:
    """As much of a reader as these functions use."""

    file: TableFile
    schema: pa.Schema = field(default_factory=lambda: pa.schema([("x", pa.float64()), ("k", pa.dictionary(pa.int8(), pa.string()))]))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.schema.names)


def table_file(*partition: tuple[str, str | None]) -> TableFile:
    listed = Listed(path="x", location="/x", root="/", size=1, modified=0, filesystem=pafs.LocalFileSystem())
    return TableFile(listed=listed, format="parquet", partition=partition)


def opened(*partition: tuple[str, str | None]) -> Reader:
    return cast("Reader", Opened(table_file(*partition)))


def test_partition_columns_follow_those_of_the_file_which_win() -> None:
    assert column_names((reader := opened(("day", "1"), ("x", "2"))).file, reader.names) == ("x", "k", "day")


def test_a_column_type_is_that_of_its_values() -> None:
    reader = opened(("day", "1"))
    assert [column_type(reader.schema, name) for name in ("x", "k", "day")] == [pa.float64(), pa.string(), pa.string()]


@pytest.mark.parametrize(
    "rows", [pa.table({"x": [1.0, 2.0]}), pa.record_batch({"x": [1.0, 2.0]}), pa.record_batch({"x": pa.array([], pa.float64())})]
)
def test_partition_values_are_string_columns_of_every_row(rows: Any) -> None:
    got = with_partition(rows, table_file(("day", "1"), ("site", None), ("x", "9")))
    assert type(got) is type(rows)
    n = rows.num_rows
    assert got.to_pydict() == {"x": rows.column("x").to_pylist(), "day": ["1"] * n, "site": [None] * n}
    assert got.schema.field("site").type == pa.string()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "02", None], [1, 2, None]),
        (["2024-01-31", "2024-02-01", None], [dt.date(2024, 1, 31), dt.date(2024, 2, 1), None]),
        (["1", "2024-01-31", None], ["1", "2024-01-31", None]),
        (["a", "1", None], ["a", "1", None]),
    ],
    ids=["whole numbers", "dates", "both", "text"],
)
def test_partition_values_are_typed_if_all_of_them_allow_it(values: list[str | None], expected: list[Any]) -> None:
    table = pa.table({"x": ["1", "2", "3"], "part": pa.array(values, pa.string())})
    typed = partitions_typed(table, opened(("part", values[0]), ("x", "1")))
    assert typed["part"].to_pylist() == expected
    assert typed["x"].to_pylist() == ["1", "2", "3"]  # a column of the file itself


def test_a_selection_names_its_columns_in_the_order_of_the_stream() -> None:
    assert ColumnSelection(raw=["c"], text=["b"], numeric=["a", "d"]).names == ["a", "d", "b", "c"]
