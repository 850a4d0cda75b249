"""Data files: their format, partition folders and digests, and whether their headers have the expected columns.

The format is decided by the first bytes, then by the name. All access goes through ``pyarrow.fs``, for local files and buckets alike.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

import pyarrow as pa

from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.schema import Schema, check_columns_present
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.storage.listing import Format, Listed, compression_error, format_of_name, list_files

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)

# The last one is the continuation marker of an Arrow IPC stream.
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
# Magic bytes of unsupported formats: what the file is, and what to do.
_UNSUPPORTED = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "Save it as CSV, or unpack it"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save it as CSV"),
    b"\x89HDF": ("HDF5", "Save the table as Parquet"),
    b"SQLite format 3": ("a SQLite database", "Export the table as CSV"),
    b"%PDF": ("a PDF", "Export the table as CSV"),
    b"\x89PNG": ("an image", "Name the table itself"),
    b"ORC": ("ORC", "Write it as Parquet"),
    b"Obj\x01": ("Avro", "Write it as Parquet"),
    b"FEA1": ("Feather version 1", "Write it again with a current pyarrow"),
    b'{"': ("JSON", "Write it as CSV or Parquet"),
    b"[{": ("JSON", "Write it as CSV or Parquet"),
    b"version https://": ("a Git LFS pointer", "Fetch the file itself with git lfs pull"),
}
_UNSUPPORTED_SUFFIXES = (".json", ".jsonl", ".ndjson", ".xml", ".html", ".yaml", ".toml", ".md", ".py", ".ipynb")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """A data file of known format; ``partition`` are the ``name=value`` folders between it and the folder that the user named."""

    listed: Listed
    format: Format
    partition: tuple[tuple[str, str | None], ...] = ()

    @property
    def path(self) -> str:
        """The name of the file in messages."""
        return self.listed.path


def find_files(paths: Sequence[str], at: str | None = None) -> tuple[TableFile, ...]:
    """Return the data files behind paths, folders, globs and URIs, in the order given; folders and globs are sorted by path.

    ``at``: version of lakehouse tables.

    Raises
    ------
    DataError
        A path does not exist, may not be read, or is not a table of a supported format.
    """
    return tuple(detect_table(file) for file in with_versions(list_files(paths), at))


def with_versions(listed: Iterable[Listed], at: str | None) -> tuple[Listed, ...]:
    """Return files with the version of each lakehouse table ``at`` which it is read; None: the current one.

    Raises ConfigError for a version of a file that has none, DataError, and MissingExtra without the library that reads a log.
    """
    return tuple(_with_version(file, at) if file.lake or at is not None else file for file in listed)


def _with_version(file: Listed, at: str | None) -> Listed:
    if file.lake is None:
        from vae_anomaly.tables.lakehouse import unversioned_error

        raise unversioned_error(file)
    if file.lake == "delta":
        from vae_anomaly.tables.delta import delta_version

        return delta_version(file, at)
    from vae_anomaly.tables.iceberg import iceberg_version

    return iceberg_version(file, at)


def detect_table(listed: Listed) -> TableFile:
    """Determine the format of a file. Raises DataError if it is empty, may not be read, or is of no supported format."""
    if listed.size == 0 and listed.lake is None:
        raise DataError(f"{listed.path} is empty (0 bytes).")
    pairs = [part.split("=", 1) for part in listed.key.parts[:-1] if "=" in part]
    partition = tuple((unquote(name), None if value == _HIVE_NULL else unquote(value)) for name, value in pairs)
    return TableFile(listed=listed, format=_format(listed), partition=partition)


def _format(file: Listed) -> Format:
    """Decide by the first bytes, then by the suffix: wrong suffixes are common, wrong magic bytes are not."""
    if file.lake == "delta" or file.lake == "iceberg":  # noqa: PLR1714 (for mypy)
        return file.lake
    with reading(file.path), file.filesystem.open_input_stream(file.location, compression=None) as stream:
        head = stream.read(16)
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    error = compression_error(head, file.location)
    if error:
        raise DataError(f"{file.path} {error}.")
    for magic, (what, do) in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise DataError(f"{file.path} is {what}; expected CSV, Parquet or Arrow. {do}.")
    if file.location.lower().endswith(_UNSUPPORTED_SUFFIXES):
        raise DataError(f"{file.path} has the suffix of a format that is not supported. Write it as CSV or Parquet.")
    by_name = format_of_name(file.location)
    if by_name == "parquet":
        raise DataError(f"{file.path} is not a Parquet file: its first bytes are {head[:4]!r}, expected b'PAR1'. Was it copied whole?")
    return by_name or "delimited"


def metadata_digest(files: Iterable[Listed]) -> str:
    """Return the sha256 (hex) over names, sizes and modification times."""
    lines = ["\0".join([str(f.key), str(f.size), str(f.modified), *([f.version] if f.version else [])]) + "\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Bytes read from each end of a file.
_END_BYTES = 1 << 20
# Number of files to read from, the largest ones; of the others only the size counts.
_FILES_READ = 16


def contents_digest(files: Iterable[Listed]) -> str:
    """Return the sha256 (hex) over the sizes of all files and both ends of the largest ones; names, times and order do not matter.

    Raises DataError for a file that cannot be read.
    """
    by_size = sorted(files, key=lambda file: file.size, reverse=True)
    lines = sorted([_size_and_ends(file) for file in by_size[:_FILES_READ]] + [str(file.size) for file in by_size[_FILES_READ:]])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _size_and_ends(file: Listed) -> str:
    if file.lake is not None:  # files of a table never change, and its log says when the last one was added
        return f"{file.size} {file.modified} {file.version}"
    with reading(file.path), file.filesystem.open_input_file(file.location) as stream:
        digest = hashlib.sha256(stream.read(_END_BYTES))
        if file.size > _END_BYTES:
            stream.seek(max(_END_BYTES, file.size - _END_BYTES))
            digest.update(stream.read(_END_BYTES))
    return f"{file.size} {digest.hexdigest()}"


# A name that looks like a number, a date, or a missing value.
_DATA = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?|\d{1,4}[-./:]\d{1,2}[-./:]\d{1,4}(?:[T ].*)?|[Nn][Aa][Nn]|\?|")
NO_HEADER = "Its first line does not look like a header: put column names there, or give --no-header."
# Beginnings of a first line that is not a header, and the hint to give.
_NOT_HEADERS = {
    "<": "It is a web page or XML, perhaps a login page: download or export the table itself, as CSV.",
}


def check_header(schema: Schema, names: Sequence[str], file: TableFile) -> None:
    """Raise SchemaMismatch if a file with these column names lacks columns of a model."""
    try:
        check_columns_present(schema, names, file.path)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"{error}{header_hint(names, schema.names, file)}") from None


def header_hint(names: Sequence[str], wanted: Iterable[str], file: TableFile) -> str:
    """Return a sentence, after a blank, on why the header of a file may lack columns; empty if it looks like a header."""
    wanted = set(wanted)
    hint = _first_line_hint(names, wanted) if file.format == "delimited" and names else ""
    if not hint and names and wanted.isdisjoint(names):
        hint = "None of the expected columns is there: is it the right file?"
    return f" {hint}" if hint else ""


def _first_line_hint(names: Sequence[str], wanted: set[str]) -> str:
    if any("\0" in name for name in names):
        return "It looks like UTF-32: save it as UTF-8."
    for prefix, hint in _NOT_HEADERS.items():
        if names[0].lower().startswith(prefix):
            return hint
    data = sum(bool(_DATA.fullmatch(name)) for name in names)
    if data > min(1, len(names) - 1):
        return NO_HEADER
    if len(names) == 1 and sum(name in names[0] for name in wanted) > 1:
        return "Its cells are not separated by a comma, a semicolon, a tab or |: write it with one of them."
    return ""


def check_same_names(files: Sequence[tuple[TableFile, Sequence[str]]]) -> None:
    """Raise SchemaMismatch if a file has other column names than the first one."""
    first, first_names = files[0]
    for later, later_names in files[1:]:
        for file, other, has, wanted in ((later, first, later_names, first_names), (first, later, first_names, later_names)):
            absent = set(wanted) - set(has)
            if absent:
                text = f"{file.path} lacks columns that {other.path} has: {absent_text(sorted(absent), has)}"
                raise SchemaMismatch(text + header_hint(has, wanted, file))


def check_types(paths: Sequence[str], tables: Sequence[pa.Table]) -> None:
    """Raise SchemaMismatch if the types of a column have no common one."""
    for name in clashing_columns(tables):
        kinds = [t.schema.field(name).type for t in tables]
        other = next(i for i, _ in enumerate(kinds) if common_type(kinds[: i + 1]) is None)
        raise SchemaMismatch(
            f"column {name!r} is {kinds[0]} in {paths[0]} but {kinds[other]} in {paths[other]}. "
            "Give it one type in all files, or read them separately."
        )


def clashing_columns(tables: Sequence[pa.Table]) -> list[str]:
    """Return the columns whose types in these tables have no common one."""
    return [n for n in tables[0].schema.names if common_type([t.schema.field(n).type for t in tables]) is None]


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the common type of these types by Arrow's permissive promotion, or None."""
    distinct = list(dict.fromkeys(kinds))
    if len(distinct) == 1:
        return distinct[0]
    try:
        return pa.unify_schemas([pa.schema([("column", kind)]) for kind in distinct], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """Return the type of a column, text if it is not in the file; a dictionary counts as its values, as dictionaries differ by batch."""
    kind = schema.field(name).type if name in schema.names else pa.string()
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def column_names(file: TableFile, names: Sequence[str]) -> tuple[str, ...]:
    """Return the column ``names`` of a file, followed by those of its partition folders."""
    return (*names, *(name for name, _ in file.partition if name not in names))


def with_columns(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Append the columns that a table lacks, with nothing in them."""
    for name in names:
        if name not in table.schema.names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def with_partition(rows: _Rows, file: TableFile) -> _Rows:
    """Append the values of the partition folders of a file as string columns of a table or batch."""
    for name, value in file.partition:
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows.num_rows))
    return rows
