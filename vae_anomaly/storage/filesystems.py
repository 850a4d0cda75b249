"""Resolve paths and URIs to Arrow file systems, walk folders, and translate errors of the system and of stores.

Arrow has clients for S3, Google Cloud Storage and Azure; other schemes go through fsspec. Tables are handled in ``tables``.
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
from vae_anomaly.messages import one_line

# Characters of a path that RFC 3986 allows without percent-encoding.
_URI_SAFE = "%/:@!$&'()*+,;=~-._"
# Seconds; the default of Google's client is 15 minutes.
_GOOGLE_RETRY_LIMIT = 15
# Arrow authenticates to Azure as a user or a machine only; account keys need adlfs.
_AZURE_KEYS = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
# Packages whose exceptions report an unreachable store without being an OSError.
_CLIENTS = {"adlfs", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3"}
_SCHEMES = "Expected s3:// (Amazon), gs:// (Google), abfs:// (Azure), hdfs://, https:// or a path."
# Part of an error text of a client: the text for the user.
_STORE_ERRORS = {
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
# Errors about the content of a file, which an object store reports like any other.
_DAMAGED = re.compile("inflate failed|decompress failed|Truncated compressed stream|deserialize thrift", re.IGNORECASE)


def is_uri(path: str) -> bool:
    """Whether a path has a URI scheme, such as ``s3://bucket/key``."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def resolve_uri(path: str, *, failure: type[VaeAnomalyError] = DataError) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path within it.

    Raises
    ------
    failure
        The path is empty or not UTF-8, the scheme is unknown, or the store cannot be reached.
    MissingExtra
        The scheme needs fsspec or a package of its own.
    """
    if not path.strip() or "\0" in path:
        raise failure(f"{path!r} is not a path; expected a file, a folder or a glob.")
    if not is_unicode(path):
        raise failure(not_unicode_error(shown_path(path)))
    if not is_uri(path):
        return pafs.LocalFileSystem(), _absolute(path, failure)
    scheme = path.partition("://")[0].lower()
    path = scheme + path[len(scheme) :]  # schemes are case-insensitive (RFC 3986, 3.1); Arrow takes small letters only
    if scheme in {"abfs", "abfss"} and any(os.environ.get(name) for name in _AZURE_KEYS):
        return _through_fsspec(path, failure)
    try:
        with as_os_errors():
            uri = _percent_encoded(path)
            filesystem, location = pafs.FileSystem.from_uri(_limit_retries(uri) if scheme in {"gs", "gcs"} else uri)
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
    location = str(expand_home(path).absolute())
    if not is_unicode(location):  # the name of the working folder may be at fault
        raise failure(not_unicode_error(location))
    return location


def expand_home(path: str) -> Path:
    """Expand ``~`` to the user's home folder; like a shell, leave ``~name`` alone where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _percent_encoded(uri: str) -> str:
    """Percent-encode characters that a URI does not allow but file names and globs have: brackets, spaces, umlauts."""
    path, question, query = uri.partition("?")
    return f"{quote(path, safe=_URI_SAFE)}{question}{query}"


def _limit_retries(uri: str) -> str:
    """Add a retry limit to the URI of a Google store that has none."""
    if "retry_limit_seconds=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_GOOGLE_RETRY_LIMIT}"


def _through_fsspec(path: str, failure: type[VaeAnomalyError]) -> tuple[pafs.FileSystem, str]:
    """Resolve a URI whose scheme Arrow has no client for."""
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
            raise failure(f"{shown_path(path)} cannot be reached: the scheme {scheme}:// is not known. {_SCHEMES}") from error
        raise failure(f"{shown_path(path)} cannot be reached: {os_error_text(error).replace(path, shown_path(path))}") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise errors of a store's client as OSError: Arrow reports those of Azure as a bare ArrowException, fsspec lets any type through."""
    try:
        yield
    except Exception as error:
        # Subclasses of ArrowException are about the content of a file.
        if type(error) is pa.ArrowException or any(_is_client_error(one) for one in (error, error.__cause__)):
            raise OSError(str(error)) from error
        raise


