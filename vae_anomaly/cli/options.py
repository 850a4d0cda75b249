"""Options of the commands: name, help text, section and parser of each, declared once.

Defaults come from ``config`` and ``workflow.requests``; the help texts quote them. ``Any`` is the type of an option whose value is made by
a parser of this module.
"""

import csv
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vae_anomaly.choices import (
    MISSING_TEXT,
    CalibrationTail,
    ColumnOrder,
    ExplainedRows,
    FScore,
    LineFormat,
    OnError,
    PValueKind,
    ReadOnError,
    ScoreFormat,
)
from vae_anomaly.config import CalibrationConfig, CalibrationMethod, Config, DataConfig, Prior, SeriesConfig, TrackingConfig, TrainConfig
from vae_anomaly.errors import ConfigError

BYTE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

# ── parsers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return unique names from a line of CSV; a default, which is a tuple already, is returned as it is. Raises ConfigError.

    >>> names('a, "b,c"')
    ('a', 'b,c')
    """
    if isinstance(text, tuple):
        return text
    try:
        cells = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        raise ConfigError(
            f"names must be on one line, separated by commas; got {text!r}. Put a name that contains a line break in double quotes."
        ) from None
    return tuple(dict.fromkeys(cell.strip() for cell in cells))


def number(text: str) -> float:
    """Return a number. Raises BadParameter, which suggests the decimal point if the text has a decimal comma.

    >>> number("0.05")
    0.05
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        suggestion = float(text.replace(",", ".", 1))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number; expected one such as 0.05") from None
    raise typer.BadParameter(f"{text!r} is not a number; use a decimal point: {suggestion:g}")


def row_numbers(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """Return unique row numbers: ``'3,17'`` is (3, 17). Raises ConfigError."""
    if isinstance(text, tuple):
        return text
    digits = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in digits):
        raise ConfigError(f"--rows must be whole numbers from 0, separated by commas; got {text!r}")
    return tuple(dict.fromkeys(int(part) for part in digits))


def top_columns(text: str | int) -> int | None:
    """Return the number of columns in an explanation; None for all of them. Raises ConfigError."""
    word = str(text).strip().lower()
    if word == "all":
        return None
    if not word.isdecimal() or int(word) < 1:
        raise ConfigError(f"--top must be a whole number from 1 or 'all'; got {text!r}")
    return int(word)


