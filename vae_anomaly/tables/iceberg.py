"""Iceberg tables: which files are live in a snapshot, and which of their rows are deleted, by the metadata as pyiceberg reads it.

A table is opened by its folder, without a catalog: by its version hint, else by its newest metadata file; or by the metadata file that a
catalog names. Columns are found by field id, so that renamed, added and widened ones are right (``lakehouse``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from vae_anomaly.errors import ConfigError, DataError, MissingExtra
from vae_anomaly.messages import one_line
from vae_anomaly.redaction import redacted
from vae_anomaly.storage.filesystems import is_uri, reading, resolve_uri
from vae_anomaly.storage.lakehouse import is_metadata_file
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.arrow import ColumnarTable, parquet_batches
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.lakehouse import LakeColumn, LiveFile, LiveTable, at_error, live_reader, parse_at, scalar_of, time_text
from vae_anomaly.tables.reader import Chunk

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import DataFile, ManifestEntry
    from pyiceberg.schema import Schema
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

# v3.metadata.json of a Hadoop table, 00003-UUID.metadata.json of a catalog, both with .gz before .metadata.
_NUMBER = re.compile(r"v?(\d+)(?:-.*)?(?:\.gz)?\.metadata\.json")
_HINT = "version-hint.text"
_MAX_FORMAT = 3  # of the table specification
# pyiceberg's types have offsets of 64 bits, which batches do not need.
_NARROW = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Opened:
    metadata: "TableMetadata"
    io: "FileIO"


@dataclass(slots=True, kw_only=True, eq=False)
class _Entries:
    """Entries of the manifests of a snapshot: live data files, and files of deleted positions."""

    data: "list[ManifestEntry]" = field(default_factory=list)
    positions: "list[DataFile]" = field(default_factory=list)


def iceberg_version(listed: Listed, at: str | None) -> Listed:
    """Return a table with the snapshot that ``at`` names, or its current one. Raises ConfigError, DataError and MissingExtra."""
    with _iceberg_errors(listed):
        metadata = _open(listed).metadata
        snapshot, schema = _asked(listed, metadata, at)
        if snapshot is None:
            return replace(listed, version=f"0:{schema}", modified=metadata.last_updated_ms * 1_000_000)
        summary = snapshot.summary
        size = int((summary and summary.additional_properties.get("total-files-size")) or 0)
        version = f"{snapshot.snapshot_id}" + ("" if schema == _schema_of(snapshot, metadata) else f":{schema}")
        return replace(listed, size=size, modified=snapshot.timestamp_ms * 1_000_000, version=version)


def open_iceberg(file: TableFile) -> ColumnarTable:
    """Read the manifests of the snapshot that a table was listed with. Raises DataError and MissingExtra."""
    listed = file.listed
    with _iceberg_errors(listed):
        opened = _open(listed)
        snapshot, schema_id = _asked(listed, opened.metadata, listed.version)
        schema = next(s for s in opened.metadata.schemas if s.schema_id == schema_id)
        columns, left_out = _columns(schema, opened.metadata)
        files = [] if snapshot is None else list(_files(listed, opened, snapshot, schema))
        live = LiveTable(
            called=f"snapshot {snapshot.snapshot_id} of the Iceberg table" if snapshot else "the Iceberg table without a snapshot",
            written=None if snapshot is None else datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
            columns=columns,
            files=files,
            left_out=left_out,
        )
    return live_reader(file, live)


def _asked(listed: Listed, metadata: "TableMetadata", at: str | None) -> tuple["Snapshot | None", int]:
    """Return the snapshot that ``at`` names, by its id, a time, a branch or a tag, and the id of the schema to read it with.

    ``ID:SCHEMA`` is what a version is called whose columns were changed after its last row.
    """
    if at is None:
        return metadata.current_snapshot(), metadata.current_schema_id
    number, _, schema = at.partition(":")
    if schema.isdecimal() and number.isdecimal():
        return metadata.snapshot_by_id(int(number)), int(schema)
    snapshot = _named(listed, metadata, at)
    return snapshot, _schema_of(snapshot, metadata)


def _named(listed: Listed, metadata: "TableMetadata", at: str) -> "Snapshot":
    when = parse_at(at)
    if isinstance(when, datetime):
        log = [entry for entry in metadata.snapshot_log if entry.timestamp_ms <= when.timestamp() * 1000]
        found = metadata.snapshot_by_id(max(log, key=lambda entry: entry.timestamp_ms).snapshot_id) if log else None
        asked = f"at {time_text(when)}"
    else:
        found = metadata.snapshot_by_name(at) if when is None else metadata.snapshot_by_id(when)
        asked = repr(at)
    if found is not None:
        return found
    known = sorted(metadata.snapshots, key=lambda s: s.timestamp_ms)
    if when is None and not known:
        raise at_error(at)
    times = [f"{s.snapshot_id} of {time_text(datetime.fromtimestamp(s.timestamp_ms / 1000, UTC))}" for s in known]
    others = f" and {len(times) - 1} older ones from {times[0]} on" if len(times) > 1 else ""
    names = f"; it has {times[-1]}{others}" if times else "; it has none"
    raise (ConfigError if when is None else DataError)(f"{listed.path} has no snapshot {asked}{names}.")


def _schema_of(snapshot: "Snapshot", metadata: "TableMetadata") -> int:
    return metadata.current_schema_id if snapshot.schema_id is None else int(snapshot.schema_id)


def _columns(schema: "Schema", metadata: "TableMetadata") -> tuple[list[LakeColumn], list[str]]:
    """Return the columns of a schema, and the names of the nested ones, whose fields have names of their own in the files."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    arrow, mapping = schema_to_pyarrow(schema, include_field_ids=False), metadata.name_mapping()
    names = {} if mapping is None else {f.field_id: tuple(f.names) for f in mapping.root}
    columns, left_out = [], []
    for entry, typed in zip(schema.fields, arrow, strict=True):
        if entry.field_type.is_primitive:
            column = LakeColumn(
                name=entry.name,
                type=_NARROW.get(typed.type, typed.type),
                names=names.get(entry.field_id, ()),
                field_id=entry.field_id,
                default=entry.initial_default,
                ids_needed=mapping is None,
            )
            columns.append(column)
        else:
            left_out.append(entry.name)
    return columns, left_out


