#!/usr/bin/env bash
# deltalake: a table made with deletion vectors enabled also demands `variantType` of its readers, gets no vector, and is refused by to_pyarrow_table
#
# Versions: deltalake 1.6.6, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: delta.enableDeletionVectors adds the table feature deletionVectors, and delete() marks rows in a vector.
#
# Seen: the protocol also has the reader and writer feature variantType, which nothing in the table needs; delete() writes the file again
#   without the row and no vector; and to_pyarrow_table() and to_pandas() refuse the table from its first commit on, for a feature that no
#   file of it uses. Output:
#     reader features          deletionVectors, variantType
#     schema                   x: int64
#     vectors after delete     0
#     to_pyarrow_table         DeltaProtocolError: The table has set these reader features: {'deletionVectors'} but these are not yet supported by the deltalake reader.
#     without the property     [1, 3]
#
# Why it matters: features cannot be dropped with this library, and a reader that does not know variantType (they came with Delta 4.0) must
#   refuse the table. One property in a writer's configuration cuts off the consumers, its own readers included.
#
# What to do: do not set the property with this library; where an engine set it, read with an engine that has both features.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import json
import sys
from pathlib import Path
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

rows = pa.table({"x": [1, 2, 3]})
write_deltalake("table", rows, configuration={"delta.enableDeletionVectors": "true"})
features = sorted(DeltaTable("table").protocol().reader_features)
print("reader features         ", ", ".join(features))
print("schema                  ", ", ".join(f"{f.name}: {f.type}" for f in pa.schema(DeltaTable("table").schema().to_arrow())))
DeltaTable("table").delete("x = 2")
actions = [json.loads(line) for file in Path("table/_delta_log").glob("*.json") for line in file.read_text().splitlines()]
vectors = sum("deletionVector" in action.get("add", {}) for action in actions)
print("vectors after delete    ", vectors)
refused = ""
try:
    DeltaTable("table").to_pyarrow_table()
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
print("to_pyarrow_table        ", refused)
write_deltalake("plain", rows)
DeltaTable("plain").delete("x = 2")
plain = sorted(DeltaTable("plain").to_pyarrow_table()["x"].to_pylist())
print("without the property    ", plain)
sys.exit(features != ["deletionVectors", "variantType"] or vectors or "'deletionVectors'" not in refused or plain != [1, 3])
PY
