from mlflow.models import set_model

from vae_anomaly.pyfunc import AnomalyModel

set_model(AnomalyModel())
