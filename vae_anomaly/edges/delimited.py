"""CSV and its relatives: find out the dialect, read whole with types, or stream with the types of a model.

Missing cells are empty ones, ``NA``, ``N/A``, ``NaN``, ``nan``, ``null``, ``NULL``, ``#N/A`` and what the user declares; ``None``
and ``n/a`` are text unless declared. Knows nothing about models: the caller says which columns are numbers.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from vae_anomaly.core.schema import check_duplicates
from vae_anomaly.edges.files import TableFile, one_line, reading
from vae_anomaly.errors import DataError

MISSING_TEXT = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "#N/A")

_HEAD = 1 << 20  # bytes looked at for the dialect
_BLOCK = 1 << 20  # bytes read at a time; Arrow's default, and as fast as any larger one
_WHOLE_SCAN = 64 << 20  # up to this size the encoding is checked to the last byte
_RECORDS = 30  # records looked at for the delimiter
_DELIMITERS = ",;\t|"
# Unambiguous spellings only: a day and a month that can be swapped would be guessed.
_TIMES = [pacsv.ISO8601, "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DelimitedTable:
    """A delimited file whose dialect is known."""

    file: TableFile
    names: tuple[str, ...]
    delimiter: str
    decimal: str
    encoding: str
    skip: int  # blank lines before the header
    block: int  # bytes; at least the longest record seen, several times
    notes: tuple[str, ...] = ()

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
            timestamp_parsers=_TIMES,
            decimal_point=self.decimal,
            column_types=dict.fromkeys(text, pa.string()),
        )
        with reading(self.file.path), self._stream() as stream, self._parsing():
            table = pacsv.read_csv(stream, self._read_options(threads=True), self._parse_options(), convert)
        broken = [f.name for f in table.schema if pa.types.is_binary(f.type)]
        if broken:
            raise DataError(f"{self.file.path} column {broken[0]!r} is not {self.encoding} text. Save the file as UTF-8.")
        return table

    def stream(
        self, *, numeric: Sequence[str], text: Sequence[str], raw: Sequence[str], missing: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches in file order with the named columns: ``numeric`` as float64, the others as ``string``.

        ``raw`` columns keep every text, also one that means 'missing'. Should a cell of a numeric column not parse, the
        numeric columns of that and all later batches are ``string``, for the caller to find the cell.
        """
        done = 0
        try:
            for batch in self._batches(numeric, [*text, *raw], missing, threads=True):
                yield _blanked(batch, text=text, raw=raw, missing=missing)
                done += batch.num_rows
        except pa.ArrowInvalid:
            pass
        else:
            return
        with self._parsing():
            for batch in _after(self._batches([], [*numeric, *text, *raw], missing, threads=False), done):
                yield _blanked(self._dotted(batch, numeric), text=[*numeric, *text], raw=raw, missing=missing)

    def _batches(self, numeric: Sequence[str], text: Sequence[str], missing: Sequence[str], *, threads: bool) -> Iterator[pa.RecordBatch]:
        types = {**dict.fromkeys(numeric, pa.float64()), **dict.fromkeys(text, pa.string())}
        convert = pacsv.ConvertOptions(
            null_values=[*MISSING_TEXT, *missing],
            strings_can_be_null=False,
            decimal_point=self.decimal,
            column_types=types,
            include_columns=list(types),
        )
        with reading(self.file.path), self._stream() as stream:
            yield from pacsv.open_csv(stream, self._read_options(threads=threads), self._parse_options(), convert)

    def _dotted(self, batch: pa.RecordBatch, numeric: Sequence[str]) -> pa.RecordBatch:
        """Write decimal commas as points, as the number parser wants them."""
        if self.decimal == ".":
            return batch
        arrays = [pc.replace_substring(batch.column(n), self.decimal, ".") if n in numeric else batch.column(n) for n in batch.schema.names]
        return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)

    def _stream(self) -> pa.NativeFile:
        return _open(self.file)

    def _read_options(self, *, threads: bool) -> pacsv.ReadOptions:
        return pacsv.ReadOptions(
            use_threads=threads,
            block_size=self.block,
            skip_rows=self.skip,
            column_names=list(self.names),
            skip_rows_after_names=1,
            encoding=self.encoding,
        )

    def _parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)

    def _parsing(self) -> "_Parsing":
        return _Parsing(self.file.path)


class _Parsing:
    """Turn Arrow's words about a malformed file into ours; a context manager."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Watch."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Translate ArrowInvalid."""
        if not isinstance(error, pa.ArrowInvalid):
            return
        said = one_line(error)
        ragged = re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+): ?(.*)", said)
        if ragged:
            line = f" line {int(ragged[1]):,}" if ragged[1] else ""
            raise DataError(
                f"{self.path}{line} has {ragged[3]} cells, expected {ragged[2]} as in the header: {ragged[4][:80]!r}. Correct that line."
            ) from error
        raise DataError(f"{self.path} cannot be read as delimited text: {said}") from error


