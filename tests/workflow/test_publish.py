"""A model folder into the registry: by its fit, by another name, and after a server was lost in the middle of logging."""

import json
import shutil
from contextlib import ExitStack
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
from vae_anomaly.tracking import registry
from vae_anomaly.tracking.runs import Run
from vae_anomaly.workflow.publish import UploadRequest, upload_folder


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
        (("upload", "nowhere"), 5, "no model at nowhere: there is no such folder with manifest.json and weights.safetensors."),
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
