"""Pictures of the report that MLflow does not have: scores under a movable threshold, scores over time, values against their range.

Knows nothing of HTML, files or models. Style and colours are those of ``edges.figures``.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from matplotlib.dates import HOURLY, MINUTELY, MONTHLY, SECONDLY, AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from vae_anomaly.evaluation.score_summary import Histogram, TimeLine, WorstReason
from vae_anomaly.report.figures import BLUE, GREEN, GREY, ORANGE, SKY, asinh_ticks, cut_name, short_label, tidy_axes
from vae_anomaly.report.svg import Places, places_of

# Inches; text of ten points can then still be read on a phone.
WIDTH = 4.8
# The usual range is drawn from 0 to 1; what lies further off than this stands at the edge with an arrow.
REACH = 1.2


def distribution(histogram: Histogram, thresholds: Sequence[float]) -> tuple[Figure, Places]:
    """Draw the scores of all kinds of rows, and return also where ``thresholds`` stand."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.array(histogram.edges)
    kinds = [kind for kind in histogram.counts if kind != "calibration"] or ["calibration"]
    styles = {"calibration": (SKY, ""), "rows": (SKY, ""), "normal": (SKY, ""), "anomalous": (ORANGE, "///")}
    names = {"calibration": "calibration rows (normal, not learned from)", "rows": "scored rows"}
    bottom = np.zeros(len(edges) - 1)
    for kind in kinds:
        counts, (colour, hatch) = np.array(histogram.counts[kind], dtype=float), styles.get(kind, (SKY, ""))
        label = names.get(kind, f"{kind} rows")
        axes.stairs(
            bottom + counts, edges, baseline=bottom, fill=True, facecolor=colour, edgecolor="white", linewidth=0, hatch=hatch, label=label
        )
        bottom += counts
    if "calibration" not in kinds:
        calibration = np.array(histogram.counts["calibration"], dtype=float)
        same = calibration * bottom.sum() / max(calibration.sum(), 1.0)
        axes.stairs(same, edges, color=GREY, linewidth=1.4, label="expected if all were normal")
    axes.set_xscale("asinh", linear_width=histogram.linear)
    axes.set_xticks(asinh_ticks(edges[0], edges[-1], histogram.linear), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_label))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(short_label))
    axes.set_xlabel("anomaly score, weighted nats (higher = more anomalous)")
    axes.set_ylabel("rows")
    figure.legend(frameon=False, loc="outside upper left", ncols=1)
    tidy_axes(axes)
    return figure, places_of(axes, [float(np.clip(t, edges[0], edges[-1])) for t in thresholds])


def time_line(line: TimeLine, threshold: float) -> Figure:
    """Draw the highest score and the alarms of each span of time."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    start = [datetime.fromtimestamp(span.start, UTC) for span in line.spans]
    top.plot(start, [span.highest for span in line.spans], color=BLUE, linewidth=1.2, marker=".", markersize=3)
    top.axhline(threshold, color=ORANGE, linewidth=1.5, linestyle="--", label=f"threshold {threshold:.4g}")
    top.set_yscale("asinh", linear_width=max(threshold / 10.0, 1e-9))
    top.yaxis.set_major_formatter(FuncFormatter(short_label))
    top.set_ylim(bottom=0)
    top.set_ylabel("highest score")
    top.legend(frameon=False, loc="upper right")
    bottom.vlines(start, 0.0, [float(span.alarms) for span in line.spans], color=ORANGE, linewidth=1.6)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("alarms")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    locator = _few_dates()
    bottom.xaxis.set_major_locator(locator)
    bottom.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # the same
    tidy_axes(top, bottom)
    return figure


def _few_dates() -> AutoDateLocator:
    """Return what places at most six dates on an axis, whatever the span; by itself it warns where none of its steps is wide enough."""
    locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]  # matplotlib.dates is not annotated
    for unit, whole in ((MONTHLY, 12), (HOURLY, 24), (MINUTELY, 60), (SECONDLY, 60)):
        locator.intervald[unit] = [*locator.intervald[unit], whole]
    return locator


def against_range(reasons: Sequence[WorstReason]) -> Figure | None:
    """Draw values and what was expected against the usual range (1 % to 99 %) of their columns; None where none is a number."""
    shown = [(r, *_places(r)) for r in reasons if _has_range(r)]
    if not shown:
        return None
    figure = Figure(figsize=(4.2, 0.95 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, (_, value, expected) in enumerate(shown):
        axes.barh(y, 1.0, left=0.0, height=0.5, color=SKY, alpha=0.5, label=_once("usual range", y))
        if expected is not None:
            axes.plot(expected, y, color=GREEN, marker="o", markersize=7, fillstyle="none", linestyle="none", label=_once("expected", y))
        axes.plot(value, y, color=ORANGE, marker=_marker(value), markersize=7, linestyle="none", label=_once("value", y))
    axes.set_yticks(range(len(shown)), [cut_name(reason.column) for reason, _, _ in shown])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_xlim(-REACH, 1.0 + REACH)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xticks([0.0, 1.0], ["low", "high"])
    figure.legend(frameon=False, loc="outside upper left", ncols=3)
    tidy_axes(axes)
    return figure


def _once(label: str, y: int) -> str | None:
    return label if y == 0 else None


def _has_range(reason: WorstReason) -> bool:
    return reason.low is not None and reason.high is not None and _number(reason.value) is not None


def _places(reason: WorstReason) -> tuple[float, float | None]:
    """Return value and expectation where the usual range goes from 0 to 1, cut at the edges of the picture."""
    assert reason.low is not None
    assert reason.high is not None
    width = reason.high - reason.low or max(abs(reason.low), 1e-12)
    value, expected = _number(reason.value), _number(reason.expected)
    assert value is not None
    low, high = -REACH + 0.05, 1.0 + REACH - 0.05
    place = float(np.clip((value - reason.low) / width, low, high))
    return place, None if expected is None else float(np.clip((expected - reason.low) / width, low, high))


def _marker(place: float) -> str:
    return "<" if place <= -REACH + 0.05 else ">" if place >= 1.0 + REACH - 0.05 else "D"


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
