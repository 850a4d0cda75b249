"""Clean up the MLflow runs that an interrupted fit left behind, and find the model that it logged.

Every run of a fit is created with the id of its job as a tag, in one request, so that no run can be missed.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vae_anomaly.config import TrackingConfig
from vae_anomaly.tracking import store
from vae_anomaly.tracking.registry import ModelVersion, all_pages, move_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TAG = "vae_anomaly_job"


def recover_runs(job: str, tracking: TrackingConfig) -> ModelVersion | None:
    """End the open runs of an interrupted job; return the model that it logged completely, None if it has to be logged again.

    With ``tracking.register`` that is its registered version, which also gets the alias unless a newer version has it; otherwise the
    model of a FINISHED run. An open run ends as FINISHED if it has a version, else as KILLED. Raises TrackingError.
    """
    from mlflow import MlflowClient

    with store.open_store(tracking.uri) as uri, store.errors("look up the interrupted run", uri):
        client, complete = MlflowClient(), None
        for run in _runs(client, job):
            version = _version(client, run, tracking) if tracking.register else _logged(run)
            complete = complete or version
            if run.info.status == "RUNNING" and run.info.run_id != os.environ.get("MLFLOW_RUN_ID"):  # ``mlflow run`` ends that one
                client.set_terminated(run.info.run_id, "FINISHED" if version else "KILLED")
            if version is None:
                _fail_pending_models(client, run)
        if complete is not None and complete.alias:
            move_alias(client, complete, only_forward=True)
    return complete


def _runs(client: "MlflowClient", job: str) -> "Iterator[Run]":
    ids = [experiment.experiment_id for experiment in all_pages(lambda text, **page: client.search_experiments(filter_string=text, **page))]
    yield from all_pages(lambda text, **page: client.search_runs(ids, text, **page), f"tags.{TAG} = '{job}'")


def _version(client: "MlflowClient", run: "Run", tracking: TrackingConfig) -> ModelVersion | None:
    name, run_id = tracking.model_name, run.info.run_id
    versions = [str(v.version) for v in all_pages(client.search_model_versions, f"run_id='{run_id}'") if v.name == name]
    if not versions:
        return None
    return ModelVersion(name=name, version=versions[0], uri=f"models:/{name}/{versions[0]}", run_id=run_id, alias=tracking.alias)


def _logged(run: "Run") -> ModelVersion | None:
    """Return the unregistered model of a run; only a FINISHED run has logged it completely."""
    if run.info.status != "FINISHED":
        return None
    return ModelVersion(name="", version="", uri=f"runs:/{run.info.run_id}/{store.LOGGED_NAME}", run_id=run.info.run_id)


def _fail_pending_models(client: "MlflowClient", run: "Run") -> None:
    """Mark models whose upload was interrupted as FAILED; MLflow would show them as pending for ever."""
    for model in client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id='{run.info.run_id}'"):
        if str(model.status) == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")
