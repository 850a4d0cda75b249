"""What every test may ask for: one thread of arithmetic, and no MLflow store outside the test's own folder."""

import os

# Before torch or numpy start their pools: the suite runs two processes on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
