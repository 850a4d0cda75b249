"""Data frames in memory as a ``Source``, so that they are read like a file of the same cells: pandas, Arrow, polars, records.

A pandas column has the type that its values happened to need in this batch: whole numbers become floats where a cell is missing, codes
such as 007 become numbers where a CSV was read without types. Its cells are those of the model's levels that have the same value.
"""

import logging
import math
import numbers
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from vae_anomaly.config import Reading
from vae_anomaly.errors import DataError, SchemaMismatch
from vae_anomaly.messages import listed, quote
from vae_anomaly.schema import parsing
from vae_anomaly.schema.pivoting import parse_pivot
from vae_anomaly.schema.qualities import quality_pairs
from vae_anomaly.schema.schema import Schema, check_duplicates
from vae_anomaly.storage.listing import Listed
from vae_anomaly.tables.arrow import ColumnarTable
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.reader import Chunk
from vae_anomaly.tables.source import Source

# The texts that pandas.read_csv takes for missing; there is no public name for them.
PANDAS_MISSING = frozenset({
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None",
    "n/a", "nan", "null",
})  # fmt: skip
# What an index is called by pandas that can be the first column of a CSV.
TEXT_OR_FRACTIONS = frozenset({"floating", "string", "boolean", "mixed", "mixed-integer"})
_logger = logging.getLogger(__name__)
EXPECTED = "a pandas data frame, an Arrow table, or records with the names of the columns"


def frame_source(data: Any, schema: Schema, reading: Reading, *, extra: Mapping[str, Sequence[str]], where: str) -> Source:
    """Return a data frame as the source of a model's columns and of ``extra`` ones with their known values.

    Cells of other columns are not looked at.

    Raises
    ------
    DataError
        It is no table, or has two columns of one name.
    SchemaMismatch
        Cells of a column are no scalars, or numbers where the model tells levels of the same value apart; or the table is long.
    ConfigError
        The column of the quality is absent.
    """
    frame = _frame(data, where)
    names = [str(name) for name in (frame.columns if isinstance(frame, pd.DataFrame) else frame.column_names)]
    check_duplicates(names, where)
    _check_not_long(names, schema, reading, where)
    qualities = quality_pairs(names, reading.quality_column) if reading.quality_column and not reading.pivot else {}
    table = _table(frame, names, {*schema.names, *extra, *qualities}, where)
    levels = dict(extra) | {column.name: column.levels for column in schema.columns}
    for i, name in enumerate(table.column_names):
        if isinstance(data, pd.DataFrame):
            _warn_of_lost_levels(name, levels.get(name, ()), table.column(i).null_count, where)
        if levels.get(name):
            table = table.set_column(i, name, _spelt_as(levels[name], parsing.plain_array(table.column(i).combine_chunks()), name, where))
    listed_file = Listed(path=where, location=where, root="", size=table.nbytes, modified=0, filesystem=pafs.LocalFileSystem())
    reader = ColumnarTable(
        file=TableFile(listed=listed_file, format="arrow"), schema=table.schema, rows=table.num_rows, batches=partial(_batches, table)
    )
    if not qualities:
        return Source(readers=(reader,), reading=reading)
    from vae_anomaly.tables.pivot import reshaped

    return Source(readers=reshaped((reader,), reading, keep=extra, expected=()), reading=reading)


def _batches(table: pa.Table, _file: TableFile, names: Sequence[str], chunk: Chunk) -> Iterator[pa.RecordBatch]:
    yield from table.select(list(names)).combine_chunks().to_batches(max_chunksize=chunk.rows)


def _frame(data: Any, where: str) -> pd.DataFrame | pa.Table:
    """Return a data frame of any library as one of pandas or Arrow."""
    if isinstance(data, Mapping | list):
        data = _from_records(data, where)
    if not isinstance(data, pd.DataFrame):
        with suppress(TypeError, ValueError, pa.ArrowException):
            data = data.read_all() if isinstance(data, pa.RecordBatchReader) else pa.table(data)
    if not isinstance(data, pd.DataFrame | pa.Table):
        raise DataError(f"{where} is a {type(data).__name__}; expected {EXPECTED}.")
    if isinstance(data, pd.DataFrame):
        _check_not_shifted(data, where)
    return data


def _table(frame: pd.DataFrame | pa.Table, names: Sequence[str], wanted: Collection[str], where: str) -> pa.Table:
    """Return the columns of a data frame; those that are not wanted are null."""
    columns = [
        pa.nulls(len(frame))
        if name not in wanted
        else _arrow(name, frame.iloc[:, i] if isinstance(frame, pd.DataFrame) else frame.column(i), where)
        for i, name in enumerate(names)
    ]
    return pa.table(columns, names=names)


def _check_not_long(names: Collection[str], schema: Schema, reading: Reading, where: str) -> None:
    """Refuse a table of one tag, time and value a row: MLflow has one result a row of the input, and this would have fewer."""
    pivot = parse_pivot(reading.pivot) if reading.pivot else None
    if pivot and {pivot.tag, pivot.value} <= {*names} - {*schema.names}:
        raise SchemaMismatch(
            f"{where} has one tag and value a row, in {quote(pivot.tag)} and {quote(pivot.value)}; in MLflow this model takes the wide "
            "table, with a column for each tag and a row for each time. Make it wide, or score it with vae-anomaly score."
        )


