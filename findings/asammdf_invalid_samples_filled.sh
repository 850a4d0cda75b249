#!/usr/bin/env bash
# asammdf: samples that an MDF file marks as invalid come out of to_dataframe() and of its exports as plausible values
#
# Versions: asammdf 8.8.28, pandas 3.1.1, numpy 2.4.6, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: a sample whose invalidation bit is set is NaN in the table.
#
# Seen: invalid samples are dropped and the gap is closed by a straight line between its neighbours (by the last value for
#   integers), with no column or count that tells; a gap at an end gets the nearest value, also where
#   interpolate_outwards_with_nan=True is to have NaN outside of what a channel holds. That is so on the channel's own time
#   stamps, where nothing needs to be resampled. Output:
#     recorded       time stamps 0 to 5, invalid at 0, 2, 3 (raw -9999)
#     get()          [1.0, 4.0, 5.0] at [1.0, 4.0, 5.0]
#     to_dataframe   [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
#     ... outwards   [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
#     ... no interp. [nan, 1.0, nan, nan, 4.0, 5.0]
#     parquet export [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
#     csv export     [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
#     integer        [7, 7, 7, 7, 8, 8] from 7 at 1 and 8 at 4 and 5
#
# Why it matters: loggers mark a sample as invalid when the sensor or the bus fails. The failure, which a detector is there
#   for, is the smoothest stretch of the table, and as training data it teaches that straight lines are normal.
#
# What to do: to_dataframe(use_interpolation=False), which has NaN there (and one row for each time stamp of any channel), or
#   get() for each channel; keep the share of rows that are not observed.
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

times = np.arange(6.0)
invalid = np.array([1, 0, 1, 1, 0, 0], dtype=bool)
temperature = np.where(invalid, -9999.0, times)
state = np.where(invalid, 255, np.where(times < 4, 7, 8)).astype("uint8")
made = MDF(version="4.10")
channels = {"temperature": temperature, "state": state}
made.append([Signal(samples, times, name=name, invalidation_bits=invalid) for name, samples in channels.items()])
made.save("log.mf4")
log = MDF("log.mf4")
signal = log.get("temperature")
frame = log.to_dataframe()
log.export("parquet", "log.parquet")
log.export("csv", "log.csv")
with open(glob.glob("log*.csv")[0], newline="") as file:
    rows = list(csv.DictReader(file))
lists = {
    "to_dataframe": frame["temperature"].tolist(),
    "... outwards": log.to_dataframe(interpolate_outwards_with_nan=True)["temperature"].tolist(),
    "... no interp.": log.to_dataframe(use_interpolation=False)["temperature"].tolist(),
    "parquet export": pq.read_table("log.parquet")["temperature"].to_pylist(),
    "csv export": [float(row["temperature"]) for row in rows],
}
print("recorded       time stamps 0 to 5, invalid at 0, 2, 3 (raw -9999)")
print(f"{'get()':14} {signal.samples.tolist()} at {signal.timestamps.tolist()}")
for name, values in lists.items():
    print(f"{name:14} {values}")
print(f"{'integer':14} {frame['state'].tolist()} from 7 at 1 and 8 at 4 and 5")
filled = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0]
same = all(lists[name] == filled for name in ("to_dataframe", "... outwards", "parquet export", "csv export"))
kept = np.isnan(lists["... no interp."]).tolist() == invalid.tolist()
sys.exit(not same or not kept or frame["state"].tolist() != [7, 7, 7, 7, 8, 8])
PY
