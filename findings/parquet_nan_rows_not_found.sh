#!/usr/bin/env bash
# Asked for the NaN rows of a Parquet file, pyarrow finds none where the other values are constant, and DuckDB never finds one
#
# Versions: pyarrow 25.0.1 (26.0.1 does the same), duckdb 2.0.1, polars 2.1.0; CPython 3.11, Linux.
#
# Expected: a filter is_nan(x) on a file gives the rows that it gives on the same table in memory.
#
# Seen: statistics of a row group leave NaN out, so one with the values 20, 20, NaN, 20 has min = max = 20. pyarrow puts the
#   constant 20 in place of the column, is_nan(20) is false, and the row group is not read. x != x and not is_finite(x) do
#   not help. As soon as one value differs, they find the row; is_null(nan_is_null=True), the filter for "missing in either
#   way", does not find it even then. DuckDB takes isnan(x) for false wherever there are statistics, so that the mean over
#   WHERE NOT isnan(x) is NaN; isfinite(x) is right, and so are files that DuckDB wrote. polars is right.
#   Output:
#     column 20, 20, NaN, 20:
#       pyarrow  is_nan(x)                 memory [2] file []
#       pyarrow  x != x                    memory [2] file []
#       pyarrow  not is_finite(x)          memory [2] file []
#       pyarrow  is_null(x, nan_is_null)   memory [2] file []
#       pyarrow  count_rows(is_nan(x))     memory 1 file 0
#       duckdb   isnan(x)                  memory [2] file []
#       polars   x.is_nan()                memory [2] file [2]
#     column 20, 20, NaN, 21:
#       pyarrow  is_nan(x)                 memory [2] file [2]
#       pyarrow  x != x                    memory [2] file [2]
#       pyarrow  not is_finite(x)          memory [2] file [2]
#       pyarrow  is_null(x, nan_is_null)   memory [2] file []
#       pyarrow  count_rows(is_nan(x))     memory 1 file 1
#       duckdb   isnan(x)                  memory [2] file []
#       polars   x.is_nan()                memory [2] file [2]
#       duckdb   avg(x) WHERE NOT isnan(x) nan, WHERE isfinite(x) 20.333333333333332
#
# Why it matters: a stuck sensor with drop-outs, a set point, a flag stored as a double: constant but for its NaN. A check
#   "no NaN in it" passes on the file, and what reads the file next gets them. What it says depends on row group sizes.
#
# What to do: read the column and filter in memory (Table.filter), in DuckDB ask NOT isfinite(x); write missing cells as
#   null, which is counted in the statistics, or such columns without statistics (write_statistics=[other columns]).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check pyarrow==25.0.1 duckdb==2.0.1 polars==2.1.0
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import sys
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

x = pc.field("x")
asked = {
    "is_nan(x)": pc.is_nan(x),
    "x != x": x != x,
    "not is_finite(x)": ~pc.is_finite(x),
    "is_null(x, nan_is_null)": x.is_null(nan_is_null=True),
}
seen = {}
for last in (20.0, 21.0):
    table = pa.table({"x": [20.0, 20.0, float("nan"), last], "row": range(4)})
    pq.write_table(table, "t.parquet")
    rows = {}
    for name, filter in asked.items():
        rows["pyarrow", name] = (table.filter(filter)["row"], pq.read_table("t.parquet", filters=filter)["row"])
    count = (table.filter(asked["is_nan(x)"]).num_rows, ds.dataset("t.parquet").count_rows(filter=asked["is_nan(x)"]))
    base = duckdb.connect()
    base.register("in_memory", table)
    query = "SELECT row FROM {} WHERE isnan(x)"
    rows["duckdb", "isnan(x)"] = [base.sql(query.format(f)).to_arrow_table()["row"] for f in ("in_memory", "'t.parquet'")]
    frames = pl.from_arrow(table).lazy(), pl.scan_parquet("t.parquet")
    rows["polars", "x.is_nan()"] = [f.filter(pl.col("x").is_nan()).collect()["row"].to_arrow() for f in frames]
    print(f"column 20, 20, NaN, {last:.0f}:")
    for (library, name), (memory, file) in rows.items():
        print(f"  {library:8} {name:25} memory {memory.to_pylist()} file {file.to_pylist()}")
        seen[last, library, name] = (memory.to_pylist(), file.to_pylist())
        if name == "is_null(x, nan_is_null)":
            print(f"  pyarrow  {'count_rows(is_nan(x))':25} memory {count[0]} file {count[1]}")
    seen[last, "count"] = count
means = [base.sql(f"SELECT avg(x) FROM 't.parquet' WHERE {f}").fetchall()[0][0] for f in ("NOT isnan(x)", "isfinite(x)")]
print(f"  duckdb   avg(x) WHERE NOT isnan(x) {means[0]}, WHERE isfinite(x) {means[1]}")
missed = {key for key, (memory, file) in seen.items() if memory != file}
lost = {(20.0, "pyarrow", name) for name in asked} | {(21.0, "pyarrow", "is_null(x, nan_is_null)")}
lost |= {(20.0, "duckdb", "isnan(x)"), (21.0, "duckdb", "isnan(x)"), (20.0, "count")}
sys.exit(missed != lost or means[0] == means[0])
PY
