"""The model registry, both ways: a logged model becomes a version with an alias, and a name becomes a folder with an artifact.

Knows nothing of what is in the artifact or in the run. What cannot be found is an ArtifactError that says what there is instead.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vae_anomaly import artifact
from vae_anomaly._version import __version__
from vae_anomaly.calibration.guarantee import statement
from vae_anomaly.config import TrackingConfig
from vae_anomaly.detector.detector import Detector
from vae_anomaly.errors import ArtifactError
from vae_anomaly.storage.filesystems import is_uri, shown_path
from vae_anomaly.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The folder of the artifact within a run, and how many names an error lists.
NAMES_LISTED = 20
# A logged model (models:/m-0123…) has this many hexadecimal digits after m-.
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"})

# Downloads from a server live as long as the process.
_downloads: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """Where a logged model is: ``uri`` is ``models:/name/version``, or ``runs:/…`` with empty name and version when not registered."""

    name: str
    version: str
    uri: str
    run_id: str
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """One version of a registered model; ``created`` in milliseconds since 1970."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: int
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model that was found, with its artifact in ``folder``.

    ``name`` and ``version`` go into every scored row: those of the registry, or else the folder's or run's name and the first digits of
    the artifact's digest.
    """

    folder: Path
    name: str
    version: str


def register(tracking: TrackingConfig, detector: Detector, *, model_id: str, run_id: str, uri: str) -> ModelVersion:
    """Make a logged model the next version of ``tracking.model_name``, complete with its tags in one request, then move the alias."""
    from mlflow import MlflowClient

    name, alias, client = tracking.model_name, tracking.alias, MlflowClient()
    with store.errors(f"register {name}", uri):
        _make_registered_model(client, name)
        made = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags=_tags(detector), model_id=model_id)
        version = str(made.version)
    with suppress(Exception):  # only the link from the run's page to the version
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": made.version}])})
    registered = ModelVersion(name=name, version=version, uri=f"models:/{name}/{version}", run_id=run_id, alias=alias)
    if alias:
        with store.errors(f"point {name}@{alias} at version {version}, which is registered", uri):
            move_alias(client, registered)
    return registered


def move_alias(client: "MlflowClient", to: ModelVersion, *, only_forward: bool = False) -> None:
    """Point the alias of a version at it; with ``only_forward`` not if a newer version has it."""
    if only_forward:
        now = client.get_registered_model(to.name).aliases.get(to.alias)
        if now is not None and int(now) >= int(to.version):
            return
    client.set_registered_model_alias(to.name, to.alias, to.version)


def registered_versions(name: str | None = None, *, uri: str | None = None) -> tuple[RegisteredVersion, ...]:
    """Return the versions of one model or of all, newest first. Raises ArtifactError, TrackingError."""
    from mlflow import MlflowClient

    with store.open_store(uri, create=False) as opened, store.errors("list the models", opened):
        client = MlflowClient()
        aliases = {m.name: m.aliases for m in all_pages(client.search_registered_models)}
        wanted = f"name='{name}'" if name else ""
        found = [
            RegisteredVersion(
                name=v.name,
                version=str(v.version),
                aliases=tuple(sorted(a for a, n in aliases.get(v.name, {}).items() if str(n) == str(v.version))),
                tags=dict(v.tags),
                created=int(v.creation_timestamp),
                run_id=v.run_id or "",
            )
            for v in all_pages(client.search_model_versions, wanted)
        ]
    return tuple(sorted(found, key=lambda v: (v.created, int(v.version)), reverse=True))


def resolve_model(model: str, *, uri: str | None = None) -> ResolvedModel:
    """Find a model: ``models:/name@alias``, ``models:/name/3``, ``models:/name`` (newest), ``runs:/id…`` or an artifact folder.

    ``uri`` is the MLflow store, None for the default. Raises ArtifactError, TrackingError.
    """
    if is_uri(model) and not model.startswith(("models:/", "runs:/")):
        raise ArtifactError(
            f"no model at {shown_path(model)}: a model is the path of a folder here, models:/NAME@ALIAS or runs:/ID. "
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
        with _absent(model, opened, "there is no such logged model"):
            location = client.get_logged_model(name).artifact_location
        return _folder(_fetched(location, "artifacts", model), name=name)
    name, _, number = name.partition("/")
    with _absent(model, opened, lambda: _what_there_is(client, name)):
        if alias:
            number = str(client.get_model_version_by_alias(name, alias).version)
        number = number if number.isdecimal() else _newest(client, name, number)
        source = client.get_model_version_download_uri(name, number)
        if source.startswith("models:/"):
            source = client.get_logged_model(source.removeprefix("models:/")).artifact_location
    return ResolvedModel(folder=_fetched(source, "artifacts", model), name=name, version=number)


def _logged(model: str, opened: str) -> ResolvedModel:
    """Find the artifact of a run: ``runs:/id`` and ``runs:/id/model`` are the same detector."""
    from mlflow import MlflowClient

    run_id, _, inner = model.removeprefix("runs:/").partition("/")
    with _absent(model, opened, "there is no such run"):
        location = MlflowClient().get_run(run_id).info.artifact_uri
    folder = _fetched(location, store.DETECTOR_FOLDER if inner in {"", "model"} else inner, model)
    return _folder(folder, name=f"runs:/{run_id}")


def _newest(client: "MlflowClient", name: str, number: str) -> str:
    versions = [int(v.version) for v in all_pages(client.search_model_versions, f"name='{name}'")]
    if number not in {"", "latest"} or not versions:
        raise LookupError(number)
    return str(max(versions))


def _fetched(location: str, inner: str, model: str) -> Path:
    """Return a local folder with an artifact: where the store keeps it, or a copy of what a server has."""
    folder = _local(location, inner) or _download(location, inner)
    for place in (folder, *sorted(folder.glob("*/"))):
        if artifact.is_artifact(place):
            return place
    if not folder.is_dir():
        raise ArtifactError(
            f"the files of {model} are not at {folder}: the store was moved, or they were removed. Use a copy, or fit again."
        )
    raise ArtifactError(f"{model} is no model of this package: there is no {artifact.MANIFEST} at {folder}.")


def _local(location: str, inner: str) -> Path | None:
    """Return the folder of a location on this machine; None for the address of a server."""
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
        if store.error_code(error) not in ABSENT:
            raise
        return Path(copy.name, "absent")


@contextmanager
def _absent(model: str, opened: str, instead: str | Callable[[], str]) -> Iterator[None]:
    """Say that a name is not there, and what is."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, LookupError) as error:
        if isinstance(error, MlflowException) and store.error_code(error) not in ABSENT:
            raise
        there_is = instead if isinstance(instead, str) else instead()
        raise ArtifactError(f"no model {model} in {store.shown_uri(opened)}: {there_is}.") from error


def _what_there_is(client: "MlflowClient", name: str) -> str:
    aliases = {m.name: m.aliases for m in all_pages(client.search_registered_models)}
    if name not in aliases:
        listed = _listed(sorted(aliases))
        return f"registered are {listed}" if listed else "no model is registered; fit one with vae-anomaly fit"
    versions = sorted(int(v.version) for v in all_pages(client.search_model_versions, f"name='{name}'"))
    named = [f"@{a} (version {v})" for a, v in sorted(aliases[name].items())]
    return f"{name} has versions {_listed(versions) or '(none)'} and aliases {_listed(named) or '(none)'}"


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return ", ".join(str(n) for n in names[:NAMES_LISTED]) + more


def all_pages(search: Callable[..., Any], wanted: str = "") -> Iterator[Any]:
    """Return all results of an MLflow search."""
    page = search(wanted or None)
    while True:
        yield from page
        if not page.token:
            return
        page = search(wanted or None, page_token=page.token)


def _make_registered_model(client: "MlflowClient", name: str) -> None:
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
        "statement": statement(threshold),
        "calibration_rows": str(len(threshold.calibration)),
        "format": str(artifact.FORMAT),
        "package_version": __version__,
    }
