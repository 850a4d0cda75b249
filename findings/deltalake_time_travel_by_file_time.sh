#!/usr/bin/env bash
# deltalake: load_as_version(time) goes by the modification time of the log files, not by the commit times in them: copies are another table
#
# Versions: deltalake 1.6.6, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: the version that was current at a time, as history() dates the commits; and an error for a time before the first one.
#
# Seen: a table that was copied without its file times (cp, aws s3 cp, a restored backup, git) answers every time before the copy with
#   version 0, without an error, although history() still shows the true commit times. With old file times any time gives the last version.
#   Output, for the time halfway between the commits of versions 1 and 2:
#     original                          version 1, rows 2
#     copied                            version 0, rows 1
#     copied, then old file times       version 2, rows 3
#     time before the first commit      version 0
#     history of the copy unchanged     True
#
# Why it matters: time travel is how a training set is read again as it was. After a move of the table the same call returns other rows.
#
# What to do: keep the version number beside the result, or look the time up in history() and load that version.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check deltalake==1.6.6 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import datetime as dt
import os
import shutil
import sys
import time
from pathlib import Path
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

for i in range(3):
    write_deltalake("table", pa.table({"x": [i]}), mode="append")
    time.sleep(1.5)
commits = sorted(entry["timestamp"] for entry in DeltaTable("table").history())
between = dt.datetime.fromtimestamp((commits[1] + commits[2]) / 2000, dt.UTC)
before = dt.datetime.fromtimestamp(commits[0] / 1000 - 3600, dt.UTC)


def at(path, when):
    table = DeltaTable(path)
    table.load_as_version(when)
    return table.version(), table.to_pyarrow_table().num_rows


shutil.copytree("table", "copy", copy_function=shutil.copyfile)
found = {"original": at("table", between), "copied": at("copy", between)}
same = [e["timestamp"] for e in DeltaTable("copy").history()] == [e["timestamp"] for e in DeltaTable("table").history()]
for file in Path("copy/_delta_log").glob("*.json"):
    os.utime(file, (1_000_000_000, 1_000_000_000))
found["copied, then old file times"] = at("copy", between)
for name, (version, rows) in found.items():
    print(f"{name:33} version {version}, rows {rows}")
early = at("table", before)[0]
print(f"{'time before the first commit':33} version {early}")
print(f"{'history of the copy unchanged':33} {same}")
sys.exit(list(found.values()) != [(1, 2), (0, 1), (2, 3)] or early != 0 or not same)
PY
