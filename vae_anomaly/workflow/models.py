"""What is in a model, which versions are registered, and where the MLflow UI shows them.

Changes nothing. Knows nothing about data files.
"""

import os
import sys
from datetime import UTC, datetime

from vae_anomaly.core.cautions import active_units, cautions
from vae_anomaly.core.report import promise
from vae_anomaly.edges import store
from vae_anomaly.edges.registry import registered_versions
from vae_anomaly.errors import ArtifactError
from vae_anomaly.redact import redacted
from vae_anomaly.workflow.opening import open_model
from vae_anomaly.workflow.results import InfoResult, ModelsResult, RegisteredVersion, UiResult


def info(model: str, *, tracking_uri: str | None = None) -> InfoResult:
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


def models(name: str | None = None, *, tracking_uri: str | None = None) -> ModelsResult:
    """List registered versions, newest first. Raises ArtifactError when there are none, and TrackingError."""
    uri = store.store_uri(tracking_uri)
    found = registered_versions(name, uri=tracking_uri)
    if not found:
        what = f"no version of {name!r}" if name else "no model"
        raise ArtifactError(f"{what} is registered in {store.shown(uri)}. Fit one here, or give --tracking-uri.")
    return ModelsResult(
        store=store.shown(uri),
        versions=tuple(
            RegisteredVersion(
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


def ui(*, host: str, port: int, tracking_uri: str | None = None) -> UiResult:
    """Return the command that runs MLflow's own UI on the store; a store that is not there is an ArtifactError."""
    uri = store.store_uri(tracking_uri)
    where: tuple[str, ...] = ("--backend-store-uri", uri)
    if redacted(uri) != uri:
        # A command stands in the list of processes, for everybody to read; the environment of a process does not.
        os.environ["MLFLOW_BACKEND_STORE_URI"], where = uri, ()
    with store.opened(tracking_uri, create=False):
        command = (sys.executable, "-m", "mlflow", "ui", *where, "--host", host, "--port", str(port), "--workers", "1")
    return UiResult(url=f"http://{host}:{port}", store=store.shown(uri), command=command)
