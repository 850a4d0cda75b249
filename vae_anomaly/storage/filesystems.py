"""Paths and URIs to file systems, how a URI may be shown, and what an object store says in our words.

Knows nothing about tables. Arrow has the file systems of S3, Google and Azure; fsspec has many more.
"""

import errno
import importlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from vae_anomaly.errors import DataError, MissingExtra, VaeAnomalyError
from vae_anomaly.redaction import redacted

_MAY_STAND = "%/:@!$&'()*+,;=~-._"
# Google's client tries for 15 minutes by itself.
_GOOGLE_TRIES = 15  # seconds
# Arrow knows the identity of a user or machine only; keys of an account are for adlfs.
_AZURE_KEYS = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
# Whose exceptions are not of the operating system though they say that a store is not there.
_CLIENTS = {"adlfs", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"}
_SCHEMES = "Expected s3:// (Amazon), gs:// (Google), abfs:// (Azure), hdfs://, https:// or a path."
_STORE_SAYS = {
    "NO_SUCH_BUCKET": "the bucket does not exist",
    "ACCESS_DENIED": "access denied. Give these credentials the right to it",
    "INVALID_ACCESS_KEY_ID": "the access key is not known",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not belong to the access key",
    "NETWORK_CONNECTION": "the server does not answer",
    "OAuth2 access token": "no credentials for Google Cloud were found. Set GOOGLE_APPLICATION_CREDENTIALS",
    "CURL error": "the server does not answer",
    "Name or service not known": "the server does not answer",
    "Connect call failed": "the server does not answer",
    "Must provide either a connection_string or account_name": "no credentials for Azure were found. Set AZURE_STORAGE_CONNECTION_STRING",
    "DefaultAzureCredential": (
        "no credentials for Azure were found. Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, "
        "or install vae-anomaly[cloud] and set AZURE_STORAGE_CONNECTION_STRING"
    ),
    "ContainerNotFound": "the container does not exist",
}


def is_uri(path: str) -> bool:
    """Whether a path names a place by a scheme, as ``s3://bucket/key`` does."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def resolve_uri(path: str, *, failure: type[VaeAnomalyError] = DataError) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it. Raises ``failure`` and MissingExtra."""
    if not path.strip() or "\0" in path:
        raise failure(f"{path!r} is no path; name a file, a folder or a glob.")
    if not is_text(path):
        raise failure(no_text(shown_path(path)))
    if not is_uri(path):
        return pafs.LocalFileSystem(), _absolute(path, failure)
    scheme = path.partition("://")[0].lower()
    path = scheme + path[len(scheme) :]  # as the standard has it, S3:// is s3://
    if scheme in {"abfs", "abfss"} and any(os.environ.get(name) for name in _AZURE_KEYS):
        return _through_fsspec(path, failure)
    try:
        with as_os_errors():
            filesystem, location = pafs.FileSystem.from_uri(_patient(_escaped(path)) if scheme in {"gs", "gcs"} else _escaped(path))
    except ImportError:
        return _through_fsspec(path, failure)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" in str(error):
            return _through_fsspec(path, failure)
        raise failure(f"{shown_path(path)} cannot be reached: {one_line(error).replace(path, shown_path(path))}") from error
    except OSError as error:
        raise failure(f"{shown_path(path)} cannot be reached: {os_error_text(error)}") from error
    return filesystem, location


def _absolute(path: str, failure: type[VaeAnomalyError]) -> str:
    location = str(home(path).absolute())
    if not is_text(location):  # the folder that we are in
        raise failure(no_text(location))
    return location


def home(path: str) -> Path:
    """Return a path with the home of the user in it; that of nobody, as in ``~.csv``, stays as it is, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _escaped(uri: str) -> str:
    """Escape what people type in names and a URI may not hold: brackets of a glob, spaces, umlauts."""
    place, question, query = uri.partition("?")
    return f"{quote(place, safe=_MAY_STAND)}{question}{query}"


def _patient(uri: str) -> str:
    """Return the URI of a Google store with a limit for how long its client tries again, where it has none."""
    if "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_GOOGLE_TRIES}"


def _through_fsspec(path: str, failure: type[VaeAnomalyError]) -> tuple[pafs.FileSystem, str]:
    """Open what Arrow has no file system for; fsspec knows many more."""
    try:
        url_to_fs = importlib.import_module("fsspec.core").url_to_fs
    except ImportError:
        raise MissingExtra(f"reaching {shown_path(path)} needs more file systems: pip install 'vae-anomaly[cloud]'.") from None
    try:
        with as_os_errors():
            filesystem, location = url_to_fs(path)
    except ImportError as error:
        raise MissingExtra(f"reaching {shown_path(path)} needs another package: {one_line(error)}.") from error
    except (ValueError, OSError) as error:
        if str(error).startswith("Protocol not known"):
            scheme = path.partition("://")[0]
            raise failure(f"{shown_path(path)} cannot be reached: no store is known by {scheme}://. {_SCHEMES}") from error
        raise failure(f"{shown_path(path)} cannot be reached: {os_error_text(error).replace(path, shown_path(path))}") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise what a client of a store raises as an OSError: Arrow gives what Azure says as an exception of no kind, fsspec as any."""
    try:
        yield
    except Exception as error:
        # The other exceptions of Arrow are about what is in a file.
        if type(error) is pa.ArrowException or any(_of_a_client(one) for one in (error, error.__cause__)):
            raise OSError(str(error)) from error
        raise


def _of_a_client(error: BaseException | None) -> bool:
    return not isinstance(error, OSError) and type(error).__module__.partition(".")[0].rstrip("0123456789") in _CLIENTS


def shown_path(path: str) -> str:
    """Return a path or URI as it may be shown: what may be a secret in a URI, its user, password and query, is left out.

    >>> shown_path("s3://key:secret@bucket/x.csv?endpoint_override=localhost")
    's3://bucket/x.csv'
    """
    uri = re.match(r"([A-Za-z][A-Za-z0-9+.-]+://)(?:([^/@]*)@)?([^?]*)", path)
    if uri is None:
        return path
    # In Azure the name before the @ is the container.
    container = f"{(uri[2] or '').split(':')[0]}@" if uri[1].startswith("abfs") and uri[2] and uri[2][0] != ":" else ""
    return f"{uri[1]}{container}{uri[3]}"


def os_error_text(error: Exception) -> str:
    """Return what an object store says in our words where it is common, else its own text on one line."""
    text = re.sub(r" \(Request ID: [^)]*\)", "", str(error))
    return next((ours for theirs, ours in _STORE_SAYS.items() if theirs in text), one_line(Exception(text)))


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 300 characters, without a full stop."""
    return redacted(" ".join(str(error).split()))[:300].rstrip(".")


def files_below(
    filesystem: pafs.FileSystem, location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool] = lambda _: True
) -> list[pafs.FileInfo]:
    """Return the wanted files below a folder, sorted by path; none where there is no folder. ``enters`` says which folders may have some.

    Raises DataError for a wanted file whose name is not UTF-8, and for a folder that may not be read; where such a name is that of a file
    nobody wants, it is passed over, as are links that lead nowhere.
    """
    if filesystem.type_name == "local":
        infos = list(_walked(location, wanted, enters))
    else:
        found = filesystem.get_file_info(pafs.FileSelector(location, recursive=True, allow_not_found=True))
        infos = [info for info in found if wanted(info.path)]
    return sorted((info for info in infos if info.type == pafs.FileType.File), key=lambda info: str(info.path))


def _walked(
    location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[pafs.FileInfo]:
    """Yield the wanted files in and below a folder; one that is also ``above`` itself, by a link, is not entered again."""
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = []
    with _passing_over(location), os.scandir(location) as entries:
        here = os.stat(location)  # noqa: PTH116  # as many as there are folders
        inside = above | {(here.st_dev, here.st_ino)}
        for entry in entries:
            with _passing_over(entry.path):
                if entry.is_dir():
                    found = entry.stat()
                    if (found.st_dev, found.st_ino) not in inside and enters(entry.path):
                        folders.append((entry.path, inside))
                elif wanted(entry.path):
                    if not is_text(entry.path):
                        raise DataError(no_text(entry.path))
                    yield _info(entry.path)
    for path, seen in folders:
        yield from _walked(path, wanted, enters, seen)


@contextmanager
def _passing_over(path: str) -> Iterator[None]:
    """Pass over what went while we looked, and a link that leads nowhere or to itself."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise


def _info(path: str) -> pafs.FileInfo:
    found = os.stat(path)  # noqa: PTH116  # as many as there are files
    kind = pafs.FileType.File if stat.S_ISREG(found.st_mode) else pafs.FileType.Unknown
    return pafs.FileInfo(path, kind, mtime_ns=found.st_mtime_ns, size=found.st_size)


def is_text(path: str) -> bool:
    """Whether a path is text; Python gives the bytes that are none as halves of characters."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_text(path: str) -> str:
    r"""Say what to do about a path that is no text: rename it, or let Python read names as what they are.

    >>> no_text("in/M\udcfc.csv")
    'in/M\\xfc.csv has a name that is not UTF-8; rename it.'
    """
    name = os.fsencode(path)
    shown = name.decode(errors="backslashreplace")
    if shown.encode() != name:
        return f"{shown} has a name that is not UTF-8; rename it."
    return f"{shown} has a name that is not {sys.getfilesystemencoding()}, as the locale says that names are; set LC_ALL=C.UTF-8."
