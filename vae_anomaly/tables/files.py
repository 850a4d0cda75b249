"""From what the user typed to data files: paths, folders, globs and URIs; formats, sizes and partition folders.

Opens nothing but the first bytes of a file. Knows nothing about columns, rows or models. Everything goes through
``pyarrow.fs``, so a local folder and a bucket take the same way.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import pyarrow.fs as pafs

from vae_anomaly.errors import DataError
from vae_anomaly.redaction import redacted
from vae_anomaly.storage import listing
from vae_anomaly.storage.listing import Format, Listed, _by_suffix, list_files, reading

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


def find_files(paths: Sequence[str]) -> tuple[TableFile, ...]:
    """Return the data files behind paths, folders, globs and URIs, in the order given, folders and globs sorted by name.

    Raises
    ------
    DataError
        Nothing is there, it may not be read, or it is no table.
    """
    return tuple(table_file(file) for file in list_files(paths))


def digest(files: Iterable[TableFile]) -> str:
    """sha256 (hex) over names, sizes and times of change; stable while nobody touches the files."""
    lines = [f"{f.key}\0{f.size}\0{f.modified}\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
    complaint = listing.complaint(head, location)
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


# Read from each end of a file: all of one that is no larger than both.
_END = 1 << 20
# Files that are looked into, the largest; of the others the size counts.
_LOOKED_INTO = 16


def contents_digest(files: Iterable[TableFile]) -> str:
    """sha256 (hex) over sizes, and the ends of the largest files; names and times do not matter, nor does the order. Raises DataError."""
    sizes = sorted(files, key=lambda file: file.size, reverse=True)
    found = sorted([_ends(file) for file in sizes[:_LOOKED_INTO]] + [str(file.size) for file in sizes[_LOOKED_INTO:]])
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _ends(file: TableFile) -> str:
    with reading(file.path), file.filesystem.open_input_file(file.location) as stream:
        seen = hashlib.sha256(stream.read(_END))
        if file.size > _END:
            stream.seek(max(_END, file.size - _END))
            seen.update(stream.read(_END))
    return f"{file.size} {seen.hexdigest()}"
