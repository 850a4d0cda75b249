"""``evaluate``: measure a model on labelled rows beside the baseline detectors, log an MLflow run and write an HTML report.

All labelled rows are held in memory, encoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.config import DataConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.in_time import Scorer, series_features, total_scores
from vae_anomaly.detector.series import RowTimes, Series, SeriesScores
from vae_anomaly.errors import ConfigError, DataError, VaeAnomalyError
from vae_anomaly.evaluation.baselines import Matrix
from vae_anomaly.evaluation.comparison import BaselineSplit, InTime, compare_with_baselines
from vae_anomaly.evaluation.metrics import detection_quality, precision_recall_points, realised_rates, roc_points
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.evaluation.revealing import revealing_columns
from vae_anomaly.evaluation.score_summary import ScoreSummary
from vae_anomaly.events.episodes import Event, EventLog, ScoredTimes
from vae_anomaly.events.quality import EventQuality, LabelledTimes, event_quality
from vae_anomaly.explain.contributions import Alarm, explain_rows, reasons_of, top_features
from vae_anomaly.messages import OnProgress, absent_text, ignore_progress
from vae_anomaly.report.content import ALARMS_SHOWN, REPORT_REASONS_SHOWN, Curves, Report, overview
from vae_anomaly.schema.encoding import Batch, concatenate, encode, model_order
from vae_anomaly.schema.keys import Labels, check_both_classes, read_labels
from vae_anomaly.schema.parsing import mask_tokens
from vae_anomaly.tables.csv_rejects import Rejects
from vae_anomaly.tables.source import Source
from vae_anomaly.tracking.runs import Run, start_run
from vae_anomaly.workflow.models import (
    LoadedModel,
    cores,
    encoded_chunks,
    located_in,
    open_data,
    open_model,
    open_versions,
    refuse_learned_label,
    rows_of_fit,
    seen_at_fit,
)
from vae_anomaly.workflow.report import check_report_path, log_report, title_of, write_report
from vae_anomaly.workflow.requests import EvaluateRequest
from vae_anomaly.workflow.results import EvaluateResult
from vae_anomaly.workflow.score_counts import rejected_notes
from vae_anomaly.workflow.score_events import event_rules

# Mean contributions by label are computed for the most frequent labels, from a random sample of each.
LABELS_EXPLAINED = 13
ROWS_A_LABEL = 100
COLUMNS_A_LABEL = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledScores:
    """Encoded rows ``[n]`` with a score, their labels and numbers in the data; ``null_scores`` further rows have only missing cells."""

    cells: Batch
    scores: Matrix
    labels: Labels
    numbers: NDArray[np.int64]
    entity: NDArray[np.int64]  # the series of each row, 0 of single rows
    null_scores: int
    worst: Mapping[int, pa.RecordBatch]  # number → the row as it was read, of those with the largest scores
    in_time: Mapping[int, list[dict[str, Any]]]  # number → the reasons of rows in time, of those
    events: EventQuality | None  # of rows in time

    def of_class(self, *, normal: bool) -> tuple[Batch, Matrix]:
        """Return the rows and scores of one class."""
        rows = self.labels.normal == normal
        return self.cells.rows(torch.from_numpy(rows)), self.scores[rows]


def evaluate_files(request: EvaluateRequest, *, tell: OnProgress = ignore_progress) -> EvaluateResult:
    """Score labelled rows; measure ranking, detection at the threshold and false alarms; log a run if tracking is on.

    Raises ConfigError without a label column or for a report that is not ``.html``, DataError unless both classes have rows, OutputError
    for a report that exists, and TrackingError.
    """
    if request.output is not None:
        check_report_path(request.output, overwrite=request.overwrite)
    loaded = open_model(request.model, uri=request.tracking_uri)
    detector = loaded.detector
    data = detector.config.data
    column = request.label_column or data.label_column
    if column is None:
        raise ConfigError("which column holds the labels? Name it with --label-column.")
    refuse_learned_label(detector, column)
    normal_labels = request.normal_labels or data.normal_labels
    source, rejects = open_data(detector, request.data, request), Rejects()
    if column not in source.names:
        raise ConfigError(f"--label-column names a column that is not in the data: {absent_text([column], source.names)}")
    scored = _scored(detector, source, rejects, column, normal_labels, request.threads or cores(), tell)
    check_both_classes(scored.labels, column, normal_labels)
    tell("other detectors", 0, None)
    reference_rejects = Rejects()
    quality = _quality(detector, scored, _reference(detector, request, reference_rejects))
    seen = seen_at_fit(detector, source)
    trained_on = f"{rows_of_fit(seen, len(source.files))}, and the figures are too good" if seen else ""
    notes = (*source.version_notes, *filter(None, [trained_on]), *rejected_notes(rejects), *rejected_notes(reference_rejects))
    curves = _curves(detector, scored)
    page = _page(detector, scored, source.where, title_of(loaded.name), notes, quality, curves)
    if request.output is not None:
        write_report(page, request.output)
    return EvaluateResult(
        rows=len(scored.cells) + scored.null_scores,
        null_scores=scored.null_scores,
        promise=guarantee_of(detector.threshold),
        notes=notes,
        cautions=quality.cautions,
        quality=quality,
        by_label=_shares(curves),
        events=scored.events,
        output="" if request.output is None else str(request.output),
        run_id=_log(request, loaded, source, scored, page),
        model=loaded.name,
        next_steps=(f"open {request.output} in a browser",) if request.output else (),
    )


def _log(request: EvaluateRequest, loaded: LoadedModel, source: Source, scored: LabelledScores, page: Report) -> str:
    """Log metrics, figures and the report as a run of the model's experiment; return the run id, empty if tracking is off."""
    tracking = loaded.detector.config.tracking
    settings = replace(tracking, enabled=tracking.enabled and not request.no_tracking, register=False, uri=request.tracking_uri)
    with start_run(settings, name=f"evaluate {title_of(loaded.name)}") as run:
        run.log_tags({"vae_anomaly.verb": "evaluate", "model": loaded.name.name, "model_version": loaded.name.version})
        run.log_dataset(source.paths, digest=source.digest(), rows=len(scored.cells), context="evaluation", versions=source.versions)
        assert page.quality is not None
        run.log_metrics(_metrics(page.quality))
        if isinstance(run, Run):
            run.log_figures(_figures(page))
        log_report(run, page)
    return run.run_id


