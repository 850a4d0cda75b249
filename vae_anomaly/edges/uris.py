"""Paths and URIs to file systems, how a URI may be shown, and what an object store says in our words.

Knows nothing about tables. Arrow has the file systems of S3, Google and Azure; fsspec has many more.
"""

import importlib
import re
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from vae_anomaly.errors import DataError, MissingExtra, VaeAnomalyError
from vae_anomaly.redact import redacted

_MAY_STAND = "%/:@!$&'()*+,;=~-._"
_STORE_SAYS = {
    "NO_SUCH_BUCKET": "the bucket does not exist",
    "ACCESS_DENIED": "access denied. Give these credentials the right to it",
    "INVALID_ACCESS_KEY_ID": "the access key is not known",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not belong to the access key",
    "NETWORK_CONNECTION": "the server does not answer",
}


def is_uri(path: str) -> bool:
    """Whether a path names a place by a scheme, as ``s3://bucket/key`` does."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def resolve(path: str, *, failure: type[VaeAnomalyError] = DataError) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it. Raises ``failure`` and MissingExtra."""
    if not path.strip() or "\0" in path:
        raise failure(f"{path!r} is no path; name a file, a folder or a glob.")
    if not is_uri(path):
        try:
            return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
        except RuntimeError as error:
            raise failure(f"{path} does not exist: {one_line(error)}") from error
    try:
        filesystem, location = pafs.FileSystem.from_uri(_escaped(path))
    except ImportError:
        return _through_fsspec(path, failure)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" in str(error):
            return _through_fsspec(path, failure)
        raise failure(f"{shown_path(path)} cannot be reached: {one_line(error).replace(path, shown_path(path))}") from error
    except OSError as error:
        raise failure(f"{shown_path(path)} cannot be reached: {said(error)}") from error
    return filesystem, location


def _escaped(uri: str) -> str:
    """Escape what people type in names and a URI may not hold: brackets of a glob, spaces, umlauts."""
    place, question, query = uri.partition("?")
    return f"{quote(place, safe=_MAY_STAND)}{question}{query}"


def _through_fsspec(path: str, failure: type[VaeAnomalyError]) -> tuple[pafs.FileSystem, str]:
    """Open what Arrow has no file system for; fsspec knows many more."""
    try:
        url_to_fs = importlib.import_module("fsspec.core").url_to_fs
    except ImportError:
        raise MissingExtra(f"reaching {shown_path(path)} needs more file systems: pip install 'vae-anomaly[cloud]'.") from None
    try:
        filesystem, location = url_to_fs(path)
    except ImportError as error:
        raise MissingExtra(f"reaching {shown_path(path)} needs another package: {one_line(error)}.") from error
    except (ValueError, OSError) as error:
        raise failure(f"{shown_path(path)} cannot be reached: {one_line(error).replace(path, shown_path(path))}") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location


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


def said(error: OSError) -> str:
    """Return what an object store says in our words where it is common, else its own text on one line."""
    text = re.sub(r" \(Request ID: [^)]*\)", "", str(error))
    return next((ours for theirs, ours in _STORE_SAYS.items() if theirs in text), one_line(OSError(text)))


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 300 characters, without a full stop."""
    return redacted(" ".join(str(error).split()))[:300].rstrip(".")