def sniff(file: TableFile, *, delimiter: str | None = None, encoding: str | None = None) -> DelimitedTable:
    """Find out encoding, delimiter, decimal sign and names from the first megabyte.

    Raises
    ------
    DataError
        Binary content, no rows below the header, or two columns of one name.
    """
    with reading(file.path), _open(file) as stream:
        head = stream.read(_HEAD)
    whole = len(head) < _HEAD
    encoding, notes = (encoding, ()) if encoding else _encoding(file, head, whole=whole)
    content = _text(head, encoding, file.path)
    if not whole and "\n" in content:
        content = content[: content.rindex("\n") + 1]
    delimiter = delimiter or ("\t" if ".tsv" in file.location.lower() else _delimiter(content))
    records = _records(content, delimiter)
    if len(records) < 2 and whole:  # noqa: PLR2004
        raise DataError(f"{file.path} has " + ("a header but no rows." if records else "no content but blank lines."))
    names = tuple(name.strip() for name in records[0])
    _check_header(names, file.path)
    return DelimitedTable(
        file=file,
        names=names,
        delimiter=delimiter,
        decimal=_decimal(records[1:], delimiter),
        encoding=encoding,
        skip=len(re.match(r"(?:[ \t]*\r?\n)*", content)[0].splitlines()),  # type: ignore[index]
        block=max(_BLOCK, 16 * len(content) // max(1, len(records))) if len(records) < _RECORDS else _BLOCK,
        notes=notes,
    )


def _open(file: TableFile) -> pa.NativeFile:
    return file.filesystem.open_input_stream(file.location, compression="detect")


def _encoding(file: TableFile, head: bytes, *, whole: bool) -> tuple[str, tuple[str, ...]]:
    """Return the encoding and what the user should know about the choice."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", ()
    if len(head) > 1 and head[1::2].count(0) > len(head) / 4:
        return "utf-16-le", (f"{file.path} is read as UTF-16 without a byte-order mark",)
    if b"\0" in head:
        raise DataError(f"{file.path} is not a table that can be read: binary content. Expected CSV, Parquet or Arrow.")
    if _is_utf8(file, head, whole=whole):
        return "utf-8", ()
    western = "cp1252" if _decodes(head, "cp1252") else "latin-1"
    return western, (f"{file.path} is not UTF-8 and is read as {western}",)


def _is_utf8(file: TableFile, head: bytes, *, whole: bool) -> bool:
    """Look at the whole of a small file: the first umlaut may stand anywhere."""
    if not _decodes(head, "utf-8"):
        return False
    if whole or not head.isascii() or file.size > _WHOLE_SCAN:
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    with reading(file.path), _open(file) as stream:
        try:
            while piece := stream.read(_HEAD):
                decoder.decode(piece)
        except UnicodeDecodeError:
            return False
    return True


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _text(head: bytes, encoding: str, path: str) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding} text: {error.reason} at byte {error.start:,}.") from error
    except LookupError:
        raise DataError(f"encoding {encoding!r} is not known; expected for instance utf-8, utf-16 or cp1252.") from None


def _records(content: str, delimiter: str) -> list[list[str]]:
    """Return the first records that are not blank."""
    try:
        return list(islice((r for r in csv.reader(io.StringIO(content, newline=""), delimiter=delimiter) if r), _RECORDS))
    except csv.Error:
        return [line.split(delimiter) for line in content.splitlines()[:_RECORDS] if line]


def _delimiter(content: str) -> str:
    """Return the delimiter that cuts most records into as many cells as the header, and into most cells."""

    def fit(delimiter: str) -> tuple[float, int]:
        records = _records(content, delimiter)
        width = len(records[0]) if records else 0
        return (sum(len(r) == width for r in records) / len(records), width) if width > 1 else (0.0, 0)

    return max(_DELIMITERS, key=fit)


def _decimal(records: list[list[str]], delimiter: str) -> str:
    """Return ',' if numbers are written with it; never where it separates the cells."""
    cells = [cell for record in records for cell in record]
    commas = sum(bool(re.fullmatch(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*", c)) for c in cells)
    points = sum(bool(re.fullmatch(r"\s*[+-]?\d+\.\d+(?:[eE][+-]?\d+)?\s*", c)) for c in cells)
    return "," if delimiter != "," and commas > points else "."


def _check_header(names: tuple[str, ...], path: str) -> None:
    try:
        check_duplicates(names, path)
    except DataError as error:
        numbers = sum(bool(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?|\?|", n)) for n in names)
        hint = " Its first line does not look like a header; put column names there." if numbers > 1 else ""
        raise DataError(f"{error}{hint}") from None


def _blanked(batch: pa.RecordBatch, *, text: Sequence[str], raw: Sequence[str], missing: Sequence[str]) -> pa.RecordBatch:
    """Make missing cells of text columns null; in ``raw`` columns only empty ones."""
    tokens = pa.array([*MISSING_TEXT, *missing])
    empty = pa.array([""])
    sets = {**dict.fromkeys(raw, empty), **dict.fromkeys(text, tokens)}
    arrays = [
        pc.if_else(pc.is_in(batch.column(n), sets[n]), None, batch.column(n)) if n in sets else batch.column(n) for n in batch.schema.names
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _after(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Leave out the first ``rows`` rows."""
    for batch in batches:
        if batch.num_rows > rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)
