"""A scoring in words: what was scored, what is flagged, what was left out, and what is new about the rows.

Knows results only; prints nothing.
"""

from vae_anomaly import summary
from vae_anomaly.core.report import percent
from vae_anomaly.layout import count, cut, facts, next_steps, short, text
from vae_anomaly.rows import alarms
from vae_anomaly.workflow.results import Counts, Discovery, ScoreResult, Untypical


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
        ("left out", summary.rejected(counts)),
        ("no score", f"{count(counts.null_scores, 'row')} without any observed cell" if counts.null_scores else ""),
        ("unseen", cut(f"{short(name)} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", cut(f"{short(m.column)} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        ("ignored", cut(map(short, result.ignored_columns))),
        ("model", summary.named(result.model)),
        ("parts", _parts(result)),
        ("written", result.output),
    ]
    return text([head, *facts(known), *alarms(counts.top_alarms), *next_steps(result.next_steps)])


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
    unseen = cut(f"{short(name)!r} ({rows:,})" for name, rows in counts.unseen_groups.items())
    return f"{counts.pooled_rows:,} rows have the pooled threshold: " + (f"not calibrated: {unseen}" if unseen else "they have no group")


def _untypical(found: Untypical, alpha: float) -> str:
    return f"{found.rows:,} rows at {alpha:g} or less, {found.low:,} of them because they score too low"
