"""From what the user typed to data files: paths, folders, globs and URIs; formats, sizes and partition folders.

Opens nothing but the first bytes of a file. Knows nothing about columns, rows or models. Everything goes through
``pyarrow.fs``, so a local folder and a bucket take the same way.
"""

import fnmatch
import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from vae_anomaly.errors import DataError, MissingExtra

Format = Literal["delimited", "parquet", "arrow"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
COMPRESSED = (".gz", ".zst", ".bz2")
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow"}
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


def find_files(paths: Sequence[str]) -> tuple[TableFile, ...]:
    """Return the data files behind paths, folders, globs and URIs, in the order given, folders and globs sorted by name.

    Raises
    ------
    DataError
        Nothing is there, it may not be read, or it is no table.
    """
    found = {file.path: file for path in paths for file in _find(str(path))}
    if not found:
        raise DataError("no data file was given; name a CSV or Parquet file, a folder or a glob.")
    return tuple(found.values())


def digest(files: Iterable[TableFile]) -> str:
    """sha256 (hex) over names, sizes and times of change; stable while nobody touches the files."""
    lines = [f"{f.key}\0{f.size}\0{f.modified}\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what the operating system says while reading ``path`` into one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there any more; it was when reading began.") from error
    except PermissionError as error:
        raise DataError(f"{path} may not be read: permission denied. Give this user the right to read it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, at most 300 characters, without a full stop."""
    return " ".join(str(error).split())[:300].rstrip(".")


def _find(path: str) -> Iterator[TableFile]:
    filesystem, location = _resolve(path)
    with reading(path):
        info = filesystem.get_file_info(location)
        if info.type == pafs.FileType.File:
            yield _table_file(filesystem, info, root=str(PurePosixPath(location).parent), shown=path)
        elif info.type == pafs.FileType.Directory:
            yield from _folder(filesystem, location, path)
        elif info.type == pafs.FileType.Unknown:
            raise DataError(f"{path} is no regular file; expected a file, a folder or a glob.")
        elif re.search(r"[*?\[]", location):
            yield from _glob(filesystem, location, path)
        else:
            raise DataError(f"{path} does not exist{_near(path)}.")


def _resolve(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it."""
    if not path.strip() or "\0" in path:
        raise DataError(f"{path!r} is no path; name a file, a folder or a glob.")
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        try:
            return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
        except RuntimeError as error:
            raise DataError(f"{path} does not exist: {one_line(error)}") from error
    try:
        filesystem, location = pafs.FileSystem.from_uri(path)
    except pa.ArrowInvalid:
        return _through_fsspec(path)
    except OSError as error:
        raise DataError(f"{path} cannot be reached: {one_line(error)}") from error
    return filesystem, location


def _through_fsspec(path: str) -> tuple[pafs.FileSystem, str]:
    """Open what Arrow has no file system for; fsspec knows many more."""
    try:
        url_to_fs = importlib.import_module("fsspec.core").url_to_fs
    except ImportError:
        raise MissingExtra(f"reading {path} needs more file systems: pip install 'vae-anomaly[cloud]'.") from None
    try:
        filesystem, location = url_to_fs(path)
    except (ValueError, ImportError, OSError) as error:
        raise DataError(f"{path} cannot be reached: {one_line(error)}") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location


def _folder(filesystem: pafs.FileSystem, location: str, path: str) -> Iterator[TableFile]:
    infos = [i for i in _listed(filesystem, location) if _by_suffix(i.path) and not _hidden(i.path, location)]
    if not infos:
        raise DataError(f"{path} holds no data file; expected {', '.join(_SUFFIXES)} in it or below.")
    for info in infos:
        key = PurePosixPath(info.path).relative_to(location)
        yield _table_file(filesystem, info, root=location, shown=f"{path.rstrip('/')}/{key}")


def _glob(filesystem: pafs.FileSystem, location: str, path: str) -> Iterator[TableFile]:
    """Match ``*``, ``?`` and ``[…]`` within a path segment and ``**`` over several; a matched folder gives its files."""
    plain = re.split(r"[*?\[]", location)[0].rsplit("/", 1)[0] or "/"
    pattern = re.compile(_glob_pattern(location))
    files = [i for i in _listed(filesystem, plain) if pattern.match(i.path)]
    matched = [i for i in files if _by_suffix(i.path) and not _hidden(i.path, plain)]
    if not matched:
        raise DataError(f"{path} matches no data file.")
    for info in matched:
        # What was typed may lack the folder we are in, or have a scheme in front.
        shown = path[: max(0, len(path) - len(location))] + info.path[max(0, len(location) - len(path)) :]
        yield _table_file(filesystem, info, root=plain, shown=shown)


def _glob_pattern(location: str) -> str:
    """Return a regular expression for the glob; it also matches what lies below a match."""
    tokens = re.split(r"(\*\*/?|\*|\?|\[[^\]]+\])", location)
    known = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    parts = [known.get(t) or (t.replace("[!", "[^", 1) if t.startswith("[") else re.escape(t)) for t in tokens]
    return "".join(parts).rstrip("/") + r"(?:/|$)"


def _listed(filesystem: pafs.FileSystem, location: str) -> list[pafs.FileInfo]:
    selector = pafs.FileSelector(location, recursive=True, allow_not_found=True)
    infos = [i for i in filesystem.get_file_info(selector) if i.type == pafs.FileType.File]
    return sorted(infos, key=lambda i: str(i.path))


def _hidden(path: str, root: str) -> bool:
    """Whether a file below ``root`` is scores of ours, or side files as Spark writes them: a dot or underscore in front."""
    return bool(_OWN.search(path)) or any(p.startswith((".", "_")) and "=" not in p for p in PurePosixPath(path).relative_to(root).parts)


def _by_suffix(path: str) -> Format | None:
    suffixes = [s for s in PurePosixPath(path.lower()).suffixes if s not in COMPRESSED]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _table_file(filesystem: pafs.FileSystem, info: pafs.FileInfo, *, root: str, shown: str) -> TableFile:
    if info.size == 0:
        raise DataError(f"{shown} is empty (0 bytes).")
    key = PurePosixPath(info.path).relative_to(root)
    pairs = [part.split("=", 1) for part in key.parts[:-1] if "=" in part]
    return TableFile(
        path=shown,
        location=info.path,
        key=str(key),
        format=_format(filesystem, info.path, shown),
        size=info.size,
        modified=info.mtime_ns or 0,
        partition=tuple((unquote(name), None if value == _HIVE_NULL else unquote(value)) for name, value in pairs),
        filesystem=filesystem,
    )


def _format(filesystem: pafs.FileSystem, location: str, shown: str) -> Format:
    """Decide by the first bytes, then by the suffix: a wrong suffix is common, wrong magic is not."""
    with reading(shown), filesystem.open_input_stream(location, compression=None) as stream:
        head = stream.read(16)
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
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
    folder = Path(path).expanduser().parent
    if not folder.is_dir():
        return f"; nor does its folder {folder}" if "://" not in path else ""
    stem = Path(path).stem
    near = [p.name for p in sorted(folder.iterdir()) if p.is_file() and fnmatch.fnmatch(p.name.lower(), f"{stem.lower()}*")]
    return f"; there is {near[0]!r} in its folder" if near else ""
