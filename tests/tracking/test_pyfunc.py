"""The detector as an MLflow model: what MLflow and Spark load gives what ``score_batches`` gives, and runs nothing on the way."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.pyfunc import PyFuncModel

from tests import tiny
from tests.tracking.conftest import Logged
from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.detector.stream import RESULT_FIELDS, ScoreOptions, score_batches
from vae_anomaly.tracking import pyfunc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(logged: Logged) -> PyFuncModel:
    """Return what MLflow loads of the model that was logged and not registered, by its path."""
    loaded: PyFuncModel = mlflow.pyfunc.load_model(str(_place(logged, logged.unregistered.run_id)))
    return loaded


def _place(logged: Logged, run_id: str) -> Path:
    return next(path.parent for path in sorted((logged.folder / "mlruns").rglob("MLmodel")) if run_id in path.read_text(encoding="utf-8"))


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
    return [row | {"top_features": row["top_features"] or []} for row in rows]


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
    assert (_place(logged, logged.version.run_id) / "vae_anomaly_model.py").read_text(encoding="utf-8") == pyfunc.MODEL_CODE


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
        "top_features": [],
        "model": "vae-anomaly",
        "model_version": "",
    }


@pytest.mark.parametrize("name", ["flow", "crew"])
def test_a_column_that_is_absent_or_renamed_is_refused_as_by_the_command_line(model: PyFuncModel, frame: pd.DataFrame, name: str) -> None:
    """Whether it had missing cells at fit, as flow, or not, as crew: scored as missing, a fault in it would be silent."""
    renamed = frame.rename(columns={name: name.title()})
    available = ", ".join(repr(column) for column in renamed.columns)
    text = f"the data frame lacks 1 of the model's 9 columns: {name!r} (did you mean {name.title()!r}?). Available columns: {available}."
    assert _refusal(model, renamed) == text
    assert _refusal(model, frame.drop(columns=[name])).startswith(f"the data frame lacks 1 of the model's 9 columns: {name!r}")


def _refusal(model: PyFuncModel, data: Any, params: dict[str, Any] | None = None) -> str:
    """Return the text of an error, which MLflow and its server have alike."""
    with pytest.raises(mlflow.MlflowException) as refused:
        model.predict(data, params=params)
    error: Any = refused.value  # MLflow's class has no annotations
    assert (error.error_code, error.get_http_status_code()) == ("INVALID_PARAMETER_VALUE", 400)
    error.message = f"Failed to predict data '{data}'. {error.message}"  # as the server does
    sent = json.loads(error.serialize_as_json())
    assert (sent["error_code"], sent["message"]) == ("INVALID_PARAMETER_VALUE", str(error))
    assert "stack_trace" not in sent
    assert "\n" not in str(error)
    return str(error)


TYPED: tuple[dict[str, Any], ...] = (
    {"flow": "float32"},
    {"flow": "Float64", "mode": "string", "open": "boolean"},
    {"open": object, "crew": "category", "site": "category"},
    {"rated": pd.ArrowDtype(pa.float64()), "mode": pd.ArrowDtype(pa.string()), "open": pd.ArrowDtype(pa.bool_())},
)


@pytest.mark.parametrize("types", TYPED, ids=str)
def test_the_types_of_a_frame_do_not_matter(model: PyFuncModel, frame: pd.DataFrame, types: dict[str, Any]) -> None:
    frame = frame.assign(flow=frame["flow"].astype("float32").astype("float64"))
    pd.testing.assert_frame_equal(_predicted(model, frame.astype(types)), _predicted(model, frame))


def test_whole_numbers_and_complete_booleans_are_read(model: PyFuncModel, frame: pd.DataFrame) -> None:
    """MLflow refuses both where a signature says double and string."""
    rows = frame[frame["open"].notna() & frame["pressure"].notna()]
    typed = rows.assign(pressure=rows["pressure"].round().astype("int64"), open=rows["open"].astype(bool))
    floats = typed.assign(pressure=typed["pressure"].astype("float64"), open=typed["open"].astype(object))
    pd.testing.assert_frame_equal(_predicted(model, typed), _predicted(model, floats))


def test_an_arrow_table_is_scored_too(model: PyFuncModel, frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(_predicted(model, tiny.odd_rows("mixed")), _predicted(model, frame))


def test_no_rows_are_no_rows(model: PyFuncModel, frame: pd.DataFrame) -> None:
    out = _predicted(model, frame.iloc[:0])
    assert (len(out), list(out.columns)) == (0, [field.name for field in RESULT_FIELDS])


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"explain": "some"}, "explain must be one of flagged, all, none; got 'some'."),
        ({"explain": None}, "explain must be one of flagged, all, none; got None."),
        ({"top": None}, "top must be a whole number from 1, or 0 for all columns; got None."),
        ({"top": -1}, "top must be a whole number from 1, or 0 for all columns; got -1."),
        ({"alpha": None}, "alpha must be in (0, 1); got None."),
        ({"alpha": 0.0}, "alpha must be in (0, 1); got 0."),
        ({"alpha": 1}, "alpha must be in (0, 1); got 1."),
        ({"alpha": float("nan")}, "alpha must be in (0, 1); got nan."),
        ({"alpha": 1e-6}, "alpha 1e-06 needs at least 999,999 calibration rows; this model has "),
    ],
)
def test_a_parameter_out_of_range_is_one_line(model: PyFuncModel, frame: pd.DataFrame, params: dict[str, Any], text: str) -> None:
    assert _refusal(model, frame, params).startswith(text)


def test_a_parameter_of_another_type_or_name_is_refused_without_mlflow_in_between(model: PyFuncModel, frame: pd.DataFrame) -> None:
    """MLflow ignores unknown parameters with a warning, and has its own words for types."""
    bare = model.unwrap_python_model()  # type: ignore[no-untyped-call]
    for params, text in (
        ({"top": True}, "top must be a whole number from 1, or 0 for all columns; got True."),
        ({"top": 2.5}, "top must be a whole number from 1, or 0 for all columns; got 2.5."),
        ({"alpha": "0.1"}, "alpha must be in (0, 1); got '0.1'."),
        ({"alhpa": 0.1}, "there is no parameter 'alhpa' (did you mean 'alpha'?); expected alpha, explain, top."),
    ):
        with pytest.raises(mlflow.MlflowException) as refused:
            bare.predict(None, frame, params=params)
        assert str(refused.value) == text


def _bare(detector: Detector) -> pyfunc.AnomalyModel:
    """Return a detector as the model that MLflow makes of it, without MLflow in between."""
    bare = pyfunc.AnomalyModel()
    bare.detector, bare.name, bare.version = detector, "pump", "1"
    return bare


def test_the_alpha_of_the_threshold_is_the_threshold_itself(tiny_detector: Detector, frame: pd.DataFrame) -> None:
    """MLflow fills in the default; a threshold chosen by cost or with a tail has another value than the quantile at its alpha."""
    threshold = replace(tiny_detector.threshold, value=float(tiny_detector.threshold.calibration[0]))
    bare = _bare(replace(tiny_detector, threshold=threshold))
    chosen = bare.predict(None, frame)["is_anomaly"].sum()
    assert bare.predict(None, frame, params={"alpha": tiny.ALPHA})["is_anomaly"].sum() == chosen
    assert bare.predict(None, frame, params={"alpha": 0.11})["is_anomaly"].sum() < chosen


def test_the_version_is_the_registrys_where_it_was_asked(logged: Logged, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.uri)
    monkeypatch.chdir(logged.folder)
    names = {
        "models:/pump/1": ("pump", "1"),
        "models:/pump@champion": ("pump", "1"),
        str(_place(logged, logged.version.run_id)): ("pump", "1"),
    }
    for uri, (name, version) in names.items():
        out = _predicted(mlflow.pyfunc.load_model(uri), frame)
        assert set(zip(out["model"], out["model_version"], strict=True)) == {(name, version)}, uri


def test_without_a_registry_the_version_is_the_digest_of_the_artifact(model: PyFuncModel, frame: pd.DataFrame, logged: Logged) -> None:
    out = _predicted(model, frame)
    assert set(zip(out["model"], out["model_version"], strict=True)) == {("vae-anomaly", artifact.fingerprint(logged.folder / "out"))}


def test_the_missing_values_of_the_fit_are_missing_here_too(tiny_detector: Detector, frame: pd.DataFrame) -> None:
    """A sensor's −999 scored as a number would be an alarm in every row that ``score`` finds normal."""
    data = replace(tiny_detector.config.data, missing_values=("-999", "?"))
    bare = _bare(replace(tiny_detector, config=replace(tiny_detector.config, data=data)))
    told = frame.assign(flow=frame["flow"].fillna(-999.0), mode=frame["mode"].fillna("?"))
    pd.testing.assert_frame_equal(bare.predict(None, told), bare.predict(None, frame))


