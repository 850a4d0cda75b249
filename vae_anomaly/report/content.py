"""What a report shows about a model, and about rows that it scored: plain values, bounded whatever the number of rows.

Knows nothing about how they are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.calibration.guarantee import Promise, promise
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import Gathering, Histogram, Step, TimeLine, WorstReason, WorstRow
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.model.training import History
from vae_anomaly.schema.encoding import model_order
from vae_anomaly.schema.inference import Dropped

# Rows of a report: the worst alarms, the columns of each, and the columns of the model.
ALARMS_SHOWN = 10
REPORT_REASONS_SHOWN = 4
REPORT_COLUMNS_SHOWN = 200
# Alarms more than so many standard errors above the expected ones are no chance.
TOO_MANY = 5.0
SOURCES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """How well scores part the classes: ``roc`` and ``precision_recall`` as points ``[k, 2]``, and rates asked for and realised.

    ``roc``: false-alarm rate, recall; ``precision_recall``: recall, precision; ``realised`` ``[k, 2]``: alpha, share of the normal rows
    with a p-value of at most alpha. ``by_label``: label → mean contribution of each of ``columns``, of ``rows`` rows or fewer.
    """

    roc: NDArray[np.float64]
    precision_recall: NDArray[np.float64]
    realised: NDArray[np.float64]
    columns: tuple[str, ...]
    by_label: Mapping[str, tuple[float, ...]]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringOverview:
    """Rows that the model scored: ``alarms`` as they were flagged, ``expected`` if every row were normal."""

    source: str
    rows: int
    unscored: int
    alarms: int
    expected: float
    worst: tuple[WorstRow, ...]
    time_line: TimeLine | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """Everything that a report shows; ``quality`` and ``curves`` where there were labels, ``scored`` where there were rows."""

    title: str
    facts: tuple[tuple[str, str], ...]
    columns: tuple[ColumnQuality, ...]  # explained worst first, at most 200
    more_columns: int
    left_out: tuple[Dropped, ...]
    more_left_out: int
    promise: Promise
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
    gathering: Gathering,
    *,
    title: str,
    notes: Sequence[str] = (),
    quality: Quality | None = None,
    curves: Curves | None = None,
) -> Report:
    """Put together what a report shows; ``gathering`` holds the scored rows, or none."""
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
        promise=promise(detector.threshold),
        blocks=detector.blocks,
        cautions=(*notes, *(_too_many(scored) if quality is None else ()), *cautions(detector), *detector.card.notes),
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


def _scored(detector: Detector, gathering: Gathering) -> ScoringOverview:
    return ScoringOverview(
        source=gathering.source,
        rows=gathering.rows,
        unscored=gathering.unscored,
        alarms=gathering.alarms,
        expected=detector.threshold.alpha * (gathering.rows - gathering.unscored),
        worst=gathering.worst(),
        time_line=gathering.time_line(),
    )


def _too_many(scored: ScoringOverview | None) -> tuple[str, ...]:
    """Say when the scored rows cannot be like those of the fit, unless many of them are anomalous indeed."""
    if scored is None or scored.alarms <= scored.expected + TOO_MANY * max(scored.expected, 1.0) ** 0.5:
        return ()
    many = f"{scored.alarms:,} of {scored.rows:,} rows are flagged where {scored.expected:,.1f} are expected if all were normal"
    return (f"{many}: either many are anomalous, or normal rows have changed since the fit",)


def model_facts(detector: Detector) -> tuple[tuple[str, str], ...]:
    """Return what the model was made from, in pairs of a name and words."""
    card, ensemble = detector.card, detector.ensemble
    more = len(card.source) - SOURCES_SHOWN
    sources = ", ".join(card.source[:SOURCES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    every = (
        ("fitted", card.created),
        ("data", sources),
        ("rows", f"{card.rows:,}: {card.training_rows:,} learned from, {card.calibration_rows:,} for the threshold"),
        ("columns", f"{len(detector.quality):,} read, {len(detector.schema.dropped):,} left out"),
        ("networks", f"{len(ensemble.weight)} on the views {', '.join(detector.config.model.views)}"),
        ("prior", {"exemplar": "exemplar rows", "standard": "N(0, I)"}[ensemble.prior]),
        ("latent units", f"{active_units(detector):.3g} of {ensemble.vae.latent} in use"),
        ("training", f"{card.history.steps:,} steps; {card.history.stopped}"),
        ("time taken", f"{card.seconds:.1f} s" if card.seconds else ""),
        ("seed", f"{card.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in card.versions)),
    )
    return tuple((name, words) for name, words in every if words)


def reasons(detector: Detector, features: Sequence[Mapping[str, object]]) -> tuple[WorstReason, ...]:
    """Turn the ``top_features`` of a row into reasons with the usual range of their column and the z of their contribution."""
    columns = [column.name for column in model_order(detector.schema)]
    places = {name: j for j, name in enumerate(columns)}
    quality = {q.name: q for q in detector.quality}
    found = []
    for feature in features:
        name, contribution = str(feature["column"]), float(str(feature["contribution"]))
        if name not in places:
            continue
        j, usual, q = places[name], detector.usual, quality[name]
        z = None if usual is None else (contribution - float(usual.middle[j])) / float(usual.spread[j])
        value, expected = (None if feature[key] is None else str(feature[key]) for key in ("value", "expected"))
        parts = {"low": q.low, "middle": q.middle, "high": q.high}
        found.append(WorstReason(column=name, value=value, expected=expected, contribution=contribution, z=z, **parts))
    return tuple(found[:REPORT_REASONS_SHOWN])
