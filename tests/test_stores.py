"""The stores of Google and Azure: the same bytes from and to them as from and to files, and one line where they are not there.

Google's is an emulator on this machine; Azure's is Azurite where it is installed (``npm install -g azurite``) with
``vae-anomaly[cloud]``.
"""

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs as pafs
import pytest
from typer.testing import CliRunner

from tests.tiny import Case, detector, table
from vae_anomaly import artifact
from vae_anomaly.cli.app import app
from vae_anomaly.errors import DataError
from vae_anomaly.storage import filesystems, listing
from vae_anomaly.tables import files
from vae_anomaly.workflow.score import score_files
from vae_anomaly.workflow.score_job import ScoreRequest

# The key that every Azurite has.
_AZURITE = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a folder of two files."""
    folder = tmp_path_factory.mktemp("ground")
    artifact.save(detector(Case(kind="mixed", size="one", method="split", prior="exemplar")), folder / "model")
    (folder / "new" / "day=2").mkdir(parents=True)
    rows = table("mixed", 300, seed=5)
    pyarrow.csv.write_csv(rows.slice(0, 200), folder / "new" / "a.csv")
    pyarrow.csv.write_csv(rows.slice(200), folder / "new" / "day=2" / "b.csv")
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store with the bucket ``lake``; the form of its URIs."""
    emulator: ModuleType = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator: vae-anomaly[test]")
    # One request at a time waits for ever where a client reads one object while it asks for another.
    monkeypatch.setattr(emulator.server, "HTTPServer", ThreadingHTTPServer)
    port = free_port()
    running = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="lake")
    running.start()
    yield f"gs://anonymous@lake/{{}}?scheme=http&endpoint_override=127.0.0.1:{port}&retry_limit_seconds=5"
    running.stop()


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store with the container ``lake``; the form of its URIs."""
    program = shutil.which("azurite-blob")
    if program is None or importlib.util.find_spec("adlfs") is None:
        pytest.skip("needs Azurite and adlfs: npm install -g azurite; pip install 'vae-anomaly[cloud]'")
    port = free_port()
    words = ["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobPort", str(port)]
    place = f"127.0.0.1:{port}"
    addresses = {
        "blob_storage_authority": place,
        "dfs_storage_authority": place,
        "blob_storage_scheme": "http",
        "dfs_storage_scheme": "http",
    }
    account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_AZURITE};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{account}BlobEndpoint=http://{place}/devstoreaccount1;")
    with subprocess.Popen([program, *words], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while "success" not in running.stdout.readline():
            assert running.poll() is None
        pafs.AzureFileSystem("devstoreaccount1", account_key=_AZURITE, **addresses).create_dir("lake")
        yield "abfs://lake@devstoreaccount1.dfs.core.windows.net/{}"
        running.terminate()


@pytest.mark.parametrize("store", ["google", "azure"])
def test_a_folder_and_a_file_have_the_same_bytes(
    ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, store: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place: str = request.getfixturevalue(store)
    model = str(ground / "model")
    filesystem, root = filesystems.resolve_uri(place.format("new"))
    pafs.copy_files(str(ground / "new"), root, destination_filesystem=filesystem)

    def content(name: str) -> bytes:
        with filesystem.open_input_stream(f"lake/{name}") as stream:
            return bytes(stream.read())

    score_files(ScoreRequest(data=(str(ground / "new"),), model=model, output=f"{tmp_path / 'out'}/", threads=1))
    asked = ScoreRequest(data=(place.format("new/"),), model=model, output=place.format("out/"), threads=1)
    assert score_files(asked).parts_made == 2
    for part in ("a.csv", "day=2/b.csv"):
        assert content(f"out/{part}") == (tmp_path / "out" / part).read_bytes()
    assert score_files(asked).unchanged

    one = ScoreRequest(data=(place.format("new/*.csv"),), model=model, output=place.format("s/one.csv"), threads=1)
    score_files(one)
    assert content("s/one.csv") == content("out/a.csv")
    assert score_files(one).unchanged
    assert list((tmp_path / "cache" / "vae-anomaly" / "outgoing").rglob("*")) == []
    with pytest.raises(DataError) as error:
        files.find_files([place.format("new/c.csv")])
    assert str(error.value) == f"{filesystems.shown_path(place.format('new/c.csv'))} does not exist."


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stderr


def test_a_google_store_that_does_not_answer_costs_seconds(ground: Path) -> None:
    place = "gs://anonymous@lake/a.csv?scheme=http&endpoint_override=127.0.0.1:9&retry_limit_seconds=1"
    assert command("score", place, "-m", str(ground / "model"), "-o", "o.csv") == (
        3, "error: gs://lake/a.csv cannot be read: the server does not answer\n",
    )  # fmt: skip


def test_an_azure_store_without_credentials(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Arrow's client has no token for an address without encryption, and says so as an exception of no kind.
    code, said = command("score", "abfs://account@127.0.0.1:9/lake/a.csv?enable_tls=false", "-m", str(ground / "model"), "-o", "o.csv")
    assert (code, said.count("\n")) == (3, 1)
    assert said.startswith("error: abfs://account@127.0.0.1:9/lake/a.csv cannot be read: ")


def test_a_page_of_a_server_that_does_not_answer(ground: Path) -> None:
    assert command("score", "http://127.0.0.1:9/a.csv", "-m", str(ground / "model"), "-o", "o.csv") == (
        3, "error: http://127.0.0.1:9/a.csv does not exist, or its server does not answer.\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("gs://anonymous@b/x", "gs://anonymous@b/x?retry_limit_seconds=15"),
        ("gcs://anonymous@b/x?scheme=http", "gs://anonymous@b/x?scheme=http&retry_limit_seconds=15"),
        ("gs://anonymous@b/x?retry_limit_seconds=600", "gs://anonymous@b/x?retry_limit_seconds=600"),
    ],
)
def test_googles_client_gives_up_in_time_unless_the_uri_says_otherwise(uri: str, meant: str) -> None:
    assert filesystems.resolve_uri(uri)[0] == pafs.FileSystem.from_uri(meant)[0]
    assert filesystems.resolve_uri(uri)[0] != pafs.FileSystem.from_uri("gs://anonymous@b/x?retry_limit_seconds=900")[0]


def test_every_saying_of_a_store_has_words_of_ours() -> None:
    no_google = "no credentials for Google Cloud were found. Set GOOGLE_APPLICATION_CREDENTIALS"
    for theirs, ours in {
        "Retry policy exhausted: Could not create a OAuth2 access token to authenticate": no_google,
        "PerformWork() - CURL error [6]=Could not resolve hostname": "the server does not answer",
        "Cannot connect to host a.blob.core.windows.net:443 ssl:default [Name or service not known]": "the server does not answer",
        "[Errno 111] Connect call failed ('127.0.0.1', 9)": "the server does not answer",
        "unable to connect to account for Must provide either a connection_string or account_name with credentials!!": (
            "no credentials for Azure were found. Set AZURE_STORAGE_CONNECTION_STRING"
        ),
        "Failed to get token from DefaultAzureCredential. See": (
            "no credentials for Azure were found. Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, "
            "or install vae-anomaly[cloud] and set AZURE_STORAGE_CONNECTION_STRING"
        ),
        "ErrorCode:ContainerNotFound": "the container does not exist",
    }.items():
        assert filesystems.os_error_text(OSError(theirs)) == ours


class _Told(Exception):
    __module__ = "azure.core.exceptions"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (_Told("The specified container ContainerNotFound"), "the container does not exist"),
        (
            pa.ArrowException("Unknown error: no token of DefaultAzureCredential"),
            "no credentials for Azure were found. Set AZURE_TENANT_ID",
        ),
        (_Told("something else.\n"), "something else"),
    ],
)
def test_what_a_client_raises_is_said_as_what_a_system_does(raised: Exception, expected: str) -> None:
    with pytest.raises(DataError) as error, listing.reading("abfs://c@a/x.csv"):
        raise raised
    assert str(error.value).startswith(f"abfs://c@a/x.csv cannot be read: {expected}")
    around = RuntimeError("Failed to upload block: ContainerNotFound")
    around.__cause__ = _Told("")
    with pytest.raises(OSError, match="Failed to upload block"), filesystems.as_os_errors():
        raise around


@pytest.mark.parametrize("raised", [RuntimeError("ours"), pa.ArrowInvalid("a cell"), ValueError("ours")])
def test_other_exceptions_are_left_alone(raised: Exception) -> None:
    with pytest.raises(type(raised)) as error, filesystems.as_os_errors():
        raise raised
    assert error.value is raised
