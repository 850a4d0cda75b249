"""``mlflow.pyfunc.spark_udf`` in a local session of Spark: its types arrive, and its rows get the scores of the command line."""

import os
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import mlflow
import pyarrow as pa
import pytest

from tests.systems.conftest import BATCHES, MODEL, Rows, System, new_rows, results

pytestmark = [pytest.mark.systems, pytest.mark.filterwarnings("ignore")]
RESULT = (
    "anomaly_score double, p_value double, is_anomaly boolean, "
    "top_features array<struct<column:string,value:string,expected:string,contribution:double>>"
)
# The types that a lakehouse has for these columns.
TYPES = {
    "rpm": "bigint", "flow": "double", "pressure": "decimal(10,3)", "cycles": "int", "running": "boolean", "valve": "smallint",
    "mode": "string", "site": "string", "fuel": "string",
}  # fmt: skip


@pytest.fixture(scope="module")
def spark(system: System) -> Iterator[Any]:
    """Return a session with two workers, which find this package as the tests do."""
    from pyspark.sql import SparkSession

    given = dict(os.environ)
    os.environ.update(system.environment)
    os.environ["PYSPARK_PYTHON"] = sys.executable  # workers take python3 of PATH otherwise
    mlflow.set_tracking_uri(system.environment["MLFLOW_TRACKING_URI"])
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    try:
        yield session
    finally:
        session.stop()
        os.environ.clear()
        os.environ.update(given)


def scored(spark: Any, rows: pa.Table, types: dict[str, str], names: list[str] | None = None) -> Rows:
    """Return what the UDF gives for rows of these types, in their order."""
    from pyspark.sql import functions as F  # noqa: N812  # as its documentation writes it

    cells = [(i, *(_cell(row[name], kind) for name, kind in types.items())) for i, row in enumerate(rows.to_pylist())]
    frame = spark.createDataFrame(cells, "place int, " + ", ".join(f"{name} {kind}" for name, kind in types.items())).repartition(3)
    udf = mlflow.pyfunc.spark_udf(spark, MODEL, result_type=RESULT, env_manager="local")
    named = frame.toDF("place", *(names or types))
    out = named.select("place", udf(F.struct(*named.columns[1:])).alias("score")).orderBy("place").collect()
    return results([row.score.asDict(recursive=True) for row in out])


def _cell(value: Any, kind: str) -> Any:
    if value is None:
        return None
    return Decimal(str(value)) if kind.startswith("decimal") else str(value) if kind == "string" else value


@pytest.mark.parametrize("batch", BATCHES)
def test_the_types_of_a_lakehouse_get_the_scores_of_the_command_line(system: System, spark: Any, batch: str) -> None:
    rows = BATCHES[batch]
    assert scored(spark, rows, TYPES) == system.scores(rows)


@pytest.mark.parametrize(
    "types",
    [
        dict.fromkeys(TYPES, "string"),
        TYPES | {"rpm": "double", "valve": "boolean", "cycles": "decimal(38,0)", "running": "int"},
        TYPES | {"rpm": "decimal(20,6)", "valve": "double", "cycles": "bigint", "running": "string"},
    ],
    ids=["strings", "other numbers", "decimals"],
)
def test_other_types_of_the_same_values_do_too(system: System, spark: Any, types: dict[str, str]) -> None:
    rows = new_rows().to_pylist()
    rows[9]["valve"] = 1  # a boolean has no 3
    kept = pa.Table.from_pylist(rows, schema=new_rows().schema)
    cast = {"boolean": bool, "int": int, "double": float}
    given = [{n: cast.get(types[n], lambda v: v)(v) if v is not None else None for n, v in row.items()} for row in rows]
    assert scored(spark, pa.Table.from_pylist(given), types) == system.scores(kept)


def test_a_refusal_is_an_error_of_the_job_with_the_line_of_the_command_line(system: System, spark: Any) -> None:
    names = ["Flow" if name == "flow" else name for name in TYPES]
    with pytest.raises(Exception, match="lacks 1 of the model's 9 columns") as caught:
        scored(spark, new_rows(), TYPES, names)
    assert system.refusal(new_rows().rename_columns({"flow": "Flow"})) in str(caught.value)
