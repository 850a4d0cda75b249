"""CSV and its relatives: all rows with types found out, or a stream with the types of a model.

Missing cells are empty ones, ``NA``, ``N/A``, ``NaN``, ``nan``, ``null``, ``NULL``, ``#N/A`` and what the user declares; ``None``
and ``n/a`` are text unless declared. Knows nothing about models: the caller says which columns are numbers.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pacsv

from vae_anomaly.errors import DataError
from vae_anomaly.schema.parsing import TIME_FORMATS, blanked, not_numbers, numbers
from vae_anomaly.storage.filesystems import one_line
from vae_anomaly.storage.listing import COMPRESSED, reading
from vae_anomaly.tables.csv_dialect import COMMA_NUMBER, MAX_RECORD_BYTES, Dialect, open_text
from vae_anomaly.tables.csv_records import AFTER_QUOTE, ZERO, RecordChunk, Utf8, record_chunks
from vae_anomaly.tables.csv_rejects import (
    REASON_COLUMN,
    TEXT_COLUMN,
    OnBad,
    ambiguous,
    faults_of,
    filtered,
    rejected_text,
    screened,
    thousands,
)
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.sampling import DOUBT, Weight

_COMMA_LAST = r"^(\s*[+-]?\d+),((?:[eE][+-]?\d+)?\s*)$"  # '5,', which Arrow takes for a number too
_HEX_MARKS = (b"0x", b"0X")
_HEX = r"^\s*0[xX]"

# What Python takes for a record besides its bytes.
EACH_RECORD = 41

MISSING_TEXT = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "#N/A")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedTable:
    """A delimited file whose dialect is known; ``spared``: columns that nobody wants as numbers."""

    file: TableFile
    dialect: Dialect
    spared: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""
        return self.dialect.names

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the file is read."""
        return self.dialect.notes

    @property
    def rows(self) -> int | None:
        """Not known before reading."""
        return None

    @property
    def schema(self) -> pa.Schema:
        """All columns as text, which is what the file holds."""
        return pa.schema([(name, pa.string()) for name in self.names])

    def read(self, *, missing: Sequence[str], text: Collection[str] = (), on_bad: OnBad | None = None) -> pa.Table:
        """Return all rows; a column is numeric (or a time) if every cell that is not missing parses, else text, as are ``text``.

        With ``on_bad``, rows that are not as wide as the header or no text are left out and told by place (from 0), reason and record.
        """
        return self.table(list(self.pieces(missing=missing, on_bad=on_bad)), missing=missing, text=text)

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[list[bytes]]:
        """Yield the records that can be read, about a megabyte at a time; with ``on_bad`` the others are told, as in ``read``."""
        del missing  # what a cell means is found out when it is parsed
        with reading(self.file.path), open_text(self.file) as stream:
            yield from filtered(self._blocks(stream), self.dialect, on_bad or self._refuse)

    @staticmethod
    def pick(piece: list[bytes], places: NDArray[np.int64]) -> list[bytes]:
        """Return the records of a piece at places int64 ``[n]``."""
        return [piece[i] for i in places]

    @staticmethod
    def count(piece: list[bytes]) -> int:
        """Return the records of a piece."""
        return len(piece)

    def weight(self) -> Weight:
        """Return how many rows there may be and how large one is; looks at the beginning.

        Rows later on may be shorter, and how many are in a compressed file cannot be known.
        """
        for piece in self.pieces(missing=(), on_bad=lambda *_: None):
            if piece:
                row = sum(map(len, piece)) / len(piece)
                compressed = self.file.location.lower().endswith(COMPRESSED)
                rows = math.inf if compressed else DOUBT * self.file.size / row
                return Weight(rows=rows, row_bytes=max(row, 8.0 * len(self.names)) + EACH_RECORD)
        return Weight(rows=0.0, row_bytes=0.0)

    def table(self, pieces: list[list[bytes]], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table that a file with these records would be, see ``read``; empties the list, so that nothing is held twice."""
        content = self._content(pieces)
        table = self._parsed(content, self._typed(missing, text))
        whole = [f.name for f in table.schema if pa.types.is_integer(f.type)]
        if whole and any(mark in content for mark in _HEX_MARKS):
            # Arrow takes 0xFF for 255, and 0xFFFFFFFFFFFFFFFF for -1; to us that is text, as it is in a stream.
            spelled = self._parsed(content, self._typed(missing, [*text, *whole]))
            for name in whole:
                if pc.any(pc.match_substring_regex(spelled[name], _HEX)).as_py():
                    table = table.set_column(table.schema.get_field_index(name), name, spelled[name])
        table = table if self.dialect.decimal == "." else self._pointed(table, text)
        return pa.Table.from_arrays([blanked(c, missing) for c in table.columns], names=list(self.names))

    def _pointed(self, table: pa.Table, text: Collection[str]) -> pa.Table:
        """Read text columns of a file with decimal commas as numbers if every cell is one, with a comma or a point."""
        for i, field in enumerate(table.schema):
            if pa.types.is_string(field.type) and field.name not in text:
                values = _points(table.column(i))
                if pc.any(not_numbers(values)).as_py():
                    continue
                unclear = thousands(table.column(i))
                if unclear and field.name in self.spared:
                    continue
                if unclear:
                    said = ambiguous(field.name, table.column(i)[unclear[0]].as_py())
                    raise DataError(
                        f"{self.file.path}: {said}. Write such numbers without the point, or leave the column out with --exclude."
                    )
                table = table.set_column(i, field.name, numbers(values))
        return table

    def _typed(self, missing: Sequence[str], text: Collection[str]) -> pacsv.ConvertOptions:
        """Return how types are found out; the columns ``text`` have theirs."""
        return pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=True,
            true_values=[],  # true and yes stay text, so that their spelling is kept
            false_values=[],
            timestamp_parsers=[pacsv.ISO8601, *TIME_FORMATS],
            decimal_point=self.dialect.decimal,
            column_types=dict.fromkeys(text, pa.string()),
        )

    def _content(self, pieces: list[list[bytes]]) -> bytearray:
        """Return records below a header that says nothing; from memory, because Arrow must not call Python from its threads."""
        content = bytearray(b"\n" * self.dialect.skip + b"-\n")
        pieces.reverse()
        while pieces:
            content += b"".join(pieces.pop())
        return content

    def _parsed(self, content: bytearray, convert: pacsv.ConvertOptions) -> pa.Table:
        with _parsing(self.file.path):
            try:
                return pacsv.read_csv(pa.BufferReader(content), self._read_options(careful=False), self._parse_options(), convert)
            except pa.ArrowInvalid:
                return pacsv.read_csv(pa.BufferReader(content), self._read_options(careful=True), self._parse_options(), convert)

    def _refuse(self, place: int, reason: str, record: str) -> None:
        raise refusal(self.file.path, place + 1, reason, record)

    def stream(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: object = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches in file order with the named columns: ``numeric`` as float64, the others as ``string``.

        ``raw`` columns keep every text, also one that means 'missing'. A numeric column with a cell that is no number is ``string``
        in that batch, for the caller to say where. Raises DataError at a record that is not as wide as the header or no text.
        Batches are blocks of text, whatever ``chunk`` allows.
        """
        del chunk
        done = 0
        for batch in self.screened(numeric=numeric, text=text, raw=raw, missing=missing):
            wrong = min(faults_of(batch), default=batch.num_rows)
            if wrong:
                yield batch.slice(0, wrong).drop_columns([REASON_COLUMN, TEXT_COLUMN])
            if wrong < batch.num_rows:
                self._refuse(done + wrong, faults_of(batch)[wrong], rejected_text(batch, wrong))
            done += batch.num_rows

    def screened(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: object = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield what ``stream`` does with a row for every record, also for those that cannot be read: see ``rejects.screened``."""
        del chunk
        types = {**dict.fromkeys(numeric, pa.float64()), **dict.fromkeys([*text, *raw], pa.string())}
        convert, decimal = self._convert(types, missing), self.dialect.decimal
        with reading(self.file.path), open_text(self.file) as stream:
            for block in self._blocks(stream):
                batch = screened(block, self.dialect, types, convert)
                yield _finished(batch, numeric=numeric, text=text, missing=missing, decimal=decimal)

    def _blocks(self, stream: pa.NativeFile) -> Iterator[RecordChunk]:
        return record_chunks(Utf8(stream, self.dialect.encoding), self.dialect.delimiter, longest=MAX_RECORD_BYTES)

    def _convert(self, types: Mapping[str, pa.DataType], missing: Sequence[str]) -> pacsv.ConvertOptions:
        return pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=False,
            decimal_point=self.dialect.decimal,
            column_types=types,
            include_columns=list(types),
        )

    def _read_options(self, *, careful: bool) -> pacsv.ReadOptions:
        """Carefully: without threads and ready for the longest record."""
        return pacsv.ReadOptions(
            use_threads=not careful,
            block_size=MAX_RECORD_BYTES if careful else self.dialect.block,
            skip_rows=self.dialect.skip,
            column_names=list(self.names),
            skip_rows_after_names=1,
        )

    def _parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(delimiter=self.dialect.delimiter, newlines_in_values=True)


# What is in a reason, how its row is refused, and what to do.
_REFUSALS = (
    ("thousands or decimals, where", ": {reason}. Write it without the point"),
    ("column ", ": {reason}. Save the file as UTF-8"),
    ("cells", " has {reason}: {record!r}. Correct that row"),
    (AFTER_QUOTE, ": {reason}: {record!r}. Double the quotes inside a cell"),
    (ZERO, ": {reason}: {record!r}. Was the file cut off? Correct that row"),
    ("quote", ": {reason}: {record!r}. Close it"),
    ("text", ": {reason}. Save the file as UTF-8"),
    ("", " is {reason}. Is a quote left open? Correct that row"),
)


def refusal(path: str, row: int, reason: str, record: str) -> DataError:
    """Return the error for a record that cannot be read."""
    said = next(said for mark, said in _REFUSALS if mark in reason)
    what = said.format(reason=reason, record=record[:80])
    return DataError(f"{path} row {row:,}{what}, or leave such rows out with --on-error skip.")


@contextmanager
def _parsing(path: str) -> Iterator[None]:
    """Turn Arrow's words about a malformed file into ours."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read as delimited text: {one_line(error)}") from error


def _finished(
    batch: pa.RecordBatch, *, numeric: Sequence[str], text: Sequence[str], missing: Sequence[str], decimal: str = "."
) -> pa.RecordBatch:
    """Make missing cells null: in numbers what is declared, in text the usual spellings too, elsewhere only the empty ones."""
    all_missing = [*MISSING_TEXT, *missing]
    declared = [*missing]
    tokens = {**dict.fromkeys(numeric, declared), **dict.fromkeys(text, all_missing)}
    numbers_wanted = set(numeric)
    arrays = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        as_text = name in numbers_wanted and pa.types.is_string(values.type)
        ready = _as_numbers(blanked(values, all_missing), decimal) if as_text else values
        arrays.append(blanked(ready, tokens.get(name, [""])))
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _as_numbers(text: pa.Array, decimal: str) -> pa.Array:
    """Return numbers if every cell is one; otherwise the text, numbers in it with a point."""
    pointed = text if decimal == "." else _points(text)
    return pointed if pc.any(not_numbers(pointed)).as_py() else numbers(pointed)


def _points(text: pa.Array) -> pa.Array:
    """Write decimal commas as points, as the number parser wants them."""
    return pc.replace_substring_regex(pc.replace_substring_regex(text, COMMA_NUMBER, r"\1.\2"), _COMMA_LAST, r"\1.\2")
