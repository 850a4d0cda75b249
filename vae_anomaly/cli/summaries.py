"""Results in words, for people: what happened, what stands out, and what to type next.

Knows results only; prints nothing. How they are laid out: ``layout``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from vae_anomaly.calibration.conformal import rounded_up
from vae_anomaly.calibration.guarantee import Promise
from vae_anomaly.cli.text import count, cut_list, fact_lines, paragraphs, short, step_lines, table
from vae_anomaly.detector.card import Blocks, ColumnQuality
from vae_anomaly.evaluation.results import Comparison, FalseAlarms, Intervals, Quality
from vae_anomaly.explain.top_features import Alarm, Reason
from vae_anomaly.fitting.diagnostics import WEAK
from vae_anomaly.messages import NAMES_SHOWN, percent
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.workflow.results import (
    CalibrateResult,
    ColumnReason,
    Counts,
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

# The columns that are explained worst.
WORST_SHOWN = 3


def of_fit(result: FitResult) -> str:
    """What a fit did."""
    part = "" if result.rows_used == result.rows_read else f"{result.rows_used:,} of "
    known = [
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        ("labels", _labels(result.labels_left_out)),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", result.stopped),
        *threshold(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        *model(result.model),
    ]
    head = f"Fitted on {part}{count(result.rows_read, 'row')}, {count(len(result.columns), 'column')}, in {result.seconds:.1f} s."
    if result.resumed_steps:
        head += f" {count(result.resumed_steps, 'step')} had been done by a fit that was cut off."
    quality = ["", *_quality(result.quality)] if result.quality else []
    return paragraphs([head, *fact_lines(known), *quality, *suspicious_lines(result.suspicious), *step_lines(result.next_steps)])


def of_upload(name: ModelName, steps: Sequence[str]) -> str:
    """Where a model folder was logged."""
    return paragraphs(["Logged.", *fact_lines(model(name)), *step_lines(steps)])


def of_explain(result: ExplainResult) -> str:
    """Single rows in full."""
    head = f"{model_text(result.model)}, threshold {result.threshold:.6g} at alpha {result.alpha:g}."
    known = fact_lines([("left out", rejected(result))])
    return paragraphs([head, *known, *(line for row in result.rows for line in row_in_full(row)), *step_lines(result.next_steps)])


def of_evaluate(result: EvaluateResult) -> str:
    """A model against labels."""
    head = f"{model_text(result.model)} on {count(result.rows, 'labelled row')}."
    known = [
        ("no score", f"{count(result.null_scores, 'row')}, left out" if result.null_scores else ""),
        *threshold(result.promise),
        *(("note", note) for note in result.notes),
        ("run", result.run_id),
        ("written", result.output),
    ]
    return paragraphs(
        [head, *fact_lines(known), "", *_quality(result.quality), *_by_label(result.by_label), *step_lines(result.next_steps)]
    )


def of_report(result: ReportResult) -> str:
    """Where a report was written."""
    known = [
        ("model", model_text(result.model)),
        ("rows", f"{result.rows:,} scored, {result.alarms:,} alarms" if result.rows else ""),
        *(("caution", caution) for caution in result.cautions),
        ("size", f"{result.bytes / 1000:,.0f} kB"),
        ("written", result.output),
    ]
    return paragraphs(["Report written.", *fact_lines(known), *step_lines(result.next_steps)])


def of_info(result: InfoResult) -> str:
    """What is in a model."""
    known = [
        ("fitted", f"{result.created or 'at an unknown time'} on {result.rows:,} rows, {result.training_rows:,} of them learned from"),
        ("data", cut_list(result.source)),
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        *threshold(result.promise),
        ("calibration", _blocks(result.blocks)),
        *(("caution", caution) for caution in result.cautions),
        *(("note", note) for note in result.notes),
        ("network", f"{result.networks} networks on the views {', '.join(result.views)}"),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", f"{result.stopped}; seed {result.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
        *model(result.model),
    ]
    return paragraphs([model_text(result.model), *fact_lines(known), "", *_column_table(result.columns), *step_lines(result.next_steps)])


def of_models(result: ModelsResult) -> str:
    """The versions in a registry."""
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.created, v.tags.get("rows", ""), v.tags.get("alpha", ""), v.tags.get("threshold", ""))
        for v in result.versions
    ]
    return paragraphs(table(("model", "version", "alias", "created", "rows", "alpha", "threshold"), rows))


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
    weak = [f"{short(name)} ({percent(r2)})" for r2, name in known if r2 < WEAK]
    worst = [f"{short(name)} ({percent(r2)})" for r2, name in known[:WORST_SHOWN]]
    return [
        ("left out", cut_list((f"{short(column.name)} ({column.reason})" for column in left_out), "; ")),
        (
            "constant",
            cut_list(f"{short(column.name)} = {short(str(column.constant))}" for column in columns if column.constant is not None),
        ),
        ("explained", f"{percent(median(r2 for r2, _ in known))} of the middle column; worst: {', '.join(worst)}" if known else ""),
        ("weak", f"hardly reconstructed: {cut_list(weak)}" if weak else ""),
    ]


def _blocks(blocks: Blocks | None) -> str:
    """Whether normal rows are flagged evenly over the calibration rows; nothing where that cannot be said."""
    if blocks is None:
        return ""
    span = f"{percent(min(blocks.rates))} to {percent(max(blocks.rates))} flagged in {len(blocks.rates)} consecutive parts"
    return f"{span}; chance spreads them so unevenly in {percent(blocks.p_value)} of all cases"


def _labels(left_out: Mapping[str, int]) -> str:
    return "left out of the fit: " + cut_list(f"{short(label)!r} ({count:,})" for label, count in left_out.items()) if left_out else ""


def threshold(promise: Promise) -> list[tuple[str, str]]:
    """The value of a threshold and what it promises."""
    method = {"split": "split, exact", "cross": "cross-fitted, approximate", "gpd": "fitted tail, estimated"}[promise.method]
    return [
        (
            "threshold",
            f"{promise.threshold:.6g} at alpha {promise.alpha:g} ({method}; finest alpha possible {rounded_up(promise.finest_alpha)})",
        ),
        ("promise", promise.words),
        ("limit", promise.statement if promise.limit is not None else ""),
    ]


def rejected(result: Counts | CalibrateResult | ExplainResult) -> str:
    """Rows that could not be read, the first of them, and where they went; empty where there are none."""
    found = result.rejected
    if found is None:
        return ""
    where = f", in {found.quarantine}" if found.quarantine else ""
    return f"{count(found.rows, 'row')} that cannot be read{where}; the first, counted from 1: {found.first}"


def model(found: ModelName) -> list[tuple[str, str]]:
    """Where a model can be found again."""
    alias = f", alias {found.alias}" if found.alias else ""
    return [
        ("registered", f"{found.name} version {found.version}{alias}" if found.version else ""),
        ("run", found.run_id),
        ("folder", found.folder),
    ]


def model_text(model: ModelName) -> str:
    """Name a model by its version, or where it lies."""
    return f"{model.name} version {model.version}" if model.version else model.uri or model.folder


def _quality(quality: Quality) -> list[str]:
    known = [
        ("rows", f"{quality.normal_rows:,} normal, {quality.anomalous_rows:,} anomalous"),
        ("ranking", f"AUROC {quality.auroc:.4f}, average precision {quality.average_precision:.4f}"),
        ("found", f"{percent(quality.recall)} of the anomalous rows; {_precision(quality)}; F1 {quality.f1:.4f}"),
        ("intervals", _intervals(quality.intervals) if quality.intervals else ""),
        ("false alarms", _false_alarms(quality.false_alarms) if quality.false_alarms else ""),
        ("by label", cut_list(f"{short(found.label)} {found.flagged:,} of {found.rows:,}" for found in quality.by_label)),
    ]
    comparison = ["", *_comparison(quality.comparison)] if quality.comparison else []
    return ["Detection:", *fact_lines(known), *comparison]


def _by_label(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The columns that make most of the score, a line for each label."""
    rows = [
        (short(name), ", ".join(f"{short(column)} {share:.0%}" for column, share in list(columns.items())[:SUMMARY_REASONS_SHOWN]))
        for name, columns in shares.items()
    ]
    return ["", "What makes the score:", *table(("label", "columns"), rows)] if rows else []


