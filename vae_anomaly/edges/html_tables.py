"""The tables of a report as rows of text: what labels say, and what the columns of the model are like.

Knows nothing of HTML; texts are escaped where they are put into the page.
"""

from typing import Any

from vae_anomaly.core.overview import Report
from vae_anomaly.core.report import Interval, Quality, percent

# Longer texts of cells and names are cut: a page has to stay small whatever is in the data.
TEXT_LENGTH = 160
LABELS_SHOWN = 40


def cut(text: str) -> str:
    """Shorten a long text."""
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def labels(quality: Quality | None) -> dict[str, Any]:
    """Return the tables of a detection on labelled rows; nothing without labels."""
    if quality is None:
        return {}
    comparison = quality.comparison
    more = len(quality.by_label) - LABELS_SHOWN
    rows = [(cut(f.label), f"{f.rows:,}", f"{f.flagged:,}", percent(f.flagged / f.rows)) for f in quality.by_label[:LABELS_SHOWN]]
    return {
        "quality_rows": _quality_rows(quality),
        "label_rows": [*rows, *([(f"and {more:,} more", "", "", "")] if more > 0 else [])],
        "peers_rows": [(r.name, f"{r.auroc:.4f}", f"{r.average_precision:.4f}") for r in comparison.rankings] if comparison else [],
        "peers_caption": f"On the same {comparison.test_rows:,} rows; the others learned from {comparison.peer_rows:,} normal rows"
        if comparison
        else "",
    }


def _quality_rows(quality: Quality) -> list[tuple[str, str, str, str]]:
    i = quality.intervals
    drawn = "bootstrap, each class by itself"
    rows = [
        ("AUROC", f"{quality.auroc:.4f}", _four(i.auroc if i else None), drawn),
        ("average precision", f"{quality.average_precision:.4f}", _four(i.average_precision if i else None), drawn),
        ("recall", percent(quality.recall), _shares(i.recall if i else None), drawn),
        ("precision", "no alarm" if quality.precision is None else percent(quality.precision), _shares(i.precision if i else None), drawn),
        ("F1", f"{quality.f1:.4f}", _four(i.f1 if i else None), drawn),
    ]
    found = quality.false_alarms
    if found:
        exact = _shares(Interval(low=found.low, high=found.high))
        rows.append(("false-alarm rate", percent(found.rate), exact, f"exact; {found.rows:,} of {quality.normal_rows:,} normal rows"))
    return rows


def _four(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def _shares(interval: Interval | None) -> str:
    return "" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(report: Report) -> dict[str, Any]:
    """Return the tables of the columns of the model and of those left out."""
    rows = [
        (
            cut(q.name),
            q.kind,
            cut(f"constant {q.constant}") if q.r2 is None else percent(max(q.r2, 0.0)),
            percent(q.missing),
            f"{q.low:.5g} to {q.high:.5g}" if q.low is not None and q.high is not None else "",
        )
        for q in report.columns
    ]
    known = [q for q in report.columns if q.r2 is not None]
    worst = ", ".join(f"{cut(q.name)} ({percent(max(q.r2 or 0.0, 0.0))})" for q in known[:3])
    return {
        "columns_rows": rows,
        "columns_caption": "Columns of the model, explained worst first" + _more(report.more_columns),
        "left_out_rows": [(cut(d.name), d.reason) for d in report.left_out],
        "left_out_caption": "Columns left out" + _more(report.more_left_out),
        "learnt_words": _learnt(worst),
    }


def _learnt(worst: str) -> str:
    if not worst:
        return "No column changes, so there was nothing to learn but that."
    return (
        "Explained is the share that the network reconstructs on rows it was not trained on: 100 % is perfect, 0 % no better than the mean "
        f"or the commonest level. Worst: {worst}."
    )


def _more(count: int) -> str:
    return f"; {count:,} more are not shown" if count else ""