def _metrics(quality: Quality) -> dict[str, float]:
    """Return the metrics by name, each with the bounds of its confidence interval as ``_low`` and ``_high``."""
    names = ("auroc", "average_precision", "recall", "precision", "f1")
    metrics = {name: getattr(quality, name) for name in names if getattr(quality, name) is not None}
    for name in names if quality.intervals else ():
        interval = getattr(quality.intervals, name)
        metrics |= {} if interval is None else {f"{name}_low": interval.low, f"{name}_high": interval.high}
    if quality.false_alarms:
        rate = quality.false_alarms
        metrics |= {"false_alarm_rate": rate.rate, "false_alarm_rate_low": rate.low, "false_alarm_rate_high": rate.high}
    return metrics


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
    """Return ROC, precision-recall and calibration curves, and the mean contributions by label."""
    (_, normal), (_, anomalous) = scored.of_class(normal=True), scored.of_class(normal=False)
    return Curves(
        roc=roc_points(normal, anomalous),
        precision_recall=precision_recall_points(normal, anomalous),
        realised=realised_rates(normal, detector.threshold),
        columns=tuple(column.name for column in model_order(detector.schema)),
        by_label=_by_label(detector, scored),
        rows=ROWS_A_LABEL,
    )


def _by_label(detector: Detector, scored: LabelledScores) -> dict[str, tuple[float, ...]]:
    """Return the mean contribution of each column over at most 100 random rows of each of the most frequent labels."""
    random, contributions = np.random.default_rng([detector.config.seed, 5]), {}
    for name in list(scored.labels.counts())[:LABELS_EXPLAINED]:
        rows = np.flatnonzero(scored.labels.code == scored.labels.names.index(name))
        picked = np.sort(random.permutation(rows)[:ROWS_A_LABEL])
        explanation = explain_rows(detector.ensemble, scored.cells.rows(torch.from_numpy(picked)))
        contributions[name or "(empty)"] = tuple(explanation.contribution.mean(0).tolist())
    return contributions


