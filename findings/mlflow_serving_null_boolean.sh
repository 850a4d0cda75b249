#!/usr/bin/env bash
# MLflow serving: a missing boolean is False where the JSON says null and True where the JSON leaves the key out
#
# Versions: mlflow 3.17.2, pandas 3.1.1; CPython 3.11, Linux.
#
# Expected: with a signature of an optional boolean (required=False) a null arrives at the model as missing, as it does for
#   double and string; or the request is refused, as it is for long. predict() of the loaded model hands on None.
#
# Seen: the server casts the column with astype(bool) before the schema is enforced. None is False, and NaN, which pandas puts
#   where one of several records has no such key, is True. The answer is 200 in every case. Output:
#     loaded model, [True, None]                      200 [True, None]
#     dataframe_split, [[true], [null]]               200 [True, False]
#     dataframe_records, {"b": true}, {"b": null}     200 [True, False]
#     dataframe_records, {"b": false}, {"x": 1}       200 [False, True]
#     inputs, {"b": [true, null]}                     200 [True, False]
#     long, [[1], [null]]                             400
#     double, [[1.5], [null]]                         200 [1.5, nan]
#
# Why it matters: "valve_open" of a plant is unknown while its controller is off. Unknown is closed for one client and open
#   for the next, and neither the model nor its log can tell: a model that was trained with missing cells never sees one, and
#   scores of the server differ from those of the same rows in a batch.
#
# What to do: declare such a column as double (1, 0, null) or as string in the signature: null then arrives as missing.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1 httpx==0.28.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import json
import logging
import sys
import mlflow
import pandas as pd
from fastapi.testclient import TestClient
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, Schema

logging.disable(logging.CRITICAL)


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [repr(model_input[c].tolist()) for c in model_input.columns if c == model_input.columns[-1]]


columns = [ColSpec("double", "x", required=False), ColSpec("long", "n", required=False), ColSpec("boolean", "b", required=False)]
mlflow.pyfunc.save_model("model", python_model=Echo(), signature=ModelSignature(Schema(columns)), pip_requirements=[])
model = mlflow.pyfunc.load_model("model")
client = TestClient(scoring_server.init(model))  # what `mlflow models serve` runs


def served(body):
    answer = client.post("/invocations", content=json.dumps(body), headers={"content-type": "application/json"})
    return f"{answer.status_code} {answer.json()['predictions'][0]}" if answer.status_code == 200 else str(answer.status_code)


def split(name, *values):
    return {"dataframe_split": {"columns": [name], "data": [[value] for value in values]}}


seen = {
    "loaded model, [True, None]": f"200 {model.predict(pd.DataFrame({'b': [True, None]}))[0]}",
    "dataframe_split, [[true], [null]]": served(split("b", True, None)),
    'dataframe_records, {"b": true}, {"b": null}': served({"dataframe_records": [{"b": True}, {"b": None}]}),
    'dataframe_records, {"b": false}, {"x": 1}': served({"dataframe_records": [{"b": False}, {"x": 1}]}),
    'inputs, {"b": [true, null]}': served({"inputs": {"b": [True, None]}}),
    "long, [[1], [null]]": served(split("n", 1, None)),
    "double, [[1.5], [null]]": served(split("x", 1.5, None)),
}
for name, answer in seen.items():
    print(f"{name:47} {answer}")
false, true = "200 [True, False]", "200 [False, True]"
sys.exit(list(seen.values()) != ["200 [True, None]", false, false, true, false, "400", "200 [1.5, nan]"])
PY
