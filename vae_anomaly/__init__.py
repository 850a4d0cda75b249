"""Learn what normal rows of a table look like, and flag the others at a false-alarm rate you choose.

The public names and nothing else. Each is imported from its module on first use, so that ``import vae_anomaly`` and
``vae-anomaly --help`` load neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vae_anomaly._version import __version__ as __version__

if TYPE_CHECKING:
    from vae_anomaly.artifact import load, save
    from vae_anomaly.calibration.threshold import Threshold, calibrate
    from vae_anomaly.config import Config, load_config
    from vae_anomaly.detector.detector import Detector
    from vae_anomaly.detector.stream import ScoreOptions, score_batches
    from vae_anomaly.errors import VaeAnomalyError
    from vae_anomaly.explain.contributions import explain_rows
    from vae_anomaly.fitting.fit import fit_detector
    from vae_anomaly.model.ensemble import Scores
    from vae_anomaly.schema.schema import Schema, infer_schema

_HOME = {
    "Config": "vae_anomaly.config",
    "Detector": "vae_anomaly.detector.detector",
    "Schema": "vae_anomaly.schema.schema",
    "ScoreOptions": "vae_anomaly.detector.stream",
    "Scores": "vae_anomaly.model.ensemble",
    "Threshold": "vae_anomaly.calibration.threshold",
    "VaeAnomalyError": "vae_anomaly.errors",
    "calibrate": "vae_anomaly.calibration.threshold",
    "explain_rows": "vae_anomaly.explain.contributions",
    "fit_detector": "vae_anomaly.fitting.fit",
    "infer_schema": "vae_anomaly.schema.schema",
    "load": "vae_anomaly.artifact",
    "load_config": "vae_anomaly.config",
    "save": "vae_anomaly.artifact",
    "score_batches": "vae_anomaly.detector.stream",
}

__all__ = [
    "Config",
    "Detector",
    "Schema",
    "ScoreOptions",
    "Scores",
    "Threshold",
    "VaeAnomalyError",
    "calibrate",
    "explain_rows",
    "fit_detector",
    "infer_schema",
    "load",
    "load_config",
    "save",
    "score_batches",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'vae_anomaly' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*__all__, "__version__"])
