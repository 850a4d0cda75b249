"""Key columns of whatever type: what their cells are called, and which rows have the same one.

Labels, groups and ids are keys. Knows nothing about what they mean, and nothing about files.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.core import cells
from vae_anomaly.errors import DataError


def key_text(cell: pa.Scalar) -> str | None:
    """Return a key as people read it; None where there is none.

    >>> key_text(pa.scalar(b"M7")), key_text(pa.scalar(2**62, pa.timestamp("s")))
    ('M7', '4611686018427387904')
    """
    value = value_of(cell)
    return None if value is None else str(value)


def value_of(cell: pa.Scalar) -> object:
    """Return a key as a value of Python; bytes are text, and a time that Python has no value for is its number."""
    try:
        value = cell.as_py()
    except (OverflowError, ValueError):
        # Beyond the year 9999, finer than a microsecond, or in a zone that is not known.
        return str(cell.value)
    return cells.bytes_text(value) if isinstance(value, bytes) else value


def distinct(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[list[object], NDArray[np.int64]]:
    """Return the different cells of a column, None among them if one is missing, and for each row ``[n]`` the place of its own.

    Raises DataError for a column whose cells cannot be compared.
    """
    values = cells.readable(column)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.decimal256(76, values.type.scale))  # the smaller ones Arrow cannot tell apart
    if pa.types.is_nested(values.type) or pa.types.is_interval(values.type):
        raise DataError(
            f"column {name!r} is {values.type}, which cannot tell rows apart. Name a column of text, numbers, booleans or times instead."
        )
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    return [value_of(cell) for cell in encoded.dictionary], encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
