"""A calibration in words: the threshold, its promise, what labels chose, and what other budgets would mean.

Knows results only; prints nothing.
"""

from collections.abc import Sequence

from vae_anomaly import layout, summary
from vae_anomaly.core.choice import BudgetRow, Choice
from vae_anomaly.core.rates import percent
from vae_anomaly.workflow.results import CalibrateResult, GroupRow


def of_calibrate(result: CalibrateResult) -> str:
    """What a calibration did."""
    others = f"; {result.anomalous_rows:,} rows are labelled anomalous and did not calibrate" if result.anomalous_rows else ""
    facts = [
        ("rows", f"{result.calibration_rows:,} of {result.rows:,} rows calibrate{others}"),
        ("left out", summary.rejected(result)),
        ("no score", f"{result.null_scores:,} rows without any observed cell" if result.null_scores else ""),
        ("a day", f"{result.rows_per_day:,.6g} rows" if result.rows_per_day else ""),
        ("before", f"{result.threshold_before:.6g} at alpha {result.alpha_before:g}"),
        *summary.threshold(result.promise),
        ("tail", f"Anderson-Darling p = {result.fit_p_value:.2g}" if result.fit_p_value is not None else ""),
        *(_choice(result.choice) if result.choice else []),
        ("groups", layout.cut((_group(row) for row in result.groups), "; ")),
        *summary.model(result.model),
    ]
    head = f"Calibrated {summary.named(result.model)} on {result.calibration_rows:,} rows."
    return layout.text([head, *layout.facts(facts), "", *_budget(result.table), *layout.next_steps(result.next_steps)])


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
    return f"{layout.short(row.name)} {row.threshold:.4g} ({row.rows:,} rows{how})"


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
    return ["Budgets:", *layout.table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])]
