"""Where a cell stands that does not fit: in which file, in which row of it, and on which line, so that an editor finds it.

Reads again what was read; for errors only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from vae_anomaly.errors import BadCell
from vae_anomaly.storage.listing import reading
from vae_anomaly.tables import sampling
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import MAX_RECORD_BYTES, open_text
from vae_anomaly.tables.csv_records import Utf8, line_of

SKIP = "leave such rows out with --on-error skip"


def with_line(error: BadCell, parts: Sequence[sampling.Reader]) -> BadCell:
    """Return the error of a stream with its line, and that such rows can be left out, where its file is one of text."""
    part = next((p for p in parts if p.file.path == error.where), None)
    if not isinstance(part, DelimitedTable):
        return error
    return BadCell(error.said, where=error.where, row=error.row, ways=(*error.ways, SKIP), line=_line(part, error.row))


def in_its_file(error: BadCell, parts: Sequence[sampling.Reader], number: int, *, readable: bool) -> BadCell:
    """Return an error about the row ``number`` (from 0) of all files together with its file, and its row and line there.

    ``readable``: only the rows that can be read were counted.
    """
    for part in parts:
        bad: list[int] = []
        rows = 0
        for piece in part.pieces(missing=(), on_bad=lambda place, *_, bad=bad: bad.append(place)):
            rows += part.count(piece)
            if number < rows + (0 if readable else len(bad)):
                row = _past(number, bad) if readable else number
                line = _line(part, row) if isinstance(part, DelimitedTable) else None
                return BadCell(error.said, where=part.file.path, row=row, ways=error.ways, line=line)
        number -= rows + (0 if readable else len(bad))
    return error


@contextmanager
def located(parts: Sequence[sampling.Reader], numbers: NDArray[np.int64]) -> Iterator[None]:
    """Say of a cell that does not fit, in one of the readable rows ``numbers`` of all files together, where it stands. Raises BadCell."""
    try:
        yield
    except BadCell as error:
        raise in_its_file(error, parts, int(numbers[error.row]), readable=True) from None


def _past(number: int, bad: Sequence[int]) -> int:
    """Return the place of a readable row among all, bad places ascending."""
    for place in bad:
        number += place <= number
    return number


def _line(part: DelimitedTable, row: int) -> int | None:
    with reading(part.file.path), open_text(part.file) as stream:
        return line_of(Utf8(stream, part.dialect.encoding), part.dialect.delimiter, row, longest=MAX_RECORD_BYTES)
