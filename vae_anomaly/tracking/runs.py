"""MLflow runs: parameters, learning curve, data lineage, figures, the model, and its registered version.

A registered version is always complete: everything is logged first, the version is created with its tags in one request, and the alias
moves last. ``NoRun`` replaces ``Run`` if tracking is off, and does not import MLflow.
"""

import json
import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vae_anomaly.config import Config, TrackingConfig, config_to_dict
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ConfigError, TrackingError
from vae_anomaly.messages import shorten
from vae_anomaly.model.training import CurvePoint
from vae_anomaly.redaction import redacted_config
from vae_anomaly.tracking import recovery, store
from vae_anomaly.tracking.registry import ModelVersion, register

PARAM_LENGTH = 6000  # MLflow's limit for a parameter value
DIGEST_LENGTH = 36  # MLflow's limit for the digest of a data set
METRICS_AT_ONCE = 1000  # MLflow's limit for one request
SEND_SECONDS = 2.0  # points of the learning curve that arrive faster are sent in one request
FILES_SHOWN = 100
PICTURE_DPI = 120


class NoRun:
    """A run that logs nothing, used if tracking is off; it has the methods of ``Run``."""

    run_id = ""

    def log_config(self, config: Config) -> None:
        """Do nothing."""

    def log_block(self, block: CurvePoint) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_dataset(self, names: Sequence[str], *, digest: str, rows: int, context: str = "training", versions: Sequence[str] = ()) -> None:
        """Do nothing."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_figures(self, figures: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Do nothing."""

    def log_file(self, path: Path) -> None:
        """Do nothing."""

    def log_model(self, folder: Path, detector: Detector) -> None:
        """Do nothing and return no version."""


