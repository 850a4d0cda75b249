"""Rows of a delimited file that cannot be read: found, described and set aside, so that the others can be used.

A row is bad here if the whole file would be refused for it; the others come as if the bad ones were not in the file.
"""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from vae_anomaly.messages import quote as quoted
from vae_anomaly.tables.csv_dialect import THOUSANDS, Dialect
from vae_anomaly.tables.csv_records import RecordChunk, record_text

OnError = Literal["stop", "skip", "quarantine"]
# Columns beside those of the file, which cannot have a zero in their names.
REASON_COLUMN = "\0reason"
TEXT_COLUMN = "\0text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row that was left out: its ``number`` over all inputs from 0, its ``row`` in the file from 1, why, and what it says."""

    number: int
    file: str
    row: int
    reason: str
    text: str

    @property
    def where(self) -> str:
        """Name the row and its fault as an error does."""
        return f"{self.file} row {self.row:,}: {self.reason}"


OnReject = Callable[[Rejected], None]
# The place of a bad row in its file from 0, why, and its record.
OnBad = Callable[[int, str, str], None]


def ignore(_: Rejected) -> None:
    """Take no notice of a row that is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRows:
    """How many rows were left out because they cannot be read, the first of them, and the file they went to, if they did."""

    rows: int
    first: str
    quarantine: str = ""


@dataclass(kw_only=True)
class Rejects:
    """Hands rows that are left out on, and remembers how many they were and the first of them."""

    on_reject: OnReject = ignore
    count: int = 0
    first: Rejected | None = None

    def add(self, file: str, before: int, place: int, reason: str, text: str) -> None:
        """Leave out the row at ``place`` (from 0) in a file that has ``before`` rows before it."""
        rejected = Rejected(number=before + place, file=file, row=place + 1, reason=reason, text=text)
        self(rejected)

    def __call__(self, rejected: Rejected) -> None:
        """Leave out a row that somebody else has found."""
        self.count += 1
        self.first = self.first or rejected
        self.on_reject(rejected)


def screened(block: RecordChunk, dialect: Dialect, types: Mapping[str, pa.DataType], convert: pacsv.ConvertOptions) -> pa.RecordBatch:
    """Return one row for each record of a block, in columns of ``types``, all of them text if one record is not as it should be.

    Two columns are added: ``REASON_COLUMN`` is null where nothing is wrong so far, and elsewhere the row is null; ``TEXT_COLUMN`` is the
    record.
    """
    faults = dict(block.broken)
    good = [i for i in range(len(block.records)) if i not in faults]
    batch = _read(_joined(block, good), dialect, convert) if good else None
    if batch is None:
        faults |= {good[i]: said for i, said in ragged(_joined(block, good), dialect).items()}
        good = [i for i in good if i not in faults]
        binary = pacsv.ConvertOptions(column_types=dict.fromkeys(types, pa.binary()), include_columns=list(types), null_values=[])
        read = _read(_joined(block, good), dialect, binary) if good else None
        batch = _texts(read, types, good, faults, dialect)
    place = {row: i for i, row in enumerate(good) if row not in faults}
    rows = range(len(block.records))
    whole = batch.take(pa.array([place.get(row) for row in rows], pa.int64())) if faults else batch
    reasons = pa.array([faults.get(row) for row in rows], pa.string())
    columns = [*whole.columns, reasons, pa.array(block.records, pa.binary())]
    return pa.RecordBatch.from_arrays(columns, names=[*batch.schema.names, REASON_COLUMN, TEXT_COLUMN])


def filtered(blocks: Iterator[RecordChunk], dialect: Dialect, on_bad: OnBad) -> Iterator[list[bytes]]:
    """Yield the records that are as wide as the header and UTF-8."""
    done = 0
    for block in blocks:
        faults = dict(block.broken)
        for i, record in enumerate(block.records):
            if i not in faults and not is_utf8(record):
                faults[i] = f"not {dialect.encoding} text"
        good = [i for i in range(len(block.records)) if i not in faults]
        faults |= {good[i]: said for i, said in ragged(_joined(block, good), dialect).items()}
        for i in sorted(faults):
            on_bad(done + i, faults[i], record_text(block.records[i]))
        done += len(block.records)
        yield [block.records[i] for i in good if i not in faults]


def ragged(data: bytes, dialect: Dialect) -> dict[int, str]:
    """Return the places of the records that are wider or narrower than the header, with what to say of them."""
    found: dict[int, str] = {}

    def handle(row: pacsv.InvalidRow) -> str:
        found[row.number - 1] = f"{row.actual_columns} cells, expected {row.expected_columns} as in the header"
        return "skip"

    if data:
        # What is no UTF-8 would stop Arrow at the row, and does not change where its cells end.
        even = data if is_utf8(data) else data.decode("latin-1").encode()
        first = pacsv.ConvertOptions(column_types={dialect.names[0]: pa.string()}, include_columns=[dialect.names[0]])
        _arrow(even, dialect, first, handle)
    return found


def faults_of(batch: pa.RecordBatch) -> dict[int, str]:
    """Return what is wrong with the bad rows of a screened batch, by their places; other batches have none."""
    if REASON_COLUMN not in batch.schema.names:
        return {}
    reasons = batch.column(REASON_COLUMN)
    return {i: reasons[i].as_py() for i in pc.indices_nonzero(pc.is_valid(reasons)).to_pylist()}


def rejected_text(batch: pa.RecordBatch, i: int) -> str:
    """Return the record of row ``i`` of a screened batch."""
    return record_text(batch.column(TEXT_COLUMN)[i].as_py())


def _joined(block: RecordChunk, places: Sequence[int]) -> bytes:
    return b"".join(block.records[i] for i in places)


def _read(data: bytes, dialect: Dialect, convert: pacsv.ConvertOptions) -> pa.RecordBatch | None:
    """Parse whole records; None if one of them is not as wide as the header or a cell cannot be converted."""
    try:
        return _arrow(data, dialect, convert, None).combine_chunks().to_batches()[0]
    except pa.ArrowInvalid:
        return None


def _arrow(data: bytes, dialect: Dialect, convert: pacsv.ConvertOptions, handle: Callable[[pacsv.InvalidRow], str] | None) -> pa.Table:
    read = pacsv.ReadOptions(use_threads=False, block_size=len(data) + 4, column_names=list(dialect.names))
    parse = pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True, invalid_row_handler=handle)
    # Records are no files: a mark of byte order at the beginning of one is text, of which Arrow would take the first for a file's.
    data = BOM_UTF8 + data if data.startswith(BOM_UTF8) else data
    return pacsv.read_csv(pa.BufferReader(data), read, parse, convert)


def _texts(
    batch: pa.RecordBatch | None, types: Mapping[str, pa.DataType], good: list[int], faults: dict[int, str], dialect: Dialect
) -> pa.RecordBatch:
    """Return binary columns as text; a row with a cell that is none, or may be one of two numbers, becomes a fault."""
    if batch is None:
        return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in types], names=list(types))
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns.append(column.cast(pa.string()))
        except pa.ArrowInvalid:
            texts = [_text(cell) for cell in column.to_pylist()]
            for i, text in enumerate(texts):
                if text is None:
                    faults.setdefault(good[i], f"column {quoted(name)} is not {dialect.encoding} text")
            columns.append(pa.array(texts, pa.string()))
        if dialect.decimal == "," and pa.types.is_floating(types[name]):
            for i in thousands(columns[-1]):
                faults.setdefault(good[i], ambiguous(name, columns[-1][i].as_py()))
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def thousands(column: pa.Array | pa.ChunkedArray) -> list[int]:
    """Return the places of the cells that look like thousands with a point."""
    found: list[int] = pc.indices_nonzero(pc.match_substring_regex(column, THOUSANDS)).to_pylist()
    return found


def ambiguous(name: str, cell: str) -> str:
    """Say what is wrong with a number that has a point in a file with decimal commas."""
    return f"column {quoted(name)} holds {quoted(cell)}, thousands or decimals, where numbers have commas"


def _text(cell: bytes) -> str | None:
    return cell.decode() if is_utf8(cell) else None


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8 text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
