"""The options of the command line: one declaration each, shared by the commands, and how their texts are read.

Knows nothing about what the options do. Defaults stand in ``config.py``; the help texts quote them from there.
"""

import csv
from pathlib import Path
from typing import Annotated, Literal

import typer

from vae_anomaly.config import CalibrationConfig, CalibrationMethod, Config, DataConfig, Prior, TrackingConfig, TrainConfig
from vae_anomaly.errors import ConfigError

Explain = Literal["flagged", "all", "none"]

# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
Data = Annotated[list[str], typer.Argument(help="Files, folders or globs: CSV, TSV, Parquet, Arrow.", metavar="DATA", show_default=False)]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column that says which rows are normal; the others are left out of the fit and used to evaluate it.",
                 metavar="COLUMN", rich_help_panel="Data"),
]  # fmt: skip
NeededLabelColumn = Annotated[
    str | None,
    typer.Option(help="Column that says which rows are normal.", metavar="COLUMN", show_default="that of the fit", rich_help_panel="Data"),
]
NormalLabel = Annotated[
    str | None,
    typer.Option(help="Labels that mean normal, separated by commas.", metavar="A,B",
                 show_default=", ".join(filter(None, DataConfig().normal_labels)) + " or empty", rich_help_panel="Data"),
]  # fmt: skip
IdColumns = Annotated[
    str | None,
    typer.Option(help="Key columns, separated by commas: never inputs of the model, copied through by score.",
                 metavar="A,B", rich_help_panel="Data"),
]  # fmt: skip
Exclude = Annotated[str | None, typer.Option(help="Columns to leave out, separated by commas.", metavar="A,B", rich_help_panel="Data")]
Include = Annotated[
    str | None,
    typer.Option(help="Columns to keep although they look like ids or keys.", metavar="A,B", rich_help_panel="Data"),
]
MissingValues = Annotated[
    str | None,
    typer.Option(help="Texts that stand for a missing cell, besides the empty one, separated by commas.",
                 metavar="'?,Bad'", rich_help_panel="Data"),
]  # fmt: skip
TimeColumn = Annotated[
    str | None,
    typer.Option(help="Timestamp column: calibration then uses the last part of the time.", metavar="COLUMN", rich_help_panel="Data"),
]
GroupBy = Annotated[
    str | None,
    typer.Option(help="Column that tells the machines apart: each gets its own threshold and, with --time-column, gives its own last part.",
                 metavar="COLUMN", rich_help_panel="Data"),
]  # fmt: skip
OnErrorOption = Annotated[
    Literal["stop", "skip", "quarantine"],
    typer.Option("--on-error", help="A CSV row that cannot be read: stop there, leave it out, or also write it to OUTPUT.quarantine.csv.",
                 rich_help_panel="Data"),
]  # fmt: skip
OnErrorRead = Annotated[
    Literal["stop", "skip"],
    typer.Option("--on-error", help="A CSV row that cannot be read: stop there, or leave it out and say so.", rich_help_panel="Data"),
]
OnErrorFit = Annotated[
    Literal["stop", "skip"] | None,
    typer.Option("--on-error", help="A CSV row that is cut, too long or no text: stop there, or leave it out and say so.",
                 show_default=DataConfig().on_error, rich_help_panel="Data"),
]  # fmt: skip


