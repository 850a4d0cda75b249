"""Write record batches to CSV or Parquet atomically; how the rows are cut into batches does not change the bytes.

The file of a Delta table is Parquet in the types that such a table has.

A file is written under a temporary name in its folder, fsynced and renamed.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_anomaly.choices import OutputFormat
from vae_anomaly.errors import ConfigError
from vae_anomaly.messages import one_line
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import key_text
from vae_anomaly.storage.atomic import replacing, sweep, writing

# Rows of a Parquet row group.
_GROUP_ROWS = 131_072
# A row group ends earlier if it has this many bytes, so that wide rows do not fill the memory.
_GROUP_BYTES = 16 << 20
# Row groups end at multiples of this, so that their sizes do not depend on how the rows are cut into batches.
_STEP_ROWS = 1024

# Types of Delta by that of Arrow; Delta has no unsigned integers and no times of a day.
_TYPES: dict[pa.DataType, pa.DataType] = {
    **{kind: kind for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.date32())},
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), pa.string()),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), pa.binary()),
}
_MOST_DIGITS = 38

# Characters that need quotes around a cell (RFC 4180).
_SPECIAL = '[",\r\n]'
_NULL_IS_EMPTY = {"null_handling": "replace", "null_replacement": ""}


def write_batches(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *, fmt: OutputFormat, escape: bool = True) -> int:
    """Write all batches to ``path``, replacing it in one step at the end, and return the rows written.

    An error, of writing or raised by ``batches``, leaves no file behind. In CSV, nested columns are JSON, numbers the shortest text that
    reads back the same, missing cells empty; with ``escape``, text that a spreadsheet would take for a formula gets an apostrophe.

    Raises
    ------
    OutputError
        The disk is full, or the folder is missing or not writable.
    """
    sweep(path)
    with writing(path), replacing(path) as temporary, temporary.open("wb") as stream:
        return _write_parquet(stream, batches, schema) if fmt == "parquet" else _write_csv(stream, batches, schema, escape=escape)


def output_format(path: str | Path) -> OutputFormat:
    """Return the format of an output by the suffix of its name.

    Raises
    ------
    ConfigError
        The suffix is none of .csv, .parquet and .pq.
    """
    known: dict[str, OutputFormat] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    suffix = Path(path).suffix
    if suffix.lower() not in known:
        raise ConfigError(f"output {str(path)!r} must end in .csv or .parquet, got {suffix!r}.")
    return known[suffix.lower()]


def default_output(path: str | Path) -> Path:
    """Return the default output for an input: new.csv → new.scores.csv, x.parquet and a folder x/ → x.scores.parquet.

    Raises
    ------
    ConfigError
        The input is a glob or a URI, which has no folder beside it.
    """
    text = str(path)
    if not text or "://" in text or re.search(r"[*?\[]", text):
        raise ConfigError(f"{text or repr(text)} has no folder for the scores beside it; name an output with -o.")
    source = Path(text)
    if os.path.isdir(text):  # noqa: PTH112  # Path.is_dir raises for a name that no file system takes
        resolved = source.resolve()
        return (
            resolved.parent / f"{resolved.name}.scores.parquet"
            if source.name in {"", ".."}
            else source.with_name(f"{source.name}.scores.parquet")
        )
    stem = re.sub(r"\.(gz|zst|bz2)$", "", source.name, flags=re.IGNORECASE)
    columnar = re.search(r"\.(parquet|pq|arrows?|feather|ipc)$", stem, flags=re.IGNORECASE)
    base = re.sub(r"\.(csv|tsv|txt|parquet|pq|arrows?|feather|ipc)$", "", stem, flags=re.IGNORECASE)
    return source.with_name(f"{base}.scores.{'parquet' if columnar else 'csv'}")


def _write_parquet(stream: BinaryIO, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> int:
    rows = 0
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for table in _grouped(batches, schema):
            writer.write_table(table, row_group_size=_GROUP_ROWS)
            rows += table.num_rows
    return rows


def _grouped(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield one table for each row group: ``_GROUP_ROWS``, or as many steps as have ``_GROUP_BYTES``; the last one may be shorter."""
    pending: list[pa.RecordBatch] = []
    rows = bits = 0
    for piece in _pieces(batches):
        pending.append(piece)
        rows, bits = rows + piece.num_rows, bits + sum(map(_bits, piece.columns))
        if rows % _STEP_ROWS == 0 and (rows >= _GROUP_ROWS or bits >= 8 * _GROUP_BYTES):
            yield _joined(pending, schema)
            pending, rows, bits = [], 0, 0
    if rows:
        yield _joined(pending, schema)


