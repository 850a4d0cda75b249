"""Values that an option may take, where several packages and ``--help``, which must not import numpy, have to agree on them."""

from typing import Literal

# What to do with a CSV row that cannot be parsed. Only a command that writes rows can also quarantine it.
ReadOnError = Literal["stop", "skip"]
LineFormat = Literal["csv", "json"]
OnError = Literal["stop", "skip", "quarantine"]
FScore = Literal["f1", "f0.5", "f2"]
# Calibration of a new threshold: conformal quantile, or the tail of a generalized Pareto distribution.
CalibrationTail = Literal["conformal", "gpd"]
# p-values valid on average over calibration sets, or for this calibration set with 90 % confidence.
PValueKind = Literal["marginal", "conditional"]
OutputFormat = Literal["csv", "parquet"]
# That of the files in an output folder, or one Delta table.
ScoreFormat = Literal["csv", "parquet", "delta"]
ExplainedRows = Literal["flagged", "all", "none"]
# Columns of an explanation by their contribution to the score, or by how unusual it is for the column.
ColumnOrder = Literal["contribution", "z"]
# Name of the threads that read and score ahead.
PREFETCH_THREADS = "prefetch"
# How to read a time: the order of day and month in text, or the unit of a number. A format of strptime has a percent sign.
DAY_FIRST, MONTH_FIRST = "day-first", "month-first"
TIME_COUNTS = ("s", "ms", "us", "ns", "labview", "filetime", "ticks", "excel", "matlab", "julian", "mjd")
TIME_DIRECTIVES = "YymdejbBhaAHIMSfpzZTRFDnt%"

# Texts that mean a missing cell unless the user turns them off. 'None' and 'n/a' are text: they are levels in many tables.
# \N is the null of PostgreSQL, MySQL, Hive and Snowflake.
MISSING_TEXT = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "#N/A", "\\N")
