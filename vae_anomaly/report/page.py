"""A report as one HTML file: no remote request, every text of the user escaped, readable without its script.

Pure: a ``Report`` in, a text out. The layout stands in ``report.html`` beside this file, the few lines that move the slider in
``report.js``. The page's own policy allows that one script and nothing from elsewhere.
"""

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from vae_anomaly.calibration.conformal import finest_text
from vae_anomaly.evaluation.results import Interval, Quality
from vae_anomaly.evaluation.score_summary import Step, WorstRow
from vae_anomaly.messages import percent
from vae_anomaly.report import figures, figures_evaluation, figures_page
from vae_anomaly.report.content import Report
from vae_anomaly.report.svg import Places, svg

KINDS = {"rows": "scored rows", "calibration": "calibration rows"}
TIME_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def render(report: Report) -> str:
    """Return the report as the text of one HTML file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["sentence"] = _sentence
    environment.finalize = _short
    script = _beside("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn, places = _pictures(report)
    chosen = next(i for i, step in enumerate(report.steps) if step.alpha == report.promise.alpha)
    return environment.from_string(_beside("report.html")).render(
        report=report,
        pictures=drawn,
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
        steps=[{"place": place, "words": _step_words(report, step)} for step, place in zip(report.steps, places.x, strict=True)],
        chosen=chosen,
        marker=f"top: {100 * places.top:.2f}%; bottom: {100 * places.bottom:.2f}%",
        **_threshold(report),
        **_alarms(report),
        **labels(report.quality),
        **columns(report),
    )


def _beside(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _short(value: object) -> object:
    """Cut long texts of the user; markup of our own is no such text."""
    if isinstance(value, str) and not isinstance(value, Markup) and len(value) > 4 * TEXT_LENGTH:
        return value[: 4 * TEXT_LENGTH - 1] + "…"
    return value


def _sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pictures(report: Report) -> tuple[dict[str, Markup], Places]:
    """Draw all pictures; return with them where the thresholds of the steps stand in the distribution."""
    distribution, places = figures_page.distribution(report.histogram, [step.threshold for step in report.steps])
    line = report.scored.time_line if report.scored else None
    drawn: dict[str, Any] = {
        "distribution": (distribution, _distribution_words(report)),
        "column_quality": (
            _quality_picture(report),
            "How well each column is explained; the table has the numbers.",
        ),
        "learning_curve": (
            _narrow(figures.learning_curve(report.history)),
            "Loss, reconstruction, KL and active units over training steps.",
        ),
        "time_line": (figures_page.time_line(line, report.promise.threshold), _time_words(report)) if line else None,
    }
    if report.quality and report.curves:
        quality, curves = report.quality, report.curves
        drawn |= {
            "roc": (figures_evaluation.roc(curves, quality), f"ROC curve, area {quality.auroc:.4f}."),
            "precision_recall": (
                figures_evaluation.precision_recall(curves, quality),
                f"Precision over recall, average precision {quality.average_precision:.4f}.",
            ),
            "score_by_class": (
                figures_evaluation.score_by_class(report.histogram, report.promise.threshold),
                "Scores of normal and of anomalous rows with the threshold.",
            ),
            "realised": (
                figures_evaluation.realised(curves, report.promise.alpha),
                "False-alarm rate on these normal rows over the rate asked for.",
            ),
            "contributions": (figures_evaluation.contributions(curves), "Mean contribution of each column for each label."),
        }
    pictures = {name: Markup(svg(pair[0], name, pair[1])) if pair else Markup() for name, pair in drawn.items()}  # noqa: S704
    return pictures, places


def _quality_picture(report: Report) -> Figure:
    figure = _narrow(figures.quality_figure(report.columns))
    figure.axes[0].set_xlabel("share explained")  # the paragraph above says what that means
    return figure


def _narrow(figure: Figure) -> Figure:
    """Make a picture that was drawn for a wide screen readable on a phone."""
    figure.set_size_inches(figures_page.WIDTH, max(3.2, 0.8 * figure.get_size_inches()[1]))
    return figure


# ── the threshold ────────────────────────────────────────────────────────────────────────────────────────────────────


def _threshold(report: Report) -> dict[str, Any]:
    promise, scored = report.promise, report.scored
    alarms = (f"{scored.alarms:,}", f"of {scored.rows:,} rows; {scored.expected:,.1f} expected if all were normal") if scored else None
    finest = f"finest possible {percent(float(finest_text(promise.calibration_rows)))}"
    tiles = [
        ("False-alarm rate", percent(promise.alpha), f"{'exact' if promise.exact else 'approximate'}; {finest}"),
        ("Threshold", f"{promise.threshold:.5g}", f"weighted nats, from {promise.calibration_rows:,} calibration rows"),
        *([("Alarms", *alarms)] if alarms else []),
        *([("AUROC", f"{report.quality.auroc:.4f}", f"recall {percent(report.quality.recall)}")] if report.quality else []),
        ("Latent units in use", f"{report.active_units:.3g} of {report.latent_units}", ""),
    ]
    kinds = [kind for kind in report.steps[0].above if kind != "calibration"] or ["calibration"]
    return {
        "tiles": tiles,
        "blocks_words": _blocks_words(report),
        "distribution_words": _distribution_words(report),
        "steps_head": ("alpha", "threshold", *(KINDS.get(kind, f"{kind} rows") for kind in kinds)),
        "steps_rows": [(percent(s.alpha), f"{s.threshold:.5g}", *(f"{s.above[kind]:,}" for kind in kinds)) for s in report.steps],
    }


def _blocks_words(report: Report) -> str:
    blocks = report.blocks
    if blocks is None:
        return ""
    return (
        f"In {len(blocks.rates)} consecutive parts of the calibration rows {percent(min(blocks.rates))} to {percent(max(blocks.rates))} of "
        f"the rows are above the threshold; chance spreads them so unevenly in {percent(blocks.p_value)} of all cases."
    )


def _distribution_words(report: Report) -> str:
    if report.scored is None:
        return f"Scores of the {report.calibration_rows:,} calibration rows, which are normal and nothing was learned from."
    return f"Scores of {report.scored.rows - report.scored.unscored:,} rows, beside what calibration rows would look like."


def _step_words(report: Report, step: Step) -> list[str]:
    """What the slider says at one false-alarm rate, a line each."""
    first = f"alpha {percent(step.alpha)}: rows above {step.threshold:.5g} are flagged"
    counts = report.histogram.counts
    totals = {kind: sum(counts[kind]) for kind in counts}
    if report.scored is None:
        return [first, f"{step.above['calibration']:,} of {totals['calibration']:,} calibration rows would be flagged"]
    rows = report.scored.rows - report.scored.unscored
    alarms = sum(count for kind, count in step.above.items() if kind != "calibration")
    lines = [first, f"{alarms:,} alarms in {rows:,} rows; {step.alpha * rows:,.1f} expected if all were normal"]
    if "anomalous" in step.above:
        hits, false = step.above["anomalous"], step.above["normal"]
        precision = f", {percent(hits / (hits + false))} of the alarms are right" if hits + false else ""
        lines.append(f"{percent(hits / max(totals['anomalous'], 1))} of the anomalous rows are found{precision}")
    return lines


# ── alarms and time ──────────────────────────────────────────────────────────────────────────────────────────────────


def _alarms(report: Report) -> dict[str, Any]:
    scored = report.scored
    if scored is None:
        return {"alarms": [], "alarms_words": "", "time_words": ""}
    empty = f" {scored.unscored:,} rows have no score, because no cell of them is observed." if scored.unscored else ""
    many = f"The worst {len(scored.worst)} of {scored.alarms:,} flagged rows, with their reasons." if scored.worst else "No row is flagged."
    return {
        "alarms": [_alarm(row, i) for i, row in enumerate(scored.worst)],
        "alarms_words": many + empty,
        "time_words": _time_words(report) if scored.time_line else "",
    }


def _alarm(row: WorstRow, place: int) -> dict[str, Any]:
    ids = "".join(f", {shorten(name)} {shorten(str(value))}" for name, value in row.ids.items())
    label = f", label {shorten(row.label)}" if row.label else ""
    picture = figures_page.against_range(row.reasons)
    what = "Values and expectations against the usual range of their columns; the table has the numbers."
    return {
        "title": f"Row {row.row:,}{ids}: score {row.score:,.4g}, p-value {row.p_value:.2g}{label}",
        "caption": f"Reasons for row {row.row:,}",
        "reasons": [
            (
                shorten(r.column),
                "missing" if r.value is None else shorten(r.value),
                shorten(r.expected or ""),
                f"{r.contribution:,.4g}",
                "" if r.z is None else f"{r.z:,.1f}",
            )
            for r in row.reasons
        ],
        "picture": Markup(svg(picture, f"alarm{place}", what)) if picture else None,  # noqa: S704
    }


def _time_words(report: Report) -> str:
    assert report.scored is not None
    assert report.scored.time_line is not None
    line = report.scored.time_line
    seconds, unit = next((s, name) for s, name in TIME_UNITS if line.width >= s)
    many = line.width // seconds
    every = unit if many == 1 else f"{many:,} {unit}s"
    first, last = (datetime.fromtimestamp(s.start, UTC).strftime("%Y-%m-%d %H:%M") for s in (line.spans[0], line.spans[-1]))
    return f"Highest score and number of alarms in every {every} of {shorten(line.column)}, {first} to {last}."


# Longer texts of cells and names are cut: a page has to stay small whatever is in the data.
TEXT_LENGTH = 160
TABLE_LABELS_SHOWN = 40


def shorten(text: str) -> str:
    """Shorten a long text."""
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def labels(quality: Quality | None) -> dict[str, Any]:
    """Return the tables of a detection on labelled rows; nothing without labels."""
    if quality is None:
        return {}
    comparison = quality.comparison
    more = len(quality.by_label) - TABLE_LABELS_SHOWN
    rows = [(shorten(f.label), f"{f.rows:,}", f"{f.flagged:,}", percent(f.flagged / f.rows)) for f in quality.by_label[:TABLE_LABELS_SHOWN]]
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
            shorten(q.name),
            q.kind,
            shorten(f"constant {q.constant}") if q.r2 is None else percent(max(q.r2, 0.0)),
            percent(q.missing),
            f"{q.low:.5g} to {q.high:.5g}" if q.low is not None and q.high is not None else "",
        )
        for q in report.columns
    ]
    known = [q for q in report.columns if q.r2 is not None]
    worst = ", ".join(f"{shorten(q.name)} ({percent(max(q.r2 or 0.0, 0.0))})" for q in known[:3])
    return {
        "columns_rows": rows,
        "columns_caption": "Columns of the model, explained worst first" + _more(report.more_columns),
        "left_out_rows": [(shorten(d.name), d.reason) for d in report.left_out],
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
