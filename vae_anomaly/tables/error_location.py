"""Find the file, row and line of a cell that does not fit its column, so that a message can name them.

Reads the files again, and only after an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.errors import BadCell
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import MAX_RECORD_BYTES, open_text
from vae_anomaly.tables.csv_records import Utf8Stream, line_of
from vae_anomaly.tables.reader import Reader

SKIP = "leave such rows out with --on-error skip"


def with_line(error: BadCell, readers: Sequence[Reader]) -> BadCell:
    """Add the line to an error about a row of a delimited file, and that ``--on-error skip`` would leave it out."""
    reader = next((r for r in readers if r.file.path == error.where), None)
    if not isinstance(reader, DelimitedTable):
        return error
    return BadCell(error.problem, where=error.where, row=error.row, remedies=(*error.remedies, SKIP), line=_line(reader, error.row))


def with_location(error: BadCell, readers: Sequence[Reader], number: int, *, readable: bool) -> BadCell:
    """Return an error about row ``number`` of all files together (from 0) with the file of the row, and its row and line there.

    ``readable``: the number counts readable rows only, not all rows.
    """
    for reader in readers:
        bad: list[int] = []
        rows = 0
        for piece in reader.pieces(missing=(), on_bad=lambda row, *_, bad=bad: bad.append(row)):
            rows += reader.count(piece)
            if number < rows + (0 if readable else len(bad)):
                row = _among_all(number, bad) if readable else number
                line = _line(reader, row) if isinstance(reader, DelimitedTable) else None
                return BadCell(error.problem, where=reader.file.path, row=row, remedies=error.remedies, line=line)
        number -= rows + (0 if readable else len(bad))
    return error


@contextmanager
def located(readers: Sequence[Reader], numbers: NDArray[np.int64]) -> Iterator[None]:
    """Raise a BadCell from within with its file, row and line; ``numbers[row]`` is the number of a row among all readable ones."""
    try:
        yield
    except BadCell as error:
        raise with_location(error, readers, int(numbers[error.row]), readable=True) from None


def _among_all(number: int, bad: Sequence[int]) -> int:
    """Return the number of a readable row among all rows, given the numbers of the bad ones, ascending."""
    for bad_row in bad:
        number += bad_row <= number
    return number


def _line(reader: DelimitedTable, row: int) -> int | None:
    with reading(reader.file.path), open_text(reader.file) as stream:
        text = Utf8Stream(stream, reader.dialect.encoding)
        return line_of(text, reader.dialect.delimiter, row, reader.dialect.head, longest=MAX_RECORD_BYTES)
