"""Malformed rows of a delimited file: detect and describe them, and parse the other rows as if they were not there.

A row is malformed if the whole file would be refused for it.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from vae_anomaly.errors import DataError
from vae_anomaly.messages import quote as quoted
from vae_anomaly.tables.csv_dialect import THOUSANDS, Dialect
from vae_anomaly.tables.csv_records import RecordChunk, record_text

# Columns added to those of a file, whose names cannot contain a zero byte.
REASON_COLUMN = "\0reason"
TEXT_COLUMN = "\0text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row that was left out: ``number`` over all inputs (from 0), ``row`` in its file (from 1), the reason and the text of the row."""

    number: int
    file: str
    row: int
    reason: str
    text: str

    @property
    def where(self) -> str:
        """File, row and reason, as in an error text."""
        return f"{self.file} row {self.row:,}: {self.reason}"


OnReject = Callable[[Rejected], None]
# Takes the number of a malformed row in its file (from 0), the reason, and its text.
OnBad = Callable[[int, str, str], None]


def ignore_reject(_: Rejected) -> None:
    """Do nothing with a row that was left out."""


def check_mostly_kept(rejected: int, kept: int, first: str) -> None:
    """Raise DataError if more rows were left out than kept: then it is not the rows that are wrong."""
    if rejected > kept:
        raise DataError(
            f"{rejected:,} rows cannot be read and only {kept:,} can; the first, counted from 1: {first}. "
            "Correct the file, or say where its rows are with --header-row, --skip-rows or --no-header."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRows:
    """Number of malformed rows that were left out, the first of them, and the quarantine file they were written to, if any."""

    rows: int
    first: str
    quarantine: str = ""


@dataclass(kw_only=True)
class Rejects:
    """Counts rows that are left out, remembers the first and passes each on to ``on_reject``."""

    on_reject: OnReject = ignore_reject
    count: int = 0
    first: Rejected | None = None

    def none_readable(self, where: str) -> DataError:
        """Return the error for a table without a readable row."""
        first = "" if self.first is None else self.first.where
        return DataError(
            f"none of the first {self.count:,} rows of {where} can be read; {first}. Check the delimiter, the encoding and the columns."
        )

    def check(self, kept: int) -> None:
        """Raise DataError if there are more of these rows than were ``kept``."""
        if self.first is not None:
            check_mostly_kept(self.count, kept, self.first.where)

    def add(self, file: str, before: int, index: int, reason: str, text: str) -> None:
        """Count row ``index`` (from 0) of a file; the inputs before the file have ``before`` rows."""
        self(Rejected(number=before + index, file=file, row=index + 1, reason=reason, text=text))

    def __call__(self, rejected: Rejected) -> None:
        """Count a row and pass it on."""
        self.count += 1
        self.first = self.first or rejected
        self.on_reject(rejected)


def screened_batch(chunk: RecordChunk, dialect: Dialect, types: Mapping[str, pa.DataType], convert: pacsv.ConvertOptions) -> pa.RecordBatch:
    """Parse a chunk into one row for each record: columns of ``types``, or all of strings if Arrow cannot parse every record.

    Two columns are added: ``REASON_COLUMN`` is null for a good row; malformed rows have a reason and are null elsewhere.
    ``TEXT_COLUMN`` is the record in bytes.
    """
    faults = dict(chunk.broken)
    good = [i for i in range(len(chunk.records)) if i not in faults]
    batch = _parsed_or_none(_joined(chunk, good), dialect, convert) if good else None
    if batch is None:
        faults |= {good[i]: reason for i, reason in ragged_records(_joined(chunk, good), dialect).items()}
        good = [i for i in good if i not in faults]
        binary = pacsv.ConvertOptions(column_types=dict.fromkeys(types, pa.binary()), include_columns=list(types), null_values=[])
        cells = _parsed_or_none(_joined(chunk, good), dialect, binary) if good else None
        batch = _decoded(cells, types, good, faults, dialect)
    index_of = {row: i for i, row in enumerate(good) if row not in faults}
    rows = range(len(chunk.records))
    aligned = batch.take(pa.array([index_of.get(row) for row in rows], pa.int64())) if faults else batch
    reasons = pa.array([faults.get(row) for row in rows], pa.string())
    columns = [*aligned.columns, reasons, pa.array(chunk.records, pa.binary())]
    return pa.RecordBatch.from_arrays(columns, names=[*batch.schema.names, REASON_COLUMN, TEXT_COLUMN])


def good_records(chunks: Iterator[RecordChunk], dialect: Dialect, on_bad: OnBad) -> Iterator[list[bytes]]:
    """Yield the records that are UTF-8 and as wide as the header; ``on_bad`` takes the others."""
    first = 0
    for chunk in chunks:
        faults = dict(chunk.broken)
        for i, record in enumerate(chunk.records):
            if i not in faults and not is_utf8(record):
                faults[i] = f"not {dialect.encoding} text"
        good = [i for i in range(len(chunk.records)) if i not in faults]
        faults |= {good[i]: reason for i, reason in ragged_records(_joined(chunk, good), dialect).items()}
        for i in sorted(faults):
            on_bad(first + i, faults[i], record_text(chunk.records[i]))
        first += len(chunk.records)
        yield [chunk.records[i] for i in good if i not in faults]


def ragged_records(data: bytes, dialect: Dialect) -> dict[int, str]:
    """Return a reason for each record that is wider or narrower than the header, by its index."""
    reasons: dict[int, str] = {}

    def on_invalid_row(row: pacsv.InvalidRow) -> str:
        reasons[row.number - 1] = f"{row.actual_columns} cells, expected {row.expected_columns} as in the header"
        return "skip"

    if data:
        # Invalid UTF-8 would stop Arrow at its row; as Latin-1 the cells end at the same delimiters.
        decodable = data if is_utf8(data) else data.decode("latin-1").encode()
        first_column = pacsv.ConvertOptions(column_types={dialect.names[0]: pa.string()}, include_columns=[dialect.names[0]])
        _read_csv(decodable, dialect, first_column, on_invalid_row)
    return reasons


def faults_of(batch: pa.RecordBatch) -> dict[int, str]:
    """Return the reasons of the malformed rows of a screened batch, by index; empty for any other batch."""
    if REASON_COLUMN not in batch.schema.names:
        return {}
    reasons = batch.column(REASON_COLUMN)
    return {i: reasons[i].as_py() for i in pc.indices_nonzero(pc.is_valid(reasons)).to_pylist()}


def rejected_text(batch: pa.RecordBatch, i: int) -> str:
    """Return the text of row ``i`` of a screened batch."""
    return record_text(batch.column(TEXT_COLUMN)[i].as_py())


def _joined(chunk: RecordChunk, indices: Sequence[int]) -> bytes:
    return b"".join(chunk.records[i] for i in indices)


def _parsed_or_none(data: bytes, dialect: Dialect, convert: pacsv.ConvertOptions) -> pa.RecordBatch | None:
    """Parse records; None if one of them is not as wide as the header or a cell cannot be converted."""
    try:
        return _read_csv(data, dialect, convert, None).combine_chunks().to_batches()[0]
    except pa.ArrowInvalid:
        return None


def _read_csv(
    data: bytes, dialect: Dialect, convert: pacsv.ConvertOptions, on_invalid_row: Callable[[pacsv.InvalidRow], str] | None
) -> pa.Table:
    read = pacsv.ReadOptions(use_threads=False, block_size=len(data) + 4, column_names=list(dialect.names))
    parse = pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True, invalid_row_handler=on_invalid_row)
    # Arrow drops a byte-order mark at the beginning of a buffer, but at the beginning of a record it is text.
    data = BOM_UTF8 + data if data.startswith(BOM_UTF8) else data
    return pacsv.read_csv(pa.BufferReader(data), read, parse, convert)