def parse_size(text: str) -> int:
    """Parse a size in bytes: kB, MB, GB are powers of 1,000, KiB, MiB, GiB of 1,024. Raises ConfigError for any other text.

    >>> parse_size("1.5GB"), parse_size("2GiB")
    (1500000000, 2147483648)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?i?)b?\s*", text, flags=re.IGNORECASE)
    if match and not match[2] and not text.strip().lower().endswith("b") and 0 < float(match[1]) < BYTE_UNITS["m"]:
        raise ConfigError(f"--memory-limit {match[1]} has no unit, and as bytes it is too small; write {match[1]}MB or {match[1]}GB.")
    unit = BYTE_UNITS.get(match[2].lower()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(f"--memory-limit must be a size such as 500MB, 1.5GB or 2GiB; got {text!r}")
    return size


def duration(text: str | float) -> float:
    """Return a duration in seconds: ``'90s'``, ``'10min'``, ``'2h'``, ``'1d'``; a plain number as it is. Raises ConfigError.

    >>> duration("10min"), duration("0.5h"), duration("100")
    (600.0, 1800.0, 100.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|h|d|)\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--max-gap must be a time such as 90s, 10min, 2h or 1d; got {text!r}")
    return float(match[1]) * {"ms": 1e-3, "min": 60.0, "h": 3600.0, "d": 86_400.0}.get(match[2], 1.0)


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
_data = partial(typer.Option, rich_help_panel="Data")
_column = partial(_data, metavar="COLUMN")
_list = partial(_data, metavar="A,B", parser=names, show_default=False)
Data = Annotated[
    list[str], typer.Argument(help="Files, folders, globs or URIs: CSV, TSV, Parquet, Arrow.", metavar="DATA", show_default=False)
]
LabelColumn = Annotated[str | None, _column(help="Label column: the fit uses normal rows only; the others evaluate it.")]
TrueLabels = Annotated[str | None, _column("--label-column", help="Label column.", show_default="that of the fit")]
CalibrationLabels = Annotated[
    str | None,
    _column("--label-column", help="Label column: normal rows calibrate; the others only help to choose the rate.",
            show_default="that of the fit, if present"),
]  # fmt: skip
NormalLabels = Annotated[
    Any,
    _list("--normal-label", help="Labels of normal rows, comma-separated.",
          show_default=", ".join(filter(None, DataConfig().normal_labels)) + " or empty"),
]  # fmt: skip
IdColumns = Annotated[Any, _list(help="Key columns, comma-separated: not used by the model, copied to the output.")]
Exclude = Annotated[Any, _list(help="Columns to exclude, comma-separated.")]
Include = Annotated[Any, _list(help="Columns to keep even if they look like IDs, comma-separated.")]
MissingValues = Annotated[
    Any, _list(help="Texts that mean a missing value, comma-separated; an empty cell is always missing.", metavar="'?,Bad'")
]
TimeColumn = Annotated[
    str | None,
    _column(
        help="Timestamp column: the rows are time series. Their past is part of the score, which is smoothed, and blocks of time calibrate."
    ),
]
SpanOption = Annotated[
    int | None,
    _data(metavar="ROWS", help="Rows over which the scores of a time series are smoothed; 1: none.", show_default=str(SeriesConfig().span)),
]
Events = Annotated[
    Path | None,
    _data(metavar="FILE", help="File for the events of rows in time, CSV or Parquet: alarms that belong together, with start, peak, end "
          "and columns.",
          show_default=False),
]  # fmt: skip
MuteFile = Annotated[
    str | None,
    _data("--mute", metavar="FILE", help="Acknowledged ranges of time, columns start and end and the group column: events that begin in "
          "them are left out.", show_default=False),
]  # fmt: skip
StreamData = Annotated[str, typer.Argument(help="A growing file of CSV or JSON lines, or - for standard input.", metavar="FILE")]
StreamOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File for the answers.", metavar="FILE", show_default="standard output", rich_help_panel="Output"),
]
LineFormatOption = Annotated[LineFormat | None, _data("--format", help="Format of the lines.", show_default="that of the first line")]
UntilEnd = Annotated[bool, _data("--until-end", help="Stop at the end of the file instead of waiting for more.")]
StateOption = Annotated[
    Path | None,
    _data("--state", metavar="FILE", help="File that keeps where the time series stand from one command to the next.", show_default=False),
]
MaxGap = Annotated[
    Any,
    _data("--max-gap", metavar="TIME", parser=duration, show_default="20 times the usual step",
          help="Longest step in a time series, such as 90s, 10min or 2h; after a longer one it starts anew."),
]  # fmt: skip
RateTime = Annotated[str | None, _column("--time-column", help="Timestamp column, to count rows per day.", show_default="that of the fit")]
GroupBy = Annotated[
    str | None,
    _column(help="Column that names the machine or other group of a row: one threshold per group, and with --time-column one time series "
            "per group."),
]  # fmt: skip
_ON_ERROR = "What to do with a malformed CSV row: stop, or skip it and report how many were skipped."
OnErrorFit = Annotated[ReadOnError | None, _data("--on-error", help=_ON_ERROR, show_default=DataConfig().on_error)]
OnErrorRead = Annotated[ReadOnError, _data("--on-error", help=_ON_ERROR)]
OnErrorScore = Annotated[
    OnError, _data("--on-error", help="What to do with a malformed CSV row: stop, skip it, or also write it to OUTPUT.quarantine.csv.")
]
DefaultMissing = Annotated[
    bool | None,
    _data("--default-missing/--no-default-missing",
          help="Whether these texts mean a missing value in columns of text, unless they are levels of the model: "
          + ", ".join(filter(None, MISSING_TEXT)) + ". In columns of numbers they always do.",
          show_default="yes, or as in the fit"),
]  # fmt: skip
HeaderRow = Annotated[
    int | None, _data(min=1, help="Line of the column names, from 1; lines above it are ignored.", metavar="N", show_default="found")
]
NoHeader = Annotated[bool | None, _data("--no-header", help="The first line is data; the columns become column_1, column_2, …")]
SkipRows = Annotated[
    int | None, _data(min=0, help="Rows below the header that hold no data, such as units.", metavar="N", show_default="found")
]
TimeFormat = Annotated[
    str | None,
    _data(help="Format of times that are text or numbers: day-first, month-first, s, ms, or as in '%d-%b-%y %H:%M'.", metavar="F"),
]
Pivot = Annotated[
    str | None,
    _data(
        help="Columns of a long table, one value a row, which becomes one column a tag. agg=mean and hold=1h may follow.",
        metavar="tag=TAG,value=VALUE,time=TS[,every=1min]",
    ),
]
QualityColumn = Annotated[
    str | None,
    _data("--quality-column", help="Column of the quality, or a pattern such as '*_quality': values that are not good are missing.",
          metavar="NAME"),
]  # fmt: skip
GoodQuality = Annotated[Any, _list(help="What the quality column holds for a good value, comma-separated.", metavar="'Good,192'")]
At = Annotated[
    str | None,
    _data("--at", help="Version, snapshot or time of a Delta or Iceberg table.", metavar="VERSION|TIME", show_default="the current one"),
]
Reference = Annotated[
    list[str],
    _data(help="Normal rows to fit the baseline detectors on.", metavar="DATA",
          show_default="the data of the fit, else half of the normal rows of DATA"),
]  # fmt: skip
ScoresFile = Annotated[
    str | None,
    _data("--scores", help="Output of score to include: alarms with reasons, and a timeline if a key column is a time.", metavar="FILE"),
]
_rows = partial(typer.Option, rich_help_panel="Rows")
RowNumbers = Annotated[
    Any,
    _rows("--rows", parser=row_numbers, help="Row numbers, comma-separated; the first row is 0, as in the output of score.",
          metavar="3,17", show_default=False),
]  # fmt: skip
WorstRows = Annotated[
    int | None, _rows("--worst", min=1, help="Instead of --rows: the rows with the highest scores.", metavar="N", show_default="3")
]
Order = Annotated[
    ColumnOrder, _rows("--order", help="Order of the columns: contribution to the score, or z, how unusual that is for the column.")
]
CounterfactualOption = Annotated[bool, _rows("--counterfactual", help="Add the smallest change of values that ends the alarm.")]