def _files(listed: Listed, opened: _Opened, snapshot: "Snapshot", schema: "Schema") -> Iterator[LiveFile]:
    entries = _entries(listed, opened, snapshot)
    deleted = _deleted(listed, opened, entries.positions)
    for entry in entries.data:
        data = entry.data_file
        filesystem, location = _location(listed, data.file_path)
        yield LiveFile(
            filesystem=filesystem,
            location=location,
            order=(entry.sequence_number or 0, data.file_path),
            size=data.file_size_in_bytes,
            rows=data.record_count,
            defaults=_identities(opened.metadata, data, schema),
            deleted=deleted.get(data.file_path, np.empty(0, dtype=np.int64)),
        )


def _entries(listed: Listed, opened: _Opened, snapshot: "Snapshot") -> _Entries:
    """Read the manifests. Raises DataError for files that are not Parquet, and for equality deletes."""
    from pyiceberg.manifest import DataFileContent, FileFormat

    found = _Entries()
    for manifest in snapshot.manifests(opened.io):
        for entry in manifest.fetch_manifest_entry(opened.io, discard_deleted=True):
            data = entry.data_file
            if data.content == DataFileContent.EQUALITY_DELETES:
                raise DataError(
                    f"{listed.path} is an Iceberg table with equality deletes, which are not supported. "
                    "Rewrite its data files (rewrite_data_files in Spark, compaction in Flink), then read it again."
                )
            if data.content == DataFileContent.POSITION_DELETES:
                found.positions.append(data)
                continue
            if data.file_format != FileFormat.PARQUET:
                raise DataError(f"{listed.path} is an Iceberg table of {data.file_format.value} files; expected Parquet. Rewrite it.")
            found.data.append(entry)
    return found


def _deleted(listed: Listed, opened: _Opened, files: "Iterable[DataFile]") -> dict[str, NDArray[np.int64]]:
    """Return the positions of deleted rows, ascending, by the path of the data file."""
    parts: dict[str, list[NDArray[np.int64]]] = {}
    for path, positions in (pair for file in files for pair in _positions(listed, opened, file)):
        parts.setdefault(path, []).append(positions)
    return {path: np.unique(np.concatenate(found)) for path, found in parts.items()}


def _positions(listed: Listed, opened: _Opened, data: "DataFile") -> Iterator[tuple[str, NDArray[np.int64]]]:
    from pyiceberg.manifest import FileFormat
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    if data.file_format == FileFormat.PUFFIN:
        with opened.io.new_input(data.file_path).open() as stream:
            puffin = PuffinFile(stream.read())
        for vector in deletion_vectors_from_puffin_file(puffin):
            yield vector.referenced_data_file, vector.to_vector().to_numpy().astype(np.int64)
        return
    if data.file_format != FileFormat.PARQUET:
        raise DataError(f"{listed.path} is an Iceberg table with deletes in {data.file_format.value} files; expected Parquet.")
    filesystem, location = _location(listed, data.file_path)
    file = TableFile(listed=replace(listed, path=data.file_path, location=location, filesystem=filesystem, lake=None), format="parquet")
    for batch in parquet_batches(file, ["file_path", "pos"], Chunk()):
        table = pa.table({"file_path": batch["file_path"].dictionary_encode(), "pos": batch["pos"]}).combine_chunks()
        paths, codes = table["file_path"].chunk(0).dictionary.to_pylist(), table["file_path"].chunk(0).indices.to_numpy()
        positions = table["pos"].to_numpy()
        for code, path in enumerate(paths):
            yield path, positions[codes == code]


