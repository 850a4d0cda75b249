"""Parquet and Arrow files: their columns, all rows, or a stream of batches in bounded memory.

Types stay as the file has them. The caller selects the columns.
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
from vae_anomaly.messages import one_line
from vae_anomaly.schema.parsing import mask_tokens, supported, supported_type
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.tables.csv_rejects import OnBad
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.reader import BATCH_ROWS, Chunk, ColumnSelection, SizeEstimate

# Bytes of a column chunk in memory while streaming, so that one huge row group does not fill it.
_BUFFER = 1 << 20
# Bytes of the buffers of all columns together.
_BUFFERS = 32 << 20
# Smaller batches (rows) and buffers (bytes) make reading slow.
_MIN_ROWS = 1024
_MIN_BUFFER = 1 << 14
# End of an Arrow IPC stream: a message of length zero.
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"

ReadBatches = Callable[[TableFile, Sequence[str], Chunk], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnarTable:
    """Reader of a Parquet or Arrow file whose schema was read; ``rows`` is None where only reading tells."""

    file: TableFile
    schema: pa.Schema
    rows: int | None
    batches: ReadBatches
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in file order."""
        return tuple(self.schema.names)

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows as batches; such files have no malformed rows, and missing values are for ``table`` to replace."""
        del missing, on_bad
        with reading_arrow(self.file.path):
            yield from _valid(self.batches(self.file, self.names, Chunk()))

    @staticmethod
    def pick(piece: pa.RecordBatch, indices: NDArray[np.int64]) -> pa.RecordBatch:
        """Return the rows of a piece at ``indices`` ``[n]``, in memory of their own."""
        picked = piece.take(pa.array(indices))
        return pa.RecordBatch.from_arrays([_compacted(column) for column in picked.columns], names=picked.schema.names)

    @staticmethod
    def count(piece: pa.RecordBatch) -> int:
        """Return the number of rows of a piece."""
        return int(piece.num_rows)

    def estimated_size(self) -> SizeEstimate:
        """Estimate rows and bytes of a row from the first batch."""
        for piece in self.pieces(missing=()):
            if piece.num_rows:
                row = piece.nbytes / piece.num_rows
                return SizeEstimate(rows=self.file.listed.size / row if self.rows is None else self.rows, row_bytes=row)
        return SizeEstimate(rows=0.0, row_bytes=0.0)

    def table(self, pieces: list[pa.RecordBatch], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these batches with null for the missing values; ``text`` is for delimited files only."""
        del text
        with reading_arrow(self.file.path):
            table = pa.Table.from_batches(pieces, self.schema)
        columns = [mask_tokens(column, missing) for column in table.columns]
        return pa.Table.from_arrays(columns, names=list(self.names))

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield batches of the selected columns in file order; ``screened`` has no effect, since Arrow files have no malformed rows."""
        del screened
        raw = set(columns.raw)
        with reading_arrow(self.file.path):
            for batch in _valid(self.batches(self.file, columns.names, chunk)):
                arrays = [batch.column(n) if n in raw else mask_tokens(batch.column(n), columns.missing) for n in columns.names]
                yield pa.RecordBatch.from_arrays(arrays, names=columns.names)


def open_parquet(file: TableFile) -> ColumnarTable:
    """Read the footer of a Parquet file. Raises DataError if it is damaged or two columns have the same name."""
    with reading_arrow(file.path), pq.ParquetFile(_input(file)) as parquet:
        schema, rows = _supported_schema(parquet.schema_arrow), parquet.metadata.num_rows
        names = schema.names  # decoded within the handler: names of a damaged file may not be UTF-8
    check_duplicates(names, file.path)
    return ColumnarTable(file=file, schema=schema, rows=rows, batches=parquet_batches)


def open_arrow(file: TableFile) -> ColumnarTable:
    """Read the schema of an Arrow IPC file (Feather 2) or stream. Raises DataError if it is damaged or names repeat."""
    with reading_arrow(file.path), _arrow_reader(file) as reader:
        schema = _supported_schema(reader.schema)
        names = schema.names  # decoded within the handler: names of a damaged file may not be UTF-8
        complete = _is_file(reader) or _has_end_marker(file)
    check_duplicates(names, file.path)
    notes = () if complete else (f"{file.path} has no end marker: rows are missing if its writer was interrupted",)
    return ColumnarTable(file=file, schema=schema, rows=None, batches=_arrow_batches, notes=notes)


def _input(file: TableFile) -> pa.NativeFile:
    return file.listed.filesystem.open_input_file(file.listed.location)


def parquet_schema(file: TableFile) -> tuple[pa.Schema, int]:
    """Return columns, with what the file says about each, and rows of a Parquet file. Raises FileNotFoundError."""
    with pq.ParquetFile(_input(file)) as parquet:
        return parquet.schema_arrow, parquet.metadata.num_rows


def parquet_batches(file: TableFile, names: Sequence[str], chunk: Chunk, *, int96: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the named columns of a Parquet file; ``int96``: unit of times in Spark's old type, which exceed nanoseconds."""
    buffer = max(_MIN_BUFFER, min(_BUFFER, _BUFFERS // max(1, len(names))))
    # pre_buffer would fetch the column chunks of the whole file in advance.
    options = {"buffer_size": buffer, "pre_buffer": False, "page_checksum_verification": True, "coerce_int96_timestamp_unit": int96}
    with pq.ParquetFile(_input(file), **options) as parquet:
        rows = min(max(chunk.rows, _MIN_ROWS), BATCH_ROWS, max(1, int(chunk.bytes / _row_bytes(parquet, names))))
        yield from _checked_counts(parquet, parquet.iter_batches(batch_size=rows, columns=list(names)), names, file.path)


def _checked_counts(
    parquet: pq.ParquetFile, batches: Iterator[pa.RecordBatch], names: Sequence[str], path: str
) -> Iterator[pa.RecordBatch]:
    """Pass batches on while the cell counts in the footer agree with the row counts; Arrow checks that only when it reads a whole file.

    A row group is checked once rows of it have been read: by then Arrow has refused a damaged one. Its metadata, read earlier, can
    abort the process.
    """
    indices = [j for j in _column_indices(parquet, names) if parquet.metadata.schema.column(j).max_repetition_level == 0]
    begin = read = i = 0
    for batch in batches:
        read += batch.num_rows
        while i < parquet.metadata.num_row_groups and begin < read:
            group = parquet.metadata.row_group(i)
            for column in (group.column(j) for j in indices if group.num_rows):
                if column.num_values != group.num_rows:
                    raise DataError(
                        f"{path} is damaged or was not copied whole: its footer counts {column.num_values:,} cells "
                        f"of {column.path_in_schema!r} in {group.num_rows:,} rows. Write or copy it again."
                    )
            begin, i = begin + group.num_rows, i + 1
        yield batch


def _column_indices(parquet: pq.ParquetFile, names: Sequence[str]) -> list[int]:
    """Return the indices of the leaf columns of these names; a nested column has several."""
    wanted, schema = set(names), parquet.metadata.schema
    return [j for j in range(len(schema)) if schema.column(j).path.split(".")[0] in wanted]


def _row_bytes(parquet: pq.ParquetFile, names: Sequence[str]) -> float:
    """Estimate the bytes of a row of the named columns: the mean of the largest row group, or of the first rows if that is more.

    The footer counts text as stored, where dictionaries repeat nothing. Of row groups after the first only the size of all columns together
    is used.
    """
    first = next(parquet.iter_batches(batch_size=_MIN_ROWS, columns=list(names)), None)
    if first is None or not first.num_rows:
        return 1.0
    groups = [group for i in range(parquet.metadata.num_row_groups) if (group := parquet.metadata.row_group(i)).num_rows]
    size = sum(groups[0].column(j).total_uncompressed_size for j in _column_indices(parquet, names))
    share = min(1.0, size / max(1, groups[0].total_byte_size))
    return float(max(1.0, first.nbytes / first.num_rows, *(share * group.total_byte_size / group.num_rows for group in groups)))


def _arrow_reader(file: TableFile) -> pa.RecordBatchReader:
    try:
        return pa.ipc.open_file(_bounded(file))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(_bounded(file))


def _bounded(file: TableFile) -> pa.PythonFile:
    handle = _input(file)
    return pa.PythonFile(BoundedFile(handle, handle.size()), mode="r")


def _is_file(reader: pa.RecordBatchReader | pa.RecordBatchFileReader) -> bool:
    return hasattr(reader, "num_record_batches")


def _has_end_marker(file: TableFile) -> bool:
    """Whether a stream has the end marker, which the format leaves optional."""
    with _input(file) as stream:
        stream.seek(max(0, file.listed.size - len(_STREAM_END)))
        return bytes(stream.read()) == _STREAM_END


def _arrow_batches(file: TableFile, names: Sequence[str], chunk: Chunk) -> Iterator[pa.RecordBatch]:
    del chunk  # Arrow reads the batches as they were written
    with _arrow_reader(file) as reader:
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if _is_file(reader) else reader
        for batch in batches:
            yield batch.select(list(names))


def _compacted(values: pa.Array) -> pa.Array:
    """Return values with a dictionary of their own levels only: a small sample must not keep all levels in memory."""
    kind = values.type
    if not pa.types.is_dictionary(kind) or len(values.dictionary) <= len(values):
        return values
    encoded = values.cast(kind.value_type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type), encoded.dictionary, ordered=kind.ordered)


def _valid(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Validate offsets, indices and UTF-8 of batches, which Arrow does not check while reading; cheap beside the reading itself."""
    for batch in batches:
        batch.validate(full=True)
        yield pa.RecordBatch.from_arrays([supported(column) for column in batch.columns], names=batch.schema.names)


def _supported_schema(schema: pa.Schema) -> pa.Schema:
    """Return the columns in types with compute kernels; the metadata stay, in which pandas names its index."""
    return pa.schema([(field.name, supported_type(field.type)) for field in schema], metadata=schema.metadata)


@contextmanager
def reading_arrow(path: str) -> Iterator[None]:
    """Raise errors of Arrow about the content of a file as a DataError of one line, those of the system as ``reading`` does."""
    try:
        with reading(path):
            yield
    except MemoryError:
        raise
    except (pa.ArrowException, EOFError, UnicodeError) as error:
        raise DataError(f"{path} is damaged or was not copied whole: {one_line(error)}. Write or copy it again.") from error


class BoundedFile:
    """Read-only Python file over an Arrow file of ``size`` bytes that asks for no more than the file has left.

    A damaged length in an IPC stream would otherwise reserve up to 2 GB.
    """

    def __init__(self, file: pa.NativeFile, size: int) -> None:
        self._file, self._size, self.closed = file, size, False

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, fewer at the end."""
        left = max(0, self._size - self._file.tell())
        return bytes(self._file.read(left if size < 0 else min(size, left)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._size}[whence]
        return int(self._file.seek(min(max(0, start + offset), self._size)))

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the Arrow file."""
        self.closed = True
        self._file.close()
