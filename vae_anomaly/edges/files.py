"""From what the user typed to data files: paths, folders, globs and URIs; formats, sizes and partition folders.

Opens nothing but the first bytes of a file. Knows nothing about columns, rows or models. Everything goes through
``pyarrow.fs``, so a local folder and a bucket take the same way.
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

import pyarrow.fs as pafs

from vae_anomaly.edges import compression
from vae_anomaly.edges.listing import files_below
from vae_anomaly.edges.uris import as_os_errors, home, one_line, resolve, said, shown_path
from vae_anomaly.errors import DataError
from vae_anomaly.redact import redacted

__all__ = ["Format", "Listed", "TableFile", "digest", "find_files", "list_files", "one_line", "reading", "roots", "table_file"]

Format = Literal["delimited", "parquet", "arrow"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSED = tuple(compression.CODECS)
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}  # the last: a stream of Arrow
# What people hand in that is no table we read, and what to do with it.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save it as CSV or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x89HDF": "HDF5; save the table as Parquet",
    b"SQLite format 3": "a SQLite database; export the table as CSV",
    b"%PDF": "a PDF",
    b"\x89PNG": "an image",
    b"ORC": "ORC; write it as Parquet",
    b"Obj\x01": "Avro; write it as Parquet",
    b"FEA1": "Feather version 1; write it again with a current pyarrow",
    b"version https://": "a pointer of Git LFS; fetch the file itself with git lfs pull",
}
_FOREIGN_SUFFIXES = (".json", ".jsonl", ".ndjson", ".xml", ".html", ".yaml", ".toml", ".md", ".py", ".ipynb")
# Scores of an earlier run lie beside their input, and rows that it left out; a folder or glob must not score them again.
_OWN = re.compile(r"(\.scores\.(csv|parquet)|\.quarantine\.csv)$")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """One data file: ``path`` as errors name it, ``location`` as its file system does.

    ``key`` is the path below what the user named, ``modified`` nanoseconds since 1970, ``partition`` the ``name=value``
    folders between.
    """

    path: str
    location: str
    key: str
    format: Format
    size: int
    modified: int
    partition: tuple[tuple[str, str | None], ...] = ()
    filesystem: pafs.FileSystem = field(repr=False, compare=False)

    @property
    def identity(self) -> str:
        """``location`` without the secrets of a URI: what manifests say, and what a file is known again by."""
        return redacted(self.location)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file by its name, size (bytes) and time of change (ns since 1970), not opened; ``root`` is the folder that was named."""

    path: str
    location: str
    root: str
    size: int
    modified: int
    filesystem: pafs.FileSystem = field(repr=False, compare=False)

    @property
    def key(self) -> PurePosixPath:
        """The path below what the user named."""
        return PurePosixPath(self.location).relative_to(self.root)

    @property
    def identity(self) -> str:
        """``location`` without the secrets of a URI: what manifests say, and what a file is known again by."""
        return redacted(self.location)


def find_files(paths: Sequence[str]) -> tuple[TableFile, ...]:
    """Return the data files behind paths, folders, globs and URIs, in the order given, folders and globs sorted by name.

    Raises
    ------
    DataError
        Nothing is there, it may not be read, or it is no table.
    """
    return tuple(table_file(file) for file in list_files(paths))


def list_files(paths: Sequence[str], *, none_yet: bool = False) -> tuple[Listed, ...]:
    """Return what ``find_files`` would open; with ``none_yet`` a folder may be empty and a glob match nothing. Raises DataError."""
    listed: dict[tuple[str, str], Listed] = {}
    for path in map(str, paths):
        here, complaint = _list(path)
        if complaint and not none_yet:
            raise DataError(complaint)
        listed |= {(file.filesystem.type_name, file.location): file for file in here}
    if not listed and not none_yet:
        raise DataError("no data file was given; name a CSV or Parquet file, a folder or a glob.")
    return tuple(listed.values())


