import http.server
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from tests.tracking.conftest import Logged
from vae_anomaly.errors import ArtifactError, ConfigError, TrackingError
from vae_anomaly.tracking import store

ROOT = Path(__file__).parents[2]


def refusal(uri: str | None, *, create: bool = True) -> str:
    """Return the one line with which a store is refused."""
    with pytest.raises(TrackingError) as refused, store.open_store(uri, create=create):
        pytest.fail("the store was opened")
    assert "\n" not in str(refused.value)
    return str(refused.value)


# The environment


def test_mlflow_is_made_quiet_and_patient_only_where_the_user_did_not_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in store.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    store.import_mlflow()
    assert {name: os.environ[name] for name in store.DEFAULTS} == store.DEFAULTS | {
        "MLFLOW_DISABLE_TELEMETRY": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
    }


@pytest.mark.parametrize(("chosen", "level"), [(None, logging.CRITICAL), ("DEBUG", logging.NOTSET)])
def test_mlflow_does_not_write_what_a_database_refuses_unless_asked_to(
    chosen: str | None, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("mlflow.store.db.utils")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", chosen)
    store.import_mlflow()
    assert logger.level == level


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    script = """
from vae_anomaly.tracking import store
store.import_mlflow()
from mlflow.telemetry.client import get_telemetry_client
from mlflow.telemetry.utils import is_telemetry_disabled
print(get_telemetry_client(), is_telemetry_disabled())
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and k not in {"DO_NOT_TRACK", "CI"}}
    heard = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment | {"PYTHONPATH": str(ROOT)}
    )
    assert heard.stdout.split() == ["None", "True"]


# Which store


def test_the_default_is_that_of_mlflow(own_folder: Path) -> None:
    assert store.store_uri() == f"sqlite:///{own_folder}/mlflow.db"
    assert store.store_uri("sqlite:///other.db") == "sqlite:///other.db"
    assert list(own_folder.iterdir()) == []


def test_the_environment_names_another(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/else.db")
    assert store.store_uri() == f"sqlite:///{own_folder}/else.db"


@pytest.mark.parametrize("before", [None, "sqlite:///before.db"])
def test_a_store_is_opened_for_the_length_of_a_block(
    own_folder: Path, logged: Logged, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
    with store.open_store(logged.uri) as uri:
        assert uri == mlflow.get_tracking_uri() == logged.uri
    default = f"sqlite:///{own_folder}/mlflow.db"
    assert mlflow.get_tracking_uri() == (before or default)
    assert os.environ.get("MLFLOW_TRACKING_URI") == before
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mlflow.get_tracking_uri() == default, "what the environment chose was kept in the process"


def test_a_store_chosen_by_the_caller_is_his_again(own_folder: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "of the environment")  # put back at the end
    mlflow.set_tracking_uri(f"sqlite:///{own_folder}/mine.db")
    try:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        with store.open_store(logged.uri):
            assert mlflow.get_tracking_uri() == logged.uri
        assert mlflow.get_tracking_uri() == f"sqlite:///{own_folder}/mine.db"
    finally:
        store.import_mlflow().set_tracking_uri(None)  # typed as never None, and the only way back to the default


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////data/mlflow.db", "/data/mlflow.db"),
        ("sqlite:////data/a%20b/mlflow.db?timeout=5", "/data/a b/mlflow.db"),
        ("sqlite+pysqlite:////data/x.db", "/data/x.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql:///db", None),
        ("http://host/x", None),
    ],
)
def test_the_file_of_a_sqlite_store(uri: str, path: str | None) -> None:
    assert store.sqlite_path(uri) == (None if path is None else Path(path))


# Tables are there whole or not at all


def test_a_new_store_is_whole_and_alone(own_folder: Path) -> None:
    folder = own_folder / "my data" / "#1"
    folder.mkdir(parents=True)
    os.chdir(folder)
    (folder / ".mlflow.db.0123456789ab.partial").write_text("left by a kill")
    (folder / ".mlflow.db.0123456789ab.partial-journal").write_text("and its journal")
    with store.open_store(None) as uri:
        assert [e.name for e in mlflow.search_experiments()] == ["Default"]
    assert store.sqlite_path(uri) == folder / "mlflow.db"
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert [path.name for path in own_folder.iterdir()] == ["my data"], "MLflow makes an empty folder my%20data as well"


DYING = """
import os, sqlite3, sys
from pathlib import Path
from vae_anomaly.tracking import store

replace = Path.replace
def die(*_):
    os._exit(9)
if sys.argv[1] == "before the rename":
    Path.replace = die
else:
    from mlflow.store.db import utils
    utils._upgrade_db = die
with store.open_store(None):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the rename", "before the migrations"])
def test_a_kill_while_the_tables_are_made_leaves_no_store(own_folder: Path, moment: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", DYING, moment], check=False, env=environment).returncode == 9
    assert not (own_folder / "mlflow.db").exists()
    with store.open_store(None):
        assert [e.name for e in mlflow.search_experiments()] == ["Default"]
    assert [path.name for path in own_folder.iterdir()] == ["mlflow.db"]


def test_an_error_while_the_tables_are_made_leaves_nothing(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", failing)
    text = "could not open the store: [Errno 28] No space left on device"
    assert refusal(None) == f"MLflow at sqlite:///{own_folder}/mlflow.db {text}"
    assert [path.name for path in own_folder.iterdir()] == [".mlflow.db.lock"]


def test_a_look_up_makes_no_store(own_folder: Path) -> None:
    with pytest.raises(ArtifactError) as refused, store.open_store(None, create=False):
        pytest.fail("the store was opened")
    uri = f"sqlite:///{own_folder}/mlflow.db"
    text = f"no model store at {uri}: there is no such file. Fit a model in this folder, or give --tracking-uri."
    assert str(refused.value) == text
    assert list(own_folder.iterdir()) == []


def test_a_lock_that_is_never_released(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    name = own_folder / ".mlflow.db.lock"
    with FileLock(name):
        text = refusal(None)
    assert text == f"{name} has been locked for 0.1 s by another process. If none is running, remove it."


def test_a_store_in_a_folder_without_write_access_is_read_without_a_lock(
    logged: Logged, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = own_folder / "mlflow.db"
    copy.write_bytes((logged.folder / "mlflow.db").read_bytes())
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != own_folder and access(path, mode))
    with FileLock(own_folder / ".mlflow.db.lock"), store.open_store(f"sqlite:///{copy}", create=False):
        assert {e.name for e in mlflow.search_experiments()} == {"Default", "vae-anomaly"}


def test_a_file_that_is_no_database(own_folder: Path) -> None:
    for content in ("precious, and longer than the hundred bytes of a header " * 4, "a,b"):
        (own_folder / "mlflow.db").write_text(content)
        uri = f"sqlite:///{own_folder}/mlflow.db"
        assert refusal(None) == (
            f"{uri} is not a SQLite store: {own_folder}/mlflow.db is another kind of file. Correct --tracking-uri or MLFLOW_TRACKING_URI."
        )
        assert [path.name for path in own_folder.iterdir()] == ["mlflow.db"]
        assert (own_folder / "mlflow.db").read_text() == content


def test_a_damaged_database(own_folder: Path) -> None:
    (own_folder / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"x" * 200)
    text = refusal(None)
    assert text.startswith(f"MLflow at sqlite:///{own_folder}/mlflow.db could not open the store: ")
    assert "file is not a database" in text


def test_a_store_of_another_mlflow_says_how_to_upgrade(logged: Logged, own_folder: Path) -> None:
    (own_folder / "mlflow.db").write_bytes((logged.folder / "mlflow.db").read_bytes())
    with closing(sqlite3.connect(own_folder / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    assert "mlflow db upgrade" in refusal(f"sqlite:///{own_folder}/mlflow.db")


@pytest.mark.parametrize("uri", [None, "file:mlruns", "mlruns"])
def test_an_old_file_store_says_what_to_do(own_folder: Path, uri: str | None) -> None:
    (own_folder / "mlruns" / "0").mkdir(parents=True)
    (own_folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    folder = f"{own_folder}/mlruns" if uri is None else "mlruns"
    assert refusal(uri) == (
        f"{folder} is an MLflow file store (meta.yaml files), which MLflow 3 no longer writes. Set "
        f"MLFLOW_TRACKING_URI=sqlite:///mlflow.db to start a new store beside it; to bring the old runs along: "
        f"mlflow migrate-filestore --source {folder} --target sqlite:///mlflow.db"
    )


@pytest.mark.parametrize("uri", ["databricks", "databricks-uc"])
def test_databricks_is_no_folder(own_folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(own_folder / "none"))
    assert refusal(uri).startswith(f"MLflow at {uri} could not ")
    assert caplog.messages == []


def test_the_advice_about_an_old_file_store_works(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "mlruns" / "0").mkdir(parents=True)
    (own_folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with store.open_store(None):
        assert [e.name for e in mlflow.search_experiments()] == ["Default"]


# Servers


def test_a_server_that_does_not_listen_is_told_at_once(own_folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    text = refusal(f"http://somebody:secret@127.0.0.1:{port}")
    advice = "Start it, or correct --tracking-uri or MLFLOW_TRACKING_URI."
    assert text == f"the MLflow server at http://somebody:***@127.0.0.1:{port} cannot be reached: connection refused. {advice}"
    assert time.monotonic() - began < 5
    assert list(own_folder.iterdir()) == []


def test_a_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    text = "cannot be reached: name or service not known. Start it, or correct --tracking-uri or MLFLOW_TRACKING_URI."
    assert refusal("https://plant.invalid") == f"the MLflow server at https://plant.invalid {text}"


def test_a_host_that_swallows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[str, int], float]] = []

    def silent(address: tuple[str, int], timeout: float) -> None:
        asked.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    assert "cannot be reached: no answer. Start it" in refusal("http://10.0.0.1")
    assert asked == [(("10.0.0.1", 80), 5.0)]


@contextmanager
def some_server(answer: int) -> Iterator[str]:
    """Serve something that is no MLflow."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(b"<html>\n<p>Nobody here\n</html>")

        do_GET = do_POST = answer  # noqa: N815  # names that the library calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


@pytest.mark.parametrize("answer", [200, 401, 404])
def test_a_server_that_is_no_mlflow_is_one_line(answer: int) -> None:
    with some_server(answer) as uri:
        assert refusal(uri).startswith(f"MLflow at {uri} could not open the store: ")


def test_behind_a_proxy_only_mlflow_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("the host was asked past the proxy")

    monkeypatch.setattr(socket, "create_connection", never)
    with some_server(404) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        store._refuse_silent_server("http://plant.invalid:5000")  # noqa: SLF001  # what MLflow does next needs the proxy
        monkeypatch.setenv("no_proxy", "plant.invalid")
        with pytest.raises(pytest.fail.Exception):
            store._refuse_silent_server("http://plant.invalid:5000")  # noqa: SLF001


def test_a_scheme_that_nobody_knows_is_one_line() -> None:
    assert refusal("nonsense://host").startswith("MLflow at nonsense://host could not open the store: ")


# Errors


def test_our_own_errors_pass_and_others_become_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^ours$"), store.errors("do it", "http://a:b@c"):
        raise ConfigError("ours")
    for error, text in {
        RuntimeError("first\nsecond"): "first",
        RuntimeError(""): "RuntimeError",
        RuntimeError("x" * 400): "x" * 299 + "…",
    }.items():
        with pytest.raises(TrackingError) as refused, store.errors("do it", "http://a:b@c/d"):
            raise error
        assert str(refused.value) == f"MLflow at http://a:***@c/d could not do it: {text}"


def test_ctrl_c_is_no_tracking_error() -> None:
    with pytest.raises(KeyboardInterrupt), store.errors("do it", "x"):
        raise KeyboardInterrupt


def test_a_password_is_not_shown() -> None:
    assert store.shown_uri("postgresql+psycopg://u:p%40ss@host:5432/db") == "postgresql+psycopg://u:***@host:5432/db"
    assert store.shown_uri("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_a_store_that_cannot_be_made_is_said_at_once(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TrackingError) as refused, store.open_store(f"sqlite:///{own_folder}/mlflow.db"):
        pytest.fail("it is open")
    assert str(refused.value) == (
        f"cannot create a store at sqlite:///{own_folder}/mlflow.db: no permission to write to {own_folder}. "
        "Choose another one with --tracking-uri."
    )
    assert list(own_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [("postgresql+psycopg", "psycopg", "psycopg[binary]"), ("mysql+pymysql", "pymysql", "pymysql"), ("mysql", "MySQLdb", "mysqlclient")],
)
def test_an_absent_driver_is_named_with_what_to_install(
    scheme: str, module: str, package: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del own_folder
    monkeypatch.setitem(sys.modules, module, None)
    said = refusal(f"{scheme}://u:secret@127.0.0.1:1/db")
    assert said.startswith(f"MLflow at {scheme}://u:***@127.0.0.1:1/db could not open the store: ")
    assert said.endswith(f". The driver of this database is not installed: pip install '{package}'")
