"""What a fit that was cut off has left in the store, found by the name of its job and put right.

Every run of a fit is tagged with its job when it is made, in one request, so that none can be lost sight of. Knows nothing of how a job
goes on.
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


def settled(job: str, tracking: TrackingConfig) -> ModelVersion | None:
    """Return what a job that was cut off had logged whole: its version, or its run where none is registered; None: it has to log again.

    A version that is there gets its alias, unless a newer version has it, and its run ends as FINISHED. Runs without one end as KILLED.
    Raises TrackingError.
    """
    from mlflow import MlflowClient

    with store.open_store(tracking.uri) as uri, store.errors("look for the run that was cut off", uri):
        client, done = MlflowClient(), None
        for run in _runs(client, job):
            version = _version(client, run, tracking) if tracking.register else _logged(run)
            done = done or version
            if run.info.status == "RUNNING" and run.info.run_id != os.environ.get("MLFLOW_RUN_ID"):  # which ``mlflow run`` ends
                client.set_terminated(run.info.run_id, "FINISHED" if version else "KILLED")
            if version is None:
                _give_up_models(client, run)
        if done is not None and done.alias:
            move_alias(client, done, only_forward=True)
    return done


def _runs(client: "MlflowClient", job: str) -> "Iterator[Run]":
    ids = [experiment.experiment_id for experiment in all_pages(lambda text, **page: client.search_experiments(filter_string=text, **page))]
    wanted = f"tags.{TAG} = '{job}'"
    yield from all_pages(lambda text, **page: client.search_runs(ids, text, **page), wanted)


def _version(client: "MlflowClient", run: "Run", tracking: TrackingConfig) -> ModelVersion | None:
    name, run_id = tracking.model_name, run.info.run_id
    found = [str(v.version) for v in all_pages(client.search_model_versions, f"run_id='{run_id}'") if v.name == name]
    if not found:
        return None
    return ModelVersion(name=name, version=found[0], uri=f"models:/{name}/{found[0]}", run_id=run_id, alias=tracking.alias)


def _logged(run: "Run") -> ModelVersion | None:
    """Without a version, the end of the run says that all was logged."""
    if run.info.status != "FINISHED":
        return None
    return ModelVersion(name="", version="", uri=f"runs:/{run.info.run_id}/{store.LOGGED_NAME}", run_id=run.info.run_id)


def _give_up_models(client: "MlflowClient", run: "Run") -> None:
    """Say of models that were never uploaded whole that they failed; MLflow would show them as pending for ever."""
    wanted = f"source_run_id='{run.info.run_id}'"
    for model in client.search_logged_models([run.info.experiment_id], filter_string=wanted):
        if str(model.status) == "PENDING":
            client.finalize_logged_model(model.model_id, "FAILED")
