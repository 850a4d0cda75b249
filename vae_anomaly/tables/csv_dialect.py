"""Infer the dialect of a delimited file from its beginning: encoding, delimiter, decimal sign, header.

Column types and missing values are not decided here. Rows beyond the beginning are not read, except to check the encoding of a small file.
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

from vae_anomaly.errors import DataError
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.storage.listing import CODECS
from vae_anomaly.tables.files import NO_HEADER, TableFile

# A longer record is malformed; it bounds the memory that an unclosed quote takes.
MAX_RECORD_BYTES = 64 << 20
# In a file with decimal commas '1.023' may be a thousand or one.
THOUSANDS = r"^\s*[+-]?[1-9]\d{0,2}(?:\.\d{3})+\s*$"
COMMA_NUMBER = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"

# Bytes read at a time until a header and two records are complete.
_HEAD = 1 << 20
# Bytes in which a first line must end, and characters in which the delimiter is searched.
_LOOK = 4 << 20
# Bytes parsed at a time: Arrow's default, and as fast as any larger number.
_BLOCK = 1 << 20
# Up to this size the encoding is checked to the last byte.
_WHOLE_SCAN = 64 << 20
# Records from which the delimiter is inferred.
_DELIMITER_RECORDS = 30
# Records from which the decimal sign is inferred: the first hundreds may have whole numbers only.
_DECIMAL_RECORDS = 2000
# A number with decimals, or a date; whole numbers alone may be names, of years or channels.
_DATA = re.compile(r"[+-]?\d+[.,]\d+(?:[eE][+-]?\d+)?|\d{4}-\d\d-\d\d(?:[T ].*)?")
_DELIMITERS = "\t;|,"
# In another encoding, one in this many non-ASCII characters may look like UTF-8 by chance.
_CHANCE = 20
# Bytes that are not UTF-8, as the error handler surrogateescape decodes them.
_INVALID_BYTE = re.compile("[\udc80-\udcff]")
_NON_ASCII = re.compile("[^\0-\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a delimited file is written.

    ``skip``: blank lines before the header. ``block``: bytes to parse at a time, enough for several records. ``notes``: remarks for the
    user.
    """

    names: tuple[str, ...]
    delimiter: str
    decimal: str
    encoding: str
    skip: int
    block: int
    notes: tuple[str, ...] = ()


def sniff(file: TableFile) -> Dialect:
    """Infer the dialect from the first megabyte of a file.

    Raises
    ------
    DataError
        Binary content, no rows below the header, or two columns of the same name.
    """
    head, whole = _head(file)
    encoding, notes = _encoding(file, head, whole=whole)
    # Undecodable bytes may be in malformed rows, which the reader will report.
    content = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    if not whole and content.count("\n") > 2:  # noqa: PLR2004
        # The last line of the sample may be truncated, and would have too few cells.
        content = content[: content.rfind("\n") + 1] or content
    skip = _blank_lines(content)
    content = "".join(content.splitlines(keepends=True)[skip:])
    tabs = ".tsv" in PurePosixPath(file.listed.location.lower()).suffixes
    delimiter = "\t" if tabs else _delimiter(content[:_LOOK])
    records = list(islice(_records(content[:_LOOK], delimiter), _DECIMAL_RECORDS))
    if len(records) < 2:  # noqa: PLR2004
        raise DataError(f"{file.path} has {'a header but no rows' if records else 'nothing but blank lines'}; expected a header and rows.")
    names = tuple(name.strip() for name in records[0])
    _check_header(names, file.path)
    if sum(bool(_DATA.fullmatch(name)) for name in names) > len(names) / 2:
        notes = (*notes, f"{file.path}: the first line is taken for the header but looks like data: {', '.join(names)[:60]}")
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
    """Open a file for reading; decompress it if its suffix is one of a compression."""
    # Arrow detects suffixes in small letters only.
    codec = CODECS.get(PurePosixPath(file.listed.location).suffix.lower(), "detect")
    return file.listed.filesystem.open_input_stream(file.listed.location, compression=codec)


