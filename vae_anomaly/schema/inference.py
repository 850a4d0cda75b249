"""Inference of the kind of one column from its type and values: numeric, boolean, category, or dropped with a reason.

Numbers are numeric, unless their values are exactly 0 and 1; text is a category, and so are a dictionary of integers and bytes that are
text; the type bool and 0/1, t/f, y/n, yes/no and true/false in any case are boolean, also in other languages, and so is a mark such as X
where the other cells are blank. The kind does not depend on how the values are written: 0 and 1 may be integers, floats, decimals or
text. What is no measurement by name and values is in ``roles``. Dropped besides: timestamps, empty and nested columns, bytes, free text,
numbers mixed with text or in other ``notations``, and likely ids (distinct text, or strictly monotonic whole numbers; never with
decimals).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_anomaly import messages
from vae_anomaly.schema import parsing
from vae_anomaly.schema.levels import boolean_pair, fitted_texts

ColumnKind = Literal["numeric", "boolean", "category"]

MAX_LEVELS = 255  # levels of a category; rarer ones are encoded as unseen
ID_ROWS = 50  # with fewer rows, distinct values may be chance
NUMBER_LEVELS = 20  # text with more distinct numbers is a measurement, not codes
NOTATIONS_READ = 50  # texts among numbers that must all be numbers in another notation
WORDS_SHOWN = 5  # texts among numbers that a reason lists
MARKS = frozenset({"x", "✓", "✔", "☑", "✗", "*", "•"})  # alone beside blanks: set, as SAP and forms write it


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One input column of the model.

    ``levels``: of a boolean 0 and 1, false and true, no and yes, or blank and a mark; of a category at most 255, by falling frequency, ties
    by text.
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


def mark_notes(columns: Iterable[Column]) -> tuple[str, ...]:
    """Return one note for each column in which blank means not set: a boolean of a mark and nothing else."""
    marks = [column for column in columns if "" in column.levels and not column.nullable]
    return tuple(f"column {messages.quote(c.name)}: {c.levels[1]!r} or nothing, read as a boolean; a blank cell is not set" for c in marks)


def infer_column(name: str, values: pa.ChunkedArray, *, included: bool, default_missing: bool = True) -> Column | Dropped:
    """Infer the kind of one column; ``included`` keeps it unless its type cannot be read or all values are missing.

    ``default_missing``: texts that usually mean a missing cell do so here.
    """
    kind = parsing.unwrapped_type(values.type)
    if pa.types.is_nested(kind):
        return Dropped(name=name, reason=f"nested column ({messages.shorten(str(kind))})")
    plain = _plain(values, default_missing=default_missing)
    if plain is None:
        return Dropped(name=name, reason=f"binary column ({kind})")
    if plain.null_count == len(plain):
        return Dropped(name=name, reason="all values missing")
    if pa.types.is_temporal(plain.type):
        return _temporal(name, plain, included=included)
    if parsing.is_text_type(plain.type) or pa.types.is_boolean(plain.type):
        return _text(name, plain, included=included)
    # Writers also use dictionaries to store counts in less space; codes are few.
    coded = pa.types.is_dictionary(values.type) and pa.types.is_integer(kind) and pc.count_distinct(plain).as_py() <= MAX_LEVELS
    return _codes(name, plain) if coded else _number(name, plain, included=included)


def _plain(values: pa.ChunkedArray, *, default_missing: bool) -> pa.ChunkedArray | None:
    """Return the values in a plain type, text as the levels that it means, null where missing; None for bytes that are no text."""
    if isinstance(values.type, pa.UuidType):
        values = pa.chunked_array([parsing.readable_text(values)])
    elif parsing.is_binary_type(parsing.unwrapped_type(values.type)):
        text = parsing.text_of_bytes(values)
        if text is None:
            return None
        values = text
    plain = parsing.plain_array(values)
    if pa.types.is_floating(plain.type):
        return pc.if_else(pc.is_nan(plain), None, plain)
    return fitted_texts(plain, default_missing=default_missing) if parsing.is_text_type(plain.type) else plain


def _codes(name: str, values: pa.ChunkedArray) -> Column | Dropped:
    """Return integers of a dictionary, such as a pandas categorical, as levels."""
    texts = pa.chunked_array([parsing.category_texts(values.combine_chunks())])
    return _text(name, fitted_texts(texts, default_missing=False), included=True)


def _temporal(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    if included and not pa.types.is_interval(values.type):  # months have no fixed length
        return Column(name=name, kind="numeric", nullable=values.null_count > 0, temporal=True)
    clock = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
    return Dropped(name=name, reason="timestamp" if clock else f"time of day or duration ({values.type})", time=clock)


def _number(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    nullable = values.null_count > 0
    if not pa.types.is_integer(values.type):
        values = values.cast(pa.float64())  # also decimals, for which kernels are missing
    low, high = pc.min_max(values).as_py().values()
    whole = pa.types.is_integer(values.type) or bool(pc.all(pc.equal(values, pc.round(values))).as_py())
    if whole and (low, high) == (0, 1):
        return Column(name=name, kind="boolean", levels=("0", "1"), nullable=nullable)
    if whole and not included and _is_monotonic(values):
        return Dropped(name=name, reason="looks like an id (whole numbers that rise or fall and never repeat)")
    return Column(name=name, kind="numeric", nullable=nullable)


def _is_monotonic(values: pa.ChunkedArray) -> bool:
    """Whether at least ``ID_ROWS`` whole numbers are strictly increasing or strictly decreasing."""
    known = pc.drop_null(values).to_numpy()
    return len(known) >= ID_ROWS and bool(np.all(known[1:] > known[:-1]) or np.all(known[1:] < known[:-1]))


def _text(name: str, values: pa.ChunkedArray, *, included: bool) -> Column | Dropped:
    nullable = values.null_count > 0
    if pa.types.is_boolean(values.type):
        return Column(name=name, kind="boolean", levels=("false", "true"), nullable=nullable)
    counts = _counts(values)
    pair = boolean_pair(_most_frequent(counts))
    if pair is not None:
        return Column(name=name, kind="boolean", levels=pair, nullable=nullable)
    if nullable and len(counts) == 1 and (mark := counts["values"][0].as_py()).lower() in MARKS:
        return Column(name=name, kind="boolean", levels=("", mark))
    numbers = parsing.numbers(counts["values"])
    if len(counts) > NUMBER_LEVELS and not numbers.null_count and not pc.any(pc.is_inf(numbers)).as_py():
        return _number(name, parsing.numbers(values), included=included)
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


def _text_reason(counts: pa.Table) -> str | None:
    """Return why a text column is not categorical, None if it is."""
    rows = pc.sum(counts["counts"]).as_py()
    reason = _notation_reason(counts) or _number_reason(counts, rows)
    if reason is None and len(counts) == rows >= ID_ROWS:
        return "looks like an id (no value repeats)"
    if reason is None and len(counts) > MAX_LEVELS and len(counts) > rows / 2:
        return f"free text ({len(counts):,} different values in {rows:,} rows)"
    return reason


def _notation_reason(counts: pa.Table) -> str | None:
    """Return the reason for a column of numbers that are in another notation, None for one of other text."""
    words = counts.filter(pc.is_null(parsing.numbers(counts["values"])))["values"]
    if len(counts) <= NUMBER_LEVELS or not len(words):
        return None
    from vae_anomaly.schema.notations import notation_reason  # noqa: PLC0415  # only a fit asks for it: a score enters fewer modules

    return notation_reason(words.slice(0, NOTATIONS_READ).to_pylist(), numbers=len(counts) - len(words)) or None


def _number_reason(counts: pa.Table, rows: int) -> str | None:
    """Return the reason for a column of numbers as text, or of mostly numbers mixed with text; None otherwise."""
    words = counts.filter(pc.is_null(parsing.numbers(counts["values"])))
    if len(counts) - len(words) <= NUMBER_LEVELS or pc.sum(words["counts"], min_count=0).as_py() > rows / 2:
        return None
    shown = ", ".join(f"{messages.quote(word['values'])} ({word['counts']:,} ×)" for word in words.slice(0, WORDS_SHOWN).to_pylist())
    more = f" and {len(words) - WORDS_SHOWN:,} more" if len(words) > WORDS_SHOWN else ""
    return f"numbers with text in them: {shown}{more}; name them in --missing-values"
