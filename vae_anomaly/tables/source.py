"""One table in one or more files: its columns, all rows for a fit, or a stream of checked batches for scoring.

Files of every format are read through ``Reader``; several files are one table, in the order given. A model matters only by its schema.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_anomaly.config import DEFAULT_READING, Reading
from vae_anomaly.errors import BadCell, DataError, SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.schema import Schema, conform
from vae_anomaly.storage.listing import Format, Listed
from vae_anomaly.tables import files, sampling
from vae_anomaly.tables.arrow import open_arrow, open_parquet
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import sniff
from vae_anomaly.tables.csv_rejects import TEXT_COLUMN, OnReject, Rejects, faults_of, ignore_reject, rejected_text
from vae_anomaly.tables.error_location import with_line
from vae_anomaly.tables.files import TableFile, column_names, contents_digest, find_files, metadata_digest, with_partition
from vae_anomaly.tables.reader import Chunk, ColumnSelection, Reader, SizeEstimate, partitions_typed
from vae_anomaly.tables.sampling import OnRows, Sample, ignore_rows

# Column with the number of a row over all inputs, from 0, in batches from which malformed rows may be missing.
ROW_NUMBERS = "\0number"

# More malformed rows than this before the first good one mean that it is the wrong file.
_MAX_LEADING_REJECTS = 100_000
_NOTES = 10  # remarks on files that are shown: a folder may hold thousands
_Names = Collection[str]
_CSV_ONLY = "(--on-error is for rows of CSV: Parquet and Arrow files are good or damaged as a whole.)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One table in one or more files; with ``reading.on_error`` a malformed row of a delimited file is left out instead of an error."""

    readers: tuple[Reader, ...]
    reading: Reading = DEFAULT_READING

    @property
    def files(self) -> tuple[Listed, ...]:
        """The data files, in reading order."""
        return tuple(reader.file.listed for reader in self.readers)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the data files in messages."""
        return tuple(file.path for file in self.files)

    @property
    def versions(self) -> tuple[str, ...]:
        """The version of each lakehouse table, empty for a file; no entries if there is none."""
        versions = tuple(file.version for file in self.files)
        return versions if any(versions) else ()

    @property
    def version_notes(self) -> tuple[str, ...]:
        """Which version of each lakehouse table is read."""
        return tuple(note for reader in self.readers if reader.file.listed.lake for note in reader.notes)

    @property
    def format(self) -> Format:
        """The format of the first file."""
        return self.readers[0].file.format

    @property
    def names(self) -> tuple[str, ...]:
        """Column names of the first file, those of its partition folders last."""
        return column_names(self.readers[0].file, self.readers[0].names)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Column names of all files, in order of first appearance."""
        return tuple(dict.fromkeys(name for reader in self.readers for name in column_names(reader.file, reader.names)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the files are read, the first ones where they are many."""
        notes = [note for reader in self.readers for note in reader.notes]
        more = len(notes) - _NOTES
        return (*notes[:_NOTES], *([f"{more:,} more such remarks on other files"] if more > 0 else ()))

    @property
    def where(self) -> str:
        """Name of the table in messages: its file, or the first one and the number of the others."""
        others = len(self.readers) - 1
        return self.readers[0].file.path + (f" and {others:,} more files" if others else "")

    @property
    def rows(self) -> int | None:
        """Number of rows of all files; None if only reading tells."""
        rows = [reader.rows for reader in self.readers]
        return None if None in rows else sum(r for r in rows if r is not None)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    def made_of(self) -> dict[str, list[int | str]]:
        """Return size (bytes) and modification time (ns since 1970) of each file, and the version of a table, by its identity."""
        return {file.identity: [file.size, file.modified, *([file.version] if file.version else [])] for file in self.files}

    def digest(self) -> str:
        """Return the sha256 (hex) over names, sizes and modification times of the files."""
        return metadata_digest(self.files)

    def contents(self) -> str:
        """Return the sha256 (hex) over samples of the contents of the files, see ``contents_digest``."""
        return contents_digest(self.files)

    def estimated_size(self) -> SizeEstimate:
        """Estimate rows and bytes of a row from the beginning of the first file."""
        return sampling.estimated_size(self.readers)

    def read_table(self, on_reject: OnReject = ignore_reject) -> pa.Table:
        """Return all rows, files in order; a column of delimited files is numeric only if it is so in all of them.

        Malformed rows are those that are not UTF-8 or not as wide as the header: without a model, every cell is valid.

        Raises
        ------
        DataError
            No rows, a damaged file, or files whose columns differ.
        """
        rejects = Rejects(on_reject=on_reject)
        table = self._table(lambda i, text: list(self._pieces(self.readers[i], Rejects() if text else rejects)), rejects)
        rejects.check(table.num_rows)
        return table

    def sample(self, most: int, seed: int, on_reject: OnReject = ignore_reject, on_rows: OnRows = ignore_rows) -> Sample:
        """Return a uniform sample of ``most`` rows in file order, as ``read_table`` would read a file of these rows.

        Reads every row in bounded memory. ``on_rows`` gets the number of rows read so far. Raises what ``read_table`` raises.
        """
        self._check_same_names(self._index_names())
        rejects = Rejects(on_reject=on_reject)
        subset = sampling.sample_files(self.readers, most, seed, lambda reader: self._pieces(reader, rejects), on_rows)
        rejects.check(subset.seen)
        table = self._table(lambda i, _: subset.pieces(i), rejects)
        return Sample(table=table, numbers=subset.numbers(), seen=subset.seen)

    def _table(self, pieces: Callable[[int, Collection[str]], list[Any]], rejects: Rejects) -> pa.Table:
        """Return the table of ``pieces(i, text)`` of every file ``i``; delimited files are parsed twice if ``text`` columns turn up."""
        optional = self._index_names()

        def table_of(i: int, text: Collection[str] = ()) -> pa.Table:
            table = self.readers[i].table(pieces(i, text), missing=self.reading.missing_values, text=text)
            return files.with_columns(with_partition(table, self.readers[i].file), optional)

        self._check_same_names(optional)
        tables = [table_of(i) for i in range(len(self.readers))]
        clashing = files.clashing_columns(tables)
        for i, reader in enumerate(self.readers):
            if clashing and reader.file.format == "delimited":
                tables[i] = table_of(i, clashing)
        files.check_types([file.path for file in self.files], tables)
        table = partitions_typed(pa.concat_tables(tables, promote_options="permissive"), self.readers[0])
        if table.num_rows == 0:
            raise self._no_rows(rejects)
        return self._noted(table)

    def _noted(self, table: pa.Table) -> pa.Table:
        """Return the table with what the files say of their columns: which are an index, and which come from folders."""
        from vae_anomaly.schema.roles import index_columns, noted  # only a fit asks for it

        index = [name for reader in self.readers for name in index_columns(reader.schema.metadata)]
        return noted(table, index=index, folders=[name for reader in self.readers for name, _ in reader.file.partition])

    def _pieces(self, reader: Reader, rejects: Rejects) -> Iterator[Any]:
        """Yield the rows of a file in pieces. Raises DataError if it has rows and none of them is readable."""
        own, rows = Rejects(on_reject=rejects), 0
        on_bad = None if self.reading.on_error == "stop" else partial(own.add, reader.file.path, 0)
        for piece in reader.pieces(missing=self.reading.missing_values, on_bad=on_bad):
            rows += reader.count(piece)
            yield piece
        if own.first is not None and not rows:
            raise own.none_readable(reader.file.path)

    def batches(
        self,
        schema: Schema | None,
        *,
        extra: Sequence[str] = (),
        chunk_rows: int = 65_536,
        chunk_bytes: int = 32 << 20,
        first_row: int = 0,
        on_reject: OnReject = ignore_reject,
        on_file: Callable[[str], None] = lambda _: None,
    ) -> Iterator[pa.RecordBatch]:
        """Return a stream of batches of at most ``chunk_rows`` rows and about ``chunk_bytes``, in file order, from ``first_row`` on.

        With a schema: its columns as ``conform`` makes them, then ``extra`` as in the file (strings if a file is delimited). Without: all
        columns. If malformed rows are left out, the column ``ROW_NUMBERS`` is the last one. ``on_file`` gets the file of each batch.

        Raises
        ------
        SchemaMismatch
            A column is missing (at once), or a cell does not fit its column (while iterating; names column, file, row and value).
        DataError
            No rows, or a damaged file.
        """
        raw = self._raw_names(schema, extra)
        if self.rows == 0:
            raise self._no_rows()
        schema = schema and replace(schema, default_missing=self.reading.default_missing)
        layout = _Layout(schema=schema, raw=self._raw_types(raw), missing=self.reading.missing_values, on_file=on_file)
        rejects = Rejects(on_reject=on_reject)
        batches = self._checked(self._stream(layout, Chunk(rows=chunk_rows, bytes=chunk_bytes), first_row, rejects), first_row, rejects)
        return (batch.slice(first, chunk_rows) for batch in batches for first in range(0, batch.num_rows, chunk_rows))

    def _raw_names(self, schema: Schema | None, extra: Sequence[str]) -> list[str]:
        """Return the columns to stream as in the file. Raises SchemaMismatch if a file lacks one, or columns of the schema."""
        model = set(schema.names) if schema is not None else set()
        wanted = [n for n in dict.fromkeys(extra) if n not in model]
        for reader in self.readers:
            names = column_names(reader.file, reader.names)
            if schema is not None:
                files.check_header(schema, names, reader.file)
            absent = [n for n in wanted if n not in names]
            if absent:
                raise SchemaMismatch(f"{reader.file.path} lacks requested columns: {absent_text(absent, names)}")
        if schema is not None:
            return wanted
        self._check_same_names()
        return list(self.names)

    def _stream(self, layout: "_Layout", chunk: Chunk, first_row: int, rejects: Rejects) -> Iterator[pa.RecordBatch]:
        """Yield the rows of all files from ``first_row`` on; a batch may be empty where all its rows were malformed."""
        before = 0  # rows of the files before this one
        screened = self.reading.on_error != "stop"
        for reader in self.readers:
            if reader.rows is not None and before + reader.rows <= first_row:
                before += reader.rows
                continue
            # Rows before first_row were read before the job was killed, so this file has readable ones.
            own, readable, position = Rejects(on_reject=rejects), first_row > before, 0
            for batch in reader.stream(layout.selection(reader), chunk, screened=screened):
                skipped = min(max(first_row - before - position, 0), batch.num_rows)
                if skipped < batch.num_rows:
                    origin = _Origin(file=reader.file, before=before, first=position + skipped, rejects=own if screened else None)
                    layout.on_file(reader.file.path)
                    yield (rows := layout.conformed(with_partition(batch.slice(skipped), reader.file), origin))
                    readable |= rows.num_rows > 0
                position += batch.num_rows
            if own.first is not None and not readable:
                raise own.none_readable(reader.file.path)
            before += position

    def _checked(self, batches: Iterator[pa.RecordBatch], first_row: int, rejects: Rejects) -> Iterator[pa.RecordBatch]:
        """Pass batches on; raise without any row, or with too many malformed ones before the first; add the line to a BadCell."""
        any_row, rows = first_row > 0, 0
        try:
            for batch in batches:
                any_row, rows = any_row or batch.num_rows > 0, rows + batch.num_rows
                if not any_row and rejects.count >= _MAX_LEADING_REJECTS:
                    raise self._no_rows(rejects)
                yield batch
        except BadCell as error:
            raise with_line(error, self.readers) from None
        if not any_row:
            raise self._no_rows(rejects)
        if first_row == 0:  # else the rows before are not known here
            rejects.check(rows)

    def _raw_types(self, names: Sequence[str]) -> pa.Schema:
        """Return one type for each column over all files; strings if they have no common type."""
        kinds = {n: files.common_type([files.column_type(reader.schema, n) for reader in self.readers]) for n in names}
        return pa.schema([(n, kind or pa.string()) for n, kind in kinds.items()])

    def _no_rows(self, rejects: Rejects | None = None) -> DataError:
        if rejects is not None and rejects.first is not None:
            return rejects.none_readable(self.where)
        if not self.names:
            return DataError(f"{self.where} has neither columns nor rows. Write it again with the table in it.")
        return DataError(f"no rows in {self.where}; there are columns but nothing in them.")

    def check_present(self, schema: Schema) -> None:
        """Raise SchemaMismatch if the first file lacks columns of a model."""
        files.check_header(schema, self.names, self.readers[0].file)

    def _check_same_names(self, optional: Sequence[str] = ()) -> None:
        """Raise SchemaMismatch if the files differ in other columns than the ``optional`` ones."""
        names = [(reader.file, column_names(reader.file, reader.names)) for reader in self.readers]
        files.check_same_names([(file, tuple(dict.fromkeys([*own, *optional]))) for file, own in names])

    def _index_names(self) -> tuple[str, ...]:
        """Return the index columns of all files; one that was written without its index may lack them."""
        from vae_anomaly.schema.roles import index_columns, is_unnamed_index  # only a fit asks for it

        named = [name for reader in self.readers for name in index_columns(reader.schema.metadata)]
        unnamed = [reader.names[0] for reader in self.readers if reader.names and is_unnamed_index(reader.names[0])]
        return tuple(dict.fromkeys([*named, *unnamed]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where a batch comes from: its file, the rows ``before`` that file, and its ``first`` row there (from 0); where rejects go."""

    file: TableFile
    before: int
    first: int
    rejects: Rejects | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The columns of a stream: those of ``schema`` as ``conform`` makes them, then ``raw`` ones in these types."""

    schema: Schema | None
    raw: pa.Schema
    missing: Sequence[str]
    on_file: Callable[[str], None]

    def selection(self, reader: Reader) -> ColumnSelection:
        """Return which of these columns a file has itself; the others are those of its partition folders."""
        own = set(reader.names)
        model = [c for c in self.schema.columns if c.name in own] if self.schema is not None else []
        return ColumnSelection(
            numeric=[c.name for c in model if c.kind == "numeric" and not c.temporal],
            text=[c.name for c in model if c.kind != "numeric" or c.temporal],
            raw=[n for n in self.raw.names if n in own],
            missing=self.missing,
        )

    def conformed(self, batch: pa.RecordBatch, origin: _Origin) -> pa.RecordBatch:
        """Return a batch in these columns; with ``rejects`` its malformed rows go there, and ``ROW_NUMBERS`` is added."""
        rejects, where = origin.rejects, origin.file.path
        # Parquet and Arrow have no malformed rows: a cell that does not fit raises in any case.
        bad = faults_of(batch) if rejects is not None and TEXT_COLUMN in batch.schema.names else None
        arrays, names = [batch.column(field.name).cast(field.type) for field in self.raw], list(self.raw.names)
        if self.schema is not None:
            try:
                model = conform(self.schema, batch, where=where, first_row=origin.first, bad=bad)
            except SchemaMismatch as error:
                raise (error if rejects is None or bad is not None else SchemaMismatch(f"{error} {_CSV_ONLY}")) from None
            arrays, names = [*model.columns, *arrays], [*model.schema.names, *names]
        if rejects is None:
            return pa.RecordBatch.from_arrays(arrays, names=names)
        bad = bad or {}
        for i in sorted(bad):
            rejects.add(where, origin.before, origin.first + i, bad[i], rejected_text(batch, i))
        first = origin.before + origin.first
        numbers = pa.array(range(first, first + batch.num_rows), pa.int64())
        rows = pa.RecordBatch.from_arrays([*arrays, numbers], names=[*names, ROW_NUMBERS])
        return rows.filter(pa.array([i not in bad for i in range(batch.num_rows)])) if bad else rows


def open_source(paths: Sequence[str], reading: Reading = DEFAULT_READING, *, unused: _Names = (), expected: _Names = ()) -> Source:
    """Find and open the files behind paths, folders, globs and URIs, see ``open_files``. Raises DataError."""
    return open_files(find_files(paths, reading.at), reading, unused=unused, expected=expected)


def open_files(files: Sequence[TableFile], reading: Reading = DEFAULT_READING, *, unused: _Names = (), expected: _Names = ()) -> Source:
    """Open files as one table; reads headers and footers only.

    ``unused``: columns whose numbers are not needed and may be ambiguous; ``expected``: those of a model, which a long table may lack.

    Raises
    ------
    DataError
        Not readable, not a table, header only, truncated, or two columns of the same name.
    """

    def reader_of(file: TableFile) -> Reader:
        if file.format == "delimited":
            return DelimitedTable(file=file, dialect=sniff(file, reading), unused=frozenset(unused))
        if file.listed.lake:
            from vae_anomaly.tables.lakehouse import open_lake

            return open_lake(file)
        return open_parquet(file) if file.format == "parquet" else open_arrow(file)

    readers = tuple(reader_of(file) for file in files)
    # Some engines write files without columns or rows beside the others; they say nothing about the table.
    readers = tuple(reader for reader in readers if reader.rows != 0) or readers
    if reading.pivot or reading.quality_column:
        from vae_anomaly.tables.pivot import reshaped

        readers = reshaped(readers, reading, keep=unused, expected=expected)
    return Source(readers=readers, reading=reading)


def as_one_table(sources: Sequence[Source]) -> Source:
    """Return the files of several sources as one table, in this order."""
    return replace(sources[0], readers=tuple(reader for source in sources for reader in source.readers))


def input_row_numbers(batch: pa.RecordBatch, first: int) -> NDArray[np.int64]:
    """Return the numbers ``[n]`` of the rows of a batch over all inputs; without ``ROW_NUMBERS`` they count from ``first``."""
    if ROW_NUMBERS in batch.schema.names:
        return np.asarray(batch.column(ROW_NUMBERS).to_numpy(), dtype=np.int64)
    return np.arange(first, first + batch.num_rows)
