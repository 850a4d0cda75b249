"""Key columns of whatever type: what their cells are called, and which rows have the same one.

Labels, groups and ids are keys. Knows nothing about what they mean, and nothing about files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly import messages
from vae_anomaly.errors import BadCell, DataError
from vae_anomaly.schema import parsing


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
    return parsing.bytes_text(value) if isinstance(value, bytes) else value


def distinct(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[list[object], NDArray[np.int64]]:
    """Return the different cells of a column, None among them if one is missing, and for each row ``[n]`` the place of its own.

    Raises DataError for a column whose cells cannot be compared.
    """
    values = parsing.readable(column)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.decimal256(76, values.type.scale))  # the smaller ones Arrow cannot tell apart
    if pa.types.is_nested(values.type) or pa.types.is_interval(values.type):
        raise DataError(
            f"column {name!r} is {values.type}, which cannot tell rows apart. Name a column of text, numbers, booleans or times instead."
        )
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    return [value_of(cell) for cell in encoded.dictionary], encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


# Who knows the files says where the row is.
_WHERE = "the data"


def time_order(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Return the rank of every time ``[n]``, equal times equal ranks. Raises BadCell for a missing or unreadable time."""
    whole = parsing.plain_array(column).combine_chunks()
    if whole.null_count:
        row = pc.index(pc.is_null(whole), pa.scalar(value=True)).as_py()
        said = f"time column {name!r} must have a time in every row but has none"
        raise BadCell(said, where=_WHERE, row=row, ways=("Drop such rows", "leave --time-column out"))
    values = as_times(whole, name)
    if not (parsing.is_number_type(values.type) or pa.types.is_temporal(values.type)) or pa.types.is_interval(values.type):
        raise DataError(f"time column {name!r} must hold times or numbers; it is {values.type}. Name another with --time-column.")
    ticks = _ticks(values) if pa.types.is_temporal(values.type) else values
    return np.unique(ticks.to_numpy(zero_copy_only=False), return_inverse=True)[1].astype(np.int64)


def as_times(values: pa.Array, name: str) -> pa.Array:
    """Return a column without wrapping, its texts read as times. Raises BadCell where they are none."""
    values = parsing.plain_array(values)
    if not parsing.is_text_type(values.type):
        return values
    try:
        return parsing.dates(values)
    except pa.ArrowInvalid:
        row = _first_no_time(values)
    said = (
        f"time column {name!r} must hold times such as 2025-03-03 12:00:00, all of one form, but is {messages.quote(values[row].as_py())}"
    )
    raise BadCell(said, where=_WHERE, row=row, ways=("Correct it", "leave --time-column out"))


def _first_no_time(text: pa.Array) -> int:
    """Return the place of the first text without which those before are all times of one form."""
    good, bad = 0, len(text)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            parsing.dates(text[:middle])
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


# Labels named in an error text; a column that is no label column has thousands.
NAMED_AT_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labels of ``n`` rows: ``names`` the different ones, ``code`` int64 ``[n]`` the place in them, ``normal`` bool ``[n]``."""

    names: tuple[str, ...]
    code: NDArray[np.int64]
    normal: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """Return label → number of rows, the most frequent first."""
        count = np.bincount(self.code, minlength=len(self.names))
        order = sorted(range(len(self.names)), key=lambda i: (-count[i], self.names[i]))
        return {self.names[i]: int(count[i]) for i in order if count[i]}

    def where(self, rows: NDArray[np.bool_]) -> "Labels":
        """Return the labels of the chosen rows."""
        return Labels(names=self.names, code=self.code[rows], normal=self.normal[rows])


def read_labels(column: pa.ChunkedArray | pa.Array, normal_labels: Sequence[str], name: str = "label") -> Labels:
    """Read a label column of any type but nested ones, which raise DataError with its ``name``.

    >>> read_labels(pa.array([0.0, 1.0, None]), ("0", "")).normal.tolist()
    [True, False, True]
    """
    values, places = distinct(column, name)
    texts = [label_text(value) for value in values]
    names = tuple(dict.fromkeys(texts))
    place = np.array([names.index(text) for text in texts], dtype=np.int64)
    wanted = {label.strip().lower() for label in normal_labels}
    is_normal = np.array([name.lower() in wanted for name in names], dtype=np.bool_)
    code = place[places]
    return Labels(names=names, code=code, normal=is_normal[code])


def label_text(value: object) -> str:
    """One label as text; NaN is a missing one."""
    if value is None or value != value:  # noqa: PLR0124  # only NaN differs from itself
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def refuse_without_normal(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError that lists the labels found when no row is normal."""
    if not labels.normal.any():
        raise DataError(
            f"no row is normal: column {column!r} holds {label_counts(labels.counts())}; normal means {_wanted(normal_labels)}. "
            "Name your normal labels with --normal-label."
        )


def refuse_one_class(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError when rows of one of the two classes are missing, so that nothing can be compared."""
    refuse_without_normal(labels, column, normal_labels)
    if labels.normal.all():
        raise DataError(
            f"no row is anomalous: column {column!r} holds {label_counts(labels.counts())}, and all of that means normal "
            f"({_wanted(normal_labels)}). Give rows of both classes, or other labels with --normal-label."
        )


def label_counts(counts: dict[str, int]) -> str:
    """``'sick' (231), 'ill' (3)``, cut after a few."""
    parts = [f"{label!r} ({count:,})" for label, count in list(counts.items())[:NAMED_AT_MOST]]
    rest = len(counts) - len(parts)
    return ", ".join(parts) + (f" and {rest:,} others" if rest else "")


def _wanted(normal_labels: Sequence[str]) -> str:
    return ", ".join(repr(label) for label in normal_labels if label) + (" or empty" if "" in normal_labels else "")
