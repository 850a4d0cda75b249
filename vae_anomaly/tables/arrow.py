"""Parquet and Arrow files: their columns, all rows, or a stream of batches with bounded memory.

Types stay as the file has them. Knows nothing about models: the caller says which columns it wants.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vae_anomaly.errors import DataError
from vae_anomaly.schema.parsing import blanked, usual, usual_type
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.filesystems import one_line
from vae_anomaly.storage.listing import reading
from vae_anomaly.tables.csv_rejects import OnBad
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.sampling import Weight

_BUFFER = 1 << 20  # bytes of a column chunk held while streaming, so that one huge row group does not fill the memory
_BUFFERS = 32 << 20  # of all columns together
_BATCH_ROWS = 65_536  # 10 MB for 20 numbers: large enough for Arrow's own rate, small beside a model
_FEWEST = 1024, 1 << 14  # rows of a batch and bytes of a buffer below which reading becomes slow
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # a message of no length


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """How much to read at a time: rows and bytes, whatever is less."""

    rows: int = _BATCH_ROWS
    bytes: int = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnarTable:
    """A Parquet or Arrow file whose footer was read; ``rows`` is None where only reading tells."""

    file: TableFile
    schema: pa.Schema
    rows: int | None
    batches: Callable[[TableFile, Sequence[str], Chunk], Iterator[pa.RecordBatch]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""
        return tuple(self.schema.names)

    def read(self, *, missing: Sequence[str], text: Collection[str] = (), on_bad: OnBad | None = None) -> pa.Table:
        """Return all rows in the file's types; ``text`` and ``on_bad`` are for delimited files and change nothing here."""
        return self.table(list(self.pieces(missing=missing, on_bad=on_bad)), missing=missing, text=text)

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows in the file's types."""
        del missing, on_bad
        with _watched(self.file.path):
            yield from _valid(self.batches(self.file, self.names, Chunk()))

    @staticmethod
    def pick(piece: pa.RecordBatch, places: NDArray[np.int64]) -> pa.RecordBatch:
        """Return the rows of a piece at places int64 ``[n]``, in memory of their own."""
        picked = piece.take(pa.array(places))
        return pa.RecordBatch.from_arrays([_slim(column) for column in picked.columns], names=picked.schema.names)

    @staticmethod
    def count(piece: pa.RecordBatch) -> int:
        """Return the rows of a piece."""
        return int(piece.num_rows)

    def weight(self) -> Weight:
        """Return how many rows there are and how large one is in memory; looks at the beginning."""
        for piece in self.pieces(missing=()):
            if piece.num_rows:
                row = piece.nbytes / piece.num_rows
                return Weight(rows=self.file.size / row if self.rows is None else self.rows, row_bytes=row)
        return Weight(rows=0.0, row_bytes=0.0)

    def table(self, pieces: list[pa.RecordBatch], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these rows, declared missing values null; ``text`` changes nothing here."""
        del text
        with _watched(self.file.path):
            table = pa.Table.from_batches(pieces, self.schema)
        columns = [blanked(column, missing) for column in table.columns]
        return pa.Table.from_arrays(columns, names=list(self.names))

    def stream(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: Chunk = Chunk()
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches in file order with the named columns; declared missing values are null except in ``raw``."""
        names, untouched = [*numeric, *text, *raw], set(raw)
        with _watched(self.file.path):
            for batch in _valid(self.batches(self.file, names, chunk)):
                arrays = [batch.column(n) if n in untouched else blanked(batch.column(n), missing) for n in names]
                yield pa.RecordBatch.from_arrays(arrays, names=names)

    def screened(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: Chunk = Chunk()
    ) -> Iterator[pa.RecordBatch]:
        """Yield what ``stream`` does: the file is good or damaged as a whole."""
        return self.stream(numeric=numeric, text=text, raw=raw, missing=missing, chunk=chunk)


def open_parquet(file: TableFile) -> ColumnarTable:
    """Read the footer of a Parquet file; raises DataError if it is damaged or has two columns of one name."""
    with _watched(file.path), pq.ParquetFile(_input(file)) as parquet:
        schema, rows = _usual(parquet.schema_arrow), parquet.metadata.num_rows
        names = schema.names  # in here, because damaged ones are no text
    check_duplicates(names, file.path)
    return ColumnarTable(file=file, schema=schema, rows=rows, batches=_parquet_batches)


def open_arrow(file: TableFile) -> ColumnarTable:
    """Read the schema of an Arrow file (Feather 2) or stream; raises DataError if it is damaged or names repeat."""
    with _watched(file.path), _arrow_reader(file) as reader:
        schema = _usual(reader.schema)
        names = schema.names  # in here, because damaged ones are no text
        ends = _is_file(reader) or _has_its_end(file)
    check_duplicates(names, file.path)
    notes = () if ends else (f"{file.path} has no mark of its end: rows are missing if what wrote it was cut off",)
    return ColumnarTable(file=file, schema=schema, rows=None, batches=_arrow_batches, notes=notes)


def _input(file: TableFile) -> pa.NativeFile:
    return file.filesystem.open_input_file(file.location)


def _parquet_batches(file: TableFile, names: Sequence[str], chunk: Chunk) -> Iterator[pa.RecordBatch]:
    buffer = max(_FEWEST[1], min(_BUFFER, _BUFFERS // max(1, len(names))))
    # pre_buffer would fetch the column chunks of the whole file ahead.
    with pq.ParquetFile(_input(file), buffer_size=buffer, pre_buffer=False, page_checksum_verification=True) as parquet:
        rows = min(max(chunk.rows, _FEWEST[0]), _BATCH_ROWS, max(1, int(chunk.bytes / _row_bytes(parquet, names))))
        yield from _counted(parquet, parquet.iter_batches(batch_size=rows, columns=list(names)), names, file.path)


def _counted(parquet: pq.ParquetFile, batches: Iterator[pa.RecordBatch], names: Sequence[str], path: str) -> Iterator[pa.RecordBatch]:
    """Let batches pass while the footer does not contradict itself, which Arrow sees only when it reads a file whole.

    A row group is looked at when rows of it have come: by then Arrow has refused a damaged one. Asked for it before, it ends the process.
    """
    places = [j for j in _places(parquet, names) if parquet.metadata.schema.column(j).max_repetition_level == 0]
    begin = read = i = 0
    for batch in batches:
        read += batch.num_rows
        while i < parquet.metadata.num_row_groups and begin < read:
            group = parquet.metadata.row_group(i)
            for column in (group.column(j) for j in places if group.num_rows):
                if column.num_values != group.num_rows:
                    raise DataError(
                        f"{path} is damaged or was not copied whole: its footer counts {column.num_values:,} cells "
                        f"of {column.path_in_schema!r} in {group.num_rows:,} rows. Write or copy it again."
                    )
            begin, i = begin + group.num_rows, i + 1
        yield batch


def _places(parquet: pq.ParquetFile, names: Sequence[str]) -> list[int]:
    """Return which columns of the file belong to these names; a nested one has several."""
    wanted, schema = set(names), parquet.metadata.schema
    return [j for j in range(len(schema)) if schema.column(j).path.split(".")[0] in wanted]


def _row_bytes(parquet: pq.ParquetFile, names: Sequence[str]) -> float:
    """Return what a row of the named columns takes: on average where it takes most, or at the beginning, if that is more.

    What the footer says is of text as it is stored, which repeats nothing; of groups after the first only what all columns take together.
    """
    first = next(parquet.iter_batches(batch_size=_FEWEST[0], columns=list(names)), None)
    if first is None or not first.num_rows:
        return 1.0
    groups = [group for i in range(parquet.metadata.num_row_groups) if (group := parquet.metadata.row_group(i)).num_rows]
    size = sum(groups[0].column(j).total_uncompressed_size for j in _places(parquet, names))
    share = min(1.0, size / max(1, groups[0].total_byte_size))
    return float(max(1.0, first.nbytes / first.num_rows, *(share * group.total_byte_size / group.num_rows for group in groups)))


def _arrow_reader(file: TableFile) -> pa.RecordBatchReader:
    try:
        return pa.ipc.open_file(_clipped(file))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(_clipped(file))


def _clipped(file: TableFile) -> pa.PythonFile:
    handle = _input(file)
    return pa.PythonFile(Clipped(handle, handle.size()), mode="r")


def _is_file(reader: pa.RecordBatchReader | pa.RecordBatchFileReader) -> bool:
    return hasattr(reader, "num_record_batches")


def _has_its_end(file: TableFile) -> bool:
    """Whether a stream says where it ends, which the format leaves open."""
    with _input(file) as stream:
        stream.seek(max(0, file.size - len(_STREAM_END)))
        return bytes(stream.read()) == _STREAM_END


def _arrow_batches(file: TableFile, names: Sequence[str], chunk: Chunk) -> Iterator[pa.RecordBatch]:
    del chunk  # a file is read in the batches that it was written in
    with _arrow_reader(file) as reader:
        whole = (reader.get_batch(i) for i in range(reader.num_record_batches)) if _is_file(reader) else reader
        for batch in whole:
            yield batch.select(list(names))


def _slim(values: pa.Array) -> pa.Array:
    """Return values whose dictionary holds no more than they need: few rows of many must not keep all its levels."""
    kind = values.type
    if not pa.types.is_dictionary(kind) or len(values.dictionary) <= len(values):
        return values
    encoded = values.cast(kind.value_type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type), encoded.dictionary, ordered=kind.ordered)


def _valid(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Let nothing pass whose offsets, indices, text or types Arrow would stumble over later; costs little beside reading."""
    for batch in batches:
        batch.validate(full=True)
        yield pa.RecordBatch.from_arrays([usual(column) for column in batch.columns], names=batch.schema.names)


def _usual(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, usual_type(field.type)) for field in schema])


@contextmanager
def _watched(path: str) -> Iterator[None]:
    """Turn Arrow's words about a damaged file into one line."""
    try:
        with reading(path):
            yield
    except MemoryError:
        raise
    except (pa.ArrowException, EOFError, UnicodeError) as error:
        raise DataError(f"{path} is damaged or was not copied whole: {one_line(error)}. Write or copy it again.") from error


class Clipped:
    """The reading half of a Python file over an Arrow one of ``size`` bytes."""

    def __init__(self, file: pa.NativeFile, size: int) -> None:
        self._file, self._size, self.closed = file, size, False

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, fewer at the end."""
        left = max(0, self._size - self._file.tell())
        return bytes(self._file.read(left if size < 0 else min(size, left)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        return int(self._file.seek(min(max(0, start + offset), self._size)))

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file beneath."""
        self.closed = True
        self._file.close()
