"""Results of an evaluation as plain values (computed by ``metrics``), and changes of missing cells. Rates are in [0, 1]."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFound:
    """Rows of one label, and how many of them were flagged."""

    label: str
    rows: int
    flagged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Ranking metrics of a detector; 1 is perfect, an ``auroc`` of 0.5 is chance."""

    name: str
    auroc: float
    average_precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Detectors on the same ``test_rows`` rows, the best first; baselines were fitted on ``peer_rows`` normal rows."""

    rankings: tuple[Ranking, ...]
    peer_rows: int
    test_rows: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Flagged normal rows and their rate with its exact (Clopper-Pearson) 95 % confidence interval."""

    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Bootstrap intervals of the metrics; ``precision`` is None if no row was flagged."""

    auroc: Interval
    average_precision: Interval
    recall: Interval
    precision: Interval | None
    f1: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealing:
    """Columns, constant among normal rows, that carry ``share`` of the score of the anomalous ones; ``auroc_without`` them."""

    columns: tuple[str, ...]
    share: float
    auroc: float  # of the same sample of rows
    auroc_without: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Detection metrics on labelled rows."""

    normal_rows: int
    anomalous_rows: int
    auroc: float
    average_precision: float
    precision: float | None  # None: no row was flagged
    recall: float
    false_alarms: FalseAlarms | None  # None: the normal rows set the threshold
    f1: float = 0.0  # harmonic mean of precision and recall
    intervals: Intervals | None = None
    by_label: tuple[LabelFound, ...] = ()
    comparison: Comparison | None = None
    revealing: Revealing | None = None  # None: other columns carry the score

    @property
    def cautions(self) -> tuple[str, ...]:
        """What makes these figures less sound than they look."""
        return () if self.revealing is None else (self.revealing.words,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingChange:
    """A column whose share of missing cells changed significantly since the fit."""

    column: str
    at_fit: float
    now: float
