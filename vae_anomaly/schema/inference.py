"""Inference of the kind of one column from its type and values: numeric, boolean, category, or dropped with a reason.

Floats are numeric; integers too, unless their values are exactly 0 and 1; text is a category; the type bool and 0/1, t/f, y/n, yes/no and
true/false in any case are boolean. What is no measurement by name and values is in ``roles``. Dropped besides: timestamps, empty and
nested columns, free text, numbers mixed with text, and likely ids (distinct text, or strictly monotonic integers; never floats).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly import messages
from vae_anomaly.schema import parsing

ColumnKind = Literal["numeric", "boolean", "category"]

MAX_LEVELS = 255  # levels of a category; rarer ones are encoded as unseen
ID_ROWS = 50  # with fewer rows, distinct values may be chance
NUMBER_LEVELS = 20  # text with more distinct numbers is a measurement, not codes
WORDS_SHOWN = 5  # texts among numbers that a reason lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One input column of the model.

    ``levels``: of a boolean the text of false and true in the data; of a category by falling frequency, ties by text, at most 255.
    ``nullable``: cells were missing in the fit. ``temporal``: a time or duration that the user included, in seconds.
    """

    name: str
    kind: ColumnKind
    levels: tuple[str, ...] = ()
    nullable: bool = False
    temporal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A column that is not a model input; ``reason`` continues the text 'left out: '. ``time``: ``--time-column`` can name it."""

    name: str
    reason: str
    time: bool = False


def infer_column(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    """Infer the kind of one column; ``included`` keeps it unless its type cannot be read or all values are missing."""
    kind = parsing.unwrapped_type(values.type)
    if pa.types.is_nested(kind):
        return Dropped(name=name, reason=f"nested column ({messages.shorten(str(kind))})")
    if parsing.is_binary_type(kind):
        return Dropped(name=name, reason=f"binary column ({kind})")
    values = parsing.plain_array(values)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    if values.null_count == len(values):
        return Dropped(name=name, reason="all values missing")
    if pa.types.is_temporal(values.type):
        return _temporal(name, values, included=included)
    if parsing.is_text_type(values.type) or pa.types.is_boolean(values.type):
        return _text(name, values, included=included)
    return _number(name, values, included=included)


def _temporal(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    if included and not pa.types.is_interval(values.type):  # months have no fixed length
        return Column(name=name, kind="numeric", nullable=values.null_count > 0, temporal=True)
    clock = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    return Dropped(name=name, reason="timestamp" if clock else f"time of day or duration ({values.type})", time=clock)


def _number(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    nullable = values.null_count > 0
    if pa.types.is_integer(values.type):
        low, high = pc.min_max(values).as_py().values()
        if (low, high) == (0, 1):
            return Column(name=name, kind="boolean", levels=("0", "1"), nullable=nullable)
        if not included and _is_monotonic(values):
            return Dropped(name=name, reason="looks like an id (whole numbers that rise or fall and never repeat)")
    return Column(name=name, kind="numeric", nullable=nullable)


def _is_monotonic(values: pa.ChunkedArray) -> bool:
    """Whether at least ``ID_ROWS`` integers are strictly increasing or strictly decreasing."""
    known = pc.drop_null(values).to_numpy()
    return len(known) >= ID_ROWS and bool(np.all(known[1:] > known[:-1]) or np.all(known[1:] < known[:-1]))


def _text(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    nullable = values.null_count > 0
    if pa.types.is_boolean(values.type):
        return Column(name=name, kind="boolean", levels=("false", "true"), nullable=nullable)
    counts = _counts(values)
    pair = _boolean_pair(counts)
    if pair is not None:
        return Column(name=name, kind="boolean", levels=pair, nullable=nullable)
    reason = None if included else _text_reason(counts)
    if reason is not None:
        return Dropped(name=name, reason=reason)
    return Column(name=name, kind="category", levels=_most_frequent(counts), nullable=nullable)


def _counts(values: pa.ChunkedArray) -> pa.Table:
    """Return a table of the distinct ``values`` and their ``counts``, most frequent first, ties by text."""
    counted = pa.Table.from_struct_array(pc.value_counts(pc.drop_null(values)))
    return counted.sort_by([("counts", "descending"), ("values", "ascending")])


def _most_frequent(counts: pa.Table) -> tuple[str, ...]:
    return tuple(counts["values"].slice(0, MAX_LEVELS).to_pylist())


def _boolean_pair(counts: pa.Table) -> tuple[str, str] | None:
    """Return the most frequent spelling of false and of true if all texts are spellings of one pair."""
    first = {text.lower(): text for text in reversed(_most_frequent(counts))}
    for false, true in zip(parsing.FALSE, parsing.TRUE, strict=True):
        if first.keys() == {false, true}:
            return first[false], first[true]
    return None


def _text_reason(counts: pa.Table) -> str | None:
    """Return why a text column is not categorical, None if it is."""
    rows = pc.sum(counts["counts"]).as_py()
    reason = _number_reason(counts, rows)
    if reason is None and len(counts) == rows >= ID_ROWS:
        return "looks like an id (no value repeats)"
    if reason is None and len(counts) > MAX_LEVELS and len(counts) > rows / 2:
        return f"free text ({len(counts):,} different values in {rows:,} rows)"
    return reason


def _number_reason(counts: pa.Table, rows: int) -> str | None:
    """Return the reason for a column of numbers as text, or of mostly numbers mixed with text; None otherwise."""
    words = counts.filter(pc.is_null(parsing.numbers(counts["values"])))
    if len(counts) - len(words) <= NUMBER_LEVELS or pc.sum(words["counts"], min_count=0).as_py() > rows / 2:
        return None
    if len(words) == 0:
        return "numbers stored as text; write them as numbers"
    shown = ", ".join(f"{messages.quote(word['values'])} ({word['counts']:,} ×)" for word in words.slice(0, WORDS_SHOWN).to_pylist())
    more = f" and {len(words) - WORDS_SHOWN:,} more" if len(words) > WORDS_SHOWN else ""
    return f"numbers with text in them: {shown}{more}; name them in --missing-values"
