"""Which MLflow store, and opening it so that nothing surprises: quiet, offline, safe when many start at once, one line on error.

Knows nothing of runs, detectors or the registry. MLflow is imported on first use only. The store is MLflow's own default
(``sqlite:///mlflow.db`` and ``./mlruns`` in the current folder) unless a URI is given or ``MLFLOW_TRACKING_URI`` is set.
"""

import glob
import logging
import os
import secrets
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from vae_anomaly.errors import ArtifactError, TrackingError, VaeAnomalyError
from vae_anomaly.redaction import redacted

# MLflow reads these from the environment; each is set unless the user has set it.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a plant has no internet, and a look-up of an unknown host can take a minute
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results; of a server MLflow would print two lines there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # MLflow's own 7 retries take four minutes to say that a server is gone
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_NO_FOLDERS = {"databricks", "databricks-uc"}  # what MLflow takes for a server, though it looks like a path
# The name of a logged model within its run, and the folder of the artifact within both.
LOGGED_NAME = "model"
DETECTOR_FOLDER = "detector"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# How long to wait for a server to accept a connection, and for another process to create the tables of a new database.
CONNECT_SECONDS = 5.0
LOCK_SECONDS = 900.0  # eight new processes on a busy core need minutes, and the lock of a process that died is free
MESSAGE_LENGTH = 300
_SQLITE = b"SQLite format 3\0"  # what every such file begins with; an empty one becomes a database


def import_mlflow() -> ModuleType:
    """Import MLflow with telemetry off and its chatter silenced, unless the user's environment says otherwise."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    if os.environ["MLFLOW_LOGGING_LEVEL"] == DEFAULTS["MLFLOW_LOGGING_LEVEL"]:
        # A database or an account that refuses is an exception, which becomes one line; MLflow would write a hundred before it.
        for name in ("mlflow.store.db.utils", "mlflow.utils.databricks_utils"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def store_uri(uri: str | None = None) -> str:
    """Return the URI of the store that is used when ``uri`` is asked for; None asks for the default."""
    return uri or str(import_mlflow().get_tracking_uri())


@contextmanager
def open_store(uri: str | None, *, create: bool = True) -> Iterator[str]:
    """Point MLflow at a store for the length of a block, its tables made and its server known to listen; gives its URI.

    Without ``create`` a SQLite store that is not there is an ArtifactError, so that a look-up in the wrong folder leaves nothing
    behind. Raises TrackingError.
    """
    wanted = store_uri(uri)
    with errors("open the store", wanted):
        _refuse_file_store(wanted)
        _refuse_silent_server(wanted)
        if not create:
            _refuse_absent_database(wanted)
    with nullcontext() if uri is None else _tracking_uri(uri):
        with errors("open the store", wanted):
            _make_tables(wanted)
        yield wanted


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's tracking URI for the length of a block.

    MLflow keeps it in the process and in the environment. What stood in the environment alone goes back there alone: kept in the
    process, it would win over every later choice by the environment.
    """
    mlflow = import_mlflow()
    environment = os.environ.get(URI_VARIABLE)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None if before == environment else before)
        if environment is not None:
            os.environ[URI_VARIABLE] = environment


@contextmanager
def errors(doing: str, uri: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or its server raises into a TrackingError of one line."""
    try:
        yield
    except VaeAnomalyError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {shown_uri(uri)} could not {doing}: {_one_line(error)}") from error


def shown_uri(uri: str) -> str:
    """Return a URI without the login and the secrets in it."""
    return redacted(uri)


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None for any other store and for one in memory."""
    scheme, _, rest = uri.partition(":///")
    name = unquote(rest.partition("?")[0])
    return Path(name) if scheme.partition("+")[0] == "sqlite" and name not in {"", ":memory:"} else None


def error_code(error: Exception) -> str:
    """Return MLflow's name for an error, such as RESOURCE_DOES_NOT_EXIST; empty for errors that are not MLflow's."""
    return str(getattr(error, "error_code", ""))


def _one_line(error: Any) -> str:
    text = redacted(str(error).strip()) or type(error).__name__
    line = text.splitlines()[0].strip()
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 1] + "…"