def _head(file: TableFile) -> tuple[bytes, bool]:
    """Return the beginning of a file and whether that is all of it."""
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
    """Return the encoding and remarks for the user."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", ()
    for zeros, others, name in ((head[1::2], head[::2], "utf-16-le"), (head[::2], head[1::2], "utf-16-be")):
        # Latin text in UTF-16 has a zero in nearly every second byte and nowhere else; a block lost in a power failure is all zeros.
        if zeros and zeros.count(0) > len(zeros) / 2 > 2 * others.count(0):
            return name, (f"{file.path} is read as UTF-16 without a byte-order mark",)
    if b"\0" in re.split(rb"[\r\n]", head.lstrip(b"\r\n"), maxsplit=1)[0]:
        raise DataError(f"{file.path} is binary; expected CSV, Parquet or Arrow.")
    if _is_utf8(file, head, whole=whole):
        return "utf-8", ()
    western = "cp1252" if _decodes(head, "cp1252") else "latin-1"
    return western, (f"{file.path} is not UTF-8 and is read as {western}",)


def _is_utf8(file: TableFile, head: bytes, *, whole: bool) -> bool:
    """Whether a file is UTF-8; a small one is read to its end, as its first umlaut may be anywhere.

    If some characters are UTF-8 and some are not, the file mixes encodings, and rows with the latter are malformed. A few that look like
    UTF-8 are chance: É» in cp1252 is one valid character.
    """
    good, bad = _beyond_ascii(head, codecs.getincrementaldecoder("utf-8")("surrogateescape"), final=whole)
    if whole or good or bad or file.listed.size > _WHOLE_SCAN:
        return good * _CHANCE >= bad
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with reading(file.path), open_text(file) as stream:
        # A small file may decompress to a huge one.
        for piece in islice(iter(lambda: stream.read(_HEAD), b""), _WHOLE_SCAN // _HEAD):
            more = _beyond_ascii(piece, decoder)
            good, bad = good + more[0], bad + more[1]
        rest = _beyond_ascii(b"", decoder, final=not stream.read(1))
    return (good + rest[0]) * _CHANCE >= bad + rest[1]


def _beyond_ascii(piece: bytes, decoder: codecs.IncrementalDecoder, *, final: bool = False) -> tuple[int, int]:
    """Count the non-ASCII characters of a piece of UTF-8 and its invalid bytes; in the final piece an incomplete character is invalid."""
    text = decoder.decode(piece, final)
    if text.isascii():
        return 0, 0
    bad = len(_INVALID_BYTE.findall(text))
    return len(_NON_ASCII.findall(text)) - bad, bad


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _records(content: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the records that are not blank; Python's csv module refuses cells above 128 kB, so lines are split then."""
    try:
        yield from (r for r in csv.reader(io.StringIO(content, newline=""), delimiter=delimiter) if r)
    except csv.Error:
        yield from (line.split(delimiter) for line in content.splitlines() if line)


def _delimiter(content: str) -> str:
    """Return the delimiter of the header by which most records are as wide as the header; of equal ones that with most cells."""

    def fit(delimiter: str) -> tuple[float, float]:
        records = list(islice(_records(content, delimiter), _DELIMITER_RECORDS))
        width = len(records[0]) if records else 0
        share = sum(len(r) == width for r in records) / len(records) if width > 1 else 0.0
        # 'Druck, bar;Temp, °C' over '1,5;20,5' has more commas than semicolons, so a comma must lead clearly.
        return share, width / 2 if delimiter == "," else width

    best = max(_DELIMITERS, key=fit)
    return best if fit(best)[0] > 0 else ","


def _decimal(records: list[list[str]], delimiter: str) -> str:
    """Return ',' if more numbers have a decimal comma than a decimal point and the delimiter is another one, else '.'."""
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
