"""MLflow model registry: register a logged model as a version with an alias, and resolve a model name to an artifact folder.

A model that does not exist is an ArtifactError that lists the existing ones.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.calibration.guarantee import guarantee_statement
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError
from vae_anomaly.messages import shorten_list
from vae_anomaly.storage.filesystems import is_uri, shown_path
from vae_anomaly.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAMES_LISTED = 20  # in an error
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")  # of a logged model: models:/m-0123…
ABSENT_CODES = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"})

# Downloads from a server are removed when the process ends.
_downloads: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A logged model: ``uri`` is ``models:/name/version``, or ``runs:/…`` with empty name and version if it is not registered."""

    name: str
    version: str
    uri: str
    run_id: str
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version of a registered model; ``created`` is an ISO 8601 time in UTC."""

    name: str
    version: str
    aliases: tuple[str, ...]
    created: str
    tags: Mapping[str, str]
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model with its artifact in ``folder``.

    ``name`` and ``version`` are written to every scored row: those of the registry, otherwise the name of the folder or run and the
    first digits of the artifact's digest.
    """

    folder: Path
    name: str
    version: str


def register(tracking: TrackingConfig, detector: Detector, *, model_id: str, run_id: str, uri: str) -> ModelVersion:
    """Register a logged model as the next version of ``tracking.model_name``, with its tags in one request; then move the alias."""
    from mlflow import MlflowClient

    name, alias, client = tracking.model_name, tracking.alias, MlflowClient()
    with store.errors(f"register {name}", uri):
        _create_registered_model(client, name)
        created = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags=_tags(detector), model_id=model_id)
        version = str(created.version)
    with suppress(Exception):  # only the link from the page of the run to the version
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": created.version}])})
    registered = ModelVersion(name=name, version=version, uri=f"models:/{name}/{version}", run_id=run_id, alias=alias)
    if alias:
        with store.errors(f"point {name}@{alias} at version {version}, which is registered", uri):
            move_alias(client, registered)
    return registered


def move_alias(client: "MlflowClient", to: ModelVersion, *, only_forward: bool = False) -> None:
    """Point the alias ``to.alias`` at the version; with ``only_forward``, not if the same or a newer version has it."""
    if only_forward:
        current = client.get_registered_model(to.name).aliases.get(to.alias)
        if current is not None and int(current) >= int(to.version):
            return
    client.set_registered_model_alias(to.name, to.alias, to.version)


def registered_versions(name: str | None = None, *, uri: str | None = None) -> tuple[RegisteredVersion, ...]:
    """Return the versions of one model or of all, newest first. Raises ArtifactError, TrackingError."""
    from mlflow import MlflowClient

    with store.open_store(uri, create=False) as opened, store.errors("list the models", opened):
        client = MlflowClient()
        aliases = {m.name: m.aliases for m in all_pages(client.search_registered_models)}
        selection = f"name='{name}'" if name else ""
        versions = all_pages(client.search_model_versions, selection)
        newest_first = sorted(versions, key=lambda v: (int(v.creation_timestamp), int(v.version)), reverse=True)
        return tuple(
            RegisteredVersion(
                name=v.name,
                version=str(v.version),
                aliases=tuple(sorted(a for a, n in aliases.get(v.name, {}).items() if str(n) == str(v.version))),
                created=datetime.fromtimestamp(int(v.creation_timestamp) / 1000, UTC).isoformat(timespec="seconds"),
                tags=dict(v.tags),
                run_id=v.run_id or "",
            )
            for v in newest_first
        )


def resolve_model(model: str, *, uri: str | None = None) -> ResolvedModel:
    """Resolve ``models:/name@alias``, ``models:/name/3``, ``models:/name`` (newest), ``runs:/id…`` or the path of an artifact folder.

    ``uri`` is the MLflow store; None: the default. Raises ArtifactError, TrackingError.
    """
    if is_uri(model) and not model.startswith(("models:/", "runs:/")):
        raise ArtifactError(
            f"no model at {shown_path(model)}: expected the path of a local folder, models:/NAME@ALIAS or runs:/ID. "
            "Copy the folder to this machine, or register it with vae-anomaly upload."
        )
    if not model.startswith(("models:/", "runs:/")):
        return _folder(Path(model), name=Path(model).resolve().name)
    with store.open_store(uri, create=False) as opened, store.errors(f"find {model}", opened):
        return _registered(model, opened) if model.startswith("models:/") else _logged(model, opened)


def _folder(folder: Path, *, name: str) -> ResolvedModel:
    artifact.check_folder(folder)
    return ResolvedModel(folder=folder, name=name, version=artifact.fingerprint(folder))


