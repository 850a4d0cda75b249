"""Results of the verbs as text: what happened, what needs attention, and what to do next; those of score and calibrate have a module."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from vae_anomaly.cli.summaries_scoring import (
    ALARM_REASONS_SHOWN,
    location_facts,
    malformed_rows,
    model_text,
    suspicious_lines,
    threshold_facts,
)
from vae_anomaly.cli.text import escape_controls, fact_lines, join_lines, plural, short, step_lines, table_lines
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.evaluation.results import Comparison, FalseAlarms, Intervals, Quality
from vae_anomaly.events.quality import EventQuality
from vae_anomaly.fitting.diagnostics import WEAK
from vae_anomaly.messages import BATCH_MATTERS, NAMES_SHOWN, about_seconds, percent, shorten_list
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.workflow.results import (
    ColumnReason,
    EvaluateResult,
    ExplainResult,
    FitResult,
    InfoResult,
    ModelName,
    ModelsResult,
    ReportResult,
    RowExplained,
    SmallestChange,
    UiResult,
)

LOWEST_R2_SHOWN = 3  # columns; --json has them all
COLUMNS_SHOWN = 5 * NAMES_SHOWN  # rows of a table of columns


def fit_summary(result: FitResult) -> str:
    """Return the summary of a fit."""
    used = "" if result.rows_used == result.rows_read else f"{result.rows_used:,} of "
    facts = [
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        ("time", _time(result.left_out)),
        ("labels", _labels(result.labels_left_out)),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units active"),
        ("stopped", result.stopped),
        *threshold_facts(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        *location_facts(result.model),
    ]
    head = f"Fitted on {used}{plural(result.rows_read, 'row')}, {plural(len(result.columns), 'column')}, in {result.seconds:.1f} s."
    if result.resumed_steps:
        head += f" Resumed after {plural(result.resumed_steps, 'step')} of an interrupted fit."
    quality = ["", *_quality(result.quality)] if result.quality else []
    return join_lines([head, *fact_lines(facts), *quality, *suspicious_lines(result.suspicious), *step_lines(result.next_steps)])


def upload_summary(name: ModelName, steps: Sequence[str]) -> str:
    """Return the summary of an upload."""
    return join_lines(["Logged to MLflow.", *fact_lines(location_facts(name)), *step_lines(steps)])


def explain_summary(result: ExplainResult) -> str:
    """Return the summary of an explanation: the explained rows in full."""
    head = f"{model_text(result.model)}, threshold {result.threshold:.6g} at alpha {result.alpha:g}."
    facts = fact_lines([("skipped", malformed_rows(result))])
    return join_lines([head, *facts, *(line for row in result.rows for line in row_lines(row)), *step_lines(result.next_steps)])


def evaluate_summary(result: EvaluateResult) -> str:
    """Return the summary of an evaluation."""
    head = f"{model_text(result.model)} on {plural(result.rows, 'labelled row')}."
    facts = [
        ("no score", f"{plural(result.null_scores, 'row')} without observed values, excluded" if result.null_scores else ""),
        *threshold_facts(result.promise),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        ("run", result.run_id),
        ("written", result.output),
    ]
    return join_lines(
        [
            head,
            *fact_lines(facts),
            "",
            *_quality(result.quality, result.events),
            *_by_label(result.by_label),
            *step_lines(result.next_steps),
        ]
    )


def report_summary(result: ReportResult) -> str:
    """Return the summary of a report."""
    facts = [
        ("model", model_text(result.model)),
        ("rows", f"{result.rows:,} scored, {result.alarms:,} alarms" if result.rows else ""),
        *(("caution", caution) for caution in result.cautions),
        ("size", f"{result.bytes / 1000:,.0f} kB"),
        ("written", result.output),
    ]
    return join_lines(["Report written.", *fact_lines(facts), *step_lines(result.next_steps)])


def model_summary(result: InfoResult) -> str:
    """Return the description of a model."""
    facts = [
        ("fitted", f"{result.created or 'at an unknown time'} on {result.rows:,} rows, {result.training_rows:,} for training"),
        ("data", shorten_list(result.source)),
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        *threshold_facts(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        ("ensemble", f"{result.networks} members on the views {', '.join(result.views)}"),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units active"),
        ("stopped", f"{result.stopped}; seed {result.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
        ("verified", _verified(result.rounds_alike)),
        *location_facts(result.model),
    ]
    return join_lines([model_text(result.model), *fact_lines(facts), "", *_column_table(result.columns), *step_lines(result.next_steps)])


def _verified(rounds_alike: bool | None) -> str:
    if rounds_alike is None:
        return ""
    return "on this processor a row has the same score, to the bit, in every batch" if rounds_alike else BATCH_MATTERS


def versions_table(result: ModelsResult) -> str:
    """Return a table of registered versions."""
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.created, v.tags.get("rows", ""), *(_rounded(v.tags.get(t, "")) for t in _NUMBERS))
        for v in result.versions
    ]
    return join_lines(table_lines(("model", "version", "alias", "created", "rows", *_NUMBERS), rows))


_NUMBERS = ("alpha", "threshold")  # tags that hold numbers in full precision


def _rounded(tag: str) -> str:
    """Return a number with six significant digits; a tag that a user has edited may be any text."""
    try:
        return f"{float(tag):.6g}"
    except ValueError:
        return tag


def ui_summary(result: UiResult) -> str:
    """Return the address of the MLflow UI."""
    return f"MLflow UI of {result.store} at {result.url} (Ctrl-C stops it)"


# ── sections ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kinds(columns: Sequence[ColumnQuality]) -> str:
    counts = Counter(column.kind for column in columns)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())


def _columns(columns: Sequence[ColumnQuality], left_out: Sequence[Dropped]) -> list[tuple[str, str]]:
    """Return facts on columns: dropped, constant, or poorly reconstructed."""
    by_r2 = sorted((max(c.r2, 0.0), c.name) for c in columns if c.r2 is not None)
    weak = [f"{short(name)} ({percent(r2)})" for r2, name in by_r2 if r2 < WEAK]
    lowest = [f"{short(name)} ({percent(r2)})" for r2, name in by_r2[:LOWEST_R2_SHOWN]]
    return [
        ("dropped", _dropped(left_out)),
        (
            "constant",
            shorten_list(f"{short(column.name)} = {short(str(column.constant))}" for column in columns if column.constant is not None),
        ),
        ("explained", f"median R² {percent(median(r2 for r2, _ in by_r2))}; lowest: {', '.join(lowest)}" if by_r2 else ""),
        ("weak", f"poorly reconstructed: {shorten_list(weak)}" if weak else ""),
    ]


_NAMED_IN_OPTIONS = {"excluded", "id column", "group column", "time column", "label"}  # reasons of columns that the user took out


def _dropped(left_out: Sequence[Dropped]) -> str:
    """Return the dropped columns and why, and how to keep those that the user did not take out."""
    unsaid = any(column.reason not in _NAMED_IN_OPTIONS and "--include" not in column.reason for column in left_out)
    keep = "; --include keeps a column as an input" if unsaid else ""
    return shorten_list((f"{short(column.name)} ({column.reason})" for column in left_out), "; ") + keep


def _time(left_out: Sequence[Dropped]) -> str:
    """Offer a column that was left out as a time, unless the user has named one."""
    times = [column.name for column in left_out if column.time]
    if not times or any(column.reason == "time column" for column in left_out):
        return ""
    name = times[0]
    option = shlex.quote(name) if escape_controls(name) == name else "with its name"
    return f"{short(name)}: --time-column {option} calibrates on the latest rows"


def _blocks(blocks: Blocks | None) -> str:
    """Return the spread of the false-alarm rate over consecutive calibration rows, with the p-value of a constant rate."""
    if blocks is None:
        return ""
    span = f"{percent(min(blocks.rates))} to {percent(max(blocks.rates))} flagged in {len(blocks.rates)} consecutive segments"
    return f"{span}; p-value {blocks.p_value:.2g} for a constant rate"


def _labels(left_out: Mapping[str, int]) -> str:
    return "not used for the fit: " + shorten_list(f"{short(label)!r} ({count:,})" for label, count in left_out.items()) if left_out else ""


def _quality(quality: Quality, events: EventQuality | None = None) -> list[str]:
    facts = [
        ("rows", f"{quality.normal_rows:,} normal, {quality.anomalous_rows:,} anomalous"),
        ("ranking", f"AUROC {quality.auroc:.4f}, average precision {quality.average_precision:.4f}"),
        ("detection", f"recall {percent(quality.recall)}, {_precision_text(quality)}, F1 {quality.f1:.4f}"),
        ("intervals", _intervals(quality.intervals) if quality.intervals else ""),
        ("false alarms", _false_alarm_text(quality.false_alarms) if quality.false_alarms else ""),
        ("events", event_text(events) if events else ""),
        ("by label", shorten_list(f"{short(label.label)} {label.flagged:,} of {label.rows:,}" for label in quality.by_label)),
    ]
    comparison = ["", *_comparison(quality.comparison)] if quality.comparison else []
    return ["Detection:", *fact_lines(facts), *comparison]


def event_text(events: EventQuality) -> str:
    """Return how many labelled stretches of time the events of rows in time touch, how many are false, and how late they are."""
    rate = "" if events.a_day is None else f" ({events.a_day:.2g} a day of normal time)"
    delay = (
        "" if events.delay is None else f", median delay {about_seconds(events.delay) if events.a_day is not None else f'{events.delay:g}'}"
    )
    return (
        f"{events.found:,} of {events.labelled:,} labelled stretches found{delay}; {events.false:,} of {events.events:,} events false{rate}"
    )


def _by_label(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the largest mean contributions to the score, one line per label."""
    rows = [
        (short(name), ", ".join(f"{short(column)} {share:.0%}" for column, share in list(columns.items())[:ALARM_REASONS_SHOWN]))
        for name, columns in shares.items()
    ]
    return ["", "Mean contributions to the score:", *table_lines(("label", "columns"), rows)] if rows else []


