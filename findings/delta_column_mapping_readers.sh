#!/usr/bin/env bash
# Delta column mapping: to_pyarrow_table() of deltalake gives nulls for a table that deltalake wrote, DuckDB for its partition
#
# Versions: deltalake 1.6.6, polars 2.1.0, pyarrow 25.0.1, duckdb 1.5.5 with its delta extension 1.5.5; CPython 3.11, Linux.
#
# Expected: a reader that does not know column mapping (reader version 2, what Databricks sets for renamed columns and for
#   blanks in names) refuses the table, as deltalake refuses one with deletion vectors. Readers that open it agree.
#
# Seen: in the files the columns have other names. to_pyarrow_table(), to_pyarrow_dataset() and to_pandas() look for the
#   logical ones, find none and fill in nulls; row count and partition columns are right, a filter finds no row. QueryBuilder
#   and scan() of the same library are right. DuckDB has the columns and a null for the partition. polars refuses. Output:
#     write_deltalake, then to_pyarrow_table  {'temperature': [None, None], 'unit': [None, None], 'day': [1, 2]}
#     to_pandas                               {'temperature': [nan, nan], 'unit': [nan, nan], 'day': [1, 2]}
#     filter temperature > 0                  0 rows
#     QueryBuilder                            {'temperature': [20.5, 21.0], 'unit': ['a', 'b'], 'day': [1, 2]}
#     scan                                    {'temperature': [20.5, 21.0], 'unit': ['a', 'b'], 'day': [1, 2]}
#     duckdb delta_scan                       {'temperature': [20.5, 21.0], 'unit': ['a', 'b'], 'day': [None, None]}
#     polars.read_delta                       DeltaProtocolError
#
# Why it matters: nulls are what a detector is made for. A fit learns from a table of missing cells that missing is normal,
#   and scoring flags nothing or everything; after a rename, only the renamed column is missing, and nobody looks for that.
#
# What to do: read with QueryBuilder or scan(), or refuse tables whose metadata().configuration holds
#   "delta.columnMapping.mode" with another value than "none".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 polars==2.1.0 pyarrow==25.0.1 pandas==3.1.1 \
    duckdb==1.5.5 duckdb-extensions==1.5.5 duckdb-extension-delta==1.5.5
cd "$dir"
HOME="$dir" "$dir/venv/bin/python" - <<'PY'
import os
import sys
import duckdb
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from duckdb_extensions import import_extension

data = pa.table({"temperature": [20.5, 21.0], "unit": ["a", "b"], "day": [1, 2]})
write_deltalake("t", data, partition_by=["day"], configuration={"delta.columnMapping.mode": "name"})
table = DeltaTable("t")
connection = duckdb.connect()
import_extension("delta", con=connection)
connection.sql("LOAD delta")
in_duckdb = f"SELECT temperature, unit, day FROM delta_scan('{os.path.abspath('t')}')"


def shown(rows):
    rows = sorted(pa.table(rows).to_pylist(), key=lambda row: row["day"])
    return str({name: [row[name] for row in rows] for name in rows[0]})


readers = {
    "write_deltalake, then to_pyarrow_table": lambda: shown(table.to_pyarrow_table()),
    "to_pandas": lambda: str(table.to_pandas().sort_values("day").to_dict("list")),
    "filter temperature > 0": lambda: f"{table.to_pyarrow_table(filters=[('temperature', '>', 0.0)]).num_rows} rows",
    "QueryBuilder": lambda: shown(QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all()),
    "scan": lambda: shown(table.scan()),
    "duckdb delta_scan": lambda: str(connection.sql(in_duckdb + " ORDER BY 1").to_arrow_table().to_pydict()),
    "polars.read_delta": lambda: str(pl.read_delta("t").to_dict(as_series=False)),
}
seen = {}
for name, read in readers.items():
    try:
        seen[name] = read()
    except Exception as error:
        seen[name] = type(error).__name__
    print(f"{name:39} {seen[name]}")
right = str(data.to_pydict())
nulls = right.replace("[20.5, 21.0]", "[None, None]").replace("['a', 'b']", "[None, None]")
no_day = right.replace("[1, 2]", "[None, None]")
expected = [nulls, nulls.replace("None", "nan"), "0 rows", right, right, no_day, "DeltaProtocolError"]
sys.stdout.flush()
os._exit(int(list(seen.values()) != expected))
PY