def _refuse_file_store(uri: str) -> None:
    """MLflow 3 no longer writes the folder of YAML files that was its default before."""
    if (
        urlsplit(uri).scheme not in {"", "file"}
        or uri in _NO_FOLDERS
        or os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in {"true", "1"}
    ):
        return
    folder = unquote(urlsplit(uri).path)
    raise TrackingError(
        f"{folder} is an MLflow file store (meta.yaml files), which MLflow 3 no longer writes. Set "
        f"MLFLOW_TRACKING_URI=sqlite:///mlflow.db to start a new store beside it; to bring the old runs along: "
        f"mlflow migrate-filestore --source {folder} --target sqlite:///mlflow.db"
    )


def _refuse_silent_server(uri: str) -> None:
    """Find out in seconds that nobody listens; MLflow would try for minutes. Behind a proxy only MLflow can tell."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else _one_line(error.strerror or error).lower()
        text = (
            f"the MLflow server at {shown_uri(uri)} cannot be reached: {why}. Start it, or correct --tracking-uri or MLFLOW_TRACKING_URI."
        )
        raise TrackingError(text) from error


def _refuse_absent_database(uri: str) -> None:
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ArtifactError(
            f"no model store at {shown_uri(uri)}: there is no such file. Fit a model in this folder, or give --tracking-uri."
        )


def _make_tables(uri: str) -> None:
    """Make or check the tables, one process at a time: of six at once on a new SQLite file, all have died."""
    path = sqlite_path(uri)
    if path is None:
        _touch(uri)
        return
    _refuse_other_file(uri, path)
    folder = path.absolute().parent
    if not path.exists() and folder.is_dir() and not os.access(folder, os.W_OK):  # MLflow would try for minutes
        raise TrackingError(
            f"no store can be made at {shown_uri(uri)}: this user may not write to {folder}. Give --tracking-uri another place."
        )
    with _lock(path), _no_quoted_folder(uri, path):
        if not path.exists() or path.stat().st_size == 0:
            _create(path)
        _touch(uri)


def _refuse_other_file(uri: str, path: Path) -> None:
    """Refuse a file that no database is, before anything is made beside it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(len(_SQLITE))
    if head and head != _SQLITE:
        raise TrackingError(
            f"{shown_uri(uri)} is no SQLite store: {path} holds something else. Give --tracking-uri or MLFLOW_TRACKING_URI another file."
        )


def _touch(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)


def _create(path: Path) -> None:
    """Create a SQLite store aside and rename it: one whose creator was killed half-way is lost for ever, tables and all."""
    folder = path.absolute().parent
    for left in folder.glob(f".{glob.escape(path.name)}.*.partial*"):
        left.unlink()
    partial = folder / f".{path.name}.{secrets.token_hex(6)}.partial"
    try:
        _touch(f"sqlite:///{quote(str(partial))}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _no_quoted_folder(uri: str, path: Path) -> Iterator[None]:
    """Remove the empty folder ``a%20b`` that MLflow makes beside ``a b``."""
    quoted = Path(uri.partition(":///")[2].partition("?")[0]).parent
    made = [] if quoted == path.parent else [p for p in (quoted, *quoted.parents) if not p.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _lock(database: Path) -> Iterator[None]:
    folder = database.absolute().parent
    if not os.access(folder, os.W_OK):
        # Only an existing store can be meant, and a reader makes no tables.
        yield
        return
    name = folder / f".{database.name}.lock"
    try:
        with FileLock(name, timeout=LOCK_SECONDS):
            yield
            # Whoever still waits for this very file finds the tables made, so that nothing is left for it to guard.
            with suppress(OSError):
                name.unlink()
    except Timeout as error:
        raise TrackingError(f"{name} has been locked for {LOCK_SECONDS:g} s by another process. If none is running, remove it.") from error
