"""Resuming a fit: its request, the model version that an interrupted job already logged, and the outcome it had reached.

The files are those of ``jobs.fit_workdir``.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from vae_anomaly._version import __version__
from vae_anomaly.config import Config, TrackingConfig, config_to_dict
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, TrackingError
from vae_anomaly.evaluation.results import Quality
from vae_anomaly.explain.contributions import Alarm
from vae_anomaly.jobs.claim import install
from vae_anomaly.jobs.fit_workdir import Checkpoint
from vae_anomaly.jobs.process_group import processes
from vae_anomaly.model.training import device_of
from vae_anomaly.tables.source import Source
from vae_anomaly.tracking import recovery, store
from vae_anomaly.tracking.registry import ModelVersion

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Result of the training: the detector, its quality against labels, and normal rows that look suspicious."""

    detector: Detector
    quality: Quality | None
    suspicious: tuple[Alarm, ...]


def made_from(source: Source, config: Config, most: int | None) -> dict[str, Any]:
    """Return everything that determines the bytes of a model and where it is logged; ``most``: rows of the sample, None: all rows."""
    device = _hardware(device_of(config.train.device))
    return {
        "inputs": source.made_of(),
        "settings": config_to_dict(config) | ({} if most is None else {"most rows": most}),
        "install": {
            **install(),
            "package": __version__,
            "device": device,
            "threads": torch.get_num_threads(),
            **({"processes": size} if (size := processes()[1]) > 1 else {}),
        },
        "store": store.store_uri(config.tracking.uri) if config.tracking.enabled else "",
    }


def _hardware(device: torch.device) -> str:
    is_present = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return torch.cuda.get_device_name(device) if is_present else str(device)


def begin(checkpoint: Checkpoint, tracking: TrackingConfig, *, resume: bool | None) -> ModelVersion | None:
    """Take over a claimed work folder. Return the model version that an interrupted fit of the same request already logged, if any.

    MLflow runs that another interrupted fit left open are closed as well, if the store is reachable. Raises ConfigError for ``resume``
    without an interrupted fit, TrackingError.
    """
    earlier, same = checkpoint.earlier(), checkpoint.state() != "fresh"
    if resume and not same:
        workdir = checkpoint.workdir
        why = f"{workdir} is of other data or settings" if earlier else f"{workdir} does not exist"
        raise ConfigError(f"--resume finds no interrupted fit of these data and settings: {why}. Leave it out to start over.")
    continues, logged = same and resume is not False, None
    if earlier is not None and earlier.tracking.enabled:
        if continues:
            logged = recovery.recover_runs(earlier.job, earlier.tracking)
        elif earlier.digests.get("store") == checkpoint.digests["store"]:
            with suppress(TrackingError):
                recovery.recover_runs(earlier.job, earlier.tracking)
    checkpoint.begin(tracking, restart=resume is False)
    return logged


def keep_outcome(checkpoint: Checkpoint, outcome: Outcome) -> Outcome:
    """Write the outcome to the work folder until the model is saved and registered; return it."""
    quality = None if outcome.quality is None else asdict(outcome.quality)
    checkpoint.save_finished(outcome.detector, {"quality": quality, "suspicious": [asdict(row) for row in outcome.suspicious]})
    return outcome


def outcome(checkpoint: Checkpoint) -> Outcome | None:
    """Return the outcome of an interrupted fit, None if its training had not finished."""
    finished = checkpoint.finished()
    if finished is None:
        return None
    try:
        restored = Outcome(detector=finished.detector, **_parsed(finished.results))
    except (ValidationError, KeyError):
        return None
    checkpoint.resumed_steps = finished.detector.card.history.steps
    return restored


def _parsed(results: Mapping[str, Any]) -> dict[str, Any]:
    quality: TypeAdapter[Quality | None] = TypeAdapter(Quality | None)
    return {
        "quality": quality.validate_python(results["quality"]),
        "suspicious": TypeAdapter(tuple[Alarm, ...]).validate_python(results["suspicious"]),
    }
