"""What each verb returns: frozen, plain values that a terminal, a script or ``--json`` can show alike.

Knows nothing about how they are found or printed. Scores and thresholds are in weighted nats, higher = more anomalous; rates are
shares of 1, times seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vae_anomaly.calibration.guarantee import Promise
from vae_anomaly.calibration.operating_point import BudgetRow, Choice
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.evaluation.results import MissingChange, Quality
from vae_anomaly.explain.top_features import Alarm
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.tables.csv_rejects import RejectedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """Where a model can be found again; an empty field: not there."""

    name: str = ""
    version: str = ""
    alias: str = ""
    run_id: str = ""
    folder: str = ""
    uri: str = ""  # what --model takes


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit did."""

    rows_read: int
    rows_used: int
    labels_left_out: Mapping[str, int]  # label → rows
    columns: tuple[ColumnQuality, ...]
    left_out: tuple[Dropped, ...]
    seconds: float
    steps: int
    resumed_steps: int  # steps that a fit that was cut off had done
    stopped: str
    active_units: float  # latent units in use, mean over networks
    latent_units: int
    promise: Promise
    blocks: Blocks | None  # alarms over the calibration rows in their order
    cautions: tuple[str, ...]  # where the model is likely to promise more than it holds
    notes: tuple[str, ...]
    quality: Quality | None  # None: no anomalous rows to hold it against
    suspicious: tuple[Alarm, ...]  # normal rows that stand out, the three largest reasons each
    model: ModelName
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untypical:
    """Rows whose typicality is at most alpha, and those of them that score too low."""

    rows: int
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """How a false-discovery rate was kept: ``cutoff`` is the largest p-value that is flagged, None where none is."""

    rate: float
    cutoff: float | None
    statement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a scoring counted; kept in the manifest of the output."""

    rows: int
    alarms: int
    expected_alarms: float  # alpha × scored rows: the alarms if all rows were normal
    null_scores: int
    unseen: Mapping[str, int]  # column → cells whose category the model has not seen
    missing_changes: tuple[MissingChange, ...]
    top_alarms: tuple[Alarm, ...]
    likely_alarms: tuple[int, int] | None = None  # 95 of 100 calibrations and batches of normal rows have so many
    typicality: Untypical | None = None  # None: not asked for
    discovery: Discovery | None = None  # None: flagged at a false-alarm rate
    unseen_groups: Mapping[str, int] | None = None  # group unseen at calibration → rows, the first thousand; None: there are no groups
    pooled_rows: int = 0  # rows of such groups or without a group: they had the pooled threshold
    rejected: RejectedRows | None = None  # None: every row could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What a scoring did."""

    output: str
    unchanged: bool  # the output of the same inputs, model and options was there already
    counts: Counts
    seconds: float
    rows_per_second: float | None
    alpha: float
    threshold: float | None  # None: no row of this batch is flagged, however high
    ignored_columns: tuple[str, ...]
    model: ModelName
    next_steps: tuple[str, ...]
    resumed_rows: int = 0  # rows that a killed run had scored
    parts_made: int | None = None  # of an output folder; None: the output is a file
    parts_before: int | None = None  # those of the same inputs that were there already


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """The threshold of one group; ``lent`` is the weight of the rows of other groups: 0 none, exact; 1 the pooled threshold."""

    name: str
    rows: int
    threshold: float
    lent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateResult:
    """What a calibration did."""

    rows: int
    calibration_rows: int
    anomalous_rows: int
    null_scores: int
    rows_per_day: float | None
    alpha_before: float
    threshold_before: float
    promise: Promise
    choice: Choice | None  # None: no labels chose
    table: tuple[BudgetRow, ...]
    groups: tuple[GroupRow, ...]
    fit_p_value: float | None  # of a fitted tail
    model: ModelName
    next_steps: tuple[str, ...]
    rejected: RejectedRows | None = None  # None: every row could be read


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """A model against labels."""

    rows: int
    null_scores: int
    promise: Promise
    notes: tuple[str, ...]
    quality: Quality
    by_label: Mapping[str, Mapping[str, float]]  # label → column → share of the mean score, the largest five
    output: str  # the page; empty: not asked for
    run_id: str  # empty: nothing was logged
    model: ModelName
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """Where a report was written, and what it warns of."""

    output: str
    bytes: int
    rows: int  # scored rows in it
    alarms: int
    cautions: tuple[str, ...]
    model: ModelName
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoResult:
    """What is in a model."""

    model: ModelName
    created: str
    source: tuple[str, ...]
    rows: int
    training_rows: int
    seed: int
    versions: Mapping[str, str]
    columns: tuple[ColumnQuality, ...]
    left_out: tuple[Dropped, ...]
    promise: Promise
    blocks: Blocks | None  # alarms over the calibration rows in their order
    cautions: tuple[str, ...]  # where the model is likely to promise more than it holds
    notes: tuple[str, ...]
    steps: int
    stopped: str
    active_units: float
    latent_units: int
    views: tuple[str, ...]
    networks: int
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVersion:
    """One registered version."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created: str
    tags: Mapping[str, str]
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsResult:
    """The versions in a registry, newest first."""

    store: str
    versions: tuple[ListedVersion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UiResult:
    """Where the MLflow UI listens, and the command that runs it."""

    url: str
    store: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnReason:
    """One column of an explained row; the two parts add up to ``contribution``, and contributions to the score."""

    column: str
    kind: str
    value: str | None
    expected: str
    contribution: float  # weighted nats
    reconstruction: float
    kl: float
    z: float | None  # of the contribution against calibration rows; None: the model does not know what is usual
    low: float | None = None  # 1 % and 99 % quantiles of the column at fit, numbers only
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellChange:
    """A cell as it is, and what it would have to be instead."""

    column: str
    value: str | None
    instead: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallestChange:
    """The fewest cells that have to change for the row not to be flagged; not ``found``: the lowest score that was reached."""

    found: bool
    score: float
    cells: tuple[CellChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowExplained:
    """One row in full; no score: no cell of it is observed."""

    row: int
    ids: Mapping[str, str | None]
    score: float | None = None
    reconstruction: float | None = None
    kl: float | None = None
    p_value: float | None = None
    is_anomaly: bool = False
    columns: tuple[ColumnReason, ...] = ()
    smallest_change: SmallestChange | None = None  # None: not asked for, or not flagged


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainResult:
    """Single rows in full."""

    rows: tuple[RowExplained, ...]
    alpha: float
    threshold: float
    model: ModelName
    next_steps: tuple[str, ...]
    rejected: RejectedRows | None = None  # of the rows that were looked at; None: all could be read
