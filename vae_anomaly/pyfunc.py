"""Import path of logged MLflow models. Never move or rename this module or ``AnomalyModel``.

Every logged model stores the line ``from vae_anomaly.pyfunc import AnomalyModel`` (``tracking.pyfunc.MODEL_CODE``), and MLflow executes
it on load. The implementation may move.
"""

from vae_anomaly.tracking.pyfunc import AnomalyModel

__all__ = ["AnomalyModel"]
