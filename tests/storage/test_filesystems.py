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
def test_common_errors_of_a_store_get_a_plain_sentence(error: str, text: str) -> None:
    assert filesystems.os_error_text(OSError(error)) == text


@pytest.mark.parametrize("path", ["s3://k:hush@bucket/x?nonsense=hush", "s3://k:hush@bucket:no/x"])
def test_an_invalid_uri_is_refused_without_showing_its_secrets(path: str) -> None:
    with pytest.raises(OutputError) as error:
        filesystems.resolve_uri(path, failure=OutputError)
    assert str(error.value).startswith("s3://bucket")
    assert " cannot be reached: " in str(error.value)
    assert "hush@" not in str(error.value)


def test_characters_that_a_uri_does_not_allow_are_percent_encoded() -> None:
    assert filesystems.resolve_uri("file:///a b/[ü]#1%20.csv")[1] == "/a b/[ü]#1 .csv"


@pytest.mark.parametrize("scheme", ["wasbs", "azure", "AZURE"])
def test_an_unknown_scheme_is_refused_and_the_known_ones_are_named(scheme: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(DataError) as error:
        filesystems.resolve_uri(f"{scheme}://lake/x.csv")
    low = scheme.lower()
    assert str(error.value) == (
        f"{low}://lake/x.csv cannot be reached: the scheme {low}:// is not known. "
        "Expected s3:// (Amazon), gs:// (Google), abfs:// (Azure), hdfs://, https:// or a path."
    )


def test_a_scheme_may_be_in_capitals() -> None:
    assert filesystems.resolve_uri("FILE:///a/x.csv") == filesystems.resolve_uri("file:///a/x.csv")
    filesystem, location = filesystems.resolve_uri(
        "S3://anonymous@lake/x.csv?region=eu-central-1&endpoint_override=127.0.0.1:9&scheme=http"
    )
    assert (filesystem.type_name, location) == ("s3", "lake/x.csv")


def test_a_tilde_of_no_user_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert filesystems.resolve_uri("~.csv")[1] == f"{tmp_path}/~.csv"
    monkeypatch.setenv("HOME", "/home/me")
    assert filesystems.resolve_uri("~/x.csv")[1] == "/home/me/x.csv"


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises((MissingExtra, DataError)) as error:
        filesystems.resolve_uri("hf://datasets/a/b/x.csv")
    assert str(error.value).startswith(("reaching hf://datasets/a/b/x.csv needs another package: ", "hf://datasets/a/b/x.csv cannot be"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "no"), "f may not be read: permission denied. Give this user the right to read it."),
        (FileNotFoundError(2, "no"), "f was removed while it was being read."),
        (OSError("zlib\n inflate  failed"), "f cannot be read: zlib inflate failed. Write or copy it again."),
        (OSError(28, "no space"), "f cannot be read: [Errno 28] no space"),
    ],
)
def test_errors_of_the_system_are_one_line(error: OSError, text: str) -> None:
    with pytest.raises(DataError) as caught, filesystems.reading("f"):
        raise error
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("error", "path", "expected"),
    [
        (OSError("Truncated compressed stream"), "s3://lake/x.csv.gz", ". Write or copy it again."),
        (OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"), "s3://lake/x.parquet", ". Write or copy it again."),
        (OSError("Expected to be able to read 1608 bytes for message body, got 1316"), "x.arrows", ". Write or copy it again."),
        (OSError("the server does not answer"), "s3://lake/x.csv", ""),
        (OSError(5, "Input/output error"), "x.csv", ""),
    ],
)
def test_only_damaged_content_is_to_be_copied_again(error: OSError, path: str, expected: str) -> None:
    assert filesystems.advice(error, path) == expected
