"""Choose and open an MLflow store: no telemetry, no log output, safe for concurrent first use, errors of one line.

The store is MLflow's default (``sqlite:///mlflow.db`` and ``./mlruns`` in the current folder) unless a URI is given or
``MLFLOW_TRACKING_URI`` is set. MLflow is imported on first use.
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
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from vae_anomaly.errors import ArtifactError, TrackingError, VaeAnomalyError
from vae_anomaly.messages import one_line
from vae_anomaly.redaction import redacted

# Environment variables of MLflow; each is set unless the user has set it.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # without internet access, the look-up of the host can take a minute
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results; with a server MLflow prints two lines there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # with MLflow's default of 7, an unreachable server is reported after four minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_NO_FOLDERS = {"databricks", "databricks-uc"}  # servers, although the URI looks like a path
LOGGED_NAME = "model"  # of the logged model in its run
DETECTOR_FOLDER = "detector"  # of the artifact, in the run and in the logged model
URI_VARIABLE = "MLFLOW_TRACKING_URI"
CONNECT_SECONDS = 5.0  # for a server to accept a connection
LOCK_SECONDS = 900.0  # eight first uses on a busy core take minutes; the lock of a dead process is free at once
_SQLITE = b"SQLite format 3\0"  # the first bytes of a database; an empty file is a valid empty database


def import_mlflow() -> ModuleType:
    """Import MLflow without telemetry and log output, unless the user's environment variables say otherwise."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    if os.environ["MLFLOW_LOGGING_LEVEL"] == DEFAULTS["MLFLOW_LOGGING_LEVEL"]:
        # MLflow logs a hundred lines about a database or account error before it raises the exception, which becomes one line.
        for name in ("mlflow.store.db.utils", "mlflow.utils.databricks_utils"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def store_uri(uri: str | None = None) -> str:
    """Return ``uri``, or the URI of MLflow's current default store for None."""
    return uri or str(import_mlflow().get_tracking_uri())


@contextmanager
def open_store(uri: str | None, *, create: bool = True) -> Iterator[str]:
    """Use a store for the duration of the block: check that its server answers, create its tables, and yield its URI.

    Without ``create``, an absent SQLite store is an ArtifactError, so that a look-up in the wrong folder leaves no file behind. Raises
    TrackingError.
    """
    chosen = store_uri(uri)
    with errors("open the store", chosen):
        _refuse_file_store(chosen)
        _refuse_silent_server(chosen)
        if not create:
            _refuse_absent_database(chosen)
    with nullcontext() if uri is None else _tracking_uri(uri):
        with errors("open the store", chosen):
            _make_tables(chosen)
        yield chosen


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's tracking URI for the duration of the block.

    MLflow stores it in the process and in the environment. A URI that was only in the environment is restored only there: in the
    process it would take precedence over every later change of the environment.
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


# Python module of a database driver → what pip installs it from, where that has another name.
DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}


@contextmanager
def errors(doing: str, uri: str) -> Iterator[None]:
    """Convert any exception of MLflow, its database or its server to a TrackingError of one line: could not ``doing``."""
    try:
        yield
    except VaeAnomalyError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow at {shown_uri(uri)} could not {doing}: {_first_line(error)}{_driver_advice(error)}") from error


def shown_uri(uri: str) -> str:
    """Return a URI without its login and secrets."""
    return redacted(uri)


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store and for one in memory."""
    scheme, _, rest = uri.partition(":///")
    name = unquote(rest.partition("?")[0])
    return Path(name) if scheme.partition("+")[0] == "sqlite" and name not in {"", ":memory:"} else None


def error_code(error: Exception) -> str:
    """Return the error code of an MlflowException, such as RESOURCE_DOES_NOT_EXIST; empty for other exceptions."""
    return str(getattr(error, "error_code", ""))


def _first_line(error: object) -> str:
    """Return the first line of an error; the others are a traceback or SQL."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def _driver_advice(error: BaseException | None) -> str:
    """Return what to install where the driver of a database is absent, else nothing."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    module = "" if error is None or not error.name else error.name.partition(".")[0]
    return f". The driver of this database is not installed: pip install '{DRIVERS.get(module, module)}'" if module else ""


def _refuse_file_store(uri: str) -> None:
    """Refuse a folder of YAML files, the default store of MLflow 2, which MLflow 3 no longer writes."""
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
    """Detect an unreachable server in seconds; MLflow would retry for minutes. Not possible behind a proxy."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else _first_line(error.strerror or error).lower()
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
    """Create or check the tables, one process at a time: all of six concurrent processes failed on a new SQLite file."""
    path = sqlite_path(uri)
    if path is None:
        _touch(uri)
        return
    _refuse_other_file(uri, path)
    folder = path.absolute().parent
    if not path.exists() and folder.is_dir() and not os.access(folder, os.W_OK):  # MLflow would retry for minutes
        raise TrackingError(
            f"cannot create a store at {shown_uri(uri)}: no permission to write to {folder}. Choose another one with --tracking-uri."
        )
    with _lock(path), _no_quoted_folder(uri, path):
        if not path.exists() or path.stat().st_size == 0:
            _create(path)
        _touch(uri)


def _refuse_other_file(uri: str, path: Path) -> None:
    """Refuse a file that is not a database, before a lock file is created beside it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(len(_SQLITE))
    if head and head != _SQLITE:
        raise TrackingError(
            f"{shown_uri(uri)} is not a SQLite store: {path} is another kind of file. Correct --tracking-uri or MLFLOW_TRACKING_URI."
        )


def _touch(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)


def _create(path: Path) -> None:
    """Create a SQLite store under a temporary name and rename it: MLflow cannot repair one whose creation was interrupted."""
    folder = path.absolute().parent
    for leftover in folder.glob(f".{glob.escape(path.name)}.*.partial*"):
        leftover.unlink()
    partial = folder / f".{path.name}.{secrets.token_hex(6)}.partial"
    try:
        _touch(f"sqlite:///{quote(str(partial))}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _no_quoted_folder(uri: str, path: Path) -> Iterator[None]:
    """Remove the empty folder ``a%20b`` that MLflow creates beside ``a b``."""
    quoted = Path(uri.partition(":///")[2].partition("?")[0]).parent
    absent = [] if quoted == path.parent else [p for p in (quoted, *quoted.parents) if not p.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _lock(database: Path) -> Iterator[None]:
    folder = database.absolute().parent
    if not os.access(folder, os.W_OK):
        # The store must exist already, and reading it creates no tables.
        yield
        return
    name = folder / f".{database.name}.lock"
    try:
        with FileLock(name, timeout=LOCK_SECONDS):
            yield
            # A process that still waits for this file finds the tables complete, so the lock is not needed any more.
            with suppress(OSError):
                name.unlink()
    except Timeout as error:
        raise TrackingError(f"{name} has been locked for {LOCK_SECONDS:g} s by another process. If none is running, remove it.") from error
