"""Artifacts and MLflow models of every format ever released still load, and give the scores that they gave."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc import PyFuncModel
from mlflow.types import DataType
from pyarrow import parquet
from typer.testing import CliRunner

import vae_anomaly
from tests.golden.make import ARTIFACT, EXPECTED, GOLDEN, KEPT, NOWHERE, ROWS, make, make_registered, scores
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.tracking import pyfunc, registry

# What is promised to other machines and later versions: relative to max(1, |score|).
TOLERANCE = 1e-5
FOLDERS = {number: GOLDEN / f"format-{number}" for number in artifact.READERS}
MODEL = "models:/golden@champion"
MODEL_FILES = ["MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "vae_anomaly_model.py"]
STORED = sorted([*MODEL_FILES, *(f"artifacts/detector/{name}" for name in (artifact.MANIFEST, artifact.WEIGHTS))])


def expected(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    return rows


def close(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= TOLERANCE * max(1.0, abs(wanted))


def check_scores(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted) == 10
    for i, (new, old) in enumerate(zip(found, wanted, strict=True)):
        assert new["is_anomaly"] is old["is_anomaly"], f"row {i}"
        for name in KEPT[:-1]:
            assert close(new[name], old[name]), f"row {i}: {name} is {new[name]}, and was {old[name]}"


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda folder: str(folder.name))
def test_a_frozen_artifact_gives_the_scores_that_it_gave(folder: Path) -> None:
    check_scores(scores(artifact.load(folder / ARTIFACT), folder / ROWS), expected(folder))


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda folder: str(folder.name))
def test_the_frozen_rows_hold_what_can_be_odd(folder: Path) -> None:
    detector = artifact.load(folder / ARTIFACT)
    wanted = expected(folder)
    assert {row["is_anomaly"] for row in wanted} == {True, False}
    assert any(row["anomaly_score"] is None for row in wanted)
    text = (folder / ROWS).read_text(encoding="utf-8")
    assert {"numeric", "boolean", "category"} == {column.kind for column in detector.schema.columns}
    assert "reverse" in text, "a level never seen"
    assert ",," in text, "a missing cell"


def test_there_is_one_folder_for_each_format() -> None:
    assert sorted(path.name for path in GOLDEN.glob("format-*")) == sorted(folder.name for folder in FOLDERS.values())
    assert max(FOLDERS) == artifact.FORMAT
    for number, folder in FOLDERS.items():
        manifest = json.loads((folder / ARTIFACT / artifact.MANIFEST).read_text(encoding="utf-8"))
        assert manifest["format"] == number


def test_a_golden_folder_is_made_once(tmp_path: Path) -> None:
    make(tmp_path / "format-7")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sorted(str(path.relative_to(tmp_path / "format-7")) for path in before) == [
        f"{ARTIFACT}/{artifact.MANIFEST}",
        f"{ARTIFACT}/{artifact.WEIGHTS}",
        EXPECTED,
        ROWS,
    ]
    with pytest.raises(FileExistsError):
        make(tmp_path / "format-7")
    assert {path: path.read_bytes() for path in before} == before


# The same detectors as MLflow models in a registry


def frozen_model(number: int) -> Path:
    return GOLDEN / f"registered-{number}"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@pytest.fixture(params=FOLDERS, ids=lambda number: f"registered-{number}")
def number(request: pytest.FixtureRequest) -> int:
    """Return the format of a frozen model."""
    return int(request.param)


@pytest.fixture
def store(number: int, own_folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a copy of a frozen model, to which MLflow may add files, in an empty store; return the URI of the store."""
    source = shutil.copytree(frozen_model(number), own_folder / "stored")
    shutil.copy2(empty_store, own_folder / "mlflow.db")
    uri = f"sqlite:///{own_folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    client.create_registered_model("golden")
    version = client.create_model_version("golden", str(source))
    client.set_registered_model_alias("golden", "champion", version.version)
    return uri


def read(rows: Path, model: PyFuncModel) -> pd.DataFrame:
    """Read a CSV file into the types that the model asks for; a later one takes every type, the texts of the file too."""
    signature = model.metadata.signature
    assert signature is not None
    if signature.inputs is None:
        return pd.read_csv(rows, dtype=str, keep_default_na=False)
    return pd.read_csv(rows, dtype={c.name: "float64" if c.type == DataType.double else "str" for c in signature.inputs.inputs})


@pytest.mark.usefixtures("store")
def test_a_frozen_model_in_a_registry_gives_the_scores_that_it_gave(number: int) -> None:
    folder = FOLDERS[number]
    model = mlflow.pyfunc.load_model(MODEL)
    rows = read(folder / ROWS, model)
    out = model.predict(rows)
    assert isinstance(out, pd.DataFrame)
    found: list[dict[str, Any]] = pa.Table.from_pandas(out[list(KEPT)]).to_pylist()
    check_scores(found, expected(folder))
    scored = vae_anomaly.score_batches(vae_anomaly.load(folder / ARTIFACT), [pa.RecordBatch.from_pandas(rows)])
    assert found == pa.Table.from_batches(scored).select(list(KEPT)).to_pylist(), "to the bit, on one install"


def test_a_frozen_model_in_a_registry_is_found_by_its_name(number: int, store: str, own_folder: Path) -> None:
    rows = FOLDERS[number] / ROWS
    for found in (registry.resolve_model(MODEL), registry.resolve_model(MODEL, uri=store)):
        assert (found.name, found.version, found.folder) == ("golden", "1", own_folder / "stored" / "artifacts" / "detector")
    done = CliRunner().invoke(app, ["score", str(rows), "-m", MODEL, "-o", "out.parquet", "--quiet"])
    assert done.exit_code == 0, done.output
    table = parquet.read_table("out.parquet")
    assert set(zip(table["model"].to_pylist(), table["model_version"].to_pylist(), strict=True)) == {("golden", "1")}
    assert table.select(list(KEPT)).to_pylist() == scores(vae_anomaly.load(FOLDERS[number] / ARTIFACT), rows)


def test_a_frozen_model_is_what_mlflow_stored_of_the_frozen_artifact(number: int) -> None:
    folder = frozen_model(number)
    assert files(folder) == STORED
    for name in (artifact.MANIFEST, artifact.WEIGHTS):
        assert (folder / "artifacts" / "detector" / name).read_bytes() == (FOLDERS[number] / ARTIFACT / name).read_bytes()
    lines = (folder / "MLmodel").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if ": /" in line] == [f"{NOWHERE}/{name}" for name in ("model", "detector", MODEL_FILES[-1])]


def test_what_is_logged_runs_the_code_of_the_frozen_models(number: int) -> None:
    """Later versions have to load what this code imports, so that it may not change."""
    assert (frozen_model(number) / MODEL_FILES[-1]).read_text(encoding="utf-8") == pyfunc.MODEL_CODE


def test_there_is_one_model_for_each_format() -> None:
    assert sorted(path.name for path in GOLDEN.glob("registered-*")) == sorted(frozen_model(number).name for number in FOLDERS)


def test_a_golden_model_is_made_once(tmp_path: Path) -> None:
    made = tmp_path / "registered-7"
    make_registered(made, FOLDERS[artifact.FORMAT])
    assert files(made) == STORED
    texts = {path.name: path.read_text(encoding="utf-8") for path in made.iterdir() if path.is_file()}
    assert [name for name, text in texts.items() for place in (tempfile.gettempdir(), str(GOLDEN)) if place in text] == []
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError):
        make_registered(made, FOLDERS[artifact.FORMAT])
    assert {path: path.read_bytes() for path in before} == before
