"""The import path that logged MLflow models use; this module is never moved or renamed, and ``AnomalyModel`` keeps its name.

MLflow stores the line ``from vae_anomaly.pyfunc import AnomalyModel`` in every logged model (``MODEL_CODE`` of the module below) and
executes it on load, also years later. The class itself may move.
"""

from vae_anomaly.tracking.pyfunc import AnomalyModel

__all__ = ["AnomalyModel"]
