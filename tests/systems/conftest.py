"""One table for every way to a model: what ``vae-anomaly score`` says of it, MLflow's server, its command line and Spark must say too.

The fit has whole numbers, decimals, booleans, numbers 0 and 1, codes with leading zeros, levels that pandas takes for missing, and
missing cells; the rows to score also have outliers, an unseen level and a row with hardly anything in it.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
MODEL = "models:/plant@champion"
SAME = ("anomaly_score", "p_value", "is_anomaly", "top_features")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A registered model in a store of its own, and how to run programs there."""

    folder: Path
    environment: dict[str, str]
    known: dict[tuple[str, ...], Rows] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a Python module as a program here; ``status`` None accepts any."""
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert status is None or done.returncode == status, done.stderr
        return done

    def write(self, rows: pa.Table, name: str) -> Path:
        """Write rows to a Parquet or CSV file here."""
        path = self.folder / name
        pq.write_table(rows, path) if path.suffix == ".parquet" else pacsv.write_csv(rows, path)
        return path

    def scores(self, rows: pa.Table, *options: str, kind: str = "parquet") -> Rows:
        """Return what ``vae-anomaly score`` writes of rows; the program runs once for the same."""
        key = (str(rows.to_pylist()), kind, *options)
        if key not in self.known:
            self.write(rows, f"rows.{kind}")
            self.run("vae_anomaly", "score", f"rows.{kind}", "--model", MODEL, "-o", "scores.parquet", "--overwrite", "--quiet", *options)
            self.known[key] = results(pq.read_table(self.folder / "scores.parquet").to_pylist())
        return self.known[key]

    def refusal(self, rows: pa.Table, where: str = "the data frame") -> str:
        """Return the line with which ``vae-anomaly score`` refuses rows, of a file that is called ``where``."""
        key = str(rows.to_pydict())
        if key not in self.refused:
            self.write(rows, "refused.parquet")
            done = self.run("vae_anomaly", "score", "refused.parquet", "--model", MODEL, "-o", "x.csv", "--overwrite", status=3)
            self.refused[key] = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
        return self.refused[key].replace("refused.parquet", where)


def results(rows: Rows) -> Rows:
    """Return of each row what has to be the same in every way; a row without reasons has an empty list."""
    return [{name: row[name] for name in SAME} | {"top_features": [dict(reason) for reason in row["top_features"] or []]} for row in rows]


def plant(rows: int, seed: int, *, holes: float = 0.04) -> pa.Table:
    """Return rows of a little plant; ``flow``, ``cycles`` and ``fuel`` are always there, the other columns have missing cells."""
    random = np.random.default_rng(seed)
    load = random.normal(size=rows)
    columns = {
        "rpm": (2000 + 100 * load).round().astype(np.int64),
        "flow": 400 + 20 * load + random.normal(size=rows),
        "pressure": (3 + 0.2 * load + random.normal(scale=0.02, size=rows)).round(3),
        "cycles": random.integers(1, 99, rows),
        "running": random.random(rows) < 0.8,
        "valve": (load > 0).astype(np.int64),
        "mode": np.where(load > 0, "high", "low"),
        "site": random.choice(["007", "7b", "012"], rows),
        "fuel": random.choice(["None", "gas", "n/a"], rows, p=[0.4, 0.4, 0.2]),
    }
    full = {"flow", "cycles", "fuel"}
    return pa.table({name: pa.array(v, mask=None if name in full else random.random(rows) < holes) for name, v in columns.items()})


def new_rows() -> pa.Table:
    """Return rows to score with cells that every format of MLflow can carry."""
    kept = plant(40, 2)
    rows = [row | {"fuel": "gas"} for row in kept.to_pylist()]
    rows[3]["flow"], rows[5]["rpm"], rows[8]["mode"], rows[9]["valve"], rows[11]["pressure"] = 900.0, 9000, "turbo", 3, None
    rows[12] |= dict.fromkeys(("rpm", "pressure", "running", "valve", "mode", "site"))
    return pa.Table.from_pylist(rows, schema=kept.schema)


BATCHES = {"mixed": new_rows(), "levels": plant(40, 3), "full": plant(20, 4, holes=0), "empty": plant(20, 5, holes=1)}


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """Return a store with the model of ``plant`` as ``MODEL``."""
    folder = tmp_path_factory.mktemp("plant")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    # MLflow's programs start others, by their names: uvicorn and python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mine = {"PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    made = System(folder=folder, environment=kept | mine | store)
    made.write(plant(600, 1), "normal.parquet")
    made.run("vae_anomaly", "fit", "normal.parquet", "--model-name", "plant", "--steps", "20", "--alpha", "0.05", "--quiet")
    return made
