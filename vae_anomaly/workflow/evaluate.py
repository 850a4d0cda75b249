"""Hold a model against labelled rows, with three other detectors on the same rows; log it as a run and write it as a page.

Knows nothing about networks or file formats. All labelled rows are held in memory, encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.calibration.guarantee import promise
from vae_anomaly.config import DataConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, DataError, VaeAnomalyError
from vae_anomaly.evaluation.baselines import Matrix
from vae_anomaly.evaluation.comparison import BaselineSplit, beside_peers
from vae_anomaly.evaluation.metrics import measure, precision_recall_points, realised_rates, roc_points
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.score_summary import Gathering, WorstRow
from vae_anomaly.explain.contributions import explain_rows
from vae_anomaly.explain.top_features import top_features
from vae_anomaly.messages import Tell, absent_text, tell_nobody
from vae_anomaly.report.content import ALARMS_SHOWN, REPORT_REASONS_SHOWN, Curves, Report, overview, reasons
from vae_anomaly.schema.encoding import Batch, encode, joined, model_order
from vae_anomaly.schema.keys import Labels, read_labels, refuse_one_class
from vae_anomaly.tables import stream
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.tracking.runs import Run, start_run
from vae_anomaly.workflow.models import Opened, cores, learned_from, open_model
from vae_anomaly.workflow.report import log_report, refuse_output, title_of, write_report
from vae_anomaly.workflow.results import EvaluateResult
from vae_anomaly.workflow.score_counts import rejected_notes

# Labels, rows of each and columns of each that are looked at for what makes the score.
LABELS_EXPLAINED = 13
ROWS_A_LABEL = 100
COLUMNS_A_LABEL = 5
SEEN = "the model was fitted on these very files: it has seen their normal rows, and the figures are too good"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """Which rows, which model, and what the labels mean; None: what the fit said."""

    data: tuple[str, ...]
    model: str
    label_column: str | None = None
    normal_labels: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    reference: tuple[str, ...] = ()
    output: Path | None = None
    overwrite: bool = False
    no_tracking: bool = False
    threads: int | None = None
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScores:
    """Rows that have a score, with their labels and their numbers in the data; ``null_scores`` rows had none."""

    batch: Batch
    scores: Matrix
    labels: Labels
    numbers: NDArray[np.int64]
    null_scores: int

    def side(self, *, normal: bool) -> tuple[Batch, Matrix]:
        """Return the rows and scores of one class."""
        rows = self.labels.normal == normal
        return self.batch.rows(torch.from_numpy(rows)), self.scores[rows]


def evaluate_files(request: EvaluateRequest, *, tell: Tell = tell_nobody) -> EvaluateResult:
    """Score labelled rows and measure ranking, detection and false alarms; log a run unless the model's fit or the request says no.

    Raises ConfigError without a label column or for a page of another ending, DataError unless there are rows of both classes,
    OutputError for a page that exists, and TrackingError.
    """
    if request.output is not None:
        refuse_output(request.output, overwrite=request.overwrite)
    opened = open_model(request.model, uri=request.tracking_uri)
    detector = opened.detector
    column = request.label_column or detector.config.data.label_column
    if column is None:
        raise ConfigError("which column holds the labels? Name it with --label-column.")
    missing = detector.config.data.missing_values if request.missing_values is None else request.missing_values
    wanted = request.normal_labels or detector.config.data.normal_labels
    source, rejects = open_source(request.data, missing_values=missing, on_error=request.on_error), Rejects()
    if column not in source.names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([column], source.names)}")
    scored = _scored(detector, source, rejects, column, wanted, request.threads or cores(), tell)
    refuse_one_class(scored.labels, column, wanted)
    tell("other detectors", 0, None)
    reference_rejects = Rejects()
    quality = _quality(detector, scored, _reference(detector, request, missing, reference_rejects))
    seen = (SEEN,) if learned_from(detector, source) else ()
    notes = (*seen, *rejected_notes(rejects), *rejected_notes(reference_rejects))
    curves = _curves(detector, scored)
    page = _page(detector, scored, source.where, title_of(opened.name), notes, quality, curves)
    if request.output is not None:
        write_report(page, request.output)
    return EvaluateResult(
        rows=len(scored.batch) + scored.null_scores,
        null_scores=scored.null_scores,
        promise=promise(detector.threshold),
        notes=notes,
        quality=quality,
        by_label=_shares(curves),
        output="" if request.output is None else str(request.output),
        run_id=_log(request, opened, source, scored, page),
        model=opened.name,
        next_steps=(f"open {request.output} in a browser",) if request.output else (),
    )


def _log(request: EvaluateRequest, opened: Opened, source: Source, scored: LabelledScores, page: Report) -> str:
    """Log figures, numbers and the page as a run of the model's experiment; return the run, empty where nothing is logged."""
    tracking = opened.detector.config.tracking
    settings = replace(tracking, enabled=tracking.enabled and not request.no_tracking, register=False, uri=request.tracking_uri)
    with start_run(settings, name=f"evaluate {title_of(opened.name)}") as run:
        run.log_tags({"vae_anomaly.verb": "evaluate", "model": opened.name.name, "model_version": opened.name.version})
        run.log_dataset([file.path for file in source.files], digest=source.digest(), rows=len(scored.batch), context="evaluation")
        assert page.quality is not None
        run.log_metrics(_numbers(page.quality))
        if isinstance(run, Run):
            run.log_figures(_figures(page))
        log_report(run, page)
    return run.run_id


