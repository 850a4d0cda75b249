"""CSV and its relatives: all rows with types found out, or a stream with the types of a model.

Missing cells are empty ones, ``NA``, ``N/A``, ``NaN``, ``nan``, ``null``, ``NULL``, ``#N/A`` and what the user declares; ``None``
and ``n/a`` are text unless declared. Knows nothing about models: the caller says which columns are numbers.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from vae_anomaly.core.cells import TIME_FORMATS, blanked, not_numbers, numbers
from vae_anomaly.edges.dialect import COMMA_NUMBER, LONGEST, Dialect, open_text
from vae_anomaly.edges.files import TableFile, one_line, reading
from vae_anomaly.errors import DataError

MISSING_TEXT = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "#N/A")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedTable:
    """A delimited file whose dialect is known."""

    file: TableFile
    dialect: Dialect

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

    def read(self, *, missing: Sequence[str], text: Collection[str] = ()) -> pa.Table:
        """Return all rows; a column is numeric (or a time) if every cell that is not missing parses, else text, as are ``text``."""
        convert = pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=True,
            true_values=[],  # true and yes stay text, so that their spelling is kept
            false_values=[],
            timestamp_parsers=[pacsv.ISO8601, *TIME_FORMATS],
            decimal_point=self.dialect.decimal,
            column_types=dict.fromkeys(text, pa.string()),
        )
        table = self._read(convert)
        broken = [f.name for f in table.schema if pa.types.is_binary(f.type)]
        if broken:
            raise DataError(f"{self.file.path} column {broken[0]!r} is not {self.dialect.encoding} text. Save the file as UTF-8.")
        table = table if self.dialect.decimal == "." else _pointed(table, text)
        return pa.Table.from_arrays([blanked(c, missing) for c in table.columns], names=list(self.names))

    def _read(self, convert: pacsv.ConvertOptions) -> pa.Table:
        try:
            with reading(self.file.path), open_text(self.file) as stream:
                return pacsv.read_csv(stream, self._read_options(careful=False), self._parse_options(), convert)
        except (pa.ArrowInvalid, UnicodeError):
            with _parsing(self.file.path), reading(self.file.path), open_text(self.file) as stream:
                return pacsv.read_csv(stream, self._read_options(careful=True), self._parse_options(), convert)

    def stream(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str], chunk: object = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches in file order with the named columns: ``numeric`` as float64, the others as ``string``.

        ``raw`` columns keep every text, also one that means 'missing'. A numeric column with a cell that is no number is ``string``
        in that batch, for the caller to say where. Batches are blocks of text, whatever ``chunk`` allows.
        """
        del chunk
        done = 0
        try:
            for batch in self._batches(numeric, [*text, *raw], missing, careful=False):
                yield _finished(batch, numeric=numeric, text=text, missing=missing)
                done += batch.num_rows
        except (pa.ArrowInvalid, UnicodeError):
            pass
        else:
            return
        with _parsing(self.file.path):
            for batch in _after(self._batches([], [*numeric, *text, *raw], missing, careful=True), done):
                yield _finished(batch, numeric=numeric, text=text, missing=missing, decimal=self.dialect.decimal)

    def _batches(self, numeric: Sequence[str], text: Sequence[str], missing: Sequence[str], *, careful: bool) -> Iterator[pa.RecordBatch]:
        types = {**dict.fromkeys(numeric, pa.float64()), **dict.fromkeys(text, pa.string())}
        convert = pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=False,
            decimal_point=self.dialect.decimal,
            column_types=types,
            include_columns=list(types),
        )
        with reading(self.file.path), open_text(self.file) as stream:
            yield from pacsv.open_csv(stream, self._read_options(careful=careful), self._parse_options(), convert)

    def _read_options(self, *, careful: bool) -> pacsv.ReadOptions:
        """Carefully: without threads, because only then Arrow says which row is wrong, and ready for the longest record."""
        return pacsv.ReadOptions(
            use_threads=not careful,
            block_size=LONGEST if careful else self.dialect.block,
            skip_rows=self.dialect.skip,
            column_names=list(self.names),
            skip_rows_after_names=1,
            encoding=self.dialect.encoding,
        )

    def _parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(delimiter=self.dialect.delimiter, newlines_in_values=True)


@contextmanager
def _parsing(path: str) -> Iterator[None]:
    """Turn Arrow's words about a malformed file into ours; Arrow counts the header as row 1, we do not."""
    try:
        yield
    except (pa.ArrowInvalid, UnicodeError) as error:
        said = one_line(error)
        row = f" row {int(m[1]) - 1:,}" if (m := re.search(r"Row #(\d+)", said)) else ""
        if ragged := re.search(r"Expected (\d+) columns, got (\d+): ?(.*)", said):
            raise DataError(
                f"{path}{row} has {ragged[2]} cells, expected {ragged[1]} as in the header: {ragged[3][:80]!r}. Correct that row."
            ) from error
        if "UTF8" in said or isinstance(error, UnicodeError):
            raise DataError(f"{path}{row} is not in the encoding of the rows before it. Save the file as UTF-8.") from error
        if "straddl" in said:
            raise DataError(f"{path} has a row longer than {LONGEST >> 20} MB. Is a quote left open?") from error
        raise DataError(f"{path}{row} cannot be read as delimited text: {said}") from error


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
    """Return numbers if every cell is one; otherwise the text as it stands in the file."""
    pointed = text if decimal == "." else _points(text)
    return text if pc.any(not_numbers(pointed)).as_py() else numbers(pointed)


def _points(text: pa.Array) -> pa.Array:
    """Write decimal commas as points, as the number parser wants them."""
    return pc.replace_substring_regex(text, COMMA_NUMBER, r"\1.\2")


def _pointed(table: pa.Table, text: Collection[str]) -> pa.Table:
    """Read text columns of a file with decimal commas as numbers if every cell is one, with a comma or a point."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name not in text:
            values = _points(table.column(i))
            if not pc.any(not_numbers(values)).as_py():
                table = table.set_column(i, field.name, numbers(values))
    return table


def _after(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Leave out the first ``rows`` rows."""
    for batch in batches:
        if batch.num_rows > rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)
