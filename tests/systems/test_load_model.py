"""``mlflow.pyfunc.load_model`` in this process: the types of pandas and Arrow."""

from collections.abc import Callable
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pytest

from tests.systems.conftest import BATCHES, MODEL, System, results

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
