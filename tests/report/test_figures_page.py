"""Figures of the HTML report: what is where, what is cut, and what a wide or narrow range does."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.report.test_figures import drawn, line
from vae_anomaly.evaluation.score_summary import Histogram, Span, TimeLine
from vae_anomaly.report import figures_page
from vae_anomaly.report.content import ReasonInContext

EDGES = (0.0, 1.0, 10.0, 100.0)
HISTOGRAM = Histogram(edges=EDGES, linear=1.0, counts={"calibration": (30, 10, 0), "rows": (60, 16, 4)})
PRESSURE = ReasonInContext(column="pressure", value="3", expected="1.5", contribution=9.0, z=4.0, low=1.0, high=2.0)


def heights(histogram: Histogram) -> dict[str, list[float]]:
    figure, _ = figures_page.distribution(histogram, [1.0])
    return {str(patch.get_label()): patch.get_data().values.tolist() for patch in figure.axes[0].patches}  # type: ignore[attr-defined]


# Distribution


def test_scored_rows_stand_beside_the_calibration_rows_scaled_to_their_number() -> None:
    """30 and 10 of 40 calibration rows are 60 and 20 of 80."""
    assert heights(HISTOGRAM) == {"scored rows": [60, 16, 4], "expected if all were normal": [60, 20, 0]}


def test_anomalous_rows_are_stacked_on_normal_ones() -> None:
    labelled = replace(HISTOGRAM, counts={"calibration": (30, 10, 0), "normal": (50, 10, 0), "anomalous": (0, 1, 9)})
    found = heights(labelled)
    assert (found["normal rows"], found["anomalous rows"]) == ([50, 10, 0], [50, 11, 9])


def test_without_rows_the_calibration_rows_are_shown() -> None:
    alone = replace(HISTOGRAM, counts={"calibration": (30, 10, 0)})
    assert heights(alone) == {"calibration rows (normal, not used for training)": [30, 10, 0]}


def test_positions_of_thresholds_follow_the_axis_and_stay_inside_of_it() -> None:
    figure, position = figures_page.distribution(HISTOGRAM, [*EDGES, 1e9, -5.0])
    left, *_, right, beyond, before = position.x
    assert left < position.x[1] < position.x[2] < right
    assert (beyond, before) == (right, left)
    box, width = figure.axes[0].get_window_extent(), figure.bbox.width
    assert (left, right) == pytest.approx((box.x0 / width, box.x1 / width))


# Time line

SPANS = tuple(Span(start=1_767_225_600 + 60 * i, rows=10, alarms=i, highest=10.0 * 2**i) for i in range(8))


def test_the_time_line_has_the_highest_score_and_the_alarms_of_each_interval() -> None:
    top, bottom = figures_page.time_line(TimeLine(column="time", width=60, spans=SPANS), 85.0).axes
    assert np.asarray(top.lines[0].get_ydata()).tolist() == [span.highest for span in SPANS]
    assert line(top, "threshold 85")[1] == [85.0, 85.0]
    assert [segment[1][1] for segment in bottom.collections[0].get_segments()] == [span.alarms for span in SPANS]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("threshold", "highest"), [(85.0, 1065.0), (0.001, 1e6), (1e6, 1.0), (3.0, 4.0)])
def test_numbers_of_the_score_axis_do_not_overlap(threshold: float, highest: float) -> None:
    spans = (replace(SPANS[0], highest=highest / 2), replace(SPANS[1], highest=highest))
    figure = figures_page.time_line(TimeLine(column="time", width=60, spans=spans), threshold)
    figure.draw_without_rendering()
    top = figure.axes[0]
    low, high = top.get_ylim()
    boxes = [label.get_window_extent() for label in top.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert len(boxes) >= 2
    for lower, upper in pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1.0


@pytest.mark.parametrize("seconds", [*np.geomspace(1, 3e10, 60).astype(int).tolist(), 150, 12_000, 250_000, 100_000_000])
def test_a_time_line_of_any_length_has_few_dates_and_no_warning(seconds: int) -> None:
    spans = tuple(Span(start=1_767_225_600 + start, rows=1, alarms=1, highest=2.0) for start in (0, seconds))
    figure = figures_page.time_line(TimeLine(column="time", width=1, spans=spans), 1.0)
    assert 2 <= len(figure.axes[1].get_xticks()) <= 8


# Values against their usual range


def points(*reasons: ReasonInContext) -> list[tuple[float, str]]:
    """Position and marker of every point, expected values before values."""
    figure = figures_page.against_range(reasons)
    assert figure is not None
    return [(float(np.asarray(one.get_xdata())[0]), str(one.get_marker())) for one in figure.axes[0].lines]


def test_the_usual_range_is_zero_to_one() -> None:
    assert points(PRESSURE) == [(0.5, "o"), (2.0, "D")]


@pytest.mark.parametrize(("value", "marker"), [("9e5", ">"), ("-9e5", "<"), ("1.0", "D")])
def test_a_value_far_outside_is_an_arrow_at_the_edge(value: str, marker: str) -> None:
    (_, shown) = points(replace(PRESSURE, value=value))
    assert shown[1] == marker
    assert -figures_page.REACH <= shown[0] <= 1.0 + figures_page.REACH


def test_a_range_of_one_value_is_no_division_by_zero() -> None:
    assert points(replace(PRESSURE, value="7", expected=None, low=7.0, high=7.0)) == [(0.0, "D")]
    assert points(replace(PRESSURE, value="0", expected=None, low=0.0, high=0.0)) == [(0.0, "D")]


def test_only_numbers_with_a_range_are_shown() -> None:
    text = replace(PRESSURE, column="mode", value="idle", low=None, high=None)
    unread = [replace(PRESSURE, value=value) for value in (None, "n/a", "nan", "inf")]
    assert figures_page.against_range([text, *unread]) is None
    figure = figures_page.against_range([text, replace(PRESSURE, column="$x$"), *unread])
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$x$"]
    assert drawn(figure).startswith(b"\x89PNG")
