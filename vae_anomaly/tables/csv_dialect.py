"""How a delimited file is written: encoding, delimiter, decimal sign, header, found out from its beginning.

Knows nothing about types and missing values, and reads no row beyond the beginning (a small file's encoding apart).
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import pyarrow as pa

from vae_anomaly.errors import ConfigError, DataError
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.listing import CODECS, reading
from vae_anomaly.tables.columns import NO_HEADER
from vae_anomaly.tables.files import TableFile

MAX_RECORD_BYTES = 64 << 20  # bytes a record may have
# In a file with decimal commas '1.023' may be a thousand or one: nobody but its author knows.
THOUSANDS = r"^\s*[+-]?[1-9]\d{0,2}(?:\.\d{3})+\s*$"
COMMA_NUMBER = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"

_HEAD = 1 << 20  # bytes looked at; more only if a header and two records do not fit
_LOOK = 4 << 20  # bytes that hold the header, and characters in which the delimiter is looked for
_BLOCK = 1 << 20  # bytes parsed at a time: Arrow's default, and as fast as any larger one
_WHOLE_SCAN = 64 << 20  # up to this size the encoding is checked to the last byte
_RECORDS = 30  # records looked at for the delimiter
_NUMBERS = 2000  # records looked at for the decimal sign: the first hundreds may hold whole numbers only
_DATA = re.compile(r"[+-]?\d+[.,]\d+(?:[eE][+-]?\d+)?|\d{4}-\d\d-\d\d(?:[T ].*)?")  # numbers alone may be names: of years, of channels
_DELIMITERS = "\t;|,"
_CHANCE = 20  # one character in so many of another encoding may look like UTF-8
_ESCAPED = re.compile("[\udc80-\udcff]")
_FOREIGN = re.compile("[^\0-\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a file is written; ``skip`` are blank lines before the header, ``block`` bytes that hold several records."""

    names: tuple[str, ...]
    delimiter: str
    decimal: str
    encoding: str
    skip: int
    block: int
    notes: tuple[str, ...] = ()


