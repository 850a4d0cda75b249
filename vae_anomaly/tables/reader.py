"""The protocol of an opened file, the same for every format, and the columns that its partition folders add.

``csv`` and ``arrow`` implement it; ``source`` reads several files as one table through it. Nothing here depends on a format.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.tables.csv_rejects import OnBad
from vae_anomaly.tables.files import TableFile

# Rows read at a time: 10 MB for 20 numbers, enough for Arrow's full speed and small beside a model.
BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """How much to read at a time: at most ``rows`` and about ``bytes``."""

    rows: int = BATCH_ROWS
    bytes: int = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSelection:
    """Columns to stream: ``numeric`` and ``text`` with null for the ``missing`` values, then ``raw`` as in the file."""

    numeric: Sequence[str] = ()
    text: Sequence[str] = ()
    raw: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """All columns, in the order of the stream."""
        return [*self.numeric, *self.text, *self.raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeEstimate:
    """Estimated size of a table: ``rows`` at most (infinite if unknown) and the bytes of one row in memory."""

    rows: float
    row_bytes: float


class Reader(Protocol):
    """An opened file. ``pieces`` are record batches of a columnar file and lists of records of a delimited one."""

    @property
    def file(self) -> TableFile:
        """The file."""

    @property
    def rows(self) -> int | None:
        """Number of rows; None if only reading tells."""

    @property
    def schema(self) -> pa.Schema:
        """Columns in file order, with the types of the file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file is read."""

    def estimated_size(self) -> SizeEstimate:
        """Estimate the size of the table from the beginning of the file."""

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[Any]:
        """Yield all rows; ``on_bad`` takes malformed ones, which raise DataError without it."""

    def pick(self, piece: Any, indices: NDArray[Any]) -> Any:
        """Return the rows of a piece at ``indices`` int64 ``[n]``, in memory of their own."""

    def count(self, piece: Any) -> int:
        """Return the number of rows of a piece."""

    def table(self, pieces: list[Any], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these pieces, with ``text`` columns of a delimited file as strings; may empty the list."""

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the selected columns batch by batch.

        Malformed rows raise DataError; with ``screened`` they are null, with their reason and text in two more columns (``csv_rejects``).
        """


def partitions_typed(table: pa.Table, reader: Reader) -> pa.Table:
    """Cast the columns of partition folders to int64, float64 or dates where all values allow it."""
    for name, _ in reader.file.partition:
        i = table.schema.get_field_index(name)
        for kind in (pa.int64(), pa.float64(), pa.date32()) if name not in reader.names else ():
            with suppress(pa.ArrowInvalid):
                table = table.set_column(i, name, table.column(i).cast(kind))
                break
    return table
