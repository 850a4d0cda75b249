import gc
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pacsv

from vae_anomaly.config import DataConfig, Reading
from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.schema.schema import Schema, infer_schema
from vae_anomaly.tables import arrow, csv_dialect
from vae_anomaly.tables.source import Source, open_source

PUMP = pa.table(
    {
        "id": pa.array([f"M{i}" for i in range(12)]),
        "pressure": pa.array([i / 4 for i in range(12)]),
        "cycles": pa.array([i % 5 for i in range(12)]),
        "running": pa.array([i % 3 == 0 for i in range(12)]),
        "mode": pa.array([["auto", "hand", None][i % 3] for i in range(12)]),
    }
)
SCHEMA = infer_schema(PUMP, DataConfig(id_columns=("id",)))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to an empty folder, so that errors name files as people do."""
    monkeypatch.chdir(tmp_path)


def write(path: str, table: pa.Table | str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(table, str):
        Path(path).write_text(table, encoding="utf-8")
    elif path.endswith(".csv"):
        pacsv.write_csv(table, path)
    elif path.endswith(".parquet"):
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


def rows(source: Source, schema: Schema | None = SCHEMA, *, extra: tuple[str, ...] = (), chunk_rows: int = 65_536) -> pa.Table:
    return pa.Table.from_batches(list(source.batches(schema, extra=extra, chunk_rows=chunk_rows))).combine_chunks()


def refused(what: Callable[[], object], error: type[DataError] = DataError) -> str:
    with pytest.raises(error) as caught:
        what()
    return str(caught.value)


# ── one table, whatever holds it ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["x.csv", "x.parquet", "x.arrow"])
def test_every_format_gives_the_same_rows(path: str) -> None:
    source = open_source([write(path, PUMP)])
    got = rows(source, extra=("id",))
    assert got.column_names == ["pressure", "cycles", "running", "mode", "id"]
    assert got["pressure"].to_pylist() == PUMP["pressure"].to_pylist()
    assert got["cycles"].type == pa.float64()
    assert got["running"].to_pylist() == [str(v).lower() for v in PUMP["running"].to_pylist()]
    assert got.select(["mode", "id"]).equals(PUMP.select(["mode", "id"]))


@pytest.mark.parametrize("path", ["x.csv", "x.parquet", "x.arrow"])
def test_every_format_gives_the_same_schema(path: str) -> None:
    table = open_source([write(path, PUMP)]).read_table()
    inferred = infer_schema(table, DataConfig(id_columns=("id",)))
    assert inferred == SCHEMA


def test_several_files_are_one_table_in_the_order_given() -> None:
    write("a.csv", PUMP.slice(0, 5))
    write("b.parquet", PUMP.slice(5, 4).select(PUMP.column_names[::-1]))
    write("c.arrow", PUMP.slice(9))
    source = open_source(["a.csv", "b.parquet", "c.arrow"])
    assert rows(source, extra=("id",))["id"].to_pylist() == PUMP["id"].to_pylist()
    assert source.where == "a.csv and 2 more files"
    assert (source.names, source.rows) == (tuple(PUMP.column_names), None)


def test_a_folder_of_parquet_knows_its_rows_and_passes_over_empty_parts() -> None:
    write("lake/0.parquet", PUMP.slice(0, 0))
    write("lake/1.parquet", PUMP.slice(0, 5))
    write("lake/2.parquet", PUMP.slice(0, 0).drop_columns("mode"))
    write("lake/3.parquet", PUMP.slice(5))
    source = open_source(["lake"])
    assert source.rows == 12
    assert source.read_table().equals(PUMP)
    assert rows(source).num_rows == 12


def test_partition_folders_are_columns() -> None:
    for day, site in (("2024-01-31", "b"), ("2024-02-01", "a")):
        write(f"lake/day={day}/part={site}/n=1/x.parquet", PUMP.slice(0, 2))
    source = open_source(["lake"])
    table = source.read_table()
    assert source.names == (*PUMP.column_names, "day", "part", "n")
    assert [str(table[name].type) for name in ("day", "part", "n")] == ["date32[day]", "string", "int64"]
    assert table["part"].to_pylist() == ["b", "b", "a", "a"]
    schema = infer_schema(table, DataConfig())
    assert {d.name: d.reason for d in schema.dropped}["day"] == "timestamp"
    assert rows(source, schema, extra=("day",)).select(["part", "n", "day"]).to_pylist()[1:3] == [
        {"part": "b", "n": 1.0, "day": "2024-01-31"},
        {"part": "a", "n": 1.0, "day": "2024-02-01"},
    ]


def test_a_missing_partition_value_is_null() -> None:
    write("lake/k=__HIVE_DEFAULT_PARTITION__/x.parquet", PUMP)
    assert rows(open_source(["lake"]), None)["k"].null_count == 12


def test_without_a_schema_all_columns_come_as_the_file_has_them() -> None:
    assert rows(open_source([write("x.parquet", PUMP)]), None).equals(PUMP)
    assert rows(open_source([write("x.csv", "a,b\n007,\nNA,x\n")]), None).to_pydict() == {"a": ["007", "NA"], "b": [None, "x"]}


def test_extra_columns_have_one_type_in_all_files() -> None:
    write("a.parquet", PUMP.append_column("key", pa.array(range(12), pa.int32())))
    write("b.parquet", PUMP.append_column("key", pa.array(range(12), pa.int64())))
    write("c.parquet", PUMP.append_column("key", pa.array(["k"] * 12).dictionary_encode()))
    assert rows(open_source(["a.parquet", "b.parquet"]), extra=("key",))["key"].type == pa.int64()
    assert rows(open_source(["c.parquet"]), extra=("key",))["key"].type == pa.string()
    assert rows(open_source(["a.parquet", "c.parquet"]), extra=("key",))["key"].to_pylist()[11:13] == ["11", "k"]


def test_an_extra_column_that_the_model_reads_appears_once() -> None:
    assert rows(open_source([write("x.csv", PUMP)]), extra=("mode", "id", "id")).column_names == [*SCHEMA.names, "id"]


def test_notes_of_all_files_are_gathered() -> None:
    Path("a.csv").write_bytes("ä,b\n1,2\n".encode("cp1252"))
    assert open_source(["a.csv"]).notes == ("a.csv is not UTF-8 and is read as cp1252",)


def test_the_digest_is_stable_until_a_file_changes() -> None:
    write("x.csv", PUMP)
    first = open_source(["x.csv"]).digest()
    assert open_source([str(Path("x.csv").absolute())]).digest() == first
    os.utime("x.csv", ns=(5, 5))
    assert open_source(["x.csv"]).digest() != first


# ── types over several files ─────────────────────────────────────────────────────────────────────────────────────────


def test_integers_and_floats_are_floats_and_an_empty_column_fits_any() -> None:
    write("a.csv", "x,k,e\n1,a,\n")
    write("b.csv", "k,x,e\nb,2.5,7\n")
    assert open_source(["a.csv", "b.csv"]).read_table().to_pydict() == {"x": [1.0, 2.5], "k": ["a", "b"], "e": [None, 7]}


def test_a_csv_column_is_numeric_only_if_it_is_in_all_files() -> None:
    write("a.csv", "x,y\n007,1\n")
    write("b.csv", "x,y\nA7,2\n")
    assert open_source(["a.csv", "b.csv"]).read_table().to_pydict() == {"x": ["007", "A7"], "y": [1, 2]}
    write("c.csv", "x,y\n2024-01-01,3\n")
    assert open_source(["a.csv", "c.csv"]).read_table()["x"].to_pylist() == ["007", "2024-01-01"]


def test_parquet_types_without_a_common_one_name_both_files() -> None:
    write("a.parquet", pa.table({"x": [1], "y": [1]}))
    write("b.parquet", pa.table({"x": [1.5], "y": ["n/a"]}))
    assert refused(open_source(["a.parquet", "b.parquet"]).read_table, SchemaMismatch) == (
        "column 'y' is int64 in a.parquet but string in b.parquet. Give it one type in all files, or read them separately."
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_that_differ_name_both_files(ending: str) -> None:
    paths = [write(f"a.{ending}", PUMP), write(f"b.{ending}", PUMP.rename_columns(["id", "Pressure", "cycles", "running", "mode"]))]
    assert refused(open_source(paths).read_table, SchemaMismatch) == (
        f"b.{ending} lacks columns that a.{ending} has: 'pressure' (did you mean 'Pressure'?). "
        "Available columns: 'id', 'Pressure', 'cycles', 'running', 'mode'."
    )
    more = write(f"c.{ending}", PUMP.append_column("new", PUMP["id"]))
    assert refused(open_source([paths[0], more]).read_table, SchemaMismatch).startswith(
        f"a.{ending} lacks columns that c.{ending} has: 'new'."
    )
    assert refused(lambda: open_source([paths[0], more]).batches(None), SchemaMismatch).startswith(f"a.{ending} lacks columns")
    # For scoring only what the model reads must be there.
    assert rows(open_source([paths[0], more])).num_rows == 24


# ── refused before anything is read ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_missing_columns_are_reported_at_once(ending: str) -> None:
    source = open_source([write(f"a.{ending}", PUMP), write(f"b.{ending}", PUMP.drop_columns(["mode", "pressure"]))])
    assert refused(lambda: source.batches(SCHEMA), SchemaMismatch) == (
        f"b.{ending} lacks 2 of the model's 4 columns: 'pressure', 'mode'. Available columns: 'id', 'cycles', 'running'."
    )
    assert refused(lambda: source.batches(None, extra=("ID",)), SchemaMismatch) == (
        f"a.{ending} lacks requested columns: 'ID' (did you mean 'id'?). Available columns: 'id', 'pressure', 'cycles', 'running', 'mode'."
    )


def test_tables_without_rows() -> None:
    empty = write("x.parquet", PUMP.slice(0, 0))
    said = "no rows in x.parquet; there are columns but nothing in them."
    assert refused(open_source([empty]).read_table) == said
    assert refused(lambda: open_source([empty]).batches(SCHEMA)) == said
    arrow = write("x.arrow", PUMP.slice(0, 0))
    assert refused(lambda: list(open_source([arrow]).batches(SCHEMA))) == "no rows in x.arrow; there are columns but nothing in them."
    write("x.csv", "a,b\n")
    assert refused(lambda: open_source(["x.csv"])) == "x.csv has a header but no rows; expected a header and rows."


# ── cells that do not fit ────────────────────────────────────────────────────────────────────────────────────────────


def spoiled(path: str, name: str, values: Any, table: pa.Table = PUMP) -> Source:
    """Return a source of which row 9 of the second file is spoiled."""
    i = table.column_names.index(name)
    cells = [*table[name].to_pylist()[:8], values, *table[name].to_pylist()[9:]]
    broken = table.set_column(i, name, pa.array([None if c is None else str(c) for c in cells] if isinstance(values, str) else cells))
    return open_source([write(f"a.{path}", table), write(f"b.{path}", broken)])


COLUMNAR = "row 9 (counted from 1). Declare it in --missing-values, or leave the column out and fit again."
IN_TEXT = (
    "row 9 (line 10). Declare it in --missing-values, leave the column out and fit again, or leave such rows out with --on-error skip."
)


@pytest.mark.parametrize(("path", "place"), [("csv", IN_TEXT), ("parquet", COLUMNAR), ("arrow", COLUMNAR)])
def test_text_among_numbers_names_column_file_row_and_value(path: str, place: str) -> None:
    source = spoiled(path, "pressure", "n/a")
    said = refused(lambda: rows(source), SchemaMismatch)
    assert said == f"column 'pressure' is numeric in this model but 'n/a' in b.{path} {place}"
    declared = open_source([f.path for f in source.files], Reading(missing_values=("n/a",)))
    assert rows(declared)["pressure"].to_pylist()[12:] == [*PUMP["pressure"].to_pylist()[:8], None, *PUMP["pressure"].to_pylist()[9:]]


@pytest.mark.parametrize("path", ["csv", "parquet", "arrow"])
def test_an_infinity_names_column_file_and_row(path: str) -> None:
    assert refused(lambda: rows(spoiled(path, "pressure", float("-inf"))), SchemaMismatch).startswith(
        f"column 'pressure' must be finite but is -inf in b.{path} row 9 ("
    )


def test_a_bad_cell_far_below_is_found_and_the_rows_before_it_are_not_touched() -> None:
    lines = [f"{i / 8},{i % 5},t,auto" for i in range(200_000)]
    lines[150_000] = "1 bar,0,t,auto"
    source = open_source([write("x.csv", "\n".join(["pressure,cycles,running,mode", *lines]) + "\n")])
    seen: list[float] = []
    pressures = (batch.column("pressure").to_pylist() for batch in source.batches(SCHEMA, chunk_rows=1000))
    with pytest.raises(SchemaMismatch, match=r"but '1 bar' in x\.csv row 150,001 \(line 150,002\)\. "):
        seen.extend(itertools.chain.from_iterable(pressures))
    assert len(seen) > 10_000
    assert seen == [i / 8 for i in range(len(seen))]


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["x.csv", "x.parquet", "x.arrow"])
@settings(max_examples=15, deadline=None)
@given(chunk_rows=st.integers(1, 15), order=st.permutations(PUMP.column_names), cut=st.integers(1, 11))
def test_chunk_size_order_of_columns_and_cuts_into_files_change_no_row(path: str, chunk_rows: int, order: list[str], cut: int) -> None:
    ending = path.split(".")[1]
    whole = rows(open_source([write(path, PUMP)]), extra=("id",))
    parts = [write(f"1.{ending}", PUMP.slice(0, cut)), write(f"2.{ending}", PUMP.slice(cut).select(order))]
    batches = list(open_source(parts).batches(SCHEMA, extra=("id",), chunk_rows=chunk_rows))
    assert max(b.num_rows for b in batches) <= chunk_rows
    assert pa.Table.from_batches(batches).combine_chunks().equals(whole)


@pytest.mark.parametrize("ending", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("first_row", [0, 1, 5, 6, 11, 12])
def test_reading_goes_on_at_any_row(ending: str, first_row: int) -> None:
    source = open_source([write(f"1.{ending}", PUMP.slice(0, 5)), write(f"2.{ending}", PUMP.slice(5))])
    whole = rows(source, extra=("id",))
    rest = list(source.batches(SCHEMA, extra=("id",), chunk_rows=3, first_row=first_row))
    assert pa.Table.from_batches(rest, whole.schema).combine_chunks().equals(whole.slice(first_row).combine_chunks())


def test_a_bad_cell_is_located_wherever_reading_began() -> None:
    lines = ["1.5,0,t,auto"] * 4 + ["1 bar,0,t,auto"]
    paths = [write("1.parquet", PUMP), write("2.csv", "\n".join(["pressure,cycles,running,mode", *lines]) + "\n")]
    said = refused(lambda: list(open_source(paths).batches(SCHEMA, first_row=14)), SchemaMismatch)
    assert "but '1 bar' in 2.csv row 5 (line 6)." in said


def test_the_line_is_that_of_an_editor() -> None:
    content = '\n\npressure,cycles,running,mode\r\n1,0,t,"two\nlines"\r\n\r\n1 bar,0,t,auto\r\n'
    said = refused(lambda: list(open_source([write("x.csv", content)]).batches(SCHEMA)), SchemaMismatch)
    assert "but '1 bar' in x.csv row 2 (line 7). Write the number without its unit (1), or leave such rows out" in said


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=9))
def test_numbers_survive_csv_bit_for_bit(values: list[float | None]) -> None:
    table = pa.table({"x": pa.array([0.5, *values], pa.float64()), "k": ["k"] * (len(values) + 1)})
    schema = infer_schema(table, DataConfig())
    got = [rows(open_source([write(path, table)]), schema)["x"].to_pylist() for path in ("x.csv", "x.parquet")]
    assert got[0] == got[1] == [0.5, *values]


# ── size ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_five_thousand_columns() -> None:
    wide = pa.table({f"c{i}": [i / 2, None, 3.0] for i in range(5000)})
    schema = infer_schema(wide, DataConfig())
    for path in ("x.csv", "x.parquet"):
        assert rows(open_source([write(path, wide)]), schema).equals(wide)


@pytest.mark.parametrize("path", ["x.csv", "x.parquet"])
def test_memory_does_not_grow_with_the_rows(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_dialect, "_BLOCK", 1 << 14)  # Arrow reads some tens of blocks ahead
    monkeypatch.setattr(arrow, "BATCH_ROWS", 8192)
    whole = pa.table({"x": np.random.default_rng(0).normal(size=1_000_000)})
    write(path, whole)
    schema = infer_schema(whole.slice(0, 9), DataConfig())
    gc.collect()
    held = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - held for _ in open_source([path]).batches(schema))
    assert most < whole.nbytes / 2
