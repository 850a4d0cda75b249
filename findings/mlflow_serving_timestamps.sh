#!/usr/bin/env bash
# MLflow serving: a batch of ISO time stamps is refused when one falls on a whole second, or ends in Z; epoch numbers are 1970
#
# Versions: mlflow 3.17.2, pandas 3.1.1; CPython 3.11, Linux.
#
# Expected: a "datetime" column of the signature takes what isoformat() of Python and toISOString() of JavaScript write, in
#   JSON and in CSV. A number, whose unit nobody has said, is refused.
#
# Seen: the column goes through pandas' astype("datetime64[ns]"), which takes the form of the first value for all of them:
#   isoformat() leaves out a fraction of zero, so that one whole second among fractions (or the other way round) is 400 for
#   the whole batch; each of the rows alone is fine. A Z or an offset is 400. Milliseconds and seconds since 1970 are 200 and
#   taken as nanoseconds. A CSV that holds the column is 400 whatever is in it. Output:
#     JSON .500, .250                            200 [Timestamp('2025-01-01 00:00:00.500000'), Timestamp('2025-01-01 00:00:01.250000')]
#     JSON .500, whole second                    400
#     JSON whole second alone                    200 [Timestamp('2025-01-01 00:00:01')]
#     JSON .500Z                                 400
#     JSON milliseconds 1735689600000            200 [Timestamp('1970-01-01 00:28:55.689600')]
#     JSON seconds 1735689600                    200 [Timestamp('1970-01-01 00:00:01.735689600')]
#     CSV .500                                   400
#     CSV without the column                     200 []
#
# Why it matters: sensor rows at 4 Hz hit the whole second in one of four, rows of microseconds in one of a million, so the
#   client that worked in every test fails in production, once, for a whole batch. Epoch numbers are scored, with the hour of
#   day and the weekday of 1970.
#
# What to do: write all time stamps with the same number of digits and without offset, isoformat(timespec="microseconds"), or
#   declare the column as string and parse it in the model.
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
from datetime import datetime, timedelta
import mlflow
from fastapi.testclient import TestClient
from mlflow.models.signature import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, Schema

logging.disable(logging.CRITICAL)


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [repr(model_input["t"].tolist() if "t" in model_input else [])]


signature = ModelSignature(Schema([ColSpec("double", "x", required=False), ColSpec("datetime", "t", required=False)]))
mlflow.pyfunc.save_model("model", python_model=Echo(), signature=signature, pip_requirements=[])
client = TestClient(scoring_server.init(mlflow.pyfunc.load_model("model")))  # what `mlflow models serve` runs


def post(content, kind):
    answer = client.post("/invocations", content=content, headers={"content-type": kind})
    return f"{answer.status_code} {answer.json()['predictions'][0] if answer.status_code == 200 else ''}".strip()


def sent(*times):
    return post(json.dumps({"dataframe_split": {"columns": ["t"], "data": [[t] for t in times]}}), "application/json")


start = datetime(2025, 1, 1, 0, 0, 0, 500000)
half, whole, later = (start + timedelta(seconds=s) for s in (0, 0.5, 0.75))
seen = {
    "JSON .500, .250": sent(half.isoformat(), later.isoformat()),
    "JSON .500, whole second": sent(half.isoformat(), whole.isoformat()),
    "JSON whole second alone": sent(whole.isoformat()),
    "JSON .500Z": sent(half.isoformat() + "Z"),
    "JSON milliseconds 1735689600000": sent(1735689600000),
    "JSON seconds 1735689600": sent(1735689600),
    "CSV .500": post(f"x,t\n1.5,{half.isoformat()}\n", "text/csv"),
    "CSV without the column": post("x\n1.5\n", "text/csv"),
}
for name, answer in seen.items():
    print(f"{name:42} {answer}")
codes = [answer[:3] for answer in seen.values()]
epoch = all("1970-01-01" in seen[name] for name in seen if "seconds 17" in name)
sys.exit(codes != ["200", "400", "200", "400", "200", "200", "400", "200"] or not epoch)
PY
