"""Publish a fitted detector: save its folder, log it to an MLflow run and register it. A model that cannot be logged is saved locally."""

import platform
import re
import shlex
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.config import DEFAULT_MODEL, TrackingConfig, validate
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import OutputError, TrackingError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.jobs.fit_workdir import Checkpoint
from vae_anomaly.tables.source import Source
from vae_anomaly.tracking.registry import ModelVersion
from vae_anomaly.tracking.runs import NoRun, Run, start_run
from vae_anomaly.workflow.fit_resume import Outcome
from vae_anomaly.workflow.report import fit_report, log_report
from vae_anomaly.workflow.requests import UploadRequest
from vae_anomaly.workflow.results import ModelName

FILES_REMEMBERED = 1000  # in the model card, so that a scoring of one of them is told
# Packages whose version can change a score.
VERSIONED = ("torch", "numpy", "pyarrow")


def check_model_folder(output: Path | None, checkpoint: Checkpoint, *, overwrite: bool) -> None:
    """Raise OutputError if the folder must not be written; the model of the same, interrupted fit may be there."""
    if output is None or not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if checkpoint.state() != "fresh" and checkpoint.is_finished_model(output):
        return
    if not overwrite:
        raise OutputError(f"{output} exists. Name another folder with --output, or give --overwrite to replace the model in it.")
    if not artifact.is_artifact(output):
        raise OutputError(f"{output} exists and holds no model, so it is not replaced. Name another folder with --output.")


