"""Figures of a fit: plain values in, a matplotlib figure out.

The object interface of matplotlib needs no global state and no display. Colours are those of Okabe & Ito (2008), which remain distinct
with colour blindness; markers, dashes or hatching carry the same information.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, SymmetricalLogLocator
from numpy.typing import NDArray
from scipy.stats import beta

from vae_anomaly.calibration.conformal import finest_alpha
from vae_anomaly.calibration.guarantee import BAND
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.detector.card import ColumnQuality
from vae_anomaly.evaluation.score_summary import LINEAR_QUANTILE
from vae_anomaly.messages import shorten
from vae_anomaly.model.training import History

BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
SKY = "#56B4E9"
GREY = "#666666"
QUALITY_COLUMNS_SHOWN = 40
NAME_LENGTH = 32
MANY_DECADES = 3
FEWEST_TICKS = 3


def learning_curve(history: History) -> Figure:
    """Plot loss, reconstruction and KL (nats per row) over steps, and below them the number of active latent units."""
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    steps = [b.step for b in history.blocks]
    top.plot(steps, [b.train_loss for b in history.blocks], color=GREY, linestyle="--", marker="s", markersize=4, label="training loss")
    reconstruction = [b.val_reconstruction for b in history.blocks]
    top.plot(steps, reconstruction, color=BLUE, marker="o", markersize=4, label="validation reconstruction")
    top.plot(steps, [b.val_kl for b in history.blocks], color=ORANGE, marker="^", markersize=4, label="validation KL")
    top.set_yscale("symlog", linthresh=1.0)
    # A range within one power of ten would have a single tick.
    top.yaxis.set_major_locator(SymmetricalLogLocator(base=10.0, linthresh=1.0, subs=[1.0, 2.0, 5.0]))
    top.yaxis.set_major_formatter(FuncFormatter(short_label))
    top.set_ylabel("nats per row")
    top.set_title(f"Learning curve: {history.steps:,} steps, {history.stopped}", parse_math=False)
    top.legend(frameon=False)
    bottom.plot(steps, [b.active_units for b in history.blocks], color=GREEN, marker="D", markersize=4)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("active\nlatent units")
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy_axes(top, bottom)
    return figure


def score_histogram(threshold: Threshold) -> Figure:
    """Plot the distribution of the calibration scores (higher = more anomalous) with the threshold."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    scores = threshold.calibration
    edges = _edges(scores)
    axes.hist(scores, bins=edges.tolist(), color=SKY, edgecolor="white", linewidth=0.4, label=f"{len(scores):,} calibration rows")
    label = f"threshold {threshold.value:.4g} (false-alarm rate {threshold.alpha:.3g})"
    axes.axvline(threshold.value, color=ORANGE, linewidth=2, linestyle="--", label=label)
    axes.axvspan(threshold.value, edges[-1], color=ORANGE, alpha=0.1, label="flagged")
    axes.set_xscale("asinh", linear_width=_linear_up_to(scores))
    axes.set_xticks(asinh_ticks(edges[0], edges[-1], _linear_up_to(scores)), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_label))
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("anomaly score, weighted nats (higher = more anomalous)")
    axes.set_ylabel("rows")
    axes.set_title("Scores of calibration rows (normal, not used for training)")
    axes.legend(framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def quality_figure(quality: Sequence[ColumnQuality]) -> Figure:
    """Plot the share of each column that is reconstructed on validation rows (``ColumnQuality.r2``, cut at −1)."""
    known = sorted((q for q in quality if q.r2 is not None), key=lambda q: (q.r2 or 0.0, q.name))
    shown = known[:QUALITY_COLUMNS_SHOWN]
    figure = Figure(figsize=(8.0, 1.6 + 0.26 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    for kind, colour, hatch in (("numeric", BLUE, ""), ("boolean", GREEN, "///"), ("category", ORANGE, "...")):
        rows = [(i, max(q.r2 or 0.0, -1.0)) for i, q in enumerate(shown) if q.kind == kind]
        if rows:
            positions, values = zip(*rows, strict=True)
            axes.barh(positions, values, color=colour, hatch=hatch, edgecolor="white", height=0.75, label=kind)
    axes.set_yticks(range(len(shown)), [shorten(q.name, NAME_LENGTH) for q in shown])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    axes.set_xlim(min(0.0, *(max(q.r2 or 0.0, -1.0) for q in shown), 0.0), 1.0)
    axes.axvline(0.0, color=GREY, linewidth=1)
    axes.set_xlabel("share explained on validation rows\n1 = perfect, 0 = no better than the mean or the most frequent level")
    axes.set_title(_quality_title(len(known), len(shown), len(quality) - len(known)))
    if shown:
        figure.legend(frameon=False, loc="outside upper right", ncols=3)
    tidy_axes(axes)
    return figure


def calibration_curve(threshold: Threshold, p_values: NDArray[np.float64] | None = None) -> Figure:
    """Plot the observed over the nominal false-alarm rate (alpha).

    The band contains 99 % of calibrations with as many rows (exact for ``split``: Beta(j, n + 1 - j), Vovk 2012). ``p_values`` of normal
    rows that were used for neither training nor calibration add the observed rate.
    """
    n = len(threshold.calibration)
    figure = Figure(figsize=(6.0, 5.5), layout="constrained")
    axes = figure.subplots()
    alphas = np.geomspace(finest_alpha(n), 1.0, 200)[:-1]
    j = np.floor((n + 1) * alphas + 1e-9)
    low, high = (beta.ppf(q, j, n + 1 - j) for q in ((1 - BAND) / 2, (1 + BAND) / 2))
    words = {"split": "exact", "blocks": "if they were exchangeable, which rows in time are not"}.get(
        threshold.method, "cross-fitted, approximate"
    )
    axes.fill_between(alphas, low, high, color=SKY, alpha=0.45, linewidth=0, label=f"99 % of calibrations with {n:,} rows ({words})")
    axes.plot(alphas, alphas, color=GREY, linewidth=1, label="observed = nominal")
    if p_values is not None:
        observed = np.sort(p_values[~np.isnan(p_values)])
        rates = np.searchsorted(observed, alphas, side="right") / max(len(observed), 1)
        axes.plot(alphas, rates, color=BLUE, linewidth=2, label=f"observed on {len(observed):,} normal rows")
    axes.axvline(threshold.alpha, color=ORANGE, linewidth=2, linestyle="--", label=f"alpha {threshold.alpha:.3g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(alphas[0], 1.0)
    axes.set_ylim(alphas[0] / 3, 1.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(percent_label))
    axes.set_xlabel("nominal false-alarm rate (alpha)")
    axes.set_ylabel("false-alarm rate on new normal rows")
    axes.set_title("Observed and nominal false-alarm rate")
    axes.legend(loc="upper left", framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def _quality_title(known: int, shown: int, constant: int) -> str:
    what = f"Share explained: the {shown} lowest of {known} columns" if shown < known else "Share explained per column"
    return f"{what} ({constant} constant not shown)" if constant else what


def _edges(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 61 bin edges, evenly spaced on the asinh scale of the axis."""
    linear = _linear_up_to(scores)
    low, high = np.arcsinh(scores[[0, -1]] / linear)
    pad = 0.02 * (high - low) or 0.1
    return np.asarray(np.sinh(np.linspace(low - pad, high + pad, 61)) * linear)


def _linear_up_to(scores: NDArray[np.float64]) -> float:
    return max(float(np.quantile(np.abs(scores), LINEAR_QUANTILE)), 1e-9)


def asinh_ticks(low: float, high: float, linear: float) -> list[float]:
    """Return ticks of an asinh scale: 1, 2 and 5 of each power of ten, or only 1 for a range of ``MANY_DECADES`` or more."""
    first, last = (math.floor(math.log10(max(x, 1e-300))) for x in (linear, max(high, linear)))
    steps = (1, 2, 5) if last - first < MANY_DECADES else (1,)
    inside = [t for t in [0.0, *(m * 10.0**k for k in range(first, last + 1) for m in steps)] if low <= t <= high]
    # A narrow range may contain too few of them.
    return inside if len(inside) >= FEWEST_TICKS else [float(t) for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]


def short_label(value: float, _position: int) -> str:
    """Format a number of an axis without an exponent."""
    return f"{value:,.10g}"


def percent_label(value: float, _position: int) -> str:
    """Format a share of an axis as per cent."""
    return f"{100 * value:.10g} %"


def tidy_axes(*panels: Axes) -> None:
    """Remove the top and right spines and add a faint grid."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