def _precision_text(quality: Quality) -> str:
    return "no row flagged" if quality.precision is None else f"precision {percent(quality.precision)}"


def _intervals(intervals: Intervals) -> str:
    """Return the bootstrap intervals on one line."""
    ends = [("AUROC", intervals.auroc), ("average precision", intervals.average_precision), ("F1", intervals.f1)]
    numbers = [f"{name} {interval.low:.4f} to {interval.high:.4f}" for name, interval in ends]
    shares = [f"recall {percent(intervals.recall.low)} to {percent(intervals.recall.high)}"]
    if intervals.precision is not None:
        shares.append(f"precision {percent(intervals.precision.low)} to {percent(intervals.precision.high)}")
    return f"{', '.join([*numbers, *shares])} (95 %, bootstrap)"


def _false_alarm_text(alarms: FalseAlarms) -> str:
    return f"{alarms.rows:,}, a rate of {percent(alarms.rate)} (exact 95 % interval {percent(alarms.low)} to {percent(alarms.high)})"


def _comparison(comparison: Comparison) -> list[str]:
    rows = [(ranking.name, f"{ranking.auroc:.4f}", f"{ranking.average_precision:.4f}") for ranking in comparison.rankings]
    head = f"Comparison on the same {comparison.test_rows:,} rows (baselines fitted on {comparison.peer_rows:,} normal rows):"
    return [head, *table_lines(("detector", "AUROC", "average precision"), rows), f"  {comparison.words}."]


