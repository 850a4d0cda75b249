"""Delta tables: which files are live in a version, by the log as deltalake reads it, and how their columns are called; and a new version.

Column mapping, partition values, deletion vectors and added or widened columns are applied by ``lakehouse``. A table that needs a feature
unknown here is refused, since its files may mean something else. A version is written as one file and one commit: the writer of deltalake
spreads rows over threads, which changes their order and takes hundreds of megabytes.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from numpy.typing import NDArray

from vae_anomaly.errors import DataError, MissingExtra, OutputError
from vae_anomaly.messages import one_line
from vae_anomaly.redaction import redacted
from vae_anomaly.storage.destinations import Destination
from vae_anomaly.storage.filesystems import is_uri, resolve_uri
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.arrow import ColumnarTable
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.lakehouse import LakeColumn, LiveFile, LiveTable, at_error, live_reader, parse_at, time_text

if TYPE_CHECKING:
    from deltalake import DeltaTable as DeltaTable  # noqa: PLC0414  # for those who hold one

# Features that readers must know (Delta protocol, "Valid Feature Names in Table Features") and that change nothing here or are applied.
_FEATURES = {
    "columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview", "v2Checkpoint", "vacuumProtocolCheck",
    "variantType", "variantType-preview", "variantShredding-preview",
}  # fmt: skip
# Features that writers must know, and that a version with other rows and columns does not break.
_WRITER_FEATURES = {
    "appendOnly",
    "invariants",
    "checkConstraints",
    "generatedColumns",
    "identityColumns",
    "changeDataFeed",
    "domainMetadata",
}
# Actions of a commit that concern no rows.
_HARMLESS = {"commitInfo", "txn", "domainMetadata"}
_PHYSICAL, _ID = b"delta.columnMapping.physicalName", b"delta.columnMapping.id"
# Version of the protocol for readers that has column mapping without naming it as a feature.
_MAPPING_READER = 2
# Arrow's name of an object store: the scheme by which deltalake knows it.
_SCHEMES = {"s3": "s3", "gcs": "gs", "abfs": "az", "local": ""}


def delta_version(listed: Listed, at: str | None) -> Listed:
    """Return a table with the version that ``at`` names, or its current one. Raises ConfigError, DataError and MissingExtra."""
    when = None if at is None else parse_at(at)
    if at is not None and when is None:
        raise at_error(at)
    with _delta_errors(listed):
        table = _opened(listed, when if isinstance(when, int) else None)
        if isinstance(when, datetime):
            table.load_as_version(_version_at(listed, when))
        adds = pa.table(table.get_add_actions())
        newest = pc.max(adds["modification_time"]).as_py() or 0
        size = pc.sum(adds["size_bytes"]).as_py() or 0
        return replace(listed, size=size, modified=newest * 1_000_000, version=str(table.version()))


def open_delta(file: TableFile) -> ColumnarTable:
    """Read the log of a table up to the version that it was listed with. Raises DataError and MissingExtra."""
    listed = file.listed
    with _delta_errors(listed):
        table = _opened(listed, int(listed.version))
        protocol = table.protocol()
        unknown = set(protocol.reader_features or ()) - _FEATURES
        if unknown:
            raise DataError(f"{listed.path} is a Delta table with features that are not supported: {', '.join(sorted(unknown))}.")
        mapping = "none"  # a mode without the feature means nothing: deltalake writes such tables with the names of the columns
        if protocol.min_reader_version == _MAPPING_READER or "columnMapping" in (protocol.reader_features or ()):
            mapping = table.metadata().configuration.get("delta.columnMapping.mode") or "none"
        schema, left_out = pa.schema(table.schema().to_arrow()), []
        if mapping != "none":  # fields within a nested column have names of their own in the files
            left_out = [f.name for f in schema if pa.types.is_nested(f.type)]
        live = LiveTable(
            called=f"version {listed.version} of the Delta table",
            written=_written(listed, int(listed.version)),
            columns=[_column(f, mapping) for f in schema if f.name not in left_out],
            files=list(_files(table, listed)),
            left_out=left_out,
        )
    return live_reader(file, live)


def _column(field: pa.Field, mapping: str) -> LakeColumn:
    about = field.metadata or {}
    if mapping == "none":
        return LakeColumn(name=field.name, type=field.type, names=(field.name,))
    if mapping == "id":
        return LakeColumn(name=field.name, type=field.type, field_id=int(about[_ID]), ids_needed=True)
    return LakeColumn(name=field.name, type=field.type, names=(about[_PHYSICAL].decode(),))


def _files(table: "DeltaTable", listed: Listed) -> Iterator[LiveFile]:
    adds, kept = pa.table(table.get_add_actions()), _kept_rows(table, listed)
    values = adds["partition"].combine_chunks() if "partition" in adds.column_names and adds.num_rows else None
    for i, entry in enumerate(adds.select(["path", "size_bytes", "modification_time", "num_records"]).to_pylist()):
        filesystem, location = _location(listed, entry["path"])
        yield LiveFile(
            filesystem=filesystem,
            location=location,
            order=(entry["modification_time"], entry["path"]),
            size=entry["size_bytes"],
            rows=entry["num_records"],
            constants={} if values is None else {f.name: values.field(j)[i] for j, f in enumerate(values.type)},
            deleted=kept.pop(location, np.empty(0, dtype=np.int64)),
        )
    if kept:
        raise DataError(f"{listed.path} has a deletion vector of {next(iter(kept))}, which is no file of version {listed.version}.")


def _kept_rows(table: "DeltaTable", listed: Listed) -> dict[str, NDArray[np.int64]]:
    """Return the positions of the deleted rows of the files that have any, by location."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}
    found = {}
    for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()):
        for path, mask in zip(batch["filepath"].to_pylist(), batch["selection_vector"], strict=True):
            found[_location(listed, path)[1]] = np.flatnonzero(~np.asarray(mask.values))
    return found


