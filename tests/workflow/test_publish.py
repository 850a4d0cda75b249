"""A model folder into the registry: by its fit, by another name, and after a server was lost in the middle of logging."""

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from tests.cli.test_app import TINY
from tests.server import free_port, server
from tests.tiny import normal_rows
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import OutputError
from vae_anomaly.tables.source import open_source
from vae_anomaly.tracking import registry
from vae_anomaly.tracking.registry import ModelVersion
from vae_anomaly.tracking.runs import Run
from vae_anomaly.workflow.publish import alias_or_uri, check_model_folder, model_name, upload_folder, with_provenance
from vae_anomaly.workflow.requests import UploadRequest


@pytest.fixture
def folder(own_folder: Path, tiny_detector: Detector) -> Path:
    artifact.save(tiny_detector, own_folder / "model")
    return own_folder / "model"


def run(*words: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, [*map(str, words), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


def test_a_folder_is_logged_as_its_fit_says(folder: Path, tiny_detector: Detector) -> None:  # into a store that it makes
    code, said = run("upload", folder)
    assert (code, said["model"]["uri"], said["model"]["alias"]) == (0, "models:/vae-anomaly/1", "champion")
    assert said["next_steps"][0] == "vae-anomaly score NEW.csv"
    found = artifact.load(registry.resolve_model("models:/vae-anomaly@champion").folder)
    assert found.threshold.value == tiny_detector.threshold.value
    logged = MlflowClient().get_run(said["model"]["run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["seed"] == "0"
    assert "train/loss" in logged.data.metrics


def test_a_folder_is_logged_under_another_name_or_without_a_version(folder: Path, empty_store: Path) -> None:
    shutil.copy2(empty_store, folder.with_name("mlflow.db"))
    code, said = run("upload", folder, "--model-name", "pump", "--alias", "live", "--experiment", "night")
    assert (code, said["model"]["uri"], said["model"]["alias"]) == (0, "models:/pump/1", "live")
    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "night"]
    assert client.get_run(said["model"]["run_id"]).info.experiment_id == experiment.experiment_id
    again = upload_folder(UploadRequest(folder=folder, register=False)).model
    assert (again.version, again.uri) == ("", f"runs:/{again.run_id}/model")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("upload", "nowhere"), 5, "no model at nowhere: folder not found; expected a folder with manifest.json and weights.safetensors."),
        (("upload", "model", "--model-name", "a/b"), 2, "tracking.model_name must be a name without '/', ':' and '@'; got 'a/b'."),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_uploaded(words: tuple[str, ...], code: int, text: str, own_folder: Path) -> None:
    assert run(*words) == (code, {"error": text, "exit_code": code})
    assert [path.name for path in own_folder.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_server_that_is_lost_while_a_fit_is_logged(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped before the model is logged and started again: the folder is uploaded, and the same fit again goes on."""
    import pyarrow.parquet as pq

    (own_folder / "server").mkdir()
    (own_folder / "here").mkdir()
    monkeypatch.chdir(own_folder / "here")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    pq.write_table(normal_rows("mixed"), "normal.parquet")
    Path("tiny.toml").write_text(TINY, encoding="utf-8")
    port, words = free_port(), ("fit", "normal.parquet", "--config", "tiny.toml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with ExitStack() as running:
        running.enter_context(server(own_folder / "server", port))
        real = Run.log_model

        def lost(self: Run, folder: Path, detector: Detector) -> registry.ModelVersion:
            running.close()
            return real(self, folder, detector)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "log_model", lost)
            code, said = run(*words)
    assert code == 8
    command = str(said["error"]).rpartition("log it later with: vae-anomaly ")[2].split()
    assert command[0] == "upload"
    assert sorted(path.name for path in Path().iterdir()) == [".vae-anomaly.fit.resume", "normal.parquet", "tiny.toml", command[1]]
    with server(own_folder / "server", port) as uri:
        assert run(*command)[1]["model"]["version"] == "1"
        assert run(*words, "--resume")[1]["model"]["version"] == "2"
        client = MlflowClient(uri)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert sorted(r.info.status for r in runs) == ["FINISHED", "FINISHED", "KILLED"]
        assert str(client.get_model_version_by_alias("vae-anomaly", "champion").version) == "2"
    assert sorted(path.name for path in Path().iterdir()) == ["normal.parquet", "tiny.toml", command[1]]


class Interrupted:
    """The work folder of an interrupted fit that had saved a model to ``saved``."""

    def __init__(self, saved: Path | None) -> None:
        self.saved = saved

    def state(self) -> str:
        return "fresh" if self.saved is None else "done"

    def is_finished_model(self, folder: Path) -> bool:
        return folder == self.saved


def check(output: Path | None, *, saved: Path | None = None, overwrite: bool = False) -> None:
    check_model_folder(output, Interrupted(saved), overwrite=overwrite)  # type: ignore[arg-type]  # of which this is what it asks


def test_a_new_or_empty_folder_is_written_to(own_folder: Path) -> None:
    (own_folder / "empty").mkdir()
    for output in (None, own_folder / "new", own_folder / "empty"):
        check(output)


def test_a_model_is_replaced_only_on_request(folder: Path) -> None:
    with pytest.raises(OutputError) as error:
        check(folder)
    assert str(error.value) == f"{folder} exists. Name another folder with --output, or give --overwrite to replace the model in it."
    check(folder, overwrite=True)
    check(folder, saved=folder)  # of the same fit, which continues


def test_what_is_no_model_is_never_replaced(own_folder: Path) -> None:
    (own_folder / "photos").mkdir()
    (own_folder / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(OutputError) as error:
        check(own_folder / "photos", overwrite=True)
    text = f"{own_folder / 'photos'} exists and holds no model, so it is not replaced. Name another folder with --output."
    assert str(error.value) == text


def test_the_model_card_says_where_a_model_is_from(own_folder: Path, tiny_detector: Detector) -> None:
    (own_folder / "x.csv").write_text("a\n1\n", encoding="utf-8")
    source = open_source([str(own_folder / "x.csv")])
    card = with_provenance(tiny_detector, source, "abc", seconds=2.5, notes=("a sample",)).card
    assert (card.source, card.data_digest, card.contents_digest) == ((str(own_folder / "x.csv"),), source.digest(), "abc")
    assert (card.data_bytes, card.file_digests) == (4, (source.files[0].digest,))
    assert (card.seconds, card.notes[-1], card.rows) == (2.5, "a sample", tiny_detector.card.rows)
    assert datetime.now(UTC) - datetime.fromisoformat(card.created) < timedelta(minutes=5)
    assert {"vae-anomaly", "python", "torch", "numpy", "pyarrow"} == set(dict(card.versions))


def test_an_alias_is_preferred_to_a_version() -> None:
    version = ModelVersion(name="pump", version="3", uri="models:/pump/3", run_id="r", alias="live")
    assert alias_or_uri(model_name(version, None)) == "models:/pump@live"
    assert alias_or_uri(model_name(replace(version, alias=""), None)) == "models:/pump/3"
    assert alias_or_uri(model_name(None, Path("m"))) == "m"
    assert model_name(version, Path("m")).folder == "m"
