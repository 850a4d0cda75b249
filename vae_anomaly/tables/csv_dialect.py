"""Infer the dialect of a delimited file from its beginning: encoding, delimiter, decimal sign, header.

Column types and missing values are not decided here. Rows beyond the beginning are not read, except to check the encoding of a small file.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import pyarrow as pa

from vae_anomaly.config import DEFAULT_READING, Reading
from vae_anomaly.errors import DataError
from vae_anomaly.schema.schema import check_duplicates
from vae_anomaly.storage.filesystems import reading
from vae_anomaly.storage.listing import CODECS
from vae_anomaly.tables.csv_head import Export, Line, find_head, kind_of
from vae_anomaly.tables.csv_records import ONE_HEADER, Head
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
_DELIMITERS = "\t;|\x01,"  # the fourth is that of Hive
# Characters at the end of the sample in which its last records are, and their share that decides.
_LAST_TEXT = 1 << 16
_MOST = 0.5
_LINE_END = re.compile(r"\r\n?|\n")
# A first line for Excel, and one that may be a signature of a program.
_EXCEL = re.compile(r'"?sep=(.)"?[ \t,;]*(?=[\r\n])', re.IGNORECASE)
_SIGNATURE = re.compile(r'\s*(?:"?(?:TOA5|TOACI1|TOB[123])"?[,;\t]|"?#|LabVIEW Measurement)')
# In another encoding, one in this many non-ASCII characters may look like UTF-8 by chance.
_CHANCE = 20
# Bytes that are not UTF-8, as the error handler surrogateescape decodes them.
_INVALID_BYTE = re.compile("[\udc80-\udcff]")
_NON_ASCII = re.compile("[^\0-\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a delimited file is written.

    ``names`` of all cells of a row, of which those ``unread`` are no columns. ``block``: bytes to parse at a time, enough for several
    records. ``notes``: remarks for the user.
    """

    names: tuple[str, ...]
    delimiter: str
    decimal: str
    encoding: str
    block: int
    head: Head = ONE_HEADER
    unread: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(name for name in self.names if name not in self.unread) if self.unread else self.names


