"""What every test may ask for: one thread of arithmetic, and no MLflow store outside the test's own folder."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from vae_anomaly.detector.detector import Detector

# Frozen MLflow models hold code that only MLflow runs; pytest would import it to look for doctests.
collect_ignore_glob = ["golden/registered-*"]

# Before torch or numpy start their pools: the suite runs two processes on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that the tests of other systems wait for."""
    parser.addoption("--systems", action="store_true", help="run the tests that start MLflow's servers, Spark and PostgreSQL too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of other systems out unless they are asked for: a ``-m`` about something else would select them."""
    if config.getoption("--systems") or config.getoption("markexpr") == "systems":
        return
    asked = [item for item in items if item.get_closest_marker("systems") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("systems") is not None])
    items[:] = asked


@pytest.fixture(scope="session")
def tiny_detector() -> "Detector":
    """Return a fitted detector of a mixed table; all tests share it."""
    from tests.tiny import Case, detector

    return detector(Case(kind="mixed", size="one", method="split", prior="exemplar"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite store with its tables and nothing in them, to be copied: MLflow makes them in seconds, and a copy takes none.

    All processes of a suite share it. Tests of what happens where there is no store yet, and one of every way to make one, do without.
    """
    from vae_anomaly.tracking import store

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / "empty-store" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    with FileLock(folder / "empty-store.lock"):
        if not path.exists():
            with store.open_store(f"sqlite:///{path}"):
                pass
    return path


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a test in an empty folder of its own, with no MLflow store chosen by the environment; return the folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_in_a_new_process() -> None:
    """Forget what a command, also one in a fixture that is shared, has made of the logger in this process."""
    logger = logging.getLogger("vae_anomaly")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
