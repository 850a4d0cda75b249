"""Pictures of a model against labels, one function each: plain values in, a matplotlib figure out.

Knows nothing of MLflow, files or models. Style and colours are those of ``edges.figures``.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import Histogram
from vae_anomaly.report.content import Curves
from vae_anomaly.report.figures import BLUE, GREY, ORANGE, SKY, asinh_ticks, cut_name, percent_label, short_label, tidy_axes

LABEL_CURVES_SHOWN = 12
HEATMAP_COLUMNS_SHOWN = 20
SIZE = (4.8, 4.0)


def roc(curves: Curves, quality: Quality) -> Figure:
    """Draw recall over the false-alarm rate."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.plot(curves.roc[:, 0], curves.roc[:, 1], color=BLUE, linewidth=2, label=f"area {quality.auroc:.4f}")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance")
    if quality.false_alarms is not None:
        at = f"threshold: recall {quality.recall:.3g}"
        axes.plot([quality.false_alarms.rate], [quality.recall], color=ORANGE, marker="D", linestyle="none", label=at)
    axes.set_xlabel("false-alarm rate")
    axes.set_ylabel("recall")
    axes.set_title("ROC curve")
    axes.legend(loc="lower right", framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def precision_recall(curves: Curves, quality: Quality) -> Figure:
    """Draw precision over recall; chance is the share of anomalous rows."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    recall, precision = curves.precision_recall.T
    axes.step(recall, precision, where="post", color=BLUE, linewidth=2, label=f"average precision {quality.average_precision:.4f}")
    share = quality.anomalous_rows / (quality.anomalous_rows + quality.normal_rows)
    axes.axhline(share, color=GREY, linewidth=1, linestyle=":", label=f"chance {share:.3g}")
    if quality.precision is not None:
        at = f"threshold: precision {quality.precision:.3g}"
        axes.plot([quality.recall], [quality.precision], color=ORANGE, marker="D", linestyle="none", label=at)
    axes.set_ylim(0.0, 1.03)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left", framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def score_by_class(histogram: Histogram, threshold: float) -> Figure:
    """Draw the scores of both classes, each as shares of its rows, with the threshold."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    edges = np.array(histogram.edges)
    for kind, colour, style in (("normal", SKY, "-"), ("anomalous", ORANGE, "--")):
        counts = np.array(histogram.counts[kind])
        axes.stairs(counts / max(counts.sum(), 1), edges, color=colour, linewidth=1.8, linestyle=style, label=f"{counts.sum():,} {kind}")
    axes.axvline(threshold, color=GREY, linewidth=1.5, linestyle=":", label=f"threshold {threshold:.4g}")
    axes.set_xscale("asinh", linear_width=histogram.linear)
    axes.set_xticks(asinh_ticks(edges[0], edges[-1], histogram.linear), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_label))
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(FuncFormatter(percent_label))
    axes.set_xlabel("anomaly score, weighted nats")
    axes.set_ylabel("share of the class")
    axes.set_title("Scores by class")
    axes.legend(framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def realised(curves: Curves, alpha: float) -> Figure:
    """Draw the share of normal rows with a p-value of at most alpha over alpha: on the diagonal where the promise holds."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    asked, found = curves.realised.T
    there = found > 0
    axes.plot(asked[there], found[there], color=BLUE, linewidth=2, label="normal rows")
    axes.plot(asked, asked, color=GREY, linewidth=1, label="as promised")
    axes.axvline(alpha, color=ORANGE, linewidth=1.5, linestyle="--", label=f"alpha {alpha:.3g}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(percent_label))
    axes.set_xlabel("false-alarm rate asked for")
    axes.set_ylabel("rate on these normal rows")
    axes.set_title("p-values of normal rows")
    axes.legend(loc="upper left", framealpha=1.0, edgecolor="none")
    tidy_axes(axes)
    return figure


def contributions(curves: Curves) -> Figure:
    """Draw the mean contribution of each column for each label, as shares of the mean score of the label."""
    labels = list(curves.by_label)[:LABEL_CURVES_SHOWN]
    shares = np.array([curves.by_label[name] for name in labels])
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-300)
    columns = np.sort(np.argsort(-shares.max(0), kind="stable")[:HEATMAP_COLUMNS_SHOWN])
    figure = Figure(figsize=(max(4.8, 1.8 + 0.5 * len(labels)), 1.7 + 0.27 * len(columns)), layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(shares[:, columns].T, cmap="cividis", vmin=0.0, vmax=1.0, edgecolors="white", linewidth=0.8)
    axes.set_yticks(np.arange(len(columns)) + 0.5, [cut_name(curves.columns[j]) for j in columns])
    axes.set_xticks(np.arange(len(labels)) + 0.5, [cut_name(name) for name in labels], rotation=35, ha="right")
    for text in [*axes.get_yticklabels(), *axes.get_xticklabels()]:
        text.set_parse_math(False)
    axes.invert_yaxis()
    bar = figure.colorbar(mesh, ax=axes, format=FuncFormatter(percent_label))
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_title("What makes the score, by label")
    axes.spines[:].set_visible(False)
    return figure
