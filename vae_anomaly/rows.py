"""Single rows in words: alarms with their reasons, and rows explained in full.

Knows results only; prints nothing.
"""

from collections.abc import Sequence

from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.layout import NAMES_SHOWN, short, table
from vae_anomaly.workflow.explained import ColumnReason, RowExplained, SmallestChange
from vae_anomaly.workflow.results import Alarm, Reason

# Columns of an alarm that are named, and the share of its score below which a column is no reason.
REASONS_SHOWN = 3
TELLING = 0.05


def alarms(found: Sequence[Alarm]) -> list[str]:
    """The worst rows with their reasons."""
    return ["", "Worst rows (the first row is 0):", *_with_reasons(found)] if found else []


def suspicious(found: Sequence[Alarm]) -> list[str]:
    """Rows that were given as normal and stand out, and what to do about them."""
    if not found:
        return []
    advice = "  If they are faults, leave them out and fit again; if there may be more of them, fit with --contamination-robust."
    return ["", "Suspicious rows among the normal ones (the first row is 0):", *_with_reasons(found), advice]


def _with_reasons(found: Sequence[Alarm]) -> list[str]:
    lines = []
    for alarm in found:
        ids = "".join(f", {short(name)} {short(str(value))}" for name, value in alarm.ids.items())
        part = f" of {alarm.part}" if alarm.part else ""
        lines.append(f"  row {alarm.row:,}{part}{ids}: score {alarm.score:.4g}, p-value {alarm.p_value:.2g}")
        lines += [f"    {short(r.column)}: {short(r.value or 'missing')}, expected {short(str(r.expected))}" for r in _telling(alarm)]
    return lines


def _telling(alarm: Alarm) -> Sequence[Reason]:
    """At least one and at most three columns, and none that did next to nothing."""
    enough = TELLING * alarm.score
    return [r for i, r in enumerate(alarm.reasons[:REASONS_SHOWN]) if i == 0 or r.contribution >= enough]


def row_in_full(row: RowExplained) -> list[str]:
    """A table of every column of a row, and what would end the alarm."""
    name = f"Row {row.row:,}" + "".join(f", {short(name)} {short(str(value))}" for name, value in row.ids.items())
    if row.score is None or row.reconstruction is None or row.kl is None or row.p_value is None:
        return ["", f"{name}: no score, because no cell of it is observed."]
    verdict = "flagged" if row.is_anomaly else "not flagged"
    parts = f"reconstruction {row.reconstruction:.4g} + KL {row.kl:.4g}"
    cells = [
        (
            short(c.column),
            short(c.value or "missing"),
            short(c.expected),
            range_of(c),
            *(f"{x:.4g}" for x in (c.contribution, c.reconstruction, c.kl)),
            _z(c.z),
        )
        for c in row.columns[: 5 * NAMES_SHOWN]
    ]
    more = len(row.columns) - len(cells)
    head = ("column", "value", "expected", "usual range", "contribution", "reconstruction", "KL", "z")
    return [
        "",
        f"{name}: score {row.score:.4g} = {parts}, p-value {row.p_value:.2g}, {verdict}.",
        *table(head, cells),
        *([f"  … {more:,} more columns; --json has them all"] if more else []),
        *([f"  {_change(row.smallest_change)}"] if row.smallest_change else []),
    ]


def _z(z: float | None) -> str:
    return "" if z is None else f"{z:.1f}"


def _change(change: SmallestChange) -> str:
    """The smallest change in a sentence."""
    cells = " and ".join(
        f"{short(cell.column)} were {short(str(cell.instead))} instead of {short(str(cell.value))}" for cell in change.cells
    )
    if change.found:
        return f"Not flagged if {cells} (score {change.score:.4g})."
    if not change.cells:
        return "No small change ends the alarm: no cell that becomes what is expected of it lowers the score."
    return f"No small change ends the alarm: if {cells}, the score is still {change.score:.4g}."


def range_of(column: ColumnQuality | ColumnReason) -> str:
    """The usual range of a number."""
    return f"{column.low:.6g} … {column.high:.6g}" if column.low is not None and column.high is not None else ""
