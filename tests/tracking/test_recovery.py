"""Runs of an interrupted job: ended, their models marked, and the complete model found again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vae_anomaly.config import TrackingConfig
from vae_anomaly.errors import TrackingError
from vae_anomaly.tracking import recovery, runs, store
from vae_anomaly.tracking.registry import ModelVersion

JOB, OTHER = "job-1", "job-2"


@pytest.fixture
def tracking(empty_store: Path, own_folder: Path) -> TrackingConfig:
    shutil.copy2(empty_store, own_folder / "mlflow.db")
    return TrackingConfig(uri=f"sqlite:///{own_folder}/mlflow.db", model_name="pump", alias="live")


@pytest.fixture
def client(tracking: TrackingConfig) -> Iterator[MlflowClient]:
    with store.open_store(tracking.uri):
        yield MlflowClient()


def open_run(client: MlflowClient, job: str = JOB) -> str:
    """Create a run as ``start_run`` does, and leave it open as a killed process does."""
    return str(client.create_run("0", tags={recovery.TAG: job}).info.run_id)


def version(client: MlflowClient, run_id: str, name: str = "pump") -> str:
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    return str(client.create_model_version(name, f"runs:/{run_id}/model", run_id=run_id).version)


def status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


def aliases(client: MlflowClient) -> dict[str, str]:
    return {alias: str(number) for alias, number in client.get_registered_model("pump").aliases.items()}


def test_a_job_without_runs_has_nothing_to_recover(tracking: TrackingConfig) -> None:
    assert recovery.recover_runs(JOB, tracking) is None


def test_a_run_without_a_version_ends_as_killed_and_its_pending_model_as_failed(client: MlflowClient, tracking: TrackingConfig) -> None:
    run = open_run(client)
    pending = client.create_logged_model("0", name="model", source_run_id=run)
    ready = client.create_logged_model("0", name="model", source_run_id=run)
    client.finalize_logged_model(ready.model_id, "READY")
    assert recovery.recover_runs(JOB, tracking) is None
    assert status(client, run) == "KILLED"
    assert [str(client.get_logged_model(model.model_id).status) for model in (pending, ready)] == ["FAILED", "READY"]


def test_a_registered_version_is_complete_and_gets_its_alias(client: MlflowClient, tracking: TrackingConfig) -> None:
    killed, registered = open_run(client), open_run(client)
    number = version(client, registered)
    expected = ModelVersion(name="pump", version=number, uri=f"models:/pump/{number}", run_id=registered, alias="live")
    assert recovery.recover_runs(JOB, tracking) == expected
    assert (status(client, killed), status(client, registered)) == ("KILLED", "FINISHED")
    assert aliases(client) == {"live": number}
    assert recovery.recover_runs(JOB, tracking) == expected


def test_the_alias_of_a_newer_version_stays(client: MlflowClient, tracking: TrackingConfig) -> None:
    older, newer = version(client, open_run(client)), version(client, open_run(client, OTHER))
    client.set_registered_model_alias("pump", "live", newer)
    recovered = recovery.recover_runs(JOB, tracking)
    assert recovered is not None
    assert recovered.version == older
    assert aliases(client) == {"live": newer}


def test_without_an_alias_none_is_set(client: MlflowClient, tracking: TrackingConfig) -> None:
    version(client, open_run(client))
    assert recovery.recover_runs(JOB, TrackingConfig(uri=tracking.uri, model_name="pump", alias="")) is not None
    assert aliases(client) == {}


def test_a_version_of_another_model_is_not_taken(client: MlflowClient, tracking: TrackingConfig) -> None:
    run = open_run(client)
    version(client, run, name="valve")
    assert recovery.recover_runs(JOB, tracking) is None
    assert status(client, run) == "KILLED"


def test_without_registration_a_finished_run_is_complete_and_an_open_one_is_not(client: MlflowClient, tracking: TrackingConfig) -> None:
    unregistered = TrackingConfig(uri=tracking.uri, register=False)
    run = open_run(client)
    assert recovery.recover_runs(JOB, unregistered) is None
    assert status(client, run) == "KILLED"
    finished = open_run(client)
    client.set_terminated(finished, "FINISHED")
    assert recovery.recover_runs(JOB, unregistered) == ModelVersion(name="", version="", uri=f"runs:/{finished}/model", run_id=finished)


def test_runs_of_other_jobs_and_the_run_of_mlflow_run_stay_open(
    client: MlflowClient, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, outer, untagged = open_run(client, OTHER), open_run(client), str(client.create_run("0").info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    assert recovery.recover_runs(JOB, tracking) is None
    assert {status(client, run) for run in (other, outer, untagged)} == {"RUNNING"}


def test_runs_are_found_by_the_tag_that_a_new_run_gets(client: MlflowClient, tracking: TrackingConfig) -> None:
    with runs.start_run(tracking, job=JOB) as run:
        assert client.get_run(run.run_id).data.tags[recovery.TAG] == JOB
        assert recovery.recover_runs(JOB, tracking) is None
        assert status(client, run.run_id) == "KILLED"


def test_a_store_that_cannot_be_opened_is_a_tracking_error(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database")
    with pytest.raises(TrackingError, match="is not a SQLite store"):
        recovery.recover_runs(JOB, TrackingConfig(uri=f"sqlite:///{tmp_path}/text.db"))