def sniff(file: TableFile, reading: Reading = DEFAULT_READING) -> Dialect:
    """Infer the dialect from the first megabyte of a file.

    Raises
    ------
    DataError
        Binary content, no rows, two columns of the same name, or a head that is not certain.
    """
    head, whole = _head(file)
    encoding, notes = _encoding(file, head, whole=whole)
    # Undecodable bytes may be in malformed rows, which the reader will report.
    content = codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    if not whole and content.count("\n") > 2:  # noqa: PLR2004
        # The last line of the sample may be truncated, and would have too few cells.
        content = content[: content.rfind("\n") + 1] or content
    delimiter, export = None, None
    excel = _EXCEL.match(content)
    if excel is not None:
        delimiter = excel[1]
    elif reading.header_row is None and not reading.no_header and _SIGNATURE.match(content):
        export = _known_export(content, file.path)
        delimiter = None if export is None else export.delimiter
    above = _lines_above(reading, export, excel=excel is not None)
    sample = _without_lines(content, above, reading, file.path)[:_LOOK]
    if delimiter is None:
        delimiter = "\t" if ".tsv" in PurePosixPath(file.listed.location.lower()).suffixes else _delimiter(sample)
    lines = [Line(number=above + n, cells=cells) for n, cells in _records(sample, delimiter, _DECIMAL_RECORDS)]
    if len(lines) < (1 if reading.no_header else 2):
        raise DataError(f"{file.path} has {'a header but no rows' if lines else 'nothing but blank lines'}; expected a header and rows.")
    found = find_head(lines, reading, file.path, export and export.with_names(delimiter))
    _check_header(found.names, file.path)
    if reading.no_header and above:
        _check_skipped(content[: content.index(sample[:_LAST_TEXT])] if sample else "", delimiter, lines[0].cells, file.path)
    return Dialect(
        names=found.names,
        delimiter=delimiter,
        decimal=_decimal([line.cells for line in lines[1:]], delimiter),
        encoding=encoding,
        block=min(MAX_RECORD_BYTES, max(_BLOCK, 16 * len(sample) // len(lines))),
        head=found.head,
        unread=found.unread,
        notes=(*notes, *found.notes),
    )


def _known_export(content: str, path: str) -> Export | None:
    from vae_anomaly.tables.csv_exports import known_export  # few files have a signature

    return known_export(content, path)


def _check_skipped(text: str, delimiter: str, row: list[str], path: str) -> None:
    """Raise DataError if one of the lines above the first row is a row too."""
    kinds = [kind_of(cell) for cell in row]
    for line, cells in _records(text, delimiter, _DECIMAL_RECORDS):
        if [kind_of(cell) for cell in cells] == kinds and not {"text", "missing"} >= set(kinds):
            raise DataError(f"{path} line {line:,} holds data and is among the lines to skip: give --skip-rows {line - 1} for this file.")


def _lines_above(reading: Reading, export: Export | None, *, excel: bool) -> int:
    """Return the number of lines above the first record to look at."""
    if reading.header_row is not None:
        return reading.header_row - 1
    if export is not None:
        return export.line if export.comments else export.line - 1
    return max(int(excel), reading.skip_rows if reading.no_header else 0)


def _without_lines(content: str, above: int, reading: Reading, path: str) -> str:
    """Return the text below the first lines. Raises DataError if the header is to be there and nothing is."""
    ends = islice(_LINE_END.finditer(content), above)
    rest = content[max((end.end() for end in ends), default=0) :]
    if reading.header_row is not None and (content.count("\n") < above or not re.match(r"[^\S\r\n]*\S", rest)):
        raise DataError(f"{path} has no column names in line {reading.header_row:,}, where --header-row says they are.")
    return rest


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


def _records(content: str, delimiter: str, most: int) -> list[tuple[int, list[str]]]:
    """Return the first records that are not blank, with their first lines, from 1; leading lines of blanks are not records either.

    Python's csv module refuses cells above 128 kB, so lines are split then.
    """
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    records, line = list[tuple[int, list[str]]](), 1
    try:
        for cells in reader:
            if cells and (records or any(cell.strip() for cell in cells)):
                records.append((line, cells))
            line = reader.line_num + 1
            if len(records) == most:
                break
    except csv.Error:
        texts = enumerate(_LINE_END.split(content), 1)
        records = list(islice(((n, text.split(delimiter)) for n, text in texts if text.strip()), most))
    return records


def _delimiter(content: str) -> str:
    """Return the delimiter of the header by which most records are as wide as the header; of equal ones that with most cells.

    Where that is not the width of the last records of the sample, the header is further below, and the last records decide.
    """
    last = "\n".join(_LINE_END.split(content[-_LAST_TEXT:].rstrip("\r\n"))[-_DELIMITER_RECORDS:])

    def widths(delimiter: str, text: str) -> list[int]:
        return [len(cells) for _, cells in _records(text, delimiter, _DELIMITER_RECORDS)]

    def fit(delimiter: str, text: str, width: int) -> tuple[float, float]:
        found = widths(delimiter, text)
        share = found.count(width) / len(found) if found and width > 1 else 0.0
        # 'Druck, bar;Temp, °C' over '1,5;20,5' has more commas than semicolons, so a comma must lead clearly.
        return share, width / 2 if delimiter == "," else width

    headers = {delimiter: (widths(delimiter, content) or [0])[0] for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda delimiter: fit(delimiter, content, headers[delimiter]))
    if fit(best, last, headers[best])[0] >= _MOST:
        return best
    below = {delimiter: max(found := widths(delimiter, last), key=found.count, default=0) for delimiter in _DELIMITERS}
    other = max(_DELIMITERS, key=lambda delimiter: fit(delimiter, last, below[delimiter]))
    if fit(other, last, below[other])[0] >= _MOST:
        return other
    return best if fit(best, content, headers[best])[0] > 0 else ","


def _decimal(records: list[list[str]], delimiter: str) -> str:
    """Return ',' if more numbers have a decimal comma than a decimal point and the delimiter is another one, else '.'."""
    if delimiter == ",":
        return "."
    cells = [cell for record in records for cell in record]
    commas = sum("," in c and bool(re.match(COMMA_NUMBER, c)) for c in cells)
    points = sum("." in c and bool(re.match(COMMA_NUMBER.replace(",", r"\.", 1), c)) for c in cells)
    return "," if commas > points else "."


def _check_header(names: tuple[str, ...], path: str) -> None:
    try:
        check_duplicates(names, path)
    except DataError as error:
        numbers = sum(bool(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?|\?|", n)) for n in names)
        hint = f" {NO_HEADER}" if numbers > 1 else ""
        raise DataError(f"{error}{hint}") from None
