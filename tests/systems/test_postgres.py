"""A store of MLflow in PostgreSQL: registered there, a model gives the scores that it gives from SQLite."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server import free_port
from tests.systems.conftest import System, new_rows, plant

pytestmark = [pytest.mark.systems, pytest.mark.filterwarnings("ignore")]
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Return the address of an empty database of a server that runs for these tests only; it takes no root, so that gets another user."""
    where = shutil.which("initdb") or next((str(folder / "initdb") for folder in PROGRAMS if (folder / "initdb").exists()), None)
    if where is None:
        pytest.skip("no PostgreSQL here: install the package postgresql")
    programs = Path(where).resolve().parent
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    subprocess.run([*user, programs / "initdb", "-D", data, "-A", "trust", "-U", "mlflow"], cwd=folder, check=True, capture_output=True)
    command = [*user, str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        _wait_for(programs / "pg_isready", port, folder / "log")
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder)


def _wait_for(ready: Path, port: int, log: Path) -> None:
    until = time.monotonic() + 60
    while subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def test_a_model_registered_in_postgres_gives_the_same_scores(system: System, database: str, tmp_path: Path) -> None:
    there = replace(system, folder=tmp_path, environment=system.environment | {"MLFLOW_TRACKING_URI": database}, known={}, refused={})
    there.write(plant(600, 1), "normal.parquet")
    for _ in range(2):
        there.run("vae_anomaly", "fit", "normal.parquet", "--model-name", "plant", "--steps", "20", "--alpha", "0.05", "--quiet")
    listed = json.loads(there.run("vae_anomaly", "models", "plant", "--json").stdout)["versions"]
    assert {entry["version"]: entry["aliases"] for entry in listed} == {"1": [], "2": ["champion"]}
    assert there.scores(new_rows()) == system.scores(new_rows())