def _column_table(columns: Sequence[ColumnQuality]) -> list[str]:
    rows = [
        (
            short(c.name),
            c.kind,
            f"constant {short(str(c.constant))}" if c.r2 is None else percent(max(c.r2, 0.0)),
            percent(c.missing),
            range_text(c),
        )
        for c in columns[:COLUMNS_SHOWN]
    ]
    more = len(columns) - len(rows)
    return [*table_lines(("column", "kind", "R²", "missing", "usual range"), rows), *([f"  … {more:,} more"] if more else [])]


def row_lines(row: RowExplained) -> list[str]:
    """Return the score of a row, a table of its columns, and the change that ends its alarm."""
    name = f"Row {row.row:,}" + "".join(f", {short(name)} {short(str(value))}" for name, value in row.ids.items())
    if row.score is None or row.reconstruction is None or row.kl is None or row.p_value is None:
        return ["", f"{name}: no score, because all its values are missing."]
    verdict = "flagged" if row.is_anomaly else "not flagged"
    parts = f"reconstruction {row.reconstruction:.4g} + KL {row.kl:.4g}"
    cells = [
        (
            short(c.column),
            short(c.value or "missing"),
            short(c.expected),
            range_text(c),
            *(f"{x:.4g}" for x in (c.contribution, c.reconstruction, c.kl)),
            _z(c.z),
        )
        for c in row.columns[:COLUMNS_SHOWN]
    ]
    more = len(row.columns) - len(cells)
    head = ("column", "value", "expected", "usual range", "contribution", "reconstruction", "KL", "z")
    return [
        "",
        f"{name}: score {row.score:.4g} = {parts}, p-value {row.p_value:.2g}, {verdict}.",
        *table_lines(head, cells),
        *([f"  … {more:,} more columns; --json has them all"] if more else []),
        *([f"  {_change(row.smallest_change)}"] if row.smallest_change else []),
    ]


def _z(z: float | None) -> str:
    return "" if z is None else f"{z:.1f}"


def _change(change: SmallestChange) -> str:
    """Return the smallest change as a sentence."""
    cells = " and ".join(
        f"{short(cell.column)} were {short(str(cell.instead))} instead of {short(str(cell.value))}" for cell in change.cells
    )
    if change.found:
        return f"Not flagged if {cells} (score {change.score:.4g})."
    if not change.cells:
        return "No small change ends the alarm: no value replaced by its expected value lowers the score."
    return f"No small change ends the alarm: if {cells}, the score is still {change.score:.4g}."


def range_text(column: ColumnQuality | ColumnReason) -> str:
    """Return the usual range of a numeric column."""
    return f"{column.low:.6g} … {column.high:.6g}" if column.low is not None and column.high is not None else ""
