"""Conversion of one column of a batch to the type of the schema: float64 for numbers, ``string`` for everything else.

``where`` names the table in errors.
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
    """Where a batch comes from, for errors.

    ``first_row``: index of its first row in ``where``. ``bad``: if given, collects the problem of each bad row by its index in the batch
    instead of raising.
    """

    where: str
    first_row: int
    bad: dict[int, str] | None

    def refuse(self, bad: pa.Array, problem: Callable[[int], str], remedies: Callable[[int], Sequence[str]]) -> None:
        """Raise BadCell for the first row where the mask ``bad`` is true, or collect the problem of all such rows."""
        if self.bad is not None:
            for index in pc.indices_nonzero(bad).to_pylist():
                self.bad.setdefault(index, problem(index))
        elif (index := pc.index(bad, pa.scalar(value=True)).as_py()) >= 0:
            raise BadCell(problem(index), where=self.where, row=self.first_row + index, remedies=remedies(index))


def conform_numeric(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return the column as float64, null for missing cells and NaN.

    Raises BadCell for text that is no number and for infinity, SchemaMismatch for a type that cannot be numeric.
    """
    values = parsing.plain_array(values)
    if column.temporal:
        values = _seconds(column, values, origin)
    if parsing.is_text_type(values.type):
        values = _parsed(column, values, origin)
    if not (parsing.is_number_type(values.type) or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise SchemaMismatch(
            f"column {column.name!r} is numeric in this model but {values.type} in {origin.where}. "
            "Write it as numbers, or leave it out and fit again."
        )
    # safe=False: integers beyond 2^53 are rounded instead of refused.
    return _finite(column, values.cast(pa.float64(), safe=False), origin)


def conform_levels(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return the column as ``string``, booleans in the spelling of the levels. Raises SchemaMismatch for a type without text form."""
    try:
        text = parsing.category_texts(values)
    except pa.ArrowException:
        raise SchemaMismatch(
            f"column {column.name!r} is a {column.kind} in this model but {values.type} in {origin.where}. "
            "Write it as text, or leave it out and fit again."
        ) from None
    return parsing.boolean_texts(text, column.levels) if column.kind == "boolean" else text


def _parsed(column: Column, text: pa.Array, origin: RowOrigin) -> pa.Array:
    origin.refuse(
        parsing.not_numbers(text),
        lambda i: f"column {column.name!r} is numeric in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.cell_remedies(text[i].as_py(), column.name),
    )
    return parsing.numbers(text)


def _finite(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return the values with null for NaN; no copy if all are finite."""
    # NaN and infinity propagate through the sum: one pass without a temporary. An overflow only costs the slow path.
    if math.isfinite(pc.sum(values, min_count=0).as_py()):
        return values
    origin.refuse(
        pc.fill_null(pc.is_inf(values), fill_value=False),
        lambda i: f"column {column.name!r} must be finite but is {values[i].as_py()}",
        lambda _: ("Declare it in --missing-values if it means a missing value", "correct the row"),
    )
    return pc.if_else(pc.is_finite(values), values, None)


def _seconds(column: Column, values: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return times in seconds since 1970, times of day since midnight, durations in seconds; other types unchanged."""
    kind = values.type
    if parsing.is_text_type(kind):
        values = _timed(column, values, origin)
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


def _timed(column: Column, text: pa.Array, origin: RowOrigin) -> pa.Array:
    """Return text as timestamps; cell by cell if the formats differ."""
    try:
        return parsing.times(text)
    except pa.ArrowException:
        times = pa.array([parsing.parse_microseconds(cell) for cell in text.to_pylist()], pa.int64())
    origin.refuse(
        pc.and_(pc.is_null(times), pc.is_valid(text)),
        lambda i: f"column {column.name!r} holds times in this model but {messages.quote(text[i].as_py())}",
        lambda i: parsing.TEXT_REMEDIES if text[i].as_py().strip() != column.name else parsing.REPEATED_HEADER_REMEDY,
    )
    return times
