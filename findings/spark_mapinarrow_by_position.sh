#!/usr/bin/env bash
# Spark mapInArrow: batches are read by position, so columns in another order are swapped and surplus ones dropped, silently
#
# Versions: pyspark 4.3.0 (needs Java 17 or newer), pandas 2.3.3, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: the schema of mapInArrow(function, schema) names the columns, Arrow batches carry names, and mapInPandas and
#   applyInArrow match by name: a batch with other names or another order is matched by name or refused.
#
# Seen: names of the batches are not looked at. Columns of the same type in another order come out under each other's name,
#   and those behind the last one of the schema are dropped. Only a type that does not fit is an error. Output:
#     mapInArrow, p_value before score    {'score': 0.01, 'p_value': 42.0}
#     mapInArrow, row before both         {'score': 7.0, 'p_value': 42.0}
#     mapInArrow, names a and b           {'score': 0.01, 'p_value': 42.0}
#     mapInPandas, p_value before score   {'score': 42.0, 'p_value': 0.01}
#     applyInArrow, p_value before score  {'score': 42.0, 'p_value': 0.01}
#
# Why it matters: a scoring function that yields p_value before score, or one column more in a new release of the model,
#   gives a full table of plausible numbers under the wrong names: both are doubles.
#
# What to do: end the function with batch.select([names of the schema]), in its order.
set -euo pipefail
command -v java > /dev/null || { echo "needs Java 17 or newer" >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check pyspark==4.3.0 pandas==2.3.3 pyarrow==25.0.1 numpy==2.4.6
cd "$dir"
export PYSPARK_PYTHON="$dir/venv/bin/python" SPARK_LOCAL_IP=127.0.0.1
"$dir/venv/bin/python" - 2> "$dir/log" <<'PY' || { tail -n 3 "$dir/log" >&2; exit 1; }
import sys
import pyarrow as pa
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
source = spark.createDataFrame([(1,)], "row bigint")
schema = "score double, p_value double"


def swapped(batches):
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"p_value": [0.01], "score": [42.0]})


def surplus(batches):
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"row": [7.0], "score": [42.0], "p_value": [0.01]})


def other(batches):
    for batch in batches:
        yield pa.RecordBatch.from_pydict({"a": [0.01], "b": [42.0]})


def pandas_swapped(frames):
    for frame in frames:
        yield next(swapped([frame])).to_pandas()


def grouped_swapped(table):
    return pa.Table.from_batches(list(swapped([table])))


asked = {
    "mapInArrow, p_value before score": lambda: source.mapInArrow(swapped, schema),
    "mapInArrow, row before both": lambda: source.mapInArrow(surplus, schema),
    "mapInArrow, names a and b": lambda: source.mapInArrow(other, schema),
    "mapInPandas, p_value before score": lambda: source.mapInPandas(pandas_swapped, schema),
    "applyInArrow, p_value before score": lambda: source.groupBy("row").applyInArrow(grouped_swapped, schema),
}
seen = {}
for name, frame in asked.items():
    try:
        seen[name] = frame().collect()[0].asDict()
    except Exception as error:
        seen[name] = type(error).__name__
    print(f"{name:35} {seen[name]}")
spark.stop()
wrong, right = {"score": 0.01, "p_value": 42.0}, {"score": 42.0, "p_value": 0.01}
sys.exit(list(seen.values()) != [wrong, {"score": 7.0, "p_value": 42.0}, wrong, right, right])
PY
