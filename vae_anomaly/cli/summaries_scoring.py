"""A scoring in words: what was scored, what is flagged, what was left out, and what is new about the rows.

Knows results only; prints nothing.
"""

from collections.abc import Sequence

from vae_anomaly.calibration.operating_point import BudgetRow, Choice
from vae_anomaly.cli import summaries, text
from vae_anomaly.cli.summaries import alarms
from vae_anomaly.cli.text import count, cut_list, fact_lines, paragraphs, short, step_lines
from vae_anomaly.messages import percent
from vae_anomaly.workflow.results import CalibrateResult, Counts, Discovery, GroupRow, ScoreResult, Untypical


def of_score(result: ScoreResult) -> str:
    """What a scoring did."""
    counts = result.counts
    head = f"Scored {count(counts.rows, 'row')}" + (f" at {result.rows_per_second:,.0f} rows/s." if result.rows_per_second else ".")
    if result.resumed_rows:
        head += f" {count(result.resumed_rows, 'row')} had been scored by a run that was killed."
    if result.unchanged:
        head = f"Nothing to do: {result.output} already holds the scores of these inputs, this model and these options."
    known = [
        ("alarms", _counted(result)),
        ("flagged by", _discovery(counts.discovery) if counts.discovery else ""),
        ("groups", _pooled(counts)),
        ("typicality", _untypical(counts.typicality, result.alpha) if counts.typicality else ""),
        ("left out", summaries.rejected(counts)),
        ("no score", f"{count(counts.null_scores, 'row')} without any observed cell" if counts.null_scores else ""),
        ("unseen", cut_list(f"{short(name)} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", cut_list(f"{short(m.column)} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        ("ignored", cut_list(map(short, result.ignored_columns))),
        ("model", summaries.model_text(result.model)),
        ("parts", _parts(result)),
        ("written", result.output),
    ]
    return paragraphs([head, *fact_lines(known), *alarms(counts.top_alarms), *step_lines(result.next_steps)])


def _parts(result: ScoreResult) -> str:
    if result.parts_made is None:
        return ""
    before = f", {result.parts_before:,} were there" if result.parts_before else ""
    return f"{result.parts_made:,} new{before}"


def of_part(name: str, counts: Counts) -> str:
    """One part of an output folder that is being watched."""
    return f"{name}: {count(counts.rows, 'row')}, {count(counts.alarms, 'alarm')}"


def _counted(result: ScoreResult) -> str:
    counts = result.counts
    if counts.discovery is not None:
        return f"{counts.alarms:,}" + (f"; p-value ≤ {counts.discovery.cutoff:.3g}" if counts.discovery.cutoff is not None else "")
    likely = f", {counts.likely_alarms[0]:,} to {counts.likely_alarms[1]:,} in 95 of 100 such cases" if counts.likely_alarms else ""
    return f"{counts.alarms:,}; {counts.expected_alarms:,.1f} expected if every row is normal (alpha {result.alpha:g}){likely}"


def _discovery(found: Discovery) -> str:
    return found.statement + ("" if found.cutoff is not None else "; no row is flagged")


def _pooled(counts: Counts) -> str:
    """Rows that had the threshold of all groups because theirs was not there at calibration."""
    if counts.unseen_groups is None or not counts.pooled_rows:
        return ""
    unseen = cut_list(f"{short(name)!r} ({rows:,})" for name, rows in counts.unseen_groups.items())
    return f"{counts.pooled_rows:,} rows have the pooled threshold: " + (f"not calibrated: {unseen}" if unseen else "they have no group")


def _untypical(found: Untypical, alpha: float) -> str:
    return f"{found.rows:,} rows at {alpha:g} or less, {found.low:,} of them because they score too low"


def of_calibrate(result: CalibrateResult) -> str:
    """What a calibration did."""
    others = f"; {result.anomalous_rows:,} rows are labelled anomalous and did not calibrate" if result.anomalous_rows else ""
    facts = [
        ("rows", f"{result.calibration_rows:,} of {result.rows:,} rows calibrate{others}"),
        ("left out", summaries.rejected(result)),
        ("no score", f"{result.null_scores:,} rows without any observed cell" if result.null_scores else ""),
        ("a day", f"{result.rows_per_day:,.6g} rows" if result.rows_per_day else ""),
        ("before", f"{result.threshold_before:.6g} at alpha {result.alpha_before:g}"),
        *summaries.threshold(result.promise),
        ("tail", f"Anderson-Darling p = {result.fit_p_value:.2g}" if result.fit_p_value is not None else ""),
        *(_choice(result.choice) if result.choice else []),
        ("groups", text.cut_list((_group(row) for row in result.groups), "; ")),
        *summaries.model(result.model),
    ]
    head = f"Calibrated {summaries.model_text(result.model)} on {result.calibration_rows:,} rows."
    return text.paragraphs([head, *text.fact_lines(facts), "", *_budget(result.table), *text.step_lines(result.next_steps)])


def _choice(choice: Choice) -> list[tuple[str, str]]:
    interval = f"{choice.value:.4g} ({choice.low:.4g} to {choice.high:.4g} in 95 of 100 samples)"
    return [
        (
            "chosen",
            (
                f"best {choice.measure} of {choice.tried} rates on one half of the labelled rows; on the other half "
                f"({choice.normal_rows:,} normal, {choice.anomalous_rows:,} anomalous) it is {interval}, recall {percent(choice.recall)}"
            ),
        ),
        ("anomalies", f"{percent(choice.anomaly_rate)} of the rows"),
    ]


def _group(row: GroupRow) -> str:
    how = "" if row.lent == 0.0 else " pooled" if row.lent == 1.0 else f" borrows at weight {row.lent:.2g}"
    return f"{text.short(row.name)} {row.threshold:.4g} ({row.rows:,} rows{how})"


def _budget(table: Sequence[BudgetRow]) -> list[str]:
    """What other rates would mean."""
    head = ["alpha", "95 % limit", "threshold", "of 10,000 normal", "a day", "found"]
    rows = [
        (
            f"{row.alpha:.3g}",
            "" if row.limit is None else percent(row.limit),
            f"{row.threshold:.4g}",
            f"{row.false_alarms_per_10000:.3g}",
            "" if row.alerts_per_day is None else f"{row.alerts_per_day:.3g}",
            "" if row.recall is None else percent(row.recall),
        )
        for row in table
    ]
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return ["Budgets:", *text.table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])]