def _location(listed: Listed, path: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a data file and its path there; the log has a URI, or its path in the table, percent-encoded."""
    if not is_uri(path):
        return listed.filesystem, f"{listed.location.rstrip('/')}/{unquote(path)}"
    parts = urlsplit(path)
    if parts.scheme == "file":
        return pafs.LocalFileSystem(), unquote(parts.path)
    filesystem, location = resolve_uri(path)
    return (listed.filesystem if filesystem.type_name == listed.filesystem.type_name else filesystem), unquote(location)


def _version_at(listed: Listed, when: datetime) -> int:
    """Return the last version that was written up to a time, by the times in the log: those of its files change when a table is copied.

    Raises DataError before the first version that is still known.
    """
    infos = listed.filesystem.get_file_info(pafs.FileSelector(_log(listed)))
    versions = sorted(int(name[:-5]) for info in infos if re.fullmatch(r"\d{20}\.json", name := PurePosixPath(info.path).name))
    commits = [(version, written) for version in versions if (written := _written(listed, version)) is not None]
    before = [version for version, written in commits if written <= when]
    if not before:
        oldest = f"; the oldest known version is {commits[0][0]} of {time_text(commits[0][1])}" if commits else ""
        raise DataError(f"{listed.path} has no version at {time_text(when)}{oldest}.")
    return max(before)


def _written(listed: Listed, version: int) -> datetime | None:
    """Return when a version was written, None if its commit is no longer there or does not say it.

    Read here: ``DeltaTable.history`` holds Python's lock while it waits for a store.
    """
    lines = [line for line in _commit(listed, version) or () if b'"commitInfo"' in line]
    commits = [action["commitInfo"] for action in map(json.loads, lines) if "commitInfo" in action]
    stamps = [stamp for commit in commits if (stamp := commit.get("inCommitTimestamp", commit.get("timestamp"))) is not None]
    return datetime.fromtimestamp(stamps[0] / 1000, UTC) if stamps else None


def _commit(listed: Listed, version: int) -> list[bytes] | None:
    """Return the lines of a commit, each an action as JSON; None if it is no longer there."""
    path = f"{_log(listed)}/{version:020d}.json"
    if listed.filesystem.get_file_info(path).type != pafs.FileType.File:
        return None
    with listed.filesystem.open_input_stream(path) as stream:
        return list(stream.read().splitlines())


def _log(listed: Listed) -> str:
    return f"{listed.location.rstrip('/')}/_delta_log"


def _opened(listed: Listed, version: int | None) -> "DeltaTable":
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise MissingExtra(
            f"{listed.path} is a Delta table (_delta_log), and reading one needs deltalake: pip install 'vae-anomaly[delta]'."
        ) from None
    if listed.filesystem.type_name not in _SCHEMES:
        raise DataError(f"{listed.path} is a Delta table; expected one in a local folder, s3://, gs:// or abfs://. Copy it to one of them.")
    return DeltaTable(_uri(listed), version=version, storage_options=storage_options(listed.filesystem))


def _uri(listed: Listed) -> str:
    scheme = _SCHEMES[listed.filesystem.type_name]
    return f"{scheme}://{listed.location}" if scheme else listed.location


def storage_options(filesystem: pafs.FileSystem) -> dict[str, str]:
    """Return what deltalake cannot take from the environment: what was in the URI, and that an address has no encryption."""
    if filesystem.type_name != "s3":
        return {}
    (given,) = filesystem.__reduce__()[1]  # what a copy of the file system would be made from
    endpoint = str(given["endpoint_override"] or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    if endpoint and "://" not in endpoint:
        endpoint = f"{given['scheme']}://{endpoint}"
    named = {
        "aws_access_key_id": given["access_key"],
        "aws_secret_access_key": given["secret_key"],
        "aws_session_token": given["session_token"],
        "aws_region": filesystem.region,
        "aws_endpoint": endpoint,
        "aws_allow_http": "true" if endpoint.startswith("http://") else "",
        "aws_skip_signature": "true" if given["anonymous"] else "",
    }
    return {name: value for name, value in named.items() if value}


@contextmanager
def _delta_errors(listed: Listed) -> Iterator[None]:
    """Raise errors of deltalake as a DataError of one line."""
    try:
        yield
    except (DataError, MissingExtra):
        raise
    except Exception as error:
        if not (type(error).__module__.startswith(("_internal", "deltalake")) or isinstance(error, OSError | ValueError)):
            raise
        asked = f" at version {listed.version}" if listed.version else ""
        raise DataError(f"{listed.path} cannot be read as a Delta table (_delta_log){asked}: {redacted(one_line(error))}") from error


def delta_target(to: Destination) -> Listed:
    """Return the table that a destination names, which may not be there yet. Raises MissingExtra without deltalake, OutputError."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise MissingExtra(f"{to} is to be a Delta table, and writing one needs deltalake: pip install 'vae-anomaly[delta]'.") from None
    filesystem = to.remote.filesystem if to.remote else pafs.LocalFileSystem()
    location = to.remote.location if to.remote else str(to.path.absolute())
    if filesystem.type_name not in _SCHEMES:
        raise OutputError(f"{to} cannot be a Delta table; expected a local folder, s3://, gs:// or abfs://. Name one with -o.")
    return Listed(path=str(to), location=location, root=location, size=0, modified=0, filesystem=filesystem, lake="delta")


def current_delta(target: Listed) -> "DeltaTable | None":
    """Return the current version of a table, None if there is no table. Raises OutputError."""
    from deltalake.exceptions import TableNotFoundError

    with _writing_delta(target):
        try:
            return _opened(target, None)
        except TableNotFoundError:
            return None


def refuse_features(target: Listed, table: "DeltaTable") -> None:
    """Refuse to overwrite a table with rules for its rows that an overwritten version would break. Raises OutputError."""
    protocol, about = table.protocol(), table.metadata()
    unknown = {*(protocol.writer_features or ()), *(protocol.reader_features or ())} - _FEATURES - _WRITER_FEATURES
    rules = [key for key in about.configuration if key.startswith("delta.constraints.")]
    rules += [f"{f.name}: {key}" for f in table.schema().fields for key in f.metadata if key.startswith("delta.")]
    reasons = {
        "is partitioned": about.partition_columns,
        "has features that are not supported": sorted(unknown),
        "has rules for its rows": rules,
        "maps its columns": [m for m in [about.configuration.get("delta.columnMapping.mode") or "none"] if m != "none"],
        "is append-only": [v for v in [about.configuration.get("delta.appendOnly") or ""] if v.lower() == "true"],
    }
    for reason, names in reasons.items():
        if names:
            raise OutputError(f"{target.path} {reason} ({', '.join(names)}), so scores cannot overwrite it. Name another table with -o.")


def refuse_times(target: Listed, table: "DeltaTable", schema: pa.Schema) -> None:
    """Refuse times without a zone for a table that lacks the feature they need, which an overwrite does not add. Raises OutputError."""
    named = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.tz is None]
    if named and "timestampNtz" not in (table.protocol().writer_features or ()):
        raise OutputError(
            f"{target.path} lacks the feature timestampNtz that the times without a zone of {named[0]!r} need. Name another table with -o."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFile:
    """A Parquet file in the folder of a table that no version has yet, and the ``transaction`` by which the log knows its commit."""

    name: str
    size: int
    rows: int
    schema: pa.Schema
    transaction: str


def commit_delta(target: Listed, table: "DeltaTable | None", file: DeltaFile, about: Mapping[str, str]) -> None:
    """Make a file the whole content of the next version of a table, or of a new one, in one commit.

    Raises OutputError, also when another process has made or changed the table meanwhile; then nothing was changed.
    """
    from deltalake import CommitProperties, Schema, Transaction
    from deltalake.transaction import AddAction, create_table_with_add_actions

    now = time.time_ns() // 1_000_000
    add = AddAction(file.name, file.size, {}, now, data_change=True, stats=json.dumps({"numRecords": file.rows}))
    properties = CommitProperties(custom_metadata=dict(about), app_transactions=[Transaction(file.transaction, 1, now)])
    schema = Schema.from_arrow(file.schema)
    with _writing_delta(target):
        if table is None:
            options = storage_options(target.filesystem)
            create_table_with_add_actions(_uri(target), schema, [add], storage_options=options, commit_properties=properties)
        else:
            table.create_write_transaction([add], "overwrite", schema, commit_properties=properties)


def committed_version(target: Listed, table: "DeltaTable", transaction: str) -> int | None:
    """Return the version that a transaction made, None if there is none. Raises OutputError if its commit is no longer in the log."""
    with _writing_delta(target):
        if table.transaction_version(transaction) is None:
            return None
        for version in range(table.version(), -1, -1):
            lines = _commit(target, version)
            if lines is None:
                break
            if any(json.loads(line).get("txn", {}).get("appId") == transaction for line in lines if b'"txn"' in line):
                return version
    raise changed_error(target.path)


def changed_after(target: Listed, table: "DeltaTable", version: int) -> bool:
    """Whether rows or columns of a table have changed since a version, or may have; compaction and clean-up change neither."""
    with _writing_delta(target):
        for later in range(version + 1, table.version() + 1):
            lines = _commit(target, later)
            if lines is None:
                return True
            for name, action in (entry for line in lines for entry in json.loads(line).items()):
                if name not in _HARMLESS and (name not in {"add", "remove"} or action.get("dataChange", True)):
                    return True
    return int(table.version()) < version


def changed_error(shown: str) -> OutputError:
    """Return the error for a table that is not as it was written."""
    return OutputError(f"{shown} was changed after it was written. Name another with -o, or give --overwrite to write a new version of it.")


@contextmanager
def _writing_delta(target: Listed) -> Iterator[None]:
    """Raise errors of deltalake as an OutputError of one line."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError, ValueError) as error:
        raise OutputError(f"{target.path} cannot be written as a Delta table: {redacted(one_line(error))}") from error
