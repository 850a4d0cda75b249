"""Learn what normal rows of a table look like, and flag the others at a false-alarm rate you choose.

The public names and nothing else. Each is imported from its module on first use, so that ``import vae_anomaly`` and
``vae-anomaly --help`` load neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_anomaly.config import Config as Config
    from vae_anomaly.config import load_config as load_config
    from vae_anomaly.core.detector import Detector as Detector
    from vae_anomaly.core.explain import explain_rows as explain_rows
    from vae_anomaly.core.fit import fit_detector as fit_detector
    from vae_anomaly.core.schema import Schema as Schema
    from vae_anomaly.core.schema import infer_schema as infer_schema
    from vae_anomaly.core.score import Scores as Scores
    from vae_anomaly.core.stream import ScoreOptions as ScoreOptions
    from vae_anomaly.core.stream import score_batches as score_batches
    from vae_anomaly.core.threshold import Threshold as Threshold
    from vae_anomaly.core.threshold import calibrate as calibrate
    from vae_anomaly.edges.artifact import load as load
    from vae_anomaly.edges.artifact import save as save
    from vae_anomaly.errors import VaeAnomalyError as VaeAnomalyError

_HOME = {
    "Config": "vae_anomaly.config",
    "Detector": "vae_anomaly.core.detector",
    "Schema": "vae_anomaly.core.schema",
    "ScoreOptions": "vae_anomaly.core.stream",
    "Scores": "vae_anomaly.core.score",
    "Threshold": "vae_anomaly.core.threshold",
    "VaeAnomalyError": "vae_anomaly.errors",
    "calibrate": "vae_anomaly.core.threshold",
    "explain_rows": "vae_anomaly.core.explain",
    "fit_detector": "vae_anomaly.core.fit",
    "infer_schema": "vae_anomaly.core.schema",
    "load": "vae_anomaly.edges.artifact",
    "load_config": "vae_anomaly.config",
    "save": "vae_anomaly.edges.artifact",
    "score_batches": "vae_anomaly.core.stream",
}

__version__ = "0.1.0"
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
