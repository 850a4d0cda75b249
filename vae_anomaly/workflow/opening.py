"""A model by its name: found, loaded, and ready to score. Shared by the verbs that use a fitted model."""

import logging
import os
from dataclasses import dataclass

from vae_anomaly.core.detector import Detector
from vae_anomaly.edges import artifact
from vae_anomaly.edges.registry import resolve
from vae_anomaly.edges.tables import Source
from vae_anomaly.workflow.results import ModelName

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A loaded model; ``digest`` changes with any byte of it."""

    detector: Detector
    name: ModelName
    digest: str


def open_model(model: str, *, uri: str | None = None) -> Opened:
    """Find and load a model. Raises ArtifactError, its kinds, and TrackingError."""
    found = resolve(model, uri=uri)
    detector = artifact.load(found.folder)
    logger.info("loaded %s from %s, fitted %s", model, found.folder, detector.card.created)
    name = ModelName(name=found.name, version=found.version, folder=str(found.folder), uri=model)
    return Opened(detector=detector, name=name, digest=artifact.fingerprint(found.folder))


def learned_from(detector: Detector, source: Source) -> bool:
    """Whether these are the files of the fit, also under other names. Raises DataError."""
    card = detector.card
    return source.digest() == card.data_digest or (card.contents_digest != "" and source.contents() == card.contents_digest)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
