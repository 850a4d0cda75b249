"""Figures that only the HTML report has: scores with a movable threshold, scores over time, and values against their usual range."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from matplotlib.dates import HOURLY, MINUTELY, MONTHLY, SECONDLY, AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from vae_anomaly.evaluation.score_summary import Histogram, TimeLine
from vae_anomaly.messages import shorten
from vae_anomaly.report.content import ReasonInContext
from vae_anomaly.report.figures import BLUE, GREEN, GREY, NAME_LENGTH, ORANGE, SKY, asinh_ticks, short_label, tidy_axes
from vae_anomaly.report.svg import AxesPosition, axes_position

WIDTH = 4.8  # inches; 10-point text is then still legible on a phone
REACH = 1.2  # usual ranges are drawn as 0 to 1; values further outside are drawn at the edge, as an arrow


def distribution(histogram: Histogram, thresholds: Sequence[float]) -> tuple[Figure, AxesPosition]:
    """Plot the scores of all kinds of rows; also return the positions of ``thresholds`` in the figure."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.array(histogram.edges)
    kinds = [kind for kind in histogram.counts if kind != "calibration"] or ["calibration"]
    styles = {"calibration": (SKY, ""), "rows": (SKY, ""), "normal": (SKY, ""), "anomalous": (ORANGE, "///")}
    names = {"calibration": "calibration rows (normal, not used for training)", "rows": "scored rows"}
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
    return figure, axes_position(axes, [float(np.clip(t, edges[0], edges[-1])) for t in thresholds])


def time_line(line: TimeLine, threshold: float) -> Figure:
    """Plot the highest score and the number of alarms of each interval."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    start = [datetime.fromtimestamp(span.start, UTC) for span in line.spans]
    top.plot(start, [span.highest for span in line.spans], color=BLUE, linewidth=1.2, marker=".", markersize=3)
    top.axhline(threshold, color=ORANGE, linewidth=1.5, linestyle="--", label=f"threshold {threshold:.4g}")
    linear = max(threshold / 10.0, 1e-9)
    top.set_yscale("asinh", linear_width=linear)
    top.set_ylim(bottom=0)
    # Ticks below the linear width would overlap the one at 0, and more than seven each other.
    ticks = [tick for tick in asinh_ticks(0.0, top.get_ylim()[1], linear) if tick == 0.0 or tick >= linear]
    top.set_yticks(ticks[:: 1 + len(ticks) // 8], minor=False)
    top.yaxis.set_minor_locator(NullLocator())
    top.yaxis.set_major_formatter(FuncFormatter(short_label))
    top.set_ylabel("highest score")
    figure.legend(frameon=False, loc="outside upper left")  # inside it would cover the curve
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
    """Return a locator with at most six ticks for any span; matplotlib's default steps are too narrow for some spans, and warn."""
    locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]  # matplotlib.dates is not annotated
    for unit, whole in ((MONTHLY, 12), (HOURLY, 24), (MINUTELY, 60), (SECONDLY, 60)):
        locator.intervald[unit] = [*locator.intervald[unit], whole]
    return locator


def against_range(reasons: Sequence[ReasonInContext]) -> Figure | None:
    """Plot value and expected value relative to the usual range (1 % to 99 %) of their columns; None if no reason is a number."""
    shown = [(r, *_positions(r)) for r in reasons if _has_range(r)]
    if not shown:
        return None
    figure = Figure(figsize=(4.2, 0.95 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, (_, value, expected) in enumerate(shown):
        axes.barh(y, 1.0, left=0.0, height=0.5, color=SKY, alpha=0.5, label=_once("usual range", y))
        if expected is not None:
            axes.plot(expected, y, color=GREEN, marker="o", markersize=7, fillstyle="none", linestyle="none", label=_once("expected", y))
        axes.plot(value, y, color=ORANGE, marker=_marker(value), markersize=7, linestyle="none", label=_once("value", y))
    axes.set_yticks(range(len(shown)), [shorten(reason.column, NAME_LENGTH) for reason, _, _ in shown])
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


def _has_range(reason: ReasonInContext) -> bool:
    return reason.low is not None and reason.high is not None and _number(reason.value) is not None


def _positions(reason: ReasonInContext) -> tuple[float, float | None]:
    """Return value and expected value in units of the usual range, which is 0 to 1, clipped to the edges of the axes."""
    assert reason.low is not None
    assert reason.high is not None
    width = reason.high - reason.low or max(abs(reason.low), 1e-12)
    value, expected = _number(reason.value), _number(reason.expected)
    assert value is not None
    low, high = -REACH + 0.05, 1.0 + REACH - 0.05
    position = float(np.clip((value - reason.low) / width, low, high))
    return position, None if expected is None else float(np.clip((expected - reason.low) / width, low, high))


def _marker(position: float) -> str:
    return "<" if position <= -REACH + 0.05 else ">" if position >= 1.0 + REACH - 0.05 else "D"


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
