#!/usr/bin/env bash
# DuckDB: COPY to Parquet turns the sum of whole numbers into a double and an interval into bytes; CSV has both right
#
# Versions: DuckDB 2.0.1, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: what a query returns is what a Parquet file of it holds, as in CSV.
#
# Seen: sum() of BIGINT is HUGEINT, for which Parquet has no type: it is written as DOUBLE, exact up to 2^53 alone, without a word. An
#   INTERVAL becomes the 12 bytes of Parquet's legacy INTERVAL, which pyarrow reads as fixed_size_binary. Output:
#     query    9007199254740993 0:05:00
#     csv      9007199254740993 00:05:00
#     parquet  9007199254740992.0 b'\x00\x00\x00\x00\x00\x00\x00\x00\xe0\x93\x04\x00'
#     types    double fixed_size_binary[12]
#
# Why it matters: sums of counters in bytes or of ids by 1,000 pass 2^53, and integers come back as floats, so a comparison with the
#   integers of the source fails by one; a duration becomes a column that a reader of tables cannot use and leaves out.
#
# What to do: sum(x)::BIGINT, which raises where it does not fit, and epoch(interval) for a duration in seconds.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check duckdb==2.0.1 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import sys
from pathlib import Path
import duckdb
import pyarrow.parquet as pq

base = duckdb.connect()
query = "SELECT sum(x) AS total, INTERVAL 5 MINUTE AS step FROM (VALUES (9007199254740992::BIGINT), (1::BIGINT)) t(x)"
row = base.execute(query).fetchone()
base.execute(f"COPY ({query}) TO 'out.csv' (FORMAT csv, HEADER)")
base.execute(f"COPY ({query}) TO 'out.parquet' (FORMAT parquet)")
text = Path("out.csv").read_text().splitlines()[1]
table = pq.read_table("out.parquet")
total, step = table["total"][0].as_py(), table["step"][0].as_py()
types = [str(table.schema.field(name).type) for name in ("total", "step")]
print("query   ", *row)
print("csv     ", *text.split(","))
print("parquet ", total, step)
print("types   ", *types)
same = row[0] == 9007199254740993 and text == "9007199254740993,00:05:00" and total == 9007199254740992.0
sys.exit(not same or types != ["double", "fixed_size_binary[12]"])
PY
