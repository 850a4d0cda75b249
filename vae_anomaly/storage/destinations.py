"""Where outputs go: a file on this machine, or one at a URI that is made here and then sent there.

Knows nothing about what is in them. What is at a URI is whole or absent: an object store shows an upload when it has all of it, and
what an upload that failed may have left is removed.
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
from vae_anomaly.storage.filesystems import as_os_errors, home, is_uri, os_error_text, resolve_uri, shown_path

_PIECE = 8 << 20  # bytes read at a time while sending: more than the smallest part of a multipart upload
# In these stores a folder is the beginning of a name, and need not be made.
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
        """Return the bytes of the file, None where there is none. Raises OutputError."""
        with _sending(self.shown):
            info = self.filesystem.get_file_info(self.location)
        return int(info.size) if info.type == pafs.FileType.File else None

    def read(self, most: int) -> bytes | None:
        """Return what is in a file of at most so many bytes; None where there is none, or a larger one. Raises OutputError."""
        size = self.size()
        if size is None or size > most:
            return None
        with _sending(self.shown), self.filesystem.open_input_stream(self.location) as stream:
            return bytes(stream.read())

    def write(self, content: bytes) -> None:
        """Replace the file. Raises OutputError."""
        self._replace(iter([content]), len(content))

    def send(self, path: Path) -> None:
        """Replace the file by one of this machine. Raises OutputError."""
        with path.open("rb") as file:
            self._replace(iter(lambda: file.read(_PIECE), b""), path.stat().st_size)

    def remove(self) -> None:
        """Remove the file if it is there. Raises OutputError."""
        with _sending(self.shown), suppress(FileNotFoundError):
            self.filesystem.delete_file(self.location)

    def _replace(self, pieces: Iterator[bytes], size: int) -> None:
        with _sending(self.shown):
            folder = self.location.rpartition("/")[0]
            if self.filesystem.type_name not in _WITHOUT_FOLDERS:
                self.filesystem.create_dir(folder)
            stream = self.filesystem.open_output_stream(self.location)
            try:
                for piece in pieces:
                    stream.write(piece)
                stream.close()
            except BaseException:
                # To let go of the stream would complete the upload of half a file.
                with suppress(OSError):
                    stream.close()
                with suppress(OSError):
                    self.filesystem.delete_file(self.location)
                raise
        if self.size() != size:
            raise OutputError(f"{self.shown} did not arrive whole. Run the job again.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An output: made at ``path``; where it has a ``remote``, that is the output and ``path`` only where it is made."""

    path: Path
    remote: Remote | None = None

    def __str__(self) -> str:
        """The output as texts name it."""
        return self.remote.shown if self.remote else str(self.path)

    def size(self) -> int | None:
        """Return the bytes of the output, None where there is none."""
        if self.remote:
            return self.remote.size()
        with atomic.writing(self.path):
            return self.path.stat().st_size if self.path.exists() else None

    def is_at(self, filesystem: pafs.FileSystem, location: str) -> bool:
        """Whether this is that file."""
        if self.remote:
            return self.remote.location == location and self.remote.filesystem.type_name == filesystem.type_name
        return str(self.path.absolute()) == location

    def holds(self, filesystem: pafs.FileSystem, location: str) -> bool:
        """Whether a file lies in or below this folder."""
        if self.remote:
            return location.startswith(f"{self.remote.location}/") and self.remote.filesystem.type_name == filesystem.type_name
        return location.startswith(f"{self.path.absolute()}/")

    def beside(self, name: str) -> "Destination":
        """Return the place of another file in the same folder."""
        return Destination(path=self.path.with_name(name), remote=self.remote.beside(name) if self.remote else None)

    def tidy(self) -> None:
        """Remove the empty folders where an output was made that is elsewhere."""
        if self.remote:
            for folder in [*(Path(name) for name, _, _ in os.walk(self.path, topdown=False)), self.path, self.path.parent]:
                with suppress(OSError):
                    folder.rmdir()

    def below(self, name: str) -> "Destination":
        """Return the place of a file in this folder."""
        return Destination(path=self.path / name, remote=self.remote.below(name) if self.remote else None)


def destination_of(destination: str | Path) -> Destination:
    """Return the place of an output that is named by a path or a URI.

    What goes to a URI is made in a folder of the user's cache that belongs to that URI alone, so that a killed job finds it again.
    Raises OutputError and MissingExtra.
    """
    text = str(destination)
    here = local_path(text)
    if here is not None:
        return Destination(path=here)
    shown = shown_path(text).rstrip("/")
    if shown.lower().startswith(("http://", "https://")):  # before hours of work, of which nothing could be sent
        raise OutputError(f"{shown} cannot be written to: pages of the web can only be read. Write elsewhere with -o.")
    filesystem, location = resolve_uri(text, failure=OutputError)
    name = PurePosixPath(location.rstrip("/")).name
    path = staging() / hashlib.sha256(shown.encode()).hexdigest()[:16] / name
    with atomic.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return Destination(path=path, remote=Remote(filesystem=filesystem, location=location.rstrip("/"), shown=shown))


def staging() -> Path:
    """Return where outputs are made that go elsewhere: ``$XDG_CACHE_HOME/vae-anomaly/outgoing``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-anomaly" / "outgoing"


def is_folder(destination: str | Path) -> bool:
    """Whether a destination is a folder: it ends with a slash, exists as one here, or its name has no ending."""
    text = str(destination)
    name = shown_path(text).rpartition("/")[2]
    here = local_path(text)
    # Path.is_dir raises for a name that no file system takes.
    return text.endswith("/") or not re.search(r"\.[^./]+$", name) or (here is not None and os.path.isdir(here))  # noqa: PTH112


def local_path(text: str) -> Path | None:
    """Return the path on this machine that a text names, be it as a file:// URI; None where it names a place elsewhere.

    >>> local_path("file:///tmp/a%20b.csv"), local_path("s3://bucket/a.csv")
    (PosixPath('/tmp/a b.csv'), None)
    """
    here = re.fullmatch(r"(?i:file://(?:localhost)?)(/[^?]*)", text)
    if here:
        return Path(unquote(here[1]))
    return None if is_uri(text) else home(text)


@contextmanager
def _sending(shown: str) -> Iterator[None]:
    """Turn what a store says into one line."""
    try:
        with as_os_errors():
            yield
    except NotImplementedError as error:  # fsspec says it of the web and of archives
        raise OutputError(f"{shown} cannot be written to: what is there can only be read. Write elsewhere with -o.") from error
    except OSError as error:
        raise OutputError(f"{shown} cannot be written: {os_error_text(error)}. Correct that or write elsewhere with -o.") from error