def test_the_signature_names_every_column_and_parameter(tiny_detector: Detector) -> None:
    """The inputs are in the metadata: as a signature, MLflow's types would refuse what ``score`` reads."""
    signature = pyfunc.signature(tiny_detector)
    assert signature.inputs is None
    assert signature.outputs is not None
    assert signature.params is not None
    assert [c.name for c in signature.outputs.inputs] == [field.name for field in RESULT_FIELDS]
    assert {p.name: p.default for p in signature.params.params} == {"alpha": tiny.ALPHA, "explain": "flagged", "top": 5}
    columns = {c.name: c.kind for c in tiny_detector.schema.columns}
    assert pyfunc.metadata_of(tiny_detector) == {"columns": columns}
    for pattern, more in (("opc", {"opc": "quality"}), ("*_q", {})):
        data = replace(tiny_detector.config.data, quality_column=pattern)
        qualified = replace(tiny_detector, config=replace(tiny_detector.config, data=data))
        assert pyfunc.metadata_of(qualified) == {"columns": more | columns, "quality_column": pattern}


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
        [sys.executable, "-c", LISTENING, str(_place(logged, logged.unregistered.run_id))],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=logged.folder,
    )
    assert heard.stdout.split() == ["0", "0", "1", str(tiny.ODD_ROWS)], "the third number is the control: a pickle that must be heard"
