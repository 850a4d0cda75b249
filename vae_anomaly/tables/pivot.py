"""Readers that reshape what other readers read: a long table as a wide one, and values that are not good as missing ones.

A long table is read twice: once for its tags and their kinds, and once, in time order, for the rows, in bounded memory. Several files are
one table; one that is not in time order is sorted in memory.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_anomaly.config import Reading
from vae_anomaly.errors import BadCell, ConfigError, DataError
from vae_anomaly.messages import absent_text, listed, quote
from vae_anomaly.schema import parsing
from vae_anomaly.schema.keys import as_times
from vae_anomaly.schema.pivoting import Held, PivotRoles, Samples, Tags, as_kind, joined, parse_pivot
from vae_anomaly.schema.qualities import good_values, none_good, quality_pairs
from vae_anomaly.tables.csv_rejects import OnBad
from vae_anomaly.tables.files import TableFile
from vae_anomaly.tables.reader import Chunk, ColumnSelection, Reader, SizeEstimate

_Ints = NDArray[np.int64]

MOST_TAGS = 5000
MOST_SORTED = 20_000_000  # values of a table that is not in time order, which are sorted in memory (20 bytes and the text of each)
CELLS = 1 << 20  # of the wide rows that are made at a time


@dataclass(frozen=True, kw_only=True)
class PivotedTable:
    """Reader of one or several long files as one wide table; columns of a model, ``expected``, are there even if no row has their tag."""

    readers: tuple[Reader, ...]
    pivot: PivotRoles
    missing: tuple[str, ...] = ()
    time_format: str | None = None
    quality: str | None = None
    good: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()

    @property
    def file(self) -> TableFile:
        """The first file."""
        return replace(self.readers[0].file, partition=())

    @property
    def rows(self) -> int | None:
        """None: only reading tells."""
        return None

    @cached_property
    def tags(self) -> Tags:
        """Tags of all files. Raises DataError for a time that cannot be read, or too many tags."""
        tags = Tags()
        for reader in self.readers:
            row = 0
            for samples, rows in self._read(reader, tags, row):
                tags.add(samples, reader.file.path, row, self.pivot.every)
                row += rows
        if not tags.samples:
            raise DataError(f"no row of {self.readers[0].file.path} has a tag; there is nothing to pivot.")
        if self.quality and not self.expected and not tags.has_values:
            cells = next(iter(self.readers[0].stream(ColumnSelection(raw=[self.quality]), Chunk()))).column(0)
            raise none_good(self.readers[0].file.path, self.quality, cells)
        if self.pivot.every is None and tags.samples > 2 * tags.rows * len(tags.code) and tags.in_days:
            where = f"column {quote(self.pivot.time)} of {self.readers[0].file.path}"
            raise DataError(f"{where} holds days, each for several values of a tag. Join date and time in one column, or give every=1d.")
        if tags.falls and tags.samples > MOST_SORTED:
            raise DataError(
                f"{tags.falls} has an earlier time than the row above it, and {tags.samples:,} values are too many to be sorted here "
                f"(at most {MOST_SORTED:,}). Sort the table by {quote(self.pivot.time)}."
            )
        return tags

    @cached_property
    def schema(self) -> pa.Schema:
        """The time, the tags in the order of their names, then expected columns without a value."""
        tags = self.tags
        unit = {10**6: "s", 10**3: "ms", 1: "us"}[tags.unit if self.pivot.every is None else _unit(tags.unit, self.pivot.every)]
        fields = [(self.pivot.time, pa.timestamp(unit))]
        for name in sorted(tags.code):
            code = tags.code[name]
            kind = pa.int64() if tags.is_number[code] and tags.is_whole[code] and self.pivot.agg == "last" else pa.float64()
            fields.append((name, kind if tags.is_number[code] else pa.string()))
        if any(name in tags.code for name in self.expected):
            fields += [(name, pa.string()) for name in self.expected if name not in tags.code and name != self.pivot.time]
        return pa.schema(fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(self.schema.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the files are read."""
        tags, notes = self.tags, [note for reader in self.readers for note in reader.notes]
        if not self.expected:
            notes.append(f"{tags.samples:,} values of {len(tags.code):,} tags became one row for each {self._row_text()}")
            used = {self.pivot.tag, self.pivot.value, self.pivot.time, self.quality}
            unused = [name for name in self.readers[0].names if name not in used]
            if unused:
                advice = "" if self.quality else "; if one says how good a value is, name it with --quality-column"
                notes.append(f"not used of the long table: {listed(unused)}{advice}")
        if self.pivot.every is None and tags.samples > 2 * tags.rows * len(tags.code):
            notes.append(f"column {quote(self.pivot.time)} has one time for several values of a tag, of which the last counts")
        if tags.start > tags.begin:
            notes.append(f"rows before {_stamp(tags.start)} are left out: not every tag had a value yet")
        if tags.falls:
            notes.append(f"{tags.falls} has an earlier time than the row above it: the table was sorted by time")
        return tuple(notes)

    def _row_text(self) -> str:
        return "time stamp" if self.pivot.every is None else f"interval of {self.pivot.every / 10**6:g} s"

    def estimated_size(self) -> SizeEstimate:
        """Estimate the size of the wide table."""
        return SizeEstimate(rows=float(self.tags.rows), row_bytes=16.0 * len(self.schema))

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all wide rows."""
        del missing, on_bad
        yield from self._wide()

    @staticmethod
    def pick(piece: pa.RecordBatch, indices: NDArray[Any]) -> pa.RecordBatch:
        """Return the rows of a piece at ``indices``."""
        return piece.take(pa.array(indices))

    @staticmethod
    def count(piece: pa.RecordBatch) -> int:
        """Return the number of rows of a piece."""
        return int(piece.num_rows)

    def table(self, pieces: list[pa.RecordBatch], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these pieces."""
        del missing, text
        return pa.Table.from_batches(pieces, self.schema)

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the selected columns of the wide rows."""
        del screened, chunk
        for batch in self._wide():
            yield batch.select(columns.names)

    def _read(self, reader: Reader, tags: Tags, row: int) -> Iterator[tuple[Samples, int]]:
        """Yield the samples of a file, and how many rows they were; new tags get the next codes."""
        pivot, quality = self.pivot, [self.quality] if self.quality else []
        selection = ColumnSelection(text=[pivot.tag, pivot.value], raw=[pivot.time, *quality], missing=self.missing)
        for batch in reader.stream(selection, Chunk()):
            value = parsing.plain_array(batch.column(pivot.value))
            if quality:
                value = pc.if_else(good_values(batch.column(quality[0]), self.good), value, pa.scalar(None, value.type))
            if not (parsing.is_text_type(value.type) or pa.types.is_integer(value.type)):
                value = value.cast(pa.float64()) if parsing.is_number_type(value.type) else value.cast(pa.string())
            name = parsing.readable_text(batch.column(pivot.tag)).cast(pa.string())
            known = pc.is_valid(name).to_numpy(zero_copy_only=False)
            samples = Samples(time=self._times(batch.column(pivot.time), reader, row), tag=_codes(name, tags, known), value=value)
            yield (samples if known.all() else samples.take(np.flatnonzero(known))), batch.num_rows
            row += batch.num_rows
            if len(tags.code) > MOST_TAGS:
                raise DataError(
                    f"column {quote(pivot.tag)} of {reader.file.path} has more than {MOST_TAGS:,} tags. Is it the column of the tags?"
                )

    def _times(self, column: pa.Array, reader: Reader, row: int) -> _Ints:
        """Return times in microseconds. Raises DataError with file and row for one that is missing or cannot be read."""
        where, name = reader.file.path, self.pivot.time
        try:
            times = as_times(column, name, self.time_format)
        except BadCell as error:
            raise DataError(f"{where} row {row + error.row + 1:,}: {error.problem}. Correct it, or give --time-format.") from None
        if not (pa.types.is_timestamp(times.type) or pa.types.is_date(times.type)):
            raise DataError(f"column {quote(name)} of {where} is {times.type}, which holds no times. Name the unit with --time-format.")
        if times.null_count:
            index = pc.index(pc.is_null(times), pa.scalar(value=True)).as_py()
            raise DataError(f"{where} row {row + index + 1:,} has no time in column {quote(name)}. Leave such rows out.")
        plain = times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False)
        return np.asarray(plain.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)

    def _in_order(self) -> Iterator[Samples]:
        """Yield all samples in time order; a table that is not in order is held in memory."""
        known = Tags(code=dict(self.tags.code))
        parts = (samples for reader in self.readers for samples, _ in self._read(reader, known, 0))
        if self.tags.falls:
            whole = joined(list(parts))
            yield whole.take(np.argsort(whole.time, kind="stable"))
        else:
            yield from parts

    def _wide(self) -> Iterator[pa.RecordBatch]:
        """Yield the wide rows; samples of the last row wait for the next ones, which may belong to it."""
        held = Held(count=len(self.tags.code), pivot=self.pivot, tags=self.tags)
        waiting: list[Samples] = []
        step = max(1024, CELLS // len(self.tags.code))
        for part in self._in_order():
            for first in range(0, len(part.time), step):
                samples = joined([*waiting, part.slice(first, first + step)])
                stamps = held.stamps(samples.time)
                last = int(np.searchsorted(stamps, stamps[-1]))
                yield from self._batch(held, samples.slice(0, last))
                waiting = [samples.slice(last, len(stamps))]
        yield from self._batch(held, joined(waiting))

    def _batch(self, held: "Held", samples: Samples) -> Iterator[pa.RecordBatch]:
        if not len(samples.time):
            return
        stamps, columns = held.rows(samples)
        arrays = [pa.array(stamps, pa.timestamp("us")).cast(self.schema.field(0).type)]
        for name, kind in zip(self.schema.names[1:], self.schema.types[1:], strict=True):
            code = self.tags.code.get(name)
            arrays.append(pa.nulls(len(stamps), kind) if code is None else as_kind(columns[code], kind))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        begin = int(np.searchsorted(stamps, held.stamps(np.array([self.tags.start]))[0]))
        if begin < len(stamps):
            yield batch.slice(begin)


def _codes(names: pa.Array, tags: Tags, known: NDArray[np.bool_]) -> _Ints:
    encoded = names.dictionary_encode()
    code = np.array([tags.code.setdefault(name, len(tags.code)) for name in encoded.dictionary.to_pylist()], dtype=np.int64)
    index = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return code[index] if len(code) else np.zeros(len(known), dtype=np.int64)


def _unit(unit: int, every: int) -> int:
    while unit > 1 and every % unit:
        unit //= 1000
    return unit


def _stamp(time: int) -> str:
    return str(np.datetime64(time, "us").astype("datetime64[s]")).replace("T", " ")


def reshaped(readers: Sequence[Reader], reading: Reading, *, keep: Collection[str], expected: Collection[str]) -> tuple[Reader, ...]:
    """Return the readers of the table that ``reading`` makes of these files by ``--pivot`` and ``--quality-column``.

    Values of the columns ``keep`` are never masked; ``expected`` are the columns of a model. Raises ConfigError, DataError.
    """
    if not reading.pivot:
        pattern = reading.quality_column or ""
        return tuple(
            MaskedTable(inner=r, pairs=quality_pairs(r.names, pattern), good=reading.good_quality, keep=frozenset(keep)) for r in readers
        )
    if reading.on_error != "stop":
        raise ConfigError(
            f"--pivot makes one row of several; malformed ones cannot be left out. Give --on-error stop, not {reading.on_error}."
        )
    pivot, quality = parse_pivot(reading.pivot), reading.quality_column
    for reader in readers:
        wanted = [pivot.tag, pivot.value, pivot.time, *([quality] if quality else [])]
        absent = [name for name in wanted if name not in reader.names]
        if absent:
            options = "--pivot and --quality-column name" if quality else "--pivot names"
            hint = " Is it a table with one column a tag? Then give --pivot ''." if set(expected) <= set(reader.names) and expected else ""
            raise ConfigError(f"{options} columns that {reader.file.path} lacks: {absent_text(absent, reader.names)}{hint}")
    whole = PivotedTable(
        readers=tuple(readers), pivot=pivot, missing=reading.missing_values, time_format=reading.time_format,
        quality=quality, good=reading.good_quality, expected=tuple(expected),
    )  # fmt: skip
    return (whole, *(FurtherFile(inner=reader, whole=whole) for reader in readers[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherFile:
    """A further file of a pivoted table, whose rows are among those of the first."""

    inner: Reader
    whole: PivotedTable

    @property
    def file(self) -> TableFile:
        """The file."""
        return replace(self.inner.file, partition=())

    @property
    def rows(self) -> int | None:
        """No row of its own."""
        return 0

    @property
    def schema(self) -> pa.Schema:
        """The columns of the pivoted table."""
        return self.whole.schema

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return self.whole.names

    @property
    def notes(self) -> tuple[str, ...]:
        """None: those of the first file are for all."""
        return ()

    def estimated_size(self) -> SizeEstimate:
        """No rows."""
        return SizeEstimate(rows=0.0, row_bytes=0.0)

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[pa.RecordBatch]:
        """Yield nothing."""
        del missing, on_bad
        yield from ()

    pick = staticmethod(PivotedTable.pick)
    count = staticmethod(PivotedTable.count)

    def table(self, pieces: list[pa.RecordBatch], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return an empty table."""
        return self.whole.table(pieces, missing=missing, text=text)

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield nothing."""
        del columns, chunk, screened
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedTable:
    """Reader of a file whose values are missing where their quality is not good; ``pairs``: quality column → columns that it qualifies."""

    inner: Reader
    pairs: Mapping[str, tuple[str, ...]]
    good: tuple[str, ...]
    keep: frozenset[str]

    @property
    def file(self) -> TableFile:
        """The file."""
        return self.inner.file

    @property
    def rows(self) -> int | None:
        """Number of rows; None if only reading tells."""
        return self.inner.rows

    @property
    def schema(self) -> pa.Schema:
        """The columns without those of the quality."""
        return pa.schema([field for field in self.inner.schema if field.name not in self.pairs])

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name in self.inner.names if name not in self.pairs)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user on how the file is read."""
        return self.inner.notes

    def estimated_size(self) -> SizeEstimate:
        """Estimate the size of the table from the beginning of the file."""
        return self.inner.estimated_size()

    def pieces(self, *, missing: Sequence[str], on_bad: OnBad | None = None) -> Iterator[Any]:
        """Yield all rows, with the columns of the quality."""
        return self.inner.pieces(missing=missing, on_bad=on_bad)

    def pick(self, piece: Any, indices: NDArray[Any]) -> Any:
        """Return the rows of a piece at ``indices``."""
        return self.inner.pick(piece, indices)

    def count(self, piece: Any) -> int:
        """Return the number of rows of a piece."""
        return self.inner.count(piece)

    def table(self, pieces: list[Any], *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return the table of these pieces, masked."""
        table = self.inner.table(pieces, missing=missing, text=text)
        columns = {name: table[name] for name in table.column_names}
        for quality, qualified in self.pairs.items():
            good = good_values(table[quality].combine_chunks(), self.good)
            if len(good) and not pc.any(good).as_py():
                raise none_good(self.file.path, quality, table[quality])
            for name in {*qualified} - self.keep - self.pairs.keys():
                columns[name] = pc.if_else(good, columns[name], pa.scalar(None, columns[name].type))
        return pa.table({name: columns[name] for name in self.names})

    def stream(self, columns: ColumnSelection, chunk: Chunk, *, screened: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the selected columns batch by batch; those of a model are masked, ``raw`` ones are not."""
        model = {*columns.numeric, *columns.text}
        needed = [quality for quality, qualified in self.pairs.items() if model.intersection(qualified)]
        selection = replace(columns, raw=[*columns.raw, *needed])
        for batch in self.inner.stream(selection, chunk, screened=screened):
            arrays = {name: batch.column(name) for name in batch.schema.names}
            for quality in needed:
                good = good_values(arrays[quality], self.good)
                for name in model.intersection(self.pairs[quality]):
                    arrays[name] = pc.if_else(good, arrays[name], pa.scalar(None, arrays[name].type))
            kept = [name for name in batch.schema.names if name not in needed]
            yield pa.RecordBatch.from_arrays([arrays[name] for name in kept], names=kept)
