"""What the pictures of a fit show, and that anything a fit can give can be drawn."""

import io
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import beta

from vae_anomaly.calibration.threshold import Method, Threshold, calibrate
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.score_summary import Span, TimeLine
from vae_anomaly.model.training import CurvePoint, History
from vae_anomaly.report import figures, figures_page

HISTORY = History(
    blocks=tuple(
        CurvePoint(step=20 * (i + 1), train_loss=90.0 - i, val_reconstruction=40.0 / (i + 1), val_kl=5.0 + i, active_units=0.5 * i)
        for i in range(20)
    ),
    steps=400,
    stopped="the budget of 400 steps was used up",
)


def threshold(rows: int = 400, alpha: float = 0.01, method: Method = "split") -> Threshold:
    return calibrate(np.random.default_rng(0).gamma(3.0, 10.0, rows), alpha, method)


def quality(name: str, kind: str = "numeric", r2: float | None = 0.5) -> ColumnQuality:
    return ColumnQuality(name=name, kind=kind, r2=r2, missing=0.0)


def drawn(figure: Figure) -> bytes:
    """Render to PNG as MLflow does; a warning would be an error."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    (found,) = [one for one in axes.lines if str(one.get_label()).startswith(label)]
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


def legend(axes: Axes) -> list[str]:
    shown = axes.get_legend()
    return [text.get_text() for text in shown.get_texts()] if shown else []


# Learning curve


def test_the_learning_curve_has_every_block() -> None:
    top, bottom = figures.learning_curve(HISTORY).axes
    steps = [float(b.step) for b in HISTORY.blocks]
    assert line(top, "training loss") == (steps, [b.train_loss for b in HISTORY.blocks])
    assert line(top, "validation reconstruction") == (steps, [b.val_reconstruction for b in HISTORY.blocks])
    assert line(top, "validation KL") == (steps, [b.val_kl for b in HISTORY.blocks])
    assert np.asarray(bottom.lines[0].get_ydata()).tolist() == [b.active_units for b in HISTORY.blocks]
    assert top.get_title() == "Learning curve: 400 steps, the budget of 400 steps was used up"
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("nats per row", "active\nlatent units", "step")


# Scores


def test_every_calibration_score_is_in_the_histogram_and_the_threshold_in_its_place() -> None:
    given = threshold()
    (axes,) = figures.score_histogram(given).axes
    heights = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")][:60]
    assert sum(heights) == len(given.calibration)
    label = f"threshold {given.value:.4g} (false-alarm rate 0.01)"
    assert line(axes, label)[0] == [given.value, given.value]
    assert legend(axes) == ["400 calibration rows", label, "flagged"]
    assert axes.get_xlabel() == "anomaly score, weighted nats (higher = more anomalous)"


@pytest.mark.parametrize(
    "scores",
    [np.zeros(30), np.full(30, 7.0), np.array([1.0, 2.0, 3.0, 1e9] * 10), np.geomspace(1e-12, 1e12, 50), np.arange(19.0)],
    ids=["all zero", "all the same", "far out", "24 decades", "few"],
)
def test_scores_of_any_spread_can_be_drawn(scores: NDArray[np.float64]) -> None:
    given = calibrate(scores, 0.05)
    figure = figures.score_histogram(given)
    heights = [patch.get_height() for patch in figure.axes[0].patches if hasattr(patch, "get_height")][:60]
    assert sum(heights) == len(scores)
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert 3 <= len(ticks) <= 30, "numbers to read the scale by"
    assert drawn(figure).startswith(b"\x89PNG")


# Columns


def bars(figure: Figure) -> Iterator[tuple[str, float]]:
    """Name and length of every bar, from below."""
    (axes,) = figure.axes
    names = dict(zip(axes.get_yticks(), [label.get_text() for label in axes.get_yticklabels()], strict=True))
    for container in axes.containers:
        for patch in container:
            yield names[round(patch.get_y() + patch.get_height() / 2)], patch.get_width()


def test_columns_stand_in_the_order_of_what_is_explained_and_constants_are_counted() -> None:
    given = [quality("a", r2=0.9), quality("b", "category", -3.0), quality("c", "boolean", 0.2), quality("d", r2=None)]
    figure = figures.quality_figure(given)
    assert dict(bars(figure)) == {"a": 0.9, "b": -1.0, "c": 0.2}, "what is worse than −1 is cut there"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c", "a"]
    assert figure.axes[0].get_title() == "How well each column is explained (1 constant not shown)"


def test_of_many_columns_the_worst_are_shown() -> None:
    figure = figures.quality_figure([quality(f"c{i}", r2=i / 100) for i in range(90)])
    assert sorted(dict(bars(figure))) == sorted(f"c{i}" for i in range(40))
    assert figure.axes[0].get_title() == "The 40 of 90 columns that are explained worst"
    assert drawn(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "given",
    [
        [],
        [quality("d", r2=None)],
        [quality("$\\frac{$ and $x$")],
        [quality("a long name " * 9)],
        [quality("<b>&\n", "category", -(10.0**12))],
    ],
    ids=["no column", "constants only", "formula", "long", "tags"],
)
def test_columns_of_any_name_can_be_drawn(given: list[ColumnQuality]) -> None:
    assert drawn(figures.quality_figure(given)).startswith(b"\x89PNG")


# Calibration


def test_the_band_is_that_of_the_beta_law() -> None:
    given = threshold(rows=199)
    (axes,) = figures.calibration_curve(given).axes
    path = axes.collections[0].get_paths()[0].vertices
    assert isinstance(path, np.ndarray)
    alpha = 0.1
    nearest = path[np.argsort(np.abs(np.log(path[:, 0] / alpha)))[:2]]
    j = np.floor(200 * nearest[0, 0] + 1e-9)
    np.testing.assert_allclose(sorted(nearest[:, 1]), beta.ppf([0.005, 0.995], j, 200 - j), rtol=1e-9)
    assert "99 % of calibrations with 199 rows (exact)" in legend(axes)
    assert line(axes, "alpha 0.01")[0] == [0.01, 0.01]


def test_what_was_realised_is_the_share_of_small_p_values() -> None:
    p_values = np.array([1 / 401, 0.004, 0.02, 0.02, 0.5, np.nan, 1.0])
    (axes,) = figures.calibration_curve(threshold(), p_values).axes
    asked, realised = line(axes, "realised on 6 normal rows")
    for alpha, share in zip(asked, realised, strict=True):
        assert share == np.mean(p_values[~np.isnan(p_values)] <= alpha)


def test_cross_fitting_is_called_approximate() -> None:
    (axes,) = figures.calibration_curve(threshold(method="cross")).axes
    assert "99 % of calibrations with 400 rows (cross-fitted, approximate)" in legend(axes)


@pytest.mark.parametrize("rows", [1, 19, 20_000])
def test_any_number_of_calibration_rows_can_be_drawn(rows: int) -> None:
    given = threshold(rows=rows, alpha=0.5)
    assert drawn(figures.calibration_curve(given, np.full(3, np.nan))).startswith(b"\x89PNG")


# All of them


def test_the_pictures_of_a_real_fit_can_be_drawn_without_a_warning(tiny_detector: Detector) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            figures.learning_curve(tiny_detector.card.history),
            figures.learning_curve(replace(tiny_detector.card.history, blocks=())),
            figures.score_histogram(tiny_detector.threshold),
            figures.quality_figure(tiny_detector.quality),
            figures.calibration_curve(tiny_detector.threshold),
        ):
            assert drawn(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("seconds", [*np.geomspace(1, 3e10, 60).astype(int).tolist(), 150, 12_000, 250_000, 100_000_000])
def test_a_time_line_of_any_length_has_few_dates_and_no_warning(seconds: int) -> None:
    spans = tuple(Span(start=1_767_225_600 + start, rows=1, alarms=1, highest=2.0) for start in (0, seconds))
    drawn = figures_page.time_line(TimeLine(column="time", width=1, spans=spans), 1.0)
    assert 2 <= len(drawn.axes[1].get_xticks()) <= 8
