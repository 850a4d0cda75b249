"""Tables to files: whole or absent, the same bytes for the same rows however they were cut into batches.

A file is written under a temporary name in its folder, forced to disk and renamed. Knows nothing about what the rows mean.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vae_anomaly.errors import ConfigError
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import key_text
from vae_anomaly.storage.atomic import _whole_or_absent, writing

OutputFormat = Literal["parquet", "csv"]

# Rows a Parquet row group, fewer where that would be more bytes; looked at row by row of the output, so that its bytes do not depend
# on how the rows came.
_GROUP_ROWS = 131_072
_GROUP_BYTES = 16 << 20
_STEP_ROWS = 1024

# What must stand in quotes.
_SPECIAL = '[",\r\n]'
_NULL_IS_EMPTY = {"null_handling": "replace", "null_replacement": ""}


def write_batches(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema, *, fmt: OutputFormat, escape: bool = True) -> int:
    """Write all batches to ``path``, replacing it in one step at the end, and return the rows written.

    Nothing is left behind by an error, whether of writing or raised by ``batches`` itself. In CSV, nested columns are JSON
    text, numbers the shortest that read back the same, missing cells empty; with ``escape``, text that a spreadsheet would take for a
    formula has an apostrophe in front.

    Raises
    ------
    OutputError
        The disk is full, the folder missing, read-only or not ours to write to.
    """
    with writing(path), _whole_or_absent(path) as stream:
        return _write_parquet(stream, batches, schema) if fmt == "parquet" else _write_csv(stream, batches, schema, escape=escape)


def output_format(path: str | Path) -> OutputFormat:
    """Return the format that the name of an output asks for.

    Raises
    ------
    ConfigError
        The name ends neither in .csv nor in .parquet.
    """
    known: dict[str, OutputFormat] = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
    suffix = Path(path).suffix
    if suffix.lower() not in known:
        raise ConfigError(f"output {str(path)!r} must end in .csv or .parquet, got {suffix!r}.")
    return known[suffix.lower()]


def default_output(path: str | Path) -> Path:
    """Return where scores of ``path`` go: new.csv → new.scores.csv, x.parquet and a folder x/ → x.scores.parquet.

    Raises
    ------
    ConfigError
        A glob or a URI has no place of its own beside it.
    """
    text = str(path)
    if not text or "://" in text or re.search(r"[*?\[]", text):
        raise ConfigError(f"{text or repr(text)} has no obvious place for the scores beside it; name one with -o.")
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
    """Gather rows to tables of ``_GROUP_ROWS``, or of the steps that have ``_GROUP_BYTES`` together; the last is shorter."""
    waiting: list[pa.RecordBatch] = []
    rows = bits = 0
    for piece in _pieces(batches):
        waiting.append(piece)
        rows, bits = rows + piece.num_rows, bits + sum(map(_bits, piece.columns))
        if rows % _STEP_ROWS == 0 and (rows >= _GROUP_ROWS or bits >= 8 * _GROUP_BYTES):
            yield _joined(waiting, schema)
            waiting, rows, bits = [], 0, 0
    if rows:
        yield _joined(waiting, schema)


def _joined(waiting: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return one chunk: where pages end must not depend on how the rows came."""
    return pa.Table.from_batches(waiting, schema).combine_chunks()


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut rows into pieces none of which crosses a multiple of ``_STEP_ROWS``."""
    row = 0
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            piece = batch.slice(first, _STEP_ROWS - row % _STEP_ROWS)
            yield piece
            first, row = first + piece.num_rows, row + piece.num_rows


def _bits(values: pa.Array) -> int:
    """Return what values take by their content alone, whatever they are a slice of."""
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
    """Return the rows as UTF-8 text, quoted only where a cell needs it."""
    columns = [_csv_text(column, escape=escape) for column in batch.columns]
    last = pc.binary_join_element_wise(columns[-1], "", "\n", **_NULL_IS_EMPTY)
    return memoryview(pc.binary_join_element_wise(*columns[:-1], last, ",", **_NULL_IS_EMPTY).buffers()[2])


def _csv_text(values: pa.Array, *, escape: bool) -> pa.Array:
    if pa.types.is_nested(values.type):
        values = pa.array([None if v is None else _json(v) for v in values.to_pylist()], pa.string())
    values = parsing.readable(values)
    if not parsing.is_text_type(values.type):
        try:
            return values.cast(pa.string())
        except pa.ArrowException:  # times in a zone that is not known, months and days
            values = pa.array([key_text(cell) for cell in values], pa.string())
    return _quoted(harmless(values) if escape else values)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _quoted(text: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(text, _SPECIAL)
    if not pc.any(special).as_py():
        return text
    doubled = pc.replace_substring(text, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), text)


def quoted_text(text: str) -> str:
    """Return a single cell of a CSV, quoted only where it needs it."""
    return '"' + text.replace('"', '""') + '"' if re.search(_SPECIAL, text) else text


# The full-width forms are what some spreadsheets read as the same signs.
_FORMULA = r"^[=+\-@\t\r\n＝＋－＠]"
_NUMBER = r"^[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$"


def harmless(text: pa.Array) -> pa.Array:
    """Return the texts with an apostrophe in front of those that could be formulas.

    >>> harmless(pa.array(["=1+1", "-5", "a"])).to_pylist()
    ["'=1+1", '-5', 'a']
    """
    formula = pc.match_substring_regex(text, _FORMULA)
    if not pc.any(formula).as_py():
        return text
    formula = pc.and_not(formula, pc.match_substring_regex(text, _NUMBER))
    return pc.if_else(formula, pc.binary_join_element_wise("'", text, ""), text)


def harmless_text(text: str) -> str:
    """Return a single text likewise.

    >>> harmless_text("@SUM(A1)")
    "'@SUM(A1)"
    """
    return f"'{text}" if re.search(_FORMULA, text) and not re.fullmatch(_NUMBER, text) else text
