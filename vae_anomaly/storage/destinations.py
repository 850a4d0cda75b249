"""Output destinations: a local path, or a URI whose output is written locally first and uploaded when complete.

A remote output is whole or absent: an object store shows an upload only once it is complete, and the remains of a failed one are removed.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow.fs as pafs

from vae_anomaly.errors import OutputError
from vae_anomaly.storage import atomic
from vae_anomaly.storage.filesystems import as_os_errors, expand_home, is_unicode, is_uri, os_error_text, resolve_uri, shown_path
from vae_anomaly.storage.lakehouse import LAKE_NAMES, LOG_FOLDERS, LakeFormat, enclosing_table, lake_format

_PIECE = 8 << 20  # bytes per write of an upload: above the minimum size of a part of a multipart upload (5 MiB)
# Object stores: a folder is a prefix of a name and need not be created.
_WITHOUT_FOLDERS = {"s3", "gcs", "abfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file at a URI; ``shown`` is the URI without secrets."""

    filesystem: pafs.FileSystem = field(repr=False)
    location: str
    shown: str

    def below(self, name: str) -> "Remote":
        """Return the file ``name`` in this folder."""
        return Remote(filesystem=self.filesystem, location=f"{self.location}/{name}", shown=f"{self.shown}/{name}")

    def beside(self, name: str) -> "Remote":
        """Return the file ``name`` in the same folder."""
        location, shown = self.location.rpartition("/")[0], self.shown.rpartition("/")[0]
        return Remote(filesystem=self.filesystem, location=f"{location}/{name}", shown=f"{shown}/{name}")

    def size(self) -> int | None:
        """Return the size in bytes, None if the file does not exist. Raises OutputError."""
        with _output_errors(self.shown):
            info = self.filesystem.get_file_info(self.location)
        return int(info.size) if info.type == pafs.FileType.File else None

    def read(self, most: int) -> bytes | None:
        """Return the content; None if the file is missing or has more than ``most`` bytes. Raises OutputError."""
        size = self.size()
        if size is None or size > most:
            return None
        with _output_errors(self.shown), self.filesystem.open_input_stream(self.location) as stream:
            return bytes(stream.read())

    def write(self, content: bytes) -> None:
        """Replace the file. Raises OutputError."""
        self._replace(iter([content]), len(content))

    def send(self, path: Path) -> None:
        """Replace the file with a local one. Raises OutputError."""
        with path.open("rb") as file:
            self._replace(iter(lambda: file.read(_PIECE), b""), path.stat().st_size)

    def remove(self) -> None:
        """Remove the file if it exists. Raises OutputError."""
        with _output_errors(self.shown), suppress(FileNotFoundError):
            self.filesystem.delete_file(self.location)

    def _replace(self, pieces: Iterator[bytes], size: int) -> None:
        with _output_errors(self.shown):
            folder = self.location.rpartition("/")[0]
            if self.filesystem.type_name not in _WITHOUT_FOLDERS:
                self.filesystem.create_dir(folder)
            stream = self.filesystem.open_output_stream(self.location)
            try:
                for piece in pieces:
                    stream.write(piece)
                stream.close()
            except BaseException:
                # Garbage collection of the open stream would complete the upload of half a file.
                with suppress(OSError):
                    stream.close()
                with suppress(OSError):
                    self.filesystem.delete_file(self.location)
                raise
        if self.size() != size:
            raise OutputError(f"{self.shown} was not uploaded completely. Run the job again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Destination of an output. With a ``remote``, the output is written at ``path`` and then uploaded; else ``path`` is the output."""

    path: Path
    remote: Remote | None = None

    def __str__(self) -> str:
        """Return the destination as shown in messages, without secrets."""
        return self.remote.shown if self.remote else str(self.path)

    def size(self) -> int | None:
        """Return the size in bytes, None if the output does not exist. Raises OutputError."""
        if self.remote:
            return self.remote.size()
        with atomic.writing(self.path):
            return self.path.stat().st_size if self.path.exists() else None

    def is_at(self, filesystem: pafs.FileSystem, location: str) -> bool:
        """Whether this destination is the given file."""
        if self.remote:
            return self.remote.location == location and self.remote.filesystem.type_name == filesystem.type_name
        return str(self.path.absolute()) == location

    def holds(self, filesystem: pafs.FileSystem, location: str) -> bool:
        """Whether the given file is in this folder or a subfolder of it."""
        if self.remote:
            return location.startswith(f"{self.remote.location}/") and self.remote.filesystem.type_name == filesystem.type_name
        return location.startswith(f"{self.path.absolute()}/")

    def beside(self, name: str) -> "Destination":
        """Return the destination ``name`` in the same folder."""
        return Destination(path=self.path.with_name(name), remote=self.remote.beside(name) if self.remote else None)

    def tidy(self) -> None:
        """Remove the empty local folders in which a remote output was written."""
        if self.remote:
            for folder in [*(Path(name) for name, _, _ in os.walk(self.path, topdown=False)), self.path, self.path.parent]:
                with suppress(OSError):
                    folder.rmdir()

    def below(self, name: str) -> "Destination":
        """Return the destination ``name`` in this folder."""
        return Destination(path=self.path / name, remote=self.remote.below(name) if self.remote else None)


def destination_of(destination: str | Path) -> Destination:
    """Resolve a path or URI to a destination.

    Output for a URI is written to a folder of the user's cache, one for each URI, so that a resumed job finds its checkpoints.
    Raises OutputError and MissingExtra.
    """
    text = str(destination)
    local = local_path(text)
    if local is not None:
        return Destination(path=local)
    shown = shown_path(text).rstrip("/")
    if shown.lower().startswith(("http://", "https://")):  # refused before hours of scoring that could not be uploaded
        raise OutputError(f"{shown} cannot be written to: web pages are read-only. Write elsewhere with -o.")
    filesystem, location = resolve_uri(text, failure=OutputError)
    name = PurePosixPath(location.rstrip("/")).name
    path = staging() / hashlib.sha256(shown.encode()).hexdigest()[:16] / name
    with atomic.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return Destination(path=path, remote=Remote(filesystem=filesystem, location=location.rstrip("/"), shown=shown))


def staging() -> Path:
    """Return the folder in which remote outputs are written first: ``$XDG_CACHE_HOME/vae-anomaly/outgoing``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-anomaly" / "outgoing"


def is_folder(destination: str | Path) -> bool:
    """Whether a destination is a folder: it ends with a slash, is an existing local folder, or its name has no suffix."""
    text = str(destination)
    name = shown_path(text).rpartition("/")[2]
    local = local_path(text)
    # Path.is_dir raises for names that are invalid on every file system.
    return text.endswith("/") or not re.search(r"\.[^./]+$", name) or (local is not None and os.path.isdir(local))  # noqa: PTH112


def table_at(to: Destination) -> tuple[str, LakeFormat] | None:
    """Return the lakehouse table that a destination is, or is in, by its location, and its format; None if there is none."""
    filesystem = to.remote.filesystem if to.remote else pafs.LocalFileSystem()
    location = to.remote.location if to.remote else str(to.path.absolute())
    folders = () if to.remote else (to.path.absolute(), *to.path.absolute().parents)
    # Path.is_dir raises for names that are invalid on every file system.
    with_log = to.remote or any(os.path.isdir(folder / name) for folder in folders for name in LOG_FOLDERS)  # noqa: PTH112
    if not with_log or not is_unicode(location):
        return None
    try:
        with as_os_errors():
            lake = lake_format(filesystem, location)
            return (location, lake) if lake is not None else enclosing_table(filesystem, location)
    except (OSError, ValueError):  # writing there fails likewise, and says why
        return None


def refuse_table(to: Destination) -> None:
    """Refuse plain files in a lakehouse table, which would be no part of it. Raises OutputError."""
    found = table_at(to)
    if found is not None:
        advice = "Give --format delta to write a version of it, or name" if found[1] == "delta" else "Name"
        raise OutputError(f"{table_text(to, found)}, and files written there would be no part of it. {advice} another output with -o.")


def table_text(to: Destination, table: tuple[str, LakeFormat]) -> str:
    """Return what to say of a destination that is a table or is in one.

    >>> table_text(Destination(path=Path("/lake/t/new.csv")), ("/lake/t", "iceberg"))
    '/lake/t/new.csv is in the Iceberg table /lake/t'
    """
    location = to.remote.location if to.remote else str(to.path.absolute())
    name = LAKE_NAMES[table[1]]
    if table[0] != location:
        return f"{to} is in the {name} {table[0]}"
    return f"{to} is the folder of a{'n' if name[0] == 'I' else ''} {name}"


def names_in(filesystem: pafs.FileSystem, location: str, shown: str) -> set[str] | None:
    """Return the names in a folder, empty if it does not exist, None for a file. Raises OutputError."""
    with _output_errors(shown):
        if filesystem.get_file_info(location).type == pafs.FileType.File:
            return None
        return {info.base_name for info in filesystem.get_file_info(pafs.FileSelector(location, allow_not_found=True))}


def local_path(text: str) -> Path | None:
    """Return the local path given as a path or a file:// URI, None for any other URI.

    >>> local_path("file:///tmp/a%20b.csv"), local_path("s3://bucket/a.csv")
    (PosixPath('/tmp/a b.csv'), None)
    """
    file_uri = re.fullmatch(r"(?i:file://(?:localhost)?)(/[^?]*)", text)
    if file_uri:
        return Path(unquote(file_uri[1]))
    return None if is_uri(text) else expand_home(text)


@contextmanager
def _output_errors(shown: str) -> Iterator[None]:
    """Turn errors of a file system into OutputError with one line."""
    try:
        with as_os_errors():
            yield
    except NotImplementedError as error:  # raised by fsspec for web pages and archives
        raise OutputError(f"{shown} cannot be written to: this file system is read-only. Write elsewhere with -o.") from error
    except OSError as error:
        raise OutputError(f"{shown} cannot be written: {os_error_text(error)}. Correct that or write elsewhere with -o.") from error
