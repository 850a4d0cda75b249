"""Content of a report about a model and the rows it scored, as plain values; the size is bounded for any number of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.guarantee import Guarantee, guarantee_of
from vae_anomaly.calibration.threshold import too_few_alarms
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import Histogram, ScoreSummary, Step, TimeLine
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.messages import shorten_list
from vae_anomaly.model.training import History
from vae_anomaly.schema.encoding import model_order
from vae_anomaly.schema.inference import Dropped

ALARMS_SHOWN = 10
REPORT_REASONS_SHOWN = 4  # columns per alarm; more do not fit beside the figure on a phone
REPORT_COLUMNS_SHOWN = 200
TOO_MANY = 5.0  # standard errors (Poisson) above the expected number of alarms; fewer would often be chance
SOURCES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Curves of an evaluation on labelled rows, each as points ``[k, 2]``.

    ``roc``: false-alarm rate, recall; ``precision_recall``: recall, precision; ``realised``: alpha, share of the normal rows with a
    p-value of at most alpha. ``by_label``: label → mean contribution of each of ``columns`` over at most ``rows`` rows.
    """

    roc: NDArray[np.float64]
    precision_recall: NDArray[np.float64]
    realised: NDArray[np.float64]
    columns: tuple[str, ...]
    by_label: Mapping[str, tuple[float, ...]]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonInContext(Reason):
    """A reason with the z of its contribution and the usual range of its column: 1 % and 99 % quantiles at fit, numbers only."""

    z: float | None = None  # against calibration rows; None: not known
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringOverview:
    """Summary of scored rows; ``expected`` is the number of alarms if all rows were normal."""

    source: str
    rows: int
    unscored: int
    alarms: int
    expected: float
    worst: tuple[tuple[Alarm, tuple[ReasonInContext, ...]], ...]
    time_line: TimeLine | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """All content of a report; ``quality`` and ``curves`` need labels, ``scored`` needs rows."""

    title: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[ColumnQuality, ...]  # worst reconstructed first, at most 200
    more_columns: int
    left_out: tuple[Dropped, ...]
    more_left_out: int
    promise: Guarantee
    blocks: Blocks | None
    cautions: tuple[str, ...]
    active_units: float
    latent_units: int
    history: History
    histogram: Histogram
    steps: tuple[Step, ...]
    calibration_rows: int
    scored: ScoringOverview | None = None
    quality: Quality | None = None
    curves: Curves | None = None


def overview(
    detector: Detector,
    gathering: ScoreSummary,
    *,
    title: str,
    notes: Sequence[str] = (),
    quality: Quality | None = None,
    curves: Curves | None = None,
) -> Report:
    """Return the content of a report; ``gathering`` may be empty."""
    scored = _scored(detector, gathering) if gathering.rows else None
    columns = sorted(detector.quality, key=lambda q: (q.r2 is None, q.r2 if q.r2 is not None else 0.0))
    left_out = detector.schema.dropped
    return Report(
        title=title,
        facts=model_facts(detector),
        columns=tuple(columns[:REPORT_COLUMNS_SHOWN]),
        more_columns=max(0, len(columns) - REPORT_COLUMNS_SHOWN),
        left_out=left_out[:REPORT_COLUMNS_SHOWN],
        more_left_out=max(0, len(left_out) - REPORT_COLUMNS_SHOWN),
        promise=guarantee_of(detector.threshold),
        blocks=detector.blocks,
        cautions=(
            *notes,
            *(quality.cautions if quality else ()),
            *(_unlikely_alarms(detector, scored) if quality is None else ()),
            *cautions(detector),
            *detector.card.notes,
        ),
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        history=detector.card.history,
        histogram=gathering.histogram(),
        steps=gathering.steps(),
        calibration_rows=len(detector.threshold.calibration),
        scored=scored,
        quality=quality,
        curves=curves,
    )


def _scored(detector: Detector, gathering: ScoreSummary) -> ScoringOverview:
    return ScoringOverview(
        source=gathering.source,
        rows=gathering.rows,
        unscored=gathering.unscored,
        alarms=gathering.alarms,
        expected=detector.threshold.alpha * (gathering.rows - gathering.unscored),
        worst=tuple((alarm, reasons_in_context(detector, alarm.reasons)) for alarm in gathering.worst()),
        time_line=gathering.time_line(),
    )


def _unlikely_alarms(detector: Detector, scored: ScoringOverview | None) -> tuple[str, ...]:
    """Return a caution if there are more alarms than chance explains, or fewer."""
    if scored is None:
        return ()
    few = too_few_alarms(detector.threshold, scored.rows - scored.unscored, scored.alarms)
    return (few,) if few else _too_many(scored)


def _too_many(scored: ScoringOverview) -> tuple[str, ...]:
    """Return a caution if there are more alarms than chance explains."""
    if scored.alarms <= scored.expected + TOO_MANY * max(scored.expected, 1.0) ** 0.5:
        return ()
    many = f"{scored.alarms:,} of {scored.rows:,} rows are flagged where {scored.expected:,.1f} are expected if all were normal"
    return (f"{many}: either many are anomalous, or normal rows have changed since the fit",)


def model_facts(detector: Detector) -> tuple[tuple[str, str], ...]:
    """Return how the model was trained, as pairs of a name and a text."""
    card, ensemble = detector.card, detector.ensemble
    facts = (
        ("fitted", card.created),
        ("data", shorten_list(card.data, length=SOURCES_SHOWN)),
        ("rows", f"{card.rows:,}: {card.training_rows:,} for training, {card.calibration_rows:,} for calibration"),
        ("columns", f"{len(detector.quality):,} used, {len(detector.schema.dropped):,} left out"),
        ("networks", f"{len(ensemble.weight)}, on the views {', '.join(detector.config.model.views)}"),
        ("prior", {"exemplar": "mixture over exemplars", "standard": "N(0, I)"}[ensemble.prior]),
        ("latent units", f"{active_units(detector):.3g} of {ensemble.vae.latent} active"),
        ("training", f"{card.history.steps:,} steps; {card.history.stopped}"),
        ("duration", f"{card.seconds:.1f} s" if card.seconds else ""),
        ("seed", f"{card.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in card.versions)),
    )
    return tuple((name, text) for name, text in facts if text)


def reasons_in_context(detector: Detector, reasons: Sequence[Reason]) -> tuple[ReasonInContext, ...]:
    """Add to the largest reasons the usual range of their column and the z of their contribution; columns unknown to the model go."""
    position = {column.name: j for j, column in enumerate(model_order(detector.schema))}
    quality, usual = {q.name: q for q in detector.quality}, detector.usual
    known = [reason for reason in reasons if reason.column in position][:REPORT_REASONS_SHOWN]
    return tuple(
        ReasonInContext(
            column=reason.column,
            value=reason.value,
            expected=reason.expected,
            contribution=reason.contribution,
            z=None if usual is None else (reason.contribution - float(usual.middle[j])) / float(usual.spread[j]),
            low=q.low,
            high=q.high,
        )
        for reason in known
        for j, q in [(position[reason.column], quality[reason.column])]
    )
