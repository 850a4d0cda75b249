"""Read the live files of a lakehouse table as one table: by its columns, without deleted rows, in a fixed order.

``delta`` and ``iceberg`` say which files are live, by the log of the table; here their rows are read as those of any Parquet file, so that
memory stays bounded and the rows come in the same order every time, which resuming a killed job relies on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.schema.parsing import supported, supported_type
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.lakehouse import LAKE_NAMES
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.arrow import ColumnarTable, parquet_batches, parquet_schema, reading_arrow
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.reader import BATCH_ROWS, Chunk

_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LakeColumn:
    """A column of a table: its type, and how its files know it: by ``field_id``, or by the first of ``names`` that they have.

    ``default``: its value in files that were written before the column was added. ``ids_needed``: files must have field ids, and a file
    without any is an error, not one without the column.
    """

    name: str
    type: pa.DataType
    names: tuple[str, ...] = ()
    field_id: int | None = None
    default: Any = None
    ids_needed: bool = False

    def source(self, schema: pa.Schema) -> str | None:
        """Return the name of the column in a file of this schema, None if the file lacks it. Raises DataError without ``ids_needed``."""
        ids = {int(f.metadata[_FIELD_ID]): f.name for f in schema if f.metadata and _FIELD_ID in f.metadata}
        if self.field_id is not None and ids:
            return ids.get(self.field_id)
        if self.ids_needed:
            raise DataError(f"column {self.name!r} is found by its field id, and the files have none. Rewrite the table.")
        return next((name for name in self.names if schema.get_field_index(name) >= 0), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveFile:
    """A live data file: values of the columns that the log holds instead of the file, and positions int64 ``[n]`` of deleted rows.

    ``defaults``: those of columns that the file may hold too. ``order`` sorts the files of a table, as they were added to it. ``rows`` are
    those of the file, deleted ones included; None: unknown.
    """

    filesystem: pafs.FileSystem = field(repr=False)
    location: str
    order: tuple[Any, ...]
    size: int
    rows: int | None
    constants: Mapping[str, pa.Scalar] = field(default_factory=dict)
    defaults: Mapping[str, pa.Scalar] = field(default_factory=dict)
    deleted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveTable:
    """A version of a table: what it is ``called``, when it was ``written``, its columns and live files, and the columns ``left_out``."""

    called: str
    written: datetime | None
    columns: Sequence[LakeColumn]
    files: Sequence[LiveFile]
    left_out: Sequence[str] = ()

    @property
    def rows(self) -> int | None:
        """Number of rows that are not deleted; None if only reading tells."""
        rows = [None if f.rows is None else f.rows - len(f.deleted) for f in self.files]
        return None if None in rows else sum(r for r in rows if r is not None)


def open_lake(file: TableFile) -> ColumnarTable:
    """Open a lakehouse table; its library is imported only here."""
    if file.format == "delta":
        from vae_anomaly.tables.delta import open_delta

        return open_delta(file)
    from vae_anomaly.tables.iceberg import open_iceberg

    return open_iceberg(file)


def live_reader(file: TableFile, table: LiveTable) -> ColumnarTable:
    """Return the reader of a table. Raises DataError if two columns have the same name."""
    schema = pa.schema([(column.name, supported_type(column.type)) for column in table.columns])
    check_duplicates(schema.names, file.path)
    live = replace(table, files=sorted(table.files, key=lambda f: f.order))
    when = "" if table.written is None else f" of {time_text(table.written)}"
    notes = [f"{file.path}: {table.called}{when} was read"]
    if table.left_out:
        notes.append(f"{file.path}: nested columns of this table are left out: {', '.join(table.left_out)}")
    return ColumnarTable(file=file, schema=schema, rows=live.rows, batches=partial(_live_batches, live), notes=tuple(notes))


def _live_batches(table: LiveTable, file: TableFile, names: Sequence[str], chunk: Chunk) -> Iterator[pa.RecordBatch]:
    columns = {column.name: column for column in table.columns}
    for live in table.files:
        with reading_arrow(_shown(file, live)):
            yield from _file_batches(table, _data_file(file, live), live, [columns[name] for name in names], chunk)


def _file_batches(
    table: LiveTable, file: TableFile, live: LiveFile, columns: Sequence[LakeColumn], chunk: Chunk
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a live file that are not deleted, in the columns of the table."""
    try:
        schema, rows = parquet_schema(file)
    except FileNotFoundError as error:
        raise DataError(
            f"{file.path} is gone, and {table.called} needs it: it was vacuumed, expired, or not copied along. "
            "Read the current version of the table, where it was written."
        ) from error
    sources = {c.name: None if c.name in live.constants else c.source(schema) for c in columns}
    wanted = list(dict.fromkeys(name for name in sources.values() if name is not None))
    pieces = parquet_batches(file, wanted, chunk, int96="us") if wanted else _without_columns(rows)
    known, first = {**live.defaults, **live.constants}, 0
    for piece in pieces:
        kept = _kept(live.deleted, first, piece.num_rows)
        first += piece.num_rows
        whole = [_values(c, piece, sources[c.name], known.get(c.name)) for c in columns]
        batch = pa.RecordBatch.from_arrays(whole, names=[c.name for c in columns])
        yield batch if kept is None else batch.filter(pa.array(kept))