def sniff(file: TableFile, *, delimiter: str | None = None, encoding: str | None = None) -> Dialect:
    """Find out what is not given from the first megabyte.

    Raises
    ------
    DataError
        Binary content, no rows below the header, or two columns of one name.
    ConfigError
        ``encoding`` is not known.
    """
    head, whole = _head(file)
    # An encoding that was found may have damaged rows, which are for the reader to name; one that was given must fit.
    errors = "strict" if encoding else "replace"
    encoding, notes = (encoding, ()) if encoding else _encoding(file, head, whole=whole)
    content = _decoded(head, encoding, file.path, errors)
    if not whole and content.count("\n") > 2:  # noqa: PLR2004
        # The last line is cut, and a cut one has too few cells.
        content = content[: content.rfind("\n") + 1] or content
    skip = _blank_lines(content)
    content = "".join(content.splitlines(keepends=True)[skip:])
    delimiter = delimiter or ("\t" if ".tsv" in PurePosixPath(file.location.lower()).suffixes else _delimiter(content[:_LOOK]))
    records = list(islice(_records(content[:_LOOK], delimiter), _NUMBERS))
    if len(records) < 2:  # noqa: PLR2004
        raise DataError(f"{file.path} has {'a header but no rows' if records else 'nothing but blank lines'}; expected a header and rows.")
    names = tuple(name.strip() for name in records[0])
    _check_header(names, file.path)
    if sum(bool(_DATA.fullmatch(name)) for name in names) > len(names) / 2:
        notes = (*notes, f"{file.path}: the first line is taken for the names of the columns, and looks like data: {', '.join(names)[:60]}")
    return Dialect(
        names=names,
        delimiter=delimiter,
        decimal=_decimal(records[1:], delimiter),
        encoding=encoding,
        skip=skip,
        block=min(MAX_RECORD_BYTES, max(_BLOCK, 16 * len(content) // len(records))),
        notes=notes,
    )


def open_text(file: TableFile) -> pa.NativeFile:
    """Open the bytes of a file for reading, decompressed if its name says it is compressed."""
    # Arrow goes by the ending too, in small letters only.
    kind = CODECS.get(PurePosixPath(file.location).suffix.lower(), "detect")
    return file.filesystem.open_input_stream(file.location, compression=kind)


def _head(file: TableFile) -> tuple[bytes, bool]:
    """Return the beginning of the file and whether that is all of it."""
    head = b""
    with reading(file.path), open_text(file) as stream:
        while len(head) < MAX_RECORD_BYTES and (not head or head.count(b"\n") < 3):  # noqa: PLR2004
            piece = stream.read(_HEAD)
            if not piece:
                return head, True
            head += piece
            if len(head) > _LOOK and not re.search(rb"[\r\n]", head):
                raise DataError(f"{file.path} has no line end in its first {_LOOK >> 20} MB; expected a header and rows.")
        return head, not stream.read(1)


def _encoding(file: TableFile, head: bytes, *, whole: bool) -> tuple[str, tuple[str, ...]]:
    """Return the encoding and what the user should know about the choice."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", ()
    for zeros, others, name in ((head[1::2], head[::2], "utf-16-le"), (head[::2], head[1::2], "utf-16-be")):
        # Text in Latin letters has a zero in nearly every second byte, and there only: what a lost power supply leaves is all zeros.
        if zeros and zeros.count(0) > len(zeros) / 2 > 2 * others.count(0):
            return name, (f"{file.path} is read as UTF-16 without a byte-order mark",)
    if b"\0" in re.split(rb"[\r\n]", head.lstrip(b"\r\n"), maxsplit=1)[0]:
        raise DataError(f"{file.path} is not a table that can be read: it holds binary content. Expected CSV, Parquet or Arrow.")
    if _is_utf8(file, head, whole=whole):
        return "utf-8", ()
    western = "cp1252" if _decodes(head, "cp1252") else "latin-1"
    return western, (f"{file.path} is not UTF-8 and is read as {western}",)


def _is_utf8(file: TableFile, head: bytes, *, whole: bool) -> bool:
    """Look at the whole of a small file: its first umlaut may stand anywhere.

    Where some characters are UTF-8 and some are not, the file is of two encodings, and the rows that are not are damaged. A few that
    look like UTF-8 are chance: É» is one character there.
    """
    good, bad = _beyond_ascii(head, codecs.getincrementaldecoder("utf-8")("surrogateescape"), final=whole)
    if whole or good or bad or file.size > _WHOLE_SCAN:
        return good * _CHANCE >= bad
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with reading(file.path), open_text(file) as stream:
        # Of a small file that unpacks to a large one, no more than of a large one.
        for piece in islice(iter(lambda: stream.read(_HEAD), b""), _WHOLE_SCAN // _HEAD):
            more = _beyond_ascii(piece, decoder)
            good, bad = good + more[0], bad + more[1]
        rest = _beyond_ascii(b"", decoder, final=not stream.read(1))
    return (good + rest[0]) * _CHANCE >= bad + rest[1]


def _beyond_ascii(piece: bytes, decoder: codecs.IncrementalDecoder, *, final: bool = False) -> tuple[int, int]:
    """Count the characters beyond ASCII that are UTF-8, and the bytes that are not; a begun one in the final piece is none."""
    text = decoder.decode(piece, final)
    if text.isascii():
        return 0, 0
    bad = len(_ESCAPED.findall(text))
    return len(_FOREIGN.findall(text)) - bad, bad


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(head: bytes, encoding: str, path: str, errors: str) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)(errors).decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding} text: {error.reason} at byte {error.start:,}. Name another encoding.") from error
    except LookupError:
        raise ConfigError(f"encoding {encoding!r} is not known; expected for instance utf-8, utf-16 or cp1252.") from None


def _records(content: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the records that are not blank; Python's reader gives up at a cell that is larger than 128 kB."""
    try:
        yield from (r for r in csv.reader(io.StringIO(content, newline=""), delimiter=delimiter) if r)
    except csv.Error:
        yield from (line.split(delimiter) for line in content.splitlines() if line)


def _delimiter(content: str) -> str:
    """Return the delimiter that is in the header and cuts most records into as many cells, and into most cells."""

    def fit(delimiter: str) -> tuple[float, float]:
        records = list(islice(_records(content, delimiter), _RECORDS))
        width = len(records[0]) if records else 0
        share = sum(len(r) == width for r in records) / len(records) if width > 1 else 0.0
        # 'Druck, bar;Temp, °C' over '1,5;20,5' has one more comma than columns; a true comma has the field to itself.
        return share, width / 2 if delimiter == "," else width

    best = max(_DELIMITERS, key=fit)
    return best if fit(best)[0] > 0 else ","


def _decimal(records: list[list[str]], delimiter: str) -> str:
    """Return ',' if more numbers are written with it than with a point; never where it separates the cells."""
    if delimiter == ",":
        return "."
    cells = [cell for record in records for cell in record]
    commas = sum("," in c and bool(re.match(COMMA_NUMBER, c)) for c in cells)
    points = sum("." in c and bool(re.match(COMMA_NUMBER.replace(",", r"\.", 1), c)) for c in cells)
    return "," if commas > points else "."


def _blank_lines(content: str) -> int:
    """Count the blank lines before the header."""
    lines = content.splitlines()
    return next((i for i, line in enumerate(lines) if line.strip()), len(lines))


def _check_header(names: tuple[str, ...], path: str) -> None:
    try:
        check_duplicates(names, path)
    except DataError as error:
        numbers = sum(bool(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?|\?|", n)) for n in names)
        hint = f" {NO_HEADER}" if numbers > 1 else ""
        raise DataError(f"{error}{hint}") from None
