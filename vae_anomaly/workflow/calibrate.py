"""A new threshold for a fitted model from rows it has not seen: read, score, choose a rate, calibrate, keep.

A registered model gets a new version and its alias moves; a folder is replaced whole. Everything that can be refused is refused before
anything is written. Knows nothing about networks, file formats or MLflow.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vae_anomaly import artifact
from vae_anomaly.calibration.conformal import calibration_rows_needed, finest_text
from vae_anomaly.calibration.groups import make_groups
from vae_anomaly.calibration.guarantee import promise
from vae_anomaly.calibration.operating_point import BudgetRow, Choice, Costs, alpha_of_budget, budget_table, choose
from vae_anomaly.calibration.tail import LEAST_ROWS, finest_with_tail, fit_tail
from vae_anomaly.calibration.threshold import Threshold
from vae_anomaly.calibration.threshold import calibrate as conformal
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import TooFewRows
from vae_anomaly.messages import Tell, tell_nobody
from vae_anomaly.tables.source import Source, open_source
from vae_anomaly.tracking.registry import MODEL_ID
from vae_anomaly.tracking.runs import Run, start_run
from vae_anomaly.workflow.calibration_rows import (
    CalibrateRequest,
    CalibrationRows,
    Columns,
    columns_of,
    refuse_contradictions,
    refuse_training_rows,
    scored,
)
from vae_anomaly.workflow.models import Opened, open_model
from vae_anomaly.workflow.results import CalibrateResult, GroupRow, ModelName

# Notes of a fit that a new calibration makes untrue begin with these words.
NOTES_OF_FIT = ("cross-fitted", "calibrated on", "the threshold is pooled")


def calibrate_files(request: CalibrateRequest, *, tell: Tell = tell_nobody) -> CalibrateResult:
    """Calibrate a model anew on normal rows, and register or replace it.

    Raises ConfigError for contrary or incomplete wishes, DataError for the rows of the fit or labels of one class, TooFewRows where the
    rate is too fine for the rows, NotCalibrated where no tail fits, OutputError and TrackingError where the result cannot be kept.
    """
    refuse_contradictions(request)
    opened = open_model(request.model, uri=request.tracking_uri)
    detector = opened.detector
    data = detector.config.data
    missing = data.missing_values if request.missing_values is None else request.missing_values
    source = open_source(request.data, missing_values=missing, on_error=request.on_error)
    columns = columns_of(request, detector, source)
    refuse_training_rows(source, detector)
    rows = scored(detector, source, columns, request, tell)
    alpha, choice = _rate(request, rows, detector)
    threshold = _threshold(request, rows, alpha, columns, 1 if choice is None else choice.tried)
    table = budget_table(threshold, rows.anomalous if rows.labels else None, rows.per_day)
    model = _keep(request, opened, _recalibrated(detector, threshold, source), source, table, choice)
    return CalibrateResult(
        rows=len(rows.normal) + len(rows.anomalous) + rows.null_scores,
        calibration_rows=len(rows.normal),
        anomalous_rows=len(rows.anomalous),
        null_scores=rows.null_scores,
        rows_per_day=rows.per_day,
        alpha_before=detector.threshold.alpha,
        threshold_before=detector.threshold.value,
        promise=promise(threshold),
        choice=choice,
        table=table,
        groups=_group_rows(threshold),
        fit_p_value=None if threshold.tail is None else threshold.tail.fit_p_value,
        model=model,
        next_steps=_next_steps(model),
        rejected=rows.rejected,
    )


def _rate(request: CalibrateRequest, rows: CalibrationRows, detector: Detector) -> tuple[float, Choice | None]:
    """Return the false-alarm rate that was asked for, by whichever way; with none that of the model."""
    if request.alerts_per_day is not None and rows.per_day is not None:
        return alpha_of_budget(request.alerts_per_day, rows.per_day), None
    wish = request.maximize or _costs(request)
    if wish is not None:
        choice = choose(rows.normal, rows.anomalous, wish, anomaly_rate=request.anomaly_rate, seed=detector.config.seed)
        return choice.alpha, choice
    return request.alpha or detector.threshold.alpha, None


def _costs(request: CalibrateRequest) -> Costs | None:
    if request.cost_false_alarm is None or request.cost_miss is None:
        return None
    return Costs(false_alarm=request.cost_false_alarm, miss=request.cost_miss)


def _threshold(request: CalibrateRequest, rows: CalibrationRows, alpha: float, columns: Columns, tried: int) -> Threshold:
    """Calibrate. Raises TooFewRows, NotCalibrated."""
    n = len(rows.normal)
    if request.method == "gpd":
        ordered = np.sort(rows.normal)
        tail = fit_tail(ordered)
        threshold = Threshold(method="gpd", alpha=tail.share, value=0.0, calibration=ordered, tail=tail).at(alpha)
    else:
        _refuse_too_fine(alpha, n)
        threshold = conformal(rows.normal, alpha)
    if rows.group is not None and columns.group is not None:
        groups = make_groups(columns.group, rows.group, rows.normal, alpha)
        threshold = replace(threshold, groups=groups)
    return replace(threshold, tried=tried)


def _refuse_too_fine(alpha: float, n: int) -> None:
    need = calibration_rows_needed(alpha)
    if n < need:
        tail = n >= LEAST_ROWS and alpha >= finest_with_tail(n)
        raise TooFewRows(
            f"alpha {alpha:g} needs at least {need:,} calibration rows; {n:,} given. Finest alpha possible with these rows: "
            f"{finest_text(n)}. Use --alpha {finest_text(n)},{' --method gpd' if tail else ''} or at least {need:,} normal rows."
        )


def _recalibrated(detector: Detector, threshold: Threshold, source: Source) -> Detector:
    """Return the detector with its new threshold, and a card that says where it came from."""
    notes = tuple(note for note in detector.card.notes if not note.startswith(NOTES_OF_FIT))
    card = replace(
        detector.card,
        notes=notes,
        calibration_rows=len(threshold.calibration),
        calibrated=datetime.now(UTC).isoformat(timespec="seconds"),
        calibration_source=tuple(file.path for file in source.files),
        calibration_digest=source.digest(),
    )
    return replace(detector.recalibrated(threshold), card=card)


def _keep(
    request: CalibrateRequest, opened: Opened, detector: Detector, source: Source, table: Sequence[BudgetRow], choice: Choice | None
) -> ModelName:
    """Replace the folder, or log and register a new version."""
    if not request.model.startswith(("models:/", "runs:/")):
        folder = request.output or Path(request.model)
        artifact.save(detector, folder, replace=request.output is None)
        return ModelName(name=opened.name.name, folder=str(folder), uri=str(folder))
    tracking = _tracking(request, opened)
    with (
        start_run(tracking, name=f"calibrate {tracking.model_name}") as run,
        tempfile.TemporaryDirectory(prefix="vae-anomaly-") as temporary,
    ):
        assert isinstance(run, Run)  # tracking is on
        run.log_config(detector.config)
        run.log_dataset(
            [file.path for file in source.files], digest=source.digest(), rows=detector.card.calibration_rows, context="calibration"
        )
        run.log_metrics(_metrics(detector.threshold, choice))
        run.log_table("budget.json", [asdict(row) for row in table])
        folder = Path(temporary) / "detector"
        artifact.save(detector, folder)
        if request.output is not None:
            artifact.save(detector, request.output)
        made = run.log_model(folder, detector)
    kept = "" if request.output is None else str(request.output)
    return ModelName(name=made.name, version=made.version, alias=made.alias, run_id=made.run_id, uri=made.uri, folder=kept)


def _tracking(request: CalibrateRequest, opened: Opened) -> TrackingConfig:
    """Return where the new version goes: the name and alias of ``--model``, else those of the fit."""
    fitted = opened.detector.config.tracking
    name, _, alias = request.model.removeprefix("models:/").partition("@")
    registered = request.model.startswith("models:/") and not MODEL_ID.fullmatch(name)
    return replace(
        fitted,
        enabled=True,
        register=registered or fitted.register,
        model_name=opened.name.name if registered else fitted.model_name,
        alias=request.alias or alias or fitted.alias,
        uri=request.tracking_uri,
    )


def _metrics(threshold: Threshold, choice: Choice | None) -> dict[str, float]:
    found = {"threshold": threshold.value, "alpha": threshold.alpha, "alpha_limit_95": threshold.limit}
    if threshold.tail is not None:
        found |= {"tail_shape": threshold.tail.shape, "tail_fit_p_value": threshold.tail.fit_p_value}
    if choice is not None:
        found |= {choice.measure.lower().replace(" ", "_"): choice.value, "recall": choice.recall}
    return found


def _group_rows(threshold: Threshold) -> tuple[GroupRow, ...]:
    groups = threshold.groups
    if groups is None:
        return ()
    columns = zip(groups.names, groups.rows.tolist(), groups.values.tolist(), groups.lent.tolist(), strict=True)
    found = [GroupRow(name=name, rows=rows, threshold=value, lent=lent) for name, rows, value, lent in columns]
    return tuple(sorted(found, key=lambda row: (-row.rows, row.name)))


def _next_steps(model: ModelName) -> tuple[str, ...]:
    name = f"models:/{model.name}@{model.alias}" if model.version and model.alias else model.uri
    return (f"vae-anomaly score NEW.csv --model {name}",)