def _identities(metadata: "TableMetadata", data: "DataFile", schema: "Schema") -> Mapping[str, pa.Scalar]:
    """Return the values of partition columns of a file, for files that lack them, such as those of an imported Hive table."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.transforms import IdentityTransform

    spec, arrow = metadata.specs()[data.spec_id], schema_to_pyarrow(schema, include_field_ids=False)
    names = {f.field_id: f.name for f in schema.fields}
    return {
        names[part.source_id]: scalar_of(data.partition[i], arrow.field(names[part.source_id]).type)
        for i, part in enumerate(spec.fields)
        if isinstance(part.transform, IdentityTransform) and part.source_id in names
    }


def _location(listed: Listed, path: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a file and its path there; metadata names every file by its full path, which is not percent-encoded."""
    local = re.fullmatch(r"(?i:file:(?://(?:localhost)?)?)(/.*)", path)
    if local or not is_uri(path):
        return pafs.LocalFileSystem(), local[1] if local else path
    scheme, _, rest = path.partition("://")
    if scheme.lower() in {"s3", "s3a", "s3n", "gs"} and listed.filesystem.type_name in {"s3", "gcs"}:
        return listed.filesystem, rest
    return resolve_uri(path)


def _open(listed: Listed) -> _Opened:
    try:
        from pyiceberg.io.pyarrow import PyArrowFileIO
        from pyiceberg.serializers import FromInputFile
    except ImportError:
        raise MissingExtra(
            f"{listed.path} is an Iceberg table (metadata/), and reading one needs pyiceberg: pip install 'vae-anomaly[iceberg]'."
        ) from None
    io = PyArrowFileIO()
    io.fs_by_scheme = lambda scheme, _netloc=None: pafs.LocalFileSystem() if scheme == "file" else listed.filesystem
    scheme = {"s3": "s3://", "gcs": "gs://", "local": ""}.get(listed.filesystem.type_name, f"{listed.path.partition('://')[0]}://")
    metadata = FromInputFile.table_metadata(io.new_input(f"{scheme}{_metadata_file(listed)}"))
    if metadata.format_version > _MAX_FORMAT:
        raise DataError(f"{listed.path} is an Iceberg table of format version {metadata.format_version}; expected at most {_MAX_FORMAT}.")
    return _Opened(metadata=metadata, io=io)


def _metadata_file(listed: Listed) -> str:
    """Return the location of the metadata file to read. Raises DataError if two have the same number: only a catalog knows which counts."""
    if is_metadata_file(listed.location):
        return listed.location
    folder = f"{listed.location.rstrip('/')}/metadata"
    with reading(listed.path):
        names = [PurePosixPath(info.path).name for info in listed.filesystem.get_file_info(pafs.FileSelector(folder))]
    hint = _hinted(listed, folder, names) if _HINT in names else None
    if hint is not None:
        return f"{folder}/{hint}"
    numbers = {name: int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))}
    newest = sorted(name for name, number in numbers.items() if number == max(numbers.values()))
    if not newest:
        raise DataError(f"{listed.path} is an Iceberg table (metadata/) without a metadata file whose name has a number. Name one itself.")
    if len(newest) > 1:
        raise DataError(
            f"{listed.path} is an Iceberg table with {len(newest)} newest metadata files, of which its catalog knows the right one. "
            f"Name that one: {' or '.join(f'{listed.path}/metadata/{name}' for name in newest)}."
        )
    return f"{folder}/{newest[0]}"


def _hinted(listed: Listed, folder: str, names: Sequence[str]) -> str | None:
    """Return the metadata file that the version hint names. Raises DataError if it is not there."""
    with reading(listed.path), listed.filesystem.open_input_stream(f"{folder}/{_HINT}") as stream:
        text = stream.read().decode(errors="replace").strip()
    candidates = (text, f"{text}.metadata.json", f"v{text}.metadata.json", f"v{text}.gz.metadata.json")
    return next((name for name in candidates if name in names and name != _HINT), None)


@contextmanager
def _iceberg_errors(listed: Listed) -> Iterator[None]:
    """Raise errors of pyiceberg as a DataError of one line."""
    try:
        yield
    except (ConfigError, DataError, MissingExtra):
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{listed.path} cannot be read as an Iceberg table: {redacted(one_line(error))}. Its metadata names files by their full paths: "
            "read it where it was written."
        ) from error
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise DataError(f"{listed.path} cannot be read as an Iceberg table (metadata/): {redacted(one_line(error))}") from error