def _numbers(quality: Quality) -> dict[str, float]:
    """Return the figures by name, with the ends of their intervals."""
    names = ("auroc", "average_precision", "recall", "precision", "f1")
    found = {name: getattr(quality, name) for name in names if getattr(quality, name) is not None}
    for name in names if quality.intervals else ():
        interval = getattr(quality.intervals, name)
        found |= {} if interval is None else {f"{name}_low": interval.low, f"{name}_high": interval.high}
    if quality.false_alarms:
        rate = quality.false_alarms
        found |= {"false_alarm_rate": rate.rate, "false_alarm_rate_low": rate.low, "false_alarm_rate_high": rate.high}
    return found


def _figures(page: Report) -> dict[str, Any]:
    from vae_anomaly.report import figures_evaluation as figures

    assert page.curves is not None
    assert page.quality is not None
    return {
        "roc": figures.roc(page.curves, page.quality),
        "precision_recall": figures.precision_recall(page.curves, page.quality),
        "score_by_class": figures.score_by_class(page.histogram, page.promise.threshold),
        "p_values": figures.realised(page.curves, page.promise.alpha),
        "contributions": figures.contributions(page.curves),
    }


def _curves(detector: Detector, scored: LabelledScores) -> Curves:
    """Return the curves, and what makes the score of rows of each label."""
    (_, normal), (_, anomalous) = scored.side(normal=True), scored.side(normal=False)
    return Curves(
        roc=roc_points(normal, anomalous),
        precision_recall=precision_recall_points(normal, anomalous),
        realised=realised_rates(normal, detector.threshold),
        columns=tuple(column.name for column in model_order(detector.schema)),
        by_label=_by_label(detector, scored),
        rows=ROWS_A_LABEL,
    )


def _by_label(detector: Detector, scored: LabelledScores) -> dict[str, tuple[float, ...]]:
    """Return the mean contribution of each column over at most a hundred rows, by chance, of each of the commonest labels."""
    random, found = np.random.default_rng([detector.config.seed, 5]), {}
    for name in list(scored.labels.counts())[:LABELS_EXPLAINED]:
        rows = np.flatnonzero(scored.labels.code == scored.labels.names.index(name))
        picked = np.sort(random.permutation(rows)[:ROWS_A_LABEL])
        explanation = explain_rows(detector.ensemble, scored.batch.rows(torch.from_numpy(picked)))
        found[name or "(empty)"] = tuple(explanation.contribution.mean(0).tolist())
    return found


def _shares(curves: Curves) -> dict[str, dict[str, float]]:
    """Return for each label the columns that make most of its mean score, with their share of it."""
    found = {}
    for name, means in curves.by_label.items():
        total = sum(means) or 1.0
        order = sorted(range(len(means)), key=lambda j: (-means[j], j))[:COLUMNS_A_LABEL]
        found[name] = {curves.columns[j]: means[j] / total for j in order}
    return found