def _values(column: LakeColumn, piece: pa.RecordBatch, source: str | None, constant: pa.Scalar | None) -> pa.Array:
    """Return the values of a column in a piece of a file, in the type of the table."""
    kind = supported_type(column.type)
    if source is not None:
        return supported(piece.column(source)).cast(kind)
    value = scalar_of(column.default, kind) if constant is None else constant.cast(kind)
    return pa.repeat(value, piece.num_rows)


def _without_columns(rows: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of so many rows, for a file that has none of the columns."""
    for first in range(0, rows, BATCH_ROWS):
        yield pa.RecordBatch.from_arrays([pa.nulls(min(BATCH_ROWS, rows - first))], names=["rows"])


def _kept(deleted: NDArray[np.int64], first: int, rows: int) -> NDArray[np.bool_] | None:
    """Return which of the ``rows`` of a file from ``first`` on are not deleted, bool ``[rows]``; None: all."""
    begin, end = np.searchsorted(deleted, [first, first + rows])
    if begin == end:
        return None
    kept = np.ones(rows, dtype=np.bool_)
    kept[deleted[begin:end] - first] = False
    return kept


def _shown(file: TableFile, live: LiveFile) -> str:
    root = file.listed.location.rstrip("/")
    inside = live.location.startswith(f"{root}/")
    return f"{file.path.rstrip('/')}/{live.location[len(root) + 1 :]}" if inside else live.location


def _data_file(file: TableFile, live: LiveFile) -> TableFile:
    listed = replace(file.listed, path=_shown(file, live), location=live.location, filesystem=live.filesystem, size=live.size, lake=None)
    return TableFile(listed=listed, format="parquet")


def scalar_of(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return a value as a scalar of a type; times may be counts since 1970 or text."""
    if isinstance(value, int) and (pa.types.is_temporal(kind)):
        return pa.scalar(value, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)  # noqa: PLR2004 (bits)
    if isinstance(value, str):
        return pa.scalar(value).cast(kind)
    return pa.scalar(value, kind)


# Version number, snapshot or time that ``--at`` names.
Asked = int | datetime


def parse_at(text: str) -> Asked | None:
    """Return the number or the time (of UTC unless it says otherwise) that ``--at`` gives; None if it is neither.

    >>> parse_at("12"), parse_at("2026-03-01 12:00")
    (12, datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone.utc))
    """
    if text.strip().isdecimal():
        return int(text)
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def at_error(text: str) -> ConfigError:
    """Return the error for an ``--at`` that is neither a version nor a time."""
    return ConfigError(f"--at must be a version, a snapshot or a time such as 2026-03-01T12:00:00Z; got {text!r}.")


def unversioned_error(listed: Listed) -> ConfigError:
    """Return the error for ``--at`` with a file that has no versions."""
    names = " or ".join(LAKE_NAMES[lake] for lake in ("delta", "iceberg"))
    return ConfigError(f"--at reads a version of a {names}, and {listed.path} has no versions. Leave out --at.")


def time_text(when: datetime) -> str:
    """Return a time in UTC, to the second.

    >>> time_text(datetime(2026, 3, 1, 12, tzinfo=UTC))
    '2026-03-01T12:00:00Z'
    """
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
