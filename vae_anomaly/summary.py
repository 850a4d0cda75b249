"""Results in words, for people: what happened, what stands out, and what to type next.

Knows results only; prints nothing. How they are laid out: ``layout``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from vae_anomaly import layout
from vae_anomaly.core.detector import ColumnQuality
from vae_anomaly.core.ranks import rounded_up
from vae_anomaly.core.report import Comparison, FalseAlarms, Promise, Quality, percent
from vae_anomaly.core.schema import Dropped
from vae_anomaly.workflow.results import (
    Alarm,
    Counts,
    Discovery,
    EvaluateResult,
    FitResult,
    InfoResult,
    ModelName,
    ModelsResult,
    Reason,
    ScoreResult,
    UiResult,
    Untypical,
)

# Below this the other columns say next to nothing about a column: its faults are seen only when they are gross.
WEAK = 0.1
# Columns of an alarm that are named, and the share of its score below which a column is no reason.
REASONS_SHOWN, TELLING = 3, 0.05


def of_fit(result: FitResult) -> str:
    """What a fit did."""
    used = f"{result.rows_used:,} rows" if result.rows_used == result.rows_read else f"{result.rows_used:,} of {result.rows_read:,} rows"
    facts = [
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        ("labels", _labels(result.labels_left_out)),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", result.stopped),
        *threshold(result.promise),
        *(("note", note) for note in result.notes),
        *model(result.model),
    ]
    head = f"Fitted on {used}, {len(result.columns):,} columns, in {result.seconds:.1f} s."
    quality = ["", *_quality(result.quality)] if result.quality else []
    return layout.text([head, *layout.facts(facts), *quality, *layout.next_steps(result.next_steps)])


def of_score(result: ScoreResult) -> str:
    """What a scoring did."""
    counts = result.counts
    head = f"Scored {counts.rows:,} rows" + (f" at {result.rows_per_second:,.0f} rows/s." if result.rows_per_second else ".")
    if result.unchanged:
        head = f"Nothing to do: {result.output} already holds the scores of these inputs, this model and these options."
    facts = [
        ("alarms", _counted(result)),
        ("flagged by", _discovery(counts.discovery) if counts.discovery else ""),
        ("groups", _pooled(counts)),
        ("typicality", _untypical(counts.typicality, result.alpha) if counts.typicality else ""),
        ("no score", f"{counts.null_scores:,} rows without any observed cell" if counts.null_scores else ""),
        ("unseen", layout.cut(f"{name} ({count:,})" for name, count in counts.unseen.items())),
        ("missing", layout.cut(f"{m.column} {percent(m.now)} (fit: {percent(m.at_fit)})" for m in counts.missing_changes)),
        ("ignored", layout.cut(result.ignored_columns)),
        ("model", named(result.model)),
        ("written", result.output),
    ]
    return layout.text([head, *layout.facts(facts), *_alarms(counts.top_alarms), *layout.next_steps(result.next_steps)])


def of_evaluate(result: EvaluateResult) -> str:
    """A model against labels."""
    head = f"{named(result.model)} on {result.rows:,} labelled rows."
    facts = [
        ("no score", f"{result.null_scores:,} rows, left out" if result.null_scores else ""),
        *threshold(result.promise),
        *(("note", note) for note in result.notes),
    ]
    return layout.text([head, *layout.facts(facts), "", *_quality(result.quality), *layout.next_steps(result.next_steps)])


def of_info(result: InfoResult) -> str:
    """What is in a model."""
    facts = [
        ("fitted", f"{result.created or 'at an unknown time'} on {result.rows:,} rows, {result.training_rows:,} of them learned from"),
        ("data", layout.cut(result.source)),
        ("columns", _kinds(result.columns)),
        *_columns(result.columns, result.left_out),
        *threshold(result.promise),
        *(("note", note) for note in result.notes),
        ("network", f"{result.networks} networks on the views {', '.join(result.views)}"),
        ("latent", f"{result.active_units:.3g} of {result.latent_units} units in use"),
        ("ended", f"{result.stopped}; seed {result.seed}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
        *model(result.model),
    ]
    return layout.text(
        [named(result.model), *layout.facts(facts), "", *_column_table(result.columns), *layout.next_steps(result.next_steps)]
    )


def of_models(result: ModelsResult) -> str:
    """The versions in a registry."""
    rows = [
        (v.name, v.version, ", ".join(v.aliases), v.created, v.tags.get("rows", ""), v.tags.get("alpha", ""), v.tags.get("threshold", ""))
        for v in result.versions
    ]
    return layout.text(layout.table(("model", "version", "alias", "created", "rows", "alpha", "threshold"), rows))


def of_ui(result: UiResult) -> str:
    """Where the UI listens."""
    return f"MLflow UI of {result.store} at {result.url} (Ctrl-C stops it)"


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    named = layout.cut(f"{name!r} ({rows:,})" for name, rows in counts.unseen_groups.items())
    return f"{counts.pooled_rows:,} rows have the pooled threshold: " + (f"not calibrated: {named}" if named else "they have no group")


def _untypical(found: Untypical, alpha: float) -> str:
    return f"{found.rows:,} rows at {alpha:g} or less, {found.low:,} of them because they score too low"


def _kinds(columns: Sequence[ColumnQuality]) -> str:
    counts = Counter(column.kind for column in columns)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())


def _columns(columns: Sequence[ColumnQuality], left_out: Sequence[Dropped]) -> list[tuple[str, str]]:
    """Columns that deserve a word: left out, constant, or hardly explained by the others."""
    weak = [f"{c.name} ({percent(max(c.r2, 0.0))})" for c in columns if c.r2 is not None and c.r2 < WEAK]
    return [
        ("left out", layout.cut((f"{column.name} ({column.reason})" for column in left_out), "; ")),
        ("constant", layout.cut(f"{column.name} = {column.constant}" for column in columns if column.constant is not None)),
        ("weak", f"hardly reconstructed: {layout.cut(weak)}" if weak else ""),
    ]


def _labels(left_out: Mapping[str, int]) -> str:
    return "left out of the fit: " + layout.cut(f"{label!r} ({count:,})" for label, count in left_out.items()) if left_out else ""


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


def model(found: ModelName) -> list[tuple[str, str]]:
    """Where a model can be found again."""
    alias = f", alias {found.alias}" if found.alias else ""
    return [
        ("registered", f"{found.name} version {found.version}{alias}" if found.version else ""),
        ("run", found.run_id),
        ("folder", found.folder),
    ]


def named(model: ModelName) -> str:
    """Name a model by its version, or where it lies."""
    return f"{model.name} version {model.version}" if model.version else model.uri or model.folder


def _quality(quality: Quality) -> list[str]:
    facts = [
        ("rows", f"{quality.normal_rows:,} normal, {quality.anomalous_rows:,} anomalous"),
        ("ranking", f"AUROC {quality.auroc:.4f}, average precision {quality.average_precision:.4f}"),
        ("found", f"{percent(quality.recall)} of the anomalous rows; {_precision(quality)}"),
        ("false alarms", _false_alarms(quality.false_alarms) if quality.false_alarms else ""),
        ("by label", layout.cut(f"{found.label} {found.flagged:,} of {found.rows:,}" for found in quality.by_label)),
    ]
    comparison = ["", *_comparison(quality.comparison)] if quality.comparison else []
    return ["Detection:", *layout.facts(facts), *comparison]


def _precision(quality: Quality) -> str:
    return "no row was flagged" if quality.precision is None else f"{percent(quality.precision)} of the alarms are right"


def _false_alarms(found: FalseAlarms) -> str:
    return f"{found.rows:,}, a rate of {percent(found.rate)} (exact 95 % interval {percent(found.low)} to {percent(found.high)})"


def _comparison(comparison: Comparison) -> list[str]:
    rows = [(ranking.name, f"{ranking.auroc:.4f}", f"{ranking.average_precision:.4f}") for ranking in comparison.rankings]
    head = f"Beside others on the same {comparison.test_rows:,} rows (the others learned from {comparison.peer_rows:,} normal rows):"
    return [head, *layout.table(("detector", "AUROC", "average precision"), rows), f"  {comparison.words}."]


def _alarms(alarms: Sequence[Alarm]) -> list[str]:
    """The worst rows with their reasons."""
    lines = ["", "Worst rows:"] if alarms else []
    for alarm in alarms:
        ids = "".join(f", {name} {value}" for name, value in alarm.ids.items())
        lines.append(f"  row {alarm.row:,}{ids}: score {alarm.score:.4g}, p-value {alarm.p_value:.2g}")
        lines += [f"    {r.column}: {r.value or 'missing'}, expected {r.expected}" for r in _telling(alarm)]
    return lines


def _telling(alarm: Alarm) -> Sequence[Reason]:
    """At least one and at most three columns, and none that did next to nothing."""
    enough = TELLING * alarm.score
    return [r for i, r in enumerate(alarm.reasons[:REASONS_SHOWN]) if i == 0 or r.contribution >= enough]


def _column_table(columns: Sequence[ColumnQuality]) -> list[str]:
    rows = [
        (c.name, c.kind, f"constant {c.constant}" if c.r2 is None else percent(max(c.r2, 0.0)), percent(c.missing), _range(c))
        for c in columns[: 5 * layout.NAMES_SHOWN]
    ]
    more = len(columns) - len(rows)
    return [*layout.table(("column", "kind", "reconstructed", "missing", "usual range"), rows), *([f"  … {more:,} more"] if more else [])]


def _range(column: ColumnQuality) -> str:
    return f"{column.low:.6g} … {column.high:.6g}" if column.low is not None and column.high is not None else ""
