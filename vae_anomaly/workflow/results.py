"""Results of the verbs: frozen values whose field names are the keys of ``--json``.

Scores and thresholds are in weighted nats, higher = more anomalous; rates are fractions of 1, times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vae_anomaly.calibration.guarantee import Guarantee
from vae_anomaly.calibration.operating_point import BudgetRow, ChosenAlpha
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.evaluation.results import MissingChange, Quality
from vae_anomaly.events.episodes import Event
from vae_anomaly.events.quality import EventQuality
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.tables.csv_rejects import RejectedRows
from vae_anomaly.tracking.registry import RegisteredVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """Name and location of a model; a field is empty if it does not apply."""

    name: str = ""
    version: str = ""
    alias: str = ""
    run_id: str = ""
    folder: str = ""
    uri: str = ""  # for --model


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """Result of ``fit``."""

    rows_read: int
    rows_used: int
    labels_left_out: Mapping[str, int]  # label → rows
    columns: tuple[ColumnQuality, ...]
    left_out: tuple[Dropped, ...]
    seconds: float
    steps: int
    resumed_steps: int  # training steps that an interrupted fit of the same request had finished
    stopped: str
    active_units: float  # latent units in use, mean over networks
    latent_units: int
    promise: Guarantee
    blocks: Blocks | None  # alarm rates over consecutive blocks of calibration rows
    cautions: tuple[str, ...]  # conditions under which the stated false-alarm rate is likely too low
    notes: tuple[str, ...]
    quality: Quality | None  # None: no row is labelled anomalous
    suspicious: tuple[Alarm, ...]  # normal rows with extreme scores, three reasons each
    model: ModelName
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untypical:
    """Rows whose typicality is at most alpha; ``low`` of them because their score is too low."""

    rows: int
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Control of the false-discovery rate: p-values up to ``cutoff`` are flagged; None: no row is."""

    rate: float
    cutoff: float | None
    statement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of a scoring, as stored in the manifest of its output."""

    rows: int
    alarms: int
    expected_alarms: float  # alpha × scored rows: expected if all rows are normal
    null_scores: int
    unseen: Mapping[str, int]  # column → cells with a category that is not in the training rows
    missing_changes: tuple[MissingChange, ...]
    top_alarms: tuple[Alarm, ...]
    likely_alarms: tuple[int, int] | None = None  # central 95 % interval over calibrations and batches of normal rows
    typicality: Untypical | None = None  # None: not requested
    discovery: Discovery | None = None  # None: --fdr was not used
    unseen_groups: Mapping[str, int] | None = None  # group absent at calibration → rows, the first 1,000; None: no groups
    pooled_rows: int = 0  # rows of these groups or without a group, flagged with the pooled threshold
    rejected: RejectedRows | None = None  # None: every row is readable
    cautions: tuple[str, ...] = ()  # what makes these figures less sound than they look


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEvents:
    """Events of rows in time by their start, without the ``acknowledged`` ones; ``is_clock``: times are in seconds since 1970.

    ``output``: the file that they were written to, empty if none was asked for.
    """

    events: tuple[Event, ...]
    acknowledged: int
    is_clock: bool
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """Result of ``score``."""

    output: str
    unchanged: bool  # the output of the same request existed
    counts: Counts
    seconds: float
    rows_per_second: float | None
    alpha: float
    threshold: float | None  # None: no score of this batch is flagged
    ignored_columns: tuple[str, ...]
    model: ModelName
    next_steps: tuple[str, ...]
    resumed_rows: int = 0  # rows that an interrupted scoring of the same request had finished
    parts_made: int | None = None  # parts written to an output folder; None: the output is a file
    parts_before: int | None = None  # parts that existed
    table_version: int | None = None  # version of the Delta table that was written; None: the output is no table
    found_events: FoundEvents | None = None  # None: the rows are not in time


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowResult:
    """Result of ``follow``: answered lines over all runs with this state, and the alarms and errors of this run.

    ``output``: the file of the answers, empty for standard output.
    """

    output: str
    lines: int
    alarms: int
    errors: int
    model: ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """Threshold of one group; ``lent`` is the weight of other groups' rows in it: 0 = none (exact), 1 = the pooled threshold."""

    name: str
    rows: int
    threshold: float
    lent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateResult:
    """Result of ``calibrate``."""

    rows: int
    calibration_rows: int
    anomalous_rows: int
    null_scores: int
    rows_per_day: float | None
    alpha_before: float
    threshold_before: float
    promise: Guarantee
    choice: ChosenAlpha | None  # None: alpha was given, not chosen with labels
    table: tuple[BudgetRow, ...]
    groups: tuple[GroupRow, ...]
    fit_p_value: float | None  # goodness of fit of a fitted tail
    model: ModelName
    next_steps: tuple[str, ...]
    rejected: RejectedRows | None = None  # None: every row is readable
    days: str = ""  # which days have rows, if the times say so


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Result of ``evaluate``."""

    rows: int
    null_scores: int
    promise: Guarantee
    notes: tuple[str, ...]
    quality: Quality
    by_label: Mapping[str, Mapping[str, float]]  # label → column → fraction of the mean score, five largest
    output: str  # HTML file; empty: not requested
    run_id: str  # empty: tracking is off
    model: ModelName
    next_steps: tuple[str, ...]
    cautions: tuple[str, ...] = ()  # what makes the figures less sound than they look
    events: EventQuality | None = None  # of rows in time


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """Result of ``report``."""

    output: str
    bytes: int
    rows: int  # scored rows it covers
    alarms: int
    cautions: tuple[str, ...]
    model: ModelName
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoResult:
    """Result of ``info``."""

    model: ModelName
    created: str
    source: tuple[str, ...]
    rows: int
    training_rows: int
    seed: int
    versions: Mapping[str, str]
    columns: tuple[ColumnQuality, ...]
    left_out: tuple[Dropped, ...]
    promise: Guarantee
    blocks: Blocks | None  # alarm rates over consecutive blocks of calibration rows
    cautions: tuple[str, ...]  # conditions under which the stated false-alarm rate is likely too low
    notes: tuple[str, ...]
    steps: int
    stopped: str
    active_units: float
    latent_units: int
    views: tuple[str, ...]
    networks: int
    rounds_alike: bool | None  # whether a score is the same bits in every batch on this processor; None: not tried
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsResult:
    """Result of ``models``: registered versions, newest first."""

    store: str
    versions: tuple[RegisteredVersion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UiResult:
    """Result of ``ui``: address, store and command of the MLflow UI."""

    url: str
    store: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReason(Reason):
    """One column of an explained row: ``reconstruction`` + ``kl`` = ``contribution``; contributions sum to the score."""

    kind: str
    expected: str
    reconstruction: float
    kl: float
    z: float | None  # robust z of the contribution among calibration rows; None: the model has no reference
    low: float | None = None  # 1 % quantile of the column at fit; numbers only
    high: float | None = None  # 99 % quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class CellChange:
    """A cell and the value that would replace it."""

    column: str
    value: str | None
    instead: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallestChange:
    """Counterfactual: fewest changed cells with which the row is not flagged; not ``found``: the changes with the lowest score."""

    found: bool
    score: float
    cells: tuple[CellChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowExplained:
    """Explanation of one row; ``score`` None: all its cells are missing."""

    row: int
    ids: Mapping[str, str | None]
    score: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    p_value: float | None = None
    is_anomaly: bool = False
    columns: tuple[ColumnReason, ...] = ()
    smallest_change: SmallestChange | None = None  # None: not requested, or the row is not flagged


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainResult:
    """Result of ``explain``."""

    rows: tuple[RowExplained, ...]
    alpha: float
    threshold: float
    model: ModelName
    next_steps: tuple[str, ...]
    rejected: RejectedRows | None = None  # of the rows read; None: every row is readable
