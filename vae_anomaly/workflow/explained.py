"""What ``explain`` returns: rows in full. Scores are in weighted nats, higher = more anomalous."""

from collections.abc import Mapping
from dataclasses import dataclass

from vae_anomaly.edges.rejects import RejectedRows
from vae_anomaly.workflow.results import ModelName


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