def _check_not_shifted(frame: pd.DataFrame, where: str) -> None:
    """Refuse what pandas, and so MLflow, makes of a CSV whose rows end with a delimiter: each cell stands one column to the left.

    The cells of the first column are then an index without a name, and the last column is empty. A frame from which rows were taken looks
    the same where that column holds whole numbers: then it is said only.
    """
    index, kind = frame.index, frame.index.inferred_type
    integers = kind == "integer" and not isinstance(index, pd.RangeIndex)
    if not (integers or kind in TEXT_OR_FRACTIONS) or index.name is not None:
        return
    if frame.empty or not frame.iloc[:, -1].isna().all():
        return
    told = (
        f"{where} has the index {quote(str(index[0]))}, … without a name and nothing in its last column {str(frame.columns[-1])!r}. "
        "pandas reads a CSV like this whose rows end with a delimiter, and puts each cell under the name before it. Take that delimiter "
        "away, or the index with reset_index(drop=True)."
    )
    if not integers:
        raise DataError(told)
    _logger.warning("%s", told)


def _warn_of_lost_levels(name: str, levels: Sequence[str], missing: int, where: str) -> None:
    """Say that missing cells may be levels: the frame does not tell whether pandas, and so MLflow, read it from a CSV."""
    lost = [level for level in levels if level in PANDAS_MISSING]
    if lost and missing:
        _logger.warning(
            "column %r of %s has %d missing %s, and the model knows %s there, which pandas reads as missing from a CSV: "
            "if that was meant, send JSON or Parquet, or read with keep_default_na=False",
            name, where, missing, "cell" if missing == 1 else "cells", listed(lost),
        )  # fmt: skip


def _from_records(data: Mapping[Any, Any] | list[Any], where: str) -> pd.DataFrame:
    one_row = isinstance(data, Mapping) and not any(
        isinstance(value, list | pd.Series) or hasattr(value, "__array__") for value in data.values()
    )
    if isinstance(data, Mapping):
        data = {name: _cells(values) for name, values in data.items()}
    try:
        return pd.DataFrame([data] if one_row else data)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is no table: {error}. Expected {EXPECTED}.") from error


def _cells(values: Any) -> Any:
    """Return a column without the array around each cell in which MLflow's ``instances`` hands on a column with missing cells."""
    if not isinstance(values, np.ndarray) or values.dtype != object:
        return values
    return [cell[()] if isinstance(cell, np.ndarray) and cell.ndim == 0 else cell for cell in values]


def _arrow(name: str, values: Any, where: str) -> pa.Array | pa.ChunkedArray:
    """Return a column as Arrow has it; one of several types as text, cell by cell."""
    if isinstance(values, pa.ChunkedArray):
        return _supported(values)
    if isinstance(values.dtype, pd.SparseDtype):
        values = values.sparse.to_dense()
    elif isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    elif isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert(None)
    try:
        return _supported(pa.Array.from_pandas(values))
    except (pa.ArrowException, OverflowError):
        return pa.array([_cell_text(name, value, where) for value in values], pa.string())


def _supported(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return parsing.supported(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)


def _cell_text(name: str, value: Any, where: str) -> str | None:
    """Return a cell of a column of several types as text, a number as ``category_texts`` writes it."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:  # noqa: PLR0124  # only NaN differs from itself
        return None
    if isinstance(value, bytes):
        return parsing.bytes_text(value)
    if isinstance(value, bool | numbers.Integral):
        return str(value).lower()
    if isinstance(value, Decimal | numbers.Real):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else repr(number)
    if not isinstance(value, str | date | time | timedelta):
        raise SchemaMismatch(
            f"column {name!r} of {where} holds a {type(value).__name__}: {quote(str(value))}. Expected numbers, text, booleans or times."
        )
    return str(value)


def _spelt_as(levels: Sequence[str], values: pa.Array, name: str, where: str) -> pa.Array:
    """Return a column with numbers and booleans in the spelling of the level that has their value; text is unchanged."""
    if not (parsing.is_number_type(values.type) or pa.types.is_boolean(values.type)):
        return values
    encoded = pc.dictionary_encode(parsing.category_texts(values))
    meant = {text: _same_value(text, levels) for text in encoded.dictionary.to_pylist()}
    unclear = next((text for text, same in meant.items() if len(same) > 1), None)
    if unclear is not None:
        kind = "boolean" if pa.types.is_boolean(values.type) else "number"
        raise SchemaMismatch(
            f"column {name!r} of {where} holds {unclear} as a {kind}, and this model tells {listed(meant[unclear])} apart. "
            "Give the column as text."
        )
    spelt = pa.array([same[0] if same else text for text, same in meant.items()], pa.string())
    return pa.DictionaryArray.from_arrays(encoded.indices, spelt).cast(pa.string())


def _same_value(text: str, levels: Sequence[str]) -> list[str]:
    """Return the levels that have the value of a number or boolean.

    >>> _same_value("7", ["007", "8"]), _same_value("true", ["True", "other"])
    (['007'], ['True'])
    """
    value = _value(text)
    return [level for level in levels if level == text or _value(level) == value]


def _value(text: str) -> float | str:
    """Return the number in a text, or the text in lower case; no level is equal to NaN."""
    lower = text.strip().lower()
    if lower in {"true", "false"}:
        return lower
    try:
        return float(lower) if not math.isnan(float(lower)) else text
    except ValueError:
        return text
