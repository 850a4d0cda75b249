"""Key columns as whole numbers: the order of times, and which group a row belongs to.

Knows nothing about models; only equality and order of the numbers mean anything.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.core import cells
from vae_anomaly.core.keys import distinct
from vae_anomaly.errors import BadCell, DataError

# Who knows the files says where the row is.
_WHERE = "the data"


def time_order(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Return the rank of every time ``[n]``, equal times equal ranks. Raises BadCell for a missing or unreadable time."""
    whole = cells.plain(column).combine_chunks()
    if whole.null_count:
        row = pc.index(pc.is_null(whole), pa.scalar(value=True)).as_py()
        said = f"time column {name!r} must have a time in every row but has none"
        raise BadCell(said, where=_WHERE, row=row, ways=("Drop such rows", "leave --time-column out"))
    values = as_times(whole, name)
    if not (cells.is_number_type(values.type) or pa.types.is_temporal(values.type)) or pa.types.is_interval(values.type):
        raise DataError(f"time column {name!r} must hold times or numbers; it is {values.type}. Name another with --time-column.")
    ticks = _ticks(values) if pa.types.is_temporal(values.type) else values
    return np.unique(ticks.to_numpy(zero_copy_only=False), return_inverse=True)[1].astype(np.int64)


def as_times(values: pa.Array, name: str) -> pa.Array:
    """Return a column without wrapping, its texts read as times. Raises BadCell where they are none."""
    values = cells.plain(values)
    if not cells.is_text_type(values.type):
        return values
    try:
        return cells.dates(values)
    except pa.ArrowInvalid:
        row = _first_no_time(values)
    said = f"time column {name!r} must hold times such as 2025-03-03 12:00:00, all of one form, but is {cells.shown(values[row].as_py())}"
    raise BadCell(said, where=_WHERE, row=row, ways=("Correct it", "leave --time-column out"))


def _first_no_time(text: pa.Array) -> int:
    """Return the place of the first text without which those before are all times of one form."""
    good, bad = 0, len(text)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            cells.dates(text[:middle])
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


def seconds(times: pa.Array) -> NDArray[np.float64]:
    """Return the times and dates that are there in seconds since 1970, however fine or far away."""
    a_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}.get(getattr(times.type, "unit", "ms"), 1.0)
    ticks = np.asarray(_ticks(times).drop_null().to_numpy(), dtype=np.float64)
    return ticks * 86_400.0 if pa.types.is_date32(times.type) else ticks / a_second


def _ticks(times: pa.Array) -> pa.Array:
    """Return times as the whole numbers they are stored as."""
    return times.cast(pa.int32() if times.type.bit_width == 32 else pa.int64())  # noqa: PLR2004  # the two widths there are


def group_codes(column: pa.ChunkedArray, name: str = "group") -> NDArray[np.int64]:
    """Return a number for each group ``[n]``; rows without one form a group of their own. Raises DataError for a nested column."""
    return distinct(column, name)[1]
