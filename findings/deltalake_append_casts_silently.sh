#!/usr/bin/env bash
# deltalake: an append of another type is cast to the table's type and loses fractions, units and size, without a word
#
# Versions: deltalake 1.6.6, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: write_deltalake(mode="append") refuses a column of another type, or takes it only where no value changes, as
#   pyarrow's cast does. Its documentation speaks of schema_mode="merge" for schemas that differ.
#
# Seen: with schema_mode left alone, doubles lose their fraction in an integer column, numbers other than 0 become True, what
#   is too large for a float is inf, a count of milliseconds becomes microseconds since 1970. NaN is refused in an integer
#   column, and a decimal with one digit more in a decimal column, but a double there is rounded. Output:
#     int64       <- double [20.5, 20.9]              [20, 20]
#     float       <- double [0.1, 1e+300]             [0.10000000149011612, inf]
#     bool        <- double [0.4, 0.0]                [True, False]
#     timestamp   <- int64 [1735689600000]            [datetime.datetime(1970, 1, 21, 2, 8, 9, 600000)]
#     decimal(2)  <- double [1.119]                   [Decimal('1.12')]
#     decimal(2)  <- decimal(3) [Decimal('1.119')]    SchemaMismatchError
#     int64       <- double [nan]                     Exception
#     pyarrow: int64 <- double [20.5, 20.9]           ArrowInvalid
#
# Why it matters: the first export of a sensor that stood at 20 makes an integer column, in pandas as in every reader of CSV
#   that guesses types. All later measurements are cut to whole degrees, which a detector then takes for the normal steps of
#   the sensor.
#
# What to do: before writing, compare the types of the data with pyarrow.schema(DeltaTable(uri).schema()) and cast where that
#   is meant; create tables with an explicit schema and not from the first file.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" - <<'PY'
import os
import sys
from datetime import datetime
from decimal import Decimal
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake


def decimal(text, digits):
    return pa.array([Decimal(text)], pa.decimal128(10, digits))


asked = {
    "int64       <- double": (pa.array([20]), pa.array([20.5, 20.9])),
    "float       <- double": (pa.array([1.0], pa.float32()), pa.array([0.1, 1e300])),
    "bool        <- double": (pa.array([True]), pa.array([0.4, 0.0])),
    "timestamp   <- int64": (pa.array([datetime(2025, 1, 1)]), pa.array([1735689600000])),
    "decimal(2)  <- double": (decimal("1.10", 2), pa.array([1.119])),
    "decimal(2)  <- decimal(3)": (decimal("1.10", 2), decimal("1.119", 3)),
    "int64       <- double, NaN": (pa.array([20]), pa.array([float("nan")])),
}
seen = []
for number, (name, (first, second)) in enumerate(asked.items()):
    path = f"t{number}"
    write_deltalake(path, pa.table({"x": first, "batch": [1] * len(first)}))
    try:
        write_deltalake(path, pa.table({"x": second, "batch": [2] * len(second)}), mode="append")
        answer = str(DeltaTable(path).to_pyarrow_table(filters=[("batch", "=", 2)])["x"].to_pylist())
    except Exception as error:
        answer = type(error).__name__
    seen.append(answer)
    print(f"{name.removesuffix(', NaN') + ' ' + str(second.to_pylist()):47} {answer}")
try:
    asked["int64       <- double"][1].cast(pa.int64())
    answer = "no error"
except Exception as error:
    answer = type(error).__name__
print(f"{'pyarrow: int64 <- double [20.5, 20.9]':47} {answer}")
day = "[datetime.datetime(1970, 1, 21, 2, 8, 9, 600000)]"
lost = ["[20, 20]", "[0.10000000149011612, inf]", "[True, False]", day, "[Decimal('1.12')]"]
sys.stdout.flush()
os._exit(int([*seen, answer] != [*lost, "SchemaMismatchError", "Exception", "ArrowInvalid"]))
PY
