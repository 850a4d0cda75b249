"""Learn what normal rows of a table look like, and flag the others at a false-alarm rate you choose.

The public names and nothing else. Each is imported from its module on first use, so that ``import vae_anomaly`` and
``vae-anomaly --help`` load neither torch nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_anomaly.config import Config as Config
    from vae_anomaly.config import load_config as load_config
    from vae_anomaly.errors import VaeAnomalyError as VaeAnomalyError

_HOME = {
    "Config": "vae_anomaly.config",
    "VaeAnomalyError": "vae_anomaly.errors",
    "load_config": "vae_anomaly.config",
}

__version__ = "0.1.0"
__all__ = ["Config", "VaeAnomalyError", "load_config"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'vae_anomaly' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*__all__, "__version__"])
