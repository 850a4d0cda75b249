#!/usr/bin/env bash
# MLflow pyfunc: with a signature, a missing string of an Arrow-backed pandas column becomes the text "<NA>"
#
# Versions: mlflow 3.17.2, pandas 3.1.1, pyarrow 25.0.1; CPython 3.11, Linux.
#
# Expected: predict() of a model whose signature has an optional string column hands on a missing cell as missing, whichever
#   of pandas' ways of keeping strings the caller uses.
#
# Seen: columns of object, "str" and "string" are handed on as they are. One of ArrowDtype(string), which
#   to_pandas(types_mapper=pandas.ArrowDtype) and read_parquet(dtype_backend="pyarrow") make, is cast to numpy's text: the
#   missing cell is then the text "<NA>", isna() is False, and nothing is said. Nullable numbers are treated otherwise: an
#   Arrow-backed double has NaN, Arrow-backed long and boolean are refused. Output:
#     object           ['pump', None]     isna [False, True]
#     str              ['pump', nan]      isna [False, True]
#     string           ['pump', <NA>]     isna [False, True]
#     string[pyarrow]  ['pump', '<NA>']   isna [False, False]
#     double[pyarrow]  [1.5, nan]         isna [False, True]
#     int64[pyarrow]   MlflowException
#     bool[pyarrow]    MlflowException
#
# Why it matters: a detector that knows missing cells sees a category nobody has ever written instead, and flags the row for
#   it, or counts it as unseen; the same rows are normal when they are read with the default of pandas.
#
# What to do: cast before predict(), frame.astype({"unit": "str"}) (or convert with table.to_pandas() without types_mapper).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check mlflow==3.17.2 pandas==3.1.1 pyarrow==25.0.1
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
import logging
import sys
import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, Schema

logging.disable(logging.CRITICAL)


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [f"{column.tolist()!s:18} isna {column.isna().tolist()}" for _, column in model_input.items()]


types = {"s": "string", "x": "double", "n": "long", "b": "boolean"}
signature = ModelSignature(Schema([ColSpec(kind, name, required=False) for name, kind in types.items()]))
mlflow.pyfunc.save_model("model", python_model=Echo(), signature=signature, pip_requirements=[])
model = mlflow.pyfunc.load_model("model")
unit = ["pump", None]
asked = {
    "object": pd.DataFrame({"s": pd.Series(unit, dtype=object)}),
    "str": pd.DataFrame({"s": pd.Series(unit, dtype="str")}),
    "string": pd.DataFrame({"s": pd.Series(unit, dtype="string")}),
    "string[pyarrow]": pa.table({"s": unit}).to_pandas(types_mapper=pd.ArrowDtype),
    "double[pyarrow]": pa.table({"x": [1.5, None]}).to_pandas(types_mapper=pd.ArrowDtype),
    "int64[pyarrow]": pa.table({"n": [1, None]}).to_pandas(types_mapper=pd.ArrowDtype),
    "bool[pyarrow]": pa.table({"b": [True, None]}).to_pandas(types_mapper=pd.ArrowDtype),
}
seen = {}
for name, frame in asked.items():
    try:
        seen[name] = model.predict(frame)[0]
    except Exception as error:
        seen[name] = type(error).__name__
    print(f"{name:16} {seen[name]}")
kept = all("[False, True]" in seen[name] for name in ("object", "str", "string", "double[pyarrow]"))
refused = seen["int64[pyarrow]"] == seen["bool[pyarrow]"] == "MlflowException"
sys.exit("'<NA>'" not in seen["string[pyarrow]"] or not kept or not refused)
PY
