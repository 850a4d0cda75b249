#!/usr/bin/env bash
# pyiceberg: a float partition that holds 0.0 and -0.0 doubles the rows; one that holds NaN cannot be written
#
# Versions: pyiceberg 0.12.0 with the SQL catalog, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: append() of n rows to a table partitioned by a double column adds n rows, whatever the doubles are. 0.0 and
#   -0.0 are either one partition or two, and NaN is a partition of its own, as null is.
#
# Seen: the rows are grouped by partition value, where 0.0 and -0.0 are two groups, and each group is then collected by
#   comparing with its value, where they are equal: both groups get all rows of both. Four rows become six, with no warning,
#   and row count and snapshot summary say six too. NaN equals nothing, so its group is empty and append() raises
#   ZeroDivisionError. Output:
#     appended 4 rows, scanned 6: n = [0, 1, 2, 2, 3, 3]
#     snapshot summary: added-records 6, data files 4
#     files: {'p': '-0.0'} 2 rows, {'p': '0.0'} 2 rows, {'p': '0.5'} 1 rows, {'p': '1.5'} 1 rows
#     a NaN among the partition values: ZeroDivisionError
#
# Why it matters: set points and rounded measurements are used as partitions, and rounding makes negative zeros:
#   round(-0.04, 1) is -0.0. Doubled rows halve the share of alarms and leak from a training part into a calibration part.
#
# What to do: partition by an integer or a decimal, or add 0.0 to the column before append() (-0.0 + 0.0 is 0.0) and turn NaN
#   into null; compare the rows appended with "added-records" of the snapshot.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check "pyiceberg[sql-sqlite]==0.12.0" pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import sys
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DoubleType, LongType, NestedField

catalog = SqlCatalog("c", uri="sqlite:///catalog.db", warehouse="file:warehouse")
catalog.create_namespace("plant")
schema = Schema(NestedField(1, "p", DoubleType(), required=False), NestedField(2, "n", LongType(), required=False))
spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "p"))

table = catalog.create_table("plant.zero", schema, partition_spec=spec)
setpoint = [0.5, 1.5, round(0.04, 1), round(-0.04, 1)]
table.append(pa.table({"p": setpoint, "n": range(4)}))
n = sorted(table.scan().to_arrow()["n"].to_pylist())
added = table.current_snapshot().summary["added-records"]
files = [(str(t.file.partition[0]), t.file.record_count) for t in table.scan().plan_files()]
print(f"appended {len(setpoint)} rows, scanned {len(n)}: n = {n}")
print(f"snapshot summary: added-records {added}, data files {len(files)}")
print("files:", ", ".join(f"{{'p': {p!r}}} {k} rows" for p, k in sorted(files)))

table = catalog.create_table("plant.nan", schema, partition_spec=spec)
try:
    table.append(pa.table({"p": [1.5, float("nan")], "n": range(2)}))
    seen = "no error"
except Exception as error:
    seen = type(error).__name__
print("a NaN among the partition values:", seen)
sys.exit(n != [0, 1, 2, 2, 3, 3] or added != "6" or seen != "ZeroDivisionError")
PY
