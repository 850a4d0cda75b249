"""The detector as an MLflow model: what MLflow and Spark load gives what ``score_batches`` gives, and runs nothing on the way."""

import importlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.pyfunc import PyFuncModel

from tests import tiny
from tests.tracking.conftest import Logged
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import RESULT_FIELDS, ScoreOptions, score_batches
from vae_anomaly.errors import ConfigError, DataError, SchemaMismatch
from vae_anomaly.tracking import pyfunc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(logged: Logged) -> PyFuncModel:
    """Return what MLflow loads of the logged model."""
    loaded: PyFuncModel = mlflow.pyfunc.load_model(str(_place(logged)))
    return loaded


def _place(logged: Logged) -> Path:
    return min((logged.folder / "mlruns").rglob("MLmodel")).parent


def _predicted(model: PyFuncModel, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
    out = model.predict(frame, params=params)
    assert isinstance(out, pd.DataFrame)
    return out


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Return rows of every sort as pandas reads them."""
    rows: pd.DataFrame = tiny.odd_rows("mixed").to_pandas()
    return rows


def _expected(detector: Detector, logged: Logged, options: dict[str, Any]) -> list[dict[str, Any]]:
    whole = ScoreOptions(**{"model": "vae-anomaly", "model_version": artifact.fingerprint(logged.folder / "out"), **options})
    table = pa.Table.from_batches(score_batches(detector, tiny.odd_rows("mixed").to_batches(), whole))
    rows: list[dict[str, Any]] = table.select([field.name for field in RESULT_FIELDS]).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, {}),
        ({"alpha": 0.3}, {"alpha": 0.3}),
        ({"explain": "all", "top": 2}, {"explain": "all", "top": 2}),
        ({"explain": "all", "top": 0}, {"explain": "all", "top": None}),
        ({"explain": "none"}, {"explain": "none"}),
    ],
)
def test_a_data_frame_gets_the_scores_of_the_stream(
    model: PyFuncModel, frame: pd.DataFrame, tiny_detector: Detector, logged: Logged, params: dict[str, Any], options: dict[str, Any]
) -> None:
    out = _predicted(model, frame, params)
    assert list(out.columns) == [field.name for field in RESULT_FIELDS]
    assert out.to_dict("records") == _expected(tiny_detector, logged, options)


def test_what_is_stored_imports_the_path_that_stays() -> None:
    """Models in registries have this text: it may not change, and what it imports may not go."""
    assert pyfunc.MODEL_CODE.splitlines() == [
        "from mlflow.models import set_model",
        "",
        "from vae_anomaly.pyfunc import AnomalyModel",
        "",
        "set_model(AnomalyModel())",
    ]
    assert importlib.import_module("vae_anomaly.pyfunc").AnomalyModel is pyfunc.AnomalyModel


def test_the_logged_folder_holds_that_text(logged: Logged) -> None:
    assert (_place(logged) / "vae_anomaly_model.py").read_text(encoding="utf-8") == pyfunc.MODEL_CODE


def test_the_index_is_kept_and_columns_may_come_in_any_order_beside_others(model: PyFuncModel, frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1.0, random_state=0)
    whole, out = _predicted(model, frame), _predicted(model, shuffled[frame.columns[::-1]].assign(another=1))
    assert out.index.tolist() == shuffled.index.tolist()
    pd.testing.assert_frame_equal(out.sort_index(), whole)


def test_what_there_is_not_is_null_in_json(model: PyFuncModel, frame: pd.DataFrame) -> None:
    out = _predicted(model, frame.iloc[tiny.EMPTY : tiny.EMPTY + 1])
    text = json.dumps(out.to_dict("records"), allow_nan=False)
    assert json.loads(text)[0] | {"model_version": ""} == {
        "anomaly_score": None,
        "reconstruction": None,
        "kl": None,
        "p_value": None,
        "is_anomaly": False,
        "top_features": None,
        "model": "vae-anomaly",
        "model_version": "",
    }


def test_a_column_that_had_missing_cells_may_be_left_out(model: PyFuncModel, frame: pd.DataFrame, tiny_detector: Detector) -> None:
    nullable = {column.name for column in tiny_detector.schema.columns if column.nullable}
    assert "flow" in nullable
    assert "crew" not in nullable
    absent, empty = _predicted(model, frame.drop(columns=["flow"])), _predicted(model, frame.assign(flow=np.nan))
    pd.testing.assert_frame_equal(absent, empty)
    with pytest.raises(mlflow.MlflowException, match="crew"):
        model.predict(frame.drop(columns=["crew"]))


def test_no_rows_are_no_rows(model: PyFuncModel, frame: pd.DataFrame) -> None:
    out = _predicted(model, frame.iloc[:0])
    assert (len(out), list(out.columns)) == (0, [field.name for field in RESULT_FIELDS])


def test_a_parameter_out_of_range_is_one_line(model: PyFuncModel, frame: pd.DataFrame) -> None:
    with pytest.raises(ConfigError) as refused:
        model.predict(frame, params={"explain": "some"})
    assert str(refused.value) == "explain must be one of flagged, all, none; got 'some'."


def test_a_column_of_mixed_types_is_one_line(tiny_detector: Detector, frame: pd.DataFrame, logged: Logged) -> None:
    """Without MLflow in between, which would have its own words: Spark and our own callers."""
    bare = pyfunc.AnomalyModel()
    bare.detector, bare.version = tiny_detector, artifact.fingerprint(logged.folder / "out")
    with pytest.raises(SchemaMismatch) as refused:
        bare.predict(None, frame.assign(crew=[1, *frame["crew"][1:]]))  # type: ignore[arg-type]
    text = str(refused.value)
    assert text.startswith("column 'crew' of the data frame mixes types: ")
    assert text.endswith(". Make it all numbers or all text.")
    twice = pd.concat([frame, frame[["flow"]]], axis=1)
    with pytest.raises(DataError, match=r"the data frame has columns of the same name: 'flow'\. Give every column its own name\."):
        bare.predict(None, twice)  # type: ignore[arg-type]


def test_the_signature_names_every_column_and_parameter(tiny_detector: Detector) -> None:
    signature = pyfunc.signature(tiny_detector)
    assert signature.inputs is not None
    assert signature.outputs is not None
    assert signature.params is not None
    inputs = {c.name: (str(c.type), c.required) for c in signature.inputs.inputs}
    assert inputs == {
        c.name: ("DataType.double" if c.kind == "numeric" else "DataType.string", not c.nullable) for c in tiny_detector.schema.columns
    }
    assert [c.name for c in signature.outputs.inputs] == [field.name for field in RESULT_FIELDS]
    assert {p.name: p.default for p in signature.params.params} == {"alpha": tiny.ALPHA, "explain": "flagged", "top": 5}


def test_requirements_are_pinned_to_what_is_installed_without_local_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.0+cpu" if name == "torch" else "1.0")
    pins = pyfunc.requirements()
    assert pins[0].startswith("vae-anomaly==")
    assert "torch==2.9.0" in pins
    assert set(pins[1:]) == {f"{name}=={'2.9.0' if name == 'torch' else '1.0'}" for name in pyfunc.REQUIREMENTS}


LISTENING = """
import pickle, sys
from collections import OrderedDict

heard = []
sys.addaudithook(lambda event, args: heard.append(args) if event == "pickle.find_class" else None)
import mlflow

from tests import tiny

model = mlflow.pyfunc.load_model(sys.argv[1])
loading = len(heard)
scored = len(model.predict(tiny.odd_rows("mixed").to_pandas(), params={"explain": "all"}))
quiet = len(heard)
pickle.loads(pickle.dumps(OrderedDict(a=1)))
print(loading, quiet, len(heard), scored)
"""


@pytest.mark.slow
def test_mlflow_loads_and_scores_without_unpickling_anything(logged: Logged) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    heard = subprocess.run(
        [sys.executable, "-c", LISTENING, str(_place(logged))],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=logged.folder,
    )
    assert heard.stdout.split() == ["0", "0", "1", str(tiny.ODD_ROWS)], "the third number is the control: a pickle that must be heard"
