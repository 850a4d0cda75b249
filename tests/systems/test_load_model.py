"""``mlflow.pyfunc.load_model`` in this process: the types of pandas and Arrow."""

from collections.abc import Callable
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.systems.conftest import BATCHES, MODEL, System, plant, results

pytestmark = [pytest.mark.systems, pytest.mark.filterwarnings("ignore")]
TYPES: dict[str, Callable[[pa.Table], Any]] = {
    "numpy": lambda rows: rows.to_pandas(),
    "nullable": lambda rows: rows.to_pandas().convert_dtypes(),
    "arrow types": lambda rows: rows.to_pandas(types_mapper=pd.ArrowDtype),
    "objects": lambda rows: pd.DataFrame(rows.to_pylist(), dtype=object),
    "categories": lambda rows: rows.to_pandas().astype({"mode": "category", "site": "category", "fuel": "category"}),
    "arrow table": lambda rows: rows,
    "records": lambda rows: rows.to_pylist(),
}


@pytest.fixture(scope="module")
def model(system: System) -> Any:
    mlflow.set_tracking_uri(system.environment["MLFLOW_TRACKING_URI"])
    return mlflow.pyfunc.load_model(MODEL)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("types", TYPES)
def test_every_type_gets_the_scores_of_the_command_line(system: System, model: Any, types: str, batch: str) -> None:
    rows = BATCHES[batch]
    assert results(model.predict(TYPES[types](rows)).to_dict("records")) == system.scores(rows)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("quality", ["--quality-column", "quality"]),
        ("marked", ["--missing-values", "low", "--no-default-missing"]),
        ("grouped", ["--group-by", "site"]),
    ],
)
def test_what_the_fit_was_told_of_its_tables_holds_here_too(system: System, name: str, options: list[str]) -> None:
    def with_quality(rows: pa.Table) -> pa.Table:
        return rows.append_column("quality", pa.array([0 if i % 7 == 3 else 192 for i in range(len(rows))]))

    system.write(with_quality(plant(600, 1)), "told.parquet")
    system.write(with_quality(plant(40, 3)), "told-new.parquet")
    system.run("vae_anomaly", "fit", "told.parquet", "--model-name", name, "--steps", "20", "--alpha", "0.05", "--quiet", *options)
    system.run("vae_anomaly", "score", "told-new.parquet", "-m", f"models:/{name}@champion", "-o", "told.scores.parquet", "--overwrite")
    mlflow.set_tracking_uri(system.environment["MLFLOW_TRACKING_URI"])
    given = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(with_quality(plant(40, 3)).to_pandas())
    assert results(given.to_dict("records")) == results(pq.read_table(system.folder / "told.scores.parquet").to_pylist())
