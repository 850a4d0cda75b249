"""``calibrate``: a new threshold for a fitted model, from normal rows that its fit has not seen.

A registered model gets a new version, to which its alias moves; a model folder is replaced in one step. All checks come before the first
write.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vae_anomaly import artifact
from vae_anomaly.calibration.blocks import effective_rows
from vae_anomaly.calibration.conformal import calibration_rows_needed, finest_text
from vae_anomaly.calibration.groups import calibrate_groups
from vae_anomaly.calibration.guarantee import guarantee_of
from vae_anomaly.calibration.operating_point import BudgetRow, ChosenAlpha, Costs, budget_alpha, budget_table, choose_alpha
from vae_anomaly.calibration.tail import LEAST_ROWS, finest_tail_alpha, fit_tail
from vae_anomaly.calibration.threshold import Threshold, calibrate_blocks
from vae_anomaly.calibration.threshold import calibrate as conformal
from vae_anomaly.config import SeriesConfig, TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import TooFewRows
from vae_anomaly.fitting.series import LEAST_BLOCK_ROWS
from vae_anomaly.messages import OnProgress, ignore_progress
from vae_anomaly.tables.source import Source
from vae_anomaly.tracking.registry import MODEL_ID
from vae_anomaly.tracking.runs import Run, start_run
from vae_anomaly.workflow.calibration_rows import (
    CalibrationColumns,
    CalibrationRows,
    calibration_columns,
    check_calibrate_request,
    check_unseen,
    score_calibration_rows,
)
from vae_anomaly.workflow.models import LoadedModel, open_data, open_model
from vae_anomaly.workflow.publish import alias_or_uri, model_name
from vae_anomaly.workflow.requests import CalibrateRequest
from vae_anomaly.workflow.results import CalibrateResult, GroupRow, ModelName

# Beginnings of the notes of a fit that a new calibration invalidates.
BLOCKS = SeriesConfig().folds  # of time, of a calibration of rows in time
NOTES_OF_FIT = ("cross-fitted", "calibrated on", "the threshold is pooled")


def calibrate_files(request: CalibrateRequest, *, tell: OnProgress = ignore_progress) -> CalibrateResult:
    """Recalibrate a model on normal rows, and register it or replace its folder.

    Raises ConfigError for contradictory or incomplete options, DataError for training rows or labels of one class, TooFewRows if alpha is
    too small for the number of rows, NotCalibrated if no tail fits, OutputError and TrackingError if the result cannot be stored.
    """
    check_calibrate_request(request)
    loaded = open_model(request.model, uri=request.tracking_uri)
    detector = loaded.detector
    source = open_data(detector, request.data, request)
    columns = calibration_columns(request, detector, source)
    check_unseen(source, detector)
    rows = score_calibration_rows(detector, source, columns, request, tell)
    alpha, choice = _alpha(request, rows, detector)
    threshold = _threshold(request, rows, alpha, columns, 1 if choice is None else choice.tried)
    recalibrated = _recalibrated(detector, threshold, source)
    threshold = recalibrated.threshold
    table = budget_table(threshold, rows.anomalous_scores if rows.labelled else None, None if rows.per_day is None else rows.per_day.rows)
    model = _store(request, loaded, recalibrated, source, table, choice)
    return CalibrateResult(
        rows=len(rows.normal_scores) + len(rows.anomalous_scores) + rows.null_scores,
        calibration_rows=len(rows.normal_scores),
        anomalous_rows=len(rows.anomalous_scores),
        null_scores=rows.null_scores,
        rows_per_day=None if rows.per_day is None else rows.per_day.rows,
        days="" if rows.per_day is None else rows.per_day.note,
        alpha_before=detector.threshold.alpha,
        threshold_before=detector.threshold.value,
        promise=guarantee_of(threshold),
        choice=choice,
        table=table,
        groups=_group_rows(threshold),
        fit_p_value=None if threshold.tail is None else threshold.tail.fit_p_value,
        model=model,
        next_steps=_next_steps(model),
        rejected=rows.rejected,
    )


def _alpha(request: CalibrateRequest, rows: CalibrationRows, detector: Detector) -> tuple[float, ChosenAlpha | None]:
    """Return alpha as the request chooses it, by default that of the model."""
    if request.alerts_per_day is not None and rows.per_day is not None:
        return budget_alpha(request.alerts_per_day, rows.per_day.rows), None
    objective = request.maximize or _costs(request)
    if objective is not None:
        choice = choose_alpha(
            rows.normal_scores, rows.anomalous_scores, objective, anomaly_rate=request.anomaly_rate, seed=detector.config.seed
        )
        return choice.alpha, choice
    return request.alpha or detector.threshold.alpha, None


def _costs(request: CalibrateRequest) -> Costs | None:
    if request.cost_false_alarm is None or request.cost_miss is None:
        return None
    return Costs(false_alarm=request.cost_false_alarm, miss=request.cost_miss)


def _threshold(request: CalibrateRequest, rows: CalibrationRows, alpha: float, columns: CalibrationColumns, tried: int) -> Threshold:
    """Calibrate the threshold. Raises TooFewRows, NotCalibrated."""
    scores = rows.normal_scores
    if request.method == "gpd":
        ordered = np.sort(scores)
        tail = fit_tail(ordered)
        threshold = Threshold(method="gpd", alpha=tail.share, value=0.0, calibration=ordered, tail=tail).at(alpha)
    else:
        _check_alpha(alpha, len(scores))
        threshold = conformal(scores, alpha) if rows.entity is None else _of_blocks(scores, rows.entity, alpha)
    if rows.groups is not None and columns.group is not None:
        groups = calibrate_groups(columns.group, rows.groups, scores, alpha)
        threshold = replace(threshold, groups=groups)
    return replace(threshold, tried=tried)


def _of_blocks(scores: NDArray[np.float64], entity: NDArray[np.int64], alpha: float) -> Threshold:
    """Return the threshold of rows in time from the first, second, … fifth part of every series."""
    block, pieces = np.empty(len(scores), dtype=np.int64), []
    for one in np.unique(entity):
        here = np.flatnonzero(entity == one)
        block[here] = np.arange(len(here)) * BLOCKS // len(here)
        pieces.append(scores[here])
    if len(scores) < BLOCKS * LEAST_BLOCK_ROWS:
        raise TooFewRows(
            f"a time series needs at least {BLOCKS * LEAST_BLOCK_ROWS:,} normal rows to calibrate on, {LEAST_BLOCK_ROWS} for each of "
            f"{BLOCKS} blocks of its time; {len(scores):,} given."
        )
    return calibrate_blocks(scores, block, alpha, effective_rows=effective_rows(pieces))


def _check_alpha(alpha: float, n: int) -> None:
    need = calibration_rows_needed(alpha)
    if n < need:
        tail = n >= LEAST_ROWS and alpha >= finest_tail_alpha(n)
        raise TooFewRows(
            f"alpha {alpha:g} needs at least {need:,} calibration rows; {n:,} given. Finest alpha possible with these rows: "
            f"{finest_text(n)}. Use --alpha {finest_text(n)},{' --method gpd' if tail else ''} or at least {need:,} normal rows."
        )


def _recalibrated(detector: Detector, threshold: Threshold, source: Source) -> Detector:
    """Return the detector with the new threshold and its origin in the model card."""
    notes = tuple(note for note in detector.card.notes if not note.startswith(NOTES_OF_FIT))
    card = replace(
        detector.card,
        notes=notes,
        calibration_rows=len(threshold.calibration),
        calibrated=datetime.now(UTC).isoformat(timespec="seconds"),
        calibration_source=source.paths,
        calibration_versions=source.versions,
        calibration_digest=source.digest(),
    )
    return replace(detector.recalibrated(threshold), card=card)


def _store(
    request: CalibrateRequest,
    loaded: LoadedModel,
    detector: Detector,
    source: Source,
    table: Sequence[BudgetRow],
    choice: ChosenAlpha | None,
) -> ModelName:
    """Replace the model folder, or log and register a new version."""
    if not request.model.startswith(("models:/", "runs:/")):
        folder = request.output or Path(request.model)
        artifact.save(detector, folder, replace=request.output is None)
        return ModelName(name=loaded.name.name, folder=str(folder), uri=str(folder))
    tracking = _tracking(request, loaded)
    with (
        start_run(tracking, name=f"calibrate {tracking.model_name}") as run,
        tempfile.TemporaryDirectory(prefix="vae-anomaly-") as temporary,
    ):
        assert isinstance(run, Run)  # tracking is on
        run.log_config(detector.config)
        card = detector.card
        run.log_dataset(source.paths, digest=source.digest(), rows=card.calibration_rows, context="calibration", versions=source.versions)
        run.log_metrics(_metrics(detector.threshold, choice))
        run.log_table("budget.json", [asdict(row) for row in table])
        folder = Path(temporary) / "detector"
        artifact.save(detector, folder)
        if request.output is not None:
            artifact.save(detector, request.output)
        version = run.log_model(folder, detector)
    return model_name(version, request.output)


def _tracking(request: CalibrateRequest, loaded: LoadedModel) -> TrackingConfig:
    """Return the settings of the new version: name and alias of ``--model``, else those of the fit."""
    fitted = loaded.detector.config.tracking
    name, _, alias = request.model.removeprefix("models:/").partition("@")
    registered = request.model.startswith("models:/") and not MODEL_ID.fullmatch(name)
    return replace(
        fitted,
        enabled=True,
        register=registered or fitted.register,
        model_name=loaded.name.name if registered else fitted.model_name,
        alias=request.alias or alias or fitted.alias,
        uri=request.tracking_uri,
    )


def _metrics(threshold: Threshold, choice: ChosenAlpha | None) -> dict[str, float]:
    metrics = {"threshold": threshold.value, "alpha": threshold.alpha, "alpha_limit_95": threshold.limit}
    if threshold.tail is not None:
        metrics |= {"tail_shape": threshold.tail.shape, "tail_fit_p_value": threshold.tail.fit_p_value}
    if choice is not None:
        metrics |= {choice.measure.lower().replace(" ", "_"): choice.value, "recall": choice.recall}
    return metrics


def _group_rows(threshold: Threshold) -> tuple[GroupRow, ...]:
    groups = threshold.groups
    if groups is None:
        return ()
    columns = zip(groups.names, groups.rows.tolist(), groups.values.tolist(), groups.lent.tolist(), strict=True)
    group_rows = [GroupRow(name=name, rows=rows, threshold=value, lent=lent) for name, rows, value, lent in columns]
    return tuple(sorted(group_rows, key=lambda row: (-row.rows, row.name)))


def _next_steps(model: ModelName) -> tuple[str, ...]:
    return (f"vae-anomaly score NEW.csv --model {alias_or_uri(model)}",)
