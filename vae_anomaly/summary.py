"""Results in words, for people: what happened, what stands out, and what to type next.

Knows results only; prints nothing. Lists are cut after ten names, so that 5,000 columns still fit on a screen.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from vae_anomaly.core.blocks import Blocks
from vae_anomaly.core.cautions import WEAK
from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.report import Comparison, FalseAlarms, Promise, Quality, percent
from vae_anomaly.core.schema import Dropped
from vae_anomaly.core.threshold import finest_text
from vae_anomaly.layout import NAMES_SHOWN, cut, facts, next_steps, table, text
from vae_anomaly.workflow.results import (
    Alarm,
    ColumnReason,
    EvaluateResult,
    ExplainResult,
    FitResult,
    InfoResult,
    ModelName,
    ModelsResult,
    Reason,
    ReportResult,
    RowExplained,
    ScoreResult,
    SmallestChange,
    UiResult,
)

# The columns that are explained worst.
WORST_SHOWN = 3
# Columns of an alarm that are named, and the share of its score below which a column is no reason.
REASONS_SHOWN, TELLING = 3, 0.05


def of_fit(result: FitResult) -> str:
    """What a fit did."""
    used = f"{result.rows_used:,} rows" if result.rows_used == result.rows_read else f"{result.rows_used:,} of {result.rows_read:,} rows"
    known = [
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        ("labels", _labels(result.labels_left_out)),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", result.stopped),
        *_threshold(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        *_model(result.model),
    ]
    head = f"Fitted on {used}, {len(result.columns):,} columns, in {result.seconds:.1f} s."
    quality = ["", *_quality(result.quality)] if result.quality else []
    return text([head, *facts(known), *quality, *next_steps(result.next_steps)])


def of_score(result: ScoreResult) -> str:
    """What a scoring did."""
    counts = result.counts
    head = f"Scored {counts.rows:,} rows" + (f" at {result.rows_per_second:,.0f} rows/s." if result.rows_per_second else ".")
    if result.unchanged:
        head = f"Nothing to do: {result.output} already holds the scores of these inputs, this model and these options."
    known = [
        ("alarms", f"{counts.alarms:,}; {counts.expected_alarms:,.1f} expected if every row is normal (alpha {result.alpha:g})"),
        ("no score", f"{counts.null_scores:,} rows without any observed cell" if counts.null_scores else ""),
        ("unseen", cut(f"{name} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", cut(f"{m.column} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        ("ignored", cut(result.ignored_columns)),
        ("model", _named(result.model)),
        ("written", result.output),
    ]
    return text([head, *facts(known), *_alarms(counts.top_alarms), *next_steps(result.next_steps)])


def of_explain(result: ExplainResult) -> str:
    """Single rows in full."""
    head = f"{_named(result.model)}, threshold {result.threshold:.6g} at alpha {result.alpha:g}."
    return text([head, *(line for row in result.rows for line in _row_in_full(row)), *next_steps(result.next_steps)])


def of_evaluate(result: EvaluateResult) -> str:
    """A model against labels."""
    head = f"{_named(result.model)} on {result.rows:,} labelled rows."
    known = [
        ("no score", f"{result.null_scores:,} rows, left out" if result.null_scores else ""),
        *_threshold(result.promise),
        *(("note", note) for note in result.notes),
    ]
    return text([head, *facts(known), "", *_quality(result.quality), *next_steps(result.next_steps)])


def of_report(result: ReportResult) -> str:
    """Where a report was written."""
    known = [
        ("model", _named(result.model)),
        ("rows", f"{result.rows:,} scored, {result.alarms:,} alarms" if result.rows else ""),
        *(("caution", caution) for caution in result.cautions),
        ("size", f"{result.bytes / 1000:,.0f} kB"),
        ("written", result.output),
    ]
    return text(["Report written.", *facts(known), *next_steps(result.next_steps)])


def of_info(result: InfoResult) -> str:
    """What is in a model."""
    known = [
        ("fitted", f"{result.created or 'at an unknown time'} on {result.rows:,} rows, {result.training_rows:,} of them learned from"),
        ("data", cut(result.source)),
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        *_threshold(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        ("network", f"{result.networks} networks on the views {', '.join(result.views)}"),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", f"{result.stopped}; seed {result.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
        *_model(result.model),
    ]
    return text([_named(result.model), *facts(known), "", *_column_table(result.columns), *next_steps(result.next_steps)])


def of_models(result: ModelsResult) -> str:
    """The versions in a registry."""
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.created, v.tags.get("rows", ""), v.tags.get("alpha", ""), v.tags.get("threshold", ""))
        for v in result.versions
    ]
    return text(table(("model", "version", "alias", "created", "rows", "alpha", "threshold"), rows))


def of_ui(result: UiResult) -> str:
    """Where the UI listens."""
    return f"MLflow UI of {result.store} at {result.url} (Ctrl-C stops it)"


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kinds(columns: Sequence[ColumnQuality]) -> str:
    counts = Counter(column.kind for column in columns)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())


def _columns(columns: Sequence[ColumnQuality], left_out: Sequence[Dropped]) -> list[tuple[str, str]]:
    """Columns that deserve a word: left out, constant, or hardly explained by the others."""
    known = sorted((max(c.r2, 0.0), c.name) for c in columns if c.r2 is not None)
    weak = [f"{name} ({percent(r2)})" for r2, name in known if r2 < WEAK]
    worst = [f"{name} ({percent(r2)})" for r2, name in known[:WORST_SHOWN]]
    return [
        ("left out", cut((f"{column.name} ({column.reason})" for column in left_out), "; ")),
        ("constant", cut(f"{column.name} = {column.constant}" for column in columns if column.constant is not None)),
        ("explained", f"{percent(median(r2 for r2, _ in known))} of the middle column; worst: {', '.join(worst)}" if known else ""),
        ("weak", f"hardly reconstructed: {cut(weak)}" if weak else ""),
    ]


def _blocks(blocks: Blocks | None) -> str:
    """Whether normal rows are flagged evenly over the calibration rows; nothing where that cannot be said."""
    if blocks is None:
        return ""
    span = f"{percent(min(blocks.rates))} to {percent(max(blocks.rates))} flagged in {len(blocks.rates)} consecutive parts"
    return f"{span}; chance spreads them so unevenly in {percent(blocks.p_value)} of all cases"


def _labels(left_out: Mapping[str, int]) -> str:
    return "left out of the fit: " + cut(f"{label!r} ({count:,})" for label, count in left_out.items()) if left_out else ""


def _threshold(promise: Promise) -> list[tuple[str, str]]:
    method = "split, exact" if promise.exact else "cross-fitted, approximate"
    return [
        (
            "threshold",
            f"{promise.threshold:.6g} at alpha {promise.alpha:g} ({method}; finest alpha possible {finest_text(promise.calibration_rows)})",
        ),
        ("promise", promise.words),
    ]


def _model(model: ModelName) -> list[tuple[str, str]]:
    alias = f", alias {model.alias}" if model.alias else ""
    return [
        ("registered", f"{model.name} version {model.version}{alias}" if model.version else ""),
        ("run", model.run_id),
        ("folder", model.folder),
    ]


def _named(model: ModelName) -> str:
    return f"{model.name} version {model.version}" if model.version else model.uri or model.folder


def _quality(quality: Quality) -> list[str]:
    known = [
        ("rows", f"{quality.normal_rows:,} normal, {quality.anomalous_rows:,} anomalous"),
        ("ranking", f"AUROC {quality.auroc:.4f}, average precision {quality.average_precision:.4f}"),
        ("found", f"{percent(quality.recall)} of the anomalous rows; {_precision(quality)}"),
        ("false alarms", _false_alarms(quality.false_alarms) if quality.false_alarms else ""),
        ("by label", cut(f"{found.label} {found.flagged:,} of {found.rows:,}" for found in quality.by_label)),
    ]
    comparison = ["", *_comparison(quality.comparison)] if quality.comparison else []
    return ["Detection:", *facts(known), *comparison]


def _precision(quality: Quality) -> str:
    return "no row was flagged" if quality.precision is None else f"{percent(quality.precision)} of the alarms are right"


def _false_alarms(found: FalseAlarms) -> str:
    return f"{found.rows:,}, a rate of {percent(found.rate)} (exact 95 % interval {percent(found.low)} to {percent(found.high)})"


def _comparison(comparison: Comparison) -> list[str]:
    rows = [(ranking.name, f"{ranking.auroc:.4f}", f"{ranking.average_precision:.4f}") for ranking in comparison.rankings]
    head = f"Beside others on the same {comparison.test_rows:,} rows (the others learned from {comparison.peer_rows:,} normal rows):"
    return [head, *table(("detector", "AUROC", "average precision"), rows), f"  {comparison.words}."]


def _alarms(alarms: Sequence[Alarm]) -> list[str]:
    """The worst rows with their reasons."""
    lines = ["", "Worst rows:"] if alarms else []
    for alarm in alarms:
        ids = "".join(f", {name} {value}" for name, value in alarm.ids.items())
        lines.append(f"  row {alarm.row:,}{ids}: score {alarm.score:.4g}, p-value {alarm.p_value:.2g}")
        lines += [f"    {r.column}: {r.value or 'missing'}, expected {r.expected}" for r in _telling(alarm)]
    return lines


def _row_in_full(row: RowExplained) -> list[str]:
    name = f"Row {row.row:,}" + "".join(f", {name} {value}" for name, value in row.ids.items())
    if row.score is None or row.reconstruction is None or row.kl is None or row.p_value is None:
        return ["", f"{name}: no score, because no cell of it is observed."]
    verdict = "flagged" if row.is_anomaly else "not flagged"
    parts = f"reconstruction {row.reconstruction:.4g} + KL {row.kl:.4g}"
    cells = [
        (c.column, c.value or "missing", c.expected, _range(c), *(f"{x:.4g}" for x in (c.contribution, c.reconstruction, c.kl)), _z(c.z))
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
    cells = " and ".join(f"{cell.column} were {cell.instead} instead of {cell.value}" for cell in change.cells)
    if change.found:
        return f"Not flagged if {cells} (score {change.score:.4g})."
    if not change.cells:
        return "No small change ends the alarm: no cell that becomes what is expected of it lowers the score."
    return f"No small change ends the alarm: if {cells}, the score is still {change.score:.4g}."


def _telling(alarm: Alarm) -> Sequence[Reason]:
    """At least one and at most three columns, and none that did next to nothing."""
    enough = TELLING * alarm.score
    return [r for i, r in enumerate(alarm.reasons[:REASONS_SHOWN]) if i == 0 or r.contribution >= enough]


def _column_table(columns: Sequence[ColumnQuality]) -> list[str]:
    rows = [
        (c.name, c.kind, f"constant {c.constant}" if c.r2 is None else percent(max(c.r2, 0.0)), percent(c.missing), _range(c))
        for c in columns[: 5 * NAMES_SHOWN]
    ]
    more = len(columns) - len(rows)
    return [*table(("column", "kind", "reconstructed", "missing", "usual range"), rows), *([f"  … {more:,} more"] if more else [])]


def _range(column: ColumnQuality | ColumnReason) -> str:
    return f"{column.low:.6g} … {column.high:.6g}" if column.low is not None and column.high is not None else ""