class Run:
    """An open MLflow run, created by ``start_run``. Every method may raise TrackingError."""

    def __init__(self, *, run_id: str, uri: str, tracking: TrackingConfig) -> None:
        from mlflow import MlflowClient

        self.run_id = run_id
        self._uri = uri
        self._tracking = tracking
        self._client = MlflowClient()
        self._unsent: list[Any] = []
        self._sent_at = -math.inf
        self._unreachable = False

    def log_config(self, config: Config) -> None:
        """Log every setting as a parameter with its dotted name, such as ``model.hidden``."""
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in _flat(redacted_config(config_to_dict(config)))]
        with store.errors("log the parameters", self._uri):
            self._client.log_batch(self.run_id, params=params)

    def log_block(self, block: CurvePoint) -> None:
        """Log one point of the learning curve.

        An unreachable server does not abort the training: the points are buffered and sent before the model is logged.
        """
        values = {
            "train/loss": block.train_loss,
            "val/reconstruction": block.val_reconstruction,
            "val/kl": block.val_kl,
            "active_units": block.active_units,
        }
        self._buffer(values, step=block.step)
        if not self._unreachable and time.monotonic() - self._sent_at > SEND_SECONDS:
            try:
                self._send()
            except TrackingError:
                self._unreachable = True

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics, such as ``auroc``; they are sent with the next points of the curve or with the model."""
        self._buffer(metrics, step=0)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Tag the run, for example with its model."""
        from mlflow.entities import RunTag

        with store.errors("tag the run", self._uri):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_dataset(self, names: Sequence[str], *, digest: str, rows: int, context: str = "training", versions: Sequence[str] = ()) -> None:
        """Record the files that the rows came from, ``versions`` of tables among them, and their purpose, without copying them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = DatasetInput(Dataset(**_described(names, digest, rows, versions)), [InputTag("mlflow.data.context", context)])
        with store.errors("log the data set", self._uri):
            self._client.log_inputs(self.run_id, datasets=[entry])

    def log_figures(self, figures: Mapping[str, Any]) -> None:
        """Log figures as ``figures/<name>.png``."""
        with store.errors("log the figures", self._uri), warnings.catch_warnings():
            # Column names in a script that matplotlib's font lacks are drawn as boxes; the warning would not help the user.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            for name, figure in figures.items():
                self._client.log_figure(self.run_id, figure, f"figures/{name}.png", save_kwargs={"dpi": PICTURE_DPI})

    def log_table(self, name: str, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Log rows with equal keys as a table, which the MLflow UI can compare between runs."""
        with store.errors("log the table", self._uri):
            self._client.log_table(self.run_id, {key: [row[key] for row in rows] for key in rows[0]}, name)

    def log_file(self, path: Path) -> None:
        """Log a file to the root of the run's artifacts."""
        with store.errors(f"log {path.name}", self._uri):
            self._client.log_artifact(self.run_id, str(path))

    def log_model(self, folder: Path, detector: Detector) -> ModelVersion:
        """Log the artifact in ``folder`` as a folder and as an MLflow model; then register it, if configured."""
        from vae_anomaly.tracking import pyfunc

        self._send()
        with store.errors("log the model", self._uri):
            self._client.log_artifacts(self.run_id, str(folder), artifact_path=store.DETECTOR_FOLDER)
            model_id = pyfunc.log_pyfunc(folder, detector)
        if not self._tracking.register:
            return ModelVersion(name="", version="", uri=f"runs:/{self.run_id}/{store.LOGGED_NAME}", run_id=self.run_id)
        return register(self._tracking, detector, model_id=model_id, run_id=self.run_id, uri=self._uri)

    def finish(self) -> None:
        """Send the buffered metrics."""
        self._send()

    def _buffer(self, values: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow keeps NaN as a number of its own, which its pictures cannot show.
        self._unsent.extend(Metric(key, float(value), now, step) for key, value in values.items() if math.isfinite(value))

    def _send(self) -> None:
        with store.errors("log the learning curve", self._uri):
            while self._unsent:
                self._client.log_batch(self.run_id, metrics=self._unsent[:METRICS_AT_ONCE])
                del self._unsent[:METRICS_AT_ONCE]
        self._sent_at = time.monotonic()


@contextmanager
def start_run(tracking: TrackingConfig, *, name: str | None = None, job: str = "") -> Iterator[Run | NoRun]:
    """Open a run for the duration of the block, tagged with the ``job`` for ``recovery``; ``NoRun`` if tracking is off.

    The run ends as FINISHED, as FAILED after an exception, or as KILLED after Ctrl-C. An active run of the caller becomes its parent;
    under ``mlflow run`` the existing run is used. Raises ConfigError for names that MLflow rejects, TrackingError.
    """
    if not tracking.enabled:
        yield NoRun()
        return
    check_registry_names(tracking)
    with store.open_store(tracking.uri) as uri:
        mlflow = store.import_mlflow()
        with store.errors("start a run", uri):
            experiment = _experiment(tracking, uri)
            tags = {recovery.TAG: job} if job else None
            active = mlflow.start_run(experiment_id=experiment, run_name=name, nested=mlflow.active_run() is not None, tags=tags)
        run = Run(run_id=active.info.run_id, uri=uri, tracking=tracking)
        try:
            yield run
        except BaseException as error:
            with suppress(Exception):
                mlflow.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        with store.errors("end the run", uri):
            run.finish()
            mlflow.end_run()


def check_registry_names(tracking: TrackingConfig) -> None:
    """Raise ConfigError for a model name or alias that MLflow would reject after the training."""
    if not tracking.register:
        return
    if not tracking.model_name.strip() or set(tracking.model_name) & set("/:"):
        raise ConfigError(f"tracking.model_name must be a name without '/' and ':'; got {tracking.model_name!r}.")
    alias = tracking.alias
    if not re.fullmatch(r"[\w-]{0,255}", alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ConfigError(f"tracking.alias must be letters, digits, '_' and '-', and not 'latest' or like 'v1'; got {alias!r}.")


def _experiment(tracking: TrackingConfig, uri: str) -> str | None:
    """Return the id of the experiment, created if absent; None if MLflow's environment variables choose the run or experiment.

    Raises TrackingError for one that was deleted: MLflow's own error does not say what to do.
    """
    from mlflow import MlflowClient
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    if "MLFLOW_RUN_ID" in os.environ:
        return None
    client, name, number = MlflowClient(), tracking.experiment, None
    named = {key: os.environ[key] for key in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID") if key in os.environ}
    if named and name == TrackingConfig().experiment:
        name, number = named.get("MLFLOW_EXPERIMENT_NAME", ""), named.get("MLFLOW_EXPERIMENT_ID")
    else:
        named = {}
    found = client.get_experiment_by_name(name) if number is None else client.get_experiment(number)
    if found is None and not named:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None or store.error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        raise TrackingError(
            f"the MLflow experiment {found.name!r} at {store.shown_uri(uri)} was deleted, and its name stays taken. Restore it: "
            f"MLFLOW_TRACKING_URI={store.shown_uri(uri)} mlflow experiments restore --experiment-id {found.experiment_id}; or name another "
            f"with {'MLFLOW_EXPERIMENT_NAME' if named else '--experiment'}."
        )
    return None if found is None or named else str(found.experiment_id)


def _described(names: Sequence[str], digest: str, rows: int, versions: Sequence[str]) -> dict[str, str]:
    """Return the fields of an MLflow data set that refers to files without copying them."""
    first = names[0] if names else ""
    scheme = urlsplit(first).scheme
    remote = len(scheme) > 1  # one letter is a Windows drive
    path = first if len(names) == 1 else first.rpartition("/")[0]
    uri = path if remote else str(Path(path).absolute())
    profile: dict[str, Any] = {"num_rows": rows, "files": len(names), "first_files": list(names[:FILES_SHOWN]), "sha256": digest}
    source = {"uri": uri}
    if versions:
        profile["versions"] = list(versions[:FILES_SHOWN])
        source |= {"version": versions[0]} if len(versions) == 1 else {}
    return {
        "name": Path(path).name or "table",
        "digest": digest[:DIGEST_LENGTH],
        "source_type": scheme if remote else "local",
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{key}", shorten(text, PARAM_LENGTH)