def _page(
    detector: Detector, scored: LabelledScores, where: str, title: str, notes: tuple[str, ...], quality: Quality, curves: Curves
) -> Report:
    """Return what the report shows of the labelled rows."""
    gathering = Gathering(threshold=detector.threshold, worst_rows=ALARMS_SHOWN, source=where)
    flags = detector.threshold.flags(scored.scores)
    for kind, rows in (("normal", scored.labels.normal), ("anomalous", ~scored.labels.normal)):
        gathering.add(scored.scores[rows], flags[rows], kind=kind)
    flagged = np.flatnonzero(flags)
    worst = flagged[np.argsort(-scored.scores[flagged], kind="stable")[:ALARMS_SHOWN]]
    picked = scored.batch.rows(torch.from_numpy(worst))
    features = top_features(detector.ensemble, detector.schema, picked, np.arange(len(worst)), REPORT_REASONS_SHOWN).to_pylist()
    p_values = detector.threshold.p_values(scored.scores)
    for i, shown in zip(worst.tolist(), features, strict=True):
        gathering.offer(
            WorstRow(
                row=int(scored.numbers[i]),
                ids={},
                score=float(scored.scores[i]),
                p_value=float(p_values[i]),
                reasons=reasons(detector, shown),
                label=scored.labels.names[scored.labels.code[i]],
            )
        )
    return overview(detector, gathering, title=title, notes=notes, quality=quality, curves=curves)


def _scored(
    detector: Detector, source: Source, rejects: Rejects, column: str, wanted: Sequence[str], threads: int, tell: Tell
) -> LabelledScores:
    """Encode and score all rows; labels are read from the column as the file has it."""
    batches, scores, labels, numbers = [], [], [], []
    done = 0
    for chunk in source.batches(detector.schema, extra=[column], on_reject=rejects):
        batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
        batches.append(batch)
        scores.append(detector.scores(batch, threads=threads).total.numpy())
        labels.append(chunk.column(column))
        numbers.append(stream.numbers_of(chunk, done))
        done += chunk.num_rows
        tell("scoring", done, source.rows)
    everything = np.concatenate(scores)
    there = ~np.isnan(everything)
    if not there.any():
        raise DataError(f"no row of {source.files[0].path} has a value in any column of the model.")
    found = read_labels(pa.chunked_array(labels), wanted, column)
    rows = joined(batches).rows(torch.from_numpy(there))
    kept = np.concatenate(numbers)[there]
    return LabelledScores(batch=rows, scores=everything[there], labels=found.where(there), numbers=kept, null_scores=len(there) - len(kept))


def _reference(detector: Detector, request: EvaluateRequest, missing: Sequence[str], rejects: Rejects) -> Batch | None:
    """Encode the normal rows that the peers learn from: those asked for, or those of the fit where its files are as they were.

    Of those asked for, ``rejects`` takes the ones that cannot be read; of the others the fit has said it.
    """
    card, data = detector.card, detector.config.data
    if request.reference:
        source = open_source(request.reference, missing_values=missing, on_error=request.on_error)
        return joined(encode(detector.schema, chunk) for chunk in source.batches(detector.schema, on_reject=rejects))
    try:
        source = open_source(card.source, missing_values=data.missing_values, on_error=data.on_error)
    except VaeAnomalyError:
        return None
    if source.digest() != card.data_digest:
        return None
    extra = [data.label_column] if data.label_column else []
    return joined(_normal_rows(detector, chunk, data) for chunk in source.batches(detector.schema, extra=extra))


def _normal_rows(detector: Detector, chunk: pa.RecordBatch, data: DataConfig) -> Batch:
    batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
    if data.label_column is None:
        return batch
    return batch.rows(torch.from_numpy(read_labels(chunk.column(data.label_column), data.normal_labels).normal))


def _quality(detector: Detector, scored: LabelledScores, reference: Batch | None) -> Quality:
    """Measure on all rows, and compare on those that the peers did not learn from."""
    normal, normal_scores = scored.side(normal=True)
    anomalous, anomalous_scores = scored.side(normal=False)
    labels = scored.labels.where(~scored.labels.normal)
    quality = measure(normal_scores, anomalous_scores, detector.threshold, labels, seed=detector.config.seed)
    part, tried = BaselineSplit(learned=reference, tried=normal) if reference else None, normal_scores
    if part is None:
        order = torch.from_numpy(np.random.default_rng([detector.config.seed, 3]).permutation(len(normal)))
        half = len(normal) // 2
        if not half:
            return quality
        part, tried = BaselineSplit(learned=normal.rows(order[:half]), tried=normal.rows(order[half:])), normal_scores[order[half:].numpy()]
    return replace(quality, comparison=beside_peers(detector, [part], anomalous, tried, anomalous_scores))