def _precision(quality: Quality) -> str:
    return "no row was flagged" if quality.precision is None else f"{percent(quality.precision)} of the alarms are right"


def _intervals(found: Intervals) -> str:
    """The bootstrap intervals in a line."""
    ends = [("AUROC", found.auroc), ("average precision", found.average_precision), ("F1", found.f1)]
    numbers = [f"{name} {interval.low:.4f} to {interval.high:.4f}" for name, interval in ends]
    shares = [f"recall {percent(found.recall.low)} to {percent(found.recall.high)}"]
    if found.precision is not None:
        shares.append(f"precision {percent(found.precision.low)} to {percent(found.precision.high)}")
    return f"{', '.join([*numbers, *shares])} (95 %, bootstrap)"


def _false_alarms(found: FalseAlarms) -> str:
    return f"{found.rows:,}, a rate of {percent(found.rate)} (exact 95 % interval {percent(found.low)} to {percent(found.high)})"


def _comparison(comparison: Comparison) -> list[str]:
    rows = [(ranking.name, f"{ranking.auroc:.4f}", f"{ranking.average_precision:.4f}") for ranking in comparison.rankings]
    head = f"Beside others on the same {comparison.test_rows:,} rows (the others learned from {comparison.peer_rows:,} normal rows):"
    return [head, *table(("detector", "AUROC", "average precision"), rows), f"  {comparison.words}."]


def _column_table(columns: Sequence[ColumnQuality]) -> list[str]:
    rows = [
        (
            short(c.name),
            c.kind,
            f"constant {short(str(c.constant))}" if c.r2 is None else percent(max(c.r2, 0.0)),
            percent(c.missing),
            range_of(c),
        )
        for c in columns[: 5 * NAMES_SHOWN]
    ]
    more = len(columns) - len(rows)
    return [*table(("column", "kind", "reconstructed", "missing", "usual range"), rows), *([f"  … {more:,} more"] if more else [])]


# Columns of an alarm that are named, and the share of its score below which a column is no reason.
SUMMARY_REASONS_SHOWN = 3
TELLING = 0.05


def alarms(found: Sequence[Alarm]) -> list[str]:
    """The worst rows with their reasons."""
    return ["", "Worst rows (the first row is 0):", *_with_reasons(found)] if found else []


def suspicious_lines(found: Sequence[Alarm]) -> list[str]:
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
    return [r for i, r in enumerate(alarm.reasons[:SUMMARY_REASONS_SHOWN]) if i == 0 or r.contribution >= enough]


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
