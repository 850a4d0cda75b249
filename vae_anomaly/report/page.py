"""Render a ``Report`` as one self-contained HTML file: no remote requests, all user text escaped, readable without JavaScript.

The template is ``report.html``, the script of the slider ``report.js``. The Content-Security-Policy of the page allows only that script.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from vae_anomaly.calibration.conformal import finest_text
from vae_anomaly.evaluation.results import Interval, Quality
from vae_anomaly.evaluation.score_summary import Step
from vae_anomaly.explain.contributions import Alarm
from vae_anomaly.messages import percent, shorten
from vae_anomaly.report import figures, figures_evaluation, figures_page
from vae_anomaly.report.content import ReasonInContext, Report
from vae_anomaly.report.svg import AxesPosition, svg

KINDS = {"rows": "scored rows", "calibration": "calibration rows"}
TIME_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def render(report: Report) -> str:
    """Return the report as the text of one HTML file."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["sentence"] = _sentence
    environment.finalize = _limit_length
    script = _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    figures_as_svg, position = _figures(report)
    chosen = next(i for i, step in enumerate(report.steps) if step.alpha == report.promise.alpha)
    return environment.from_string(_resource("report.html")).render(
        report=report,
        figures=figures_as_svg,
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
        steps=[{"x": x, "words": _step_words(report, step)} for step, x in zip(report.steps, position.x, strict=True)],
        chosen=chosen,
        marker=f"top: {100 * position.top:.2f}%; bottom: {100 * position.bottom:.2f}%",
        **_threshold(report),
        **_alarms(report),
        **labels(report.quality),
        **columns(report),
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _limit_length(value: object) -> object:
    """Shorten long user texts; our own markup is not cut."""
    return shorten(value, 4 * TEXT_LENGTH) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> str:
    """Return the text with a capital at the start and one full stop at the end."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _figures(report: Report) -> tuple[dict[str, Markup], AxesPosition]:
    """Return all figures as SVG, and the positions of the thresholds of the steps in the distribution."""
    distribution, position = figures_page.distribution(report.histogram, [step.threshold for step in report.steps])
    line = report.scored.time_line if report.scored else None
    with_text: dict[str, Any] = {
        "distribution": (distribution, _distribution_words(report)),
        "column_quality": (
            _quality_figure(report),
            "Share explained per column; the table has the numbers.",
        ),
        "learning_curve": (
            _learning_curve(report),
            "Loss, reconstruction, KL and active units over training steps.",
        ),
        "time_line": (figures_page.time_line(line, report.promise.threshold), _time_words(report)) if line else None,
    }
    if report.quality and report.curves:
        quality, curves = report.quality, report.curves
        with_text |= {
            "roc": (figures_evaluation.roc(curves, quality), f"ROC curve, area {quality.auroc:.4f}."),
            "precision_recall": (
                figures_evaluation.precision_recall(curves, quality),
                f"Precision over recall, average precision {quality.average_precision:.4f}.",
            ),
            "score_by_class": (
                figures_evaluation.score_by_class(report.histogram, report.promise.threshold),
                "Score distribution of normal and of anomalous rows, with the threshold.",
            ),
            "realised": (
                figures_evaluation.realised(curves, report.promise.alpha),
                "Observed over nominal false-alarm rate.",
            ),
            "contributions": (figures_evaluation.contributions(curves), "Mean contribution of each column per label."),
        }
    return {name: Markup(svg(pair[0], name, pair[1])) if pair else Markup() for name, pair in with_text.items()}, position  # noqa: S704


def _quality_figure(report: Report) -> Figure:
    figure = _narrow(figures.quality_figure(report.columns))
    figure.axes[0].set_xlabel("share explained")  # the paragraph above defines it
    return figure


def _learning_curve(report: Report) -> Figure:
    figure = _narrow(figures.learning_curve(report.history))
    figure.axes[0].set_title("Learning curve")  # why training stopped is in the list above, and would not fit here
    return figure


def _narrow(figure: Figure) -> Figure:
    """Resize a figure that was made for a wide screen so that its text is legible on a phone."""
    figure.set_size_inches(figures_page.WIDTH, max(3.2, 0.8 * figure.get_size_inches()[1]))
    return figure


# ── the threshold ────────────────────────────────────────────────────────────────────────────────────────────────────


def _threshold(report: Report) -> dict[str, Any]:
    promise, scored = report.promise, report.scored
    alarms = (f"{scored.alarms:,}", f"of {scored.rows:,} rows; {scored.expected:,.1f} expected if all were normal") if scored else None
    finest = f"lowest possible {percent(float(finest_text(promise.calibration_rows)))}"
    tiles = [
        ("False-alarm rate", percent(promise.alpha), f"{'exact' if promise.exact else 'approximate'}; {finest}"),
        ("Threshold", f"{promise.threshold:.5g}", f"weighted nats, from {promise.calibration_rows:,} calibration rows"),
        *([("Alarms", *alarms)] if alarms else []),
        *([("AUROC", f"{report.quality.auroc:.4f}", f"recall {percent(report.quality.recall)}")] if report.quality else []),
        ("Active latent units", f"{report.active_units:.3g} of {report.latent_units}", ""),
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
        f"In {len(blocks.rates)} consecutive segments of the calibration rows {percent(min(blocks.rates))} to {percent(max(blocks.rates))} "
        f"of the rows are above the threshold; if the rows are exchangeable, rates differ this much in {percent(blocks.p_value)} of cases."
    )


def _distribution_words(report: Report) -> str:
    if report.scored is None:
        return f"Scores of the {report.calibration_rows:,} calibration rows, which are normal and were not used for training."
    return f"Scores of {report.scored.rows - report.scored.unscored:,} rows, and the distribution expected if all were normal."


def _step_words(report: Report, step: Step) -> list[str]:
    """Return the text beside the slider at one false-alarm rate, as lines."""
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
        precision = f", precision {percent(hits / (hits + false))}" if hits + false else ""
        lines.append(f"recall {percent(hits / max(totals['anomalous'], 1))}{precision}")
    return lines


# ── alarms and time ──────────────────────────────────────────────────────────────────────────────────────────────────


def _alarms(report: Report) -> dict[str, Any]:
    scored = report.scored
    if scored is None:
        return {"alarms": [], "alarms_words": "", "time_words": ""}
    empty = f" {scored.unscored:,} rows have no score, because all their cells are missing." if scored.unscored else ""
    worst = f"The {len(scored.worst)} highest scores of {scored.alarms:,} flagged rows, with their reasons."
    return {
        "alarms": [_alarm(row, reasons, i) for i, (row, reasons) in enumerate(scored.worst)],
        "alarms_words": (worst if scored.worst else "No row is flagged.") + empty,
        "time_words": _time_words(report) if scored.time_line else "",
    }


def _alarm(row: Alarm, reasons: Sequence[ReasonInContext], index: int) -> dict[str, Any]:
    ids = "".join(f", {shorten(name, TEXT_LENGTH)} {shorten(str(value), TEXT_LENGTH)}" for name, value in row.ids.items())
    figure = figures_page.against_range(reasons)
    description = "Values and expected values relative to the usual range of their columns; the table has the numbers."
    return {
        "title": f"Row {row.row:,}{ids}: score {row.score:,.4g}, p-value {row.p_value:.2g}",
        "caption": f"Reasons for row {row.row:,}",
        "reasons": [
            (
                shorten(r.column, TEXT_LENGTH),
                "missing" if r.value is None else shorten(r.value, TEXT_LENGTH),
                shorten(r.expected or "", TEXT_LENGTH),
                f"{r.contribution:,.4g}",
                "" if r.z is None else f"{r.z:,.1f}",
            )
            for r in reasons
        ],
        "figure": Markup(svg(figure, f"alarm{index}", description)) if figure else None,  # noqa: S704
    }


def _time_words(report: Report) -> str:
    assert report.scored is not None
    assert report.scored.time_line is not None
    line = report.scored.time_line
    seconds, unit = next((s, name) for s, name in TIME_UNITS if line.width >= s)
    many = line.width // seconds
    every = unit if many == 1 else f"{many:,} {unit}s"
    first, last = (datetime.fromtimestamp(s.start, UTC).strftime("%Y-%m-%d %H:%M") for s in (line.spans[0], line.spans[-1]))
    return f"Highest score and number of alarms per {every} of {shorten(line.column, TEXT_LENGTH)}, {first} to {last}."


TEXT_LENGTH = 160  # characters of a cell or name; longer texts would make the page arbitrarily large
TABLE_LABELS_SHOWN = 40


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def labels(quality: Quality | None) -> dict[str, Any]:
    """Return the tables of an evaluation on labelled rows; empty without labels."""
    if quality is None:
        return {}
    comparison = quality.comparison
    more = len(quality.by_label) - TABLE_LABELS_SHOWN
    shown = quality.by_label[:TABLE_LABELS_SHOWN]
    rows = [(shorten(f.label, TEXT_LENGTH), f"{f.rows:,}", f"{f.flagged:,}", percent(f.flagged / f.rows)) for f in shown]
    return {
        "quality_rows": _quality_rows(quality),
        "label_rows": [*rows, *([(f"and {more:,} more", "", "", "")] if more > 0 else [])],
        "peers_rows": [(r.name, f"{r.auroc:.4f}", f"{r.average_precision:.4f}") for r in comparison.rankings] if comparison else [],
        "peers_caption": f"On the same {comparison.test_rows:,} rows; the baselines were fitted on {comparison.peer_rows:,} normal rows"
        if comparison
        else "",
    }


def _quality_rows(quality: Quality) -> list[tuple[str, str, str, str]]:
    i = quality.intervals
    bootstrap = "bootstrap, stratified by class"
    rows = [
        ("AUROC", f"{quality.auroc:.4f}", _four(i.auroc if i else None), bootstrap),
        ("average precision", f"{quality.average_precision:.4f}", _four(i.average_precision if i else None), bootstrap),
        ("recall", percent(quality.recall), _shares(i.recall if i else None), bootstrap),
        (
            "precision",
            "no alarm" if quality.precision is None else percent(quality.precision),
            _shares(i.precision if i else None),
            bootstrap,
        ),
        ("F1", f"{quality.f1:.4f}", _four(i.f1 if i else None), bootstrap),
    ]
    observed = quality.false_alarms
    if observed:
        interval = _shares(Interval(low=observed.low, high=observed.high))
        method = f"exact; {observed.rows:,} of {quality.normal_rows:,} normal rows"
        rows.append(("false-alarm rate", percent(observed.rate), interval, method))
    return rows


def _four(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def _shares(interval: Interval | None) -> str:
    return "" if interval is None else f"{percent(interval.low)} to {percent(interval.high)}"


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(report: Report) -> dict[str, Any]:
    """Return the tables of the columns that the model uses and of those left out."""
    rows = [
        (
            shorten(q.name, TEXT_LENGTH),
            q.kind,
            shorten(f"constant {q.constant}", TEXT_LENGTH) if q.r2 is None else percent(max(q.r2, 0.0)),
            percent(q.missing),
            f"{q.low:.5g} to {q.high:.5g}" if q.low is not None and q.high is not None else "",
        )
        for q in report.columns
    ]
    known = [q for q in report.columns if q.r2 is not None]
    worst = ", ".join(f"{shorten(q.name, TEXT_LENGTH)} ({percent(max(q.r2 or 0.0, 0.0))})" for q in known[:3])
    return {
        "columns_rows": rows,
        "columns_caption": "Columns of the model, lowest share explained first" + _more(report.more_columns),
        "left_out_rows": [(shorten(d.name, TEXT_LENGTH), d.reason) for d in report.left_out],
        "left_out_caption": "Columns left out" + _more(report.more_left_out),
        "explained_words": _explained(worst),
    }


def _explained(worst: str) -> str:
    if not worst:
        return "All columns are constant."
    return (
        "Share explained: how much of a column is reconstructed on rows not used for training. 100 % is perfect, 0 % is no better than "
        f"the mean or the most frequent level. Lowest: {worst}."
    )


def _more(count: int) -> str:
    return f"; {count:,} more are not shown" if count else ""
