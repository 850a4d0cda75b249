"""Delimited text (CSV and its variants): all rows with inferred types, or a stream with given types.

In columns of numbers the cells of ``MISSING_TEXT`` and those the user declares are missing. In columns of text only empty and declared ones
are: whether ``NA`` is a level is for the schema to decide. The caller says which columns are numeric.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pacsv

from vae_anomaly.choices import MISSING_TEXT
from vae_anomaly.errors import DataError
from vae_anomaly.messages import one_line
from vae_anomaly.schema.parsing import TIME_FORMATS, mask_tokens, not_numbers, numbers
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.storage.listing import COMPRESSED
from vae_anomaly.tables.csv_dialect import COMMA_NUMBER, MAX_RECORD_BYTES, Dialect, open_text
from vae_anomaly.tables.csv_records import (
    AFTER_QUOTE,
    COMMENT,
    FOOTER,
    FOREIGN,
    OTHER_TABLE,
    REPEATED,
    ZERO,
    RecordChunk,
    Utf8Stream,
    record_chunks,
)
from vae_anomaly.tables.csv_rejects import (
    REASON_COLUMN,
    TEXT_COLUMN,
    OnBad,
    ambiguity_reason,
    ambiguous_cells,
    faults_of,
    good_records,
    rejected_text,
    screened_batch,
)
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.reader import Chunk, ColumnSelection, SizeEstimate

# '5,', which Arrow parses as a number too.
_COMMA_LAST = r"^(\s*[+-]?\d+),((?:[eE][+-]?\d+)?\s*)$"
_HEX_MARKS = (b"0x", b"0X")
_HEX = r"^\s*0[xX]"

# Bytes of a Python bytes object and its slot in a list, beside the content.
_RECORD_OVERHEAD = 41
# Factor on the estimated number of rows: text may be that much shorter below than at the beginning.
_SHORTER_ROWS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedTable:
    """Reader of a delimited file of known dialect; the columns ``unused`` are not needed as numbers."""

    file: TableFile
    dialect: Dialect
    unused: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""
        return self.dialect.columns

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file is read."""
        return self.dialect.notes

    @property
    def rows(self) -> int | None:
        """None: only reading tells."""
        return None

    @property
    def schema(self) -> pa.Schema:
        """All columns as strings."""
        return pa.schema([(name, pa.string()) for name in self.names])

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[list[bytes]]:
        """Yield the records, about a megabyte at a time, that are UTF-8 and as wide as the header; ``on_bad`` takes the others.

        Without ``on_bad`` a malformed record raises DataError. ``missing`` is for ``table``.
        """
        del missing
        with reading(self.file.path), open_text(self.file) as stream:
            yield from good_records(self._record_chunks(stream), self.dialect, on_bad or self._refuse)

    @staticmethod
    def pick(piece: list[bytes], indices: NDArray[np.int64]) -> list[bytes]:
        """Return the records of a piece at ``indices`` ``[n]``."""
        return [piece[i] for i in indices]

    @staticmethod
    def count(piece: list[bytes]) -> int:
        """Return the number of records of a piece."""
        return len(piece)

    def estimated_size(self) -> SizeEstimate:
        """Estimate rows and bytes of a row from the first megabyte; the rows of a compressed file cannot be estimated."""
        for piece in self.pieces(missing=(), on_bad=lambda *_: None):
            if piece:
                row = sum(map(len, piece)) / len(piece)
                compressed = self.file.listed.location.lower().endswith(COMPRESSED)
                rows = math.inf if compressed else _SHORTER_ROWS * self.file.listed.size / row
                return SizeEstimate(rows=rows, row_bytes=max(row, 8.0 * len(self.names)) + _RECORD_OVERHEAD)
        return SizeEstimate(rows=0.0, row_bytes=0.0)

    def table(self, pieces: list[list[bytes]], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these records; empties the list, so that no record is in memory twice.

        A column is numeric (or a time) if every cell that is not missing parses as such, else a string; ``text`` columns are strings.
        """
        content = self._content(pieces)
        table = self._parsed(content, self._inference(missing, text))
        integers = [f.name for f in table.schema if pa.types.is_integer(f.type)]
        if integers and any(mark in content for mark in _HEX_MARKS):
            # Arrow parses 0xFF as 255, and 0xFFFFFFFFFFFFFFFF as -1; here both are text, as in a stream.
            as_text = self._parsed(content, self._inference(missing, [*text, *integers]))
            for name in integers:
                if pc.any(pc.match_substring_regex(as_text[name], _HEX)).as_py():
                    table = table.set_column(table.schema.get_field_index(name), name, as_text[name])
        table = table if self.dialect.decimal == "." else self._with_points_parsed(table, text)
        return pa.Table.from_arrays([mask_tokens(c, ["", *missing]) for c in table.columns], names=list(self.names))

    def _with_points_parsed(self, table: pa.Table, text: Collection[str]) -> pa.Table:
        """Convert string columns of a file with decimal commas to numbers if every cell is one, with a comma or a point."""
        for i, field in enumerate(table.schema):
            if pa.types.is_string(field.type) and field.name not in text:
                values = _with_decimal_points(table.column(i))
                if pc.any(not_numbers(values)).as_py():
                    continue
                rows = ambiguous_cells(table.column(i))
                if rows and field.name in self.unused:
                    continue
                if rows:
                    fault = ambiguity_reason(field.name, table.column(i)[rows[0]].as_py())
                    raise DataError(
                        f"{self.file.path}: {fault}. Write such numbers without the point, or leave the column out with --exclude."
                    )
                table = table.set_column(i, field.name, numbers(values))
        return table

    def _inference(self, missing: Sequence[str], text: Collection[str]) -> pacsv.ConvertOptions:
        """Return options by which Arrow infers the types of all columns but ``text``."""
        return pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=False,
            true_values=[],  # booleans stay strings, so that their spelling is not lost
            false_values=[],
            timestamp_parsers=[pacsv.ISO8601, *TIME_FORMATS],
            decimal_point=self.dialect.decimal,
            column_types=dict.fromkeys(text, pa.string()),
            include_columns=list(self.names),
        )

    def _content(self, pieces: list[list[bytes]]) -> bytearray:
        """Return the records below a dummy header, in one buffer: Arrow's reading threads must not call back into Python."""
        content = bytearray(b"-\n")
        pieces.reverse()
        while pieces:
            content += b"".join(pieces.pop())
        return content

    def _parsed(self, content: bytearray, convert: pacsv.ConvertOptions) -> pa.Table:
        """Parse in threads and, where that fails, once more in one thread with a block for the longest record."""
        for careful in (False, True):
            try:
                return pacsv.read_csv(pa.BufferReader(content), self._read_options(careful=careful), self._parse_options(), convert)
            except pa.ArrowInvalid as error:
                failure = error
        raise DataError(f"{self.file.path} cannot be read as delimited text: {one_line(failure)}") from failure

    def _refuse(self, row: int, reason: str, record: str) -> None:
        raise malformed_row_error(self.file.path, row + 1, reason, record)

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield batches of the selected columns in file order: ``numeric`` as float64, the others as strings.

        ``raw`` columns keep every text, also one that means 'missing'. A numeric column with a cell that is not a number is a string
        column in that batch, for the caller to find the cell. A record that is malformed raises DataError, or with ``screened`` becomes
        a row of nulls with its reason, see ``screened_batch``. Batches are blocks of about a megabyte, whatever ``chunk`` allows.
        """
        del chunk
        first = 0
        for batch in self._screened(columns):
            if screened:
                yield batch
                continue
            faults = faults_of(batch)
            good = min(faults, default=batch.num_rows)
            if good:
                yield batch.slice(0, good).drop_columns([REASON_COLUMN, TEXT_COLUMN])
            if faults:
                self._refuse(first + good, faults[good], rejected_text(batch, good))
            first += batch.num_rows

    def _screened(self, columns: ColumnSelection) -> Iterator[pa.RecordBatch]:
        types = {**dict.fromkeys(columns.numeric, pa.float64()), **dict.fromkeys([*columns.text, *columns.raw], pa.string())}
        convert = self._convert(types, columns.missing)
        with reading(self.file.path), open_text(self.file) as stream:
            for records in self._record_chunks(stream):
                yield _with_nulls(screened_batch(records, self.dialect, types, convert), columns, self.dialect.decimal)

    def _record_chunks(self, stream: pa.NativeFile) -> Iterator[RecordChunk]:
        text = Utf8Stream(stream, self.dialect.encoding)
        return record_chunks(text, self.dialect.delimiter, self.dialect.head, longest=MAX_RECORD_BYTES)

    def _convert(self, types: Mapping[str, pa.DataType], missing: Sequence[str]) -> pacsv.ConvertOptions:
        return pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=False,
            decimal_point=self.dialect.decimal,
            column_types=types,
            include_columns=list(types),
        )

    def _read_options(self, *, careful: bool) -> pacsv.ReadOptions:
        """``careful``: one thread, and blocks that hold the longest record."""
        return pacsv.ReadOptions(
            use_threads=not careful,
            block_size=MAX_RECORD_BYTES if careful else self.dialect.block,
            column_names=list(self.dialect.names),
            skip_rows_after_names=1,
        )

    def _parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(delimiter=self.dialect.delimiter, newlines_in_values=True)


# A part of a reason, and the text of the error after the row number; the first match counts.
_REFUSALS = (
    ("thousands or decimals, where", ": {reason}. Write it without the point"),
    ("column ", ": {reason}. Save the file as UTF-8"),
    ("cells", " has {reason}: {record!r}. Correct that row"),
    (REPEATED, " {reason}. Remove it"),
    (OTHER_TABLE, " {reason}: {record!r}. Write one table a file"),
    (FOREIGN, " {reason}: {record!r}. Write one table a file"),
    (COMMENT, " {reason}: {record!r}. Remove it"),
    (FOOTER, " {reason}: {record!r}. Remove it"),
    (AFTER_QUOTE, ": {reason}: {record!r}. Double the quotes inside a cell"),
    (ZERO, ": {reason}: {record!r}. Was the file truncated? Correct that row"),
    ("quote", ": {reason}: {record!r}. Close it"),
    ("text", ": {reason}. Save the file as UTF-8"),
    ("", " is {reason}. Is a quote left open? Correct that row"),
)


def malformed_row_error(path: str, row: int, reason: str, record: str) -> DataError:
    """Return the error for a malformed record; ``row`` counts from 1."""
    template = next(template for part, template in _REFUSALS if part in reason)
    what = template.format(reason=reason, record=record[:80])
    return DataError(f"{path} row {row:,}{what}, or leave such rows out with --on-error skip.")


def _with_nulls(batch: pa.RecordBatch, columns: ColumnSelection, decimal: str) -> pa.RecordBatch:
    """Replace missing values by null: declared ones in numbers, empty cells too in text, only these in raw columns."""
    all_missing = [*MISSING_TEXT, *columns.missing]
    numeric, text = set(columns.numeric), set(columns.text)
    arrays = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        unparsed = name in numeric and pa.types.is_string(values.type)
        ready = _as_numbers(mask_tokens(values, all_missing), decimal) if unparsed else values
        if name in text and decimal != ".":
            ready = _with_decimal_points(ready)
        arrays.append(mask_tokens(ready, columns.missing if name in numeric else ["", *columns.missing] if name in text else [""]))
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _as_numbers(text: pa.Array, decimal: str) -> pa.Array:
    """Return numbers if every cell is one, else the text with decimal points."""
    pointed = text if decimal == "." else _with_decimal_points(text)
    return pointed if pc.any(not_numbers(pointed)).as_py() else numbers(pointed)


def _with_decimal_points(text: pa.Array) -> pa.Array:
    """Replace decimal commas by points, as the number parser needs them."""
    return pc.replace_substring_regex(pc.replace_substring_regex(text, COMMA_NUMBER, r"\1.\2"), _COMMA_LAST, r"\1.\2")
