"""What is in a model, which versions are registered, and where the MLflow UI shows them.

Changes nothing. Knows nothing about data files.
"""

import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from vae_anomaly import artifact
from vae_anomaly.calibration.guarantee import promise
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError
from vae_anomaly.fitting.diagnostics import active_units, cautions
from vae_anomaly.redaction import redacted
from vae_anomaly.tables.source import Source
from vae_anomaly.tracking import store
from vae_anomaly.tracking.registry import registered_versions, resolve_model
from vae_anomaly.workflow.results import InfoResult, ListedVersion, ModelName, ModelsResult, UiResult


def model_info(model: str, *, tracking_uri: str | None = None) -> InfoResult:
    """Describe a model. Raises ArtifactError, its kinds, and TrackingError."""
    opened = open_model(model, uri=tracking_uri)
    detector, card = opened.detector, opened.detector.card
    return InfoResult(
        model=opened.name,
        created=card.created,
        source=card.source,
        rows=card.rows,
        training_rows=card.training_rows,
        seed=card.seed,
        versions=dict(card.versions),
        columns=detector.quality,
        left_out=detector.schema.dropped,
        promise=promise(detector.threshold),
        blocks=detector.blocks,
        cautions=cautions(detector),
        notes=card.notes,
        steps=card.history.steps,
        stopped=card.history.stopped,
        active_units=active_units(detector),
        latent_units=detector.ensemble.vae.latent,
        views=detector.config.model.views,
        networks=len(detector.ensemble.weight),
        next_steps=(),
    )


def list_models(name: str | None = None, *, tracking_uri: str | None = None) -> ModelsResult:
    """List registered versions, newest first. Raises ArtifactError when there are none, and TrackingError."""
    uri = store.store_uri(tracking_uri)
    found = registered_versions(name, uri=tracking_uri)
    if not found:
        what = f"no version of {name!r}" if name else "no model"
        raise ArtifactError(f"{what} is registered in {store.shown_uri(uri)}. Fit one here, or give --tracking-uri.")
    return ModelsResult(
        store=store.shown_uri(uri),
        versions=tuple(
            ListedVersion(
                name=version.name,
                version=version.version,
                aliases=version.aliases,
                created=datetime.fromtimestamp(version.created / 1000, UTC).isoformat(timespec="seconds"),
                tags=version.tags,
                run_id=version.run_id,
            )
            for version in found
        ),
    )


def tracking_ui(*, host: str, port: int, tracking_uri: str | None = None) -> UiResult:
    """Return the command that runs MLflow's own UI on the store; a store that is not there is an ArtifactError."""
    uri = store.store_uri(tracking_uri)
    where: tuple[str, ...] = ("--backend-store-uri", uri)
    if redacted(uri) != uri:
        # A command stands in the list of processes, for everybody to read; the environment of a process does not.
        os.environ["MLFLOW_BACKEND_STORE_URI"], where = uri, ()
    with store.open_store(tracking_uri, create=False):
        command = (sys.executable, "-m", "mlflow", "ui", *where, "--host", host, "--port", str(port), "--workers", "1")
    return UiResult(url=f"http://{host}:{port}", store=store.shown_uri(uri), command=command)


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A loaded model; ``digest`` changes with any byte of it."""

    detector: Detector
    name: ModelName
    digest: str


def open_model(model: str, *, uri: str | None = None) -> Opened:
    """Find and load a model. Raises ArtifactError, its kinds, and TrackingError."""
    found = resolve_model(model, uri=uri)
    detector = artifact.load(found.folder)
    _logger.info("loaded %s from %s, fitted %s", model, found.folder, detector.card.created)
    name = ModelName(name=found.name, version=found.version, folder=str(found.folder), uri=model)
    return Opened(detector=detector, name=name, digest=artifact.fingerprint(found.folder))


def learned_from(detector: Detector, source: Source) -> bool:
    """Whether these are the files of the fit, also under other names. Raises DataError."""
    card = detector.card
    return source.digest() == card.data_digest or (card.contents_digest != "" and source.contents() == card.contents_digest)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
