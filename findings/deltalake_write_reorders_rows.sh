#!/usr/bin/env bash
# deltalake: write_deltalake stores the rows of a stream in another order than they came in, also within one file
#
# Versions: deltalake 1.6.6, pyarrow 25.0.1; CPython 3.11, Linux, two or more cores.
#
# Expected: one stream of record batches written in one commit to one file is in that file in its order, as with
#   pyarrow.parquet.write_table. Delta promises no order of rows to readers, but here there is a single file and writer.
#
# Seen: whole batches are exchanged with their neighbours, in another way in each run. Nothing is lost. Output of one run:
#     files             1
#     rows              800000, all there: True
#     in order          False
#     first row of each batch where the order breaks  [20000, 0, 40000, ...]
#
# Why it matters: "the last fifth of the rows calibrates", differences to the row before, windows of a sensor, and a join of
#   scores to rows by their place are all silently wrong after a table was copied to Delta. Every row is still there, so counts
#   and sums agree.
#
# What to do: write a time or a row number and sort by it after reading, or write the Parquet file with pyarrow and add it to
#   the log with create_write_transaction.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 pyarrow==25.0.1
cd "$dir"
HOME="$dir" "$dir/venv/bin/python" - <<'PY'
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

BATCH, BATCHES = 20_000, 40
schema = pa.schema([("row", pa.int64())])


def stream():
    for i in range(BATCHES):
        yield pa.record_batch({"row": pa.array(range(i * BATCH, (i + 1) * BATCH), pa.int64())})


for attempt in range(10):  # the order is a race, so that one run may be lucky
    write_deltalake(f"table{attempt}", pa.RecordBatchReader.from_batches(schema, stream()))
    files = DeltaTable(f"table{attempt}").file_uris()
    rows = pq.read_table(files[0])["row"].to_pylist()
    complete = sorted(rows) == list(range(BATCH * BATCHES))
    ordered = rows == sorted(rows)
    if not ordered:
        break
breaks = [rows[0]] + [b for a, b in zip(rows, rows[1:]) if b != a + 1]
print("files            ", len(files))
print("rows             ", f"{len(rows)}, all there: {complete}")
print("in order         ", ordered)
print("first row of each batch where the order breaks ", breaks[:3])
sys.exit(0 if len(files) == 1 and complete and not ordered else 1)
PY