def number(text: str) -> float:
    """Return the number that a text is. Raises BadParameter, which says how it is written where it has a comma.

    >>> number("0.05")
    0.05
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        meant = float(text.replace(",", ".", 1))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number; expected one such as 0.05") from None
    raise typer.BadParameter(f"{text!r} is no number; write it with a point: {meant:g}")


# ── threshold ────────────────────────────────────────────────────────────────────────────────────────────────────────
Alpha = Annotated[
    float | None,
    typer.Option(parser=number, help="False-alarm rate: the share of normal rows that may be flagged.", metavar="RATE",
                 show_default=f"{CalibrationConfig().alpha:g}", rich_help_panel="Threshold"),
]  # fmt: skip
ScoreAlpha = Annotated[
    float | None,
    typer.Option(parser=number, help="Another false-alarm rate than that of the fit.", metavar="RATE", show_default="that of the fit",
                 rich_help_panel="Threshold"),
]  # fmt: skip
Fdr = Annotated[
    float | None,
    typer.Option("--fdr", parser=number, help="Flag at a false-discovery rate instead: the share of the alarms that may be false.",
                 metavar="RATE", rich_help_panel="Threshold"),
]  # fmt: skip
PValues = Annotated[
    Literal["marginal", "conditional"],
    typer.Option(help="marginal: valid on average over calibrations; conditional: larger, valid for this one with 90 % confidence.",
                 rich_help_panel="Threshold"),
]  # fmt: skip
Typicality = Annotated[
    bool,
    typer.Option("--typicality", help="Add a two-sided p-value, small also where a row scores too low; it flags nothing.",
                 rich_help_panel="Threshold"),
]  # fmt: skip
Calibration = Annotated[
    CalibrationMethod | None,
    typer.Option(help="split: exact, rows are set aside; cross: approximate, for small tables; auto: split from 2,000 rows.",
                 show_default=CalibrationConfig().method, rich_help_panel="Threshold"),
]  # fmt: skip

# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────
Steps = Annotated[
    int | None,
    typer.Option(
        help="Training budget in steps.", metavar="N", show_default="200, but no row more than 60 times", rich_help_panel="Training"
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Same seed, same model.", metavar="N", show_default=f"{Config().seed}", rich_help_panel="Training")
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME", show_default=TrainConfig().device, rich_help_panel="Training"),
]
Resume = Annotated[
    bool | None,
    typer.Option("--resume/--no-resume",
                 help="Whether a fit of the same data and settings that was cut off goes on; --resume: refuse if there is none.",
                 show_default="goes on if there is one", rich_help_panel="Training"),
]  # fmt: skip
CheckpointEvery = Annotated[
    int | None,
    typer.Option("--checkpoint-every", min=1, help="Steps after which what was learned is kept, to go on from.", metavar="N",
                 show_default="every 5 seconds", rich_help_panel="Training"),
]  # fmt: skip
ContaminationRobust = Annotated[
    bool,
    typer.Option("--contamination-robust",
                 help="For training rows with anomalies among them: the oddest are learned from less. They are not sorted out of the "
                 "calibration, so the false-alarm rate holds; fewer faults are found the more anomalies there are.",
                 rich_help_panel="Training"),
]  # fmt: skip
PriorOption = Annotated[
    Prior | None,
    typer.Option("--prior", help="What the KL term measures the distance to: exemplar rows, or N(0, I).", show_default="exemplar",
                 rich_help_panel="Training"),
]  # fmt: skip
FitMemoryLimit = Annotated[
    str | None,
    typer.Option("--memory-limit",
                 help="Memory that the process may take, as 1.5GB or 2GiB; of more rows than fit a random part is learned from.",
                 metavar="SIZE", show_default="rows in half of the machine's", rich_help_panel="Training"),
]  # fmt: skip
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with any setting; options given here win over it.", metavar="FILE",
                 rich_help_panel="Training"),
]  # fmt: skip

# ── tracking and output ──────────────────────────────────────────────────────────────────────────────────────────────
ModelNameOption = Annotated[
    str | None,
    typer.Option("--model-name", help="Name to register the model under.", metavar="NAME", show_default=TrackingConfig().model_name,
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
Alias = Annotated[
    str | None,
    typer.Option(help="Alias that will point to the new version.", metavar="NAME", show_default=TrackingConfig().alias,
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
NoRegister = Annotated[bool, typer.Option("--no-register", help="Log a run, register nothing.", rich_help_panel="Tracking and output")]
NoTracking = Annotated[
    bool, typer.Option("--no-tracking", help="Log nothing; needs --output to keep the model.", rich_help_panel="Tracking and output")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store or server.", metavar="URI", show_default="MLFLOW_TRACKING_URI, or mlflow.db here",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
Experiment = Annotated[
    str | None,
    typer.Option(help="MLflow experiment of the run.", metavar="NAME", show_default=TrackingConfig().experiment,
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
ModelFolder = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Also keep the model as a plain folder.", metavar="DIR", rich_help_panel="Tracking and output"),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/… or a model folder.", metavar="MODEL",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
ScoresFile = Annotated[
    str | None,
    typer.Option("--scores", help="Also show what score wrote: alarms with reasons, and a time line where a key is a time.",
                 metavar="FILE", rich_help_panel="Data"),
]  # fmt: skip
ReportOutput = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write the page.", metavar="FILE", rich_help_panel="Tracking and output")
]
EvaluateOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Also write the report as a page.", metavar="FILE.html", rich_help_panel="Tracking and output"),
]
LogNothing = Annotated[bool, typer.Option("--no-tracking", help="Log nothing to MLflow.", rich_help_panel="Tracking and output")]
NoEscape = Annotated[
    bool,
    typer.Option("--no-escape", help="Keep text in CSV as it is; otherwise what a spreadsheet would run as a formula gets an apostrophe.",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.", rich_help_panel="Tracking and output")]
ExplainOption = Annotated[
    Explain, typer.Option("--explain", help="Which rows get their top columns named.", rich_help_panel="Tracking and output")
]
Top = Annotated[
    str, typer.Option(help="How many columns an explanation names, or all.", metavar="K|all", rich_help_panel="Tracking and output")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads; no score depends on it.", metavar="N", show_default="all cores", rich_help_panel="Running"),
]
RowNumbers = Annotated[
    str | None,
    typer.Option("--rows", help="Row numbers from 0, as in the output of score, separated by commas.", metavar="3,17",
                 rich_help_panel="Rows"),
]  # fmt: skip
WorstRows = Annotated[
    int | None,
    typer.Option(
        "--worst", min=1, help="Instead: the rows with the highest scores.", metavar="N", show_default="3", rich_help_panel="Rows"
    ),
]
OrderOption = Annotated[
    Literal["contribution", "z"],
    typer.Option("--order", help="What puts a column first: its share of the score, or how unusual that is for the column.",
                 rich_help_panel="Rows"),
]  # fmt: skip
CounterfactualOption = Annotated[
    bool, typer.Option("--counterfactual", help="Also the smallest change that ends the alarm.", rich_help_panel="Rows")
]
Reference = Annotated[
    list[str] | None,
    typer.Option(help="Normal rows that the other detectors learn from.", metavar="DATA",
                 show_default="the data of the fit, else half of the normal rows of DATA", rich_help_panel="Data"),
]  # fmt: skip

# ── every command ────────────────────────────────────────────────────────────────────────────────────────────────────
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.", rich_help_panel="Every command")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no warnings; fit and score print no summary.", rich_help_panel="Every command")
]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Say more; -vv also shows where an error came from.", show_default=False,
                 rich_help_panel="Every command"),
]  # fmt: skip


def names(text: str | None) -> tuple[str, ...] | None:
    """``'a,b'`` as ('a', 'b'), each once; a name with a comma in it stands in double quotes, as in a CSV line.

    >>> names('a, "b,c"')
    ('a', 'b,c')
    """
    if text is None:
        return None
    try:
        cells = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        raise ConfigError(
            f"names are separated by commas and stand on one line; got {text!r}. Put a name that has a line end in double quotes."
        ) from None
    return tuple(dict.fromkeys(cell.strip() for cell in cells))


def row_numbers(text: str | None) -> tuple[int, ...]:
    """``'3,17'`` as (3, 17). Raises ConfigError for anything else."""
    parts = [part.strip() for part in (text or "").split(",")] if text is not None else []
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--rows must be whole numbers from 0, separated by commas; got {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def top_columns(text: str) -> int | None:
    """How many columns an explanation names; None for all of them. Raises ConfigError for anything else."""
    if text.strip().lower() == "all":
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ConfigError(f"--top must be a whole number from 1 or 'all'; got {text!r}")
    return int(text)


ScoreOutput = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Where to write: a file, the ending .csv or .parquet says how; or a folder, a part for each input.",
                 metavar="FILE|DIR/", show_default="NAME.scores.csv or .parquet beside the input", rich_help_panel="Tracking and output"),
]  # fmt: skip
PartFormat = Annotated[
    Literal["csv", "parquet"] | None,
    typer.Option("--format", help="How the parts in an output folder are written.", show_default="as the input of each",
                 rich_help_panel="Tracking and output"),
]  # fmt: skip
Watch = Annotated[bool, typer.Option("--watch", help="Go on: score what appears in the input folders, into an output folder.",
                                     rich_help_panel="Watching")]  # fmt: skip
WatchInterval = Annotated[
    float, typer.Option("--watch-interval", min=0.01, help="Seconds between two looks; a file that is the same at both is taken for whole.",
                        metavar="SECONDS", rich_help_panel="Watching")
]  # fmt: skip
MemoryLimit = Annotated[
    str | None,
    typer.Option(help="Memory that the process may take, as 1.5GB or 2GiB; the scores do not depend on it.", metavar="SIZE",
                 show_default="none", rich_help_panel="Running"),
]  # fmt: skip
ChunkRows = Annotated[
    int,
    typer.Option(
        min=1, max=1_000_000_000, help="Rows in memory at a time; the scores do not depend on it.", metavar="N", rich_help_panel="Running"
    ),
]
PartRows = Annotated[
    int,
    typer.Option(
        "--part-rows", min=1, help="Rows after which a killed run can go on.", metavar="N", hidden=True, rich_help_panel="Running"
    ),
]
