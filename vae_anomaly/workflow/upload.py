"""A model folder into MLflow, as its fit would have logged it: for a model that was fitted while the server was away.

Knows nothing about training. What the fit found against labels is not in a folder, and so not in the run.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from vae_anomaly.config import TrackingConfig, validate
from vae_anomaly.edges import artifact
from vae_anomaly.edges.tracking import start_run
from vae_anomaly.workflow import keeping
from vae_anomaly.workflow.results import ModelName


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


def upload(request: UploadRequest) -> UploadResult:
    """Log the model in a folder to a run of its own, and register it. Raises ArtifactError and its kinds, ConfigError, TrackingError."""
    detector = artifact.load(request.folder)
    tracking = _tracking(request, detector.config.tracking)
    validate(replace(detector.config, tracking=tracking))
    with start_run(tracking) as run:
        run.log_config(replace(detector.config, tracking=tracking))
        run.log_dataset(detector.card.source, digest=detector.card.data_digest, rows=detector.card.rows)
        version = keeping.log(run, detector, None, request.folder)
    model = keeping.named(version, request.folder)
    return UploadResult(model=model, next_steps=keeping.next_steps(model))


def _tracking(request: UploadRequest, of_fit: TrackingConfig) -> TrackingConfig:
    asked = {
        "model_name": request.model_name,
        "alias": request.alias,
        "experiment": request.experiment,
        "uri": request.tracking_uri,
    }
    return replace(of_fit, enabled=True, register=request.register, **{name: value for name, value in asked.items() if value is not None})