def _registered(model: str, opened: str) -> ResolvedModel:
    from mlflow import MlflowClient

    client = MlflowClient()
    name, _, alias = model.removeprefix("models:/").partition("@")
    if not alias and MODEL_ID.fullmatch(name):
        with _absent(model, opened, lambda: "there is no such logged model"):
            location = client.get_logged_model(name).artifact_location
        return _folder(_local_folder(location, "artifacts", model), name=name)
    name, _, number = name.partition("/")
    with _absent(model, opened, lambda: _existing(client, name)):
        if alias:
            number = str(client.get_model_version_by_alias(name, alias).version)
        number = number if number.isdecimal() else _newest(client, name, number)
        source = client.get_model_version_download_uri(name, number)
        if source.startswith("models:/"):
            source = client.get_logged_model(source.removeprefix("models:/")).artifact_location
    return ResolvedModel(folder=_local_folder(source, "artifacts", model), name=name, version=number)


def _logged(model: str, opened: str) -> ResolvedModel:
    """Resolve the artifact of a run; ``runs:/id`` and ``runs:/id/model`` are the same detector."""
    from mlflow import MlflowClient

    run_id, _, inner = model.removeprefix("runs:/").partition("/")
    with _absent(model, opened, lambda: "there is no such run"):
        location = MlflowClient().get_run(run_id).info.artifact_uri
    folder = _local_folder(location, store.DETECTOR_FOLDER if inner in {"", "model"} else inner, model)
    return _folder(folder, name=f"runs:/{run_id}")


def _newest(client: "MlflowClient", name: str, number: str) -> str:
    versions = [int(v.version) for v in all_pages(client.search_model_versions, f"name='{name}'")]
    if number not in {"", "latest"} or not versions:
        raise LookupError(number)
    return str(max(versions))


def _local_folder(location: str, inner: str, model: str) -> Path:
    """Return a local folder with an artifact: the one in the store, or a download from a server."""
    folder = _local_path(location, inner) or _download(location, inner)
    for candidate in (folder, *sorted(folder.glob("*/"))):
        if artifact.is_artifact(candidate):
            return candidate
    if not folder.is_dir():
        raise ArtifactError(
            f"the files of {model} are not at {folder}: they were removed, or the store was moved. Use a copy, or fit again."
        )
    raise ArtifactError(f"{model} is not a model of this package: there is no {artifact.MANIFEST} at {folder}.")


def _local_path(location: str, inner: str) -> Path | None:
    """Return the path of an artifact location on this machine; None for a server."""
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(url2pathname(parts.path), inner)
    return Path(location, inner) if len(parts.scheme) <= 1 else None  # one letter is a Windows drive


def _download(location: str, inner: str) -> Path:
    import mlflow.artifacts

    copy = tempfile.TemporaryDirectory(prefix="vae-anomaly-")
    _downloads.append(copy)
    try:
        return Path(mlflow.artifacts.download_artifacts(f"{location.rstrip('/')}/{inner}", dst_path=copy.name))
    except mlflow.MlflowException as error:
        if store.error_code(error) not in ABSENT_CODES:
            raise
        return Path(copy.name, "absent")


@contextmanager
def _absent(model: str, opened: str, reason: Callable[[], str]) -> Iterator[None]:
    """Raise ArtifactError with the ``reason`` if the block finds that the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, LookupError) as error:
        if isinstance(error, MlflowException) and store.error_code(error) not in ABSENT_CODES:
            raise
        raise ArtifactError(f"no model {model} in {store.shown_uri(opened)}: {reason()}.") from error


def _existing(client: "MlflowClient", name: str) -> str:
    """Return the registered names, or the versions and aliases of a name that is registered, as the end of an error."""
    aliases = {m.name: m.aliases for m in all_pages(client.search_registered_models)}
    if name not in aliases:
        listed = _listed(sorted(aliases))
        return f"the registered models are {listed}" if listed else "no model is registered; fit one with vae-anomaly fit"
    versions = sorted(int(v.version) for v in all_pages(client.search_model_versions, f"name='{name}'"))
    named = [f"@{a} (version {v})" for a, v in sorted(aliases[name].items())]
    return f"{name} has versions {_listed(versions) or '(none)'} and aliases {_listed(named) or '(none)'}"


def _listed(names: Sequence[object]) -> str:
    return shorten_list(map(str, names), length=NAMES_LISTED)


def all_pages(search: Callable[..., Any], selection: str = "") -> Iterator[Any]:
    """Yield all results of an MLflow search, page by page; ``selection`` is MLflow's filter string."""
    page = search(selection or None)
    while True:
        yield from page
        if not page.token:
            return
        page = search(selection or None, page_token=page.token)


def _create_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if store.error_code(error) not in {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}:
            raise


def _tags(detector: Detector) -> dict[str, str]:
    threshold, card = detector.threshold, detector.card
    return {
        "rows": str(card.rows),
        "columns": str(len(detector.schema.columns)),
        "schema_sha256": detector.schema.digest,
        "data_sha256": card.data_digest,
        "alpha": repr(threshold.alpha),
        "threshold": repr(threshold.value),
        "calibration": threshold.method,
        "statement": guarantee_statement(threshold),
        "calibration_rows": str(len(threshold.calibration)),
        "format": str(artifact.FORMAT),
        "package_version": __version__,
    }
