#!/usr/bin/env bash
# asammdf: the CSV export shifts each channel group to time 0 on its own, the Parquet export leaves out all state channels
#
# Versions: asammdf 8.8.28, pandas 3.1.1, numpy 2.4.6, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: one recording has one clock. CSV files of its groups can be joined on "timestamps", and a Parquet file has the
#   channels that to_dataframe() has.
#
# Seen: export("csv") writes one file for each group and subtracts each group's own first time stamp, so what happened at
#   10 s is at 0 s, beside samples of other groups that are 10 s older; export("csv", single_time_base=True) has one clock.
#   export("parquet") has one clock, but no channel whose values are text: neither strings nor numbers with a value-to-text
#   conversion, which is how states and error codes are stored. Nothing is said about either. Output:
#     recorded            pressure at [0.0, 1.0, 2.0], valve and mode at [10.0, 11.0]
#     csv, group 0        timestamps [0.0, 1.0, 2.0] of ['pressure']
#     csv, group 1        timestamps [0.0, 1.0] of ['mode', 'speed', 'valve']
#     csv, one time base  timestamps [0.0, 1.0, 2.0, 10.0, 11.0] of ['mode', 'pressure', 'speed', 'valve']
#     to_dataframe        timestamps [0.0, 1.0, 2.0, 10.0, 11.0] of ['mode', 'pressure', 'speed', 'valve']
#     parquet             timestamps [0.0, 1.0, 2.0, 10.0, 11.0] of ['pressure', 'speed']
#
# Why it matters: rows that never happened together are scored as one, and groups start apart whenever a bus wakes up late.
#   A table without its states looks complete: the model learns speeds without the mode that explains them.
#
# What to do: export("csv", time_from_zero=False), or one time base; for Parquet, raw=True, which keeps the numbers of the
#   states, or to_dataframe() and then to_parquet(), with bytes decoded; compare the columns with the channels of the file.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check asammdf==8.8.28 pandas==3.1.1 numpy==2.4.6 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import csv
import glob
import sys
import numpy as np
import pyarrow.parquet as pq
from asammdf import MDF, Signal

early, late = np.arange(3.0), np.array([10.0, 11.0])
text = {"val_0": 0, "val_1": 1, "text_0": b"shut", "text_1": b"open"}
made = MDF(version="4.10")
made.append([Signal(np.array([1.5, 1.6, 1.7]), early, name="pressure")])
made.append(
    [
        Signal(np.array([0, 1], dtype="uint8"), late, name="valve", conversion=text),
        Signal(np.array([b"auto", b"hand"]), late, name="mode", encoding="utf-8"),
        Signal(np.array([900, 950], dtype="uint16"), late, name="speed"),
    ]
)
made.save("log.mf4")
log = MDF("log.mf4")
print(f"recorded            pressure at {early.tolist()}, valve and mode at {late.tolist()}")
seen = {}


def show(name, times, columns):
    seen[name] = (times, sorted(columns))
    print(f"{name:19} timestamps {times} of {sorted(columns)}")


def read(path):
    with open(path, newline="") as file:
        first, *rows = csv.reader(file)
    return [float(row[0]) for row in rows if row], first[1:]


log.export("csv", "groups.csv")
for number, path in enumerate(sorted(glob.glob("groups*.csv"))):
    show(f"csv, group {number}", *read(path))
log.export("csv", "one.csv", single_time_base=True)
show("csv, one time base", *read(glob.glob("one*.csv")[0]))
frame = log.to_dataframe()
show("to_dataframe", frame.index.tolist(), frame.columns.tolist())
log.export("parquet", "log.parquet")
table = pq.read_table("log.parquet").to_pandas().reset_index()
show("parquet", table["timestamps"].tolist(), [c for c in table.columns if c not in ("timestamps", "index")])
log.export("csv", "asis.csv", time_from_zero=False)
asis = [read(path)[0] for path in sorted(glob.glob("asis*.csv"))]
shifted = seen["csv, group 0"][0] == [0.0, 1.0, 2.0] and seen["csv, group 1"] == ([0.0, 1.0], ["mode", "speed", "valve"])
whole = seen["csv, one time base"][0] == seen["to_dataframe"][0] == seen["parquet"][0] == [0.0, 1.0, 2.0, 10.0, 11.0]
states = seen["to_dataframe"][1] == ["mode", "pressure", "speed", "valve"] and seen["parquet"][1] == ["pressure", "speed"]
sys.exit(not shifted or not whole or not states or asis != [early.tolist(), late.tolist()])
PY
