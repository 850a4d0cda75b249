"""Figures of an evaluation: every curve has its points, its threshold and its numbers in the legend."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from tests.report.test_figures import drawn, legend, line
from vae_anomaly.evaluation.results import FalseAlarms, Quality
from vae_anomaly.evaluation.score_summary import Histogram
from vae_anomaly.report import figures_evaluation
from vae_anomaly.report.content import Curves

CURVES = Curves(
    roc=np.array([[0.0, 0.0], [0.1, 0.75], [1.0, 1.0]]),
    precision_recall=np.array([[0.0, 1.0], [0.75, 0.6], [1.0, 0.2]]),
    realised=np.array([[0.01, 0.0], [0.1, 0.2], [1.0, 1.0]]),
    columns=("flow", "pressure", "$mode$"),
    by_label={"normal": (1.0, 1.0, 2.0), "leak": (0.0, 9.0, 1.0)},
    rows=100,
)
QUALITY = Quality(
    normal_rows=80,
    anomalous_rows=20,
    auroc=0.87654,
    average_precision=0.7,
    precision=0.6,
    recall=0.75,
    false_alarms=FalseAlarms(rows=8, rate=0.1, low=0.05, high=0.2),
)
HISTOGRAM = Histogram(edges=(0.0, 1.0, 10.0, 100.0), linear=1.0, counts={"normal": (60, 20, 0), "anomalous": (0, 5, 15)})


def test_the_roc_curve_has_its_points_its_area_and_the_threshold() -> None:
    (axes,) = figures_evaluation.roc(CURVES, QUALITY).axes
    assert line(axes, "area 0.8765") == ([0.0, 0.1, 1.0], [0.0, 0.75, 1.0])
    assert line(axes, "threshold: recall 0.75") == ([0.1], [0.75])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("false-alarm rate", "recall")


def test_without_a_rate_of_their_own_normal_rows_give_no_point() -> None:
    (axes,) = figures_evaluation.roc(CURVES, replace(QUALITY, false_alarms=None)).axes
    assert legend(axes) == ["area 0.8765", "chance"]
    (axes,) = figures_evaluation.precision_recall(CURVES, replace(QUALITY, precision=None)).axes
    assert legend(axes) == ["average precision 0.7000", "chance 0.2"]


def test_precision_of_chance_is_the_share_of_anomalous_rows() -> None:
    (axes,) = figures_evaluation.precision_recall(CURVES, QUALITY).axes
    assert line(axes, "average precision") == ([0.0, 0.75, 1.0], [1.0, 0.6, 0.2])
    assert line(axes, "chance 0.2")[1] == [0.2, 0.2]
    assert line(axes, "threshold: precision 0.6") == ([0.75], [0.6])


def test_scores_of_both_classes_are_shares_of_their_class() -> None:
    (axes,) = figures_evaluation.score_by_class(HISTOGRAM, 12.5).axes
    shares = {str(patch.get_label()): patch.get_data().values.tolist() for patch in axes.patches}  # type: ignore[attr-defined]
    assert shares == {"80 normal": [0.75, 0.25, 0.0], "20 anomalous": [0.0, 0.25, 0.75]}
    assert line(axes, "threshold 12.5")[0] == [12.5, 12.5]


def test_a_class_without_rows_can_be_drawn() -> None:
    empty = replace(HISTOGRAM, counts={"normal": (0, 0, 0), "anomalous": (0, 5, 15)})
    assert drawn(figures_evaluation.score_by_class(empty, 1.0)).startswith(b"\x89PNG")


def test_observed_rates_of_zero_are_left_out_of_the_logarithmic_axis() -> None:
    (axes,) = figures_evaluation.realised(CURVES, 0.05).axes
    assert line(axes, "these normal rows") == ([0.1, 1.0], [0.2, 1.0])
    assert line(axes, "observed = nominal") == ([0.01, 0.1, 1.0], [0.01, 0.1, 1.0])
    assert line(axes, "alpha 0.05")[0] == [0.05, 0.05]


def shares(axes: Axes) -> list[list[float]]:
    (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
    rows: list[list[float]] = np.asarray(mesh.get_array()).tolist()
    return rows


def test_contributions_are_shares_of_the_score_of_their_label() -> None:
    axes = figures_evaluation.contributions(CURVES).axes[0]
    assert shares(axes) == [pytest.approx([0.25, 0.0]), pytest.approx([0.25, 0.9]), pytest.approx([0.5, 0.1])]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["flow", "pressure", "$mode$"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["normal", "leak"]


def test_of_many_columns_those_with_the_largest_share_are_kept_in_order() -> None:
    """Column 3 of 40 has half of the score of one label, column 30 of the other, and all others share the rest."""
    one, other = np.ones(40), np.ones(40)
    one[3], other[30] = 39.0, 39.0
    names = tuple(f"c{i}" for i in range(40))
    many = replace(CURVES, columns=names, by_label={"a": tuple(one), "b": tuple(other), **{f"more {i}": (1.0,) * 40 for i in range(20)}})
    axes = figures_evaluation.contributions(many).axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert len(shown) == figures_evaluation.HEATMAP_COLUMNS_SHOWN
    assert {"c3", "c30"} <= set(shown)
    assert shown == sorted(shown, key=names.index)
    assert len(axes.get_xticklabels()) == figures_evaluation.LABEL_CURVES_SHOWN
    assert drawn(figures_evaluation.contributions(many)).startswith(b"\x89PNG")


def test_a_label_without_a_score_is_no_division_by_zero() -> None:
    axes = figures_evaluation.contributions(replace(CURVES, by_label={"normal": (0.0, 0.0, 0.0)})).axes[0]
    assert shares(axes) == [[0.0], [0.0], [0.0]]
