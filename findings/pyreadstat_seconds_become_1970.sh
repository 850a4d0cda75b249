#!/usr/bin/env bash
# pyreadstat: a time column in whole seconds (datetime64[s]) is written to SPSS, Stata and SAS files as 1970-01-01 00:00:00 in every row
#
# Versions: pyreadstat 1.3.7, pandas 3.1.1, numpy 2.4.6; CPython 3.11, Linux.
#
# Expected: a file holds the times of the data frame whatever their unit is, or the write raises.
#
# Seen: of the units that pandas has, [ms], [us] and [ns] are written and [s] is 1970-01-01 00:00:00 for all rows, in .sav, .dta, .xpt and
#   .por, without an error or a warning; besides, .sav and .por cut a fraction of a second to the microsecond below. Output:
#     [s]  sav 1970-01-01 00:00:00 | dta 1970-01-01 00:00:00 | xpt 1970-01-01 00:00:00 | por 1970-01-01 00:00:00
#     [ms] sav 2024-03-01 10:00:01 | dta 2024-03-01 10:00:01 | xpt 2024-03-01 10:00:01 | por 2024-03-01 10:00:01
#     [us] sav 2024-03-01 10:00:01 | dta 2024-03-01 10:00:01 | xpt 2024-03-01 10:00:01 | por 2024-03-01 10:00:01
#     [ns] sav 2024-03-01 10:00:01 | dta 2024-03-01 10:00:01 | xpt 2024-03-01 10:00:01 | por 2024-03-01 10:00:01
#     fraction 0.123 s: sav 122999 us, dta 123000 us
#
# Why it matters: Arrow and Parquet keep the unit of a column, and times of loggers are often whole seconds. In the copy for the
#   statistics package all rows have the same time: an order by time, a split by time and a join on it mean nothing, and nothing says so.
#
# What to do: frame[column].dt.as_unit("ns") before the write, and compare the first and last time after it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check pyreadstat==1.3.7 pandas==3.1.1 numpy==2.4.6
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import sys
import pandas as pd
import pyreadstat

FORMATS = {
    "sav": (pyreadstat.write_sav, pyreadstat.read_sav),
    "dta": (pyreadstat.write_dta, pyreadstat.read_dta),
    "xpt": (pyreadstat.write_xport, pyreadstat.read_xport),
    "por": (pyreadstat.write_por, pyreadstat.read_por),
}


def copied(frame, form):
    write, read = FORMATS[form]
    write(frame, f"copy.{form}")
    return read(f"copy.{form}")[0].iloc[:, 0]


whole = pd.DataFrame({"T": pd.to_datetime(["2024-03-01 10:00:01", "2024-03-01 10:00:02"])})
found = {}
for unit in ("s", "ms", "us", "ns"):
    found[unit] = {form: copied(whole.astype(f"datetime64[{unit}]"), form) for form in FORMATS}
    print(f"{f'[{unit}]':4}", " | ".join(f"{form} {times[0]}" for form, times in found[unit].items()))
fraction = pd.DataFrame({"T": pd.to_datetime(["2024-03-01 10:00:00.123"])}).astype("datetime64[us]")
parts = {form: int(copied(fraction, form).dt.microsecond[0]) for form in ("sav", "dta")}
print(f"fraction 0.123 s: sav {parts['sav']} us, dta {parts['dta']} us")
lost = all((times == pd.Timestamp("1970-01-01")).all() for times in found["s"].values())
kept = all(times.tolist() == whole["T"].tolist() for unit in ("ms", "us", "ns") for times in found[unit].values())
sys.exit(not lost or not kept or parts != {"sav": 122999, "dta": 123000})
PY
