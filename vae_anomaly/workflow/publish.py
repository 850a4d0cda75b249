"""A fitted detector goes where it belongs: into its folder, into a run, into the registry; what cannot be logged is kept all the same.

Knows nothing of how it was fitted.
"""

import re
import shlex
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vae_anomaly import artifact
from vae_anomaly.config import DEFAULT_MODEL, TrackingConfig, validate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import OutputError, TrackingError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.jobs.fit_workdir import Checkpoint
from vae_anomaly.tracking.registry import ModelVersion
from vae_anomaly.tracking.runs import NoRun, Run, start_run
from vae_anomaly.workflow.fit_resume import Outcome
from vae_anomaly.workflow.report import fit_report as report_of_fit
from vae_anomaly.workflow.report import log_report
from vae_anomaly.workflow.results import ModelName


def keep(
    run: Run | NoRun, outcome: Outcome, kept: Checkpoint, logged: ModelVersion | None, *, output: Path | None, overwrite: bool
) -> ModelName:
    """Write the folder that was asked for, then log and register unless that was done.

    Raises OutputError, and TrackingError, which says where the model is kept that could not be logged.
    """
    detector = outcome.detector
    if output is not None and not kept.is_finished_model(output):
        artifact.save(detector, output, replace=overwrite)
    folder = output or kept.finished_folder()
    try:
        version = logged or log_fit(run, detector, outcome.quality, folder)
    except TrackingError as error:
        where = output or _rescued(detector, kept)
        raise TrackingError(f"{str(error).rstrip('.')}. {_advice(where, detector)}") from error
    return model_name(version, output)


def model_name(version: ModelVersion | None, output: Path | None) -> ModelName:
    """Return where a model can be found again."""
    folder = "" if output is None else str(output)
    if version is None:
        return ModelName(folder=folder, uri=folder)
    return ModelName(name=version.name, version=version.version, alias=version.alias, run_id=version.run_id, uri=version.uri, folder=folder)


def fit_next_steps(model: ModelName) -> tuple[str, ...]:
    """Return what to do with a new model."""
    name = f"models:/{model.name}@{model.alias}" if model.version and model.alias else model.uri
    option = "" if name == DEFAULT_MODEL else f" --model {name}"
    ui = ("vae-anomaly ui",) if model.run_id else ()
    return (f"vae-anomaly score NEW.csv{option}", f"vae-anomaly evaluate LABELLED.csv --label-column COLUMN{option}", *ui)


def log_fit(run: Run | NoRun, detector: Detector, quality: Quality | None, folder: Path | None) -> ModelVersion | None:
    """Log curve, numbers, pictures and report, then the model from its folder, or from a temporary one; register it last."""
    if isinstance(run, NoRun):
        return None
    _log_numbers(run, detector, quality)
    run.log_figures(_pictures(detector))
    log_report(run, report_of_fit(detector, quality))
    if folder is not None:
        return run.log_model(folder, detector)
    with tempfile.TemporaryDirectory(prefix="vae-anomaly-") as temporary:
        folder = Path(temporary) / "detector"
        artifact.save(detector, folder)
        return run.log_model(folder, detector)


def _log_numbers(run: Run, detector: Detector, quality: Quality | None) -> None:
    for block in detector.card.history.blocks:
        run.log_block(block)
    run.log_metrics({"fit_seconds": detector.card.seconds, "threshold": detector.threshold.value, "alpha": detector.threshold.alpha})
    if quality:
        run.log_metrics(
            {"auroc": quality.auroc, "average_precision": quality.average_precision, "recall": quality.recall, "f1": quality.f1}
        )


def _pictures(detector: Detector) -> dict[str, Any]:
    from vae_anomaly.report import figures  # --no-tracking draws nothing and needs no matplotlib

    return {
        "learning_curve": figures.learning_curve(detector.card.history),
        "score_histogram": figures.score_histogram(detector.threshold),
        "column_quality": figures.quality_figure(detector.quality),
        "calibration_curve": figures.calibration_curve(detector.threshold),
    }


def _rescued(detector: Detector, kept: Checkpoint) -> Path | None:
    """Keep a model under a name that says when it was fitted, in the current folder or, if that is full or closed, in the temporary one."""
    created = re.sub(r"\D", "", detector.card.created.partition("+")[0])
    folder = Path(f"{detector.config.tracking.model_name}-{created}")
    if kept.is_finished_model(folder) or kept.move_finished(folder):
        return folder
    for place in (folder, Path(tempfile.gettempdir(), folder.name)):
        with suppress(OutputError):
            artifact.save(detector, place)
            return place
    return None


def _advice(folder: Path | None, detector: Detector) -> str:
    """Say where the model is and how it gets from there to where it belongs."""
    if folder is None:
        return "The model is lost: neither this folder nor the temporary one could be written. Make room and fit again."
    option = "" if detector.config.tracking.register else " --no-register"
    name = shlex.quote(str(folder))
    return f"The model is kept: score with --model {name}, and log it later with: vae-anomaly upload {name}{option}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """Which folder, and where to; None: as the fit says."""

    folder: Path
    model_name: str | None = None
    alias: str | None = None
    experiment: str | None = None
    tracking_uri: str | None = None
    register: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadResult:
    """Where a model folder was logged."""

    model: ModelName
    next_steps: tuple[str, ...]


def upload_folder(request: UploadRequest) -> UploadResult:
    """Log the model in a folder to a run of its own, and register it. Raises ArtifactError and its kinds, ConfigError, TrackingError."""
    detector = artifact.load(request.folder)
    tracking = _tracking(request, detector.config.tracking)
    validate(replace(detector.config, tracking=tracking))
    with start_run(tracking) as run:
        run.log_config(replace(detector.config, tracking=tracking))
        run.log_dataset(detector.card.source, digest=detector.card.data_digest, rows=detector.card.rows)
        version = log_fit(run, detector, None, request.folder)
    model = model_name(version, request.folder)
    return UploadResult(model=model, next_steps=fit_next_steps(model))


def _tracking(request: UploadRequest, of_fit: TrackingConfig) -> TrackingConfig:
    asked = {
        "model_name": request.model_name,
        "alias": request.alias,
        "experiment": request.experiment,
        "uri": request.tracking_uri,
    }
    return replace(of_fit, enabled=True, register=request.register, **{name: value for name, value in asked.items() if value is not None})