def _decoded(
    cells: pa.RecordBatch | None, types: Mapping[str, pa.DataType], good: list[int], faults: dict[int, str], dialect: Dialect
) -> pa.RecordBatch:
    """Decode binary columns; rows ``good[i]`` with a cell that is not UTF-8, or an ambiguous number, are added to ``faults``."""
    if cells is None:
        return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in types], names=list(types))
    columns = []
    for name, column in zip(cells.schema.names, cells.columns, strict=True):
        try:
            columns.append(column.cast(pa.string()))
        except pa.ArrowInvalid:
            texts = [cell.decode() if is_utf8(cell) else None for cell in column.to_pylist()]
            for i, text in enumerate(texts):
                if text is None:
                    faults.setdefault(good[i], f"column {quoted(name)} is not {dialect.encoding} text")
            columns.append(pa.array(texts, pa.string()))
        if dialect.decimal == "," and pa.types.is_floating(types[name]):
            for i in ambiguous_cells(columns[-1]):
                faults.setdefault(good[i], ambiguity_reason(name, columns[-1][i].as_py()))
    return pa.RecordBatch.from_arrays(columns, names=cells.schema.names)


def ambiguous_cells(column: pa.Array | pa.ChunkedArray) -> list[int]:
    """Return the indices of the cells that look like thousands with a point."""
    indices: list[int] = pc.indices_nonzero(pc.match_substring_regex(column, THOUSANDS)).to_pylist()
    return indices


def ambiguity_reason(name: str, cell: str) -> str:
    """Return the reason for a number with a point in a file with decimal commas."""
    return f"column {quoted(name)} holds {quoted(cell)}, thousands or decimals, where numbers have commas"


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8 text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
