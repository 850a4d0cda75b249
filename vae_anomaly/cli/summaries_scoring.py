"""Text of scorings and calibrations, and of what all summaries share: alarms with reasons, models, thresholds, malformed rows."""

from collections.abc import Sequence
from datetime import UTC, datetime

from vae_anomaly.calibration.conformal import rounded_up
from vae_anomaly.calibration.guarantee import Guarantee
from vae_anomaly.calibration.operating_point import BudgetRow, ChosenAlpha
from vae_anomaly.cli import text
from vae_anomaly.cli.text import fact_lines, join_lines, plural, short, step_lines
from vae_anomaly.events.episodes import Event
from vae_anomaly.explain.contributions import Alarm, Reason
from vae_anomaly.messages import percent, shorten_list
from vae_anomaly.workflow.results import (
    CalibrateResult,
    Counts,
    Discovery,
    ExplainResult,
    FollowResult,
    FoundEvents,
    GroupRow,
    ModelName,
    ScoreResult,
    Untypical,
)

ALARM_REASONS_SHOWN = 3  # columns of an alarm
ALARM_REASON_SHARE = 0.05  # of the score; columns below it are not shown as reasons


def scoring_summary(result: ScoreResult) -> str:
    """Return the summary of a scoring."""
    counts = result.counts
    head = f"Scored {plural(counts.rows, 'row')}" + (f" at {result.rows_per_second:,.0f} rows/s." if result.rows_per_second else ".")
    if result.resumed_rows:
        head += f" Resumed: {plural(result.resumed_rows, 'row')} had been scored before an interruption."
    if result.unchanged:
        head = f"Nothing to do: {result.output} already holds the scores of these inputs, this model and these options."
    facts = [
        ("alarms", _counted(result)),
        ("events", _events(result.found_events) if result.found_events else ""),
        ("flagged by", _discovery(counts.discovery) if counts.discovery else ""),
        ("groups", _pooled_text(counts)),
        ("typicality", _untypical(counts.typicality, result.alpha) if counts.typicality else ""),
        ("skipped", malformed_rows(counts)),
        ("no score", f"{plural(counts.null_scores, 'row')} without observed values" if counts.null_scores else ""),
        ("new values", shorten_list(f"{short(name)} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", shorten_list(f"{short(m.column)} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        *(("caution", text.escape_controls(caution)) for caution in counts.cautions),
        ("ignored", shorten_list(map(short, result.ignored_columns))),
        ("model", model_text(result.model)),
        ("parts", _parts(result)),
        ("written", result.output + ("" if result.table_version is None else f" (version {result.table_version} of the Delta table)")),
    ]
    return join_lines([head, *fact_lines(facts), *alarm_lines(counts.top_alarms), *step_lines(result.next_steps)])


EVENTS_SHOWN = 3


def _events(found: FoundEvents) -> str:
    """Return how many events there are, the most severe of them, and where they were written."""
    worst = sorted(found.events, key=lambda event: -event.severity)[:EVENTS_SHOWN]
    shown = shorten_list((_event(event, is_clock=found.is_clock) for event in worst), "; ")
    muted = f", {found.acknowledged:,} more acknowledged" if found.acknowledged else ""
    written = f", written to {found.output}" if found.output else ""
    return f"{len(found.events):,}{muted}{written}" + (f"; the most severe: {shown}" if worst else "")


def _event(event: Event, *, is_clock: bool) -> str:
    start, end = (f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M:%S}" if is_clock else f"{t:g}" for t in (event.start, event.end))
    who = f"{short(event.entity)} " if event.entity is not None else ""
    columns = ", ".join(" ".join(filter(None, (short(column.column), column.direction))) for column in event.columns)
    return f"{who}{start} to {'…' if event.ongoing else end}, {event.severity:.3g} times the threshold ({columns})"


def _parts(result: ScoreResult) -> str:
    if result.parts_made is None:
        return ""
    before = f", {result.parts_before:,} complete before" if result.parts_before else ""
    return f"{result.parts_made:,} new{before}"


def follow_summary(result: FollowResult) -> str:
    """Return the summary of a stream; empty where its answers are printed."""
    if not result.output:
        return ""
    facts = [
        ("alarms", f"{result.alarms:,}"),
        ("errors", f"{plural(result.errors, 'line')} could not be scored" if result.errors else ""),
        ("model", model_text(result.model)),
        ("written", result.output),
    ]
    return join_lines([f"Answered {plural(result.lines, 'line')}.", *fact_lines(facts)])


def watch_line(name: str, counts: Counts) -> str:
    """Return one line for one output file of ``--watch``."""
    return f"{name}: {plural(counts.rows, 'row')}, {plural(counts.alarms, 'alarm')}"


def _counted(result: ScoreResult) -> str:
    counts = result.counts
    if counts.discovery is not None:
        return f"{counts.alarms:,}" + (f"; p-value ≤ {counts.discovery.cutoff:.3g}" if counts.discovery.cutoff is not None else "")
    interval = f"; 95 % interval {counts.likely_alarms[0]:,} to {counts.likely_alarms[1]:,}" if counts.likely_alarms else ""
    return f"{counts.alarms:,}; {counts.expected_alarms:,.1f} expected if all rows are normal (alpha {result.alpha:g}{interval})"


def _discovery(discovery: Discovery) -> str:
    return discovery.statement + ("" if discovery.cutoff is not None else "; no row flagged")


def _pooled_text(counts: Counts) -> str:
    """Return the number of rows without a threshold of their group, and these groups; the pooled threshold applied."""
    if counts.unseen_groups is None or not counts.pooled_rows:
        return ""
    unseen = shorten_list(f"{short(name)!r} ({rows:,})" for name, rows in counts.unseen_groups.items())
    return f"{counts.pooled_rows:,} use the pooled threshold: " + (f"groups without calibration rows: {unseen}" if unseen else "no group")


def _untypical(rows: Untypical, alpha: float) -> str:
    return f"{rows.rows:,} rows with p ≤ {alpha:g}, {rows.low:,} of them with low scores"


def calibrate_summary(result: CalibrateResult) -> str:
    """Return the summary of a calibration."""
    anomalous = f"; {result.anomalous_rows:,} anomalous rows not used" if result.anomalous_rows else ""
    facts = [
        ("rows", f"{result.calibration_rows:,} of {result.rows:,} used for calibration{anomalous}"),
        ("skipped", malformed_rows(result)),
        ("no score", f"{result.null_scores:,} rows without observed values" if result.null_scores else ""),
        ("per day", "; ".join(filter(None, (f"{result.rows_per_day:,.6g} rows", result.days))) if result.rows_per_day else ""),
        ("previous", f"{result.threshold_before:.6g} at alpha {result.alpha_before:g}"),
        *threshold_facts(result.promise),
        ("tail", f"Anderson-Darling p = {result.fit_p_value:.2g}" if result.fit_p_value is not None else ""),
        *(_choice(result.choice) if result.choice else []),
        ("groups", shorten_list((_group(row) for row in result.groups), "; ")),
        *location_facts(result.model),
    ]
    head = f"Calibrated {model_text(result.model)} on {result.calibration_rows:,} rows."
    return text.join_lines([head, *text.fact_lines(facts), "", *_budget(result.table), *text.step_lines(result.next_steps)])


def _choice(choice: ChosenAlpha) -> list[tuple[str, str]]:
    interval = f"{choice.value:.4g} (95 % interval {choice.low:.4g} to {choice.high:.4g})"
    return [
        (
            "chosen",
            (
                f"best {choice.measure} of {choice.tried} rates on one half of the labelled rows; on the other half "
                f"({choice.normal_rows:,} normal, {choice.anomalous_rows:,} anomalous): {interval}, recall {percent(choice.recall)}"
            ),
        ),
        ("anomaly rate", percent(choice.anomaly_rate)),
    ]


def _group(row: GroupRow) -> str:
    how = "" if row.lent == 0.0 else ", pooled" if row.lent == 1.0 else f", pooled weight {row.lent:.2g}"
    return f"{text.short(row.name)} {row.threshold:.4g} ({row.rows:,} rows{how})"


def _plain(value: float) -> str:
    """Return three significant digits, without an exponent for large numbers."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"  # noqa: PLR2004  # .3g writes 1e+03


def _budget(table: Sequence[BudgetRow]) -> list[str]:
    """Return a table of other false-alarm rates: threshold, alarms and recall at each."""
    head = ["alpha", "95 % limit", "threshold", "per 10,000 normal", "per day", "recall"]
    rows = [
        (
            f"{row.alpha:.3g}",
            "" if row.limit is None else percent(row.limit),
            f"{row.threshold:.4g}",
            _plain(row.false_alarms_per_10000),
            "" if row.alerts_per_day is None else _plain(row.alerts_per_day),
            "" if row.recall is None else percent(row.recall),
        )
        for row in table
    ]
    filled = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return ["Alternatives:", *text.table_lines([head[i] for i in filled], [[row[i] for i in filled] for row in rows])]


_METHODS = {
    "split": "split, exact",
    "cross": "cross-fitted, approximate",
    "gpd": "fitted tail, estimated",
    "blocks": "blocks of time, estimated",
}


def threshold_facts(promise: Guarantee) -> list[tuple[str, str]]:
    """Return the threshold and its guarantee as facts."""
    method = _METHODS[promise.method]
    return [
        (
            "threshold",
            f"{promise.threshold:.6g} at alpha {promise.alpha:g} ({method}; smallest possible alpha {rounded_up(promise.finest_alpha)})",
        ),
        ("guarantee", promise.words),
        ("limit", promise.statement if promise.limit is not None or promise.method == "blocks" else ""),
    ]


def malformed_rows(result: Counts | CalibrateResult | ExplainResult) -> str:
    """Return the number of malformed rows, where they were written, and the first of them; empty if there are none."""
    rows = result.rejected
    if rows is None:
        return ""
    where = f", written to {rows.quarantine}" if rows.quarantine else ""
    return f"{plural(rows.rows, 'malformed row')}{where}; the first, counted from 1: {rows.first}"


def location_facts(name: ModelName) -> list[tuple[str, str]]:
    """Return the locations of a model as facts."""
    alias = f", alias {name.alias}" if name.alias else ""
    is_registered = name.uri.startswith("models:/")  # the version of a folder is its digest
    return [
        ("registered", f"{name.name} version {name.version}{alias}" if is_registered else ""),
        ("run", name.run_id),
        ("folder", name.folder),
    ]


def model_text(model: ModelName) -> str:
    """Return the name and version of a model, or its location."""
    return f"{model.name} version {model.version}" if model.version else model.uri or model.folder


def alarm_lines(rows: Sequence[Alarm]) -> list[str]:
    """Return the rows with the highest scores and their reasons."""
    return ["", "Worst rows (the first row is 0):", *_with_reasons(rows)] if rows else []


def suspicious_lines(rows: Sequence[Alarm]) -> list[str]:
    """Return normal rows of the fit with unusual scores, and advice."""
    if not rows:
        return []
    advice = "  If they are faults, exclude them and fit again; if there may be more, fit with --contamination-robust."
    return ["", "Suspicious rows among the normal rows (the first row is 0):", *_with_reasons(rows), advice]


def _with_reasons(rows: Sequence[Alarm]) -> list[str]:
    lines = []
    for alarm in rows:
        ids = "".join(f", {short(name)} {short(str(value))}" for name, value in alarm.ids.items())
        part = f" of {alarm.part}" if alarm.part else ""
        lines.append(f"  row {alarm.row:,}{part}{ids}: score {alarm.score:.4g}, p-value {alarm.p_value:.2g}")
        lines += [f"    {short(r.column)}: {short(r.value or 'missing')}, expected {short(str(r.expected))}" for r in _main_reasons(alarm)]
    return lines


def _main_reasons(alarm: Alarm) -> Sequence[Reason]:
    """Return one to three reasons; those after the first have at least ALARM_REASON_SHARE of the score."""
    least = ALARM_REASON_SHARE * alarm.score
    return [r for i, r in enumerate(alarm.reasons[:ALARM_REASONS_SHOWN]) if i == 0 or r.contribution >= least]
