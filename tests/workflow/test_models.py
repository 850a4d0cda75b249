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
from vae_anomaly.workflow.models import (
    cores,
    is_training_data,
    list_models,
    model_info,
    open_model,
    rows_of_fit,
    seen_at_fit,
    tracking_ui,
)
from vae_anomaly.workflow.publish import with_provenance


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
    assert (info.networks, info.views, info.rounds_alike) == (1, ("standard",), None)
    assert model_info(str(folder), verify=True).rounds_alike


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


def test_contents_are_read_only_where_the_size_is_that_of_the_fit(
    tmp_path: Path, tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fit.csv").write_text("a\n1\n", encoding="utf-8")
    source = open_source([str(tmp_path / "fit.csv")])
    card = replace(tiny_detector.card, data_digest="", contents_digest=source.contents(), data_bytes=source.bytes)
    assert is_training_data(replace(tiny_detector, card=card), source)
    monkeypatch.setattr(type(source), "contents", lambda _: pytest.fail("a download"))
    assert not is_training_data(replace(tiny_detector, card=replace(card, data_bytes=source.bytes + 1)), source)


def test_some_files_of_a_fit_are_known_again_in_another_folder(tmp_path: Path, tiny_detector: Detector) -> None:
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text(f"a\n{i}\n", encoding="utf-8")
    fit = open_source([str(tmp_path / "0.csv"), str(tmp_path / "1.csv")])
    fitted = with_provenance(tiny_detector, fit, fit.contents(), seconds=1.0, notes=())
    (tmp_path / "sub").mkdir()
    shutil.copy2(tmp_path / "1.csv", tmp_path / "sub")

    def seen(*names: str) -> tuple[str, ...]:
        return seen_at_fit(fitted, open_source([str(tmp_path / name) for name in names]))

    assert seen("0.csv", "1.csv") == (str(tmp_path / "0.csv"), str(tmp_path / "1.csv"))
    assert seen("sub") == (str(tmp_path / "sub" / "1.csv"),)
    assert seen("1.csv", "2.csv") == (str(tmp_path / "1.csv"),)
    assert seen("2.csv") == ()
    (tmp_path / "1.csv").write_text("a\n7\n", encoding="utf-8")
    os.utime(tmp_path / "1.csv", ns=(1, 1))
    assert seen("1.csv") == ()


def test_what_is_told_about_files_of_the_fit() -> None:
    end = "rows that the model was fitted on: they score lower than new ones, so that alarms and p-values say little"
    assert rows_of_fit((), 3) == ""
    assert rows_of_fit(("a", "b"), 2) == f"these are the {end}"
    assert rows_of_fit(("a",), 2) == f"a has {end}"
    assert rows_of_fit(("a", "b", "c", "d"), 5) == f"a, b, c and 1 more have {end}"


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