def _joined(pending: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return a table of one chunk, because Parquet pages end where chunks end."""
    return pa.Table.from_batches(pending, schema).combine_chunks()


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches at multiples of ``_STEP_ROWS`` over all rows."""
    row = 0
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            piece = batch.slice(first, _STEP_ROWS - row % _STEP_ROWS)
            yield piece
            first, row = first + piece.num_rows, row + piece.num_rows


def _bits(values: pa.Array) -> int:
    """Return the bits of the values themselves; ``nbytes`` depends on the buffers that they are a slice of."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 32 * len(values) + _bits(values.flatten())
    if pa.types.is_struct(kind):
        return sum(map(_bits, values.flatten()))
    if parsing.is_text_type(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return 32 * len(values) + 8 * (pc.sum(pc.binary_length(values)).as_py() or 0)
    with contextlib.suppress(ValueError):
        return int(kind.bit_width) * len(values)
    return 64 * len(values)


def _write_csv(stream: BinaryIO, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *, escape: bool) -> int:
    rows = 0
    header = _csv_text(pa.array(schema.names, pa.string()), escape=escape).to_pylist()
    stream.write((",".join(header) + "\n").encode())
    for batch in batches:
        if batch.num_rows:
            stream.write(_lines(batch, escape=escape))
            rows += batch.num_rows
    return rows


def _lines(batch: pa.RecordBatch, *, escape: bool) -> memoryview:
    """Return the rows as UTF-8 lines, with quotes only around cells that need them."""
    columns = [_csv_text(column, escape=escape) for column in batch.columns]
    last = pc.binary_join_element_wise(columns[-1], "", "\n", **_NULL_IS_EMPTY)
    return memoryview(pc.binary_join_element_wise(*columns[:-1], last, ",", **_NULL_IS_EMPTY).buffers()[2])


def _csv_text(values: pa.Array, *, escape: bool) -> pa.Array:
    if pa.types.is_nested(values.type):
        values = pa.array([None if v is None else _json(v) for v in values.to_pylist()], pa.string())
    values = parsing.readable_text(values)
    if not parsing.is_text_type(values.type):
        try:
            return values.cast(pa.string())
        except pa.ArrowException:  # Arrow cannot cast times of an unknown zone, or intervals
            values = pa.array([key_text(cell) for cell in values], pa.string())
    return _quoted(escape_formulas(values) if escape else values)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _quoted(text: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(text, _SPECIAL)
    if not pc.any(special).as_py():
        return text
    doubled = pc.replace_substring(text, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), text)


def quoted_cell(text: str) -> str:
    """Return one cell of a CSV, with quotes only if it needs them."""
    return '"' + text.replace('"', '""') + '"' if re.search(_SPECIAL, text) else text


# Some spreadsheets take the full-width forms for the same signs.
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
_NUMBER = r"^[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$"


def escape_formulas(text: pa.Array) -> pa.Array:
    """Put an apostrophe in front of texts that a spreadsheet could take for formulas.

    >>> escape_formulas(pa.array(["=1+1", "-5", "a"])).to_pylist()
    ["'=1+1", '-5', 'a']
    """
    formula = pc.match_substring_regex(text, _FORMULA)
    if not pc.any(formula).as_py():
        return text
    formula = pc.and_not(formula, pc.match_substring_regex(text, _NUMBER))
    return pc.if_else(formula, pc.binary_join_element_wise("'", text, ""), text)


def escape_formula(text: str) -> str:
    """Return one text as ``escape_formulas`` would.

    >>> escape_formula("@SUM(A1)")
    "'@SUM(A1)"
    """
    return f"'{text}" if re.search(_FORMULA, text) and not re.fullmatch(_NUMBER, text) else text


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema in which a Delta table holds these columns. Raises ConfigError for a column that it cannot hold."""
    lower: dict[str, str] = {}
    for name in schema.names:
        if lower.setdefault(name.lower(), name) != name:
            raise ConfigError(f"columns {lower[name.lower()]!r} and {name!r} have one name in a Delta table. Write Parquet instead.")
    return pa.schema([(f.name, _delta_type(f.name, f.type)) for f in schema])


def _delta_type(name: str, kind: pa.DataType) -> pa.DataType:
    """Return the smallest type of Delta that holds every value of a type of Arrow; times are in microseconds, those of a zone in UTC."""
    found = _TYPES.get(kind)
    if pa.types.is_dictionary(kind):
        found = _delta_type(name, kind.value_type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        found = pa.list_(_delta_type(name, kind.value_type))
    elif pa.types.is_struct(kind):
        found = pa.struct([(f.name, _delta_type(name, f.type)) for f in kind])
    elif pa.types.is_timestamp(kind):
        found = pa.timestamp("us", None if kind.tz is None else "UTC")
    elif pa.types.is_decimal(kind) and max(kind.precision, kind.precision - kind.scale) <= _MOST_DIGITS:
        found = pa.decimal128(kind.precision - min(kind.scale, 0), max(kind.scale, 0))
    elif pa.types.is_fixed_size_binary(kind):
        found = pa.binary()
    if found is None:
        advice = "Leave it out of --id-columns, or write Parquet."
        raise ConfigError(f"column {name!r} has the type {kind}, which a Delta table cannot hold. {advice}")
    return found


def as_delta(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows in a schema of ``delta_schema``. Raises ConfigError for a value that it cannot hold."""
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"column {field.name!r} has values that a Delta table cannot hold ({one_line(error)}). "
                "Leave it out of --id-columns, or write Parquet."
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)
