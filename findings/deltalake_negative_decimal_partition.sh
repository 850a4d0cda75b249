#!/usr/bin/env bash
# deltalake: one negative decimal in a partition column makes the whole Delta table unreadable
#
# Versions: deltalake 1.6.6, polars 2.1.0, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: write_deltalake() partitioned by a decimal(10,2) column writes -1.05 as "-1.05", or refuses it and leaves the
#   table as it was.
#
# Seen: whole part and fraction are written apart, each with its own sign: -1.05 becomes "-1.-5" and -0.05 "0.-5" in the
#   table's log. The call raises, but behind the commit: the version is there, and from then on every look at the table
#   raises the same error, at rows that were fine before too, in every reader of the library and in polars. Output:
#     version 0, set points 1.05 and 0.05: 2 rows
#     append of -1.05: DeltaError: Kernel error: Failed to parse value '-1.-5' as 'decimal(10,2)'
#     partitionValues in the log of version 1: {'setpoint': '-1.-5'}
#     to_pyarrow_table: Failed to parse value '-1.-5'
#     QueryBuilder: Failed to parse value '-1.-5'
#     count: Failed to parse value '-1.-5'
#     polars.read_delta: Failed to parse value '-1.-5'
#     read at version 0: 2 rows
#
# Why it matters: exports of historians hold set points and classes as decimals, and temperatures below zero come with the
#   first cold day. The job that wrote the row sees an error and may try again; all jobs that read the table stop.
#
# What to do: partition by an integer or by text made of the decimal. A table that is hit can be read at the version before,
#   DeltaTable(uri, version=N - 1), and written anew from there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 polars==2.1.0 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import json
import os
import re
import sys
from decimal import Decimal
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake


def part(*values):
    decimals = pa.array([Decimal(v) for v in values], pa.decimal128(10, 2))
    return pa.table({"setpoint": decimals, "n": range(len(values))})


write_deltalake("t", part("1.05", "0.05"), partition_by="setpoint")
print("version 0, set points 1.05 and 0.05:", DeltaTable("t").count(), "rows")
try:
    write_deltalake("t", part("-1.05"), mode="append", partition_by="setpoint")
    raised = ""
except Exception as error:
    raised = f"{type(error).__name__}: {str(error).splitlines()[0]}"
print("append of -1.05:", raised)
with open("t/_delta_log/00000000000000000001.json") as log:
    values = [json.loads(line)["add"]["partitionValues"] for line in log if '"add"' in line]
print("partitionValues in the log of version 1:", *values)
readers = {
    "to_pyarrow_table": lambda: DeltaTable("t").to_pyarrow_table(),
    "QueryBuilder": lambda: QueryBuilder().register("t", DeltaTable("t")).execute("SELECT * FROM t").read_all(),
    "count": lambda: DeltaTable("t").count(),
    "polars.read_delta": lambda: pl.read_delta("t"),
}
failed = 0
for name, read in readers.items():
    try:
        read()
        print(f"{name}: reads it")
    except Exception as error:
        found = re.search(r"Failed to parse value '-1\.-5'", str(error))
        failed += found is not None
        print(f"{name}: {found.group() if found else error}")
before = DeltaTable("t", version=0).to_pyarrow_table().num_rows
print("read at version 0:", before, "rows")
sys.stdout.flush()
os._exit(int(values != [{"setpoint": "-1.-5"}] or not raised or failed != len(readers) or before != 2))
PY
