import sys
from pathlib import Path

import pytest

from vae_anomaly.errors import DataError, MissingExtra, OutputError
from vae_anomaly.storage import filesystems

SHOWN = {
    "new.csv": "new.csv",
    "a@b?c.csv": "a@b?c.csv",
    "s3://bucket/x.csv": "s3://bucket/x.csv",
    "s3://key:secret@bucket/x.csv?scheme=http&session=hush": "s3://bucket/x.csv",
    "s3://key:sec%2Fret@bucket": "s3://bucket",
    "gs://anonymous@bucket/a@b/x.csv": "gs://bucket/a@b/x.csv",
    "abfss://container@account.dfs.core.windows.net/x.csv": "abfss://container@account.dfs.core.windows.net/x.csv",
    "abfs://container:secret@account/x.csv?y=z": "abfs://container@account/x.csv",
    "abfs://:secret@account/container/x.csv": "abfs://account/container/x.csv",
    "https://host/x.csv?signature=hush": "https://host/x.csv",
}


@pytest.mark.parametrize(("path", "shown"), SHOWN.items())
def test_no_secret_of_a_uri_is_shown(path: str, shown: str) -> None:
    assert filesystems.shown_path(path) == shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("When x: AWS Error NO_SUCH_BUCKET during y: z (Request ID: 1)", "the bucket does not exist"),
        ("AWS Error ACCESS_DENIED during HeadObject", "access denied. Give these credentials the right to it"),
        ("AWS Error INVALID_ACCESS_KEY_ID", "the access key is not known"),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH", "the secret key does not belong to the access key"),
        ("AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 7", "the server does not answer"),
        ("something\n else (Request ID: abc).", "something else"),
    ],
)
def test_what_a_store_says_is_said_in_our_words(error: str, text: str) -> None:
    assert filesystems.os_error_text(OSError(error)) == text


@pytest.mark.parametrize("path", ["s3://k:hush@bucket/x?nonsense=hush", "s3://k:hush@bucket:no/x"])
def test_a_uri_that_is_none_is_refused_without_its_secrets(path: str) -> None:
    with pytest.raises(OutputError) as error:
        filesystems.resolve_uri(path, failure=OutputError)
    assert str(error.value).startswith("s3://bucket")
    assert " cannot be reached: " in str(error.value)
    assert "hush@" not in str(error.value)


def test_names_may_hold_what_a_uri_may_not() -> None:
    assert filesystems.resolve_uri("file:///a b/[ü]#1%20.csv")[1] == "/a b/[ü]#1 .csv"


@pytest.mark.parametrize("scheme", ["wasbs", "azure", "AZURE"])
def test_a_scheme_that_nobody_knows_is_refused_with_those_that_are(scheme: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(DataError) as error:
        filesystems.resolve_uri(f"{scheme}://lake/x.csv")
    low = scheme.lower()
    assert str(error.value) == (
        f"{low}://lake/x.csv cannot be reached: no store is known by {low}://. "
        "Expected s3:// (Amazon), gs:// (Google), abfs:// (Azure), hdfs://, https:// or a path."
    )


def test_a_scheme_may_be_in_capitals() -> None:
    assert filesystems.resolve_uri("FILE:///a/x.csv") == filesystems.resolve_uri("file:///a/x.csv")
    filesystem, location = filesystems.resolve_uri(
        "S3://anonymous@lake/x.csv?region=eu-central-1&endpoint_override=127.0.0.1:9&scheme=http"
    )
    assert (filesystem.type_name, location) == ("s3", "lake/x.csv")


def test_a_tilde_that_is_nobodys_home_is_part_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert filesystems.resolve_uri("~.csv")[1] == f"{tmp_path}/~.csv"
    monkeypatch.setenv("HOME", "/home/me")
    assert filesystems.resolve_uri("~/x.csv")[1] == "/home/me/x.csv"


def test_a_package_that_is_missing_is_named() -> None:
    if "huggingface_hub" in sys.modules:
        pytest.skip("it is there")
    with pytest.raises((MissingExtra, DataError)) as error:
        filesystems.resolve_uri("hf://datasets/a/b/x.csv")
    assert str(error.value).startswith(("reaching hf://datasets/a/b/x.csv needs another package: ", "hf://datasets/a/b/x.csv cannot be"))
