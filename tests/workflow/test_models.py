"""Models by name: loading and describing one, listing versions, the command of the UI, and whether data are those of the fit."""

import os
import re
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from vae_anomaly import artifact
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError
from vae_anomaly.tables.source import open_source
from vae_anomaly.tracking import store
from vae_anomaly.workflow.models import cores, is_training_data, list_models, model_info, open_model, tracking_ui


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_detector: Detector) -> Path:
    artifact.save(tiny_detector, tmp_path_factory.mktemp("models") / "pump")
    return tmp_path_factory.getbasetemp() / "models0" / "pump"


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    """A SQLite store without models."""
    shutil.copy2(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_folder_is_a_model(folder: Path, tiny_detector: Detector) -> None:
    loaded = open_model(str(folder))
    assert loaded.detector.threshold.value == tiny_detector.threshold.value
    assert (loaded.name.name, loaded.name.folder, loaded.name.uri) == ("pump", str(folder), str(folder))
    assert loaded.digest == loaded.name.version == artifact.fingerprint(folder)


def test_another_threshold_has_another_digest(folder: Path, tiny_detector: Detector, tmp_path: Path) -> None:
    artifact.save(tiny_detector.recalibrated(tiny_detector.threshold.at(0.2)), tmp_path / "pump")
    assert open_model(str(tmp_path / "pump")).digest != open_model(str(folder)).digest


def test_info_describes_the_model(folder: Path, tiny_detector: Detector) -> None:
    info = model_info(str(folder))
    assert (info.model.name, info.rows, info.seed) == ("pump", tiny_detector.card.rows, tiny_detector.config.seed)
    assert info.promise.threshold == tiny_detector.threshold.value
    assert [column.name for column in info.columns] == [column.name for column in tiny_detector.quality]
    assert (info.networks, info.views) == (1, ("standard",))


def test_versions_are_listed_newest_first(uri: str) -> None:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name, tags in (("pump", {"rows": "1"}), ("pump", {"rows": "2"}), ("valve", {})):
        if not [m for m in client.search_registered_models() if m.name == name]:
            client.create_registered_model(name)
        client.create_model_version(name, "file:///nowhere", tags=tags)
    client.set_registered_model_alias("pump", "live", "1")
    listed = list_models("pump", tracking_uri=uri)
    assert [(v.version, v.tags["rows"], v.aliases) for v in listed.versions] == [("2", "2", ()), ("1", "1", ("live",))]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", v.created) for v in listed.versions)
    assert (listed.store, len(list_models(tracking_uri=uri).versions)) == (uri, 3)


@pytest.mark.parametrize(("name", "what"), [(None, "no model"), ("pump", "no version of 'pump'")])
def test_a_registry_without_versions_is_an_error(uri: str, name: str | None, what: str) -> None:
    with pytest.raises(ArtifactError) as error:
        list_models(name, tracking_uri=uri)
    assert str(error.value) == f"{what} is registered in {uri}. Fit one here, or give --tracking-uri."


def test_the_ui_serves_the_store(uri: str) -> None:
    ui = tracking_ui(host="127.0.0.1", port=5001, tracking_uri=uri)
    assert (ui.url, ui.store) == ("http://127.0.0.1:5001", uri)
    assert ui.command == (
        *(sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri),
        *("--host", "127.0.0.1", "--port", "5001", "--workers", "1"),
    )


def test_a_password_of_the_store_is_not_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    location = "postgresql://user:hunter22@db/mlflow"
    monkeypatch.setattr(store, "open_store", lambda uri, **_: nullcontext(uri))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    ui = tracking_ui(host="127.0.0.1", port=5001, tracking_uri=location)
    assert "hunter22" not in " ".join([*ui.command, ui.store])
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == location


def test_no_store_is_made_for_the_ui(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        tracking_ui(host="127.0.0.1", port=5001, tracking_uri=f"sqlite:///{tmp_path / 'nowhere.db'}")
    assert list(tmp_path.iterdir()) == []


def test_training_data_are_recognised_under_another_name_too(tmp_path: Path, tiny_detector: Detector) -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "fit.parquet")
    source = open_source([str(tmp_path / "fit.parquet")])
    fitted = replace(tiny_detector, card=replace(tiny_detector.card, data_digest=source.digest(), contents_digest=source.contents()))
    assert is_training_data(fitted, source)
    shutil.copy(tmp_path / "fit.parquet", tmp_path / "copy.parquet")
    copy = open_source([str(tmp_path / "copy.parquet")])
    assert copy.digest() != source.digest()
    assert is_training_data(fitted, copy)
    pq.write_table(pa.table({"a": [1.0, 3.0]}), tmp_path / "other.parquet")
    assert not is_training_data(fitted, open_source([str(tmp_path / "other.parquet")]))
    # Models of versions that stored no contents digest have an empty one, which equals nothing.
    old = replace(fitted, card=replace(fitted.card, data_digest="", contents_digest=""))
    assert not is_training_data(old, source)


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
