"""MLflow: stores, runs, the model registry and the pyfunc flavor."""
