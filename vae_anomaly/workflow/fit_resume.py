"""Resuming a fit: what it is made from, what an interrupted run of it had logged, and the outcome it had reached.

Knows neither rows nor training; ``jobs.fit_workdir`` holds the files.
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
    """Return everything that the bytes of a model, and where it is logged, depend on; at most ``most`` rows are held, None: all."""
    device = _hardware(device_of(config.train.device))
    return {
        "inputs": source.made_of(),
        "settings": config_to_dict(config) | ({} if most is None else {"most rows": most}),
        "install": {
            **install(),
            "package": __version__,
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "store": store.store_uri(config.tracking.uri) if config.tracking.enabled else "",
    }


def _hardware(device: torch.device) -> str:
    there = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return torch.cuda.get_device_name(device) if there else str(device)


def begin(kept: Checkpoint, tracking: TrackingConfig, *, resume: bool | None) -> ModelVersion | None:
    """Take over a claimed work folder. Return the model version that an interrupted run of the same fit already logged, if any.

    Runs that another interrupted fit left open in the store are settled too, as far as the store can be reached. Raises ConfigError for
    ``resume`` without an interrupted fit, TrackingError.
    """
    earlier, same = kept.earlier(), kept.state() != "fresh"
    if resume and not same:
        where = f"what lies in {kept.place} is of other data or settings" if earlier else f"there is no {kept.place}"
        raise ConfigError(f"--resume finds no fit of these data and settings that was cut off: {where}. Leave it out to fit anew.")
    goes_on, logged = same and resume is not False, None
    if earlier is not None and earlier.tracking.enabled:
        if goes_on:
            logged = recovery.recover_runs(earlier.job, earlier.tracking)
        elif earlier.digests.get("store") == kept.digests["store"]:
            with suppress(TrackingError):
                recovery.recover_runs(earlier.job, earlier.tracking)
    kept.begin(tracking, anew=resume is False)
    return logged


def keep_outcome(kept: Checkpoint, outcome: Outcome) -> Outcome:
    """Write the outcome to the work folder until the model is saved and registered; return it."""
    quality = None if outcome.quality is None else asdict(outcome.quality)
    kept.keep_finished(outcome.detector, {"quality": quality, "suspicious": [asdict(row) for row in outcome.suspicious]})
    return outcome


def outcome(kept: Checkpoint) -> Outcome | None:
    """Return the outcome that an interrupted fit had reached; None: it was still training."""
    finished = kept.finished()
    if finished is None:
        return None
    try:
        found = Outcome(detector=finished.detector, **_read(finished.found))
    except (ValidationError, KeyError):
        return None
    kept.resumed_steps = finished.detector.card.history.steps
    return found


def _read(found: Mapping[str, Any]) -> dict[str, Any]:
    quality: TypeAdapter[Quality | None] = TypeAdapter(Quality | None)
    return {
        "quality": quality.validate_python(found["quality"]),
        "suspicious": TypeAdapter(tuple[Alarm, ...]).validate_python(found["suspicious"]),
    }
