"""Key columns as whole numbers: the order of times, and which group a row belongs to.

Knows nothing about models; only equality and order of the numbers mean anything.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.errors import DataError


def time_order(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Return the rank of every time ``[n]``, equal times equal ranks. Raises DataError for a missing or unreadable time."""
    whole = column.combine_chunks()
    if whole.null_count:
        row = pc.index(pc.is_null(whole), pa.scalar(value=True)).as_py() + 1
        raise DataError(
            f"time column {name!r} must have a time in every row; row {row:,} has none. Drop such rows, or leave --time-column out."
        )
    values = as_times(whole, name)
    return np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)[1].astype(np.int64)


def as_times(values: pa.Array, name: str) -> pa.Array:
    """Return a column with its texts read as times. Raises DataError where they are none."""
    if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
        return values
    try:
        return values.cast(pa.timestamp("us"))
    except pa.ArrowInvalid as error:
        raise DataError(f"time column {name!r} must hold times such as 2025-03-03 12:00:00: {error}".splitlines()[0]) from None


def group_codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a number for each group ``[n]``; rows without one form a group of their own."""
    encoded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes
