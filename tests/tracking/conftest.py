"""A store with one logged and registered fit, for all tests that only look at it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from vae_anomaly import artifact
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.report import figures
from vae_anomaly.tracking import registry, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """``folder`` was the current folder of the fit; ``version`` is what it registered; ``unregistered`` is a run without a version."""

    folder: Path
    uri: str
    version: registry.ModelVersion
    unregistered: registry.ModelVersion


@pytest.fixture(scope="session")
def logged(tiny_detector: Detector, tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Logged:
    """Log a fit to MLflow's default store in a folder of its own."""
    folder = tmp_path_factory.mktemp("logged")
    shutil.copy2(empty_store, folder / "mlflow.db")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        os.chdir(folder)
        try:
            artifact.save(tiny_detector, folder / "out")
            version = _log(tiny_detector, folder / "out", TrackingConfig(model_name="pump"))
            unregistered = _log(tiny_detector, folder / "out", TrackingConfig(register=False))
        finally:
            os.chdir(before)
    return Logged(folder=folder, uri=f"sqlite:///{folder}/mlflow.db", version=version, unregistered=unregistered)


def _log(detector: Detector, folder: Path, settings: TrackingConfig) -> registry.ModelVersion:
    with runs.start_run(settings, name="a fit") as run:
        run.log_config(detector.config)
        run.log_dataset(["data/part-1.parquet", "data/part-2.parquet"], digest="ab" * 32, rows=240)
        for block in detector.card.history.blocks:
            run.log_block(block)
        run.log_metrics({"auroc": 0.75})
        run.log_figures({"learning_curve": figures.learning_curve(detector.card.history)})
        run.log_file(folder / "manifest.json")
        version = run.log_model(folder, detector)
    assert version is not None
    return version
