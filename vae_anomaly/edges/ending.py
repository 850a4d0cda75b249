"""Whether a delimited file ends where its reader thinks: a mark is put behind it, and must come out as the last row.

A quote that is opened and never closed makes Arrow take all that follows for one cell. Knows nothing about types and models.
"""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from vae_anomaly.edges.dialect import Dialect
from vae_anomaly.errors import DataError

# As improbable in a file as it is in range.
_NUMBER = 1.2345678987654321e-301
_TEXT = "\x1eend of file\x1e"


class End:
    """The mark behind a file of one dialect; the number in it is for a first column of numbers."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._number = str(_NUMBER).replace(".", dialect.decimal)

    def tail(self, types: Mapping[str, pa.DataType] | None = None) -> bytes:
        """Return the mark as a record: cells that are missing, and with ``types`` a mark in the first of these columns."""
        cells = dict.fromkeys(self._dialect.names, '""')
        for name, kind in list((types or {}).items())[:1]:
            cells[name] = _TEXT if pa.types.is_string(kind) else f'"{self._number}"'
        return ("\n" + self._dialect.delimiter.join(cells.values()) + "\n").encode()

    def cut(self, batches: Iterator[pa.RecordBatch], path: str) -> Iterator[pa.RecordBatch]:
        """Let batches pass without the mark in the first column of the last row. Raises DataError where it is not."""
        rows, held = 0, None
        for batch in batches:
            if batch.num_rows:
                if held is not None:
                    yield held
                    rows += held.num_rows
                held = batch
        if held is None or held.column(0)[-1].as_py() not in {_NUMBER, _TEXT}:
            raise _open_quote(path, rows + (0 if held is None else held.num_rows))
        if held.num_rows > 1:
            yield held.slice(0, held.num_rows - 1)

    def cut_table(self, table: pa.Table, path: str) -> pa.Table:
        """Return the table without the mark, which is a row of missing cells. Raises DataError where it is not the last."""
        last = table.slice(max(0, table.num_rows - 1))
        if any(column.null_count < last.num_rows for column in last.columns) or not last.num_rows:
            raise _open_quote(path, table.num_rows)
        return table.slice(0, table.num_rows - 1)


def _open_quote(path: str, row: int) -> DataError:
    return DataError(f"{path} row {row:,} opens a quote that is never closed, and all that follows is in it. Close it, or double it.")
