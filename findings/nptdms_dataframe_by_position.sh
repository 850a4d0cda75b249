#!/usr/bin/env bash
# npTDMS: as_dataframe() puts channels of different sample rates side by side by their row number; time_index=True moves late ones
#
# Versions: npTDMS 1.13.0, pandas 3.1.1, numpy 2.4.6; CPython 3.11, Linux.
#
# Expected: values in one row were recorded at the same time, since the file has the start and the step of each channel (wf_start_time,
#   wf_increment); or a frame of channels that have none in common is refused.
#
# Seen: without arguments the n-th sample of each channel is in row n and the shorter channel ends in NaN. With time_index=True steps are
#   right but each channel begins at 0, whenever it began. Only absolute_time=True besides gives the recording. All values of the two
#   channels here are the second of the day at which they were taken. Output:
#     as_dataframe()                              rows  6, apart by up to 6.0 s
#     as_dataframe(time_index=True)               rows  6, apart by up to 4.0 s
#     as_dataframe(time_index, absolute_time)     rows  8, apart by up to 0.0 s
#
# Why it matters: `TdmsFile.read(path).as_dataframe().to_csv(...)` is the usual way from LabVIEW to a table. Rows then join a temperature
#   with a pressure of another minute; what a model learns as a relation between sensors is one of sample numbers.
#
# What to do: as_dataframe(time_index=True, absolute_time=True), then one row a time stamp: forward fill or resample.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check npTDMS==1.13.0 pandas==3.1.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import sys
import numpy as np
from nptdms import ChannelObject, TdmsFile, TdmsWriter


def channel(name, start, step, count):
    """A channel whose samples are the seconds since midnight at which they were taken."""
    times = {"wf_start_time": np.datetime64("2024-03-01") + np.timedelta64(start, "s"), "wf_increment": float(step), "wf_start_offset": 0.0}
    return ChannelObject("line", name, start + step * np.arange(float(count)), properties={**times, "wf_samples": count})


with TdmsWriter("log.tdms") as writer:
    writer.write_segment([channel("fast", 0, 1, 6), channel("slow", 4, 2, 3)])
file = TdmsFile.read("log.tdms")
ways = {
    "as_dataframe()": {},
    "as_dataframe(time_index=True)": {"time_index": True},
    "as_dataframe(time_index, absolute_time)": {"time_index": True, "absolute_time": True},
}
found = []
for name, options in ways.items():
    frame = file.as_dataframe(**options)
    both = frame.dropna()
    apart = float((both.iloc[:, 0] - both.iloc[:, 1]).abs().max())
    found.append((len(frame), apart))
    print(f"{name:43} rows {len(frame):2}, apart by up to {apart:.1f} s")
sys.exit(found != [(6, 6.0), (6, 4.0), (8, 0.0)])
PY