def digest(files: Iterable[TableFile]) -> str:
    """sha256 (hex) over names, sizes and times of change; stable while nobody touches the files."""
    lines = [f"{f.key}\0{f.size}\0{f.modified}\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what the operating system says while reading ``path`` into one line."""
    try:
        with as_os_errors():
            yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there any more; it was when reading began.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {said(error)}{compression.advice(error, path)}") from error


def roots(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the folders that paths name, as their file systems do: of a file that which it is in, of a glob what stands before it."""
    return tuple(_named(str(path))[2] for path in paths)


def _list(path: str) -> tuple[list[Listed], str | None]:
    """Return the files behind a path, and what to say where there is none yet."""
    filesystem, info, root = _named(path)
    shown = shown_path(path)
    with reading(shown):
        if info.type == pafs.FileType.File:
            return [_listed(filesystem, info, root=root, shown=shown)], None
        if info.type == pafs.FileType.Directory:
            return _folder(filesystem, root, shown)
        return _glob(filesystem, info.path, root, shown)


def _named(path: str) -> tuple[pafs.FileSystem, pafs.FileInfo, str]:
    """Return the file system of a path, what is there, and the folder that it names."""
    filesystem, location = resolve(path)
    shown = shown_path(path)
    with reading(shown):
        info = filesystem.get_file_info(location)
    if info.type == pafs.FileType.File:
        return filesystem, info, str(PurePosixPath(location).parent)
    if info.type == pafs.FileType.Directory:
        return filesystem, info, location.rstrip("/")
    if info.type == pafs.FileType.Unknown:
        raise DataError(f"{shown} is no regular file; expected a file, a folder or a glob.")
    if re.search(r"[*?\[]", location):
        return filesystem, info, re.split(r"[*?\[]", location)[0].rpartition("/")[0] or "/"
    # fsspec says the same of a page that is not there and of a server that is not.
    silent = ", or its server does not answer" if shown.startswith(("http://", "https://")) else ""
    raise DataError(f"{shown} does not exist{silent or _near(shown)}.")


def _folder(filesystem: pafs.FileSystem, location: str, shown: str) -> tuple[list[Listed], str | None]:
    def seen(path: str) -> bool:
        return not hidden(path, location)

    infos = files_below(filesystem, location, lambda path: _by_suffix(path) is not None and seen(path), seen)
    complaint = f"{shown} holds no data file; expected {', '.join(_SUFFIXES)} in it or below."
    names = [f"{shown.rstrip('/')}/{PurePosixPath(i.path).relative_to(location)}" for i in infos]
    return [_listed(filesystem, i, root=location, shown=name) for i, name in zip(infos, names, strict=True)], None if infos else complaint


def _glob(filesystem: pafs.FileSystem, location: str, plain: str, path: str) -> tuple[list[Listed], str | None]:
    """Match ``*``, ``?`` and ``[…]`` within a path segment and ``**`` over several; a matched folder gives its files."""
    pattern = re.compile(_glob_pattern(location))

    def wanted(path: str) -> bool:
        return pattern.match(path) is not None and _by_suffix(path) is not None and not hidden(path, plain)

    matched = files_below(filesystem, plain, wanted, lambda folder: not hidden(folder, plain) and _reaches(location, folder))
    # What was typed may lack the folder we are in, or have a scheme in front.
    names = [path[: max(0, len(path) - len(location))] + i.path[max(0, len(location) - len(path)) :] for i in matched]
    found = [_listed(filesystem, i, root=plain, shown=name) for i, name in zip(matched, names, strict=True)]
    return found, None if matched else f"{path} matches no data file."


def _glob_pattern(location: str) -> str:
    """Return a regular expression for the glob; it also matches what lies below a match."""
    tokens = re.split(r"(\*\*/?|\*|\?|\[[^\]]+\])", location)
    known = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    parts = [known.get(t) or (t.replace("[!", "[^", 1) if t.startswith("[") else re.escape(t)) for t in tokens]
    return "".join(parts).rstrip("/") + r"(?:/|$)"


def _reaches(location: str, folder: str) -> bool:
    """Whether what a glob matches may lie in a folder, which it names the beginning of, or which lies below a match."""
    for token, name in zip(location.split("/"), folder.split("/"), strict=False):
        if "**" in token:
            return True
        if not re.match(_glob_pattern(token), name):
            return False
    return True


def hidden(path: str, root: str) -> bool:
    """Whether a file below ``root`` is scores of ours, or side files as Spark writes them: a dot or underscore in front."""
    return bool(_OWN.search(path)) or any(p.startswith((".", "_")) and "=" not in p for p in PurePosixPath(path).relative_to(root).parts)


def _by_suffix(path: str) -> Format | None:
    suffixes = [s for s in PurePosixPath(path.lower()).suffixes if s not in COMPRESSED]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _listed(filesystem: pafs.FileSystem, info: pafs.FileInfo, *, root: str, shown: str) -> Listed:
    return Listed(path=shown, location=info.path, root=root, size=info.size, modified=info.mtime_ns or 0, filesystem=filesystem)


def table_file(listed: Listed) -> TableFile:
    """Look at the first bytes of a file. Raises DataError where it is empty, may not be read, or is no table."""
    if listed.size == 0:
        raise DataError(f"{listed.path} is empty (0 bytes).")
    pairs = [part.split("=", 1) for part in listed.key.parts[:-1] if "=" in part]
    return TableFile(
        path=listed.path,
        location=listed.location,
        key=str(listed.key),
        format=_format(listed.filesystem, listed.location, listed.path),
        size=listed.size,
        modified=listed.modified,
        partition=tuple((unquote(name), None if value == _HIVE_NULL else unquote(value)) for name, value in pairs),
        filesystem=listed.filesystem,
    )


def _format(filesystem: pafs.FileSystem, location: str, shown: str) -> Format:
    """Decide by the first bytes, then by the suffix: a wrong suffix is common, wrong magic is not."""
    with reading(shown), filesystem.open_input_stream(location, compression=None) as stream:
        head = stream.read(16)
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    complaint = compression.complaint(head, location)
    if complaint:
        raise DataError(f"{shown} {complaint}.")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{shown} is not a table that can be read but {what}.")
    if location.lower().endswith(_FOREIGN_SUFFIXES):
        raise DataError(f"{shown} is not a table that can be read; write it as CSV or Parquet.")
    by_suffix = _by_suffix(location)
    if by_suffix == "parquet":
        raise DataError(f"{shown} is not a Parquet file: its first bytes are {head[:4]!r}, expected b'PAR1'. Was it copied whole?")
    return by_suffix or "delimited"


def _near(path: str) -> str:
    """Return a hint at a file of a similar name in the same local folder."""
    folder = home(path).parent
    if not folder.is_dir():
        return f"; nor does its folder {folder}" if "://" not in path else ""
    stem = Path(path).stem
    near = [p.name for p in sorted(folder.iterdir()) if p.is_file() and fnmatch.fnmatch(p.name.lower(), f"{stem.lower()}*")]
    return f"; there is {near[0]!r} in its folder" if near else ""
