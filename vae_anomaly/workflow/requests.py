"""Request of each verb: input, model, options and output, as frozen values with every default of an option.

The command line takes its defaults from here, also for ``--help``; so nothing heavy is imported. Rates are shares of 1, memory is in
bytes. None means that the model, or the settings of its fit, decide. No slots: a default is read as an attribute of its class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vae_anomaly.choices import (
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
from vae_anomaly.config import Config


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """Training data, settings and destination of one fit.

    ``output`` None: no model folder besides the MLflow run. ``resume`` None: continue an interrupted fit if there is one; True: require
    one; False: start over. ``checkpoint_every`` in optimizer steps; None: by time. ``at_exit`` registers a function to call at process
    exit; the work folder is deleted only then. None: it is deleted when ``fit_files`` returns.
    """

    data: tuple[str, ...]
    config: Config
    output: Path | None = None
    overwrite: bool = False
    resume: bool | None = None
    checkpoint_every: int | None = None
    at_exit: Callable[[Callable[[], None]], object] | None = None
    memory_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """How the tables of a verb are read, see ``Reading`` and ``reading_for``; None: as in the fit of the model."""

    missing_values: tuple[str, ...] | None = None
    default_missing: bool | None = None
    on_error: OnError = "stop"
    header_row: int | None = None
    no_header: bool | None = None
    skip_rows: int | None = None
    time_format: str | None = None
    pivot: str | None = None
    quality_column: str | None = None
    good_quality: tuple[str, ...] | None = None
    at: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(ReadRequest):
    """Scoring of files into one file, into an output folder or into a Delta table.

    ``output`` is a file, a folder (it ends with a slash, exists, or has no suffix) or a URI; None: next to the input. ``format`` is the
    format of the files in an output folder, None: that of each input; delta: ``output`` is the folder of a table. ``top`` None: name all
    columns. ``part_rows``: rows between two checkpoints. Of rows in time: ``events`` is a file for their events, ``mute`` one of ranges of
    time whose events are acknowledged, and ``state`` holds where the series stand between commands.
    """

    data: tuple[str, ...]
    model: str
    output: str | Path | None = None
    format: ScoreFormat | None = None
    id_columns: tuple[str, ...] = ()
    alpha: float | None = None
    fdr: float | None = None
    p_values: PValueKind = "marginal"
    typicality: bool = False
    explain: ExplainedRows = "flagged"
    top: int | None = 5
    chunk_rows: int = 65_536
    part_rows: int = 262_144
    threads: int | None = None
    memory_limit: int | None = None
    events: Path | None = None
    mute: str | None = None
    state: Path | None = None
    escape: bool = True
    overwrite: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class FollowRequest:
    """Scoring of a stream: ``data`` is a growing file, or ``-`` for standard input; ``format`` None: that of the first line.

    ``output`` None: standard output. ``state`` keeps where the stream stands. ``until_end``: stop at the end of the file.
    """

    model: str
    data: str = "-"
    output: Path | None = None
    format: LineFormat | None = None
    state: Path | None = None
    alpha: float | None = None
    top: int | None = 5
    until_end: bool = False
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest(ReadRequest):
    """New threshold for a model, from normal rows that its fit has not seen; exactly one way to choose the rate, or none."""

    data: tuple[str, ...]
    model: str
    alpha: float | None = None
    alerts_per_day: float | None = None
    rows_per_day: float | None = None
    cost_false_alarm: float | None = None
    cost_miss: float | None = None
    maximize: FScore | None = None
    anomaly_rate: float | None = None
    method: CalibrationTail = "conformal"
    group_by: str | None = None
    time_column: str | None = None
    label_column: str | None = None
    normal_labels: tuple[str, ...] | None = None
    on_error: ReadOnError = "stop"
    alias: str | None = None
    output: Path | None = None
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(ReadRequest):
    """Evaluation of a model on labelled rows; ``reference``: normal rows that the baseline detectors are fitted on."""

    data: tuple[str, ...]
    model: str
    label_column: str | None = None
    normal_labels: tuple[str, ...] | None = None
    on_error: ReadOnError = "stop"
    reference: tuple[str, ...] = ()
    output: Path | None = None
    overwrite: bool = False
    no_tracking: bool = False
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExplainRequest(ReadRequest):
    """Explanation of single rows: those numbered ``rows``, from 0, or the ``worst`` with the highest scores."""

    data: tuple[str, ...]
    model: str
    rows: tuple[int, ...] = ()
    worst: int | None = None
    id_columns: tuple[str, ...] = ()
    on_error: ReadOnError = "stop"
    alpha: float | None = None
    order: ColumnOrder = "contribution"
    counterfactual: bool = False
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """HTML report on a model and, with ``scores``, on an output of ``score``."""

    model: str
    output: Path = Path("report.html")
    scores: str | None = None
    overwrite: bool = False
    tracking_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadRequest:
    """Logging and registration of a model folder in MLflow."""

    folder: Path
    model_name: str | None = None
    alias: str | None = None
    experiment: str | None = None
    tracking_uri: str | None = None
    register: bool = True
