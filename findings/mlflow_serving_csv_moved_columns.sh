#!/usr/bin/env bash
# MLflow serving: a CSV whose rows end with a comma is scored with each value under the name of the column before it
#
# Versions: mlflow 3.17.2, pandas 3.1.1; CPython 3.11, Linux.
#
# Expected: a row with one field more than the header is refused, as it is where only some rows have it; or the empty last
#   field is ignored, as spreadsheets and most readers of CSV do.
#
# Seen: the server calls pandas.read_csv(text), which takes the first column for an index when every row has a field more
#   than the header. The values move one name to the left, the last column is empty, the answer is 200. With the columns
#   of a signature as dtype it is the same: an optional column may be empty, and a double takes any number. Output:
#     a,b,c / 1,2,3                      200 {'a': [1], 'b': [2], 'c': [3]}
#     a,b,c / 1,2,3,                     200 {'a': [2], 'b': [3], 'c': [nan]}
#     a,b,c / 1,2,3, with a signature    200 {'a': [2.0], 'b': [3.0], 'c': [nan]}
#     a,b,c / 1,2,3 / 4,5,6,             400
#     a,b,b / 1,2,3                      200 {'a': [1], 'b': [2], 'b.1': [3]}
#
# Why it matters: loggers and exports of PLCs end every row with a delimiter. The temperature is scored as the pressure, and a
#   model that knows missing cells accepts the empty column. The same file is right in a spreadsheet.
#
# What to do: send dataframe_split or Parquet. Or let the model refuse a frame whose index has no name and is not a range
#   while its last column is empty: that is all that is left to see.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1 httpx==0.28.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - 2>"$dir/log" <<'PY' || { cat "$dir/log"; exit 1; }
import logging
import sys
import mlflow
from fastapi.testclient import TestClient
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, Schema

logging.disable(logging.CRITICAL)


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [str(model_input.to_dict("list"))]


def client(name, signature):
    mlflow.pyfunc.save_model(name, python_model=Echo(), signature=signature, pip_requirements=[])
    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(name)))  # what `mlflow models serve` runs


def served(server, text):
    answer = server.post("/invocations", content=text, headers={"content-type": "text/csv"})
    return f"{answer.status_code} {answer.json()['predictions'][0]}" if answer.status_code == 200 else str(answer.status_code)


plain = client("plain", None)
typed = client("typed", ModelSignature(Schema([ColSpec("double", name, required=False) for name in "abc"])))
seen = {
    "a,b,c / 1,2,3": served(plain, "a,b,c\n1,2,3\n"),
    "a,b,c / 1,2,3,": served(plain, "a,b,c\n1,2,3,\n"),
    "a,b,c / 1,2,3, with a signature": served(typed, "a,b,c\n1,2,3,\n"),
    "a,b,c / 1,2,3 / 4,5,6,": served(plain, "a,b,c\n1,2,3\n4,5,6,\n"),
    "a,b,b / 1,2,3": served(plain, "a,b,b\n1,2,3\n"),
}
for name, answer in seen.items():
    print(f"{name:34} {answer}")
expected = [
    "200 {'a': [1], 'b': [2], 'c': [3]}",
    "200 {'a': [2], 'b': [3], 'c': [nan]}",
    "200 {'a': [2.0], 'b': [3.0], 'c': [nan]}",
    "400",
    "200 {'a': [1], 'b': [2], 'b.1': [3]}",
]
sys.exit(list(seen.values()) != expected)
PY
