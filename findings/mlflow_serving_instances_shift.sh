#!/usr/bin/env bash
# MLflow serving: "instances" joins the cells of different records when each record leaves out another key
#
# Versions: mlflow 3.17.2, pandas 3.1.1; CPython 3.11, Linux.
#
# Expected: records that leave keys out are read as they are with "dataframe_records", a cell that is not there being missing;
#   or the request is refused, as it is when the columns come out at different lengths.
#
# Seen: the cells of each key are gathered in the order of the records, without a gap where a record has no such key. If all
#   keys are left out equally often, the columns have the same length and the check passes: rows are made of cells of
#   different records, and there are fewer rows than records. Output:
#     dataframe_records, a missing key each     200 [[1.0, nan], [nan, 20.0], [3.0, 30.0]]
#     instances, the same records               200 [[1, 20], [3, 30]]
#     instances, one key is missing once        400
#     instances, null instead of no key         200 [[1.0, nan], [nan, 20.0], [3.0, 30.0]]
#
# Why it matters: a client that leaves out what a sensor did not deliver gets 200, and scores of rows that have never been,
#   matched to the wrong machines from there on; only the number of answers gives it away. If by chance each request has
#   one gap in every column, no test of the client will see it before.
#
# What to do: use "dataframe_records" or "dataframe_split"; with "instances" write null for what is missing, and compare the
#   number of predictions with the number of records.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1 httpx==0.28.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>"$dir/log" <<'PY' || { cat "$dir/log"; exit 1; }
import json
import logging
import sys
import mlflow
import pandas as pd
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server

logging.disable(logging.CRITICAL)


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        frame = pd.DataFrame({name: [getattr(cell, "item", lambda: cell)() for cell in cells] for name, cells in dict(model_input).items()})
        return [str(frame.astype(object).values.tolist())]


mlflow.pyfunc.save_model("model", python_model=Echo(), pip_requirements=[])
client = TestClient(scoring_server.init(mlflow.pyfunc.load_model("model")))  # what `mlflow models serve` runs


def served(form, records):
    answer = client.post("/invocations", content=json.dumps({form: records}), headers={"content-type": "application/json"})
    return f"{answer.status_code} {answer.json()['predictions'][0]}" if answer.status_code == 200 else str(answer.status_code)


sparse = [{"a": 1}, {"b": 20}, {"a": 3, "b": 30}]
seen = {
    "dataframe_records, a missing key each": served("dataframe_records", sparse),
    "instances, the same records": served("instances", sparse),
    "instances, one key is missing once": served("instances", [{"a": 1, "b": 10}, {"b": 20}]),
    "instances, null instead of no key": served("instances", [{"a": 1, "b": None}, {"a": None, "b": 20}, {"a": 3, "b": 30}]),
}
for name, answer in seen.items():
    print(f"{name:41} {answer}")
expected = [
    "200 [[1.0, nan], [nan, 20.0], [3.0, 30.0]]",
    "200 [[1, 20], [3, 30]]",
    "400",
    "200 [[1.0, nan], [nan, 20.0], [3.0, 30.0]]",
]
sys.exit(list(seen.values()) != expected)
PY
