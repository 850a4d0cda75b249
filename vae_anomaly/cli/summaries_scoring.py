"""Results of score and calibrate as text: alarms, skipped and changed rows; the new threshold and its alternatives."""

from collections.abc import Sequence

from vae_anomaly.calibration.operating_point import BudgetRow, ChosenAlpha
from vae_anomaly.cli import summaries, text
from vae_anomaly.cli.summaries import alarm_lines
from vae_anomaly.cli.text import fact_lines, join_lines, plural, short, step_lines
from vae_anomaly.messages import percent, shorten_list
from vae_anomaly.workflow.results import CalibrateResult, Counts, Discovery, GroupRow, ScoreResult, Untypical


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
        ("flagged by", _discovery(counts.discovery) if counts.discovery else ""),
        ("groups", _pooled(counts)),
        ("typicality", _untypical(counts.typicality, result.alpha) if counts.typicality else ""),
        ("skipped", summaries.malformed_rows(counts)),
        ("no score", f"{plural(counts.null_scores, 'row')} without observed values" if counts.null_scores else ""),
        ("new values", shorten_list(f"{short(name)} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", shorten_list(f"{short(m.column)} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        ("ignored", shorten_list(map(short, result.ignored_columns))),
        ("model", summaries.model_text(result.model)),
        ("parts", _parts(result)),
        ("written", result.output),
    ]
    return join_lines([head, *fact_lines(facts), *alarm_lines(counts.top_alarms), *step_lines(result.next_steps)])


def _parts(result: ScoreResult) -> str:
    if result.parts_made is None:
        return ""
    before = f", {result.parts_before:,} complete before" if result.parts_before else ""
    return f"{result.parts_made:,} new{before}"


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


def _pooled(counts: Counts) -> str:
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
        ("skipped", summaries.malformed_rows(result)),
        ("no score", f"{result.null_scores:,} rows without observed values" if result.null_scores else ""),
        ("per day", f"{result.rows_per_day:,.6g} rows" if result.rows_per_day else ""),
        ("previous", f"{result.threshold_before:.6g} at alpha {result.alpha_before:g}"),
        *summaries.threshold_facts(result.promise),
        ("tail", f"Anderson-Darling p = {result.fit_p_value:.2g}" if result.fit_p_value is not None else ""),
        *(_choice(result.choice) if result.choice else []),
        ("groups", shorten_list((_group(row) for row in result.groups), "; ")),
        *summaries.location_facts(result.model),
    ]
    head = f"Calibrated {summaries.model_text(result.model)} on {result.calibration_rows:,} rows."
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