def _is_client_error(error: BaseException | None) -> bool:
    return not isinstance(error, OSError) and type(error).__module__.partition(".")[0].rstrip("0123456789") in _CLIENTS


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raise errors of the operating system and of stores while ``path`` is read as a DataError of one line."""
    try:
        with as_os_errors():
            yield
    except FileNotFoundError as error:
        raise DataError(f"{path} was removed while it was being read.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {os_error_text(error)}{advice(error, path)}") from error


def advice(error: OSError, path: str) -> str:
    """Return what to do, after a full stop, where the content of a file is at fault and not the access to it; else an empty text."""
    # Errors of the operating system have a number; Arrow's about content have none, and neither have those of object stores.
    content = error.errno is None and "://" not in path
    return ". Write or copy it again." if content or _DAMAGED.search(str(error)) else ""


def shown_path(path: str) -> str:
    """Return a path or URI for messages: without user, password and query, which may be secrets.

    >>> shown_path("s3://key:secret@bucket/x.csv?endpoint_override=localhost")
    's3://bucket/x.csv'
    """
    uri = re.match(r"([A-Za-z][A-Za-z0-9+.-]+://)(?:([^/@]*)@)?([^?]*)", path)
    if uri is None:
        return path
    # In a URI of Azure the name before the @ is the container, not a user.
    container = f"{(uri[2] or '').split(':')[0]}@" if uri[1].startswith("abfs") and uri[2] and uri[2][0] != ":" else ""
    return f"{uri[1]}{container}{uri[3]}"


def os_error_text(error: Exception) -> str:
    """Return a plain sentence for a common error of an object store, else the error's own text on one line."""
    text = re.sub(r" \(Request ID: [^)]*\)", "", str(error))
    return next((plain for part, plain in _STORE_ERRORS.items() if part in text), one_line(text))


def files_below(
    filesystem: pafs.FileSystem, location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool] = lambda _: True
) -> list[pafs.FileInfo]:
    """Return the files below a folder for which ``wanted`` is true, sorted by path; none if the folder does not exist.

    ``enters``: whether to look into a subfolder. Broken links are skipped, and so are unwanted files whose names are not UTF-8.

    Raises
    ------
    DataError
        A wanted file has a name that is not UTF-8, or a folder may not be read.
    """
    if filesystem.type_name == "local":
        infos = list(_walk(location, wanted, enters))
    else:
        entries = filesystem.get_file_info(pafs.FileSelector(location, recursive=True, allow_not_found=True))
        infos = [info for info in entries if wanted(info.path)]
    return sorted((info for info in infos if info.type == pafs.FileType.File), key=lambda info: str(info.path))


def _walk(
    location: str, wanted: Callable[[str], bool], enters: Callable[[str], bool], ancestors: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[pafs.FileInfo]:
    """Yield the wanted files in and below a folder; a link back to one of its ``ancestors`` (device, inode) is not followed."""
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = []
    with _skipping_missing(location), os.scandir(location) as entries:
        status = os.stat(location)  # noqa: PTH116  # once for every folder: Path costs more than the call
        visited = ancestors | {(status.st_dev, status.st_ino)}
        for entry in entries:
            with _skipping_missing(entry.path):
                if entry.is_dir():
                    status = entry.stat()
                    if (status.st_dev, status.st_ino) not in visited and enters(entry.path):
                        folders.append((entry.path, visited))
                elif wanted(entry.path):
                    if not is_unicode(entry.path):
                        raise DataError(not_unicode_error(entry.path))
                    yield _info(entry.path)
    for path, above in folders:
        yield from _walk(path, wanted, enters, above)


@contextmanager
def _skipping_missing(path: str) -> Iterator[None]:
    """Skip a file that was removed meanwhile, a broken link, and a link to itself; raise other errors with this path."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            with reading(path):
                raise


def _info(path: str) -> pafs.FileInfo:
    status = os.stat(path)  # noqa: PTH116  # once for every file: Path costs more than the call
    kind = pafs.FileType.File if stat.S_ISREG(status.st_mode) else pafs.FileType.Unknown
    return pafs.FileInfo(path, kind, mtime_ns=status.st_mtime_ns, size=status.st_size)


def is_unicode(path: str) -> bool:
    """Whether a path is valid Unicode; Python decodes other bytes of a file name to lone surrogates (PEP 383)."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_unicode_error(path: str) -> str:
    r"""Return the error text for a path that is not valid Unicode: rename the file, or correct the locale.

    >>> not_unicode_error("in/M\udcfc.csv")
    'in/M\\xfc.csv has a name that is not UTF-8; rename it.'
    """
    name = os.fsencode(path)
    text = name.decode(errors="backslashreplace")
    if text.encode() != name:
        return f"{text} has a name that is not UTF-8; rename it."
    return f"{text} has a name that is not {sys.getfilesystemencoding()}, the encoding of the locale; set LC_ALL=C.UTF-8."
