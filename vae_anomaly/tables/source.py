"""Tables in files: what columns there are, all rows for a fit, or a stream of checked batches for scoring.

The one face of the readers in ``delimited`` and ``columnar``. Several files are one table, in the order given. Knows nothing about
detectors and scores; of models only their schema.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from vae_anomaly.errors import BadCell, ConfigError, DataError, SchemaMismatch
from vae_anomaly.messages import absent_text
from vae_anomaly.schema.schema import Schema
from vae_anomaly.tables import columns, sampling
from vae_anomaly.tables import files as found_module
from vae_anomaly.tables.arrow import Chunk, open_arrow, open_parquet
from vae_anomaly.tables.columns import check_header
from vae_anomaly.tables.csv import DelimitedTable
from vae_anomaly.tables.csv_dialect import sniff
from vae_anomaly.tables.csv_rejects import OnError, OnReject, Rejects, ignore
from vae_anomaly.tables.error_location import with_line
from vae_anomaly.tables.files import TableFile, contents_digest, find_files
from vae_anomaly.tables.sampling import OnRows, Sample, Weight, ignore_rows
from vae_anomaly.tables.stream import Streamed, Wanted, chunked, names_of, none_readable, partitions_typed, stream, with_partition

# So many bad rows before the first good one are no bad rows but the wrong file.
_GIVE_UP = 100_000


class _Part(Streamed, sampling.Reader, Protocol):
    """One opened file."""

    @property
    def schema(self) -> pa.Schema: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def table(self, pieces: list[Any], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One table in one or more files; ``notes`` are what the user should know about how they are read.

    ``on_error``: whether a row of a delimited file that cannot be read stops the reading, or is left out and handed to ``on_reject``.
    """

    parts: tuple[_Part, ...]
    missing_values: tuple[str, ...] = ()
    on_error: OnError = "stop"

    @property
    def files(self) -> tuple[TableFile, ...]:
        """The data files, in reading order."""
        return tuple(p.file for p in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names of the first file, those of its partition folders last."""
        return names_of(self.parts[0])

    @property
    def all_names(self) -> tuple[str, ...]:
        """Column names of all files, as they are met."""
        return tuple(dict.fromkeys(name for part in self.parts for name in names_of(part)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on encodings and the like."""
        return tuple(note for p in self.parts for note in p.notes)

    @property
    def where(self) -> str:
        """What an error calls the table: its file, or the first and how many more."""
        more = len(self.parts) - 1
        return self.parts[0].file.path + (f" and {more:,} more files" if more else "")

    @property
    def rows(self) -> int | None:
        """Rows of all files, or None if only reading tells."""
        rows = [p.rows for p in self.parts]
        return None if None in rows else sum(r for r in rows if r is not None)

    def made_of(self) -> dict[str, list[int]]:
        """Return size (bytes) and time of change (ns since 1970) of each file: what has not changed while these have not."""
        return {file.identity: [file.size, file.modified] for file in self.files}

    def digest(self) -> str:
        """sha256 (hex) over names, sizes and times of change of the files."""
        return found_module.digest(self.files)

    def contents(self) -> str:
        """sha256 (hex) over what the files hold, as far as a little of each tells: see ``edges.contents``."""
        return contents_digest(self.files)

    def weight(self) -> Weight:
        """Return how many rows there are at most and what one weighs as it is read; reads the beginning of the first file."""
        return sampling.weight(self.parts)

    def read_table(self, on_reject: OnReject = ignore) -> pa.Table:
        """Return all rows, files in order; a column of a delimited file is numeric only if it is in all of them.

        Bad rows are those that are not as wide as the header or no text; there is no model yet to say what a cell must be.

        Raises
        ------
        DataError
            No rows, a damaged file, or files whose columns differ.
        """
        rejects = Rejects(on_reject=on_reject)
        return self._table(lambda i, text: list(self._pieces(self.parts[i], Rejects() if text else rejects)), rejects)

    def sample(self, most: int, seed: int, on_reject: OnReject = ignore, on_rows: OnRows = ignore_rows) -> Sample:
        """Read every row and return ``most`` of them, drawn at random, in their order: the table of files with these rows only.

        What memory holds does not grow with the rows. ``on_rows`` is told how many have gone by. Raises what ``read_table`` raises.
        """
        self._check_same_names()
        rejects = Rejects(on_reject=on_reject)
        subset = sampling.sample_files(self.parts, most, seed, lambda part: self._pieces(part, rejects), on_rows)
        table = self._table(lambda i, _: subset.pieces(i), rejects)
        return Sample(table=table, numbers=subset.numbers(), seen=subset.seen)

    def _table(self, pieces: Callable[[int, Collection[str]], list[Any]], rejects: Rejects) -> pa.Table:
        """Return the table of the pieces of all parts; ``pieces`` is asked again for those with columns that are to be text."""

        def table_of(i: int, text: Collection[str] = ()) -> pa.Table:
            return with_partition(self.parts[i].table(pieces(i, text), missing=self.missing_values, text=text), self.parts[i].file)

        self._check_same_names()
        tables = [table_of(i) for i in range(len(self.parts))]
        clashing = columns.clashing(tables)
        for i, part in enumerate(self.parts):
            if clashing and part.file.format == "delimited":
                tables[i] = table_of(i, clashing)
        columns.check_types([part.file.path for part in self.parts], tables)
        table = partitions_typed(pa.concat_tables(tables, promote_options="permissive"), self.parts[0])
        if table.num_rows == 0:
            raise self._no_rows(rejects)
        return table

    def _pieces(self, part: sampling.Reader, rejects: Rejects) -> Iterator[Any]:
        """Yield all rows of a part. Raises DataError where it has rows and not one that can be read."""
        own, found = Rejects(on_reject=rejects), 0
        on_bad = None if self.on_error == "stop" else partial(own.add, part.file.path, 0)
        for piece in part.pieces(missing=self.missing_values, on_bad=on_bad):
            found += part.count(piece)
            yield piece
        if own.first is not None and not found:
            raise none_readable(part.file.path, own)

    def batches(
        self,
        schema: Schema | None,
        *,
        extra: Sequence[str] = (),
        chunk_rows: int = 65_536,
        chunk_bytes: int = 32 << 20,
        first_row: int = 0,
        on_reject: OnReject = ignore,
    ) -> Iterator[pa.RecordBatch]:
        """Return a stream of at most ``chunk_rows`` rows a batch, about ``chunk_bytes`` if that is fewer, in file order.

        With a schema: its columns as ``conform`` makes them, then ``extra`` as in the file (text if a file is delimited). Without: all
        columns. The rows before ``first_row`` are passed over. Missing columns are reported before anything is read. Where bad rows are
        left out, ``NUMBERS`` stands last.

        Raises
        ------
        SchemaMismatch
            A column is missing (at once), or a cell does not fit its column (while iterating; column, file, row and value).
        DataError
            No rows, or a damaged file.
        """
        model = set(schema.names) if schema is not None else set()
        wanted = [n for n in dict.fromkeys(extra) if n not in model]
        for part in self.parts:
            where, names = part.file.path, names_of(part)
            if schema is not None:
                check_header(schema, names, part.file)
            absent = [n for n in wanted if n not in names]
            if absent:
                raise SchemaMismatch(f"{where} lacks columns that were asked for: {absent_text(absent, names)}")
        if schema is None:
            self._check_same_names()
        if self.rows == 0:
            raise self._no_rows()
        raw = wanted if schema is not None else list(self.names)
        stream_of = Wanted(
            schema=schema, raw=self._raw_types(raw), missing=self.missing_values, chunk=Chunk(rows=chunk_rows, bytes=chunk_bytes)
        )
        return chunked(self._stream(stream_of, first_row, on_reject), chunk_rows)

    def _stream(self, wanted: Wanted, first_row: int, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        found, rejects = first_row > 0, Rejects(on_reject=on_reject)
        try:
            for batch in stream(self.parts, wanted, first_row, None if self.on_error == "stop" else rejects):
                found = found or batch.num_rows > 0
                if not found and rejects.count >= _GIVE_UP:
                    raise self._no_rows(rejects)
                yield batch
        except BadCell as error:
            raise with_line(error, self.parts) from None
        if not found:
            raise self._no_rows(rejects)

    def _raw_types(self, raw: Sequence[str]) -> pa.Schema:
        """Return one type a column for all files."""
        kinds = {n: columns.unified([_kind(p, n) for p in self.parts]) for n in raw}
        return pa.schema([(n, kind or pa.string()) for n, kind in kinds.items()])

    def _no_rows(self, rejects: Rejects | None = None) -> DataError:
        if rejects is not None and rejects.first is not None:
            return none_readable(self.where, rejects)
        if not self.names:
            return DataError(f"{self.where} has neither columns nor rows. Write it again with the table in it.")
        return DataError(f"no rows in {self.where}; there are columns but nothing in them.")

    def check_present(self, schema: Schema) -> None:
        """Raise SchemaMismatch where the first file lacks columns of a model."""
        check_header(schema, self.names, self.parts[0].file)

    def _check_same_names(self) -> None:
        columns.check_same_names([(part.file, names_of(part)) for part in self.parts])


def open_source(
    paths: Sequence[str],
    *,
    missing_values: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    on_error: OnError = "stop",
    spared: Collection[str] = (),
) -> Source:
    """Find and open the files behind paths, folders, globs and URIs, as ``open_files`` does. Raises DataError."""
    return open_files(
        find_files(paths), missing_values=missing_values, delimiter=delimiter, encoding=encoding, on_error=on_error, spared=spared
    )


def open_files(
    files: Sequence[TableFile],
    *,
    missing_values: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    on_error: OnError = "stop",
    spared: Collection[str] = (),
) -> Source:
    """Open files as one table; reads headers and footers only.

    ``delimiter`` and ``encoding`` are found out from each file unless given. ``on_error``: what becomes of bad rows. ``spared``: columns
    of which no number is wanted, so that it does not matter which they are.

    Raises
    ------
    DataError
        Not readable, not a table, header only, truncated, or two columns of one name.
    """

    def opened(file: TableFile) -> _Part:
        if file.format == "delimited":
            return DelimitedTable(file=file, dialect=sniff(file, delimiter=delimiter, encoding=encoding), spared=frozenset(spared))
        return open_parquet(file) if file.format == "parquet" else open_arrow(file)

    if delimiter is not None and len(delimiter) != 1:
        raise ConfigError(f"delimiter must be one character, got {delimiter!r}.")
    parts = tuple(opened(file) for file in files)
    # A part without columns or rows is what some engines leave behind; it says nothing about the table.
    filled = tuple(p for p in parts if p.rows != 0)
    return Source(parts=filled or parts, missing_values=tuple(missing_values), on_error=on_error)


def together(sources: Sequence[Source]) -> Source:
    """Return one table of the rows of all, in this order."""
    return replace(sources[0], parts=tuple(part for source in sources for part in source.parts))


def _kind(part: _Part, name: str) -> pa.DataType:
    """Return the type of a column as it is handed on: without dictionaries, which differ from batch to batch."""
    kind = part.schema.field(name).type if name in part.names else pa.string()
    return kind.value_type if pa.types.is_dictionary(kind) else kind
