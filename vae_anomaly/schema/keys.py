"""Columns that are not model inputs: id and group keys, times and labels, of any Arrow type.

Errors name the row of the column; the caller that knows the files replaces ``where``.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly import messages
from vae_anomaly.choices import DAY_FIRST, MISSING_TEXT, MONTH_FIRST, TIME_COUNTS
from vae_anomaly.errors import BadCell, DataError
from vae_anomaly.schema import parsing
from vae_anomaly.schema.clocks import as_timestamps
from vae_anomaly.schema.levels import label_key
from vae_anomaly.schema.time_text import read_times

# Errors raised here know the row but not the file.
_WHERE = "the data"
LABELS_SHOWN = 8  # of an error; a column chosen by mistake can have thousands


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def key_text(cell: pa.Scalar) -> str | None:
    """Return a key as text, None if it is missing.

    >>> key_text(pa.scalar(b"M7")), key_text(pa.scalar(2**62, pa.timestamp("s")))
    ('M7', '4611686018427387904')
    """
    value = key_value(cell)
    return None if value is None else str(value)


def key_value(cell: pa.Scalar) -> object:
    """Return a key as a Python value; bytes become text, times that Python cannot represent their stored integer as text."""
    try:
        value = cell.as_py()
    except (OverflowError, ValueError, KeyError):
        # Beyond the year 9999, finer than a microsecond, or in an unknown time zone: pytz, where it is installed, raises a KeyError.
        return str(cell.value)
    return parsing.bytes_text(value) if isinstance(value, bytes) else value


def factorize(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[list[object], NDArray[np.int64]]:
    """Return the distinct values of a column, None if one is missing, and the index of each row's value, int64 ``[n]``.

    Raises DataError for a nested or interval column, whose cells cannot be compared.
    """
    values = parsing.readable_text(column)
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.decimal256(76, values.type.scale))  # Arrow cannot dictionary-encode the smaller ones
    if pa.types.is_nested(values.type) or pa.types.is_interval(values.type):
        raise DataError(
            f"column {name!r} is {values.type}, which cannot tell rows apart. Name a column of text, numbers, booleans or times instead."
        )
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    return [key_value(cell) for cell in encoded.dictionary], encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def group_codes(column: pa.ChunkedArray, name: str = "group") -> NDArray[np.int64]:
    """Return the group index of each row, int64 ``[n]``; rows without a group form one. Raises DataError for a nested column."""
    return factorize(column, name)[1]


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def time_values(column: pa.ChunkedArray | pa.Array, name: str, form: str | None = None) -> tuple[NDArray[np.float64], bool]:
    """Return the time of each row, float64 ``[n]``, and whether in seconds since 1970 or as a plain number; ``form``: a ``--time-format``.

    Raises BadCell for a missing or unreadable time and DataError for a column that holds neither times nor numbers.
    """
    whole = parsing.plain_array(column)
    whole = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    if whole.null_count:
        raise _no_time(name, pc.index(pc.is_null(whole), pa.scalar(value=True)).as_py())
    values = as_times(whole, name, form)
    if not (parsing.is_number_type(values.type) or pa.types.is_temporal(values.type)) or pa.types.is_interval(values.type):
        raise DataError(f"time column {name!r} must hold times or numbers; it is {values.type}. Name another with --time-column.")
    if pa.types.is_temporal(values.type):
        return seconds(values), True
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise _no_time(name, int(np.argmin(np.isfinite(numbers))))
    return numbers, False


def _no_time(name: str, row: int) -> BadCell:
    problem = f"time column {name!r} must have a time in every row but has none"
    return BadCell(problem, where=_WHERE, row=row, remedies=("Drop such rows", "leave --time-column out"))


def as_times(values: pa.Array, name: str, form: str | None = None) -> pa.Array:
    """Return the column unwrapped, with text and numbers read as times in the format ``form`` or in the one that they tell.

    Numbers that tell no unit stay numbers, which order rows as well. Raises BadCell for text that is not a time, DataError where day and
    month could be exchanged and for numbers that are no times in the unit ``form``.
    """
    values = parsing.plain_array(values)
    if parsing.is_text_type(values.type):
        numbers = parsing.numbers(values)
        if numbers.null_count > values.null_count or form in {DAY_FIRST, MONTH_FIRST}:
            return _times_in_text(values, name, form)
        values = numbers
    if not parsing.is_number_type(values.type):
        return values
    times = as_timestamps(values, form, name)
    if times is None and form is not None:
        raise DataError(f"time column {name!r} cannot be read with --time-format {form}. Name the format or the unit of its numbers.")
    return values if times is None else times


def _times_in_text(text: pa.Array, name: str, form: str | None) -> pa.Array:
    if form is None:
        with suppress(pa.ArrowInvalid):
            return parsing.dates(text)  # ISO 8601: all at once
    read = read_times(text, None if form in TIME_COUNTS else form)
    bad = pc.and_(pc.is_null(read.values), pc.is_valid(text))
    if pc.any(bad).as_py():
        row = pc.index(bad, pa.scalar(value=True)).as_py()
        wanted = "2025-03-03 12:00:00" if form is None else form
        problem = f"time column {name!r} must hold times such as {wanted} but is {messages.quote(text[row].as_py())}"
        raise BadCell(problem, where=_WHERE, row=row, remedies=("Correct it", "give --time-format", "leave --time-column out"))
    if read.unsure.any():
        shown = messages.quote(text[int(read.unsure.argmax())].as_py())
        raise DataError(
            f"time column {name!r} holds {shown}, of which either number may be the day: give --time-format {DAY_FIRST} or {MONTH_FIRST}."
        )
    return read.values


def seconds(times: pa.Array) -> NDArray[np.float64]:
    """Return the non-null times and dates in seconds since 1970, float64, in any unit and range."""
    a_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}.get(getattr(times.type, "unit", "ms"), 1.0)
    ticks = np.asarray(_ticks(times).drop_null().to_numpy(), dtype=np.float64)
    return ticks * 86_400.0 if pa.types.is_date32(times.type) else ticks / a_second


def _ticks(times: pa.Array) -> pa.Array:
    """Return the integers that the times are stored as."""
    return times.cast(pa.int32() if times.type.bit_width == 32 else pa.int64())  # noqa: PLR2004  # 32 or 64 bits


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labels of ``n`` rows: distinct ``names``, ``code`` int64 ``[n]`` the index into them, ``normal`` bool ``[n]``."""

    names: tuple[str, ...]
    code: NDArray[np.int64]
    normal: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each label, most frequent first."""
        count = np.bincount(self.code, minlength=len(self.names))
        order = sorted(range(len(self.names)), key=lambda i: (-count[i], self.names[i]))
        return {self.names[i]: int(count[i]) for i in order if count[i]}

    def where(self, rows: NDArray[np.bool_]) -> "Labels":
        """Return the labels of the rows where the mask ``[n]`` is true."""
        return Labels(names=self.names, code=self.code[rows], normal=self.normal[rows])


def read_labels(column: pa.ChunkedArray | pa.Array, normal_labels: Sequence[str], name: str = "label") -> Labels:
    """Return the labels of a column; spellings of one value are one label, named by the shortest of them: 0, 0.0, '0' and False are one.

    ``normal_labels`` are compared likewise, and without case. A text that usually means a missing cell is no label. Raises DataError
    for a nested column.

    >>> read_labels(pa.array(["0.0", "1", None, "False"]), ("0", "")).normal.tolist()
    [True, False, True, True]
    """
    values, indices = factorize(column, name)
    texts = [_given_label(value) for value in values]
    spellings: dict[str, list[str]] = {}
    for text in texts:
        spellings.setdefault(label_key(text), []).append(text)
    names = tuple(min(same, key=lambda text: (len(text), text)) for same in spellings.values())
    place = {key: i for i, key in enumerate(spellings)}
    index = np.array([place[label_key(text)] for text in texts], dtype=np.int64)
    normal_keys = {label_key(label).lower() for label in normal_labels}
    is_normal = np.array([key.lower() in normal_keys for key in spellings], dtype=np.bool_)
    code = index[indices]
    return Labels(names=names, code=code, normal=is_normal[code])


def _given_label(value: object) -> str:
    text = label_text(value)
    return "" if text in MISSING_TEXT else text


def label_text(value: object) -> str:
    """Return a label as text, empty for a missing one and NaN; 1.0 is '1'."""
    if value is None or value != value:  # noqa: PLR0124  # only NaN differs from itself
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def check_normal_rows(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError with the labels of the column if no row is normal."""
    if not labels.normal.any():
        raise DataError(
            f"no row is normal: column {column!r} holds {label_counts(labels.counts())}; normal means {_normal_label_list(normal_labels)}. "
            "Name your normal labels with --normal-label."
        )


def check_both_classes(labels: Labels, column: str, normal_labels: Sequence[str]) -> None:
    """Raise DataError unless there are normal and anomalous rows."""
    check_normal_rows(labels, column, normal_labels)
    if labels.normal.all():
        raise DataError(
            f"no row is anomalous: column {column!r} holds {label_counts(labels.counts())}, and all of that means normal "
            f"({_normal_label_list(normal_labels)}). Give rows of both classes, or other labels with --normal-label."
        )


def label_counts(counts: dict[str, int]) -> str:
    """Return the first labels with their counts, as in ``'sick' (231), 'ill' (3)``."""
    return messages.shorten_list((f"{label!r} ({count:,})" for label, count in counts.items()), length=LABELS_SHOWN)


def _normal_label_list(normal_labels: Sequence[str]) -> str:
    return ", ".join(repr(label) for label in normal_labels if label) + (" or empty" if "" in normal_labels else "")