def _shares(curves: Curves) -> dict[str, dict[str, float]]:
    """Return for each label the columns with the largest contributions, as fractions of its mean score."""
    shares = {}
    for name, means in curves.by_label.items():
        total = sum(means) or 1.0
        order = sorted(range(len(means)), key=lambda j: (-means[j], j))[:COLUMNS_A_LABEL]
        shares[name] = {curves.columns[j]: means[j] / total for j in order}
    return shares


def _page(
    detector: Detector, scored: LabelledScores, where: str, title: str, notes: tuple[str, ...], quality: Quality, curves: Curves
) -> Report:
    """Return the content of the report."""
    summary = ScoreSummary(threshold=detector.threshold, worst_rows=ALARMS_SHOWN, source=where)
    flags = detector.threshold.flags(scored.scores)
    for kind, rows in (("normal", scored.labels.normal), ("anomalous", ~scored.labels.normal)):
        summary.add(scored.scores[rows], flags[rows], kind=kind)
    flagged = np.flatnonzero(flags)
    worst = flagged[np.argsort(-scored.scores[flagged], kind="stable")[:ALARMS_SHOWN]]
    picked = scored.cells.rows(torch.from_numpy(worst))
    written = pa.concat_batches([scored.worst[number] for number in scored.numbers[worst].tolist()]) if len(worst) else None
    features = [scored.in_time.get(number) for number in scored.numbers[worst].tolist()]
    if detector.series is None:
        features = top_features(
            detector.ensemble, detector.schema, picked, np.arange(len(worst)), REPORT_REASONS_SHOWN, cells=written
        ).to_pylist()
    p_values = detector.threshold.p_values(scored.scores)
    for i, shown in zip(worst.tolist(), features, strict=True):
        summary.offer(
            Alarm(
                row=int(scored.numbers[i]),
                ids={"label": scored.labels.names[scored.labels.code[i]]},
                score=float(scored.scores[i]),
                p_value=float(p_values[i]),
                reasons=reasons_of(shown or []),
            )
        )
    return overview(detector, summary, title=title, notes=notes, quality=quality, curves=curves)


def _scored(
    detector: Detector, source: Source, rejects: Rejects, column: str, normal_labels: Sequence[str], threads: int, tell: OnProgress
) -> LabelledScores:
    """Encode and score all rows, with the labels as the file has them."""
    batches, scores, labels, numbers = [], [], [], []
    worst: dict[int, pa.RecordBatch] = {}
    series = detector.series
    rules = event_rules(detector, detector.threshold)
    log, times = EventLog(), list[RowTimes]()
    scorer, in_time = Scorer(detector, threads=threads), dict[int, list[dict[str, Any]]]()
    for chunk in encoded_chunks(detector, source, [column], rejects, tell, stage="scoring"):
        numbers.append(chunk.numbers)
        with located_in(source, numbers):
            found = scorer(chunk.rows, chunk.cells)
        scores.append(total_scores(found))
        if isinstance(found, SeriesScores) and found.times is not None and rules is not None:
            times.append(found.times)
            log.add(ScoredTimes(scores=found.total, time=found.times.time, entity=found.times.entity, names=found.times.names,
                                numbers=chunk.numbers), rules)  # fmt: skip
        # Of rows in time with their past: what is explained later is the row alone, before smoothing.
        batches.append(found.rows.rows(slice(0, len(chunk.cells))) if isinstance(found, SeriesScores) else chunk.cells)
        labels.append(chunk.rows.column(column))
        highest = np.sort(np.argsort(-scores[-1], kind="stable")[:ALARMS_SHOWN])
        for i in highest.tolist():
            worst[int(chunk.numbers[i])] = chunk.rows.select(list(detector.schema.names)).take(pa.array([i]))
        if isinstance(found, SeriesScores):
            known = highest[~np.isnan(scores[-1][highest])]
            features = series_features(detector, found, known, REPORT_REASONS_SHOWN, threads=threads)
            in_time |= {int(chunk.numbers[i]): features[i].as_py() for i in known.tolist()}
    total = np.concatenate(scores)
    has_score = ~np.isnan(total)
    if not has_score.any():
        raise DataError(f"no row of {source.files[0].path} has a value in any column of the model.")
    labelled = read_labels(pa.chunked_array(labels), normal_labels, column)
    return LabelledScores(
        cells=concatenate(batches).rows(torch.from_numpy(has_score)),
        scores=total[has_score],
        labels=labelled.where(has_score),
        numbers=np.concatenate(numbers)[has_score],
        entity=(_entities(times) if times else np.zeros(len(total), dtype=np.int64))[has_score],
        null_scores=int((~has_score).sum()),
        worst=worst,
        in_time=in_time,
        events=None if series is None or rules is None else _event_quality(log.events(rules), times, labelled.normal, series),
    )