# ── threshold ────────────────────────────────────────────────────────────────────────────────────────────────────────
_threshold = partial(typer.Option, rich_help_panel="Threshold")
_rate = partial(_threshold, metavar="RATE", parser=number)
_ALPHA = "False-alarm rate: the share of normal rows that may be flagged."
Alpha = Annotated[float | None, _rate(help=_ALPHA, show_default=f"{CalibrationConfig().alpha:g}")]
OtherAlpha = Annotated[float | None, _rate("--alpha", help=_ALPHA, show_default="that of the model")]
Fdr = Annotated[
    float | None, _rate(help="Control the false discovery rate instead (Benjamini-Hochberg): the share of alarms that may be false.")
]
PValues = Annotated[
    PValueKind,
    _threshold(help="marginal: valid on average over calibration sets; conditional: larger, valid for this calibration set with 90 % "
               "confidence."),
]  # fmt: skip
Typicality = Annotated[
    bool, _threshold("--typicality", help="Add a two-sided p-value, small also for scores that are too low; it flags nothing.")
]
Calibration = Annotated[
    CalibrationMethod | None,
    _threshold(help="split: exact, holds out rows; cross: approximate, cross-fitted, for small tables; auto: split from 2,000 rows.",
               show_default=CalibrationConfig().method),
]  # fmt: skip
AlertsPerDay = Annotated[
    float | None, _threshold(parser=number, help="False alarms per day; needs a time column or --rows-per-day.", metavar="N")
]
RowsPerDay = Annotated[float | None, _threshold(parser=number, help="Rows per day.", metavar="N", show_default="from the time column")]
CostFalseAlarm = Annotated[
    float | None, _threshold(parser=number, help="Cost of a false alarm; minimizes the expected cost on labelled rows.", metavar="COST")
]
CostMiss = Annotated[float | None, _threshold(parser=number, help="Cost of a missed anomaly, in the same unit.", metavar="COST")]
Maximize = Annotated[
    FScore | None, _threshold(help="F-score to maximize on labelled rows: F1, F0.5 (fewer false alarms) or F2 (fewer misses).")
]
AnomalyRate = Annotated[
    float | None, _rate(help="Expected share of anomalies in new data, for --maximize and costs.", show_default="that of the labelled rows")
]
TailOption = Annotated[
    CalibrationTail,
    _threshold("--method", help="conformal: exact, alpha down to 1/(rows + 1); gpd: generalized Pareto tail, estimated, alpha ten times "
               "finer."),
]  # fmt: skip
PerGroup = Annotated[
    str | None,
    _threshold("--group-by", help="Column with groups: one threshold per group, small groups borrow from all rows; '' for none.",
               metavar="COLUMN", show_default="that of the current threshold"),
]  # fmt: skip

# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
_training = partial(typer.Option, rich_help_panel="Training")
Steps = Annotated[int | None, _training(help="Training steps.", metavar="N", show_default="200, at most 60 passes over the rows")]
Seed = Annotated[int | None, _training(help="Random seed: same seed, same model.", metavar="N", show_default=f"{Config().seed}")]
Device = Annotated[str | None, _training(help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME", show_default=TrainConfig().device)]
PriorOption = Annotated[
    Prior | None, _training("--prior", help="Prior of the KL term: a mixture over exemplar rows, or N(0, I).", show_default="exemplar")
]
ContaminationRobust = Annotated[
    bool,
    _training("--contamination-robust", help="For training data with unlabelled anomalies: rows with high scores get less weight. They "
              "stay in the calibration set, so the false-alarm rate holds, but recall drops as their share grows."),
]  # fmt: skip
Resume = Annotated[
    bool | None,
    _training("--resume/--no-resume", help="Continue an interrupted fit of the same data and settings; --resume fails if there is none, "
              "--no-resume starts over.", show_default="continue if there is one"),
]  # fmt: skip
CheckpointEvery = Annotated[
    int | None, _training(min=1, help="Training steps between checkpoints.", metavar="N", show_default="every 5 seconds")
]
_MEMORY_LIMIT = "Memory limit of the process, such as 1.5GB or 2GiB; "
FitMemoryLimit = Annotated[
    Any,
    _training("--memory-limit", parser=parse_size, help=f"{_MEMORY_LIMIT}a larger table is sampled at random.", metavar="SIZE",
              show_default="half of the machine's memory for rows"),
]  # fmt: skip
ConfigFile = Annotated[
    Path | None, _training("--config", help="TOML file with settings; options given here take precedence.", metavar="FILE")
]

# ── tracking and output ──────────────────────────────────────────────────────────────────────────────────────────────
_output = partial(typer.Option, rich_help_panel="Tracking and output")
_name = partial(_output, metavar="NAME")
_MODEL_NAME, _ALIAS, _EXPERIMENT = "Name of the registered model.", "Alias to set on the new version.", "MLflow experiment."
ModelNameOption = Annotated[str | None, _name("--model-name", help=_MODEL_NAME, show_default=TrackingConfig().model_name)]
Alias = Annotated[str | None, _name(help=_ALIAS, show_default=TrackingConfig().alias)]
Experiment = Annotated[str | None, _name(help=_EXPERIMENT, show_default=TrackingConfig().experiment)]
UploadName = Annotated[str | None, _name("--model-name", help=_MODEL_NAME, show_default="that of the fit")]
UploadAlias = Annotated[str | None, _name("--alias", help=_ALIAS, show_default="that of the fit")]
UploadExperiment = Annotated[str | None, _name("--experiment", help=_EXPERIMENT, show_default="that of the fit")]
CalibratedAlias = Annotated[str | None, _name("--alias", help=_ALIAS, show_default="that of --model, or of the fit")]
NoRegister = Annotated[bool, _output("--no-register", help="Log the run without registering the model.")]
NoTracking = Annotated[bool, _output("--no-tracking", help="Do not use MLflow; needs --output.")]
NoLogging = Annotated[bool, _output("--no-tracking", help="Log nothing to MLflow.")]
Verify = Annotated[bool, _output("--verify", help="Try whether a row has the same score, to the bit, in every batch on this processor.")]
TrackingUri = Annotated[
    str | None, _output(help="MLflow tracking URI.", metavar="URI", show_default="MLFLOW_TRACKING_URI, or mlflow.db in this folder")
]
_MODEL = "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/… or a model folder."
Model = Annotated[str, _output("--model", "-m", help=_MODEL, metavar="MODEL")]
ModelArgument = Annotated[str, typer.Argument(help=_MODEL, metavar="[MODEL]")]
NameArgument = Annotated[str | None, typer.Argument(help="Registered model to list.", metavar="[NAME]", show_default="all models")]
UploadFolder = Annotated[Path, typer.Argument(help="Model folder, as written by fit --output.", metavar="DIR", show_default=False)]
ModelFolder = Annotated[Path | None, _output("--output", "-o", help="Also save the model to this folder.", metavar="DIR")]
CalibratedFolder = Annotated[
    Path | None,
    _output("--output", "-o", help="Folder for the calibrated model.", metavar="DIR", show_default="a model folder is replaced in place"),
]
ScoreOutput = Annotated[
    str | None,
    _output("--output", "-o", help="Output file, .csv or .parquet; or an output folder, with one file per input.", metavar="FILE|DIR/",
            show_default="NAME.scores.csv or .parquet next to the input"),
]  # fmt: skip
PartFormat = Annotated[
    ScoreFormat | None,
    _output("--format", help="Format of the files in an output folder; delta: -o is one Delta table.", show_default="that of the input"),
]
ReportOutput = Annotated[Path, _output("--output", "-o", help="HTML file to write.", metavar="FILE")]
EvaluateOutput = Annotated[Path | None, _output("--output", "-o", help="Also write an HTML report.", metavar="FILE.html")]
NoEscape = Annotated[
    bool, _output("--no-escape", help="Write text to CSV unchanged; by default text that a spreadsheet would run gets an apostrophe.")
]
Overwrite = Annotated[bool, _output("--overwrite", help="Replace an existing output.")]
Explain = Annotated[ExplainedRows, _output("--explain", help="Rows whose top columns are written.")]
Top = Annotated[Any, _output(parser=top_columns, help="Columns in an explanation, or all.", metavar="K|all")]

# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────
_watching = partial(typer.Option, rich_help_panel="Watching")
Watch = Annotated[bool, _watching("--watch", help="Keep running: score files as they appear in the input folders, into an output folder.")]
WatchInterval = Annotated[
    float, _watching(min=0.01, help="Seconds between scans; a file that is unchanged since the last scan is complete.", metavar="SECONDS")
]
_running = partial(typer.Option, rich_help_panel="Running")
ChunkRows = Annotated[int, _running(min=1, max=1_000_000_000, help="Rows read at a time; does not change the scores.", metavar="N")]
PartRows = Annotated[int, _running(min=1, help="Rows between checkpoints.", metavar="N", hidden=True)]
Threads = Annotated[int | None, _running(min=1, help="CPU threads; does not change the scores.", metavar="N", show_default="all cores")]
MemoryLimit = Annotated[
    Any, _running(parser=parse_size, help=f"{_MEMORY_LIMIT}does not change the scores.", metavar="SIZE", show_default="none")
]
Port = Annotated[int, _running(min=1, max=65_535, help="Port to listen on.", metavar="N")]
Host = Annotated[str, _running(help="Address to listen on; the default is reachable only from this machine.", metavar="ADDRESS")]

# ── every command ────────────────────────────────────────────────────────────────────────────────────────────────────
_every = partial(typer.Option, rich_help_panel="Every command")
AsJson = Annotated[bool, _every("--json", help="Print one JSON object to stdout.")]
Quiet = Annotated[
    bool, _every("--quiet", "-q", help="No progress, no warnings, and no summary of a command that writes a file or a model.")
]
Verbose = Annotated[int, _every("--verbose", "-v", count=True, help="More log messages; -vv also shows tracebacks.", show_default=False)]
