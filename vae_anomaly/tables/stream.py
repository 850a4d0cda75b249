"""The rows of several files as one stream of batches that fit a schema; rows that cannot be read stop it or are set aside.

Knows nothing about formats: a part says what it holds. Memory does not grow with the rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.schema.schema import Schema, conform
from vae_anomaly.tables.arrow import Chunk
from vae_anomaly.tables.csv_rejects import TEXT_COLUMN, Rejects, faults_of, rejected_text
from vae_anomaly.tables.files import TableFile

# The column with the number of a row over all inputs, from 0, in batches that some rows may be left out of.
NUMBERS = "\0number"

NO_RECORDS = "(--on-error is for rows of CSV: Parquet and Arrow files are good or damaged as a whole.)"


class Streamed(Protocol):
    """One opened file."""

    @property
    def file(self) -> TableFile:
        """Where it lies."""

    @property
    def rows(self) -> int | None:
        """How many rows it has; None if only reading tells."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""

    def stream(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: Chunk
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows, or raise for one that cannot be read."""

    def screened(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: Chunk
    ) -> Iterator[pa.RecordBatch]:
        """Yield a row for every record, with what is wrong with a bad one beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a stream is made of: the columns of ``schema`` as ``conform`` makes them, then ``raw`` ones in these types, in ``chunk``s."""

    schema: Schema | None
    raw: pa.Schema
    missing: Sequence[str]
    chunk: Chunk


def stream(parts: Sequence[Streamed], wanted: Wanted, first_row: int, rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows from ``first_row`` on; with ``rejects`` the bad ones go there, and ``NUMBERS`` stands last.

    A batch may hold no row, where all of them were bad. Returns after the last row; the caller says whether there was any. Raises DataError
    for a part that has rows and not one that can be read.
    """
    rows = 0
    for part in parts:
        # A stream goes on behind a row that could be read.
        own, found = None if rejects is None else Rejects(on_reject=rejects), first_row > rows
        if part.rows is not None and rows + part.rows <= first_row:
            rows += part.rows
            continue
        first = 0
        for whole in _raw_batches(part, wanted, screened=rejects is not None):
            past = min(max(first_row - rows - first, 0), whole.num_rows)
            batch, first = whole.slice(past), first + past
            if past < whole.num_rows:
                fitting = _fitting(batch, wanted, part.file.path, first, None if own is None else (own, rows))
                found = found or fitting.num_rows > 0
                yield fitting
            first += batch.num_rows
        if own is not None and own.first is not None and not found:
            raise none_readable(part.file.path, own)
        rows += first


def none_readable(where: str, rejects: Rejects) -> DataError:
    """Return what to say of rows none of which can be read."""
    first = "" if rejects.first is None else rejects.first.where
    return DataError(
        f"none of the first {rejects.count:,} rows of {where} can be read; {first}. Check the delimiter, the encoding and the columns."
    )


def numbers_of(batch: pa.RecordBatch, first: int) -> NDArray[np.int64]:
    """Return the numbers of the rows of a batch over all inputs; they count from ``first`` where none can be left out."""
    if NUMBERS in batch.schema.names:
        return np.asarray(batch.column(NUMBERS).to_numpy(), dtype=np.int64)
    return np.arange(first, first + batch.num_rows)


def _fitting(batch: pa.RecordBatch, wanted: Wanted, where: str, first: int, aside: tuple[Rejects, int] | None) -> pa.RecordBatch:
    """Bring a batch to what is wanted, or set its bad rows aside."""
    # A cell of Parquet or Arrow that does not fit is no bad record: it stops the reading.
    bad = faults_of(batch) if aside is not None and TEXT_COLUMN in batch.schema.names else None
    arrays, names = [batch.column(field.name).cast(field.type) for field in wanted.raw], list(wanted.raw.names)
    if wanted.schema is not None:
        try:
            model = conform(wanted.schema, batch, where=where, first_row=first, bad=bad)
        except SchemaMismatch as error:
            raise (error if aside is None or bad is not None else SchemaMismatch(f"{error} {NO_RECORDS}")) from None
        arrays, names = [*model.columns, *arrays], [*model.schema.names, *names]
    if aside is None:
        return pa.RecordBatch.from_arrays(arrays, names=names)
    rejects, rows = aside
    bad = bad or {}
    for i in sorted(bad):
        rejects.add(where, rows, first + i, bad[i], rejected_text(batch, i))
    numbers = pa.array(range(rows + first, rows + first + batch.num_rows), pa.int64())
    fitting = pa.RecordBatch.from_arrays([*arrays, numbers], names=[*names, NUMBERS])
    return fitting.filter(pa.array([i not in bad for i in range(batch.num_rows)])) if bad else fitting


def _raw_batches(part: Streamed, wanted: Wanted, *, screened: bool) -> Iterator[pa.RecordBatch]:
    """Stream a part's own columns and put those of its partition folders beside them."""
    own = set(part.names)
    model = wanted.schema.columns if wanted.schema is not None else ()
    read = part.screened if screened else part.stream
    batches = read(
        numeric=[c.name for c in model if c.kind == "numeric" and not c.temporal and c.name in own],
        text=[c.name for c in model if (c.kind != "numeric" or c.temporal) and c.name in own],
        raw=[n for n in wanted.raw.names if n in own],
        missing=wanted.missing,
        chunk=wanted.chunk,
    )
    for batch in batches:
        yield from with_partition(pa.Table.from_batches([batch]), part.file).to_batches()


def with_partition(table: pa.Table, file: TableFile) -> pa.Table:
    """Return the table with the values of its partition folders as columns."""
    for name, value in file.partition:
        if name not in table.schema.names:
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    return table


def partitions_typed(table: pa.Table, part: Streamed) -> pa.Table:
    """Read the values of partition folders as whole numbers or dates where all of them are."""
    for name, _ in part.file.partition:
        i = table.schema.get_field_index(name)
        for kind in (pa.int64(), pa.date32()) if name not in part.names else ():
            with suppress(pa.ArrowInvalid):
                table = table.set_column(i, name, table.column(i).cast(kind))
                break
    return table


def chunked(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cut batches that are longer than ``rows``."""
    for batch in batches:
        for first in range(0, batch.num_rows, rows):
            yield batch.slice(first, rows)


def names_of(part: Streamed) -> tuple[str, ...]:
    """Return the column names of a part, those of its partition folders last."""
    return (*part.names, *(n for n, _ in part.file.partition if n not in part.names))