def with_provenance(
    detector: Detector, source: Source, contents: str, *, seconds: float, notes: tuple[str, ...], cautions: tuple[str, ...] = ()
) -> Detector:
    """Return the detector with date, duration, package versions, data and cautions of its fit in the model card."""
    versions = {"vae-anomaly": __version__, "python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}
    card = replace(
        detector.card,
        notes=(*detector.card.notes, *notes),
        cautions=(*detector.card.cautions, *cautions),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        versions=tuple(versions.items()),
        source=source.paths,
        source_versions=source.versions,
        data_digest=source.digest(),
        contents_digest=contents,
        data_bytes=source.bytes,
        file_digests=tuple(file.digest for file in source.files[:FILES_REMEMBERED]),
    )
    return replace(detector, card=card)


def publish_fit(
    run: Run | NoRun, outcome: Outcome, checkpoint: Checkpoint, logged: ModelVersion | None, *, output: Path | None, overwrite: bool
) -> ModelName:
    """Save the model folder if requested, then log and register the model unless an interrupted run of the fit ``logged`` it.

    Raises OutputError, and TrackingError, which names the folder of a model that could not be logged.
    """
    detector = outcome.detector
    if output is not None and not checkpoint.is_finished_model(output):
        artifact.save(detector, output, replace=overwrite)
    folder = output or checkpoint.finished_folder()
    try:
        version = logged or log_fit(run, detector, outcome.quality, folder)
    except TrackingError as error:
        saved = output or _saved_locally(detector, checkpoint)
        raise TrackingError(f"{str(error).rstrip('.')}. {_recovery_text(saved, detector)}") from error
    return model_name(version, output)


def model_name(version: ModelVersion | None, output: Path | None) -> ModelName:
    """Return name and location of a model, given its version and its folder, if any."""
    folder = "" if output is None else str(output)
    if version is None:
        return ModelName(folder=folder, uri=folder)
    return ModelName(name=version.name, version=version.version, alias=version.alias, run_id=version.run_id, uri=version.uri, folder=folder)


def alias_or_uri(model: ModelName) -> str:
    """Return what ``--model`` takes: the alias of a registered version, which stays valid when it moves on, or else the URI."""
    return f"models:/{model.name}@{model.alias}" if model.version and model.alias else model.uri


def fit_next_steps(model: ModelName) -> tuple[str, ...]:
    """Return commands to run with a new model."""
    name = alias_or_uri(model)
    option = "" if name == DEFAULT_MODEL else f" --model {name}"
    ui = ("vae-anomaly ui",) if model.run_id else ()
    return (f"vae-anomaly score NEW.csv{option}", f"vae-anomaly evaluate LABELLED.csv --label-column COLUMN{option}", *ui)


def log_fit(run: Run | NoRun, detector: Detector, quality: Quality | None, folder: Path | None) -> ModelVersion | None:
    """Log learning curve, metrics, figures and report, then the model from its folder or a temporary one; registration comes last."""
    if isinstance(run, NoRun):
        return None
    _log_metrics(run, detector, quality)
    run.log_figures(_figures(detector))
    log_report(run, fit_report(detector, quality))
    if folder is not None:
        return run.log_model(folder, detector)
    with tempfile.TemporaryDirectory(prefix="vae-anomaly-") as temporary:
        folder = Path(temporary) / "detector"
        artifact.save(detector, folder)
        return run.log_model(folder, detector)


def _log_metrics(run: Run, detector: Detector, quality: Quality | None) -> None:
    card, threshold = detector.card, detector.threshold
    for block in card.history.blocks:
        run.log_block(block)
    run.log_metrics({"fit_seconds": card.seconds, "threshold": threshold.value, "alpha": threshold.alpha})
    if quality:
        run.log_metrics(
            {"auroc": quality.auroc, "average_precision": quality.average_precision, "recall": quality.recall, "f1": quality.f1}
        )


def _figures(detector: Detector) -> dict[str, Any]:
    from vae_anomaly.report import figures  # matplotlib is not needed with --no-tracking

    return {
        "learning_curve": figures.learning_curve(detector.card.history),
        "score_histogram": figures.score_histogram(detector.threshold),
        "column_quality": figures.quality_figure(detector.quality),
        "calibration_curve": figures.calibration_curve(detector.threshold),
    }


def _saved_locally(detector: Detector, checkpoint: Checkpoint) -> Path | None:
    """Save a model as ``NAME-TIME`` in the current folder, or if that is full or read-only in the temporary one; None if both fail."""
    card, tracking = detector.card, detector.config.tracking
    created = re.sub(r"\D", "", card.created.partition("+")[0])
    folder = Path(f"{tracking.model_name}-{created}")
    if checkpoint.is_finished_model(folder) or checkpoint.move_finished(folder):
        return folder
    for path in (folder, Path(tempfile.gettempdir(), folder.name)):
        with suppress(OutputError):
            artifact.save(detector, path)
            return path
    return None


def _recovery_text(folder: Path | None, detector: Detector) -> str:
    """Return where the model was saved and the command that logs it later."""
    if folder is None:
        return "The model is lost: neither the current folder nor the temporary one could be written. Make room and fit again."
    tracking = detector.config.tracking
    option = "" if tracking.register else " --no-register"
    name = shlex.quote(str(folder))
    return f"The model is saved: score with --model {name}, and log it later with: vae-anomaly upload {name}{option}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadResult:
    """Result of ``upload``."""

    model: ModelName
    next_steps: tuple[str, ...]


def upload_folder(request: UploadRequest) -> UploadResult:
    """Log a model folder to a new run and register it. Raises ArtifactError, its subclasses, ConfigError and TrackingError."""
    detector = artifact.load(request.folder)
    tracking = _tracking(request, detector.config.tracking)
    validate(replace(detector.config, tracking=tracking))
    with start_run(tracking) as run:
        run.log_config(replace(detector.config, tracking=tracking))
        card = detector.card
        run.log_dataset(card.source, digest=card.data_digest, rows=card.rows, versions=card.source_versions)
        version = log_fit(run, detector, None, request.folder)
    model = model_name(version, request.folder)
    return UploadResult(model=model, next_steps=fit_next_steps(model))


def _tracking(request: UploadRequest, fitted: TrackingConfig) -> TrackingConfig:
    overrides = {
        "model_name": request.model_name,
        "alias": request.alias,
        "experiment": request.experiment,
        "uri": request.tracking_uri,
    }
    return replace(
        fitted, enabled=True, register=request.register, **{name: value for name, value in overrides.items() if value is not None}
    )
