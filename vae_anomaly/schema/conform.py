"""One column of a batch brought to what a model reads: numbers as float64, everything else as text, or refused.

Knows nothing about files (``where`` is only a word in an error) and nothing about tensors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly import messages
from vae_anomaly.errors import BadCell, SchemaMismatch
from vae_anomaly.schema import parsing
from vae_anomaly.schema.inference import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrigin:
    """Where a batch comes from, for errors; ``bad`` takes what is wrong with a row, by its index in the batch, instead of an error."""

    where: str
    first_row: int
    bad: dict[int, str] | None

    def refuse(self, bad: pa.Array, said: Callable[[int], str], ways: Callable[[int], Sequence[str]]) -> None:
        """Refuse the first row that is true in ``bad``, or note all of them with what ``said`` says of each."""
        if self.bad is not None:
            for index in pc.indices_nonzero(bad).to_pylist():
                self.bad.setdefault(index, said(index))
        elif (index := pc.index(bad, pa.scalar(value=True)).as_py()) >= 0:
            raise BadCell(said(index), where=self.where, row=self.first_row + index, ways=ways(index))


def numeric(column: Column, values: pa.Array, place: RowOrigin) -> pa.Array:
    """Return float64 without NaN or infinity; a cell of text must be a number."""
    values = parsing.plain_array(values)
    if column.temporal:
        values = _seconds(column, values, place)
    if parsing.is_text_type(values.type):
        values = _parsed(column, values, place)
    if not (parsing.is_number_type(values.type) or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise SchemaMismatch(
            f"column {column.name!r} is numeric in this model but {values.type} in {place.where}. "
            "Write it as numbers, or leave it out and fit again."
        )
    # safe=False: integers beyond 2^53 are rounded, as every float64 is.
    return _finite(column, values.cast(pa.float64(), safe=False), place)


def levels(column: Column, values: pa.Array, place: RowOrigin) -> pa.Array:
    """Return ``string``; a boolean in the spelling of the model's levels."""
    try:
        text = parsing.texts(values)
    except pa.ArrowException:
        raise SchemaMismatch(
            f"column {column.name!r} is a {column.kind} in this model but {values.type} in {place.where}. "
            "Write it as text, or leave it out and fit again."
        ) from None
    return parsing.boolean_texts(text, column.levels) if column.kind == "boolean" else text


def _parsed(column: Column, text: pa.Array, place: RowOrigin) -> pa.Array:
    place.refuse(
        parsing.not_numbers(text),
        lambda i: f"column {column.name!r} is numeric in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.ways(text[i].as_py(), column.name),
    )
    return parsing.numbers(text)


def _finite(column: Column, values: pa.Array, place: RowOrigin) -> pa.Array:
    """Return the values with null for NaN; no copy if all are finite."""
    # One pass that NaN and infinity survive; a sum that overflows only costs the slower look below.
    if math.isfinite(pc.sum(values, min_count=0).as_py()):
        return values
    place.refuse(
        pc.fill_null(pc.is_inf(values), fill_value=False),
        lambda i: f"column {column.name!r} must be finite but is {values[i].as_py()}",
        lambda _: ("Declare it in --missing-values if it stands for a missing value", "correct the row"),
    )
    return pc.if_else(pc.is_finite(values), values, None)


def _seconds(column: Column, values: pa.Array, place: RowOrigin) -> pa.Array:
    """Return times and durations in seconds: since 1970, since midnight, or long."""
    kind = values.type
    if parsing.is_text_type(kind):
        values = _timed(column, values, place)
    elif pa.types.is_temporal(kind):
        length = pa.types.is_time(kind) or pa.types.is_duration(kind)
        unit = (pa.duration if pa.types.is_duration(kind) else pa.time64)("us") if length else pa.timestamp("us")
        try:
            values = values.cast(unit, safe=False)
        except pa.ArrowException:
            return values
    else:
        return values
    return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)


def _timed(column: Column, text: pa.Array, place: RowOrigin) -> pa.Array:
    """Return timestamps; where they are not all of one form, each is read by itself."""
    try:
        return parsing.times(text)
    except pa.ArrowException:
        read = [parsing.microseconds(cell) for cell in text.to_pylist()]
    times = pa.array(read, pa.int64())
    place.refuse(
        pc.and_(pc.is_null(times), pc.is_valid(text)),
        lambda i: f"column {column.name!r} holds times in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.TEXT_HINTS if text[i].as_py().strip() != column.name else parsing.HEADER,
    )
    return times