def _event_quality(events: Sequence[Event], times: Sequence[RowTimes], normal: NDArray[np.bool_], series: Series) -> EventQuality:
    rows = LabelledTimes(
        time=np.concatenate([one.time for one in times]),
        entity=_entities(times),
        names=times[-1].names,
        anomalous=~normal,
    )
    return event_quality(events, rows, series.span, is_clock=series.is_clock)


def _entities(times: Sequence[RowTimes]) -> NDArray[np.int64]:
    return np.concatenate([one.entity for one in times])


def _reference(detector: Detector, request: EvaluateRequest, rejects: Rejects) -> Batch | None:
    """Encode the normal rows that the baselines are fitted on: those of the request, else the training rows if their files are unchanged.

    ``rejects`` counts unreadable rows of the request only; the fit reported those of its own files.
    """
    card, data = detector.card, detector.config.data
    if request.reference:
        source = open_data(detector, request.reference, request)
        return concatenate(encode(detector.schema, chunk) for chunk in source.batches(detector.schema, on_reject=rejects))
    try:
        source = open_versions(card.source, card.source_versions, data)
    except VaeAnomalyError:
        return None
    if source.digest() != card.data_digest:
        return None
    extra = [data.label_column] if data.label_column else []
    return concatenate(_normal_rows(detector, chunk, data) for chunk in source.batches(detector.schema, extra=extra))


def _normal_rows(detector: Detector, chunk: pa.RecordBatch, data: DataConfig) -> Batch:
    batch = encode(detector.schema, chunk.select(list(detector.schema.names)))
    if data.label_column is None:
        return batch
    labels = mask_tokens(chunk.column(data.label_column), data.missing_values)
    return batch.rows(torch.from_numpy(read_labels(labels, data.normal_labels).normal))


def _quality(detector: Detector, scored: LabelledScores, reference: Batch | None) -> Quality:
    """Measure the model on all rows; compare with baselines on rows that these were not fitted on.

    Without a reference the baselines are fitted on one random half of the normal rows and compared on the other.
    """
    normal, normal_scores = scored.of_class(normal=True)
    anomalous, anomalous_scores = scored.of_class(normal=False)
    labels, revealing = scored.labels.where(~scored.labels.normal), revealing_columns(detector, normal, anomalous)
    quality = detection_quality(normal_scores, anomalous_scores, detector.threshold, labels, seed=detector.config.seed)
    quality = replace(quality, revealing=revealing)
    split, compared = BaselineSplit(train=reference, test=normal) if reference else None, normal_scores
    tested = np.arange(len(normal))
    if split is None:
        order = torch.from_numpy(np.random.default_rng([detector.config.seed, 3]).permutation(len(normal)))
        if detector.series is not None:  # the first half in time, and not every other row, whose neighbours the baselines would know
            order = order.sort().values
        half = len(normal) // 2
        if not half:
            return quality
        tested = order[half:].numpy()
        split = BaselineSplit(train=normal.rows(order[:half]), test=normal.rows(order[half:]))
        compared = normal_scores[tested]
    in_time = None
    if detector.series is not None:
        rows = np.concatenate([np.flatnonzero(scored.labels.normal)[tested], np.flatnonzero(~scored.labels.normal)])
        in_time = InTime(position=rows, entity=scored.entity[rows], newest=detector.series.newest)
    found = compare_with_baselines(detector, [split], anomalous, compared, anomalous_scores, in_time=in_time)
    return replace(quality, comparison=found)
